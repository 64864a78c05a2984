"""Classes for a verified history and its entries. Module ``history`` makes the objects after everything is verified."""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind, is_known
from consentd.core.rotation import FollowedKey
from consentd.policy.dates import format_instant
from consentd.v1 import statement_pb2 as st
from consentd_client import labels, show

SUBJECT = "subject"
"""The ``author`` of an entry that the person signed."""
REPRESENTATIVE_PREFIX = "representative/"
"""The first part of the ``author`` of an entry that a representative signed; the seq of the AUTHORITY follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of a verified history.

    Attributes:
        event: the entry's leaf, decoded.
        statement: the statement that the leaf commits to; None: the statement was erased or pruned.
        author: the signer: ``ledger`` (the daemon), ``participant/ID``, ``subject`` or
            ``representative/SEQ`` (the seq of the AUTHORITY); empty: there is no statement.
        message: the decoded payload of the statement; None: no statement, or its kind or version is unknown here.
        is_new: the entry was not in the history that was read before.
        is_pruned: the statement was deleted because the ledger's published retention period has passed.
        beyond_permit: the categories of an OUTCOME that its access did not permit. They were sent or received all the
            same, says who reports it. None: its access is not among the entries before it, so they were not compared.
        authority: the AUTHORITY that the statement names (``authority_seq``); None: it names
            none, or one that is not among the entries before it.
    """

    event: codec.Event = field(repr=False)
    statement: codec.Statement | None = field(repr=False)
    author: str
    message: Message | None = field(repr=False)
    is_new: bool
    is_pruned: bool = False
    beyond_permit: tuple[str, ...] | None = ()
    authority: st.AuthorityStatement | None = None

    @property
    def seq(self) -> int:
        """The entry's number in the chain, from 1."""
        return self.event.seq

    @property
    def kind(self) -> int:
        """The entry's kind: a value of ``EntryKind``, or a number that this version of the program does not know."""
        return self.event.kind

    @property
    def kind_name(self) -> str:
        """The kind's name; the kind's number if this version of the program does not know the kind."""
        return EntryKind(self.kind).name if is_known(self.kind) else str(self.kind)

    @property
    def time_ms(self) -> int:
        """The ledger's clock when the entry was written, UTC milliseconds."""
        return self.event.time_ms

    @property
    def attested_by(self) -> str:
        """The participant that attests a statement signed by the daemon for a person; empty: no participant does."""
        message = self.message.grant if isinstance(self.message, st.RefusalStatement) else self.message
        attestation = getattr(message, "attestation", None)
        return attestation.attested_by if isinstance(attestation, st.Attestation) else ""

    @property
    def acted_under(self) -> st.AuthorityStatement | None:
        """The AUTHORITY under which a representative made the statement; None: another one made it, or none is known.

        Another one shows a notice to a representative, and may attest the key of one.
        """
        stated = self.authority
        is_another = stated is not None and self.attested_by not in ("", stated.participant_id)
        return None if is_another else stated

    def line(self, lang: str = "en") -> str:
        """Return the entry as one line of text, in English (``en``) or Korean (``ko``).

        Each provision that is nested in a consent has a further, indented line.
        """
        missing = labels.label("PRUNED" if self.is_pruned else "ERASED", lang)
        content = show.describe(self.message, lang) if self.statement is not None else missing
        first, *nested = content.split("\n")
        attested = show.attested(self.attested_by, lang, self.acted_under)
        signed_by = " ".join(filter(None, (show.author(self.author, lang, self.acted_under), attested)))
        beyond = show.beyond_permit(self.beyond_permit or (), lang)
        text = f"{labels.label(self.kind_name, lang)}: {first}"
        text += f" ({labels.escape_control(beyond)})" if beyond else ""
        line = f"#{self.seq:<4} {format_instant(self.time_ms)}  {text}"
        line += f"  [{labels.escape_control(signed_by)}]" if signed_by else ""
        return "\n".join([line, *(f"      {one}" for one in nested)])

    def __str__(self) -> str:
        return self.line()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All entries of a chain, verified, as of one checkpoint.

    Attributes:
        tag: identifies the chain, 32 bytes.
        name: the name of a public chain; empty: the chain is a person's.
        checkpoint: the checkpoint that the history was verified against.
        seal_time_ms: the history has every entry that was written before this time of the ledger's clock.
        entries: the entries from seq 1 to the last, except those in ``missing``.
        is_erased: the person was erased: the last entry records the erasure, and all earlier statements were deleted.
        missing: first and last seq of each range of entries that was pruned before this client could read the range.
        kept_from_ms: older entries may have been pruned, as the published policy allows; 0: no entry was pruned.
        is_complete: the entries reach the end of the chain. Only ``history_part`` returns a history that does not.
        log_keys: the log keys from the pinned one to the one that signed the checkpoint; empty: the pinned one signed.
        understands_keys: False if an entry of an author's chain is of a later version, so that it could not be
            determined which keys it puts in force or out of force.
    """

    tag: bytes = field(repr=False)
    name: str
    checkpoint: Checkpoint
    seal_time_ms: int
    entries: tuple[Entry, ...] = field(repr=False)
    is_erased: bool
    missing: tuple[tuple[int, int], ...] = ()
    kept_from_ms: int = 0
    is_complete: bool = True
    log_keys: tuple[FollowedKey, ...] = ()
    understands_keys: bool = True

    @property
    def is_absent(self) -> bool:
        """Whether the tag has no entry. A person may still have entries, under another tag."""
        return not self.entries

    @property
    def new(self) -> tuple[Entry, ...]:
        """The entries that were not in the history that was read before."""
        return tuple(entry for entry in self.entries if entry.is_new)

    @property
    def unread(self) -> tuple[Entry, ...]:
        """The entries whose statements are verified, but cannot be read by this version of the program."""
        return tuple(entry for entry in self.entries if entry.statement is not None and entry.message is None)
