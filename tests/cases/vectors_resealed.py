"""Evidence of a ledger that signs what is wrong: a seal with a bit changed, a rule broken, the tree made to fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cases.audits import DAEMON, LOG, ORIGIN, Forge
from cases.ledgers import flip
from cases.vectors_case import BANK, STRANGER, Document, Vector, b64, evidence_vector
from cases.vectors_seals import seal_verdict
from consentd.core import bucketed, checkpoint, codec, ed25519, merkle, note, tiles
from consentd.core.evidence import FORMAT
from consentd.core.kinds import EntryKind
from consentd.v1 import statement_pb2 as st

PINS = {"origin": ORIGIN, "log_key": note.format_vkey(LOG.verifier)}


def vector(name: str, want: str, document: Any, **under: Any) -> Vector:
    """Return a vector of evidence of the ledger that ``cases.audits`` makes."""
    return evidence_vector(name, want, document, **{**PINS, **under})


@dataclass(frozen=True, slots=True)
class Grown:
    """A tree of leaves, right or wrong, signed by the log."""

    leaves: list[bytes]

    def under(self, document: Document) -> Document:
        """Return evidence in which all is proven under this tree, whatever its leaves say."""
        edge, stored = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.leaves])
        size = len(self.leaves)

        def inclusion(index: int) -> list[str]:
            return [b64(one) for one in tiles.prove_inclusion(index, size, stored)]

        signed = checkpoint.sign_checkpoint(checkpoint.Checkpoint(ORIGIN, size, edge.root()), [LOG])
        return {
            "format": FORMAT, "consistency": [], "rotations": [], "keys": [], "policy": "", **document,
            "checkpoint": b64(signed),
            "seal": b64(self.leaves[-1]),
            "seal_inclusion": inclusion(size - 1),
            "entries": [
                {**one, "leaf": b64(self.leaves[one["index"]]), "inclusion": inclusion(one["index"])}
                for one in document["entries"]
            ],
        }  # fmt: skip


def resealed(leaves: list[bytes], files: Mapping[str, Document]) -> Iterator[Vector]:
    """Yield evidence whose last seal, or one between, has a bit changed, the tree made to fit and signed by the log."""
    latest_ms = int.from_bytes(leaves[-2][2:10])
    for name in ("range", "person"):
        parts = files[name]
        yield vector(f"{name} signed anew", "ok", Grown(leaves).under(parts))
        for at in range(90):
            flipped = flip(at, 1 << at % 8)(leaves[-1])
            want = seal_verdict(at, flipped, latest_ms)
            content = Grown([*leaves[:-1], flipped]).under(parts)
            # A time before the last entry may still be later than all that this file shows.
            is_open = want == "proof" and at < 10
            yield vector(f"seal of {name} with a bit of byte {at} changed", "any" if is_open else want, content)
        for size in (0, 1, 89, 91, 122):
            content = Grown([*leaves[:-1], leaves[-1][:size].ljust(size, b"\0")]).under(parts)
            yield vector(f"seal of {name} of {size} bytes", "malformed", content)
    parts = files["range"]
    sealed = next(one["index"] for one in parts["entries"] if codec.kind_of(leaves[one["index"]]) == 0)
    before_ms, after_ms = (int.from_bytes(leaves[index][2:10]) for index in (sealed - 1, sealed + 1))
    for at in range(90):
        flipped = flip(at, 1 << at % 8)(leaves[sealed])
        if at < 2:
            want = "malformed"
        elif at < 10:
            want = "ok" if before_ms <= int.from_bytes(flipped[2:10]) <= after_ms else "proof"
        else:
            want = "proof" if at < 18 else "ok"
        content = Grown([*leaves[:sealed], flipped, *leaves[sealed + 1 :]]).under(parts)
        yield vector(f"seal within range with a bit of byte {at} changed", want, content)


def forged_evidence() -> Iterator[Vector]:
    """Yield evidence of ledgers in which one rule is broken, and all that signs and commits fits."""
    bank, ledger, other = (codec.public_tag(name) for name in ("participant/bank", "ledger", "ledger/x"))
    nobody: Mapping[str, Any] = {"key": STRANGER}
    key = st.KeyStatement(key=STRANGER.public_key)
    later = key.SerializeToString() + b"\x78\x01"
    vkeys = [PINS["log_key"]]
    moved = st.LedgerStatement(origin="ledger.example/other", verifier_keys=vkeys, statement_key=DAEMON.public_key)
    second = st.LedgerStatement(origin=ORIGIN, verifier_keys=vkeys, statement_key=STRANGER.public_key)
    unread = second.SerializeToString() + b"\x78\x01"
    rules = Step(EntryKind.RULES, st.RulesStatement(realm_id="realm", version=2), codec.public_tag("rules/realm"))
    enrolment = st.EnrolStatement(identifier_hash=bytes(32), scheme="test")
    outcome, access = Step(EntryKind.OUTCOME), Step(EntryKind.ACCESS)
    gone = Step(EntryKind.KEY, st.KeyStatement(key=DAEMON.public_key, retired=True), ledger)
    named = Step(EntryKind.KEY, key, ledger)
    retired = Step(EntryKind.KEY, st.KeyStatement(key=BANK.public_key, retired=True), bank)
    for name, want, *steps in (
        ("a participant's statement", "ok", replace(outcome, key=BANK)),
        ("a participant's kind by the daemon", "ok", outcome),
        ("the daemon's kind by a participant", "signature", replace(access, key=BANK)),
        ("rules by the daemon", "ok", rules),
        ("rules by a participant", "signature", replace(rules, key=BANK)),
        ("rules by a key of nobody", "signature", replace(rules, **nobody)),
        ("an enrolment by a participant", "signature", Step(EntryKind.ENROL, enrolment, tag=bytes(32), key=BANK)),
        ("an enrolment by a key of nobody", "signature", Step(EntryKind.ENROL, enrolment, tag=bytes(32), **nobody)),
        ("a person's kind by a participant", "signature", Step(EntryKind.GRANT, key=BANK)),
        ("a grant by a key of nobody", "undetermined", Step(EntryKind.GRANT, **nobody)),
        ("a notice shown, by a participant", "ok", Step(EntryKind.SERVED, key=BANK)),
        ("a notice shown, by a key of nobody", "undetermined", Step(EntryKind.SERVED, **nobody)),
        ("a participant's kind by a key of nobody", "signature", replace(outcome, **nobody)),
        ("the daemon's kind by a key of nobody", "signature", replace(access, **nobody)),
        ("a kind not known by a key of nobody", "undetermined", Step(200, **nobody)),
        ("a key retired", "ok", retired),
        ("a key retired before", "signature", retired, replace(outcome, key=BANK)),
        ("a key that vouches for itself", "signature", Step(EntryKind.KEY, key, bank, **nobody)),
        ("a statement key retired by itself", "ok", gone),
        ("a statement key retired before", "signature", gone, access),
        ("a KEY that puts a key of the daemon in force", "ok", named),
        ("a statement key that a KEY named", "signature", named, replace(access, **nobody)),
        ("another origin named", "proof", Step(EntryKind.LEDGER, moved, ledger)),
        ("another statement key", "ok", Step(EntryKind.LEDGER, second, ledger), replace(access, **nobody)),
        ("another statement key with a field not known", "unknown_key",
         Step(EntryKind.LEDGER, unread, ledger), replace(access, **nobody)),
        ("a LEDGER entry with a field not known", "undetermined", Step(EntryKind.LEDGER, unread, ledger)),
        ("a LEDGER entry that is none", "undetermined", Step(EntryKind.LEDGER, b"\xff", ledger)),
        ("a LEDGER entry elsewhere", "signature", Step(EntryKind.LEDGER, second, other), replace(access, **nobody)),
        ("a KEY with a field not known", "undetermined", Step(EntryKind.KEY, later, bank)),
        ("a KEY that is none", "undetermined", Step(EntryKind.KEY, b"\xff", bank)),
        ("signed by a KEY with a field not known", "unknown_key",
         Step(EntryKind.KEY, later, bank), replace(outcome, **nobody)),
    ):  # fmt: skip
        yield forged(name, want, *steps)
    once = {"request_id": b"r" * 16}
    given = st.DelegationStatement(giver="bank", taker="app", capacity=st.DELEGATION_CAPACITY_RELAY)
    own, of_bank = Step(EntryKind.GRANT, **nobody, **once), replace(outcome, key=BANK, **once)
    elsewhere = replace(of_bank, kind=EntryKind.DELEGATION, tag=bank, message=given)
    for name, want, *steps in (
        ("a participant's statement twice", "proof", of_bank, of_bank),
        ("a participant's statement twice, one between", "proof", of_bank, access, of_bank),
        ("a participant's request_id in two chains", "ok", of_bank, elsewhere),
        ("a statement twice by the daemon", "ok", replace(outcome, **once), replace(outcome, **once)),
        ("a statement twice by a key of nobody", "proof", own, own),
        ("a request_id of two keys", "undetermined", own, of_bank),
    ):
        yield forged(name, want, *steps, shown=len(steps))
    attested = Step(EntryKind.GRANT, **once)
    yield forged("what may be the daemon's, twice", "undetermined", attested, attested, shown=2, with_ledger=False)


@dataclass(frozen=True, slots=True)
class Step:
    """An entry to forge; by default of a person, by the daemon."""

    kind: int
    message: Any = b""
    tag: bytes = b""
    key: ed25519.KeyPair = DAEMON
    request_id: bytes | None = None


def forged(name: str, want: str, *steps: Step, shown: int = 1, with_ledger: bool = True) -> Vector:
    """Return evidence of the last *shown* entries of a ledger, with all chains that have to do with keys."""
    forge = Forge(map_bits=4)
    forge.begin()
    person = forge.enrol(1)
    bank = codec.public_tag("participant/bank")
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key))
    for step in steps:
        forge.add(step.kind, step.tag or person, step.message, key=step.key, request_id=step.request_id)
    last = forge.size - 1
    forge.seal()
    elsewhere = codec.public_tag("ledger/x")
    chains = {"ledger/x": elsewhere} if elsewhere in forge.heads else {}
    if with_ledger:
        chains |= {"ledger": codec.public_tag("ledger"), "participant/bank": bank}
    top, buckets = forge._top, forge._buckets
    histories = []
    for public_name, tag in chains.items():
        _, proof = bucketed.prove(codec.map_key(tag), buckets[bucketed.bucket_of(codec.map_key(tag), 4)], top)
        count, head = forge.heads[tag]
        entries = [at for at, leaf in enumerate(forge.leaves) if leaf[1] and leaf[10:42] == tag]
        histories.append({
            "tag": b64(tag), "public_name": public_name, "count": count, "head": b64(head), "map_proof": b64(proof),
            "first_seq": 1, "entries": [_entry(forge, at) for at in entries],
        })  # fmt: skip
    return vector(f"forged evidence: {name}", want, Grown(forge.leaves).under({
        "scope": {"tag": b64(elsewhere)} if "ledger/x" in chains else {"first": last - shown + 1, "last": last},
        "histories": histories,
        "entries": [{"index": at, **_entry(forge, at), "inclusion": []} for at in range(last - shown + 1, last + 1)],
    }))  # fmt: skip


def _entry(forge: Forge, at: int) -> dict[str, Any]:
    opening = forge.openings[at]
    opened = None if opening is None else {"salt": b64(opening[:32]), "statement": b64(opening[32:])}
    return {"leaf": b64(forge.leaves[at]), "opening": opened}
