"""Saved histories: what a daemon shows is saved as evidence, and verified from the file alone."""

import io
import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.daemons import Running
from cases.fakes import HANG_S
from cases.ledgers import LOG, ORIGIN, START_MS, LedgerCase
from cases.pruned_ledgers import DAYS, World
from cases.vectors_case import BANK, CITIZEN
from cases.vectors_notes import WITNESS
from consentd.core import codec, note, quorum
from consentd.core.evidence import Evidence, Scope, SingleEntry, format_evidence, parse_evidence
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof
from consentd.errors import ProofError, SignatureError, VerificationError
from consentd.server.keys import read_keys
from consentd.statements.evidence import verify_evidence
from consentd_client import (
    Client,
    FileMemory,
    History,
    RamMemory,
    Subject,
    Trust,
    evidence,
    open_history,
    pin,
    verify_receipt,
)
from consentd_client.operations import Step, StreamCall

PIN = Trust(ORIGIN, LOG.verifier)


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> HistoryProof:
    """A person's history, with a key of the person's own and one of a participant's in it."""
    case = LedgerCase(tmp_path_factory.mktemp("ledger"))
    try:
        case.write(case.key("bank", BANK.public_key))
        person = case.enrol("somebody", CITIZEN)
        case.write(case.grant(person, signed=True))
        seq = case.write(case.access(person)).entry.event.seq
        case.write(case.outcome(person, seq, key=BANK))
        case.seal()
        return case.history(person.tag, "ledger", "participant/bank")
    finally:
        case.close()


def to_file(proof: HistoryProof) -> bytes:
    """Return a proof as evidence of its first chain."""
    return format_evidence(Evidence(scope=Scope(tag=proof.chains[0].tag), proof=proof))


def parse_proof(content: bytes) -> HistoryProof:
    return parse_evidence(content).proof


@pytest.fixture(scope="module")
def content(proof: HistoryProof) -> bytes:
    return to_file(proof)


# -- offline ----------------------------------------------------------------------------------------------------


def test_a_file_proves_the_history(proof: HistoryProof, content: bytes) -> None:
    found = open_history(content, trust=PIN)
    assert [entry.kind_name for entry in found.entries] == ["ENROL", "KEY", "GRANT", "ACCESS", "OUTCOME"]
    assert [entry.author for entry in found.entries][-1] == "participant/bank"
    assert found.tag == proof.chains[0].tag
    assert open_history(content, trust=PIN, tag=found.tag) == found
    with pytest.raises(ProofError):
        open_history(content, trust=PIN, tag=bytes(32))
    with pytest.raises(ProofError):
        open_history(content, trust=PIN, name="ledger")
    with pytest.raises(ProofError):
        open_history(content, trust=replace(PIN, origin="another"))


def test_evidence_of_something_else_is_no_history(content: bytes) -> None:
    whole = parse_evidence(content)
    person, ledger, _ = whole.proof.chains
    size = codec.decode_leaf(whole.proof.seal).covers + 1
    for scope in (Scope(tag=ledger.tag), Scope(tag=bytes(32)), Scope(participant="bank"), Scope(first=size, last=size)):
        with pytest.raises(VerificationError):
            open_history(format_evidence(replace(whole, scope=scope)), trust=PIN, tag=person.tag)
    seal = SingleEntry(size - 1, HistoryEntry(whole.proof.seal, None), whole.proof.seal_inclusion)
    authors = replace(whole.proof, chains=whole.proof.chains[1:])
    ranged = replace(whole, scope=Scope(first=size - 1, last=size - 1), proof=authors, entries=(seal,))
    verify_evidence(ranged, origin=ORIGIN, log_verifier=LOG.verifier)
    with pytest.raises(ProofError):
        open_history(format_evidence(ranged), trust=PIN)


def test_what_is_left_out_of_a_file_is_missed(proof: HistoryProof) -> None:
    person, ledger, bank = proof.chains

    def opened(*chains: ChainProof) -> Any:
        return open_history(to_file(replace(proof, chains=chains)), trust=PIN)

    shorter = replace(person, entries=person.entries[:-1], count=person.count - 1)
    for error, chains in (
        (ProofError, (shorter, ledger, bank)),
        (ProofError, (replace(shorter, count=person.count), ledger, bank)),
        (SignatureError, (person, bank)),
        (SignatureError, (person, ledger)),
        (ProofError, (person, ledger, ledger, bank)),
    ):
        with pytest.raises(error):
            opened(*chains)
    # What is sent to who holds something does not stand alone.
    with pytest.raises(ProofError):
        open_history(to_file(replace(proof, consistency=(bytes(32),))), trust=PIN)
    rest = replace(person, entries=person.entries[1:], first_seq=2)
    with pytest.raises(ProofError):
        opened(rest, ledger, bank)


def test_a_seal_that_has_not_come_yet(content: bytes) -> None:
    sealed = open_history(content, trust=PIN).seal_time_ms
    open_history(content, trust=PIN, now_ms=sealed - 60_000)
    open_history(content, trust=PIN, now_ms=sealed + 10**12)
    with pytest.raises(ProofError):
        open_history(content, trust=PIN, now_ms=sealed - 60_001)


def test_witnesses_of_a_file(proof: HistoryProof) -> None:
    policy = quorum.parse_policy(f"witness w {note.format_vkey(WITNESS.verifier)}\nquorum w\n".encode())
    trust = replace(PIN, policy=policy)
    text = note.parse_note(proof.checkpoint).text
    time_s = START_MS // 1000 + 600

    def opened(*lines: Any, **when: Any) -> Any:
        noted = note.format_note(text, [LOG.sign(text), *lines])
        return open_history(to_file(replace(proof, checkpoint=noted)), trust=trust, **when)

    with pytest.raises(SignatureError):
        opened()
    cosigned = WITNESS.cosign(text, time_s)
    opened(cosigned)  # of any age
    opened(cosigned, now_ms=(time_s + 10**6) * 1000)
    opened(cosigned, now_ms=(time_s + 300) * 1000, max_age_s=300)
    with pytest.raises(SignatureError):
        opened(cosigned, now_ms=(time_s + 301) * 1000, max_age_s=300)
    # One from before the seal covered something else.
    with pytest.raises(SignatureError):
        opened(WITNESS.cosign(text, START_MS // 1000 - 600))


# -- from a daemon ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trust(running: Running) -> Trust:
    return pin(read_keys(running.config).log.verifier, running.config.ledger.origin)


@pytest.fixture(scope="module")
def offline(trust: Trust) -> CommandLine:
    """Runs a verb with the log key pinned and no daemon to call."""
    return CommandLine().given(CONSENTD_LOG_KEY=note.format_vkey(trust.log_key), CONSENTD_TARGET="127.0.0.1:1")


@pytest.fixture(scope="module")
def online(offline: CommandLine, running: Running) -> CommandLine:
    """Runs a verb with the daemon to call, as the app."""
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return offline.given(CONSENTD_TARGET=target, CONSENTD_TOKEN=running.tokens["app"])


class Numbered:
    """Gives each test persons of its own."""

    count = 0


@pytest.fixture
def person(running: Running) -> Subject:
    Numbered.count += 1
    subject = running.enrol(f"FILE-{Numbered.count:04}")
    grant(running, subject)
    return subject


def grant(running: Running, subject: Subject) -> None:
    """Grant a consent, and wait until a checkpoint covers it."""
    running.grant(subject)
    services = running.daemon.service_state.services
    assert services is not None
    services.sequencer.checkpoints.wait(services.ledger.state.size, HANG_S)


def named(subject: Subject) -> str:
    return f"{subject.scheme}:{subject.value}"


def test_a_history_is_saved_and_verified_without_a_daemon(
    online: CommandLine, offline: CommandLine, person: Subject, tmp_path: Path
) -> None:
    file = tmp_path / "history.json"
    saved = online("history", named(person), "--save", file)
    assert saved.status == 0
    assert "history saved" in saved.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tag = open_tag(file)
    for verb in (("history", "--from", file), ("history", "--from", file, "--tag", tag)):
        found = offline(*verb)
        assert (found.status, found.out) == (0, saved.out)
        assert "proven: all 2 entries" in found.err
        assert ("to demand a certain person" in found.err) == ("--tag" not in verb)
    assert offline("history", "--from", "-", "--tag", tag, stdin=io.BytesIO(file.read_bytes())).out == saved.out
    summary = json.loads(offline("history", "--from", file, "--json").out.splitlines()[-1])
    assert {"verdict": "proven", "tag": tag, "public_name": "", "entries": 2}.items() <= summary.items()
    assert offline("history", "--from", file, "--tag", "00" * 32).status == 1
    assert offline("history", "--from", file, "--public", "ledger").status == 1
    assert offline("history", "--from", file, "--origin", "another").status == 1
    file.write_bytes(file.read_bytes().replace(b'"entries":[{', b'"entries":[{"x":1,', 1))
    assert offline("history", "--from", file).status == 2  # it does not have the format, so it is no evidence


def open_tag(file: Path) -> str:
    return parse_proof(file.read_bytes()).chains[0].tag.hex()


def test_a_public_history_is_saved(online: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    assert online("history", "--public", "participant/clinic-b", "--save", file).status == 0
    found = online("history", "--from", file, "--public", "participant/clinic-b")
    assert (found.status, "PARTICIPANT" in found.out.upper()) == (0, True)
    assert online("history", "--from", file).status == 0
    assert online("history", "--public", "notice/none", "--save", file).status == 2  # who asks for a name gets no proof
    assert online("history", "--from", file).out == found.out


def test_a_saved_history_stands_alone_whatever_is_remembered(
    online: CommandLine, running: Running, person: Subject, tmp_path: Path
) -> None:
    """What a memory holds is not sent again; it must be in the file all the same, with the keys that signed it."""
    memory, file = ("--memory", tmp_path / "memory.json"), tmp_path / "history.json"
    assert online("history", named(person), *memory).status == 0
    grant(running, person)
    new = online("history", named(person), *memory, "--new", "--save", file)
    assert (new.status, len(new.out.splitlines())) == (0, 1)
    assert len(online("history", "--from", file).out.splitlines()) == 3
    assert parse_proof(file.read_bytes()).consistency == ()


def test_a_file_that_does_not_continue_what_was_read_before_is_not_made(
    running: Running, trust: Trust, person: Subject
) -> None:
    class Changing(Client):
        """Is shown another seal the second time."""

        asked = 0

        def _execute(self, step: Step, deadline: float) -> Any:
            answer = super()._execute(step, deadline)
            if isinstance(step, StreamCall):
                self.asked += 1
                if self.asked == 2:
                    answer[0].head.seal = answer[0].head.seal[:-1] + b"?"
            return answer

    target = f"127.0.0.1:{running.daemon.grpc_port}"
    with Changing(target, token=running.tokens["app"], trust=trust) as client:
        with pytest.raises(ProofError):
            client.run(evidence.save_history(client.context, person))
        assert client.asked == 2


# -- of a pruned ledger -----------------------------------------------------------------------------------------


class Pruned:
    """A daemon that has pruned the first five of a person's nine entries, and three memories from before that."""

    def __init__(self, directory: Path) -> None:
        self.world = world = World(directory)
        self.person = world.running.enrol("FILE-PRUNED")
        given = world.running.grant(self.person)
        self.whole, self.early = RamMemory(), RamMemory()
        world.use(self.person, 2)
        world.settle()
        assert len(world.history(self.person, self.early).entries) == 4
        world.use(self.person, 1)
        world.revoke(self.person, given)
        world.settle()
        assert len(world.history(self.person, self.whole).entries) == 6
        world.fill(300)
        world.settle()  # a seal behind all that is old
        world.clock.advance(DAYS + 10)
        world.running.grant(self.person)
        world.use(self.person, 2)
        world.settle()
        world.prune()

    @property
    def trust(self) -> Trust:
        return pin(read_keys(self.world.running.config).log.verifier, self.world.running.config.ledger.origin)

    def save(self, memory: RamMemory | None = None) -> tuple[History, bytes]:
        client = self.world.client(memory)
        return client.run(evidence.save_history(client.context, self.person))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pruned]:
    pruned = Pruned(tmp_path_factory.mktemp("pruned"))
    yield pruned
    pruned.world.settle()
    pruned.world.running.check_ledger()
    pruned.world.running.stop()


def test_a_file_of_a_pruned_history_begins_where_it_is_whole(pruned: Pruned) -> None:
    found, content = pruned.save()
    assert [(entry.seq, entry.is_pruned) for entry in found.entries] == [(6, True), (7, False), (8, False), (9, False)]
    assert all(entry.is_new for entry in found.entries)
    assert found.missing == ((1, 5),)
    assert parse_proof(content).chains[0].first_seq == 6
    assert format_evidence(parse_evidence(content)) == content
    assert open_history(content, trust=pruned.trust, tag=found.tag) == found
    client = pruned.world.client()
    found, content = client.run(evidence.save_history(client.context, "ledger"))
    assert [entry.seq for entry in found.entries] == [1, 2]
    assert open_history(content, trust=pruned.trust, name="ledger") == found


def test_what_a_memory_holds_of_before_is_not_in_the_file(pruned: Pruned) -> None:
    """The file has what the daemon can still prove, whatever is remembered; its entries after those are new."""
    for memory, held in ((pruned.early, 4), (pruned.whole, 6)):
        new = [seq for seq in (6, 7, 8, 9) if seq > held]
        found, content = pruned.save(memory)
        assert [entry.seq for entry in found.entries] == [6, 7, 8, 9]
        assert [entry.seq for entry in found.new] == new
        assert found.missing == ((1, 5),)
        assert [entry.seq for entry in open_history(content, trust=pruned.trust).entries] == [6, 7, 8, 9]
        again, _ = pruned.save(memory)
        assert [entry.seq for entry in again.entries] == [6, 7, 8, 9]
        assert again.new == ()
    # What it holds is all there still, where one asks for it.
    shown = pruned.world.history(pruned.person, pruned.whole)
    assert [entry.seq for entry in shown.entries] == list(range(1, 10))
    assert shown.missing == ()
    shown = pruned.world.history(pruned.person, pruned.early)
    assert [entry.seq for entry in shown.entries] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert shown.missing == ((5, 5),)


def test_a_file_of_a_pruned_history_with_less_than_is_kept(pruned: Pruned) -> None:
    _, content = pruned.save()
    proof = parse_proof(content)
    person, *others = proof.chains

    def opened(chain: ChainProof, *rest: ChainProof) -> Any:
        return open_history(to_file(replace(proof, chains=(chain, *rest))), trust=pruned.trust)

    opened(person, *others)
    for first in (5, 7, 8, 10):
        with pytest.raises(ProofError):
            opened(replace(person, first_seq=first), *others)
    later = replace(person, first_seq=7, entries=person.entries[1:])
    with pytest.raises(ProofError):
        opened(later, *others)
    gone = HistoryEntry(person.entries[1].leaf, None)
    with pytest.raises(ProofError):
        opened(replace(person, entries=(person.entries[0], gone, *person.entries[2:])), *others)
    with pytest.raises(ProofError):
        opened(person, *(chain for chain in others if chain.public_name != "ledger"))


def test_the_command_line_saves_and_opens_a_pruned_history(
    offline: CommandLine, pruned: Pruned, tmp_path: Path
) -> None:
    file, memory = tmp_path / "history.json", tmp_path / "memory.json"
    running = pruned.world.running
    offline = offline.given(CONSENTD_LOG_KEY=note.format_vkey(pruned.trust.log_key))
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    online = offline.given(CONSENTD_TARGET=target, CONSENTD_TOKEN=running.tokens["app"])
    saved = online("history", named(pruned.person), "--memory", memory, "--save", file, "--lang", "en")
    assert (saved.status, len(saved.out.splitlines())) == (0, 4)
    assert "entries 1 to 5 were pruned" in saved.err
    assert online("history", named(pruned.person), "--memory", memory, "--save", file, "--new").out == ""
    found = offline("history", "--from", file, "--lang", "en")
    assert (found.status, found.out) == (0, saved.out)
    assert "proven: all 4 entries that are kept" in found.err
    summary = json.loads(offline("history", "--from", file, "--json").out.splitlines()[-1])
    assert {"verdict": "proven", "entries": 4, "missing": [[1, 5]]}.items() <= summary.items()


def test_what_from_does_not_go_with(online: CommandLine, person: Subject, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    assert online("history", named(person), "--save", file).status == 0
    for more in (
        (named(person),), ("--save", tmp_path / "x"), ("--new",), ("--tag", "00" * 32, "--public", "ledger"),
        ("--max-age", "x"), ("--tag", "zz"),
    ):  # fmt: skip
        assert online("history", "--from", file, *more).status == 2
    assert online("history", "--from", tmp_path / "missing").status == 2
    assert online("history", named(person), "--max-age", "5").status == 2
    assert online("history", named(person), "--save", tmp_path / "no" / "directory").status == 2


def test_the_age_of_cosignatures(online: CommandLine, running: Running, person: Subject, tmp_path: Path) -> None:
    file, policy = tmp_path / "history.json", tmp_path / "policy"
    assert online("history", named(person), "--save", file).status == 0
    policy.write_text(f"witness w {note.format_vkey(WITNESS.verifier)}\nquorum w\n")
    assert online("history", "--from", file, "--policy", policy).status == 1
    document = parse_proof(file.read_bytes())
    opened = note.parse_note(document.checkpoint)
    sealed = codec.decode_leaf(document.seal)
    cosigned = WITNESS.cosign(opened.text, sealed.time_ms // 1000 + 1)
    lines = note.format_note(opened.text, [*opened.unverified, cosigned])
    file.write_bytes(to_file(replace(document, checkpoint=lines)))
    assert online("history", "--from", file, "--policy", policy).status == 0
    assert online("history", "--from", file, "--policy", policy, "--max-age", "1000000").status == 0
    early = WITNESS.cosign(opened.text, sealed.time_ms // 1000 - 50)
    lines = note.format_note(opened.text, [*opened.unverified, early])
    file.write_bytes(to_file(replace(document, checkpoint=lines)))
    assert online("history", "--from", file, "--policy", policy, "--max-age", "10").status == 1


# -- receipts ---------------------------------------------------------------------------------------------------


def test_a_receipt_is_saved_for_other_programs(
    online: CommandLine, offline: CommandLine, trust: Trust, tmp_path: Path
) -> None:
    kept, proof = tmp_path / "enrol.receipt", tmp_path / "enrol.tlog-proof"
    assert online("enrol", "mhid:FILE-RECEIPT", "--receipt", kept).status == 0
    early = json.loads(kept.read_text())
    kept.write_text(json.dumps({**early, "proof": ""}))
    done = online("receipt", kept, "--save", proof)
    assert (done.status, "proof saved" in done.err) == (0, True)
    leaf = tmp_path / "enrol.tlog-proof.leaf"
    verify_receipt(leaf.read_bytes(), proof.read_bytes(), trust)
    assert online("verify", proof, "--leaf", leaf).status == 0
    # If a receipt has its proof, no daemon is called.
    proof.unlink()
    assert offline("receipt", kept, "--save", proof).status == 0
    verify_receipt(leaf.read_bytes(), proof.read_bytes(), trust)
    for wrong, status in (
        ({"proof": early["proof"].replace("index", "xedni")}, 2),
        ({"index": early["index"] + 1}, 1),
        ({"proof": 5}, 2),
    ):
        kept.write_text(json.dumps({**early, **wrong}))
        assert offline("receipt", kept, "--save", proof).status == status


def test_a_memory_is_left_alone_by_a_file(online: CommandLine, person: Subject, tmp_path: Path) -> None:
    file, memory = tmp_path / "history.json", tmp_path / "memory.json"
    assert online("history", named(person), "--save", file, "--memory", memory).status == 0
    before = memory.read_bytes()
    assert FileMemory(memory).checkpoint() is not None
    assert online("history", "--from", file, "--memory", memory).status == 0
    assert memory.read_bytes() == before
