"""Follow the log key when the ledger has replaced it, and remember the one that was reached.

A checkpoint that another log key signed proves nothing to a reader that pinned the old one. So the client reads the
history of chain ``ledger``, whose rotations lead from its key to the present one, each under its witness policy
(``consentd.statements.rotations``). From then on it verifies with the present key, and its memory keeps that. A warning
in the log names the key, because the user should pin it.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.note import Verifier, format_vkey, parse_vkey
from consentd.core.rotation import FollowedKey
from consentd.errors import UnknownKeyError
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client.history import collect_proof, verify_history_part
from consentd_client.operations import ClientContext, Operation, call_stream, run_blocking

T = TypeVar("T")

log = logging.getLogger(__name__)


def following(context: ClientContext, verify: Callable[[], T]) -> Operation[T]:
    """Return what *verify* returns. If it meets an unknown log key, follow the rotations, and call it again.

    Raises:
        UnknownKeyError: no rotation leads from the client's log key to the one that signed. Nothing is determined.
        VerificationError: what *verify* raises, or a rotation is wrong.
    """
    try:
        return verify()
    except UnknownKeyError:
        if context.trust is None:
            raise
        request = ls.GetHistoryRequest(public_name=LEDGER_CHAIN)
        proof = collect_proof((yield from call_stream(context, request, ls.GetHistoryResponse)))
        check = partial(
            verify_history_part, proof, trust=context.pinned(), name=LEDGER_CHAIN, now_ms=context.now_ms()
        )  # fmt: skip
        found, _, _ = yield from run_blocking(check)
        yield from remember_log_key(context, found.log_keys)
    return verify()


def remember_log_key(context: ClientContext, keys: Sequence[FollowedKey]) -> Operation[None]:
    """Verify with the last of *keys* from now on, and store it in the memory. Empty: no rotation was followed."""
    pinned = None if context.trust is None else context.trust.log_key
    if not keys or not isinstance(pinned, Verifier):
        return
    reached, origin = keys[-1].vkey, format_vkey(pinned)
    yield from run_blocking(lambda: context.memory.remember_log_key(origin, reached))
    context.learned.log_key = parse_vkey(reached)
    log.warning("log key `%s` was replaced by `%s`, which is used from now on: pin it", keys[0].vkey, reached)
