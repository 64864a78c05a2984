"""Verify that no chain has a signed statement twice.

The party that writes a ledger could copy a statement that an author signed into a second entry of the same chain. The
signature would still verify, so a copied GRANT would bring back a consent that the person withdrew. Therefore two
statements of one chain, signed with one key, need two request_ids if their entries are within ``REPEAT_WINDOW_MS``.

Two entries with the same statement are never further apart than that, because each is at most ``MAX_AUTHOR_SKEW_MS``
from the author's clock. So a verifier needs to remember only the statements of the last twenty minutes, however long
the chain is. The daemon's own statements do not count: several callers may choose the same request_id, and a daemon
that wants to repeat a statement of its own can as well sign a new one. Source: ledger-format.md, "Recorded once".
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct

from consentd.core import codec
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS, NAMES_NOTHING, KeyValidity, Named, may_author
from consentd.core.kinds import Owner
from consentd.errors import MalformedError, ProofError

REPEAT_WINDOW_MS = 2 * MAX_AUTHOR_SKEW_MS
"""Two entries with the same statement differ in time by at most this."""

_ROW = Struct(">Q32s32s16s")


@dataclass(frozen=True, slots=True)
class RecentStatement:
    """What identifies a signed statement: its chain, the author's key and the request_id; and the time of its entry."""

    time_ms: int
    tag: bytes
    key: bytes
    request_id: bytes


class RecentStatements:
    """The signed statements of the last twenty minutes, of one chain or of many. One thread owns it."""

    def __init__(self, known: Iterable[RecentStatement] = ()) -> None:
        """Start with the *known* statements, in the order in which they were added."""
        self._times = OrderedDict(((one.tag, one.key, one.request_id), one.time_ms) for one in known)

    def add(
        self, event: codec.Event, key: bytes, request_id: bytes, validities: Sequence[KeyValidity],
        named: Named = NAMES_NOTHING,
    ) -> None:  # fmt: skip
        """Add the statement of an entry that was verified. Entries are added in time order.

        Args:
            key, request_id: those of the statement.
            validities: of the key. If there is none, the statement counts as that of another author than the daemon.
            named: what the payload of the statement names.

        Raises:
            ProofError: the chain has a statement with this key and request_id, at most twenty minutes before.
        """
        others = (one for one in validities if one.owner is not Owner.LEDGER)
        if validities and not any(may_author(one, event, named) for one in others):
            return
        while self._times and next(iter(self._times.values())) < event.time_ms - REPEAT_WINDOW_MS:
            self._times.popitem(last=False)
        statement = (event.tag, key, request_id)
        is_repeat = statement in self._times
        self._times[statement] = event.time_ms
        if is_repeat:
            self._times.move_to_end(statement)
            raise ProofError("signed statement is recorded twice in its chain")

    def rows(self) -> tuple[RecentStatement, ...]:
        """Return the statements, to start with them later."""
        return tuple(RecentStatement(time_ms, *statement) for statement, time_ms in self._times.items())


def encode_recent(rows: Iterable[RecentStatement]) -> bytes:
    """Encode statements for a file of the verifier: ``time_ms u64 ‖ tag ‖ key ‖ request_id`` of each, 88 bytes."""
    return b"".join(_ROW.pack(one.time_ms, one.tag, one.key, one.request_id) for one in rows)


def decode_recent(encoded: bytes) -> tuple[RecentStatement, ...]:
    """Decode what ``encode_recent`` encoded. Raises ``MalformedError`` if the length is wrong."""
    if len(encoded) % _ROW.size:
        raise MalformedError("recent statements are cut off")
    return tuple(RecentStatement(*row) for row in _ROW.iter_unpack(encoded))
