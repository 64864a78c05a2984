"""Histories of a ledger as it grows, and all that can be done to them on their way."""

import base64
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from cases.ledgers import LOG, ORIGIN, LedgerCase, Person, flip
from cases.vectors_case import BANK, CITIZEN, STRANGER, Document, Vector, b64, encode, history_vector, to_document
from cases.vectors_files import (
    Position,
    altered_list,
    byte_fields,
    changed,
    dropped,
    files,
    set_at,
    with_chain,
    with_entries,
)
from cases.vectors_notes import WITNESS
from consentd.core import checkpoint, codec, note
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind

CHAINS = ("ledger", "participant/bank")


def histories(case: LedgerCase) -> Iterator[Vector]:
    """Yield histories of a ledger as it grows, and all that was done to two of them on their way."""
    case.write(case.key("bank", BANK.public_key))
    first, second = case.enrol("somebody", CITIZEN), case.enrol("somebody else", STRANGER)
    lineage = case.write(case.grant(first, signed=True)).entry.event.seq
    case.seal()
    early = document_of(case, first.tag, *CHAINS)
    yield history_vector("person, three entries", "ok", early, tag=b64(first.tag))
    yield history_vector("person, whose it is not said", "ok", early)
    for _ in range(2):
        seq = case.write(case.access(first)).entry.event.seq
        case.write(case.outcome(first, seq, key=BANK))
        case.write(case.outcome(second, case.write(grant_and_access(case, second)).entry.event.seq))
    case.write(case.access(first, purpose="HRESCH"))
    for kind in (EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE):
        case.write(case.change(first, lineage, kind))
    case.seal()
    middle = document_of(case, first.tag, *CHAINS)
    since, _ = checkpoint.open_checkpoint(base64.b64decode(early["checkpoint"]), ORIGIN, LOG.verifier)
    news = document_of(case, first.tag, *CHAINS, held=since, known=early["histories"][0]["count"])
    small = document_of(case, second.tag, *CHAINS)
    case.write(case.grant(first, signed=True))
    case.fill(7)
    gone = case.enrol("gone")
    case.write(case.grant(gone))
    case.write(case.access(gone))
    case.erase(gone)
    case.write(case.access(second))
    point = case.seal()
    whole = document_of(case, first.tag, *CHAINS)
    asked = {"tag": b64(first.tag)}
    yield history_vector("person, all entries", "ok", whole, **asked)
    yield history_vector("person, at a checkpoint before", "ok", middle, **asked)
    yield history_vector("erased person", "ok", document_of(case, gone.tag, *CHAINS), tag=b64(gone.tag))
    for person in case.people[2:]:
        document = document_of(case, person.tag, *CHAINS)
        yield history_vector("person signed for by the daemon", "ok", document, tag=b64(person.tag))
    for name in ("ledger", "participant/bank", "participant/hospital", "rules/realm", "vocabulary/kr"):
        others = [chain for chain in CHAINS if chain != name]
        yield history_vector(f"public chain {name}", "ok", document_of(case, name, *others), public_name=name)
    for absent in (bytes(32), b"\x77" * 32, b"\xff" * 32):
        document = document_of(case, absent, "ledger")
        yield history_vector("absent tag", "ok", document, tag=b64(absent))
        headed = changed(document, ("histories", 0, "head"), bytes(32))
        yield history_vector("absent tag with a head", "malformed", headed, tag=b64(absent))
        lie = changed(document, ("histories", 0, "tag"), first.tag)
        yield history_vector("absence of one who is there", "proof", lie, **asked)
    since, _ = checkpoint.open_checkpoint(base64.b64decode(news["checkpoint"]), ORIGIN, LOG.verifier)
    later = document_of(case, first.tag, *CHAINS, held=since, known=news["histories"][0]["count"])
    steps = [b64(encode(early)), b64(encode(news))]
    yield history_vector("only news, twice", "ok", later, before=steps, **asked)
    yield from parts(case, first, gone, point)
    yield from held_histories(case, first, {"early": early, "middle": middle}, point)
    yield from mutants(case, first, whole, second)
    yield from sweep("person", small, tag=b64(second.tag))
    absent = document_of(case, b"\x77" * 32, "ledger")
    yield from sweep("absent", absent, locations=("histories", 0), tag=b64(b"\x77" * 32))
    yield from files(small, tag=b64(second.tag))


def grant_and_access(case: LedgerCase, person: Person) -> Any:
    if case.ledger.head(person.tag)[0] < 3:
        case.write(case.grant(person))
    return case.access(person)


def document_of(
    case: LedgerCase, *chains: bytes | str, held: Checkpoint | None = None, known: int = 0, most: int | None = None
) -> Document:
    """Return evidence of chains at the last seal."""
    return to_document(case.history(*chains, held=held, known=known, most=most))


def parts(case: LedgerCase, person: Person, gone: Person, point: Checkpoint) -> Iterator[Vector]:
    """Yield histories that are read in parts: whole, cut at the end, and with parts that do not follow each other."""

    def document(person: Person, known: int, most: int | None) -> Document:
        return document_of(case, person.tag, *CHAINS, held=point if known else None, known=known, most=most)

    def vector(name: str, want: str, last: Document, *before: Document, most: list[int], of: Person = person) -> Vector:
        steps = [b64(encode(one)) for one in before]
        return history_vector(f"in parts: {name}", want, last, before=steps, most=most, tag=b64(of.tag))

    first, second, rest = document(person, 0, 4), document(person, 4, 3), document(person, 7, None)
    yield vector("two", "ok", document(person, 4, None), first, most=[4, 0])
    yield vector("three", "ok", rest, first, second, most=[4, 3, 0])
    yield vector("the last is asked for by its size", "ok", rest, first, second, most=[4, 3, 1_000])
    yield vector("one, larger than the history", "ok", document(person, 0, None), most=[1_000])
    yield vector("the first alone", "undetermined", first, most=[4])
    yield vector("the end is not read", "undetermined", second, first, most=[4, 3])
    yield vector("the end is cut, all were asked for", "proof", second, first, most=[4, 0])
    yield vector("a part has too few entries", "proof", second, first, most=[4, 4])
    yield vector("a part has too many entries", "proof", second, first, most=[4, 2])
    yield vector("a part is left out", "proof", rest, first, most=[4, 0])
    yield vector("a part comes twice", "proof", second, first, second, most=[4, 3, 3])
    cut = set_at(first, ("histories", 0, "count"), 4)
    yield vector("a part claims to be the whole", "proof", cut, most=[4])
    for at in range(3):
        lacking = dropped(second, 0, at)
        yield vector(f"a part lacks entry {at}", "proof", lacking, first, most=[4, 3])
        untold = changed(second, ("histories", 0, "entries", at, "opening"), None)
        yield vector(f"a part lacks opening {at}", "undetermined", untold, first, most=[4, 3])
        yield vector(f"a part lacked opening {at}", "proof", rest, first, untold, most=[4, 3, 0])
    erased = document(gone, 0, 2)
    yield vector("an erased person, the ERASURE not read", "undetermined", erased, most=[2], of=gone)
    yield vector("an erased person", "ok", document(gone, 2, None), erased, most=[2, 0], of=gone)
    other = document(gone, 2, None)
    yield vector("another person's part follows", "proof", other, first, most=[4, 0])


def held_histories(
    case: LedgerCase, person: Person, before: Mapping[str, Document], point: Checkpoint
) -> Iterator[Vector]:
    """Yield what is sent to who holds a part already, and what contradicts it."""
    asked = {"tag": b64(person.tag)}
    for when, document in before.items():
        known = document["histories"][0]["count"]
        held, _ = checkpoint.open_checkpoint(base64.b64decode(document["checkpoint"]), ORIGIN, LOG.verifier)
        under = {**asked, "before": [b64(encode(document))]}
        news = document_of(case, person.tag, *CHAINS, held=held, known=known)
        yield history_vector(f"only news, {when}", "ok", news, **under)
        again = document_of(case, person.tag, *CHAINS, held=held)
        yield history_vector(f"all again, checkpoint held, {when}", "ok", again, hold="checkpoint", **under)
        yield history_vector(f"all again, entries held, {when}", "proof", again, **under)
        yield history_vector(f"news without what comes before, {when}", "proof", news, **asked)
        without = {**news, "consistency": []}
        yield history_vector(f"news without consistency, {when}", "proof", without, **under)
        old = {**document, "consistency": []}
        newer = document_of(case, person.tag, *CHAINS)
        later = {**asked, "before": [b64(encode(newer))]}
        yield history_vector(f"rolled back, {when}", "proof", old, **later)
        yield history_vector(f"rolled back, checkpoint held, {when}", "proof", old, hold="checkpoint", **later)
        for at in range(len(news["consistency"])):
            for name, hashes in altered_list(news["consistency"], at):
                yield history_vector(f"consistency {name} {at}, {when}", "", {**news, "consistency": hashes}, **under)
        for at in range(len(news["histories"][0]["entries"])):
            document = dropped(news, 0, at)
            yield history_vector(f"news without entry {at}, {when}", "proof", document, **under)
    now = document_of(case, person.tag, *CHAINS)
    count = now["histories"][0]["count"]
    nothing = document_of(case, person.tag, *CHAINS, held=point, known=count)
    yield history_vector("nothing new", "ok", nothing, before=[b64(encode(now))], **asked)
    empty = {**now["histories"][0], "first_seq": count + 1, "entries": []}
    other = {**now, "histories": [empty, *now["histories"][1:]]}
    yield history_vector("nothing, and nothing held", "proof", other, **asked)


def mutants(case: LedgerCase, person: Person, whole: Document, second: Person) -> Iterator[Vector]:
    """Yield changes of a whole history that have a name."""
    asked = {"tag": b64(person.tag)}

    def bad(name: str, document: Document, want: str = "proof", **under: Any) -> Vector:
        return history_vector(name, want, document, **{**asked, **under})

    chains = whole["histories"]
    for location, chain in enumerate(chains):
        entries = chain["entries"]
        for at in range(len(entries)):
            where = f"entry {at} of chain {location}"
            yield bad(f"drop {where}", dropped(whole, location, at))
            want = "proof" if len(entries) > 1 else "malformed"  # of a chain without entries there is no head
            yield bad(f"drop {where}, count too", dropped(whole, location, at, count=-1), want)
            yield bad(f"repeat {where}", with_entries(whole, location, [*entries[: at + 1], *entries[at:]]))
            yield bad(f"tombstone {where}", changed(whole, ("histories", location, "entries", at, "opening"), None))
            yield bad(f"truncate before {where}", with_entries(whole, location, entries[:at]))
            stale = {**chain, "count": at, "entries": entries[:at], "head": ""}
            if at:
                stale["head"] = b64(codec.chain_hash(base64.b64decode(entries[at - 1]["leaf"])))
            yield bad(f"stale head before {where}", with_chain(whole, location, stale), "proof" if at else "")
            late = {**chain, "first_seq": at + 2, "entries": entries[at + 1 :]}
            yield bad(f"begin after {where}", with_chain(whole, location, late))
            for other in range(at + 1, len(entries)):
                order = list(entries)
                order[at], order[other] = order[other], order[at]
                yield bad(f"reorder {at} and {other} of chain {location}", with_entries(whole, location, order))
            other = (at + 1) % len(entries)
            if other != at:
                swapped = {**entries[at], "opening": entries[other]["opening"]}
                order = [*entries[:at], swapped, *entries[at + 1 :]]
                yield bad(f"swap opening of {where}", with_entries(whole, location, order))
        for count in {0, chain["count"] - 1, chain["count"] + 1, (1 << 53) - 1} - {chain["count"]}:
            yield bad(f"count {count} in chain {location}", with_chain(whole, location, {**chain, "count": count}), "")
        for first in {0, 2, chain["count"] + 1} - {chain["first_seq"]}:
            begun = with_chain(whole, location, {**chain, "first_seq": first})
            yield bad(f"first_seq {first} in chain {location}", begun)
        names = ("", "ledger", "participant/hospital", "participant/bank\0", "é", "x" * 129, "é" * 128)
        for name in (*names, "\U0001f600" * 128):
            if name != chain["public_name"]:
                document = with_chain(whole, location, {**chain, "public_name": name})
                yield bad(f"public name `{name[:24]}` of {len(name)} in chain {location}", document, "")
        if location:
            left_out = {**whole, "histories": [*chains[:location], *chains[location + 1 :]]}
            yield bad(f"without {chain['public_name']}", left_out, "signature")
            yield bad(f"{chain['public_name']} twice", {**whole, "histories": [*chains, chain]})
            first = {**whole, "histories": [chain, *chains[:location], *chains[location + 1 :]]}
            yield bad(f"{chain['public_name']} first", first)
    yield bad("no chains", {**whole, "histories": []})
    yield bad("the chain asked for alone", {**whole, "histories": chains[:1]}, "signature")
    yield bad("another tag asked for", whole, tag=b64(second.tag))
    yield bad("a name asked for", whole, public_name="participant/bank")
    theirs = document_of(case, second.tag, *CHAINS)
    yield bad("another person's history", theirs)
    yield bad("another person's chain beside it", {**whole, "histories": [*chains, theirs["histories"][0]]})
    unneeded = document_of(case, person.tag, *CHAINS, "rules/realm")
    yield bad("a chain of rules beside it", unneeded)
    harmless = document_of(case, person.tag, *CHAINS, "participant/hospital")
    yield bad("a participant's chain that was not needed", harmless, "ok")
    for name in ("entries", "count", "head", "map_proof"):
        document = with_chain(whole, 0, {**chains[0], name: theirs["histories"][0][name]})
        yield bad(f"another person's {name}", document)
    retagged = with_chain(whole, 0, {**theirs["histories"][0], "tag": chains[0]["tag"]})
    yield bad("another person's chain under this tag", retagged)
    for at, (ours, other) in enumerate(zip(chains[0]["entries"], theirs["histories"][0]["entries"], strict=False)):
        assert ours != other
        order = [*chains[0]["entries"][:at], other, *chains[0]["entries"][at + 1 :]]
        yield bad(f"another person's entry {at}", with_entries(whole, 0, order))
    yield bad("said to be absent", with_chain(whole, 0, {**chains[0], "count": 0, "head": "", "entries": []}), "")
    empty = {**chains[0], "count": 0, "head": "", "entries": [], "map_proof": ""}
    key, head = codec.map_key(person.tag), base64.b64decode(chains[0]["head"])
    value, path = codec.map_value(person.tag, chains[0]["count"], head), base64.b64decode(chains[0]["map_proof"])
    itself = {**empty, "map_proof": b64(b"\x20" + key + b"\x20" + value + path)}
    yield bad("said to be absent by its own leaf", with_chain(whole, 0, itself))
    steps = [path[at : at + 33] for at in range(0, len(path), 33)]  # every bit here is below 128: one byte
    for at, step in enumerate(steps):
        longer = b"".join([*steps[:at], bytes((step[0] | 0x80, 0)), step[1:], *steps[at + 1 :]])
        yield bad(f"bit {at} in two bytes", changed(whole, ("histories", 0, "map_proof"), longer), "malformed")
        without_step = b"".join([*steps[:at], *steps[at + 1 :]])
        yield bad(f"map proof without step {at}", changed(whole, ("histories", 0, "map_proof"), without_step))
        twice = b"".join([*steps[: at + 1], *steps[at:]])
        yield bad(f"map proof with step {at} twice", changed(whole, ("histories", 0, "map_proof"), twice), "malformed")
    yield bad("said to be absent from an empty map", with_chain(whole, 0, empty))
    yield bad("consistency from nothing held", {**whole, "consistency": whole["seal_inclusion"]})
    for at in range(len(whole["seal_inclusion"])):
        for name, hashes in altered_list(whole["seal_inclusion"], at):
            yield bad(f"inclusion {name} {at}", {**whole, "seal_inclusion": hashes}, "")
    yield from other_checkpoints(case, whole, bad)


def other_checkpoints(case: LedgerCase, whole: Document, bad: Callable[..., Vector]) -> Iterator[Vector]:
    """Yield the same proof under other checkpoints and other trust."""
    content = base64.b64decode(whole["checkpoint"])
    point, _ = checkpoint.open_checkpoint(content, ORIGIN, LOG.verifier)

    def under(name: str, text: bytes, want: str = "proof", **trust: Any) -> Vector:
        return bad(name, {**whole, "checkpoint": b64(text)}, want, **trust)

    for at, text in enumerate(case.notes[:-1]):
        yield under(f"older checkpoint {at}", text)
    for size in (1, 2, point.size - 1, point.size + 1, 2 * point.size, checkpoint.MAX_SIZE):
        yield under(f"size {size}", checkpoint.sign_checkpoint(replace(point, size=size), [LOG]))
    for at in (0, 31):
        wrong = replace(point, root=flip(at)(point.root))
        yield under(f"root with byte {at} changed", checkpoint.sign_checkpoint(wrong, [LOG]))
    wrong = replace(point, origin="ledger.example/other")
    yield under("checkpoint of another origin", checkpoint.sign_checkpoint(wrong, [LOG]))
    same_name = note.Signer(ORIGIN, STRANGER)
    for signer, want in (
        (same_name, "unknown_key"), (note.Signer("ledger.example/other", LOG.key), "signature"),
    ):  # fmt: skip
        yield under(f"signed by {signer.name}, another key", checkpoint.sign_checkpoint(point, [signer]), want)
    yield under("cosigned by a stranger", note.format_note(
        checkpoint.format_checkpoint(point),
        [LOG.sign(checkpoint.format_checkpoint(point)), WITNESS.cosign(checkpoint.format_checkpoint(point), 5)],
    ), "ok")  # fmt: skip
    yield under("another origin pinned", content, origin="ledger.example/other")
    yield under("another key pinned", content, "unknown_key", log_key=note.format_vkey(same_name.verifier))
    renamed = note.Signer("ledger.example/renamed", LOG.key)
    text = checkpoint.sign_checkpoint(point, [renamed])
    yield under("a key that the ledger does not name", text, log_key=note.format_vkey(renamed.verifier))


def sweep(name: str, document: Document, locations: Position = (), **under: Any) -> Iterator[Vector]:
    """Yield every field of bytes changed: bits here and there, shorter, longer, empty."""
    rng = random.Random(len(name))
    for location, content in byte_fields(document, locations):
        where = f"{name}: {'.'.join(map(str, location))}"
        for at in range(rng.randrange(7), len(content), 7):
            bit = rng.randrange(8)
            flipped = changed(document, location, flip(at, 1 << bit)(content))
            yield history_vector(f"flip bit {bit} of byte {at} in {where}", "", flipped, **under)
        for how, other in (
            ("cut the end of", content[:-1]), ("cut the start of", content[1:]), ("lengthen", content + b"\0"),
            ("lengthen the front of", b"\0" + content), ("empty", b""),
        ):  # fmt: skip
            yield history_vector(f"{how} {where}", "", changed(document, location, other), **under)
