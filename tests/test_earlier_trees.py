"""The rows of an earlier tree are those that the table had; the answers from them are those that were recorded."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cases.earlier_trees import ask_earlier, at_exact, earlier_view
from cases.ledgers import LOG, ORIGIN, check_ledger
from cases.realm_lives import MINUTE_MS, RealmLife
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import DeniedError, InvalidError
from consentd.ledger import reads
from consentd.sequencer.commands.accesses import decide
from consentd.statements import decisions, payloads
from consentd.table.table import Table, catch_up
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

SUBJECT = pb.Subject(scheme="test", value="somebody")
STEPS = 90
_LEFT_OUT = b"kmnRH"
"""Rows that an earlier tree does not have: of keys, mandates and notices; and two that are compared by themselves."""


@pytest.fixture(params=range(2))
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The life of a realm, with a second vocabulary, and persons about whom nothing is asked."""
    life = RealmLife(tmp_path, 100 + request.param)
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
