"""Keep the evaluator's view of the ledger: the policy table, in LMDB.

Derived, never trusted: each row follows from the ledger's entries by ``apply``, and ``rebuild`` makes it again
from nothing. One writer, the sequencer, inside one transaction a batch; any number of readers, in any process,
each on the last commit. Format, for the second program that reads it: ``proto/table-format.md``.

=====  ============================  =====================================================================
first  rest of the key               value
=====  ============================  =====================================================================
``R``                                revision: tree size u64 ‖ root[32] ‖ registry generation u64 ‖ format u8
``H``                                heartbeat: UTC ms u64
``i``  identifier hash[32]           tag[32]
``s``  tag[32]                       the subject value; empty: enrolled, without consents
``p``  participant id                number u32 ‖ ParticipantStatement
``g``  group id                      number u32
``k``  key[32]                       owner u8 ‖ in force from u64 ‖ until u64 ‖ owner's id or tag
``n``  notice id ‖ 0 ‖ version u32   NoticeStatement
``v``                                VocabularyStatement in force
``r``                                RulesStatement in force
``c``                                the rules, compiled
``#``                                last participant or group number given, u32
=====  ============================  =====================================================================

Integers of keys and of these rows are big-endian; the subject value and compiled rules have their own layout.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import Message

from consentd.core import codec, kinds
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import CorruptionError, NotFoundError
from consentd.ledger import reads, statement
from consentd.ledger.ledger import Ledger
from consentd.ledger.vault import Vault
from consentd.policy import compile as compiler
from consentd.policy import model
from consentd.policy import subject as values
from consentd.policy.codebook import Codebook
from consentd.policy.compile import CompiledRules
from consentd.policy.renew import Renewal
from consentd.policy.vocabulary import Vocabulary
from consentd.store import Store, prefix_end
from consentd.store.lmdb import Environment, Reading, Writing
from consentd.v1 import statement_pb2 as st

FORMAT = 1

_REVISION = Struct(">Q32sQB")
_U64 = Struct(">Q")
_U32 = Struct(">I")
_KEY = Struct(">BQQ")
_FOREVER = (1 << 64) - 1
_NO_REVISION = (0, b"", 0, FORMAT)


@dataclass(frozen=True, slots=True)
class Participant:
    """A participant as it stands: its number, roles and rights as enum values, groups, and its statement."""

    id: str
    number: int
    roles: frozenset[int]
    rights: frozenset[int]
    groups: tuple[str, ...]
    active: bool
    statement: st.ParticipantStatement


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose key it is, and when it is in force: [from_ms, until_ms]. ``name``: participant; ``tag``: person."""

    kind: Owner
    from_ms: int
    until_ms: int
    name: str = ""
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class Registry:
    """What every check shares, at one generation of the registry: made once, read by all."""

    generation: int
    codebook: Codebook
    rules: CompiledRules
    participants: dict[str, Participant]
    numbers: dict[str, int]


class View:
    """What can be read of the table, at one moment. Base of ``Snapshot`` and ``TableTurn``."""

    _txn: Reading

    def tag_of(self, identifier_hash: bytes) -> bytes | None:
        """Return the tag an identifier was enrolled under, or None."""
        return self._txn.get(b"i" + identifier_hash)

    def subject(self, tag: bytes) -> bytes | None:
        """Return a person's subject value; None where the person has no consent."""
        return self._txn.get(b"s" + tag) or None

    def registry(self) -> Registry:
        """Return codebook, rules and participants."""
        raise NotImplementedError

    def codebook(self) -> Codebook:
        """Return the codebook in force."""
        return self.registry().codebook

    def rules(self) -> CompiledRules:
        """Return the compiled rules in force."""
        return self.registry().rules

    def participant(self, participant_id: str) -> Participant | None:
        """Return a participant as it stands, or None."""
        return self.registry().participants.get(participant_id)

    def key_owner(self, key: bytes) -> KeyOwner | None:
        """Return whose key it is, where it is in force; None otherwise."""
        owner = self.key_ever(key)
        return owner if owner is not None and owner.until_ms == _FOREVER else None

    def key_ever(self, key: bytes) -> KeyOwner | None:
        """Return whose key it is or was, or None."""
        row = self._txn.get(b"k" + key) if len(key) == 32 else None
        if row is None:
            return None
        kind, from_ms, until_ms = _KEY.unpack_from(row)
        rest = row[_KEY.size :]
        if kind == Owner.SUBJECT:
            return KeyOwner(Owner.SUBJECT, from_ms, until_ms, tag=rest)
        return KeyOwner(Owner(kind), from_ms, until_ms, name=rest.decode())

    def keys_of(self, participant_id: str) -> list[bytes]:
        """Return the keys of a participant that are in force. A scan of all keys."""
        owned = [key[1:] for key, _ in self._txn.scan(b"k", prefix_end(b"k"))]
        owners = [(key, self.key_owner(key)) for key in owned]
        return [key for key, owner in owners if owner is not None and owner.name == participant_id]

    def standing(self, tag: bytes, consent_id: bytes) -> values.Lineage:
        """Return how a lineage stands.

        Raises:
            NotFoundError: the person has no such consent, or withdrew it.
        """
        for lineage in self.standings(tag):
            if codec.consent_id(tag, lineage.lineage) == consent_id:
                return lineage
        raise NotFoundError("subject has no such consent in force", "CONSENT_NOT_FOUND")

    def standings(self, tag: bytes) -> tuple[values.Lineage, ...]:
        """Return a person's lineages that are not withdrawn, oldest first."""
        value = self.subject(tag)
        return () if value is None else values.decode_subject(value)

    def has_authority(self, tag: bytes, seq: int) -> bool:
        """Tell whether entry *seq* of a person is an AUTHORITY in force. None is recorded in this version."""
        return False

    def notice(self, notice_id: str, version: int = 0) -> st.NoticeStatement | None:
        """Return a notice version, or the latest for 0; None where there is none."""
        start = b"n" + notice_id.encode() + b"\0"
        if version:
            row = self._txn.get(start + _U32.pack(version))
        else:
            rows = [value for _, value in self._txn.scan(start, prefix_end(start))]
            row = rows[-1] if rows else None
        return None if row is None else statement.parse(st.NoticeStatement, row)

    def has_notice(self, notice_id: str, version: int) -> bool:
        """Tell whether a notice version is published."""
        return version > 0 and self.notice(notice_id, version) is not None

    def vocabulary_statement(self) -> st.VocabularyStatement | None:
        """Return the vocabulary in force, or None before the first."""
        row = self._txn.get(b"v")
        return None if row is None else statement.parse(st.VocabularyStatement, row)

    def rules_statement(self) -> st.RulesStatement | None:
        """Return the rules in force, or None before the first."""
        row = self._txn.get(b"r")
        return None if row is None else statement.parse(st.RulesStatement, row)

    def _read_participant(self, participant_id: str, row: bytes) -> Participant:
        message = statement.parse(st.ParticipantStatement, row[4:])
        return Participant(
            participant_id,
            _U32.unpack_from(row)[0],
            frozenset(message.roles),
            frozenset(message.rights),
            tuple(message.groups),
            message.active,
            message,
        )

    def _read_registry(self, generation: int) -> Registry:
        vocabulary_message, rules_row = self.vocabulary_statement(), self._txn.get(b"c")
        if vocabulary_message is None or rules_row is None:
            raise CorruptionError("table has no vocabulary or no rules; rebuild it: `consentd table rebuild`")
        participants = {
            key[1:].decode(): self._read_participant(key[1:].decode(), row)
            for key, row in self._txn.scan(b"p", prefix_end(b"p"))
        }
        numbers = {one.id: one.number for one in participants.values()}
        for key, row in self._txn.scan(b"g", prefix_end(b"g")):
            numbers[key[1:].decode()] = _U32.unpack(row)[0]
        vocabulary = statement.vocabulary_value(vocabulary_message)
        codebook = Codebook(vocabulary, numbers, {one.id: one.groups for one in participants.values()})
        return Registry(generation, codebook, compiler.decode_rules(rules_row, vocabulary), participants, numbers)


class Snapshot(View):
    """The table as of one commit. Use it in a ``with`` statement, and wait for nothing within.

    Attributes:
        size, root: the revision: the state of the ledger it reflects.
    """

    __slots__ = ("_generation", "_registry", "_table", "_txn", "root", "size")

    size: int
    root: bytes

    def __init__(self, table: "Table", txn: Reading) -> None:
        self._table = table
        self._txn = txn
        row = txn.get(b"R")
        self.size, self.root, self._generation, _ = _NO_REVISION if row is None else _REVISION.unpack(row)
        self._registry: Registry | None = None

    def registry(self) -> Registry:
        found = self._registry
        if found is None:
            found = self._table.shared
            if found is None or found.generation != self._generation:
                found = self._read_registry(self._generation)
                # A lost race replaces one right value by another; a snapshot never uses another generation's.
                self._table.shared = found
            self._registry = found
        return found

    def participants(self, after: str, limit: int) -> list[st.ParticipantStatement]:
        """Return the statements of up to *limit* participants by id, those above *after*."""
        start = b"p" + after.encode() + b"\0" if after else b"p"
        rows = self._txn.scan(start, prefix_end(b"p"), limit=limit)
        return [statement.parse(st.ParticipantStatement, row[4:]) for _, row in rows]

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row but the heartbeat, by key: what two tables of the same ledger have in common."""
        return ((key, value) for key, value in self._txn.scan(b"", None) if key != b"H")

    def heartbeat_ms(self) -> int:
        """Return when the writer last left its heartbeat, UTC ms; 0: never."""
        row = self._txn.get(b"H")
        return 0 if row is None else int(_U64.unpack(row)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.__exit__(kind, error, trace)


class TableTurn(View):
    """One batch's transaction: reads its own writes. The sequencer's; nothing shows before ``commit``."""

    def __init__(self, table: "Table", txn: Writing) -> None:
        self._table = table
        self._txn: Writing = txn
        row = txn.get(b"R")
        self.size, _, self._generation, _ = _NO_REVISION if row is None else _REVISION.unpack(row)
        self._registry: Registry | None = None
        self._changed = False

    def registry(self) -> Registry:
        if self._registry is None:
            shared = self._table.shared
            if not self._changed and shared is not None and shared.generation == self._generation:
                self._registry = shared
            else:
                self._registry = self._read_registry(self._generation)
        return self._registry

    def apply(self, event: codec.Event, message: Message | None) -> None:
        """Apply one entry: a deterministic function of (table, entry), live, catching up or rebuilding.

        An entry whose statement was erased (*message* None), or whose kind says nothing to the table, changes nothing.
        """
        step = _STEPS.get(event.kind)
        if step is not None and message is not None:
            getattr(self, step)(event, message)
        elif not kinds.is_known(event.kind) and self._txn.get(b"s" + event.tag) is not None:
            self._put_unreadable(event)

    def commit(self, size: int, root: bytes, wall_ms: int) -> None:
        """Make the batch current for every reader that begins from now on, at this revision."""
        if self._changed:
            self._generation += 1
        self._txn.put(b"R", _REVISION.pack(size, root, self._generation, FORMAT))
        self._txn.put(b"H", _U64.pack(wall_ms))
        self._txn.commit()
        if self._changed and self._registry is not None:
            self._table.shared = replace(self._registry, generation=self._generation)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not committed by ``commit``: dropped. A turn without entries has nothing to say.
        self._txn.abort()
        self._txn.__exit__(kind, error, trace)

    # -- one step for each kind that says something -----------------------------------------------------------

    def _ledger(self, event: codec.Event, message: st.LedgerStatement) -> None:
        self._put_key(message.statement_key, Owner.LEDGER, event.time_ms, b"")

    def _participant(self, event: codec.Event, message: st.ParticipantStatement) -> None:
        row_key = b"p" + message.participant_id.encode()
        old = self._txn.get(row_key)
        number = old[:4] if old is not None else self._number()
        self._txn.put(row_key, number + message.SerializeToString(deterministic=True))
        for group in message.groups:
            if self._txn.get(b"g" + group.encode()) is None:
                self._txn.put(b"g" + group.encode(), self._number())
        self._touch()

    def _key(self, event: codec.Event, message: st.KeyStatement) -> None:
        owner = self.key_ever(message.key)
        if message.retired:
            if owner is not None:
                rest = owner.tag if owner.kind is Owner.SUBJECT else owner.name.encode()
                self._put_key(message.key, owner.kind, owner.from_ms, rest, event.time_ms)
            return
        holder = self._participant_of(event.tag)
        if holder is None:
            self._put_key(message.key, Owner.SUBJECT, event.time_ms, event.tag)
        else:
            self._put_key(message.key, Owner.PARTICIPANT, event.time_ms, holder.encode())

    def _vocabulary(self, event: codec.Event, message: st.VocabularyStatement) -> None:
        old = self.vocabulary_statement()
        if old is not None:
            self._renew(statement.vocabulary_value(old), statement.vocabulary_value(message))
        self._txn.put(b"v", message.SerializeToString(deterministic=True))
        self._touch()

    def _notice(self, event: codec.Event, message: st.NoticeStatement) -> None:
        row_key = b"n" + message.notice_id.encode() + b"\0" + _U32.pack(message.version)
        self._txn.put(row_key, message.SerializeToString(deterministic=True))

    def _rules(self, event: codec.Event, message: st.RulesStatement) -> None:
        self._txn.put(b"r", message.SerializeToString(deterministic=True))
        self._touch()
        self._compile_rules(message)

    def _enrol(self, event: codec.Event, message: st.EnrolStatement) -> None:
        self._txn.put(b"i" + message.identifier_hash, event.tag)
        self._txn.put(b"s" + event.tag, b"")

    def _grant(self, event: codec.Event, message: st.GrantStatement) -> None:
        self._put_consent(event, message.consent, lineage=event.seq, version=1, paused=False)

    def _amend(self, event: codec.Event, message: st.AmendStatement) -> None:
        paused = any(one.paused for one in self.standings(event.tag) if one.lineage == message.lineage_seq)
        self._put_consent(
            event, message.consent, lineage=message.lineage_seq, version=message.version, paused=paused
        )

    def _pause(self, event: codec.Event, message: st.PauseStatement) -> None:
        self._put_subject(event.tag, values.with_state(self.subject(event.tag), message.lineage_seq, paused=True))

    def _resume(self, event: codec.Event, message: st.ResumeStatement) -> None:
        self._put_subject(event.tag, values.with_state(self.subject(event.tag), message.lineage_seq, paused=False))

    def _revoke(self, event: codec.Event, message: st.RevokeStatement) -> None:
        self._put_subject(event.tag, values.without_consent(self.subject(event.tag), message.lineage_seq))

    def _put_consent(
        self, event: codec.Event, message: Any, *, lineage: int, version: int, paused: bool
    ) -> None:
        standing = model.Standing(
            lineage=lineage, seq=event.seq, version=version, consent=statement.consent_value(message), paused=paused
        )
        registry = self.registry()
        compiled = compiler.compile_consent(standing, registry.codebook.vocabulary, registry.numbers)
        self._put_subject(event.tag, values.with_consent(self.subject(event.tag), standing, compiled))

    def _put_unreadable(self, event: codec.Event) -> None:
        """An entry of a later version may permit or deny anything: what this person is asked about cannot be told."""
        consent = model.Consent(kind=model.Kind.CONSENT, root=model.Provision(effect=model.Effect.DENY))
        standing = model.Standing(lineage=event.seq, seq=event.seq, version=1, consent=consent, readable=False)
        registry = self.registry()
        compiled = compiler.compile_consent(standing, registry.codebook.vocabulary, registry.numbers)
        self._put_subject(event.tag, values.with_consent(self.subject(event.tag), standing, compiled))

    def _put_subject(self, tag: bytes, value: bytes | None) -> None:
        self._txn.put(b"s" + tag, value or b"")

    def _put_key(self, key: bytes, kind: Owner, from_ms: int, rest: bytes, until_ms: int = _FOREVER) -> None:
        self._txn.put(b"k" + key, _KEY.pack(kind, from_ms, until_ms) + rest)

    def _compile_rules(self, message: st.RulesStatement) -> None:
        vocabulary_message = self.vocabulary_statement()
        if vocabulary_message is None:
            return
        numbers = {key[1:].decode(): _U32.unpack_from(row)[0] for key, row in self._numbered()}
        vocabulary = statement.vocabulary_value(vocabulary_message)
        compiled = compiler.compile_rules(statement.rules_value(message), vocabulary, numbers)
        self._txn.put(b"c", compiled.encoded)

    def _renew(self, old: Vocabulary, new: Vocabulary) -> None:
        """Widen every stored deny by the codes that joined below what it names: one pass over all persons."""
        renewal = Renewal(old, new)
        if not renewal.is_needed():
            return
        renewed = [
            (key, renewal.subject(value)) for key, value in self._txn.scan(b"s", prefix_end(b"s")) if value
        ]
        for key, value in renewed:
            self._txn.put(key, value)
        rules = self._txn.get(b"c")
        if rules is not None:
            compiled = compiler.decode_rules(rules, old)
            count = len(compiled.statutory) + len(compiled.break_glass)
            self._txn.put(b"c", renewal.rules(rules, count))

    def _numbered(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self._txn.scan(b"p", prefix_end(b"p"))
        yield from self._txn.scan(b"g", prefix_end(b"g"))

    def _participant_of(self, tag: bytes) -> str | None:
        return next(
            (key[1:].decode() for key, _ in self._txn.scan(b"p", prefix_end(b"p"))
             if codec.public_tag("participant/" + key[1:].decode()) == tag),
            None,
        )

    def _number(self) -> bytes:
        row = self._txn.get(b"#")
        number = _U32.pack(1 if row is None else _U32.unpack(row)[0] + 1)
        self._txn.put(b"#", number)
        return number

    def _touch(self) -> None:
        """The registry changed: this turn reads it anew, and commits a new generation of it."""
        self._registry = None
        self._changed = True


_STEPS: dict[int, str] = {
    EntryKind.LEDGER: "_ledger",
    EntryKind.PARTICIPANT: "_participant",
    EntryKind.KEY: "_key",
    EntryKind.VOCABULARY: "_vocabulary",
    EntryKind.NOTICE: "_notice",
    EntryKind.RULES: "_rules",
    EntryKind.ENROL: "_enrol",
    EntryKind.GRANT: "_grant",
    EntryKind.AMEND: "_amend",
    EntryKind.PAUSE: "_pause",
    EntryKind.RESUME: "_resume",
    EntryKind.REVOKE: "_revoke",
}
"""Which step of ``TableTurn`` a kind takes."""


class Table:
    """The table's environment. ``read`` may be used from any thread; the rest is the sequencer's."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        # The registry last read; replaced by assignment by any thread, checked by generation before use.
        self.shared: Registry | None = None
        self._beat_lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, map_size_mb: int) -> "Table":
        """Open the table for writing, or begin an empty one.

        Raises:
            StorageError, CorruptionError: see ``Environment.open``.
        """
        return cls(Environment.open(path, map_size_mb=map_size_mb))

    @classmethod
    def open_read_only(cls, path: Path) -> "Table":
        """Open the table for reading, as a second process does."""
        return cls(Environment.open_read_only(path))

    def read(self) -> Snapshot:
        """Begin to read, on the last commit."""
        return Snapshot(self, self._environment.begin_read())

    def begin(self) -> TableTurn:
        """Begin a batch."""
        return TableTurn(self, self._environment.begin_write())

    def heartbeat(self, wall_ms: int) -> None:
        """Tell readers that the writer lives."""
        with self._environment.begin_write() as txn:
            txn.put(b"H", _U64.pack(wall_ms))

    def copy(self, path: Path) -> None:
        """Write a compact copy without freed pages."""
        self._environment.copy(path)

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()


CATCH_UP_BATCH = 10_000


def catch_up(
    table: Table, ledger: Ledger, vault: Vault, wall_ms: int, progress: Callable[[int], None] | None = None
) -> int:
    """Apply to the table what the ledger has beyond it; returns how many leaves.

    Raises:
        CorruptionError: the table is ahead of the ledger, or reflects another one.
    """
    store, state = ledger.store, ledger.state
    with table.read() as snapshot:
        size, root = snapshot.size, snapshot.root
    if size > state.size:
        raise CorruptionError(f"table is ahead of its ledger: size {size}, ledger has {state.size}; see ops/RUNBOOK.md")
    if size and root != reads.root_at(store, size):
        raise CorruptionError(f"table reflects another ledger at size {size}; rebuild it: `consentd table rebuild`")
    start = size
    while size < state.size:
        end = min(size + CATCH_UP_BATCH, state.size)
        with table.begin() as turn:
            for leaf in reads.read_leaves(store, size, end):
                event = codec.decode_leaf(leaf)
                if isinstance(event, codec.Event):
                    turn.apply(event, read_message(store, vault, event))
            turn.commit(end, reads.root_at(store, end), wall_ms)
        size = end
        if progress is not None:
            progress(size)
    return size - start


def read_message(store: Store, vault: Vault, event: codec.Event) -> Message | None:
    """Return the decoded payload of an event; None where it was erased or says nothing to the table.

    Raises:
        CorruptionError: it does not open, or does not decode.
    """
    if event.kind not in _STEPS:
        return None
    entry = reads.read_entry(store, event.tag, event.seq)
    opened = reads.open_entry(vault, entry)
    if opened is None:
        return None
    return statement.decode_payload(event.kind, codec.decode_statement(opened[1]).payload)
