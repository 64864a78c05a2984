"""Every field of every seal is recomputed, and a seal that is left out, doubled or moved is named."""

import hashlib
from collections import Counter
from collections.abc import Iterator

import pytest

from cases.audited import WITNESSES, Signed, asked, named, verify
from cases.audits import Forge, make_forge
from consentd.core import codec
from consentd.errors import SignatureError


def reseal(forge: Forge, at: int, leaf: bytes, *, repaired: bool) -> Forge:
    """Return *forge* with another leaf in the place of the seal at *at*; *repaired*: later seals name it as theirs."""
    leaves = list(forge.leaves)
    leaves[at] = leaf
    if repaired:
        before = codec.chain_hash(leaf)
        for index in (seal for seal in forge.seals if seal > at):
            leaves[index] = leaves[index][:58] + before  # prev_seal is a seal's end
            before = codec.chain_hash(leaves[index])
    return Forge(leaves=leaves, openings=list(forge.openings), seals=list(forge.seals))


def changed_seals(leaf: bytes, next_ms: int) -> Iterator[tuple[str, bytes, int]]:
    """Yield changes of a seal: what was changed, the leaf, and how much later than it the fault is named."""

    def put(start: int, value: int, width: int = 8) -> bytes:
        return leaf[:start] + value.to_bytes(width) + leaf[start + width :]

    time_ms, covers, count = (int.from_bytes(leaf[at : at + 8]) for at in (2, 10, 50))
    for other in (0, 1, 50, time_ms - 1):
        yield "time_ms", put(2, other), 0
    # A time between its neighbours' is the operator's to choose: no leaf contradicts it, witnesses' times bound it.
    if next_ms:
        for other in (next_ms + 1, (1 << 64) - 1):
            yield "time_ms", put(2, other), 1  # the leaf that comes after it runs back
    for field, at, value in (("covers", 10, covers), ("tags", 50, count)):
        for other in {0, 1, value - 1, value + 1, value ^ 1 << 20, (1 << 64) - 1} - {value}:
            yield field, put(at, other), 0
    for field, start in (("map_root", 18), ("prev_seal", 58)):
        for at in range(start, start + 32):
            yield field, leaf[:at] + bytes((leaf[at] ^ 1 << at % 8,)) + leaf[at + 1 :], 0
        for other in (bytes(32), b"\xff" * 32, hashlib.sha256().digest()):
            if leaf[start : start + 32] != other:
                yield field, leaf[:start] + other + leaf[start + 32 :], 0
    for version in (0, 2, 255):
        yield "version", put(0, version, 1), 0
    for kind in (1, 13, 255):
        yield "kind", put(1, kind, 1), 0
    for other_leaf in (b"", leaf[:-1], leaf + b"\0", leaf[:50], leaf + leaf[58:]):
        yield "length", other_leaf, 0


def test_every_field_of_every_seal_is_recomputed() -> None:
    forge = make_forge(260, seal_every=24)
    assert len(forge.seals) > 9
    assert verify(Signed(forge)).faults == ()
    tried = Counter[str]()
    for at in forge.seals:
        next_ms = int.from_bytes(forge.leaves[at + 1][2:10]) if at + 1 < forge.size else 0
        for field, leaf, later in changed_seals(forge.leaves[at], next_ms):
            for repaired in (False, True):
                forged = reseal(forge, at, leaf, repaired=repaired)
                report = verify(Signed(forged))
                assert named(report)[0] == at + later, (field, at, repaired)
                tried[field] += 1
    assert set(tried) == {"time_ms", "covers", "tags", "map_root", "prev_seal", "version", "kind", "length"}
    assert sum(tried.values()) > 1800


def test_a_seal_left_out_doubled_or_moved_is_named() -> None:
    forge = make_forge(260, seal_every=24)
    for number, at in enumerate(forge.seals[:-1]):
        seal, event = forge.leaves[at], forge.leaves[at + 1]
        later = forge.seals[number + 1]
        for leaves, fault in (
            ([*forge.leaves[:at], *forge.leaves[at + 1 :]], later - 1),  # the next covers one more, and names it
            ([*forge.leaves[: at + 1], *forge.leaves[at:]], at + 1),
            ([*forge.leaves[:at], event, seal, *forge.leaves[at + 2 :]], at + 1),
            ([*forge.leaves[:at], forge.leaves[later], *forge.leaves[at + 1 :]], at),
        ):
            report = verify(Signed(Forge(leaves=leaves, openings=[None] * len(leaves))))
            assert named(report)[0] == fault, at
    # A tree that ends in an event, of which no seal speaks.
    cut = Forge(leaves=forge.leaves[:-1], openings=forge.openings[:-1])
    assert named(verify(Signed(cut))) == [cut.size - 1]


def test_the_time_of_a_last_seal_is_bounded_by_the_witnesses() -> None:
    """Nothing comes after it that would run back: the log's word alone says when it was."""
    forge = make_forge(100)
    at = forge.size - 1
    early, late = (
        reseal(forge, at, forge.leaves[at][:2] + time_ms.to_bytes(8) + forge.leaves[at][10:], repaired=True)
        for time_ms in (forge.time_ms + 60_000, forge.time_ms + 3_600_000)
    )
    time_s = forge.time_ms // 1000 + 1
    lines = ((WITNESSES[0], time_s), (WITNESSES[1], time_s))
    for forged in (early, late):
        assert verify(Signed(forged)).faults == ()
    assert verify(Signed(early, lines), witnesses=asked()).faults == ()
    with pytest.raises(SignatureError):
        verify(Signed(late, lines), witnesses=asked())
