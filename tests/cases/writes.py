"""Writes that no service makes, for a ``LedgerCase``."""

from dataclasses import dataclass, field
from typing import Any

from consentd.core import codec, ed25519
from consentd.ledger.ledger import Draft
from consentd.ledger.vault import plaintext_row
from consentd.sequencer.commands.registry import PublicWrite
from consentd.sequencer.commands.write import Plan, Unremembered, WriteContext
from consentd.v1 import statement_pb2 as st


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw(Unremembered):
    """A write that no service makes: an entry of any kind, signed by the daemon, in the clear."""

    kind: int
    tag: bytes
    payload: bytes = b""
    ref: int = 0
    author: ed25519.KeyPair | None = None  # None: the daemon
    author_skew_ms: int = 0
    message: Any = field(default_factory=st.RevokeStatement)  # what the table makes of it

    def prepare(self, context: WriteContext) -> Plan[None]:
        request_id, author_time_ms = context.author.random(16), context.batch.time_ms + self.author_skew_ms
        author = self.author or context.author.key
        message = codec.signed_message(
            origin=context.author.origin, kind=self.kind, tag=self.tag, ref=self.ref, request_id=request_id,
            author_time_ms=author_time_ms, payload=self.payload,
        )
        made = codec.Statement(author.public_key, author.sign(message), request_id, author_time_ms, self.payload)
        commit, stored = plaintext_row(context.author.random(32), codec.encode_statement(made))
        draft = Draft(kind=self.kind, tag=self.tag, ref=self.ref, commit=commit, stored=stored)
        return Plan(((draft, self.message),), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing(Unremembered):
    """A write whose preparation fails."""

    error: BaseException

    def prepare(self, context: WriteContext) -> Plan[None]:
        raise self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class UncheckedPublicWrite(PublicWrite[Any]):
    """An entry of any kind in a public chain, without the checks of its kind."""

    def check(self, context: WriteContext) -> None:
        pass
