"""Every cell of the table of roles, by real calls: each caller × each RPC × whose data, answered as the table says."""

from collections.abc import Iterator

import grpc
import pytest

from cases.daemons import serve
from cases.roles import ATTEMPTS, KINDS, Call, World
from consentd.service.roles import TABLE, Access, Kind, Whose, access


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("daemon"))
    for _ in serve(made.running):
        yield made


def kinds_of_data(rpc: str) -> list[Whose]:
    """Return whose data calls of an RPC can be about. Without a line for own data, own is as other's."""
    lines = TABLE[rpc]
    own = [Whose.OWN] if Whose.OTHER in lines and Whose.OWN not in lines else []
    return [*lines, *own]


def test_the_callers_are_of_every_kind_and_every_rpc_is_called() -> None:
    assert frozenset().union(*KINDS.values()) == frozenset(Kind)
    assert set(ATTEMPTS) == set(TABLE)


@pytest.mark.parametrize("rpc", TABLE)
def test_every_cell_of_an_rpc_is_as_the_table_says(world: World, rpc: str) -> None:
    for caller, kinds in KINDS.items():
        for whose in kinds_of_data(rpc):
            world.begin(caller, enrols=rpc == "EnrolSubject")
            call = Call(world, caller, whose)
            found, expected = ATTEMPTS[rpc](call), access(rpc, kinds, whose)
            assert (found.name, caller, whose) == (expected.name, caller, whose)
            if found is Access.DENIED and call.code is not None:
                is_nobody = kinds == {Kind.NOBODY}
                refused = grpc.StatusCode.UNAUTHENTICATED if is_nobody else grpc.StatusCode.PERMISSION_DENIED
                assert call.code is refused
