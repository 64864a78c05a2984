"""Answer who has not answered a campaign yet, and how many: a version of a notice that asks for new consents.

Both answers follow from the policy table as it is now. Counts are rows of it. Who has not answered is read from the
rows of all persons, a page at a time (``table.persons``).
"""

from collections.abc import Iterator

from consentd.errors import InvalidError, NotFoundError
from consentd.policy.compile import UNREADABLE, Compiled
from consentd.policy.model import Effect
from consentd.policy.subject import last_end_ms, named_participants, split_subject
from consentd.sequencer.commands.callers import notice_owner
from consentd.service.context import Context
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
        selected = SelectedConsents(snapshot, notice, "" if notice.participant_id == caller else caller, now_ms)
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

    *caller*: a participant; empty: the campaign is the caller's own, so all consents are selected.
    """

    def __init__(self, snapshot: Snapshot, notice: st.NoticeStatement, caller: str, now_ms: int) -> None:
        registry = snapshot.registry()
        numbers = _numbers(snapshot, notice.notice_id)
        self._versions = {number: version for version, number in numbers.items() if version < notice.version}
        self._from = registry.rules.campaigns
        self._now_ms = now_ms
        participant = registry.participants.get(caller)
        names = () if participant is None else (participant.id, *participant.groups)
        self._names = None if not caller else frozenset(registry.numbers[name] for name in names)

    def of(self, tag: bytes, value: bytes) -> Iterator[tuple[int, cs.Reconsent]]:
        """Yield the consents of a person that are selected, by the seq of their GRANT."""
        for (_, lineage, version), vocabulary, flags, since, (_, notice), rows, side in split_subject(value):
            under = self._versions.get(notice)
            if under is None or flags & UNREADABLE:
                continue
            compiled = Compiled(vocabulary, flags, rows, side, since)
            if last_end_ms(compiled) <= self._now_ms or not self._is_named(compiled):
                continue
            yield lineage, cs.Reconsent(
                tag=tag, consent_id=decisions.consent_id(tag, lineage), version=version, notice_version=under,
                reconsent_by_time_ms=self._from.get(notice, 0),
            )  # fmt: skip

    def _is_named(self, compiled: Compiled) -> bool:
        if self._names is None:
            return True
        actors, holders = named_participants(compiled, Effect.PERMIT)
        return not self._names.isdisjoint(actors | holders)
