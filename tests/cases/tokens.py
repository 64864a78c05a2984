"""PKCS#11 tokens of SoftHSM, the software HSM of OpenDNSSEC."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so")
MODULE = next((path for path in MODULES if Path(path).exists()), "")
PIN = "482913"

_IS_THERE = MODULE and shutil.which("softhsm2-util") and importlib.util.find_spec("pkcs11")
needs_softhsm = pytest.mark.skipif(
    not _IS_THERE and "CI" not in os.environ,
    reason="needs SoftHSM and python-pkcs11: apt-get install softhsm2; pip install 'consentd[hsm]'",
)

_MAKE = """
import sys
import pkcs11
module, token, pin, *labels = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    for label in labels:
        session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True)
"""


class Token:
    """A token with AES keys. A process finds it by the variable in ``environment``.

    A process that has loaded the module finds no tokens that are made later, so another process makes the keys.
    """

    def __init__(self, directory: Path, *labels: str, name: str = "consentd") -> None:
        self.directory, self.name = directory / "tokens", name
        self.directory.mkdir(parents=True)
        settings = directory / "softhsm2.conf"
        settings.write_text(f"directories.tokendir = {self.directory}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.environment = {"SOFTHSM2_CONF": str(settings)}
        run = {"env": {**os.environ, **self.environment}, "check": True, "capture_output": True}
        init = ("softhsm2-util", "--init-token", "--free", "--label", name, "--pin", PIN, "--so-pin", "73918264")
        subprocess.run(init, **run)  # type: ignore[call-overload]
        subprocess.run([sys.executable, "-c", _MAKE, MODULE, name, PIN, *labels], **run)  # type: ignore[call-overload]

    def pull(self) -> None:
        """Take the token away, with its keys."""
        self.directory.rename(self.directory.with_name("pulled"))

    def plug_in(self) -> None:
        """Bring the token back."""
        self.directory.with_name("pulled").rename(self.directory)
