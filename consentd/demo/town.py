"""Make up a town: citizens, institutions, consents, and the transfers of one day.

No person in the town exists: citizens have identifiers like ``SYN-000123``, and institutions have numbers. The same
seed gives the same town. The town's proportions are published figures, or estimates from published figures:

* ages: Korea's insured population by age band, and care days per person (HIRA statistics 2022)
* institutions: types of medical institutions (HIRA's code 요양종별); most are clinics and pharmacies
* 55 % of citizens have consents, about four each (as in Finland's Kanta); of these citizens 0.75 × 0.98 allow research,
  and 0.28 allow marketing
* of all requests 60 % find no consent, 35 % are permitted, 5 % are denied; a few citizens, those with most care days,
  are the subjects of most requests (Zipf's law); 8 % of the institutions make 80 % of the calls
* each transfer has the outcome that follows from the consents, for comparison with the daemon's decision
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final

ADULT_FROM: Final = 14
"""Nobody under this age has a consent in the town: a guardian acts for such a child, as in family.py."""

ADOPTION: Final = 0.55
OBJECTION_RATE: Final = 0.12
ZIPF: Final = 0.8
MIX: Final = (("NO_CONSENT", 0.60), ("PERMIT", 0.35), ("DENY", 0.05))
BUSY_SHARE: Final = 0.08
BUSY_CALLS: Final = 0.80

AGE_BANDS: Final = (  # first age, population in thousands, care days per person and year
    (0, 246, 29.2), (1, 1193, 31.8), (5, 2098, 17.4), (10, 2321, 11.7), (15, 2298, 11.2), (20, 3005, 10.1),
    (25, 3621, 11.0), (30, 3483, 12.3), (35, 3439, 13.6), (40, 4102, 13.7), (45, 4075, 15.4), (50, 4555, 17.6),
    (55, 4064, 21.0), (60, 4158, 25.6), (65, 3089, 33.6), (70, 2099, 41.2), (75, 1510, 48.6), (80, 1202, 51.5),
    (85, 852, 60.5),
)  # fmt: skip
OLDEST: Final = 100

INSTITUTION_TYPES: Final = (  # code (see Institution.type), names, number; the busiest first
    ("01", "상급종합병원", "tertiary hospital", 1), ("11", "종합병원", "general hospital", 2),
    ("21", "병원", "hospital", 2), ("28", "요양병원", "long-term care hospital", 2),
    ("29", "정신병원", "psychiatric hospital", 1), ("31", "의원", "clinic", 13),
    ("41", "치과병원", "dental hospital", 1), ("51", "치과의원", "dental clinic", 5),
    ("71", "보건소", "public health centre", 1), ("72", "보건지소", "public health post", 1),
    ("81", "약국", "pharmacy", 7), ("92", "한방병원", "Korean medicine hospital", 1),
    ("93", "한의원", "Korean medicine clinic", 3),
)  # fmt: skip

PUBLIC_HOLDERS: Final = (
    ("nhis", "건보공단", "NHIS", ("INS.TX", "INS.CK", "INS.ELIG")),
    ("hira", "심평원", "HIRA", ("INS.RX",)),
    ("kdca", "질병청", "KDCA", ("PUB.IMM",)),
)
CLINICAL: Final = ("CLIN.DX", "CLIN.RX", "CLIN.LAB", "CLIN.IMG", "CLIN.NOTE", "CLIN.ALG")
DENTAL: Final = ("CLIN.DX", "CLIN.IMG", "CLIN.NOTE")
HELD_BY_TYPE: Final = {"81": ("CLIN.RX",), "41": DENTAL, "51": DENTAL}
ALL_CLASSES: Final = ("CLIN", "INS", "PUB")

RECIPIENTS: Final = (  # id, names, purpose of requests, share of the citizens with consents that consent to it, data
    ("care-service", "모의 건강관리 서비스", "synthetic care service", "CAREMGT", 0.75, ("LIFE", "INS")),
    ("research-centre", "모의 연구기관", "synthetic research centre", "HRESCH", 0.75 * 0.98, ("CLIN", "INS")),
    ("market-service", "모의 마케팅 서비스", "synthetic marketing service", "HMARKT", 0.28, ("INS",)),
)
RELAY: Final = ("khis", "보건의료정보원", "KHIS")
HOSPITAL: Final = "general-hospital-01"
"""A hospital that has a key of its own."""


@dataclass(frozen=True, slots=True)
class Institution:
    """A participant of the ledger.

    Attributes:
        role: ``holder`` of data, ``recipient`` of data, ``both`` (a hospital or clinic), ``relay`` (forwards requests).
        type: code of the kind of medical institution (HIRA's 요양종별); empty for institutions that are not medical.
        purpose: the purpose of the institution's requests; empty if it makes no requests.
        categories: the categories of data that the institution holds.
    """

    id: str
    ko: str
    en: str
    role: str
    type: str = ""
    purpose: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Citizen:
    """A made-up person. ``care_days`` is the number of days in a year on which the person is treated."""

    id: str
    age: int
    care_days: float


@dataclass(frozen=True, slots=True)
class PlannedConsent:
    """A consent of ``Town.citizens[citizen]`` for one recipient; with ``objects``, an objection to this recipient."""

    citizen: int
    recipient: str
    purpose: str
    categories: tuple[str, ...]
    objects: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer that is requested that day; ``outcome`` is the outcome that follows from the consents."""

    citizen: int
    recipient: str
    holder: str
    purpose: str
    category: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Town:
    """The made-up town, with the transfers of one day."""

    institutions: tuple[Institution, ...]
    citizens: tuple[Citizen, ...]
    consents: tuple[PlannedConsent, ...]
    transfers: tuple[Transfer, ...]


def make_town(*, seed: int, citizens: int, transfers: int) -> Town:
    """Make a town from a seed; the same arguments always give the same town."""
    random = Random(seed)  # noqa: S311  # nothing here is secret
    institutions = make_institutions()
    people = make_citizens(random, citizens)
    consents = make_consents(random, people, institutions)
    return Town(institutions, people, consents, make_transfers(random, transfers, people, consents, institutions))


def make_institutions() -> tuple[Institution, ...]:
    """Return 40 medical institutions, three public holders, three other recipients, and the relay."""
    made = []
    for code, ko, en, count in INSTITUTION_TYPES:
        made += [
            Institution(
                id=f"{en.lower().replace(' ', '-')}-{number:02d}",
                ko=f"모의 {ko} {number:02d}",
                en=f"synthetic {en} {number:02d}",
                role="both",
                type=code,
                purpose="TREAT",
                categories=HELD_BY_TYPE.get(code, CLINICAL),
            )
            for number in range(1, count + 1)
        ]
    made += [Institution(key, ko, en, "holder", categories=held) for key, ko, en, held in PUBLIC_HOLDERS]
    made += [Institution(key, ko, en, "recipient", purpose=purpose) for key, ko, en, purpose, *_ in RECIPIENTS]
    return (*made, Institution(*RELAY, role="relay"))


def make_citizens(random: Random, count: int) -> tuple[Citizen, ...]:
    """Return *count* citizens with the age distribution of Korea, sorted by care days, most first."""
    bands = random.choices(range(len(AGE_BANDS)), [people for _, people, _ in AGE_BANDS], k=count)
    made = []
    for number, band in enumerate(bands, 1):
        first, _, care_days = AGE_BANDS[band]
        after = AGE_BANDS[band + 1][0] if band + 1 < len(AGE_BANDS) else OLDEST
        made.append(Citizen(f"SYN-{number:06d}", random.randrange(first, after), care_days * random.expovariate(1)))
    return tuple(sorted(made, key=lambda citizen: -citizen.care_days))


def pick_caller(random: Random, institutions: Sequence[Institution]) -> Institution:
    """Pick a random institution that makes requests; a few busy institutions are picked most often."""
    callers = [institution for institution in institutions if institution.purpose]
    busy = max(1, round(BUSY_SHARE * len(callers)))
    return random.choice(callers[:busy] if random.random() < BUSY_CALLS else callers[busy:])


def make_consents(
    random: Random, citizens: Sequence[Citizen], institutions: Sequence[Institution]
) -> tuple[PlannedConsent, ...]:
    """Return the consents of all citizens; at least one citizen objects to a recipient."""
    grown = [number for number, citizen in enumerate(citizens) if citizen.age >= ADULT_FROM]
    # ADOPTION is a share of all citizens. Children have no consents, so the share among the others is higher.
    users = [number for number in grown if random.random() < ADOPTION * len(citizens) / len(grown)] or grown[:1]
    treating = [one.id for one in institutions if one.purpose == "TREAT"]
    made: list[PlannedConsent] = []
    for number in users:
        trusted = {pick_caller(random, institutions).id for _ in range(3)}.intersection(treating) or {treating[0]}
        made += [PlannedConsent(number, one, "TREAT", ALL_CLASSES) for one in sorted(trusted)]
        for recipient, _, _, purpose, rate, categories in RECIPIENTS:
            if random.random() < rate:
                made.append(PlannedConsent(number, recipient, purpose, categories))
        if random.random() < OBJECTION_RATE or number == users[-1]:
            made.append(PlannedConsent(number, random.choice(treating), "", (), objects=True))
    return tuple(made)


def make_transfers(
    random: Random, count: int, citizens: Sequence[Citizen], consents: Sequence[PlannedConsent],
    institutions: Sequence[Institution],
) -> tuple[Transfer, ...]:  # fmt: skip
    """Return the transfers of a day; ``MIX`` gives the proportions of their outcomes."""
    ranks = list(accumulate(1 / rank**ZIPF for rank in range(1, len(citizens) + 1)))
    objections = [planned for planned in consents if planned.objects]
    refused = {(planned.citizen, planned.recipient) for planned in objections}
    allowed = {(planned.citizen, planned.recipient): planned for planned in consents if not planned.objects}
    treating = [one for one in institutions if one.role == "both"]
    public = [one for one in institutions if one.role == "holder"]

    def held(recipient: str, within: tuple[str, ...]) -> tuple[str, str]:
        """Return a holder other than *recipient*, and a category of the holder's data in a class of *within*."""
        while True:
            source = random.choice(public if random.random() < 0.5 else treating)
            fitting = [code for code in source.categories if code.partition(".")[0] in within]
            if fitting and source.id != recipient:
                return source.id, random.choice(fitting)

    def asked(outcome: str) -> tuple[int, str, str, tuple[str, ...]]:
        """Return a citizen, recipient, purpose and data classes for which the expected outcome is *outcome*."""
        if outcome == "DENY":
            planned = random.choice(objections)
            return planned.citizen, planned.recipient, "TREAT", ALL_CLASSES
        while True:
            caller = pick_caller(random, institutions)
            citizen = random.choices(range(len(citizens)), cum_weights=ranks)[0]
            found = allowed.get((citizen, caller.id))
            if (citizen, caller.id) not in refused and (found is not None) is (outcome == "PERMIT"):
                return citizen, caller.id, caller.purpose, found.categories if found else ALL_CLASSES

    made = []
    for outcome in random.choices([name for name, _ in MIX], [fraction for _, fraction in MIX], k=count):
        citizen, recipient, purpose, within = asked(outcome)
        holder, category = held(recipient, within)
        made.append(Transfer(citizen, recipient, holder, purpose, category, outcome))
    return tuple(made)
