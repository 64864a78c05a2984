"""Write KEY entries of persons: put a key of a person in force, or out of force.

A person's first key is attested: by the login of the person, or by a caller that acts for persons. Each further key is
signed with a key that is in force. Somebody who has lost all keys is identified again, by a caller that acts for
persons and states the method. A login alone does not replace a key, because then the key would protect no more than the
login does. A login may put a key out of force: a key that was stolen must not wait.

A KEY that names an authority is of the representative by that authority. The first is the key that the AUTHORITY pins,
and comes right after it. Each further key is signed with a key of that representative, or, if all are lost, attested by
who may attest an authority, with the method by which the representative was identified again.
"""

from dataclasses import dataclass

from consentd import limits
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import DeniedError, InvalidError, NotFoundError, PreconditionError
from consentd.sequencer.commands.authorities import check_registrar
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, check_acts_for, check_right, is_person
from consentd.sequencer.commands.registry import check_key, check_new_key
from consentd.sequencer.commands.write import NewEntry, PersonWrite, Plan, ReceiptOnly, WriteContext, enrolled_tag
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

MAX_KEYS = limits.PERSON_KEYS


def check_person_key(view: View, tag: bytes, message: st.KeyStatement, *, author: bytes, time_ms: int) -> None:
    """Check a KEY entry of the person with this tag. The sequencer and ``audit replay`` call this.

    Args:
        view: the policy table with all entries before this one.
        author: the key that signed the statement. *time_ms*: the time of the entry, UTC milliseconds.

    Raises:
        InvalidError: the key is none, or no method is stated for a further key.
        DeniedError: the attester does not act for persons; a further key rests on a login alone; or any key of a
            representative.
        AlreadyExistsError: the key is or was in force already.
        NotFoundError: the person has no such key in force, to be put out of force.
        PreconditionError: KEY_NOT_IN_FORCE: the author is no key of the person that is in force. LIMIT_REACHED. As
            ``_check_authority``.
    """
    check_key(message.key)
    if message.authority_seq:
        stated = view.authority_keys(tag, message.authority_seq)
        _check_authority(view, tag, message, is_first=not stated, time_ms=time_ms)
    else:
        stated = view.person_keys(tag)
    in_force = [key for key, is_in_force in stated.items() if is_in_force]
    _check_author(view, message, author=author, is_first=not stated)
    if message.retired:
        if message.key not in in_force:
            raise NotFoundError("person has no such key in force")
        return
    check_new_key(view, message.key)
    if len(in_force) >= MAX_KEYS:
        raise PreconditionError(f"person has the limit of {MAX_KEYS} keys: retire one", "LIMIT_REACHED")


def _check_authority(
    view: View, tag: bytes, message: st.KeyStatement, *, is_first: bool, time_ms: int
) -> None:
    """Check that a KEY is of the representative by the authority that it names.

    Raises:
        PreconditionError: UNKNOWN_AUTHORITY: the person has no such authority, or its representative is a participant.
            AUTHORITY_NOT_IN_FORCE: it has ended.
        InvalidError: the first key is not the one that the authority pins.
    """
    found = view.authority(tag, message.authority_seq)
    if found is None or not found.key:
        raise PreconditionError("person has no authority of a representative with this seq", "UNKNOWN_AUTHORITY")
    if is_first and message.key != found.key:
        raise InvalidError("first key of a representative is the one that the authority pins")
    if not message.retired and (found.ended_seq or found.ends.last_ms <= time_ms):
        raise PreconditionError("authority has ended: record another one", "AUTHORITY_NOT_IN_FORCE")


def _check_author(view: View, message: st.KeyStatement, *, author: bytes, is_first: bool) -> None:
    owner, attestation = view.key_ever(author), message.attestation
    by_itself = Owner.REPRESENTATIVE if message.authority_seq else Owner.SUBJECT
    if owner is not None and owner.owner is by_itself:
        return  # the entry's signature is checked with all others: the key is the owner's and in force
    if owner is None or owner.owner is not Owner.LEDGER:
        raise PreconditionError("key of a person is stated by its owner, or attested", "KEY_NOT_IN_FORCE")
    if message.authority_seq:
        check_registrar(view, attestation.attested_by)
        if attestation.HasField("authentication"):
            raise DeniedError("a login changes no key of a representative: the person ends the power of attorney")
    else:
        check_right(view, attestation.attested_by, ACT_FOR_SUBJECTS)
    if is_first or message.retired:
        return
    if attestation.HasField("authentication"):
        raise DeniedError("a login adds the first key alone: sign with a key in force, or be identified again")
    if not attestation.method:
        raise InvalidError("a further key is attested with the method by which the person was identified again")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePersonKey(PersonWrite, ReceiptOnly):
    """Put a key of a person in force, or out of force."""

    message: st.KeyStatement

    def prepare(self, context: WriteContext) -> Plan[None]:
        table, asker = context.table, self.request.asker
        if not is_person(asker):  # before the person is looked up: the answer does not depend on that
            check_right(table, asker, ACT_FOR_SUBJECTS)
        tag = enrolled_tag(table, self.identifier_hash)
        check_acts_for(table, asker, tag)
        author = context.key_of(self.signed)
        check_person_key(table, tag, self.message, author=author, time_ms=context.time_ms)
        if not self.message.retired:
            context.count_entry(self)
        entry = NewEntry(
            kind=EntryKind.KEY, tag=tag, message=self.message, request_id=self.request.id, signed=self.signed
        )
        return Plan((context.draft(entry, self.request),), None)
