"""Mandates: an auditor reads the statements of persons only while one is in force."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.audited import named, verify
from cases.audits import JOBS, LOG, ORIGIN, Forge
from cases.command_lines import CommandLine
from cases.daemons import Running, running_daemon
from cases.ledgers import CITIZEN, START_MS, LedgerCase, check_files
from cases.services import now_ms, refusal, register
from consentd.audit.evidence import make_evidence
from consentd.audit.replay import replay_decisions
from consentd.core import codec, ed25519
from consentd.core.evidence import Scope, parse_evidence
from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, InvalidError, NotFoundError, PreconditionError
from consentd.sequencer.commands import callers
from consentd.sequencer.commands.registry import PublicWrite
from consentd.statements.evidence import verify_evidence
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

DAY_MS = 86_400_000
CHAIN = codec.public_tag("participant/auditor")
BY_OPERATOR = st.Attestation(attested_by="operator/main")
READ = [st.PARTICIPANT_RIGHT_READ_STATEMENTS]


def mandate(auditor: str = "auditor", **fields: Any) -> st.MandateStatement:
    given = {"scope": "all accesses of 2026", "reason": "order 12", "end_time_ms": START_MS + DAY_MS, **fields}
    return st.MandateStatement(auditor=auditor, **{name: one for name, one in given.items() if one})


def ended(auditor: str = "auditor", **fields: Any) -> st.MandateStatement:
    return st.MandateStatement(auditor=auditor, ended=True, **fields)


# -- the entry ----------------------------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path: Path) -> Iterator[LedgerCase]:
    case = LedgerCase(tmp_path)
    for name, active in (("auditor", True), ("left", False)):
        registration = case.participant(name)
        registration.message.roles[:] = [st.PARTICIPANT_ROLE_AUDITOR]
        registration.message.rights[:] = READ
        case.write(registration)
        if not active:
            registration = case.participant(name)
            registration.message.active = False
            case.write(registration)
    yield case
    case.close()


def write(case: LedgerCase, message: st.MandateStatement) -> None:
    chain = f"participant/{message.auditor}"
    message.attestation.CopyFrom(BY_OPERATOR)
    request = case.request(chain, message.SerializeToString(), asker="operator/main")
    case.write(PublicWrite(kind=EntryKind.MANDATE, request=request, chain=chain, message=message))


def may_read(case: LedgerCase, now: int, who: str = "auditor") -> bool:
    assert case.table is not None
    with case.table.read() as snapshot:
        return callers.may_read_statements(snapshot, who, now)


def test_a_mandate_is_in_force_until_its_end_or_its_last_entry(case: LedgerCase) -> None:
    end = START_MS + DAY_MS
    assert not may_read(case, START_MS)
    write(case, mandate())
    assert [may_read(case, now) for now in (START_MS, end - 1, end)] == [True, True, False]
    write(case, mandate(end_time_ms=end + 1))
    assert [may_read(case, now) for now in (end, end + 1)] == [True, False]
    write(case, ended())
    assert not may_read(case, START_MS)
    with pytest.raises(NotFoundError):
        write(case, ended())
    write(case, mandate())
    assert may_read(case, START_MS)
    assert not may_read(case, START_MS, "operator/main")
    assert not may_read(case, START_MS, "bank")
    case.rebuild_table()
    assert may_read(case, START_MS)
    case.seal()
    check_files(case)


@pytest.mark.parametrize("change", [{"active": False}, {"rights": []}])
def test_a_mandate_alone_opens_nothing(case: LedgerCase, change: dict[str, Any]) -> None:
    write(case, mandate())
    message = st.ParticipantStatement(
        participant_id="auditor", name={"en": "A"}, roles=[st.PARTICIPANT_ROLE_AUDITOR], rights=READ, active=True
    )
    for field, value in change.items():
        message.ClearField(field)  # type: ignore[arg-type]
        message.MergeFrom(st.ParticipantStatement(**{field: value}))
    case.write(case.public("participant/auditor", EntryKind.PARTICIPANT, message))
    assert not may_read(case, START_MS)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (mandate(scope=""), "INVALID_REQUEST"),
        (mandate(scope="  "), "INVALID_REQUEST"),
        (mandate(reason=""), "INVALID_REQUEST"),
        (mandate(end_time_ms=0), "INVALID_REQUEST"),
        (mandate(end_time_ms=-5), "INVALID_REQUEST"),
        (mandate(end_time_ms=253_402_300_800_001), "INVALID_REQUEST"),
        (mandate(end_time_ms=START_MS - DAY_MS), "INVALID_REQUEST"),
        (mandate("nobody"), "UNKNOWN_PARTICIPANT"),
        (mandate("left"), "UNKNOWN_PARTICIPANT"),
        (mandate("group/auditors"), "UNKNOWN_PARTICIPANT"),
        (mandate("bank"), "WRONG_ROLE"),
        (ended(scope="x"), "INVALID_REQUEST"),
        (ended(end_time_ms=5), "INVALID_REQUEST"),
        (ended("bank"), "NOT_FOUND"),
    ],
)
def test_a_mandate_that_says_nothing_or_names_no_auditor_is_refused(
    case: LedgerCase, message: st.MandateStatement, reason: str
) -> None:
    with pytest.raises(ConsentdError) as refused:
        write(case, message)
    assert isinstance(refused.value, InvalidError | NotFoundError | PreconditionError)
    assert refused.value.reason == reason


# -- what no daemon writes ------------------------------------------------------------------------------------------

_BANK = ed25519.KeyPair(b"\x21" * 32)
_COURT, _HOSPITAL, _LEFT, _RETIRED = (ed25519.KeyPair(bytes([number]) * 32) for number in range(0x22, 0x26))
FORGED: dict[str, dict[str, Any]] = {
    "signed by the auditor": {"message": mandate(), "key": _BANK},
    "signed by a person": {"message": mandate(), "key": CITIZEN},
    "attested by the auditor": {"message": mandate(attestation=st.Attestation(attested_by="auditor"))},
    "in the chain of another": {
        "message": mandate(attestation=BY_OPERATOR), "tag": codec.public_tag("participant/bank"),
    },
    "of nobody": {
        "message": mandate("nobody", attestation=BY_OPERATOR), "tag": codec.public_tag("participant/nobody"),
    },
    "without an end": {"message": mandate(end_time_ms=0, attestation=BY_OPERATOR)},
    "without a reason": {"message": mandate(reason="", attestation=BY_OPERATOR)},
    "that is ended and has a scope": {"message": ended(scope="x", attestation=BY_OPERATOR)},
    "that does not decode": {"message": b"\xff"},
    "of a giver, signed by another participant": {"message": mandate(giver="court"), "key": _BANK},
    "of a giver, signed by the daemon": {"message": mandate(giver="court")},
    "of a giver, and attested": {"message": mandate(giver="court", attestation=BY_OPERATOR), "key": _COURT},
    "of no giver, signed by the court": {"message": mandate(), "key": _COURT},
    "of a giver that is no authority": {"message": mandate(giver="hospital"), "key": _HOSPITAL},
    "of a giver that has left": {"message": mandate(giver="left"), "key": _LEFT},
    "of a giver whose key is retired": {"message": mandate(giver="court"), "key": _RETIRED},
    "of nobody as giver": {"message": mandate(giver="nobody"), "key": _COURT},
    "of the auditor as giver": {"message": mandate(giver="auditor"), "key": _BANK},
}  # fmt: skip


def test_a_signed_one_is_evidence_with_the_chain_of_its_giver(tmp_path: Path) -> None:
    forge, court = Forge(), codec.public_tag("participant/court")
    forge.begin()
    forge.participant("auditor")
    forge.participant("court", roles=[st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY])
    forge.add(EntryKind.KEY, court, st.KeyStatement(key=_COURT.public_key))
    forge.add(EntryKind.MANDATE, CHAIN, mandate(giver="court"), key=_COURT)
    forge.add(EntryKind.MANDATE, CHAIN, ended(giver="court"), key=_COURT)
    forge.ask(forge.enrol(0))
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    assert verify(export).faults == ()
    replayed = replay_decisions(export, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    assert (replayed.faults, replayed.not_checked) == ((), {})
    path = tmp_path / "evidence.json"
    make_evidence(export, path, Scope(participant="auditor"), origin=ORIGIN, log_verifier=LOG.verifier)
    found = verify_evidence(parse_evidence(path.read_bytes()), origin=ORIGIN, log_verifier=LOG.verifier)
    assert (found.kinds["MANDATE"], found.unproven, found.unknown, found.closed) == (2, 0, 0, 0)
    assert court in {chain.proof.tag for chain in found.histories.chains}


def test_a_replay_names_a_giver_without_the_role(tmp_path: Path) -> None:
    forge = Forge()
    forge.begin()
    forge.participant("auditor")
    forge.ask(forge.enrol(0))
    forge.add(EntryKind.MANDATE, CHAIN, mandate(giver="bank"), key=_BANK)
    at = forge.size - 1
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    replayed = replay_decisions(export, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    assert [fault.index for fault in replayed.faults] == [at]


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_one_is_named_by_an_audit(tmp_path: Path, name: str) -> None:
    forge, forged = Forge(), FORGED[name]
    forge.begin()
    forge.participant("auditor")
    forge.add(EntryKind.KEY, CHAIN, st.KeyStatement(key=_BANK.public_key))
    forge.add(EntryKind.MANDATE, CHAIN, mandate(attestation=BY_OPERATOR))
    authority = st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY
    forge.participant("court", roles=[authority])
    forge.participant("left", roles=[authority])
    for name, key in (("court", _COURT), ("court", _RETIRED), ("hospital", _HOSPITAL), ("left", _LEFT)):
        forge.add(EntryKind.KEY, codec.public_tag(f"participant/{name}"), st.KeyStatement(key=key.public_key))
    court = codec.public_tag("participant/court")
    forge.add(EntryKind.MANDATE, CHAIN, mandate(giver="left"), key=_LEFT)
    forge.participant("left", roles=[authority], active=False)
    forge.add(EntryKind.KEY, court, st.KeyStatement(key=_RETIRED.public_key, retired=True), key=_COURT)
    forge.add(EntryKind.MANDATE, CHAIN, mandate(giver="court"), key=_COURT)
    person = forge.enrol(0)
    forge.add(EntryKind.KEY, person, st.KeyStatement(key=CITIZEN.public_key))
    forge.ask(person)
    at = forge.size
    more = {"key": forged["key"]} if "key" in forged else {}
    forge.add(EntryKind.MANDATE, forged.get("tag", CHAIN), forged["message"], **more)
    forge.add(EntryKind.MANDATE, CHAIN, ended(attestation=BY_OPERATOR))
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    assert named(verify(export)) == [at]


# -- by gRPC and by the command line ----------------------------------------------------------------------------------


def withheld(running: Running) -> int:
    running.wait_published()
    statements = running.ledger.ListEntries(ls.ListEntriesRequest(), metadata=running.as_("pipc"))
    return int(statements.withheld_count)


def test_an_auditor_reads_while_it_has_a_mandate(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        running.grant(running.enrol("SYN-000001"))
        register(running, "pipc", [st.PARTICIPANT_ROLE_AUDITOR], rights=READ)
        assert withheld(running) == 2
        given = rs.PutMandateRequest(
            request_id=bytes(15) + b"\1", attested=mandate("pipc", end_time_ms=now_ms(running) + DAY_MS)
        )
        put, end = running.registry.PutMandate, running.registry.EndMandate
        ending = rs.EndMandateRequest(
            request_id=bytes(15) + b"\2", attested=st.MandateStatement(auditor="pipc", ended=True)
        )
        for who in ("pipc", "app", "clinic-b"):
            assert refusal(lambda who=who: put(given, metadata=running.as_(who))) == "CALLER_NOT_ALLOWED"
        first = put(given, metadata=running.as_("operator")).receipt
        again = put(given, metadata=running.as_("operator")).receipt
        assert (again.leaf, again.replayed) == (first.leaf, True)
        assert withheld(running) == 0
        assert refusal(lambda: end(ending, metadata=running.as_("pipc"))) == "CALLER_NOT_ALLOWED"
        end(ending, metadata=running.as_("operator"))
        assert withheld(running) == 3  # the reading of the person's chain is an entry too
        wrong = rs.PutMandateRequest(request_id=bytes(15) + b"\3", attested=ended("pipc"))
        assert refusal(lambda: put(wrong, metadata=running.as_("operator"))) == "INVALID_REQUEST"
        running.check_ledger()


def test_the_command_line_gives_shows_and_ends(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        target = f"127.0.0.1:{running.daemon.grpc_port}"
        talk = CommandLine({"CONSENTD_TARGET": target, "CONSENTD_TOKEN": running.tokens["operator"]})
        more = ("--scope", "accesses of 2026", "--reason", "order 12", "--until", "2099-12-31")
        given = talk("participants", "mandate", "pipc", *more)
        assert given.out.startswith("pipc, accesses of 2026, “order 12” ~ 2100-01-01 00:00:00 KST")
        assert "  mandate: pipc, accesses of 2026" in talk("participants", "show", "pipc").out
        shown = talk("participants", "show", "pipc", "--json").object
        assert shown["mandate_end_time_ms"] > now_ms(running)
        assert talk("participants", "end-mandate", "pipc", "--lang", "ko").out == "pipc, 종료\n"
        assert talk("participants", "end-mandate", "pipc").status == 2
        assert talk("participants", "mandate", "clinic-b", *more).status == 2
        assert talk("participants", "show", "pipc", "--json").object["mandate_end_time_ms"] == 0
