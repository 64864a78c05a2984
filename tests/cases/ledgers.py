"""A ledger to test with: a real sequencer, vault and table over a store in memory or on disk, and a fake clock.

``LedgerCase`` opens one, writes to it as the services would, and opens it again as the next process would find it.
Nothing is sealed but by ``seal`` (and by opening and stopping), so a test decides what each checkpoint covers.
``check_ledger`` verifies what the case published from public bytes alone; every test ends in it.
"""

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import fakes
from cases.fakes import HANG_S, FakeClock, Random
from cases.writes import Raw, UncheckedPublicWrite
from consentd.core import checkpoint, codec, ed25519, history, merkle, note, tiles
from consentd.core.kinds import EntryKind
from consentd.core.replay import Replay
from consentd.cosigning.publisher import ImmediatePublisher, Publisher
from consentd.ledger import layout, reads
from consentd.ledger.kek import SoftwareKek
from consentd.ledger.ledger import Ledger
from consentd.ledger.recovery import open_ledger
from consentd.ledger.retention import read_pruned
from consentd.ledger.vault import Vault
from consentd.metrics import Metrics
from consentd.policy import model
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.sequencer.appending import SequencerLimits
from consentd.sequencer.checkpoints import CheckpointSigning
from consentd.sequencer.commands.accesses import AuthorizeAccess, RecordOutcome
from consentd.sequencer.commands.consents import ChangeConsent, GrantConsent
from consentd.sequencer.commands.ledger import Genesis
from consentd.sequencer.commands.registry import EnrolSubject, PublicWrite
from consentd.sequencer.commands.write import Author, Request, SignedEntry, Write
from consentd.sequencer.loop import Sequencer
from consentd.sequencer.pool import Written
from consentd.service.requests import content_hash, make_request
from consentd.statements.values import consent_message, rules_message, vocabulary_message
from consentd.store import Batch, Store
from consentd.store.memory import MemoryStore
from consentd.table.table import Table, catch_up
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd.verify.fsck import Report, verify_files

ORIGIN = "ledger.example/test"
LOG = note.Signer(ORIGIN, ed25519.KeyPair(b"\1" * 32))
DAEMON = ed25519.KeyPair(b"\2" * 32)
BANK = ed25519.KeyPair(b"\x21" * 32)
CITIZEN = ed25519.KeyPair(b"\x22" * 32)
KEK = SoftwareKek("test", b"\3" * 32)
START_MS = fakes.START_MS
INTERVAL_MS = 60_000
"""So long that no seal becomes due by itself; it is also how long the sequencer's thread sleeps unless woken."""
MAP_BITS = 4


@dataclass(frozen=True, slots=True)
class Person:
    """An enrolled person."""

    identifier_hash: bytes
    tag: bytes
    key: ed25519.KeyPair | None = None


@contextmanager
def held_writer(sequencer: Sequencer) -> Iterator[None]:
    """Hold the sequencer's thread in a call. What is submitted meanwhile waits in the pool."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert leave.wait(HANG_S)

    holder = threading.Thread(target=sequencer.call, args=(hold,))
    holder.start()
    assert entered.wait(HANG_S)
    try:
        yield
    finally:
        leave.set()
        holder.join(HANG_S)


class LedgerCase:
    """One ledger and the directory it lives in.

    Attributes:
        retention_days: what leaf 0 publishes.
        store, vault_store: hold the rows; what ``reopen`` finds.
        notes: every checkpoint published, oldest first.
    """

    retention_days = 0

    def __init__(
        self,
        directory: Path,
        *,
        store: Store | None = None,
        clock: FakeClock | None = None,
        begin: bool = True,
        table_type: type[Table] = Table,
        signer: note.NoteSigner = LOG,
        publisher: Publisher | None = None,
    ) -> None:
        self.directory = directory
        self.store: Store = MemoryStore() if store is None else store
        self.vault_store: Store = MemoryStore()
        self.clock = clock or FakeClock()
        self.random = Random()
        self.last_signed_path = directory / "last-signed"
        self.table_path = directory / "table"
        self.table_type = table_type
        self.signer = signer
        self.publisher = publisher or ImmediatePublisher()
        self.notes: list[bytes] = []
        self.people: list[Person] = []
        self._ids = itertools.count(1)
        self.table: Table | None = None
        self.open()
        if begin:
            self.begin()

    # -- opening and closing ----------------------------------------------------------------------------------

    def open(self, *, confirm_clock: bool = False) -> None:
        """Open everything as the daemon does; what was opened before is left to its fate."""
        self.table = None
        self.vault = Vault(self.vault_store, [KEK], self.random)
        self.ledger = self.open_ledger()
        table = self.table_type.open(self.table_path, map_size_mb=16)
        try:
            catch_up(
                table, self.store, self.vault, size=self.ledger.state.size, wall_ms=self.clock.wall_ms()
            )
            self.metrics = Metrics()
            self.sequencer = Sequencer(
                ledger=self.ledger,
                table=table,
                author=Author(ORIGIN, DAEMON, self.vault, self.random),
                signing=CheckpointSigning((self.signer,), self.last_signed_path, self.publisher),
                limits=SequencerLimits(
                    checkpoint_interval_ms=INTERVAL_MS,
                    max_waiting=1000,
                    max_batch=1000,
                    idempotency_ms=7 * 86_400_000,
                ),
                clock=self.clock,
                metrics=self.metrics,
                confirm_clock=confirm_clock,
            )
            self.sequencer.start()
        except BaseException:
            table.close()
            raise
        self.table = table
        self._note()

    def open_ledger(self) -> Ledger:
        """Open and verify the ledger alone."""
        return open_ledger(
            self.store, last_signed_path=self.last_signed_path, origin=ORIGIN, log_verifier=LOG.verifier,
            map_bits=MAP_BITS,
        )

    def close(self) -> None:
        """Drain and close: what waits is written, sealed and published."""
        if self.table is not None:
            self.sequencer.stop()
            self._note()
            self.table.close()
            self.table = None

    def crash(self) -> None:
        """Lose the process: what is in the store, the table and the last signed checkpoint stays."""
        survivor = self.store.reopen() if isinstance(self.store, MemoryStore) else self.store
        lock = self.last_signed_path.read_bytes() if self.last_signed_path.exists() else None
        assert self.table is not None
        copied = self.directory / "table.crashed"
        self.table.copy(copied)
        self.sequencer.stop()
        self.table.close()
        shutil.rmtree(self.table_path)
        copied.rename(self.table_path)
        if lock is None:
            self.last_signed_path.unlink(missing_ok=True)
        else:
            self.last_signed_path.write_bytes(lock)
        self.store = survivor

    def reopen(self) -> None:
        """Crash, and open again."""
        self.crash()
        self.open()

    def open_again(self) -> None:
        """Open after a fault stopped the sequencer: as the next process finds the store, the table and the file."""
        self.sequencer.stop()
        assert self.sequencer.fault is not None
        if self.table is not None:
            self.table.close()
        store = getattr(self.store, "inner", self.store)
        self.store = store.reopen() if isinstance(store, MemoryStore) else store
        self.open()

    def seal(self) -> checkpoint.Checkpoint:
        """Seal what was written since the last seal, and wait for its checkpoint."""
        size = self.ledger.state.size + (self.ledger.state.size > self.ledger.state.sealed_size)
        self.clock.advance(INTERVAL_MS)
        self.sequencer.call(lambda: None)  # wakes the thread, which then finds the seal due
        published = self.sequencer.checkpoints.wait(size, HANG_S)
        assert published is not None
        self._note()
        return published.checkpoint

    def _note(self) -> None:
        published = self.sequencer.checkpoints.published
        if published is not None and published.note not in self.notes:
            self.notes.append(published.note)

    # -- writing ----------------------------------------------------------------------------------------------

    def write(self, write: Write[Any]) -> Written[Any]:
        """Write and wait."""
        return self.sequencer.submit(write).result(HANG_S)

    def write_together(self, writes: Sequence[Write[Any]]) -> "list[Future[Written[Any]]]":
        """Put writes into one batch."""
        return self.sequencer.call(lambda: [self.sequencer.submit(write) for write in writes])

    def request(self, *parts: bytes | str, request_id: bytes = b"", asker: str = "hospital") -> Request:
        """Return a request with the content *parts*."""
        return make_request(asker, request_id or next(self._ids).to_bytes(16), content_hash("test", *parts))

    def begin(self) -> None:
        """Write the first entries, register two participants, and seal."""
        self.write(self.genesis())
        for participant in ("hospital", "bank"):
            self.write(self.participant(participant))
        self.seal()

    def genesis(self) -> Genesis:
        """Return the write that begins a ledger."""
        statement = st.LedgerStatement(
            origin=ORIGIN,
            verifier_keys=[note.format_vkey(LOG.verifier)],
            statement_key=DAEMON.public_key,
            map_bits=MAP_BITS,
            retention_days=self.retention_days,
        )
        rules = rules_message(model.Rules(), realm_id="realm", version=1, vocabulary_id=DEFAULT_VOCABULARY.id)
        return Genesis(ledger=statement, vocabulary=vocabulary_message(DEFAULT_VOCABULARY), rules=rules)

    def participant(self, participant_id: str, **base: Any) -> PublicWrite[st.ParticipantStatement]:
        """Return the registration of a participant."""
        message = st.ParticipantStatement(
            participant_id=participant_id,
            name={"en": participant_id},
            roles=[st.PARTICIPANT_ROLE_HOLDER],
            rights=[st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS],
            active=True,
        )
        chain = f"participant/{participant_id}"
        request = self.request(chain, message.SerializeToString(deterministic=True), **base)
        return PublicWrite(kind=EntryKind.PARTICIPANT, request=request, chain=chain, message=message)

    def key(self, participant_id: str, key: bytes, *, retired: bool = False) -> UncheckedPublicWrite:
        """Return what puts a participant's key in force, or out of it."""
        message = st.KeyStatement(key=key, retired=retired)
        return self.public(f"participant/{participant_id}", EntryKind.KEY, message)

    def public(self, name: str, kind: EntryKind, message: Any, **base: Any) -> UncheckedPublicWrite:
        """Return an entry of a public chain."""
        request = self.request(name, message.SerializeToString(deterministic=True), **base)
        return UncheckedPublicWrite(request=request, chain=name, kind=kind, message=message)

    def enrol(self, name: str, key: ed25519.KeyPair | None = None) -> Person:
        """Enrol a person."""
        identifier_hash = self.vault.identifier_hash("test", name)
        tag = self.vault.create(identifier_hash)
        write = EnrolSubject(
            request=self.request(identifier_hash),
            tag=tag,
            message=st.EnrolStatement(
                identifier_hash=identifier_hash, scheme="test", attestation=st.Attestation(attested_by="hospital")
            ),
            subject_key=b"" if key is None else key.public_key,
        )
        self.write(write)
        person = Person(identifier_hash, tag, key)
        self.people.append(person)
        return person

    def grant(self, person: Person, *, signed: bool = False, notice: str = "", **base: Any) -> GrantConsent:
        """Return a consent: the hospital's records, to the bank, for care management. *notice*: its version 1."""
        root = model.Provision(
            effect=model.Effect.PERMIT, actors=("bank",), holders=("hospital",), purposes=("CAREMGT",),
            categories=("CLIN",), actions=("access",),
        )
        consent = model.Consent(kind=model.Kind.CONSENT, root=root, notice=notice, notice_version=1 if notice else 0)
        message = st.GrantStatement(consent=consent_message(consent))
        if not signed:
            message.attestation.attested_by = "hospital"
        request = self.request(person.identifier_hash, b"grant", **base)
        statement = self.sign(person.key, EntryKind.GRANT, person, message, request.id) if signed else None
        return GrantConsent(
            request=request, identifier_hash=person.identifier_hash, message=message, signed=statement
        )

    def sign(
        self,
        key: ed25519.KeyPair | None,
        kind: EntryKind,
        person: Person,
        message: Any,
        request_id: bytes,
        ref: int = 0,
    ) -> SignedEntry:
        """Sign a statement as its author does."""
        assert key is not None
        payload, now = message.SerializeToString(deterministic=True), self.clock.wall_ms()
        text = codec.signed_message(
            origin=ORIGIN, kind=kind, tag=person.tag, ref=ref, request_id=request_id, author_time_ms=now,
            payload=payload,
        )
        statement = codec.Statement(key.public_key, key.sign(text), request_id, now, payload)
        return SignedEntry(kind, person.tag, ref, statement)

    def access(self, person: Person, *, purpose: str = "CAREMGT", **base: Any) -> AuthorizeAccess:
        """Return a question of the bank; recorded as ACCESS where permitted, as REFUSAL where not."""
        question = model.Question(
            actor=model.Actor(organisation="bank"), holder="hospital", purpose=purpose, action="access",
            categories=("CLIN",),
        )
        asked = st.AskedQuestion(question=pb.Question(purpose=purpose).SerializeToString(), asker="bank")
        return AuthorizeAccess(
            request=self.request(person.identifier_hash, purpose, **base),
            identifier_hash=person.identifier_hash,
            scheme="test",
            question=question,
            asked=asked,
        )

    def outcome(
        self, person: Person, access_seq: int, *, key: ed25519.KeyPair | None = None, count: int = 1, **base: Any
    ) -> RecordOutcome:
        """Return the bank's report on a permitted access, attested by it unless its *key* signs."""
        message = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT, resource_count=count)
        request = self.request(person.identifier_hash, b"outcome %d" % count, **{"asker": "bank", **base})
        signed = None
        if key is None:
            message.attestation.attested_by = request.asker
        if key is not None:
            signed = self.sign(key, EntryKind.OUTCOME, person, message, request.id, access_seq)
        return RecordOutcome(
            request=request,
            identifier_hash=person.identifier_hash,
            access_seq=access_seq,
            message=message,
            signed=signed,
        )

    def change(self, person: Person, lineage: int, kind: EntryKind) -> ChangeConsent:
        """Return a PAUSE, RESUME or REVOKE."""
        messages = {
            EntryKind.PAUSE: st.PauseStatement, EntryKind.RESUME: st.ResumeStatement,
            EntryKind.REVOKE: st.RevokeStatement,
        }
        return ChangeConsent(
            request=self.request(person.identifier_hash, kind.name),
            identifier_hash=person.identifier_hash,
            kind=kind,
            consent_id=codec.consent_id(person.tag, lineage),
            message=messages[kind](),
        )

    def erase(self, person: Person) -> None:
        """Append the ERASURE, then destroy what it asks for, in the store and the vault; the table follows."""
        self.write(Raw(kind=EntryKind.ERASURE, tag=person.tag))
        count, _ = self.ledger.head(person.tag)
        batch = Batch()
        batch.delete_range(layout.statement_key(person.tag, 1), layout.statement_key(person.tag, count))
        self.sequencer.call(lambda: self.store.write(batch))
        batch = Batch()
        batch.delete(b"k" + person.tag)
        batch.delete(b"i" + person.identifier_hash)
        self.vault_store.write(batch)
        self.vault._keys.clear()
        self.rebuild_table()

    def rebuild_table(self) -> None:
        """Make the table anew from the ledger, as after an erasure."""
        self.close()
        shutil.rmtree(self.table_path)
        self.open()

    def fill(self, people: int, accesses: int = 3) -> list[Person]:
        """Enrol people, each with a grant, accesses and an outcome, and seal now and then."""
        made = []
        for number in range(people):
            person = self.enrol(f"person {len(self.people)}")
            self.write(self.grant(person))
            for _ in range(accesses):
                access = self.write(self.access(person))
            self.write(self.outcome(person, access.entry.event.seq))
            self.write(self.access(person, purpose="HRESCH"))
            if number % 3 == 2:
                self.seal()
            made.append(person)
        self.seal()
        return made

    # -- proving ----------------------------------------------------------------------------------------------

    def history(
        self, *chains: bytes | str, held: checkpoint.Checkpoint | None = None, known: int = 0,
        most: int | None = None,
    ) -> history.HistoryProof:  # fmt: skip
        """Prove the history of chains at the last seal, of the first one at most *most* entries after *known*."""
        named = [(codec.public_tag(one), one) if isinstance(one, str) else (one, "") for one in chains]
        heads = self.sequencer.call(lambda: reads.prove_heads(self.ledger, [tag for tag, _ in named]))
        published = self.sequencer.checkpoints.wait(heads.size, HANG_S)
        assert published is not None
        assert published.checkpoint.size == heads.size
        proofs = []
        for location, (tag, name) in enumerate(named):
            count, head, proof = heads.chains[tag]
            first = 1 if location else known + 1
            last = count if location or most is None else min(count, known + most)
            entries = tuple(
                history.HistoryEntry(entry.leaf, reads.open_entry(self.vault, entry))
                for entry in reads.read_chain(self.store, tag, first, last)
            )
            proofs.append(
                history.ChainProof(
                    tag=tag, public_name=name, count=count, head=head if count else b"", map_proof=proof,
                    first_seq=first, entries=entries,
                )
            )
        consistency = () if held is None else tuple(reads.prove_consistency(self.store, held.size, heads.size))
        return history.HistoryProof(
            checkpoint=published.note,
            consistency=consistency,
            seal=heads.seal,
            seal_inclusion=tuple(reads.prove_inclusion(self.store, heads.size - 1, heads.size)),
            chains=tuple(proofs),
        )

    def fsck(self, **options: Any) -> Report:
        """Verify all files. *options* replace the arguments of ``verify_files``."""
        given: dict[str, Any] = {
            "origin": ORIGIN, "log_verifier": LOG.verifier, "last_signed_path": self.last_signed_path,
            "vault": self.vault, "table": self.table,
        }
        return verify_files(self.store, **{**given, **options})

    def edit(self, key: bytes, change: Callable[[bytes], bytes] | None) -> None:
        """Change one row, or delete it (None), without the ledger."""
        row = self.store.get(key)
        assert row is not None, "there is such a row"
        batch = Batch()
        if change is None:
            batch.delete(key)
        else:
            batch.put(key, change(row))
        getattr(self.store, "inner", self.store).write(batch)

    def restore(self, key: bytes, row: bytes | None) -> None:
        """Write a row again as it was before ``edit``; None: delete it."""
        batch = Batch()
        if row is None:
            batch.delete(key)
        else:
            batch.put(key, row)
        self.store.write(batch)


def fill_all_kinds(case: LedgerCase) -> LedgerCase:
    """Write entries of all kinds of authors, more than a tile of them, some of them not sealed."""
    case.write(case.key("bank", BANK.public_key))
    signed = case.enrol("who signs", CITIZEN)
    case.write(case.grant(signed, signed=True))
    access = case.write(case.access(signed)).entry
    case.write(case.outcome(signed, access.event.seq, key=BANK))
    case.fill(4)
    for person in case.people[:3]:
        for future in case.write_together([case.access(person) for _ in range(90)]):
            future.result(HANG_S)
    case.seal()
    case.write(case.access(signed))
    return case


def flip(at: int, bit: int = 1) -> Callable[[bytes], bytes]:
    """Return what flips one bit of the byte *at*."""
    return lambda row: row[: at % len(row)] + bytes([row[at % len(row)] ^ bit]) + row[at % len(row) + 1 :]


def check_ledger(case: LedgerCase, size: int | None = None) -> Replay:
    """Verify the published ledger from public bytes: checkpoints, bundles, tiles, the replay rule.

    Every checkpoint that was ever published must be consistent with the last one; *size*: what that one must have.
    """
    point, _ = checkpoint.open_checkpoint(case.notes[-1], ORIGIN, LOG.verifier)
    assert size is None or point.size == size
    found = {location: case.store.get(layout.tile_key(*location)) or b"" for location in _locations(point.size)}
    assert tiles.root(point.size, found) == point.root

    pruned = read_pruned(case.store)
    replay, seals = Replay(start=pruned.start, kept_from_ms=pruned.kept_from_ms), []
    for start in range(0, point.size, tiles.TILE_WIDTH):
        end = min(start + tiles.TILE_WIDTH, point.size)
        bundle = tiles.encode_bundle(reads.read_leaves(case.store, start, end, with_gaps=start < pruned.minimum))
        for at, leaf in enumerate(tiles.decode_bundle(bundle)):
            if not leaf:
                replay.skip_pruned(found[0, start // tiles.TILE_WIDTH][32 * at : 32 * at + 32])
                continue
            is_seal = isinstance(replay.add(leaf), codec.Seal)
            seals += [replay.size] * is_seal
        grown = replay.grow()
        assert all(found[location].startswith(tile) for location, tile in grown.items() if location[0] == 0)
    assert replay.root() == point.root
    assert all(later > earlier + 1 for earlier, later in itertools.pairwise(seals)), "two seals side by side"

    for text in case.notes:
        older, _ = checkpoint.open_checkpoint(text, ORIGIN, LOG.verifier)
        assert older.size in seals or older.size < pruned.start, "a checkpoint's last leaf is a seal"
        proof = reads.prove_consistency(case.store, older.size, point.size)
        merkle.verify_consistency(
            proof, size1=older.size, root1=older.root, size2=point.size, root2=point.root
        )
    return replay


def check_files(case: LedgerCase) -> Report:
    """Verify all of the case's files, and that nothing is wrong with them."""
    report = case.fsck()
    assert report.faults == ()
    assert report.not_checked == {}
    return report


def _locations(size: int) -> list[tiles.Coordinates]:
    return [
        (level, n)
        for level in range(8)
        for n in range(-(-(size >> (8 * level)) // tiles.TILE_WIDTH))
    ]
