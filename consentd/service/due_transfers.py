"""Answer which transfers are due by consents that recur (policy.md, rule 13): from one holder, or of one consent."""

from collections.abc import Iterable, Iterator

from consentd.errors import InvalidError, NotFoundError
from consentd.ledger import reads
from consentd.policy.compile import UNREADABLE, Compiled
from consentd.policy.lineage_form import PAUSED
from consentd.policy.model import ANY, OPEN_END_MS
from consentd.policy.recurrence import Recurrence
from consentd.policy.rows import ANY_NUMBER, PERMIT, SIDE, Row, Side, decode_sides, unpack_rows
from consentd.policy.subject import lineages_of, recurs, split_subject
from consentd.service.context import Context
from consentd.service.expiring import numbers_of
from consentd.service.pages import Pager
from consentd.service.roles import Whose
from consentd.service.rpc import next_item
from consentd.service.servicer import Servicer, revision
from consentd.statements import decisions
from consentd.store import Store
from consentd.table.checked_rows import DamagedRowError
from consentd.table.persons import read_page
from consentd.table.registry import Registry
from consentd.table.view import Snapshot
from consentd.v1 import access_service_pb2 as ac


async def list_due_transfers(
    servicer: Servicer, request: ac.ListDueTransfersRequest, context: Context
) -> ac.ListDueTransfersResponse:
    """Return a page of the transfers that are due from the caller, or were missed.

    Raises:
        DeniedError: the caller is no holder.
        InvalidError: the time is negative; or (INVALID_PAGE) as ``Pager``.
    """
    services, caller = servicer.services, servicer.caller(context)
    servicer.access("ListDueTransfers", Whose.OWN, context)
    if request.by_time_ms < 0:
        raise InvalidError("by_time_ms is before 1970")
    pager = Pager(services.page_key, caller, request)
    place = pager.place()
    with services.table.read() as snapshot:
        now_ms = max(services.sequencer.clock.wall_ms(), snapshot.time_ms)
        by_ms = max(request.by_time_ms, now_ms)
        selected = _Selected(snapshot.registry(), caller, now_ms, by_ms, services.ledger.store)
        page, following = read_page(
            snapshot, selected.of, after=place, most=pager.size, rest=lambda: next_item(context)
        )
        at = revision(snapshot.size, snapshot.root)
    token = "" if following is None else pager.place_token(following)
    return ac.ListDueTransfersResponse(transfers=page, next_page_token=token, revision=at)


Limited = tuple[Row, frozenset[int], frozenset[int]]
"""A permit, with the numbers of the actors and of the holders that it names; 0: any."""


def _permits(compiled: Compiled) -> list[Limited]:
    rows = [row for row in unpack_rows(compiled.rows) if row.flags & PERMIT]
    sides = decode_sides(compiled.side, (row.side for row in rows if row.flags & SIDE))
    found = []
    for row in rows:
        side = sides[row.side] if row.flags & SIDE else Side()
        found.append((row, side.actors or frozenset((row.actor,)), side.holders or frozenset((row.holder,))))
    return found


def _covered(permits: Iterable[Limited], from_ms: int, until_ms: int) -> int:
    """Return the mask of the categories of permits that are in force in a part of [from_ms, until_ms)."""
    mask = 0
    for row, _, _ in permits:
        if row.start_ms < until_ms and from_ms < row.end_ms:
            mask |= row.categories
    return mask


class _Selected:
    """Selects the transfers that are due from the holder *caller* by an instant."""

    def __init__(self, registry: Registry, caller: str, now_ms: int, by_ms: int, store: Store) -> None:
        self._registry, self._campaigns = registry, registry.rules.campaigns
        self._names, self._number = numbers_of(registry, caller), registry.numbers.get(caller, ANY_NUMBER)
        self._now_ms, self._by_ms, self._store = now_ms, by_ms, store

    def of(self, tag: bytes, value: bytes) -> Iterator[tuple[int, ac.DueTransfer]]:
        """Yield what is due by the consents of a person, by the seq of their GRANT."""
        if not recurs(value):
            return
        for (_, lineage, version), vocabulary, flags, since, (_, notice), rows, side in split_subject(value):
            if flags & (UNREADABLE | PAUSED) or self._campaigns.get(notice, OPEN_END_MS) <= self._now_ms or not side:
                continue
            compiled = Compiled(vocabulary, flags, rows, side, since)
            recurrence = compiled.recurrence
            if recurrence is None:
                continue
            permits = [one for one in _permits(compiled) if not self._names.isdisjoint(one[2])]
            found = None if not permits else self._due(recurrence, permits, since)
            if found is not None:
                found.tag, found.consent_id, found.version = tag, decisions.consent_id(tag, lineage), version
                yield lineage, found

    def _due(self, recurrence: Recurrence, permits: list[Limited], since: int) -> ac.DueTransfer | None:
        now_ms = self._now_ms
        due_ms, until_ms, mask = next_due(recurrence, permits, self._number, now_ms)
        missed = self._missed(recurrence, permits, since)
        is_due = bool(mask) and due_ms <= self._by_ms
        if not (is_due or missed):
            return None
        codebook = self._registry.codebook
        names = {number for _, actors, _ in permits for number in actors}
        return ac.DueTransfer(
            due_time_ms=due_ms if mask else 0, until_time_ms=0 if until_ms == OPEN_END_MS or not mask else until_ms,
            categories=codebook.codes(mask), missed_categories=codebook.codes(missed),
            actors=sorted(ANY if number == ANY_NUMBER else codebook.names[number] for number in names),
        )  # fmt: skip

    def _missed(self, recurrence: Recurrence, permits: list[Limited], since: int) -> int:
        """Return the categories that no access was permitted for in the period before the present one."""
        number = recurrence.number_at(self._now_ms)
        if not number:
            return 0
        begin_ms, end_ms = recurrence.bound(number - 1), recurrence.bound(number)
        used = 0
        for one in recurrence.uses:
            if one.holder == self._number and one.until_ms == end_ms:
                used |= one.categories
        whole = [one for one in permits if one[0].start_ms <= begin_ms and end_ms <= one[0].end_ms]
        missed = _covered(whole, begin_ms, end_ms) & ~used
        return missed if missed and self._given_ms(since) <= begin_ms else 0

    def _given_ms(self, since: int) -> int:
        """Return the time of the entry of a version; the present time if its leaf was pruned."""
        try:
            return reads.time_at(self._store, since)
        except NotFoundError:
            return self._now_ms


def next_due(
    recurrence: Recurrence, permits: list[Limited], holder: int, now_ms: int
) -> tuple[int, int, int]:
    """Return the period in which a holder's next transfer is due, [start, end), and the mask of its categories.

    The mask is 0 if there is none: the permits end before.
    """
    begin_ms, end_ms = recurrence.period_at(now_ms)
    left = _covered(permits, now_ms, end_ms) & ~recurrence.used(holder, now_ms)[0]
    if left or end_ms == OPEN_END_MS:
        return begin_ms, end_ms, left
    after_ms = recurrence.period_at(end_ms)[1]
    return end_ms, after_ms, _covered(permits, end_ms, after_ms)


def next_transfers(snapshot: Snapshot, tag: bytes, now_ms: int) -> dict[int, int]:
    """Return when the next transfer by each consent of a person that recurs is due, by the seq of its GRANT.

    Consents that are paused are left out. The holders are those that the consent names; if it names none, any other one
    may have its transfer in the present period. While the person's row is damaged, there are none: what a person
    consented to is in the ledger, and can be read all the same.
    """
    try:
        value = snapshot.subject(tag)
    except DamagedRowError:
        return {}
    if not recurs(value):
        return {}
    found: dict[int, int] = {}
    campaigns = snapshot.registry().rules.campaigns
    for one in lineages_of(value):
        recurrence = one.compiled.recurrence
        if recurrence is None or one.paused or campaigns.get(one.notice, OPEN_END_MS) <= now_ms:
            continue
        permits = _permits(one.compiled)
        due = []
        for holder in {number for _, _, holders in permits for number in holders}:
            of_holder = [permit for permit in permits if holder in permit[2]]
            due_ms, _, mask = next_due(recurrence, of_holder, holder, now_ms)
            due += [due_ms] if mask else []
        if due:
            found[one.lineage] = min(due)
    return found
