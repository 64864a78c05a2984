"""Write KEY entries of persons: put a key of a person in force, or out of force.

A person's first key is attested: by the login of the person, or by a caller that acts for persons. Each further key is
signed with a key that is in force. Somebody who has lost all keys is identified again, by a caller that acts for
persons and states the method. A login alone does not replace a key, because then the key would protect no more than the
login does. A login may put a key out of force: a key that was stolen must not wait.
"""

from dataclasses import dataclass

from consentd import limits
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import AlreadyExistsError, DeniedError, InvalidError, NotFoundError, PreconditionError
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, check_acts_for, check_right, is_person
from consentd.sequencer.commands.registry import check_key
from consentd.sequencer.commands.write import NewEntry, PersonWrite, Plan, ReceiptOnly, WriteContext, enrolled_tag
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

MAX_KEYS = limits.PERSON_KEYS


def check_person_key(view: View, tag: bytes, message: st.KeyStatement, *, author: bytes) -> None:
    """Check a KEY entry of the person with this tag. The sequencer and ``audit replay`` call this.

    Args:
        view: the policy table with all entries before this one.
        author: the key that signed the statement.

    Raises:
        InvalidError: the key is none, or no method is stated for a further key.
        DeniedError: the attester does not act for persons; or a further key rests on a login alone.
        AlreadyExistsError: the key is or was in force already.
        NotFoundError: the person has no such key in force, to be put out of force.
        PreconditionError: KEY_NOT_IN_FORCE: the author is no key of the person that is in force. LIMIT_REACHED.
    """
    check_key(message.key)
    stated = view.person_keys(tag)
    in_force = [key for key, is_in_force in stated.items() if is_in_force]
    _check_author(view, message, author=author, is_first=not stated)
    if message.retired:
        if message.key not in in_force:
            raise NotFoundError("person has no such key in force")
        return
    if view.key_ever(message.key) is not None:
        raise AlreadyExistsError("key is or was in force already")
    if len(in_force) >= MAX_KEYS:
        raise PreconditionError(f"person has the limit of {MAX_KEYS} keys: retire one", "LIMIT_REACHED")


def _check_author(view: View, message: st.KeyStatement, *, author: bytes, is_first: bool) -> None:
    owner, attestation = view.key_ever(author), message.attestation
    if owner is not None and owner.owner is Owner.SUBJECT:
        return  # the entry's signature is checked with all others: the key is the person's and in force
    if owner is None or owner.owner is not Owner.LEDGER:
        raise PreconditionError("key of a person is stated by the person, or attested", "KEY_NOT_IN_FORCE")
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
        author = context.author.key.public_key if self.signed is None else self.signed.statement.key
        check_person_key(table, tag, self.message, author=author)
        if not self.message.retired:
            context.count_entry(self)
        entry = NewEntry(
            kind=EntryKind.KEY, tag=tag, message=self.message, request_id=self.request.id, signed=self.signed
        )
        return Plan((context.draft(entry, self.request),), None)
