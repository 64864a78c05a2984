"""Write the registry: public chains, enrolments, and the first entries of a ledger."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import ConflictError, InvalidError, ProofError
from consentd.sequencer.commands.context import Answer, Entry, Plan, Remembered, WriteContext
from consentd.table.transaction import TableTransaction
from consentd.v1 import statement_pb2 as st


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicWrite(Remembered):
    """An entry in a public chain.

    Attributes:
        name: the chain's name, ``participant/ID``.
        check: looks at the table before the entry is made; raises ``RequestError``.
    """

    name: str
    kind: EntryKind
    message: Message
    check: Callable[[TableTransaction], None]

    def prepare(self, context: WriteContext) -> Plan:
        self.check(context.table)
        entry = Entry(
            kind=self.kind,
            tag=codec.public_tag(self.name),
            message=self.message,
            request_id=self.request_id,
            public=True,
        )
        return Plan((context.draft(entry, self.request_key, self.content),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrol(Remembered):
    """A person's first entry, and their own key's where they have one. The vault holds tag and key already."""

    tag: bytes
    message: st.EnrolStatement
    subject_key: bytes = b""

    def prepare(self, context: WriteContext) -> Plan:
        if context.table.tag_of(self.message.identifier_hash) is not None:
            raise ConflictError("identifier is enrolled already", "SUBJECT_ENROLLED")
        first = Entry(kind=EntryKind.ENROL, tag=self.tag, message=self.message, request_id=self.request_id)
        entries = [context.draft(first, self.request_key, self.content)]
        if self.subject_key:
            if context.table.key_ever(self.subject_key) is not None:
                raise ConflictError("key is or was in force already")
            key = st.KeyStatement(key=self.subject_key, attestation=self.message.attestation)
            # The second entry of one request: its request_id is derived, for request ids are unique per entry.
            derived = hashlib.sha256(self.request_id + b"\1").digest()[:16]
            entries.append(
                context.draft(Entry(kind=EntryKind.KEY, tag=self.tag, message=key, request_id=derived))
            )
        return Plan(tuple(entries), self.tag)

    def replay(self, context: WriteContext, index: int) -> Answer:
        return self.tag


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePruning:
    """An entry in chain `ledger` that says what is going to be pruned; nobody's request, so it is not remembered."""

    days: int
    pruned: Pruned
    request_key: bytes = b""
    content: bytes = b""

    def prepare(self, context: WriteContext) -> Plan:
        # INVARIANT: verifiers refuse a pruning that goes beyond the published policy; the ledger must never state one.
        try:
            self.pruned.verify_policy(days=self.days, time_ms=context.batch.time_ms)
        except ProofError as error:
            raise InvalidError(f"retention policy keeps entries `{self.days}` days; choose an earlier time") from error
        message = st.LedgerStatement(
            origin=context.author.origin,
            pruning=st.Pruning(kept_from_time_ms=self.pruned.kept_from_ms, start_size=self.pruned.start),
        )
        entry = Entry(
            kind=EntryKind.LEDGER,
            tag=codec.LEDGER_TAG,
            message=message,
            request_id=context.author.random(16),
            public=True,
        )
        return Plan((context.draft(entry),))

    def replay(self, context: WriteContext, index: int) -> Answer:
        raise AssertionError("a pruning is not remembered as a request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """The first entries of a ledger: who it is, its vocabulary, its realm's rules."""

    ledger: st.LedgerStatement
    vocabulary: st.VocabularyStatement
    rules: st.RulesStatement
    request_key: bytes = b""
    content: bytes = b""

    def prepare(self, context: WriteContext) -> Plan:
        if context.batch.index:
            raise ConflictError("ledger has begun already")
        chains = (
            (LEDGER_CHAIN, EntryKind.LEDGER, self.ledger),
            (f"vocabulary/{self.vocabulary.vocabulary_id}", EntryKind.VOCABULARY, self.vocabulary),
            (f"rules/{self.rules.realm_id}", EntryKind.RULES, self.rules),
        )
        entries = []
        for name, kind, message in chains:
            tag, request_id = codec.public_tag(name), context.author.random(16)
            entries.append(
                context.draft(Entry(kind=kind, tag=tag, message=message, request_id=request_id, public=True))
            )
        return Plan(tuple(entries))

    def replay(self, context: WriteContext, index: int) -> Answer:
        raise AssertionError("the first entries are not remembered as a request")
