"""Views of the policy table share one registry, as long as it is the registry of their commit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.ledgers import LedgerCase
from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.v1 import statement_pb2 as st


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    """The table of a ledger with vocabulary and rules, opened anew, so that no view has read its registry yet."""
    case = LedgerCase(tmp_path)
    case.close()
    table = Table.open(case.table_path, map_size_mb=16)
    yield table
    table.close()


def _register(transaction: TableTransaction, name: str) -> None:
    tag, zeros = codec.public_tag(PARTICIPANT_PREFIX + name), codec.ZERO_HASH
    event = codec.Event(EntryKind.PARTICIPANT, 0, tag, 1, zeros, zeros, 0)
    transaction.apply(event, st.ParticipantStatement(participant_id=name, active=True), index=0)


def _commit(transaction: TableTransaction) -> None:
    transaction.commit(transaction.size + 1, bytes(32), time_ms=0, wall_ms=0)


def test_a_registry_that_a_transaction_read_is_used_by_all_later_views(table: Table) -> None:
    with table.begin() as transaction:
        registry = transaction.registry()
    with table.begin() as later, table.read() as snapshot:
        assert later.registry() is registry
        assert snapshot.registry() is registry


def test_a_registry_that_a_transaction_changed_is_used_by_later_views_only_after_its_commit(table: Table) -> None:
    with table.begin() as dropped:
        before = dropped.registry()
        _register(dropped, "clinic")
        assert "clinic" in dropped.registry().participants
    with table.read() as snapshot:
        assert snapshot.registry() is before
    with table.begin() as committed:
        _register(committed, "clinic")
        changed = committed.registry()
        with table.read() as snapshot:
            assert snapshot.registry() is before
        _commit(committed)
    with table.begin() as later, table.read() as snapshot:
        assert "clinic" in changed.participants
        assert later.registry() is changed
        assert snapshot.registry() is changed


def test_a_view_of_an_older_commit_does_not_replace_a_newer_registry(table: Table) -> None:
    with table.read() as older:
        with table.begin() as transaction:
            _register(transaction, "clinic")
            newer = transaction.registry()
            _commit(transaction)
        assert older.registry().generation == newer.generation - 1
    with table.read() as snapshot:
        assert snapshot.registry() is newer


def test_a_changed_registry_that_was_not_read_before_the_commit_is_read_once_after_it(table: Table) -> None:
    with table.begin() as transaction:
        before = transaction.registry()
        _register(transaction, "clinic")
        _commit(transaction)
    with table.begin() as transaction:
        changed = transaction.registry()
        assert (changed.generation, "clinic" in changed.participants) == (before.generation + 1, True)
    with table.begin() as later:
        assert later.registry() is changed
