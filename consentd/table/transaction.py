"""Apply entries to the policy table: one method for each kind of entry that changes the table.

The same methods run when the sequencer commits a batch, when a table catches up with the ledger, and when a table is
built anew. So all three give the same bytes.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from google.protobuf.message import Message

from consentd.core import codec, ed25519
from consentd.core.key_validity import FOREVER_MS, PARTICIPANT_PREFIX, representative
from consentd.core.kinds import NO_TABLE_EFFECT, USES, EntryKind, Owner
from consentd.errors import InvalidError
from consentd.policy import compile as compiler
from consentd.policy import model
from consentd.policy import subject as subjects
from consentd.policy.actor import SUBJECT_NUMBER
from consentd.policy.uses import recurrence_of
from consentd.statements import payloads, values
from consentd.statements.delegations import delegation_value, named_parties
from consentd.table.authorities import AuthorityRows
from consentd.table.duties import DutyRows
from consentd.table.notices import NoticeRows, notices_of
from consentd.table.participant_rows import (
    ParticipantRow,
    decode_participant,
    encode_participant,
    with_participant,
)
from consentd.table.uses import UseRows
from consentd.table.view import (
    DUTIES,
    FORMAT,
    HEARTBEAT,
    KEY,
    REVISION,
    REVISION_KEY,
    U32,
    U64,
    authority_prefix,
    certificate_key,
    delegation_key,
    owner_prefix,
    person_prefix,
)
from consentd.v1 import statement_pb2 as st

_TAG_SIZE: Final = 32



class TableTransaction(DutyRows, UseRows):
    """The transaction that applies a batch of entries. For the sequencer's thread only.

    Its reads include its own writes. Readers see none of these writes before ``commit``. Leaving the ``with`` block
    without ``commit`` drops the writes.
    """

    _index = 0  # leaf index of the entry that ``apply`` applies
    _named: Mapping[bytes, tuple[bytes, ...]] | None = None  # the arguments of ``name_rows``

    def tag_of(self, identifier_hash: bytes) -> bytes | None:
        """Return the tag under which an identifier is enrolled; None if the identifier is not enrolled.

        INVARIANT: no command on a person whose subject row is damaged or missing, or was compiled with a vocabulary
        that the table does not have, records anything: it could not be replayed. None does either if a row is damaged
        that counts the person's consents. Every command finds the person here, so this reads these rows too, and raises
        ``DamagedRowError``.
        """
        tag = super().tag_of(identifier_hash)
        if tag is not None:
            value = self.enrolled_subject(tag)
            for number in set(notices_of(value)):
                self.consents_under(number)
            version = subjects.vocabulary_version(value)
            if version and version > self.registry().codebook.vocabulary.version:
                raise self._check.damage(b"v")
        return tag

    def name_rows(self, tag: bytes, keys: tuple[bytes, ...]) -> None:
        """State the keys of the rows ``i`` and ``k`` of a person. Without it, an ERASURE reads those of all persons."""
        self._named = {**(self._named or {}), tag: keys}

    def apply(self, event: codec.Event, message: Message | None, *, index: int) -> None:
        """Apply one entry. The result depends on the table and the entry alone.

        An entry of an unknown kind adds an unreadable consent, so that decisions on the person are INDETERMINATE.

        Args:
            message: the decoded payload; None if it was erased, or if the kind does not change the table.
            index: the entry's leaf index in the ledger. It determines who is a member of a group for this entry.

        Raises:
            RequestError: the table does not take the entry.
            DamagedRowError: a row that the entry changes is damaged. Part of the entry may be applied.
        """
        self._index = index
        step = self.STEPS.get(event.kind)
        if step is not None:
            if message is not None:
                step(self, event, message)
        elif event.kind == EntryKind.ERASURE:
            self._erase(event.tag)
        elif event.kind not in NO_TABLE_EFFECT and self._get(b"s" + event.tag) is not None:
            self._put_unreadable(event)

    def needs(self, event: codec.Event) -> bool:
        """Return whether ``apply`` needs the payload of an entry. Raises ``DamagedRowError``."""
        return event.kind in STEP_KINDS or (event.kind in USES and subjects.recurs(self.subject(event.tag)))

    def commit(self, size: int, root: bytes, *, time_ms: int, wall_ms: int) -> None:
        """Commit: readers that begin later see all writes.

        Args:
            size, root: the ledger's after this batch.
            time_ms: time of the batch's last leaf. *wall_ms*: the present time, for the heartbeat.
        """
        self._put(REVISION_KEY, REVISION.pack(size, root, self._generation, time_ms, FORMAT))
        self._put(b"H", HEARTBEAT.pack(wall_ms, self._cache.mended))
        self._txn.commit()
        self._keep_tags()
        if self._changed and self._registry is not None:
            self._cache.registry = self._registry

    # -- one method for each kind that changes the table ------------------------------------------------------

    def _ledger(self, event: codec.Event, message: st.LedgerStatement) -> None:
        key, replaced = values.changed_statement_key(message)
        known = self.key_ever(replaced) if replaced else None
        if known is not None and known.owner is Owner.LEDGER:
            self._put_key(replaced, Owner.LEDGER, known.from_ms, "", event.time_ms)
        if key:
            self._put_key(key, Owner.LEDGER, event.time_ms, "")
        if message.HasField("pruning"):
            self.drop_ended(message.pruning.kept_from_time_ms)

    def _participant(self, event: codec.Event, message: st.ParticipantStatement) -> None:
        row_key = b"p" + message.participant_id.encode()
        old = self._get(row_key)
        self.check_certificate_names(message)
        new: ParticipantRow = (self._number() if old is None else 0, (), st.ParticipantStatement())
        number, before, earlier = new if old is None else decode_participant(old)
        named = {group: self._group_number(group) for group in message.groups}
        groups = set(named.values())
        memberships = [
            (group, start, self._index if until == model.STILL and group not in groups else until)
            for group, start, until in before
        ]
        still = {group for group, _, until in before if until == model.STILL}
        memberships += [(group, self._index, model.STILL) for group in groups - still]
        row = encode_participant((number, tuple(memberships), message))
        self._put_named(row_key, row)
        self._note_participant(message.participant_id)
        for name in earlier.certificate_names:
            self._txn.delete(certificate_key(name))
        for name in message.certificate_names:
            self._put(certificate_key(name), message.participant_id.encode())
        registry = self.known_registry()
        self._registry_changed()
        if registry is not None:
            self._registry = with_participant(registry, (row_key, row), named, generation=self._generation)

    def _group_number(self, group: str) -> int:
        """Return the number of a group, which gets one when the first participant joins."""
        row_key = b"g" + group.encode()
        row = self._get(row_key)
        if row is None:
            number = self._number()
            self._put_named(row_key, U32.pack(number))
            return number
        return int(U32.unpack(row)[0])

    def _key(self, event: codec.Event, message: st.KeyStatement) -> None:
        owner, whose = self._chain_owner(event.tag)
        if message.authority_seq:
            if owner is not Owner.SUBJECT or message.authority_seq >= event.seq:
                return
            owner, whose = Owner.REPRESENTATIVE, representative(event.tag, message.authority_seq)
        known = self.key_ever(message.key)
        if not message.retired:
            if owner is not Owner.LEDGER:  # only LEDGER entries put the daemon's keys in force
                self._put_key(message.key, owner, event.time_ms, whose)
        # INVARIANT: only the owner of a key can retire the key.
        elif known is not None and (known.owner, known.tag_or_name) == (owner, whose):
            self._put_key(message.key, owner, known.from_ms, whose, event.time_ms)

    def _vocabulary(self, event: codec.Event, message: st.VocabularyStatement) -> None:
        self._check_chain(event, message)
        self._put(b"v", message.SerializeToString(deterministic=True))
        self._registry_changed()

    def _rules(self, event: codec.Event, message: st.RulesStatement) -> None:
        self._check_chain(event, message)
        self._put(b"r", message.SerializeToString(deterministic=True))
        self._registry_changed()
        self._compile_rules(message)

    def _delegation(self, event: codec.Event, message: st.DelegationStatement) -> None:
        if not payloads.has_only_known_fields(message):
            # A field that this version does not know may limit the delegation, so such a statement gives nothing.
            message = st.DelegationStatement(
                giver=message.giver, taker=message.taker, capacity=message.capacity, ended=True
            )
        delegation = delegation_value(message)
        self._check_parties(event, delegation.giver, delegation.taker)
        if message.ended:
            self._txn.delete(delegation_key(delegation))
        else:
            self._put(delegation_key(delegation), message.SerializeToString(deterministic=True))
        registry = self.known_registry()
        self._registry_changed()
        if registry is not None:
            self._registry = registry.with_delegation(delegation, ended=message.ended, generation=self._generation)

    def _mandate(self, event: codec.Event, message: st.MandateStatement) -> None:
        if not payloads.has_only_known_fields(message):
            self._end_mandate(event, message.auditor)  # as for a delegation
            return
        self._check_parties(event, *named_parties(message))
        if message.ended:
            self._end_mandate(event, message.auditor)
            return
        row = U64.pack(event.seq) + message.SerializeToString(deterministic=True)
        self._put(b"m" + message.auditor.encode(), row)
        self._registry_changed()

    def _end_mandate(self, event: codec.Event, auditor: str) -> None:
        self._check_parties(event, auditor)
        self._txn.delete(b"m" + auditor.encode())
        self._registry_changed()

    def _check_parties(self, event: codec.Event, *parties: str) -> None:
        """Check that *parties* are participants, and that the entry is in the chain of the first of them.

        Raises:
            InvalidError: they are not, or it is not.
        """
        if codec.public_tag(PARTICIPANT_PREFIX + parties[0]) != event.tag:
            raise InvalidError("entry is not in the chain of the participant that it names")
        if any(self._get(b"p" + one.encode()) is None for one in parties):
            raise InvalidError("entry names one that is not a participant")

    def _enrol(self, event: codec.Event, message: st.EnrolStatement) -> None:
        self._put_named(b"i" + message.identifier_hash, event.tag)
        self._put(b"s" + event.tag, b"")

    def _grant(self, event: codec.Event, message: st.GrantStatement) -> None:
        consent = values.consent_value(message.consent)
        stored = model.StoredConsent(
            lineage=event.seq, seq=event.seq, version=1, consent=consent, since=self._index,
            authority=message.authority_seq, notice=self._number_of_notice(consent),
        )  # fmt: skip
        self._put_consent(event, stored)

    def _amend(self, event: codec.Event, message: st.AmendStatement) -> None:
        lineage, consent = message.lineage_seq, values.consent_value(message.consent)
        replaced = next((one for one in self.lineages(event.tag) if one.lineage == lineage), None)
        paused = replaced is not None and replaced.paused
        stored = model.StoredConsent(
            lineage=lineage, seq=event.seq, version=message.version, consent=consent, paused=paused,
            since=self._index, authority=message.authority_seq, notice=self._number_of_notice(consent),
        )  # fmt: skip
        self._put_consent(event, stored, replaced)

    def _set_paused(self, event: codec.Event, message: st.PauseStatement | st.ResumeStatement) -> None:
        paused = event.kind == EntryKind.PAUSE
        self._put_subject(event.tag, subjects.with_state(self.subject(event.tag), message.lineage_seq, paused=paused))

    def _revoke(self, event: codec.Event, message: st.RevokeStatement) -> None:
        self._put_subject(event.tag, subjects.without_consent(self.subject(event.tag), message.lineage_seq))

    def _put_consent(
        self, event: codec.Event, stored: model.StoredConsent, replaced: subjects.Lineage | None = None
    ) -> None:
        registry, tag = self.registry(), event.tag
        authority, ends = self.permits_rest_on(tag, stored.authority)
        stored = dataclasses.replace(stored, authority=authority)
        compiled = compiler.compile_consent(
            stored, registry.codebook.vocabulary, registry.numbers, normal_level=registry.rules.normal_level, ends=ends,
            recurrence=recurrence_of(stored.consent, replaced, event.time_ms),
        )  # fmt: skip
        self._put_subject(tag, subjects.with_consent(self.subject(tag), stored, compiled))

    def _erase(self, tag: bytes) -> None:
        """Delete the rows of a person. See ``name_rows``. A tag that is not enrolled here has no rows."""
        if self._get(b"s" + tag) is not None:
            named = (self._named or {}).get(tag)
            if named is None:
                rows: Iterable[tuple[bytes, bytes]] = itertools.chain(self._rows(b"i"), self._rows(b"k"))
            else:
                rows = ((key, row) for key in named if (row := self._get(key)) is not None)
            keys = [key for key, row in rows if _is_of_person(key, row, tag)]
            prefixes = (person_prefix(tag), authority_prefix(tag), DUTIES + tag)
            listed = itertools.chain.from_iterable(map(self._rows, prefixes))
            self._count_notices(self._get(b"s" + tag), None)
            for key in (*keys, *[key for key, _ in listed], b"s" + tag):
                self._txn.delete(key)
        self._put(b"e", U64.pack(self._index))

    def _put_unreadable(self, event: codec.Event) -> None:
        """Store an unreadable consent. The entry may permit or deny anything, so decisions must be INDETERMINATE."""
        consent = model.Consent(kind=model.Kind.CONSENT, root=model.Provision(effect=model.Effect.DENY))
        stored = model.StoredConsent(
            lineage=event.seq, seq=event.seq, version=1, consent=consent, readable=False, since=self._index
        )  # fmt: skip
        self._put_consent(event, stored)

    def _put_key(self, key: bytes, owner: Owner, from_ms: int, whose: bytes | str, until_ms: int = FOREVER_MS) -> None:
        if len(key) != ed25519.KEY_SIZE:
            return  # no statement can name such a key
        rest = whose.encode() if isinstance(whose, str) else whose
        self._put(b"k" + key, KEY.pack(owner, from_ms, until_ms) + rest)
        if owner is Owner.PARTICIPANT and isinstance(whose, str):
            if until_ms == FOREVER_MS:
                self._put(owner_prefix(whose) + key, b"")
            else:
                self._txn.delete(owner_prefix(whose) + key)
        if isinstance(whose, bytes):  # of a person the tag, of a representative the authority too
            self._put(person_prefix(whose[:_TAG_SIZE]) + key, whose[_TAG_SIZE:])

    def _compile_rules(self, message: st.RulesStatement) -> None:
        vocabulary_message = self.vocabulary_statement()
        if vocabulary_message is None:
            return
        numbered = itertools.chain(self._rows(b"p"), self._rows(b"g"))
        numbers = {key[1:].decode(): U32.unpack_from(row)[0] for key, row in numbered} | {model.SUBJECT: SUBJECT_NUMBER}
        vocabulary = values.vocabulary_value(vocabulary_message)
        compiled = compiler.compile_rules(values.rules_value(message), vocabulary, numbers, since=self._index)
        self._put(b"c", compiled.encoded)

    # -- rows that are no part of the policy table --------------------------------------------------------------

    def other(self, name: bytes) -> bytes | None:
        """Return a row that ``put_other`` has set; None if there is none."""
        return self._get(b"~" + name)

    def put_other(self, name: bytes, value: bytes) -> None:
        """Set a row that is no part of the policy table. Only a replay has such rows, and never the daemon."""
        self._put(b"~" + name, value)

    def delete_others(self, prefix: bytes) -> None:
        """Delete the rows of ``put_other`` whose names begin with *prefix*."""
        for key in [key for key, _ in self._rows(b"~" + prefix)]:
            self._txn.delete(key)

    def verify_persons(self) -> None:
        """Read the rows of all persons. Raises ``DamagedRowError`` if one is damaged."""
        for _ in self._rows(b"s"):
            pass


    STEPS: ClassVar[Mapping[int, Callable[["TableTransaction", codec.Event, Any], None]]] = {
        EntryKind.LEDGER: _ledger, EntryKind.PARTICIPANT: _participant, EntryKind.KEY: _key,
        EntryKind.VOCABULARY: _vocabulary, EntryKind.NOTICE: NoticeRows.put_notice, EntryKind.RULES: _rules,
        EntryKind.ENROL: _enrol, EntryKind.GRANT: _grant, EntryKind.AMEND: _amend, EntryKind.PAUSE: _set_paused,
        EntryKind.RESUME: _set_paused, EntryKind.REVOKE: _revoke, EntryKind.DELEGATION: _delegation,
        EntryKind.MANDATE: _mandate, EntryKind.AUTHORITY: AuthorityRows.put_authority,
        EntryKind.DUTY: DutyRows.put_duty,
        EntryKind.ACCESS: UseRows.put_access, EntryKind.OUTCOME: UseRows.put_outcome,
    }
    """For each kind of entry, the method that applies such an entry."""


def _is_of_person(key: bytes, row: bytes, tag: bytes) -> bool:
    """Return whether a row ``i`` or ``k`` leads to the person of *tag*."""
    if key[:1] == b"i":
        return row == tag
    return row[0] in (Owner.SUBJECT, Owner.REPRESENTATIVE) and row[KEY.size :][:_TAG_SIZE] == tag


STEP_KINDS: Final = frozenset(TableTransaction.STEPS) - USES
"""Kinds whose payload always changes the table; see ``TableTransaction.needs`` for the others."""
