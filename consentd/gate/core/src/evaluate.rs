//! Answer a packed question from a person's rows. No answer is kept: it depends on the arguments alone.

use crate::codebook::Packed;
use crate::layers::{code, decide, outcome, Decision, Masks, Outcome, Reason, DENY, MOST_ROW_REASONS, PERMIT};
use crate::matching::prepare;
use crate::residual::{conditions, Condition};
use crate::rules::Rules;
use crate::sensitivity::{BEST, STATED, WORST};
use crate::trees::match_case;
use crate::{Malformed, OPEN_END_MS};

/// An answer as masks.
#[derive(Clone, Debug)]
pub struct Verdict<'a> {
    /// The categories.
    pub masks: Masks,
    /// The outcome.
    pub outcome: Outcome,
    /// Why.
    pub reasons: Vec<Reason<'a>>,
    /// What the caller must check for each resource; none: nothing is permitted on conditions.
    pub conditions: Vec<Condition<'a>>,
    /// The first instant at which the passing of time alone may change the answer.
    pub until_ms: u64,
    /// Seq of the first consent that decided a category with the answer's effect; 0: none.
    pub seq: u32,
}

impl<'a> Verdict<'a> {
    /// *explained*: categories without consent that have a reason.
    fn new(mut decided: Decision<'a>, question: &Packed<'_>, until_ms: u64, explained: u64) -> Self {
        if decided.masks.without & !explained != 0 {
            decided.reasons.push(Reason::alone(code::NO_MATCHING_CONSENT, 0));
        }
        if !question.unknown.is_empty() {
            decided.reasons.push(Reason::alone(code::UNKNOWN_CATEGORY, 0));
        }
        Verdict::of(decided, question, until_ms)
    }

    fn of(decided: Decision<'a>, question: &Packed<'_>, until_ms: u64) -> Self {
        let Decision { masks, reasons, refs } = decided;
        let outcome = outcome(&masks, question);
        let seq = match outcome {
            Outcome::Permit | Outcome::Partial => refs[0],
            Outcome::Deny => refs[1],
            Outcome::Indeterminate | Outcome::NoConsent => 0,
        };
        Verdict { masks, outcome, reasons, conditions: Vec::new(), until_ms, seq }
    }
}

/// Answer a question at *now_ms*. *value*: the subject value; None: the person is not enrolled.
///
/// The question must be packed with the vocabulary that the rules were decoded with. A value that cannot be read is an
/// error: its answer is `undetermined`.
pub fn evaluate<'a>(
    value: Option<&'a [u8]>,
    question: &Packed<'_>,
    rules: &'a Rules,
    now_ms: u64,
) -> Result<Verdict<'a>, Malformed> {
    let (level, combining) = (rules.normal_level, rules.combining);
    let prepared = prepare(value, question, rules, now_ms)?;
    let case = if question.residual { WORST } else { STATED };
    let found = match_case(&prepared, question, case, level, now_ms);
    let decided = decide(&found, question.categories, combining, MOST_ROW_REASONS);
    let explained = found.used_up.iter().fold(0, |mask, one| mask | one.mask);
    if !question.residual {
        return Ok(Verdict::new(decided, question, found.until_ms, explained));
    }
    let best = match_case(&prepared, question, BEST, level, now_ms);
    let until_ms = found.until_ms.min(best.until_ms);
    let permitted = decide(&best, question.categories, combining, 0).masks.permitted;
    let conditional = permitted & !decided.masks.permitted;
    let mut rest = Vec::new();
    if conditional != 0 {
        rest = conditions(&prepared, question, rules, now_ms, permitted, &best)?;
    }
    if rest.is_empty() {
        return Ok(Verdict::new(decided, question, until_ms, explained));
    }
    let mut joint = decide(&found, question.categories & !conditional, combining, MOST_ROW_REASONS);
    let left = MOST_ROW_REASONS.saturating_sub(joint.reasons.len());
    let later = decide(&best, conditional, combining, left);
    joint.masks.permitted = permitted;
    joint.reasons.extend(later.reasons);
    for (seq, other) in joint.refs.iter_mut().zip(later.refs) {
        if *seq == 0 {
            *seq = other;
        }
    }
    let mut verdict = Verdict::new(joint, question, until_ms, explained);
    verdict.conditions = rest;
    Ok(verdict)
}

/// Return the answer to a question that cannot be answered because of a fault of ours: all categories are unknown.
pub fn undetermined<'a>(question: &Packed<'_>, code: u8) -> Verdict<'a> {
    let masks = Masks { unknown: question.categories, ..Masks::default() };
    let reasons = vec![Reason::alone(code, 0)];
    Verdict::new(Decision { masks, reasons, refs: [0, 0] }, question, OPEN_END_MS, 0)
}

/// Return the reduced form of a verdict, for a caller who may not see reasons ("One answer").
pub fn reduce<'a>(verdict: Verdict<'a>, question: &Packed<'_>) -> Verdict<'a> {
    let is_fault = verdict.reasons.iter().any(|one| matches!(one.code, code::CLOCK | code::DAMAGED_ROW));
    if verdict.outcome == Outcome::Permit || is_fault {
        return verdict;
    }
    let Masks { permitted, denied, without, unknown } = verdict.masks;
    let masks = Masks { permitted, denied: denied | without | unknown, ..Masks::default() };
    let mut reasons = verdict.reasons;
    reasons.retain(|one| one.effect == PERMIT);
    debug_assert!(reasons.iter().all(|one| one.effect != DENY));
    let seq = if permitted != 0 { verdict.seq } else { 0 };
    let mut reduced = Verdict::of(Decision { masks, reasons, refs: [seq, 0] }, question, OPEN_END_MS);
    if permitted != 0 {
        reduced.conditions = verdict.conditions;
    }
    reduced
}
