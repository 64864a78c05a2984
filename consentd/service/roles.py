"""Who may call what: the table by which the server authorizes every RPC. ``consentd roles`` prints it.

A line of the table is an RPC and whose data a call is about. A column is a kind of caller. A caller can be of several
kinds, for example a relay with the right to act for persons; then the widest of its cells counts. ``authorization``
determines the kinds of a caller. An RPC without a line keeps the daemon from starting.

This module is data and needs no other part of the server. What a caller may do with the content of a write (which
consents, which accesses) is checked again when the write is recorded (``sequencer.commands``): its roles can change
between the call and the record.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum, StrEnum
from functools import lru_cache


class Kind(StrEnum):
    """A kind of caller.

    SEE_REASONS, ACT_FOR_SUBJECTS, READ_STATEMENTS and ERASE are rights, which a caller has in addition to its roles.
    CITIZEN is a person who has logged in, CITIZEN_KEY a person whose own key signed the call. RUN, READ_METRICS and
    ADMINISTER are the roles of an operator's credential.
    """

    NOBODY = "nobody"
    UNREGISTERED = "unregistered"
    INACTIVE = "inactive"
    HOLDER = "holder"
    RECIPIENT = "recipient"
    RELAY = "relay"
    AUDITOR = "auditor"
    PUBLIC_AUTHORITY = "public-authority"
    SEE_REASONS = "see-reasons"
    ACT_FOR_SUBJECTS = "act-for-subjects"
    READ_STATEMENTS = "read-statements"
    ERASE = "erase"
    CITIZEN = "citizen"
    CITIZEN_KEY = "citizen-key"
    RUN = "run"
    READ_METRICS = "read-metrics"
    ADMINISTER = "administer"


class Whose(StrEnum):
    """Whose data a call is about.

    PUBLIC: no person's: checkpoints, leaves, public chains, the registry.
    OWN: the data of an access in which the caller has a part, an entry that it attested; the caller's own record, keys
        and notices, and the delegations and mandates that it gives and signs. Of a caller that is a person: the data of
        that person, who need not be enrolled.
    SUBJECT: the data of the person for whom a question asks (organisation SUBJECT); a person's keys. The caller of
        AuthorizeAccess needs no right if the person signed the question, and it names the caller.
    OWN_THEN, SUBJECT_THEN: as OWN and SUBJECT, answered from an earlier tree (``Consistency.at_exact``).
    OTHER: other data of a person who is enrolled; another participant's record, keys, notices, delegations, mandates.
    UNKNOWN: the data of a person who is not enrolled.
    """

    PUBLIC = "public"
    OWN = "own"
    SUBJECT = "subject"
    OWN_THEN = "own-then"
    SUBJECT_THEN = "subj-then"
    OTHER = "other"
    UNKNOWN = "unknown"


class Access(IntEnum):
    """How a call is answered. A caller of several kinds gets the highest of its cells."""

    DENIED = 0
    NOT_FOUND = 1
    REDUCED = 2
    ALLOWED = 3


_LETTERS: Mapping[str, Access] = {
    "-": Access.DENIED, "n": Access.NOT_FOUND, "r": Access.REDUCED, "A": Access.ALLOWED,
}  # fmt: skip

_TABLE = """
no: nobody, also with an unknown token      un: a credential without a registration     in: inactive
ho: holder    re: recipient    rl: relay    au: auditor    pa: public authority
sr: SEE_REASONS    as: ACT_FOR_SUBJECTS     rs: READ_STATEMENTS and a mandate in force    er: ERASE
ci: citizen (ID token)    ck: citizen with a key of their own
or, om, oa: operator with the role RUN, READ_METRICS, ADMINISTER
A: allowed    r: reduced    n: not found    -: denied

RPC                     whose     no un in  ho re rl au pa  sr as rs er  ci ck  or om oa
---------------------------------------------------------------------------------------------
Check                   own       -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -
Check                   subject   -  -  -   -  -  -  -  -   -  A  -  -   A  A   -  -  -
Check                   own-then  -  -  -   -  -  -  -  -   A  -  -  -   -  -   -  -  -
Check                   subj-then -  -  -   -  -  -  -  -   -  A  -  -   -  -   -  -  -
Check                   other     -  -  -   -  -  -  -  -   -  -  -  -   n  n   -  -  -
Check                   unknown   -  -  -   r  r  r  -  -   A  -  -  -   n  n   -  -  -
BatchCheck              own       -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -
BatchCheck              subject   -  -  -   -  -  -  -  -   -  A  -  -   -  -   -  -  -
BatchCheck              own-then  -  -  -   -  -  -  -  -   A  -  -  -   -  -   -  -  -
BatchCheck              subj-then -  -  -   -  -  -  -  -   -  A  -  -   -  -   -  -  -
BatchCheck              other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  -
BatchCheck              unknown   -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -

AuthorizeAccess         own       -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -
AuthorizeAccess         subject   -  -  -   A  A  A  -  -   -  A  -  -   -  -   -  -  -
AuthorizeAccess         other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  -
AuthorizeAccess         unknown   -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -
BatchAuthorizeAccesses  own       -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -
BatchAuthorizeAccesses  subject   -  -  -   A  A  A  -  -   -  A  -  -   -  -   -  -  -
BatchAuthorizeAccesses  other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  -
BatchAuthorizeAccesses  unknown   -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -
RecordAccess            own       -  -  -   A  A  A  A  A   -  -  -  -   -  -   -  -  -
RecordAccess            other     -  -  -   n  n  n  n  n   -  -  -  -   -  -   -  -  -
RecordAccess            unknown   -  -  -   n  n  n  n  n   -  -  -  -   -  -   -  -  -
BatchRecordAccesses     own       -  -  -   A  A  A  A  A   -  -  -  -   -  -   -  -  -
BatchRecordAccesses     other     -  -  -   n  n  n  n  n   -  -  -  -   -  -   -  -  -
BatchRecordAccesses     unknown   -  -  -   n  n  n  n  n   -  -  -  -   -  -   -  -  -
GetAccess               own       -  -  -   A  A  A  -  -   -  A  A  -   A  A   -  -  -
GetAccess               other     -  -  -   n  n  n  -  -   -  A  A  -   n  n   -  -  -
GetAccess               unknown   -  -  -   n  n  n  -  -   -  n  n  -   n  n   -  -  -
ListAccesses            own       -  -  -   -  -  -  -  -   -  A  A  -   A  A   -  -  -
ListAccesses            other     -  -  -   -  -  -  -  -   -  A  A  -   n  n   -  -  -
ListAccesses            unknown   -  -  -   -  -  -  -  -   -  n  n  -   n  n   -  -  -
ListDueTransfers        own       -  -  -   A  -  -  -  -   -  -  -  -   -  -   -  -  -

GrantConsent            own       -  -  -   -  -  -  -  r   -  A  -  -   A  A   -  -  r
GrantConsent            other     -  -  -   -  -  -  -  r   -  A  -  -   n  n   -  -  r
GrantConsent            unknown   -  -  -   -  -  -  -  n   -  n  -  -   n  n   -  -  n
AmendConsent            own       -  -  -   -  -  -  -  r   -  A  -  -   A  A   -  -  r
AmendConsent            other     -  -  -   -  -  -  -  r   -  A  -  -   n  n   -  -  r
AmendConsent            unknown   -  -  -   -  -  -  -  n   -  n  -  -   n  n   -  -  n
RenewConsent            own       -  -  -   -  -  -  -  r   -  A  -  -   A  -   -  -  r
RenewConsent            other     -  -  -   -  -  -  -  r   -  A  -  -   n  -   -  -  r
RenewConsent            unknown   -  -  -   -  -  -  -  n   -  n  -  -   n  -   -  -  n
RecordServed            other     -  -  -   -  -  -  -  -   -  A  -  -   -  -   -  -  -
RecordServed            unknown   -  -  -   -  -  -  -  -   -  n  -  -   -  -   -  -  -
PauseConsent            own       -  -  -   -  -  -  -  r   -  A  -  -   A  A   -  -  r
PauseConsent            other     -  -  -   -  -  -  -  r   -  A  -  -   n  n   -  -  r
PauseConsent            unknown   -  -  -   -  -  -  -  n   -  n  -  -   n  n   -  -  n
ResumeConsent           own       -  -  -   -  -  -  -  r   -  A  -  -   A  A   -  -  r
ResumeConsent           other     -  -  -   -  -  -  -  r   -  A  -  -   n  n   -  -  r
ResumeConsent           unknown   -  -  -   -  -  -  -  n   -  n  -  -   n  n   -  -  n
RevokeConsent           own       -  -  -   -  -  -  -  r   -  A  -  -   A  A   -  -  r
RevokeConsent           other     -  -  -   -  -  -  -  r   -  A  -  -   n  n   -  -  r
RevokeConsent           unknown   -  -  -   -  -  -  -  n   -  n  -  -   n  n   -  -  n
GetConsent              own       -  -  -   -  -  -  -  -   -  A  A  -   A  A   -  -  -
GetConsent              other     -  -  -   -  -  -  -  -   -  A  A  -   n  n   -  -  -
GetConsent              unknown   -  -  -   -  -  -  -  -   -  n  n  -   n  n   -  -  -
ListConsents            own       -  -  -   -  -  -  -  -   -  A  A  -   A  A   -  -  -
ListConsents            other     -  -  -   -  -  -  -  -   -  A  A  -   n  n   -  -  -
ListConsents            unknown   -  -  -   -  -  -  -  -   -  n  n  -   n  n   -  -  -
ListExpiring            own       -  -  -   -  -  -  -  -   A  -  -  -   -  -   -  -  -
ListExpiring            other     -  -  -   -  -  -  -  -   -  A  -  -   -  -   -  -  -
ListExpiring            unknown   -  -  -   -  -  -  -  -   -  n  -  -   -  -   -  -  -

PutAuthority            other     -  -  -   -  -  -  -  A   -  A  -  -   -  -   -  -  -
PutAuthority            unknown   -  -  -   -  -  -  -  n   -  n  -  -   -  -   -  -  -
EndAuthority            other     -  -  -   -  -  -  -  A   -  A  -  -   -  -   -  -  -
EndAuthority            unknown   -  -  -   -  -  -  -  n   -  n  -  -   -  -   -  -  -
GetAuthority            own       -  -  -   -  -  -  -  -   -  A  A  -   A  A   -  -  -
GetAuthority            other     -  -  -   -  -  -  -  -   -  A  A  -   n  n   -  -  -
GetAuthority            unknown   -  -  -   -  -  -  -  -   -  n  n  -   n  n   -  -  -
ListAuthorities         own       -  -  -   -  -  -  -  -   -  A  A  -   A  A   -  -  -
ListAuthorities         other     -  -  -   -  -  -  -  -   -  A  A  -   n  n   -  -  -
ListAuthorities         unknown   -  -  -   -  -  -  -  -   -  n  n  -   n  n   -  -  -
ListReconsents          other     -  -  -   r  r  r  -  -   A  -  -  -   -  -   -  -  -

GetCheckpoint           public    A  A  A   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetConsistencyProof     public    A  A  A   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetInclusionProof       public    A  A  A   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetReceipt              public    r  r  r   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetReceipt              own       r  r  r   A  A  A  r  A   A  A  A  r   A  A   r  r  r
GetReceipt              other     r  r  r   r  r  r  r  r   r  A  A  r   r  r   r  r  r
GetHistory              public    A  A  A   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetHistory              own       -  -  -   -  -  -  -  -   -  A  A  -   A  A   -  -  -
GetHistory              other     -  -  -   -  -  -  -  -   -  A  A  -   n  n   -  -  -
GetHistory              unknown   -  -  -   -  -  -  -  -   -  n  n  -   n  n   -  -  -
ListLeaves              public    -  -  -   -  -  -  A  -   -  -  -  -   -  -   A  -  -
ListEntries             public    -  -  -   -  -  -  A  -   -  -  A  -   -  -   A  -  -
ListEntries             other     -  -  -   -  -  -  r  -   -  -  A  -   -  -   r  -  -

EnrolSubject            own       -  -  -   -  -  -  -  -   -  A  -  -   A  -   -  -  -
EnrolSubject            unknown   -  -  -   -  -  -  -  -   -  A  -  -   -  -   -  -  -
EraseSubject            other     -  -  -   -  -  -  -  -   -  -  -  A   -  -   -  -  -
EraseSubject            unknown   -  -  -   -  -  -  -  -   -  -  -  n   -  -   -  -  -
BatchEraseSubjects      other     -  -  -   -  -  -  -  -   -  -  -  A   -  -   -  -  -
BatchEraseSubjects      unknown   -  -  -   -  -  -  -  -   -  -  -  n   -  -   -  -  -
ListDuties              other     -  -  -   -  -  -  -  -   -  -  -  A   -  -   -  -  r
PutHold                 own       -  -  -   -  -  -  -  A   -  -  -  -   -  -   -  -  -
PutHold                 other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
PutHold                 unknown   -  -  -   -  -  -  -  n   -  -  -  -   -  -   -  -  n
EndHold                 own       -  -  -   -  -  -  -  A   -  -  -  -   -  -   -  -  -
EndHold                 other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
EndHold                 unknown   -  -  -   -  -  -  -  n   -  -  -  -   -  -   -  -  n
GetHolds                other     -  -  -   -  -  -  -  -   -  -  -  A   -  -   -  -  r
GetHolds                unknown   -  -  -   -  -  -  -  -   -  -  -  n   -  -   -  -  n
RegisterParticipant     own       -  -  -   A  A  A  A  A   -  -  -  -   -  -   -  -  -
RegisterParticipant     other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
AddKey                  own       -  -  -   A  A  A  A  A   -  -  -  -   A  A   -  -  -
AddKey                  subject   -  -  -   -  -  -  -  -   -  A  -  -   A  A   -  -  -
AddKey                  other     -  -  -   -  -  -  -  -   -  -  -  -   n  n   -  -  A
AddKey                  unknown   -  -  -   -  -  -  -  -   -  n  -  -   n  n   -  -  -
RetireKey               own       -  -  -   A  A  A  A  A   -  -  -  -   A  A   -  -  -
RetireKey               subject   -  -  -   -  -  -  -  -   -  A  -  -   A  A   -  -  -
RetireKey               other     -  -  -   -  -  -  -  -   -  -  -  -   n  n   -  -  A
RetireKey               unknown   -  -  -   -  -  -  -  -   -  n  -  -   n  n   -  -  -
PublishVocabulary       public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
PublishNotice           own       -  -  -   A  A  A  A  A   -  -  -  -   -  -   -  -  -
PublishNotice           other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
PublishRules            public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
PutMandate              own       -  -  -   -  -  -  -  A   -  -  -  -   -  -   -  -  -
PutMandate              other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
EndMandate              own       -  -  -   -  -  -  -  A   -  -  -  -   -  -   -  -  -
EndMandate              other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
PutDelegation           own       -  -  -   A  A  -  -  -   -  -  -  -   -  -   -  -  -
PutDelegation           other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
EndDelegation           own       -  -  -   A  A  -  -  -   -  -  -  -   -  -   -  -  -
EndDelegation           other     -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
ListDelegations         public    -  -  -   A  A  A  A  A   A  A  A  A   -  -   A  A  A
GetParticipant          public    -  -  -   A  A  A  A  A   A  A  A  A   A  A   A  A  A
ListParticipants        public    -  -  -   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetVocabulary           public    -  -  -   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetNotice               public    -  -  -   A  A  A  A  A   A  A  A  A   A  A   A  A  A
GetCampaign             own       -  -  -   A  A  A  A  A   -  -  -  -   -  -   -  -  A
GetCampaign             other     -  -  -   n  n  n  n  n   -  -  -  -   -  -   -  -  A
GetRules                public    -  -  -   A  A  A  A  A   A  A  A  A   A  A   A  A  A

StartPruning            public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  -  -
StartBackup             public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  -  -
PrepareKeyRotation      public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  -  -
StartKeyRotation        public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  -  -
StartVaultKeyRotation   public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  -  -
GetOperation            public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  A  -
ListOperations          public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  A  -
CancelOperation         public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   A  -  -
AddCredential           public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
ListCredentials         public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
RevokeCredential        public    -  -  -   -  -  -  -  -   -  -  -  -   -  -   -  -  A
"""

_HIDDEN = (
    "이유와 거부·동의 없음의 구별이 보이지 않고, 제공기관이 아니면 조건도 없음",
    "reasons, and the difference between denied and without consent, are hidden; conditions are for the holder only",
)
_STATUTORY = ("법적 근거(STATUTORY)만", "STATUTORY consents only")
REDUCED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("Check", "BatchCheck", "AuthorizeAccess", "BatchAuthorizeAccesses"), _HIDDEN),
    **dict.fromkeys(
        ("AmendConsent", "RenewConsent", "PauseConsent", "ResumeConsent", "RevokeConsent"), _STATUTORY
    ),
    "GrantConsent": (
        "법적 근거(STATUTORY)만; 운영자는 이미 끝난 동의도 이관 기록",
        "STATUTORY consents only; operators also import consents that have ended",
    ),
    "GetReceipt": (
        "진술 없음; 감사기관과 RUN 운영자에게만 리프",
        "without the statement; with the leaf only for auditors and operators with RUN",
    ),
    **dict.fromkeys(
        ("GetHolds", "ListDuties"), ("운영자가 둔 보존 조치만", "holds that an operator attested, and nothing else")
    ),
    "ListReconsents": (
        "지금 허용하고, 그 사람이 아무것도 거부하지 않은 동의만",
        "only consents that permit something now, of persons who deny nothing",
    ),
    "ListEntries": ("개인의 진술은 내용 없이", "statements of persons are withheld"),
}
"""For each RPC that has a reduced answer, what the answer lacks or is limited to, in Korean and in English."""

Cells = Mapping[Kind, Access]
_NONE: Cells = dict.fromkeys(Kind, Access.DENIED)


def _parse(text: str) -> dict[str, dict[Whose, Cells]]:
    """Parse the lines below the rule. Each line has a cell for every kind, in the order of ``Kind``."""
    table: dict[str, dict[Whose, Cells]] = {}
    for line in text.split("---\n", 1)[1].splitlines():
        if not line:
            continue
        rpc, whose, *letters = line.split()
        cells = dict(zip(Kind, (_LETTERS[letter] for letter in letters), strict=True))
        assert Whose(whose) not in table.setdefault(rpc, {}), f"table has a line twice: {line}"
        table[rpc][Whose(whose)] = cells
    return table


TABLE: Mapping[str, Mapping[Whose, Cells]] = _parse(_TABLE)
"""RPC → whose data → kind of caller → how the call is answered."""


def is_write(rpc: str) -> bool:
    """Return whether an RPC writes: all do but Check, BatchCheck and those that get or list."""
    return not rpc.startswith(("Get", "List")) and rpc not in ("Check", "BatchCheck")


_OF_RESTORED = frozenset({
    "GetCheckpoint", "GetConsistencyProof", "GetInclusionProof", "GetReceipt", "GetHistory", "ListLeaves",
    "ListEntries", "ListDelegations", "GetParticipant", "ListParticipants", "GetVocabulary", "GetNotice", "GetRules",
})  # fmt: skip


def is_answered_by_restored(rpc: str) -> bool:
    """Return whether a restored copy answers an RPC: proofs, histories, and the registry as it was at the backup.

    It answers nothing that says what is permitted or in force now, because a person may have withdrawn since.
    """
    return rpc in _OF_RESTORED


def access(rpc: str, kinds: Iterable[Kind], whose: Whose) -> Access:
    """Return how a call is answered. An RPC that has no line for own data answers as for other data of persons."""
    lines = TABLE[rpc]
    cells = lines[whose] if whose in lines else lines.get(Whose.OTHER, _NONE)
    return max(cells[kind] for kind in kinds)


@lru_cache(maxsize=4096)  # more than there are RPCs times sets of kinds that participants really have
def may_call(rpc: str, kinds: frozenset[Kind]) -> bool:
    """Return whether a caller of these kinds may call an RPC for some data."""
    return any(cells[kind] for cells in TABLE[rpc].values() for kind in kinds)


def needs_credential(rpc: str) -> bool:
    """Return whether every call of an RPC needs a credential, whatever data the call is about."""
    return not may_call(rpc, frozenset({Kind.NOBODY}))
