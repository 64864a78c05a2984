"""Verify the chains of one history together: the chain asked for, and the chains that state the authors' keys.

``consentd.core.history`` verifies one chain. This module reads the payloads of LEDGER and KEY entries too, which state
what was pruned, which keys are in force, and which keys of the ledger were replaced.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from consentd.core import codec, history, key_validity
from consentd.core.history import ChainProof, HeldChain, HistoryEntry, SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, KeyChange, ValidKeys, verify_authors
from consentd.core.kinds import EntryKind
from consentd.core.note import NoteVerifier, Verifier, format_vkey
from consentd.core.pruned import Retention
from consentd.core.recent_statements import RecentStatement, RecentStatements
from consentd.core.rotation import LedgerKeys
from consentd.errors import MalformedError, ProofError
from consentd.statements import payloads, values
from consentd.statements.givers import verify_giver
from consentd.statements.named import named_by
from consentd.statements.reporters import verify_reporters
from consentd.statements.representatives import verify_representatives
from consentd.v1 import statement_pb2 as st

NAMED = frozenset({EntryKind.KEY, EntryKind.AUTHORITY})
"""Kinds of entries that later statements of a chain are verified with. A reader of parts keeps these."""


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that is whole, except for what the ledger has pruned. *entries* begin with those that the reader knew."""

    proof: ChainProof
    entries: tuple[VerifiedEntry, ...]


@dataclass(frozen=True, slots=True)
class VerifiedChains:
    """Chains whose statements were all signed by keys in force.

    Attributes:
        chains: in the order of the proof.
        keys: for each key: for whom and when the key was in force, as far as these chains show.
        kept_from_ms: entries of persons before this time may be pruned, as chain ``ledger`` states; 0 if none may.
        ledger_keys: the ledger's own keys, as chain ``ledger`` states them; None: that chain is not there.
        is_whole: this version understands every entry of these chains that states a key.
    """

    chains: tuple[VerifiedChain, ...]
    keys: ValidKeys
    kept_from_ms: int
    part: "HeldPart | None" = None  # of the chain asked for: what is verified of it then; None: no chain was asked for
    ledger_keys: LedgerKeys | None = None
    is_whole: bool = True

    @property
    def ledger_entries(self) -> tuple[VerifiedEntry, ...]:
        """The entries of chain ``ledger``; none if the chain is not there."""
        return next((one.entries for one in self.chains if one.proof.public_name == LEDGER_CHAIN), ())


@dataclass(frozen=True, slots=True)
class HeldPart:
    """The part of a chain that was verified earlier, without its entries.

    Attributes:
        tag: the chain's tag.
        held: the last entry of the part.
        named: the KEY and AUTHORITY entries of the part: what signs later statements, and what they rest on.
        recent: the statements of the part that a later entry must not repeat.
        unread_to: the last seq of the part that may be a KEY which was not there, or not understood; 0: none may be.
    """

    tag: bytes
    held: HeldChain
    named: tuple[VerifiedEntry, ...] = ()
    recent: tuple[RecentStatement, ...] = ()
    unread_to: int = 0


def verify_chains(
    chains: Sequence[ChainProof], sealed: SealedCheckpoint, *, asked: bytes, origin: str, log_verifier: NoteVerifier,
    known: Sequence[HistoryEntry] = (), before: HeldPart | None = None, most: int | None = None,
) -> VerifiedChains:
    """Verify chains at one sealed checkpoint: each is whole, and every statement was signed by a key in force.

    Of chain *asked*, only a part may be there; ``VerifiedChains.part`` is whole if its count is the chain's.

    Args:
        asked: tag of the chain asked for; empty if none was. All other chains must be authors' chains.
        known: entries of chain *asked* that the reader verified earlier, in order. Their signatures are not verified
            again, because the chains that state the authors' keys may not be sent again.
        before: instead of *known*: the part of chain *asked* that the reader verified earlier, without its entries. The
            entries of the part are not among those returned.
        most: number of entries of chain *asked* that the reader asked for; None: all.

    Raises:
        MalformedError: a part of a chain has a wrong form.
        UnknownKeyError: an author's key was not in force, but an entry that is not understood may put it in force.
        SignatureError: an author's key was not in force, a signature is wrong, or the giver of a mandate, the
            reporter of an outcome or the representative of a person may not state it.
        ProofError: a chain is not whole, is not needed, does not continue *known*, or has a signed statement twice; or
            chain ``ledger`` contradicts the pinned origin or key, states a pruning that its policy forbids, or has a
            rotation of a key that contradicts what it stated before.
    """
    _verify_selection(chains, asked, before)
    verified, retention, part = _verify_entries(
        chains, sealed, asked=asked, known=known, held=None if before is None else before.held, most=most
    )
    found = tuple(VerifiedChain(chain, verified[chain.tag]) for chain in chains)
    of_asked, earlier = verified.get(asked, ()), () if before is None else before.named
    entries_of_keys = (one for entries in (earlier, *verified.values()) for one in entries if states_keys(one))
    is_whole = all(message_of(one) is not None for one in entries_of_keys)
    keys = key_validity.verify_key_changes(
        [*_key_changes(VerifiedChain(chain, earlier) for chain in chains if chain.tag == asked), *_key_changes(found)],
        origin=origin, known={entry.event for entry in (*earlier, *of_asked[: len(known)])}, is_whole=is_whole,
        named_by=named_by,
    )  # fmt: skip
    for tag, entries in verified.items():
        later = entries[len(known) :] if tag == asked else entries
        verify_authors(later, origin=origin, keys=keys, named_by=named_by, is_whole=is_whole)
        verify_givers(later, {one: verified[one] for one in verified if before is None or one != asked})
    verify_reporters(of_asked, keys, known=len(known))
    read_to, unread_to = (0, 0) if before is None else (before.held.count, before.unread_to)
    unread_to = verify_representatives(
        of_asked, keys, known=len(known), earlier=earlier, read_to=read_to, unread_to=unread_to
    )
    recent = () if before is None else before.recent
    for tag, entries in verified.items():
        if tag == asked:
            recent = verify_once(entries, keys, recent)
        else:
            verify_once(entries, keys)
    ledger_keys = None
    if asked or codec.LEDGER_TAG in verified:
        ledger_keys = _verify_ledger(
            verified.get(codec.LEDGER_TAG, ()), origin=origin, log_verifier=log_verifier, size=sealed.checkpoint.size
        )
    own = (*earlier, *(entry for entry in of_asked if entry.event.kind in NAMED))
    return VerifiedChains(
        found, keys, retention.kept_from_ms, None if part is None else HeldPart(asked, part, own, recent, unread_to),
        ledger_keys=ledger_keys, is_whole=is_whole,
    )  # fmt: skip


def _verify_selection(chains: Sequence[ChainProof], asked: bytes, before: HeldPart | None) -> None:
    """Verify that the chains are the one asked for and authors' chains, each once.

    Raises:
        ProofError: they are not.
    """
    tags = [chain.tag for chain in chains]
    if len(set(tags)) != len(tags):
        raise ProofError("a chain is there twice")
    if any(not key_validity.has_author_keys(chain.public_name) and chain.tag != asked for chain in chains):
        raise ProofError("a chain is there that was not asked for, and is no author's")
    if before is not None and before.tag != asked:
        raise ProofError("chain is of another tag than the part that was verified before")


def _verify_entries(
    chains: Sequence[ChainProof], sealed: SealedCheckpoint, *, asked: bytes, known: Sequence[HistoryEntry],
    held: HeldChain | None, most: int | None,
) -> tuple[dict[bytes, tuple[VerifiedEntry, ...]], Retention, HeldChain | None]:  # fmt: skip
    """Verify that each chain is whole but for what is pruned; of chain *asked*, the part up to *most* entries.

    *held*: the last entry of the part of chain *asked* that was verified before; None: *known* has its entries.

    Returns:
        tag → the entries of the chain; what may be pruned; the part of chain *asked* that is verified now, if it is
        one of the chains.

    Raises:
        MalformedError, ProofError: as ``verify_chains``.
    """
    verified: dict[bytes, tuple[VerifiedEntry, ...]] = {}
    retention, part = Retention(), None
    # Chain `ledger` comes first, because it states which entries of other chains may be missing.
    for chain in sorted(chains, key=lambda chain: chain.public_name != LEDGER_CHAIN):
        kept_from_ms = retention.kept_from_ms
        if chain.tag != asked:
            verified[chain.tag], _ = history.verify_part(chain, sealed=sealed, kept_from_ms=kept_from_ms)
        elif held is not None:
            verified[asked], part = history.verify_part(
                chain, sealed=sealed, held=held, kept_from_ms=kept_from_ms, most=most
            )
        else:
            verified[asked], part = _join(chain, known, sealed=sealed, kept_from_ms=kept_from_ms, most=most)
        if chain.public_name == LEDGER_CHAIN:
            for entry in verified[chain.tag]:
                if entry.statement is not None:
                    values.add_retention(retention, entry.event, entry.statement.payload)
    return verified, retention, part


def _verify_ledger(
    entries: Sequence[VerifiedEntry], *, origin: str, log_verifier: NoteVerifier, size: int
) -> LedgerKeys:
    """Verify what the entries of chain ``ledger`` state of the ledger itself; return its keys.

    *size*: of the tree whose checkpoint *log_verifier* has verified.

    Raises:
        ProofError: the entries name no origin or another one; a rotation contradicts them; or another log key signs
            checkpoints of this size.
        SignatureError: the new key of a rotation did not sign it.
    """
    keys, origins = LedgerKeys(origin), set()
    for entry in entries:
        message = message_of(entry)
        if isinstance(message, st.LedgerStatement):
            assert entry.statement is not None, "an entry with a message has a statement"
            origins.add(message.origin)
            stated, seq = values.stated_ledger_keys(message), entry.event.seq
            keys.add(stated, seq=seq, signer=entry.statement.key, size=size)
        elif isinstance(message, st.KeyStatement) and message.retired:
            keys.retire(message.key)
    if origins != {origin}:
        raise ProofError("ledger names another origin for itself than the one pinned")
    if isinstance(log_verifier, Verifier):
        keys.verify_log_key(format_vkey(log_verifier), size)
    return keys


def verify_givers(entries: Iterable[VerifiedEntry], chains: Mapping[bytes, Sequence[VerifiedEntry]]) -> None:
    """Verify the givers of the mandates among *entries* (``verify_giver``), as far as *chains* has the givers' chains.

    *chains*: tag → all entries. The chain of a giver whose key signed is there, unless the reader verified a part of it
    earlier and did not keep it.
    """
    for entry in entries:
        if entry.statement is not None and entry.event.kind == EntryKind.MANDATE:
            giver = named_by(entry.event, entry.statement.payload).giver
            chain = chains.get(codec.public_tag(PARTICIPANT_PREFIX + giver)) if giver else None
            if chain is not None:
                verify_giver(entry, chain)


def verify_once(
    entries: Iterable[VerifiedEntry], keys: ValidKeys, recent: Iterable[RecentStatement] = ()
) -> tuple[RecentStatement, ...]:
    """Verify that no statement repeats another, or one of *recent*; return what later statements must not repeat.

    Raises:
        ProofError: a chain has a signed statement twice.
    """
    statements = RecentStatements(recent)
    for entry in entries:
        if entry.statement is not None:
            key, named = entry.statement.key, named_by(entry.event, entry.statement.payload)
            statements.add(entry.event, key, entry.statement.request_id, keys.get(key, ()), named)
    return statements.rows()


def _join(
    chain: ChainProof, known: Sequence[HistoryEntry], *, sealed: SealedCheckpoint, kept_from_ms: int, most: int | None
) -> tuple[tuple[VerifiedEntry, ...], HeldChain]:
    """Verify known and sent entries as one chain; return all of them, and the part of the chain that they are.

    Entries may have been pruned between two reads of a chain, so the known entries are runs of successive seqs.
    Example: 1 2 3 and 6 7 are known, 8 9 are sent. Run 1–3 is verified alone. The sent entries continue run 6–7, so
    6–9 is verified as one part of the chain. The head after 9 must be the head in the map.
    """
    runs: list[list[HistoryEntry]] = []
    last = HeldChain(0, b"")
    for entry in known:
        held = _up_to(entry)
        if not runs or held.count != last.count + 1:
            runs.append([])
        runs[-1].append(entry)
        last = held
    if chain.count < last.count:
        raise ProofError(f"chain is shorter than what is remembered: `{chain.count}` and `{last.count}`")
    if known and chain.first_seq <= last.count:
        raise ProofError("chain does not continue what is remembered")
    if runs and chain.first_seq == last.count + 1:
        run = runs.pop()
        most = None if most is None else most + len(run)
        chain = replace(chain, first_seq=_up_to(run[0]).count, entries=(*run, *chain.entries))
        last = _up_to(runs[-1][-1]) if runs else HeldChain(0, b"")
    before: list[VerifiedEntry] = []
    for run in runs:
        before += history.verify_run(chain.tag, run, first_seq=_up_to(run[0]).count)
    verified, part = history.verify_part(chain, sealed=sealed, held=last, kept_from_ms=kept_from_ms, most=most)
    return (*before, *verified), part


def _up_to(entry: HistoryEntry) -> HeldChain:
    """Return the chain up to this entry, without its head: the next entry sent follows a gap, so no head is used."""
    event = codec.decode_leaf(entry.leaf)
    if not isinstance(event, codec.Event):
        raise MalformedError("memory holds a leaf that is no entry")
    return HeldChain(event.seq, b"", erased=event.kind == EntryKind.ERASURE, time_ms=event.time_ms)


# -- statements of LEDGER and KEY entries ---------------------------------------------------------------------


def states_keys(entry: VerifiedEntry) -> bool:
    return entry.statement is not None and entry.event.kind in (EntryKind.LEDGER, EntryKind.KEY)


def message_of(entry: VerifiedEntry) -> Message | None:
    """Return the payload of an entry; None if it has no statement, or its kind or version is unknown here."""
    if entry.statement is None:
        return None
    return payloads.decode_known_payload(entry.event.kind, entry.statement.payload)


def _key_changes(chains: Iterable[VerifiedChain]) -> Iterator[tuple[VerifiedEntry, KeyChange | None]]:
    """Yield each LEDGER and KEY entry that has a statement, with its key change; None if it states no valid change."""
    for chain in chains:
        for entry in chain.entries:
            if entry.statement is not None and states_keys(entry):
                yield entry, values.stated_key(entry.event, entry.statement.payload, chain=chain.proof.public_name)
