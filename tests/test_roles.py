"""The table of who may call what has a line for every RPC, and the server uses no other."""

from inspect import iscoroutine
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from cases.command_lines import CommandLine
from cases.daemons import make_config
from consentd.errors import DeniedError
from consentd.metrics import Metrics
from consentd.server import rpc_server
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys
from consentd.service import roles
from consentd.service.access import AccessService
from consentd.service.admin import AdminService
from consentd.service.consents import ConsentService
from consentd.service.context import Context, EndedCallError
from consentd.service.policy import PolicyService
from consentd.service.proofs import LedgerService
from consentd.service.registry import RegistryService
from consentd.service.roles import Access, Kind, Whose
from consentd.v1 import (
    access_service_pb2,
    admin_service_pb2,
    consent_service_pb2,
    ledger_service_pb2,
    policy_service_pb2,
    registry_service_pb2,
)

FILES = (
    access_service_pb2, admin_service_pb2, consent_service_pb2, ledger_service_pb2, policy_service_pb2,
    registry_service_pb2,
)  # fmt: skip


def methods() -> list[MethodDescriptor]:
    return [
        method
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]  # fmt: skip


def test_every_rpc_has_a_line_and_every_line_an_rpc() -> None:
    names = [method.name for method in methods()]
    assert len(set(names)) == len(names)
    assert set(roles.TABLE) == set(names)


def test_a_daemon_does_not_start_with_an_rpc_that_has_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    make_keys(config)
    without = {name: lines for name, lines in roles.TABLE.items() if name != "RevokeConsent"}
    monkeypatch.setattr(rpc_server, "TABLE", without)
    with pytest.raises(AssertionError, match="RevokeConsent"):
        Daemon(config)


class Stranger:
    """In place of a service: it refuses every caller, and remembers for which RPC."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.asked: list[str] = []
        self.logged: list[str] = []
        self.call_log = self

    def authorize(self, name: str, context: object) -> None:
        self.asked.append(name)
        raise DeniedError("nobody may call")

    def names_in(self, asked: object) -> dict[str, str]:
        return {}

    def refused(self, name: str, *_: object, **__: object) -> None:
        self.logged.append(name)


def begin(answer: Any) -> None:
    """Run the first step of a handler that waits or streams. A plain handler has run already."""
    if iscoroutine(answer):
        answer.send(None)
    next(answer)


def test_every_handler_authorizes_its_caller_before_anything_else() -> None:
    stranger, context = Stranger(), cast(Context, None)
    for service in (AccessService, AdminService, ConsentService, LedgerService, PolicyService, RegistryService):
        for name in roles.TABLE.keys() & vars(service).keys():
            with pytest.raises(EndedCallError) as refused:
                begin(getattr(service, name)(stranger, None, context))
            assert refused.value.status.code is grpc.StatusCode.PERMISSION_DENIED
    assert sorted(stranger.asked) == sorted(roles.TABLE)
    assert stranger.logged == stranger.asked


def test_a_reduced_answer_is_described_and_nothing_else_is() -> None:
    reduced = {
        name for name, lines in roles.TABLE.items()
        for cells in lines.values() if Access.REDUCED in cells.values()
    }  # fmt: skip
    assert set(roles.REDUCED) == reduced
    assert all(ko and en for ko, en in roles.REDUCED.values())


def test_a_caller_gets_the_widest_of_its_cells() -> None:
    kinds = frozenset({Kind.RELAY, Kind.SEE_REASONS})
    assert roles.access("Check", kinds, Whose.OWN) is Access.ALLOWED
    assert roles.access("Check", {Kind.RELAY}, Whose.OWN) is Access.REDUCED
    assert roles.access("ListConsents", kinds, Whose.OWN) is Access.DENIED  # as for other data
    assert roles.access("GetCheckpoint", {Kind.NOBODY}, Whose.PUBLIC) is Access.ALLOWED
    assert not roles.may_call("ListConsents", kinds)


def test_whoever_is_not_known_gets_what_nobody_gets() -> None:
    for name, lines in roles.TABLE.items():
        for cells in lines.values():
            assert cells[Kind.NOBODY] == cells[Kind.UNREGISTERED] == cells[Kind.INACTIVE], name
        assert roles.needs_credential(name) is not roles.may_call(name, frozenset({Kind.NOBODY}))


def test_the_verb_prints_every_cell() -> None:
    run = CommandLine()
    shown = run("roles", "--json")
    assert shown.status == 0
    lines = {(one["rpc"], one["whose"]): one["cells"] for one in shown.objects}
    assert lines == {
        (name, whose): {kind: cells[kind].name.lower() for kind in Kind}
        for name, of in roles.TABLE.items()
        for whose, cells in of.items()
    }
    for language, said in (("ko", "다른 사람"), ("en", "other")):
        text = run("roles", "--lang", language).out
        assert text.count(said) >= len(roles.TABLE) // 3
        assert all(name in text for name in roles.TABLE)
