"""Read the policy table: a person's rows, and the registry (vocabulary, rules, participants) that all checks share.

A ``View`` is the table at one moment. Readers get a ``Snapshot`` of the last commit. The sequencer gets a
``TableTransaction``, whose reads include its own writes. The module ``table`` defines the rows.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from struct import Struct
from typing import Self

from consentd.core import codec
from consentd.core.key_validity import FOREVER_MS, KeyValidity
from consentd.core.kinds import Owner
from consentd.errors import CorruptionError, NotFoundError
from consentd.policy import actor, model
from consentd.policy import compile as compiler
from consentd.policy import subject as subjects
from consentd.policy.codebook import Codebook, Parties, remember
from consentd.policy.compile import CompiledRules
from consentd.policy.delegation import Capacity, Delegation
from consentd.statements import payloads, values
from consentd.store import prefix_end
from consentd.store.lmdb import ReadTransaction
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

FORMAT = 1
REVISION = Struct(">Q32sQB")
"""Row ``R``: tree size, root, generation of the registry, format."""
NO_REVISION = (0, b"", 0, FORMAT)
KEY = Struct(">BQQ")
"""Start of a row ``k``: owner, in force from ms, until ms. The owner's id or tag follows."""
U64 = Struct(">Q")
U32 = Struct(">I")
HOME_COUNTRY = "KR"
"""The country of participants that state none."""

MAX_PARTIES = 16_384
MAX_REMEMBERED_RELAYS = 4
"""Most items of the memo of parties (about 1 KiB each), and most relays in the key of one. The parties of a question
with more relays are determined for each use."""

Delegations = Mapping[str, Mapping[tuple[str, Capacity], Delegation]]
"""Giver → taker and capacity → the delegation."""


def delegation_key(delegation: Delegation) -> bytes:
    """Return the key of the row that holds a delegation."""
    names = f"{delegation.giver}\0{delegation.taker}\0".encode()
    return b"d" + names + bytes([delegation.capacity])


@dataclass(frozen=True, slots=True)
class Participant:
    """A participant as its latest statement describes it. Compiled consents and rules have ``number``, not ``id``.

    ``roles`` and ``rights`` are values of the enums of ``consentd.v1``.
    """

    id: str
    number: int
    roles: frozenset[int]
    rights: frozenset[int]
    groups: tuple[str, ...]
    active: bool
    statement: st.ParticipantStatement

    @property
    def is_abroad(self) -> bool:
        """Whether the participant processes data in another country than the realm's."""
        return self.statement.country not in ("", HOME_COUNTRY)


@dataclass(frozen=True, slots=True)
class Mandate:
    """An auditor's latest mandate. *seq* is that of its entry in the auditor's chain."""

    seq: int
    statement: st.MandateStatement

    def is_in_force(self, now_ms: int) -> bool:
        """Return whether the mandate has not ended at *now_ms*, UTC milliseconds."""
        return now_ms < self.statement.end_time_ms


@dataclass(frozen=True, slots=True)
class Registry:
    """Codebook, rules, participants and delegations. They change rarely, so all consent checks share one value.

    Attributes:
        generation: number of entries that have changed the registry.
        numbers: the numbers of participants and groups, by id, and of the reserved name SUBJECT.
        delegations: those that were not ended, whether or not now is in their window.
        mandates: those that were not ended, in force or not, by auditor.
    """

    generation: int
    codebook: Codebook
    rules: CompiledRules
    quotas: model.Quotas
    participants: dict[str, Participant]
    numbers: dict[str, int]
    delegations: Delegations
    mandates: dict[str, "Mandate"]
    # The list that ``delegations_after`` reads, once it is sorted. Two threads may both append it; both are the same.
    _list: list[tuple[tuple[int, Delegation], ...]] = field(default_factory=list, init=False, repr=False, compare=False)
    # The parties of questions, by the names in them. Threads share this dict: each access is one dict operation.
    _parties: dict[tuple[object, ...], Parties] = field(default_factory=dict, init=False, repr=False, compare=False)

    def participant(self, participant_id: str) -> Participant | None:
        """Return a participant; None if no participant has this id."""
        return self.participants.get(participant_id)

    def parties(
        self, caller: str | None, question: model.Question | pb.Question, now_ms: int, *,
        signed_by_subject: bool = False,
    ) -> Parties:  # fmt: skip
        """Return the participants that a question of *caller* is decided for (``policy.actor``).

        Args:
            caller: participant id; None: an operator.
            signed_by_subject: whether the person whose data are asked for signed the question.

        Raises:
            DeniedError: the caller may not ask the question, or a name in the question is not true.
            InvalidError: the question names no organisation, no holder, or an unknown purpose.
        """
        who = question.actor
        relays = tuple(who.relays)
        key = (
            caller, who.organisation, who.on_behalf_of, who.application, relays, question.holder, question.purpose,
            signed_by_subject,
        )  # fmt: skip
        found = self._parties.get(key)
        if found is None or not found.from_ms <= now_ms < found.until_ms:
            found = actor.determine_parties(self, actor.Asked(*key), now_ms)
            if len(relays) <= MAX_REMEMBERED_RELAYS:
                remember(self._parties, key, found, most=MAX_PARTIES)
        return found

    def delegation(self, giver: str, taker: str, capacity: Capacity) -> Delegation | None:
        """Return the delegation of this giver, taker and capacity; None if there is none, or it was ended.

        The caller checks whether the delegation is in force now, and covers the purpose.
        """
        return self.delegations.get(giver, {}).get((taker, capacity))

    def delegations_after(self, position: int) -> Iterator[tuple[int, Delegation]]:
        """Yield all delegations after a position in the list of all, in order, each with its own position.

        Positions are greater than 0, and never change: they follow from the numbers of giver and taker.
        """
        if not self._list:  # sorted once, because every page of a list reads it
            numbers, every = self.numbers, [one for given in self.delegations.values() for one in given.values()]
            placed = ((numbers[one.giver] << 34 | numbers[one.taker] << 2 | one.capacity, one) for one in every)
            self._list.append(tuple(sorted(placed, key=itemgetter(0))))
        found = self._list[0]
        return islice(found, bisect_right(found, position, key=itemgetter(0)), None)

    def with_delegation(self, delegation: Delegation, *, ended: bool, generation: int) -> "Registry":
        """Return the registry with *delegation* in place of an earlier one, or if *ended*, without it.

        A change of one delegation costs no read of the other rows: participants, not the operator alone, cause it.
        """
        given = dict(self.delegations.get(delegation.giver, {}))
        given.pop((delegation.taker, delegation.capacity), None)
        if not ended:
            given[delegation.taker, delegation.capacity] = delegation
        return replace(self, generation=generation, delegations={**self.delegations, delegation.giver: given})


@dataclass(slots=True)
class RegistryCache:
    """The registry that was read last in this process.

    Any thread may assign another registry. A reader uses a registry only if its generation is the table's.
    """

    registry: Registry | None = None


class View:
    """The table at one moment. Use it in a ``with`` statement.

    Attributes:
        size, root: the table reflects the ledger's first *size* leaves, whose root is *root*.
    """

    _changed = False  # whether the view has changes of the registry that are not committed

    def __init__(self, cache: RegistryCache, txn: ReadTransaction) -> None:
        self._cache = cache
        self._txn = txn
        row = txn.get(b"R")
        self.size: int
        self.root: bytes
        self.size, self.root, self._generation, _ = NO_REVISION if row is None else REVISION.unpack(row)
        self._registry: Registry | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._txn.end(error)

    def tag_of(self, identifier_hash: bytes) -> bytes | None:
        """Return the tag under which an identifier is enrolled; None if the identifier is not enrolled."""
        return self._txn.get(b"i" + identifier_hash)

    def subject(self, tag: bytes) -> bytes | None:
        """Return a person's subject value (the compiled consents); empty: no consents; None: no such person."""
        return self._txn.get(b"s" + tag)

    def registry(self) -> Registry:
        """Return codebook, rules, participants and delegations.

        Raises:
            CorruptionError: the table has no vocabulary or no rules.
        """
        found = self._registry
        if found is None:
            found = self._cache.registry
            if found is None or found.generation != self._generation:
                found = self._read_registry()
                newest = self._cache.registry
                if not self._changed and (newest is None or newest.generation < found.generation):
                    # Two threads may both assign the registry. Both values are right for views of their generation. A
                    # view of an older commit does not replace a newer registry, or the next view would read all again.
                    self._cache.registry = found
            self._registry = found
        return found

    def participant(self, participant_id: str) -> Participant | None:
        """Return a participant as its latest statement describes it; None if no participant has this id."""
        return self.registry().participant(participant_id)

    def key_owner(self, key: bytes) -> KeyValidity | None:
        """Return for whom a key is in force now; None if the key is not in force."""
        validity = self.key_ever(key)
        return validity if validity is not None and validity.until_ms == FOREVER_MS else None

    def key_ever(self, key: bytes) -> KeyValidity | None:
        """Return for whom a key is in force, or was in force last; None if the key was never in force."""
        row = self._txn.get(b"k" + key) if len(key) == 32 else None
        if row is None:
            return None
        kind, from_ms, until_ms = KEY.unpack_from(row)
        whose = row[KEY.size :]
        return KeyValidity(Owner(kind), from_ms, until_ms, whose if kind == Owner.SUBJECT else whose.decode())

    def keys_of(self, participant_id: str) -> list[bytes]:
        """Return the keys of a participant that are in force. Reads all key rows."""
        owners = [(key[1:], self.key_owner(key[1:])) for key, _ in self._rows(b"k")]
        return [key for key, owner in owners if owner is not None and owner.tag_or_name == participant_id]

    def lineage(self, tag: bytes, consent_id: bytes) -> subjects.Lineage:
        """Return the lineage (a consent with its amendments) of this consent ID.

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
        return () if not value else subjects.decode_subject(value)

    def notice(self, notice_id: str, version: int = 0) -> st.NoticeStatement | None:
        """Return a version of a notice, or for version 0 the latest version; None if there is none."""
        start = b"n" + notice_id.encode() + b"\0"
        row = self._txn.get(start + U32.pack(version)) if version else max(self._rows(start), default=(b"", None))[1]
        return None if row is None else payloads.parse(st.NoticeStatement, row)

    def has_notice(self, notice_id: str, version: int) -> bool:
        """Report whether this version of a notice was published."""
        return version > 0 and self.notice(notice_id, version) is not None

    def vocabulary_statement(self) -> st.VocabularyStatement | None:
        """Return the vocabulary in force; None if no entry has stated a vocabulary yet."""
        row = self._txn.get(b"v")
        return None if row is None else payloads.parse(st.VocabularyStatement, row)

    def rules_statement(self) -> st.RulesStatement | None:
        """Return the rules in force; None if no entry has stated rules yet."""
        row = self._txn.get(b"r")
        return None if row is None else payloads.parse(st.RulesStatement, row)

    def _rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._txn.scan(prefix, prefix_end(prefix))

    def _read_registry(self) -> Registry:
        vocabulary_message, rules_row = self.vocabulary_statement(), self._txn.get(b"c")
        if vocabulary_message is None or rules_row is None:
            raise CorruptionError("table has no vocabulary or no rules; rebuild it: `consentd table rebuild`")
        participants = {one.id: one for one in map(_participant, self._rows(b"p"))}
        numbers = {one.id: one.number for one in participants.values()}
        numbers |= {key[1:].decode(): U32.unpack(row)[0] for key, row in self._rows(b"g")}
        numbers[model.SUBJECT] = actor.SUBJECT_NUMBER
        vocabulary = values.vocabulary_value(vocabulary_message)
        abroad = [one.id for one in participants.values() if one.is_abroad]
        codebook = Codebook(vocabulary, numbers, {one.id: one.groups for one in participants.values()}, abroad=abroad)
        delegations: dict[str, dict[tuple[str, Capacity], Delegation]] = {}
        for _, row in self._rows(b"d"):
            one = values.delegation_value(payloads.parse(st.DelegationStatement, row))
            delegations.setdefault(one.giver, {})[one.taker, one.capacity] = one
        rules = compiler.decode_rules(rules_row, vocabulary)
        mandates = {
            key[1:].decode(): Mandate(U64.unpack_from(row)[0], payloads.parse(st.MandateStatement, row[8:]))
            for key, row in self._rows(b"m")
        }
        stated = self.rules_statement()
        quotas = model.Quotas() if stated is None else values.rules_value(stated).quotas
        return Registry(self._generation, codebook, rules, quotas, participants, numbers, delegations, mandates)


def _participant(row: tuple[bytes, bytes]) -> Participant:
    key, value = row
    message = payloads.parse(st.ParticipantStatement, value[4:])
    return Participant(
        key[1:].decode(), U32.unpack_from(value)[0], frozenset(message.roles), frozenset(message.rights),
        tuple(message.groups), message.active, message,
    )


class Snapshot(View):
    """The table after one commit. Do not wait for anything inside its ``with`` statement."""

    def participants(self, after: str, limit: int) -> list[st.ParticipantStatement]:
        """Return the statements of up to *limit* participants, in the order of ids, with ids greater than *after*."""
        start = b"p" + after.encode() + b"\0" if after else b"p"
        rows = self._txn.scan(start, prefix_end(b"p"), limit=limit)
        return [payloads.parse(st.ParticipantStatement, row[4:]) for _, row in rows]

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row but the heartbeat, by key. All tables of one ledger at one size have the same rows."""
        return ((key, value) for key, value in self._txn.scan(b"", None) if key != b"H")

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return up to *limit* rows, by key, with keys greater than *after*."""
        return list(self._txn.scan(after + b"\0" if after else b"", None, limit=limit))

    def heartbeat_ms(self) -> int:
        """Return when the writer last wrote its heartbeat, UTC ms; 0 if never."""
        row = self._txn.get(b"H")
        return 0 if row is None else int(U64.unpack(row)[0])

