"""Verify a history as it was streamed, and turn it into typed entries. Pure: bytes in, history or error out.

Nothing is shown before everything is verified: checkpoint, consistency with what is remembered, seal, map, every
leaf and opening (``consentd.core.history``), and the signature of every new statement under a key whose own chain is
verified at the same checkpoint. Entries remembered from before are sent no more; they are verified again as part of
the chain, so that the history returned is always whole.

What it does not prove, and where the result is shown one should say so: an access that nobody reported; that the tag
is the person's (whoever deals with the person pins the tag); that everyone is shown the same ledger. That a tag has no
entry says nothing about a person.
"""

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from consentd.core import history
from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof, SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, ValidKeys, may_author
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import InvalidError, MalformedError, ProofError, VerificationError
from consentd.statements import payloads
from consentd.statements.evidence import VerifiedChains, verify_chains
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client.entries import SUBJECT, Entry, History
from consentd_client.memory import HeldEntry, HeldHistory
from consentd_client.steps import Trust

# -- from the stream ------------------------------------------------------------------------------------------


def collect_proof(pieces: Iterable[ls.GetHistoryResponse]) -> HistoryProof:
    """Put the pieces of a stream together. Claims only; nothing is verified.

    Raises:
        MalformedError: they do not come in their order.
    """
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
            chains[-1][1].extend(_claimed(entry) for entry in piece.entries.entries)
    if head is None or not chains:
        raise MalformedError("history stream ends before its first chain")
    return HistoryProof(
        checkpoint=head.checkpoint,
        consistency=tuple(head.consistency),
        seal=head.seal,
        seal_inclusion=tuple(head.seal_inclusion),
        chains=tuple(
            ChainProof(
                tag=chain.tag,
                public_name=chain.public_name,
                count=chain.count,
                head=chain.head,
                map_proof=chain.map_proof,
                first_seq=chain.first_seq,
                entries=tuple(entries),
            )
            for chain, entries in chains
        ),
    )


def _claimed(entry: ls.LedgerEntry) -> HistoryEntry:
    opening = (entry.opening.salt, entry.opening.statement) if entry.HasField("opening") else None
    return HistoryEntry(entry.leaf, opening)


# -- verification ---------------------------------------------------------------------------------------------


def open_held(checkpoint: bytes | None, trust: Trust) -> Checkpoint | None:
    """Open the checkpoint that a memory holds.

    Raises:
        InvalidError: it is not one of this ledger: the memory is another's, or damaged, or the pin is wrong.
    """
    if checkpoint is None:
        return None
    try:
        point, _ = open_checkpoint(checkpoint, trust.origin, trust.log_key)
    except VerificationError as error:
        # That is no fault of the daemon's evidence, and must not be taken for one.
        raise InvalidError(f"memory holds no checkpoint of the pinned ledger: {error}") from error
    return point


def verify_history(
    proof: HistoryProof,
    *,
    trust: Trust,
    name: str = "",
    tag: bytes = b"",
    held_checkpoint: Checkpoint | None = None,
    held: HeldHistory | None = None,
    now_ms: int = 0,
) -> tuple[History, HeldHistory]:
    """Verify everything; return the whole history, and what to remember of it.

    Args:
        proof: what was streamed.
        trust: what was pinned.
        name: the public chain that was asked for; empty: a person's.
        tag: the person's tag where it was pinned; empty: any.
        held_checkpoint: the checkpoint remembered.
        held: what is remembered of this chain.
        now_ms: the reader's clock, which cosignatures must not be far behind; of no matter without witnesses.

    Raises:
        VerificationError: see ``consentd.core.history``; or it is another chain than the one asked for, or does not
            continue what is remembered.
    """
    sealed = history.verify_sealed_checkpoint(
        proof, origin=trust.origin, log_verifier=trust.log_key, held=held_checkpoint
    )
    trust.verify_witnessed(proof.checkpoint, now_ms=now_ms, seal_time_ms=sealed.seal.time_ms)
    asked = proof.chains[0]
    check_asked(asked, name=name, tag=tag, held=held)
    known = () if held is None else held.entries
    chains = verify_chains(
        proof.chains, sealed, asked=asked.tag, origin=trust.origin, log_verifier=trust.log_key,
        known=[one.entry for one in known],
    )  # fmt: skip
    result = history_of(chains, sealed, authors=[one.author for one in known])
    whole = (*(one.entry for one in known), *asked.entries)
    authors = [entry.author for entry in result.entries]
    held_entries = tuple(HeldEntry(entry, author) for entry, author in zip(whole, authors, strict=True))
    return result, HeldHistory(asked.tag, held_entries)


def history_of(chains: VerifiedChains, sealed: SealedCheckpoint, *, authors: Sequence[str] = ()) -> History:
    """Return the first of verified chains as a history with decoded entries.

    Args:
        authors: who signed the first entries, if these were verified before and are not new.
    """
    first = chains.chains[0]
    entries, name = first.entries, first.proof.public_name
    erased = bool(entries) and entries[-1].event.kind == EntryKind.ERASURE
    everyone = [*authors, *(_author(entry, chains.keys) for entry in entries[len(authors) :])]
    return History(
        tag=first.proof.tag,
        name=name,
        checkpoint=sealed.checkpoint,
        seal_time_ms=sealed.seal.time_ms,
        entries=tuple(
            Entry(
                event=entry.event,
                statement=entry.statement,
                author=author,
                message=_decode(entry),
                is_new=at >= len(authors),
                is_pruned=entry.statement is None and entry.event.time_ms < chains.kept_from_ms and not erased,
            )
            for at, (entry, author) in enumerate(zip(entries, everyone, strict=True))
        ),
        is_erased=erased,
        missing=_missing(entries),
        kept_from_ms=0 if name else chains.kept_from_ms,
    )


def _decode(entry: VerifiedEntry) -> Message | None:
    """Return an entry's payload message; None: it has no statement, or this version does not understand all of it."""
    if entry.statement is None:
        return None
    return payloads.decode_known_payload(entry.event.kind, entry.statement.payload)


def _missing(entries: Sequence[VerifiedEntry]) -> tuple[tuple[int, int], ...]:
    missing, last = [], 0
    for entry in entries:
        if entry.event.seq != last + 1:
            missing.append((last + 1, entry.event.seq - 1))
        last = entry.event.seq
    return tuple(missing)


def check_asked(chain: ChainProof, *, name: str, tag: bytes, held: HeldHistory | None = None) -> None:
    """Verify that a chain is the one asked for: public chain *name*, or a person's (of *tag*, unless that is empty).

    Raises:
        ProofError: it is another chain, or has another tag than the one remembered.
    """
    # That a public name is its tag's is verified with the chain.
    if chain.public_name != name or (tag and chain.tag != tag):
        raise ProofError("history is of another chain than the one asked for")
    if held is not None and held.tag != chain.tag:
        raise ProofError(
            "history is under another tag than the one remembered: unless the person was erased and enrolled anew, "
            "entries are being hidden"
        )


def _author(entry: VerifiedEntry, keys: ValidKeys) -> str:
    """Name who signed an entry whose signature was verified."""
    if entry.statement is None:
        return ""
    found = [validity for validity in keys[entry.statement.key] if may_author(validity, entry.event)]
    assert found, "author was verified, and is not among the keys"
    # Of several whose key it is the same one is named, in whatever order their chains were sent.
    validity = min(found, key=lambda one: (one.owner, str(one.tag_or_name)))
    if validity.owner is Owner.LEDGER:
        return LEDGER_CHAIN
    return SUBJECT if validity.owner is Owner.SUBJECT else f"{PARTICIPANT_PREFIX}{validity.tag_or_name!s}"
