"""Prune random ledgers: what must be kept is kept, the rest goes, and a crash anywhere loses nothing.

What must be kept is found here once more, from the other end: for each moment since kept_from, what the evaluator had
in view then, and who signed it.
"""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from cases.fakes import FaultyStore
from cases.ledgers import LedgerCase, Person, check_ledger
from consentd.core import codec, tiles
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS, Pruned
from consentd.errors import RequestError, StorageError
from consentd.ledger import layout, pruning, reads, retention
from consentd.ledger.pruning import Stop
from consentd.policy import model
from consentd.sequencer.commands.pruning import StatePruning
from consentd.statements.values import consent_message
from consentd.store import Store
from consentd.store.memory import MemoryStore
from consentd.v1 import statement_pb2 as st

DAYS = 30
_DEEP = {2, 4, 5, 7}
PERSON_KINDS = range(EntryKind.GRANT, EntryKind.OUTCOME + 1)


class PruningCase(LedgerCase):
    """A ledger with a retention policy of a month."""

    retention_days = DAYS

    def kept_from(self) -> int:
        return self.clock.wall_ms() - DAYS * DAY_MS

    def plan(self) -> tuple[Pruned, Stop]:
        planning = pruning.plan_pruning(
            self.store, self.vault, kept_from_ms=self.kept_from(), size=self.ledger.state.size
        )
        try:
            while True:
                next(planning)
        except StopIteration as ended:
            found: tuple[Pruned, Stop] = ended.value
            return found

    def state(self, pruned: Pruned) -> None:
        """State a pruning, publish it."""
        self.write(StatePruning(pruned=pruned))
        self.seal()

    def sweep(self, pruned: Pruned) -> None:
        for batch, _ in pruning.delete_in_batches(self.store, self.vault, pruned):
            self.sequencer.call(lambda batch=batch: self.store.write(batch))

    def prune(self) -> Pruned:
        pruned, _ = self.plan()
        self.state(pruned)
        self.sweep(pruned)
        return pruned

    def consent(self, person: Person, *, days: float, retain_days: float = 0, signed: bool = False):
        """Return a grant that ends after some days."""
        now = self.clock.wall_ms()
        root = model.Provision(
            effect=model.Effect.PERMIT, actors=("bank",), holders=("hospital",), purposes=("CAREMGT",),
            categories=("CLIN",), actions=("access",), end_ms=now + round(days * DAY_MS),
        )
        retain = now + round(retain_days * DAY_MS) if retain_days else 0
        consent = model.Consent(kind=model.Kind.CONSENT, root=root, retention_until_ms=retain)
        write = self.grant(person)
        message = st.GrantStatement(consent=consent_message(consent))
        if not signed:
            message.attestation.attested_by = "hospital"
            statement = None
        else:
            statement = self.sign(person.key, EntryKind.GRANT, person, message, write.request.id)
        return replace(write, message=message, signed=statement)


def live(case: PruningCase, random: Random, steps: int, *, keys: bool) -> None:
    """Do random things on random days; with *keys*, persons have keys of their own, which are in force for ever."""
    for number in range(3):
        key = KeyPair(bytes([50 + number + len(case.people)]) * 32) if keys else None
        case.enrol(f"person {len(case.people)}", key)
    for _ in range(steps):
        person = random.choice(case.people)
        what = random.randrange(9)
        count, _ = case.ledger.head(person.tag)
        grants = [
            entry.event.seq
            for entry in reads.read_chain_with_gaps(case.store, person.tag)
            if entry.event.kind == EntryKind.GRANT and entry.row is not None
        ]
        try:
            if what == 0 or not grants:
                case.write(
                    case.consent(
                        person, days=random.choice((1, 20, 400)), retain_days=random.choice((0, 0, 90)),
                        signed=person.key is not None and random.random() < 0.5,
                    )
                )
            elif what == 1:
                kind = random.choice((EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE))
                case.write(case.change(person, random.choice(grants), kind))
            elif what == 2:
                case.write(case.access(person, purpose="HRESCH"))
            elif what == 3:
                accesses = [
                    entry.event.seq for entry in reads.read_chain_with_gaps(case.store, person.tag, max(1, count - 9))
                    if entry.event.kind == EntryKind.ACCESS and entry.row is not None
                ]
                if accesses:
                    case.write(case.outcome(person, random.choice(accesses), count=random.randrange(1000)))
            else:
                for _ in range(random.randrange(30)):
                    case.write(case.access(person))
        except RequestError:
            pass  # a pause of what is paused, and the like
        if random.random() < 0.3:
            case.seal()
        case.clock.advance(round(random.choice((0.0, 0.1, 5, 20)) * DAY_MS))


def carry_out(store: Store, case: PruningCase, pruned: Pruned) -> None:
    for batch, _ in pruning.delete_in_batches(store, case.vault, pruned):
        store.write(batch)


def copy(store: Store) -> dict[bytes, bytes]:
    return dict(store.scan(b"", None))


def check(case: PruningCase, before: Store, pruned: Pruned) -> None:
    """Compare a pruned ledger with the same one as it was before."""
    assert case.fsck().faults == ()
    stated = retention.read_stated_prunings(before)[1]
    for person in case.people:
        chain = list(reads.read_chain_with_gaps(before, person.tag))
        wanted = _in_view(case, chain, pruned.kept_from_ms, stated)
        below = [entry.event.seq for entry in chain if entry.index < pruned.start]
        for entry in chain:
            seq, kind = entry.event.seq, entry.event.kind
            row = case.store.get(layout.statement_key(person.tag, seq))
            leaf = case.store.get(layout.leaf_key(entry.index))
            if seq in wanted:
                assert row == entry.row
                assert entry.index >= pruned.start or kind == EntryKind.KEY
            if entry.index >= pruned.minimum or seq == below[-1] or kind in (EntryKind.ENROL, EntryKind.KEY):
                assert leaf == entry.leaf
            elif seq not in wanted:
                assert leaf is None
                assert row is None
    # Public chains are whole.
    for key, leaf in before.scan(b"l", b"m"):
        event = codec.decode_leaf(leaf)
        if isinstance(event, codec.Event) and event.kind not in PERSON_KINDS and event.kind != EntryKind.ENROL:
            assert case.store.get(key) == leaf
    assert pruned.minimum % tiles.TILE_WIDTH == 0


def _in_view(
    case: PruningCase, chain: list[reads.StoredEntry], since_ms: int, stated: list[retention.StatedPruning]
) -> set[int]:
    """Return which entries something since a time rests on: moment by moment, as the evaluator saw it."""
    opened = {entry.event.seq: reads.open_entry(case.vault, entry) for entry in chain}
    statements = {seq: codec.decode_statement(found[1]) for seq, found in opened.items() if found is not None}
    grants = {
        entry.event.seq: st.GrantStatement.FromString(statements[entry.event.seq].payload)
        for entry in chain
        if entry.event.kind == EntryKind.GRANT and entry.event.seq in statements
    }
    origin = {}  # seq of the GRANT that each entry leads back to
    for entry in chain:
        if entry.event.kind == EntryKind.GRANT:
            origin[entry.event.seq] = entry.event.seq
        elif EntryKind.AMEND <= entry.event.kind <= EntryKind.REVOKE and entry.event.ref in origin:
            origin[entry.event.seq] = origin[entry.event.ref]
    wanted = {entry.event.seq for entry in chain if entry.event.time_ms >= since_ms}
    for seq, message in grants.items():
        came = next(entry for entry in chain if entry.event.seq == seq)
        revoked = [entry.event for entry in chain if entry.event.kind == EntryKind.REVOKE]
        left = [event.time_ms for event in revoked if origin.get(event.seq) == seq]
        end_ms = message.consent.root.period.end_time_ms or model.OPEN_END_MS
        left += [one.time_ms for one in stated if one.index > came.index and end_ms <= one.pruned.kept_from_ms]
        if min(left, default=since_ms) >= since_ms or message.consent.retention_until_time_ms >= since_ms:
            wanted |= {one for one, its in origin.items() if its == seq}
    while True:
        more = {entry.event.ref for entry in chain if entry.event.seq in wanted and entry.event.ref} & set(opened)
        more |= {one for one in origin if origin[one] in {origin.get(other) for other in wanted | more}}
        if more <= wanted:
            break
        wanted |= more
    signers = {statements[seq].key for seq in wanted if seq in statements}
    retired = {}
    for entry in chain:
        if entry.event.kind == EntryKind.KEY and entry.event.seq in statements:
            message = st.KeyStatement.FromString(statements[entry.event.seq].payload)
            if message.key in signers or retired.get(message.key, since_ms) >= since_ms:
                wanted.add(entry.event.seq)
    return wanted


@pytest.mark.parametrize("seed", range(8))
def test_random_ledgers(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    case = PruningCase(tmp_path)
    starts = []
    for _ in range(3):
        live(case, random, 60, keys=seed % 3 == 0)
        case.clock.advance(random.choice((1, 40, 200)) * DAY_MS)
        for person in case.people:
            case.write(case.access(person))
        case.seal()
        pruned, _ = case.plan()
        case.state(pruned)
        before = MemoryStore(copy(case.store))
        case.sweep(pruned)
        check(case, before, pruned)
        starts.append(pruned.start)
        case.rebuild_table()  # from what is kept
        check_ledger(case)
    assert all(first <= second for first, second in pairwise(starts))
    case.close()
    if seed in _DEEP:
        assert starts[-1] > tiles.TILE_WIDTH  # this one lost leaves, not statements alone


def test_a_crash_at_any_write_of_a_sweep_loses_nothing(tmp_path: Path) -> None:
    random = Random(5)
    case = PruningCase(tmp_path)
    live(case, random, 80, keys=False)
    for days in (500, DAYS + 1):  # the first one drops from the table what ended, the second deletes it
        case.clock.advance(days * DAY_MS)
        for person in case.people:
            case.write(case.access(person))
        case.seal()
        pruned, _ = case.plan()
        if days == 500:
            case.state(pruned)
            case.sweep(pruned)
    case.state(pruned)
    before = copy(case.store)
    swept = MemoryStore(dict(before))
    carry_out(swept, case, pruned)
    steps = [(batch, done.leaves) for batch, done in pruning.delete_in_batches(MemoryStore(before), case.vault, pruned)]
    batches = len(steps)
    assert batches >= 3
    assert steps[-1][1] > 0
    for at in range(batches):
        for persisted in (False, True):
            store = FaultyStore(MemoryStore(dict(before)))
            store.fail_write(persisted=persisted, after=at)
            with pytest.raises(StorageError):
                carry_out(store, case, pruned)
            found = retention.read_pruned(store.inner)
            if at or persisted:
                assert found == pruned
                assert retention.is_finished(store.inner) is (at == batches - 1 and persisted)
            carry_out(store.inner, case, pruned)
            assert copy(store.inner) == copy(swept)
    case.close()
