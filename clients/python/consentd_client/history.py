"""Verify a history that was received, and turn it into typed entries. Bytes go in; a history or an error comes out.

Nothing is returned before everything is verified: the checkpoint, its consistency with the remembered checkpoint, the
seal, the map, every leaf and opening (``consentd.core.history``), and the signature of every new statement under a key
whose own chain is verified at the same checkpoint (``consentd.statements.evidence``). The daemon does not send entries
again that the client remembers. They are verified again as part of the chain, so the returned history is complete.

This does not prove: an access that nobody reported; that the tag belongs to the person (the program that enrolled the
person must pin the tag); that everyone is shown the same ledger. That a tag has no entry says nothing about a person.
"""

from collections.abc import Iterable, Sequence

from consentd.core import history
from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof, SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, ValidKeys, may_author
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import InvalidError, MalformedError, ProofError, VerificationError
from consentd.statements.evidence import VerifiedChains, message_of, verify_chains
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client.entries import SUBJECT, Entry, History
from consentd_client.memory import RememberedEntry, RememberedHistory
from consentd_client.trust import Trust


def collect_proof(pieces: Iterable[ls.GetHistoryResponse]) -> HistoryProof:
    """Assemble the messages of a history stream; nothing is verified yet. MalformedError: they are out of order."""
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
    proofs = tuple(
        ChainProof(
            tag=chain.tag, public_name=chain.public_name, count=chain.count, head=chain.head,
            map_proof=chain.map_proof, first_seq=chain.first_seq, entries=tuple(entries),
        )
        for chain, entries in chains
    )  # fmt: skip
    return HistoryProof(
        checkpoint=head.checkpoint, consistency=tuple(head.consistency), seal=head.seal,
        seal_inclusion=tuple(head.seal_inclusion), chains=proofs,
    )  # fmt: skip


def _history_entry(entry: ls.LedgerEntry) -> HistoryEntry:
    opening = (entry.opening.salt, entry.opening.statement) if entry.HasField("opening") else None
    return HistoryEntry(entry.leaf, opening)


def open_remembered(checkpoint: bytes | None, trust: Trust) -> Checkpoint | None:
    """Parse and verify the checkpoint of a memory; None: the memory has none.

    Raises:
        InvalidError: the memory belongs to another ledger or is damaged, or the pinned key is wrong.
    """
    if checkpoint is None:
        return None
    try:
        point, _ = open_checkpoint(checkpoint, trust.origin, trust.log_key)
    except VerificationError as error:
        # The fault is on the client's side, so it must not count as evidence against the daemon.
        raise InvalidError(f"memory has no checkpoint of the pinned ledger: {error}") from error
    return point


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
    """Verify everything; return the whole history, and what to remember of it.

    Args:
        name: the public chain that was asked for; empty: a person's chain.
        tag: the person's tag, if it was pinned; empty: any.
        remembered_checkpoint, remembered: the latest checkpoint and the part of this chain that were verified before.
        now_ms: the reader's clock, which is compared with the cosignatures of pinned witnesses only.

    Raises:
        VerificationError: see ``consentd.core.history`` and ``check_asked``.
    """
    origin, log_key = trust.origin, trust.log_key
    sealed = history.verify_sealed_checkpoint(proof, origin=origin, log_verifier=log_key, held=remembered_checkpoint)
    trust.verify_witnessed(proof.checkpoint, now_ms=now_ms, seal_time_ms=sealed.seal.time_ms)
    asked = proof.chains[0]
    check_asked(asked, name=name, tag=tag, remembered=remembered)
    known = () if remembered is None else remembered.entries
    before = [one.entry for one in known]
    chains = verify_chains(proof.chains, sealed, asked=asked.tag, origin=origin, log_verifier=log_key, known=before)
    result = history_of(chains, sealed, authors=[one.author for one in known])
    whole = zip((*before, *asked.entries), result.entries, strict=True)
    return result, RememberedHistory(asked.tag, tuple(RememberedEntry(entry, shown.author) for entry, shown in whole))


def check_asked(chain: ChainProof, *, name: str, tag: bytes, remembered: RememberedHistory | None = None) -> None:
    """Verify that a chain is the one asked for: public chain *name*, or a person's (of *tag*, unless that is empty).

    A person's chain must also have the tag of the remembered history.
    """
    # ``history.verify_chain`` verifies that a public name belongs to the tag.
    if chain.public_name != name or (tag and chain.tag != tag):
        raise ProofError("history is of another chain than the one asked for")
    if remembered is not None and remembered.tag != chain.tag:
        raise ProofError(
            "history is under another tag than the one remembered: unless the person was erased and enrolled anew, "
            "the daemon hides entries"
        )


def history_of(chains: VerifiedChains, sealed: SealedCheckpoint, *, authors: Sequence[str] = ()) -> History:
    """Return the first of verified chains as a history; *authors* are those of the entries verified before."""
    first = chains.chains[0]
    entries, name = first.entries, first.proof.public_name
    erased = bool(entries) and entries[-1].event.kind == EntryKind.ERASURE
    all_authors = [*authors, *(_author(entry, chains.keys) for entry in entries[len(authors) :])]
    shown = tuple(
        Entry(
            event=entry.event, statement=entry.statement, author=author, is_new=position >= len(authors),
            message=message_of(entry),
            is_pruned=entry.statement is None and entry.event.time_ms < chains.kept_from_ms and not erased,
        )
        for position, (entry, author) in enumerate(zip(entries, all_authors, strict=True))
    )  # fmt: skip
    return History(
        tag=first.proof.tag, name=name, checkpoint=sealed.checkpoint, seal_time_ms=sealed.seal.time_ms, entries=shown,
        is_erased=erased, missing=_missing_ranges(entries), kept_from_ms=0 if name else chains.kept_from_ms,
    )  # fmt: skip


def _missing_ranges(entries: Sequence[VerifiedEntry]) -> tuple[tuple[int, int], ...]:
    """Return the ranges of missing seqs: for seqs 3 4 7 these are (1, 2) and (5, 6)."""
    missing, last = [], 0
    for entry in entries:
        if entry.event.seq != last + 1:
            missing.append((last + 1, entry.event.seq - 1))
        last = entry.event.seq
    return tuple(missing)


def _author(entry: VerifiedEntry, keys: ValidKeys) -> str:
    """Return the author of an entry whose signature was verified; empty: the entry's statement is gone."""
    if entry.statement is None:
        return ""
    found = [validity for validity in keys[entry.statement.key] if may_author(validity, entry.event)]
    assert found, "author was verified, and is not among the keys"
    # One key can be valid for several owners. Choose by owner, so that the order of the received chains has no effect.
    validity = min(found, key=lambda one: (one.owner, str(one.tag_or_name)))
    if validity.owner is Owner.LEDGER:
        return LEDGER_CHAIN
    return SUBJECT if validity.owner is Owner.SUBJECT else f"{PARTICIPANT_PREFIX}{validity.tag_or_name!s}"
