"""The answer to a question, and the checks before a program may act on it.

An answer is true only if everything that was asked for is permitted and the caller has nothing left to do for it::

    if client.check(question): ...                # false for PARTIAL, and for a PERMIT with conditions or obligations
    client.authorize_access(question).require()   # raises NotPermittedError in these cases

A PARTIAL, and a permit with conditions or for a part of the data that were asked for, are applied to each resource:
``apply_residual`` returns those that may flow. Other obligations are confirmed with ``fulfil``.

A decision is replaced by INDETERMINATE, which is a refusal, if the decision is missing, contradicts itself, is about
other categories, labels or another level than those asked for, or has a value that this version of the client does not
know. The answer's ``error`` says why.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from consentd.errors import ConsentdError, InvalidError, ProofError, RequestError
from consentd.policy.model import ANY, LEVELS
from consentd.policy.vocabulary import LEVEL_NUMBERS, Vocabulary
from consentd.v1 import consent_pb2 as pb

PERMITS = (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL)


class NotPermittedError(RequestError, reason="CALLER_NOT_ALLOWED"):
    """An answer does not permit all that was asked for, or does so only if the caller does something first.

    Attributes:
        answer: the answer.
    """

    def __init__(self, message: str, answer: "CheckAnswer") -> None:
        super().__init__(message)
        self.answer = answer


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class CheckAnswer:
    """The answer to one question. True only if all that was asked for may be transferred, and nothing is left to do.

    Attributes:
        question: a copy of the question that was asked.
        decision: the daemon's decision; if ``error`` is set, a decision whose outcome is INDETERMINATE.
        error: why no usable decision was received; None: the decision is the daemon's.
        fulfilled: the obligations that the caller confirmed with ``fulfil``.
        is_past: whether the answer says what would have been permitted at an earlier state. It is never true then.
    """

    question: pb.Question
    decision: pb.Decision
    error: ConsentdError | None = None
    fulfilled: "frozenset[pb.Obligation.ValueType]" = field(default=frozenset())
    is_past: bool = False

    @property
    def outcome(self) -> "pb.Outcome.ValueType":
        """The decision's outcome."""
        return self.decision.outcome

    @property
    def outcome_name(self) -> str:
        """The outcome's name without its prefix: ``PERMIT``, ``NO_CONSENT`` …"""
        return pb.Outcome.Name(self.decision.outcome).removeprefix("OUTCOME_")

    @property
    def unfulfilled(self) -> "tuple[pb.Obligation.ValueType, ...]":
        """The obligations that the caller must still fulfil; see ``fulfil`` and ``apply_residual``."""
        return tuple(one for one in self.decision.obligations if one not in self.fulfilled)

    @property
    def is_narrow(self) -> bool:
        """Whether the caller can apply conditions to labels or level, and the permit is for a part of them only.

        Then it is for data with no label beyond those of their category, and up to the default level of the category.
        """
        if pb.OBLIGATION_ENFORCE_RESIDUAL not in self.question.supported_obligations:
            return False
        labels_open, level_open = not self.question.HasField("labels"), not self.question.level
        return (labels_open and ANY not in self.decision.labels) or (level_open and not self.decision.level)

    def fulfil(self, *obligations: "pb.Obligation.ValueType") -> Self:
        """Return this answer with obligations that the caller confirms to fulfil, such as to notify the person.

        Raises:
            InvalidError: the answer does not have the obligation; or it is ENFORCE_RESIDUAL, which only
                ``apply_residual`` fulfils, for each resource.
        """
        for one in obligations:
            if one == pb.OBLIGATION_ENFORCE_RESIDUAL:
                raise InvalidError("residual is applied to each resource with apply_residual, and not confirmed")
            if one not in self.decision.obligations:
                raise InvalidError(f"answer does not have this obligation: `{one}`")
        return replace(self, fulfilled=self.fulfilled.union(obligations))

    def require(self, question: pb.Question | None = None, *, now_ms: int | None = None) -> None:
        """Return if the answer is true; otherwise raise.

        Args:
            question: what is about to be transferred. It must be the question that was asked.
            now_ms: the present time, UTC ms. A period of a consent may have begun or ended since the decision.

        Raises:
            NotPermittedError: the answer is false, answers another question, or is not valid any more at *now_ms*.
        """
        self.require_present()
        if question is not None and question != self.question:
            raise NotPermittedError("answer is to another question", self)
        until_ms = self.decision.valid_until_time_ms
        if now_ms is not None and until_ms and now_ms >= until_ms:
            raise NotPermittedError("answer is not valid any more: ask again", self)
        if self.decision.outcome != pb.OUTCOME_PERMIT:
            text = f"not all that was asked for is permitted: {self.outcome_name}"
            raise NotPermittedError(text, self) from self.error
        if self.unfulfilled:
            left = ", ".join(pb.Obligation.Name(one).removeprefix("OBLIGATION_") for one in self.unfulfilled)
            raise NotPermittedError(f"permit has obligations that are not fulfilled: {left}", self)
        if self.is_narrow:
            raise NotPermittedError("permit is for a part of the data: apply it to each resource", self)

    def require_present(self) -> None:
        """Raise ``NotPermittedError`` if the answer is from an earlier state: it permits nothing now."""
        if self.is_past:
            raise NotPermittedError("answer is from an earlier state and permits nothing now: ask again", self)

    def __bool__(self) -> bool:
        is_whole = self.decision.outcome == pb.OUTCOME_PERMIT and not self.unfulfilled and not self.is_narrow
        return is_whole and not self.is_past

    def __repr__(self) -> str:
        # Question and decision name a person and consents, and a repr may be logged, so it shows the outcome alone.
        return f"{type(self).__name__}({self.outcome_name}, error={self.error!r})"


def copied(question: pb.Question) -> pb.Question:
    """Return a copy of a question, which later changes of the caller's message do not reach."""
    copy = pb.Question()
    copy.CopyFrom(question)
    return copy


def indeterminate() -> pb.Decision:
    """Return the decision for a question without a usable answer: a refusal, in which only the outcome is set."""
    return pb.Decision(outcome=pb.OUTCOME_INDETERMINATE)


def find_fault(question: pb.Question, decision: pb.Decision) -> ProofError | None:
    """Return an error if a decision contradicts itself, or has values that this client does not know; otherwise None.

    ``find_wrong_categories`` compares the categories with those asked for.
    """
    if decision.outcome not in pb.Outcome.values() or not decision.outcome:
        return ProofError("decision has no outcome that is known here")
    if decision.outcome not in PERMITS:
        return None
    answered = _answered(decision)
    is_whole = len(answered) == len(decision.permitted)
    if not decision.permitted or is_whole != (decision.outcome == pb.OUTCOME_PERMIT):
        return ProofError("decision contradicts its own categories")
    if len(set(answered)) != len(answered):
        return ProofError("decision has a category twice")
    return (
        _find_unknown_values(decision) or _find_wrong_obligations(question, decision)
        or find_other_data(question, decision)
    )  # fmt: skip


def needs_vocabulary(question: pb.Question, decision: pb.Decision) -> bool:
    """Return whether *question* asks for a category that stands for its leaves, and *decision* permits something."""
    return decision.outcome in PERMITS and not set(question.categories) <= set(_answered(decision))


def find_wrong_categories(
    question: pb.Question, decision: pb.Decision, vocabulary: Vocabulary | None
) -> ProofError | None:
    """Return an error if *decision* permits something, and is about other categories than *question*; otherwise None.

    *vocabulary* determines the leaves of the categories; None: each category is a leaf (see ``needs_vocabulary``).
    """
    asked = set(question.categories) if vocabulary is None else leaves(question.categories, vocabulary)
    if decision.outcome in PERMITS and asked != set(_answered(decision)):
        return ProofError("decision is about other categories than those asked for")
    return None


def _answered(decision: pb.Decision) -> list[str]:
    return [*decision.permitted, *decision.denied, *decision.without_consent, *decision.unknown]


def leaves(categories: Iterable[str], vocabulary: Vocabulary) -> set[str]:
    """Return the leaf categories that *categories* stand for. A code that the vocabulary lacks is returned too."""
    found, parents = set(categories), {code.parent for code in vocabulary.categories}
    for code in vocabulary.categories:  # a parent comes before its children
        if code.parent in found:
            found.add(code.code)
    return found - parents


def _find_unknown_values(decision: pb.Decision) -> ProofError | None:
    for reason in decision.reasons:
        if reason.effect not in pb.Effect.values():
            return ProofError("decision has a reason with an effect that is not known here")
    for obligation in decision.obligations:
        if obligation not in pb.Obligation.values() or not obligation:
            return ProofError("decision has an obligation that is not known here")
    if decision.residual and (decision.combining not in pb.Combining.values() or not decision.combining):
        return ProofError("decision combines consents in a way that is not known here")
    if not all(map(_is_known, decision.residual)):
        return ProofError("decision has a condition that is not known here")
    return None


def _is_known(rule: pb.ResidualRule) -> bool:
    """Return whether this client understands a residual rule. A field that it does not know may narrow the rule."""
    has_effect = rule.effect in (pb.EFFECT_DENY, pb.EFFECT_PERMIT)
    has_layer = rule.layer in pb.Layer.values() and rule.layer != pb.LAYER_UNSPECIFIED
    parts: list[Message] = [rule, *([rule.data_period] if rule.HasField("data_period") else [])]
    return (
        has_effect
        and has_layer
        and rule.level in LEVEL_NUMBERS
        and not any(len(UnknownFieldSet(part)) for part in parts)
        and all(map(_is_known, rule.rules))
    )


def _find_wrong_obligations(question: pb.Question, decision: pb.Decision) -> ProofError | None:
    if pb.OBLIGATION_ENFORCE_RESIDUAL in decision.obligations:
        if pb.OBLIGATION_ENFORCE_RESIDUAL not in question.supported_obligations:
            return ProofError("decision has an obligation that the question does not support")
        if not decision.residual:
            return ProofError("decision obliges the caller to enforce a residual, and has none")
    elif decision.residual:
        return ProofError("decision has a residual without the obligation to enforce it")
    return None


def find_other_data(question: pb.Question, decision: pb.Decision) -> ProofError | None:
    """Return an error if *decision* permits data of other labels or of another level than *question* asks for."""
    has_labels, labels = question.HasField("labels"), set(decision.labels)
    narrow = set(question.labels.values), question.level
    wide = narrow[0] if has_labels else {ANY}, question.level or LEVELS[-1]
    expected = [wide] if decision.residual else [narrow]
    if pb.OBLIGATION_ENFORCE_RESIDUAL in question.supported_obligations:
        expected.append(wide)
    if (labels, decision.level) not in expected:
        return ProofError("decision is about other labels or another level than the question")
    return None
