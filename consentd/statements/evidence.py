"""Verify evidence: that its chains are whole, who signed each entry, and that no entry of its scope is missing.

Evidence is a file of entries with their proofs. ``rotations`` leads from the pinned log key to the one that signed the
file's checkpoint, ``chains`` verifies its chains, and this module the rest. Clients and auditors verify files, without
a daemon or a network.

A file does not prove its ``keys`` and ``policy``. Evidence on a participant does not prove that it has every single
entry in which the participant takes part. No evidence proves that entries outside of its scope do not exist.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from consentd.core import codec, history, key_validity, merkle
from consentd.core.evidence import Evidence, Scope, SingleEntry
from consentd.core.history import SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, KeyChange, verify_authors
from consentd.core.kinds import EntryKind, Owner, authors_of, is_known
from consentd.core.note import NoteVerifier
from consentd.core.quorum import MAX_AHEAD_S, WitnessPolicy, verify_cosigned
from consentd.core.rotation import FollowedKey
from consentd.errors import MalformedError, ProofError
from consentd.statements.chains import (
    VerifiedChains,
    message_of,
    states_keys,
    verify_chains,
    verify_givers,
    verify_once,
)
from consentd.statements.named import named_by
from consentd.statements.reporters import verify_reporters
from consentd.statements.representatives import verify_representatives
from consentd.statements.rotations import follow_rotations


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvidence:
    """The facts that an evidence file proves.

    Attributes:
        scope: what the file contains. A range and a chain are proven to be complete.
        singles: the single entries, in order of their indexes; None stands for a seal.
        unproven: number of single entries that may be signed by a person's own key; only that person's chain proves it.
        witnesses: names of the witnesses that cosigned, if a policy was given.
        log_keys: the log keys from the pinned one to the one that signed the checkpoint; empty if no rotation was
            followed.
    """

    scope: Scope
    sealed: SealedCheckpoint
    histories: VerifiedChains
    singles: tuple[VerifiedEntry | None, ...]
    unproven: int
    witnesses: tuple[str, ...]
    log_keys: tuple[FollowedKey, ...] = ()

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
            not is_known(one.event.kind) or (states_keys(one) and message_of(one) is None) for one in self.events
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
        UnknownKeyError: a key that this version or the reader's pins do not know has signed; nothing is determined.
        SignatureError: the log, an author or a quorum of witnesses has not signed.
        ProofError: a proof is wrong, an entry of the scope is missing, a signed statement is there in two entries, or
            the seal's time is too late.
    """
    proof, scope = evidence.proof, evidence.scope
    followed = follow_rotations(proof, origin=origin, log_key=log_verifier, policy=policy)
    log_verifier = followed.log_key
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
    followed.verify_continues(histories.ledger_entries)
    singles = _verify_singles(evidence.entries, sealed)
    unproven = 0
    for claimed, one in zip(evidence.entries, singles, strict=True):
        if one is not None:
            unproven += not _verify_author(one, histories, origin, claimed.index)
    whole = {chain.proof.tag: chain.entries for chain in histories.chains}
    verify_givers((one for one in singles if one is not None), whole)
    verify_reporters((one for one in singles if one is not None), histories.keys)
    verify_representatives((one for one in singles if one is not None), histories.keys)
    # Without chain `ledger`, a key that no chain states may be the daemon's (ledger-format.md, 3.8 item 5).
    has_ledger = any(chain.public_name == LEDGER_CHAIN for chain in proof.chains)
    signed = (one for one in singles if one is not None and one.statement is not None)
    known = (one for one in signed if has_ledger or (one.statement and one.statement.key in histories.keys))
    verify_once(known, histories.keys)
    if scope.last >= sealed.checkpoint.size:
        raise MalformedError("evidence has a scope of a range that ends outside of the tree")
    # The indexes of single entries are distinct. So if the range has the right number of entries, none is missing.
    in_range = sum(scope.first <= one.index <= scope.last for one in evidence.entries)
    if in_range != max(0, scope.last - scope.first + 1):
        raise ProofError("an entry of the range is missing")
    return VerifiedEvidence(
        scope=scope, sealed=sealed, histories=histories, singles=singles, unproven=unproven, witnesses=witnesses,
        log_keys=followed.keys,
    )  # fmt: skip


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


def _verify_author(entry: VerifiedEntry, found: VerifiedChains, origin: str, index: int) -> bool:
    """Verify who signed a single entry. Return False if the key may be the person's own, which is unproven.

    Raises:
        SignatureError: neither an author with a key in force nor the person can have signed the entry.
    """
    if entry.statement is None:
        return True
    key = entry.statement.key
    if key in found.keys or Owner.SUBJECT not in authors_of(entry.event.kind):
        verify_authors([entry], origin=origin, keys=found.keys, named_by=named_by, is_whole=found.is_whole)
        if found.ledger_keys is not None and all(one.owner is Owner.LEDGER for one in found.keys[key]):
            # Unlike an entry of a chain, a single entry has an index, so it shows on which side of a rotation it is.
            found.ledger_keys.verify_term(key, index)
        return True
    own = KeyChange(key=key, owner=Owner.SUBJECT, tag_or_name=entry.event.tag, time_ms=0)
    verify_authors([entry], origin=origin, keys=key_validity.valid_keys([own]))
    return False
