"""A new vocabulary version: denies on a parent cover what joined below it, permits do not."""

from dataclasses import replace

from cases.participants import pack
from consentd.policy import model
from consentd.policy.codebook import Codebook
from consentd.policy.compile import compile_consent, compile_rules, decode_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.evaluate import evaluate
from consentd.policy.model import Effect, Outcome
from consentd.policy.renew import Renewal
from consentd.policy.subject import decode_subject, with_consent
from consentd.policy.vocabulary import Code, Vocabulary, check_successor

OLD = DEFAULT_VOCABULARY
NEW = replace(
    OLD,
    version=OLD.version + 1,
    categories=(*OLD.categories, Code(code="GEN.NEW", ko="새 유전체정보", en="new genomic", parent="GEN", level="R")),
    purposes=(*OLD.purposes, Code(code="NEWRESCH", ko="새 연구", en="new research", parent="HRESCH", implies=True)),
)
NUMBERS = {"clinic": 1, "hospital": 2}


def _value(effect: Effect, *, value: bytes | None = None, lineage: int = 2, **attributes: tuple[str, ...]) -> bytes:
    consent = model.Consent(
        kind=model.Kind.OBJECTION if effect is Effect.DENY else model.Kind.CONSENT,
        root=model.Provision(effect=effect, actors=("clinic",), **attributes),
    )
    stored = model.StoredConsent(lineage=lineage, seq=lineage, version=1, consent=consent)
    return with_consent(value, stored, compile_consent(stored, OLD, NUMBERS))


def _outcome(value: bytes, vocabulary: Vocabulary, category: str, purpose: str) -> Outcome:
    codebook = Codebook(vocabulary, NUMBERS, {})
    question = model.Question(
        actor=model.Actor(organisation="clinic"),
        holder="hospital",
        purpose=purpose,
        action="disclose",
        categories=(category,),
    )
    rules = compile_rules(model.Rules(), vocabulary, NUMBERS)
    return Outcome(evaluate(value, pack(question, codebook), rules, 1).outcome)


def test_the_new_version_is_a_successor() -> None:
    check_successor(OLD, NEW)
    assert Renewal(OLD, NEW).is_needed()
    assert not Renewal(OLD, replace(OLD, version=OLD.version + 1)).is_needed()


def test_a_deny_on_a_parent_covers_a_category_that_joined_later_and_a_permit_does_not() -> None:
    denied = _value(Effect.DENY, categories=("GEN",), value=_value(Effect.PERMIT, categories=("GEN",)), lineage=3)
    permitted = _value(Effect.PERMIT, categories=("GEN",), purposes=("TREAT",))
    renewal = Renewal(OLD, NEW)
    assert _outcome(renewal.subject(denied), NEW, "GEN.NEW", "TREAT") is Outcome.DENY
    assert _outcome(denied, NEW, "GEN.NEW", "TREAT") is Outcome.NO_CONSENT  # what renewing is for
    assert _outcome(renewal.subject(permitted), NEW, "GEN.NEW", "TREAT") is Outcome.NO_CONSENT
    assert _outcome(renewal.subject(permitted), NEW, OLD.category.codes[-1], "TREAT") is Outcome.PERMIT


def test_a_deny_of_a_purpose_covers_one_that_joined_below_it() -> None:
    denied = _value(Effect.DENY, purposes=("HRESCH",))
    assert _outcome(Renewal(OLD, NEW).subject(denied), NEW, "CLIN.DX", "NEWRESCH") is Outcome.DENY
    sibling = _value(Effect.DENY, purposes=("DSRCH",))
    assert _outcome(Renewal(OLD, NEW).subject(sibling), NEW, "CLIN.DX", "NEWRESCH") is Outcome.NO_CONSENT


def test_renewing_changes_masks_of_denies_alone() -> None:
    value = _value(Effect.DENY, categories=("GEN",), value=_value(Effect.PERMIT, categories=("GEN",)), lineage=3)
    before, after = decode_subject(value), decode_subject(Renewal(OLD, NEW).subject(value))
    assert after[0] == before[0]
    assert after[1].compiled.rows != before[1].compiled.rows
    assert replace(after[1], compiled=before[1].compiled) == before[1]


def test_rules_are_renewed_likewise() -> None:
    rules = model.Rules(
        statutory=(
            model.Provision(effect=Effect.DENY, categories=("GEN",)),
            model.Provision(effect=Effect.PERMIT, categories=("GEN",), purposes=("PUBHLTH",)),
        )
    )
    old = compile_rules(rules, OLD, NUMBERS)
    new = decode_rules(Renewal(OLD, NEW).rules(old.encoded, 2), NEW)
    deny, permit = new.statutory[0][0], new.statutory[1][0]
    assert deny.categories & NEW.category.bits["GEN.NEW"]
    assert not permit.categories & NEW.category.bits["GEN.NEW"]
    assert permit == old.statutory[1][0]
