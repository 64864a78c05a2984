"""Answer who has not answered a campaign yet, and how many: a version of a notice that asks for new consents.

Both answers follow from the policy table as it is now. Counts are rows of it. Who has not answered is read from the
rows of all persons, a page at a time (``table.persons``). A caller without the right SEE_REASONS sees only consents
by which a check permits something (policy.md, "One answer").
"""

from collections.abc import Iterator

from consentd.errors import InvalidError, NotFoundError
from consentd.policy.compile import UNREADABLE, Compiled
from consentd.policy.lineage_form import PAUSED
from consentd.policy.model import OPEN_END_MS, Effect
from consentd.policy.rows import PERMIT, unpack_rows
from consentd.policy.subject import is_closed, last_end_ms, named_participants, split_subject
from consentd.sequencer.commands.callers import notice_owner
from consentd.service.context import Context
from consentd.service.expiring import numbers_of
from consentd.service.pages import Pager
from consentd.service.roles import Access, Whose
from consentd.service.rpc import next_item
from consentd.service.servicer import Servicer, revision
from consentd.statements import decisions
from consentd.table.persons import read_page
from consentd.table.view import Snapshot, View
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st


async def get_campaign(
    servicer: Servicer, request: rs.GetCampaignRequest, context: Context
) -> rs.GetCampaignResponse:
    """Count the consents under each version of a notice. For the notice's participant, and operators.

    Raises:
        NotFoundError: there is no such version. A caller that may count no notice but its own gets the same answer for
            all others.
    """
    caller = servicer.caller(context)
    with servicer.services.table.read() as snapshot:
        notice = find_notice(snapshot, request.notice_id, request.version)
        whose = Whose.OWN if notice.participant_id == caller else Whose.OTHER
        if servicer.access("GetCampaign", whose, context) is not Access.ALLOWED:
            raise NotFoundError("no such notice version")
        counts = [
            rs.VersionCount(version=version, consents=snapshot.consents_under(number))
            for version, number in _numbers(snapshot, request.notice_id).items()
        ]
        at = revision(snapshot.size, snapshot.root)
    return rs.GetCampaignResponse(
        notice=notice, counts=counts, revision=at,
        unanswered=sum(one.consents for one in counts if one.version < notice.version),
        answered=sum(one.consents for one in counts if one.version >= notice.version),
    )  # fmt: skip


async def list_reconsents(
    servicer: Servicer, request: cs.ListReconsentsRequest, context: Context
) -> cs.ListReconsentsResponse:
    """Return a page of the consents under earlier versions of a notice than one that asks for new consents.

    Raises:
        NotFoundError: there is no such version.
        InvalidError: the version asks for no new consents; or (INVALID_PAGE) as ``Pager``.
    """
    services, caller = servicer.services, servicer.caller(context)
    pager = Pager(services.page_key, caller, request)
    place = pager.place()
    with services.table.read() as snapshot:
        notice = find_notice(snapshot, request.notice_id, request.version)
        if not notice.reconsent_by_time_ms:
            raise InvalidError(f"version of the notice asks for no new consents: `{notice.version}`")
        now_ms = max(services.sequencer.clock.wall_ms(), snapshot.time_ms)
        selected = SelectedConsents(
            snapshot, notice, "" if notice.participant_id == caller else caller, now_ms,
            sees_reasons=servicer.access("ListReconsents", Whose.OTHER, context) is Access.ALLOWED,
        )  # fmt: skip
        page, following = read_page(
            snapshot, selected.of, after=place, most=pager.size, rest=lambda: next_item(context)
        )
        at = revision(snapshot.size, snapshot.root)
    token = "" if following is None else pager.place_token(following)
    return cs.ListReconsentsResponse(reconsents=page, next_page_token=token, revision=at)


def find_notice(view: View, notice_id: str, version: int) -> st.NoticeStatement:
    """Return a version of a notice; 0: the latest. Raises ``NotFoundError`` if there is none."""
    # The id becomes a prefix of rows to read, so an id that is not valid could match rows of another notice.
    found = None if notice_owner(notice_id) is None else view.notice(notice_id, version)
    if found is None:
        raise NotFoundError("no such notice version")
    return found


def _numbers(view: View, notice_id: str) -> dict[int, int]:
    """Return the numbers of the versions of a notice, by version."""
    return dict(view.notice_numbers(notice_id))


class SelectedConsents:
    """Selects the consents that a campaign asks for again, of those that name the caller.

    Without *sees_reasons*, only those by which a check permits something: the consent is neither paused nor used up, a
    permit of it is in force, and no provision of the person denies anything.

    *caller*: a participant; empty: the campaign is the caller's own, so all consents are selected.
    """

    def __init__(
        self, snapshot: Snapshot, notice: st.NoticeStatement, caller: str, now_ms: int, *, sees_reasons: bool
    ) -> None:
        registry = snapshot.registry()
        numbers = _numbers(snapshot, notice.notice_id)
        self._versions = {number: version for version, number in numbers.items() if version < notice.version}
        self._from = registry.rules.campaigns
        self._now_ms, self._sees_reasons = now_ms, sees_reasons
        self._names = numbers_of(registry, caller) if caller else None

    def of(self, tag: bytes, value: bytes) -> Iterator[tuple[int, cs.Reconsent]]:
        """Yield the consents of a person that are selected, by the seq of their GRANT."""
        is_seen = self._sees_reasons  # determined only for a person of whom something is selected: it reads all rows
        for (_, lineage, version), vocabulary, flags, since, (_, notice), rows, side in split_subject(value):
            under = self._versions.get(notice)
            if under is None or flags & UNREADABLE:
                continue
            compiled = Compiled(vocabulary, flags, rows, side, since)
            if last_end_ms(compiled) <= self._now_ms or not self._is_named(compiled):
                continue
            is_seen = is_seen or not self._may_deny(value)
            if not is_seen:
                return
            from_ms = self._from.get(notice, 0)
            if not self._sees_reasons and not self._permits_now(compiled, from_ms or OPEN_END_MS):
                continue
            yield lineage, cs.Reconsent(
                tag=tag, consent_id=decisions.consent_id(tag, lineage), version=version, notice_version=under,
                reconsent_by_time_ms=from_ms,
            )  # fmt: skip

    def _is_named(self, compiled: Compiled) -> bool:
        if self._names is None:
            return True
        actors, holders = named_participants(compiled, Effect.PERMIT)
        return not self._names.isdisjoint(actors | holders)

    def _may_deny(self, value: bytes) -> bool:
        """Return whether a check may deny, or leave undetermined, what a consent of the person permits."""
        return is_closed(value) or any(
            flags & UNREADABLE
            or any(not row.flags & PERMIT and self._now_ms < row.end_ms for row in unpack_rows(rows))
            for _, _, flags, _, _, rows, _ in split_subject(value)
        )

    def _permits_now(self, compiled: Compiled, paused_from_ms: int) -> bool:
        now_ms, recurrence = self._now_ms, compiled.recurrence
        if compiled.flags & PAUSED or paused_from_ms <= now_ms:
            return False
        if recurrence is not None and any(one.until_ms > now_ms for one in recurrence.uses):
            return False
        permits = (row for row in unpack_rows(compiled.rows) if row.flags & PERMIT)
        return any(row.start_ms <= now_ms < row.end_ms for row in permits)
