"""Say for people what codes and statements mean, in Korean and English. What programs read are the codes."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone

from google.protobuf.message import DecodeError, Message

from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

LANGUAGES = ("ko", "en")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # turning the direction is too
_SEOUL = timezone(timedelta(hours=9))

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
}


def escape_control(text: str) -> str:
    """Replace each character that moves a cursor, starts a line or turns the text direction by its number."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def label(code: str, lang: str) -> str:
    """Return what people read for a code; a code without a label stands for itself."""
    found = _LABELS.get(code)
    return code if found is None else found[LANGUAGES.index(lang)]


def format_time(time_ms: int) -> str:
    """Return an instant as it is read in Korea, to the second: ``2026-03-01 09:00:00 KST``."""
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(_SEOUL)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"
    return f"{moment:%Y-%m-%d %H:%M:%S} KST"


def name(enum: type, number: int, prefix: str) -> str:
    """Return a protobuf enum value's name without its prefix; of an unknown one its number."""
    try:
        return str(enum.Name(number)).removeprefix(prefix)  # type: ignore[attr-defined]  # protobuf's enum wrapper
    except ValueError:
        return str(number)


def author(who: str, lang: str) -> str:
    """Return who signed an entry."""
    names = {
        "": ("", ""),
        LEDGER_CHAIN: ("서버 서명", "signed by the daemon"),
        "subject": ("본인 서명", "signed by the person"),
    }
    if who in names:
        return names[who][LANGUAGES.index(lang)]
    party = who.removeprefix(PARTICIPANT_PREFIX)
    return f"{party} 서명" if lang == "ko" else f"signed by {party}"


def attested(who: str, lang: str) -> str:
    """Return who vouches for what the daemon signed."""
    if not who:
        return ""
    return f"({who} 확인)" if lang == "ko" else f"(attested by {who})"


def describe(message: Message | None, lang: str) -> str:
    """Return in a few words what a statement says."""
    if isinstance(message, st.GrantStatement | st.AmendStatement):
        text = consent(message.consent, lang)
        return text if isinstance(message, st.GrantStatement) else f"v{message.version} #{message.lineage_seq} {text}"
    if isinstance(message, st.PauseStatement | st.ResumeStatement):
        return f"#{message.lineage_seq}"
    if isinstance(message, st.RevokeStatement):
        return f"#{message.lineage_seq}" + (f" “{message.note}”" if message.note else "")
    if isinstance(message, st.AccessStatement):
        return access(message, lang)
    if isinstance(message, st.RefusalStatement):
        return _refusal(message, lang)
    if isinstance(message, st.OutcomeStatement):
        status = label(name(st.TransferStatus, message.status, "TRANSFER_STATUS_"), lang)
        return " ".join(filter(None, (status, _listed(message.categories, ""), message.note)))
    return _describe_public(message, lang)


def _describe_public(message: Message | None, lang: str) -> str:
    if isinstance(message, st.LedgerStatement):
        return message.origin
    if isinstance(message, st.ParticipantStatement):
        return f"{message.participant_id} {text(message.name, lang)}"
    if isinstance(message, st.KeyStatement):
        return message.key.hex()[:16] + (f" {label('RETIRED', lang)}" if message.retired else "")
    if isinstance(message, st.VocabularyStatement):
        return f"{message.vocabulary_id} v{message.version}"
    if isinstance(message, st.NoticeStatement):
        return f"{message.notice_id} v{message.version} {text(message.title, lang)}"
    if isinstance(message, st.RulesStatement):
        return f"{message.realm_id} v{message.version}"
    if isinstance(message, st.EnrolStatement):
        return message.scheme
    return label("UNKNOWN", lang)


def text(both: st.Text, lang: str) -> str:
    """Return a text in one language, or in the other where it has none."""
    return (both.ko or both.en) if lang == "ko" else (both.en or both.ko)


def consent(message: pb.Consent, lang: str) -> str:
    """Return in a line what a consent says; nested provisions are counted."""
    root = message.root
    effect = label(name(pb.Effect, root.effect, "EFFECT_"), lang)
    kind = label(name(pb.ConsentKind, message.kind, "CONSENT_KIND_"), lang)
    every = label("ANY", lang)
    end = f" ~ {format_time(root.period.end_time_ms)}" if root.period.end_time_ms else ""
    nested = f" (+{len(root.provisions)})" if root.provisions else ""
    return (
        f"{kind}, {effect}: {_listed(root.holders, every)} → {_listed(root.actors, every)}, "
        f"{_listed(root.purposes, every)}, {_listed(root.categories, every)}{end}{nested}"
    )


def access(message: st.AccessStatement, lang: str) -> str:
    """Return in a line who asked for what, and how it came out."""
    outcome = label(name(pb.Outcome, message.decision.outcome, "OUTCOME_"), lang)
    question = pb.Question()
    try:
        question.ParseFromString(message.asked.question)
    except (DecodeError, ValueError, RecursionError):
        return f"{outcome}, {label('UNKNOWN', lang)}"
    return f"{outcome}: {asked(question)}"


def asked(question: pb.Question) -> str:
    """Return in a line what was asked: holder → actor, purpose, action, categories; never whose data."""
    actor = question.actor
    parties = [actor.organisation]
    parties += [f"{key} {value}" for key, value in (("for", actor.on_behalf_of), ("via", actor.relay)) if value]
    return (
        f"{question.holder} → {' '.join(parties)}, {question.purpose}, {question.action}, "
        f"{_listed(question.categories, '')}"
    )


def _refusal(message: st.RefusalStatement, lang: str) -> str:
    if message.HasField("access"):
        return access(message.access, lang)
    reason = name(st.RefusalReason, message.reason, "REFUSAL_REASON_")
    missing = f" ({_listed(message.missing, '')})" if message.missing else ""
    return f"{reason}{missing}, {consent(message.grant.consent, lang)}"


def _listed(values: Iterable[str], nothing: str) -> str:
    return "+".join(values) or nothing
