"""Lists: every page shows the state of the first page, filters select what they say, and a page costs a page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, make_running, question, request_id, running_daemon, serve
from cases.fakes import FakeClock
from cases.pruned_ledgers import World
from cases.services import (
    accesses,
    add_key,
    add_reader,
    amend,
    change,
    listed,
    new_identifier,
    now_ms,
    participant,
    put_delegation,
    record,
    refusal,
    register,
    retire_key,
    services,
)
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.ledger.vault import Vault
from consentd.service import access_records, pages
from consentd.table import registry as table_registry
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client.consents import ALL_STATES


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


@pytest.fixture
def person(running: Running) -> pb.Subject:
    return running.enrol(new_identifier())


@dataclass(frozen=True)
class Listing:
    """A list: its method, the caller, and what the request has beside the page. ``items`` returns those of a page."""

    method: Callable[[Running], Any]
    request: Callable[..., Any]
    items: Callable[[Any], Any]
    who: str = "app"
    of_person: bool = False
    fields: dict[str, Any] = field(default_factory=dict)

    def page(self, running: Running, subject: pb.Subject, *, token: str = "", size: int = 0, **more: Any) -> Any:
        fields = {**self.fields, **({"subject": subject} if self.of_person else {}), **more}
        request = self.request(page_size=size, page_token=token, **fields)
        return self.method(running)(request, metadata=running.as_(self.who))

    def pages(self, running: Running, subject: pb.Subject, *, size: int = 0, **more: Any) -> Iterator[Any]:
        """Yield each page; ask for a page when the one before it was used."""
        token = ""
        while True:
            page = self.page(running, subject, token=token, size=size, **more)
            yield page
            token = page.next_page_token
            if not token:
                return

    def all(self, running: Running, subject: pb.Subject, *, size: int = 0, **more: Any) -> list[Any]:
        return [one for page in self.pages(running, subject, size=size, **more) for one in self.items(page)]


CONSENTS = Listing(
    lambda running: running.consents.ListConsents, cs.ListConsentsRequest, lambda page: list(page.records),
    of_person=True, fields={"states": ALL_STATES},
)  # fmt: skip
ACCESSES = Listing(
    lambda running: running.access.ListAccesses, ac.ListAccessesRequest, lambda page: list(page.accesses),
    of_person=True,
)  # fmt: skip
PARTICIPANTS = Listing(
    lambda running: running.registry.ListParticipants, rs.ListParticipantsRequest, lambda page: list(page.participants)
)
DELEGATIONS = Listing(
    lambda running: running.registry.ListDelegations, rs.ListDelegationsRequest, lambda page: list(page.delegations)
)
ENTRIES = Listing(
    lambda running: running.ledger.ListLeaves, ls.ListLeavesRequest, lambda page: list(page.leaves), who="pipc"
)
STATEMENTS = Listing(
    lambda running: running.ledger.ListEntries, ls.ListEntriesRequest, lambda page: list(page.entries),
    who="pipc",
)  # fmt: skip
LISTS = {
    "consents": CONSENTS, "accesses": ACCESSES, "participants": PARTICIPANTS, "delegations": DELEGATIONS,
    "entries": ENTRIES, "statements": STATEMENTS,
}  # fmt: skip


# -- one state ------------------------------------------------------------------------------------------------------


def change_everything(running: Running, subject: pb.Subject) -> None:
    """Change what a later page of each list would show: revoke, pause, amend, report, register, delegate, end."""
    consents = listed(running, subject)
    for kind, one in zip((EntryKind.REVOKE, EntryKind.PAUSE), consents[::-1], strict=False):
        if one.state == cs.CONSENT_STATE_ACTIVE:
            change(running, kind, subject, one.consent_id)
    if len(consents) > 2:
        amend(running, subject, consents[0].consent_id, consents[0].version, categories=["CLIN.RX"])
    for one in accesses(running, subject)[::-1][:2]:
        if one.kind == EntryKind.ACCESS:
            record(running, subject, one.seq)
    running.grant(subject)
    running.authorize(question(subject))
    number = len(PARTICIPANTS.all(running, subject))
    register(running, f"late-{number}", [st.PARTICIPANT_ROLE_HOLDER])
    last = [one for one in PARTICIPANTS.all(running, subject) if one.participant_id.startswith("first-")][-1]
    register(running, last.participant_id, [st.PARTICIPANT_ROLE_RECIPIENT], active=not last.active)
    put_delegation(running, "hospital-a", f"late-{number}", capacity=st.DELEGATION_CAPACITY_PROCESSOR)
    running.delegate("er", "app", ended=any(one.giver == "er" for one in DELEGATIONS.all(running, subject)))
    running.wait_published()


@pytest.mark.parametrize("name", LISTS)
def test_nothing_that_is_written_between_two_pages_changes_the_next(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_registry, "MAX_LISTED", 1)  # what the list needs must be kept nevertheless
    listing, size = LISTS[name], 20 if name in ("entries", "statements") else 2
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        subject = running.enrol("SYN-000001")
        for number in range(5):
            running.grant(subject)
            answer = running.authorize(question(subject))
            record(running, subject, answer.access_seq)
            register(running, f"first-{number}", [st.PARTICIPANT_ROLE_HOLDER])
            put_delegation(running, "clinic-b", f"first-{number}", capacity=st.DELEGATION_CAPACITY_PROCESSOR)
        running.authorize(question(subject, purpose="HMARKT"))
        change(running, EntryKind.REVOKE, subject, listed(running, subject)[1].consent_id)
        running.wait_published()
        whole = listing.page(running, subject)
        assert not whole.next_page_token
        found, revisions = [], []
        for page in listing.pages(running, subject, size=size):
            found += listing.items(page)
            revisions.append(page.revision)
            change_everything(running, subject)
        assert len(revisions) >= 3
        assert found == listing.items(whole)
        assert all(one == whole.revision for one in revisions)
        assert listing.items(listing.page(running, subject)) != found
        running.check_ledger()


def test_a_state_that_changes_with_time_is_that_of_the_first_page(tmp_path: Path) -> None:
    world = World(tmp_path)
    try:
        running, clock = world.running, world.clock
        subject = running.enrol("SYN-000001")
        for _ in range(3):
            end = pb.Period(end_time_ms=clock.wall_ms() + 3_600_000)
            running.grant(subject, period=end)
        states = []
        for page in CONSENTS.pages(running, subject, size=1, states=[cs.CONSENT_STATE_ACTIVE]):
            states += [one.state for one in page.records]
            clock.advance(1)
        assert states == [cs.CONSENT_STATE_ACTIVE] * 3
        assert [one.state for one in listed(running, subject)] == [cs.CONSENT_STATE_ENDED] * 3
    finally:
        running.stop()


@pytest.mark.parametrize("listing", [PARTICIPANTS, DELEGATIONS], ids=["participants", "delegations"])
def test_a_registry_that_is_kept_no_more_ends_the_list(running: Running, listing: Listing) -> None:
    subject = pb.Subject()
    first = listing.page(running, subject, size=1)
    for number in range(table_registry.MAX_LISTED + 1):
        name = f"kept-{number}-{id(listing)}"
        register(running, name, [st.PARTICIPANT_ROLE_HOLDER])
        # Only a list of several pages makes the daemon keep a registry.
        assert listing.page(running, subject).next_page_token == ""
    assert listing.page(running, subject, size=1, token=first.next_page_token)
    for number in range(table_registry.MAX_LISTED):
        register(running, f"more-{number}-{id(listing)}", [st.PARTICIPANT_ROLE_HOLDER])
        listing.page(running, subject, size=1)
    assert refusal(lambda: listing.page(running, subject, size=1, token=first.next_page_token)) == "PAGE_EXPIRED"


def test_a_list_that_a_pruning_cut_off_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    try:
        running = world.running
        anna = world.outlive(5)
        for _ in range(3):
            running.grant(anna)
            world.use(anna)
        ben = running.enrol("SYN-000002")
        for _ in range(3):
            running.grant(ben)
            world.use(ben)
        world.settle()
        first = {
            (name, who): LISTS[name].page(running, {"anna": anna, "ben": ben}[who], size=1)
            for name in ("consents", "accesses", "entries", "statements") for who in ("anna", "ben")
        }  # fmt: skip
        assert len(accesses(running, anna)) == 8
        world.prune()
        world.settle()

        def go_on(name: str, who: str) -> list[Any]:
            subject, token, found = {"anna": anna, "ben": ben}[who], first[name, who].next_page_token, []
            while token:
                page = LISTS[name].page(running, subject, size=2, token=token)
                token, found = page.next_page_token, found + LISTS[name].items(page)
            return found

        assert refusal(lambda: go_on("consents", "anna")) == "PAGE_EXPIRED"
        assert refusal(lambda: go_on("accesses", "anna")) == "PAGE_EXPIRED"
        assert refusal(lambda: go_on("statements", "anna")) == "PAGE_EXPIRED"
        assert refusal(lambda: go_on("entries", "anna")) == "PRUNED"
        # Nothing of this person is old enough to be pruned.
        for name in ("consents", "accesses"):
            everything = LISTS[name].items(LISTS[name].page(running, ben))
            assert [*LISTS[name].items(first[name, "ben"]), *go_on(name, "ben")] == everything
        # A list that is begun after the pruning has what is left, on all of its pages.
        assert [one.kind for one in ACCESSES.all(running, anna, size=1)] == [EntryKind.ACCESS] * 3
        assert len(CONSENTS.all(running, anna, size=1)) == 3
        assert refusal(lambda: running.access.GetAccess(
            ac.GetAccessRequest(subject=anna, access_seq=3), metadata=running.as_("app")
        )) == "NOT_FOUND"  # fmt: skip
    finally:
        running.stop()


def test_a_page_token_lasts_beyond_a_restart_and_another_page_size(tmp_path: Path) -> None:
    first = make_running(tmp_path)
    subject = first.enrol("SYN-000001")
    for _ in range(3):
        first.grant(subject)
    everything, begun = listed(first, subject), CONSENTS.page(first, subject, size=1)
    people = PARTICIPANTS.page(first, subject, size=1)
    first.stop()
    again = Running(first.config, first.tokens)
    try:
        rest = CONSENTS.page(again, subject, size=1000, token=begun.next_page_token)
        assert [*begun.records, *rest.records] == everything
        assert PARTICIPANTS.page(again, subject, token=people.next_page_token).participants
        register(again, "other", [st.PARTICIPANT_ROLE_HOLDER])
        assert refusal(lambda: PARTICIPANTS.page(again, subject, token=people.next_page_token)) == "PAGE_EXPIRED"
    finally:
        again.stop()


# -- cost -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listing", [CONSENTS, ACCESSES], ids=["consents", "accesses"])
def test_a_page_opens_only_what_it_shows(
    running: Running, person: pb.Subject, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    decrypt = Vault.decrypt
    monkeypatch.setattr(
        Vault, "decrypt", lambda vault, event, row: opened.append(event.seq) or decrypt(vault, event, row)
    )
    for _ in range(20):
        change(running, EntryKind.REVOKE, person, running.grant(person))
        running.authorize(question(person))
    opened.clear()
    costs = []
    for _ in listing.pages(running, person, size=2):
        costs.append(len(opened))
        opened.clear()
    assert len(costs) == 10
    assert max(costs) <= 3  # two, and the one after them, which shows that there is a next page


def test_get_consent_of_a_revoked_one_opens_one_statement(
    running: Running, person: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = running.grant(person)
    change(running, EntryKind.REVOKE, person, gone)
    for _ in range(10):
        running.grant(person)
        running.authorize(question(person))
    opened: list[int] = []
    decrypt = Vault.decrypt
    monkeypatch.setattr(
        Vault, "decrypt", lambda vault, event, row: opened.append(event.seq) or decrypt(vault, event, row)
    )
    request = cs.GetConsentRequest(subject=person, consent_id=gone)
    found = running.consents.GetConsent(request, metadata=running.as_("app")).record
    assert (found.state, opened) == (cs.CONSENT_STATE_REVOKED, [found.seq])


@pytest.mark.parametrize(("name", "filter_"), [
    ("consents", {"purpose": "nothing"}), ("accesses", {"asker": "nobody"}), ("participants", {"group": "group/none"}),
    ("delegations", {"taker": "nobody"}),
])  # fmt: skip
def test_a_filter_that_selects_nothing_reads_a_few_items_a_page(
    running: Running, person: pb.Subject, name: str, filter_: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        running.grant(person)
        running.authorize(question(person))
    monkeypatch.setattr(pages, "MAX_EXAMINED", 2)
    found = list(LISTS[name].pages(running, person, **filter_))
    assert len(found) >= 2
    assert all(not LISTS[name].items(page) for page in found)
    assert all(page.next_page_token for page in found[:-1])
    monkeypatch.setattr(pages, "MAX_EXAMINED", 3)
    assert LISTS[name].all(running, person) == LISTS[name].all(running, person, size=1)


def test_a_participants_keys_are_found_without_the_keys_of_others(running: Running) -> None:
    pairs = [KeyPair(bytes([number]) * 32) for number in range(0x51, 0x54)]
    for pair in pairs:
        add_key(running, "clinic-b", pair)
    add_key(running, "hospital-a", KeyPair(b"\x54" * 32))
    keys = sorted(pair.public_key for pair in pairs)
    assert list(participant(running, "clinic-b").keys) == keys
    retire_key(running, "clinic-b", keys[1])
    assert list(participant(running, "clinic-b").keys) == [keys[0], keys[2]]
    with services(running).table.read() as snapshot:
        prefix = b"oclinic-b\0"
        assert [key[len(prefix) :] for key, _ in snapshot.rows() if key.startswith(prefix)] == [keys[0], keys[2]]


def test_an_access_has_a_limited_number_of_outcomes(
    running: Running, person: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.grant(person)
    seq = running.authorize(question(person)).access_seq
    for number in range(3):
        sent = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT, resource_count=number)
        record(running, person, seq, attested=sent)
    (whole,) = accesses(running, person)
    assert [one.resource_count for one in whole.outcomes] == [0, 1, 2]
    assert not whole.more_outcomes
    monkeypatch.setattr(access_records, "MAX_OUTCOMES", 2)
    (cut,) = accesses(running, person)
    assert ([one.resource_count for one in cut.outcomes], cut.more_outcomes) == ([0, 1], True)


# -- filters --------------------------------------------------------------------------------------------------------


def test_consents_are_selected_by_what_they_name_and_when_they_were_given(running: Running, person: pb.Subject) -> None:
    plain = running.grant(person)
    nested = pb.Provision(actors=["er"], purposes=["HRESCH"], holders=["er"])
    deep = running.grant(person, provisions=[pb.Provision(provisions=[nested])])
    objection = cs.GrantConsentRequest(
        request_id=request_id(), subject=person,
        attested=st.GrantStatement(
            consent=pb.Consent(kind=pb.CONSENT_KIND_OBJECTION, root=pb.Provision(effect=pb.EFFECT_DENY))
        ),
    )  # fmt: skip
    third = running.consents.GrantConsent(objection, metadata=running.as_("app")).consent_id

    def ids(**more: Any) -> list[str]:
        return [one.consent_id for one in listed(running, person, **more)]

    assert ids() == [third, deep, plain]
    assert ids(kind=pb.CONSENT_KIND_OBJECTION) == [third]
    assert ids(kind=pb.CONSENT_KIND_CONSENT, purpose="TREAT") == [deep, plain]
    assert ids(purpose="HRESCH") == ids(actor="er") == ids(holder="er") == [deep]
    assert ids(actor="clinic-b", holder="er") == [deep]
    assert ids(actor="nobody") == ids(kind=pb.CONSENT_KIND_STATUTORY) == []
    change(running, EntryKind.PAUSE, person, plain)
    assert ids(states=[cs.CONSENT_STATE_PAUSED], purpose="TREAT") == [plain]
    times = {one.consent_id: one.grant_time_ms for one in listed(running, person)}
    for start, end in ((times[deep], 0), (0, times[deep]), (times[plain], times[third]), (times[third] + 1, 0)):
        wanted = [one for one, at in times.items() if start <= at < (end or at + 1)]
        assert start == end or ids(start_time_ms=start, end_time_ms=end) == wanted


def test_accesses_are_selected_by_who_asked_what_and_when(running: Running, person: pb.Subject) -> None:
    running.grant(person, actors=["clinic-b", "er"])
    running.authorize(question(person), "clinic-b")
    running.authorize(question(person, actor=pb.Actor(organisation="er", automatic=True), holder="hospital-a"))
    running.authorize(question(person, purpose="HMARKT"))
    running.authorize(question(person), "hospital-a")
    whole = accesses(running, person)
    permitted, refused = EntryKind.ACCESS, EntryKind.REFUSAL
    assert [one.kind for one in whole] == [permitted, refused, permitted, permitted]

    def seqs(**more: Any) -> list[int]:
        return [one.seq for one in ACCESSES.all(running, person, size=1, **more)]

    checks: dict[str, tuple[Any, Callable[[ac.AccessRecord], Any]]] = {
        "kind": (int(refused), lambda one: one.kind), "automatic": (True, lambda one: one.question.actor.automatic),
        "actor": ("er", lambda one: one.question.actor.organisation),
        "holder": ("hospital-a", lambda one: one.question.holder),
        "purpose": ("HMARKT", lambda one: one.question.purpose),
        "asker": ("hospital-a", lambda one: one.asker),
    }  # fmt: skip
    for name, (value, of) in checks.items():
        assert seqs(**{name: value}) == [one.seq for one in whole if of(one) == value] != []
    assert seqs(kind=int(permitted)) == [one.seq for one in whole if one.kind == permitted]
    for other in (EntryKind.GRANT, EntryKind.OUTCOME, 99, -1):  # no kind of an access, and numbers of no kind
        assert refusal(lambda other=other: seqs(kind=int(other))) == "INVALID_REQUEST"
    assert seqs(automatic=False, kind=int(permitted), asker="clinic-b") == [whole[3].seq]
    assert seqs(actor="nobody") == []
    for start in {one.time_ms for one in whole}:
        for end in {one.time_ms for one in whole}:
            if start < end:
                wanted = [one.seq for one in whole if start <= one.time_ms < end]
                assert seqs(start_time_ms=start, end_time_ms=end) == wanted
        assert seqs(start_time_ms=start) == [one.seq for one in whole if start <= one.time_ms]
        assert seqs(end_time_ms=start) == [one.seq for one in whole if one.time_ms < start]


def test_participants_and_delegations_are_selected(running: Running, person: pb.Subject) -> None:
    register(running, "lab-f", [st.PARTICIPANT_ROLE_HOLDER], groups=["group/labs"], active=False)
    register(running, "lab-g", [st.PARTICIPANT_ROLE_HOLDER], groups=["group/labs", "group/all"])
    put_delegation(running, "lab-g", "app", end_time_ms=now_ms(running) + 3_600_000)
    put_delegation(running, "lab-g", "er", capacity=st.DELEGATION_CAPACITY_PROCESSOR)

    def ids(**more: Any) -> list[str]:
        return [one.participant_id for one in PARTICIPANTS.all(running, person, size=1, **more)]

    assert ids(group="group/labs") == ["lab-f", "lab-g"]
    assert ids(group="group/labs", active=True) == ["lab-g"]
    assert ids(group="group/labs", active=False) == ["lab-f"]
    assert ids(group="group/all", role=st.PARTICIPANT_ROLE_RELAY) == []
    assert ids(right=st.PARTICIPANT_RIGHT_SEE_REASONS) == ids(role=st.PARTICIPANT_ROLE_RELAY) == ["app"]

    def takers(**more: Any) -> list[str]:
        return [one.taker for one in DELEGATIONS.all(running, person, size=1, giver="lab-g", **more)]

    assert sorted(takers()) == ["app", "er"]
    assert takers(capacity=st.DELEGATION_CAPACITY_PROCESSOR) == ["er"]
    assert takers(in_force_time_ms=now_ms(running) + 7_200_000) == ["er"]
    assert len(takers(in_force_time_ms=now_ms(running))) == 2


def test_leaves_and_statements_are_selected_by_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    try:
        running = world.running
        subject = running.enrol("SYN-000001")
        world.settle()
        middle = world.services.ledger.state
        world.clock.advance(2)
        running.grant(subject)
        world.settle()
        size = world.services.ledger.state.size
        start = middle.time_ms + 1

        def count(listing: Listing, **more: Any) -> int:
            return len(listing.all(running, subject, size=7, **more))

        assert count(ENTRIES, start_time_ms=start) == size - middle.size
        assert count(ENTRIES, end_time_ms=start) == middle.size
        assert count(ENTRIES, start_time_ms=start, start_index=size - 1) == 1
        kinds = [EntryKind.GRANT, EntryKind.ENROL]
        assert [count(STATEMENTS, kinds=[kind], start_time_ms=start) for kind in kinds] == [1, 0]
        assert [count(STATEMENTS, kinds=[kind], end_time_ms=start) for kind in kinds] == [0, 1]
        first = ENTRIES.page(running, subject, start_time_ms=start, size=1)
        assert first.first_index == middle.size
    finally:
        running.stop()


@pytest.mark.parametrize(("name", "fields", "reason"), [
    ("consents", {"kind": 99}, "INVALID_REQUEST"), ("consents", {"states": [99]}, "INVALID_REQUEST"),
    ("consents", {"start_time_ms": -1}, "INVALID_REQUEST"), ("accesses", {"end_time_ms": -1}, "INVALID_REQUEST"),
    ("accesses", {"start_time_ms": 5, "end_time_ms": 5}, "INVALID_REQUEST"),
    ("entries", {"start_time_ms": 5, "end_time_ms": 4}, "INVALID_REQUEST"),
    ("statements", {"start_time_ms": -5}, "INVALID_REQUEST"), ("participants", {"role": 99}, "INVALID_REQUEST"),
    ("participants", {"right": 99}, "INVALID_REQUEST"), ("delegations", {"capacity": 99}, "INVALID_REQUEST"),
    ("delegations", {"in_force_time_ms": -1}, "INVALID_REQUEST"), ("participants", {"size": -1}, "INVALID_PAGE"),
    ("accesses", {"token": "A" * 64}, "INVALID_PAGE"), ("entries", {"token": "x"}, "INVALID_PAGE"),
])  # fmt: skip
def test_a_request_that_selects_nonsense_is_refused(
    running: Running, person: pb.Subject, name: str, fields: dict[str, Any], reason: str
) -> None:
    assert refusal(lambda: LISTS[name].page(running, person, **fields)) == reason


@pytest.mark.parametrize("name", LISTS)
def test_a_page_token_is_for_the_whole_request(running: Running, person: pb.Subject, name: str) -> None:
    for _ in range(2):
        running.grant(person)
        running.authorize(question(person))
    running.wait_published()
    listing = LISTS[name]
    token = listing.page(running, person, size=1).next_page_token
    listing.page(running, person, token=token)
    others = {
        "consents": {"purpose": "TREAT"}, "accesses": {"kind": int(EntryKind.ACCESS)}, "participants": {"active": True},
        "delegations": {"capacity": 1}, "entries": {"start_index": 1}, "statements": {"end_time_ms": 1 << 60},
    }  # fmt: skip
    assert refusal(lambda: listing.page(running, person, token=token, **others[name])) == "INVALID_PAGE"
    if listing.of_person:
        other = running.enrol(new_identifier())
        assert refusal(lambda: listing.page(running, other, token=token)) == "INVALID_PAGE"


# -- one access -----------------------------------------------------------------------------------------------------


def get_access(running: Running, subject: pb.Subject, seq: int, who: str = "app") -> ac.AccessRecord:
    request = ac.GetAccessRequest(subject=subject, access_seq=seq)
    return running.access.GetAccess(request, metadata=running.as_(who)).access


def test_one_access_is_what_the_list_shows_of_it(running: Running, person: pb.Subject) -> None:
    running.grant(person)
    seq = running.authorize(question(person)).access_seq
    record(running, person, seq)
    running.authorize(question(person, purpose="HMARKT"))
    shown = accesses(running, person)
    assert [one.kind for one in shown] == [EntryKind.REFUSAL, EntryKind.ACCESS]
    assert [get_access(running, person, one.seq) for one in shown] == shown
    for strange in (0, 1, 2, 99, 1 << 63, (1 << 64) - 1):  # no entry, ENROL, GRANT, and numbers that no entry has
        assert refusal(lambda seq=strange: get_access(running, person, seq)) == "NOT_FOUND"
    unknown = pb.Subject(scheme="mhid", value=new_identifier())
    assert refusal(lambda: get_access(running, unknown, seq)) == "SUBJECT_NOT_FOUND"


def test_a_party_reads_the_access_and_no_other(running: Running, person: pb.Subject) -> None:
    running.grant(person)
    seq = running.authorize(question(person), "clinic-b").access_seq
    running.authorize(question(person, purpose="HMARKT"), "clinic-b")
    (refusal_record, permitted) = accesses(running, person)
    assert get_access(running, person, seq, "clinic-b") == get_access(running, person, seq, "hospital-a") == permitted
    # A refusal is nobody's but the person's: it shows whether the person is enrolled.
    for who in ("clinic-b", "hospital-a", "er"):
        assert refusal(lambda who=who: get_access(running, person, refusal_record.seq, who)) == "NOT_FOUND"
    assert refusal(lambda: get_access(running, person, seq, "er")) == "NOT_FOUND"
    assert refusal(lambda: get_access(running, person, 1, "clinic-b")) == "NOT_FOUND"
    assert refusal(lambda: get_access(running, person, seq, "pipc")) == "CALLER_NOT_ALLOWED"
    unknown = pb.Subject(scheme="mhid", value=new_identifier())
    assert refusal(lambda: get_access(running, unknown, seq, "clinic-b")) == "NOT_FOUND"


def test_an_auditor_that_reads_an_access_leaves_an_entry(tmp_path: Path) -> None:
    running = make_running(tmp_path, daemon={"clock": FakeClock()})  # it has one entry a day
    try:
        person = running.enrol("SYN-000001")
        running.grant(person)
        seq = running.authorize(question(person), "clinic-b").access_seq
        ledger = services(running).ledger
        with services(running).table.read() as snapshot:
            tag = snapshot.tag_of(services(running).vault.identifier_hash(person.scheme, person.value))
        assert tag is not None
        before, _ = ledger.head(tag)
        for who in ("app", "clinic-b", add_reader(running), "reader"):
            get_access(running, person, seq, who)
        assert ledger.head(tag)[0] == before + 1
    finally:
        running.stop()
