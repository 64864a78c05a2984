"""Each limit of ``proto/limits.toml`` is reached: its value is accepted, and one beyond is refused with its reason.

``PROBES`` has for each limit a function that makes something of a given size, and returns the reason with which it is
refused; empty: it was accepted. What would be slow as calls is tried with the function that checks it.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import grpc
import pytest

from cases.authorities import PAPER, put_authority
from cases.daemons import Running, question, reason_in, reason_of, request_id
from cases.ledgers import CITIZEN, LedgerCase
from cases.limits import LIMITS, value_of
from cases.logins import Provider, id_tokens_of
from cases.notices import make_notice
from cases.services import batch, new_identifier, proof_of, put_delegation, register
from consentd.backup.manifest import check_backup_name
from consentd.core.ed25519 import KeyPair
from consentd.errors import ConsentdError
from consentd.metrics import Metrics
from consentd.policy import check, subject
from consentd.policy.compile import Compiled, compile_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.justification import check_justification
from consentd.policy.model import Effect, Provision, Quotas, Rules
from consentd.policy.rows import PERMIT, Row, pack_rows
from consentd.policy.vocabulary import Code
from consentd.sequencer.commands import acting, notices
from consentd.sequencer.quotas import QuotaCounter
from consentd.service import answerer, auth, requests
from consentd.service.statements import Attester, read_statement
from consentd.statements import payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

Probe = Callable[[Running, int], str]
PROBES: dict[str, Probe] = {}
LOWERED: dict[str, tuple[ModuleType, str, int]] = {
    "batch_provisions": (answerer, "MAX_BATCH_ROWS", 3),
    "given_delegations": (acting, "MAX_GIVEN", 3),
    "notice_versions": (notices, "MAX_VERSIONS", 3),
}
"""The limits that are lowered for the test, because it would take too long to reach them: where, and to what."""
ELSEWHERE = {"batch_answer_bytes", "author_skew_ms", "exact_batch_items", "exact_entries", "call_skew_ms"}
"""The limits that have a test of their own: below, in ``tests/test_at_exact.py`` and in ``tests/test_citizens.py``."""
_numbers = itertools.count()


def probes(name: str) -> Callable[[Probe], Probe]:
    def add(probe: Probe) -> Probe:
        PROBES[name] = probe
        return probe

    return add


def refused(call: Callable[[], object]) -> str:
    """Return the reason with which a call is refused; empty: it succeeds."""
    try:
        call()
    except grpc.RpcError as error:
        return reason_of(error)
    except ConsentdError as error:
        return error.reason
    return ""


# -- statements and questions -------------------------------------------------------------------------------------


def statement_of(size: int) -> st.GrantStatement:
    """Return a statement of exactly *size* bytes."""
    message = st.GrantStatement(consent=pb.Consent(source="x" * 5_000))
    message.consent.source = "x" * (5_000 + size - message.ByteSize())
    assert message.ByteSize() == size
    return message


@probes("statement_bytes")
def _statement(_: Running, size: int) -> str:
    """Tried in both forms, and where the daemon signs."""
    message = statement_of(size)
    signed = pb.SignedStatement(payload=message.SerializeToString())
    (reason,) = {
        refused(lambda: read_statement(cs.GrantConsentRequest(attested=message), st.GrantStatement, Attester("app"))),
        refused(lambda: read_statement(cs.GrantConsentRequest(signed=signed), st.GrantStatement, Attester("app"))),
        refused(lambda: payloads.encode_payload(message)),
    }
    return reason


@probes("text_bytes")
def _text(running: Running, size: int) -> str:
    name = f"limits-{next(_numbers)}"
    return refused(lambda: register(running, name, [st.PARTICIPANT_ROLE_RECIPIENT], type="x" * size))


def question_of(size: int) -> pb.Question:
    asked = question(pb.Subject(scheme="mhid", value=new_identifier()))
    asked.actor.role = "x" * 1_000
    asked.actor.role = "x" * (1_000 + size - asked.ByteSize())
    assert asked.ByteSize() == size
    return asked


@probes("question_bytes")
def _question(running: Running, size: int) -> str:
    asked = question_of(size)
    write = ac.AuthorizeAccessRequest(request_id=request_id(), question=asked)
    several = ac.BatchAuthorizeAccessesRequest(requests=[write])
    answers = running.access.BatchAuthorizeAccesses(several, metadata=running.as_("app")).results
    found = {
        refused(lambda: running.check(asked)),
        refused(lambda: running.authorize(asked)),
        *(reason_in(one.error) for one in (*batch(running, questions=[asked]), *answers)),
    }
    (reason,) = found
    return reason


@probes("network_origin_bytes")
def _network_origin(running: Running, size: int) -> str:
    asked = question(pb.Subject(scheme="mhid", value=new_identifier()))
    return refused(lambda: running.authorize(asked, network_origin="é" * (size // 2) + "x" * (size % 2)))


@probes("justification_letters")
def _justification(_: Running, count: int) -> str:
    return refused(lambda: check_justification("응" * count + " 1!"))


# -- batches ------------------------------------------------------------------------------------------------------


@probes("batch_items")
def _batch(running: Running, count: int) -> str:
    asked = question(pb.Subject(scheme="mhid", value="SYN-LIMITS"))
    shared = question(pb.Subject())
    shared.ClearField("subject")
    app = {"metadata": running.as_("app")}
    sent = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT)
    outcome = ac.RecordAccessRequest(subject=asked.subject, access_seq=1, attested=sent)
    access = ac.AuthorizeAccessRequest(question=asked)
    found = {
        refused(lambda: batch(running, questions=[asked] * count)),
        refused(lambda: batch(running, shared=shared, subjects=[asked.subject] * count)),
        refused(
            lambda: running.access.BatchAuthorizeAccesses(
                ac.BatchAuthorizeAccessesRequest(requests=[access] * count), **app
            )
        ),
        refused(
            lambda: running.access.BatchRecordAccesses(
                ac.BatchRecordAccessesRequest(requests=[outcome] * count), **app
            )
        )
        .replace("INVALID_REQUEST_ID", "")
        .replace("INVALID_REQUEST", ""),
    }
    (reason,) = found
    return reason


@probes("batch_provisions")
def _batch_provisions(running: Running, count: int) -> str:
    """Each person has one provision, so as many are answered as provisions are allowed."""
    people = [running.enrol(new_identifier()) for _ in range(count)]
    for person in people:
        running.grant(person)
    *answered, last = batch(running, questions=[question(person) for person in people])
    assert all(one.HasField("decision") for one in answered)
    return reason_in(last.error)


def test_the_answers_of_a_batch_fill_it_exactly(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    person = running.enrol(new_identifier())
    running.grant(person)
    asked = [question(person)] * 3
    size = sum(one.ByteSize() for one in batch(running, questions=asked))
    monkeypatch.setattr(requests, "MAX_BATCH_ANSWER", size + 2)  # the seq of the table may take more bytes by then
    assert {reason_in(one.error) for one in batch(running, questions=asked)} == {""}
    monkeypatch.setattr(requests, "MAX_BATCH_ANSWER", size - 4)
    *_, last = batch(running, questions=asked)
    assert reason_in(last.error) == LIMITS["batch_answer_bytes"]["reason"]


def test_an_authors_clock_differs_by_no_more_than_the_limit(case: LedgerCase) -> None:
    person = case.enrol("somebody", CITIZEN)
    limit_ms = value_of("author_skew_ms")
    fits, late = case.grant(person, signed=True), case.grant(person, signed=True)
    case.clock.advance(limit_ms)
    case.write(fits)
    case.clock.advance(1)
    assert refused(lambda: case.write(late)) == LIMITS["author_skew_ms"]["reason"]


# -- names --------------------------------------------------------------------------------------------------------


def enrolled(running: Running, scheme: str, value: str) -> str:
    request = rs.EnrolSubjectRequest(request_id=request_id(), subject=pb.Subject(scheme=scheme, value=value))
    return refused(lambda: running.registry.EnrolSubject(request, metadata=running.as_("app")))


@probes("identifier_scheme_characters")
def _scheme(running: Running, count: int) -> str:
    return enrolled(running, "m" * count, new_identifier())


@probes("identifier_value_characters")
def _value(running: Running, count: int) -> str:
    return enrolled(running, "mhid", new_identifier().ljust(count, "x"))


@probes("public_name_characters")
def _public_name(running: Running, count: int) -> str:
    request = ls.GetHistoryRequest(public_name="n" * count)
    return refused(lambda: list(running.ledger.GetHistory(request))).replace("NOT_FOUND", "")


@probes("participant_id_characters")
def _participant_id(running: Running, count: int) -> str:
    name = f"p{next(_numbers)}".ljust(count, "-")
    notice = make_notice(name, title={"en": "notice"})
    found = {
        refused(lambda: register(running, name, [st.PARTICIPANT_ROLE_RECIPIENT])),
        refused(lambda: register(running, "clinic-b", [st.PARTICIPANT_ROLE_RECIPIENT], groups=[f"group/{name}"])),
        refused(lambda: publish(running, notice)),
    }
    (reason,) = found
    return reason


@probes("notice_versions")
def _versions(running: Running, count: int) -> str:
    name = f"n{next(_numbers)}"
    found = ""
    for number in range(1, count + 1):
        assert found == ""
        found = refused(lambda number=number: publish(running, make_notice(name, number)))  # type: ignore[misc]
    return found


@probes("name_languages")
def _languages(running: Running, count: int) -> str:
    names = {f"x{first}{second}": "name" for first in "abcdef" for second in "ghijkl"}
    return named(running, dict(list(names.items())[:count]))


@probes("language_tag_characters")
def _tag(running: Running, count: int) -> str:
    return named(running, {tag_of(count): "name"})


def tag_of(count: int) -> str:
    """Return a well-formed language tag of *count* characters, at least 25."""
    tag = "zh-Hant-TW-variant1"
    rest = count - len(tag) - 1
    first = rest - 9 if rest > 8 else rest
    parts = ["abcdefgh"[:first]] + (["variant2"] if rest > 8 else [])
    return "-".join((tag, *parts))


@probes("authority_evidence")
def _evidence(running: Running, count: int) -> str:
    subject = running.enrol(new_identifier())
    return refused(lambda: put_authority(running, subject, participant_id="clinic-b", evidence=[PAPER] * count))


def named(running: Running, name: dict[str, str]) -> str:
    """Register a participant with this name, and publish a notice with it: both doors."""
    who = f"limits-{next(_numbers)}"
    notice = make_notice(who, title=name)
    (reason,) = {
        refused(lambda: register(running, who, [st.PARTICIPANT_ROLE_RECIPIENT], name=name)),
        refused(lambda: publish(running, notice)),
    }
    return reason


def publish(running: Running, notice: st.NoticeStatement) -> None:
    request = rs.PublishNoticeRequest(request_id=request_id(), attested=notice)
    running.registry.PublishNotice(request, metadata=running.as_("operator"))


def _registered_with(running: Running, *names: str) -> str:
    return refused(lambda: register(running, "named", [st.PARTICIPANT_ROLE_RECIPIENT], certificate_names=names))


@probes("certificate_names")
def _certificate_names(running: Running, count: int) -> str:
    return _registered_with(running, *(f"dns:host-{number}.example" for number in range(count)))


@probes("certificate_name_characters")
def _certificate_name(running: Running, count: int) -> str:
    return _registered_with(running, "uri:x:" + "y" * (count - 6))


@probes("backup_name_characters")
def _backup_name(_: Running, count: int) -> str:
    return refused(lambda: check_backup_name("n" * count))


@probes("credential_label_characters")
def _label(_: Running, count: int) -> str:
    return refused(lambda: auth.check_new("clinic-b", b"", end_ms=0, label="l" * count, now_ms=0))


# -- consents -----------------------------------------------------------------------------------------------------


def grant(running: Running, **root: Any) -> str:
    person = running.enrol(new_identifier())
    return refused(lambda: running.grant(person, **root))


@probes("provision_levels")
def _levels(running: Running, count: int) -> str:
    inner: list[pb.Provision] = []
    for _ in range(count - 1):
        inner = [pb.Provision(provisions=inner)]
    return grant(running, provisions=inner)


@probes("consent_provisions")
def _provisions(running: Running, count: int) -> str:
    return grant(running, provisions=[pb.Provision()] * (count - 1))


def with_uris(uris: list[str]) -> str:
    root = Provision(
        effect=Effect.PERMIT, purposes=("TREAT",), actors=("clinic-b",), categories=("CLIN",)
    )
    written = check.Consent(kind=check.Kind.CONSENT, root=root, policy_uris=tuple(uris))
    return refused(lambda: check.check_consent(written, DEFAULT_VOCABULARY))


@probes("policy_uris")
def _uris(_: Running, count: int) -> str:
    return with_uris(["https://policies.test"] * count)


@probes("policy_uri_bytes")
def _uri(_: Running, size: int) -> str:
    return with_uris(["u" * size])


def compiled(rows: int, side: int = 0, *, flags: int = PERMIT) -> Compiled:
    row = Row(*([0] * len(Row._fields)))._replace(flags=flags)
    return Compiled(1, 0, pack_rows([row]) * rows, bytes(side))


@probes("person_provisions")
def _person_provisions(_: Running, count: int) -> str:
    return refused(lambda: subject.check_limits(b"", 1, compiled(count)))


@probes("person_list_bytes")
def _person_lists(_: Running, size: int) -> str:
    return refused(lambda: subject.check_limits(b"", 1, compiled(1, size)))


def stored(each: list[Compiled]) -> str:
    lineages = [subject.Lineage(seq, seq, 1, False, one) for seq, one in enumerate(each, 1)]
    return refused(lambda: subject.encode_subject(lineages))


@probes("person_stored_provisions")
def _stored_provisions(_: Running, count: int) -> str:
    full, rest = divmod(count, 256)
    return stored([compiled(256, flags=0)] * full + [compiled(rest, flags=0)])


@probes("person_stored_list_bytes")
def _stored_lists(_: Running, size: int) -> str:
    return stored([compiled(1, 1 << 16, flags=0)] * (size >> 16) + [compiled(1, size % (1 << 16), flags=0)])


# -- the registry -------------------------------------------------------------------------------------------------


@probes("given_delegations")
def _given(running: Running, count: int) -> str:
    giver = f"giver-{next(_numbers)}"
    register(running, giver, [st.PARTICIPANT_ROLE_HOLDER])
    found = ""
    for _ in range(count):
        taker = f"taker-{next(_numbers)}"
        register(running, taker, [st.PARTICIPANT_ROLE_RELAY])
        assert found == ""
        found = refused(lambda taker=taker: put_delegation(running, giver, taker))
    return found


@probes("realm_rules")
def _rules(_: Running, count: int) -> str:
    rule = Provision(effect=Effect.DENY)
    found = {
        refused(lambda: compile_rules(Rules(statutory=(rule,) * count), DEFAULT_VOCABULARY, {})),
        refused(lambda: compile_rules(Rules(break_glass=(rule,) * count), DEFAULT_VOCABULARY, {})),
    }
    (reason,) = found
    return reason


def quota(**stated: int) -> str:
    return refused(lambda: check.check_rules(Rules(quotas=Quotas(**stated)), DEFAULT_VOCABULARY))


for _name in ("entries_per_day", "refusals_per_day", "persons_per_hour"):
    PROBES[f"quota_{_name}"] = lambda _, most, name=_name: quota(**{name: most})  # type: ignore[misc]


@probes("entries_per_day")
def _entries(_: Running, count: int) -> str:
    return counted(lambda counter, _: counter.count_entry("app", bytes(32), Quotas(), now_ms=0), count)


@probes("refusals_per_day")
def _refusals(_: Running, count: int) -> str:
    return counted(
        lambda counter, _: counter.count_entry("app", bytes(32), Quotas(), now_ms=0, is_refusal=True), count
    )


@probes("persons_per_hour")
def _persons(_: Running, count: int) -> str:
    return counted(
        lambda counter, number: counter.count_person("app", number.to_bytes(32), Quotas(), now_ms=0), count
    )


def counted(count_one: Callable[[QuotaCounter, int], None], count: int) -> str:
    counter = QuotaCounter(Metrics())
    for number in range(count - 1):
        count_one(counter, number)
    return refused(lambda: count_one(counter, count))


def with_codes(kind: str, count: int, length: int = 1) -> str:
    """Publish the default vocabulary with *count* codes of a kind; the last code has *length* characters."""
    known = getattr(DEFAULT_VOCABULARY, kind)
    level = "N" if kind == "categories" else ""
    implies = kind in ("purposes", "categories", "actions", "labels")
    made = {"name": {"en": "code"}, "level": level, "implies": implies}
    more = [Code(code=f"X{number}", **made) for number in range(count - len(known))]
    if more:
        more[-1] = replace(more[-1], code=more[-1].code.ljust(length, "x"))
    return refused(lambda: replace(DEFAULT_VOCABULARY, **{kind: (*known, *more)}))


for _name in ("purposes", "categories", "actions", "labels", "refusal_grounds", "legal_bases", "evidence"):
    PROBES[f"vocabulary_{_name}"] = lambda _, count, name=_name: with_codes(name, count)  # type: ignore[misc]


@probes("vocabulary_code_characters")
def _code(_: Running, count: int) -> str:
    return with_codes("labels", value_of("vocabulary_labels"), count)


# -- persons that call --------------------------------------------------------------------------------------------


@probes("id_token_bytes")
def _id_token(running: Running, size: int) -> str:
    provider, time_ms = Provider(running.config.ledger.data_dir), 10**12
    tokens = id_tokens_of(provider)
    filled = size * 3 // 4 - 200
    for header, payload in itertools.product(range(4), range(filled - 200, filled)):
        more = {"header": {"x": "x" * header}, "more": "x" * payload}
        if len(token := provider.token("SYN", time_ms, **more)) == size:
            return refused(lambda: tokens.verify(token, now_ms=time_ms))
    raise AssertionError("no token has this size")


@probes("person_keys")
def _person_keys(running: Running, count: int) -> str:
    subject, found = running.enrol(new_identifier()), ""
    for _ in range(count):
        key = KeyPair(request_id() * 2)
        stated = st.KeyStatement(key=key.public_key, attestation=st.Attestation(method="visit"))
        request = rs.AddKeyRequest(
            request_id=request_id(), subject=subject, attested=stated, possession=proof_of(key, subject)
        )
        found = refused(lambda request=request: running.registry.AddKey(request, metadata=running.as_("app")))
    return found


# -- the tests ----------------------------------------------------------------------------------------------------


def test_every_limit_that_refuses_is_tried() -> None:
    refuse = {name for name, limit in LIMITS.items() if "reason" in limit}
    assert refuse == set(PROBES) | ELSEWHERE


@pytest.mark.parametrize("name", sorted(PROBES))
def test_a_limit_is_met_at_its_value(running: Running, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = value_of(name)
    if name in LOWERED:
        module, constant, lower = LOWERED[name]
        assert getattr(module, constant) == value
        monkeypatch.setattr(module, constant, lower)
        value = lower
    assert PROBES[name](running, value) == ""
    beyond = value + 1 if "most" in LIMITS[name] else value - 1
    assert PROBES[name](running, beyond) == LIMITS[name]["reason"]
