"""Labels of codes in Korean and English, and the escaping of text that others wrote."""

import re
from collections.abc import Iterable, Mapping

from consentd.policy.default_vocabulary import LEGAL_BASES, REFUSAL_GROUNDS
from consentd.policy.language import best_text, is_korean

# Control characters, line separators, and characters that change the direction of the text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_LABELS: Mapping[str, tuple[str, str]] = {
    "LEDGER": ("원장", "ledger"),
    "PARTICIPANT": ("참여기관", "participant"),
    "KEY": ("키", "key"),
    "VOCABULARY": ("용어", "vocabulary"),
    "NOTICE": ("고지", "notice"),
    "CHILD": ("아동용", "for children"),
    "RECONSENT_BY": ("재동의 기한", "new consents by"),
    "ENROL": ("등록", "enrolled"),
    "AUTHORITY": ("대리권", "authority"),
    "LEGAL_GUARDIAN": ("법정대리인", "legal guardian"),
    "AGENT": ("임의대리인", "agent"),
    "SPOUSE": ("배우자", "spouse"),
    "ASCENDANT": ("직계존속", "parent or grandparent"),
    "DESCENDANT": ("직계비속", "child or grandchild"),
    "SPOUSE_ASCENDANT": ("배우자의 직계존속", "parent-in-law"),
    "SIBLING": ("형제자매", "sibling"),
    "PROTECTOR": ("보호자", "protector"),
    "DECEASED": ("사망", "deceased"),
    "UNCONSCIOUS": ("의식불명", "unconscious"),
    "MISSING": ("실종", "missing"),
    "MINOR": ("미성년", "minor"),
    "INCAPACITATED": ("피후견", "incapacitated"),
    "READ_HISTORY": ("이력 열람", "read the history"),
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
    "ADMINISTRATION": ("운영", "administration"),
    "CREDENTIAL_ADDED": ("인증 정보 추가", "credential added"),
    "CREDENTIAL_REVOKED": ("인증 정보 취소", "credential revoked"),
    "VAULT_KEY_ROTATION_STARTED": ("금고 키 교체 시작", "rotation of the vault key started"),
    "BACKUP_STARTED": ("백업 시작", "backup started"),
    "CREDENTIALS_FILE_CHANGED": ("자격 증명 파일 변경", "credentials file changed"),
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
    "BEYOND_PERMIT": ("허용되지 않은 정보", "beyond what was permitted"),
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
    "ENDS": ("종료 예정", "ends"),
    "ENDS_FOR_RESEARCH": ("연구 목적은", "for research"),
    "NOT_YET": ("시작 전", "not yet in force"),
    "RECIPIENTS": ("받는 자", "recipients"),
    "HOLDERS": ("제공기관", "holders"),
    "PURPOSES": ("목적", "purposes"),
    "CATEGORIES": ("정보", "categories"),
    "ACTIONS": ("행위", "actions"),
    "LABELS": ("민감 표시", "labels"),
    "RESOURCES": ("자료", "resources"),
    "LEVEL": ("민감도", "level"),
    "IN_FORCE": ("효력 기간", "in force"),
    "DATA_PERIOD": ("자료의 기간", "data of"),
    "ANY_TIME": ("제한 없음", "any time"),
    "DUE": ("전송 예정", "due"),
    "MISSED": ("전송 누락", "missed"),
    "RECURRENCE": ("주기", "recurrence"),
    "KEPT_UNTIL": ("보유 기한", "kept until"),
    "OTHERWISE": ("그 밖에는", "otherwise"),
    "BASIC_NORMAL": ("일반 자료는 진료 목적으로 허용", "normal data permitted for treatment"),
    "ALL_NORMAL": ("일반 자료는 통상 목적으로 허용", "normal data permitted for usual purposes"),
    "BREAK_GLASS_ONLY": ("응급 열람만 허용", "emergency access only"),
    "U": ("제한 없음", "unrestricted"),
    "L": ("낮음", "low"),
    "M": ("보통 이하", "moderate"),
    "N": ("일반", "normal"),
    "R": ("제한", "restricted"),
    "V": ("매우 제한", "very restricted"),
    "KIND": ("종류", "kind"),
    "EFFECT": ("효과", "effect"),
    "LANGUAGE": ("언어", "language"),
    "LEGAL_BASIS": ("법적 근거", "legal basis"),
    "LEGAL_BASIS_NOTE": ("법적 근거의 설명", "note on the legal basis"),
    "NONE": ("없음", "none"),
    "POLICY_URIS": ("근거 정책", "under policy"),
    "SOURCE": ("출처", "imported from"),
    "NOT_IMPLIED": ("(동의에 이름을 들어야 함)", "(a permit must name it)"),
    "PREDECESSOR": ("이전 원장", "in the place of"),
    "CONDITION": ("조건", "condition"),
    "EXCEPT": ("예외", "except"),
    "ONLY_LABELS": ("이 민감 표시만", "no labels but"),
    "ONE_LABEL": ("이 중 하나의 민감 표시", "with one of the labels"),
    "ANY_LABEL": ("모든 민감 표시", "any label"),
    "NO_FURTHER_LABEL": ("다른 민감 표시 없음", "no further label"),
    "DEFAULT_LEVEL": ("정보마다 정해진 민감도까지", "up to the default level"),
    "OBLIGATION": ("의무", "obligation"),
    "ENFORCE_RESIDUAL": ("각 자료에 조건을 적용", "apply the conditions to each resource"),
    "NOTIFY_SUBJECT": ("본인에게 지체 없이 통지", "inform the person without delay"),
    "POST_REVIEW": ("사후 검토", "have the access reviewed afterwards"),
    "UP_TO": ("{} 이하", "up to {}"),
    "AND_ABOVE": ("{} 이상", "{} and above"),
}


_NAMES = {code.code: code.name for code in (*REFUSAL_GROUNDS, *LEGAL_BASES)}


def escape_control(text: str) -> str:
    """Replace characters that move the cursor, start a line or change the text direction by their hex numbers."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def label(code: str, lang: str) -> str:
    """Return the label of a code: in Korean for readers of Korean, else in English. Without one, return the code."""
    found = _LABELS.get(code)
    return code if found is None else found[0 if is_korean(lang) else 1]


def code_name(code: str, lang: str) -> str:
    """Return a refusal ground or a legal basis, with its name if the default vocabulary has it."""
    name = best_text(_NAMES.get(code, {}), lang)
    return f"{code} {name}" if name else code


def enum_name(enum: type, number: int, prefix: str) -> str:
    """Return the name of a protobuf enum value without its prefix; the number if this version does not know it."""
    try:
        return str(enum.Name(number)).removeprefix(prefix)  # type: ignore[attr-defined]  # protobuf's enum wrapper
    except ValueError:
        return str(number)


def enum_label(enum: type, number: int, prefix: str, lang: str) -> str:
    """Return the label of a protobuf enum value."""
    return label(enum_name(enum, number, prefix), lang)


def joined(values: Iterable[str], if_empty: str) -> str:
    """Return the values of a list as text; *if_empty* if there are none."""
    return "+".join(values) or if_empty
