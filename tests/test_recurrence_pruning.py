"""A pruning keeps the accesses that still use a consent up, and a table that is built from the rest is the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cases.ledgers import check_ledger
from cases.pruned_ledgers import MONTH_DAYS, PruningCase
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.ledger import layout, reads
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


def grant(case: PruningCase, person: Any, recurrence: str) -> int:
    write = case.consent(person, days=2_000)
    message = st.GrantStatement()
    message.CopyFrom(write.message)
    message.consent.recurrence = recurrence
    message.consent.root.actions[:] = ["collect"]
    seq: int = case.write(replace(write, message=message)).entry.event.seq
    return seq


def collect(case: PruningCase, person: Any) -> tuple[int, int]:
    """Ask for a transfer; return its seq and kind."""
    write = case.access(person)
    asked = st.AskedQuestion(
        question=pb.Question(purpose="CAREMGT", holder="hospital").SerializeToString(), asker="bank"
    )
    question = replace(write.question, action="collect")
    event = case.write(replace(write, question=question, asked=asked)).entry.event
    return event.seq, event.kind


def retained(case: PruningCase, person: Any) -> set[int]:
    return {
        entry.event.seq for entry in reads.read_chain_with_gaps(case.store, person.tag)
        if case.store.get(layout.statement_key(person.tag, entry.event.seq)) is not None
    }  # fmt: skip


def rows(case: PruningCase) -> list[tuple[bytes, bytes]]:
    assert case.table is not None
    with case.table.read() as snapshot:
        return [one for one in snapshot.rows() if one[0][:1] == b"s"]


def test_an_access_is_kept_as_long_as_it_uses_a_consent_up(tmp_path: Path) -> None:
    case = PruningCase(tmp_path)
    once, monthly = case.enrol("once"), case.enrol("monthly")
    grant(case, once, "once")
    grant(case, monthly, "P1M")
    used, in_first = collect(case, once), collect(case, monthly)
    assert (used[1], in_first[1]) == (EntryKind.ACCESS, EntryKind.ACCESS)
    case.write(case.outcome(once, used[0]))
    outcome = case.ledger.head(once.tag)[0]
    case.clock.advance(3 * MONTH_DAYS * DAY_MS)
    later = collect(case, monthly)
    assert later[1] == EntryKind.ACCESS
    case.seal()
    case.prune()
    assert {used[0], outcome} <= retained(case, once)
    assert in_first[0] not in retained(case, monthly)
    assert later[0] in retained(case, monthly)
    before = rows(case)
    case.rebuild_table()
    assert rows(case) == before
    for person in (once, monthly):
        assert collect(case, person)[1] == EntryKind.REFUSAL
    check_ledger(case)
    case.close()


def test_an_access_goes_with_the_consent_that_it_used_up(tmp_path: Path) -> None:
    case = PruningCase(tmp_path)
    person = case.enrol("somebody")
    seq = grant(case, person, "once")
    used = collect(case, person)[0]
    case.write(case.change(person, seq, EntryKind.REVOKE))
    case.clock.advance(3 * MONTH_DAYS * DAY_MS)
    case.seal()
    case.prune()
    assert retained(case, person).isdisjoint({seq, used})
    case.close()
