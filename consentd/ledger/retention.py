"""Read what the ledger has pruned, and decide what of a person's chain a pruning retains.

A pruning has a time T. It retains an entry of a person if the entry is of T or later, or if something of T or later
depends on it. In detail, it retains:

- each consent, with every change to it, unless the consent left the policy table before T: it was withdrawn, or it had
  ended and an earlier pruning dropped it from the table. A consent is also retained until the time up to which
  recipients may keep what it gave them.
- each key, unless the key was retired before T and signed nothing that is retained.
- each entry that a retained entry refers to.
- each entry of a kind whose end this version cannot determine: disputes, duties, and every unknown kind.

So every decision since T can be evaluated again from the retained entries, and every signature verified. The
*statements* of all other entries are deleted. Their *leaves* are deleted only below the minimum index: ``pruning`` says
where that is, and which leaves remain below it. Source: ledger-format.md, "Pruning".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct

from consentd.core import codec
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.core.pruned import NOTHING, Pruned
from consentd.errors import CorruptionError
from consentd.ledger import layout, reads
from consentd.policy.subject import is_ended
from consentd.statements import values
from consentd.store import Store

_CONSENT_KINDS = frozenset({EntryKind.GRANT, EntryKind.AMEND, EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE})
NEVER_PRUNED = frozenset({EntryKind.ENROL, EntryKind.KEY})
"""Kinds whose leaf and statement remain below the minimum index too: the table is rebuilt from them."""

_FORMAT = 1
_ROW = Struct(">BQQB")

# -- what is pruned ---------------------------------------------------------------------------------------------


def read_pruned(store: Store) -> Pruned:
    """Return what a store no longer holds. While a pruning runs, some of it may still be there.

    Raises:
        CorruptionError: the row is not of a known form.
    """
    return _read_row(store)[0]


def is_finished(store: Store) -> bool:
    """Report whether everything that ``read_pruned`` names has been deleted. Raises as that."""
    return _read_row(store)[1]


def _read_row(store: Store) -> tuple[Pruned, bool]:
    row = store.get(layout.PRUNED)
    if row is None:
        return NOTHING, True
    if len(row) != _ROW.size or row[0] != _FORMAT or row[-1] > 1:
        raise CorruptionError("row of what is pruned is not of a known form")
    _, kept_from_ms, start, finished = _ROW.unpack(row)
    return Pruned(kept_from_ms, start), bool(finished)


def encode_pruned(pruned: Pruned, *, finished: bool) -> bytes:
    """Encode the row that ``read_pruned`` reads."""
    return _ROW.pack(_FORMAT, pruned.kept_from_ms, pruned.start, finished)


@dataclass(frozen=True, slots=True)
class StatedPruning:
    """A pruning that a LEDGER entry states; *index* and *time_ms* are the entry's."""

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
    """An entry of a person's chain, with its statement decrypted; None: it was deleted.

    Attributes:
        times: of a GRANT or AMEND with a statement; else None.
        key: the key that a KEY entry names, and whether it is retired; else None.
    """

    index: int
    event: codec.Event
    statement: codec.Statement | None = None
    times: values.ConsentTimes | None = None
    key: tuple[bytes, bool] | None = None


@dataclass(slots=True)
class _Consent:
    """A consent: its GRANT and every later entry that changes it.

    Attributes:
        seqs: of all its entries.
        versions: the index of each GRANT and AMEND, and its times.
        revoked_ms: time of its REVOKE; None: it was not revoked.
        has_all_statements: no statement of it was deleted.
    """

    seqs: list[int] = field(default_factory=list)
    versions: list[tuple[int, values.ConsentTimes]] = field(default_factory=list)
    revoked_ms: int | None = None
    has_all_statements: bool = True

    def add(self, entry: OpenedEntry) -> None:
        """Add the next entry of the consent."""
        self.seqs.append(entry.event.seq)
        if entry.event.kind == EntryKind.REVOKE:
            self.revoked_ms = entry.event.time_ms
        elif entry.statement is None:
            self.has_all_statements = False
        elif entry.times is not None:
            self.versions.append((entry.index, entry.times))

    def left_table_ms(self, prunings: Sequence[StatedPruning]) -> int | None:
        """Return when the policy table dropped the consent; None: it has not.

        A REVOKE drops it at once. A consent that has ended is dropped by the next pruning whose time is after its end.
        """
        if self.revoked_ms is not None:
            return self.revoked_ms
        for pruning in prunings:
            ends_ms = [times.end_ms for index, times in self.versions if index < pruning.index]
            if ends_ms and is_ended(ends_ms[-1], pruning.pruned.kept_from_ms):
                return pruning.time_ms
        return None

    def is_prunable(self, kept_from_ms: int, prunings: Sequence[StatedPruning]) -> bool:
        """Report whether the consent left the table before *kept_from_ms*, and no recipient may keep data longer."""
        if not self.has_all_statements:
            # An earlier pruning deleted a part, so the rest may go; without the statements no end can be computed.
            return self.revoked_ms is None or self.revoked_ms < kept_from_ms
        left_ms = self.left_table_ms(prunings)
        if left_ms is None or left_ms >= kept_from_ms:
            return False
        return all(times.retention_until_ms < kept_from_ms for _, times in self.versions)


def retained_seqs(chain: Sequence[OpenedEntry], kept_from_ms: int, prunings: Sequence[StatedPruning]) -> set[int]:
    """Return the seqs of the entries of a person's chain that a pruning of time *kept_from_ms* retains.

    Example, with T = *kept_from_ms*: seq 1 ENROL, 2 GRANT, 3 ACCESS that relies on 2, 4 REVOKE of 2, all before T; 5
    GRANT and 6 ACCESS since T. The result is {5, 6}: the consent of 2 was revoked before T and nothing retained refers
    to it. Had 6 relied on 2, the result would be {2, 4, 5, 6}. ENROL is not in it, because ``NEVER_PRUNED`` covers it.

    Args:
        prunings: those stated before this one.
    """
    retained: set[int] = set()
    consent_of: dict[int, _Consent] = {}  # by the seq of each of its entries
    for entry in chain:
        event = entry.event
        if event.time_ms >= kept_from_ms:
            retained.add(event.seq)
        if event.kind in _CONSENT_KINDS:
            consent = _Consent() if event.kind == EntryKind.GRANT else consent_of.get(event.ref)
            if consent is not None:
                consent_of[event.seq] = consent
                consent.add(entry)
        elif event.kind not in PRUNABLE and event.kind not in NEVER_PRUNED and event.kind != EntryKind.ERASURE:
            retained.add(event.seq)
    for consent in {id(each): each for each in consent_of.values()}.values():
        if retained.intersection(consent.seqs) or not consent.is_prunable(kept_from_ms, prunings):
            retained.update(consent.seqs)
    keys = [(entry.event, *entry.key) for entry in chain if entry.key is not None]
    retired_ms = {key: event.time_ms for event, key, is_retired in keys if is_retired}
    retained.update(event.seq for event, key, _ in keys if retired_ms.get(key, kept_from_ms) >= kept_from_ms)
    return _with_dependencies(retained, chain, consent_of)


def _with_dependencies(retained: set[int], chain: Sequence[OpenedEntry], consent_of: dict[int, _Consent]) -> set[int]:
    """Return *retained* with every entry that one of them needs, directly or through another.

    An entry needs the entry that it refers to, with the whole consent of that, and the keys that signed it.
    """
    by_seq = {entry.event.seq: entry for entry in chain}
    key_seqs: dict[bytes, set[int]] = {}
    for entry in chain:
        if entry.key is not None:
            key_seqs.setdefault(entry.key[0], set()).add(entry.event.seq)
    found, waiting = set(retained), list(retained)
    while waiting:
        entry = by_seq[waiting.pop()]
        needed = {entry.event.ref} & by_seq.keys()
        if entry.statement is not None:
            needed |= key_seqs.get(entry.statement.key, set())
        for seq in needed & consent_of.keys():
            needed.update(consent_of[seq].seqs)
        waiting += needed - found
        found |= needed
    return found
