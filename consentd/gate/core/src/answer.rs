//! Write an answer as the bytes of a `Decision` message.

use sha2::{Digest, Sha256};

use crate::codebook::Packed;
use crate::evaluate::Verdict;
use crate::layers::{DENY, PERMIT};
use crate::residual::Condition;
use crate::rules::Rules;
use crate::trees::path_of;
use crate::vocabulary::{level_name, Codes, Vocabulary, HIGHEST_LEVEL};
use crate::wire::{put_bytes, put_item, put_number, put_varint};
use crate::OPEN_END_MS;

const ENFORCE_RESIDUAL: u64 = 1;
const NOTIFY_SUBJECT: u64 = 2;
const POST_REVIEW: u64 = 3;
const CONSENT: &[u8] = b"consentd/consent/v1\0";

/// What all answers from one state have in common.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// The vocabulary in force.
    pub vocabulary: &'a Vocabulary,
    /// The rules in force.
    pub rules: &'a Rules,
    /// Leaves of the tree that the table reflects.
    pub tree_size: u64,
    /// Its root.
    pub root: &'a [u8],
    /// The time of the decisions, UTC milliseconds.
    pub now_ms: u64,
}

/// Return the id of a consent: 32 hex digits.
pub fn consent_id(tag: &[u8], lineage: u32) -> String {
    let mut hash = Sha256::new();
    hash.update(CONSENT);
    hash.update(tag);
    hash.update(u64::from(lineage).to_be_bytes());
    hex(&hash.finalize()[..16])
}

/// Return bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|one| [one >> 4, one & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Append a `Decision` to *out*. *tag*: the person's, as far as the answer shows it.
pub fn encode(
    out: &mut Vec<u8>,
    verdict: &Verdict<'_>,
    question: &Packed<'_>,
    state: &State<'_>,
    tag: &[u8],
    decision_id: &str,
) {
    let masks = &verdict.masks;
    let categories = &state.vocabulary.categories;
    put_number(out, 1, verdict.outcome as u64);
    for (field, mask) in [(2, masks.permitted), (3, masks.denied), (4, masks.without), (5, masks.unknown)] {
        put_codes(out, field, categories, mask);
    }
    for code in &question.unknown {
        put_item(out, 5, code.as_bytes());
    }
    put_reasons(out, verdict, tag);
    let mut obligations = Vec::new();
    if !verdict.conditions.is_empty() {
        put_varint(&mut obligations, ENFORCE_RESIDUAL);
    }
    if masks.permitted != 0 && question.break_glass {
        put_varint(&mut obligations, NOTIFY_SUBJECT);
        put_varint(&mut obligations, POST_REVIEW);
    }
    put_bytes(out, 7, &obligations);
    for rule in &verdict.conditions {
        put_item(out, 8, &rule_message(rule, state.vocabulary));
    }
    put_number(out, 9, if verdict.until_ms == OPEN_END_MS { 0 } else { verdict.until_ms });
    let mut revision = Vec::new();
    put_number(&mut revision, 1, state.tree_size);
    put_bytes(&mut revision, 2, state.root);
    put_item(out, 10, &revision);
    put_bytes(out, 11, decision_id.as_bytes());
    put_bytes(out, 12, tag);
    put_number(out, 13, u64::from(verdict.seq));
    put_number(out, 14, u64::from(state.vocabulary.version));
    put_number(out, 15, u64::from(state.rules.combining.0));
    put_number(out, 16, state.now_ms);
    if masks.permitted != 0 {
        match question.labels {
            Some((labels, _)) => put_codes(out, 17, &state.vocabulary.labels, u64::from(labels)),
            None if question.residual => put_item(out, 17, b"*"),
            None => {}
        }
        let highest = if question.residual { HIGHEST_LEVEL } else { 0 };
        let level = if question.level != 0 { question.level } else { highest };
        put_bytes(out, 18, level_name(level).as_bytes());
    }
}

fn put_codes(out: &mut Vec<u8>, field: u32, codes: &Codes, mask: u64) {
    if mask != 0 {
        codes.named(mask).for_each(|code| put_item(out, field, code.as_bytes()));
    }
}

fn put_reasons(out: &mut Vec<u8>, verdict: &Verdict<'_>, tag: &[u8]) {
    let mut last = (0, String::new()); // many reasons may be of one consent, and an id is a hash
    let mut message = Vec::new();
    for reason in &verdict.reasons {
        message.clear();
        put_number(&mut message, 1, u64::from(reason.code));
        put_number(&mut message, 2, u64::from(reason.effect));
        let lineage = reason.ids.lineage;
        if lineage != 0 {
            if last.0 != lineage {
                last = (lineage, consent_id(tag, lineage));
            }
            put_item(&mut message, 3, last.1.as_bytes());
            put_number(&mut message, 4, u64::from(reason.ids.version));
        }
        put_bytes(&mut message, 5, path_of(reason.path, reason.node).as_bytes());
        put_item(out, 6, &message);
    }
}

fn rule_message(rule: &Condition<'_>, vocabulary: &Vocabulary) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, u64::from(rule.effect));
    put_codes(&mut out, 2, &vocabulary.categories, rule.categories);
    put_codes(&mut out, 3, &vocabulary.labels, u64::from(rule.covered_labels));
    for reference in &rule.resources {
        put_item(&mut out, 4, reference.as_bytes());
    }
    if let Some((start, end)) = rule.data_period {
        let mut period = Vec::new();
        put_number(&mut period, 1, if start == i64::MIN { 0 } else { start as u64 });
        put_number(&mut period, 2, if end == i64::MAX { 0 } else { end as u64 });
        put_item(&mut out, 5, &period);
    }
    put_number(&mut out, 6, rule.layer as u64 + 1);
    for child in &rule.children {
        put_item(&mut out, 7, &rule_message(child, vocabulary));
    }
    put_codes(&mut out, 8, &vocabulary.labels, u64::from(any_labels(rule, vocabulary)));
    put_bytes(&mut out, 9, level_name(rule.level).as_bytes());
    debug_assert!(rule.effect == PERMIT || rule.effect == DENY);
    out
}

/// Return the labels of which a resource bears one: in a deny, those below too.
fn any_labels(rule: &Condition<'_>, vocabulary: &Vocabulary) -> u32 {
    if rule.effect != DENY || rule.any_labels == 0 {
        return rule.any_labels;
    }
    let above = vocabulary.labels.above.iter().enumerate();
    above.filter(|(_, above)| **above as u32 & rule.any_labels != 0).fold(0, |mask, (at, _)| mask | 1 << at)
}
