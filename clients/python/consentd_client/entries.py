"""The entries of a verified history, typed. What makes them is ``history``, once everything is verified."""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind, is_known
from consentd.v1 import statement_pb2 as st
from consentd_client import show

SUBJECT = "subject"
"""Author of what the person signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of a verified history.

    Attributes:
        event: its leaf, decoded.
        statement: what the leaf commits to; None: erased.
        author: who signed it: ``ledger`` (the daemon), ``participant/ID``, ``subject``; empty: erased.
        message: the statement's payload, decoded; None: erased, or of a kind or version that is not known here.
        is_new: it was not in the history read before.
        is_pruned: its statement is gone, because it was past the ledger's published retention.
    """

    event: codec.Event = field(repr=False)
    statement: codec.Statement | None = field(repr=False)
    author: str
    message: Message | None = field(repr=False)
    is_new: bool
    is_pruned: bool = False

    @property
    def seq(self) -> int:
        """Its place in the chain, from 1."""
        return self.event.seq

    @property
    def kind(self) -> int:
        """Its kind, ``EntryKind`` where that is known."""
        return self.event.kind

    @property
    def kind_name(self) -> str:
        """The kind's name; of an unknown one its number."""
        return EntryKind(self.kind).name if is_known(self.kind) else str(self.kind)

    @property
    def time_ms(self) -> int:
        """The ledger's clock when it was written, UTC milliseconds."""
        return self.event.time_ms

    @property
    def attested_by(self) -> str:
        """The participant that vouches for what the daemon signed for it; empty: none."""
        attestation = getattr(self.message, "attestation", None)
        return attestation.attested_by if isinstance(attestation, st.Attestation) else ""

    def line(self, lang: str = "en") -> str:
        """Return the entry as one line for a person, in English (``en``) or Korean (``ko``)."""
        gone = show.label("PRUNED" if self.is_pruned else "ERASED", lang)
        what = show.describe(self.message, lang) if self.statement is not None else gone
        who = " ".join(filter(None, (show.author(self.author, lang), show.attested(self.attested_by, lang))))
        kind = show.label(self.kind_name, lang)
        said = f"{kind}: {what}" + (f"  [{who}]" if who else "")
        return f"#{self.seq:<4} {show.format_time(self.time_ms)}  {show.plain(said)}"

    def __str__(self) -> str:
        return self.line()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All entries of a chain, verified, as of one checkpoint.

    Attributes:
        tag: whose chain it is, 32 bytes.
        name: of a public chain; empty: a person's.
        checkpoint: what it was verified against.
        seal_time_ms: up to when it is whole, by the ledger's clock.
        entries: from seq 1 to the last, but for those in ``missing``.
        is_erased: the person was erased: the last entry says so, the statements before it are gone.
        missing: first and last seq of each range of entries that was pruned and was not held from before.
        kept_from_ms: the time before which the ledger has pruned, under its published policy; 0: nothing.
    """

    tag: bytes = field(repr=False)
    name: str
    checkpoint: Checkpoint
    seal_time_ms: int
    entries: tuple[Entry, ...] = field(repr=False)
    is_erased: bool
    missing: tuple[tuple[int, int], ...] = ()
    kept_from_ms: int = 0

    @property
    def is_absent(self) -> bool:
        """Whether the tag has no entry. That says something about a tag, never about a person."""
        return not self.entries

    @property
    def new(self) -> tuple[Entry, ...]:
        """The entries that were not in the history read before."""
        return tuple(entry for entry in self.entries if entry.is_new)

    @property
    def unread(self) -> tuple[Entry, ...]:
        """Entries that are proven and signed, but say something that this version cannot read: nothing follows."""
        return tuple(entry for entry in self.entries if entry.statement is not None and entry.message is None)
