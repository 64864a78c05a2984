"""Write the daemon's own statements: the first entries of a ledger, and which entries will be pruned."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import InvalidError, PreconditionError, ProofError
from consentd.ledger import retention
from consentd.ledger.ledger import Draft
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Rules
from consentd.sequencer.commands.write import Author, NewEntry, Plan, Unremembered, WriteContext
from consentd.statements.values import rules_message, vocabulary_message
from consentd.v1 import statement_pb2 as st

REALM = "realm"
"""Id of the realm of a new ledger. The realm's rules are in chain ``rules/realm``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis(Unremembered):
    """Append the first entries of an empty ledger. The statement *ledger* becomes leaf 0."""

    ledger: st.LedgerStatement
    vocabulary: st.VocabularyStatement
    rules: st.RulesStatement

    def prepare(self, context: WriteContext) -> Plan[None]:
        if context.batch.index:
            raise PreconditionError("ledger has begun already")
        chains = (
            (LEDGER_CHAIN, EntryKind.LEDGER, self.ledger),
            (codec.VOCABULARY_PREFIX + self.vocabulary.vocabulary_id, EntryKind.VOCABULARY, self.vocabulary),
            (codec.RULES_PREFIX + self.rules.realm_id, EntryKind.RULES, self.rules),
        )
        return Plan(tuple(draft_public(context, *chain) for chain in chains), None)


def default_genesis(
    author: Author, *, verifier_keys: Sequence[str], map_bits: int, retention_days: int, predecessor: bytes = b""
) -> Genesis:
    """Return the write of a new ledger's first entries: with the default vocabulary, and rules that permit nothing.

    Args:
        verifier_keys: the public keys that verify checkpoints, as C2SP vkeys.
        retention_days: the age in days at which an entry may be pruned; 0: nothing is ever pruned.
        predecessor: the last checkpoint of the ledger in whose place this one begins, a signed note; empty: none.
    """
    ledger = st.LedgerStatement(
        origin=author.origin,
        verifier_keys=verifier_keys,
        statement_key=author.key.public_key,
        map_bits=map_bits,
        vault_commitment=author.vault.commitment(),
        retention_days=retention_days,
        predecessor=predecessor,
    )
    rules = rules_message(Rules(), realm_id=REALM, version=1, vocabulary_id=DEFAULT_VOCABULARY.id)
    return Genesis(ledger=ledger, vocabulary=vocabulary_message(DEFAULT_VOCABULARY), rules=rules)


def check_kept_from(kept_from_ms: int, *, days: int, time_ms: int) -> None:
    """Check that a retention of *days* days allows, at *time_ms*, to delete the entries older than *kept_from_ms*.

    Raises:
        InvalidError: the policy retains some of these entries, or *kept_from_ms* is negative.
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
    """State which entries will be pruned, unless an entry states so already. The answer is that entry's index.

    ``prepare`` raises DamagedRowError if the table's row of a person is damaged.
    """

    pruned: Pruned

    def prepare(self, context: WriteContext) -> Plan[int]:
        days, stated = retention.read_stated_prunings(context.batch.ledger.store)
        found = next((one.index for one in stated if one.pruned == self.pruned), None)
        if found is not None:
            return Plan((), found)
        # INVARIANT: the ledger states no pruning that its published policy forbids; verifiers refuse such a ledger.
        check_kept_from(self.pruned.kept_from_ms, days=days, time_ms=context.batch.time_ms)
        # INVARIANT: an entry that the table cannot apply is never appended. The table reads the rows of all persons for
        # this one. With a damaged row the whole batch would be dropped, other callers' writes too.
        context.table.verify_persons()
        return Plan((self.draft(context),), context.batch.index)

    def draft(self, context: WriteContext) -> tuple[Draft, Message]:
        """Draft the entry, without a check of the retention policy."""
        message = st.LedgerStatement(
            origin=context.author.origin,
            pruning=st.Pruning(kept_from_time_ms=self.pruned.kept_from_ms, start_size=self.pruned.start),
        )
        return draft_public(context, LEDGER_CHAIN, EntryKind.LEDGER, message)


def draft_public(context: WriteContext, chain: str, kind: EntryKind, message: Message) -> tuple[Draft, Message]:
    """Draft an entry of a public chain that no caller requests."""
    request_id = context.author.random(16)
    tag = codec.public_tag(chain)
    return context.draft(NewEntry(kind=kind, tag=tag, message=message, request_id=request_id, public=True))
