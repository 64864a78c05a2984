"""The rules of a version of a notice: its texts, whose it is, and from when it asks for new consents.

A version that states ``reconsent_by_time_ms`` begins a campaign: from that instant on, permits that were given under an
earlier version of the notice do not count (policy.md, rule 8). Nothing happens at that instant, so nothing else is
written here.
"""

from consentd import limits
from consentd.errors import AbortedError, InvalidError, PreconditionError
from consentd.policy.dates import is_instant
from consentd.policy.language import check_name, check_tag
from consentd.sequencer.commands.callers import notice_owner
from consentd.sequencer.commands.participants import check_no_own_key
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

MAX_VERSIONS = limits.NOTICE_VERSIONS
"""Most versions of a notice. A version that asks for new consents costs the writer a row for each earlier one."""


def check_notice(view: View, message: st.NoticeStatement, *, time_ms: int, signed: bool) -> None:
    """Check the next version of a notice. The sequencer and ``audit replay`` call this.

    Args:
        view: the policy table with all entries before this one.
        time_ms: the time of the entry, UTC milliseconds.
        signed: a participant signed it, whose notice it is; else an operator attests it.

    Raises:
        InvalidError: the id, the title, a text, the audience or the instant is none, or the instant is not later than
            the entry; the first version asks for new consents; or the id is of another participant's notice.
        PreconditionError: (UNKNOWN_PARTICIPANT) the notice names a participant that is not registered; or
            (SIGN_WITH_KEY) an operator attests it, and the participant has a key in force.
            Or (LIMIT_REACHED) the notice has as many versions as are allowed.
        AbortedError: (VERSION_CONFLICT) the version is not the next.
    """
    owner = notice_owner(message.notice_id)
    if owner is None:
        raise InvalidError(f"notice id is not `NAME` or `PARTICIPANT/NAME`, of [a-z0-9._-]: `{message.notice_id}`")
    check_name(message.title)
    _check_texts(message)
    if message.audience not in st.NoticeAudience.values():
        raise InvalidError(f"audience of a notice is unknown: `{message.audience}`")
    if message.participant_id and view.participant(message.participant_id) is None:
        raise PreconditionError(f"not registered: `{message.participant_id}`", "UNKNOWN_PARTICIPANT")
    if owner != message.participant_id:
        raise InvalidError("notice id does not begin with its participant's id and `/`, or the notice names none")
    if message.participant_id and not signed:
        check_no_own_key(view, message.participant_id)
    latest = view.notice(message.notice_id)
    check_next_version(message.version, 0 if latest is None else latest.version)
    if message.version > MAX_VERSIONS:
        what = f"notice is over its limit of {MAX_VERSIONS} versions: give the next one an id of its own"
        raise PreconditionError(what, "LIMIT_REACHED")
    asked_ms = message.reconsent_by_time_ms
    if not asked_ms:
        return
    if latest is None:
        raise InvalidError("first version of a notice asks for no new consents: no consent was given under another")
    if asked_ms <= time_ms or not is_instant(asked_ms):
        raise InvalidError(f"instant by which new consents are asked for is not later than now: `{asked_ms}`")


def check_next_version(version: int, latest: int) -> None:
    """Check that a version follows the latest. Raises ``AbortedError``."""
    if version != latest + 1:
        raise AbortedError(f"version does not follow the latest: `{latest}`", "VERSION_CONFLICT")


def _check_texts(message: st.NoticeStatement) -> None:
    if not 0 < len(message.texts) <= limits.NAME_LANGUAGES:
        raise InvalidError(f"notice has no text, or texts in more than {limits.NAME_LANGUAGES} languages")
    for language, text in message.texts.items():
        check_tag(language)
        if len(text.content_sha256) != 32:
            raise InvalidError(f"hash of the notice's text is not of 32 bytes: `{language}`")
