"""Write AUTHORITY entries: who may act for a person; and check the acts of representatives (policy.md, rule 8).

A statement that a representative makes names, in ``authority_seq``, the AUTHORITY entry that it rests on. The
representative attests it. Nobody who acts for persons attests an authority of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from consentd import limits
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import DeniedError, InvalidError, PreconditionError
from consentd.policy.authority import Authority, research_mask
from consentd.policy.compile import Compiled
from consentd.policy.dates import is_instant, start_of_date_ms
from consentd.policy.rows import PERMIT, unpack_rows
from consentd.policy.vocabulary import Vocabulary
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, has_right, is_operator, is_public_authority
from consentd.sequencer.commands.write import NewEntry, PersonWrite, Plan, ReceiptOnly, WriteContext, enrolled_tag
from consentd.statements import payloads
from consentd.statements.authorities import ACTS, ActingStatement, authority_value
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

REASONS_OF_CAPACITIES: Mapping[int, frozenset[int]] = {
    st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN: frozenset({st.AUTHORITY_REASON_MINOR, st.AUTHORITY_REASON_INCAPACITATED}),
    st.AUTHORITY_CAPACITY_AGENT: frozenset({st.AUTHORITY_REASON_UNSPECIFIED}),
}
"""The reasons for which a representative of each capacity acts."""

MAX_EVIDENCE = limits.AUTHORITY_EVIDENCE
_EVIDENCE_KIND = re.compile("[a-z][a-z0-9-]{0,31}")
_CHECKS = range(1, 8)  # the items of PIPA Enforcement Decree 17-2(1)
_HASH_SIZE = 32


# -- what an AUTHORITY states ---------------------------------------------------------------------------------------


def check_authority(view: View, tag: bytes, message: st.AuthorityStatement, *, ref: int, time_ms: int) -> None:
    """Check what an AUTHORITY statement says. The sequencer and ``audit replay`` call this.

    Args:
        view: the policy table with all entries before this one. *tag*: of the person's chain.
        ref: the entry's ref. *time_ms*: the time of the entry, UTC milliseconds.

    Raises:
        PreconditionError: UNKNOWN_AUTHORITY: it ends an authority that the chain does not have, or that was ended.
            UNKNOWN_PARTICIPANT: the representative is no active participant.
        InvalidError: it states something that is none, or something beside the end of an authority.
    """
    if message.ended != bool(ref):
        raise InvalidError("the end of an authority refers to its entry, and an authority to none")
    if message.ended:
        _check_end(view, tag, message, ref)
        return
    _check_representative(view, message)
    if message.capacity not in REASONS_OF_CAPACITIES:
        raise InvalidError(f"capacity is not one in which a representative acts here: `{message.capacity}`")
    if message.reason not in REASONS_OF_CAPACITIES[message.capacity]:
        raise InvalidError(f"reason does not go with this capacity: `{message.reason}`")
    acts = set(message.acts)
    if not acts or len(acts) < len(message.acts) or not acts <= set(st.AuthorityAct.values()[1:]):
        raise InvalidError("acts are none, or one is there twice or is not one we know")
    is_minor = message.reason == st.AUTHORITY_REASON_MINOR
    if message.verified_by not in (_CHECKS if is_minor else (0,)):
        raise InvalidError("verified_by is an item 1 to 7 for a minor, and 0 otherwise")
    if bool(message.birth_date) is not is_minor:
        raise InvalidError("birth_date is stated for a minor, and for nobody else")
    _check_evidence(message)
    _check_window(message, time_ms)


def _check_end(view: View, tag: bytes, message: st.AuthorityStatement, ref: int) -> None:
    beside = st.AuthorityStatement(ended=True, attestation=message.attestation)
    if not message.HasField("attestation"):
        beside.ClearField("attestation")
    if message != beside:
        raise InvalidError("the end of an authority states nothing else")
    found = view.authority(tag, ref)
    if found is None or found.ended_seq:
        raise PreconditionError("person has no such authority, or it was ended before", "UNKNOWN_AUTHORITY")


def _check_representative(view: View, message: st.AuthorityStatement) -> None:
    participant = view.participant(message.participant_id)
    if participant is None or not participant.active:
        what = f"representative is no active participant: `{message.participant_id}`"
        raise PreconditionError(what, "UNKNOWN_PARTICIPANT")


def _check_evidence(message: st.AuthorityStatement) -> None:
    if len(message.evidence) > MAX_EVIDENCE:
        raise InvalidError(f"evidence is over its limit of {MAX_EVIDENCE} papers: `{len(message.evidence)}`")
    if not message.evidence and message.HasField("attestation"):
        raise InvalidError("an authority that the person does not sign has evidence")
    for one in message.evidence:
        if not _EVIDENCE_KIND.fullmatch(one.kind):
            raise InvalidError(f"kind of evidence is not of [a-z0-9-], or too long: `{one.kind}`")
        if len(one.sha256) != _HASH_SIZE:
            raise InvalidError(f"hash of a paper is not of 32 bytes: `{len(one.sha256)}`")


def _check_window(message: st.AuthorityStatement, time_ms: int) -> None:
    start_ms, end_ms = message.start_time_ms, message.end_time_ms
    if not (is_instant(start_ms) and is_instant(end_ms)) or start_ms < 0 or end_ms < 0:
        raise InvalidError("authority starts or ends at no time")
    found = authority_value(message, time_ms=time_ms)
    if not found.participant:
        raise InvalidError("birth date is none, as in 2015-02-28")
    if found.ends.last_ms <= max(time_ms, found.start_ms):
        raise InvalidError("authority has ended already, or ends before it starts")
    if message.birth_date and start_of_date_ms(message.birth_date) > time_ms:
        raise InvalidError("birth date is to come")


def check_authority_author(view: View, tag: bytes, message: st.AuthorityStatement, *, ref: int, key: bytes) -> None:
    """Check that an author may write an AUTHORITY. The sequencer and ``audit replay`` call this.

    *key*: the key that signed the statement.

    Raises:
        DeniedError: the person signed an authority of another capacity than AGENT; or who attests it neither acts for
            persons nor is a public authority, or is the representative itself (who may end the authority).
    """
    owner, attester = view.key_ever(key), message.attestation.attested_by
    if owner is not None and owner.owner is Owner.SUBJECT:
        found = view.authority(tag, ref) if ref else None
        is_agent = message.capacity == st.AUTHORITY_CAPACITY_AGENT if found is None else found.is_agent
        if not is_agent:
            raise DeniedError("a person gives and ends a power of attorney, and no other authority")
        return
    check_registrar(view, attester)
    if not ref and attester == message.participant_id:
        raise DeniedError("representative does not attest its own authority")


def check_registrar(view: View, caller: str) -> None:
    """Check that a caller records authorities: it acts for persons, or is a public authority, and is no operator.

    Raises:
        DeniedError: it is none of these.
    """
    may = has_right(view, caller, ACT_FOR_SUBJECTS) or is_public_authority(view, caller)
    if is_operator(caller) or not may:
        raise DeniedError("authority is recorded by a participant that acts for persons, or by a public authority")


# -- what a representative does -------------------------------------------------------------------------------------


def check_representative(
    view: View, tag: bytes, message: ActingStatement, *, kind: int, statutory: bool
) -> Authority | None:
    """Check that who attests a statement may do this act under the authority that the statement names.

    The sequencer and ``audit replay`` call this. ``check_in_force`` checks the time.

    Returns:
        The authority; None: the statement names none.

    Raises:
        PreconditionError: (UNKNOWN_AUTHORITY) the chain has no such authority.
        DeniedError: another one attests the statement, or nobody; or the authority does not cover this act.
        InvalidError: (INVALID_CONSENT) the consent is STATUTORY.
    """
    if not message.authority_seq:
        return None
    found = view.authority(tag, message.authority_seq)
    if found is None:
        raise PreconditionError("person has no such authority: see ListAuthorities", "UNKNOWN_AUTHORITY")
    attestation = message.attestation
    if attestation.HasField("authentication") or attestation.attested_by != found.participant:
        raise DeniedError("statement under an authority is attested by the representative, and not under a login")
    if statutory:
        raise InvalidError("nobody represents the person in a STATUTORY consent", "INVALID_CONSENT")
    if not found.has_act(ACTS[kind]):
        raise DeniedError("authority does not cover this act")
    return found


def check_in_force(authority: Authority | None, compiled: Compiled, vocabulary: Vocabulary, *, time_ms: int) -> None:
    """Check that an authority is in force for a consent. None: the person acts, and nothing is checked.

    If a permit of the consent covers a research purpose, the end for research counts, else the other one.

    Raises:
        PreconditionError: (AUTHORITY_NOT_IN_FORCE) it is not.
    """
    if authority is None:
        return
    research = research_mask(vocabulary)
    covers = any(row.flags & PERMIT and row.purposes & research for row in unpack_rows(compiled.rows))
    end_ms = authority.ends.last_ms if covers else authority.ends.other_ms
    if not authority.start_ms <= time_ms < end_ms:
        raise PreconditionError("authority has ended, or has not begun", "AUTHORITY_NOT_IN_FORCE")


# -- the write ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PutAuthority(PersonWrite, ReceiptOnly):
    """Record who may act for a person, or end the authority of entry *ref*."""

    message: st.AuthorityStatement
    ref: int = 0

    def prepare(self, context: WriteContext) -> Plan[None]:
        table = context.table
        payloads.check_no_unknown_fields(self.message)
        check_registrar(table, self.request.asker)  # before the person is looked up: the answer does not depend on that
        tag = enrolled_tag(table, self.identifier_hash)
        check_authority(table, tag, self.message, ref=self.ref, time_ms=context.time_ms)
        entry = NewEntry(
            kind=EntryKind.AUTHORITY, tag=tag, message=self.message, request_id=self.request.id, ref=self.ref,
            signed=self.signed,
        )  # fmt: skip
        drafted = context.draft(entry, self.request)
        key = context.author.key.public_key if self.signed is None else self.signed.statement.key
        check_authority_author(table, tag, self.message, ref=self.ref, key=key)
        if not self.message.ended:
            context.count_entry(self)
        return Plan((drafted,), None)
