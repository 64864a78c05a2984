"""Define the default vocabulary, ``kr-phr`` version 1: Korean personal health records with HL7 v3 codes.

Grounds of refusals, ``R01`` to ``R11``, are the items of PIPA Enforcement Decree 42-8(1). Legal bases name an article
of PIPA or of the Medical Service Act (MA) by its numbers; ``COURT`` and ``STATUTE`` are ours, and a consent's note says
which order or law is meant.

Categories are the five classes of My Healthway (consent.md 1.4). CLIN has the twelve standard groups of clinical data
(PAT to NOTE) and two classes of KR CDI V2 (ENC, VIT). Purposes are HL7 v3 PurposeOfUse (consent.md 1.5). Labels are
HL7's codes for sensitive data (민감영역).

``implies`` is False for what a permit must name: the purposes BTG, CLINTRL, CLINTRCH, POPHLTH, HMARKT, POARCH, HLEGAL,
AITRAIN with those below them, and the action correct (policy.md, rule 6); also FAMRQT, PWATRNY, SUPNWK (a person other
than the subject retrieves data), and HTEST (test data).

``separate`` is True for what needs an act of its own: HMARKT (PIPA 22(1)7) and, as our own rule, AITRAIN. All
categories are health data. So PIPA 23(1)1, which asks for an act apart from consents to other data, marks none of them.
"""

from functools import partial
from typing import Final

from consentd.policy.vocabulary import Code, Vocabulary

_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_CONSENT_ACTION = "http://terminology.hl7.org/CodeSystem/consentaction"


def _code(
    code: str, ko: str, en: str, parent: str = "", *, implies: bool = True, separate: bool = False, system: str
) -> Code:
    return Code(
        code=code, name={"ko": ko, "en": en}, parent=parent, implies=implies, separate=separate, system=system
    )


def _category(code: str, ko: str, en: str, level: str = "", labels: tuple[str, ...] = ()) -> Code:
    parent = code.rpartition(".")[0]
    return Code(code=code, name={"ko": ko, "en": en}, parent=parent, level=level, labels=labels)


_purpose = partial(_code, system=_REASON)
_trial = partial(_purpose, parent="CLINTRCH", implies=False)
_action = partial(_code, system=_CONSENT_ACTION)
_label = partial(_code, system=_ACT_CODE)
_ground = _basis = _paper = partial(_code, implies=False, system="")


PURPOSES: Final = (
    _purpose("TREAT", "진료", "treatment"),
    _purpose("COC", "진료 의뢰·회송", "coordination of care", "TREAT"),
    _purpose("ETREAT", "응급진료", "emergency treatment", "TREAT"),
    _purpose("ERTREAT", "응급실 진료", "emergency room treatment", "ETREAT"),
    _purpose("BTG", "긴급열람(동의 예외)", "break the glass", "ETREAT", implies=False),
    _purpose("CLINTRL", "임상시험 진료", "clinical trial care", "TREAT", implies=False),
    _purpose("POPHLTH", "인구집단 건강", "population health", "TREAT", implies=False),
    _purpose("PATRQT", "본인 조회·저장", "patient requested"),
    _purpose("FAMRQT", "가족 조회", "family requested", "PATRQT", implies=False),
    _purpose("PWATRNY", "대리인 조회", "power of attorney", "PATRQT", implies=False),
    _purpose("SUPNWK", "돌봄 지원망 조회", "support network", "PATRQT", implies=False),
    _purpose("HPAYMT", "보험 청구·심사", "healthcare payment"),
    _purpose("CLMATTCH", "청구 첨부자료", "claim attachment", "HPAYMT"),
    _purpose("ELIGVER", "자격 확인", "eligibility verification", "HPAYMT"),
    _purpose("HOPERAT", "의료기관 운영", "healthcare operations"),
    _purpose("CAREMGT", "맞춤형 건강관리", "care management", "HOPERAT"),
    _purpose("HQUALIMP", "의료 질 향상", "health quality improvement", "HOPERAT"),
    _purpose("TRAIN", "교육·훈련", "training", "HOPERAT"),
    _purpose("PATADMIN", "증명서·행정 제출", "patient administration", "HOPERAT"),
    _purpose("HLEGAL", "영장·법적 의무", "legal", "HOPERAT", implies=False),
    _purpose("HTEST", "시험 데이터", "test health data", "HOPERAT", implies=False),
    _purpose("HRESCH", "연구(포괄동의)", "healthcare research"),
    _purpose("DSRCH", "특정 질환 연구", "disease specific research", "HRESCH"),
    _purpose("CLINTRCH", "임상시험 연구", "clinical trial research", "HRESCH", implies=False),
    _trial("CLINTRCHPC", "임상시험 연구(진료 병행)", "clinical trial research with patient care"),
    _trial("CLINTRCHNPC", "임상시험 연구(진료 없음)", "clinical trial research without patient care"),
    _purpose("BIORCH", "바이오·유전체 연구", "biomedical research", "HRESCH"),
    _purpose("TRANSRCH", "중개 연구", "translational research", "HRESCH"),
    _purpose("POARCH", "인구 기원·혈통 연구", "population origins or ancestry research", "HRESCH", implies=False),
    _purpose("AITRAIN", "인공지능 학습·개발", "training of AI", "HRESCH", implies=False, separate=True, system=""),
    _purpose("PUBHLTH", "공중보건·감염병", "public health"),
    _purpose("THREAT", "보건 위협 대응", "threat", "PUBHLTH"),
    _purpose("DISASTER", "재난 대응", "disaster", "PUBHLTH"),
    _purpose("HMARKT", "마케팅", "healthcare marketing", implies=False, separate=True),
)

CATEGORIES: Final = (
    _category("CLIN", "진료정보", "clinical"),
    _category("CLIN.PAT", "환자정보", "patient", "N"),
    _category("CLIN.ORG", "의료기관정보", "institution", "N"),
    _category("CLIN.PRAC", "진료의정보", "physician", "N"),
    _category("CLIN.DX", "진단내역", "diagnoses", "R"),
    _category("CLIN.RX", "약물처방내역", "prescriptions", "R"),
    _category("CLIN.LAB", "진단검사", "laboratory", "R"),
    _category("CLIN.IMG", "영상검사", "imaging", "R"),
    _category("CLIN.PATH", "병리검사", "pathology", "R"),
    _category("CLIN.FUNC", "기타검사", "other and functional tests", "R"),
    _category("CLIN.SURG", "수술내역", "surgery and procedures", "R"),
    _category("CLIN.ALG", "알러지 및 부작용", "allergy and adverse reaction", "N"),
    _category("CLIN.NOTE", "진료기록", "clinical notes", "R"),
    _category("CLIN.ENC", "내원정보", "encounters", "R"),
    _category("CLIN.VIT", "활력징후·신체계측", "vital signs", "N"),
    _category("INS", "건강보험정보", "health insurance"),
    _category("INS.TX", "진료이력", "treatment history", "R"),
    _category("INS.CK", "건강검진이력", "health check-ups", "R"),
    _category("INS.RX", "투약이력", "dispensing history", "R"),
    _category("INS.ELIG", "자격·보험유형", "eligibility", "N"),
    _category("PUB", "공공정보", "public and environment"),
    _category("PUB.IMM", "예방접종이력", "immunisation", "N"),
    _category("PUB.EPI", "감염병정보", "communicable disease", "R"),
    _category("PUB.ENV", "생활·환경정보", "living and environment", "N"),
    _category("LIFE", "라이프로그", "lifelog"),
    _category("LIFE.BP", "혈압", "blood pressure", "N"),
    _category("LIFE.GLU", "혈당", "glucose", "N"),
    _category("LIFE.ACT", "활동량·걸음", "activity and steps", "N"),
    _category("LIFE.WT", "체중·체성분", "weight and body composition", "N"),
    _category("LIFE.HR", "심박", "heart rate", "N"),
    _category("LIFE.SLEEP", "수면", "sleep", "N"),
    _category("LIFE.DIET", "식이", "diet", "N"),
    _category("GEN", "유전체정보", "genomic"),
    _category("GEN.TEST", "유전자검사결과", "genetic test results", "R", ("GDIS",)),
    _category("GEN.RAW", "유전체 원시데이터", "raw genome", "R", ("GDIS",)),
    _category("GEN.FAM", "가족력", "family history", "R", ("GDIS",)),
)

ACTIONS: Final = (
    _action("collect", "수집", "collect"),
    _action("access", "열람", "access"),
    _action("use", "이용", "use"),
    _action("disclose", "제공", "disclose"),
    _action("correct", "정정", "correct", implies=False),
)

LABELS: Final = (
    _label("PSY", "정신질환", "psychiatry"),
    _label("MH", "정신건강", "mental health"),
    _label("HIV", "HIV/AIDS", "HIV/AIDS"),
    _label("STD", "성매개감염", "sexually transmitted disease"),
    _label("SEX", "성·생식 건강", "sexuality and reproductive health"),
    _label("SDV", "성폭력·가정폭력", "sexual assault, abuse or domestic violence"),
    _label("VIO", "폭력 피해", "violence"),
    _label("SUD", "물질사용장애", "substance use disorder"),
    _label("ETHUD", "알코올사용장애", "alcohol use disorder", "SUD"),
    _label("OPIOIDUD", "오피오이드사용장애", "opioid use disorder", "SUD"),
    _label("ETH", "약물·알코올 남용", "substance abuse"),
    _label("GDIS", "유전질환", "genetic disease"),
)

REFUSAL_GROUNDS: Final = (
    _ground("R01", "법정대리인의 동의 미확인", "consent of the legal representative not verified"),
    _ground("R02", "열람 제한·거절 사유", "a ground to limit or refuse access (PIPA 35(4))"),
    _ground("R03", "제3자의 권리·정당한 이익 침해", "rights or legitimate interests of a third party"),
    _ground("R04", "대리인 미확인", "agent not verified"),
    _ground("R05", "요구사항 미특정", "items of the request not specified"),
    _ground("R06", "본인 미확인", "identity not verified"),
    _ground("R07", "인증정보 탈취 등 부당한 요구", "improper request, with stolen credentials for example"),
    _ground("R08", "전송받을 수 없는 자", "recipient is not eligible"),
    _ground("R09", "범죄 악용 등 명백한 침해", "clear harm to the subject, by a crime for example"),
    _ground("R10", "과도한 반복 요구", "excessive repetition"),
    _ground("R11", "기망·협박 의심 등 정당한 사유", "suspected deception or threat, or other reasonable cause"),
)

LEGAL_BASES: Final = (
    _basis("PIPA-18-2", "공공기관의 목적 외 이용·제공", "use or provision beyond the purpose (PIPA 18(2))"),
    _basis("PIPA-21", "보유기간 경과 등에 따른 파기", "destruction when retention has ended (PIPA 21)"),
    _basis("PIPA-23-1-2", "법령이 요구·허용하는 민감정보 처리", "sensitive data that a law permits (PIPA 23(1)2)"),
    _basis("PIPA-28-2", "가명정보 처리", "pseudonymised processing (PIPA 28-2)"),
    _basis("PIPA-28-12", "보호위원회 의결에 따른 인공지능 개발", "AI development by decision of the PIPC (PIPA 28-12)"),
    _basis("MA-21-2-1", "의식불명·응급환자의 진료기록 송부", "records in an emergency (MA 21-2(1), proviso)"),
    _basis("MA-21-3", "환자가 아닌 자의 기록 열람", "access to records by others than the patient (MA 21(3))"),
    _basis("COURT", "영장·법원의 명령", "warrant, or order or judgment of a court"),
    _basis("STATUTE", "그 밖의 법령", "another law"),
)

EVIDENCE: Final = (
    _paper("family-relation-certificate", "가족관계증명서", "certificate of family relations"),
    _paper("basic-certificate", "기본증명서", "basic certificate (birth, custody)"),
    _paper("guardianship-registration", "후견등기사항증명서", "certificate of registered guardianship"),
    _paper("court-decision", "법원의 결정·심판", "decision or judgment of a court"),
    _paper("power-of-attorney", "위임장", "power of attorney (PIPA Enforcement Decree 45(2))"),
    _paper("identity-card", "신분증 사본", "copy of an identity card"),
    _paper("consent-of-person", "본인의 동의서", "consent of the person (Medical Act 21(3)1 and 2)"),
    _paper("death-certificate", "사망진단서 등", "certificate of death"),
    _paper("diagnosis", "진단서", "diagnosis: unconscious, or unable to consent"),
    _paper("missing-person-decision", "실종선고 등", "declaration that the person is missing, or its report"),
    _paper("no-other-relative", "다른 친족이 없음을 확인하는 서류", "paper that there is no other relative"),
)
"""Kinds of papers. Where no statute names a form, the code is ours."""

DEFAULT_VOCABULARY: Final = Vocabulary(
    id="kr-phr", version=1, purposes=PURPOSES, categories=CATEGORIES, actions=ACTIONS, labels=LABELS,
    refusal_grounds=REFUSAL_GROUNDS, legal_bases=LEGAL_BASES, evidence=EVIDENCE,
)  # fmt: skip
"""The vocabulary of a realm that has not published its own vocabulary."""
