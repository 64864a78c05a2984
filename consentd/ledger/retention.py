"""Read what the ledger has pruned, and decide which entries of a person's chain a pruning retains.

A pruning has a time T. Entries of time T or later are all retained. Of the earlier entries, these are retained:

- the entries of each consent, unless the consent was removed from the policy table before T. A withdrawal removes a
  consent; a pruning removes the consents that ended before the pruning's time. The entries of a removed consent are
  still retained if recipients may keep the consent's data until T or later.
- each ACCESS that uses up a retained consent for a period that ends after T, and its OUTCOME entries.
- the entries of each key, unless the key was retired before T and signed no retained entry.
- each entry that a retained entry refers to, and each SERVED entry that a retained consent rests on.
- each entry of a kind for which this version cannot determine an end: authorities, disputes, duties, unknown kinds.

So the retained entries suffice to evaluate every decision since T again, and to verify every retained signature. The
*statements* of all other entries are deleted. Their *leaves* are deleted only below the minimum index, which
``pruning`` defines. Source: ledger-format.md, "Pruning".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct

from consentd.core import codec
from consentd.core.kinds import CONSENTS, PRUNABLE, EntryKind
from consentd.core.pruned import NOTHING, Pruned
from consentd.errors import CorruptionError
from consentd.ledger import layout, reads
from consentd.policy.subject import is_ended
from consentd.statements import values
from consentd.store import Store

NEVER_PRUNED = frozenset({EntryKind.ENROL, EntryKind.KEY})
"""Kinds whose leaves and statements are never deleted, because the policy table is rebuilt from them."""

_FORMAT = 1
_ROW = Struct(">BQQB")

# -- what is pruned ---------------------------------------------------------------------------------------------


def read_pruned(store: Store) -> Pruned:
    """Return what was pruned from a store. While a pruning runs, some of its rows may not be deleted yet.

    Raises:
        CorruptionError: the row has an unknown form.
    """
    return _read_row(store)[0]


def is_finished(store: Store) -> bool:
    """Report whether the pruning that ``read_pruned`` returns has deleted all its rows. Raises as ``read_pruned``."""
    return _read_row(store)[1]


def _read_row(store: Store) -> tuple[Pruned, bool]:
    row = store.get(layout.PRUNED)
    if row is None:
        return NOTHING, True
    if len(row) != _ROW.size or row[0] != _FORMAT or row[-1] > 1:
        raise CorruptionError("row of what is pruned is not of a known form")
    _, kept_from_ms, start, finished = _ROW.unpack(row)
    return Pruned(kept_from_ms, start), bool(finished)


def first_after_gaps(store: Store, tag: bytes) -> int:
    """Return the smallest seq from which on no entry of a chain is missing. It is 1 unless entries were pruned.

    No entry is missing whose leaf is at ``Pruned.start`` or later. So the first such entry is the last that is read.
    """
    start = read_pruned(store).start
    first = after = 1
    for key, row in store.scan(layout.index_key(tag, 1), layout.index_key(tag, codec.MAX_SEQ)):
        if layout.decode_u64(key) != after:
            first = layout.decode_u64(key)
        if layout.decode_u64(row) >= start:
            break
        after = layout.decode_u64(key) + 1
    return first


def encode_pruned(pruned: Pruned, *, finished: bool) -> bytes:
    """Encode the row that ``read_pruned`` reads. *finished*: the pruning has deleted all its rows."""
    return _ROW.pack(_FORMAT, pruned.kept_from_ms, pruned.start, finished)


@dataclass(frozen=True, slots=True)
class StatedPruning:
    """A pruning that a LEDGER entry states; *index* and *time_ms* are those of the entry."""

    index: int
    time_ms: int
    pruned: Pruned


def read_stated_prunings(store: Store) -> tuple[int, list[StatedPruning]]:
    """Return the retention policy in days (0: nothing is ever pruned), and the prunings stated so far, in order.

    Raises:
        CorruptionError: chain `ledger` cannot be read.
        VerificationError: a statement is malformed.
    """
    days, prunings = 0, []
    for entry in reads.read_chain(store, codec.LEDGER_TAG, 1):
        if entry.event.kind != EntryKind.LEDGER or entry.row is None:
            continue
        stated = values.stated_retention(entry.event.kind, codec.decode_statement(entry.row[33:]).payload)
        if stated is not None and entry.event.seq == 1:
            days = stated.days
        if stated is not None and stated.pruned is not None:
            prunings.append(StatedPruning(entry.index, entry.event.time_ms, stated.pruned))
    return days, prunings


# -- what of one chain is retained ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenedEntry:
    """An entry of a person's chain, with its decrypted statement, which is None if the statement was deleted.

    Attributes:
        stated: what a GRANT or AMEND states; None for another kind, or without a statement.
        key: the key that a KEY entry names, and whether the entry retires that key; None as for *stated*.
        uses: the consents that an ACCESS uses up, each with the end of the period (``values.stated_uses``).
    """

    index: int
    event: codec.Event
    statement: codec.Statement | None = None
    stated: values.StatedVersion | None = None
    key: tuple[bytes, bool] | None = None
    uses: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class _Consent:
    """A consent: its GRANT and every later entry that changes it.

    Attributes:
        seqs: the seqs of all entries of the consent.
        versions: for each GRANT and AMEND: its index, and what it states.
        revoked_ms: time of the REVOKE; None if the consent was not revoked.
        has_all_statements: no statement of the consent was deleted.
    """

    seqs: list[int] = field(default_factory=list)
    versions: list[tuple[int, values.StatedVersion]] = field(default_factory=list)
    revoked_ms: int | None = None
    has_all_statements: bool = True

    def add(self, entry: OpenedEntry) -> None:
        """Add the next entry of the consent."""
        self.seqs.append(entry.event.seq)
        if entry.event.kind == EntryKind.REVOKE:
            self.revoked_ms = entry.event.time_ms
        elif entry.statement is None:
            self.has_all_statements = False
        elif entry.stated is not None:
            self.versions.append((entry.index, entry.stated))

    def left_table_ms(self, prunings: Sequence[StatedPruning]) -> int | None:
        """Return when the consent was removed from the policy table; None if it is still in the table.

        A REVOKE removes a consent immediately. The first pruning of a time after a consent's end removes that consent.
        """
        if self.revoked_ms is not None:
            return self.revoked_ms
        for pruning in prunings:
            ends_ms = [stated.end_ms for index, stated in self.versions if index < pruning.index]
            if ends_ms and is_ended(ends_ms[-1], pruning.pruned.kept_from_ms):
                return pruning.time_ms
        return None

    def is_prunable(self, kept_from_ms: int, prunings: Sequence[StatedPruning]) -> bool:
        """Report whether before *kept_from_ms* the consent left the table, and recipients had to delete its data."""
        if not self.has_all_statements:
            # Without all statements no end can be computed. An earlier pruning deleted some, so the rest may go too.
            return self.revoked_ms is None or self.revoked_ms < kept_from_ms
        left_ms = self.left_table_ms(prunings)
        if left_ms is None or left_ms >= kept_from_ms:
            return False
        return all(stated.retention_until_ms < kept_from_ms for _, stated in self.versions)


def retained_seqs(chain: Sequence[OpenedEntry], kept_from_ms: int, prunings: Sequence[StatedPruning]) -> set[int]:
    """Return the seqs of the entries of a person's chain that a pruning of time *kept_from_ms* retains.

    Example, with T = *kept_from_ms*: seq 1 ENROL, 2 GRANT, 3 ACCESS that relies on 2, 4 REVOKE of 2, all before T; 5
    GRANT and 6 ACCESS since T. The result is {5, 6}: the consent of 2 was revoked before T, and no retained entry
    refers to it. If 6 relied on 2, the result is {2, 4, 5, 6}. ENROL is not in it, because ``NEVER_PRUNED`` covers it.

    Args:
        prunings: the prunings stated before this one.
    """
    retained: set[int] = set()
    consent_of: dict[int, _Consent] = {}  # seq of each entry of a consent → the consent
    for entry in chain:
        event = entry.event
        if event.time_ms >= kept_from_ms:
            retained.add(event.seq)
        if event.kind in CONSENTS:
            consent = _Consent() if event.kind == EntryKind.GRANT else consent_of.get(event.ref)
            if consent is not None:
                consent_of[event.seq] = consent
                consent.add(entry)
        elif event.kind not in PRUNABLE and event.kind not in NEVER_PRUNED and event.kind != EntryKind.ERASURE:
            retained.add(event.seq)
    for consent in {id(each): each for each in consent_of.values()}.values():
        if retained.intersection(consent.seqs) or not consent.is_prunable(kept_from_ms, prunings):
            retained.update(consent.seqs)
    using = {
        entry.event.seq for entry in chain
        if any(until_ms > kept_from_ms and lineage in retained for lineage, until_ms in entry.uses)
    }  # fmt: skip
    retained |= using
    retained.update(one.event.seq for one in chain if one.event.kind == EntryKind.OUTCOME and one.event.ref in using)
    keys = [(entry.event, *entry.key) for entry in chain if entry.key is not None]
    retired_ms = {key: event.time_ms for event, key, is_retired in keys if is_retired}
    retained.update(event.seq for event, key, _ in keys if retired_ms.get(key, kept_from_ms) >= kept_from_ms)
    return _with_dependencies(retained, chain, consent_of)


def _with_dependencies(retained: set[int], chain: Sequence[OpenedEntry], consent_of: dict[int, _Consent]) -> set[int]:
    """Return *retained* and every entry that a retained entry needs, directly or through other entries.

    An entry needs the entry that it refers to, all entries of that entry's consent, the SERVED entry that its consent
    rests on, and the entries of its signing key.
    """
    by_seq = {entry.event.seq: entry for entry in chain}
    key_seqs: dict[bytes, set[int]] = {}
    for entry in chain:
        if entry.key is not None:
            key_seqs.setdefault(entry.key[0], set()).add(entry.event.seq)
    found, waiting = set(retained), list(retained)
    while waiting:
        entry = by_seq[waiting.pop()]
        needed = {entry.event.ref, entry.stated.served_seq if entry.stated is not None else 0} & by_seq.keys()
        if entry.statement is not None:
            needed |= key_seqs.get(entry.statement.key, set())
        for seq in needed & consent_of.keys():
            needed.update(consent_of[seq].seqs)
        waiting += needed - found
        found |= needed
    return found
