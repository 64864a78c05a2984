"""Read the consents of a person as they were at a revision and an instant, from the ledger.

The policy table has only the present consents, and no revoked ones. So lists read the ledger: reference rows lead from
a GRANT to the entries that changed the consent (``layout.reference_row``). Entries that are later than the revision are
passed over, and entries never change, so every page of a list shows one state.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, NotFoundError
from consentd.ledger import reads
from consentd.ledger.vault import Vault
from consentd.policy.authority import Ends
from consentd.policy.compile import compile_consent
from consentd.policy.model import OPEN_END_MS, StoredConsent
from consentd.policy.rows import PERMIT, unpack_rows
from consentd.service.authorities import AuthorityReader
from consentd.service.pages import Deletions, read_range
from consentd.statements import decisions, payloads, values
from consentd.store import Store
from consentd.table.registry import Registry
from consentd.table.table import decode_entry
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)
_STATES = frozenset(cs.ConsentState.values()) - {cs.CONSENT_STATE_UNSPECIFIED}
_UNREVOKED = _STATES - {cs.CONSENT_STATE_REVOKED}


@dataclass(frozen=True, slots=True)
class ConsentFilter:
    """Which consents a list selects. An empty value selects any. Times are those of the GRANT, UTC ms."""

    states: frozenset[int]
    kind: int
    purpose: str
    actor: str
    holder: str
    start_ms: int
    end_ms: int

    def selects(self, record: cs.ConsentRecord) -> bool:
        """Return whether the state and the version in force of a record are selected."""
        if record.state not in self.states or self.kind not in (pb.CONSENT_KIND_UNSPECIFIED, record.consent.kind):
            return False
        root = record.consent.root
        return (
            (not self.purpose or any(self.purpose in one.purposes for one in _provisions(root)))
            and (not self.actor or any(self.actor in one.actors for one in _provisions(root)))
            and (not self.holder or any(self.holder in one.holders for one in _provisions(root)))
        )


def read_filter(request: cs.ListConsentsRequest) -> ConsentFilter:
    """Return the filter of a request. Raises ``InvalidError`` for an unknown state or kind, or a negative time."""
    states = frozenset(request.states) or _UNREVOKED
    if not states <= _STATES:
        raise InvalidError(f"state is not one we know: `{max(states - _STATES)}`")
    if request.kind not in pb.ConsentKind.values():
        raise InvalidError(f"kind of consent is not one we know: `{request.kind}`")
    start_ms, end_ms = read_range(request)
    return ConsentFilter(
        states, request.kind, request.purpose, request.actor, request.holder, start_ms, end_ms
    )


@dataclass(frozen=True, slots=True)
class Lineage:
    """A consent with its changes at a revision. The fields are seqs of entries, but for the two states."""

    first: int
    version: int
    changed: int
    paused: bool
    revoked: bool


class ConsentReader:
    """Reads the consents of one person in the tree of *tree_size* leaves; their states are those at *now_ms*."""

    def __init__(
        self, store: Store, vault: Vault, tag: bytes, *, tree_size: int, now_ms: int, registry: Registry, realm: str
    ) -> None:
        self._store, self._vault, self._tag = store, vault, tag
        self._size, self._now_ms = tree_size, now_ms
        self._registry, self._rules = registry, codec.public_tag(codec.RULES_PREFIX + realm)
        self._stand: Sequence[tuple[int, Collection[int]]] | None = None  # of each version of the rules; None: not read
        self._authorities = AuthorityReader(store, vault, tag, tree_size=tree_size)
        self._asked: dict[tuple[str, int], int] = {}  # what ``_reconsent_by`` returned

    def find(self, consent_id: bytes) -> cs.ConsentRecord:
        """Return the record of a consent.

        Raises:
            NotFoundError: the person has no such consent, or it was pruned.
        """
        for grant in self._grants(codec.MAX_SEQ):
            if codec.consent_id(self._tag, grant.seq) == consent_id:
                found = self._record(self._lineage(grant.seq))
                if found is not None:
                    return found
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")

    def list(
        self, selected: ConsentFilter, below: int, deletions: Deletions
    ) -> Iterator[tuple[int, cs.ConsentRecord | None]]:
        """Yield consents whose GRANT has a seq less than *below*, newest first: its seq, and the record if selected."""
        for grant in self._grants(below):
            record = None
            try:
                time_ms = reads.time_at(self._store, grant.index)
            except NotFoundError:  # the leaf was pruned after the scan began
                deletions.pass_over()
                continue
            if time_ms < selected.start_ms:
                return
            lineage = self._lineage(grant.seq)
            # Most revoked consents are not asked for, so they are not decrypted.
            if time_ms < selected.end_ms and not (lineage.revoked and cs.CONSENT_STATE_REVOKED not in selected.states):
                record = self._record(lineage)
                if record is None:
                    deletions.pass_over()
                elif not selected.selects(record):
                    record = None
            yield grant.seq, record

    def _grants(self, below: int) -> Iterator[reads.Reference]:
        grants = reads.scan_references(self._store, self._tag, 0, below=below, reverse=True)
        return (one for one in grants if one.kind == EntryKind.GRANT and one.index < self._size)

    def _lineage(self, first: int) -> Lineage:
        """Return the state of a consent. The entries that change a version refer to the entry of this version."""
        version = changed = first
        paused = revoked = amended = False
        while True:
            for one in reads.scan_references(self._store, self._tag, version):
                if one.index >= self._size:
                    break
                changed = one.seq
                if one.kind == EntryKind.AMEND:
                    version, amended = one.seq, True
                elif one.kind == EntryKind.REVOKE:
                    revoked = True
                else:
                    paused = one.kind == EntryKind.PAUSE
            if not amended:
                return Lineage(first, version, changed, paused, revoked)
            amended = False

    def _record(self, lineage: Lineage) -> cs.ConsentRecord | None:
        """Return the record of a consent; None: a part of it was pruned."""
        try:
            first, latest, changed = (
                reads.read_entry(self._store, self._tag, seq)
                for seq in (lineage.first, lineage.version, lineage.changed)
            )
        except NotFoundError:
            return None
        opened = reads.open_entry(self._vault, latest)
        if opened is None:
            if latest.row is not None:
                raise NotFoundError("subject was erased", "SUBJECT_NOT_FOUND")
            return None
        payload = codec.decode_statement(opened[1]).payload
        if latest.event.kind == EntryKind.GRANT:
            stated: st.GrantStatement | st.AmendStatement = payloads.parse(st.GrantStatement, payload)
            version = 1
        else:
            stated = amended = payloads.parse(st.AmendStatement, payload)
            version = amended.version
        state, asked_ms = cs.CONSENT_STATE_REVOKED, 0
        if not lineage.revoked:
            asked_ms = self._reconsent_by(stated.consent)
            paused = lineage.paused or 0 < asked_ms <= self._now_ms
            state = _state(stated.consent.root.period, self._now_ms, paused=paused)
            if stated.authority_seq and state != cs.CONSENT_STATE_ENDED:
                state = self._state_under(stated.consent, stated.authority_seq, latest.index, state)
        return cs.ConsentRecord(
            consent_id=decisions.consent_id(self._tag, lineage.first),
            version=version,
            state=state,
            consent=stated.consent,
            lineage_seq=lineage.first,
            seq=lineage.version,
            grant_time_ms=first.event.time_ms,
            change_time_ms=changed.event.time_ms,
            paused=lineage.paused and not lineage.revoked,
            served_seq=stated.served_seq,
            authority_seq=stated.authority_seq,
            reconsent_by_time_ms=asked_ms,
        )

    def _state_under(
        self, message: pb.Consent, authority_seq: int, index: int, state: "cs.ConsentState.ValueType"
    ) -> "cs.ConsentState.ValueType":
        """Return the state of a consent that was given under an authority; *state*: what it is without that.

        *index*: of the entry of the version in force. Once all of its permits have ended with the authority, it is
        ENDED, or PAUSED if a deny has effect.
        """
        try:
            found = self._authorities.find(authority_seq)
        except NotFoundError:  # no command writes such an entry
            return state
        if found.statement.capacity in self._standing(index):
            return state
        ends = Ends(found.end_time_ms or OPEN_END_MS, found.research_end_time_ms or OPEN_END_MS)
        stored = StoredConsent(1, 1, 1, values.consent_value(message))
        codes, numbers = self._registry.codebook.vocabulary, self._registry.numbers
        level = self._registry.rules.normal_level
        rows = unpack_rows(compile_consent(stored, codes, numbers, normal_level=level, ends=ends).rows)
        # A permit that would begin after the end of the authority is never in force: it ends at 0.
        permits_end_ms = max((row.end_ms for row in rows if row.flags & PERMIT), default=OPEN_END_MS)
        denies_end_ms = max((row.end_ms for row in rows if not row.flags & PERMIT), default=0)
        if self._now_ms < permits_end_ms:
            return state
        if denies_end_ms <= self._now_ms:
            return cs.CONSENT_STATE_ENDED
        return cs.CONSENT_STATE_PAUSED if state == cs.CONSENT_STATE_ACTIVE else state

    def _standing(self, index: int) -> Collection[int]:
        """Return the capacities whose permits do not end, by the rules in force at the entry at *index*."""
        if self._stand is None:
            entries = reads.read_chain(self._store, self._rules, 1)
            chain = [(one.index, decode_entry(self._vault, one)) for one in entries]
            self._stand = [(at, one.standing_capacities) for at, one in chain if isinstance(one, st.RulesStatement)]
        return next((capacities for at, capacities in reversed(self._stand) if at < index), ())

    def _reconsent_by(self, consent: pb.Consent) -> int:
        """Return from when a consent is paused, because a later version of its notice asks for a new one; 0: never."""
        named = consent.notice_id, consent.notice_version
        if not consent.notice_version or consent.kind == pb.CONSENT_KIND_STATUTORY:
            return 0
        found = self._asked.get(named)
        if found is None:
            # Version n of a notice is entry n of its chain.
            tag, asked = codec.public_tag(codec.NOTICE_PREFIX + consent.notice_id), []
            for entry in reads.read_chain(self._store, tag, consent.notice_version + 1):
                if entry.index >= self._size:
                    break
                notice = decode_entry(self._vault, entry)
                if isinstance(notice, st.NoticeStatement) and notice.reconsent_by_time_ms:
                    asked.append(notice.reconsent_by_time_ms)
            found = self._asked[named] = min(asked, default=0)
        return found


def _provisions(root: pb.Provision) -> Iterator[pb.Provision]:
    """Yield a provision and all provisions nested in it."""
    yield root
    for one in root.provisions:
        yield from _provisions(one)


def _state(period: pb.Period, now_ms: int, *, paused: bool) -> "cs.ConsentState.ValueType":
    """Return the state of a consent that is not revoked. *period*: of its root; a time of 0 is open."""
    if period.end_time_ms and period.end_time_ms <= now_ms:
        return cs.CONSENT_STATE_ENDED
    if now_ms < period.start_time_ms:
        return cs.CONSENT_STATE_NOT_YET  # its denies do not count, so PAUSED would promise too much
    return cs.CONSENT_STATE_PAUSED if paused else cs.CONSENT_STATE_ACTIVE
