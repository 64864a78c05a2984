"""The rows of an earlier tree are those that the table had; the answers from them are those that were recorded."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cases.earlier_trees import ask_earlier, at_exact, earlier_view
from cases.ledgers import LOG, ORIGIN, LedgerCase, check_ledger
from cases.pruned_ledgers import PruningCase, use
from cases.realm_lives import MINUTE_MS, RealmLife
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.errors import CorruptionError, DeniedError, InvalidError, NotFoundError, StorageError
from consentd.ledger import layout, pruning, reads
from consentd.sequencer.commands.accesses import decide
from consentd.statements import decisions, payloads
from consentd.store import Batch, Store
from consentd.store.memory import MemoryStore
from consentd.table.earlier import EarlierTree, public_chains
from consentd.table.table import Table, catch_up
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

SUBJECT = pb.Subject(scheme="test", value="somebody")
STEPS = 90
_LEFT_OUT = b"kmnRH"
"""Rows that an earlier tree does not have: of keys, mandates and notices; and two that are compared by themselves."""


@pytest.fixture(params=(105, 107))
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The life of a realm, with a second vocabulary, and persons about whom nothing is asked.

    Of the lives with these seeds each has break-glass, and callers that may not ask now.
    """
    life = RealmLife(tmp_path, request.param)
    for number in range(STEPS):
        if number == STEPS // 2:
            life.publish_vocabulary()
            life.case.enrol("another")
            life.case.seal()
        life.step()
    yield life
    check_ledger(life.case)
    life.case.close()


def recorded(life: RealmLife) -> list[tuple[int, codec.Event, st.AccessStatement]]:
    """Return the index, the leaf and the statement of each decision about an access."""
    found = []
    store = life.case.ledger.store
    for index, leaf in reads.scan_leaves(store, 0, life.case.ledger.state.size):
        event = codec.decode_leaf(leaf)
        if not isinstance(event, codec.Event) or event.kind not in (EntryKind.ACCESS, EntryKind.REFUSAL):
            continue
        opened = reads.open_entry(life.case.vault, reads.read_entry(store, event.tag, event.seq))
        assert opened is not None
        message: Any = payloads.decode_payload(event.kind, codec.decode_statement(opened[1]).payload)
        found.append((index, event, message.access if event.kind == EntryKind.REFUSAL else message))
    return found


def test_every_tree_has_the_rows_that_the_table_had(life: RealmLife, tmp_path: Path) -> None:
    case = life.case
    tag, other = life.person.tag, case.people[-1].tag
    table = Table.open(tmp_path / "then", map_size_mb=16)
    first = 3  # ledger, vocabulary and rules
    for size in range(first, case.ledger.state.size + 1):
        catch_up(table, case.ledger.store, case.vault, size=size)
        view = earlier_view(case, size, tag)
        with table.read() as then:
            foreign = {b"s" + other, b"i" + case.people[-1].identifier_hash}
            expected = {key: row for key, row in then.rows() if key[0] not in _LEFT_OUT and key not in foreign}
            assert {key: row for key, row in view._txn.scan(b"", None) if key[0] not in _LEFT_OUT} == expected
            assert (view.size, view.root, view.time_ms) == (then.size, then.root, then.time_ms)
    table.close()


def test_the_rows_of_an_earlier_tree_decide_as_recorded_and_as_an_auditor_replays(
    life: RealmLife, tmp_path: Path
) -> None:
    kept = recorded(life)
    for index, event, made in kept:
        question = decisions.question_value(payloads.parse(pb.Question, made.asked.question))
        view = earlier_view(life.case, index, life.person.tag)
        again = decide(view, life.person.tag, question, made.asked, index=index, now_ms=event.time_ms).decision
        made.decision.ClearField("decision_id")
        assert again == made.decision
    report = replay_decisions(life.export(tmp_path / "export"), origin=ORIGIN, log_verifier=LOG.verifier)
    assert sum(report.same.values()) == len(kept) > STEPS // 4


def test_at_exact_answers_what_was_answered(life: RealmLife) -> None:
    """Callers that see reasons now ask again, from the tree and at the instant of each recorded decision."""
    counted: Counter[str] = Counter()
    for index, event, made in recorded(life):
        question = payloads.parse(pb.Question, made.asked.question)
        caller, then = made.asked.asker, at_exact(index, event.time_ms)
        if question.HasField("break_glass"):
            with pytest.raises(InvalidError) as refused:
                ask_earlier(life.case, question, caller, then, SUBJECT)
            assert refused.value.reason == "BREAK_GLASS_SHAPE"
            counted["break-glass"] += 1
            continue
        if caller in life.blind:
            with pytest.raises(DeniedError):
                ask_earlier(life.case, question, caller, then, SUBJECT)
            counted["blind now"] += 1
            continue
        answer = ask_earlier(life.case, question, caller, then, SUBJECT)
        assert answer.revision == pb.Revision(tree_size=index, root_hash=reads.root_at(life.case.store, index))
        assert answer.decided_time_ms == event.time_ms
        assert len(answer.decision_id) == 32
        view = earlier_view(life.case, index, life.person.tag)
        asker = view.participant(caller)
        assert asker is not None
        if st.PARTICIPANT_RIGHT_SEE_REASONS in asker.rights:
            assert _comparable(answer) == _comparable(made.decision)
            counted["same"] += 1
        else:  # it did not see reasons then, and does now
            assert set(made.decision.permitted) <= set(answer.permitted)
            assert set(answer.permitted) - set(made.decision.permitted) <= {*_on_conditions(answer)}
            counted["saw less"] += 1
    assert min(counted["same"], counted["break-glass"], counted["blind now"]) > 0


def test_nothing_that_comes_later_changes_an_answer(life: RealmLife) -> None:
    case, size, now_ms = life.case, life.case.ledger.state.size, life.case.clock.wall_ms()
    asked = [
        (payloads.parse(pb.Question, made.asked.question), made.asked.asker) for _, _, made in recorded(life)
        if made.asked.asker not in life.blind
    ]  # fmt: skip
    asked = [one for one in asked if not one[0].HasField("break_glass")][-30:]
    assert asked

    def answers() -> list[bytes]:
        found = (ask_earlier(case, question, caller, at_exact(size, now_ms), SUBJECT) for question, caller in asked)
        return [_comparable(one) for one in found]

    before, blind = answers(), set(life.blind)
    for lineage in [*life.consents]:
        message = st.RevokeStatement(lineage_seq=lineage, attestation=st.Attestation(attested_by="operator/main"))
        life._write(EntryKind.REVOKE, message)
        del life.consents[lineage]
    for _ in range(20):
        life.grant()
        life.publish_rules()
        life.case.clock.advance(MINUTE_MS)
    life.blind = blind
    for name in ("a", "b", "c", "r"):
        life.join(name, {"group/g", "group/h"})
    for one in life.delegations:
        statement = st.DelegationStatement(giver=one.giver, taker=one.taker, capacity=int(one.capacity), ended=True)
        if one.taker not in {caller for _, caller in asked}:
            life._public(f"participant/{one.giver}", EntryKind.DELEGATION, statement)
    assert answers() == before


def _on_conditions(answer: pb.Decision) -> list[str]:
    return list(answer.permitted) if answer.residual else []


def _comparable(decision: pb.Decision) -> bytes:
    kept = pb.Decision()
    kept.CopyFrom(decision)
    for name in ("decision_id", "revision"):
        kept.ClearField(name)
    return kept.SerializeToString(deterministic=True)


def test_a_tree_has_the_vocabulary_of_its_time(life: RealmLife) -> None:
    size = life.vocabularies[-1][0]
    registries = [earlier_view(life.case, at).registry() for at in (size, size + 1)]
    versions = [one.codebook.vocabulary.version for one in registries]
    assert versions == [vocabulary.version for _, vocabulary in life.vocabularies]


def rows_of_persons(case: LedgerCase, size: int) -> dict[bytes, bytes] | None:
    """Return the rows of all persons in an earlier tree; None: what it rests on was pruned."""
    try:
        view = earlier_view(case, size, *(person.tag for person in case.people))
    except NotFoundError as error:
        if error.reason != "PRUNED":
            raise
        return None
    return {key: row for key, row in view._txn.scan(b"", None) if key[:1] in (b"s", b"c")}


@pytest.mark.parametrize("seed", range(2))
def test_a_pruning_changes_no_tree_that_can_still_be_made(tmp_path: Path, seed: int) -> None:
    random, case = Random(seed), PruningCase(tmp_path)
    for _ in range(2):
        use(case, random, 40, keys=False)
        case.clock.advance(40 * DAY_MS)
        for person in case.people:
            case.write(case.access(person))
        case.seal()
        pruned, _ = case.plan()
        case.state(pruned)
        last = case.ledger.state.size
        sizes = sorted({*random.sample(range(4, last), 15), *range(last - 8, last + 1)})
        before = {size: rows_of_persons(case, size) for size in sizes}
        case.sweep(pruned)
        after = {size: rows_of_persons(case, size) for size in sizes}
        kept = {size for size in sizes if after[size] is not None}
        assert {size: after[size] for size in kept} == {size: before[size] for size in kept}
        lost = {size for size in sizes if size not in kept}
        assert kept >= {last}
        assert lost
        for size in lost:
            leaf = case.store.get(layout.leaf_key(size - 1))
            assert leaf is None or codec.decode_leaf(leaf).time_ms < pruned.kept_from_ms
    case.close()


def test_a_pruning_meanwhile_gives_no_wrong_rows(tmp_path: Path) -> None:
    """The entries of a tree are read in steps. A pruning between two of them may delete what the next would read."""
    case = PruningCase(tmp_path)
    use(case, Random(3), 40, keys=False)
    case.clock.advance(40 * DAY_MS)
    case.write(case.access(case.people[0]))
    case.seal()
    pruned, _ = case.plan()
    assert case.table is not None
    with case.table.read() as snapshot:
        chains = public_chains(snapshot)
    outcomes = set()
    for size in (40, case.ledger.state.size):
        store = MemoryStore(dict(case.store.scan(b"", None)))
        tree = EarlierTree(store, case.vault, size)
        replaying = tree.replay([*chains, *(person.tag for person in case.people)])
        next(replaying)
        for batch, _ in pruning.delete_in_batches(store, case.vault, pruned):
            store.write(batch)
        try:
            for _ in replaying:
                pass
            found = {key: row for key, row in tree.view()._txn.scan(b"", None) if key[:1] in (b"s", b"c")}
            assert found == rows_of_persons(case, size)
            outcomes.add("rows")
        except (NotFoundError, StorageError):
            outcomes.add("refused")
    assert "refused" in outcomes
    case.close()


def test_an_entry_that_is_missing_is_noticed(own: LedgerCase) -> None:
    person = own.enrol("somebody")
    own.write(own.grant(person))
    size = own.ledger.state.size
    for key in (layout.index_key(person.tag, 1), layout.index_key(person.tag, 2), layout.leaf_key(size - 1)):
        with without(own.store, key), pytest.raises((CorruptionError, NotFoundError)):
            earlier_view(own, size, person.tag)
    with without(own.store, layout.statement_key(person.tag, 2)), pytest.raises(NotFoundError) as lost:
        earlier_view(own, size, person.tag)
    assert lost.value.reason == "PRUNED"
    assert earlier_view(own, size, person.tag).subject(person.tag)


@contextmanager
def without(store: Store, key: bytes) -> Iterator[None]:
    """Delete a row for a while."""
    row, batch = store.get(key), Batch()
    assert row is not None
    batch.delete(key)
    store.write(batch)
    yield
    again = Batch()
    again.put(key, row)
    store.write(again)
