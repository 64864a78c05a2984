//! A question as bit masks (`table-format.md`, "What a reader computes").

use crate::parties::Parties;
use crate::question::{data_period, is_reference, Question};
use crate::vocabulary::{level_number, Sensitivity, Vocabulary};
use crate::Refused;

const DEFAULT_ACTION: &str = "collect";
const BREAK_GLASS_PURPOSE: &str = "BTG";
const ENFORCE_RESIDUAL: u64 = 1;
const MOST_OBLIGATION: u64 = 3;
const INVALID: Refused = Refused("INVALID_REQUEST");

/// A question with masks in place of codes. The person is not part of it.
#[derive(Clone, Debug)]
pub struct Packed<'q> {
    /// Bit of the purpose.
    pub purpose: u64,
    /// The bits of the purpose and of those above it.
    pub deny_purposes: u64,
    /// Bit of the action.
    pub action: u64,
    /// The bits of the actions that a deny may name.
    pub deny_actions: u64,
    /// Number of the holder, if the action is a transfer (rule 13); 0: it is not.
    pub transfer_holder: u32,
    /// The leaf categories asked for.
    pub categories: u64,
    /// These, and the categories above them.
    pub deny_categories: u64,
    /// The bit of each category above, and the leaves asked for that are below it.
    pub parents: Vec<(u64, u64)>,
    /// The leaves asked for by their labels and levels.
    pub sensitivities: Vec<Sensitivity>,
    /// Codes that the vocabulary does not have, each once.
    pub unknown: Vec<&'q str>,
    /// The participants that it is decided for.
    pub parties: Parties,
    /// Masks of the labels, for permits and for denies; None: left open.
    pub labels: Option<(u32, u32)>,
    /// Number of the level; 0: left open.
    pub level: u8,
    /// Whether a level below a category's default counts as stated (rule 9).
    pub is_level_exact: bool,
    /// The resources; None: left open.
    pub resources: Option<Vec<&'q str>>,
    /// Start and end of the data period; None: left open.
    pub data_period: Option<(i64, i64)>,
    /// Whether the purpose is BTG.
    pub break_glass: bool,
    /// Whether something is left open, and the caller can and may check conditions (rule 5).
    pub residual: bool,
    /// Version of the vocabulary.
    pub version: u16,
}

impl Packed<'_> {
    /// Return the level of data whose category has this default level, if the question states a level.
    pub fn level_of(&self, default: u8) -> u8 {
        if self.is_level_exact {
            self.level
        } else {
            self.level.max(default)
        }
    }
}

/// Check what a question must have before its parties can be determined.
pub fn check_names(question: &Question<'_>, vocabulary: &Vocabulary) -> Result<(), Refused> {
    if question.organisation.is_empty() || question.holder.is_empty() {
        return Err(INVALID);
    }
    vocabulary.purposes.place(question.purpose).map(drop).ok_or(Refused("UNKNOWN_PURPOSE"))
}

/// Convert a question to masks, and refuse an invalid one.
///
/// Whether a justification of an emergency access says something is not checked here: `Check` refuses those questions.
pub fn pack<'q>(question: &Question<'q>, vocabulary: &Vocabulary, parties: Parties) -> Result<Packed<'q>, Refused> {
    if question.obligations.iter().any(|one| !(1..=MOST_OBLIGATION).contains(one)) {
        return Err(INVALID);
    }
    let period = question.data_period.map(data_period).transpose()?;
    let purpose = vocabulary.purposes.place(question.purpose).ok_or(Refused("UNKNOWN_PURPOSE"))?;
    let Action { bit: action, above: deny_actions, is_transfer } = action(question.action, vocabulary)?;
    if question.categories.is_empty() {
        return Err(Refused("EMPTY_CATEGORIES"));
    }
    let break_glass = question.purpose == BREAK_GLASS_PURPOSE;
    if break_glass != question.has_justification {
        return Err(Refused("BREAK_GLASS_SHAPE"));
    }
    let labels = question.labels.as_ref().map(|codes| label_masks(codes, vocabulary)).transpose()?;
    let resources = question.resources.clone();
    if resources.as_ref().is_some_and(|all| all.is_empty() || !all.iter().all(|one| is_reference(one))) {
        return Err(INVALID);
    }
    let level = level_number(question.level).ok_or(INVALID)?;
    let is_open = labels.is_none() || level == 0 || resources.is_none() || period.is_none();
    let mut packed = Packed {
        purpose: 1 << purpose,
        deny_purposes: vocabulary.purposes.above[purpose],
        action,
        deny_actions,
        transfer_holder: if is_transfer { parties.holders.iter().copied().max().unwrap_or(0) } else { 0 },
        categories: 0,
        deny_categories: 0,
        parents: Vec::new(),
        sensitivities: Vec::new(),
        unknown: Vec::new(),
        labels,
        level,
        is_level_exact: level != 0 && resources.is_some() && parties.is_holder,
        resources,
        data_period: period,
        break_glass,
        residual: question.obligations.contains(&ENFORCE_RESIDUAL) && parties.gets_conditions && is_open,
        version: vocabulary.version,
        parties,
    };
    packed.add_categories(&question.categories, vocabulary);
    Ok(packed)
}

impl<'q> Packed<'q> {
    fn add_categories(&mut self, codes: &[&'q str], vocabulary: &Vocabulary) {
        let categories = &vocabulary.categories;
        for code in codes {
            match categories.place(code) {
                Some(place) => self.categories |= categories.below[place] & vocabulary.leaves,
                None if self.unknown.contains(code) => {}
                None => self.unknown.push(code),
            }
        }
        self.deny_categories = self.categories;
        for (place, below) in categories.below.iter().enumerate() {
            let (bit, leaves) = (1u64 << place, below & self.categories);
            if leaves != 0 && vocabulary.leaves & bit == 0 {
                self.parents.push((bit, leaves));
                self.deny_categories |= bit;
            }
        }
        let asked =
            vocabulary.sensitivities.iter().map(|one| Sensitivity { leaves: one.leaves & self.categories, ..*one });
        self.sensitivities = asked.filter(|one| one.leaves != 0).collect();
    }
}

struct Action {
    bit: u64,
    /// The bits of what a deny may name.
    above: u64,
    is_transfer: bool,
}

/// Return the masks of an action. A deny of access denies collect too (rule 6).
fn action(code: &str, vocabulary: &Vocabulary) -> Result<Action, Refused> {
    let actions = &vocabulary.actions;
    let code = if code.is_empty() { DEFAULT_ACTION } else { code };
    let place = actions.place(code).ok_or(Refused("UNKNOWN_ACTION"))?;
    let mut above = actions.above[place];
    let is_transfer = actions.place(DEFAULT_ACTION).is_some_and(|collect| above >> collect & 1 == 1);
    if is_transfer {
        above |= actions.place("access").map_or(0, |access| actions.above[access]);
    }
    Ok(Action { bit: 1 << place, above, is_transfer })
}

fn label_masks(codes: &[&str], vocabulary: &Vocabulary) -> Result<(u32, u32), Refused> {
    let (mut mask, mut above) = (0, 0);
    for code in codes {
        let place = vocabulary.labels.place(code).ok_or(Refused("UNKNOWN_CODE"))?;
        mask |= 1 << place;
        above |= vocabulary.labels.above[place] as u32;
    }
    Ok((mask, above))
}
