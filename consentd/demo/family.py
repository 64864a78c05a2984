"""Play one child's story with the client library: a mother consents for the child, with a key of her own.

The relay saw the family's paper, and records who may act for the child: the mother, by the key on her phone. She signs
the consent, and the app that she uses passes it on. So the child's history alone shows who acted. What was permitted so
ends at midnight in Korea, when the child is 14. Nothing is written then. A city is the guardian of a ward: it is a
participant, and acts by its own credential.
"""

import hashlib
from datetime import datetime

from rich.markup import escape

from consentd.core.ed25519 import KeyPair
from consentd.core.possession import prove_possession, representative_owner
from consentd.demo.output import Output
from consentd.demo.story import CLINIC
from consentd.demo.town import HOSPITAL, RELAY
from consentd.policy.dates import SEOUL, format_instant
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, History, StatementSigner

CHILD = pb.Subject(scheme="mhid", value="SYN-900003")
WARD = pb.Subject(scheme="mhid", value="SYN-900004")
FAMILY_APP = ("family-app", "모의 가족 앱", "synthetic family app")
"""Id and names of the app that a mother uses, and through which a city acts for a ward."""
MOTHER = KeyPair(hashlib.sha256(b"a made-up mother's key").digest())
AGE = 9
"""The child's age, in years."""
_PAPER = b"a made-up family relation certificate"
_ACTS = [st.AUTHORITY_ACT_GRANT, st.AUTHORITY_ACT_AMEND, st.AUTHORITY_ACT_PAUSE, st.AUTHORITY_ACT_REVOKE]
_ON_A_PAGE = 1
"""PIPA Enforcement Decree 17-2(1), item 1: the guardian consents on a page, and gets a text message on the phone."""


class Family:
    """One child's story. The clients have the tokens of the operator, the relay and the family's app."""

    def __init__(self, operator: Client, relay: Client, app: Client, *, origin: str, out: Output) -> None:
        self._operator, self._origin = operator, origin
        self._relay = relay
        self._app = app
        self._out = out

    def run(self) -> History:
        """Make the calls and print their results; return the child's verified history.

        Raises:
            ConsentdError: a call failed, or the history does not verify.
        """
        out, why = self._out, self._out.why
        self._register_app()
        born = f"{datetime.now(SEOUL).year - AGE}-01-01"
        tag, origin = self._relay.enrol(CHILD, method="demo").tag, self._origin
        possession = prove_possession(MOTHER, origin=origin, owner=representative_owner(CHILD.scheme, CHILD.value))
        seq = self._relay.put_authority(CHILD, _authority(born), possession=possession).event.seq
        mother = StatementSigner(key=MOTHER, origin=origin, tag=tag)
        (authority,) = self._relay.list_authorities(CHILD)
        out.print(f"   {out.text('출생', 'born')} {born}, {out.text('대리권', 'authority')} #{seq}")
        why("14세 미만은 법정대리인이 동의합니다.", "For a child under 14 a legal guardian consents.")
        self._app.grant(CHILD, _consent(), authority_seq=seq, signer=mother, published=True)
        answer = self._relay.check(_question())
        until = format_instant(answer.decision.valid_until_time_ms)
        treatment = out.text("진료 목적", "for treatment")
        out.print(f"   {treatment}: [green]{answer.outcome_name}[/green], {out.text('까지', 'until')} {until}")
        research = format_instant(authority.research_end_time_ms)
        why(
            f"14세 생일 0시에 저절로 끝나고, 연구 목적은 18세({research})에 끝납니다.",
            f"It ends by itself at 14, and for research at 18 ({research}).",
        )
        history = self._app.history(CHILD)
        for lang in ("ko", "en"):
            if out.language in (lang, "both"):
                out.print(f"   {escape(history.entries[-1].line(lang))}")
        why("누가 누구를 어떤 자격으로 대리했는지 남습니다.", "Who acted for the child, and as what, stays on record.")
        self._guard_ward()
        return history

    def _guard_ward(self) -> None:
        """Let the guardian of an adult give a consent, and end the guardianship."""
        out = self._out
        self._relay.enrol(WARD, method="demo")
        seq = self._relay.put_authority(WARD, _guardianship()).event.seq
        self._app.grant(WARD, _consent(), authority_seq=seq, method="demo")
        outcomes = [self._relay.check(_question(WARD)).outcome_name]
        self._relay.end_authority(WARD, seq)
        outcomes.append(self._relay.check(_question(WARD)).outcome_name)
        out.print(f"   {out.text('피후견인', 'a ward')}: [green]{outcomes[0]}[/green] → {outcomes[1]}")
        out.why(
            "후견이 끝나면 후견인이 준 허용도 그 순간 끝납니다.",
            "When the guardianship ends, what the guardian permitted ends at once.",
        )

    def _register_app(self) -> None:
        app_id, ko, en = FAMILY_APP
        self._operator.register_participant(
            st.ParticipantStatement(
                participant_id=app_id, name={"ko": ko, "en": en}, roles=[st.PARTICIPANT_ROLE_RELAY],
                rights=[st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS], active=True,
            )
        )  # fmt: skip


def _authority(born: str) -> st.AuthorityStatement:
    """Return the authority of the mother over a child who was born on a day, as in 2015-02-28."""
    paper = st.AuthorityEvidence(kind="family-relation-certificate", sha256=hashlib.sha256(_PAPER).digest())
    return st.AuthorityStatement(
        key=MOTHER.public_key, capacity=st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN, acts=_ACTS,
        reason=st.AUTHORITY_REASON_MINOR, birth_date=born, evidence=[paper], verified_by=_ON_A_PAGE,
    )  # fmt: skip


def _guardianship() -> st.AuthorityStatement:
    """Return the authority of a participant over an adult, by the decision of a court."""
    paper = st.AuthorityEvidence(kind="court-decision", sha256=hashlib.sha256(b"a made-up decision").digest())
    return st.AuthorityStatement(
        participant_id=FAMILY_APP[0], capacity=st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN, acts=_ACTS,
        reason=st.AUTHORITY_REASON_INCAPACITATED, evidence=[paper],
    )  # fmt: skip


def _consent() -> pb.Consent:
    """Return a consent without an end: the hospital may use the clinic's clinical data for treatment."""
    root = pb.Provision(
        effect=pb.EFFECT_PERMIT, actors=[HOSPITAL], holders=[CLINIC], purposes=["TREAT"], categories=["CLIN"]
    )
    return pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko")


def _question(subject: pb.Subject = CHILD) -> pb.Question:
    return pb.Question(
        subject=subject, actor=pb.Actor(organisation=HOSPITAL, relays=[RELAY[0]]), holder=CLINIC, purpose="TREAT",
        action="collect", categories=["CLIN.DX"],
    )  # fmt: skip
