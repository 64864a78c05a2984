"""Play a notice that changes: the hospital asks for new consents, and sees who has not answered.

The town's hospital publishes a notice, three citizens consent under it, and a later version asks them again by a date.
Until that date their consents count as before. One citizen answers; the hospital lists the other two by their tags.
"""

import hashlib
import time

from consentd.core.pruned import DAY_MS
from consentd.demo.output import Output
from consentd.demo.story import CLINIC
from consentd.demo.town import HOSPITAL
from consentd.policy.dates import format_instant
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import Client

ASKED = tuple(pb.Subject(scheme="mhid", value=f"SYN-90001{number}") for number in range(3))
NOTICE = "hospital-treatment"
WEEKS = 4


class AskedAgain:
    """One campaign. The clients have the tokens of the operator, the relay and the hospital."""

    def __init__(self, operator: Client, relay: Client, hospital: Client, *, out: Output) -> None:
        self._operator, self._relay, self._hospital, self._out = operator, relay, hospital, out

    def run(self) -> int:
        """Make the calls and print their results; return how many consents are not answered yet.

        Raises:
            ConsentdError: a call failed.
        """
        out, why = self._out, self._out.why
        self._publish(1)
        given = {}
        for citizen in ASKED:
            self._relay.enrol(citizen, method="demo")
            given[citizen.value] = self._relay.grant(citizen, _consent(1), served=_served(1)).consent_id
        by_ms = time.time_ns() // 1_000_000 + WEEKS * 7 * DAY_MS
        self._publish(2, by_ms)
        until = f"{out.text('재동의 기한', 'new consents by')} {format_instant(by_ms)}"
        out.print(f"   {out.text('고지', 'notice')} {NOTICE}@2, {until}")
        why(
            "기한이 지나면 옛 고지에 따른 동의는 저절로 멈춥니다.",
            "After that date, consents under the old notice are paused; nothing has to run.",
        )
        first = ASKED[0]
        self._relay.amend(first, given[first.value], _consent(2), based_on_version=1, served=_served(2))
        left = list(self._hospital.list_reconsents(NOTICE))
        counted = self._operator.get_campaign(NOTICE)
        said = out.text(
            f"답함 {counted.answered}, 아직 {counted.unanswered}",
            f"{counted.answered} answered, {counted.unanswered} not yet",
        )
        out.print(f"   {said}: " + ", ".join(f"{one.tag.hex()[:8]}…" for one in left))
        why("누구에게 물어야 하는지 병원이 압니다.", "The hospital sees whom it still has to ask.")
        return len(left)

    def _publish(self, version: int, by_ms: int = 0) -> None:
        self._operator.publish_notice(
            st.NoticeStatement(
                notice_id=NOTICE, version=version, title={"ko": "진료정보 이용 고지", "en": "use of clinical data"},
                texts={"ko": st.NoticeText(content_sha256=_text(version))}, reconsent_by_time_ms=by_ms,
            )
        )  # fmt: skip


def _text(version: int) -> bytes:
    return hashlib.sha256(f"a made-up notice, version {version}".encode()).digest()


def _served(version: int) -> st.ServedStatement:
    return st.ServedStatement(
        notice_id=NOTICE, notice_version=version, language="ko", channel="app", content_sha256=_text(version),
        served_time_ms=time.time_ns() // 1_000_000,
    )  # fmt: skip


def _consent(version: int) -> pb.Consent:
    """Return a consent under a version of the notice: the hospital may use the clinic's clinical data for treatment."""
    root = pb.Provision(
        effect=pb.EFFECT_PERMIT, actors=[HOSPITAL], holders=[CLINIC], purposes=["TREAT"], categories=["CLIN"]
    )
    return pb.Consent(
        kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko", notice_id=NOTICE, notice_version=version
    )
