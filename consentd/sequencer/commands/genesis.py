"""Write the first entries of a ledger: its own statement, a vocabulary, and rules that permit nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from consentd.core import codec
from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.kinds import EntryKind
from consentd.errors import ConflictError
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Rules
from consentd.sequencer.commands.registry import RULES_PREFIX, VOCABULARY_PREFIX
from consentd.sequencer.commands.write import Author, NewEntry, Plan, Unremembered, WriteContext
from consentd.statements.values import rules_message, vocabulary_message
from consentd.v1 import statement_pb2 as st

REALM = "realm"
"""Id of the realm whose rules a new ledger begins with: chain ``rules/realm``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis(Unremembered):
    """Append the first entries of an empty ledger.

    Attributes:
        ledger: leaf 0: origin, keys, retention policy.
    """

    ledger: st.LedgerStatement
    vocabulary: st.VocabularyStatement
    rules: st.RulesStatement

    def prepare(self, context: WriteContext) -> Plan[None]:
        if context.batch.index:
            raise ConflictError("ledger has begun already")
        chains = (
            (LEDGER_CHAIN, EntryKind.LEDGER, self.ledger),
            (VOCABULARY_PREFIX + self.vocabulary.vocabulary_id, EntryKind.VOCABULARY, self.vocabulary),
            (RULES_PREFIX + self.rules.realm_id, EntryKind.RULES, self.rules),
        )
        entries = []
        for name, kind, message in chains:
            tag, request_id = codec.public_tag(name), context.author.random(16)
            entry = NewEntry(kind=kind, tag=tag, message=message, request_id=request_id, public=True)
            entries.append(context.draft(entry))
        return Plan(tuple(entries), None)


def default_genesis(author: Author, *, verifier_keys: Sequence[str], map_bits: int, retention_days: int) -> Genesis:
    """Return the first entries of a ledger of *author*, with the default vocabulary and rules without a permit.

    Args:
        verifier_keys: of the keys that sign checkpoints, as C2SP vkeys.
        retention_days: how old an entry must be before it may be pruned; 0: nothing is ever pruned.
    """
    ledger = st.LedgerStatement(
        origin=author.origin,
        verifier_keys=verifier_keys,
        statement_key=author.key.public_key,
        map_bits=map_bits,
        vault_commitment=author.vault.commitment(),
        retention_days=retention_days,
    )
    rules = rules_message(Rules(), realm_id=REALM, version=1, vocabulary_id=DEFAULT_VOCABULARY.id)
    return Genesis(ledger=ledger, vocabulary=vocabulary_message(DEFAULT_VOCABULARY), rules=rules)
