"""How a test publishes vocabularies, rules and notices: attempts of ``cases.roles``."""

from typing import TYPE_CHECKING, Any

from cases.daemons import consent, request_id, sign_statement
from cases.notices import make_notice
from cases.services import new_identifier, now_ms
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.service.roles import Access, Whose
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

if TYPE_CHECKING:
    from cases.roles import Call


def _next(call: "Call", what: str) -> Any:
    """Return the next version of the vocabulary or of the rules, as it is."""
    registry, operator = call.running.registry, call.running.as_("operator")
    if what == "vocabulary":
        message: Any = registry.GetVocabulary(rs.GetVocabularyRequest(), metadata=operator).vocabulary
    else:
        message = registry.GetRules(rs.GetRulesRequest(), metadata=operator).rules
    message.version += 1
    message.ClearField("attestation")
    return message


def publish_vocabulary(call: "Call") -> Access:
    request = rs.PublishVocabularyRequest(request_id=request_id(), attested=_next(call, "vocabulary"))
    return call.plain(call.running.registry.PublishVocabulary, request)


def publish_rules(call: "Call") -> Access:
    request = rs.PublishRulesRequest(request_id=request_id(), attested=_next(call, "rules"))
    return call.plain(call.running.registry.PublishRules, request)


def _notice() -> st.NoticeStatement:
    name = f"n{request_id().hex()[:8]}"
    return make_notice(name)


def published(call: "Call") -> st.NoticeStatement:
    notice = _notice()
    request = rs.PublishNoticeRequest(request_id=request_id(), attested=notice)
    call.running.registry.PublishNotice(request, metadata=call.running.as_("operator"))
    return notice


def publish_notice(call: "Call") -> Access:
    notice, request = _notice(), rs.PublishNoticeRequest(request_id=request_id())
    if call.whose is Whose.OWN:
        notice.participant_id, notice.notice_id = call.caller, f"{call.caller}/{notice.notice_id}"
    signed = call.sign(request, EntryKind.NOTICE, notice, f"notice/{notice.notice_id}")
    return call.plain(call.running.registry.PublishNotice, signed)


def _campaign(call: "Call", participant_id: str = "") -> str:
    """Publish two versions of a notice, of which the second asks for new consents; return its id.

    *participant_id*: whose notice it is, and who signs it, because it has a key; empty: the realm's.
    """
    name, registry = f"n{request_id().hex()[:8]}", call.running.registry
    name = f"{participant_id}/{name}" if participant_id else name
    for version, asked_ms in ((1, 0), (2, 4_000_000_000_000)):
        notice = make_notice(name, version, participant_id=participant_id, reconsent_by_time_ms=asked_ms)
        request = rs.PublishNoticeRequest(request_id=request_id())
        if participant_id:
            signed = sign_statement(
                call.world.keys[participant_id], notice, kind=EntryKind.NOTICE, tag=codec.public_tag(f"notice/{name}"),
                request=request.request_id, time_ms=now_ms(call.running),
            )  # fmt: skip
            request.signed.CopyFrom(signed)
        else:
            request.attested.CopyFrom(notice)
        registry.PublishNotice(request, metadata=call.running.as_(participant_id or "operator"))
    return name


def list_reconsents(call: "Call") -> Access:
    """List the consents under a notice, if it can of the caller's own. It has one, of a person who denies too."""
    running, notice = call.running, _campaign(call, _speaker(call))
    subject, stated = running.enrol(new_identifier()), consent()
    stated.notice_id, stated.notice_version = notice, 1
    grant = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=stated)
    )
    running.consents.GrantConsent(grant, metadata=running.as_("app"))
    running.grant(subject, effect=pb.EFFECT_DENY)
    answer = call.make(running.consents.ListReconsents, cs.ListReconsentsRequest(notice_id=notice))
    if isinstance(answer, Access):
        return answer
    return Access.ALLOWED if answer.reconsents else Access.REDUCED


def _speaker(call: "Call") -> str:
    """Return the caller, if it may publish notices of its own; else nobody."""
    return call.caller if call.caller in call.world.keys and call.caller != "left" else ""


def get_campaign(call: "Call") -> Access:
    is_own = call.whose is Whose.OWN
    request = rs.GetCampaignRequest(notice_id=_campaign(call, _speaker(call) if is_own else ""))
    return call.plain(call.running.registry.GetCampaign, request)


def get_notice(call: "Call") -> Access:
    request = rs.GetNoticeRequest(notice_id=published(call).notice_id)
    return call.plain(call.running.registry.GetNotice, request)
