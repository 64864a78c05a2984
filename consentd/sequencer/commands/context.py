"""Prepare entries: sign for the daemon, verify for others, commit, encrypt."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message

from consentd.core import codec, ed25519
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS
from consentd.core.kinds import AUTHORS, EntryKind, Owner
from consentd.errors import ConflictError, InvalidError, MalformedError, SignatureError
from consentd.ledger.ledger import AppendBatch, Draft
from consentd.ledger.vault import Vault, clear_row
from consentd.statements import payloads
from consentd.table.transaction import TableTransaction
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

Answer = Any
"""What a write says to its caller: a value of its own kind, or None."""


@dataclass(frozen=True, slots=True)
class Author:
    """The daemon as an author: its statement key, and where persons' statements are encrypted.

    Attributes:
        origin: the ledger's name, part of every signature.
        key: the daemon's statement key, registered in chain `ledger`; never the log key.
        random: CSPRNG for salts and decision ids.
    """

    origin: str
    key: ed25519.KeyPair
    vault: Vault
    random: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class WriteContext:
    """Where a write is prepared: the turn it is part of, and the table as it stands at its place."""

    author: Author
    batch: AppendBatch
    table: TableTransaction

    def draft(self, entry: "Entry", request_key: bytes = b"", content: bytes = b"") -> tuple[Draft, Message]:
        """Sign or verify an entry, and commit to it.

        Raises:
            InvalidError: the payload is too large, or the author's signature or clock is not right.
        """
        if entry.signed is None:
            payload = payloads.encode_payload(entry.message)
            made = self._sign(entry, payload)
        else:
            made = self._verify(entry, entry.signed)
        encoded, salt = codec.encode_statement(made), self.author.random(32)
        if entry.public:
            commit, stored = clear_row(salt, encoded)
        else:
            commit, stored = self.author.vault.encrypt(entry.kind, entry.tag, salt, encoded)
        draft = Draft(
            kind=entry.kind,
            tag=entry.tag,
            ref=entry.ref,
            commit=commit,
            stored=stored,
            request_key=request_key,
            content=content,
        )
        return draft, entry.message

    def _sign(self, entry: "Entry", payload: bytes) -> codec.Statement:
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

    def _verify(self, entry: "Entry", signed: pb.SignedStatement) -> codec.Statement:
        self.check_signature(
            kind=entry.kind,
            tag=entry.tag,
            ref=signed.ref,
            request_id=entry.request_id,
            author_time_ms=signed.author_time_ms,
            payload=signed.payload,
            key=signed.key,
            signature=signed.signature,
            owners=AUTHORS[EntryKind(entry.kind)] - {Owner.LEDGER},
            verified=entry.verified,
        )
        if signed.ref != entry.ref:
            raise ConflictError("signed ref is not what this write relies on", "REF_MOVED")
        return codec.Statement(signed.key, signed.signature, entry.request_id, signed.author_time_ms, signed.payload)

    def check_signature(
        self,
        *,
        kind: int,
        tag: bytes,
        ref: int,
        request_id: bytes,
        author_time_ms: int,
        payload: bytes,
        key: bytes,
        signature: bytes,
        owners: frozenset[Owner],
        verified: bytes = b"",
    ) -> None:
        """Check an author's signature: its clock, its key in force now and whose it is, and the bytes.

        Args:
            verified: what ``verify_ahead`` returned, where it was called: the very same signature over the very same
                message is then not verified again on the one thread that all writes share.

        Raises:
            InvalidError: AUTHOR_CLOCK, BAD_SIGNATURE or TOO_LARGE.
        """
        if len(payload) > codec.MAX_PAYLOAD:
            raise InvalidError(f"payload is over its limit of 16384 bytes: `{len(payload)}`", "TOO_LARGE")
        if abs(self.batch.time_ms - author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise InvalidError("author_time_ms is more than ten minutes from the ledger's clock", "AUTHOR_CLOCK")
        owner = self.table.key_owner(key)
        if owner is None or owner.kind not in owners or (owner.kind is Owner.SUBJECT and owner.tag != tag):
            raise InvalidError("author's key is not in force for this entry", "BAD_SIGNATURE")
        message = codec.signed_message(
            origin=self.author.origin,
            kind=kind,
            tag=tag,
            ref=ref,
            request_id=request_id,
            author_time_ms=author_time_ms,
            payload=payload,
        )
        if verified != _digest(key, message, signature):
            _verify(key, message, signature)


def verify_ahead(
    *, origin: str, kind: int, tag: bytes, request_id: bytes, signed: pb.SignedStatement | st.AskedQuestion
) -> bytes:
    """Verify an author's signature on the caller's own thread; returns what the sequencer recognises it by.

    It settles nothing about the key: whether that is in force is looked up at the write's place.

    Raises:
        InvalidError: BAD_SIGNATURE.
    """
    if isinstance(signed, pb.SignedStatement):
        ref, payload = signed.ref, signed.payload
    else:
        ref, payload = 0, signed.question
    message = codec.signed_message(
        origin=origin,
        kind=kind,
        tag=tag,
        ref=ref,
        request_id=request_id,
        author_time_ms=signed.author_time_ms,
        payload=payload,
    )
    _verify(signed.key, message, signed.signature)
    return _digest(signed.key, message, signed.signature)


def _verify(key: bytes, message: bytes, signature: bytes) -> None:
    try:
        ed25519.verify(key, message, signature)
    except (SignatureError, MalformedError) as error:
        raise InvalidError("author's signature does not verify", "BAD_SIGNATURE") from error


def _digest(key: bytes, message: bytes, signature: bytes) -> bytes:
    return hashlib.sha256(b"".join((key, signature, message))).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry a write wants: where, what, and by whom signed (None: by the daemon).

    Attributes:
        verified: what ``verify_ahead`` returned for ``signed``, where it was called.
    """

    kind: EntryKind
    tag: bytes
    message: Message
    request_id: bytes
    ref: int = 0
    public: bool = False
    signed: pb.SignedStatement | None = None
    verified: bytes = b""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a write appends, in order, and what it says to its caller."""

    entries: tuple[tuple[Draft, Message], ...] = ()
    answer: Answer = None


class Write(Protocol):
    """What the sequencer asks of a write.

    Attributes:
        request_key: ``H(asker ‖ 0 ‖ request_id)``; empty: the write is not remembered.
        content: hash of what is asked, so that a repeat is told from a clash.
    """

    @property
    def request_key(self) -> bytes: ...

    @property
    def content(self) -> bytes: ...

    def prepare(self, context: WriteContext) -> Plan:
        """Check and draft; ``RequestError`` where it is refused."""
        ...

    def replay(self, context: WriteContext, index: int) -> Answer:
        """Answer a repeat of a request whose first entry is recorded at *index*."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What writes that are remembered by their request have in common."""

    request_id: bytes
    request_key: bytes
    content: bytes
    asker: str

    def replay(self, context: WriteContext, index: int) -> Answer:
        """A repeat has nothing to add to its receipt."""
        return None


def request_key(asker: str, request_id: bytes) -> bytes:
    """Name a request: unique per authenticated asker."""
    return hashlib.sha256(b"".join((asker.encode(), b"\0", request_id))).digest()
