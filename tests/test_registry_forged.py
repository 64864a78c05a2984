"""Entries of the registry, and enrolments, that no daemon writes: audits and fsck name each of them, and no other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from cases.audited import named, verify
from cases.audits import JOBS, LOG, ORIGIN, Forge
from cases.ledgers import BANK, CITIZEN, LedgerCase, check_ledger
from cases.notices import make_notice
from cases.writes import Raw
from consentd.audit.replay import replay_decisions
from consentd.core import codec, ed25519
from consentd.core.kinds import EntryKind
from consentd.errors import DeniedError
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Rules
from consentd.sequencer.commands.registry import EnrolSubject
from consentd.statements.values import rules_message, vocabulary_message
from consentd.v1 import statement_pb2 as st

AUDITOR = ed25519.KeyPair(b"\x25" * 32)
VOCABULARY = vocabulary_message(DEFAULT_VOCABULARY)
VOCABULARY.version += 1
NOTICE = make_notice("own", title={"en": "Notice"})
ACT = st.AdministrationStatement(
    credential_added=st.CredentialAdded(credential_id="ab" * 16, caller="operator/x", roles=[st.OPERATOR_ROLE_RUN])
)
SHOP = st.ParticipantStatement(
    participant_id="shop", name={"en": "Shop"}, roles=[st.PARTICIPANT_ROLE_HOLDER], active=True
)
AGAIN = st.ParticipantStatement(
    participant_id="bank", name={"en": "Bank"}, roles=[st.PARTICIPANT_ROLE_HOLDER], active=True
)
ENTRIES: dict[str, tuple[EntryKind, str, Message]] = {
    "a participant": (EntryKind.PARTICIPANT, "participant/shop", SHOP),
    "a participant again": (EntryKind.PARTICIPANT, "participant/bank", AGAIN),
    "a vocabulary": (EntryKind.VOCABULARY, f"vocabulary/{DEFAULT_VOCABULARY.id}", VOCABULARY),
    "a notice": (EntryKind.NOTICE, "notice/own", NOTICE),
    "rules": (EntryKind.RULES, "rules/realm",
              rules_message(Rules(), realm_id="realm", version=2, vocabulary_id=DEFAULT_VOCABULARY.id)),
    "an act of an operator": (EntryKind.ADMINISTRATION, "administration", ACT),
}  # fmt: skip
SIGNERS = {"a participant": BANK, "an auditor": AUDITOR, "a person": CITIZEN}
ATTESTERS = ("bank", "auditor", "shop")


def payload_of(message: Message, attested_by: str = "operator/main") -> bytes:
    attestation = type(message)(attestation=st.Attestation(attested_by=attested_by))  # type: ignore[call-arg]
    return message.SerializeToString(deterministic=True) + attestation.SerializeToString()


def begun() -> Forge:
    """Return a ledger with a bank, an auditor and a person, who have keys."""
    forge = Forge()
    forge.begin()
    forge.participant("auditor", roles=[st.PARTICIPANT_ROLE_AUDITOR])
    forge.participant("left", active=False)
    for name, key in (("bank", BANK), ("auditor", AUDITOR)):
        forge.add(EntryKind.KEY, codec.public_tag(f"participant/{name}"), st.KeyStatement(key=key.public_key))
    by_app = st.Attestation(attested_by="app")
    forge.add(EntryKind.KEY, forge.enrol(0), st.KeyStatement(key=CITIZEN.public_key, attestation=by_app))
    return forge


def faults(forge: Forge, directory: Path) -> list[int | None]:
    """Return the indexes of the faults that ``audit verify`` names."""
    forge.seal()
    return named(verify(forge.write(directory / "ledger", directory / "openings")))


def add(forge: Forge, name: str, payload: bytes, **more: Any) -> int:
    """Append an entry and entries that rest on it; return its index."""
    kind, chain, _ = ENTRIES[name]
    at = forge.size
    forge.add(kind, codec.public_tag(chain), payload, **more)
    if kind == EntryKind.PARTICIPANT and not more:
        key, tag = ed25519.KeyPair(b"\x26" * 32), codec.public_tag(chain)
        forge.add(EntryKind.KEY, tag, st.KeyStatement(key=key.public_key))
        delegation = st.DelegationStatement(
            giver=chain.removeprefix("participant/"), taker="app", capacity=st.DELEGATION_CAPACITY_RELAY
        )
        forge.add(EntryKind.DELEGATION, tag, delegation, key=key)
    return at


@pytest.mark.parametrize("name", ENTRIES)
def test_what_an_operator_attests_is_no_fault(tmp_path: Path, name: str) -> None:
    forge = begun()
    add(forge, name, payload_of(ENTRIES[name][2]))
    assert faults(forge, tmp_path) == []


@pytest.mark.parametrize("who", SIGNERS)
@pytest.mark.parametrize("name", ENTRIES)
def test_an_audit_names_what_another_than_the_daemon_signed(tmp_path: Path, name: str, who: str) -> None:
    forge, message = begun(), ENTRIES[name][2]
    wrong = [add(forge, name, message.SerializeToString(), key=SIGNERS[who])]
    wrong.append(add(forge, name, payload_of(message), key=SIGNERS[who]))
    is_own = (name, who) == ("a participant again", "a participant")  # its record, which it may sign
    assert faults(forge, tmp_path) == ([] if is_own else wrong)


@pytest.mark.parametrize("who", SIGNERS)
def test_an_audit_names_an_enrolment_that_another_than_the_daemon_signed(tmp_path: Path, who: str) -> None:
    forge = begun()
    at = forge.size
    forge.add(EntryKind.ENROL, bytes(32), enrolment("app"), key=SIGNERS[who])
    assert faults(forge, tmp_path) == [at]


@pytest.mark.parametrize("attested_by", ATTESTERS)
@pytest.mark.parametrize("name", ENTRIES)
def test_an_audit_names_what_a_participant_attests(tmp_path: Path, name: str, attested_by: str) -> None:
    forge = begun()
    if attested_by == "shop" and name != "a participant":  # which attests its own entry
        forge.participant("shop")
    at = add(forge, name, payload_of(ENTRIES[name][2], attested_by))
    assert faults(forge, tmp_path) == [at]


@pytest.mark.parametrize("more", [b"", b"\xfa\x07\x01x"], ids=["known", "unknown field"])
@pytest.mark.parametrize("name", ["a vocabulary", "a notice", "rules"])
def test_fsck_names_what_a_participant_attests(case: LedgerCase, name: str, more: bytes) -> None:
    kind, chain, message = ENTRIES[name]
    case.write(Raw(kind=kind, tag=codec.public_tag(chain), payload=payload_of(message) + more, message=None))
    at = case.ledger.state.size
    payload = payload_of(message, "bank") + more
    case.write(Raw(kind=kind, tag=codec.public_tag(chain), payload=payload, message=None))
    case.seal()
    assert named(case.fsck()) == [at]


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - {"a participant again"}))
def test_fsck_names_what_a_participant_signed(case: LedgerCase, name: str) -> None:
    kind, chain, message = ENTRIES[name]
    case.write(case.key("bank", BANK.public_key))
    at = case.ledger.state.size
    payload = message.SerializeToString()
    case.write(Raw(kind=kind, tag=codec.public_tag(chain), payload=payload, author=BANK, message=None))
    case.seal()
    assert named(case.fsck()) == [at]


def test_what_the_daemon_writes_is_no_fault(case: LedgerCase) -> None:
    case.enrol("person")
    case.seal()
    check_ledger(case)


# -- enrolments -----------------------------------------------------------------------------------------------------


def enrolment(attested_by: str, method: str = "", number: int = 1) -> bytes:
    return st.EnrolStatement(
        identifier_hash=bytes([number]) * 32, scheme="test",
        attestation=st.Attestation(attested_by=attested_by, method=method),
    ).SerializeToString()  # fmt: skip


def test_a_replay_names_enrolments_that_nobody_may_attest(tmp_path: Path) -> None:
    forge, wrong = begun(), []
    person = forge.enrol(1)
    for number, (attested_by, method, is_fault) in enumerate((
        ("app", "", False), ("app", "in person", False), ("operator/main", "", True), ("bank", "", True),
        ("bank", "in person", True), ("auditor", "", True), ("nobody", "", True), ("", "", True), ("left", "law", True),
        ("bank", "law", False), ("bank", "break-glass", False), ("", "law", True), ("operator", "", True),
    ), start=1):  # fmt: skip
        if is_fault:
            wrong.append(forge.size)
        forge.add(EntryKind.ENROL, bytes([number]) * 32, enrolment(attested_by, method, number))
    forge.ask(person)
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    report = replay_decisions(export, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    assert [fault.index for fault in report.faults] == wrong
    assert sum(report.same.values()) == 1


@pytest.mark.parametrize("method", ["", "in person", "law", "break-glass"])
def test_who_does_not_act_for_persons_enrols_nobody(case: LedgerCase, method: str) -> None:
    case.write(case.public("participant/shop", EntryKind.PARTICIPANT, SHOP))
    hashed, size = case.vault.identifier_hash("test", "someone"), case.ledger.state.size
    for attested_by in ("shop", "nobody", ""):
        message = st.EnrolStatement.FromString(enrolment(attested_by, method))
        message.identifier_hash = hashed
        with pytest.raises(DeniedError):
            case.write(EnrolSubject(request=case.request(hashed), tag=case.vault.create(hashed), message=message))
    assert case.ledger.state.size == size
    case.enrol("someone")
    case.seal()
    check_ledger(case)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[LedgerCase]:
    case = LedgerCase(tmp_path)
    yield case
    case.close()
