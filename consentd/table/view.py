"""Read the policy table: a person's rows, and the registry (vocabulary, rules, participants) that all checks share.

A ``View`` is the table at one moment. Readers get a ``Snapshot`` of the last commit. The sequencer gets a
``TableTransaction``, whose reads include its own writes. The module ``table`` defines the rows.
"""

from collections.abc import Iterator
from dataclasses import replace
from struct import Struct
from typing import Self

from consentd.core import codec
from consentd.core.key_validity import FOREVER_MS, KeyValidity
from consentd.core.kinds import Owner
from consentd.errors import CorruptionError, InvalidError, NotFoundError
from consentd.policy import actor, model
from consentd.policy import compile as compiler
from consentd.policy import subject as subjects
from consentd.policy.authority import NO_ENDS, NOTHING, Authority, Ends, decode_authority
from consentd.policy.codebook import Codebook
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.duty import Duty, decode_duty
from consentd.statements import payloads, values
from consentd.statements.delegations import delegation_value
from consentd.store import RowReader, prefix_end
from consentd.store.lmdb import MAX_KEY
from consentd.table import credential_rows
from consentd.table.checked_rows import RowCheck
from consentd.table.notice_keys import count_key, notice_key
from consentd.table.participant_rows import registered_participant
from consentd.table.registry import Mandate, Participant, Registry, RegistryCache
from consentd.v1 import statement_pb2 as st

FORMAT = 5
REVISION = Struct(">Q32sQQB")
"""Row ``R``: tree size, root, generation of the registry, time of the last entry, format."""
REVISION_KEY = b"R"
HEARTBEAT = Struct(">QQ")
"""Row ``H``: when the writer last said that it runs, UTC ms; how often it has mended a shared row."""
NO_REVISION = (0, b"", 0, 0, FORMAT)
KEY = Struct(">BQQ")
"""Start of a row ``k``: owner, in force from ms, until ms. The owner's id or tag follows."""
U64 = Struct(">Q")
U32 = Struct(">I")
DUTIES = b"h"
"""How the keys of the rows of duties begin: tag and seq of the entry follow."""


def delegation_key(delegation: Delegation) -> bytes:
    """Return the key of the row that holds a delegation."""
    names = f"{delegation.giver}\0{delegation.taker}\0".encode()
    return b"d" + names + bytes([delegation.capacity])


def is_derived(key: bytes) -> bool:
    """Return whether a row follows from the ledger: all but the heartbeat and the rows of credentials."""
    return key != b"H" and not key.startswith(credential_rows.PREFIX)


def certificate_key(name: str) -> bytes:
    """Return the key of the row that says whose certificate name this is."""
    return b"x" + name.encode()


def authority_key(tag: bytes, seq: int) -> bytes:
    """Return the key of the row of the authority that entry *seq* of a person's chain states."""
    return authority_prefix(tag) + U64.pack(seq)


def authority_prefix(tag: bytes) -> bytes:
    """Return how the keys of the rows begin that list who may act for a person."""
    return b"a" + tag


def duty_key(tag: bytes, seq: int) -> bytes:
    """Return the key of the row of the duty that entry *seq* of a person's chain states."""
    return DUTIES + tag + U64.pack(seq)


def parse_duty_key(key: bytes) -> tuple[bytes, int]:
    """Return tag and seq of a duty."""
    return key[1:33], int(U64.unpack(key[33:])[0])


def owner_prefix(participant_id: str) -> bytes:
    """Return how the keys of the rows begin that list the keys of a participant."""
    return b"o" + participant_id.encode() + b"\0"


def person_prefix(tag: bytes) -> bytes:
    """Return how the keys of the rows begin that list the keys of a person."""
    return b"q" + tag


class View:
    """The table at one moment. Use it in a ``with`` statement. Each read may raise ``DamagedRowError``.

    Attributes:
        size, root: the table reflects the ledger's first *size* leaves, whose root is *root*.
        time_ms: time of the last of these leaves, UTC ms; 0 if there is none. No decision has an earlier time.
    """

    _changed = False  # whether the view has changes of the registry that are not committed

    def __init__(self, cache: RegistryCache, check: RowCheck, txn: RowReader) -> None:
        """Take over a transaction. Raises ``CorruptionError`` for an unknown format; then the caller ends *txn*."""
        self._cache = cache
        self._check = check
        self._txn = txn
        self._read = txn.get
        row = self._get(REVISION_KEY)
        self.size: int
        self.root: bytes
        self.time_ms: int
        revision = NO_REVISION if row is None else REVISION.unpack(row)
        self.size, self.root, self._generation, self.time_ms, version = revision
        if version != FORMAT:
            raise CorruptionError(f"table has format `{version}`, not {FORMAT}: rebuild it: `consentd table rebuild`")
        self._registry: Registry | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._txn.end(error)

    def tag_of(self, identifier_hash: bytes) -> bytes | None:
        """Return the tag under which an identifier is enrolled; None if the identifier is not enrolled."""
        return self._get(b"i" + identifier_hash)

    def subject(self, tag: bytes) -> bytes | None:
        """Return a person's subject value (the compiled consents); empty: no consents; None: no such person."""
        return self._get(b"s" + tag)

    def enrolled_subject(self, tag: bytes) -> bytes:
        """Return the subject value of a tag that ``tag_of`` found. Raises DamagedRowError if the row is missing too."""
        value = self._get(b"s" + tag)
        if value is None:
            raise self._check.damage(b"s")
        return value

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

    def known_registry(self) -> Registry | None:
        """Return the registry if it was read before, and None otherwise."""
        found = self._registry or self._cache.registry
        return found if found is not None and found.generation == self._generation else None

    def has_registry(self) -> bool:
        """Return whether the table has a vocabulary and rules: all but the first entries of a ledger have them."""
        return self._get(b"v") is not None and self._get(b"c") is not None

    def last_erasure(self) -> int | None:
        """Return the leaf index of the last ERASURE; None: there is none."""
        row = self._get(b"e")
        return None if row is None else int(U64.unpack(row)[0])

    def participant(self, participant_id: str) -> Participant | None:
        """Return a participant as its latest statement describes it; None if no participant has this id."""
        return self.registry().participant(participant_id)

    def certificate_owner(self, name: str) -> str | None:
        """Return the participant to which a certificate name belongs; None if it is nobody's."""
        row = self._get(certificate_key(name))
        return None if row is None else row.decode()

    def check_certificate_names(self, message: st.ParticipantStatement) -> None:
        """Check that no certificate name is another participant's. Raises ``InvalidError``."""
        for name in message.certificate_names:
            if len(certificate_key(name)) > MAX_KEY:
                raise InvalidError("entry states a certificate name that is too long")
            if self.certificate_owner(name) not in (None, message.participant_id):
                raise InvalidError("entry states a certificate name that is another participant's")

    def key_owner(self, key: bytes) -> KeyValidity | None:
        """Return for whom a key is in force now; None if the key is not in force."""
        validity = self.key_ever(key)
        return validity if validity is not None and validity.until_ms == FOREVER_MS else None

    def key_ever(self, key: bytes) -> KeyValidity | None:
        """Return for whom a key is in force, or was in force last; None if the key was never in force."""
        row = self._get(b"k" + key) if len(key) == 32 else None
        if row is None:
            return None
        kind, from_ms, until_ms = KEY.unpack_from(row)
        whose = row[KEY.size :]
        is_person = kind in (Owner.SUBJECT, Owner.REPRESENTATIVE)
        return KeyValidity(Owner(kind), from_ms, until_ms, whose if is_person else whose.decode())

    def keys_of(self, participant_id: str) -> list[bytes]:
        """Return the keys of a participant that are in force, in the order of their bytes."""
        start = owner_prefix(participant_id)
        keys = [key[len(start) :] for key, _ in self._rows(start)]
        owners = [(key, self.key_owner(key)) for key in keys]
        return [key for key, owner in owners if owner is not None and owner.tag_or_name == participant_id]

    def person_keys(self, tag: bytes) -> dict[bytes, bool]:
        """Return the keys that were ever put in force for a person, by their bytes, and whether each is in force."""
        start = person_prefix(tag)
        keys = [key[len(start) :] for key, row in self._rows(start) if not row]
        owners = [(key, self.key_owner(key)) for key in keys]
        return {key: owner is not None and owner.tag_or_name == tag for key, owner in owners}

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

    def authority(self, tag: bytes, seq: int) -> Authority | None:
        """Return the authority that entry *seq* of a person's chain states; None: it states none."""
        row = self._get(authority_key(tag, seq)) if 0 < seq <= codec.MAX_SEQ else None
        return None if row is None else decode_authority(row)

    def duty(self, tag: bytes, seq: int) -> Duty | None:
        """Return the duty that entry *seq* of a person's chain states; None: it states none, or was ended."""
        row = self._get(duty_key(tag, seq)) if 0 < seq <= codec.MAX_SEQ else None
        return None if row is None else decode_duty(row)

    def duties(self, tag: bytes) -> dict[int, Duty]:
        """Return the duties about a person that were not ended, by the seq of their entry."""
        return {parse_duty_key(key)[1]: decode_duty(row) for key, row in self._rows(DUTIES + tag)}

    def duties_after(self, tag: bytes, seq: int, *, limit: int) -> Iterator[tuple[bytes, int, Duty]]:
        """Yield tag, seq and duty of the duties of all persons, in order of both; only those after tag and seq."""
        for key, row in self._rows(DUTIES, after=duty_key(tag, seq) if tag else b"", limit=limit):
            yield *parse_duty_key(key), decode_duty(row)

    def permits_rest_on(self, tag: bytes, seq: int) -> tuple[int, Ends]:
        """Return on which authority permits rest that are given now under that of entry *seq*, and when they end.

        (0, ``NO_ENDS``): on none, because the person acts (*seq* is 0), or because by the realm's rules permits of
        representatives of this capacity do not end. What rests on an authority that the chain does not have permits
        nothing. No command writes such an entry. A replay of what another program wrote names it as a fault.
        """
        if not seq:
            return 0, NO_ENDS
        authority, rules = self.authority(tag, seq) or NOTHING, self.rules_statement()
        if rules is not None and authority.capacity in rules.standing_capacities:
            return 0, NO_ENDS
        return seq, authority.ends

    def authorities(self, tag: bytes) -> dict[int, Authority]:
        """Return the authorities that a person's chain states, ended ones too, by the seq of their entries."""
        start = authority_prefix(tag)
        return {int(U64.unpack(key[len(start) :])[0]): decode_authority(row) for key, row in self._rows(start)}

    def keys_in_chain(self, tag: bytes) -> list[bytes]:
        """Return the keys that a person's chain states: those of the person, and those of representatives."""
        start = person_prefix(tag)
        return [key[len(start) :] for key, _ in self._rows(start)]

    def authority_keys(self, tag: bytes, seq: int) -> dict[bytes, bool]:
        """Return the keys that were ever put in force for the representative by an authority, and whether each is."""
        start = person_prefix(tag)
        keys = [key[len(start) :] for key, row in self._rows(start) if row == U64.pack(seq)]
        return {key: self.key_owner(key) is not None for key in keys}

    def notice(self, notice_id: str, version: int = 0) -> st.NoticeStatement | None:
        """Return a version of a notice, or for version 0 the latest version; None if there is none."""
        start = b"n" + notice_id.encode() + b"\0"
        row = self._get(start + U32.pack(version)) if version else max(self._rows(start), default=(b"", None))[1]
        return None if row is None else payloads.parse(st.NoticeStatement, row[U32.size :])

    def notice_number(self, notice_id: str, version: int) -> int:
        """Return the number of a version of a notice; 0: this version was not published."""
        row = self._get(notice_key(notice_id, version)) if version > 0 else None
        return 0 if row is None else int(U32.unpack_from(row)[0])

    def notice_numbers(self, notice_id: str) -> Iterator[tuple[int, int]]:
        """Yield the versions of a notice, each with its number."""
        for key, row in self._rows(notice_key(notice_id, 0)[: -U32.size]):
            yield U32.unpack(key[-U32.size :])[0], U32.unpack_from(row)[0]

    def consents_under(self, notice: int) -> int:
        """Return how many consents are in force under the version of a notice with this number, ended ones included."""
        row = self._get(count_key(notice))
        return 0 if row is None else int(U64.unpack(row)[0])

    def vocabulary_statement(self) -> st.VocabularyStatement | None:
        """Return the vocabulary in force; None if no entry has stated a vocabulary yet."""
        row = self._get(b"v")
        return None if row is None else payloads.parse(st.VocabularyStatement, row)

    def rules_statement(self) -> st.RulesStatement | None:
        """Return the rules in force; None if no entry has stated rules yet."""
        row = self._get(b"r")
        return None if row is None else payloads.parse(st.RulesStatement, row)

    def _get(self, key: bytes) -> bytes | None:
        """Return the value of a row; None if there is no such row."""
        stored = self._read(key)
        return None if stored is None else self._check.open_row(key, stored)

    def _rows(self, prefix: bytes, *, after: bytes = b"", limit: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose keys begin with *prefix*, by key, at most *limit*; only those after key *after*."""
        rows = self._txn.scan(after + b"\0" if after else prefix, prefix_end(prefix), limit=limit)
        return ((key, self._check.open_row(key, stored)) for key, stored in rows)

    def _read_registry(self) -> Registry:
        vocabulary_message, rules_row = self.vocabulary_statement(), self._get(b"c")
        if vocabulary_message is None or rules_row is None:
            raise CorruptionError("table has no vocabulary or no rules; rebuild it: `consentd table rebuild`")
        numbers = {key[1:].decode(): U32.unpack(row)[0] for key, row in self._rows(b"g")}
        group_names = {number: name for name, number in numbers.items()}
        participants = {one.id: one for one in (registered_participant(row, group_names) for row in self._rows(b"p"))}
        numbers |= {one.id: one.number for one in participants.values()}
        numbers[model.SUBJECT] = actor.SUBJECT_NUMBER
        vocabulary = values.vocabulary_value(vocabulary_message)
        abroad = [one.id for one in participants.values() if one.is_abroad]
        memberships = {one.id: one.memberships for one in participants.values()}
        codebook = Codebook(vocabulary, numbers, memberships, abroad=abroad)
        delegations: dict[str, dict[tuple[str, Capacity], Delegation]] = {}
        for _, row in self._rows(b"d"):
            one = delegation_value(payloads.parse(st.DelegationStatement, row))
            delegations.setdefault(one.giver, {})[one.taker, one.capacity] = one
        campaigns = {U32.unpack(key[1:])[0]: row for key, row in self._rows(b"w")}
        instants = {number: int(U64.unpack_from(row)[0]) for number, row in campaigns.items()}
        rules = replace(compiler.decode_rules(rules_row, vocabulary), campaigns=instants)
        mandates = {
            key[1:].decode(): Mandate(U64.unpack_from(row)[0], payloads.parse(st.MandateStatement, row[8:]))
            for key, row in self._rows(b"m")
        }
        stated = self.rules_statement()
        quotas = model.Quotas() if stated is None else values.rules_value(stated).quotas
        certificate_names = {
            name: one.id for one in participants.values() for name in one.statement.certificate_names
        }  # fmt: skip
        return Registry(
            self._generation, codebook, rules, quotas, participants, numbers, delegations, mandates, certificate_names,
            frozenset(row[U64.size :].decode() for row in campaigns.values()),
            served_required=stated is not None and stated.served_required,
        )  # fmt: skip


class Snapshot(View):
    """The table after one commit. Do not wait for anything inside its ``with`` statement."""

    def registry_of(self, generation: int) -> Registry | None:
        """Return the registry of a generation: this snapshot's, or one that the process keeps; None if it has none."""
        if generation == self._generation:
            return self.registry()
        return next((one for one in self._cache.listed if one.generation == generation), None)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows that the ledger makes, by key, as they are stored: with checks (``checked_rows``), unverified.

        All tables of one ledger at one size have the same rows.
        """
        return ((key, stored) for key, stored in self._txn.scan(b"", None) if is_derived(key))

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return up to *limit* rows, by key, with keys greater than *after*, as they are stored."""
        return list(self._txn.scan(after + b"\0" if after else b"", None, limit=limit))

    def persons_from(self, tag: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the tags from *tag* on with their subject values, by tag. Raises ``DamagedRowError``, as each read."""
        rows = self._txn.scan(b"s" + tag, prefix_end(b"s"))
        return ((key[1:], self._check.open_row(key, stored)) for key, stored in rows)

    def heartbeat_ms(self) -> int:
        """Return when the writer last wrote its heartbeat, UTC ms; 0 if never."""
        row = self._get(b"H")
        return 0 if row is None else int(U64.unpack_from(row)[0])

