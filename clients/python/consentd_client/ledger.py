"""Flows of LedgerService: checkpoints, receipts, histories. What comes back is verified before it is returned."""

import hashlib
from collections.abc import Callable

from consentd.core import merkle
from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError, NotFoundError, ProofError, VerificationError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client.entries import History
from consentd_client.history import collect_proof, open_held, verify_history
from consentd_client.policy import wait_for
from consentd_client.receipts import Receipt, read_receipt
from consentd_client.steps import Flow, Session, ask, ask_stream, work


def get_checkpoint(session: Session) -> Flow[Checkpoint]:
    """Read the latest checkpoint, verify it, and that nothing was taken back since the one remembered; remember it.

    Raises:
        VerificationError: it is not the log's, or contradicts the one remembered.
        ConsentdError: it could not be read, or nothing is pinned.
    """
    trust = session.pinned()
    request = ls.GetCheckpointRequest()
    response = yield from ask(session, "LedgerService/GetCheckpoint", request, ls.GetCheckpointResponse)
    point, _ = open_checkpoint(response.checkpoint, trust.origin, trust.log_key)
    trust.verify_witnessed(response.checkpoint, now_ms=session.now_ms())
    held_note = yield from work(session.memory.checkpoint)
    held = open_held(held_note, trust)
    if held is not None:
        proof: list[bytes] = []
        if point.size > held.size:
            wanted = ls.GetConsistencyProofRequest(first_tree_size=held.size, second_tree_size=point.size)
            method = "LedgerService/GetConsistencyProof"
            found = yield from ask(session, method, wanted, ls.GetConsistencyProofResponse)
            proof = list(found.hashes)
        try:
            if point.size < held.size:
                raise ProofError(f"checkpoint is smaller than the one remembered: `{point.size}` and `{held.size}`")
            merkle.verify_consistency(proof, size1=held.size, root1=held.root, size2=point.size, root2=point.root)
        except VerificationError as error:
            raise with_evidence(error, response.checkpoint, held_note) from None
    yield from work(lambda: session.memory.remember(response.checkpoint))
    return point


def get_receipt(session: Session, receipt: Receipt, *, published: bool = True) -> Flow[Receipt]:
    """Read a receipt again, for its proof; by default wait until there is one, or the deadline is near.

    Raises:
        VerificationError: it does not verify, or is for another leaf.
        ConsentdError: it could not be read.
    """
    request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash, wait_for=wait_for(published))
    response = yield from ask(session, "LedgerService/GetReceipt", request, ls.GetReceiptResponse)
    if (response.receipt.index, response.receipt.leaf) != (receipt.index, receipt.leaf):
        raise ProofError("receipt is for another leaf than the one asked for")
    return read_receipt(response.receipt, kinds=tuple(EntryKind), trust=session.trust)


def history(session: Session, subject: pb.Subject, *, tag: bytes = b"") -> Flow[History]:
    """Read a person's history, verify that it is all of it and who made each entry; remember it.

    Args:
        subject: the person.
        tag: the tag that was pinned when the person was enrolled, 32 bytes; empty: the one remembered, or any.

    Raises:
        VerificationError: it is not whole, not genuine, or takes back what is remembered.
        ConsentdError: it could not be read, or nothing is pinned.
    """
    key = memory_key(subject)
    return (yield from _history(session, ls.GetHistoryRequest(subject=subject), "", tag, key))


def public_history(session: Session, name: str) -> Flow[History]:
    """Read the history of a public chain likewise: ``ledger``, ``participant/ID``, ``notice/ID`` ….

    Raises:
        VerificationError: as ``history``.
        ConsentdError: it could not be read, or nothing is pinned.
    """
    if not name:
        raise InvalidError("public chain has no name")
    return (yield from _history(session, ls.GetHistoryRequest(public_name=name), name, b"", name))


def prune(
    session: Session,
    *,
    kept_from_ms: int = 0,
    dry_run: bool = False,
    progress: Callable[[ls.PruneResponse], None] | None = None,
) -> Flow[ls.PruneResponse]:
    """Prune what the retention policy no longer keeps (the operator's); returns what was done.

    Args:
        kept_from_ms: time from which everything is kept, UTC ms; 0: as the policy has it.
        dry_run: only find out.
        progress: called now and then with how far it is.

    Raises:
        InvalidError: the policy keeps what is asked to go.
        StorageError: it was stated, and not public in time: call again to go on.
        ConsentdError: it could not be done.
    """
    request = ls.PruneRequest(kept_from_time_ms=kept_from_ms, dry_run=dry_run)
    answers = yield from ask_stream(session, "LedgerService/Prune", request, ls.PruneResponse, progress)
    if not answers or answers[-1].step != ls.PRUNE_STEP_DONE:
        raise MalformedError("pruning ended without saying what was done")
    return answers[-1]


def with_evidence(error: VerificationError, shown: bytes, held: bytes | None) -> VerificationError:
    """Note in an error the checkpoints that it is about: what the log signed twice speaks against it for ever."""
    for what, note in (("shown", shown), ("remembered", held)):
        if note:
            error.add_note(f"checkpoint {what}:\n{note.decode('utf-8', 'backslashreplace')}")
    return error


def memory_key(subject: pb.Subject) -> str:
    """Return the key under which a memory holds a person's history: a hash, so that a look at the file tells nobody."""
    named = b"%d\0%b%b" % (len(subject.scheme.encode()), subject.scheme.encode(), subject.value.encode())
    return "subject/" + hashlib.sha256(named).hexdigest()


def _history(
    session: Session, request: ls.GetHistoryRequest, name: str, tag: bytes, key: str
) -> Flow[History]:
    trust, memory = session.pinned(), session.memory
    note, held = yield from work(lambda: (memory.checkpoint(), memory.history(key)))
    point = open_held(note, trust)
    request.known_tree_size = 0 if point is None else point.size
    request.known_count = 0 if held is None else held.count
    method = "LedgerService/GetHistory"
    try:
        pieces = yield from ask_stream(session, method, request, ls.GetHistoryResponse)
    except InvalidError:
        if point is None:
            raise
        # A ledger that was rolled back says that it knows no such size. Its word proves nothing, so the evidence is
        # asked for: a checkpoint smaller than the one remembered, or a chain that does not continue.
        request.known_tree_size = request.known_count = 0
        pieces = yield from ask_stream(session, method, request, ls.GetHistoryResponse)
    except NotFoundError as error:
        if held is None:
            raise
        count = len(held.entries)
        raise NotFoundError(
            f"{error}, though a history of {count} entries is remembered: unless the person was erased, it is being "
            "hidden",
            error.reason,
        ) from error
    proof = collect_proof(pieces)
    try:
        verified, remembered = yield from work(
            lambda: verify_history(
                proof, trust=trust, name=name, tag=tag, held_checkpoint=point, held=held, now_ms=session.now_ms()
            )
        )
    except VerificationError as error:
        raise with_evidence(error, proof.checkpoint, note) from None
    yield from work(lambda: memory.remember(proof.checkpoint, key, remembered))
    return verified
