"""Verify who reported the outcome of a transfer: a participant that had a part in the access.

The daemon records an OUTCOME only for these (``sequencer.commands.accesses.check_party``). A reader verifies it if it
has the statement of the ACCESS. Source: ledger-format.md, "Keys in force".
"""

from collections.abc import Iterable, Iterator

from consentd.core import codec
from consentd.core.history import VerifiedEntry
from consentd.core.key_validity import ValidKeys, may_author
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import MalformedError, SignatureError
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


def parties_of(asked: st.AskedQuestion) -> set[str]:
    """Return the participants that take part in the access that a question asks for. Raises ``MalformedError``."""
    return _parties(asked, payloads.parse(pb.Question, asked.question))


def understood_parties(access: st.AccessStatement) -> frozenset[str] | None:
    """Return the participants that take part in an access; None: this version does not understand all of it."""
    try:
        question = payloads.parse(pb.Question, access.asked.question)
    except MalformedError:
        return None
    is_understood = payloads.is_understood(access) and payloads.is_understood(question)
    return frozenset(_parties(access.asked, question)) if is_understood else None


def may_report(reporter: str, parties: Iterable[str]) -> bool:
    """Return whether a participant may report an outcome of an access that has these *parties*."""
    return reporter in parties


def may_report_status(reporter: str, status: int, sender: str) -> bool:
    """Return whether a participant may report an outcome of this status. *sender*: as ``sender_of``."""
    return status != st.TRANSFER_STATUS_FAILED or sender in ("", reporter)


def sender_of(access: st.AccessStatement) -> str:
    """Return the holder if the transfer used a consent up; it alone says then that the data were not sent. Else empty.

    A recipient could say so after each transfer, and would get the data as often as it likes (policy.md, rule 13).
    """
    return payloads.parse(pb.Question, access.asked.question).holder if access.uses else ""


def reporters_of(
    event: codec.Event, statement: codec.Statement, message: st.OutcomeStatement, keys: ValidKeys
) -> Iterator[str]:
    """Yield who may have reported an OUTCOME: each owner of its key, or for the daemon's key, who attests it."""
    for validity in keys.get(statement.key, ()):
        if may_author(validity, event):
            is_daemon = validity.owner is Owner.LEDGER
            yield message.attestation.attested_by if is_daemon else str(validity.tag_or_name)


def verify_reporters(entries: Iterable[VerifiedEntry], keys: ValidKeys, *, known: int = 0) -> None:
    """Verify who reported the outcomes among *entries*, whose signatures are verified, as far as their ACCESS is there.

    An entry that this version does not understand may name other parties, so nothing follows from it. The first *known*
    entries were verified before.

    Raises:
        SignatureError: the reporter of an outcome had no part in the access.
    """
    parties: dict[tuple[bytes, int], frozenset[str]] = {}
    for position, (event, statement) in enumerate((one.event, one.statement) for one in entries):
        if statement is None:
            continue
        if event.kind == EntryKind.ACCESS:
            access = payloads.decode_known_payload(event.kind, statement.payload)
            found = understood_parties(access) if isinstance(access, st.AccessStatement) else None
            if found is not None:
                parties[event.tag, event.seq] = found
        elif event.kind == EntryKind.OUTCOME and position >= known and (event.tag, event.ref) in parties:
            message = payloads.decode_known_payload(event.kind, statement.payload)
            if isinstance(message, st.OutcomeStatement):
                reporters = list(reporters_of(event, statement, message, keys))
                if reporters and not any(may_report(one, parties[event.tag, event.ref]) for one in reporters):
                    raise SignatureError(f"reporter of the outcome had no part in the access: seq `{event.seq}`")


def _parties(asked: st.AskedQuestion, question: pb.Question) -> set[str]:
    actor = question.actor
    parties = {asked.asker, question.holder, actor.organisation, actor.on_behalf_of, actor.application}
    return parties.union(actor.relays) - {""}


