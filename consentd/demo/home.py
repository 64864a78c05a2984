"""Make the demo's directory: a configuration, keys and tokens."""

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from consentd.config import Config, load
from consentd.core import note
from consentd.cosigning.keyfiles import write_private
from consentd.demo.family import FAMILY_APP
from consentd.demo.town import HOSPITAL, RELAY
from consentd.errors import InvalidError
from consentd.server.keys import KEY_SECTIONS, make_keys, read_keys
from consentd.service.auth import format_credential, make_token

MARKER = "consentd-demo"
"""The name of a marker file. The demo removes an existing directory only if the directory contains this file."""
_CONFIG = """\
# Configuration of the demo's daemon. ops/consentd.toml explains each option.
[ledger]
origin = "demo.consentd.example/town"
data_dir = "data"
map_bits = 8
block_cache_mb = 64
{keys}[table]
map_size_mb = 1024
[grpc]
listen = "127.0.0.1:{grpc}"
[http]
listen = "127.0.0.1:{http}"
[log]
level = "warning"
"""


@dataclass(frozen=True, slots=True)
class Home:
    """The demo's directory and configuration, and the access token of each caller (``operator``, ids)."""

    directory: Path
    config: Config
    tokens: dict[str, str]

    def path(self, name: str) -> Path:
        """Return a path in the directory: ``consentd.toml``, ``log.vkey``, ``tampered``, or ``CALLER.token``."""
        return self.directory / name


def make_home(directory: Path) -> Home:
    """Make the demo's directory and its files; replace the directory of an earlier demo; refuse any other directory."""
    if directory.exists():
        if any(directory.iterdir()) and not (directory / MARKER).exists():
            raise InvalidError(f"directory holds something that is not a demo: `{directory}`")
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARKER).write_text("Made by `make demo`; the next one removes it.\n", encoding="utf-8")
    config_file = directory / "consentd.toml"
    config_file.write_text(_CONFIG.format(keys=KEY_SECTIONS, grpc=_free_port(), http=_free_port()), encoding="utf-8")
    config = load(config_file)
    tokens = {"operator": make_keys(config)}
    for caller in (RELAY[0], FAMILY_APP[0], HOSPITAL):
        tokens[caller] = make_token()
        write_private(config.callers.credentials_file, format_credential(tokens[caller], caller), append=True)
    home = Home(directory, config, tokens)
    for caller, token in tokens.items():
        write_private(home.path(f"{caller}.token"), token + "\n")
    home.path("log.vkey").write_text(note.format_vkey(read_keys(config).log.verifier) + "\n", encoding="utf-8")
    return home


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
