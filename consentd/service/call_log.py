"""Log refused calls and recorded decisions, with the caller, its addresses, and the participants that the call names.

A line shows an operator which caller is responsible. It has no identifier, tag or text of a person: the caller was
authenticated, reasons and RPCs are from closed sets, and a name in a question is logged only if it is a participant's.

A flood of calls must not fill the disk. So there is at most one line a second for each kind of line, caller and reason,
with the count of its calls, and the addresses of the first ones; the other fields are those of its first call. A line
is written when its second is over.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

from google.protobuf.message import Message

from consentd.errors import ConsentdError, MalformedError, RequestError
from consentd.policy.model import SUBJECT
from consentd.service.requests import MAX_QUESTION
from consentd.statements import payloads
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb

log = logging.getLogger("consentd.calls")

MAX_ADDRESSES = 8
"""Most addresses in one line. Callers without a credential may call from any number of them."""
MAX_ASKED = 64
"""Of how many calls of a line the address is asked for: of the first ones. A flood of refused calls would take a fifth
of its time for that."""
PERIOD_S = 1.0

_MAX_RELAYS = 8

Names = Mapping[str, str | list[str]]
"""The participants that a call names: ``organisation``, ``on_behalf_of``, ``application``, ``relays``, ``holder``."""


class LoggedCall(Protocol):
    """The part of a call's context that is logged."""

    @property
    def caller(self) -> str:
        """The caller that authentication found; empty: none."""

    def peer(self) -> str:
        """Return the address of the peer as gRPC names it."""


@dataclass(slots=True)
class _Line:
    """A line that is not written yet: the fields of its first call, the count of calls, and their addresses."""

    level: int
    fields: Mapping[str, Any]
    count: int = 0
    addresses: list[str] = field(default_factory=list)


def write_later(flush: Callable[[], None]) -> None:
    """Call *flush* after ``PERIOD_S``, on a thread of its own."""
    timer = threading.Timer(PERIOD_S, flush)
    timer.daemon = True
    timer.start()


class CallLog:
    """Collects the lines of a second. Any thread may use it; ``_lock`` guards ``_lines``."""

    def __init__(self, later: Callable[[Callable[[], None]], None] = write_later) -> None:
        """Write the lines of a second when *later* calls its argument."""
        self._later = later
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str, str], _Line] = {}

    def refused(
        self, rpc: str, error: ConsentdError, call: LoggedCall, names: Callable[[], Names] = dict, *, code: str = ""
    ) -> None:
        """Log that a call, or an item of a batch, ended with *error*. *names* is called once for each line at most.

        *code*: the status code of the answer; empty: the error is that of an item.
        """
        what = "call refused" if isinstance(error, RequestError) else "call failed"
        self._add(logging.INFO, what, rpc, error.reason, call, names, code)

    def recorded(
        self, rpc: str, reason: str, call: LoggedCall, names: Callable[[], Names], *, is_refusal: bool
    ) -> None:
        """Log that a decision is recorded. *reason*: DECISION, or the ground of a consent's refusal.

        A permitted access has level debug, because there are thousands a second.
        """
        if is_refusal:
            self._add(logging.INFO, "refusal recorded", rpc, reason, call, names, "")
        else:
            self._add(logging.DEBUG, "access recorded", rpc, reason, call, names, "")

    def administered(self, what: str, rpc: str, call: LoggedCall, fields: Mapping[str, str]) -> None:
        """Log at once what an operator changed: *what* happened, with *fields* that name it. No line stands for two."""
        shown = {"rpc": rpc, "caller": call.caller, **fields, "addresses": [_address(call.peer())]}
        log.info("%s", what, extra={"fields": shown})

    def ended(self, rpc: str, code: str, call: LoggedCall) -> None:
        """Log that the server ended a call with a status *code* that has no reason of ours. INTERNAL: a bug."""
        what = "call failed" if code == "INTERNAL" else "call refused"
        self._add(logging.INFO, what, rpc, code, call, dict, code)

    def flush(self) -> None:
        """Write the lines that are collected."""
        with self._lock:
            lines, self._lines = self._lines, {}
        for line in lines.values():
            message = line.fields["message"]
            shown = {name: value for name, value in line.fields.items() if name != "message" and value}
            fields = {**shown, "addresses": line.addresses, "count": line.count}
            log.log(line.level, "%s", message, extra={"fields": fields})

    def _add(
        self, level: int, message: str, rpc: str, reason: str, call: LoggedCall, names: Callable[[], Names], code: str
    ) -> None:
        if not log.isEnabledFor(level):
            return
        key = message, call.caller, reason
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                is_first = not self._lines
                fields = {"message": message, "rpc": rpc, "reason": reason, "code": code, "caller": call.caller}
                line = self._lines[key] = _Line(level, fields)
            else:
                is_first = False
            line.count += 1
            is_new = line.count == 1
            if line.count <= MAX_ASKED and len(line.addresses) < MAX_ADDRESSES:
                address = _address(call.peer())
                if address not in line.addresses:
                    line.addresses.append(address)
        if is_new:
            # Names are read without the lock, because they may need a read of the table.
            line.fields = {**line.fields, **_read(names)}
        if is_first:
            self._later(self.flush)


def _read(names: Callable[[], Names]) -> Names:
    """Return the names of a call; none if they cannot be read, because a log must not end a call."""
    try:
        return names()
    except ConsentdError:
        return {}


def _address(peer: str) -> str:
    """Return a peer's address without the port, so that the connections of one host are one address.

    Examples: ``ipv4:192.0.2.7:4711``, ``ipv6:%5B2001:db8::7%5D:4711``.
    """
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in ("ipv4", "ipv6") else peer


def named_participants(view: View, asked: object) -> Names:
    """Return the registered participants that a question names; of names that are not registered, nothing.

    Args:
        asked: a question, or a request that has a question; the names of any other object are empty.
    """
    question = _question_of(asked)
    if question is None:
        return {}
    known, actor = view.registry().participants, question.actor
    names = {
        "organisation": actor.organisation, "on_behalf_of": actor.on_behalf_of, "application": actor.application,
        "holder": question.holder,
    }  # fmt: skip
    found: dict[str, str | list[str]] = {what: name for what, name in names.items() if name in known}
    if actor.organisation == SUBJECT:
        found["organisation"] = SUBJECT
    relays = [name for name in actor.relays[:_MAX_RELAYS] if name in known]
    return {**found, "relays": relays} if relays else found


def _question_of(asked: Any) -> pb.Question | None:
    if isinstance(asked, pb.Question):
        return asked
    form = asked.DESCRIPTOR.fields_by_name if isinstance(asked, Message) else {}
    if "signed_question" in form and asked.HasField("signed_question"):
        signed = asked.signed_question.question
        try:
            return payloads.parse(pb.Question, signed) if len(signed) <= MAX_QUESTION else None
        except MalformedError:
            return None
    if "question" in form and asked.HasField("question"):
        return _question_of(asked.question)
    return None
