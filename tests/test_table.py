"""Views of the policy table share one registry, as long as it is the registry of their commit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cases.ledgers import DAEMON, LedgerCase
from cases.stored_rows import get_stored
from cases.writes import Raw
from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind, Owner
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import STILL, Effect, Provision, Rules
from consentd.policy.vocabulary import Code
from consentd.sequencer.pool import Written
from consentd.statements.values import rules_message, vocabulary_message
from consentd.table.checked_rows import DamagedRowError
from consentd.table.registry import Registry
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.table.view import View
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


def content(registry: Registry) -> dict[str, object]:
    """Return all that a registry says, in a form that compares."""
    codebook = registry.codebook
    names = {one: (codebook.numbers(one), codebook.groups(one)) for one in registry.participants}
    permits = {one: (codebook.permit_numbers(one), codebook.permit_groups(one)) for one in registry.participants}
    fields = ("generation", "rules", "quotas", "participants", "numbers", "delegations", "mandates")
    return {
        **{field: getattr(registry, field) for field in fields},
        "certificate_names": dict(registry.certificate_names),
        "codebook": (names, permits, codebook.names, codebook.memberships, codebook.abroad, codebook.vocabulary),
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_changed_registry_is_the_one_that_the_rows_have(table: Table, seed: int) -> None:
    random = Random(seed)
    for number in range(12):
        with table.begin() as transaction:
            before = transaction.registry()
            for _ in range(random.choice([1, 1, 3])):
                name = f"clinic-{random.randrange(4)}"
                tag, zeros = codec.public_tag(PARTICIPANT_PREFIX + name), codec.ZERO_HASH
                message = st.ParticipantStatement(
                    participant_id=name,
                    active=random.random() < 0.8,
                    groups=random.choices([f"group/{group}" for group in "abc"], k=random.randrange(4)),
                    country=random.choice(["", "KR", "JP"]),
                    roles=[st.PARTICIPANT_ROLE_RECIPIENT],
                    certificate_names=[f"dns:{name}-{random.randrange(2)}.example" for _ in range(random.randrange(3))],
                )
                event = codec.Event(EntryKind.PARTICIPANT, 0, tag, 1, zeros, zeros, 0)
                transaction.apply(event, message, index=number + 10)
            changed = transaction.registry()
            assert content(changed) == content(transaction._read_registry())
            assert content(before) != content(changed)
            if random.random() < 0.8:  # else the changes are dropped
                _commit(transaction)
        with table.read() as snapshot:
            assert content(snapshot.registry()) == content(snapshot._read_registry())


def test_the_change_of_a_participant_reads_no_other_participant(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    with table.begin() as transaction:
        for name in ("clinic", "bank", "lab"):
            _register(transaction, name)
        transaction.registry()
        _commit(transaction)
    monkeypatch.setattr(View, "_read_registry", lambda self: pytest.fail("all rows of the registry are read"))
    with table.begin() as transaction:
        _register(transaction, "clinic")
        assert transaction.registry().participants.keys() >= {"clinic", "bank", "lab"}
        _commit(transaction)
    with table.begin() as later, table.read() as snapshot:
        assert later.registry() is snapshot.registry()


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


# -- since when: the index of the entry that states it ----------------------------------------------------------


def _index(written: Written[Any]) -> int:
    assert written.entry is not None
    return written.entry.index


def _memberships(case: LedgerCase, name: str) -> list[tuple[str, int, int]]:
    assert case.table is not None
    with case.table.read() as snapshot:
        participant = snapshot.participant(name)
    assert participant is not None
    return [(one.group, one.start, one.end) for one in participant.memberships]


def test_memberships_begin_and_end_with_the_entry_that_states_them(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)

    def join(*groups: str) -> int:
        message = st.ParticipantStatement(participant_id="clinic", groups=groups, active=True)
        return _index(case.write(case.public("participant/clinic", EntryKind.PARTICIPANT, message)))

    first, none, both, one = join("group/b"), join(), join("group/b", "group/a"), join("group/a")
    assert join("group/a") > one  # and changes nothing
    # In the order of the groups' numbers: `group/b` was named first.
    expected = [("group/b", first, none), ("group/b", both, one), ("group/a", both, STILL)]
    assert _memberships(case, "clinic") == expected
    case.rebuild_table()
    assert _memberships(case, "clinic") == expected
    assert _memberships(case, "bank") == []
    case.close()


def test_rules_and_consents_are_since_their_entries(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    person = case.enrol("anna")
    granted = case.write(case.grant(person))
    lineage = granted.entry.event.seq if granted.entry else 0
    consent = case.grant(person).message.consent
    amend = st.AmendStatement(consent=consent, lineage_seq=lineage, version=2)
    rules = rules_message(Rules(), realm_id="realm", version=2, vocabulary_id=DEFAULT_VOCABULARY.id)

    def since() -> tuple[int, list[int]]:
        assert case.table is not None
        with case.table.read() as snapshot:
            return snapshot.registry().rules.since, [one.compiled.since for one in snapshot.lineages(person.tag)]

    assert since() == (2, [_index(granted)])
    again = _index(case.write(case.public("rules/realm", EntryKind.RULES, rules)))
    case.write(case.change(person, lineage, EntryKind.PAUSE))
    assert since() == (again, [_index(granted)])
    amended = _index(case.write(Raw(kind=EntryKind.AMEND, tag=person.tag, message=amend)))
    case.write(case.change(person, lineage, EntryKind.RESUME))
    strange = _index(case.write(Raw(kind=200, tag=person.tag)))
    assert since() == (again, [amended, strange])
    case.close()


def test_a_vocabulary_touches_no_other_row(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(3)
    deny = Provision(effect=Effect.DENY, purposes=("HRESCH",), categories=("GEN",))
    law = rules_message(Rules(statutory=(deny,)), realm_id="realm", version=2, vocabulary_id=DEFAULT_VOCABULARY.id)
    case.write(case.public("rules/realm", EntryKind.RULES, law))

    def rows() -> dict[bytes, bytes]:
        assert case.table is not None
        with case.table.read() as snapshot:
            return dict(snapshot.rows())

    before = rows()
    later = replace(
        DEFAULT_VOCABULARY, version=DEFAULT_VOCABULARY.version + 1,
        purposes=(*DEFAULT_VOCABULARY.purposes, Code(code="NEWRESCH", name={"en": "new"}, parent="HRESCH")),
    )  # fmt: skip
    case.write(case.public(f"vocabulary/{later.id}", EntryKind.VOCABULARY, vocabulary_message(later)))
    after = rows()
    assert {key for key in after if after[key] != before.get(key)} == {b"R", b"v"}
    case.close()


def test_a_rotation_replaces_the_statement_key(table: Table) -> None:
    """Only a rotation of the role STATEMENT does. The old key is known, and no longer in force."""
    old, new = DAEMON.public_key, bytes(range(32))
    rotation = st.Rotation(role=st.ROTATION_ROLE_LOG, old_key=old, new_key=new)
    event = codec.Event(EntryKind.LEDGER, 1 << 45, codec.LEDGER_TAG, 2, bytes(31) + b"x", bytes(32), 0)
    with table.begin() as transaction:
        assert transaction.key_owner(old) is not None
        transaction.apply(event, st.LedgerStatement(rotation=rotation), index=9)
        assert (transaction.key_owner(old) is None, transaction.key_ever(new)) == (False, None)
        rotation.role = st.ROTATION_ROLE_STATEMENT
        transaction.apply(event, st.LedgerStatement(rotation=rotation), index=9)
        assert transaction.key_owner(old) is None
        ended, begun = transaction.key_ever(old), transaction.key_owner(new)
    assert ended is not None
    assert begun is not None
    assert (ended.until_ms, begun.owner, begun.from_ms) == (1 << 45, Owner.LEDGER, 1 << 45)


def _owner(transaction: TableTransaction, name: str) -> Owner | None:
    """Put a key in force in the chain of *name*; return whose key the table makes it."""
    tag, zeros = codec.public_tag(PARTICIPANT_PREFIX + name), codec.ZERO_HASH
    key = codec.public_tag(name)
    transaction.apply(codec.Event(EntryKind.KEY, 0, tag, 1, zeros, zeros, 0), st.KeyStatement(key=key), index=0)
    owner = transaction.key_owner(key)
    assert owner is not None
    assert owner.tag_or_name == (name if owner.owner is Owner.PARTICIPANT else tag)
    return owner.owner


def test_the_owner_of_a_chain_is_found_without_reading_all_participants(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[bytes] = []
    rows = TableTransaction._rows

    def counted(self: TableTransaction, prefix: bytes, **options: Any) -> Iterator[tuple[bytes, bytes]]:
        scanned.append(prefix)
        return rows(self, prefix, **options)

    monkeypatch.setattr(TableTransaction, "_rows", counted)
    with table.begin() as transaction:
        assert [_owner(transaction, name) for name in ("bank", "nobody")] == [Owner.PARTICIPANT, Owner.SUBJECT]
        _commit(transaction)
    assert scanned == [b"p"]
    for number in range(3):
        name = f"clinic-{number}"
        with table.begin() as transaction:
            assert _owner(transaction, name) is Owner.SUBJECT
            _register(transaction, name)
            assert _owner(transaction, name) is Owner.PARTICIPANT
            _commit(transaction)
        with table.begin() as transaction:
            assert [_owner(transaction, one) for one in ("hospital", name)] == [Owner.PARTICIPANT] * 2
    assert scanned == [b"p"]


def test_the_owner_of_a_chain_is_the_one_that_the_table_has(table: Table) -> None:
    """Whatever was dropped, committed or found damaged since the tags were read."""
    with table.begin() as dropped:
        _register(dropped, "dropped")
        assert _owner(dropped, "dropped") is Owner.PARTICIPANT
    with table.begin() as transaction:
        assert _owner(transaction, "dropped") is Owner.SUBJECT
    with table.begin() as transaction:
        _register(transaction, "later")
        _commit(transaction)
    with table.begin() as transaction:
        assert [_owner(transaction, one) for one in ("later", "dropped")] == [Owner.PARTICIPANT, Owner.SUBJECT]
        _register(transaction, "dropped")
        assert _owner(transaction, "dropped") is Owner.PARTICIPANT
    table.mend(b"phospital", get_stored(table, b"phospital"), None)  # spoils the row
    with pytest.raises(DamagedRowError), table.begin() as transaction:
        _owner(transaction, "bank")
