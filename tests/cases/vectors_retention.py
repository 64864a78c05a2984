"""Histories of a ledger that the real sequencer wrote and that was pruned, and all that can be done to them.

Who holds something from before the pruning is sent what comes after the gap.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cases.audits import DAEMON, ORIGIN, Forge, PrunedLocation, PrunedSource
from cases.ledgers import LOG as CASE_LOG
from cases.ledgers import ORIGIN as CASE_ORIGIN
from cases.ledgers import Person
from cases.pruned_ledgers import MONTH_DAYS, PruningCase
from cases.vectors_case import Document, Vector, b64, encode, evidence_vector, history_vector, to_document
from cases.vectors_evidence import changed_lists, changed_values, make_document, other_spellings
from cases.vectors_files import changed, dropped, with_chain
from cases.vectors_histories import sweep
from cases.vectors_resealed import PINS, Grown, vector
from consentd.core import checkpoint, codec
from consentd.core.evidence import Scope
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS, Pruned
from consentd.ledger.retention import first_after_gaps
from consentd.v1 import statement_pb2 as st


def retained() -> Iterator[Vector]:
    """Yield histories of a pruned ledger, what is sent to who held some of it, and evidence."""
    with TemporaryDirectory() as directory:
        case = PruningCase(Path(directory))
        try:
            yield from pruned_histories(case)
        finally:
            case.close()
    yield from pruned_evidence()


def document_of(
    case: PruningCase, person: Person, before: Document | None = None, known: int | None = None
) -> Document:
    """Return what a person's app is sent that holds *before*, of which *known* entries; None: all."""
    held, count = None, 0
    if before is not None:
        held, _ = checkpoint.open_checkpoint(base64.b64decode(before["checkpoint"]), CASE_ORIGIN, CASE_LOG.verifier)
        count = before["histories"][0]["count"] if known is None else known
    first = max(count + 1, first_after_gaps(case.store, person.tag))
    return to_document(case.history(person.tag, "ledger", held=held, known=first - 1))


def pruned_histories(case: PruningCase) -> Iterator[Vector]:
    person = case.enrol("somebody")
    lineage = case.write(case.grant(person)).entry.event.seq
    for _ in range(2):
        case.write(case.access(person))
    case.seal()
    early = document_of(case, person)
    for _ in range(3):
        case.write(case.access(person))
    case.write(case.change(person, lineage, EntryKind.REVOKE))
    case.seal()
    middle = document_of(case, person)
    other = case.enrol("somebody else")
    theirs = case.write(case.grant(other)).entry.event.seq
    for _ in range(300):
        case.write(case.access(other))
    case.write(case.change(other, theirs, EntryKind.REVOKE))
    case.seal()
    case.clock.advance(100 * DAY_MS)
    case.write(case.grant(person))
    case.write(case.access(person))
    case.write(case.access(other))
    case.seal()
    unpruned = document_of(case, person)
    case.prune()
    case.seal()
    whole = document_of(case, person)
    assert (whole["histories"][0]["first_seq"], whole["histories"][0]["count"]) == (8, 10)
    asked = {"tag": b64(person.tag)}
    yield history_vector("retention: what is kept", "ok", whole, **asked)
    yield history_vector("retention: of another", "ok", document_of(case, other), tag=b64(other.tag))
    yield history_vector("retention: whole, before it was pruned", "ok", unpruned, **asked)
    yield evidence_vector("retention: what is kept", "ok", whole)
    for when, before in (("early", early), ("middle", middle), ("unpruned", unpruned), ("kept", whole)):
        under = {**asked, "before": [b64(encode(before))]}
        news = document_of(case, person, before)
        yield history_vector(f"retention: news, {when}", "ok", news, **under)
        again = document_of(case, person, before, known=0)
        yield history_vector(f"retention: all, checkpoint held, {when}", "ok", again, hold="checkpoint", **under)
        want = "ok" if when == "early" else "proof"  # only that one ends before what is kept
        yield history_vector(f"retention: all, entries held, {when}", want, again, **under)
        yield from changed_news(f"retention: news, {when}", news, **under)
    case.write(case.access(person))
    case.seal()
    step = document_of(case, person, early)
    steps = {**asked, "before": [b64(encode(early)), b64(encode(document_of(case, person, early)))]}
    case.write(case.access(person))
    case.seal()
    last = document_of(case, person, step)
    yield history_vector("retention: news behind a gap that is held", "ok", last, **steps)
    yield history_vector("retention: an older tree than is held", "proof", {**whole, "consistency": []}, **steps)
    yield from changed_news("retention: news behind a gap that is held", last, **steps)
    yield from sweep("retention", whole, tag=b64(person.tag))
    yield from changed_news("retention: kept", whole, **asked)


def changed_news(name: str, document: Document, **under: object) -> Iterator[Vector]:
    """Yield what is sent with an entry or an opening missing, and with other numbers than are right."""
    chain = document["histories"][0]
    for at, entry in enumerate(chain["entries"]):
        yield history_vector(f"{name}, without entry {at}", "proof", dropped(document, 0, at), **under)
        later = {**dropped(document, 0, at)["histories"][0], "first_seq": chain["first_seq"] + 1}
        begun_later = with_chain(document, 0, later)
        yield history_vector(f"{name}, without entry {at}, first_seq too", "any", begun_later, **under)
        if entry["opening"] is not None:
            gone = changed(document, ("histories", 0, "entries", at, "opening"), None)
            yield history_vector(f"{name}, tombstone {at}", "any", gone, **under)
    for count in {0, chain["count"] - 1, chain["count"] + 1}:
        yield history_vector(f"{name}, count {count}", "", with_chain(document, 0, {**chain, "count": count}), **under)
    for first in {0, 1, chain["first_seq"] - 1, chain["first_seq"] + 1, chain["count"] + 1} - {chain["first_seq"]}:
        claimed = with_chain(document, 0, {**chain, "first_seq": first})
        yield history_vector(f"{name}, first_seq {first}", "proof", claimed, **under)
    none = {**chain, "first_seq": chain["count"] + 1, "entries": []}
    if chain["entries"]:
        yield history_vector(f"{name}, no entries", "proof", with_chain(document, 0, none), **under)


# -- made as auditors make it -----------------------------------------------------------------------------------


def pruned_evidence() -> Iterator[Vector]:
    """Yield evidence of a person whose chain is pruned, made as auditors make it, and what was done to one file."""
    with TemporaryDirectory() as directory:
        forge, made = make_pruned(Path(directory))
    for name, document in made.items():
        yield vector(f"pruned evidence: {name}", "ok", document)
    person = made["a person"]
    yield from changed_values("a pruned person", person, "ok")
    yield from changed_lists("a pruned person", person)
    yield from other_spellings("a pruned person", person, "ok")
    for part in ("scope", "histories"):
        for name, other in made.items():
            mixed = {**person, part: other[part]}
            yield vector(f"{part} of {name} in a pruned person", "any", Grown(forge.leaves).under(mixed))


@dataclass(frozen=True)
class Stating:
    """A pruned place that says what was pruned as the ledger states it."""

    location: PrunedLocation
    stated: Pruned

    def open(self) -> PrunedSource:
        source = self.location.open()
        source.pruned = lambda: self.stated
        return source


def make_pruned(directory: Path) -> tuple[Forge, dict[str, Document]]:
    """Make a ledger with a person who has two entries before kept_from, and two since; return evidence of it."""
    forge = Forge(map_bits=4)
    ledger = codec.public_tag("ledger")
    begun = st.LedgerStatement(
        origin=ORIGIN, verifier_keys=[PINS["log_key"]], statement_key=DAEMON.public_key, map_bits=4,
        retention_days=MONTH_DAYS,
    )  # fmt: skip
    forge.add(EntryKind.LEDGER, ledger, begun)
    for name in ("hospital", "bank"):
        forge.participant(name)
    person, other = forge.enrol(1), forge.enrol(2)
    for _ in range(3):
        forge.ask(person)
        forge.ask(other)
    forge.seal()
    start = forge.size
    last = max(at for at in range(start) if forge.leaves[at][10:42] == person)
    kept_from_ms = forge.time_ms + DAY_MS
    forge.time_ms += 2 * MONTH_DAYS * DAY_MS
    stated = st.LedgerStatement(origin=ORIGIN, pruning=st.Pruning(kept_from_time_ms=kept_from_ms, start_size=start))
    forge.add(EntryKind.LEDGER, ledger, stated)
    forge.ask(person)
    forge.add(EntryKind.SERVED, person, b"")
    forge.seal()
    forge.openings[last] = None
    location = forge.write(directory / "log", directory / "openings")
    kept = Stating(PrunedLocation(forge, location, start), Pruned(kept_from_ms, start))
    scopes = {"a person": Scope(tag=person), "a participant": Scope(participant="bank"),
              "a range": Scope(first=start, last=forge.size - 1), "the ledger": Scope(tag=ledger)}  # fmt: skip
    path = directory / "evidence.json"
    made = {name: make_document(kept, path, scope) for name, scope in scopes.items()}
    # A copy of before, in which only statements are gone.
    made["a person of whom only a statement is gone"] = make_document(location, path, Scope(tag=person))
    return forge, made
