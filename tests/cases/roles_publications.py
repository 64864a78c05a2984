"""How a test publishes vocabularies, rules and notices: attempts of ``cases.roles``."""

from typing import TYPE_CHECKING, Any

from cases.daemons import request_id
from cases.notices import make_notice
from consentd.core.kinds import EntryKind
from consentd.service.roles import Access, Whose
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
        notice.participant_id = call.caller
    signed = call.sign(request, EntryKind.NOTICE, notice, f"notice/{notice.notice_id}")
    return call.plain(call.running.registry.PublishNotice, signed)


def get_notice(call: "Call") -> Access:
    request = rs.GetNoticeRequest(notice_id=published(call).notice_id)
    return call.plain(call.running.registry.GetNotice, request)
