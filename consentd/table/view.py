"""Read the policy table: a person's rows, and what all checks share.

A ``View`` is the table at one moment: a ``Snapshot`` of the last commit for readers, a ``TableTransaction`` for the
sequencer, which reads its own writes. The rows are named in ``table``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from types import TracebackType
from typing import Self

from consentd.core import codec
from consentd.core.key_validity import FOREVER_MS, PARTICIPANT_PREFIX
from consentd.core.kinds import Owner
from consentd.errors import CorruptionError, NotFoundError
from consentd.policy import compile as compiler
from consentd.policy import subject as subjects
from consentd.policy.codebook import Codebook
from consentd.policy.compile import CompiledRules
from consentd.statements import payloads, values
from consentd.store import prefix_end
from consentd.store.lmdb import Reading
from consentd.v1 import statement_pb2 as st

FORMAT = 1
REVISION = Struct(">Q32sQB")
"""tree size, root, generation of the registry, format."""
NO_REVISION = (0, b"", 0, FORMAT)
KEY = Struct(">BQQ")
"""owner, in force from, until; the owner's id or tag follows."""
U64 = Struct(">Q")
U32 = Struct(">I")


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

    @property
    def chain(self) -> bytes:
        """The tag of the chain that put it in force."""
        if self.kind is Owner.SUBJECT:
            return self.tag
        return codec.LEDGER_TAG if self.kind is Owner.LEDGER else codec.public_tag(PARTICIPANT_PREFIX + self.name)


@dataclass(frozen=True, slots=True)
class Registry:
    """What every check shares, at one generation of the registry: made once, read by all."""

    generation: int
    codebook: Codebook
    rules: CompiledRules
    participants: dict[str, Participant]
    numbers: dict[str, int]


class Shared:
    """Where readers of one process keep the registry they last read, for the next one.

    Attributes:
        registry: replaced by assignment by any thread, and checked by its generation before use.
    """

    __slots__ = ("registry",)

    def __init__(self) -> None:
        self.registry: Registry | None = None


class View:
    """What can be read of the table, at one moment. Base of ``Snapshot`` and ``TableTransaction``."""

    _txn: Reading

    def tag_of(self, identifier_hash: bytes) -> bytes | None:
        """Return the tag an identifier was enrolled under, or None."""
        return self._txn.get(b"i" + identifier_hash)

    def subject(self, tag: bytes) -> bytes | None:
        """Return a person's subject value; None where the person has no consent."""
        return self._txn.get(b"s" + tag) or None

    def registry(self) -> Registry:
        """Return codebook, rules and participants."""
        raise AssertionError("each kind of view has its own")

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
        return owner if owner is not None and owner.until_ms == FOREVER_MS else None

    def key_ever(self, key: bytes) -> KeyOwner | None:
        """Return whose key it is or was, or None."""
        row = self._txn.get(b"k" + key) if len(key) == 32 else None
        if row is None:
            return None
        kind, from_ms, until_ms = KEY.unpack_from(row)
        rest = row[KEY.size :]
        if kind == Owner.SUBJECT:
            return KeyOwner(Owner.SUBJECT, from_ms, until_ms, tag=rest)
        return KeyOwner(Owner(kind), from_ms, until_ms, name=rest.decode())

    def keys_of(self, participant_id: str) -> list[bytes]:
        """Return the keys of a participant that are in force. A scan of all keys."""
        owned = [key[1:] for key, _ in self._txn.scan(b"k", prefix_end(b"k"))]
        owners = [(key, self.key_owner(key)) for key in owned]
        return [key for key, owner in owners if owner is not None and owner.name == participant_id]

    def lineage(self, tag: bytes, consent_id: bytes) -> subjects.Lineage:
        """Return the lineage of this consent ID.

        Raises:
            NotFoundError: the person has no such consent, or withdrew it.
        """
        for lineage in self.lineages(tag):
            if codec.consent_id(tag, lineage.lineage) == consent_id:
                return lineage
        raise NotFoundError("subject has no such consent in force", "CONSENT_NOT_FOUND")

    def lineages(self, tag: bytes) -> tuple[subjects.Lineage, ...]:
        """Return a person's lineages that are not withdrawn, oldest first."""
        value = self.subject(tag)
        return () if value is None else subjects.decode_subject(value)

    def has_authority(self, tag: bytes, seq: int) -> bool:
        """Tell whether entry *seq* of a person is an AUTHORITY in force. None is recorded in this version."""
        return False

    def notice(self, notice_id: str, version: int = 0) -> st.NoticeStatement | None:
        """Return a notice version, or the latest for 0; None where there is none."""
        start = b"n" + notice_id.encode() + b"\0"
        if version:
            row = self._txn.get(start + U32.pack(version))
        else:
            rows = [value for _, value in self._txn.scan(start, prefix_end(start))]
            row = rows[-1] if rows else None
        return None if row is None else payloads.parse(st.NoticeStatement, row)

    def has_notice(self, notice_id: str, version: int) -> bool:
        """Tell whether a notice version is published."""
        return version > 0 and self.notice(notice_id, version) is not None

    def vocabulary_statement(self) -> st.VocabularyStatement | None:
        """Return the vocabulary in force, or None before the first."""
        row = self._txn.get(b"v")
        return None if row is None else payloads.parse(st.VocabularyStatement, row)

    def rules_statement(self) -> st.RulesStatement | None:
        """Return the rules in force, or None before the first."""
        row = self._txn.get(b"r")
        return None if row is None else payloads.parse(st.RulesStatement, row)

    def _read_participant(self, participant_id: str, row: bytes) -> Participant:
        message = payloads.parse(st.ParticipantStatement, row[4:])
        return Participant(
            participant_id,
            U32.unpack_from(row)[0],
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
            numbers[key[1:].decode()] = U32.unpack(row)[0]
        vocabulary = values.vocabulary_value(vocabulary_message)
        codebook = Codebook(vocabulary, numbers, {one.id: one.groups for one in participants.values()})
        return Registry(generation, codebook, compiler.decode_rules(rules_row, vocabulary), participants, numbers)


class Snapshot(View):
    """The table as of one commit. Use it in a ``with`` statement, and wait for nothing within.

    Attributes:
        size, root: the revision: the state of the ledger it reflects.
    """

    __slots__ = ("_generation", "_registry", "_shared", "_txn", "root", "size")

    size: int
    root: bytes

    def __init__(self, shared: Shared, txn: Reading) -> None:
        self._shared = shared
        self._txn = txn
        row = txn.get(b"R")
        self.size, self.root, self._generation, _ = NO_REVISION if row is None else REVISION.unpack(row)
        self._registry: Registry | None = None

    def registry(self) -> Registry:
        found = self._registry
        if found is None:
            found = self._shared.registry
            if found is None or found.generation != self._generation:
                found = self._read_registry(self._generation)
                # A lost race replaces one right value by another; a snapshot never uses another generation's.
                self._shared.registry = found
            self._registry = found
        return found

    def participants(self, after: str, limit: int) -> list[st.ParticipantStatement]:
        """Return the statements of up to *limit* participants by id, those above *after*."""
        start = b"p" + after.encode() + b"\0" if after else b"p"
        rows = self._txn.scan(start, prefix_end(b"p"), limit=limit)
        return [payloads.parse(st.ParticipantStatement, row[4:]) for _, row in rows]

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row but the heartbeat, by key: two tables of the same ledger have the same."""
        return ((key, value) for key, value in self._txn.scan(b"", None) if key != b"H")

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return up to *limit* rows by key, those behind *after*."""
        return list(self._txn.scan(after + b"\0" if after else b"", None, limit=limit))

    def heartbeat_ms(self) -> int:
        """Return when the writer last left its heartbeat, UTC ms; 0: never."""
        row = self._txn.get(b"H")
        return 0 if row is None else int(U64.unpack(row)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.__exit__(kind, error, trace)
