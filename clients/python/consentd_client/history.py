"""Verify a history that the daemon sent, and turn the history into typed entries.

Nothing is returned before all is verified: the checkpoint and its consistency with the remembered one, the seal (the
tree's last leaf, which holds the map's root), the map (which gives each chain's last entry), every leaf and opening
(``consentd.core.history``), and each new statement's signature and key (``consentd.statements.evidence``). Entries that
the client remembers are not sent again. Their leaves and statements are verified again, so the returned history is
complete; their authors are those that the memory holds (``memory`` says what that means).

Three things remain unproven: whether there was an access that nobody reported; whether the tag, which identifies the
chain, is the person's (to be sure, pin the tag that ``enrol`` returned); whether everyone is shown the same ledger.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from consentd.core import history
from consentd.core.checkpoint import Checkpoint, open_own
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof, RotationProof, SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, ValidKeys, authority_of, may_author
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import InvalidError, MalformedError, ProofError, VerificationError
from consentd.statements.authorities import NamedAuthorities
from consentd.statements.chains import HeldPart, VerifiedChains, message_of, verify_chains
from consentd.statements.named import named_by
from consentd.statements.outcomes import OutcomeComparison
from consentd.statements.rotations import follow_rotations
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client.entries import REPRESENTATIVE_PREFIX, SUBJECT, Entry, History
from consentd_client.memory import RememberedEntry, RememberedHistory
from consentd_client.trust import Trust


def collect_proof(pieces: Iterable[ls.GetHistoryResponse]) -> HistoryProof:
    """Join the messages of a history stream into an unverified proof; MalformedError if messages are out of order."""
    head: ls.HistoryHead | None = None
    chains: list[tuple[ls.HistoryChain, list[HistoryEntry]]] = []
    for piece in pieces:
        what = piece.WhichOneof("piece")
        if (what == "head") != (head is None) or (what == "entries" and not chains) or what is None:
            raise MalformedError("history stream has a piece out of order")
        if what == "head":
            head = piece.head
        elif what == "chain":
            chains.append((piece.chain, []))
        else:
            chains[-1][1].extend(_history_entry(entry) for entry in piece.entries.entries)
    if head is None or not chains:
        raise MalformedError("history stream ends before its first chain")
    return HistoryProof(
        checkpoint=head.checkpoint, consistency=tuple(head.consistency), seal=head.seal,
        seal_inclusion=tuple(head.seal_inclusion), chains=tuple(_chain_proof(*chain) for chain in chains),
        rotations=tuple(map(_rotation_proof, head.rotations)),
    )  # fmt: skip


def _chain_proof(chain: ls.HistoryChain, entries: Iterable[HistoryEntry]) -> ChainProof:
    return ChainProof(
        tag=chain.tag, public_name=chain.public_name, count=chain.count, head=chain.head,
        map_proof=chain.map_proof, first_seq=chain.first_seq, entries=tuple(entries),
    )  # fmt: skip


def _rotation_proof(rotation: ls.HistoryRotation) -> RotationProof:
    return RotationProof(
        checkpoint=rotation.checkpoint, seal=rotation.seal, seal_inclusion=tuple(rotation.seal_inclusion),
        history=_chain_proof(rotation.chain, map(_history_entry, rotation.entries)),
        consistency=tuple(rotation.consistency),
    )  # fmt: skip


def _history_entry(entry: ls.LedgerEntry) -> HistoryEntry:
    opening = (entry.opening.salt, entry.opening.statement) if entry.HasField("opening") else None
    return HistoryEntry(entry.leaf, opening)


def open_remembered(checkpoint: bytes | None, trust: Trust) -> Checkpoint | None:
    """Parse and verify the remembered *checkpoint*, a signed note; return None if *checkpoint* is None.

    The memory is the client's own. So a remembered checkpoint may be signed by another key of the log than the pinned
    one: it was verified before the log replaced its key, or before the reader pinned the present one.

    Raises:
        InvalidError: the memory belongs to another ledger or is damaged.
    """
    if checkpoint is None:
        return None
    try:
        return open_own(checkpoint, trust.origin, trust.log_key)
    except VerificationError as error:
        # The memory or the pinned key is wrong, so the error must not count as evidence against the daemon.
        raise InvalidError(f"memory has no checkpoint of the pinned ledger: {error}") from error


def verify_history(
    proof: HistoryProof,
    *,
    trust: Trust,
    name: str = "",
    tag: bytes = b"",
    remembered_checkpoint: Checkpoint | None = None,
    remembered: RememberedHistory | None = None,
    now_ms: int = 0,
) -> tuple[History, RememberedHistory]:
    """Verify a history; return the whole history, and the same history in the form that a memory stores.

    The arguments and errors are those of ``verify_history_part``.
    """
    result, memory, _ = verify_history_part(
        proof, trust=trust, name=name, tag=tag, remembered_checkpoint=remembered_checkpoint, remembered=remembered,
        now_ms=now_ms,
    )  # fmt: skip
    return result, memory


def verify_history_part(
    proof: HistoryProof,
    *,
    trust: Trust,
    name: str = "",
    tag: bytes = b"",
    remembered_checkpoint: Checkpoint | None = None,
    remembered: RememberedHistory | None = None,
    before: HeldPart | None = None,
    most: int | None = None,
    now_ms: int = 0,
) -> tuple[History, RememberedHistory, HeldPart]:
    """Verify a history or a part of it; return its entries, the same in the form that a memory stores, and the part.

    The part goes from the first entry of the chain to the last one that is verified now. Pass it as *before* to verify
    the next part. A history is complete only when a part reached its end: ``History.is_complete``.

    Args:
        name: the name of the requested public chain; empty: a person's chain was requested.
        tag: the pinned tag of the person; empty: any tag is accepted.
        remembered_checkpoint, remembered: the latest checkpoint and the part of this chain that were verified before.
        before: instead of *remembered*: the part that was verified before. Its entries are not among those returned.
        most: number of entries that were asked for; None: all.
        now_ms: the reader's clock, which is compared only with the times of witnesses' cosignatures.

    Raises:
        VerificationError: see ``consentd.core.history`` and ``check_asked``.
    """
    followed = follow_rotations(proof, origin=trust.origin, log_key=trust.log_key, policy=trust.policy)
    trust = replace(trust, log_key=followed.log_key)
    origin, log_key = trust.origin, trust.log_key
    sealed = history.verify_sealed_checkpoint(proof, origin=origin, log_verifier=log_key, held=remembered_checkpoint)
    trust.verify_witnessed(proof.checkpoint, now_ms=now_ms, seal_time_ms=sealed.seal.time_ms)
    asked = proof.chains[0]
    check_asked(asked, name=name, tag=tag, remembered=remembered)
    known = () if remembered is None else remembered.entries
    entries = [one.entry for one in known]
    chains = verify_chains(
        proof.chains, sealed, asked=asked.tag, origin=origin, log_verifier=log_key, known=entries, before=before,
        most=most,
    )  # fmt: skip
    assert chains.part is not None, "a chain was asked for"
    followed.verify_continues(chains.ledger_entries)
    result = history_of(
        chains, sealed, authors=[one.author for one in known], after=0 if before is None else before.held.count
    )
    result = replace(result, is_complete=chains.part.held.count == asked.count, log_keys=followed.keys)
    whole = zip((*entries, *asked.entries), result.entries, strict=True)
    memory = RememberedHistory(asked.tag, tuple(RememberedEntry(entry, shown.author) for entry, shown in whole))
    return result, memory, chains.part


def join_parts(parts: Sequence[History]) -> History:
    """Join the parts of one history, in order. The last part must be complete."""
    last = parts[-1]
    assert last.is_complete, "the last part reaches the end of the chain"
    entries = [entry for part in parts for entry in part.entries]
    if last.is_erased:  # what was erased also counts as pruned in a part that does not show the erasure
        entries = [replace(entry, is_pruned=False) for entry in entries]
    named = NamedAuthorities()  # an AUTHORITY may be in an earlier part than the statements under it
    entries = [replace(entry, authority=named.add(entry.event, entry.message)) for entry in entries]
    missing = tuple(one for part in parts for one in part.missing)
    return replace(last, entries=tuple(entries), missing=missing)


def check_asked(chain: ChainProof, *, name: str, tag: bytes, remembered: RememberedHistory | None = None) -> None:
    """Verify that a chain is the requested one: public chain *name*, or a person's chain if *name* is empty.

    The chain must have the tag *tag*, unless *tag* is empty, and the tag of the remembered history, if there is one.
    """
    # ``history.verify_chain`` verifies that a public name belongs to the tag.
    if chain.public_name != name or (tag and chain.tag != tag):
        raise ProofError("history is of another chain than the one asked for")
    if remembered is not None and remembered.tag != chain.tag:
        raise ProofError(
            "history is under another tag than the one remembered: unless the person was erased and enrolled anew, "
            "the daemon hides entries"
        )


def history_of(
    chains: VerifiedChains, sealed: SealedCheckpoint, *, authors: Sequence[str] = (), after: int = 0
) -> History:
    """Return the first of *chains* as a history. *authors* has the authors of the entries that were verified before.

    *after*: the seq of the entry before the first one.
    """
    first = chains.chains[0]
    entries, name = first.entries, first.proof.public_name
    erased = bool(entries) and entries[-1].event.kind == EntryKind.ERASURE
    all_authors = [*authors, *(_author(entry, chains.keys) for entry in entries[len(authors) :])]
    messages, compared, named = [message_of(entry) for entry in entries], OutcomeComparison(), NamedAuthorities()
    shown = tuple(
        Entry(
            event=entry.event, statement=entry.statement, author=author, is_new=position >= len(authors),
            message=message, beyond_permit=compared.add(entry.event, message),
            authority=named.add(entry.event, message),
            is_pruned=entry.statement is None and entry.event.time_ms < chains.kept_from_ms and not erased,
        )
        for position, (entry, author, message) in enumerate(zip(entries, all_authors, messages, strict=True))
    )  # fmt: skip
    return History(
        tag=first.proof.tag, name=name, checkpoint=sealed.checkpoint, seal_time_ms=sealed.seal.time_ms, entries=shown,
        is_erased=erased, missing=_missing_ranges(entries, after), kept_from_ms=0 if name else chains.kept_from_ms,
        understands_keys=chains.is_whole,
    )  # fmt: skip


def _missing_ranges(entries: Sequence[VerifiedEntry], after: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of missing seqs: for seqs 3 4 7 after 0 these are (1, 2) and (5, 6)."""
    missing, last = [], after
    for entry in entries:
        if entry.event.seq != last + 1:
            missing.append((last + 1, entry.event.seq - 1))
        last = entry.event.seq
    return tuple(missing)


def _author(entry: VerifiedEntry, keys: ValidKeys) -> str:
    """Return the author of an entry whose signature was verified; empty if the statement was erased or pruned."""
    if entry.statement is None:
        return ""
    named = named_by(entry.event, entry.statement.payload)
    found = [validity for validity in keys[entry.statement.key] if may_author(validity, entry.event, named)]
    assert found, "author was verified, and is not among the keys"
    # One key can be valid for several owners. Choose by owner, so that the order of the received chains has no effect.
    validity = min(found, key=lambda one: (one.owner, str(one.tag_or_name)))
    if validity.owner is Owner.LEDGER:
        return LEDGER_CHAIN
    if validity.owner is Owner.REPRESENTATIVE:
        return f"{REPRESENTATIVE_PREFIX}{authority_of(validity)}"
    return SUBJECT if validity.owner is Owner.SUBJECT else f"{PARTICIPANT_PREFIX}{validity.tag_or_name!s}"
