"""Recompute a recorded decision from what was in force at the index of its leaf, and name the fields that differ.

The rules are those of ``policy`` and of the sequencer. The decision is made for the leaf's time, from all earlier
entries and no later entry. A break-glass question is answered only for a participant enrolled for break-glass
(policy.md, rule 7). Every field of a decision follows from the ledger, except ``decision_id``, which is random: only
its form is checked.
"""

import hashlib
import re
from typing import Any

from consentd.core import codec
from consentd.core.identifier import check_identifier
from consentd.core.key_validity import verify_signature
from consentd.core.kinds import EntryKind, Owner
from consentd.core.recent_statements import RecentStatements
from consentd.errors import MalformedError, ProofError, SignatureError
from consentd.policy import check, model
from consentd.sequencer.commands.accesses import decide, is_signed_by_subject
from consentd.sequencer.commands.legal_items import missing_items
from consentd.statements import decisions, payloads, values
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

_DECISION_ID = re.compile("[0-9a-f]{32}")
_PERMITS = (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL)


def differences(view: View, index: int, event: codec.Event, made: codec.Statement, *, origin: str) -> list[str]:
    """Recompute the decision of an ACCESS or REFUSAL; return a text for each field that differs, with both values.

    Args:
        view: the policy table after all entries before *index* were applied.

    Raises:
        MalformedError: the payload does not decode, or has no question.
        InvalidError: the question is invalid, or names the person by what may not be stored, so the daemon cannot have
            answered it.
        SignatureError: the asker's signature is not for this question, or the asker's key was not in force.
        DeniedError: the asker had no part in the access, so the daemon cannot have answered the question.
    """
    message: Any = payloads.decode_payload(event.kind, made.payload)
    tag, hashed = None if view.subject(event.tag) is None else event.tag, b""
    if event.kind == EntryKind.REFUSAL:
        hashed = message.identifier_hash
        if (len(hashed) == 32) is not (tag is None):
            raise MalformedError("refusal names a person by a hash exactly if its chain is an unknown chain")
        if message.WhichOneof("refused") == "grant":
            return _refused_grant(view, message, time_ms=event.time_ms)
        if message.WhichOneof("refused") != "access":
            raise MalformedError("refusal does not record what was refused")
        message = message.access
    asked = payloads.parse(pb.Question, message.asked.question)
    if asked.HasField("subject"):
        check_identifier(asked.subject.scheme, asked.subject.value)
    question = decisions.question_value(asked)
    if message.asked.signature:
        _verify_asker(view, tag, made, message.asked, question, origin)
    answer = decide(view, tag, question, message.asked, index=index, now_ms=event.time_ms)
    again = answer.decision
    found = _compare(message.decision, again)
    if (*message.uses,) != answer.uses:
        found.append("uses: recorded others than come out")
    if hashed and view.tag_of(hashed) is not None:
        found.append("identifier_hash: recorded as of a person who is not enrolled, is of one who was enrolled before")
    recorded_as = EntryKind.ACCESS if again.outcome in _PERMITS else EntryKind.REFUSAL
    if event.kind != recorded_as:
        found.append(f"kind: recorded as {EntryKind(event.kind).name}, is {recorded_as.name}")
    if event.ref != message.decision.ref:
        found.append(f"ref: leaf has {event.ref}, its decision {message.decision.ref}")
    return found


def verify_asked_once(recent: RecentStatements, event: codec.Event, made: codec.Statement) -> None:
    """Verify that an ACCESS or REFUSAL records another request of its asker than the entries before it.

    The asker's signed question has the request_id of the entry. So nobody can record a signed question twice.

    Raises:
        MalformedError: the payload does not decode.
        ProofError: an entry of the same chain, at most twenty minutes before, records this request of the asker.
    """
    message: Any = payloads.decode_payload(event.kind, made.payload)
    asker = (message.access if event.kind == EntryKind.REFUSAL else message).asked.asker
    if not asker:
        return  # the REFUSAL of a consent
    try:
        recent.add(event, hashlib.sha256(asker.encode()).digest(), made.request_id, ())
    except ProofError as error:
        raise ProofError("request of this asker is recorded in an earlier entry already") from error


def _compare(recorded: pb.Decision, again: pb.Decision) -> list[str]:
    """Return a text for each field that differs. Clears ``decision_id`` in *recorded*."""
    found = [] if _DECISION_ID.fullmatch(recorded.decision_id) else ["decision_id: recorded is not 32 hex digits"]
    recorded.ClearField("decision_id")
    if recorded == again:
        return found
    for field in pb.Decision.DESCRIPTOR.fields:
        was, now = getattr(recorded, field.name), getattr(again, field.name)
        if was != now:
            found.append(f"{field.name}: recorded {_shown(field, was)}, comes out {_shown(field, now)}")
    return found or ["recorded decision has fields that this version does not know"]


def _shown(field: Any, value: Any) -> str:
    """Format a field's value, enum values by name. A tag is never shown."""
    if field.name == "tag":
        return "another tag"
    if field.name == "reasons":
        return "[" + ", ".join(f"{pb.ReasonCode.Name(one.code)} {one.consent_id[:8]}".strip() for one in value) + "]"
    if isinstance(value, int | str):
        return str(value) if field.enum_type is None else _enum_name(field.enum_type, value)
    if field.enum_type is not None:
        return "[" + ", ".join(_enum_name(field.enum_type, one) for one in value) + "]"
    return "other content" if field.message_type is not None else "[" + ", ".join(map(str, value)) + "]"


def _enum_name(enum: Any, number: Any) -> str:
    """Return the name of an enum value; the number if this version does not know the value."""
    known = enum.values_by_number.get(number)
    return str(number) if known is None else str(known.name)


def _refused_grant(view: View, message: st.RefusalStatement, *, time_ms: int) -> list[str]:
    """Recompute why a consent was refused (PIPA Enforcement Decree 42-8); return a text for each difference."""
    consent = values.consent_value(message.grant.consent)
    check.check_consent(consent, view.registry().codebook.vocabulary)
    missing = missing_items(
        view, consent, attester=message.grant.attestation.attested_by, has_served=bool(message.grant.served_seq),
        time_ms=time_ms,
    )  # fmt: skip
    again, found = check.ITEMS_NOT_SPECIFIED if missing else "", []
    if again != message.reason:
        found.append(f"reason: recorded `{message.reason}`, comes out `{again}`")
    if again and tuple(message.missing) != missing:
        found.append(f"missing: recorded {list(message.missing)}, comes out {list(missing)}")
    return found


def _verify_asker(
    view: View, tag: bytes | None, made: codec.Statement, asked: st.AskedQuestion, question: model.Question,
    origin: str,
) -> None:  # fmt: skip
    if not is_signed_by_subject(view, tag, question, asked):
        owner = view.key_owner(asked.key)
        if owner is None or owner.owner is not Owner.PARTICIPANT or owner.tag_or_name != asked.asker:
            raise SignatureError("asker's key was not in force for the asker")
    statement = codec.Statement(asked.key, asked.signature, made.request_id, asked.author_time_ms, asked.question)
    verify_signature(statement, origin=origin, kind=codec.QUESTION_KIND, tag=asked.signed_tag, ref=0)
