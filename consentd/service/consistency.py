"""Keep the condition that a call has on the state that it is answered from (``Consistency``).

The table reflects every acknowledged write, so a caller that got its size from this daemon never waits. Others wait
without a thread, and count among the calls that wait: their pool stays free for calls that can be answered.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from consentd.errors import InvalidError, NotReachedError
from consentd.service.auth import UnauthenticatedError
from consentd.service.context import Context, Waiting
from consentd.service.servicer import Services, cancel_all, remaining_s
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb

MAX_AHEAD = 1_000_000
"""A size that is so many leaves ahead of the ledger's is refused: the ledger does not grow by so many in a wait."""


async def reach(services: Services, consistency: pb.Consistency, context: Context) -> None:
    """Wait until the table reflects what a call is to be answered from; every later snapshot reflects it too.

    Raises:
        InvalidError: as ``check_reached``.
        NotReachedError: the time to wait is over, or too many calls wait.
        UnauthenticatedError: the caller's credential was removed, or ended, while the call waited.
    """
    least = _awaited(services, consistency)
    if least:
        await _wait(services, least, context)
        check_reached(services, consistency)


async def reach_largest(services: Services, conditions: Iterable[pb.Consistency], context: Context) -> None:
    """Wait once for all the conditions of a batch. ``check_reached`` then checks each of them.

    Raises:
        UnauthenticatedError: as ``reach``.
    """
    least = 0
    for consistency in conditions:
        with suppress(InvalidError):
            least = max(least, _awaited(services, consistency))
    if least:
        await _wait(services, least, context)


def check_reached(services: Services, consistency: pb.Consistency) -> None:
    """Check that the table reflects what a call is to be answered from.

    Raises:
        InvalidError: the condition has fields that this version does not know, names a size far ahead, or is at_exact.
        NotReachedError: the table does not reflect it yet.
    """
    least = _awaited(services, consistency)
    if least:
        raise _not_reached(least)


def _awaited(services: Services, consistency: pb.Consistency) -> int:
    """Return the size that the table must still reach; 0: it reflects enough. Raises as ``check_reached``."""
    if not consistency.ByteSize():
        return 0
    payloads.check_no_unknown_fields(consistency)
    if consistency.HasField("at_exact"):
        raise InvalidError("at_exact is a condition of Check and BatchCheck only")
    least = consistency.at_least_tree_size
    with services.table.read() as snapshot:
        size = snapshot.size
    _check_near(least, size)
    return least if least > size else 0


def check_size_reached(wanted: int, size: int) -> None:
    """Check that the table, which has *size* leaves, has a tree of *wanted* leaves. Raises as ``check_reached``."""
    _check_near(wanted, size)
    if wanted > size:
        raise _not_reached(wanted)


def _check_near(wanted: int, size: int) -> None:
    if wanted >= size + MAX_AHEAD:
        raise InvalidError(f"tree size is far ahead of the ledger's `{size}` leaves: `{wanted}`")


def _not_reached(wanted: int) -> NotReachedError:
    return NotReachedError(f"state has not reached tree size `{wanted}`")


async def _wait(services: Services, least: int, context: Context) -> None:
    """Wait until the table reflects *least* leaves, or until waiting must end."""
    if context.begin_wait():
        future = services.table.when_reached(least, remaining_s(context))
        context.on_cancel(partial(cancel_all, [future]))
        await Waiting(future)
        if not context.is_known():
            raise UnauthenticatedError("credential of the call was removed while it waited")
