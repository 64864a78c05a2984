"""Define a write: its request, its entries, its answer, and the context in which it is prepared.

A write is a value that a service makes from a request. The sequencer calls ``prepare`` on its own thread when the write
is the next to be recorded. ``prepare`` reads the ledger and the table, including the entries that the same batch has so
far. ``prepare`` either raises ``RequestError``, and nothing is appended, or returns a ``Plan``. Any other error stops
the sequencer. The table must take every planned entry, so ``prepare`` makes the table's checks first. The ledger
recognises a repeat by the request of one of the plan's drafts. A plan's later entries do not see its earlier entries.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, NoReturn, Protocol, TypeVar

from google.protobuf.message import Message

from consentd.core import codec, ed25519
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS, KeyValidity, representative, verify_signature
from consentd.core.kinds import AUTHORS, EntryKind, Owner
from consentd.errors import AbortedError, InvalidError, MalformedError, NotFoundError, PreconditionError, SignatureError
from consentd.ledger.ledger import AppendBatch, Appended, Draft, read_statement_row
from consentd.ledger.vault import Vault, plaintext_row
from consentd.sequencer.commands.callers import is_operator
from consentd.sequencer.quotas import QuotaCounter
from consentd.statements import payloads
from consentd.statements.named import named_in
from consentd.store import Store
from consentd.table.transaction import TableTransaction
from consentd.table.view import Snapshot, View

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Request:
    """The request that a write comes from. The ledger remembers requests for some days, to recognise repeats.

    Attributes:
        id: the request_id, 16 bytes; unique among the requests of one asker, or of one signer.
        asker: participant id of the caller, or ``operator/NAME``.
        content: hash of the request's content, 32 bytes. For one id, the same hash is a repeat, another a conflict.
        key: ``SHA-256(asker ‖ 0 ‖ id)``, under which the ledger remembers the request. For a consent's statement that a
            person signed, the signer takes the place of the asker.
    """

    id: bytes
    asker: str
    content: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Author:
    """The daemon as the author of statements.

    Attributes:
        key: the key that signs the daemon's statements, registered in chain `ledger`; not the log key.
        random: returns the given number of random bytes (CSPRNG), for salts and decision ids.
    """

    origin: str
    key: ed25519.KeyPair
    vault: Vault
    random: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """A statement that its author signed, and the fields of the entry that the signature also covers.

    Attributes:
        kind: the entry's kind; ``codec.QUESTION_KIND`` for a signed question.
        is_verified: whether the signature was verified; only ``verify_ahead`` sets this.
    """

    kind: int
    tag: bytes
    ref: int
    statement: codec.Statement
    is_verified: bool = False


def verify_ahead(origin: str, signed: SignedEntry) -> SignedEntry:
    """Verify an author's signature, and return *signed* marked as verified. Raises ``InvalidError`` (BAD_SIGNATURE).

    A service calls this on its own thread: an Ed25519 verification takes longer than the rest of a write, and all
    writes share the sequencer's thread. ``WriteContext.check_signature`` later checks who owns the key.
    """
    try:
        verify_signature(signed.statement, origin=origin, kind=signed.kind, tag=signed.tag, ref=signed.ref)
    except (SignatureError, MalformedError) as error:
        raise InvalidError("author's signature does not verify", "BAD_SIGNATURE") from error
    return replace(signed, is_verified=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry that a write wants to append.

    Attributes:
        ref: seq of an earlier entry of the same chain, on which this entry relies; 0: none.
        public: whether the statement is stored in the clear; else it is encrypted under the person's data key.
        signed: the statement that an author signed; None: the daemon signs *message*.
        signer: id of the participant that must own the author's key; empty: any author that *kind* allows.
    """

    kind: EntryKind
    tag: bytes
    message: Message
    request_id: bytes
    ref: int = 0
    public: bool = False
    signed: SignedEntry | None = None
    signer: str = ""


@dataclass(frozen=True, slots=True)
class WriteContext:
    """The context to prepare a write in: the daemon's keys, the batch, and the table with the batch's entries."""

    author: Author
    batch: AppendBatch
    table: TableTransaction
    quotas: QuotaCounter

    def draft(self, entry: NewEntry, request: Request | None = None) -> tuple[Draft, Message]:
        """Draft an entry, signed here or by its author, with *request* to remember; return the draft and its message.

        Raises:
            InvalidError: the payload or a text in it is too large, or the author's signature, key or clock is wrong.
            AbortedError: the ref that the author signed is not the ref of this entry.
        """
        if entry.kind is not EntryKind.LEDGER:  # the daemon's own: an ML-DSA verifier key is longer than other texts
            payloads.check_texts(entry.message)
        if entry.signed is None:
            statement = self._sign(entry, payloads.encode_payload(entry.message))
        else:
            statement = self._check_author(entry, entry.signed)
        encoded, salt = codec.encode_statement(statement), self.author.random(32)
        if entry.public:
            commit, stored = plaintext_row(salt, encoded)
        else:
            commit, stored = self.author.vault.encrypt(entry.kind, entry.tag, salt, encoded)
        key, asked = (b"", b"") if request is None else (request.key, request.content)
        draft = Draft(
            kind=entry.kind, tag=entry.tag, ref=entry.ref, commit=commit, stored=stored, request_key=key, content=asked
        )
        return draft, entry.message

    def count_entry(self, write: "PersonWrite", *, is_refusal: bool = False, only_denies: bool = False) -> None:
        """Count an entry that *write* makes in the person's chain. Raises as ``QuotaCounter.count_entry``."""
        if not is_operator(write.caller):
            self.quotas.count_entry(
                write.caller, write.identifier_hash, self.table.registry().quotas, now_ms=self.time_ms,
                is_refusal=is_refusal, only_denies=only_denies,
            )  # fmt: skip

    def _sign(self, entry: NewEntry, payload: bytes) -> codec.Statement:
        signed = codec.signed_message(
            origin=self.author.origin,
            kind=entry.kind,
            tag=entry.tag,
            ref=entry.ref,
            request_id=entry.request_id,
            author_time_ms=self.batch.time_ms,
            payload=payload,
        )
        key = self.author.key
        return codec.Statement(key.public_key, key.sign(signed), entry.request_id, self.batch.time_ms, payload)

    def _check_author(self, entry: NewEntry, signed: SignedEntry) -> codec.Statement:
        if (signed.kind, signed.tag, signed.statement.request_id) != (entry.kind, entry.tag, entry.request_id):
            raise InvalidError("author's signature is for another entry", "BAD_SIGNATURE")
        self.check_signature(signed, owners=AUTHORS[entry.kind] - {Owner.LEDGER}, signer=entry.signer)
        if signed.ref != entry.ref:
            raise AbortedError("signed ref is not what this write relies on", "REF_MOVED")
        return signed.statement

    def check_signature(self, signed: SignedEntry, *, owners: frozenset[Owner], signer: str = "") -> None:
        """Check an author's signature and clock, and that the key is in force and its owner is of a kind in *owners*.

        A person's key is valid in the person's own chain only, and a representative's only for statements that name the
        authority. *signer*, unless empty, must be the key's owner.

        Raises:
            InvalidError: AUTHOR_CLOCK, BAD_SIGNATURE or TOO_LARGE.
            PreconditionError: KEY_NOT_IN_FORCE.
        """
        statement = signed.statement
        if len(statement.payload) > codec.MAX_PAYLOAD:
            limit = f"its limit of {codec.MAX_PAYLOAD} bytes"
            raise InvalidError(f"payload is over {limit}: `{len(statement.payload)}`", "TOO_LARGE")
        if abs(self.batch.time_ms - statement.author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise InvalidError("author_time_ms is more than ten minutes from the ledger's clock", "AUTHOR_CLOCK")
        owner = self.table.key_owner(statement.key)
        is_other = owner is not None and isinstance(owner.tag_or_name, bytes) and not _may_sign(owner, signed)
        if owner is None or owner.owner not in owners or is_other:
            what = "author's key is not in force for this entry: sign with one that is, or add this one (AddKey)"
            raise PreconditionError(what, "KEY_NOT_IN_FORCE")
        if signer and owner.tag_or_name != signer:
            raise PreconditionError("author's key is not in force for this caller", "KEY_NOT_IN_FORCE")
        if not signed.is_verified:
            verify_ahead(self.author.origin, signed)

    def key_of(self, signed: SignedEntry | None) -> bytes:
        """Return the key that signs an entry: the author's, or the daemon's if no author signed it."""
        return self.author.key.public_key if signed is None else signed.statement.key

    @property
    def size(self) -> int:
        """Number of leaves that ``table`` reflects: those of the ledger, and those that this batch has so far."""
        return self.batch.index

    @property
    def time_ms(self) -> int:
        """Time of the leaves of this batch, UTC ms."""
        return self.batch.time_ms

    def recorded(self, request: Request) -> Appended | None:
        """Return the first entry that *request* recorded before; None: the request is not a repeat.

        Raises:
            PreconditionError: the request_id was used for other content, or the recorded entry was pruned since.
        """
        found = self.batch.recorded(request.key)
        if found is None:
            return None
        check_content(request, found[1])
        return self.batch.entry(found[0])

    def recorded_payload(self, recorded: Appended) -> bytes | None:
        """Return the payload of an entry's statement; None: the statement was deleted, or its person erased."""
        statement = self.recorded_statement(recorded)
        return None if statement is None else statement.payload

    def recorded_statement(self, recorded: Appended) -> codec.Statement | None:
        """Return an entry's statement; None: it was deleted, or its person erased."""
        return open_recorded(self.author.vault, recorded, self.batch.statement_row(recorded))


def _may_sign(owner: KeyValidity, signed: SignedEntry) -> bool:
    """Return whether the key of a person, or of a person's representative, may sign this entry."""
    if owner.owner is Owner.SUBJECT and (owner.tag_or_name != signed.tag or signed.kind != EntryKind.KEY):
        return owner.tag_or_name == signed.tag
    try:
        payload = payloads.decode_payload(signed.kind, signed.statement.payload)
        named = named_in(signed.kind, signed.ref, payload).authority
    except MalformedError:
        return False
    return not named if owner.owner is Owner.SUBJECT else owner.tag_or_name == representative(signed.tag, named)


@dataclass(frozen=True, slots=True)
class RepeatContext:
    """The context to answer a repeat in, on any thread: what is on disk, and a snapshot of the table that reflects it.

    Attributes:
        time_ms: the present time, UTC ms; never before the time of the last leaf.
    """

    author: Author
    store: Store
    table: Snapshot
    time_ms: int

    def key_of(self, signed: SignedEntry | None) -> bytes:
        """Return the key that signs an entry: the author's, or the daemon's if no author signed it."""
        return self.author.key.public_key if signed is None else signed.statement.key

    @property
    def size(self) -> int:
        """Number of leaves that ``table`` reflects."""
        return self.table.size

    def recorded_payload(self, recorded: Appended) -> bytes | None:
        """Return the payload of an entry's statement; None: the statement was deleted, or its person erased."""
        statement = open_recorded(self.author.vault, recorded, read_statement_row(self.store, recorded))
        return None if statement is None else statement.payload


ReplayContext = WriteContext | RepeatContext
"""The context to answer a repeat in: on the sequencer's thread within a batch, or on any other thread."""


def check_content(request: Request, content: bytes) -> None:
    """Check that a repeated request has the content of the first. Raises ``PreconditionError`` (REQUEST_ID_REUSED)."""
    if content != request.content:
        raise PreconditionError("request_id was used for other content", "REQUEST_ID_REUSED")


def open_recorded(vault: Vault, recorded: Appended, row: bytes | None) -> codec.Statement | None:
    """Return the statement in a statement row; None: there is no row, or the person's data key was destroyed."""
    if row is None:
        return None
    try:
        _, statement = vault.decrypt(recorded.event, row)
    except NotFoundError:
        return None
    return codec.decode_statement(statement)


@dataclass(frozen=True, slots=True)
class Plan(Generic[A]):
    """The drafts that a write appends, in order, each with its payload message for the table; and its answer."""

    entries: tuple[tuple[Draft, Message], ...]
    answer: A


class Write(Protocol[A]):
    """A write, as the sequencer uses it. ``prepare`` and ``replay`` raise ``RequestError`` to refuse the write."""

    @property
    def request(self) -> Request | None:
        """The request that the ledger remembers; None: repeats of this write are not recognised."""

    @property
    def caller(self) -> str:
        """The caller that the write comes from; empty: the daemon itself."""

    def prepare(self, context: WriteContext) -> Plan[A]:
        """Check the write, draft its entries, and make its answer."""

    def replay(self, context: ReplayContext, recorded: Appended) -> A:
        """Return the answer to a repeat of the write. *recorded* is the first entry of the original write.

        Any thread may call it, for several writes at once.
        """


class Requested:
    """Base of the writes whose request the ledger remembers."""

    __slots__ = ()
    request: Request

    @property
    def caller(self) -> str:
        """The caller that sent the request."""
        return self.request.asker


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonWrite(Requested):
    """Base of the writes about one person. *signed* is the statement or question, if its author signed it."""

    request: Request
    identifier_hash: bytes
    signed: SignedEntry | None = None


def enrolled_tag(view: View, identifier_hash: bytes) -> bytes:
    """Return the tag (chain id) of a person. Raises ``NotFoundError`` if the person is not enrolled."""
    tag = view.tag_of(identifier_hash)
    if tag is None:
        raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
    return tag


class ReceiptOnly:
    """Base of the writes whose caller gets the receipt and no further answer."""

    __slots__ = ()

    def replay(self, context: ReplayContext, recorded: Appended) -> None:
        return


class Unremembered:
    """Base of the writes whose repeats are not recognised."""

    __slots__ = ()

    @property
    def request(self) -> None:
        return

    @property
    def caller(self) -> str:
        """The daemon itself."""
        return ""

    def replay(self, context: ReplayContext, recorded: Appended) -> NoReturn:
        raise AssertionError("a write without a request has no repeat")
