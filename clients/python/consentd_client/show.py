"""Texts for people, in Korean and English: labels of codes, and one-line descriptions of statements."""

import re
from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError, Message

from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX
from consentd.policy.dates import format_instant
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

LANGUAGES = ("ko", "en")
# Control characters, line separators, and characters that change the direction of the text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_LABELS: Mapping[str, tuple[str, str]] = {
    "LEDGER": ("원장", "ledger"),
    "PARTICIPANT": ("참여기관", "participant"),
    "KEY": ("키", "key"),
    "VOCABULARY": ("용어", "vocabulary"),
    "NOTICE": ("고지", "notice"),
    "ENROL": ("등록", "enrolled"),
    "AUTHORITY": ("대리권", "authority"),
    "GRANT": ("동의", "granted"),
    "AMEND": ("변경", "amended"),
    "PAUSE": ("일시정지", "paused"),
    "RESUME": ("재개", "resumed"),
    "REVOKE": ("철회", "revoked"),
    "ACCESS": ("이용", "access"),
    "REFUSAL": ("거절", "refused"),
    "OUTCOME": ("전송 결과", "outcome"),
    "DISPUTE": ("이의제기", "dispute"),
    "RESOLUTION": ("처리 결과", "resolution"),
    "DUTY": ("의무", "duty"),
    "SERVED": ("통지", "served"),
    "ERASURE": ("파기", "erased"),
    "RULES": ("규칙", "rules"),
    "DELEGATION": ("위임", "delegation"),
    "READ": ("열람", "read"),
    "HISTORY": ("이력", "history"),
    "ACCESSES": ("이용 목록", "accesses"),
    "CONSENTS": ("동의", "consents"),
    "STATEMENTS": ("기록 내용", "statements"),
    "ENTRY": ("항목", "entry"),
    "MANDATE": ("감사 명령", "mandate"),
    "PERMIT": ("허용", "permitted"),
    "PARTIAL": ("일부 허용", "permitted in part"),
    "DENY": ("거부", "denied"),
    "INDETERMINATE": ("판단 불가", "could not be determined"),
    "NO_CONSENT": ("동의 없음", "no consent"),
    "ACTIVE": ("유효", "active"),
    "PAUSED": ("일시정지", "paused"),
    "REVOKED": ("철회", "revoked"),
    "CONSENT": ("동의", "consent"),
    "TRANSFER_REQUEST": ("전송요구", "transfer request"),
    "OBJECTION": ("처리정지 요구", "objection"),
    "STATUTORY": ("법적 근거", "statutory"),
    "SENT": ("보냄", "sent"),
    "RECEIVED": ("받음", "received"),
    "FAILED": ("실패", "failed"),
    "DEFERRED": ("연기", "deferred"),
    "ERASED": ("(파기됨)", "(erased)"),
    "PRUNED": ("(보유기간이 지나 파기됨)", "(pruned: past its retention)"),
    "UNKNOWN": ("(이 버전에서 읽을 수 없음)", "(cannot be read by this version)"),
    "ANY": ("제한 없음", "any"),
    "RETIRED": ("폐지", "retired"),
    "RELAY": ("중계", "relay"),
    "PROCESSOR": ("수탁", "processor"),
    "APPLICATION": ("앱", "application"),
    "BREAK_GLASS": ("응급 열람", "break-glass"),
    "ENDED": ("종료", "ended"),
}


def escape_control(text: str) -> str:
    """Replace characters that move the cursor, start a line or change the text direction by their hex numbers."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def label(code: str, lang: str) -> str:
    """Return the label of a code; the code itself if it has no label."""
    found = _LABELS.get(code)
    return code if found is None else found[LANGUAGES.index(lang)]


def enum_name(enum: type, number: int, prefix: str) -> str:
    """Return the name of a protobuf enum value without its prefix; the number if this version does not know it."""
    try:
        return str(enum.Name(number)).removeprefix(prefix)  # type: ignore[attr-defined]  # protobuf's enum wrapper
    except ValueError:
        return str(number)


def enum_label(enum: type, number: int, prefix: str, lang: str) -> str:
    """Return the label of a protobuf enum value."""
    return label(enum_name(enum, number, prefix), lang)


def author(name: str, lang: str) -> str:
    """Describe the signer of an entry, for example "signed by the person". *name* is the ``Entry.author``."""
    if not name:
        return ""
    if name == LEDGER_CHAIN:
        return "서버 서명" if lang == "ko" else "signed by the daemon"
    if name == "subject":
        return "본인 서명" if lang == "ko" else "signed by the person"
    participant = name.removeprefix(PARTICIPANT_PREFIX)
    return f"{participant} 서명" if lang == "ko" else f"signed by {participant}"


def attested(participant: str, lang: str) -> str:
    """Describe that *participant* attests a statement that the daemon signed; empty if *participant* is empty."""
    if not participant:
        return ""
    return f"({participant} 확인)" if lang == "ko" else f"(attested by {participant})"


def describe(message: Message | None, lang: str) -> str:
    """Describe a statement's payload in a few words. *message* is None if this version cannot read the statement."""
    match message:
        case st.GrantStatement():
            return consent(message.consent, lang)
        case st.AmendStatement():
            return f"v{message.version} #{message.lineage_seq} {consent(message.consent, lang)}"
        case st.PauseStatement() | st.ResumeStatement():
            return f"#{message.lineage_seq}"
        case st.RevokeStatement():
            return f"#{message.lineage_seq}" + (f" “{message.note}”" if message.note else "")
        case st.AccessStatement():
            return access(message, lang)
        case st.RefusalStatement():
            return _refusal(message, lang)
        case st.OutcomeStatement():
            status = enum_label(st.TransferStatus, message.status, "TRANSFER_STATUS_", lang)
            return " ".join(filter(None, (status, _list(message.categories, ""), message.note)))
        case st.ReadStatement():
            scope = enum_label(st.ReadScope, message.scope, "READ_SCOPE_", lang)
            under = f" ({label('MANDATE', lang)} #{message.mandate_seq})" if message.mandate_seq else ""
            return f"{message.reader}: {scope}{under}"
        case st.EnrolStatement():
            return message.scheme
        case st.LedgerStatement():
            return message.origin
        case st.ParticipantStatement():
            return f"{message.participant_id} {text(message.name, lang)}"
        case st.KeyStatement():
            return message.key.hex()[:16] + (f" {label('RETIRED', lang)}" if message.retired else "")
        case st.VocabularyStatement():
            return f"{message.vocabulary_id} v{message.version}"
        case st.NoticeStatement():
            return f"{message.notice_id} v{message.version} {text(message.title, lang)}"
        case st.RulesStatement():
            return f"{message.realm_id} v{message.version}"
        case st.MandateStatement():
            return mandate(message, lang)
        case st.DelegationStatement():
            return delegation(message, lang)
    return label("UNKNOWN", lang)


def text(both: st.Text, lang: str) -> str:
    """Return a text in language *lang*, or in the other language if the text is not available in *lang*."""
    return (both.ko or both.en) if lang == "ko" else (both.en or both.ko)


def consent(message: pb.Consent, lang: str) -> str:
    """Describe a consent in one line; nested provisions are only counted."""
    root = message.root
    effect = enum_label(pb.Effect, root.effect, "EFFECT_", lang)
    kind = enum_label(pb.ConsentKind, message.kind, "CONSENT_KIND_", lang)
    every = label("ANY", lang)
    end = f" ~ {format_instant(root.period.end_time_ms)}" if root.period.end_time_ms else ""
    nested = f" (+{len(root.provisions)})" if root.provisions else ""
    basis = f" [{escape_control(message.legal_basis)}]" if message.legal_basis else ""
    return (
        f"{kind}, {effect}: {_list(root.holders, every)} → {_list(root.actors, every)}, "
        f"{_list(root.purposes, every)}, {_list(root.categories, every)}{end}{nested}{basis}"
    )


def mandate(message: st.MandateStatement, lang: str) -> str:
    """Describe a mandate in one line: auditor, scope, reason and end."""
    if message.ended:
        return f"{message.auditor}, {label('ENDED', lang)}"
    scope, reason = map(escape_control, (message.scope, message.reason))
    return f"{message.auditor}, {scope}, “{reason}” ~ {format_instant(message.end_time_ms)}"


def delegation(message: st.DelegationStatement, lang: str) -> str:
    """Describe a delegation in one line: taker → giver, the capacity, and what limits it."""
    capacity = enum_label(st.DelegationCapacity, message.capacity, "DELEGATION_CAPACITY_", lang)
    parties = f"{message.taker} → {message.giver}, {capacity}"
    if message.ended:
        return f"{parties}, {label('ENDED', lang)}"
    start, end = (format_instant(ms) if ms else "" for ms in (message.start_time_ms, message.end_time_ms))
    limits = [_list(message.purposes, label("ANY", lang)), label("BREAK_GLASS", lang) if message.break_glass else ""]
    window = f"{start} ~ {end}".strip() if start or end else ""
    return ", ".join(filter(None, (parties, *limits, window)))


def access(message: st.AccessStatement, lang: str) -> str:
    """Describe an access in one line: the decision's outcome, the question and the caller."""
    outcome = enum_label(pb.Outcome, message.decision.outcome, "OUTCOME_", lang)
    asked = parse_question(message)
    said = label("UNKNOWN", lang) if asked is None else question(asked)
    return f"{outcome}: {said}, {asker(message.asked.asker, lang)}"


def parse_question(message: st.AccessStatement) -> pb.Question | None:
    """Parse the question of an access; None if it cannot be parsed."""
    found = pb.Question()
    try:
        found.ParseFromString(message.asked.question)
    except (DecodeError, ValueError, RecursionError):
        return None
    return found


def asker(caller: str, lang: str) -> str:
    """Describe who asked a question: the participant whose credential the call had."""
    return f"{caller} 요청" if lang == "ko" else f"asked by {caller}"


def question(asked: pb.Question) -> str:
    """Describe a question in one line: holder → actor, purpose, action, categories. The person is not named."""
    actor = asked.actor
    others = [("for", actor.on_behalf_of), ("with", actor.application), *(("via", relay) for relay in actor.relays)]
    parties = [actor.organisation, *(f"{role} {name}" for role, name in others if name)]
    categories = _list(asked.categories, "")
    return f"{asked.holder} → {' '.join(parties)}, {asked.purpose}, {asked.action}, {categories}"


def _refusal(message: st.RefusalStatement, lang: str) -> str:
    if message.HasField("access"):
        return access(message.access, lang)
    reason = enum_name(st.RefusalReason, message.reason, "REFUSAL_REASON_")
    missing = f" ({_list(message.missing, '')})" if message.missing else ""
    return f"{reason}{missing}, {consent(message.grant.consent, lang)}"


def _list(values: Iterable[str], if_empty: str) -> str:
    return "+".join(values) or if_empty
