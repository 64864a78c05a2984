"""Verify evidence: that its chains are whole, who signed each entry, and that no entry of its scope is missing.

Evidence is a file of entries with their proofs. ``consentd.core.history`` verifies one chain; this module verifies
several together: the chain asked for, and the chains that state the authors' keys. It reads the payloads of LEDGER and
KEY entries, which state what was pruned and which keys are in force. Clients verify streamed histories
(``verify_chains``); clients and auditors verify files (``verify_evidence``). No daemon or network is needed.

A file does not prove its ``keys`` and ``policy``. Evidence on a participant does not prove that it has every single
entry in which the participant takes part. No evidence proves that entries outside of its scope do not exist.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from consentd.core import codec, history, key_validity, merkle
from consentd.core.evidence import Evidence, Scope, SingleEntry
from consentd.core.history import ChainProof, HeldChain, HistoryEntry, SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, KeyChange, ValidKeys, verify_authors
from consentd.core.kinds import EntryKind, Owner, authors_of, is_known
from consentd.core.note import NoteVerifier
from consentd.core.pruned import Retention
from consentd.core.quorum import MAX_AHEAD_S, WitnessPolicy, verify_cosigned
from consentd.core.recent_statements import RecentStatement, RecentStatements
from consentd.errors import MalformedError, ProofError
from consentd.statements import payloads, values
from consentd.statements.givers import giver_of, verify_giver
from consentd.v1 import statement_pb2 as st


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
    """

    chains: tuple[VerifiedChain, ...]
    keys: ValidKeys
    kept_from_ms: int
    part: "HeldPart | None" = None  # of the chain asked for: what is verified of it then; None: no chain was asked for


@dataclass(frozen=True, slots=True)
class HeldPart:
    """The part of a chain that was verified earlier, without its entries.

    Attributes:
        tag: the chain's tag.
        held: the last entry of the part.
        keys: the KEY entries of the part. Statements of later entries may be signed with these keys.
        recent: the statements of the part that a later entry must not repeat.
    """

    tag: bytes
    held: HeldChain
    keys: tuple[VerifiedEntry, ...] = ()
    recent: tuple[RecentStatement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvidence:
    """The facts that an evidence file proves.

    Attributes:
        scope: what the file contains. A range and a chain are proven to be complete.
        singles: the single entries, in order of their indexes; None stands for a seal.
        unproven: number of single entries that may be signed by a person's own key; only that person's chain proves it.
        witnesses: names of the witnesses that cosigned, if a policy was given.
    """

    scope: Scope
    sealed: SealedCheckpoint
    histories: VerifiedChains
    singles: tuple[VerifiedEntry | None, ...]
    unproven: int
    witnesses: tuple[str, ...]

    @property
    def events(self) -> tuple[VerifiedEntry, ...]:
        """The entries of all chains, then the single entries except seals."""
        chained = (entry for chain in self.histories.chains for entry in chain.entries)
        return (*chained, *(one for one in self.singles if one is not None))

    @property
    def entry_count(self) -> int:
        """Number of entries, seals included."""
        return sum(len(chain.entries) for chain in self.histories.chains) + len(self.singles)

    @property
    def missing(self) -> int:
        """Number of entries that were pruned before the first entry of each chain in the file."""
        return sum(chain.proof.first_seq - 1 for chain in self.histories.chains)

    @property
    def opened(self) -> int:
        """Number of entries with a statement."""
        return sum(one.statement is not None for one in self.events)

    @property
    def closed(self) -> int:
        """Number of entries without a statement, which was erased, pruned, or withheld by the maker of the file."""
        return len(self.events) - self.opened

    @property
    def unknown(self) -> int:
        """Number of entries that this version cannot interpret: an unknown kind, or a LEDGER or KEY of unknown form."""
        return sum(
            not is_known(one.event.kind) or (_states_keys(one) and message_of(one) is None) for one in self.events
        )

    @property
    def kinds(self) -> dict[str, int]:
        """Number of entries of each known kind, by the kind's name."""
        return dict(Counter(EntryKind(one.event.kind).name for one in self.events if is_known(one.event.kind)))


def verify_evidence(
    evidence: Evidence, *, origin: str, log_verifier: NoteVerifier, policy: WitnessPolicy | None = None,
    now_ms: int | None = None, max_age_s: int | None = None,
) -> VerifiedEvidence:
    """Verify evidence with the reader's pinned origin and log key; return the facts that it proves.

    The scope is complete in leaves: every index of a range, every entry of a chain. A statement may be withheld.

    Args:
        policy: the reader's own witness policy; None if no cosignature is needed. Evidence is kept for years, so
            cosignatures of any age count, unless *max_age_s* limits them.
        now_ms: the reader's time; the seal may be ``MAX_AHEAD_S`` ahead at most. None: the seal may have any time.
        max_age_s: maximum age, at *now_ms*, of a cosignature that counts (then *now_ms* is needed); None for any age.

    Raises:
        MalformedError: a part of the evidence has a wrong form.
        SignatureError: the log, an author or a quorum of witnesses has not signed.
        ProofError: a proof is wrong, an entry of the scope is missing, a signed statement is there in two entries, or
            the seal's time is too late.
    """
    proof, scope = evidence.proof, evidence.scope
    sealed = history.verify_sealed_checkpoint(proof, origin=origin, log_verifier=log_verifier, held=None)
    if now_ms is not None and sealed.seal.time_ms > now_ms + 1000 * MAX_AHEAD_S:
        raise ProofError("evidence is sealed at a time that has not come yet")
    witnesses: tuple[str, ...] = ()
    if policy is not None:
        cosigned = verify_cosigned(
            proof.checkpoint, policy, now_s=(now_ms or 0) // 1000, max_age_s=max_age_s,
            seal_time_ms=sealed.seal.time_ms, logs=(log_verifier,),
        )  # fmt: skip
        witnesses = tuple(name for name, _ in cosigned.cosignatures)
    if scope.chain and not (proof.chains and proof.chains[0].tag == scope.chain):
        raise ProofError("first history is not the chain that the scope names")
    if scope.participant and proof.chains[0].public_name != PARTICIPANT_PREFIX + scope.participant:
        raise ProofError("first history is not named as the participant's chain")
    histories = verify_chains(proof.chains, sealed, asked=scope.chain, origin=origin, log_verifier=log_verifier)
    singles = _verify_singles(evidence.entries, sealed)
    unproven = sum(one is not None and not _verify_author(one, histories.keys, origin) for one in singles)
    whole = {chain.proof.tag: chain.entries for chain in histories.chains}
    _verify_givers((one for one in singles if one is not None), whole)
    # Without chain `ledger`, a key that no chain states may be the daemon's (ledger-format.md, 3.8 item 5).
    has_ledger = any(chain.public_name == LEDGER_CHAIN for chain in proof.chains)
    signed = (one for one in singles if one is not None and one.statement is not None)
    known = (one for one in signed if has_ledger or (one.statement and one.statement.key in histories.keys))
    _verify_once(known, histories.keys)
    if scope.last >= sealed.checkpoint.size:
        raise MalformedError("evidence has a scope of a range that ends outside of the tree")
    # The indexes of single entries are distinct. So if the range has the right number of entries, none is missing.
    in_range = sum(scope.first <= one.index <= scope.last for one in evidence.entries)
    if in_range != max(0, scope.last - scope.first + 1):
        raise ProofError("an entry of the range is missing")
    return VerifiedEvidence(
        scope=scope, sealed=sealed, histories=histories, singles=singles, unproven=unproven, witnesses=witnesses
    )


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
        SignatureError: an author's key was not in force, or a signature is wrong.
        ProofError: a chain is not whole, is not needed, does not continue *known*, or has a signed statement twice; or
            chain ``ledger`` contradicts the pinned origin or key, or states a pruning that its policy forbids.
    """
    tags = [chain.tag for chain in chains]
    if len(set(tags)) != len(tags):
        raise ProofError("a chain is there twice")
    if any(not key_validity.has_author_keys(chain.public_name) and chain.tag != asked for chain in chains):
        raise ProofError("a chain is there that was not asked for, and is no author's")
    if before is not None and before.tag != asked:
        raise ProofError("chain is of another tag than the part that was verified before")
    verified: dict[bytes, tuple[VerifiedEntry, ...]] = {}
    retention, part = Retention(), None
    # Chain `ledger` comes first, because it states which entries of other chains may be missing.
    for chain in sorted(chains, key=lambda chain: chain.public_name != LEDGER_CHAIN):
        if chain.tag != asked:
            verified[chain.tag], _ = history.verify_part(chain, sealed=sealed, kept_from_ms=retention.kept_from_ms)
        elif before is not None:
            verified[asked], part = history.verify_part(
                chain, sealed=sealed, held=before.held, kept_from_ms=retention.kept_from_ms, most=most
            )
        else:
            verified[asked], part = _join(
                chain, known, sealed=sealed, kept_from_ms=retention.kept_from_ms, most=most
            )
        if chain.public_name == LEDGER_CHAIN:
            for entry in verified[chain.tag]:
                if entry.statement is not None:
                    values.add_retention(retention, entry.event, entry.statement.payload)
    found = tuple(VerifiedChain(chain, verified[chain.tag]) for chain in chains)
    earlier = () if before is None else before.keys
    known_events = {entry.event for entry in (*earlier, *verified.get(asked, ())[: len(known)])}
    stated = [*_key_changes(VerifiedChain(chain, earlier) for chain in chains if chain.tag == asked)]
    stated += _key_changes(found)
    keys = key_validity.verify_key_changes(stated, origin=origin, known=known_events)
    for tag, entries in verified.items():
        later = entries[len(known) :] if tag == asked else entries
        verify_authors(later, origin=origin, keys=keys, giver_of=giver_of)
        _verify_givers(later, {one: verified[one] for one in verified if before is None or one != asked})
    recent = () if before is None else before.recent
    for tag, entries in verified.items():
        if tag == asked:
            recent = _verify_once(entries, keys, recent)
        else:
            _verify_once(entries, keys)
    if asked or codec.LEDGER_TAG in verified:
        messages = map(message_of, verified.get(codec.LEDGER_TAG, ()))
        ledger = [one for one in messages if isinstance(one, st.LedgerStatement)]
        log_keys = {key for one in ledger for key in one.verifier_keys}
        history.verify_pinned({one.origin for one in ledger}, log_keys, origin=origin, log_verifier=log_verifier)
    own = (*earlier, *(entry for entry in verified.get(asked, ()) if entry.event.kind == EntryKind.KEY))
    return VerifiedChains(
        found, keys, retention.kept_from_ms, None if part is None else HeldPart(asked, part, own, recent)
    )


def _verify_givers(entries: Iterable[VerifiedEntry], chains: Mapping[bytes, Sequence[VerifiedEntry]]) -> None:
    """Verify the givers of the mandates among *entries* (``verify_giver``), as far as *chains* has the givers' chains.

    *chains*: tag → all entries. The chain of a giver whose key signed is there, unless the reader verified a part of it
    earlier and did not keep it.
    """
    for entry in entries:
        if entry.statement is not None and entry.event.kind == EntryKind.MANDATE:
            giver = giver_of(entry.statement.payload)
            chain = chains.get(codec.public_tag(PARTICIPANT_PREFIX + giver)) if giver else None
            if chain is not None:
                verify_giver(entry, chain)


def _verify_once(
    entries: Iterable[VerifiedEntry], keys: ValidKeys, recent: Iterable[RecentStatement] = ()
) -> tuple[RecentStatement, ...]:
    """Verify that no statement repeats another, or one of *recent*; return what later statements must not repeat.

    Raises:
        ProofError: a chain has a signed statement twice.
    """
    statements = RecentStatements(recent)
    for entry in entries:
        if entry.statement is not None:
            key = entry.statement.key
            giver = giver_of(entry.statement.payload) if entry.event.kind == EntryKind.MANDATE else ""
            statements.add(entry.event, key, entry.statement.request_id, keys.get(key, ()), giver)
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


# -- single entries -------------------------------------------------------------------------------------------


def _verify_singles(singles: Sequence[SingleEntry], sealed: SealedCheckpoint) -> tuple[VerifiedEntry | None, ...]:
    """Verify that the tree has each single entry at its index, and that indexes rise and times do not fall."""
    point = sealed.checkpoint
    found: list[VerifiedEntry | None] = []
    next_index, time_ms = 0, 0
    for single in singles:
        leaf, opening = single.entry.leaf, single.entry.opening
        merkle.verify_inclusion(
            single.inclusion, index=single.index, size=point.size, leaf_hash=merkle.leaf_hash(leaf), root=point.root
        )
        event = codec.decode_leaf(leaf)
        if single.index < next_index:
            raise ProofError("entry is there twice, or out of order")
        if not time_ms <= event.time_ms <= sealed.seal.time_ms:
            raise ProofError("entry is earlier than the one before, or later than the seal")
        next_index, time_ms = single.index + 1, event.time_ms
        if isinstance(event, codec.Event):
            statement = None if opening is None else history.open_statement(event, *opening)
            found.append(VerifiedEntry(event, statement))
            continue
        if opening is not None:
            raise MalformedError("seal has an opening")
        if event.covers != single.index:
            raise ProofError("seal is not at the index that it states")
        found.append(None)
    return tuple(found)


def _verify_author(entry: VerifiedEntry, keys: ValidKeys, origin: str) -> bool:
    """Verify who signed a single entry. Return False if the key may be the person's own, which is unproven.

    Raises:
        SignatureError: neither an author with a key in force nor the person can have signed the entry.
    """
    if entry.statement is None:
        return True
    key = entry.statement.key
    if key in keys or Owner.SUBJECT not in authors_of(entry.event.kind):
        verify_authors([entry], origin=origin, keys=keys, giver_of=giver_of)
        return True
    own = KeyChange(key=key, owner=Owner.SUBJECT, tag_or_name=entry.event.tag, time_ms=0)
    verify_authors([entry], origin=origin, keys=key_validity.valid_keys([own]))
    return False


# -- statements of LEDGER and KEY entries ---------------------------------------------------------------------


def _states_keys(entry: VerifiedEntry) -> bool:
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
            if entry.statement is not None and _states_keys(entry):
                yield entry, values.stated_key(entry.event, entry.statement.payload, chain=chain.proof.public_name)
