"""Verify a history as it was streamed, and turn it into typed entries. Pure: bytes in, history or error out.

Nothing is shown before everything is verified: checkpoint, consistency with what is remembered, seal, map, every
leaf and opening (``consentd.core.history``), and the signature of every new statement under a key whose own chain is
verified at the same checkpoint. Entries remembered from before are sent no more; they are verified again as part of
the chain, so that the history returned is always whole.

What it does not prove, and where the result is shown one should say so: an access that nobody reported; that the tag
is the person's (whoever deals with the person pins the tag); that everyone is shown the same ledger. That a tag has no
entry says nothing about a person.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from google.protobuf.message import Message

from consentd.core import codec, history
from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.history import (
    ChainProof,
    HeldChain,
    HistoryEntry,
    HistoryProof,
    SealedCheckpoint,
    VerifiedEntry,
)
from consentd.core.key_validity import (
    LEDGER_CHAIN,
    PARTICIPANT_PREFIX,
    KeyChange,
    ValidKeys,
    has_author_keys,
    may_author,
    verify_authors,
    verify_key_changes,
)
from consentd.core.kinds import EntryKind, Owner
from consentd.core.pruned import Retention
from consentd.errors import InvalidError, MalformedError, ProofError, VerificationError
from consentd.statements import payloads, values
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd_client.entries import SUBJECT, Entry, History
from consentd_client.memory import HeldEntry, HeldHistory, seq_of
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
    asked, *others = proof.chains
    _check_asked(asked, name=name, tag=tag, held=held)
    chains = _verify_others(others, asked, sealed)
    kept_from_ms = _kept_from(chains.get(codec.LEDGER_TAG, ()))
    known = () if held is None else held.entries
    entries = chains[asked.tag] = _join(asked, known, sealed=sealed, kept_from_ms=kept_from_ms)
    if name == LEDGER_CHAIN:
        _kept_from(entries)
    names = {chain.tag: chain.public_name for chain in proof.chains}
    # INVARIANT: what was verified before had its authors verified with it; its proofs are not sent again.
    verified_before = {entry.event for entry in entries[: len(known)]}
    keys = verify_key_changes(_stated(chains, names), origin=trust.origin, known=verified_before)
    for other, verified in chains.items():
        unverified = entries[len(known) :] if other == asked.tag else verified
        verify_authors(unverified, origin=trust.origin, keys=keys)
    _check_ledger(chains.get(codec.LEDGER_TAG, ()), trust)
    authors = [one.author for one in known] + [_author(entry, keys) for entry in entries[len(known) :]]
    whole = (*(one.entry for one in known), *asked.entries)
    kept = tuple(HeldEntry(entry, author) for entry, author in zip(whole, authors, strict=True))
    result = _history(asked, sealed, entries, authors, known=len(known), kept_from_ms=kept_from_ms)
    return result, HeldHistory(asked.tag, kept)


def _verify_others(
    others: Sequence[ChainProof], asked: ChainProof, sealed: SealedCheckpoint
) -> dict[bytes, Sequence[VerifiedEntry]]:
    """Verify the chains of authors' keys that come with the one asked for; return their entries by tag."""
    chains: dict[bytes, Sequence[VerifiedEntry]] = {}
    for chain in others:
        if chain.tag in chains or chain.tag == asked.tag or not has_author_keys(chain.public_name):
            raise ProofError("history has a chain that nobody needs")
        chains[chain.tag] = history.verify_chain(chain, sealed=sealed)
    return chains


def _history(
    asked: ChainProof,
    sealed: SealedCheckpoint,
    entries: Sequence[VerifiedEntry],
    authors: Sequence[str],
    *,
    known: int,
    kept_from_ms: int,
) -> History:
    """Return a verified history with its entries decoded; the first *known* were remembered."""
    erased = bool(entries) and entries[-1].event.kind == EntryKind.ERASURE
    return History(
        tag=asked.tag,
        name=asked.public_name,
        checkpoint=sealed.checkpoint,
        seal_time_ms=sealed.seal.time_ms,
        entries=tuple(
            Entry(
                event=entry.event,
                statement=entry.statement,
                author=author,
                message=_decode(entry),
                is_new=place >= known,
                is_pruned=entry.statement is None and entry.event.time_ms < kept_from_ms and not erased,
            )
            for place, (entry, author) in enumerate(zip(entries, authors, strict=True))
        ),
        is_erased=erased,
        missing=_missing(entries),
        kept_from_ms=0 if asked.public_name else kept_from_ms,
    )


def _join(
    asked: ChainProof, known: Sequence[HeldEntry], *, sealed: SealedCheckpoint, kept_from_ms: int
) -> tuple[VerifiedEntry, ...]:
    """Verify what is remembered and what was sent as one chain; return all of it.

    Where entries in between were pruned, what is remembered is in runs, of which the last may go on in what was sent.
    """
    runs: list[list[HistoryEntry]] = []
    after = 0
    for one in known:
        seq = seq_of(one.entry)
        if not runs or seq != after:
            runs.append([])
        runs[-1].append(one.entry)
        after = seq + 1
    last = after - 1 if known else 0
    if asked.count < last:
        raise ProofError(f"chain is shorter than what is remembered: `{asked.count}` and `{last}`")
    if asked.first_seq <= last:
        raise ProofError("chain does not continue what is remembered")
    held = _up_to(known[-1].entry) if known else HeldChain(0, b"")
    if runs and asked.first_seq == after:
        run = runs.pop()
        asked = replace(asked, first_seq=seq_of(run[0]), entries=(*run, *asked.entries))
        held = _up_to(runs[-1][-1]) if runs else HeldChain(0, b"")
    before: list[VerifiedEntry] = []
    for run in runs:
        before += history.verify_run(asked.tag, run, first_seq=seq_of(run[0]))
    return (*before, *history.verify_chain(asked, sealed=sealed, held=held, kept_from_ms=kept_from_ms))


def _up_to(entry: HistoryEntry) -> HeldChain:
    """Return how much is held up to an entry that was verified before; its chain hash is not needed behind a gap."""
    event = codec.decode_leaf(entry.leaf)
    if not isinstance(event, codec.Event):
        raise MalformedError("memory holds a leaf that is no entry")
    return HeldChain(event.seq, b"", erased=event.kind == EntryKind.ERASURE, time_ms=event.time_ms)


def _kept_from(entries: Sequence[VerifiedEntry]) -> int:
    """Return the time before which the ledger has pruned, by its own chain's word; 0: it has not.

    Raises:
        ProofError: it states to have pruned what its published policy keeps.
    """
    kept = Retention()
    for entry in entries:
        if entry.statement is not None:
            values.add_retention(kept, entry.event, entry.statement.payload)
    return kept.kept_from_ms


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


def _check_asked(chain: ChainProof, *, name: str, tag: bytes, held: HeldHistory | None) -> None:
    # That a public name is its tag's is verified with the chain.
    if chain.public_name != name or (tag and chain.tag != tag):
        raise ProofError("history is of another chain than the one asked for")
    if held is not None and held.tag != chain.tag:
        raise ProofError(
            "history is under another tag than the one remembered: unless the person was erased and enrolled anew, "
            "entries are being hidden"
        )


def _stated(
    chains: Mapping[bytes, Sequence[VerifiedEntry]], names: Mapping[bytes, str]
) -> Iterator[tuple[VerifiedEntry, KeyChange | None]]:
    """Yield the entries that put keys in force or out of it, with what they say, so far as this version reads it."""
    for tag, entries in chains.items():
        for entry in entries:
            if entry.statement is None or entry.event.kind not in (EntryKind.LEDGER, EntryKind.KEY):
                continue
            yield entry, values.stated_key(entry.event, entry.statement.payload, chain=names[tag])


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


def _check_ledger(entries: Sequence[VerifiedEntry], trust: Trust) -> None:
    """Hold what the ledger says of itself against what was pinned."""
    stated = [_decode(entry) for entry in entries if entry.event.kind == EntryKind.LEDGER]
    keys = {key for message in stated if isinstance(message, st.LedgerStatement) for key in message.verifier_keys}
    origins = {message.origin for message in stated if isinstance(message, st.LedgerStatement)}
    history.verify_pinned(origins, keys, origin=trust.origin, log_verifier=trust.log_key)
