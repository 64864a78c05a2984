"""Histories: what the ledger proves is accepted, and whatever was done to a proof on its way is not."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cases.histories import BANK, CHAINS, CITIZEN, OTHER, changes_of, live, verify, with_chain, with_entry
from cases.ledgers import DAEMON, LOG, ORIGIN, LedgerCase, check_ledger, flip
from cases.vectors_case import verdict
from cases.vectors_pruned import nameless
from cases.writes import Raw
from consentd.core import checkpoint, codec, note, patricia
from consentd.core.history import (
    ChainProof,
    HeldChain,
    HistoryEntry,
    HistoryProof,
    SealedCheckpoint,
    VerifiedEntry,
    verify_chain,
    verify_sealed_checkpoint,
)
from consentd.core.key_validity import KeyValidity, verify_authors
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import MalformedError, ProofError, VerificationError
from consentd.ledger import reads


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerCase]:
    made = LedgerCase(tmp_path_factory.mktemp("history"))
    made.write(made.key("bank", BANK.public_key))
    live(made, made.enrol("somebody", CITIZEN))
    live(made, made.enrol("somebody else", OTHER))
    made.seal()
    made.fill(4)
    yield made
    made.close()


# -- what holds -----------------------------------------------------------------------------------------------


def test_a_whole_history_is_proven(case: LedgerCase) -> None:
    person = case.people[0]
    chains = verify(case.history(person.tag, *CHAINS), person.tag)
    kinds = [entry.event.kind for entry in chains[0]]
    assert kinds[:4] == [EntryKind.ENROL, EntryKind.KEY, EntryKind.GRANT, EntryKind.ACCESS]
    assert kinds[-2:] == [EntryKind.REVOKE, EntryKind.REFUSAL]
    assert [entry.event.seq for entry in chains[0]] == list(range(1, 13))
    assert chains[0][2].statement is not None
    assert chains[0][2].statement.key == CITIZEN.public_key
    check_ledger(case)


def test_every_chain_of_the_ledger_is_proven(case: LedgerCase) -> None:
    for chain in [person.tag for person in case.people] + ["ledger", "rules/realm", "participant/hospital"]:
        tag = codec.public_tag(chain) if isinstance(chain, str) else chain
        assert verify(case.history(chain, *CHAINS), tag)[0]
    check_ledger(case)


def test_an_absent_chain_is_proven_absent(case: LedgerCase) -> None:
    proof = case.history(b"\x77" * 32)
    assert verify(proof, b"\x77" * 32) == [()]
    with pytest.raises(VerificationError):
        verify(with_chain(proof, tag=case.people[0].tag), case.people[0].tag)
    check_ledger(case)


def test_only_news_is_sent_to_who_holds_the_rest(case: LedgerCase) -> None:
    person = case.people[1]
    whole = case.history(person.tag, *CHAINS)
    held, _ = checkpoint.open_checkpoint(case.notes[1], ORIGIN, LOG.verifier)
    first = verify(whole, person.tag)[0][:5]
    changes = tuple(changes_of(whole.chains[0], first))
    chain = HeldChain(5, codec.chain_hash(whole.chains[0].entries[4].leaf))
    news = case.history(person.tag, *CHAINS, held=held, known=5)
    chains = verify(news, person.tag, held=held, held_chain=chain, changes=changes)
    assert [entry.event.seq for entry in chains[0]] == list(range(6, 13))

    for wrong in (
        HeldChain(5, bytes(32)), HeldChain(4, chain.head), HeldChain(6, chain.head), HeldChain(13, chain.head),
        HeldChain(0, b""), replace(chain, erased=True), None,
    ):
        with pytest.raises(ProofError):
            verify(news, person.tag, held=held, held_chain=wrong, changes=changes)
    check_ledger(case)


def test_nothing_new_is_proven_too(case: LedgerCase) -> None:
    person = case.people[0]
    whole = case.history(person.tag)
    head = whole.chains[0].head
    nothing = case.history(person.tag, known=12)
    sealed = verify_sealed_checkpoint(nothing, origin=ORIGIN, log_verifier=LOG.verifier, held=None)
    assert verify_chain(nothing.chains[0], sealed=sealed, held=HeldChain(12, head)) == ()
    with pytest.raises(ProofError):
        verify_chain(nothing.chains[0], sealed=sealed, held=HeldChain(12, bytes(32)))
    check_ledger(case)


def test_an_erased_history_is_proven_without_its_statements(own: LedgerCase) -> None:
    person = own.enrol("somebody")
    own.write(own.grant(person))
    own.write(own.access(person))
    own.erase(person)
    own.seal()
    proof = own.history(person.tag, *CHAINS)
    entries = verify(proof, person.tag)[0]
    assert [entry.statement is None for entry in entries] == [True, True, True, False]
    assert entries[-1].event.kind == EntryKind.ERASURE
    with pytest.raises(ProofError, match="opening is missing"):
        verify(with_entry(proof, 0, 3, opening=None), person.tag)


def test_a_constant_part_of_two_kilobytes(case: LedgerCase) -> None:
    proof = case.history(case.people[0].tag)
    chain = proof.chains[0]
    assert len(proof.checkpoint + proof.seal + chain.map_proof + b"".join(proof.seal_inclusion)) < 2048


# -- what does not: mutations ---------------------------------------------------------------------------------

Mutant = tuple[str, HistoryProof]


def altered(rng: random.Random, field: bytes, step: int = 1) -> Iterator[bytes]:
    """Flip one bit of every byte, or of every *step*-th; then a byte less, and a byte more."""
    for at in range(rng.randrange(step), len(field), step):
        yield flip(at, 1 << rng.randrange(8))(field)
    yield from (field[:-1], field[1:], field + b"\0", b"\0" + field)


def altered_hashes(rng: random.Random, hashes: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    for at, h in enumerate(hashes):
        for other in altered(rng, h):
            yield (*hashes[:at], other, *hashes[at + 1 :])
        yield hashes[:at] + hashes[at + 1 :]
        yield (*hashes[:at], h, *hashes[at:])
    yield (*hashes, bytes(32))
    for at in range(len(hashes) - 1):
        yield (*hashes[:at], hashes[at + 1], hashes[at], *hashes[at + 2 :])


def mutants_of_entries(rng: random.Random, proof: HistoryProof, location: int) -> Iterator[Mutant]:
    chain = proof.chains[location]
    entries = chain.entries
    for at, entry in enumerate(entries):
        for leaf in altered(rng, entry.leaf):
            yield "alter leaf", with_entry(proof, location, at, leaf=leaf)
        assert entry.opening is not None
        salt, made = entry.opening
        for other in altered(rng, salt, 4):
            yield "alter salt", with_entry(proof, location, at, opening=(other, made))
        for other in altered(rng, made, 7):
            yield "alter statement", with_entry(proof, location, at, opening=(salt, other))
        yield "shift salt", with_entry(proof, location, at, opening=(salt[:-1], salt[-1:] + made))
        yield "shift salt", with_entry(proof, location, at, opening=(salt + made[:1], made[1:]))
        yield "tombstone", with_entry(proof, location, at, opening=None)
        for count in (chain.count, chain.count - 1):
            yield "drop", with_chain(proof, location, entries=entries[:at] + entries[at + 1 :], count=count)
        for count in (chain.count, chain.count + 1):
            yield "repeat", with_chain(proof, location, entries=(*entries[:at], entry, *entries[at:]), count=count)
        for count in (chain.count, at):
            yield "truncate", with_chain(proof, location, entries=entries[:at], count=count)
            yield "truncate front", with_chain(proof, location, entries=entries[at + 1 :], first_seq=at + 2)
        for other_at in range(at + 1, len(entries)):
            order = list(entries)
            order[at], order[other_at] = order[other_at], order[at]
            yield "reorder", with_chain(proof, location, entries=tuple(order))
            openings = with_entry(proof, location, at, opening=entries[other_at].opening)
            yield "swap openings", with_entry(openings, location, other_at, opening=entry.opening)


def mutants_of_heads(rng: random.Random, proof: HistoryProof, location: int) -> Iterator[Mutant]:
    chain = proof.chains[location]
    for name in ("tag", "head", "map_proof"):
        for field in altered(rng, getattr(chain, name)):
            yield f"alter {name}", with_chain(proof, location, **{name: field})
    for count in (0, chain.count - 1, chain.count + 1, 1 << 62, 1 << 64, -1):
        yield "alter count", with_chain(proof, location, count=count)
    for first in (0, 2, chain.count + 1, -1, 1 << 64):
        yield "alter first_seq", with_chain(proof, location, first_seq=first)
    for public_name in ("ledger", "participant/hospital", "participant/bank\0", "é", "\ud800", "x" * 10_000):
        if public_name != chain.public_name:
            yield "alter name", with_chain(proof, location, public_name=public_name)
    if chain.public_name:
        # A name left out only hides what chain it is; its keys then count as a person's, and sign nothing else.
        yield "no entries", with_chain(proof, location, count=0, head=b"", entries=())
    yield "absent", with_chain(proof, location, count=0, head=b"", entries=(), map_proof=b"")


def mutants(case: LedgerCase, proof: HistoryProof, held: checkpoint.Checkpoint) -> Iterator[Mutant]:
    rng = random.Random(7)
    for location in range(len(proof.chains)):
        yield from mutants_of_entries(rng, proof, location)
        yield from mutants_of_heads(rng, proof, location)
    for field in altered(rng, proof.seal):
        yield "alter seal", replace(proof, seal=field)
    for field in altered(rng, proof.checkpoint):
        yield "alter checkpoint", replace(proof, checkpoint=field)
    for hashes in altered_hashes(rng, proof.seal_inclusion):
        yield "alter inclusion", replace(proof, seal_inclusion=hashes)
    for hashes in altered_hashes(rng, proof.consistency):
        yield "alter consistency", replace(proof, consistency=hashes)
    yield "no consistency", replace(proof, consistency=())
    yield "no chains", replace(proof, chains=())
    for order in itertools.permutations(proof.chains):
        if order[0] != proof.chains[0]:
            yield "swap chains", replace(proof, chains=order)
    for location in (1, 2):
        yield "author's chain left out", replace(proof, chains=proof.chains[:location] + proof.chains[location + 1 :])
    yield from foreign(case, proof)
    yield from other_checkpoints(case, proof)


def foreign(case: LedgerCase, proof: HistoryProof) -> Iterator[Mutant]:
    """Give the entries of another person, whole and in parts."""
    ours = proof.chains[0]
    for person in case.people[1:]:
        theirs = case.history(person.tag).chains[0]
        yield "swap chains", with_chain(proof, **{name: getattr(theirs, name) for name in ChainProof.__slots__})
        yield "swap entries", with_chain(proof, entries=theirs.entries)
        yield "swap head", with_chain(proof, head=theirs.head, count=theirs.count, map_proof=theirs.map_proof)
        for at in range(min(len(ours.entries), len(theirs.entries))):
            entries = (*ours.entries[:at], theirs.entries[at], *ours.entries[at + 1 :])
            yield "swap an entry", with_chain(proof, entries=entries)


def other_checkpoints(case: LedgerCase, proof: HistoryProof) -> Iterator[Mutant]:
    """Put the proof under other checkpoints: older ones, of another size, root, origin or key."""
    point, _ = checkpoint.open_checkpoint(proof.checkpoint, ORIGIN, LOG.verifier)
    for text in case.notes[:-1]:
        yield "older checkpoint", replace(proof, checkpoint=text)
    for size in (0, 1, 2, point.size - 1, point.size + 1, 2 * point.size):
        if size:
            wrong = replace(point, size=size)
            yield "wrong size", replace(proof, checkpoint=checkpoint.sign_checkpoint(wrong, [LOG]))
    for root in (bytes(32), flip(3)(point.root)):
        wrong = replace(point, root=root)
        yield "wrong root", replace(proof, checkpoint=checkpoint.sign_checkpoint(wrong, [LOG]))
    wrong = replace(point, origin="ledger.example/other")
    yield "wrong origin", replace(proof, checkpoint=checkpoint.sign_checkpoint(wrong, [LOG]))
    for signer in (note.Signer(ORIGIN, BANK), note.Signer("ledger.example/other", LOG.key)):
        yield "wrong signer", replace(proof, checkpoint=checkpoint.sign_checkpoint(point, [signer]))


def test_every_mutation_is_rejected(case: LedgerCase) -> None:
    person = case.people[0]
    held, _ = checkpoint.open_checkpoint(case.notes[0], ORIGIN, LOG.verifier)
    proof = case.history(person.tag, *CHAINS, held=held)
    verify(proof, person.tag, held=held)
    rejected: dict[str, int] = {}
    for name, mutant in mutants(case, proof, held):
        assert mutant != proof, name
        try:
            verify(mutant, person.tag, held=held)
        except VerificationError:
            rejected[name] = rejected.get(name, 0) + 1
        else:
            pytest.fail(f"accepted: {name}")
    assert sum(rejected.values()) >= 2_000, rejected
    assert len(rejected) >= 25, rejected
    check_ledger(case)


def test_a_stale_head_is_rejected(own: LedgerCase) -> None:
    person = own.enrol("somebody")
    own.write(own.grant(person))
    old_point = own.seal()
    old = own.history(person.tag, *CHAINS)
    verify(old, person.tag)
    own.write(own.access(person))
    point = own.seal()
    new = own.history(person.tag, *CHAINS)
    verify(new, person.tag)
    # The whole old proof is a good proof, but not for one who holds a newer checkpoint.
    with pytest.raises(ProofError):
        verify(old, person.tag, held=point)
    with pytest.raises(ProofError):
        verify(replace(new, chains=old.chains), person.tag)
    for name in ("seal", "seal_inclusion", "checkpoint"):
        with pytest.raises(VerificationError):
            verify(replace(new, **{name: getattr(old, name)}), person.tag)
    # An older seal is in the newer tree too, but it is not its last leaf.
    index = old_point.size - 1
    inclusion = tuple(reads.prove_inclusion(own.store, index, point.size))
    with pytest.raises(ProofError, match="seal"):
        verify(replace(new, seal=old.seal, seal_inclusion=inclusion, chains=old.chains), person.tag)
    # An event in the seal's place.
    with pytest.raises(ProofError, match="seal"):
        verify(replace(new, seal=new.chains[0].entries[-1].leaf), person.tag)


def test_a_forked_map_is_rejected(own: LedgerCase, tmp_path: Path) -> None:
    """A log that shows one person less than it sealed for everybody else needs another tree."""
    person = own.enrol("somebody")
    own.write(own.grant(person))
    own.seal()
    honest = own.history(person.tag, *CHAINS)
    fork = LedgerCase(tmp_path / "fork")
    other = fork.enrol("somebody")
    assert other.tag == person.tag
    fork.write(fork.access(other))
    fork.seal()
    forged = fork.history(person.tag, *CHAINS)
    verify(forged, person.tag)
    held, _ = checkpoint.open_checkpoint(honest.checkpoint, ORIGIN, LOG.verifier)
    with pytest.raises(ProofError):
        verify(forged, person.tag, held=held)
    for name in ("seal", "seal_inclusion", "chains"):
        with pytest.raises(ProofError):
            verify(replace(honest, **{name: getattr(forged, name)}), person.tag)
    check_ledger(fork)
    fork.close()


def test_nothing_follows_an_erasure(own: LedgerCase) -> None:
    tag = b"\x55" * 32
    own.write(Raw(kind=EntryKind.SERVED, tag=tag))
    own.write(Raw(kind=EntryKind.ERASURE, tag=tag))
    own.seal()
    verify(own.history(tag, *CHAINS), tag)
    # The sequencer's rules forbid it; here the chain is made by hand.
    leaf = own.history(tag).chains[0].entries[-1].leaf
    entries = [*own.history(tag).chains[0].entries]
    event = codec.decode_leaf(leaf)
    assert isinstance(event, codec.Event)
    after = codec.encode_event(replace(event, seq=3, prev=codec.chain_hash(leaf), kind=EntryKind.SERVED))
    assert entries[-1].opening is not None
    forged_chain, forged_seal = chain_under_seal(tag, [*entries, HistoryEntry(after, entries[-1].opening)])
    with pytest.raises(ProofError, match="follows an ERASURE"):
        verify_chain(forged_chain, sealed=forged_seal)


def test_a_public_chain_without_its_name_is_refused() -> None:
    """Otherwise it counts as a person's chain, and its first entries may be missing once the ledger has pruned."""
    for vector in nameless():
        assert (vector.name, verdict(vector)) == (vector.name, vector.want)


def chain_under_seal(tag: bytes, entries: list[HistoryEntry]) -> tuple[ChainProof, SealedCheckpoint]:
    """Return a chain that its map has as it is, whatever it is, and the sealed checkpoint for it."""
    count, head = len(entries), codec.chain_hash(entries[-1].leaf)
    root = patricia.leaf_hash(codec.map_key(tag), codec.map_value(tag, count, head))
    seal = codec.Seal(1 << 62, 99, root, 1, bytes(32))
    chain = ChainProof(
        tag=tag, public_name="", count=count, head=head, map_proof=b"", first_seq=1, entries=tuple(entries)
    )
    return chain, SealedCheckpoint(checkpoint.Checkpoint(ORIGIN, 100, bytes(32)), seal)


def test_what_only_a_bad_log_can_make_is_rejected() -> None:
    """Chains that the map commits to, and that break the rule all the same."""
    tag = b"\x55" * 32

    def entry(seq: int, prev: bytes, time_ms: int = 5, kind: int = 8, made: bytes = bytes(121)) -> HistoryEntry:
        made = b"\1" + made[1:]
        event = codec.Event(kind, time_ms, tag, seq, prev, codec.commit(bytes(32), made), 0)
        return HistoryEntry(codec.encode_event(event), (bytes(32), made))

    first = entry(1, bytes(32))
    good = entry(2, codec.chain_hash(first.leaf))
    chain, sealed = chain_under_seal(tag, [first, good])
    assert len(verify_chain(chain, sealed=sealed)) == 2
    for bad in (
        entry(2, codec.chain_hash(good.leaf)),
        entry(3, codec.chain_hash(first.leaf)),
        entry(2, codec.chain_hash(first.leaf), time_ms=4),
        entry(2, codec.chain_hash(first.leaf), time_ms=(1 << 62) + 1),
        entry(2, codec.chain_hash(first.leaf), made=b""),
        entry(2, codec.chain_hash(first.leaf), made=bytes(121 + codec.MAX_PAYLOAD + 1)),
        HistoryEntry(codec.encode_seal(codec.Seal(5, 2, bytes(32), 1, bytes(32))), None),
        replace(good, opening=None),
    ):
        chain, sealed = chain_under_seal(tag, [first, bad])
        with pytest.raises((ProofError, MalformedError)):
            verify_chain(chain, sealed=sealed)


# -- any bytes at all -----------------------------------------------------------------------------------------

BYTES = st.one_of(st.binary(max_size=200), st.binary(min_size=32, max_size=32))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_mutations_are_rejected(case: LedgerCase, data: st.DataObject) -> None:
    person = case.people[1]
    held, _ = checkpoint.open_checkpoint(case.notes[2], ORIGIN, LOG.verifier)
    proof = case.history(person.tag, *CHAINS, held=held)

    def mutated(field: bytes) -> bytes:
        at = data.draw(st.integers(0, len(field)))
        return field[:at] + data.draw(BYTES) + field[data.draw(st.integers(at, len(field))) :]

    name = data.draw(st.sampled_from(["checkpoint", "seal", "seal_inclusion", "consistency", "chain", "entry"]))
    location = data.draw(st.integers(0, len(proof.chains) - 1))
    chain = proof.chains[location]
    if name in ("checkpoint", "seal"):
        mutant = replace(proof, **{name: mutated(getattr(proof, name))})
    elif name in ("seal_inclusion", "consistency"):
        hashes = list(getattr(proof, name))
        at = data.draw(st.integers(0, len(hashes) - 1))
        hashes[at : at + 1] = [mutated(hashes[at])] * data.draw(st.integers(0, 2))
        mutant = replace(proof, **{name: tuple(hashes)})
    elif name == "chain":
        field = data.draw(st.sampled_from(["tag", "head", "map_proof"]))
        mutant = with_chain(proof, location, **{field: mutated(getattr(chain, field))})
    else:
        at = data.draw(st.integers(0, len(chain.entries) - 1))
        entry = chain.entries[at]
        assert entry.opening is not None
        salt, made = entry.opening
        change: dict[str, Any] = data.draw(
            st.sampled_from(
                [{"leaf": mutated(entry.leaf)}, {"opening": (mutated(salt), made)}, {"opening": (salt, mutated(made))}]
            )
        )
        mutant = with_entry(proof, location, at, **change)
    if mutant != proof:
        with pytest.raises(VerificationError):
            verify(mutant, person.tag, held=held)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_raise_nothing_else(data: st.DataObject) -> None:
    opening = st.none() | st.tuples(BYTES, BYTES)
    numbers = st.integers(-1, 1 << 65)
    entry = st.builds(HistoryEntry, BYTES, opening)
    chain = data.draw(
        st.builds(
            ChainProof, tag=BYTES, public_name=st.text(max_size=20), count=numbers | st.integers(0, 3), head=BYTES,
            map_proof=BYTES, first_seq=numbers, entries=st.lists(entry, max_size=3).map(tuple),
        )
    )
    hashes = st.lists(BYTES, max_size=3).map(tuple)
    proof = data.draw(
        st.builds(
            HistoryProof, checkpoint=BYTES, consistency=hashes, seal=BYTES, seal_inclusion=hashes,
            chains=st.just((chain,)),
        )
    )
    with pytest.raises(VerificationError):
        verify_sealed_checkpoint(proof, origin=ORIGIN, log_verifier=LOG.verifier, held=None)
    sealed = SealedCheckpoint(checkpoint.Checkpoint(ORIGIN, 9, bytes(32)), codec.Seal(5, 8, bytes(32), 3, bytes(32)))
    with pytest.raises(VerificationError):
        verify_chain(chain, sealed=sealed, held=data.draw(st.none() | st.builds(HeldChain, numbers, BYTES)))
    event = codec.Event(data.draw(st.integers(1, 254)), 5, bytes(32), 1, bytes(32), bytes(32), 0)
    key = data.draw(BYTES)
    made = codec.Statement(key, data.draw(BYTES), bytes(16), 5, data.draw(BYTES))
    keys = {key: [KeyValidity(owner, 0, 9) for owner in Owner]} if data.draw(st.booleans()) else {}
    with pytest.raises(VerificationError):
        verify_authors([VerifiedEntry(event, made)], origin=ORIGIN, keys=keys)


def test_the_daemons_key_is_in_the_ledgers_first_entry(case: LedgerCase) -> None:
    entry = verify(case.history("ledger"), codec.public_tag("ledger"))[0][0]
    assert entry.statement is not None
    assert entry.statement.key == DAEMON.public_key
    check_ledger(case)
