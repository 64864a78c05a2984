"""The files of the log key and the statement key while one of them is replaced.

Beside the file of a key, `log.key` for example, there may be two others: `log.key.next` has the key that will replace
it, and `log.key.replaced-ID` has a key that was replaced. The ledger states which key is in force; a file's name only
says where to look. What a crash leaves, in the order of the steps:

1. ``prepare`` writes `.next`, whole or not at all. The ledger does not know the key yet, and the next call finds it.
2. The ledger states the rotation. From now on the ledger needs `.next`. Until the last checkpoint of the old log key is
   published and kept, it needs the old key too, which is in its place still.
3. ``settle`` copies the old key to `.replaced-ID`; then it renames `.next` over the key's file. After a crash between
   these steps the key's file has the old key, and `.next` the one in force: the next start finds both, and settles.

The daemon deletes no private key. It does not read `.replaced-ID` again.
"""

import os
import secrets
import threading
from pathlib import Path

from consentd.config import Config
from consentd.core import ed25519, note
from consentd.core.rotation import RotationRole
from consentd.cosigning.keyfiles import read_hex_key, read_signing_key
from consentd.errors import InvalidError, PreconditionError, StorageError
from consentd.files import rename_file, write_file

_NAMES = {RotationRole.LOG: "log key", RotationRole.STATEMENT: "statement key"}


class KeyFiles:
    """The files of the log key and the statement key. Any thread may call the methods; ``_lock`` guards the files."""

    def __init__(self, config: Config) -> None:
        self._origin = config.ledger.origin
        self._paths = {
            RotationRole.LOG: config.keys.log_key_file, RotationRole.STATEMENT: config.keys.statement_key_file
        }  # fmt: skip
        self._lock = threading.Lock()

    def path(self, role: RotationRole) -> Path:
        """Return the path of the key in force."""
        return self._paths[role]

    def next_path(self, role: RotationRole) -> Path:
        """Return the path of the key that will replace it."""
        return self._beside(role, "next")

    def replaced_path(self, role: RotationRole, public_key: bytes) -> Path:
        """Return the path to which ``settle`` copies a key that was replaced."""
        return self._beside(role, f"replaced-{public_key.hex()[:16]}")

    def read(self, role: RotationRole) -> ed25519.KeyPair:
        """Read the key in the key's own file.

        Raises:
            StorageError: the file cannot be read.
            InvalidError: it has no key of the expected kind.
        """
        return self._read(role, self.path(role))

    def read_next(self, role: RotationRole) -> ed25519.KeyPair | None:
        """Read the key that will replace the one in force; None: there is none.

        Raises:
            StorageError: the file cannot be read.
            InvalidError: it has no key of the expected kind, or others than its owner may read it.
        """
        path = self.next_path(role)
        return self._read(role, path) if os.path.lexists(path) else None

    def prepare(self, role: RotationRole, *, in_force: bytes) -> ed25519.KeyPair:
        """Return the key that will replace the one in force, which has the public key *in_force*; make it if needed.

        A file that the operator has put in place is taken as it is.

        Raises:
            PreconditionError: the file of the next key has the key in force.
            StorageError, InvalidError: as ``read_next``; or a file cannot be written.
        """
        self.settle(role, in_force)
        with self._lock:
            found = self.read_next(role)
            if found is None:
                made = ed25519.KeyPair(secrets.token_bytes(ed25519.KEY_SIZE))
                write_file(self.next_path(role), self._format(role, made), is_private=True, name="key file")
                found = self.read_next(role)
            assert found is not None, "the file was written just now"
        if found.public_key == in_force:
            path = self.next_path(role)
            raise PreconditionError(f"next {_NAMES[role]} is the one in force: `{path}`; remove this file")
        return found

    def settle(self, role: RotationRole, in_force: bytes) -> None:
        """Make the key's own file that of the key in force, whose public key is *in_force*. Keep the old key's file.

        Raises:
            StorageError: neither file has the key in force, or a file cannot be read or written.
            InvalidError: as ``read`` and ``read_next``.
        """
        with self._lock:
            path = self.path(role)
            old = self.read(role)
            if old.public_key == in_force:
                return
            following = self.read_next(role)
            if following is None or following.public_key != in_force:
                raise StorageError(
                    f"{_NAMES[role]} was replaced, and no file has the one in force, {in_force.hex()}: restore "
                    f"`{self.next_path(role)}` or `{path}`"
                )
            kept = self.replaced_path(role, old.public_key)
            write_file(kept, self._format(role, old), is_private=True, name="key file")
            # A crash here: the key's own file has the old key, and the file of the next key the one in force.
            rename_file(self.next_path(role), path, name="key file")

    def _beside(self, role: RotationRole, ending: str) -> Path:
        path = self.path(role)
        return path.with_name(f"{path.name}.{ending}")

    def _read(self, role: RotationRole, path: Path) -> ed25519.KeyPair:
        if role is RotationRole.LOG:
            signer = read_signing_key(path)
            if signer.name != self._origin or signer.kind != note.ED25519:
                raise InvalidError(f"key file holds no log key of this ledger: `{path}`")
            return signer.key
        return ed25519.KeyPair(read_hex_key(path))

    def _format(self, role: RotationRole, key: ed25519.KeyPair) -> bytes:
        text = key.seed.hex()
        if role is RotationRole.LOG:
            text = note.format_signing_key(note.Signer(self._origin, key))
        return f"{text}\n".encode()
