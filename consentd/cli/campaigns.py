"""``consentd notice``: publish versions of notices, and see who has not answered one that asks for new consents."""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_daemon, add_read, add_verified
from consentd.cli.notices import read_notice
from consentd.cli.options import Verbs, add_group, add_verb, open_client, read_bytes, read_start_ms
from consentd.cli.out import DONE, Out
from consentd.cli.receipts import add_receipt, store_receipt, write_options
from consentd.cli.signers import add_sign_own, participant_signer
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd.v1.statement_pb2 import NoticeStatement

_HELP = """\
A version of a notice that states --reconsent-by asks for new consents. From then on, consents under earlier versions
permit nothing until they are amended, and their denies stay. Nothing has to run at that time.

examples:
  consentd notice publish privacy --title ko=고지 --text ko=privacy-ko.txt --text en=privacy-en.txt
  consentd notice publish privacy --title ko=고지 --text ko=privacy-2-ko.txt --reconsent-by 2027-03-09
  consentd notice campaign privacy
  consentd notice reconsents privacy@2
"""
_PUBLISH_HELP = """\
The text itself is not stored: its SHA-256 is. Keep the file. The version is the next one. A participant that has a key
in force publishes its own notices, with --participant and --sign-with.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    under = add_group(verbs, "notice", "publish a notice, and see who has not answered it", more=_HELP)
    one = add_verb(under, "publish", publish, add_receipt, add_sign_own, add_verified, more=_PUBLISH_HELP)
    one.add_argument("notice", metavar="ID", help="of the realm's notice: NAME; of another: PARTICIPANT/NAME")
    one.add_argument("--title", action="append", required=True, metavar="TAG=TEXT", help="in one language; repeatable")
    one.add_argument("--text", action="append", required=True, metavar="TAG=FILE", help="in one language; repeatable")
    one.add_argument("--uri", action="append", default=[], metavar="TAG=URI", help="where a text is; repeatable")
    one.add_argument("--for-children", action="store_true", help="it is written for children")
    one.add_argument("--participant", default="", metavar="ID", help="whose notice it is (default: the realm's)")
    one.add_argument("--reconsent-by", type=read_start_ms, default=0, metavar="TIME", help="ask for new consents")
    for name, run in (("show", show_one), ("campaign", campaign), ("reconsents", reconsents)):
        one = add_verb(under, name, run, add_read if run is show_one else add_daemon)
        one.add_argument("notice", metavar="ID[@N]", help="the notice, and the version (default: the latest)")


def publish(arguments: argparse.Namespace, out: Out) -> int:
    """Publish the next version of a notice: an operator, or the participant whose it is; print the version."""
    from consentd.errors import NotFoundError
    from consentd.v1 import statement_pb2 as st
    from consentd_client import show

    if arguments.sign_with is not None and not arguments.participant:
        raise InvalidError("notice is signed by the participant whose it is: give --participant with --sign-with")
    made = st.NoticeStatement(
        notice_id=arguments.notice, title=dict(map(_pair, arguments.title)), participant_id=arguments.participant,
        reconsent_by_time_ms=arguments.reconsent_by,
    )  # fmt: skip
    if arguments.for_children:
        made.audience = st.NOTICE_AUDIENCE_CHILD
    for language, path in map(_pair, arguments.text):
        made.texts[language].content_sha256 = hashlib.sha256(read_bytes(Path(path), "text of the notice")).digest()
    for language, uri in map(_pair, arguments.uri):
        if language not in made.texts:
            raise InvalidError(f"uri is of a language that has no --text: `{language}`")
        made.texts[language].uri = uri
    with open_client(arguments) as client:
        try:
            made.version = client.get_notice(made.notice_id).version + 1
        except NotFoundError:
            made.version = 1
        signer = participant_signer(arguments, arguments.participant)
        receipt = client.publish_notice(made, signer=signer, **write_options(arguments))
    out.answer(
        show.notice(made, "en"), type="notice", notice_id=made.notice_id, version=made.version,
        reconsent_by_time_ms=made.reconsent_by_time_ms, receipt=store_receipt(arguments, out, receipt),
    )  # fmt: skip
    return DONE


def show_one(arguments: argparse.Namespace, out: Out) -> int:
    """Show a version of a notice: its title, its texts, and from when it asks for new consents."""
    from consentd_client import show

    with open_client(arguments) as client:
        found = client.get_notice(*_read_version(arguments.notice))
    texts = {tag: {"content_sha256": one.content_sha256.hex(), "uri": one.uri} for tag, one in found.texts.items()}
    lines = [f"  {tag}: sha256 {one['content_sha256']} {one['uri']}".rstrip() for tag, one in sorted(texts.items())]
    out.answer(
        "\n".join((show.notice(found, "en"), *lines)), type="notice", notice_id=found.notice_id, version=found.version,
        title=dict(found.title), texts=texts, participant_id=found.participant_id,
        reconsent_by_time_ms=found.reconsent_by_time_ms,
    )  # fmt: skip
    return DONE


def campaign(arguments: argparse.Namespace, out: Out) -> int:
    """Count the consents under each version of a notice (for its participant, or the operator)."""
    from consentd.policy.dates import format_instant

    with open_client(arguments) as client:
        found = client.get_campaign(*_read_version(arguments.notice))
    asked_ms = found.notice.reconsent_by_time_ms
    until = f", by {format_instant(asked_ms)}" if asked_ms else ", which asks for no new consents"
    counts = ", ".join(f"v{one.version}: {one.consents:,}" for one in found.counts)
    out.answer(
        f"{_name(found.notice)}{until}: {found.unanswered:,} not answered, {found.answered:,} answered ({counts})",
        type="campaign", notice_id=found.notice.notice_id, version=found.notice.version,
        reconsent_by_time_ms=asked_ms, unanswered=found.unanswered, answered=found.answered,
        counts={str(one.version): one.consents for one in found.counts},
    )  # fmt: skip
    return DONE


def reconsents(arguments: argparse.Namespace, out: Out) -> int:
    """List the consents under earlier versions: whose persons have not answered. Each line names a person by tag."""
    from consentd.policy.dates import format_instant

    with open_client(arguments) as client:
        for one in client.list_reconsents(*_read_version(arguments.notice)):
            out.answer(
                f"{one.tag.hex()} {one.consent_id} v{one.version}  notice v{one.notice_version}, "
                f"paused from {format_instant(one.reconsent_by_time_ms)}",
                type="reconsent", tag=one.tag.hex(), consent_id=one.consent_id, version=one.version,
                notice_version=one.notice_version, reconsent_by_time_ms=one.reconsent_by_time_ms,
            )  # fmt: skip
    return DONE


def _name(notice: "NoticeStatement") -> str:
    return f"{notice.notice_id}@{notice.version}"


def _pair(text: str) -> tuple[str, str]:
    """Parse ``TAG=VALUE``. Raises ``InvalidError``."""
    tag, equals, value = text.partition("=")
    if not (tag and equals and value):
        raise InvalidError(f"option is not TAG=VALUE: `{text}`")
    return tag, value


def _read_version(text: str) -> tuple[str, int]:
    return read_notice(text) if "@" in text else (text, 0)
