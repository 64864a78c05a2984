"""Save a history as a file of evidence, and open such a file offline. Format: ``consentd.core.evidence``.

The file contains a history and its proofs, as ``LedgerService.GetHistory`` streams them. ``consentd audit
check-evidence`` and the verifier in ``clients/typescript`` read the same files.

A file contains only entries that the ledger can still prove. If an entry in the client's memory was pruned from the
ledger since, the entry stays in the memory and is not in the file.
"""

from dataclasses import replace

from consentd.core import history
from consentd.core.evidence import MAX_SIZE, Evidence, Scope, claimed_keys, format_evidence, parse_evidence
from consentd.core.quorum import format_policy
from consentd.errors import InvalidError, ProofError
from consentd.statements.evidence import verify_evidence
from consentd.statements.rotations import follow_rotations
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client import ledger
from consentd_client.entries import History
from consentd_client.history import check_asked, collect_proof, history_of
from consentd_client.operations import ClientContext, Operation, call_stream, run_blocking
from consentd_client.trust import Trust


def open_history(
    content: bytes | Evidence, *, trust: Trust, name: str = "", tag: bytes = b"", now_ms: int | None = None,
    max_age_s: int | None = None,
) -> History:  # fmt: skip
    """Verify a file of evidence offline; return the file's history, which is complete up to ``seal_time_ms``.

    Args:
        content: the bytes of the file, or what ``parse_evidence`` returned for them.
        trust: the pinned keys. If a witness policy is pinned too, a quorum must have cosigned the checkpoint.
        name: the name of the public chain that the file must contain.
        tag: the tag of the chain that the file must contain, 32 bytes. Without *name* and *tag* any chain is accepted.
        now_ms: the reader's clock. A seal with a later time is refused. None: the seal's time is not compared.
        max_age_s: cosignatures that are older than this at *now_ms* are ignored; None: any age is accepted.

    Raises:
        MalformedError: *content* is not a file of evidence.
        SignatureError: a signature of the log or of an author is missing or wrong, or too few witnesses cosigned.
        ProofError: the history is not complete or of another chain, or the seal's time is after *now_ms*.
    """
    evidence = parse_evidence(content) if isinstance(content, bytes) else content
    verified = verify_evidence(
        evidence, origin=trust.origin, log_verifier=trust.log_key, policy=trust.policy, now_ms=now_ms,
        max_age_s=max_age_s,
    )  # fmt: skip
    replace(trust, policy=None).verify_witnessed(evidence.proof.checkpoint, now_ms=None)
    if not evidence.scope.chain:
        raise ProofError("evidence is of a range of entries, and not of one chain")
    asked = evidence.proof.chains[0]
    check_asked(asked, name=name or ("" if tag else asked.public_name), tag=tag)
    return replace(history_of(verified.histories, verified.sealed), log_keys=verified.log_keys)


def save_history(
    context: ClientContext, chain: pb.Subject | str, *, tag: bytes = b""
) -> Operation[tuple[History, bytes]]:
    """Read a history as ``ledger.history`` or ``ledger.public_history`` does; then read all of it again for a file.

    The first reading does not suffice for a file: the daemon leaves out the entries that the client's memory has, and
    the chains of keys that signed only those entries.

    *chain* is a person or the name of a public chain. Returns the history that the file proves, and the file's bytes.
    ``is_new`` marks the entries that the memory did not have. Raises as ``ledger.history``.
    """
    if isinstance(chain, str):
        found = yield from ledger.public_history(context, chain)
        request = ls.GetHistoryRequest(public_name=chain)
    else:
        found = yield from ledger.history(context, chain, tag=tag)
        request = ls.GetHistoryRequest(subject=chain)
    pinned, now_ms = context.pinned(), context.now_ms()
    request.known_tree_size = found.checkpoint.size
    pieces = yield from call_stream(context, request, ls.GetHistoryResponse)
    proof = collect_proof(pieces)
    followed = follow_rotations(proof, origin=pinned.origin, log_key=pinned.log_key, policy=pinned.policy)
    trust = replace(pinned, log_key=followed.log_key)
    history.verify_sealed_checkpoint(proof, origin=trust.origin, log_verifier=trust.log_key, held=found.checkpoint)
    policy = "" if trust.policy is None else format_policy(trust.policy).decode()
    scope, keys = Scope(tag=found.tag), claimed_keys(trust.log_key)
    content = format_evidence(Evidence(scope=scope, proof=replace(proof, consistency=()), keys=keys, policy=policy))
    if len(content) > MAX_SIZE:
        raise InvalidError(f"history is longer than a file may be: `{len(content)}` bytes")
    # Verify the bytes of the file itself, as every reader of the file will do.
    whole = yield from run_blocking(
        lambda: open_history(content, trust=pinned, name=found.name, tag=found.tag, now_ms=now_ms)
    )
    _check_continues(found, whole)
    known = max((entry.seq for entry in found.entries if not entry.is_new), default=0)
    entries = tuple(replace(entry, is_new=entry.seq > known) for entry in whole.entries)
    return replace(whole, entries=entries), content


def _check_continues(found: History, whole: History) -> None:
    """Verify that the file's history *whole* contains the last entry of *found*, unless it was pruned in between."""
    if not found.entries:
        return
    # Each leaf contains the hash of the chain's previous leaf. So if the last entries agree, all earlier ones agree.
    last = found.entries[-1].event
    is_pruned = bool(whole.entries) and whole.entries[0].seq > last.seq
    if not is_pruned and last not in [entry.event for entry in whole.entries]:
        raise ProofError("history does not continue the one that was read just before")
