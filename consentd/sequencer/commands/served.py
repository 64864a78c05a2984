"""Write SERVED entries: a version of a notice was shown to a person; and check what a consent says of one.

A consent may name, in ``served_seq``, the SERVED entry of the notice that it was given under. With an attested grant or
amendment, both entries are written in one batch. The signer of a consent cannot know the seq of an entry that is not
recorded yet, so a SERVED entry that a signed consent names is recorded before the consent is signed.
"""

import re
from dataclasses import dataclass

from consentd.core import codec
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import InvalidError, PreconditionError
from consentd.policy.dates import is_instant
from consentd.policy.model import Consent
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, check_active, check_right
from consentd.sequencer.commands.write import (
    NewEntry,
    PersonWrite,
    Plan,
    ReceiptOnly,
    WriteContext,
    enrolled_tag,
)
from consentd.statements import payloads
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

Shown = tuple[str, int, int]
"""A notice that was shown: its id and version, and the seq of the representative's AUTHORITY; 0: the person saw it."""

_CHANNEL = re.compile("[a-z][a-z0-9-]{0,31}")


def check_served(view: View, tag: bytes, message: st.ServedStatement, *, time_ms: int) -> None:
    """Check what a SERVED statement says. The sequencer and ``audit replay`` call this.

    Args:
        view: the policy table with all entries before this one.
        tag: the person's.
        time_ms: the time of the entry, UTC milliseconds.

    Raises:
        PreconditionError: the version of the notice is not published (UNKNOWN_NOTICE).
        InvalidError: the channel or the time is none, or the time is later than the entry's; the notice has no text in
            the language, or one with another hash; or the person has no such authority.
    """
    version = message.notice_version
    notice = view.notice(message.notice_id, version) if version else None
    if notice is None:
        raise PreconditionError(f"notice version is not published: `{message.notice_id}`", "UNKNOWN_NOTICE")
    if message.language not in notice.texts:
        raise InvalidError(f"notice has no text in this language: `{message.language}`: see GetNotice")
    if message.content_sha256 not in (b"", notice.texts[message.language].content_sha256):
        raise InvalidError("text that was shown is not that of the notice: its hash is another")
    if message.authority_seq:
        authority = view.authority(tag, message.authority_seq)
        if authority is None or not authority.start_ms <= time_ms < authority.ends.last_ms:
            raise InvalidError(f"person has no such authority in force: `{message.authority_seq}`")
    if not _CHANNEL.fullmatch(message.channel):
        raise InvalidError(f"channel is not of [a-z0-9-], or too long: `{message.channel}`")
    shown_ms = message.served_time_ms
    if shown_ms <= 0 or not is_instant(shown_ms) or shown_ms > time_ms + MAX_AUTHOR_SKEW_MS:
        raise InvalidError(f"notice was shown at no time, or later than now: `{shown_ms}`")


def check_served_author(view: View, attester: str, key: bytes) -> None:
    """Check that an author may record that a notice was shown. The sequencer and ``audit replay`` call this.

    Args:
        attester: who attests a statement that the daemon signed.
        key: the key that signed the statement.

    Raises:
        DeniedError: who attests it does not act for persons, or the participant that signed it is not active.
    """
    owner = view.key_ever(key)
    if owner is None or owner.owner is Owner.LEDGER:
        check_right(view, attester, ACT_FOR_SUBJECTS)
    elif owner.owner is Owner.PARTICIPANT:
        check_active(view, str(owner.tag_or_name))


def shown_by(message: st.ServedStatement) -> Shown:
    """Return what a SERVED statement names."""
    return message.notice_id, message.notice_version, message.authority_seq


def check_rests_on(shown: Shown | None, consent: Consent, *, authority_seq: int) -> None:
    """Check that a consent names the notice of the SERVED entry on which it rests, which was shown to who gives it.

    Args:
        shown: what that entry names; None: the person's chain has no such SERVED entry before the consent's.
        authority_seq: the AUTHORITY under which a representative gives the consent; 0: the person does.

    Raises:
        InvalidError: (INVALID_CONSENT) there is no such entry, the consent names another notice or version, or the
            notice was shown to another one than gives the consent.
    """
    if shown is None:
        raise InvalidError("consent rests on no SERVED entry of the person", "INVALID_CONSENT")
    if shown[2] != authority_seq:
        raise InvalidError("notice was shown to another one than gives the consent", "INVALID_CONSENT")
    if shown[:2] != (consent.notice, consent.notice_version):
        raise InvalidError("consent names another version of a notice than was shown", "INVALID_CONSENT")


def read_shown(context: WriteContext, tag: bytes, seq: int) -> Shown | None:
    """Return what entry *seq* of a person's chain names; None: it is no SERVED entry, or its statement was deleted."""
    entry = context.batch.find(tag, seq) if seq <= codec.MAX_SEQ else None
    if entry is None or entry.event.kind != EntryKind.SERVED:
        return None
    payload = context.recorded_payload(entry)
    return None if payload is None else shown_by(payloads.parse(st.ServedStatement, payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordServed(PersonWrite, ReceiptOnly):
    """Record that a notice was shown, without a consent."""

    message: st.ServedStatement

    def prepare(self, context: WriteContext) -> Plan[None]:
        payloads.check_no_unknown_fields(self.message)
        check_right(context.table, self.request.asker, ACT_FOR_SUBJECTS)
        tag = enrolled_tag(context.table, self.identifier_hash)
        check_served(context.table, tag, self.message, time_ms=context.time_ms)
        entry = NewEntry(
            kind=EntryKind.SERVED, tag=tag, message=self.message, request_id=self.request.id, signed=self.signed
        )
        drafted = context.draft(entry, self.request)
        if self.signed is not None:
            check_served_author(context.table, "", self.signed.statement.key)
        context.count_entry(self)
        return Plan((drafted,), None)
