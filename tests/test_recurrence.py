"""Recurrence: how long a period is, what a use is, and when the next one is permitted (policy.md, rule 13)."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cases import reference_recurrence as reference
from cases.policy_agreement import check_answer
from cases.policy_builders import permit
from cases.policy_worlds import NUMBERS, VOCABULARY, Draw
from cases.recurring_worlds import RECURRENCES, STARTS
from consentd.errors import InvalidError, MalformedError
from consentd.policy.compile import Compiled, compile_consent
from consentd.policy.dates import format_instant, parse_instant_ms
from consentd.policy.model import OPEN_END_MS, Consent, Kind, ReasonCode, StoredConsent
from consentd.policy.recurrence import MAX_KEPT_USES, MAX_USES, Recurrence, Use, begin, parse_recurrence
from consentd.policy.rows import MAX_SIDE
from consentd.policy.subject import decode_subject, recurs, with_consent
from consentd.policy.uses import recurrence_of, with_confirmed, with_use, with_uses, without_access, without_old_uses

DAY_MS = 86_400_000


def at(text: str) -> int:
    return parse_instant_ms(text + "+09:00")


@pytest.mark.parametrize(
    ("text", "start", "bounds"),
    [
        ("P1M", "2026-01-31T10:00:00", ["2026-02-28 10:00:00", "2026-03-31 10:00:00", "2026-04-30 10:00:00"]),
        ("P1M", "2028-01-30T00:00:00", ["2028-02-29 00:00:00", "2028-03-30 00:00:00"]),
        ("P1Y", "2028-02-29T23:59:59", ["2029-02-28 23:59:59", "2030-02-28 23:59:59", "2031-02-28 23:59:59"]),
        ("P1M1D", "2026-01-31T00:00:00", ["2026-03-01 00:00:00", "2026-04-02 00:00:00"]),
        ("P2W", "2026-12-25T09:00:00", ["2027-01-08 09:00:00", "2027-01-22 09:00:00"]),
        ("PT1H30M", "2026-12-31T23:00:00", ["2027-01-01 00:30:00", "2027-01-01 02:00:00"]),
    ],
)
def test_a_period_begins_by_the_calendar_of_seoul(text: str, start: str, bounds: list[str]) -> None:
    made = begin(text, at(start), 0, None)
    assert made is not None
    for number, bound in enumerate(bounds, 1):
        assert format_instant(made.bound(number)) == f"{bound} KST"
        assert (made.number_at(made.bound(number)), made.number_at(made.bound(number) - 1)) == (number, number - 1)


def test_the_periods_are_those_of_the_reference() -> None:
    draw = random.Random(20_261_201)
    for _ in range(2_000):
        text, start_ms = draw.choice(RECURRENCES), draw.choice(STARTS) + draw.choice([0, 1, DAY_MS - 1])
        made = begin(text, start_ms, 0, None)
        assert made is not None
        now_ms = start_ms + draw.randrange(0, 800 * DAY_MS)
        if draw.random() < 0.5:
            now_ms = min(made.period_at(now_ms)[1], start_ms + 800 * DAY_MS) - draw.choice([0, 1])
        begins, ends = reference.period(text, start_ms, now_ms)
        epoch, one = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
        meant = (begins - epoch) // one, OPEN_END_MS if ends is None else (ends - epoch) // one
        assert made.period_at(now_ms) == meant, (text, start_ms, now_ms)


def test_once_and_what_ends_after_the_year_9999_has_no_end() -> None:
    for text in ("once", "P9000Y", "P999999Y", "P999999W"):
        made = begin(text, 0, at("2026-01-01T00:00:00"), None)
        assert made is not None
        assert made.period_at(at("9999-12-31T23:59:59"))[1] >= at("9999-12-31T23:59:59")
    assert Recurrence(0, 0, 5).period_at(7) == (5, OPEN_END_MS)


@pytest.mark.parametrize(
    "text", ["P0D", "PT0S", "P", "PT", "P1M0", "P1H", "P1234567D", "-P1M", "P1.5D", "p1m", "ONCE", " "]
)
def test_what_is_no_recurrence_is_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_recurrence(text)
    assert caught.value.reason == "INVALID_CONSENT"


# -- uses -----------------------------------------------------------------------------------------------------------

MONTHLY = Recurrence(1, 0, at("2026-01-31T00:00:00"))
FEBRUARY, MARCH = MONTHLY.bound(1), MONTHLY.bound(2)


def use(holder: int = 1, categories: int = 1, access: int = 5, until_ms: int = MARCH) -> Use:
    return Use(holder, until_ms, access, categories)


def test_a_use_counts_for_its_holder_and_categories_until_its_period_ends() -> None:
    used = MONTHLY.with_use(use(categories=0b11), FEBRUARY)
    assert used.used(1, MARCH - 1) == (0b11, MARCH)
    assert used.used(2, MARCH - 1) == (0, OPEN_END_MS)
    assert used.used(1, MARCH) == (0, OPEN_END_MS)


def test_uses_of_the_period_before_remain_and_older_ones_do_not() -> None:
    used = MONTHLY.with_use(use(until_ms=FEBRUARY), FEBRUARY - 1).with_use(use(access=6), FEBRUARY)
    assert [one.until_ms for one in used.uses] == [FEBRUARY, MARCH]
    later = used.with_use(use(access=7, until_ms=MONTHLY.bound(3)), MARCH)
    assert [one.until_ms for one in later.uses] == [MARCH, MONTHLY.bound(3)]
    assert later.since(MARCH).uses == later.uses[1:]


def test_an_outcome_keeps_a_use_or_gives_it_back() -> None:
    used = MONTHLY.with_use(use(access=5), FEBRUARY).with_use(use(access=6, categories=2), FEBRUARY)
    assert used.given_back(5).used(1, FEBRUARY) == (2, MARCH)
    kept = used.confirmed(5)
    assert kept.given_back(5) == kept
    assert kept.confirmed(6).uses == (Use(1, MARCH, 0, 3),)


def test_a_consent_has_at_most_so_many_uses_and_then_permits_none() -> None:
    used = MONTHLY
    for holder in range(1, MAX_USES + 1):
        assert used.used(1000, FEBRUARY) == (0, OPEN_END_MS)
        used = used.with_use(use(holder), FEBRUARY)
    assert used.used(1000, FEBRUARY) == (-1, MARCH)
    assert used.with_use(use(1000), FEBRUARY) == used
    assert used.used(1000, MARCH) == (0, OPEN_END_MS)
    for holder in range(1, MAX_USES + 1):
        used = used.with_use(use(holder, until_ms=MONTHLY.bound(3)), MARCH)
    assert len(used.uses) == MAX_KEPT_USES


def test_a_version_of_the_same_periods_keeps_its_uses() -> None:
    used = MONTHLY.with_use(use(), FEBRUARY)
    for text, start_ms in (("P1M", 0), ("P1M", MONTHLY.start_ms)):
        assert begin(text, start_ms, FEBRUARY, used) == used
    for text, start_ms, starts in (("P1M", FEBRUARY, FEBRUARY), ("P2M", 0, MARCH), ("once", 0, MARCH)):
        made = begin(text, start_ms, MARCH, used)
        assert made is not None
        assert (made.start_ms, made.uses) == (starts, ())
    assert begin("P1Y", 7, 0, begin("P12M", 7, 0, None)) == begin("P12M", 7, 0, None)
    assert begin("", 0, 0, used) is None


# -- stored ---------------------------------------------------------------------------------------------------------


def stored(lineage: int = 3, recurrence: str = "P1M", **limits: object) -> tuple[StoredConsent, Compiled]:
    root = permit(actors=("a",), purposes=("TREAT",), categories=("CLIN",), **limits)
    made = StoredConsent(lineage, lineage, 1, Consent(kind=Kind.CONSENT, root=root, recurrence=recurrence))
    recurring = recurrence_of(made.consent, None, MONTHLY.start_ms)
    return made, compile_consent(made, VOCABULARY, NUMBERS, normal_level=4, recurrence=recurring)


def test_uses_are_stored_and_edited_and_nothing_else_changes() -> None:
    first, second = stored(3, holders=("r", "c"), resources=("Observation/1",)), stored(4)
    plain = stored(5, "")
    before = with_consent(with_consent(with_consent(None, *first), *second), *plain)
    assert recurs(before)
    value = with_use(before, 3, use(), FEBRUARY)
    recurrences = [one.compiled.recurrence for one in decode_subject(value)]
    assert [one and len(one.uses) for one in recurrences] == [1, 0, None]
    assert without_access(value, 5) == before
    assert without_access(with_confirmed(value, 5), 5) == with_confirmed(value, 5) != value
    assert without_old_uses(value, MARCH) == before
    assert without_old_uses(value, MARCH - 1) == value
    for lineage in (5, 9):
        assert with_use(before, lineage, use(), FEBRUARY) == before


def test_a_person_whose_consents_do_not_recur_has_the_same_rows_as_before() -> None:
    value = with_consent(None, *stored(3, ""))
    assert not recurs(value)
    assert (value[1], decode_subject(value)[0].compiled.side) == (1, b"")


def test_a_consent_with_long_lists_keeps_room_for_all_its_uses() -> None:
    names = tuple(f"Observation/{number:0>60}" for number in range(3_460))  # 74 bytes each
    _, compiled = stored(resources=names[:-60])
    recurrence = compiled.recurrence
    assert recurrence is not None
    full = replace(recurrence, uses=tuple(use(number + 1) for number in range(MAX_KEPT_USES)))
    assert with_uses(compiled, full).recurrence == full
    assert len(with_uses(compiled, full).side) <= MAX_SIDE
    stored(recurrence="", resources=names)
    with pytest.raises(InvalidError):
        stored(resources=names)


def test_uses_in_another_order_are_refused() -> None:
    made, compiled = stored()
    value = with_use(with_use(with_consent(None, made, compiled), 3, use(1), FEBRUARY), 3, use(2), FEBRUARY)
    other = value[:-48] + value[-24:] + value[-48:-24]
    assert len(other) == len(value)
    with pytest.raises(MalformedError):
        decode_subject(other)


def test_the_evaluator_agrees_with_the_reference_at_the_borders_of_periods() -> None:
    draw = Draw(random.Random(20_261_202))
    beyond = 0
    for _ in range(400):
        world = draw.recurring(draw.world())
        for _ in range(4):
            codes = {reason.code for reason in check_answer(draw, world).reasons}
            beyond += ReasonCode.BEYOND_RECURRENCE in codes
    assert beyond > 30
