"""State a pruning in chain `ledger`: which entries will be deleted. The entry is public before they are."""

from dataclasses import dataclass

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import InvalidError, ProofError
from consentd.ledger import retention
from consentd.ledger.ledger import Draft
from consentd.sequencer.commands.write import NewEntry, Plan, Unremembered, WriteContext
from consentd.v1 import statement_pb2 as st


def check_kept_from(kept_from_ms: int, *, days: int, time_ms: int) -> None:
    """Check that the retention policy allows, at *time_ms*, to delete entries from before *kept_from_ms*.

    Args:
        days: how old an entry must be before it may be pruned, as leaf 0 published it; 0: nothing is ever pruned.

    Raises:
        InvalidError: the policy keeps some of it, or the time is negative.
    """
    if not days:
        raise InvalidError("retention policy keeps everything: `ledger.retention_days` was 0 when the ledger began")
    if kept_from_ms < 0:
        raise InvalidError(f"time is negative: `{kept_from_ms}`")
    try:
        Pruned(kept_from_ms).verify_policy(days=days, time_ms=time_ms)
    except ProofError as error:
        raise InvalidError(f"retention policy keeps entries `{days}` days; choose an earlier time") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePruning(Unremembered):
    """State what is going to be pruned, unless the ledger states it already. The answer is the entry's index."""

    pruned: Pruned

    def prepare(self, context: WriteContext) -> Plan[int]:
        days, stated = retention.read_stated_prunings(context.batch.ledger.store)
        found = next((one.index for one in stated if one.pruned == self.pruned), None)
        if found is not None:
            return Plan((), found)
        # INVARIANT: the ledger never states a pruning beyond its published policy: verifiers refuse such a ledger.
        check_kept_from(self.pruned.kept_from_ms, days=days, time_ms=context.batch.time_ms)
        return Plan((self.draft(context),), context.batch.index)

    def draft(self, context: WriteContext) -> tuple[Draft, Message]:
        """Draft the entry without a check."""
        message = st.LedgerStatement(
            origin=context.author.origin,
            pruning=st.Pruning(kept_from_time_ms=self.pruned.kept_from_ms, start_size=self.pruned.start),
        )
        entry = NewEntry(
            kind=EntryKind.LEDGER,
            tag=codec.LEDGER_TAG,
            message=message,
            request_id=context.author.random(16),
            public=True,
        )
        return context.draft(entry)
