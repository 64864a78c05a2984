"""Operations of LedgerService: read and verify checkpoints, receipts and histories."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from consentd.core import codec, merkle
from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.history import HistoryProof
from consentd.core.key_validity import has_author_keys
from consentd.errors import InvalidError, NotFoundError, PreconditionError, ProofError, VerificationError
from consentd.statements.chains import NAMED, HeldPart
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client.entries import History
from consentd_client.history import collect_proof, join_parts, open_remembered, verify_history_part
from consentd_client.history_file import HistoryState
from consentd_client.log_key import following, remember_log_key
from consentd_client.memory import RememberedEntry, RememberedHistory
from consentd_client.operations import ClientContext, Operation, call, call_stream, run_blocking
from consentd_client.receipts import ReducedReceipt, read_reduced_receipt, wait_for

PART_ENTRIES = 5_000
"""Most entries of a history that one call reads. A longer history is read and verified in parts."""

Verified: TypeAlias = tuple[History, RememberedHistory, HeldPart]


def get_checkpoint(context: ClientContext) -> Operation[Checkpoint]:
    """Read the latest checkpoint, verify that it extends the remembered checkpoint, and remember the new one."""
    context.pinned()
    response = yield from call(context, ls.GetCheckpointRequest(), ls.GetCheckpointResponse)

    def open_note() -> Checkpoint:
        trust = context.pinned()
        return open_checkpoint(response.checkpoint, trust.origin, trust.log_key)[0]

    point = yield from following(context, open_note)
    trust = context.pinned()
    trust.verify_witnessed(response.checkpoint, now_ms=context.now_ms())
    remembered_note = yield from run_blocking(context.memory.checkpoint)
    remembered = open_remembered(remembered_note, trust)
    if remembered is not None:
        proof: list[bytes] = []
        if point.size > remembered.size:
            request = ls.GetConsistencyProofRequest(first_tree_size=remembered.size, second_tree_size=point.size)
            found = yield from call(context, request, ls.GetConsistencyProofResponse)
            proof = list(found.hashes)
        try:
            _verify_continues(remembered, point, proof)
        except VerificationError as error:
            raise with_evidence(error, response.checkpoint, remembered_note) from None
    yield from run_blocking(lambda: context.memory.remember(response.checkpoint))
    return point


def _verify_continues(remembered: Checkpoint, point: Checkpoint, proof: list[bytes]) -> None:
    if point.size < remembered.size:
        raise ProofError(f"checkpoint is smaller than the one remembered: `{point.size}` and `{remembered.size}`")
    merkle.verify_consistency(proof, size1=remembered.size, root1=remembered.root, size2=point.size, root2=point.root)


R = TypeVar("R", bound=ReducedReceipt)


def get_receipt(context: ClientContext, receipt: R, *, published: bool = True) -> Operation[R]:
    """Read a receipt again, to obtain the proof that was not available when the entry was written.

    *published*: let the daemon wait until a checkpoint covers the entry, at most until shortly before the deadline.
    """
    request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash, wait_for=wait_for(published))
    response = yield from call(context, request, ls.GetReceiptResponse)
    found = yield from following(context, lambda: read_reduced_receipt(response.receipt, context.present_trust))
    if (found.index, found.leaf_hash) != (receipt.index, receipt.leaf_hash):
        raise ProofError("receipt is for another leaf than the one asked for")
    return replace(receipt, proof=found.proof, checkpoint=found.checkpoint)


def history(
    context: ClientContext, subject: pb.Subject, *, tag: bytes = b"", authority_seq: int = 0
) -> Operation[History]:
    """Read a person's history; verify its completeness and each entry's signature; store it in the client's memory.

    *tag*: the tag that ``enrol`` returned, 32 bytes; empty: the remembered tag, or any tag if none is remembered.
    *authority_seq*: seq of the AUTHORITY of the representative for whom the caller reads; 0: for the person.

    Raises:
        VerificationError: the history is not complete, not genuine, or contradicts what is remembered.
    """
    request = ls.GetHistoryRequest(subject=subject, authority_seq=authority_seq)
    return _read_history(context, request, "", tag, memory_key(subject))


def public_history(context: ClientContext, name: str) -> Operation[History]:
    """Read, verify and store the history of a public chain: ``ledger``, ``participant/ID``, ``notice/ID`` …"""
    if not name:
        raise InvalidError("public chain has no name")
    return _read_history(context, ls.GetHistoryRequest(public_name=name), name, b"", name)


def _read_history(
    context: ClientContext, request: ls.GetHistoryRequest, name: str, tag: bytes, key: str
) -> Operation[History]:
    trust, memory = context.pinned(), context.memory
    note, remembered = yield from run_blocking(lambda: (memory.checkpoint(), memory.history(key)))
    point = open_remembered(note, trust)
    request.known_count = 0 if remembered is None else remembered.count
    most = None if has_author_keys(name) else PART_ENTRIES
    try:
        proof = yield from _read_part(context, request, point, most)
    except PreconditionError:
        if point is None:
            raise
        # The daemon may not know the remembered size because its ledger was rolled back. An error is not signed, so it
        # proves nothing. Ask without a size: after a rollback the reply has evidence, namely a signed checkpoint that
        # is smaller than the remembered one, or a chain that does not continue the remembered chain.
        request.known_count = 0
        proof = yield from _read_part(context, request, None, most)
    except NotFoundError as error:
        if remembered is None:
            raise
        count = len(remembered.entries)
        raise NotFoundError(
            f"{error}, though a history of {count} entries is remembered: unless the person was erased, the daemon "
            "hides the history",
            error.reason,
        ) from error
    parts: list[History] = []
    rows: list[RememberedEntry] = []
    verify = partial(verify_history_part, trust=trust, name=name, tag=tag, most=most, now_ms=context.now_ms())
    known: dict[str, Any] = {"remembered": remembered}
    while True:
        found, new_memory, part = yield from _verified(
            partial(verify, proof, remembered_checkpoint=point, **known), proof, note
        )
        parts.append(found)
        rows += new_memory.entries
        if found.is_complete:
            break
        point, note, known = found.checkpoint, proof.checkpoint, {"before": part}
        request.known_count = part.held.count
        proof = yield from _read_part(context, request, point, most)
    whole = RememberedHistory(found.tag, tuple(rows))
    yield from run_blocking(lambda: memory.remember(proof.checkpoint, key, whole))
    yield from remember_log_key(context, found.log_keys)
    return join_parts(parts)


def history_part(
    context: ClientContext, chain: pb.Subject | str, *, tag: bytes = b"", state: HistoryState | None = None,
    most: int = PART_ENTRIES,
) -> Operation[tuple[History, tuple[RememberedEntry, ...], HistoryState]]:  # fmt: skip
    """Read and verify the next part of a long history, of at most *most* entries.

    Of the client's memory only the log key is used, and written after a rotation: neither checkpoint nor history.

    Returns the part's entries, the same in the form that a file stores, and the state for the next part. The history is
    proven only when ``is_complete`` of a part is true: show or use no entry before that.

    Args:
        chain: a person, or the name of a public chain other than ``ledger`` and ``participant/ID``.
        tag: the person's tag; empty: any, or that of *state*.
        state: the state after the part before; None: read from the first entry.
        most: 1 or more.

    Raises:
        InvalidError: *most* is out of range.
        VerificationError: the part is not genuine, or does not continue the parts before.
    """
    if not 1 <= most <= codec.MAX_SEQ:
        raise InvalidError(f"most is not from 1 to {codec.MAX_SEQ}: `{most}`")
    trust = context.pinned()
    if isinstance(chain, str):
        request, name = ls.GetHistoryRequest(public_name=chain), chain
    else:
        request, name = ls.GetHistoryRequest(subject=chain), ""
    before = None if state is None else state.part
    note = None if state is None else state.checkpoint
    request.known_count = 0 if before is None else before.held.count
    point = open_remembered(note, trust)
    proof = yield from _read_part(context, request, point, most)
    found, rows, part = yield from _verified(
        partial(
            verify_history_part, proof, trust=trust, name=name, tag=tag, remembered_checkpoint=point, before=before,
            most=most, now_ms=context.now_ms(),
        ),
        proof, note,
    )  # fmt: skip
    yield from remember_log_key(context, found.log_keys)
    named = () if state is None else state.named
    named += tuple(one.entry for one, shown in zip(rows.entries, found.entries, strict=True) if shown.kind in NAMED)
    return found, rows.entries, HistoryState(proof.checkpoint, part, named)


def _read_part(
    context: ClientContext, request: ls.GetHistoryRequest, point: Checkpoint | None, most: int | None
) -> Operation[HistoryProof]:
    request.known_tree_size = 0 if point is None else point.size
    request.max_entries = most or 0
    return collect_proof((yield from call_stream(context, request, ls.GetHistoryResponse)))


def _verified(
    verify: Callable[[], Verified], proof: HistoryProof, note: bytes | None
) -> Operation[Verified]:
    """Run a verification; an error gets the two checkpoints as evidence."""
    try:
        return (yield from run_blocking(verify))
    except VerificationError as error:
        raise with_evidence(error, proof.checkpoint, note) from None


def with_evidence(error: VerificationError, shown: bytes, remembered: bytes | None) -> VerificationError:
    """Add two signed checkpoints to an error. If they contradict each other, they are evidence against the log."""
    for what, note in (("shown", shown), ("remembered", remembered)):
        if note:
            error.add_note(f"checkpoint {what}:\n{note.decode('utf-8', 'backslashreplace')}")
    return error


def memory_key(subject: pb.Subject) -> str:
    """Return a memory's key for a person's history: a hash, so that the memory's file has no person's identifier."""
    named = b"%d\0%b%b" % (len(subject.scheme.encode()), subject.scheme.encode(), subject.value.encode())
    return "subject/" + hashlib.sha256(named).hexdigest()
