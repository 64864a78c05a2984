"""Re-running who wrote consents: an entry that the daemon had to refuse is named, whoever signed it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cases.audits import JOBS, LOG, ORIGIN, Forge, make_forge
from cases.notices import make_notice, text_hash
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Rules
from consentd.statements.values import rules_message, vocabulary_message
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

PERSON = KeyPair(b"\x51" * 32)
COURT = st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY
RELAY = st.PARTICIPANT_ROLE_RELAY
RECIPIENT = st.PARTICIPANT_ROLE_RECIPIENT
OWN = ("kind", "legal_basis", "implicit_policy", "notice_id", "notice_version", "source", "authority_seq")
ACT = st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS


class Case:
    """A ledger with a court, a recipient that acts for persons, and a person with a key; and the wrong entries."""

    def __init__(self) -> None:
        self.forge: Forge = make_forge(60)
        self.forge.participant("court", roles=[COURT])
        self.forge.participant("hospital-app", roles=[RECIPIENT], rights=[ACT])
        self.forge.participant("left", roles=[RECIPIENT], active=False)
        self.tag = self.forge.enrol(999)
        attestation = st.Attestation(attested_by="app")
        self.forge.add(EntryKind.KEY, self.tag, st.KeyStatement(key=PERSON.public_key, attestation=attestation))
        self.wrong: list[int] = []

    def add(self, message: Any, kind: EntryKind, who: str = "app", *, is_fault: bool, **more: Any) -> int:
        """Append an entry that *who* attests; without *who*, one that nobody attests. Return its seq."""
        if is_fault:
            self.wrong.append(self.forge.size)
        signed = "key" in more
        if not signed:
            message.attestation.attested_by = who
            if getattr(message, "authority_seq", 0) and "method" not in more:
                message.attestation.method = "id-card"
        more.pop("method", None)
        return self.forge.add(kind, self.tag, message, **more)

    def grant(self, who: str = "app", *, is_fault: bool, key: KeyPair | None = None, **fields: Any) -> int:
        """Append a GRANT; *fields*: of the consent if they are ``OWN``, all others of its root."""
        own = {name: fields.pop(name) for name in OWN if name in fields}
        more = {name: fields.pop(name) for name in ("method",) if name in fields}
        root = pb.Provision(
            **{"effect": pb.EFFECT_PERMIT, "actors": ["bank"], "purposes": ["CAREMGT"], "categories": ["CLIN.DX"]}
            | fields
        )
        seq = own.pop("authority_seq", 0)
        made = pb.Consent(**{"kind": pb.CONSENT_KIND_CONSENT, "root": root, "language": "ko"} | own)
        more |= {} if key is None else {"key": key}
        statement = st.GrantStatement(consent=made, authority_seq=seq)
        return self.add(statement, EntryKind.GRANT, who, is_fault=is_fault, **more)

    def change(self, kind: EntryKind, seq: int, who: str = "app", *, is_fault: bool, **more: Any) -> None:
        statement: Callable[..., Any] = {
            EntryKind.PAUSE: st.PauseStatement, EntryKind.RESUME: st.ResumeStatement,
            EntryKind.REVOKE: st.RevokeStatement,
        }[kind]  # fmt: skip
        self.add(statement(lineage_seq=seq), kind, who, is_fault=is_fault, ref=seq, **more)

    def faults(self, directory: Path) -> list[int | None]:
        self.forge.seal()
        report = replay_decisions(
            self.forge.write(directory / "a", directory / "b"), origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS
        )
        assert {fault.what.partition(": ")[0] for fault in report.faults} <= {"entry must not be written so"}
        return [fault.index for fault in report.faults]


@pytest.fixture
def case() -> Case:
    return Case()


ORDER: dict[str, Any] = {"kind": pb.CONSENT_KIND_STATUTORY, "legal_basis": "COURT"}


def test_a_statutory_consent_of_anybody_else_is_named(case: Case, tmp_path: Path) -> None:
    case.grant("court", is_fault=False, **ORDER)
    case.grant("operator/main", is_fault=False, **ORDER)
    for who in ("app", "bank", "hospital-app", "left", "operator", "stranger"):
        case.grant(who, is_fault=True, **ORDER)
    case.grant(is_fault=True, key=PERSON, **ORDER)
    seq = case.grant("court", is_fault=False, effect=pb.EFFECT_DENY, **ORDER)
    case.change(EntryKind.PAUSE, seq, is_fault=True)
    case.change(EntryKind.RESUME, seq, "court", is_fault=False)
    amended = st.AmendStatement(lineage_seq=seq, version=2)
    amended.consent.CopyFrom(pb.Consent(kind=pb.CONSENT_KIND_CONSENT, language="ko"))
    amended.consent.root.effect = pb.EFFECT_DENY
    case.add(amended, EntryKind.AMEND, is_fault=True, ref=seq)
    case.change(EntryKind.REVOKE, seq, is_fault=False)  # the amendment made it the person's, though it must not
    assert case.faults(tmp_path) == case.wrong


def test_the_end_of_a_hold_by_somebody_else_is_named(case: Case, tmp_path: Path) -> None:
    keys = {name: KeyPair(bytes([number]) * 32) for number, name in enumerate(("court", "other-court"), 0x61)}
    case.forge.participant("other-court", roles=[COURT])
    for name, key in keys.items():
        case.forge.add(EntryKind.KEY, codec.public_tag(f"participant/{name}"), st.KeyStatement(key=key.public_key))
    put = st.DutyStatement(
        hold=st.HoldStatement(legal_basis="COURT", until_time_ms=case.forge.time_ms + 10**9)
    )
    ended = st.DutyStatement(hold=st.HoldStatement(ended=True))

    def hold(who: str, ref: int = 0, *, is_fault: bool = False, **more: Any) -> int:
        message, signed = st.DutyStatement(), {"key": keys[who]} if who in keys else {}
        message.CopyFrom(ended if ref else put)
        return case.add(message, EntryKind.DUTY, who, is_fault=is_fault, ref=ref, **signed, **more)

    of_court, of_operator, lost = hold("court"), hold("operator/main"), hold("court", has_opening=False)
    hold("other-court", of_court, is_fault=True)
    hold("court", of_court, is_fault=True)  # the table took the end before
    hold("court", of_operator, is_fault=True)
    hold("operator/main", hold("operator/main"))
    hold("other-court", lost)  # who put it cannot be determined
    hold("court", 1, is_fault=True)  # the enrolment is no hold
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_of_someone_without_the_right_is_named(case: Case, tmp_path: Path) -> None:
    case.grant(is_fault=False)
    case.grant(is_fault=False, key=PERSON)
    for who in ("court", "bank", "left", "operator", "operator/main", "stranger"):
        case.grant(who, is_fault=True)
    seq = case.grant(is_fault=False)
    case.change(EntryKind.REVOKE, seq, "bank", is_fault=True)
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_that_its_recipient_alone_attests_is_named(case: Case, tmp_path: Path) -> None:
    case.grant("hospital-app", is_fault=False)
    case.grant("hospital-app", is_fault=True, actors=["hospital-app"])
    case.grant("hospital-app", is_fault=True, actors=["*"])
    case.grant(is_fault=False, key=PERSON, actors=["hospital-app"])
    seq = case.grant(is_fault=False, actors=["hospital-app"])
    case.change(EntryKind.PAUSE, seq, "hospital-app", is_fault=False)
    case.change(EntryKind.RESUME, seq, "hospital-app", is_fault=True)
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_that_names_whom_it_may_not_is_named(case: Case, tmp_path: Path) -> None:
    case.grant(is_fault=True, actors=["left"])
    case.grant(is_fault=True, key=PERSON, actors=["app"])
    case.grant(is_fault=False, effect=pb.EFFECT_DENY, actors=["app", "left"])
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_that_says_what_it_may_not_is_named(case: Case, tmp_path: Path) -> None:
    time_ms = case.forge.time_ms
    case.grant(is_fault=True, period=pb.Period(end_time_ms=1))
    case.grant(is_fault=True, period=pb.Period(end_time_ms=1), source="fhir/r4 Consent/1")
    case.grant(is_fault=True, period=pb.Period(end_time_ms=1), source="fhir/r4 Consent/1", key=PERSON)
    case.grant("operator/main", is_fault=True, period=pb.Period(end_time_ms=1))
    case.grant("operator/main", is_fault=False, period=pb.Period(end_time_ms=1), source="fhir/r4 Consent/1")
    case.grant(is_fault=True, holders=["SUBJECT"])
    case.grant(is_fault=True, effect=pb.EFFECT_DENY, holders=["SUBJECT"])
    case.grant(is_fault=True, authority_seq=1)
    case.grant(is_fault=False, period=pb.Period(start_time_ms=time_ms + 10**9))
    case.grant(is_fault=True, period=pb.Period(end_time_ms=1 << 55))
    case.grant(is_fault=True, actors=[], key=PERSON)
    case.grant(is_fault=True, kind=pb.CONSENT_KIND_TRANSFER_REQUEST)
    case.grant(is_fault=True, kind=pb.CONSENT_KIND_OBJECTION)
    case.grant(is_fault=True, effect=pb.EFFECT_DENY, implicit_policy=pb.IMPLICIT_POLICY_ALL_NORMAL)
    case.grant(is_fault=False, effect=pb.EFFECT_DENY, implicit_policy=pb.IMPLICIT_POLICY_BREAK_GLASS_ONLY)
    seq = case.grant(is_fault=False)
    for version, start_ms, is_fault in ((2, time_ms + 10**9, True), (3, time_ms, False)):
        amended = st.AmendStatement(lineage_seq=seq, version=version)
        root = pb.Provision(effect=pb.EFFECT_DENY, period=pb.Period(start_time_ms=start_ms))
        amended.consent.CopyFrom(pb.Consent(kind=pb.CONSENT_KIND_CONSENT, language="ko", root=root))
        case.add(amended, EntryKind.AMEND, is_fault=is_fault, ref=seq)
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_under_an_authority_that_is_not_in_force_is_named(case: Case, tmp_path: Path) -> None:
    """Foreign, ended, without the act, of somebody else, signed by the person, or for a person's own word."""
    case.forge.participant("guardian", roles=[RELAY], rights=[ACT])
    paper = st.AuthorityEvidence(kind="court-decision", sha256=bytes(32))

    def put(who: str = "app", *, is_fault: bool = False, **changed: Any) -> int:
        fields: dict[str, Any] = {
            "participant_id": "guardian", "capacity": st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN, "acts": [1, 2],
            "reason": st.AUTHORITY_REASON_INCAPACITATED, "evidence": [paper],
        }  # fmt: skip
        more = {name: changed.pop(name) for name in ("key", "ref") if name in changed}
        message = st.AuthorityStatement(**(changed if "ref" in more else {**fields, **changed}))
        return case.add(message, EntryKind.AUTHORITY, who, is_fault=is_fault, **more)

    seq = put()
    case.grant("guardian", is_fault=False, authority_seq=seq)
    case.grant("guardian", is_fault=True, authority_seq=seq, method="")
    case.grant("app", is_fault=True, authority_seq=seq)
    case.grant(is_fault=True, key=PERSON, authority_seq=seq)
    case.grant("guardian", is_fault=True, authority_seq=seq - 1)
    case.grant("court", is_fault=True, authority_seq=seq, **ORDER)
    own = case.grant(is_fault=False)
    revoked = st.RevokeStatement(lineage_seq=own, authority_seq=seq)
    case.add(revoked, EntryKind.REVOKE, "guardian", is_fault=True, ref=own)
    for who in ("guardian", "operator/main", "bank", "stranger"):
        put(who, is_fault=True)
    put(is_fault=True, participant_id="left")
    put(is_fault=True, evidence=[])
    put(is_fault=True, key=PERSON)
    put("", key=PERSON, capacity=st.AUTHORITY_CAPACITY_AGENT, reason=0, evidence=[])
    put(ended=True, ref=seq)
    put(is_fault=True, ended=True, ref=seq)
    put(is_fault=True, ended=True, ref=1)
    case.grant("guardian", is_fault=True, authority_seq=seq)
    minor = {"reason": st.AUTHORITY_REASON_MINOR, "verified_by": 3}
    grown = put(birth_date="2010-01-01", **minor)  # 14 years old, and not 18
    case.grant("guardian", is_fault=True, authority_seq=grown)
    case.grant("guardian", is_fault=False, authority_seq=grown, purposes=["HRESCH"])
    case.grant("guardian", is_fault=True, authority_seq=grown, purposes=["HRESCH", "TREAT"])
    put(is_fault=True, birth_date="2000-01-01", **minor)
    # Who represents the person appoints nobody, and no relative may do more than read.
    case.forge.participant("daughter", roles=[RELAY], rights=[ACT])
    put("guardian", is_fault=True, participant_id="daughter")
    relative = {"participant_id": "daughter", "capacity": st.AUTHORITY_CAPACITY_DESCENDANT}
    put(is_fault=True, **relative, acts=[1], reason=st.AUTHORITY_REASON_DECEASED)
    reads = put(**relative, acts=[5], reason=st.AUTHORITY_REASON_UNCONSCIOUS)
    put(is_fault=True, evidence=[st.AuthorityEvidence(kind="a-letter", sha256=bytes(32))])

    def read(reader: str, authority: int, *, is_fault: bool = False) -> None:
        message = st.ReadStatement(reader=reader, scope=st.READ_SCOPE_HISTORY, authority_seq=authority)
        if is_fault:
            case.wrong.append(case.forge.size)
        case.forge.add(EntryKind.READ, case.tag, message)

    read("daughter", reads)
    read("app", reads, is_fault=True)
    read("guardian", grown, is_fault=True)
    read("daughter", 1, is_fault=True)
    assert case.faults(tmp_path) == case.wrong


def test_what_a_representative_s_key_may_not_do_is_named(case: Case, tmp_path: Path) -> None:
    """A key that is not pinned, that the wrong one attests, or that signs after the end of the authority."""
    mother, new, stranger = (KeyPair(bytes([number]) * 32) for number in (0x71, 0x72, 0x73))
    paper = st.AuthorityEvidence(kind="court-decision", sha256=bytes(32))

    def put(key: KeyPair, **changed: Any) -> int:
        fields: dict[str, Any] = {
            "key": key.public_key, "capacity": st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN, "acts": [1, 4],
            "reason": st.AUTHORITY_REASON_INCAPACITATED, "evidence": [paper],
        }  # fmt: skip
        return case.add(st.AuthorityStatement(**{**fields, **changed}), EntryKind.AUTHORITY, is_fault=False)

    def put_key(seq: int, key: KeyPair, who: str = "app", *, is_fault: bool = False, **more: Any) -> None:
        message = st.KeyStatement(key=key.public_key, authority_seq=seq, retired=more.pop("retired", False))
        case.add(message, EntryKind.KEY, who, is_fault=is_fault, **more)

    seq = put(mother)
    put_key(seq, mother)
    given = case.grant(is_fault=False, key=mother, authority_seq=seq)
    case.grant("app", is_fault=True, authority_seq=seq)
    amended = st.AmendStatement(lineage_seq=given, version=2, authority_seq=seq)
    amended.consent.CopyFrom(pb.Consent(kind=pb.CONSENT_KIND_CONSENT, language="ko"))
    amended.consent.root.CopyFrom(pb.Provision(effect=pb.EFFECT_DENY))
    case.add(amended, EntryKind.AMEND, is_fault=True, key=mother, ref=given)  # without the act
    put_key(seq, new, "bank", is_fault=True)
    put_key(seq, stranger, is_fault=True, method="")
    put_key(given, stranger, is_fault=True)
    ended = st.AuthorityStatement(ended=True)
    case.add(ended, EntryKind.AUTHORITY, is_fault=False, key=mother, ref=seq)
    case.grant(is_fault=True, key=mother, authority_seq=seq)
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_that_is_too_large_for_the_person_is_named(case: Case, tmp_path: Path) -> None:
    """The person has a provision already. The eighth consent of 250 has the 2,001st. Denies have another limit."""
    children = [pb.Provision(effect=pb.EFFECT_DENY, level="R") for _ in range(249)]
    for number in range(8):
        case.grant(is_fault=number == 7, provisions=children)
    case.grant(is_fault=False, effect=pb.EFFECT_DENY, provisions=children)
    case.grant(is_fault=True)
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_that_names_a_notice_nobody_published_is_named(case: Case, tmp_path: Path) -> None:
    case.grant(is_fault=True, notice_id="n1", notice_version=1)
    published = make_notice("n1", title={"en": "n"})
    case.forge.add(EntryKind.NOTICE, codec.public_tag("notice/n1"), published)
    case.grant(is_fault=False, notice_id="n1", notice_version=1)
    case.grant(is_fault=True, notice_id="n1", notice_version=2)
    case.grant(is_fault=True, notice_id="n2", notice_version=1)
    assert case.faults(tmp_path) == case.wrong
    # A missing statement may have published any version, and asked for new consents. So no later entry is said to be
    # wrong.
    at = case.wrong[0] + 1
    case.forge.openings[at] = None
    assert case.faults(tmp_path / "lost") == [case.wrong[0]]


def test_a_refusal_with_another_ground_than_the_consent_gives_is_named(case: Case, tmp_path: Path) -> None:
    asked = pb.Consent(kind=pb.CONSENT_KIND_TRANSFER_REQUEST, language="ko")
    asked.root.effect = pb.EFFECT_PERMIT
    missing = ["purpose", "holder", "recipient", "categories", "recurrence", "end", "retention"]
    for ground, named in (("R05", missing), ("R06", missing), ("", missing), ("R05", ["purpose"])):
        refused = st.RefusalStatement(grant=st.GrantStatement(consent=asked), reason=ground, missing=named)
        if (ground, named) != ("R05", missing):
            case.wrong.append(case.forge.size)
        case.forge.add(EntryKind.REFUSAL, case.tag, refused)
    case.forge.seal()
    location = case.forge.write(tmp_path / "a", tmp_path / "b")
    report = replay_decisions(location, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    assert [fault.index for fault in report.faults] == case.wrong
    assert "reason: recorded `R06`, comes out `R05`" in report.faults[0].what


def test_an_entry_that_the_daemon_signed_for_nobody_is_named(case: Case, tmp_path: Path) -> None:
    statement = st.GrantStatement(consent=pb.Consent(kind=pb.CONSENT_KIND_CONSENT, language="ko"))
    statement.consent.root.CopyFrom(
        pb.Provision(effect=pb.EFFECT_PERMIT, actors=["bank"], purposes=["CAREMGT"], categories=["CLIN.DX"])
    )
    case.wrong.append(case.forge.size)
    case.forge.add(EntryKind.GRANT, case.tag, statement.SerializeToString())
    assert codec.decode_leaf(case.forge.leaves[-1]).kind == EntryKind.GRANT  # type: ignore[union-attr]
    assert case.faults(tmp_path) == case.wrong


def test_an_entry_that_its_author_signed_and_somebody_attests_is_named(case: Case, tmp_path: Path) -> None:
    root = pb.Provision(effect=pb.EFFECT_PERMIT, actors=["bank"], purposes=["CAREMGT"], categories=["CLIN.DX"])
    given = pb.Consent(kind=pb.CONSENT_KIND_CONSENT, language="ko", root=root)
    case.add(st.GrantStatement(consent=given), EntryKind.GRANT, is_fault=False, key=PERSON)
    attested = st.Attestation(attested_by="hospital-app")
    case.add(st.GrantStatement(consent=given, attestation=attested), EntryKind.GRANT, is_fault=True, key=PERSON)
    assert case.faults(tmp_path) == case.wrong


def test_a_key_that_no_signer_has_is_named(case: Case, tmp_path: Path) -> None:
    for key in (bytes(31) + b"\x80", b"\x01" + bytes(31), b"\xff" * 32, bytes(32)):
        case.add(st.KeyStatement(key=key), EntryKind.KEY, is_fault=True)
    further = st.KeyStatement(key=KeyPair(b"\x52" * 32).public_key, attestation=st.Attestation(method="passport"))
    case.add(further, EntryKind.KEY, is_fault=False)
    assert case.faults(tmp_path) == case.wrong


def login(**changed: Any) -> st.Authentication:
    return st.Authentication(**{"issuer": "https://login.test", "acr": "loa2", **changed})


def test_a_key_of_a_person_that_must_not_be_is_named(case: Case, tmp_path: Path) -> None:
    def add(who: str, *, is_fault: bool, retired: bool = False, key: KeyPair | None = None, **attestation: Any) -> None:
        made = PERSON if retired else KeyPair(bytes([case.forge.size]) * 31 + b"k")
        message = st.KeyStatement(key=made.public_key, retired=retired)
        if key is None:
            message.attestation.CopyFrom(st.Attestation(**attestation))
        case.add(message, EntryKind.KEY, who, is_fault=is_fault, **({} if key is None else {"key": key}))

    # A replay applies wrong entries too, and a person has at most eight keys.
    for who in ("bank", "left"):
        add(who, is_fault=True, method="passport")
    add("app", is_fault=True)  # a further key without a method
    add("app", is_fault=True, authentication=login())  # a further key by a login
    add("app", is_fault=False, method="passport")
    add("", is_fault=False, key=PERSON)
    add("app", is_fault=False, retired=True, authentication=login())
    add("app", is_fault=True, retired=True)  # it is out of force already
    assert case.faults(tmp_path) == case.wrong


def test_a_login_that_nobody_may_answer_for_is_named(case: Case, tmp_path: Path) -> None:
    def grant(who: str, *, is_fault: bool, method: str = "", **changed: Any) -> None:
        root = pb.Provision(effect=pb.EFFECT_PERMIT, actors=["bank"], purposes=["CAREMGT"], categories=["CLIN.DX"])
        made = st.GrantStatement(consent=pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko"))
        made.attestation.CopyFrom(st.Attestation(method=method, authentication=login(**changed)))
        case.add(made, EntryKind.GRANT, who, is_fault=is_fault)

    grant("app", is_fault=False)
    grant("app", is_fault=True, method="passport")
    grant("app", is_fault=True, issuer="")
    for who in ("operator/main", "bank", "left", "court", "stranger"):
        grant(who, is_fault=True)
    name = st.ParticipantStatement(participant_id="new", name={"en": "new"}, roles=[RECIPIENT], active=True)
    name.attestation.CopyFrom(st.Attestation(attested_by="operator/main", authentication=login()))
    case.wrong.append(case.forge.size)
    case.forge.add(EntryKind.PARTICIPANT, codec.public_tag("participant/new"), name)
    assert case.faults(tmp_path) == case.wrong


def test_a_person_enrolled_or_asked_for_by_a_resident_registration_number_is_named(tmp_path: Path) -> None:
    forge = make_forge(60)
    tag, wrong = forge.enrol(998), []
    for number, scheme in enumerate(("rrn", "kr/rrn", "Resident", "mhid", "")):
        if scheme != "mhid":
            wrong.append(forge.size)
        statement = st.EnrolStatement(identifier_hash=bytes([number]) * 32, scheme=scheme)
        forge.add(EntryKind.ENROL, bytes([number]) * 32, statement)
    for identifier in ("900101-1234567", "SYN-1"):
        if identifier != "SYN-1":
            wrong.append(forge.size)
        forge.ask(tag, identifier=identifier)
    forge.seal()
    report = replay_decisions(
        forge.write(tmp_path / "a", tmp_path / "b"), origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS
    )
    assert [fault.index for fault in report.faults] == wrong


def test_a_vocabulary_and_rules_that_must_not_be_are_named(tmp_path: Path) -> None:
    forge, wrong = make_forge(60), []
    name = DEFAULT_VOCABULARY.id
    vocabulary = vocabulary_message(DEFAULT_VOCABULARY)
    rules = rules_message(Rules(), realm_id="realm", version=1, vocabulary_id=name)
    vocabulary_tag, rules_tag = codec.public_tag(f"vocabulary/{name}"), codec.public_tag("rules/realm")

    def publish(message: Any, kind: EntryKind, tag: bytes, *, is_fault: bool) -> None:
        message.version += 1
        if is_fault:
            wrong.append(forge.size)
        forge.add(kind, tag, message)

    vocabulary.codes[0].name["en"] = "another name"
    publish(vocabulary, EntryKind.VOCABULARY, vocabulary_tag, is_fault=False)
    leaf = next(one for one in vocabulary.codes if one.code == "CLIN.DX")
    leaf.level = "U"
    publish(vocabulary, EntryKind.VOCABULARY, vocabulary_tag, is_fault=True)
    vocabulary.version += 1
    publish(vocabulary, EntryKind.VOCABULARY, vocabulary_tag, is_fault=True)  # a version is missing
    rules.break_glass.add(effect=pb.EFFECT_PERMIT, purposes=["BTG"])
    publish(rules, EntryKind.RULES, rules_tag, is_fault=False)
    rules.break_glass.add(effect=pb.EFFECT_PERMIT, purposes=["TREAT"])
    publish(rules, EntryKind.RULES, rules_tag, is_fault=True)
    forge.seal()
    report = replay_decisions(
        forge.write(tmp_path / "a", tmp_path / "b"), origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS
    )
    assert [fault.index for fault in report.faults] == wrong


def test_what_the_daemon_must_not_record_as_shown_is_named(case: Case, tmp_path: Path) -> None:
    notice = codec.public_tag("notice/n1")
    case.forge.add(EntryKind.NOTICE, notice, make_notice("n1"))

    def add(who: str = "app", *, is_fault: bool, key: KeyPair | None = None, **changed: Any) -> int:
        fields = {"notice_id": "n1", "notice_version": 1, "language": "ko", "channel": "app", "served_time_ms": 1}
        more = {} if key is None else {"key": key}
        return case.add(st.ServedStatement(**{**fields, **changed}), EntryKind.SERVED, who, is_fault=is_fault, **more)

    add(is_fault=False)
    add(is_fault=False, key=PERSON)
    for who in ("", "court", "bank", "left", "stranger", "operator/main"):
        add(who, is_fault=True)
    for changed in (
        {"notice_version": 2}, {"language": "fr"}, {"channel": "An App"}, {"content_sha256": text_hash(2)},
        {"served_time_ms": case.forge.time_ms + 3_600_000},
    ):  # fmt: skip
        add(is_fault=True, **changed)
    assert case.faults(tmp_path) == case.wrong


def test_a_consent_that_rests_on_what_was_not_shown_is_named(case: Case, tmp_path: Path) -> None:
    for version in (1, 2):
        notice = make_notice("n1", version)
        case.forge.add(EntryKind.NOTICE, codec.public_tag("notice/n1"), notice)

    def grant(served_seq: int, version: int = 1, *, is_fault: bool) -> int:
        root = pb.Provision(effect=pb.EFFECT_PERMIT, actors=["bank"], purposes=["CAREMGT"], categories=["CLIN.DX"])
        made = pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, notice_id="n1", notice_version=version)
        return case.add(
            st.GrantStatement(consent=made, served_seq=served_seq), EntryKind.GRANT, is_fault=is_fault
        )

    shown = st.ServedStatement(notice_id="n1", notice_version=1, language="ko", channel="app", served_time_ms=1)
    other = case.forge.enrol(1000)
    shown.attestation.attested_by = "app"
    elsewhere = case.forge.add(EntryKind.SERVED, other, shown)
    first = case.add(shown, EntryKind.SERVED, is_fault=False)
    given = grant(first, is_fault=False)
    grant(first, 2, is_fault=True)
    for wrong in (1, 2, given, given + 3, 1 << 63):  # ENROL, GRANT, GRANT, one of later, none
        grant(wrong, is_fault=True)
    assert elsewhere < first
    grant(elsewhere, is_fault=True)
    amended = st.AmendStatement(lineage_seq=given, version=2, served_seq=given)
    amended.consent.CopyFrom(pb.Consent(kind=pb.CONSENT_KIND_CONSENT, notice_id="n1", notice_version=1))
    amended.consent.root.CopyFrom(
        pb.Provision(effect=pb.EFFECT_PERMIT, actors=["bank"], purposes=["CAREMGT"], categories=["CLIN.DX"])
    )
    case.add(amended, EntryKind.AMEND, is_fault=True, ref=given)
    lost = case.forge.size
    second = case.add(shown, EntryKind.SERVED, is_fault=False)
    case.forge.openings[lost] = None  # what it says is not known, so no consent is said to be wrong for it
    grant(second, is_fault=False)
    grant(second, 2, is_fault=False)
    assert case.faults(tmp_path) == case.wrong
