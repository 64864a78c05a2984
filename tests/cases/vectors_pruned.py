"""Pruned histories made by hand, right but for one rule: what a ledger may no longer keep, and what it says of that.

Each file is verified as a history and as evidence, and must come to the same in both.
"""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from cases.ledgers import DAEMON, ORIGIN, START_MS, flip
from cases.vectors_case import (
    BANK,
    CITIZEN,
    STRANGER,
    TRUST,
    Document,
    Vector,
    b64,
    evidence_vector,
    history_vector,
    to_document,
)
from cases.vectors_files import changed, dropped, with_chain, with_entries
from cases.vectors_forged import ME, OTHER, Forge, key_payload
from consentd.core import codec
from consentd.core.kinds import PUBLIC, EntryKind
from consentd.core.pruned import DAY_MS
from consentd.v1 import statement_pb2 as st

DAYS = 30
KEPT_FROM_MS = START_MS + 5 * DAY_MS
STATED_MS = START_MS + 40 * DAY_MS
OLD, ALL = 6, 8
"""How many entries the person has before kept_from, and altogether."""


def pruning(kept_from_ms: int = KEPT_FROM_MS, start: int = 4, **more: Any) -> bytes:
    """Return the payload of a LEDGER entry that states a pruning."""
    stated = st.Pruning(kept_from_time_ms=kept_from_ms, start_size=start)
    return st.LedgerStatement(origin=ORIGIN, pruning=stated, **more).SerializeToString()


def nested(field: bytes) -> bytes:
    """Return the payload of a LEDGER entry whose pruning is these bytes."""
    return st.LedgerStatement(origin=ORIGIN).SerializeToString() + b"\x4a" + bytes((len(field),)) + field


def first_payload(days: int = DAYS, **more: Any) -> bytes:
    """Return the payload of leaf 0."""
    return st.LedgerStatement(
        origin=ORIGIN, verifier_keys=[TRUST["log_key"]], statement_key=DAEMON.public_key, retention_days=days, **more
    ).SerializeToString()


def ledger(
    *payloads: bytes,
    leaf_0: bytes | None = None,
    tag: bytes | str = "ledger",
    old: Callable[[Forge], Any] = lambda forge: None,
    change: Callable[[int, codec.Event], codec.Event] = lambda seq, event: event,
    last_kind: EntryKind = EntryKind.ACCESS,
    **more: Any,
) -> Forge:
    """Return a ledger in which a person has six old entries and two new ones, and which states something in between.

    Args:
        payloads: of LEDGER entries in chain *tag*, from day 40 on, an hour apart.
        leaf_0: payload of leaf 0.
        old: adds to what is old.
        change: changes an entry of the person.
        last_kind: of the person's last entry.
        more: of the LEDGER entries: see ``Forge.add``; ``author`` and ``kind`` too.
    """
    author, kind = more.pop("author", DAEMON), more.pop("kind", EntryKind.LEDGER)
    forge = Forge().add("ledger", EntryKind.LEDGER, DAEMON, first_payload() if leaf_0 is None else leaf_0)
    forge.add("participant/bank", EntryKind.PARTICIPANT, DAEMON)
    forge.add("participant/bank", EntryKind.KEY, DAEMON, key_payload(BANK.public_key))

    def add(kind: EntryKind, by: Any = DAEMON, payload: bytes = b"") -> None:
        seq = len(forge.chains.get(ME, ())) + 1
        forge.add(ME, kind, by, payload, event=lambda event: change(seq, event))

    add(EntryKind.ENROL)
    add(EntryKind.KEY, payload=key_payload(CITIZEN.public_key))
    forge.later(DAY_MS)
    add(EntryKind.GRANT, CITIZEN)
    for _ in range(3):
        forge.later(DAY_MS)
        add(EntryKind.ACCESS)
    old(forge)
    forge.time_ms = STATED_MS
    for payload in payloads:
        forge.add(tag, kind, author, payload, **more).later(3_600_000)
    forge.later(DAY_MS)
    add(EntryKind.GRANT)
    add(last_kind)
    return forge


def shown(forge: Forge, first: int = 1, gone: tuple[int, ...] = (), chain: int = 0) -> Document:
    """Return evidence in which a chain begins at *first*, and what the entries of *gone* say is gone."""
    document = to_document(forge.proof(ME))
    entries = document["histories"][chain]["entries"][first - 1 :]
    for seq in gone:
        entries[seq - first] = {**entries[seq - first], "opening": None}
    return with_chain(document, chain, {**document["histories"][chain], "first_seq": first, "entries": entries})


def both(name: str, want: str, document: Document, as_evidence: str = "", **under: Any) -> Iterator[Vector]:
    """Yield a file as a history and as evidence. *as_evidence*: what evidence wants, if not the same."""
    asked = {"tag": document["histories"][0]["tag"]} if "public_name" not in under else {}
    history = history_vector(f"pruned: {name}", want, document, **asked, **under)
    yield history
    yield evidence_vector(f"pruned: {name}", as_evidence or want, history.content)


def pruned() -> Iterator[Vector]:
    """Yield all of them."""
    yield from stated()
    yield from cut()
    yield from tombstones()
    yield from public_chains()
    yield from nameless()
    yield from signers()


@dataclass(frozen=True, slots=True)
class Said:
    """What a ledger says of pruning; and what a history then is that lacks five entries, and one that is whole."""

    name: str
    cut: str
    whole: str
    payloads: tuple[bytes, ...] = ()
    leaf_0: bytes | None = None
    tag: bytes | str = "ledger"
    more: tuple[tuple[str, Any], ...] = ()
    as_evidence: str = ""


def stated() -> Iterator[Vector]:
    """Yield what a ledger may state, and what it may not."""
    hour = 3_600_000
    at_first_shown = START_MS + 4 * DAY_MS
    latest = STATED_MS - DAYS * DAY_MS
    one_day = st.LedgerStatement(origin=ORIGIN, retention_days=1).SerializeToString()
    early = pruning(START_MS - DAYS * DAY_MS)
    time = b"\x08" + _varint(KEPT_FROM_MS)
    no_pruning = st.LedgerStatement(origin=ORIGIN).SerializeToString()
    for reported in (
        Said("stated", "ok", "ok", (pruning(),)),
        Said("as late as the policy lets it", "ok", "ok", (pruning(latest),)),
        Said("a millisecond later than the policy lets it", "proof", "proof", (pruning(latest + 1),)),
        Said("all that is there", "proof", "proof", (pruning(STATED_MS),)),
        Said("under no policy", "proof", "proof", (pruning(),), first_payload(0)),
        Said("under a policy of a day", "ok", "ok", (pruning(STATED_MS - DAY_MS),), first_payload(1)),
        Said("under a policy of the most days", "proof", "proof", (pruning(),), first_payload(2**32 - 1)),
        Said("nothing", "proof", "ok"),
        Said("nothing, in a LEDGER entry", "proof", "ok", (no_pruning,)),
        Said("an empty one", "proof", "ok", (nested(b""),)),
        Said("an empty one, under no policy", "proof", "proof", (nested(b""),), first_payload(0)),
        Said("a start alone", "proof", "ok", (nested(b"\x10\x04"),)),
        Said("a time alone", "ok", "ok", (nested(time),)),
        Said("the largest start", "ok", "ok", (pruning(start=2**64 - 1),)),
        Said("from the first entry shown on", "proof", "ok", (pruning(at_first_shown),)),
        Said("from a millisecond behind the first entry shown on", "ok", "ok", (pruning(at_first_shown + 1),)),
        Said("from a millisecond before the first entry shown on", "proof", "ok", (pruning(at_first_shown - 1),)),
        Said("a time before all times", "proof", "ok", (pruning(-1),)),
        Said("the least time", "proof", "ok", (pruning(-(2**63)),)),
        Said("the largest time", "proof", "proof", (pruning(2**63 - 1),)),
        Said("two, the later one smaller", "ok", "ok", (pruning(), pruning(START_MS + 1))),
        Said("two, the later one larger", "ok", "ok", (pruning(START_MS + 1), pruning())),
        Said("two, the later one negative", "ok", "ok", (pruning(), pruning(-5))),
        Said("two, each by its own time", "ok", "ok", (pruning(latest), pruning(latest + hour))),
        Said("two, the later one beyond the policy", "proof", "proof", (pruning(), pruning(latest + hour + 1))),
        Said("two, the first one beyond the policy", "proof", "proof", (pruning(latest + 1), pruning())),
        Said("two, of the first days", "proof", "proof", (pruning(retention_days=1), pruning(STATED_MS - DAY_MS))),
        Said("a shorter policy, then by that", "proof", "proof", (one_day, pruning(STATED_MS - DAY_MS))),
        Said("a shorter policy, and by that", "proof", "proof", (pruning(STATED_MS - DAY_MS, retention_days=1),)),
        Said("no policy any more", "ok", "ok", (pruning(retention_days=0),)),
        Said("a policy that came later", "proof", "proof", (one_day, pruning()), first_payload(0)),
        Said("in two parts", "ok", "ok", (nested(b"\x10\x04") + b"\x4a" + bytes((len(time),)) + time,)),
        Said("twice, the last one counts", "proof", "ok", (pruning() + nested(b"\x08\x01"),)),
        Said("with a time twice", "ok", "ok", (nested(b"\x08\x01" + time),)),
        Said("with an unknown field", "proof", "ok", (nested(time + b"\x18\x01"),), as_evidence="undetermined"),
        Said("with a field of another type", "proof", "ok", (nested(time + b"\x0a\x01x"),), as_evidence="undetermined"),
        Said("cut short", "proof", "ok", (nested(time[:-1]),), as_evidence="undetermined"),
        Said("as a number", "proof", "ok", (no_pruning + b"\x48\x01",), as_evidence="undetermined"),
        Said("beside an unknown field", "proof", "ok", (pruning() + b"\x78\x01",), as_evidence="undetermined"),
        Said("beyond the policy, beside an unknown field", "proof", "ok", (pruning(latest + 1) + b"\x78\x01",),
             as_evidence="undetermined"),
        Said("under a leaf 0 with an unknown field", "proof", "proof", (pruning(),), first_payload() + b"\x78\x01"),
        Said("in leaf 0", "proof", "ok", (), first_payload() + early),
        Said("in leaf 0, beyond the policy", "proof", "proof", (), first_payload() + pruning(START_MS)),
        Said("in leaf 0, under no policy", "proof", "proof", (), first_payload(0) + early),
        Said("in the person's chain", "proof", "proof", (pruning(),), tag=ME),
        Said("beyond the policy, in the person's chain", "proof", "proof", (pruning(STATED_MS),), tag=ME),
        Said("in a participant's chain", "proof", "ok", (pruning(),), tag="participant/bank"),
        Said("in an entry of another kind", "proof", "ok", (pruning(),), more=(("kind", EntryKind.NOTICE),)),
        Said("in an entry of a kind not known", "proof", "ok", (pruning(),), more=(("kind", 200),),
             as_evidence="undetermined"),
        Said("in a KEY", "proof", "ok", (pruning(),), more=(("kind", EntryKind.KEY),), as_evidence="undetermined"),
        Said("by a stranger", "signature", "signature", (pruning(),), more=(("author", STRANGER),)),
        Said("by a participant", "signature", "signature", (pruning(),), more=(("author", BANK),)),
        Said("by a tombstone", "proof", "proof", (pruning(),), more=(("tombstone", True),)),
        Said("signed for another ledger", "signature", "signature", (pruning(),), more=(("origin", "other"),)),
    ):  # fmt: skip
        forge = ledger(*reported.payloads, leaf_0=reported.leaf_0, tag=reported.tag, **dict(reported.more))
        for lack, want, document in (
            ("five are missing, and one is a tombstone", reported.cut, shown(forge, OLD, (OLD,))),
            ("five are missing", reported.cut, shown(forge, OLD)),
            ("one is a tombstone", reported.cut, shown(forge, gone=(OLD,))),
            ("nothing is missing", reported.whole, shown(forge)),
        ):
            yield from both(f"{reported.name}: {lack}", want, document, reported.as_evidence if want == "ok" else "")
    moved = st.LedgerStatement(origin="ledger.example/other", pruning=st.Pruning(kept_from_time_ms=KEPT_FROM_MS))
    forge = ledger(moved.SerializeToString())
    yield from both("by a ledger of another name", "proof", shown(forge, OLD, (OLD,)))
    keyed = pruning(statement_key=STRANGER.public_key)
    forge = ledger(keyed).add(ME, EntryKind.ACCESS, STRANGER)
    yield from both("with another statement key", "ok", shown(forge, OLD, (OLD,)))


def cut() -> Iterator[Vector]:
    """Yield histories that begin anywhere, and that lack what they may not."""
    forge = ledger(pruning())
    whole = shown(forge)
    for first in range(1, ALL + 2):
        # At 3 the person's own key is missing, which signed it.
        want = "signature" if first == 3 else "ok" if first <= OLD else "proof"
        yield from both(f"begins at {first}", want, shown(forge, first))
    document = shown(forge, OLD, (OLD,))
    chain = document["histories"][0]
    for first in (0, 1, 2, OLD - 1, OLD + 1, ALL, ALL + 1, 2**53 - 1):
        claimed = with_chain(document, 0, {**chain, "first_seq": first})
        yield from both(f"begins at {OLD}, and says at {first}", "proof", claimed)
    for at in range(len(chain["entries"])):
        yield from both(f"without entry {at}", "proof", dropped(document, 0, at))
        yield from both(f"without entry {at}, count too", "proof", dropped(document, 0, at, count=-1))
        late = {**dropped(document, 0, at)["histories"][0], "first_seq": OLD + 1}
        yield from both(f"without entry {at}, first_seq too", "proof", with_chain(document, 0, late))
        twice = with_entries(document, 0, [*chain["entries"][: at + 1], *chain["entries"][at:]])
        yield from both(f"entry {at} twice", "proof", twice)
    old = whole["histories"][0]["entries"]
    for seq in range(1, OLD):
        beside = with_entries(document, 0, [old[seq - 1], *chain["entries"]])
        early = with_chain(beside, 0, {**beside["histories"][0], "first_seq": OLD - 1})
        yield from both(f"entry {seq} before it", "ok" if seq == OLD - 1 else "proof", early)
        instead = with_entries(document, 0, [old[seq - 1], *chain["entries"][1:]])
        yield from both(f"entry {seq} in place of the first", "proof", instead)
    none = with_chain(document, 0, {**chain, "first_seq": ALL + 1, "entries": []})
    yield from both("no entry at all", "proof", none)
    other = ledger(pruning(), old=lambda forge: forge.add(OTHER, EntryKind.ENROL, DAEMON))
    cut_short = shown(other, OLD, (OLD,))
    stranger = cut_short["histories"][-1]["entries"][0]
    person = {**cut_short, "histories": cut_short["histories"][:-1]}
    yield from both("another person beside", "ok", person)
    foreign = with_entries(person, 0, [stranger, *person["histories"][0]["entries"][1:]])
    yield from both("another's entry first", "proof", foreign)
    sealed = changed(document, ("histories", 0, "entries", 0, "leaf"), base64.b64decode(document["seal"]))
    yield from both("a seal first", "proof", sealed)
    leaf = base64.b64decode(chain["entries"][0]["leaf"])
    for name, want, other_leaf in (
        ("no bytes", "malformed", b""), ("a byte less", "malformed", leaf[:-1]),
        ("kind 255", "malformed", b"\1\xff" + leaf[2:]), ("no prev", "malformed", leaf[:50] + bytes(32) + leaf[82:]),
        ("another prev", "proof", flip(50)(leaf)), ("another time", "proof", flip(9)(leaf)),
    ):  # fmt: skip
        first = changed(document, ("histories", 0, "entries", 0, "leaf"), other_leaf)
        yield from both(f"first entry with {name}", want, first)

    def changing(at: int, **fields: Any) -> Forge:
        return ledger(pruning(), change=lambda seq, event: replace(event, **fields) if seq == at else event)

    any_prev = b"\x99" * 32
    yield from both("the first one's prev is not looked at", "ok", shown(changing(OLD, prev=any_prev), OLD, (OLD,)))
    yield from both("the prev behind a gap, with nothing missing", "proof", shown(changing(OLD, prev=any_prev)))
    for seq in (OLD + 1, ALL):
        yield from both(f"wrong prev at {seq}", "proof", shown(changing(seq, prev=any_prev), OLD, (OLD,)))
        yield from both(f"wrong seq at {seq}", "proof", shown(changing(seq, seq=seq + 1), OLD, (OLD,)))
        yield from both(f"tag of another at {seq}", "proof", shown(changing(seq, tag=OTHER), OLD, (OLD,)))
        yield from both(f"too early at {seq}", "proof", shown(changing(seq, time_ms=START_MS), OLD, (OLD,)))
        yield from both(f"too late at {seq}", "proof", shown(changing(seq, time_ms=2**63), OLD, (OLD,)))
    yield from both("wrong seq at the first", "proof", shown(changing(OLD, seq=OLD + 1), OLD, (OLD,)))
    too_new = changing(OLD, time_ms=KEPT_FROM_MS)
    yield from both("a first entry of kept_from", "proof", shown(too_new, OLD, (OLD,)))
    just_old = changing(OLD, time_ms=KEPT_FROM_MS - 1)
    yield from both("a first entry of just before kept_from", "ok", shown(just_old, OLD, (OLD,)))
    # What is missing cannot be known to be old but by what is behind it: a first entry of an old time is believed.
    hidden = changing(OLD + 1, time_ms=KEPT_FROM_MS - 1)
    yield from both("a hidden entry behind an old time", "signature", shown(hidden, OLD + 1))


def tombstones() -> Iterator[Vector]:
    """Yield histories in which what one entry or many say is gone."""
    forge = ledger(pruning())
    for seq in range(1, ALL + 1):
        want = "ok" if 2 < seq <= OLD else "proof"  # the first two are ENROL and KEY
        yield from both(f"tombstone {seq}", want, shown(forge, gone=(seq,)))
        if seq > 3:
            yield from both(f"tombstones from 3 to {seq}", want, shown(forge, gone=tuple(range(3, seq + 1))))
            yield from both(f"tombstones to {seq}", "proof", shown(forge, gone=tuple(range(1, seq + 1))))
            yield from both(f"tombstone {seq}, from 4 on", want, shown(forge, 4, (seq,)))
    early = ledger(pruning(START_MS + 4 * DAY_MS))
    yield from both("a tombstone of kept_from", "proof", shown(early, gone=(OLD,)))
    early = ledger(pruning(START_MS + 4 * DAY_MS + 1))
    yield from both("a tombstone of just before kept_from", "ok", shown(early, gone=(OLD,)))
    for kind in (*EntryKind, 40, 200, 254):
        kept = ledger(pruning(), old=lambda forge, kind=kind: forge.add(ME, kind, DAEMON))
        want = "ok" if 8 <= kind <= 15 or kind in (19, 24) else "proof"
        verdict = "undetermined" if kind > max(EntryKind) else ""
        yield from both(f"kind {int(kind)}, gone", want, shown(kept, 4, (OLD + 1,)))
        # Nothing follows an ERASURE, and some kinds are in public chains only.
        want = "proof" if kind in {*PUBLIC, EntryKind.ERASURE} else "ok"
        yield from both(f"kind {int(kind)}, there", want, shown(kept, 4), verdict)
    every = tuple(range(1, ALL))
    late = ledger(pruning(), old=lambda forge: forge.add(ME, 200, DAEMON))
    yield from both("nothing but a tombstone of a kind not known is missing", "proof", shown(late, OLD + 1, (OLD + 1,)))
    for last_kind, want in ((EntryKind.ERASURE, "ok"), (EntryKind.ACCESS, "proof")):
        forge = ledger(pruning(), last_kind=last_kind)
        name = f"tombstones before a last {last_kind.name}"
        yield from both(name, want, shown(forge, gone=every))
        yield from both(f"{name}, and five are missing", want, shown(forge, OLD, every[OLD - 1 :]))
        yield from both(f"{name}, itself one", "proof", shown(forge, gone=(*every, ALL)))

    def erased(forge: Forge) -> None:
        forge.add(ME, EntryKind.ERASURE, DAEMON)

    forge = ledger(pruning(), old=erased)
    yield from both("entries after an ERASURE", "proof", shown(forge, OLD, (OLD,)))
    # Who is not shown the ERASURE cannot miss it.
    yield from both("entries after an ERASURE as the first", "proof", shown(forge, OLD + 1, (OLD + 1,)))


def public_chains() -> Iterator[Vector]:
    """Yield public chains from which something is missing: none may."""
    forge = ledger(pruning())
    document = shown(forge)
    for location, chain in enumerate(document["histories"][1:], 1):
        name = chain["public_name"]
        for first in range(2, chain["count"] + 2):
            yield from both(f"{name} begins at {first}", "proof", shown(forge, first, chain=location))
        for seq in range(1, chain["count"] + 1):
            yield from both(f"{name} with tombstone {seq}", "proof", shown(forge, gone=(seq,), chain=location))
        others = [other for other in document["histories"] if other["public_name"] not in ("", name)]
        first = {**document, "histories": [chain, *others]}
        asked = {"public_name": name}
        yield history_vector(f"pruned: {name} asked for", "ok", first, **asked)
        late = {**chain, "first_seq": 2, "entries": chain["entries"][1:]}
        yield history_vector(f"pruned: {name} asked for, from 2 on", "proof", with_chain(first, 0, late), **asked)
        gone = changed(first, ("histories", 0, "entries", 0, "opening"), None)
        yield history_vector(f"pruned: {name} asked for, with a tombstone", "proof", gone, **asked)
    beyond = shown(ledger(pruning(STATED_MS)))
    _, own, bank = beyond["histories"]
    alone = {**beyond, "histories": [own, bank]}
    yield history_vector("pruned: ledger asked for, beyond the policy", "proof", alone, public_name="ledger")
    asked = {**beyond, "histories": [bank, own]}
    yield from both("beyond the policy, beside a public chain", "proof", asked, public_name="participant/bank")
    absent = to_document(ledger(pruning()).proof(OTHER))
    absent["histories"] = [chain for chain in absent["histories"] if chain["tag"] != b64(ME)]
    yield from both("absent", "ok", absent)
    for first in (0, 2):
        claimed = with_chain(absent, 0, {**absent["histories"][0], "first_seq": first})
        yield from both(f"absent, from {first} on", "proof", claimed)


def nameless() -> Iterator[Vector]:
    """Yield public chains without their public name: none is accepted as a person's, neither whole nor cut."""
    for name, kind in (
        ("ledger", EntryKind.LEDGER), ("participant/clinic", EntryKind.PARTICIPANT), ("rules/realm", EntryKind.RULES),
        ("vocabulary/own", EntryKind.VOCABULARY), ("notice/own", EntryKind.NOTICE),
    ):  # fmt: skip
        payload = st.LedgerStatement(origin=ORIGIN).SerializeToString() if name == "ledger" else b""

        def old(forge: Forge, name: str = name, kind: int = kind, payload: bytes = payload) -> None:
            for _ in range(3):
                forge.add(name, kind, DAEMON, payload)

        forge = ledger(pruning(), old=old).add(name, kind, DAEMON, payload)
        document = to_document(forge.proof(codec.public_tag(name)))
        document["histories"] = [one for one in document["histories"] if one["public_name"] in (name, "ledger")]
        chain = document["histories"][0]
        cut_short = {**chain, "first_seq": 3, "entries": chain["entries"][2:]}
        for how, want, shown_chain in (("whole", "ok", chain), ("cut", "proof", cut_short)):
            named = with_chain(document, 0, shown_chain)
            yield from both(f"{name} with its name, {how}", want, named, public_name=name)
            without_name = with_chain(document, 0, {**shown_chain, "public_name": ""})
            yield from both(f"{name} without its name, {how}", "proof", without_name)


def signers() -> Iterator[Vector]:
    """Yield histories in which a key is missing that signed what is there."""
    forge = ledger(pruning())
    late = ledger(pruning()).add(ME, EntryKind.GRANT, CITIZEN)
    yield from both("own key missing, which signs later", "signature", shown(late, OLD, (OLD,)))
    yield from both("own key there, which signs later", "ok", shown(late, 2))
    document = shown(forge, OLD, (OLD,))
    without = {**document, "histories": [chain for chain in document["histories"] if chain["public_name"] != "ledger"]}
    yield from both("without the chain that states it", "proof", without)
    order = {**document, "histories": [*document["histories"][:1], *reversed(document["histories"][1:])]}
    yield from both("the chain that states it last", "ok", order)
    twice = {**document, "histories": [*document["histories"], document["histories"][1]]}
    yield from both("the chain that states it twice", "proof", twice)
    renamed = with_chain(document, 1, {**document["histories"][1], "public_name": "ledger/x"})
    yield from both("the chain that states it by another name", "proof", renamed)
    older = shown(ledger(), OLD, (OLD,))
    swapped = with_chain(document, 1, older["histories"][1])
    yield from both("the chain that states it of another tree", "proof", swapped)


def _varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return made + bytes((value,))
