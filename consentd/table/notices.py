"""Apply NOTICE entries to the policy table, and count the consents under each version of a notice.

A version that asks for new consents writes one row for each earlier version. A check reads these rows with the
registry, so no row of a person changes, whatever number of consents is paused (policy.md, rule 8).
"""

from collections import Counter

from consentd.core import codec
from consentd.policy import model
from consentd.policy.subject import ENTRY, HEADER
from consentd.table.chain_owners import ChainOwners
from consentd.table.notice_keys import campaign_key, count_key, notice_key
from consentd.table.view import U32, U64
from consentd.v1 import statement_pb2 as st


class NoticeRows(ChainOwners):
    """Base of the transaction, with the step of NOTICE entries. It writes all subject values, to count them."""

    def put_notice(self, event: codec.Event, message: st.NoticeStatement) -> None:
        """Apply a NOTICE entry. Raises ``InvalidError`` if it is in another chain than its notice's."""
        self._check_chain(event, message)
        row_key = notice_key(message.notice_id, message.version)
        number = self.notice_number(message.notice_id, message.version) or self._number()
        self._put_named(row_key, U32.pack(number) + message.SerializeToString(deterministic=True))
        asked_ms = message.reconsent_by_time_ms
        if asked_ms <= 0:
            return
        # No row of a person changes: what was given under these versions is paused by these rows.
        instants = {}
        for key, earlier in self._rows(row_key[: -U32.size]):
            if key < row_key:
                (of,) = U32.unpack_from(earlier)
                before = self._get(campaign_key(of))
                instants[of] = asked_ms if before is None else min(asked_ms, U64.unpack_from(before)[0])
        for of, at_ms in instants.items():
            self._put(campaign_key(of), U64.pack(at_ms) + message.notice_id.encode())
        registry = self.known_registry()
        self._registry_changed()
        if registry is not None:
            self._registry = registry.with_campaign(message.notice_id, instants, generation=self._generation)

    def _number_of_notice(self, consent: model.Consent) -> int:
        """Return the number of the version of a notice that a consent names. Nobody asks for a STATUTORY one again."""
        is_statutory = consent.kind is model.Kind.STATUTORY
        return 0 if is_statutory else self.notice_number(consent.notice, consent.notice_version)

    def _put_subject(self, tag: bytes, value: bytes) -> None:
        """Set the subject value of a person who is enrolled."""
        self._count_notices(self._get(b"s" + tag), value)
        self._put(b"s" + tag, value)

    def _count_notices(self, before: bytes | None, after: bytes | None) -> None:
        """Count the consents under versions of notices after a subject value was replaced; None: there is no value."""
        changed = Counter(notices_of(after))
        changed.subtract(notices_of(before))
        for number, change in changed.items():
            if not change:
                continue
            count = self.consents_under(number) + change
            if count:
                self._put(count_key(number), U64.pack(count))
            else:
                self._txn.delete(count_key(number))


def notices_of(value: bytes | None) -> list[int]:
    """Return the number of the version of a notice that each lineage of a subject value was given under, if any.

    Each command on a person reads it. Most consents are given under none, so it is a list and no ``Counter``.
    """
    if not value:
        return []
    entries = ENTRY.iter_unpack(value[HEADER.size : HEADER.size + HEADER.unpack_from(value)[3] * ENTRY.size])
    return [entry[-1] for entry in entries if entry[-1]]
