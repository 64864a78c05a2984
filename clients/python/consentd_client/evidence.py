"""Save a history as a file of evidence, and open such a file offline. Format: ``consentd.core.evidence``.

``LedgerService.GetHistory`` streams what such a file contains. Other programs read the same file: ``consentd audit
check-evidence``, and the verifier in ``clients/typescript``.

A file proves only what the ledger can still prove. Entries that a client's memory holds, and that were pruned since,
cannot be proven any more: they stay in the memory and are not in the file.
"""

from dataclasses import replace

from consentd.core import history
from consentd.core.evidence import MAX_SIZE, Evidence, Scope, claimed_keys, format_evidence, parse_evidence
from consentd.core.quorum import format_policy
from consentd.errors import InvalidError, ProofError
from consentd.statements.evidence import verify_evidence
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client import ledger
from consentd_client.entries import History
from consentd_client.history import check_asked, collect_proof, history_of
from consentd_client.operations import ClientContext, Operation, call_stream, run_blocking
from consentd_client.trust import Trust


def open_history(
    content: bytes, *, trust: Trust, name: str = "", tag: bytes = b"", now_ms: int | None = None,
    max_age_s: int | None = None,
) -> History:  # fmt: skip
    """Verify a file of evidence offline; return the history that it proves, complete up to ``seal_time_ms``.

    Args:
        trust: what was pinned. If it names witnesses, a quorum of them must have cosigned the checkpoint.
        name: the public chain that the file must be about.
        tag: the tag that it must be about, 32 bytes. With neither *name* nor *tag* it may be about any chain.
        now_ms: the reader's clock, which the seal may not be ahead of; None: not compared.
        max_age_s: age of the oldest cosignature that counts, by *now_ms*; None: any age.

    Raises:
        MalformedError: *content* is not a file of evidence.
        SignatureError: the log, an author or a quorum of witnesses has not signed.
        ProofError: the history is not complete or of another chain, or its seal is ahead of *now_ms*.
    """
    evidence = parse_evidence(content)
    verified = verify_evidence(
        evidence, origin=trust.origin, log_verifier=trust.log_key, policy=trust.policy, now_ms=now_ms,
        max_age_s=max_age_s,
    )  # fmt: skip
    replace(trust, policy=None).verify_witnessed(evidence.proof.checkpoint, now_ms=None)
    if not evidence.scope.chain:
        raise ProofError("evidence is of a range of entries, and not of one chain")
    asked = evidence.proof.chains[0]
    check_asked(asked, name=name or ("" if tag else asked.public_name), tag=tag)
    return history_of(verified.histories, verified.sealed)


def save_history(
    context: ClientContext, chain: pb.Subject | str, *, tag: bytes = b""
) -> Operation[tuple[History, bytes]]:
    """Read a history as ``ledger.history`` or ``ledger.public_history`` does, then all of it again as a file.

    The daemon is asked again because a stream that continues a memory is not complete: it lacks the entries that are
    remembered, and the chains of keys that signed only those.

    *chain* is a person or the name of a public chain. Returns the history that the file proves, whose ``is_new``
    compares with the memory; and the file. Raises as ``ledger.history``.
    """
    if isinstance(chain, str):
        found = yield from ledger.public_history(context, chain)
        request = ls.GetHistoryRequest(public_name=chain)
    else:
        found = yield from ledger.history(context, chain, tag=tag)
        request = ls.GetHistoryRequest(subject=chain)
    trust, now_ms = context.pinned(), context.now_ms()
    request.known_tree_size = found.checkpoint.size
    pieces = yield from call_stream(context, request, ls.GetHistoryResponse)
    proof = collect_proof(pieces)
    history.verify_sealed_checkpoint(proof, origin=trust.origin, log_verifier=trust.log_key, held=found.checkpoint)
    policy = "" if trust.policy is None else format_policy(trust.policy).decode()
    scope, keys = Scope(tag=found.tag), claimed_keys(trust.log_key)
    content = format_evidence(Evidence(scope=scope, proof=replace(proof, consistency=()), keys=keys, policy=policy))
    if len(content) > MAX_SIZE:
        raise InvalidError(f"history is longer than a file may be: `{len(content)}` bytes")
    # Verify the bytes of the file themselves, as its reader will.
    whole = yield from run_blocking(
        lambda: open_history(content, trust=trust, name=found.name, tag=found.tag, now_ms=now_ms)
    )
    _check_continues(found, whole)
    known = max((entry.seq for entry in found.entries if not entry.is_new), default=0)
    entries = tuple(replace(entry, is_new=entry.seq > known) for entry in whole.entries)
    return replace(whole, entries=entries), content


def _check_continues(found: History, whole: History) -> None:
    """Check that the last entry read just before is in the file, unless it was pruned in between."""
    if not found.entries:
        return
    # Each leaf contains the hash of the one before it, so if the last entries agree, all do.
    last = found.entries[-1].event
    is_pruned = bool(whole.entries) and whole.entries[0].seq > last.seq
    if not is_pruned and last not in [entry.event for entry in whole.entries]:
        raise ProofError("history does not continue the one that was read just before")
