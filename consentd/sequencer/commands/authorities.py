"""Write AUTHORITY entries: who may act for a person; and check the acts of representatives (policy.md, rule 8).

A statement that a representative makes names, in ``authority_seq``, the AUTHORITY entry that it rests on. The
representative attests it, or signs it with the key that the authority pins: then a KEY entry follows the AUTHORITY in
the same batch. Nobody who acts for persons attests an authority of their own, and no representative that of another.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from consentd import limits
from consentd.core.key_validity import representative
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import AlreadyExistsError, DeniedError, InvalidError, PreconditionError
from consentd.policy.authority import NOTHING, Authority, research_mask
from consentd.policy.compile import Compiled
from consentd.policy.dates import is_instant, start_of_date_ms
from consentd.policy.rows import ALL_64, unpack_rows
from consentd.policy.vocabulary import Vocabulary
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, has_right, is_operator, is_public_authority
from consentd.sequencer.commands.registry import check_key
from consentd.sequencer.commands.write import NewEntry, PersonWrite, Plan, ReceiptOnly, WriteContext, enrolled_tag
from consentd.statements import payloads
from consentd.statements.authorities import ACTS, ActingStatement, authority_value
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

RELATIVES = frozenset({
    st.AUTHORITY_CAPACITY_SPOUSE, st.AUTHORITY_CAPACITY_ASCENDANT, st.AUTHORITY_CAPACITY_DESCENDANT,
    st.AUTHORITY_CAPACITY_SPOUSE_ASCENDANT, st.AUTHORITY_CAPACITY_SIBLING,
})  # fmt: skip
"""The capacities of relatives, who may read and nothing else (Medical Act 21(3)1 and 3)."""

REASONS_OF_CAPACITIES: Mapping[int, frozenset[int]] = {
    st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN: frozenset({st.AUTHORITY_REASON_MINOR, st.AUTHORITY_REASON_INCAPACITATED}),
    st.AUTHORITY_CAPACITY_AGENT: frozenset({st.AUTHORITY_REASON_UNSPECIFIED}),
    **dict.fromkeys(RELATIVES, frozenset(st.AuthorityReason.values()) - {st.AUTHORITY_REASON_MINOR}),
    st.AUTHORITY_CAPACITY_PROTECTOR: frozenset({
        st.AUTHORITY_REASON_UNCONSCIOUS, st.AUTHORITY_REASON_INCAPACITATED
    }),
}  # fmt: skip
"""The reasons for which a representative of each capacity acts."""

ACTS_OF_CAPACITIES: Mapping[int, frozenset[int]] = {
    st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN: frozenset(st.AuthorityAct.values()[1:]),
    st.AUTHORITY_CAPACITY_AGENT: frozenset(st.AuthorityAct.values()[1:]),
    **dict.fromkeys(RELATIVES, frozenset({st.AUTHORITY_ACT_READ_HISTORY})),
    st.AUTHORITY_CAPACITY_PROTECTOR: frozenset(),
}
"""The acts that a representative of each capacity may do. A protector is recorded, and may do none."""

MAX_EVIDENCE = limits.AUTHORITY_EVIDENCE
BY_CONSENT, NO_OTHER_RELATIVE = "consent-of-person", "no-other-relative"
"""The kinds of papers without which no relative reads by the person's consent, and no sibling reads at all."""
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
            UNKNOWN_PARTICIPANT: the representative is no active participant. WRONG_STATE: it is of an AGENT, and the
            person is dead.
        InvalidError: it states something that is none, or something beside the end of an authority.
    """
    if message.ended != bool(ref):
        raise InvalidError("the end of an authority refers to its entry, and an authority to none")
    if message.ended:
        _check_end(view, tag, message, ref)
        return
    _check_who(view, message)
    if message.capacity not in REASONS_OF_CAPACITIES:
        raise InvalidError(f"capacity is not one in which a representative acts here: `{message.capacity}`")
    if message.reason not in REASONS_OF_CAPACITIES[message.capacity]:
        raise InvalidError(f"reason does not go with this capacity: `{message.reason}`")
    acts, may_do = set(message.acts), ACTS_OF_CAPACITIES[message.capacity]
    if bool(acts) is not bool(may_do) or len(acts) < len(message.acts) or not acts <= may_do:
        raise InvalidError("acts are none, or one is there twice or is none of this capacity")
    is_minor = message.reason == st.AUTHORITY_REASON_MINOR
    if message.verified_by not in (_CHECKS if is_minor else (0,)):
        raise InvalidError("verified_by is an item 1 to 7 for a minor, and 0 otherwise")
    if bool(message.birth_date) is not is_minor:
        raise InvalidError("birth_date is stated for a minor, and for nobody else")
    _check_evidence(view, message)
    _check_window(message, time_ms)
    if message.capacity == st.AUTHORITY_CAPACITY_AGENT:
        _check_lives(view, tag)


def _check_lives(view: View, tag: bytes) -> None:
    """Check that no AUTHORITY of a chain, which no entry ended, says that the person is dead (Civil Act 127)."""
    if any(one.is_of_dead and not one.ended_seq for one in view.authorities(tag).values()):
        what = "a power of attorney ends by death: end the authority for DECEASED first, if the person lives"
        raise PreconditionError(what, "WRONG_STATE")


def _check_end(view: View, tag: bytes, message: st.AuthorityStatement, ref: int) -> None:
    beside = st.AuthorityStatement(ended=True, attestation=message.attestation)
    if not message.HasField("attestation"):
        beside.ClearField("attestation")
    if message != beside:
        raise InvalidError("the end of an authority states nothing else")
    found = view.authority(tag, ref)
    if found is None or found.ended_seq:
        raise PreconditionError("person has no such authority, or it was ended before", "UNKNOWN_AUTHORITY")


def _check_who(view: View, message: st.AuthorityStatement) -> None:
    if bool(message.participant_id) and bool(message.key):
        raise InvalidError("representative is named by `participant_id` or by `key`, and not by both")
    if message.key:
        check_key(message.key)
        if view.key_ever(message.key) is not None:
            raise AlreadyExistsError("key is or was in force already: a representative has a key for each authority")
        return
    participant = view.participant(message.participant_id)
    if participant is None or not participant.active:
        what = f"representative is no active participant: `{message.participant_id}`"
        raise PreconditionError(what, "UNKNOWN_PARTICIPANT")


def _check_evidence(view: View, message: st.AuthorityStatement) -> None:
    known = {code.code for code in view.registry().codebook.vocabulary.evidence}
    if len(message.evidence) > MAX_EVIDENCE:
        raise InvalidError(f"evidence is over its limit of {MAX_EVIDENCE} papers: `{len(message.evidence)}`")
    if not message.evidence and message.HasField("attestation"):
        raise InvalidError("an authority that the person does not sign has evidence")
    for one in message.evidence:
        if one.kind not in known:
            raise InvalidError(f"kind of evidence is not in the vocabulary: `{one.kind}`", "UNKNOWN_CODE")
        if len(one.sha256) != _HASH_SIZE:
            raise InvalidError(f"hash of a paper is not of 32 bytes: `{len(one.sha256)}`")
    kinds = {one.kind for one in message.evidence}
    if message.capacity in RELATIVES and not message.reason and BY_CONSENT not in kinds:
        raise InvalidError(f"a relative of a person who can consent has the paper `{BY_CONSENT}`")
    if message.capacity == st.AUTHORITY_CAPACITY_SIBLING and NO_OTHER_RELATIVE not in kinds:
        raise InvalidError(f"a brother or sister has the paper `{NO_OTHER_RELATIVE}` (Medical Act 21(3))")


def _check_window(message: st.AuthorityStatement, time_ms: int) -> None:
    start_ms, end_ms = message.start_time_ms, message.end_time_ms
    if not (is_instant(start_ms) and is_instant(end_ms)) or start_ms < 0 or end_ms < 0:
        raise InvalidError("authority starts or ends at no time")
    found = authority_value(message, time_ms=time_ms)
    if found == NOTHING:
        raise InvalidError("birth date is none, as in 2015-02-28")
    if found.ends.last_ms <= max(time_ms, found.start_ms):
        raise InvalidError("authority has ended already, or ends before it starts")
    if message.birth_date and start_of_date_ms(message.birth_date) > time_ms:
        raise InvalidError("birth date is to come")


def check_authority_author(view: View, tag: bytes, message: st.AuthorityStatement, *, ref: int, key: bytes) -> None:
    """Check that an author may write an AUTHORITY. The sequencer and ``audit replay`` call this.

    *key*: the key that signed the statement.

    Raises:
        DeniedError: the person signed an authority of another capacity than AGENT; a representative signed something
            else than the end of their own; or who attests it neither acts for persons nor is a public authority, is the
            representative itself (who may end the authority), or represents the person by another authority.
    """
    owner, attester = view.key_ever(key), message.attestation.attested_by
    if owner is not None and owner.owner is Owner.REPRESENTATIVE:
        if not ref or owner.tag_or_name != representative(tag, ref):
            raise DeniedError("a representative ends their own authority, and signs no other")
        return
    if owner is not None and owner.owner is Owner.SUBJECT:
        found = view.authority(tag, ref) if ref else None
        is_agent = message.capacity == st.AUTHORITY_CAPACITY_AGENT if found is None else found.is_agent
        if not is_agent:
            raise DeniedError("a person gives and ends a power of attorney, and no other authority")
        return
    check_registrar(view, attester)
    if not ref and attester == message.participant_id:
        raise DeniedError("representative does not attest its own authority")
    if not ref and any(one.participant == attester and not one.ended_seq for one in view.authorities(tag).values()):
        raise DeniedError("who represents the person does not attest the authority of another representative")


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
    view: View, tag: bytes, message: ActingStatement, *, kind: int, statutory: bool, key: bytes
) -> Authority | None:
    """Check that who attests or signs a statement may do this act under the authority that the statement names.

    The sequencer and ``audit replay`` call this. ``check_in_force`` checks the time. *key*: signed the statement.

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
    check_acting(view, tag, message.authority_seq, found, attestation=message.attestation, key=key)
    if statutory:
        raise InvalidError("nobody represents the person in a STATUTORY consent", "INVALID_CONSENT")
    if not found.has_act(ACTS[kind]):
        raise DeniedError("authority does not cover this act")
    return found


def check_acting(
    view: View, tag: bytes, seq: int, authority: Authority, *, attestation: st.Attestation, key: bytes
) -> None:
    """Check that the representative of an authority made a statement: attested it, or signed it with *key*.

    Raises:
        DeniedError: it did not.
        InvalidError: it attested the statement, and does not say how it was checked who acts.
    """
    if authority.key:
        owner = view.key_ever(key)
        if owner is None or owner.owner is not Owner.REPRESENTATIVE or owner.tag_or_name != representative(tag, seq):
            raise DeniedError("statement under this authority is signed with the representative's own key")
    elif not authority.participant or attestation.attested_by != authority.participant:
        raise DeniedError("statement under an authority is attested by the representative")
    elif attestation.HasField("authentication"):
        raise DeniedError("statement under an authority is attested by the representative, and not under a login")
    elif not attestation.method:
        what = "statement under an authority states in attestation.method how it was checked who acts"
        raise InvalidError(f"{what} (PIPA Enforcement Decree 46)")


def check_in_force(authority: Authority | None, compiled: Compiled, vocabulary: Vocabulary, *, time_ms: int) -> None:
    """Check that an authority is in force for a consent. None: the person acts, and nothing is checked.

    All provisions, denies too, are about purposes for which the authority has not ended: after the 14th birthday of a
    minor, about research alone.

    Raises:
        PreconditionError: (AUTHORITY_NOT_IN_FORCE) it is not.
    """
    if authority is None:
        return
    research, ends = research_mask(vocabulary), authority.ends
    left = (research if time_ms < ends.research_ms else 0) | (ALL_64 & ~research if time_ms < ends.other_ms else 0)
    is_covered = left and not any(row.purposes & ~left for row in unpack_rows(compiled.rows))
    if time_ms < authority.start_ms or not is_covered:
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
        drafted = [context.draft(entry, self.request)]
        key = context.key_of(self.signed)
        check_authority_author(table, tag, self.message, ref=self.ref, key=key)
        if not self.message.ended:
            context.count_entry(self)
        if self.message.key:
            context.count_entry(self)
            drafted.append(context.draft(self._first_key(context, tag)))
        return Plan(tuple(drafted), None)

    def _first_key(self, context: WriteContext, tag: bytes) -> NewEntry:
        """Return the KEY entry that puts the key of the representative in force. It comes right after the AUTHORITY."""
        attester = st.Attestation(attested_by=self.request.asker)
        seq = context.batch.head(tag)[0] + 1
        message = st.KeyStatement(key=self.message.key, attestation=attester, authority_seq=seq)
        # Each entry needs a request_id of its own. The second entry's id is derived from the request's id.
        derived = hashlib.sha256(self.request.id + b"\1").digest()[:16]
        return NewEntry(kind=EntryKind.KEY, tag=tag, message=message, request_id=derived)
