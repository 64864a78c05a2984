"""Ledgers whose keys were replaced, evidence of them from old pins and new ones, and rotations that are forged."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from cases.ed25519_points import TORSION, encoded
from cases.ledgers import flip
from cases.rotated_ledgers import (
    DAEMONS,
    LOGS,
    ORIGIN,
    POLICY,
    Rotated,
    Story,
    changed,
    one_log,
    one_statement,
    rotation,
    story,
)
from cases.vectors_case import BANK, STRANGER, Document, Vector, b64, evidence_vector, history_vector
from cases.vectors_files import set_at, without
from consentd.core import codec, note
from consentd.core.evidence import Scope, format_evidence
from consentd.core.kinds import EntryKind
from consentd.core.rotation import RotationRole
from consentd.v1 import statement_pb2 as st

LOG, STATEMENT = RotationRole.LOG, RotationRole.STATEMENT
LEDGER = Scope(tag=codec.LEDGER_TAG)
VKEYS = [note.format_vkey(one.verifier) for one in LOGS]


def pins(log: int = 0) -> dict[str, str]:
    """Return what a reader pinned: the origin, and this log key."""
    return {"origin": ORIGIN, "log_key": VKEYS[log]}


def to_document(made: Rotated, size: int, *steps: int, scope: Scope | None = None) -> Document:
    """Return evidence of a ledger as JSON has it."""
    document: Document = json.loads(format_evidence(made.evidence(size, steps, scope=scope)))
    return document


def vector(name: str, want: str, document: Any, *, log: int = 0, **under: Any) -> Vector:
    return evidence_vector(f"rotation: {name}", want, document, **{**pins(log), **under})


@cache
def told() -> Story:
    return story()


def whole(*steps: int, scope: Scope | None = None) -> Document:
    """Return evidence of the ledger of three rotations at its latest checkpoint."""
    one = told()
    return to_document(one.ledger, one.last, *(steps or one.steps), scope=scope)


def rotations() -> Iterator[Vector]:
    """Yield evidence of ledgers with rotations, right and forged."""
    yield from sound()
    yield from missing_steps()
    yield from wrong_steps()
    yield from wrong_checkpoints()
    yield from wrong_log_rotations()
    yield from wrong_statement_rotations()
    yield from wrong_signers()
    yield from later_versions()
    yield from witnessed()
    yield from wrong_forms()


def sound() -> Iterator[Vector]:
    """Yield evidence that is right, from old pins and new ones."""
    made, step, last = one_log()
    before = min(made.notes)
    yield vector("before the only one", "ok", to_document(made, before))
    yield vector("at the last old checkpoint", "ok", to_document(made, step))
    for log in (0, 1):
        for name, scope in (
            ("person", None), ("ledger", LEDGER), ("range", Scope(first=before, last=last - 1)),
        ):  # fmt: skip
            document = to_document(made, last, step, scope=scope)
            yield vector(f"of the log key, {name}, pin {log}", "ok", document, log=log)
    yield vector("of the log key, not told to whom has pinned the new one", "ok", to_document(made, last), log=1)
    other, size = one_statement()
    yield vector("of the statement key, person", "ok", to_document(other, size))
    yield vector("of the statement key, range", "ok", to_document(other, size, scope=Scope(first=6, last=size - 1)))
    for name, one in (("three", told()), ("three, far ahead", story(ahead=12))):
        yield vector(f"{name}: before", "ok", to_document(one.ledger, one.first))
        document = to_document(one.ledger, one.last, *one.steps)
        for log in range(3):
            yield vector(f"{name}: after, pin {log}", "ok", document, log=log)
            tag = b64(one.ledger.person)
            yield history_vector(f"rotation: {name}: after, pin {log}", "ok", document, tag=tag, **pins(log))
        yield vector(f"{name}: after, pin 1, one step", "ok", to_document(one.ledger, one.last, one.steps[1]), log=1)
        yield vector(f"{name}: after, pin 2, no step", "ok", to_document(one.ledger, one.last), log=2)
        everything = Scope(first=0, last=one.last - 1)
        yield vector(f"{name}: all entries", "ok", to_document(one.ledger, one.last, *one.steps, scope=everything))
        for size in one.ledger.notes:
            steps = [step for step in one.steps if step < size]
            yield vector(f"{name}: at size {size}", "ok", to_document(one.ledger, size, *steps))
    over, step, last = two_at_once()
    for log, want in ((0, "ok"), (1, "unknown_key"), (2, "ok")):
        yield vector(f"two in one checkpoint, pin {log}", want, to_document(over, last, step), log=log)


def two_at_once() -> tuple[Rotated, int, int]:
    """Return a ledger of which one checkpoint of log key 0 states two rotations of the log key."""
    made = Rotated().begin()
    first = made.rotate_log(ahead=6)
    made.log = 1
    made.rotate_log(ahead=6)
    made.log = 0
    step = made.seal()
    while made.size < first + 2:
        made.ask()
    made.log = 2
    return made, step, made.seal()


def missing_steps() -> Iterator[Vector]:
    """Yield evidence whose rotations do not lead from the pin to the key that signed it: nothing is determined."""
    one = told()
    first, second = one.steps
    for name, want, steps, log in (
        ("no rotation", "unknown_key", (), 0), ("no rotation, pin 1", "unknown_key", (), 1),
        ("the first one missing", "unknown_key", (second,), 0), ("the last one missing", "unknown_key", (first,), 0),
        ("pin of a stranger", "unknown_key", one.steps, 3), ("pin of a stranger, no rotation", "unknown_key", (), 3),
    ):  # fmt: skip
        yield vector(name, want, to_document(one.ledger, one.last, *steps), log=log)
    yield vector("only an earlier one", "unknown_key", to_document(one.ledger, one.last, first), log=1)


def wrong_steps() -> Iterator[Vector]:
    """Yield rotations that are out of order, cut, or of other parts of the ledger."""
    one = told()
    first, second = one.steps
    document = whole()

    def steps(name: str, want: str, change: Callable[[Any], object], log: int = 0) -> Vector:
        return vector(name, want, changed(document, lambda file: change(file["rotations"])), log=log)

    for log in range(3):
        yield steps(f"order swapped, pin {log}", "proof", lambda rows: rows.reverse(), log)
        yield steps(f"one is there twice, pin {log}", "proof", lambda rows: rows.insert(0, rows[0]), log)
    own = to_document(one.ledger, one.last, *one.steps)
    own["rotations"].append(json.loads(format_evidence(one.ledger.evidence(one.last, (second,))))["rotations"][0])
    own["rotations"][-1]["checkpoint"] = own["checkpoint"]
    yield vector("the file's own checkpoint is one", "proof", own)
    yield vector("entry not in the old checkpoint", "proof", to_document(one.ledger, one.last, one.first, second))
    middle = sorted(one.ledger.notes)[2]
    yield vector("a step that leads to no key", "proof", to_document(one.ledger, one.last, first, middle, second))
    for at in (0, 1):
        rows, other = ("rotations", at), document["rotations"][1 - at]
        for name, place, change in (
            ("consistency cut", "consistency", lambda hashes: hashes[:-1]),
            ("consistency empty", "consistency", lambda _: []),
            ("consistency longer", "consistency", lambda hashes: [*hashes, b64(bytes(32))]),
            ("consistency of another", "consistency", lambda _, other=other: other["consistency"]),
            ("seal inclusion cut", "seal_inclusion", lambda hashes: hashes[:-1]),
            ("another seal", "seal", lambda _: document["seal"]),
            ("history of another", "history", lambda _, other=other: other["history"]),
            ("history of the person", "history", lambda _: document["histories"][0]),
            ("history of the file", "history", lambda _: document["histories"][1]),
        ):  # fmt: skip
            value = change(document["rotations"][at][place])
            yield vector(f"{name}, step {at}", "proof", set_at(document, (*rows, place), value))
        chain = (*rows, "history")
        for name, want, location, value in (
            ("without a name", "proof", "public_name", ""),
            ("with another name", "proof", "public_name", "rules/realm"),
            ("of another tag", "proof", "tag", b64(one.ledger.person)), ("of another count", "proof", "count", 9),
            ("from a later seq", "proof", "first_seq", 2), ("without entries", "proof", "entries", []),
            ("of a short head", "malformed", "head", b64(bytes(31))),
            ("of another head", "proof", "head", b64(bytes(32))),
        ):  # fmt: skip
            yield vector(f"history {name}, step {at}", want, set_at(document, (*chain, location), value))
        entry = (*chain, "entries", 1, "opening")
        yield vector(f"history without an opening, step {at}", "proof", set_at(document, entry, None))
    skipped = set_at(document, ("rotations", 0, "history", "entries", 1, "opening"), None)
    yield vector("what comes before the pin is not read", "ok", skipped, log=1)
    yield from forked_chain()


def forked_chain() -> Iterator[Vector]:
    """Yield a ledger whose map shows another chain `ledger` later than it showed to the old key."""
    made, step, _ = one_log()
    rotated = step - 2
    forked = made.fork()
    forked.forge.heads[codec.LEDGER_TAG] = (1, codec.chain_hash(forked.forge.leaves[0]))
    forked.hidden = {rotated}
    stated = rotation(LOG, LOGS[0].key, LOGS[1].key, forked.size + 3, reason="another")
    forked.state(stated)
    forked.ask()
    last = forked.seal(LOGS[1])
    yield vector("chain `ledger` forked", "proof", to_document(forked, last, step))


def wrong_checkpoints() -> Iterator[Vector]:
    """Yield checkpoints that another log key signed than the one in force for their size."""
    made, step, _ = one_log()
    for name, want, signers, steps, log in (
        ("old key still signs, pin 0", "proof", [0], (), 0),
        ("old key still signs, followed", "signature", [0], (step,), 0),
        ("old key still signs, pin 1", "unknown_key", [0], (), 1), ("both sign, pin 0", "proof", [0, 1], (), 0),
        ("both sign, followed", "ok", [0, 1], (step,), 0), ("both sign, pin 1", "ok", [0, 1], (), 1),
        ("a stranger signs, followed", "unknown_key", [3], (step,), 0),
        ("old key and a stranger sign, followed", "signature", [0, 3], (step,), 0),
    ):  # fmt: skip
        other = made.fork()
        other.ask()
        last = other.seal(*(LOGS[one] for one in signers))
        yield vector(name, want, to_document(other, last, *steps), log=log)
    early = Rotated().begin()
    early.rotate_log(ahead=20)
    for name, want, signers, log in (
        ("new key before from_size, pin 1", "proof", [1], 1),
        ("new key before from_size, pin 0", "unknown_key", [1], 0),
        ("both before from_size, pin 1", "proof", [0, 1], 1), ("both before from_size, pin 0", "ok", [0, 1], 0),
    ):  # fmt: skip
        other = early.fork()
        size = other.seal(*(LOGS[one] for one in signers))
        yield vector(name, want, to_document(other, size), log=log)
    other = early.fork()
    step = other.seal()
    other.ask()
    last = other.seal(LOGS[1])
    yield vector("new key before from_size, followed", "proof", to_document(other, last, step))
    both = Rotated().begin()
    both.rotate_log()
    step = both.seal(LOGS[0], LOGS[1])
    both.ask()
    last = both.seal(LOGS[1])
    yield vector("new key on the last old checkpoint, pin 0", "ok", to_document(both, last, step))
    yield vector("new key on the last old checkpoint, pin 1", "proof", to_document(both, last, step), log=1)


def stated(message: Any, *, key: Any = None, log: int = 1, **beside: Any) -> tuple[Rotated, int, int]:
    """Return a ledger with one rotation, the last old checkpoint and the latest one, signed by log key *log*."""
    made = Rotated().begin()
    made.state(message(made.size) if callable(message) else message, key=key, **beside)
    step = made.seal()
    made.ask()
    return made, step, made.seal(LOGS[log])


OLD, NEW = LOGS[0].key, LOGS[1].key


def wrong_log_rotations() -> Iterator[Vector]:
    """Yield rotations of the log key that contradict what the ledger stated, or that the new key did not sign."""
    other_origin = "ledger.example/other"
    for name, want, message in (
        ("nothing", "ok", lambda n: rotation(LOG, OLD, NEW, n + 3)),
        ("an empty reason", "ok", lambda n: rotation(LOG, OLD, NEW, n + 3, reason="")),
        ("a long reason", "ok", lambda n: rotation(LOG, OLD, NEW, n + 3, reason="교" * 680)),
        ("by the old key alone", "signature", lambda n: rotation(LOG, OLD, NEW, n + 3, signer=OLD)),
        ("by a stranger alone", "signature", lambda n: rotation(LOG, OLD, NEW, n + 3, signer=STRANGER)),
        ("by the statement key", "signature", lambda n: rotation(LOG, OLD, NEW, n + 3, signer=DAEMONS[0])),
        ("over another origin", "signature", lambda n: rotation(LOG, OLD, NEW, n + 3, origin=other_origin)),
        ("over another from_size", "signature",
         lambda n: rotation(LOG, OLD, NEW, n + 3, signed=lambda one: replace(one, from_size=n + 4))),
        ("over another role", "signature",
         lambda n: rotation(LOG, OLD, NEW, n + 3, signed=lambda one: replace(one, role=STATEMENT))),
        ("over another reason", "signature",
         lambda n: rotation(LOG, OLD, NEW, n + 3, signed=lambda one: replace(one, reason="x"))),
        ("over another old key", "signature",
         lambda n: rotation(LOG, OLD, NEW, n + 3, signed=lambda one: replace(one, old_key=STRANGER.public_key))),
        ("signature missing", "signature", lambda n: {**rotation(LOG, OLD, NEW, n + 3), "new_signature": b""}),
        ("signature cut", "signature", lambda n: {**(one := rotation(LOG, OLD, NEW, n + 3)),
                                                 "new_signature": one["new_signature"][:-1]}),
        ("signature with a bit changed", "signature", lambda n: {**(one := rotation(LOG, OLD, NEW, n + 3)),
                                                                 "new_signature": flip(40)(one["new_signature"])}),
        ("old key of a stranger", "proof", lambda n: rotation(LOG, STRANGER, NEW, n + 3)),
        ("old key of 31 bytes", "proof", lambda n: rotation(LOG, OLD.public_key[:31], NEW, n + 3)),
        ("no old key", "proof", lambda n: rotation(LOG, b"", NEW, n + 3)),
        ("old key is the statement key", "proof", lambda n: rotation(LOG, DAEMONS[0], NEW, n + 3)),
        ("same key", "proof", lambda n: rotation(LOG, OLD, OLD, n + 3)),
        ("new key is the statement key", "proof", lambda n: rotation(LOG, OLD, DAEMONS[0], n + 3)),
        ("new key of 31 bytes", "proof", lambda n: rotation(LOG, OLD, NEW.public_key[:31], n + 3)),
        ("no new key", "proof", lambda n: rotation(LOG, OLD, b"", n + 3)),
        ("new key of small order", "proof", lambda n: rotation(LOG, OLD, encoded(TORSION), n + 3)),
        ("new key that is not canonical", "proof",
         lambda n: rotation(LOG, OLD, b"\xee" + b"\xff" * 30 + b"\x7f", n + 3)),
        ("new key that is no point", "proof", lambda n: rotation(LOG, OLD, b"\x02" + bytes(31), n + 3)),
        ("from_size 0", "proof", lambda n: rotation(LOG, OLD, NEW, 0)),
        ("from_size below the entry", "proof", lambda n: rotation(LOG, OLD, NEW, n - 1)),
        ("from_size of the entry", "proof", lambda n: rotation(LOG, OLD, NEW, n)),
        ("from_size of the old checkpoint", "proof", lambda n: rotation(LOG, OLD, NEW, n + 2)),
        ("from_size too late for the next checkpoint", "proof", lambda n: rotation(LOG, OLD, NEW, n + 99)),
        ("from_size 2^63", "proof", lambda n: rotation(LOG, OLD, NEW, 1 << 63)),
        ("from_size 2^64 - 1", "proof", lambda n: rotation(LOG, OLD, NEW, (1 << 64) - 1)),
    ):  # fmt: skip
        made, step, last = stated(message)
        yield vector(f"log: {name}", want, to_document(made, last, step))
    for name, beside in (
        ("a statement key", {"statement_key": DAEMONS[0].public_key}), ("a log key", {"verifier_keys": VKEYS[:1]}),
        ("a pruning", {"pruning": st.Pruning()}), ("a retention", {"retention_days": 1}),
        ("map bits", {"map_bits": 8}), ("a predecessor", {"predecessor": b"x"}),
        ("a vault", {"vault_commitment": b"x"}),
    ):  # fmt: skip
        made, step, last = stated(lambda n: rotation(LOG, OLD, NEW, n + 3), **beside)
        yield vector(f"log: beside {name}", "proof", to_document(made, last, step))
    made, step, last = stated(lambda n: rotation(LOG, OLD, NEW, n + 3), origin="ledger.example/other")
    yield vector("log: for another origin", "proof", to_document(made, last, step))
    for name, old, new, ahead in (
        ("a key that was replaced before", 0, 2, 3), ("a key that was used before", 1, 0, 3),
        ("a from_size that does not rise", 1, 2, 0),
    ):  # fmt: skip
        made, step, _ = one_log()
        from_size = step + 1 if not ahead else made.size + ahead
        made.state(rotation(LOG, LOGS[old].key, LOGS[new].key, from_size))
        second = made.seal()
        made.ask()
        last = made.seal(LOGS[new])
        yield vector(f"log: again, {name}", "proof", to_document(made, last, step, second))
    made, step, _ = one_log()
    made.forge.add(
        EntryKind.LEDGER, codec.LEDGER_TAG, st.LedgerStatement(origin=ORIGIN, verifier_keys=[VKEYS[3]])
    )  # fmt: skip
    yield vector("log: a key named without a rotation", "proof", to_document(made, made.seal(), step))
    first = Rotated()
    first.forge.add(EntryKind.LEDGER, codec.LEDGER_TAG, st.LedgerStatement(
        origin=ORIGIN, verifier_keys=VKEYS[:1], statement_key=DAEMONS[0].public_key,
        rotation=st.Rotation(**rotation(LOG, OLD, NEW, 3)),
    ))  # fmt: skip
    first.person = first.forge.enrol(1)
    yield vector("log: in leaf 0, which then names no key that signs it", "signature", to_document(first, first.seal()))


def wrong_statement_rotations() -> Iterator[Vector]:
    """Yield rotations of the statement key that contradict what the ledger stated, or that the new key did not sign."""
    old, new = DAEMONS[:2]

    def made_with(message: Any, *, by: Any = None, then: Any = None) -> tuple[Rotated, int]:
        made = Rotated().begin()
        made.state(message(made.size), key=by)
        made.ask(key=then or new)
        return made, made.seal()

    for name, want, message in (
        ("nothing", "ok", lambda n: rotation(STATEMENT, old, new, n + 1)),
        ("by the old key alone", "signature", lambda n: rotation(STATEMENT, old, new, n + 1, signer=old)),
        ("over another origin", "signature", lambda n: rotation(STATEMENT, old, new, n + 1, origin="x.example/y")),
        ("signature missing", "signature", lambda n: {**rotation(STATEMENT, old, new, n + 1), "new_signature": b""}),
        ("old key of a stranger", "proof", lambda n: rotation(STATEMENT, STRANGER, new, n + 1)),
        ("old key is the log key", "proof", lambda n: rotation(STATEMENT, OLD, new, n + 1)),
        ("same key", "proof", lambda n: rotation(STATEMENT, old, old, n + 1)),
        ("new key is the log key", "proof", lambda n: rotation(STATEMENT, old, OLD, n + 1)),
        ("from_size 0", "proof", lambda n: rotation(STATEMENT, old, new, 0)),
        ("from_size 1", "proof", lambda n: rotation(STATEMENT, old, new, 1)),
        ("from_size after the tree", "proof", lambda n: rotation(STATEMENT, old, new, n + 3)),
        ("from_size 2^64 - 1", "proof", lambda n: rotation(STATEMENT, old, new, (1 << 64) - 1)),
    ):  # fmt: skip
        made, size = made_with(message, then={"same key": old, "new key is the log key": OLD}.get(name, new))
        yield vector(f"statement: {name}", want, to_document(made, size))
    for name, shift in (("of the entry itself", 0), ("after the next entry", 2)):
        made, size = made_with(lambda n, shift=shift: rotation(STATEMENT, old, new, n + shift))
        yield vector(f"statement: from_size {name}, no index is shown", "ok", to_document(made, size))
        want = "signature" if shift else "ok"
        after = Scope(first=size - 2, last=size - 1)
        yield vector(f"statement: from_size {name}, an index is shown", want, to_document(made, size, scope=after))
    for name, by in (("by the new key", new), ("by a stranger", STRANGER), ("by a participant", BANK)):
        made, size = made_with(lambda n: rotation(STATEMENT, old, new, n + 1), by=by)
        yield vector(f"statement: signed {name}", "signature", to_document(made, size))
    made, size = one_statement()
    made.state(rotation(STATEMENT, new, old, made.size + 1))
    yield vector("statement: a key that was used before", "proof", to_document(made, made.seal()))
    made, size = one_statement()
    made.state(rotation(STATEMENT, old, DAEMONS[2], made.size + 1))
    yield vector("statement: a key that was replaced before", "proof", to_document(made, made.seal()))
    made, size = one_statement()
    key = st.LedgerStatement(origin=ORIGIN, statement_key=DAEMONS[2].public_key)
    made.forge.add(EntryKind.LEDGER, codec.LEDGER_TAG, key, key=new)
    yield vector("statement: a key stated without a rotation", "proof", to_document(made, made.seal()))
    made, size = one_statement()
    made.forge.add(EntryKind.KEY, codec.LEDGER_TAG, st.KeyStatement(key=new.public_key, retired=True), key=new)
    yield vector("statement: the new key retired later", "ok", to_document(made, made.seal()))
    made = Rotated().begin()
    made.forge.add(EntryKind.LEDGER, codec.LEDGER_TAG, st.LedgerStatement(
        origin=ORIGIN, statement_key=DAEMONS[2].public_key,
    ))  # fmt: skip
    made.state(rotation(STATEMENT, old, new, made.size + 1), key=DAEMONS[2])
    yield vector("statement: signed by another key in force", "proof", to_document(made, made.seal()))


def wrong_signers() -> Iterator[Vector]:
    """Yield statements by a statement key on the wrong side of its rotation."""
    old, new = DAEMONS[:2]
    made, _ = one_statement()
    made.ask(key=old)
    yield vector("signer: the old key afterwards", "signature", to_document(made, made.seal()))
    before = Rotated().begin()
    before.ask(key=new)
    before.rotate_statement()
    yield vector("signer: the new key before", "signature", to_document(before, before.seal()))
    same = Rotated().begin()
    same.rotate_statement()
    index = same.ask(key=old, time_ms=same.forge.time_ms)
    same.ask()
    size = same.seal()
    yield vector("signer: the old key in that millisecond, no index is shown", "ok", to_document(same, size))
    one = Scope(first=index, last=index)
    yield vector("signer: the old key in that millisecond, an index is shown", "signature",
                 to_document(same, size, scope=one))  # fmt: skip
    early = Rotated().begin()
    index = early.ask(key=new)
    early.state(rotation(STATEMENT, old, new, early.size + 1))
    early.daemon = 1
    yield vector("signer: the new key before, an index is shown", "signature",
                 to_document(early, early.seal(), scope=Scope(first=index, last=index)))  # fmt: skip
    made, step, _ = one_log()
    made.ask(key=LOGS[1].key)
    yield vector("signer: the log key", "signature", to_document(made, made.seal(), step))


def later_versions() -> Iterator[Vector]:
    """Yield rotations that this version does not understand: the verdict is undetermined, and nothing follows."""
    for role in (0, 3, 9, 1 << 31, (1 << 32) - 1):
        made = Rotated().begin()
        one = rotation(STATEMENT, DAEMONS[0], DAEMONS[1], made.size + 1)
        role_value = role - (1 << 32) if role >= 1 << 31 else role
        made.state({**one, "role": role_value})
        known = made.fork()
        known.ask()
        yield vector(f"of role {role}", "undetermined", to_document(known, known.seal()))
        made.ask(key=DAEMONS[1])
        yield vector(f"of role {role}, and its key signs", "unknown_key", to_document(made, made.seal()))
    made = Rotated().begin()
    message = st.LedgerStatement(
        origin=ORIGIN, rotation=st.Rotation(**rotation(STATEMENT, DAEMONS[0], DAEMONS[1], made.size + 1))
    )
    message.rotation.MergeFromString(b"\x78\x01")
    made.forge.add(EntryKind.LEDGER, codec.LEDGER_TAG, message)
    made.ask()
    yield vector("with a field that is not known", "undetermined", to_document(made, made.seal()))


def witnessed() -> Iterator[Vector]:
    """Yield evidence under a policy: every checkpoint that is followed needs the quorum."""
    policy = b64(POLICY)
    yield vector("under a policy", "ok", whole(), policy=policy)
    one = told()
    for at, size in enumerate((*one.steps, one.last)):
        bare = one.ledger.fork()
        opened = note.parse_note(bare.notes[size])
        bare.notes[size] = note.format_note(opened.text, opened.unverified[:1])
        document = to_document(bare, one.last, *one.steps)
        yield vector(f"no quorum at {at}", "signature", document, policy=policy)
        yield vector(f"no quorum at {at}, and nobody asks", "ok", document)
        if at < 2:
            yield vector(f"no quorum at {at}, before the pin", "ok", document, log=at + 1, policy=policy)


def wrong_forms() -> Iterator[Vector]:
    """Yield rotations that have not their form."""
    document = whole()
    for value in (None, {}, "", 0, [None], [[]], [{}]):
        yield vector(f"rotations written {value!r}", "malformed", {**document, "rotations": value})
    yield vector("rotations missing", "malformed", without(document, ("rotations",)))
    for name in ("checkpoint", "seal", "seal_inclusion", "history", "consistency"):
        place = ("rotations", 0, name)
        yield vector(f"rotation without {name}", "malformed", without(document, place))
        for value in (None, 1, {"x": 1}, "="):
            yield vector(f"rotation with {name} {value!r}", "malformed", set_at(document, place, value))
    more = {**document["rotations"][0], "policy": ""}
    yield vector("rotation with a name more", "malformed", set_at(document, ("rotations", 0), more))
    for name in ("seal_inclusion", "consistency"):
        many = [b64(bytes(32))] * 65
        yield vector(f"rotation with 65 hashes in {name}", "malformed", set_at(document, ("rotations", 1, name), many))
    for log in range(3):
        bad = set_at(document, ("rotations", 0, "checkpoint"), b64(b"no note\n"))
        yield vector(f"rotation whose checkpoint is no note, pin {log}", "malformed", bad, log=log)
    moved = note.parse_note(told().ledger.notes[told().steps[0]])
    other = note.format_note(moved.text.replace(ORIGIN, "ledger.example/x"), moved.unverified)
    bad = set_at(document, ("rotations", 0, "checkpoint"), b64(other))
    yield vector("rotation whose checkpoint is of another origin", "proof", bad)
    wrong = note.format_note(moved.text, [replace(moved.unverified[0], signature=bytes(64))])
    bad = set_at(document, ("rotations", 0, "checkpoint"), b64(wrong))
    yield vector("rotation whose checkpoint has a wrong signature", "signature", bad)
