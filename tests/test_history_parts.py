"""A history read and verified in parts: every split is proven, and a history whose end is cut is never complete."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, question, running_daemon
from cases.histories import BANK, CITIZEN, live
from cases.ledgers import LOG, LedgerCase, Person
from cases.services import new_identifier, refusal
from cases.vectors_case import verdict
from cases.vectors_representatives import in_parts
from consentd.core.history import HeldChain, HistoryProof
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, ProofError, SignatureError, StorageError, VerificationError
from consentd.statements.chains import HeldPart
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client import Client, FileMemory, HistoryFile, Subject, ledger, pin
from consentd_client.history import join_parts, verify_history, verify_history_part
from consentd_client.history_file import HistoryState

TRUST = pin(LOG.verifier)
CHAINS = ("ledger", "participant/bank")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LedgerCase, Person]]:
    """A ledger with a person who has a key, and twelve entries by four authors."""
    case = LedgerCase(tmp_path_factory.mktemp("parts"))
    case.write(case.key("bank", BANK.public_key))
    person = case.enrol("somebody", CITIZEN)
    live(case, person)
    case.write(case.grant(person, signed=True))
    case.seal()
    yield case, person
    case.close()


def read_in_parts(case: LedgerCase, tag: bytes, sizes: list[int]) -> list[Any]:
    """Verify a chain in parts of these sizes, then the rest; return the histories."""
    found: list[Any] = []
    point, part, known = None, None, 0
    for most in [*sizes, None]:
        proof = case.history(tag, *CHAINS, held=point, known=known, most=most)
        shown, _, part = verify_history_part(
            proof, trust=TRUST, tag=tag, remembered_checkpoint=point, before=part, most=most
        )
        found.append(shown)
        point, known = shown.checkpoint, part.held.count
    return found


def test_every_split_shows_what_the_whole_does(lived: tuple[LedgerCase, Person]) -> None:
    case, person = lived
    whole, _ = verify_history(case.history(person.tag, *CHAINS), trust=TRUST)
    count = len(whole.entries)
    rng = random.Random(3)
    for sizes in ([1] * (count - 1), [count - 1], [2, 5], [rng.randrange(1, 4) for _ in range(3)]):
        parts = read_in_parts(case, person.tag, sizes)
        assert [part.is_complete for part in parts] == [False] * len(sizes) + [True]
        joined = join_parts(parts)
        assert [(one.event, one.author, one.message) for one in joined.entries] == [
            (one.event, one.author, one.message) for one in whole.entries
        ]


def test_a_part_that_reaches_the_end_is_complete(lived: tuple[LedgerCase, Person]) -> None:
    case, person = lived
    for most in (len(case.history(person.tag).chains[0].entries), 1_000):
        proof = case.history(person.tag, *CHAINS, most=most)
        assert verify_history_part(proof, trust=TRUST, most=most)[0].is_complete


def test_a_cut_history_is_refused_unless_a_part_was_asked_for(lived: tuple[LedgerCase, Person]) -> None:
    case, person = lived
    cut = case.history(person.tag, *CHAINS, most=4)
    with pytest.raises(ProofError):
        verify_history(cut, trust=TRUST)
    for most in (3, 5, 1):
        with pytest.raises(ProofError):
            verify_history_part(cut, trust=TRUST, most=most)
    assert not verify_history_part(cut, trust=TRUST, most=4)[0].is_complete
    shorter = with_first(cut, count=4)
    with pytest.raises(ProofError):
        verify_history_part(shorter, trust=TRUST, most=4)


def with_first(proof: HistoryProof, **changes: Any) -> HistoryProof:
    return replace(proof, chains=(replace(proof.chains[0], **changes), *proof.chains[1:]))


def test_the_last_part_disproves_a_part_that_the_ledger_does_not_have(lived: tuple[LedgerCase, Person]) -> None:
    case, person = lived
    first = case.history(person.tag, *CHAINS, most=4)
    shown, _, part = verify_history_part(first, trust=TRUST, most=4)
    rest = case.history(person.tag, *CHAINS, held=shown.checkpoint, known=4)

    def finish(**changes: Any) -> None:
        forged = replace(part, held=replace(part.held, **changes))
        verify_history_part(rest, trust=TRUST, remembered_checkpoint=shown.checkpoint, before=forged)

    finish()
    for changes in ({"head": bytes(32)}, {"count": 3}, {"erased": True}, {"time_ms": 1 << 50}):
        with pytest.raises(ProofError):
            finish(**changes)
    with pytest.raises(ProofError):  # a missing statement needs an ERASURE at the end
        finish(lacks_statements=True)
    with pytest.raises(ProofError):
        verify_history_part(
            rest, trust=TRUST, remembered_checkpoint=shown.checkpoint, before=replace(part, tag=bytes(32))
        )
    with pytest.raises(SignatureError):  # the person's own key is stated in the part before
        verify_history_part(
            rest, trust=TRUST, remembered_checkpoint=shown.checkpoint, before=replace(part, named=())
        )


def test_an_entry_altered_in_a_part_is_found_in_that_part(lived: tuple[LedgerCase, Person]) -> None:
    case, person = lived
    proof = case.history(person.tag, *CHAINS, most=4)
    entries = proof.chains[0].entries
    for wrong in (
        (entries[1], entries[0], *entries[2:]),
        (replace(entries[0], opening=entries[1].opening), *entries[1:]),
        (*entries[:3], replace(entries[3], leaf=entries[2].leaf)),
    ):
        with pytest.raises(VerificationError):
            verify_history_part(with_first(proof, entries=wrong), trust=TRUST, most=4)


def test_an_erased_history_in_parts(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.write(case.key("bank", BANK.public_key))
    person = case.enrol("gone")
    case.write(case.grant(person))
    case.write(case.access(person))
    case.erase(person)
    case.seal()
    parts = read_in_parts(case, person.tag, [1, 1])
    assert [part.is_erased for part in parts] == [False, False, True]
    assert join_parts(parts).is_erased
    _, _, part = verify_history_part(case.history(person.tag, *CHAINS, most=2), trust=TRUST, most=2)
    assert part.held == HeldChain(2, part.held.head, time_ms=part.held.time_ms, lacks_statements=True)
    case.close()


def test_a_representatives_keys_are_compared_across_parts_as_in_the_whole() -> None:
    vectors = [*in_parts()]
    assert {vector.want for vector in vectors} == {"ok", "signature"}
    assert [vector.name for vector in vectors if verdict(vector) != vector.want] == []


def test_a_file_keeps_up_to_where_a_key_may_be_that_was_not_read(tmp_path: Path) -> None:
    part = HeldPart(bytes(32), HeldChain(9, bytes(32), time_ms=1), unread_to=7)
    HistoryFile(tmp_path / "history").append((), HistoryState(b"note", part, ()), is_complete=False)
    state = HistoryFile(tmp_path / "history").state
    assert state is not None
    assert state.part == part


# -- over gRPC -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), "") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def person(running: Running) -> pb.Subject:
    subject = running.enrol(new_identifier())
    for _ in range(11):
        running.grant(subject)
    running.authorize(question(subject))
    running.wait_published()
    return subject


def client_of(running: Running, **more: Any) -> Client:
    trust = pin(read_signing_key(running.config.keys.log_key_file).verifier)
    return Client("", token=running.tokens["app"], trust=trust, channel=running.channel, **more)


def seqs(running: Running, **fields: Any) -> tuple[int, list[int]]:
    """Return the count of a chain and the seqs of the entries that are sent."""
    from consentd_client.history import collect_proof

    request = ls.GetHistoryRequest(**fields)
    chain = collect_proof(running.ledger.GetHistory(request, metadata=running.as_("app"))).chains[0]
    return chain.count, list(range(chain.first_seq, chain.first_seq + len(chain.entries)))


def test_the_daemon_sends_the_part_that_is_asked_for(running: Running, person: pb.Subject) -> None:
    assert seqs(running, subject=person) == (13, list(range(1, 14)))
    assert seqs(running, subject=person, max_entries=5) == (13, [1, 2, 3, 4, 5])
    assert seqs(running, subject=person, known_count=5, max_entries=3) == (13, [6, 7, 8])
    assert seqs(running, subject=person, known_count=5, max_entries=5) == (13, [6, 7, 8, 9, 10])
    assert seqs(running, subject=person, known_count=11, max_entries=2**64 - 1) == (13, [12, 13])
    assert seqs(running, subject=person, known_count=12, max_entries=1) == (13, [13])
    assert seqs(running, subject=person, known_count=13, max_entries=1) == (13, [])
    assert seqs(running, public_name="rules/realm", max_entries=7) == (1, [1])
    for name in ("ledger", "participant/app"):
        assert refusal(lambda name=name: seqs(running, public_name=name, max_entries=1)) == "INVALID_REQUEST"
    assert refusal(lambda: seqs(running, subject=person, known_count=14, max_entries=1)) == "AHEAD_OF_LEDGER"


@pytest.mark.parametrize("most", [0, -1, 2**64])
def test_a_part_has_at_least_one_entry(running: Running, person: pb.Subject, most: int) -> None:
    with pytest.raises(InvalidError):
        client_of(running).history_part(person, most=most)


def test_a_long_history_is_read_in_parts_as_a_short_one_is_at_once(
    running: Running, person: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = client_of(running).history(person)
    monkeypatch.setattr(ledger, "PART_ENTRIES", 3)
    memory = FileMemory(tmp_path / "memory")
    found = client_of(running, memory=memory).history(person, tag=whole.tag)
    assert found.is_complete
    assert [(one.event, one.author, one.is_new) for one in found.entries] == [
        (one.event, one.author, True) for one in whole.entries
    ]
    again = client_of(running, memory=memory).history(person)
    assert (len(again.entries), again.new) == (13, ())
    assert client_of(running).public_history("ledger").is_complete


def test_parts_continue_in_a_file_where_they_stopped(running: Running, person: Subject, tmp_path: Path) -> None:
    path = tmp_path / "history"
    lines = 0
    for _ in range(5):
        file = HistoryFile(path)  # as another process would open it
        _, rows, state = client_of(running).history_part(person, state=file.state, most=3)
        file.append(rows, state, is_complete=(complete := state.part.held.count == 13))
        lines += len(rows)
        assert len(list(file.entries())) == lines
    assert complete
    assert HistoryFile(path).is_complete
    whole = client_of(running).history(person)
    kept = list(HistoryFile(path).entries())
    assert [one.author for one in kept] == [one.author for one in whole.entries]
    assert (path.stat().st_mode & 0o777, (tmp_path / "history.state").stat().st_mode & 0o777) == (0o600, 0o600)
    # A crash after the entries were added and before the state was stored: the entries are read again.
    with path.open("ab") as torn:
        torn.write(b"a part that was not finished")
    file = HistoryFile(path)
    assert len(list(file.entries())) == 13
    _, rows, state = client_of(running).history_part(person, state=file.state)
    file.append(rows, state, is_complete=True)
    assert (rows, len(list(HistoryFile(path).entries()))) == ((), 13)


def test_a_file_that_is_no_history_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(StorageError):
        HistoryFile(path)
    path.unlink()
    for state in ("{}", '{"version": 1}', "no json", '{"version": 2, "count": "x"}'):
        (tmp_path / "notes.state").write_text(state)
        with pytest.raises(StorageError):
            HistoryFile(path)
