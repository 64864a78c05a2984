"""Delegations by gRPC, the Python client and the command line, against a real daemon."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, request_id, running_daemon, sign_statement
from cases.delegations import statement
from cases.services import FOREIGN_FIELD, add_key, now_ms, refusal, register, retire_key
from consentd.core import codec, note
from consentd.core.kinds import EntryKind
from consentd.errors import DeniedError, InvalidError, NotFoundError
from consentd.policy.delegation import Capacity
from consentd.secret_files import make_secret_file
from consentd.server.keys import read_keys
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, KeyPair, StatementSigner, pin, show

CLINIC = KeyPair(b"\x31" * 32)
HOSPITAL = KeyPair(b"\x32" * 32)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A daemon in which two participants have keys; its ledger is verified afterwards."""
    with running_daemon(tmp_path) as running:
        add_key(running, "clinic-b", CLINIC)
        add_key(running, "hospital-a", HOSPITAL)
        for one in found(running):
            end(running, "operator", given(one.giver, one.taker, Capacity(one.capacity), ended=True))
        yield running
        running.check_ledger()


def given(*parties: Any, **fields: Any) -> st.DelegationStatement:
    return statement(*(parties or ("clinic-b", "app", Capacity.RELAY)), **fields)


def of_er(**fields: Any) -> st.DelegationStatement:
    """Return a delegation of a participant without a key."""
    return given("er", "app", Capacity.RELAY, **fields)


def put(running: Running, who: str, message: st.DelegationStatement, *, id_: bytes = b"", key: Any = None) -> Any:
    request = rs.PutDelegationRequest(request_id=id_ or request_id())
    if key is None:
        request.attested.CopyFrom(message)
    else:
        request.signed.CopyFrom(signed(running, message, request.request_id, key))
    return running.registry.PutDelegation(request, metadata=running.as_(who)).receipt


def end(running: Running, who: str, message: st.DelegationStatement, *, key: Any = None, **sign: Any) -> Any:
    request = rs.EndDelegationRequest(request_id=request_id())
    if key is None:
        request.attested.CopyFrom(message)
    else:
        request.signed.CopyFrom(signed(running, message, request.request_id, key, **sign))
    return running.registry.EndDelegation(request, metadata=running.as_(who)).receipt


def signed(running: Running, message: st.DelegationStatement, id_: bytes, key: KeyPair, **more: Any) -> Any:
    tag = codec.public_tag(f"participant/{message.giver}")
    fields = {"kind": EntryKind.DELEGATION, "tag": tag, "time_ms": now_ms(running), **more}
    return sign_statement(key, message, request=id_, **fields)


def found(running: Running, *, who: str = "pipc", **more: Any) -> list[st.DelegationStatement]:
    request = rs.ListDelegationsRequest(**more)
    return list(running.registry.ListDelegations(request, metadata=running.as_(who)).delegations)


def test_an_operator_writes_a_delegation_or_its_giver_signs_it(running: Running) -> None:
    by_operator = of_er(purposes=["TREAT"], end_time_ms=now_ms(running) + 10**6)
    put(running, "operator", by_operator)
    assert found(running) == [by_operator]
    end(running, "operator", of_er(ended=True))
    mine = given(break_glass=True)
    put(running, "clinic-b", mine, key=CLINIC)
    assert found(running) == [mine]
    end(running, "clinic-b", given(ended=True), key=CLINIC)
    assert found(running) == []
    put(running, "clinic-b", mine, key=CLINIC)
    end(running, "operator", given(ended=True))
    assert found(running) == []


def test_policy_10_a_giver_with_a_key_signs_its_delegations_and_no_operator_attests_them(running: Running) -> None:
    assert refusal(lambda: put(running, "operator", given())) == "SIGN_WITH_KEY"
    put(running, "clinic-b", given(), key=CLINIC)
    assert refusal(lambda: put(running, "operator", given(break_glass=True))) == "SIGN_WITH_KEY"
    end(running, "operator", given(ended=True))  # an operator may take away, and not give
    retire_key(running, "clinic-b", CLINIC.public_key)
    put(running, "operator", given())
    assert found(running) == [given()]


@pytest.mark.parametrize("capacity", Capacity)
def test_a_taker_has_a_role_of_the_capacity(running: Running, capacity: Capacity) -> None:
    for role, suitable in (
        (st.PARTICIPANT_ROLE_HOLDER, (Capacity.PROCESSOR, Capacity.APPLICATION)),
        (st.PARTICIPANT_ROLE_RECIPIENT, (Capacity.PROCESSOR, Capacity.APPLICATION)),
        (st.PARTICIPANT_ROLE_RELAY, (Capacity.RELAY, Capacity.APPLICATION)),
        (st.PARTICIPANT_ROLE_AUDITOR, ()), (st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY, ()),
    ):  # fmt: skip
        taker = f"taker-{role}"
        register(running, taker, [role])
        if capacity in suitable:
            put(running, "operator", given("er", taker, capacity))
        else:
            made = given("er", taker, capacity)
            assert refusal(lambda made=made: put(running, "operator", made)) == "WRONG_ROLE"


def test_a_taker_keeps_a_role_of_the_capacity_while_somebody_delegates_to_it(running: Running) -> None:
    relay, auditor = st.PARTICIPANT_ROLE_RELAY, st.PARTICIPANT_ROLE_AUDITOR
    register(running, "taker", [relay])
    put(running, "operator", given("er", "taker", Capacity.RELAY))
    for roles in ([st.PARTICIPANT_ROLE_RECIPIENT], [auditor]):
        assert refusal(lambda roles=roles: register(running, "taker", roles)) == "WRONG_ROLE"
    register(running, "taker", [relay], active=False)
    end(running, "operator", given("er", "taker", Capacity.RELAY, ended=True))
    register(running, "taker", [auditor])


def test_42_9_2_a_relay_has_no_other_role(running: Running) -> None:
    relay = st.PARTICIPANT_ROLE_RELAY
    for role in set(st.ParticipantRole.values()) - {0, relay}:
        assert refusal(lambda role=role: register(running, "app", [relay, role])) == "INVALID_REQUEST"
        assert refusal(lambda role=role: register(running, "new", [role, relay])) == "INVALID_REQUEST"


def test_nobody_else_writes_or_ends_one(running: Running) -> None:
    put(running, "clinic-b", given(), key=CLINIC)
    of_hospital = given("hospital-a", "app", Capacity.RELAY)
    for who in ("clinic-b", "app", "er", "pipc"):
        assert refusal(lambda who=who: put(running, who, given())) == "CALLER_NOT_ALLOWED"
        assert refusal(lambda who=who: end(running, who, given(ended=True))) == "CALLER_NOT_ALLOWED"
    for who in ("app", "hospital-a", "operator"):  # a signature of the giver, passed on by another
        assert refusal(lambda who=who: put(running, who, given(), key=CLINIC)) == "CALLER_NOT_ALLOWED"
        ended = given(ended=True)
        assert refusal(lambda who=who, m=ended: end(running, who, m, key=CLINIC)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: put(running, "clinic-b", of_hospital, key=CLINIC)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: put(running, "clinic-b", given(), key=HOSPITAL)) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: put(running, "clinic-b", given(), key=KeyPair(b"\x33" * 32))) == "KEY_NOT_IN_FORCE"
    register(running, "clinic-b", [st.PARTICIPANT_ROLE_RECIPIENT], active=False)
    assert refusal(lambda: put(running, "clinic-b", given(), key=CLINIC)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: end(running, "clinic-b", given(ended=True), key=CLINIC)) == "CALLER_NOT_ALLOWED"
    assert found(running) == [given()]
    end(running, "operator", given(ended=True))  # although the giver has left


def test_a_signature_is_for_one_request_chain_and_kind(running: Running) -> None:
    put(running, "clinic-b", given(), key=CLINIC)
    ended = given(ended=True)
    for change in (
        {"kind": EntryKind.KEY},
        {"tag": codec.public_tag("participant/hospital-a")},
        {"ref": 1},
        {"id_": bytes(16)},
    ):
        id_ = change.pop("id_", None)
        request = rs.EndDelegationRequest(request_id=request_id())
        request.signed.CopyFrom(signed(running, ended, id_ or request.request_id, CLINIC, **change))
        reason = refusal(lambda r=request: running.registry.EndDelegation(r, metadata=running.as_("clinic-b")))
        assert reason == ("REF_MOVED" if "ref" in change else "BAD_SIGNATURE")
    late = now_ms(running) - 10**7
    assert refusal(lambda: end(running, "clinic-b", ended, key=CLINIC, time_ms=late)) == "AUTHOR_CLOCK"
    assert found(running) == [given()]


def test_what_is_signed_is_what_is_asked(running: Running) -> None:
    put(running, "clinic-b", given(), key=CLINIC)
    put(running, "clinic-b", given("clinic-b", "hospital-a", Capacity.PROCESSOR), key=CLINIC)

    def ask(message: st.DelegationStatement) -> str:
        request = rs.EndDelegationRequest(request_id=request_id())
        request.signed.CopyFrom(signed(running, message, request.request_id, CLINIC))
        return refusal(lambda: running.registry.EndDelegation(request, metadata=running.as_("clinic-b")))

    assert ask(given()) == "INVALID_REQUEST"  # does not end it
    attested = given(ended=True)
    attested.attestation.attested_by = "operator"
    assert ask(attested) == "INVALID_REQUEST"
    unknown = st.DelegationStatement.FromString(given(ended=True).SerializeToString() + FOREIGN_FIELD)
    assert ask(unknown) == "UNKNOWN_FIELD"
    assert refusal(lambda: put(running, "clinic-b", given(ended=True), key=CLINIC)) == "INVALID_REQUEST"
    assert refusal(lambda: put(running, "operator", given(ended=True))) == "INVALID_REQUEST"
    empty = rs.PutDelegationRequest(request_id=request_id())
    as_operator = {"metadata": running.as_("operator")}
    assert refusal(lambda: running.registry.PutDelegation(empty, **as_operator)) == "INVALID_REQUEST"
    assert len(found(running)) == 2


def test_repeats_and_conflicts(running: Running) -> None:
    id_ = request_id()
    first = put(running, "operator", of_er(), id_=id_)
    again = put(running, "operator", of_er(), id_=id_)
    assert (again.leaf, again.replayed) == (first.leaf, True)
    assert refusal(lambda: put(running, "operator", of_er(break_glass=True), id_=id_)) == "REQUEST_ID_REUSED"
    assert refusal(lambda: put(running, "operator", of_er(), id_=bytes(15))) == "INVALID_REQUEST_ID"
    end(running, "operator", of_er(ended=True))
    assert refusal(lambda: end(running, "operator", of_er(ended=True))) == "NOT_FOUND"
    put(running, "operator", of_er(), id_=id_)  # a repeat gives nothing again
    assert found(running) == []


def test_the_list_is_filtered_and_paged(running: Running) -> None:
    everything = [
        given("hospital-a", "clinic-b", Capacity.PROCESSOR),
        given("hospital-a", "app", Capacity.RELAY),
        given("hospital-a", "app", Capacity.APPLICATION),
        given("clinic-b", "app", Capacity.RELAY),
    ]
    for one in reversed(everything):
        running.put_delegation(one)
    assert found(running) == everything
    assert found(running, giver="hospital-a") == everything[:3]
    assert found(running, taker="app") == everything[1:]
    assert found(running, giver="clinic-b", taker="hospital-a") == []
    assert found(running, giver="nobody") == found(running, taker="nobody") == []
    assert found(running, giver="hospital-a", capacity=Capacity.RELAY) == everything[1:2]
    pages, token = [], ""
    for _ in everything:
        request = rs.ListDelegationsRequest(page_size=1, page_token=token)
        page = running.registry.ListDelegations(request, metadata=running.as_("pipc"))
        pages += page.delegations
        token = page.next_page_token
    assert (pages, token) == (everything, "")
    first = rs.ListDelegationsRequest(page_size=1, giver="hospital-a")
    token = running.registry.ListDelegations(first, metadata=running.as_("pipc")).next_page_token
    for who, fields in (("app", {"giver": "hospital-a"}), ("pipc", {}), ("pipc", {"taker": "hospital-a"})):
        assert refusal(lambda w=who, f=fields: found(running, who=w, page_token=token, **f)) == "INVALID_PAGE"
    assert refusal(lambda: found(running, page_size=-1)) == "INVALID_PAGE"


# -- the Python client --------------------------------------------------------------------------------------------


@pytest.fixture
def connect(running: Running) -> Callable[[str], Client]:
    trust = pin(note.format_vkey(read_keys(running.config).log.verifier))
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return lambda who: Client(target, token=running.tokens[who], trust=trust)


def test_the_client_gives_and_ends(connect: Callable[[str], Client]) -> None:
    signer = StatementSigner.of_participant(CLINIC, origin=ORIGIN, participant_id="clinic-b")
    with connect("operator") as operator, connect("clinic-b") as clinic:
        operator.put_delegation(of_er(), published=True)
        assert clinic.put_delegation(given(), signer=signer).kind == EntryKind.DELEGATION
        assert sorted(one.giver for one in clinic.list_delegations()) == ["clinic-b", "er"]
        assert list(clinic.list_delegations(giver="er")) == [of_er()]
        assert list(clinic.list_delegations(taker="er")) == []
        with pytest.raises(DeniedError):
            clinic.end_delegation("clinic-b", "app", st.DELEGATION_CAPACITY_RELAY)
        with pytest.raises(InvalidError):
            clinic.put_delegation(given(purposes=["BTG"]), signer=signer)
        clinic.end_delegation("clinic-b", "app", st.DELEGATION_CAPACITY_RELAY, signer=signer, published=True)
        with pytest.raises(NotFoundError):
            operator.end_delegation("clinic-b", "app", st.DELEGATION_CAPACITY_RELAY)
        shown = clinic.public_history("participant/clinic-b").entries[-3:]
        assert [entry.kind_name for entry in shown] == ["DELEGATION"] * 3
        assert [entry.author for entry in shown] == ["ledger", *["participant/clinic-b"] * 2]
        assert [show.describe(entry.message, "en") for entry in shown[1:]] == [
            "app → clinic-b, relay, any", "app → clinic-b, relay, ended",
        ]  # fmt: skip


# -- the command line ---------------------------------------------------------------------------------------------


def test_the_command_line_gives_lists_and_ends(running: Running, tmp_path: Path) -> None:
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    talk = CommandLine({"CONSENTD_TARGET": target, "CONSENTD_TOKEN": running.tokens["operator"]})
    pair = ("er", "app", "--as", "relay")
    more = ("--purpose", "TREAT", "--from", "2020-01-01", "--until", "2099-12-31", "--break-glass")
    assert talk("participants", "delegate", *pair, *more).out.startswith("app → er, relay, TREAT, break-glass, ")
    assert talk("participants", "delegate", "er", "app", "--as", "application").status == 0
    listed = talk("participants", "delegations", "--giver", "er", "--as", "relay", "--json").object
    assert (listed["taker"], listed["capacity"], listed["purposes"], listed["break_glass"]) == (
        "app", "relay", ["TREAT"], True,
    )  # fmt: skip
    assert len(talk("participants", "delegations", "--taker", "app").out.splitlines()) == 2
    assert talk("participants", "end-delegation", *pair, "--lang", "ko").out == "app → er, 중계, 종료\n"
    assert talk("participants", "end-delegation", *pair).status == 2
    assert talk("participants", "delegate", "er", "nobody", "--as", "relay").status == 2
    app = talk.given(CONSENTD_TOKEN=running.tokens["app"])
    assert "(CALLER_NOT_ALLOWED)" in app("participants", "delegate", *pair).err
    assert len(app("participants", "delegations").out.splitlines()) == 1
    key = tmp_path / "clinic.key"
    make_secret_file(key, CLINIC.seed.hex().encode())
    own, signed = ("clinic-b", "app", "--as", "relay"), ("--sign-with", str(key), "--origin", ORIGIN)
    assert "(SIGN_WITH_KEY)" in talk("participants", "delegate", *own).err
    clinic = talk.given(CONSENTD_TOKEN=running.tokens["clinic-b"])
    assert clinic("participants", "delegate", *own, *signed).status == 0
    assert clinic("participants", "end-delegation", *own, *signed).out == "app → clinic-b, relay, ended\n"
