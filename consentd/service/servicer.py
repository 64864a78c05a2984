"""The base class of all services: reaches the opened daemon, authenticates callers, and makes receipts."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from consentd import limits
from consentd.backup.proof import BackupTimes
from consentd.config import Config
from consentd.core import codec, merkle
from consentd.core.identifier import check_identifier
from consentd.core.kinds import EntryKind
from consentd.errors import DeniedError, InvalidError, NotFoundError, StorageError
from consentd.ledger import reads
from consentd.ledger.ledger import Ledger, State
from consentd.ledger.restored import Restored
from consentd.ledger.vault import Vault
from consentd.metrics import Metrics
from consentd.policy.model import SUBJECT
from consentd.sequencer.commands.readings import check_reading
from consentd.sequencer.commands.write import Request, SignedEntry, Write, enrolled_tag, verify_ahead
from consentd.sequencer.erasures import Erasures
from consentd.sequencer.loop import Sequencer
from consentd.sequencer.pool import Written
from consentd.sequencer.restored import refusal
from consentd.service.auth import NO_CREDENTIAL, UnauthenticatedError
from consentd.service.authentication import Authentication
from consentd.service.authorization import caller_kinds, check_access, check_may_call
from consentd.service.call_log import CallLog, Names, named_participants
from consentd.service.context import Context, Person, Waiting
from consentd.service.credential_rows import CredentialRows
from consentd.service.credentials import Credentials
from consentd.service.key_files import KeyFiles
from consentd.service.operations import Operations
from consentd.service.roles import Access, Kind, Whose, is_answered_by_restored, is_write, needs_credential
from consentd.service.statements import Attester
from consentd.statements import payloads
from consentd.table.table import Table
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

A = TypeVar("A")
MAX_WAIT_S: float = limits.WAIT_SECONDS
"""The longest time that a call waits, even if the call's deadline is later."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the opened daemon that services use. The daemon makes this value once, when it has opened.

    Attributes:
        restored: the mark of the restored copy that the daemon serves; None: it serves the ledger itself.
    """

    config: Config
    ledger: Ledger
    vault: Vault
    table: Table
    sequencer: Sequencer
    metrics: Metrics
    credentials: Credentials
    credential_rows: CredentialRows
    authentication: Authentication
    operations: Operations
    key_files: KeyFiles
    erasures: Erasures
    backup_times: BackupTimes
    page_key: bytes
    restored: Restored | None = None


class ServiceState:
    """Shows every thread whether the daemon serves, and holds the opened daemon."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.call_log = CallLog()
        # The opened daemon; None while the daemon starts or drains. The daemon replaces the value by assignment.
        self.services: Services | None = None


class Servicer:
    """Base class of the services."""

    def __init__(self, service_state: ServiceState) -> None:
        self._state = service_state
        self.metrics = service_state.metrics
        self.call_log = service_state.call_log

    @property
    def services(self) -> Services:
        """The opened daemon. Raises ``StorageError`` (NOT_SERVING) while the daemon starts or drains."""
        services = self._state.services
        if services is None:
            raise StorageError("daemon is starting or draining", "NOT_SERVING")
        return services

    def caller(self, context: Context) -> str:
        """Return the caller's id (``Context.caller``). Raises ``UnauthenticatedError``."""
        if not context.caller:
            raise _unauthenticated(context)
        return context.caller

    def check_still_known(self, context: Context) -> None:
        """Check that the caller's credential was not removed since the call began. Raises ``UnauthenticatedError``."""
        if not context.is_known():
            raise UnauthenticatedError("credential of the call was removed")

    def known_caller(self, context: Context) -> str:
        """Return the caller's id; empty: the call has no credential that is known here."""
        return context.caller

    def authorize(self, rpc: str, context: Context) -> None:
        """Check that the caller may call an RPC for some data, and that the ledger may answer it.

        Raises:
            PreconditionError: (RESTORED_COPY) the daemon serves a restored copy, which does not answer this RPC.
            UnauthenticatedError, DeniedError: as ``authorization.check_may_call``.
        """
        caller, services = self.known_caller(context), self.services
        if not needs_credential(rpc):
            return  # every caller may call it for some data, so the registry is not needed
        with services.table.read() as snapshot:
            now_ms = services.sequencer.clock.wall_ms()
            check_may_call(snapshot, caller, rpc, now_ms, context.person, context.roles)
        if services.restored is not None and not is_answered_by_restored(rpc):
            raise refusal()

    def access(self, rpc: str, whose: Whose, context: Context) -> Access:
        """Return how a call about data of this kind is answered. Raises as ``authorization.check_access``."""
        caller, now_ms = self.known_caller(context), self.services.sequencer.clock.wall_ms()
        with self.services.table.read() as snapshot:
            try:
                return check_access(snapshot, caller, rpc, whose, now_ms, context.person, context.roles)
            except UnauthenticatedError as error:
                raise _unauthenticated(context) from error

    @staticmethod
    def whose(context: Context) -> Whose:
        """Return whose data an RPC is about that persons call about themselves, and others about persons."""
        return Whose.OTHER if context.person is None else Whose.OWN

    def check_own(self, rpc: str, request: Any, context: Context) -> None:
        """Check that a caller that is a person asks about themselves, with a login of the level that the call needs.

        Every RPC that a person may call passes here, so no handler can answer a person about another one. Whether the
        other one is enrolled does not matter to the answer.

        Raises:
            DeniedError: ASSURANCE_TOO_LOW; or persons may not make such a call.
            NotFoundError: (SUBJECT_NOT_FOUND) the call is about another person.
            InvalidError: the identifier is malformed.
        """
        person = context.person
        if person is None:
            return
        if self.access(rpc, self._whose_of(request, person), context) is Access.NOT_FOUND:
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        if not (person.may_write if is_write(rpc) else person.may_read):
            raise DeniedError("level of assurance of the login is too low for this call", "ASSURANCE_TOO_LOW")

    def _whose_of(self, request: Any, person: Person) -> Whose:
        """Return whose data the request of a person is about; PUBLIC: it names no person."""
        asked = getattr(request, "question", request)
        if "subject" not in asked.DESCRIPTOR.fields_by_name or not asked.HasField("subject"):
            return Whose.PUBLIC
        identifier_hash = self.identifier_hash(asked.subject)
        if person.identifier_hash:
            is_own = identifier_hash == person.identifier_hash
        else:
            with self.services.table.read() as snapshot:
                is_own = snapshot.tag_of(identifier_hash) == person.tag
        if not is_own:
            return Whose.OTHER
        return Whose.SUBJECT if asked is not request and asked.actor.organisation == SUBJECT else Whose.OWN

    def kinds(self, view: View, context: Context) -> frozenset[Kind]:
        """Return the kinds of the caller now."""
        now_ms = self.services.sequencer.clock.wall_ms()
        return caller_kinds(view, context.caller, now_ms, context.person, context.roles)

    def attester(self, context: Context) -> Attester:
        """Return the attester of the statements that the caller makes in the form `attested`."""
        caller, person = self.caller(context), context.person
        if person is None:
            return Attester(caller)
        login = st.Authentication(
            issuer=person.issuer, acr=person.acr, amr=person.amr, auth_time_ms=person.auth_time_ms
        )
        return Attester(person.participant, login)

    def names_in(self, asked: object) -> Names:
        """Return the participants that a request or question names; see ``call_log.named_participants``."""
        with self.services.table.read() as snapshot:
            return named_participants(snapshot, asked)

    def check_batch(self, count: int) -> None:
        """Check the length of a batch. Raises ``InvalidError`` (TOO_LARGE), which names the limit."""
        most = self.services.config.grpc.max_batch_items
        if count > most:
            raise InvalidError(f"batch is over its limit of {most} items: `{count}`", "TOO_LARGE")

    def identifier_hash(self, subject: pb.Subject) -> bytes:
        """Return the keyed hash of a person's identifier.

        Raises:
            InvalidError: the scheme or form is not accepted, or the message has an unknown field.
        """
        payloads.check_own_fields(subject)
        check_identifier(subject.scheme, subject.value)
        return self.services.vault.identifier_hash(subject.scheme, subject.value)

    def tag(self, view: View, subject: pb.Subject) -> bytes:
        """Return a person's tag (chain id). Raises ``NotFoundError`` if the person is not enrolled."""
        return enrolled_tag(view, self.identifier_hash(subject))

    def read_tag(self, view: View, subject: pb.Subject, authority_seq: int, context: Context) -> bytes:
        """Return the tag of a person whose data the caller reads: for a representative, if *authority_seq* is not 0.

        Raises:
            NotFoundError: the person is not enrolled; or as ``check_reading``. A person represents nobody.
        """
        tag = self.tag(view, subject)
        if authority_seq:
            reader = "" if context.person is not None else self.caller(context)
            if Kind.ACT_FOR_SUBJECTS not in self.kinds(view, context):
                reader = ""
            now_ms = self.services.sequencer.clock.wall_ms()
            check_reading(view, tag, authority_seq if reader else 0, reader=reader, time_ms=max(now_ms, view.time_ms))
        return tag

    def signed_entry(self, kind: EntryKind, tag: bytes, request: Request, signed: pb.SignedStatement) -> SignedEntry:
        """Verify the signature on a statement, and return the statement as a ``SignedEntry``; see ``verify_ahead``."""
        statement = codec.Statement(signed.key, signed.signature, request.id, signed.author_time_ms, signed.payload)
        return verify_ahead(self.services.config.ledger.origin, SignedEntry(kind, tag, signed.ref, statement))

    def payload(self, entry: reads.StoredEntry) -> bytes | None:
        """Return the payload of an entry's statement; None: the statement was erased or pruned."""
        opened = reads.open_entry(self.services.vault, entry)
        return None if opened is None else codec.decode_statement(opened[1]).payload

    async def write(
        self, write: Write[A], wait_for: int, context: Context, *, urgent: bool = False
    ) -> tuple[Written[A], pb.Receipt]:
        """Submit a write and wait until it is recorded; return its outcome, and the receipt of its first entry."""
        (future,) = self.submit([write], context, urgent=urgent)
        written = await Waiting(future)
        return written, await self.written_receipt(written, wait_for, context)

    def submit(
        self, writes: Sequence[Write[A]], context: Context, *, urgent: bool = False
    ) -> "list[Future[Written[A]]]":
        """Submit writes to the sequencer, together; see ``Sequencer.submit_all``.

        If the call is cancelled, the sequencer drops the writes that it has not begun, unless they are *urgent*.
        """
        futures = self.services.sequencer.submit_all(writes, urgent=urgent)

        if not urgent:
            context.on_cancel(partial(cancel_all, futures))
        return futures

    async def written_receipt(self, written: Written[Any], wait_for: int, context: Context) -> pb.Receipt:
        """Return the receipt of a write's first entry; see ``receipt``."""
        entry = written.entry
        assert entry is not None, "a write without an entry has no receipt"
        # A repeat gets the receipt of the first call. The proof takes longer than the rest of the answer, so a repeat
        # has one only if the caller waits for it; ``GetReceipt`` returns it too.
        if written.replayed and wait_for != pb.WAIT_FOR_PUBLISHED:
            receipt = self.unproven_receipt(entry.index, entry.leaf, written.state)
        else:
            receipt = await self.receipt(entry.index, entry.leaf, written.state, wait_for, context)
        receipt.replayed = written.replayed
        return receipt

    async def receipt(self, index: int, leaf: bytes, state: State, wait_for: int, context: Context) -> pb.Receipt:
        """Return the receipt of the leaf at *index*, with an inclusion proof if a public checkpoint covers the leaf.

        *state* becomes the receipt's revision. If *wait_for* is PUBLISHED, wait for that checkpoint until the deadline;
        but not if the witnesses that answer are no quorum, or if too many calls wait.
        """
        receipt, checkpoints = self.unproven_receipt(index, leaf, state), self.services.sequencer.checkpoints
        published = checkpoints.published
        if wait_for == pb.WAIT_FOR_PUBLISHED and not (published and published.checkpoint.size > index):
            if context.begin_wait():
                future = checkpoints.when_public(index + 1, remaining_s(context))
                context.on_cancel(partial(cancel_all, [future]))
                await Waiting(future)
            published = checkpoints.published
        if published is not None and published.checkpoint.size > index:
            receipt.published = True
            receipt.proof = reads.proof_bundle(self.services.ledger.store, index, published.checkpoint, published.note)
        return receipt

    @staticmethod
    def unproven_receipt(index: int, leaf: bytes, state: State) -> pb.Receipt:
        """Return the receipt of the leaf at *index* without a proof. *state* becomes the receipt's revision."""
        at = revision(state.size, state.root)
        return pb.Receipt(index=index, leaf=leaf, leaf_hash=merkle.leaf_hash(leaf), revision=at)


def reduce_receipt(receipt: pb.Receipt) -> pb.Receipt:
    """Return a receipt in the form for callers without a right to the leaf: it says where the entry is, and no more.

    A leaf names its chain and its number in the chain, so it shows whether a person is enrolled. A leaf hash shows
    nothing new, because the tiles are public.
    """
    return pb.Receipt(
        index=receipt.index, leaf_hash=receipt.leaf_hash, published=receipt.published, proof=receipt.proof,
        replayed=receipt.replayed,
    )  # fmt: skip


def cancel_all(futures: "Sequence[Future[Any]]") -> None:
    """Cancel futures that are not done."""
    for future in futures:
        future.cancel()


def revision(size: int, root: bytes) -> pb.Revision:
    """Return the message for a revision: the size and the root hash of a tree."""
    return pb.Revision(tree_size=size, root_hash=root)


def remaining_s(context: Context) -> float:
    """Return how long a call may still wait, in seconds; the last 50 ms are reserved to send the answer."""
    left = context.time_remaining()
    return MAX_WAIT_S if left is None else max(0.0, min(MAX_WAIT_S, left - 0.05))


def _unauthenticated(context: Context) -> UnauthenticatedError:
    """Return the error of a call of nobody, which says why its credential is not accepted, if it has one."""
    return context.fault or UnauthenticatedError(NO_CREDENTIAL)
