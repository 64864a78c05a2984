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
from consentd.policy.language import check_tag
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

Shown = tuple[str, int]
"""A notice that was shown: its id and version."""

_CHANNEL = re.compile("[a-z][a-z0-9-]{0,31}")


def check_served(view: View, message: st.ServedStatement, *, time_ms: int) -> None:
    """Check what a SERVED statement says. The sequencer and ``audit replay`` call this.

    Args:
        view: the policy table with all entries before this one.
        time_ms: the time of the entry, UTC milliseconds.

    Raises:
        PreconditionError: the version of the notice is not published (UNKNOWN_NOTICE).
        InvalidError: the language, the channel, the hash or the time is none, or the time is later than the entry's.
    """
    if not view.has_notice(message.notice_id, message.notice_version):
        raise PreconditionError(f"notice version is not published: `{message.notice_id}`", "UNKNOWN_NOTICE")
    check_tag(message.language)
    if not _CHANNEL.fullmatch(message.channel):
        raise InvalidError(f"channel is not of [a-z0-9-], or too long: `{message.channel}`")
    if len(message.content_sha256) not in (0, 32):
        raise InvalidError(f"hash of the notice's text is not of 32 bytes: `{len(message.content_sha256)}`")
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
    """Return the notice and version that a SERVED statement names."""
    return message.notice_id, message.notice_version


def check_rests_on(shown: Shown | None, consent: Consent) -> None:
    """Check that a consent names the notice of the SERVED entry on which it rests.

    Args:
        shown: what that entry names; None: the person's chain has no such SERVED entry before the consent's.

    Raises:
        InvalidError: (INVALID_CONSENT) there is no such entry, or the consent names another notice or version.
    """
    if shown is None:
        raise InvalidError("consent rests on no SERVED entry of the person", "INVALID_CONSENT")
    if shown != (consent.notice, consent.notice_version):
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
        check_served(context.table, self.message, time_ms=context.time_ms)
        entry = NewEntry(
            kind=EntryKind.SERVED, tag=tag, message=self.message, request_id=self.request.id, signed=self.signed
        )
        drafted = context.draft(entry, self.request)
        if self.signed is not None:
            check_served_author(context.table, "", self.signed.statement.key)
        context.count_entry(self)
        return Plan((drafted,), None)
