"""Who has not answered a campaign (ListReconsents), and how many (GetCampaign)."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from cases.daemons import Running, consent, make_running, question, request_id
from cases.fakes import MovedClock
from cases.notices import publish_notice
from cases.services import change, new_identifier, refusal, register, services
from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

CLOCK = MovedClock()
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("campaign-lists"), daemon={"clock": CLOCK}, checkpoint_interval_ms=10)
    sees = [st.PARTICIPANT_RIGHT_SEE_REASONS]
    register(made, "owner", [st.PARTICIPANT_ROLE_HOLDER], groups=["group/owners"], rights=sees)
    register(made, "stranger", [st.PARTICIPANT_ROLE_RECIPIENT])
    register(made, "blind", [st.PARTICIPANT_ROLE_RECIPIENT])
    for name in ("owner", "stranger", "blind"):
        made.add_caller(name)
    yield made
    made.check_ledger()
    made.stop()


@pytest.fixture
def name(running: Running) -> str:
    """The id of a notice of ``owner``; its version 1 is published."""
    made = f"owner/notice-{new_identifier().lower()}"
    publish_notice(running, made, participant_id="owner")
    return made


def give(
    running: Running, notice: str, version: int = 1, *, recurrence: str = "", **root: object
) -> tuple[pb.Subject, str]:
    """Return a new person and the id of their consent under a version of a notice."""
    subject, stated = running.enrol(new_identifier()), consent(**root)
    stated.notice_id, stated.notice_version, stated.recurrence = notice, version, recurrence
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=stated)
    )
    return subject, running.consents.GrantConsent(request, metadata=running.as_("app")).consent_id


def ask_again(running: Running, notice: str, version: int = 2, *, owner: str = "owner") -> int:
    at_ms = CLOCK.wall_ms() + HOUR_MS
    publish_notice(running, notice, version, participant_id=owner, reconsent_by_time_ms=at_ms)
    return at_ms


def listed(running: Running, notice: str, who: str = "owner", *, size: int = 0, version: int = 0) -> list[cs.Reconsent]:
    """Return all pages of the list."""
    found, token = [], ""
    while True:
        request = cs.ListReconsentsRequest(notice_id=notice, version=version, page_size=size, page_token=token)
        page = running.consents.ListReconsents(request, metadata=running.as_(who))
        found += page.reconsents
        token = page.next_page_token
        if not token:
            return found


def counted(running: Running, notice: str, who: str = "owner", version: int = 0) -> rs.GetCampaignResponse:
    request = rs.GetCampaignRequest(notice_id=notice, version=version)
    return running.registry.GetCampaign(request, metadata=running.as_(who))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_who_has_not_answered_is_listed_once(running: Running, name: str, size: int) -> None:
    given = dict(give(running, name)[::-1] for _ in range(4))
    withdrawn = give(running, name)
    change(running, EntryKind.REVOKE, *withdrawn)
    ended = give(running, name, period=pb.Period(end_time_ms=CLOCK.wall_ms() + HOUR_MS))
    at_ms = ask_again(running, name)
    answered = give(running, name, 2)
    CLOCK.advance(HOUR_MS)
    running.enrol(new_identifier())
    found = listed(running, name, size=size)
    assert {one.consent_id for one in found} == set(given)
    assert len(found) == len(given)
    assert {(one.version, one.notice_version, one.reconsent_by_time_ms) for one in found} == {(1, 1, at_ms)}
    assert sorted(one.tag for one in found) == [one.tag for one in found]
    assert not {withdrawn[1], ended[1], answered[1]} & {one.consent_id for one in found}
    amended = next(iter(given))
    stated = consent()
    stated.notice_id, stated.notice_version = name, 2
    request = cs.AmendConsentRequest(
        request_id=request_id(), subject=given[amended], consent_id=amended, based_on_version=1,
        attested=st.AmendStatement(consent=stated),
    )  # fmt: skip
    running.consents.AmendConsent(request, metadata=running.as_("app"))
    assert {one.consent_id for one in listed(running, name)} == set(given) - {amended}


def test_another_participant_sees_the_consents_that_name_it(running: Running, name: str) -> None:
    _, to_clinic = give(running, name)
    _, of_owner = give(running, name, actors=["stranger"])
    _, by_group = give(running, name, actors=["group/owners"], holders=["er"])
    ask_again(running, name)
    everyone = {to_clinic, of_owner, by_group}
    found = {who: {one.consent_id for one in listed(running, name, who)} for who in
             ("owner", "clinic-b", "stranger", "hospital-a", "er", "app")}  # fmt: skip
    assert found == {
        "owner": everyone, "clinic-b": {to_clinic}, "stranger": {of_owner}, "hospital-a": {to_clinic, of_owner},
        "er": {by_group}, "app": set(),
    }  # fmt: skip
    for who in ("pipc", "operator"):
        assert refusal(partial(listed, running, name, who)) == "CALLER_NOT_ALLOWED"


@pytest.mark.parametrize("holder", ["hospital-a", "blind"])
def test_a_list_tells_no_more_than_a_check(running: Running, holder: str) -> None:
    """Of a consent that names the caller as an actor, and as a holder: what a check would deny is not shown."""
    notice = f"{holder}/notice-{new_identifier().lower()}"
    publish_notice(running, notice, participant_id=holder)
    root: dict[str, Any] = {"actors": ["blind"], "holders": [holder]}
    deny = pb.Provision(effect=pb.EFFECT_DENY, categories=["CLIN.RX"])
    plain, paused, refused, nested, planned, late = (
        give(running, notice, **root, **more) for more in (
            {}, {}, {}, {"provisions": [deny]}, {"period": pb.Period(start_time_ms=CLOCK.wall_ms() + HOUR_MS // 2)},
            {"period": pb.Period(end_time_ms=CLOCK.wall_ms() + HOUR_MS // 2)},
        )
    )  # fmt: skip
    change(running, EntryKind.PAUSE, *paused)
    objection = running.grant(refused[0], effect=pb.EFFECT_DENY, purposes=["TRAIN"])
    ask_again(running, notice, owner=holder)

    def shown(who: str) -> set[str]:
        return {one.consent_id for one in listed(running, notice, who)}

    assert shown("blind") == {plain[1], late[1]}
    every = {plain[1], paused[1], refused[1], nested[1], planned[1], late[1]}
    register(running, "blind", [st.PARTICIPANT_ROLE_RECIPIENT], rights=[st.PARTICIPANT_RIGHT_SEE_REASONS])
    assert shown("blind") == every
    register(running, "blind", [st.PARTICIPANT_ROLE_RECIPIENT])
    change(running, EntryKind.REVOKE, refused[0], objection)
    CLOCK.advance(HOUR_MS // 2)
    assert shown("blind") == {plain[1], refused[1], planned[1]}
    CLOCK.advance(HOUR_MS // 2)  # a check denies from now on, and shows no difference to who withdrew
    assert shown("blind") == set()
    assert counted(running, notice, holder).unanswered == len(every)


def test_a_list_does_not_tell_that_a_transfer_is_used_up(running: Running, name: str) -> None:
    root = {"actors": ["stranger"], "holders": ["hospital-a"]}
    subject, given = give(running, name, recurrence="P1M", **root)
    ask_again(running, name)
    asked = question(subject, actor=pb.Actor(organisation="stranger"), holder="hospital-a", action="collect")
    assert {one.consent_id for one in listed(running, name, "stranger")} == {given}
    assert running.authorize(asked, "stranger").decision.outcome == pb.OUTCOME_PERMIT
    assert listed(running, name, "stranger") == []
    assert {one.consent_id for one in listed(running, name)} == {given}


def test_a_group_names_its_members(running: Running) -> None:
    realm = f"notice-{new_identifier().lower()}"
    publish_notice(running, realm)
    _, by_group = give(running, realm, actors=["group/owners"])
    publish_notice(running, realm, 2, reconsent_by_time_ms=CLOCK.wall_ms() + HOUR_MS)
    assert {one.consent_id for one in listed(running, realm, "owner")} == {by_group}
    assert listed(running, realm, "stranger") == []


def test_the_counts_are_of_the_versions(running: Running, name: str) -> None:
    first, _, third = give(running, name), give(running, name), give(running, name)
    assert refusal(partial(counted, running, name, "stranger")) == "NOT_FOUND"
    ask_again(running, name)
    give(running, name, 2)
    ask_again(running, name, 3)
    give(running, name, 3)
    change(running, EntryKind.REVOKE, *first)
    for version, unanswered, answered in ((1, 0, 4), (2, 2, 2), (3, 3, 1), (0, 3, 1)):
        found = counted(running, name, version=version)
        assert (found.unanswered, found.answered) == (unanswered, answered)
        assert found.notice.version == (version or 3)
    assert {one.version: one.consents for one in found.counts} == {1: 2, 2: 1, 3: 1}
    assert counted(running, name, "operator").unanswered == 3
    assert len(listed(running, name)) == 3
    change(running, EntryKind.REVOKE, *third)
    assert counted(running, name).unanswered == 2


def test_what_is_no_campaign_is_refused(running: Running, name: str) -> None:
    assert refusal(partial(listed, running, name)) == "INVALID_REQUEST"  # its latest version asks for nothing
    for wrong in ("no-such", "", "No Id", f"{name}\0"):
        assert refusal(partial(listed, running, wrong)) == "NOT_FOUND"
        assert refusal(partial(counted, running, wrong)) == "NOT_FOUND"
    assert refusal(partial(listed, running, name, version=2)) == "NOT_FOUND"
    ask_again(running, name)
    give(running, name), give(running, name)
    request = cs.ListReconsentsRequest(notice_id=name, page_size=1)
    token = running.consents.ListReconsents(request, metadata=running.as_("owner")).next_page_token
    other = cs.ListReconsentsRequest(notice_id=name, version=2, page_size=1, page_token=token)
    assert refusal(lambda: running.consents.ListReconsents(other, metadata=running.as_("owner"))) == "INVALID_PAGE"
    request.page_token = token
    assert refusal(lambda: running.consents.ListReconsents(request, metadata=running.as_("er"))) == "INVALID_PAGE"


def test_the_counts_are_those_of_the_rows(running: Running) -> None:
    """Every row of a count is what the values of all persons have."""
    from consentd.table.notices import notices_of

    with services(running).table.read() as snapshot:
        values = [value for _, value in snapshot.persons_from(b"")]
        numbers = {number for value in values for number in notices_of(value)}
        assert numbers
        for number in numbers:
            assert snapshot.consents_under(number) == sum(notices_of(value).count(number) for value in values)
