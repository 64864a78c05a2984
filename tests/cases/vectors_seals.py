"""Seals and maps that only a bad log can make, the tree made to fit and signed; and which of them a history shows.

A history shows of a seal that it is the last leaf, that its map has this chain's head, and that nothing shown is later.
It cannot show how many tags the map has, which seal came before, what the map has of others, nor that a map which fits
the history is the true one. Those are the auditor's to find, who has all leaves and computes every seal again
(``tests/test_replay.py``, ``tests/test_audit_verify.py``).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from cases.ledgers import DAEMON, START_MS, flip
from cases.vectors_case import CITIZEN, Vector, b64, history_vector, to_document
from cases.vectors_forged import ME, OTHER, Forge, base, ledger_payload
from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind

LATEST_MS = START_MS + 2000
"""Time of the last entry of ``base``."""


def seals() -> Iterator[Vector]:
    """Yield histories whose seal, or whose map, is wrong, and nothing else."""

    def vector(name: str, want: str, forge: Forge, **under: Any) -> Vector:
        return history_vector(f"forged: {name}", want, to_document(forge.proof(ME)), tag=b64(ME), **under)

    yield from forged_seals(vector)
    yield from flipped_seals(vector)
    yield from other_chains(vector)


def seal_verdict(at: int, leaf: bytes, latest_ms: int) -> str:
    """Return what a history shows of a seal of which byte *at* is wrong, if all else is made to fit.

    Args:
        at: which byte: 0 version, 1 kind, 2 time_ms, 10 covers, 18 map_root, 50 tags, 58 prev_seal.
        leaf: the wrong seal.
        latest_ms: time of the latest entry shown.
    """
    if at < 2:
        return "malformed"
    if at < 10:
        # A time that is too late is the reader's clock to notice, where it is given.
        return "ok" if int.from_bytes(leaf[2:10]) >= latest_ms else "proof"
    return "proof" if at < 50 else "ok"


def flipped_seals(vector: Callable[..., Vector]) -> Iterator[Vector]:
    """Yield each bit of a seal changed, and each length that is not a seal's."""
    right: list[bytes] = []
    yield vector("seal: right", "ok", base(seal_leaf=lambda leaf: right.append(leaf) or leaf))
    (leaf,) = right
    fields = {0: "version", 1: "kind", 2: "time_ms", 10: "covers", 18: "map_root", 50: "tags", 58: "prev_seal"}
    for at in range(len(leaf)):
        name = fields[max(start for start in fields if start <= at)]
        for bit in range(8):
            wrong = flip(at, 1 << bit)(leaf)
            want = seal_verdict(at, wrong, LATEST_MS)
            forge = base(seal_leaf=lambda _, wrong=wrong: wrong)
            yield vector(f"seal: bit {bit} of byte {at}, {name}", want, forge)
    for size in (*range(90), 91, 121, 122, 123, 1000):
        wrong = leaf[:size].ljust(size, b"\0")
        yield vector(f"seal: {size} bytes", "malformed", base(seal_leaf=lambda _, wrong=wrong: wrong))
    for kind in (1, 8, 20, 254, 255):
        wrong = leaf[:1] + bytes((kind,)) + leaf[2:].ljust(120, b"\0")
        want = "malformed" if kind == codec.QUESTION_KIND else "proof"
        yield vector(f"seal: as an event of kind {kind}", want, base(seal_leaf=lambda _, wrong=wrong: wrong))


def other_chains(vector: Callable[..., Vector]) -> Iterator[Vector]:
    """Yield maps that are right about what is shown, and wrong about what is not."""
    def beside() -> Forge:
        return base().add(OTHER, EntryKind.ENROL, DAEMON).add(ME, EntryKind.GRANT, CITIZEN)

    for name, stated in (
        ("a count too low", (0, b"")), ("a count too high", (2, None)), ("another head", (1, b"\1" * 32)),
        ("a head of zeros", (1, bytes(32))),
    ):  # fmt: skip
        forge = beside()
        count, head = stated
        whole = codec.chain_hash(forge.chains[OTHER][-1].leaf)
        forge.heads[OTHER] = (count, whole if head is None else head)
        document = to_document(forge.proof(ME))
        document["histories"] = [chain for chain in document["histories"] if chain["tag"] != b64(OTHER)]
        yield history_vector(
            f"forged: map: of another person {name}, which a history does not show", "ok", document, tag=b64(ME)
        )


def forged_seals(vector: Callable[..., Vector]) -> Iterator[Vector]:
    for name, want, change in (
        ("covers less", "proof", lambda s: replace(s, covers=s.covers - 1)),
        ("covers more", "proof", lambda s: replace(s, covers=s.covers + 1)),
        ("covers nothing", "proof", lambda s: replace(s, covers=0)),
        ("another map", "proof", lambda s: replace(s, map_root=flip(0)(s.map_root))),
        ("the empty map", "proof", lambda s: replace(s, map_root=merkle.EMPTY_ROOT)),
        ("earlier than its entries", "proof", lambda s: replace(s, time_ms=s.time_ms - 1001)),
        ("another number of tags, which a history does not show", "ok", lambda s: replace(s, tags=s.tags + 1)),
        ("another seal before, which a history does not show", "ok", lambda s: replace(s, prev_seal=b"\1" * 32)),
    ):  # fmt: skip
        yield vector(f"seal: {name}", want, base(seal=change))
    yield vector("seal: an event in its place", "proof", base(seal_leaf=lambda leaf: codec.encode_event(
        codec.Event(8, START_MS, ME, 1, bytes(32), bytes(32), 0)
    )))  # fmt: skip
    yield vector("seal: version 2", "malformed", base(seal_leaf=lambda leaf: b"\2" + leaf[1:]))
    yield vector("seal: a byte more", "malformed", base(seal_leaf=lambda leaf: leaf + b"\0"))
    yield vector("seal: not the last leaf", "proof", base(after=[b"more"]))
    covered = base(after=[b"more"], seal=lambda s: replace(s, covers=s.covers + 1))
    yield vector("seal: not the last leaf, covers as if it were", "proof", covered)
    for name, want, stated in (
        ("a count too low", "proof", lambda count, head: (count - 1, head)),
        ("a count too high", "proof", lambda count, head: (count + 1, head)),
        ("another head", "proof", lambda count, head: (count, flip(0)(head))),
    ):
        forge = base()
        chain = forge.chains[ME]
        forge.heads[ME] = stated(len(chain), codec.chain_hash(chain[-1].leaf))
        yield vector(f"map: {name}", want, forge)
    hidden = base()
    chain = hidden.chains[ME]
    hidden.heads[ME] = (len(chain) - 1, codec.chain_hash(chain[-2].leaf))
    yield vector("map: a stale head beside all entries", "proof", hidden)
    stale = hidden.proof(ME)
    shorter = replace(stale.chains[0], entries=stale.chains[0].entries[:-1])
    # What no history can show, and any auditor finds: the log committed to less than it holds.
    yield history_vector(
        "forged: map: a stale head that the log committed to", "ok",
        to_document(replace(stale, chains=(shorter, *stale.chains[1:]))), tag=b64(ME),
    )  # fmt: skip
    forked, honest = base().add(ME, EntryKind.GRANT, CITIZEN).proof(ME), base().proof(ME)
    for name, proof in (
        ("this map under that checkpoint", replace(honest, checkpoint=forked.checkpoint)),
        ("this seal under that checkpoint", replace(honest, seal=forked.seal)),
        ("this chain under that map", replace(honest, chains=(forked.chains[0], *honest.chains[1:]))),
    ):
        yield history_vector(f"forged: fork: {name}", "proof", to_document(proof), tag=b64(ME))
    lone = Forge().add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload())
    yield vector("absent from a map of one", "ok", lone)
