"""Decrypt a set into a directory, and compare every file with the manifest."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from consentd.backup.age import Identities, Sink, Source
from consentd.backup.directory import open_file, read_manifest
from consentd.backup.manifest import Manifest, SetFile, SetKind
from consentd.backup.writing import SUFFIX
from consentd.errors import CorruptionError, InvalidError, PreconditionError, StorageError
from consentd.files import sync
from consentd.ledger.vault import is_older


@dataclass(frozen=True, slots=True)
class FoundSet:
    """A set of which the manifest was read."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class FoundPair:
    """The sets of a ledger and of its vault; None: the ledger is restored without its vault."""

    ledger: FoundSet
    vault: FoundSet | None

    @property
    def size(self) -> int:
        """Bytes of all files, not encrypted."""
        return self.ledger.manifest.size + (0 if self.vault is None else self.vault.manifest.size)


def find_pair(ledger: Path, vault: Path | None, *, origin: str) -> FoundPair:
    """Read the manifests of two sets, and check that they fit. They need not be of the same backup.

    Raises:
        InvalidError: a set is of the other kind, or of another ledger.
        PreconditionError: the vault is older than the ledger needs, so it lacks keys of persons.
        StorageError, CorruptionError: a manifest cannot be read, or is damaged.
    """
    found = FoundSet(ledger, read_manifest(ledger))
    _check_kind(found, SetKind.LEDGER, origin)
    if vault is None:
        return FoundPair(found, None)
    other = FoundSet(vault, read_manifest(vault))
    _check_kind(other, SetKind.VAULT, origin)
    if is_older(other.manifest.vault_state, found.manifest.vault_state):
        names = f"`{vault}` is older than the ledger in `{ledger}` needs"
        raise PreconditionError(f"vault of the backup lacks keys of persons: {names}: take the vault of that backup")
    return FoundPair(found, other)


def check_not_expired(pair: FoundPair, *, now_ms: int) -> None:
    """Check that neither set has expired. Raises ``PreconditionError``."""
    for found in (pair.ledger, pair.vault):
        if found is not None and found.manifest.of.expires_time_ms <= now_ms:
            raise PreconditionError(
                f"backup has expired: `{found.path}`: it may have what was erased or pruned since; delete it, or give "
                "--accept-expired"
            )


def find_sets(paths: list[Path]) -> tuple[Path, Path | None]:
    """Return which of one or two sets is that of a ledger, and which is that of a vault.

    Raises:
        InvalidError: there are more sets, two of one kind, or a vault alone.
        StorageError, CorruptionError: a manifest cannot be read, or is damaged.
    """
    kinds: dict[SetKind, Path] = {}
    for path in paths:
        kind = read_manifest(path).kind
        if kind in kinds:
            raise InvalidError(f"two sets of one kind are given: `{kinds[kind]}` and `{path}`")
        kinds[kind] = path
    if SetKind.LEDGER not in kinds:
        raise InvalidError("no set of a ledger is given: a vault can only be proven with its ledger")
    return kinds[SetKind.LEDGER], kinds.get(SetKind.VAULT)


def unpack(found: FoundSet, to: Path, identities: Identities, on_bytes: Callable[[int], None]) -> None:
    """Decrypt all files of a set into the new directory *to*, and sync them. If it raises, the caller deletes *to*.

    Raises:
        CorruptionError: a file is missing, was changed, or is not the manifest's.
        InvalidError: no identity is a recipient of the set.
        StorageError: a file cannot be read or written.
    """
    try:
        to.mkdir(mode=0o700)
        for file in found.manifest.files:
            _unpack_file(found.path / (file.name + SUFFIX), file, to / file.name, identities, on_bytes)
        sync(to)
    except OSError as error:
        raise StorageError(f"backup cannot be restored to `{to}`: {error.strerror}") from error


def _unpack_file(
    path: Path, file: SetFile, to: Path, identities: Identities, on_bytes: Callable[[int], None]
) -> None:
    if not os.path.lexists(path):
        raise CorruptionError(f"file of a backup is missing: `{path}`")
    with open_file(path) as encrypted, open(to, "xb", opener=_private) as plain:
        if os.fstat(encrypted.fileno()).st_size != file.encrypted_size:
            raise CorruptionError(f"file of a backup has another length than its manifest says: `{path}`")
        source, sink = Source(encrypted, on_bytes), Sink(plain, most=file.size)
        identities.decrypt(source, sink, name=str(path))
        plain.flush()
        os.fsync(plain.fileno())
    read = SetFile(file.name, sink.size, sink.digest(), source.size, source.digest())
    if read != file:
        raise CorruptionError(f"file of a backup is not the one of its manifest: `{path}`")


def _check_kind(found: FoundSet, kind: SetKind, origin: str) -> None:
    manifest = found.manifest
    if manifest.kind is not kind:
        raise InvalidError(f"set is of a {manifest.kind.value}, not of a {kind.value}: `{found.path}`")
    if manifest.of.origin != origin:
        raise InvalidError(f"set is of another ledger: `{found.path}` is of `{manifest.of.origin}`, not of `{origin}`")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
