"""Forged ledgers that are verified: from memory, and at checkpoints that witnesses cosigned."""

from dataclasses import dataclass
from typing import Any

from cases.audits import JOBS, LOG, ORIGIN, START_MS, Forge
from consentd.audit.checkpoints import Witnesses
from consentd.audit.sources import ExportDirectory
from consentd.audit.verify import verify_ledger
from consentd.core import checkpoint, ed25519, merkle, note, quorum, tiles
from consentd.core.pruned import NOTHING, Pruned
from consentd.verify.findings import Report

WITNESSES = [
    note.Signer(f"witness.example/{number}", ed25519.KeyPair(bytes((5, number)) * 16), note.COSIGNATURE)
    for number in range(3)
]
STRANGER = note.Signer("witness.example/0", ed25519.KeyPair(b"\6" * 32), note.COSIGNATURE)
POLICY = (
    f"log {note.format_vkey(LOG.verifier)}\n"
    + "".join(f"witness w{at} {note.format_vkey(one.verifier)}\n" for at, one in enumerate(WITNESSES))
    + "group two 2 w0 w1 w2\nquorum two\n"
).encode()
SEALED_S = START_MS // 1000
"""Before any seal of a forged ledger, by less than a minute."""


def cosigned(location: ExportDirectory, *lines: tuple[note.Signer, int]) -> ExportDirectory:
    """Give the checkpoint of *place* these cosignatures and no others."""
    path = location.directory / "checkpoint"
    opened = note.parse_note(path.read_bytes())
    signatures = [opened.unverified[0], *(witness.cosign(opened.text, time_s) for witness, time_s in lines)]
    path.write_bytes(note.format_note(opened.text, signatures))
    return location


def asked(**options: Any) -> Witnesses:
    return Witnesses(policy=quorum.parse_policy(POLICY), **options)


def verify(location: Any, **options: Any) -> Report:
    return verify_ledger(location, origin=ORIGIN, log_verifier=LOG.verifier, **{"jobs": JOBS, **options})


def named(report: Report) -> list[int | None]:
    return [fault.index for fault in report.faults]


def grow(forge: Forge, size: int) -> None:
    """Append answers about people who are enrolled, sealed now and then."""
    tags = [tag for tag, (count, _) in forge.heads.items() if count > 1]
    while forge.size < size:
        forge.ask(tags[forge.size % len(tags)])
        if forge.size % 90 == 0:
            forge.seal()
    if forge.seals[-1] != forge.size - 1:
        forge.seal()


@dataclass(frozen=True, slots=True)
class Signed:
    """A place in memory: whatever its leaves are, the tiles are theirs, and the checkpoint is signed."""

    forge: Forge
    cosignatures: tuple[tuple[note.Signer, int], ...] = ()

    def open(self) -> "SignedSource":
        return SignedSource(self)


class SignedSource:
    is_whole = False

    def __init__(self, location: Signed) -> None:
        forge = location.forge
        self._leaves = forge.leaves
        edge, self._tiles = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in forge.leaves])
        text = checkpoint.format_checkpoint(checkpoint.Checkpoint(ORIGIN, forge.size, edge.root()))
        lines = [LOG.sign(text), *(witness.cosign(text, time_s) for witness, time_s in location.cosignatures)]
        self._note = note.format_note(text, lines)

    def checkpoint(self) -> bytes:
        return self._note

    def pruned(self) -> Pruned:
        return NOTHING

    def rotations(self) -> tuple[()]:
        return ()

    def leaves(self, n: int, width: int) -> list[bytes]:
        return self._leaves[256 * n : 256 * n + width]

    def tile(self, level: int, n: int, width: int) -> bytes:
        return self._tiles[level, n][: 32 * width]

    def openings(self, n: int, leaves: Any) -> None:
        return None

    def close(self) -> None:
        pass
