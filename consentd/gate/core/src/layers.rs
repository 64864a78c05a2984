//! Which layer decides each category, and why (`policy.md`, rules 1 and 3, "Reasons").

use crate::codebook::Packed;
use crate::matching::{Layer, Path};
use crate::rules::Combining;
use crate::sensitivity::Kind;
use crate::subject::Ids;
use crate::trees::Matches;

/// Most reasons of an answer (`decision_reasons`), less those that name no row.
pub const MOST_ROW_REASONS: usize = 100 - 6;

/// The codes of reasons, as messages have them.
#[allow(missing_docs)]
pub mod code {
    pub const NO_MATCHING_CONSENT: u8 = 3;
    pub const DENIED_BY_BREAK_GLASS: u8 = 7;
    pub const UNKNOWN_CATEGORY: u8 = 10;
    pub const UNREADABLE_CONSENT: u8 = 11;
    pub const DENIED_BY_COMBINING: u8 = 12;
    pub const PERMITTED_BY_COMBINING: u8 = 13;
    pub const CLOCK: u8 = 14;
    pub const DAMAGED_ROW: u8 = 15;
    pub const BEYOND_RECURRENCE: u8 = 16;
}

/// The codes of a permit and of a deny in each layer.
const OF_LAYER: [[u8; 2]; 5] = [[4, 5], [6, 7], [1, 2], [8, 9], [8, 9]];

/// The effects, as messages have them.
pub const DENY: u8 = 1;
/// See `DENY`.
pub const PERMIT: u8 = 2;

/// Why a category was decided as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// The code.
    pub code: u8,
    /// `PERMIT` or `DENY`; 0: neither.
    pub effect: u8,
    /// Which version of which consent; zeros: none.
    pub ids: Ids,
    /// Which provision.
    pub path: Path<'a>,
    /// Its row.
    pub node: u8,
}

impl Reason<'_> {
    /// Return a reason that names no row.
    pub fn alone(code: u8, effect: u8) -> Self {
        Reason { code, effect, ids: Ids::default(), path: Path::Empty, node: 0 }
    }
}

/// Disjoint masks of all categories asked for that the vocabulary has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// What is permitted.
    pub permitted: u64,
    /// What is denied.
    pub denied: u64,
    /// What nobody decided.
    pub without: u64,
    /// What could not be determined.
    pub unknown: u64,
}

/// What was decided about some categories.
#[derive(Clone, Debug, Default)]
pub struct Decision<'a> {
    /// The categories.
    pub masks: Masks,
    /// The rows that decided, and what decided without a row.
    pub reasons: Vec<Reason<'a>>,
    /// Seq of the first consent that permits something, and of the first that denies; 0: none.
    pub refs: [u32; 2],
}

/// Decide each category *asked* by the first layer that permits, denies or does not know it.
///
/// Of the rows that decided, the first *most* become reasons.
pub fn decide<'a>(found: &Matches<'a>, asked: u64, combining: Combining, most: usize) -> Decision<'a> {
    let mut masks = Masks { without: asked, ..Masks::default() };
    let mut decided = [[0u64; 3]; 5];
    for (layer, of_layer) in found.masks.iter().enumerate() {
        let left = masks.without;
        let [mut permits, mut denies, mut unknowns] = of_layer.map(|mask| mask & left);
        let is_consent = layer == Layer::Consent as usize;
        if !is_consent || combining.denies_first() {
            if is_consent {
                permits |= found.otherwise & left;
            }
            unknowns &= !denies;
            permits &= !(denies | unknowns);
        } else {
            unknowns &= !permits;
            denies &= !(permits | unknowns);
            if combining.denies_unless_permit() {
                denies = left & !(permits | unknowns);
            }
        }
        decided[layer] = [permits, denies, unknowns];
        masks.permitted |= permits;
        masks.denied |= denies;
        masks.unknown |= unknowns;
        masks.without &= !(permits | denies | unknowns);
    }
    let mut result = Decision { masks, ..Decision::default() };
    for row in &found.decided {
        // A row is a reason only if its layer decided one of its categories, with its effect.
        if row.mask & decided[row.layer as usize][row.kind as usize] == 0 {
            continue;
        }
        if row.kind != Kind::Unknown && result.refs[row.kind as usize] == 0 {
            result.refs[row.kind as usize] = row.ids.seq;
        }
        if result.reasons.len() >= most {
            let [permit, deny] = result.refs;
            if (permit != 0 || masks.permitted == 0) && (deny != 0 || masks.denied == 0) {
                break;
            }
            continue;
        }
        let (code, effect) = match row.kind {
            Kind::Unknown => (code::UNREADABLE_CONSENT, 0),
            Kind::Permit => (OF_LAYER[row.layer as usize][0], PERMIT),
            Kind::Deny => (OF_LAYER[row.layer as usize][1], DENY),
        };
        result.reasons.push(Reason { code, effect, ids: row.ids, path: row.path, node: row.node });
    }
    let consent = Layer::Consent as usize;
    if decided[consent][0] & !found.masks[consent][0] != 0 {
        result.reasons.push(Reason::alone(code::PERMITTED_BY_COMBINING, PERMIT));
    }
    if decided[consent][1] & !found.masks[consent][1] != 0 {
        result.reasons.push(Reason::alone(code::DENIED_BY_COMBINING, DENY));
    }
    // What combining alone denies is not decided by a consent.
    let undecided = masks.without | decided[consent][1] & !found.masks[consent][1];
    for row in found.used_up.iter().filter(|row| row.mask & undecided != 0) {
        if result.reasons.len() < most {
            let (code, effect) = (code::BEYOND_RECURRENCE, 0);
            result.reasons.push(Reason { code, effect, ids: row.ids, path: row.path, node: row.node });
        }
    }
    result
}

/// The outcomes, as messages have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outcome {
    Permit = 1,
    Partial = 2,
    Deny = 3,
    Indeterminate = 4,
    NoConsent = 5,
}

/// Return the outcome of an answer.
pub fn outcome(masks: &Masks, question: &Packed<'_>) -> Outcome {
    let is_strange = masks.unknown != 0 || !question.unknown.is_empty();
    if masks.permitted != 0 {
        let is_whole = masks.denied == 0 && masks.without == 0 && !is_strange;
        return if is_whole { Outcome::Permit } else { Outcome::Partial };
    }
    match (masks.denied != 0, is_strange) {
        (true, _) => Outcome::Deny,
        (false, true) => Outcome::Indeterminate,
        (false, false) => Outcome::NoConsent,
    }
}
