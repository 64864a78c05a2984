"""Secrets: files that others may read are refused, a process with keys cannot be dumped, and nothing shows a secret."""

import base64
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.certificates import make_authority, make_certificate
from cases.command_lines import CommandLine, consentd
from cases.daemons import Running, config_text, make_running
from cases.services import services
from consentd import config as options
from consentd import secret_files
from consentd.config import Config, parse
from consentd.cosigning.mldsa import MldsaSigner, format_mldsa_signing_key
from consentd.errors import ConsentdError, InvalidError, StorageError
from consentd.secret_files import check_secret_file, read_secret_file
from consentd.server.daemon import Daemon
from consentd.server.keys import check_secret_files, make_keys, read_keys

# -- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_bytes(b"what nobody else may read")
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ones_own_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read_secret_file(file) == b"what nobody else may read"
    check_secret_file(file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o606, 0o644, 0o666, 0o601, 0o620])
def test_a_file_that_others_may_use_is_refused_with_the_command_that_ends_it(file: Path, mode: int) -> None:
    file.chmod(mode)
    for read in (read_secret_file, check_secret_file):
        with pytest.raises(InvalidError, match=f"has mode {mode:04o}: run `chmod 600 {file}`"):
            read(file)
    subprocess.run(["chmod", "600", file], check=True)
    check_secret_file(file)


@pytest.mark.parametrize(("mode", "is_refused"), [(0o600, False), (0o644, False), (0o664, True), (0o646, True)])
def test_a_file_that_others_may_read_must_not_be_changed_by_them(file: Path, mode: int, is_refused: bool) -> None:
    file.chmod(mode)
    if not is_refused:
        check_secret_file(file, forbidden=secret_files.WRITE)
        return
    with pytest.raises(InvalidError, match="chmod go-w"):
        check_secret_file(file, forbidden=secret_files.WRITE)


def test_what_is_no_file_of_its_own_is_refused(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(0o700)
    for name, message in (("link", "symbolic link"), ("pipe", "not a regular"), ("directory", "not a regular")):
        for read in (read_secret_file, check_secret_file):
            with pytest.raises(InvalidError, match=message):
                read(tmp_path / name)
    for name in ("none", "secret/none"):
        with pytest.raises(StorageError, match="restore it"):
            read_secret_file(tmp_path / name)


def test_another_users_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    if uid == 0:
        check_secret_file(file)  # root's, for a process that could open it
        return
    with pytest.raises(InvalidError, match=f"chown {uid + 1}"):
        check_secret_file(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_was_given_away_is_refused(file: Path) -> None:
    os.chown(file, 65534, 65534)
    with pytest.raises(InvalidError, match="belongs to another user"):
        read_secret_file(file)


TLS = '[{0}.tls]\ncert_file = "{0}/cert.pem"\nkey_file = "{0}/key.pem"\n'


@pytest.fixture
def made(tmp_path: Path) -> Config:
    """A configuration that names every kind of secret, and the files."""
    authority = make_authority()
    for name in ("grpc", "http"):
        make_certificate(authority, "127.0.0.1").write(tmp_path / name)
    text = config_text(TLS.format("grpc") + TLS.format("http"), grpc="").replace("[grpc]\n", "[grpc]\n")
    text = text.replace("[callers]", 'log_mldsa_key_file = "keys/mldsa.key"\n[callers]')
    text = text.replace("[callers]", 'vault_kek_previous = { file = "keys/previous.kek" }\n[callers]')
    config = parse(text, base_dir=tmp_path)
    make_keys(config)
    previous = tmp_path / "keys/previous.kek"
    previous.touch(0o600)
    previous.write_text(secrets.token_hex(32))
    return config


SECRET_FILES = (
    "keys/log.key", "keys/statement.key", "keys/mldsa.key", "keys/vault.kek", "keys/previous.kek", "grpc/key.pem",
    "http/key.pem",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRET_FILES)
def test_the_start_refuses_each_file_that_others_may_read(made: Config, tmp_path: Path, name: str) -> None:
    check_secret_files(made)
    path = tmp_path / name
    path.chmod(0o640)
    with pytest.raises(InvalidError, match=f"chmod 600 {path}"):
        Daemon(made).start()
    assert not made.ledger.data_dir.exists()


def test_the_start_refuses_credentials_that_others_may_change(made: Config) -> None:
    made.callers.credentials_file.chmod(0o644)
    check_secret_files(made)
    made.callers.credentials_file.chmod(0o664)
    with pytest.raises(InvalidError, match="changed by others"):
        Daemon(made).start()


def test_every_file_of_secrets_is_checked(made: Config, tmp_path: Path) -> None:
    """A new option for a file of secrets must be tried here too."""
    found = {path for name, path in _paths(made) if name.endswith(("key_file", "file")) and "cert" not in name}
    found -= {made.callers.credentials_file}
    assert found == {tmp_path / name for name in SECRET_FILES}


def test_a_reload_needs_no_key_files_but_those_of_tls(
    made: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(made)
    daemon.start()
    try:
        (tmp_path / "keys/vault.kek").unlink()
        caplog.set_level("INFO")
        daemon.reload()
        assert "TLS files reloaded" in caplog.text
        (tmp_path / "http/key.pem").chmod(0o644)
        daemon.reload()
        assert "TLS files not reloaded: secret file can be read by others" in caplog.text
    finally:
        daemon.stop()


def _paths(value: object, prefix: str = "") -> Iterator[tuple[str, Path]]:
    for each in dataclasses.fields(value):  # type: ignore[arg-type]  # only dataclasses reach it
        inner = getattr(value, each.name)
        if dataclasses.is_dataclass(inner):
            yield from _paths(inner, f"{prefix}{each.name}.")
        elif isinstance(inner, Path):
            yield prefix + each.name, inner


# -- memory -----------------------------------------------------------------------------------------------------

_STATE = """
import ctypes, json, os, resource, sys
from consentd import cli
def state():
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0]
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
before = state()
if os.environ.get("FILTERED"):  # as the systemd unit forbids it
    def refuse(*given):
        raise PermissionError(1, "Operation not permitted")
    resource.setrlimit = refuse
import consentd.server.daemon, consentd.witnessd.daemon
shown = lambda *given, **more: print(json.dumps([before, state()]))
consentd.server.daemon.serve = consentd.witnessd.daemon.serve_witness = shown
import consentd.server.keys
consentd.server.keys.read_keys = lambda config: [shown(), sys.exit(0)]
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("verb", [("serve",), ("fsck",), ("table", "verify"), ("table", "rebuild")])
def test_a_process_that_has_keys_cannot_be_dumped(tmp_path: Path, verb: tuple[str, ...]) -> None:
    path = tmp_path / "consentd.toml"
    path.write_text(config_text())
    done = subprocess.run(
        [sys.executable, "-c", _STATE, *verb, "--config", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert before[0] == 1
    assert after == [0, 0]


def test_where_limits_cannot_be_set_the_process_cannot_be_dumped_either(tmp_path: Path) -> None:
    path = tmp_path / "consentd.toml"
    path.write_text(config_text())
    command = [sys.executable, "-c", _STATE, "serve", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "FILTERED": "1"})
    assert (done.returncode, json.loads(done.stdout)[1][0]) == (0, 0), done.stderr


@pytest.mark.slow
def test_a_daemon_serves_though_it_cannot_be_dumped(tmp_path: Path) -> None:
    """Nothing that it does needs files that belong to root now: /proc/self/fd for its metrics, for example."""
    make_running(tmp_path).stop()
    path = tmp_path / "consentd.toml"
    path.write_text(config_text())
    served = consentd("serve", "--config", path, stderr=subprocess.PIPE)
    try:
        assert served.stderr is not None
        while "serving gRPC" not in served.stderr.readline():
            pass
        limits = Path(f"/proc/{served.pid}/limits").read_text()
        assert ["Max", "core", "file", "size", "0", "0", "bytes"] in [line.split() for line in limits.splitlines()]
        served.send_signal(signal.SIGTERM)
        assert served.wait(60) == 0
    finally:
        served.kill()
        served.communicate()


# -- output -----------------------------------------------------------------------------------------------------


def forms(secret: bytes) -> set[str]:
    """Return how a secret could be shown."""
    text = secret.decode("ascii", "replace")
    return {text, repr(secret), secret.hex(), secret.hex().upper(), base64.b64encode(secret).decode()}


def planted(running: Running) -> dict[str, set[str]]:
    """Return the secrets of a daemon, by name, each in all forms."""
    keys = read_keys(running.config)
    found = {name: forms(token.encode()) for name, token in running.tokens.items()}
    for path in (running.config.keys.log_key_file, running.config.keys.statement_key_file):
        found[path.name] = forms(path.read_bytes().strip())
    assert running.config.keys.vault_kek.file is not None
    kek = running.config.keys.vault_kek.file.read_text().strip()
    found["kek"] = forms(kek.encode()) | forms(bytes.fromhex(kek))
    found["seed"] = forms(keys.log.key.seed) | forms(keys.statement.seed)
    found["index key"] = forms(services(running).vault._index_key)
    return found


def assert_hidden(secrets_of: dict[str, set[str]], text: str) -> None:
    for name, shown in secrets_of.items():
        assert not [each for each in shown if each in text], name


def test_no_output_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Start, calls, failures, reprs, verbs with and without ``--json``, and help."""
    caplog.set_level("DEBUG")
    running = make_running(tmp_path)
    secret = planted(running)
    running.grant(running.enrol("SYN-000001"))
    opened = services(running)
    shown = [repr(one) for one in (running.config, read_keys(running.config), opened, opened.vault.keys)]
    shown.append(running.daemon.metrics.render(with_private=True).decode())
    path = tmp_path / "consentd.toml"
    path.write_text(config_text())
    target = ("--target", f"127.0.0.1:{running.daemon.grpc_port}")
    run = CommandLine({"CONSENTD_TOKEN": running.tokens["operator"]})
    for argv in (
        ("credential", "list", *target), ("participants", "list", *target), ("rotate", "vault-key", *target),
        ("operation", "list", *target),
    ):  # fmt: skip
        for form in ((), ("--json",)):
            done = run(*argv, *form)
            assert done.status == 0, done.err
            shown += [done.out, done.err]
    running.stop()
    for argv in (("fsck",), ("table", "verify"), ("table", "rebuild"), ("keygen",), ("audit", "verify"), ("compact",)):
        for form in ((), ("--json",), ("--help",)):
            done = run(*argv, *(() if form == ("--help",) else ("--config", path)), *form)
            shown += [done.out, done.err]
    keys = running.config.keys
    assert keys.vault_kek.file is not None
    for file in (keys.log_key_file, keys.statement_key_file, keys.vault_kek.file):
        whole = file.read_text()
        for changed in (whole[:-5], "x" + whole, whole + whole):
            file.write_text(changed)
            with pytest.raises(ConsentdError) as failed:
                Daemon(running.config).start()
            shown += [str(failed.value), repr(failed.value)]
            shown.append(run("fsck", "--config", path).err)
        file.write_text(whole)
    assert_hidden(secret, "\n".join([*shown, caplog.text]))
    assert_hidden({"control": {"SYN-000001"}}, caplog.text)


MINIMAL = {
    "ledger": {"origin": "o", "data_dir": "d"}, "keys": {"log_key_file": "l", "statement_key_file": "s"},
    "callers": {"credentials_file": "c"},
}  # fmt: skip


def _every_option(kind: type, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, hint in typing.get_type_hints(kind).items():
        for section in (one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)):
            assert isinstance(section, type)
            yield from _every_option(section, (*prefix, name))
        yield (*prefix, name)


OPTIONS = sorted(set(_every_option(Config)))
assert ("keys", "vault_kek", "pkcs11", "pin_file") in OPTIONS
SECRETS = [
    "5f" * 32, base64.b64encode(b"\x9d" * 32).decode(), secrets.token_urlsafe(32),
    "PRIVATE+KEY+consent.test+0a1b2c3d+AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
    format_mldsa_signing_key(MldsaSigner("consent.test", b"\x07" * 32)),
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=".".join)
def test_a_secret_in_the_place_of_any_option_is_not_shown(option: tuple[str, ...]) -> None:
    """Somebody pasted the key where the name of its file belongs."""
    for secret in SECRETS:
        for at in (option, (*option[:-1], secret)):
            document: dict[str, object] = json.loads(json.dumps(MINIMAL))
            section = document
            for name in at[:-1]:
                section = section.setdefault(name, {})  # type: ignore[assignment]
                if not isinstance(section, dict):
                    break
            else:
                section[at[-1]] = secret
            with pytest.raises(InvalidError) as refused:
                options.parse_section(Config, document, base_dir=Path("/srv"))
            assert secret not in str(refused.value), at


@pytest.mark.parametrize("name", ["pin_file", "pin_environment"])
def test_a_pin_in_the_place_of_its_file_is_not_shown(name: str) -> None:
    with pytest.raises(InvalidError, match="is a secret itself") as refused:
        options.parse_section(
            options.Pkcs11Config, {"module": "m", "token": "t", "key": "k", name: "482913"}, base_dir=Path(), name="p"
        )
    assert "482913" not in str(refused.value)
