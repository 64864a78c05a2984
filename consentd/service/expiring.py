"""Answer which consents end in a time span: of those that name the caller, or of one person."""

from collections.abc import Iterator

from consentd.policy.compile import UNREADABLE, Compiled
from consentd.policy.lineage_form import PAUSED
from consentd.policy.model import OPEN_END_MS, Effect
from consentd.policy.rows import PERMIT, unpack_rows
from consentd.policy.subject import named_participants, split_subject
from consentd.service.context import Context
from consentd.service.pages import Pager, read_range
from consentd.service.roles import Whose
from consentd.service.rpc import next_item
from consentd.service.servicer import Servicer, revision
from consentd.statements import decisions
from consentd.table.persons import read_page, read_person
from consentd.table.registry import Registry
from consentd.v1 import consent_service_pb2 as cs


async def list_expiring(
    servicer: Servicer, request: cs.ListExpiringRequest, context: Context
) -> cs.ListExpiringResponse:
    """Return a page of the consents that end in the request's time span.

    Raises:
        DeniedError: the caller may not list them.
        NotFoundError: the request names a person who is not enrolled.
        InvalidError: the span is none; or (INVALID_PAGE) as ``Pager``.
    """
    services, caller = servicer.services, servicer.caller(context)
    is_of_person = request.HasField("subject")
    servicer.access("ListExpiring", Whose.OTHER if is_of_person else Whose.OWN, context)
    start_ms, end_ms = read_range(request)
    with services.table.read() as snapshot:
        tag = servicer.tag(snapshot, request.subject) if is_of_person else b""
        pager = Pager(services.page_key, caller, request, tag=tag)
        place = pager.place()
        registry = snapshot.registry()
        now_ms = max(services.sequencer.clock.wall_ms(), snapshot.time_ms)
        names = None if is_of_person else numbers_of(registry, caller)
        selected = _Selected(registry, names, max(start_ms, now_ms + 1), end_ms, now_ms)
        if is_of_person:
            page, following = read_person(tag, snapshot.subject(tag), selected.of, after=place, most=pager.size)
        else:
            page, following = read_page(
                snapshot, selected.of, after=place, most=pager.size, rest=lambda: next_item(context)
            )
        at = revision(snapshot.size, snapshot.root)
    token = "" if following is None else pager.place_token(following)
    return cs.ListExpiringResponse(consents=page, next_page_token=token, revision=at)


def numbers_of(registry: Registry, participant_id: str) -> frozenset[int]:
    """Return the numbers by which a consent names a participant: its own, and those of its groups."""
    participant = registry.participants.get(participant_id)
    names = () if participant is None else (participant.id, *participant.groups)
    return frozenset(registry.numbers[name] for name in names)


class _Selected:
    """Selects the consents that end in [start_ms, end_ms), and that name one of *names*; None: whomever they name."""

    def __init__(
        self, registry: Registry, names: frozenset[int] | None, start_ms: int, end_ms: int, now_ms: int
    ) -> None:
        self._campaigns = registry.rules.campaigns
        self._names, self._start_ms, self._end_ms, self._now_ms = names, start_ms, end_ms, now_ms

    def of(self, tag: bytes, value: bytes) -> Iterator[tuple[int, cs.ExpiringConsent]]:
        """Yield the consents of a person that are selected, by the seq of their GRANT."""
        for (_, lineage, version), vocabulary, flags, since, (_, notice), rows, side in split_subject(value):
            if flags & (UNREADABLE | PAUSED) or self._campaigns.get(notice, OPEN_END_MS) <= self._now_ms:
                continue
            end_ms = max((row.end_ms for row in unpack_rows(rows) if row.flags & PERMIT), default=0)
            if not self._start_ms <= end_ms < self._end_ms:
                continue
            if self._names is not None:
                actors, holders = named_participants(Compiled(vocabulary, flags, rows, side, since), Effect.PERMIT)
                if self._names.isdisjoint(actors | holders):
                    continue
            yield lineage, cs.ExpiringConsent(
                tag=tag, consent_id=decisions.consent_id(tag, lineage), version=version, end_time_ms=end_ms
            )
