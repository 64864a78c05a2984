"""The ledger on its store: batches of entries, seals, reads and proofs."""

from pathlib import Path
from typing import Any

import pytest

from cases.ledgers import DAEMON, LOG, MAP_BITS, ORIGIN, START_MS, LedgerCase, check_files, check_ledger, flip
from cases.writes import Raw
from consentd.core import bucketed, checkpoint, codec, ed25519, merkle, patricia
from consentd.core.kinds import EntryKind
from consentd.errors import CorruptionError, InvalidError, NotFoundError
from consentd.ledger import layout, reads
from consentd.ledger.ledger import AppendBatch, Draft, State, decode_state, empty_state, encode_state
from consentd.ledger.recovery import open_ledger
from consentd.store import Store
from consentd.store.memory import MemoryStore
from consentd.v1 import statement_pb2 as st

# -- append batches -------------------------------------------------------------------------------------------------


def draft(tag: bytes = b"t" * 32, **changes: Any) -> Draft:
    values: dict[str, Any] = {"kind": 19, "tag": tag, "ref": 0, "commit": bytes(32), "stored": b"\0"}
    return Draft(**{**values, **changes})


def empty(store: Store, tmp_path: Path) -> Any:
    return open_ledger(
        store, last_signed_path=tmp_path / "lock", origin=ORIGIN, log_verifier=LOG.verifier, map_bits=MAP_BITS
    )


def test_a_batch_reads_its_own_entries(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    batch = AppendBatch(ledger, 5)
    first = batch.append(draft(request_key=b"r" * 32, content=b"c" * 32))
    second = batch.append(draft(kind=8, ref=1))
    assert (first.index, first.event.seq, second.index, second.event.seq) == (0, 1, 1, 2)
    assert second.event.prev == codec.chain_hash(first.leaf)
    assert second.leaf_hash == merkle.leaf_hash(second.leaf)
    assert batch.head(b"t" * 32) == (2, codec.chain_hash(second.leaf))
    assert batch.recorded(b"r" * 32) == (0, b"c" * 32)
    assert batch.recorded(b"s" * 32) is None
    assert (batch.kind_of(b"t" * 32, 2), batch.kind_of(b"t" * 32, 3)) == (8, None)
    assert ledger.head(b"t" * 32) == (0, bytes(32))
    assert ledger.store.get(layout.STATE) is None
    batch.close()
    ledger.commit(batch)
    assert ledger.head(b"t" * 32)[0] == 2
    later = AppendBatch(ledger, 5)
    assert later.recorded(b"r" * 32) == (0, b"c" * 32)
    assert later.kind_of(b"t" * 32, 2) == 8


def test_a_batch_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    ledger = empty(store, tmp_path)
    batch = AppendBatch(ledger, 5)
    batch.append(draft())
    batch.close()
    assert list(store.scan(b"", None)) == []
    assert ledger.state == empty_state(MAP_BITS)


def test_leaf_times_never_decrease_and_ref_is_earlier(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    batch = AppendBatch(ledger, 5)
    batch.append(draft())
    with pytest.raises(AssertionError, match="ref"):
        batch.append(draft(ref=2))
    batch.close()
    ledger.commit(batch)
    with pytest.raises(AssertionError, match="time"):
        AppendBatch(ledger, 4)


def test_seals_are_never_side_by_side(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    batch = AppendBatch(ledger, 5)
    assert not batch.is_seal_due()
    with pytest.raises(AssertionError):
        batch.seal()
    batch.append(draft())
    batch.seal()
    batch.close()
    ledger.commit(batch)
    assert ledger.state.sealed_size == 2
    again = AppendBatch(ledger, 6)
    assert not again.is_seal_due()
    with pytest.raises(AssertionError):
        again.seal()


def test_sealed_heads_are_those_of_the_last_seal(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    one, two = b"1" * 32, b"2" * 32
    batch = AppendBatch(ledger, 5)
    batch.append(draft(one))
    batch.seal()
    batch.close()
    ledger.commit(batch)
    head = ledger.head(one)
    for _ in range(2):
        batch = AppendBatch(ledger, 6)
        batch.append(draft(one))
        batch.append(draft(two))
        batch.close()
        ledger.commit(batch)
        assert ledger.sealed_head(one) == head
        assert ledger.sealed_head(two) == (0, bytes(32))
    heads = reads.prove_heads(ledger, [one, two, b"3" * 32])
    assert [heads.chains[tag][0] for tag in (one, two, b"3" * 32)] == [1, 0, 0]
    seal = codec.decode_leaf(heads.seal)
    assert isinstance(seal, codec.Seal)
    count, head, proof = heads.chains[one]
    patricia.verify_presence(seal.map_root, codec.map_key(one), codec.map_value(one, count, head), proof)
    patricia.verify_absence(seal.map_root, codec.map_key(two), heads.chains[two][2])
    batch = AppendBatch(ledger, 7)
    batch.seal()
    batch.close()
    ledger.commit(batch)
    assert ledger.sealed_head(two)[0] == 2


def test_old_request_rows_go_a_few_at_a_time(tmp_path: Path) -> None:
    store = MemoryStore()
    ledger = empty(store, tmp_path)
    batch = AppendBatch(ledger, 5)
    for number in range(100):
        batch.append(draft(request_key=bytes([number]) * 32, content=b"c" * 32))
    batch.close()
    ledger.commit(batch)

    def left() -> tuple[int, int]:
        return len(list(store.scan(b"q", b"r"))), len(list(store.scan(b"x", b"y")))

    for forget_before, expected in ((5, 100), (6, 36), (6, 0)):
        batch = AppendBatch(ledger, 10, expire_before_ms=forget_before)
        batch.append(draft())
        batch.close()
        ledger.commit(batch)
        assert left() == (expected, expected)


def test_a_state_row_is_read_strictly() -> None:
    state = State(3, b"r" * 32, 5, 2, b"m" * 32, 3, b"s" * 32, 4)
    assert decode_state(encode_state(state)) == state
    for row in (b"", encode_state(state)[:-1], encode_state(state) + b"\0", b"\1" + encode_state(state)[1:]):
        with pytest.raises(CorruptionError):
            decode_state(row)


def test_the_same_entries_make_the_same_bytes(tmp_path: Path) -> None:
    """What reaches ``append`` is all there is: a second ledger fed the same has the same rows."""
    stores = [MemoryStore(), MemoryStore()]
    for store in stores:
        ledger = empty(store, tmp_path)
        for at in range(20):
            batch = AppendBatch(ledger, START_MS + at)
            for number in range(at % 4):
                batch.append(draft(bytes([number * at % 7]) * 32, commit=bytes([at]) * 32))
            if at % 5 == 4 and batch.is_seal_due():
                batch.seal()
            batch.close()
            ledger.commit(batch)
    assert list(stores[0].scan(b"", None)) == list(stores[1].scan(b"", None))


# -- reads ----------------------------------------------------------------------------------------------------------


def test_reads_of_what_is_not_there(case: LedgerCase) -> None:
    store, size, tag = case.store, case.ledger.state.size, b"?" * 32
    for missing in (
        lambda: reads.read_leaf(store, size), lambda: reads.read_entry(store, tag, 1),
        lambda: reads.prove_heads(empty(MemoryStore(), case.directory / "none"), [tag]),
    ):
        with pytest.raises(NotFoundError):
            missing()
    for wrong in (
        lambda: reads.prove_inclusion(store, size, size), lambda: reads.prove_inclusion(store, -1, size),
        lambda: reads.prove_consistency(store, 0, size), lambda: reads.prove_consistency(store, 2, 1),
    ):
        with pytest.raises(InvalidError):
            wrong()
    with pytest.raises(CorruptionError):
        reads.read_leaves(store, 0, size + 1)
    assert list(reads.read_chain(store, tag, 1, 9)) == []


def test_a_chain_reads_forward_and_back(case: LedgerCase) -> None:
    (person,) = case.fill(1, accesses=7)
    count, _ = case.ledger.head(person.tag)
    forward = list(reads.read_chain(case.store, person.tag, 1, count))
    assert [entry.event.seq for entry in forward] == list(range(1, count + 1))
    assert list(reads.read_chain_back(case.store, person.tag, count, page=3)) == forward[::-1]
    for page in (1, 3, count - 1, count, count + 1):
        assert list(reads.read_chain(case.store, person.tag, 1, count, page)) == forward
        assert list(reads.read_chain(case.store, person.tag, 1, page=page)) == forward
        assert list(reads.read_chain(case.store, person.tag, 4, 6, page)) == forward[3:6]
    assert [reads.is_plaintext(entry) for entry in forward] == [False] * count
    assert all(reads.open_entry(case.vault, entry) for entry in forward)


def test_a_broken_chain_is_not_read_as_whole(case: LedgerCase) -> None:
    (person,) = case.fill(1)
    other = layout.index_key(codec.public_tag("ledger"), 1)
    key = layout.index_key(person.tag, 2)
    row = case.store.get(key)
    case.edit(key, lambda _: case.store.get(other) or b"")
    with pytest.raises(CorruptionError):
        list(reads.read_chain(case.store, person.tag, 1, 3))
    case.edit(key, None)
    for page in (1, 2, 3):  # at the end of a page, and within one
        with pytest.raises(CorruptionError):
            list(reads.read_chain(case.store, person.tag, 1, 3, page))
    case.restore(key, row)


def test_receipts_verify_offline(case: LedgerCase) -> None:
    case.fill(2)
    point, _ = checkpoint.open_checkpoint(case.notes[-1], ORIGIN, LOG.verifier)
    for index in range(point.size):
        bundle = reads.proof_bundle(case.store, index, point, case.notes[-1])
        leaf = reads.read_leaf(case.store, index)
        proven = checkpoint.verify_proof(
            bundle, leaf_hash=merkle.leaf_hash(leaf), origin=ORIGIN, log_verifier=LOG.verifier
        )
        assert proven == point


def test_an_altered_bucket_is_not_proven_from(case: LedgerCase) -> None:
    (person,) = case.fill(1)
    number = bucketed.bucket_of(codec.map_key(person.tag), MAP_BITS)
    key = layout.bucket_key(number)
    row = case.store.get(key) or b""
    for change in (flip(70), flip(0, 128), lambda row: row[:-1], lambda row: row + row):
        case.edit(key, change)
        with pytest.raises(CorruptionError):
            case.sequencer.call(lambda: reads.prove_heads(case.ledger, [person.tag]))
        case.restore(key, row)


# -- erasure and keys -----------------------------------------------------------------------------------------------


def test_an_erased_person_is_nobody(case: LedgerCase) -> None:
    """After an ERASURE no identifier leads to the tag, so no later entry can be written to its chain."""
    (person,) = case.fill(1)
    case.erase(person)
    count = case.ledger.head(person.tag)[0]
    with pytest.raises(NotFoundError):
        case.write(case.grant(person))
    assert case.write(case.access(person)).entry.event.tag != person.tag
    assert case.ledger.head(person.tag)[0] == count
    again = case.enrol("person 0")
    assert again.tag != person.tag
    case.seal()
    check_files(case)


def test_an_erasure_takes_the_persons_keys_out_of_the_table(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    keys = [ed25519.KeyPair(bytes((number,)) * 32) for number in (0x51, 0x52)]
    gone, other = (case.enrol(f"person {number}", key) for number, key in enumerate(keys))
    case.write(Raw(kind=EntryKind.ERASURE, tag=gone.tag))
    assert case.table is not None
    with case.table.read() as snapshot:
        assert snapshot.key_ever(keys[0].public_key) is None
        owner = snapshot.key_owner(keys[1].public_key)
        assert owner is not None
        assert owner.tag_or_name == other.tag
        assert snapshot.tag_of(gone.identifier_hash) is None
    case.close()


def test_the_table_holds_keys_to_the_rule_of_all_verifiers(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    assert case.table is not None
    own, bank, late = (ed25519.KeyPair(bytes((number,)) * 32).public_key for number in (0x51, 0x52, 0x53))
    person, other = case.enrol("one", ed25519.KeyPair(b"\x51" * 32)), case.enrol("other")
    case.write(case.participant("bank"))
    case.write(case.key("bank", bank))

    def state(tag: bytes, kind: EntryKind, message: Any) -> None:
        case.write(Raw(kind=kind, tag=tag, payload=message.SerializeToString(), message=message))

    def in_force() -> set[bytes]:
        assert case.table is not None
        with case.table.read() as snapshot:
            return {key for key in (own, bank, late, DAEMON.public_key) if snapshot.key_owner(key) is not None}

    whole = {own, bank, DAEMON.public_key}
    assert in_force() == whole
    for key in (own, bank, DAEMON.public_key):
        state(other.tag, EntryKind.KEY, st.KeyStatement(key=key, retired=True))
    state(codec.LEDGER_TAG, EntryKind.KEY, st.KeyStatement(key=late))
    assert in_force() == whole
    state(codec.LEDGER_TAG, EntryKind.LEDGER, st.LedgerStatement(statement_key=late))
    assert in_force() == {*whole, late}
    state(codec.LEDGER_TAG, EntryKind.KEY, st.KeyStatement(key=late, retired=True))
    state(codec.public_tag("participant/bank"), EntryKind.KEY, st.KeyStatement(key=bank, retired=True))
    state(person.tag, EntryKind.KEY, st.KeyStatement(key=own, retired=True))
    assert in_force() == {DAEMON.public_key}
    case.seal()
    case.close()
    check_ledger(case)
