"""The short passes of the scrub: what changed lately, and the rows that all persons share, are compared soon."""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.authorities import authority
from cases.daemons import make_running, question
from cases.fakes import HANG_S
from cases.ledgers import LOG, ORIGIN, LedgerCase, Person, fill_all_kinds, flip
from cases.pruned_ledgers import PruningCase, use
from cases.scrubs import SCRATCH, scrub, write
from cases.services import services
from cases.stored_rows import get_stored, put_stored, rows_of
from cases.writes import Raw
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.ledger import layout, reads
from consentd.table.checked_rows import CHECK_SIZE, DamagedRowError, seal_row
from consentd.table.table import PERSON_KINDS, Table, apply_entries
from consentd.table.view import is_derived
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd.verify import scrub_recent
from consentd.verify.findings import Fault
from consentd.verify.scrub_recent import RecentScrub
from consentd.verify.scrub_records import ScrubTarget
from consentd.verify.scrub_table import ScrubOptions
from consentd.verify.table_compare import scratch_table

RECENT = SCRATCH + ".recent"
FORMAT = (Path(__file__).parents[1] / "proto/table-format.md").read_text()


class ShortPasses:
    """The short passes over a case."""

    def __init__(self, case: LedgerCase) -> None:
        assert case.table is not None
        target = ScrubTarget(
            ledger=case.ledger, vault=case.vault, table=case.table, last_signed_path=case.last_signed_path,
            origin=ORIGIN, log_verifier=LOG.verifier,
        )  # fmt: skip
        self._case = case
        options = ScrubOptions(scratch_dir=case.directory / RECENT, map_size_mb=16)
        self.counted: list[int] = []
        self.recent = RecentScrub(
            target, options, run_on_writer=case.sequencer.call, pause=lambda records: self.counted.append(records)
        )

    def run(self) -> list[Fault]:
        """Make one; return what is found, which names nobody."""
        self.recent.run()
        assert not (self._case.directory / RECENT).exists()
        found = self.recent.progress.faults
        for person in self._case.people:
            assert not any(person.tag.hex() in fault.what for fault in found)
        return found


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerCase]:
    """A ledger with all kinds of rows."""
    made = fill_all_kinds(LedgerCase(tmp_path_factory.mktemp("recent")))
    for version, asked_ms in ((1, 0), (2, made.clock.wall_ms() + 86_400_000)):
        notice = st.NoticeStatement(notice_id="notice", version=version, reconsent_by_time_ms=asked_ms)
        made.write(made.public("notice/notice", EntryKind.NOTICE, notice))
    names = ["dns:clinic.example"]
    grouped = st.ParticipantStatement(participant_id="clinic", groups=["clinics"], active=True, certificate_names=names)
    made.write(made.public("participant/clinic", EntryKind.PARTICIPANT, grouped))
    given = st.DelegationStatement(giver="clinic", taker="hospital", capacity=st.DELEGATION_CAPACITY_RELAY)
    made.write(made.public("participant/clinic", EntryKind.DELEGATION, given))
    end_ms = made.clock.wall_ms() + 86_400_000
    mandate = st.MandateStatement(auditor="hospital", scope="accesses", reason="order 12", end_time_ms=end_ms)
    mandate.attestation.attested_by = "operator/test"
    made.write(made.public("participant/hospital", EntryKind.MANDATE, mandate))
    yield made
    assert scrub(made) == []
    made.close()


def table_of(case: LedgerCase) -> Table:
    assert case.table is not None
    return case.table


def spoil(case: LedgerCase, key: bytes) -> bytes:
    """Make a row wrong, with a right check; return the right row."""
    right = get_stored(table_of(case), key)
    assert right is not None
    put_stored(table_of(case), key, seal_row(key, flip(len(right) // 3)(right)[:-CHECK_SIZE]))
    return right


def all_rows(table: Table) -> list[tuple[bytes, bytes]]:
    with table.begin_read() as txn:
        return list(txn.scan(b"", None))


def changed_person(case: LedgerCase, name: str) -> Person:
    person = case.enrol(name)
    case.write(case.grant(person))
    return person


def test_a_wrong_row_of_a_person_who_changed_lately_is_spoiled_and_then_right(case: LedgerCase) -> None:
    short = ShortPasses(case)
    for kind in ("s", "i"):
        person = changed_person(case, f"changed {kind}")
        key = b"s" + person.tag if kind == "s" else b"i" + person.identifier_hash
        assert short.run() == []
        case.write(case.change(person, 2, EntryKind.PAUSE))
        right = spoil(case, key)
        (fault,) = short.run()
        assert f"`{kind}` is not what the entries make it" in fault.what
        with pytest.raises(DamagedRowError), table_of(case).read() as snapshot:
            snapshot.enrolled_subject(snapshot.tag_of(person.identifier_hash) or b"")
        assert short.run()  # the person waits for it, without another change
        assert get_stored(table_of(case), key) == right
        assert short.run() == []


def test_the_format_says_which_kinds_of_rows_all_share(case: LedgerCase) -> None:
    """Whoever adds a kind of row decides what a short pass may compare, and the public chains bear it out."""
    made_from = dict(re.findall(r"^\| `(.)` \| (\w+) \|", FORMAT, re.MULTILINE))
    assert len(made_from) == len(re.findall(r"^\| `.` \|", FORMAT, re.MULTILINE))
    assert set(made_from.values()) == {"shared", "persons", "none"}
    kinds = {word: {kind.encode() for kind, one in made_from.items() if one == word} for word in made_from.values()}
    assert kinds["shared"] == scrub_recent._SHARED
    assert scrub_recent._NOT_COMPARED.isdisjoint(kinds["shared"])
    assert kinds["persons"] >= PERSON_KINDS
    assert {kind for kind in kinds["none"] if is_derived(kind)} == {b"~"}
    case.write(case.grant(case.enrol("a citizen with a key", KeyPair(b"\xa1" * 32)), signed=True))
    ward, stated = changed_person(case, "a ward"), authority()
    payload = stated.SerializeToString()
    case.write(Raw(kind=EntryKind.AUTHORITY, tag=ward.tag, payload=payload, message=stated))
    case.write(case.grant(changed_person(case, "asked again"), notice="notice"))
    hold = st.DutyStatement(hold=st.HoldStatement(legal_basis="COURT", until_time_ms=1 << 42))
    held = changed_person(case, "held")
    case.write(Raw(kind=EntryKind.DUTY, tag=held.tag, payload=hold.SerializeToString(), message=hold))
    case.write(Raw(kind=EntryKind.ERASURE, tag=changed_person(case, "erased").tag))
    persons, size = {person.tag for person in case.people}, case.ledger.state.size
    leaves = reads.scan_leaves(case.store, 0, size)
    public = [one for one in leaves if codec.kind_of(one[1]) != codec.SEAL_KIND and one[1][10:42] not in persons]
    with scratch_table(case.directory / "public", map_size_mb=16) as copy:
        apply_entries(copy, case.store, case.vault, public, size=size)
        stored, made = all_rows(table_of(case)), all_rows(copy)
    for kind, word in made_from.items():
        found, rows = ([row for row in each if row[0][:1] == kind.encode()] for each in (stored, made))
        if word == "shared":
            assert found == rows != []
        elif word == "persons":
            assert len(found) > len(rows)


def test_other_persons_are_left_to_the_pass_or_told(case: LedgerCase) -> None:
    person = changed_person(case, "changed before")
    short = ShortPasses(case)
    right = spoil(case, b"s" + person.tag)
    assert short.run() == []
    short.recent.add([person.tag])
    assert short.run()
    assert short.run()
    assert get_stored(table_of(case), b"s" + person.tag) == right
    assert short.run() == []


@pytest.mark.parametrize("kind", list("pgvrckdmnox"))
def test_a_wrong_row_that_all_share_is_spoiled_and_then_right(case: LedgerCase, kind: str) -> None:
    short, table = ShortPasses(case), table_of(case)
    rows = rows_of(table, kind)
    key = kind.encode() + sorted(rows)[0]
    if not rows[key[1:]]:
        put_stored(table, key, seal_row(key, b"not empty"))
        right = seal_row(key, b"")
    else:
        right = spoil(case, key)
    with table.read() as snapshot:
        snapshot.registry() if kind not in "vrc" else None
    assert short.run()
    if kind in "pgvrcdm":
        with pytest.raises(DamagedRowError), table.read() as snapshot:
            snapshot.registry()
    assert short.run()
    assert get_stored(table, key) == right
    assert short.run() == []
    with table.read() as snapshot:
        assert snapshot.registry().participants


def test_rows_of_persons_who_did_not_change_are_left_alone(case: LedgerCase) -> None:
    """Whatever kinds of rows persons have: a small copy lacks those of others, and none of them is spoiled."""
    for number in range(3):
        case.write(case.grant(case.enrol(f"with a key {number}", KeyPair(bytes([150 + number]) * 32)), signed=True))
    short = ShortPasses(case)
    case.write(case.grant(case.enrol("with a key, changed", KeyPair(bytes([160]) * 32)), signed=True))
    before = all_rows(table_of(case))
    assert {key[:1] for key, _ in before} >= {b"q", b"k", b"i", b"s"}
    for _ in range(2):
        assert short.run() == []
    assert [row for row in all_rows(table_of(case)) if row[0] != b"H"] == [row for row in before if row[0] != b"H"]


@pytest.mark.parametrize("key", [b"R", b"#", b"p"])
def test_without_all_public_chains_nothing_is_mended(
    case: LedgerCase, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong count, or a participant who is missing: a copy of some chains may be the wrong one. A pass finds it."""
    monkeypatch.setattr(scrub_recent, "_FIRST_LEAVES", 3)  # later participants are known by their rows alone
    short, table = ShortPasses(case), table_of(case)
    if key == b"p":
        key += sorted(rows_of(table, "p"))[0]
        right = get_stored(table, key)
        put_stored(table, key, None)
    else:
        right = get_stored(table, key) or b""
        at = 44 if key == b"R" else 0
        put_stored(table, key, seal_row(key, flip(at)(right)[:-CHECK_SIZE]))
    for _ in range(2):
        before = all_rows(table)
        (fault,) = short.run()
        assert "not as many as the entries make" in fault.what
        assert all_rows(table) == before
    assert scrub(case)
    if get_stored(table, key) != right:
        assert short.run() or scrub(case)  # a pass has spoiled it, and a short pass may take what both have computed
    if get_stored(table, key) != right:
        assert scrub(case)
    assert get_stored(table, key) == right
    assert short.run() == []


def test_damage_of_new_entries_is_found_and_named(case: LedgerCase) -> None:
    short = ShortPasses(case)
    person = changed_person(case, "damaged")
    index = case.ledger.state.size - 1
    while (case.store.get(layout.leaf_key(index)) or b"")[10:42] != person.tag:
        index -= 1
    key = layout.statement_key(person.tag, 2)
    row = case.store.get(key) or b""
    write(case.store, key, flip(40)(row))
    try:
        assert index in [fault.index for fault in short.run()]
        assert short.run() == []  # they are not new any more
    finally:
        write(case.store, key, row)


def test_what_waits_is_bounded(case: LedgerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_recent, "MAX_WAITING", 4)
    monkeypatch.setattr(scrub_recent, "MAX_TAGS", 3)
    short = ShortPasses(case)
    people = [changed_person(case, f"many {number}") for number in range(6)]
    rights = [spoil(case, b"s" + person.tag) for person in people]
    assert len(short.run()) == 3  # of the four who wait
    short.run()
    short.run()
    short.run()
    stored = [get_stored(table_of(case), b"s" + person.tag) for person in people]
    assert [one == right for one, right in zip(stored, rights, strict=True)] == [False] * 2 + [True] * 4
    short.recent.add(person.tag for person in people[:2])
    short.run()
    short.run()
    assert short.run() == []


def test_a_ledger_in_use_has_no_faults(tmp_path: Path) -> None:
    """Also while entries come during a short pass, persons are erased, and entries are pruned."""
    case = PruningCase(tmp_path)
    short = ShortPasses(case)
    use(case, random.Random(4), 60, keys=False)
    assert short.run() == []

    def write_more(records: int) -> None:
        if random.Random(records).random() < 0.5:
            case.write(case.access(case.people[0]))
            case.write(case.participant("hospital"))

    short.recent._pause = write_more
    for number in range(6):
        use(case, random.Random(number), 15, keys=False)
        if number % 2:
            case.write(Raw(kind=EntryKind.ERASURE, tag=changed_person(case, f"erased {number}").tag))
        assert short.run() == []
    case.clock.advance(900 * 86_400_000)
    use(case, random.Random(9), 10, keys=False)
    case.seal()
    case.prune()
    short.recent.add(person.tag for person in case.people)
    assert short.run() == []
    case.close()


def test_a_short_pass_beside_a_writer_of_the_registry(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(3)
    short = ShortPasses(case)
    futures: list[Any] = []

    def pause(records: int) -> None:
        case.participant(f"new-{len(futures)}")
        futures.append(case.sequencer.submit(case.participant(f"new-{len(futures)}")))

    short.recent._options = ScrubOptions(scratch_dir=tmp_path / RECENT, map_size_mb=16, piece=1)
    short.recent._pause = pause
    for _ in range(3):
        case.write(case.grant(case.people[0]))
        assert short.run() == []
    assert futures
    for future in futures:
        future.result(HANG_S)
    case.close()


def test_the_daemon_mends_a_row_that_all_share(tmp_path: Path) -> None:
    """A check before it was found may use the registry in memory, which is right; then none is decided."""
    running = make_running(tmp_path, "[scrub]\nrecords_per_s = 1000000\ninterval_s = 1")
    subject = running.enrol("SYN-1")
    running.grant(subject)
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    parts = services(running)
    right = get_stored(parts.table, b"v") or b""
    value = right[:-CHECK_SIZE]
    at = value.index(b"CLIN.DX")
    wrong = seal_row(b"v", value[:at] + b"XLIN.DX" + value[at + 7 :])
    parts.sequencer.call(lambda: put_stored(parts.table, b"v", wrong))
    seen = set()
    deadline_s = time.monotonic() + HANG_S
    while get_stored(parts.table, b"v") != right:
        seen.add(running.check(question(subject)).outcome)
        assert time.monotonic() < deadline_s
    assert seen <= {pb.OUTCOME_PERMIT, pb.OUTCOME_INDETERMINATE}
    assert parts.table.damaged
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    running.check_ledger()
    running.stop()
