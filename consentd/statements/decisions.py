"""Turn messages of questions and decisions into values of ``policy`` and back.

Consent checks use ``pack_message`` and ``put_verdict``. These two give the same results as ``question_value`` and
``decision_message``, but build no values of ``policy.model``, because that would take longer than the decision.
"""

from typing import cast

from consentd.core import codec
from consentd.policy import evaluate, model, residual
from consentd.policy.codebook import Codebook, PackedQuestion, Parties, pack_question
from consentd.policy.compile import CompiledRules
from consentd.policy.vocabulary import LEVEL_NUMBERS, unknown_level
from consentd.statements import payloads
from consentd.statements.values import data_period_value, enum_value, period_message, to_enum
from consentd.v1 import consent_pb2 as pb

DEFAULT_ACTION = "collect"
"""The action of a question that states none: the actor takes the data over."""


def question_value(message: pb.Question) -> model.Question:
    """Turn a question message into its value, which names no person. Raises as the functions of ``values``."""
    actor, obligations = message.actor, message.supported_obligations
    return model.Question(
        actor=model.Actor(
            organisation=actor.organisation, practitioner=actor.practitioner, role=actor.role,
            application=actor.application, on_behalf_of=actor.on_behalf_of, relays=tuple(actor.relays),
            automatic=actor.automatic,
        ),
        holder=message.holder, purpose=message.purpose, action=message.action or DEFAULT_ACTION,
        categories=tuple(message.categories),
        labels=tuple(message.labels.values) if message.HasField("labels") else None,
        resources=tuple(message.resources.values) if message.HasField("resources") else None,
        data_period=data_period_value(message.data_period) if message.HasField("data_period") else None,
        level=message.level,
        break_glass=message.break_glass.justification if message.HasField("break_glass") else None,
        supported_obligations=frozenset(enum_value(model.Obligation, value, "obligation") for value in obligations),
    )


class _PlainQuestion:
    """A substitute for a ``model.Question`` without labels, resources, period, level, break-glass and obligations.

    ``pack_question`` reads these attributes. Building a real, frozen question would take longer than the decision.
    """

    __slots__ = ("action", "categories", "purpose")
    labels = resources = data_period = break_glass = None
    level = ""
    supported_obligations: frozenset[model.Obligation] = frozenset()

    def __init__(self, message: pb.Question) -> None:
        self.purpose = message.purpose
        self.action = message.action or DEFAULT_ACTION
        self.categories = tuple(message.categories)


def pack_message(message: pb.Question, codebook: Codebook, parties: Parties) -> PackedQuestion:
    """Return ``pack_question(question_value(message), codebook, parties)`` by a faster way.

    Raises:
        InvalidError: UNKNOWN_FIELD: the question has a field that this version does not know, which might narrow it; or
            as the two functions raise.
    """
    check_fields(message)
    if _has_rare_messages(message) or message.level or message.supported_obligations:
        return pack_question(question_value(message), codebook, parties)
    return pack_question(cast(model.Question, _PlainQuestion(message)), codebook, parties)


def check_fields(message: pb.Question) -> None:
    """Refuse a question with a field, at any depth, that this version does not know: it might narrow the question.

    Raises:
        InvalidError: UNKNOWN_FIELD.
    """
    if _has_rare_messages(message):
        payloads.check_no_unknown_fields(message)
    else:  # a question has no other messages in it, and this takes a fraction of the time
        payloads.check_own_fields(message, message.subject, message.actor)


def _has_rare_messages(message: pb.Question) -> bool:
    has = message.HasField
    return has("labels") or has("resources") or has("data_period") or has("break_glass")


def form_of(encoded: bytes) -> bytes:
    """Return a serialised question without its subject: what the questions about several persons have in common.

    If the subject is so long that its length has two bytes, it is left in the form.
    """
    # protobuf serialises fields in the order of their numbers, and the subject is field 1. If another implementation
    # did not, the form would have the subject in it too.
    if encoded[:1] == b"\n" and encoded[1] < 0x80:
        return encoded[2 + encoded[1] :]
    return encoded


def consent_id(tag: bytes, lineage: int) -> str:
    """Return the ID of a consent: 32 hex digits of a hash, which does not show the tag (``codec.consent_id``)."""
    return codec.consent_id(tag, lineage).hex()


def decision_message(decision: model.Decision, tag: bytes) -> pb.Decision:
    """Turn a decision value into its message. The caller sets revision, decision_id and time."""
    message = pb.Decision(
        outcome=to_enum(decision.outcome), permitted=decision.permitted, denied=decision.denied,
        without_consent=decision.without_consent, unknown=decision.unknown,
        obligations=[to_enum(obligation) for obligation in decision.obligations],
        valid_until_time_ms=0 if decision.valid_until_ms == model.OPEN_END_MS else decision.valid_until_ms,
        tag=tag, ref=decision.ref, vocabulary_version=decision.vocabulary_version,
        combining=to_enum(decision.combining), labels=decision.labels, level=decision.level,
    )
    for reason in decision.reasons:
        message.reasons.add(
            code=to_enum(reason.code), effect=to_enum(reason.effect),
            consent_id=consent_id(tag, reason.lineage) if reason.lineage else "",
            version=reason.version, path=reason.path,
        )
    message.residual.extend(map(residual_message, decision.residual))
    return message


def residual_message(rule: model.ResidualRule) -> pb.ResidualRule:
    """Turn a residual rule and its children into messages."""
    return pb.ResidualRule(
        effect=to_enum(rule.effect), categories=rule.categories, covered_labels=rule.covered_labels,
        any_labels=rule.any_labels, level=rule.level, resources=rule.resources,
        data_period=None if rule.data_period is None else period_message(rule.data_period),
        layer=to_enum(rule.layer + 1),
        rules=[residual_message(child) for child in rule.children],
    )


def residual_value(message: pb.ResidualRule) -> model.ResidualRule:
    """Turn a message of a residual rule into its value.

    Raises:
        InvalidError: as the functions of ``values``, or there is no such level.
    """
    if message.level not in LEVEL_NUMBERS:
        raise unknown_level(message.level)
    return model.ResidualRule(
        effect=enum_value(model.Effect, message.effect, "effect"), categories=tuple(message.categories),
        covered_labels=tuple(message.covered_labels), any_labels=tuple(message.any_labels), level=message.level,
        resources=tuple(message.resources),
        data_period=data_period_value(message.data_period) if message.HasField("data_period") else None,
        layer=enum_value(model.Layer, message.layer - 1, "layer"),
        children=tuple(map(residual_value, message.rules)),
    )  # fmt: skip


def put_verdict(
    message: pb.Decision, verdict: evaluate.Verdict, question: PackedQuestion, codebook: Codebook,
    rules: CompiledRules, tag: bytes,
) -> None:  # fmt: skip
    """Write a verdict into an empty message, as ``decision_message`` would do, but faster. For consent checks.

    The caller sets revision, decision_id and time, and also vocabulary_version and combining, which are the same for
    all decisions from one commit of the policy table.
    """
    if verdict.conditions:
        message.MergeFrom(decision_message(evaluate.decision(verdict, question, codebook, rules), tag))
        return
    codes = codebook.codes
    message.outcome = to_enum(verdict.outcome)
    if verdict.permitted:
        message.permitted.extend(codes(verdict.permitted))
        if question.labels or question.level or question.residual:  # else there is nothing to state
            labels, level = residual.data_permitted(question, codebook)
            message.labels.extend(labels)
            message.level = level
    if verdict.denied:
        message.denied.extend(codes(verdict.denied))
    if verdict.without:
        message.without_consent.extend(codes(verdict.without))
    if verdict.unknown or question.unknown:
        message.unknown.extend(codes(verdict.unknown) + question.unknown)
    if verdict.obligations:
        message.obligations.extend(map(to_enum, verdict.obligations))
    ids: dict[int, str] = {}  # many reasons may be of one consent, and an id is a hash
    for code, effect, _, lineage, version, path in verdict.reasons:
        reason = message.reasons.add()
        reason.code = to_enum(code)
        if effect is not None:
            reason.effect = to_enum(effect)
        if lineage:
            if lineage not in ids:
                ids[lineage] = consent_id(tag, lineage)
            reason.consent_id = ids[lineage]
            reason.version = version
        if path:
            reason.path = path
    if verdict.valid_until_ms != model.OPEN_END_MS:
        message.valid_until_time_ms = verdict.valid_until_ms
    message.tag = tag
    message.ref = verdict.ref
