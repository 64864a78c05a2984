"""Requests that were in order, sent again by every other kind of caller, whole, mixed with their own, and as mutants.

``record`` makes each RPC's call as a caller that the table of roles allows, and keeps the request. The other callers
then send it. What they may not do must be refused, and no answer may name the person whose data the request was about.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from cases.daemons import reason_of, request_id
from cases.logins import bearer, call_metadata
from cases.roles import ATTEMPTS, CITIZEN, CITIZEN_KEY, KINDS, Call, World
from cases.services import now_ms
from consentd.service.roles import TABLE, Access, Whose, access
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps

TIMEOUT_S = 60
_PARTIES = ("holder", "recipient", "relay", "relay-acts")
_NOT_OTHERS = (Whose.OWN, Whose.OWN_THEN, Whose.UNKNOWN, Whose.PUBLIC)
_RESPONSES: dict[str, Any] = {
    "BatchCheck": ps.BatchCheckResponse, "BatchAuthorizeAccesses": ac.BatchAuthorizeAccessesResponse,
    "BatchRecordAccesses": ac.BatchRecordAccessesResponse,
}  # fmt: skip
OURS = {"INTERNAL", "CORRUPTION", "STORAGE", "CLOCK"}
"""Reasons of faults of the daemon, which no caller may cause."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that was answered.

    Attributes:
        path: the path of the RPC; *is_stream*: whether the answer is one.
        names: identifiers of persons and ids of consents in the request.
    """

    rpc: str
    path: str
    is_stream: bool
    caller: str
    whose: Whose
    request: Message = field(repr=False)

    @property
    def parties(self) -> set[str]:
        """Who has a part in what the request is about. ``World`` makes the holder and the recipient parties to accesses
        and questions, and the recipient lets relays act for it.
        """
        return {self.caller, *(_PARTIES if self.whose in (Whose.OWN, Whose.OWN_THEN) else ())}

    @property
    def names(self) -> set[bytes]:
        """What an answer to somebody else may not have."""
        return set(_names(self.request))


def _names(message: Message) -> Iterator[bytes]:
    for one, value in message.ListFields():
        if one.message_type is not None:
            for inner in value if one.is_repeated else [value]:
                if isinstance(inner, Message):
                    yield from _names(inner)
        elif (one.name == "consent_id" or (isinstance(message, pb.Subject) and one.name == "value")) and value:
            yield value.encode()


class _Recording(Call):
    def __init__(self, world: World, caller: str, whose: Whose, rpc: str, found: list[Recorded]) -> None:
        super().__init__(world, caller, whose)
        self._rpc, self._found = rpc, found

    def make(self, method: Any, request: Any) -> Any:
        answer = super().make(method, request)
        path = method._method
        path = path.decode() if isinstance(path, bytes) else path
        if not isinstance(answer, Access) and path.endswith(f"/{self._rpc}"):
            kept = type(request)()
            kept.CopyFrom(request)
            is_stream = isinstance(answer, list)
            self._found.append(Recorded(self._rpc, path, is_stream, self.caller, self.whose, kept))
        return answer


def record(world: World, rpc: str, *, callers: Sequence[str] = tuple(KINDS)) -> list[Recorded]:
    """Return requests of an RPC that were answered: one for each way in which the table lets somebody call it."""
    found: list[Recorded] = []
    for whose in TABLE[rpc]:
        for caller in callers:
            if access(rpc, KINDS[caller], whose) in (Access.ALLOWED, Access.REDUCED):
                world.begin(caller, enrols=rpc == "EnrolSubject")
                ATTEMPTS[rpc](_Recording(world, caller, whose, rpc, found))
                break
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended; *content*: the bytes of the answer, or the text of the error."""

    code: grpc.StatusCode
    reason: str
    content: bytes = field(repr=False)

    def is_refused(self, rpc: str) -> bool:
        """Return whether the call did nothing: of a batch, whether each item has an error."""
        if self.code is not grpc.StatusCode.OK:
            return True
        if not rpc.startswith("Batch"):
            return False
        results = _RESPONSES[rpc].FromString(self.content).results
        return bool(results) and all(one.HasField("error") for one in results)


def send(world: World, caller: str, one: Recorded, message: bytes) -> Answer:
    """Send bytes as a caller. ``world.begin`` has chosen the person if the caller is one."""
    channel, metadata = world.running.channel, _metadata(world, caller, one.path, message)
    try:
        if one.is_stream:
            parts = list(channel.unary_stream(one.path)(message, metadata=metadata, timeout=TIMEOUT_S))
        else:
            parts = [channel.unary_unary(one.path)(message, metadata=metadata, timeout=TIMEOUT_S)]
    except grpc.RpcError as error:
        return Answer(error.code(), reason_of(error), str(error.details()).encode())
    return Answer(grpc.StatusCode.OK, "", b"".join(parts))


def _metadata(world: World, caller: str, path: str, message: bytes) -> Any:
    if caller == CITIZEN:
        assert world.me is not None
        return bearer(world.provider.token(world.me.value, now_ms(world.running)))
    if caller == CITIZEN_KEY:
        return call_metadata(world.my_key, path, message, now_ms(world.running))
    return None if caller == "nobody" else world.running.as_(caller)


def allowed(caller: str, one: Recorded) -> Access:
    """Return what a caller gets who sends the request: because of the table, or because the caller has a part in it."""
    if one.whose is Whose.UNKNOWN or (caller in one.parties and caller not in (CITIZEN, CITIZEN_KEY)):
        return Access.ALLOWED
    others = [whose for whose in TABLE[one.rpc] if whose not in _NOT_OTHERS]
    found = {access(one.rpc, KINDS[caller], whose) for whose in ([one.whose] if one.whose is Whose.PUBLIC else others)}
    return next((best for best in (Access.ALLOWED, Access.REDUCED) if best in found), Access.DENIED)


# -- probes ---------------------------------------------------------------------------------------------------


def probes(world: World, caller: str, one: Recorded) -> Iterator[Message]:
    """Yield requests with which a caller tries to get at what *one* was about: the request itself; with another
    request_id; and each of its fields in turn replaced by the caller's own, or taken away.
    """
    yield one.request
    mine = world.me if world.me is not None else pb.Subject(scheme="mhid", value="SYN-000000")
    for changed in one.request.DESCRIPTOR.fields:
        if changed.is_repeated or (changed.has_presence and not one.request.HasField(changed.name)):
            continue
        probe: Any = type(one.request)()
        probe.CopyFrom(one.request)
        if changed.message_type is not None and changed.message_type.full_name == pb.Subject.DESCRIPTOR.full_name:
            getattr(probe, changed.name).CopyFrom(mine)
        elif changed.name == "request_id":
            probe.request_id = request_id()
        elif changed.name in ("participant_id", "giver", "taker", "auditor", "caller"):
            setattr(probe, changed.name, caller)
        else:
            probe.ClearField(changed.name)
        yield probe
