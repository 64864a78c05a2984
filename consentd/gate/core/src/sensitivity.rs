//! Whether the labels and the level of data meet a row (`policy.md`, rules 5 and 9).

use crate::codebook::Packed;
use crate::rows::{NORMAL, PERMIT};
use crate::vocabulary::{Sensitivity, HIGHEST_LEVEL};

/// How limits on a property match that the question leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Whether a limit in a deny matches.
    pub deny_fits: bool,
    /// Whether a limit in a permit on labels, resources or data period matches.
    pub permit_fits: bool,
    /// Whether a permit must cover all labels and levels that the data may have.
    pub is_strict: bool,
}

/// For a caller that checks no conditions.
pub const STATED: Case = Case { deny_fits: true, permit_fits: false, is_strict: false };
/// What no resource may lack.
pub const WORST: Case = Case { deny_fits: true, permit_fits: false, is_strict: true };
/// What some resource may have.
pub const BEST: Case = Case { deny_fits: false, permit_fits: true, is_strict: false };
/// Every row matches that matches in one of the two, or matches a single resource.
pub const EITHER: Case = Case { deny_fits: true, permit_fits: true, is_strict: false };

/// What a row does with the categories that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It permits them.
    Permit = 0,
    /// It denies them.
    Deny = 1,
    /// It cannot be interpreted.
    Unknown = 2,
}

/// How a row matches, as far as that depends on the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// What the row does.
    pub kind: Kind,
    /// The flags of the row; the level is in bits 4 to 6.
    pub flags: u8,
    /// The labels that the row names.
    pub labels: u32,
    /// Whether it names resources.
    pub names_resources: bool,
    /// Whether it limits resources or data period, and the question leaves them open.
    pub is_open: bool,
}

impl Key {
    /// Number of the level that the row names; 0: none.
    pub fn level(self) -> u8 {
        self.flags >> 4 & 7
    }

    /// Whether it is the permit of a normal policy.
    pub fn is_normal(self) -> bool {
        self.flags & NORMAL != 0
    }

    /// The highest level that a permit covers, of data whose category has the level *default*.
    pub fn top_level(self, default: u8, normal_level: u8) -> u8 {
        match self.level() {
            level if self.is_normal() => level.min(normal_level),
            0 => default,
            level => level,
        }
    }

    /// The leaves asked for whose labels and level meet the row.
    pub fn fits(self, question: &Packed<'_>, case: Case, normal_level: u8) -> u64 {
        let meets: fn(Key, &Packed<'_>, Case, u8, &Sensitivity) -> bool = match self.kind {
            Kind::Unknown => return question.categories,
            Kind::Permit => permit_fits,
            Kind::Deny => deny_fits,
        };
        debug_assert_eq!(self.kind == Kind::Permit, self.flags & PERMIT != 0);
        if self.is_open && !(if self.kind == Kind::Permit { case.permit_fits } else { case.deny_fits }) {
            return 0;
        }
        let fitting = question.sensitivities.iter().filter(|one| meets(self, question, case, normal_level, one));
        fitting.fold(0, |mask, one| mask | one.leaves)
    }
}

fn permit_fits(key: Key, question: &Packed<'_>, case: Case, normal_level: u8, data: &Sensitivity) -> bool {
    let (labels, top) = (key.labels, key.top_level(data.level, normal_level));
    if question.level != 0 {
        if question.level_of(data.level) > top {
            return false;
        }
    } else if top < if case.is_strict { HIGHEST_LEVEL } else { data.level } {
        return false;
    }
    if key.is_normal() {
        return labels == 0 && question.labels.map_or(!case.is_strict, |(stated, _)| stated == 0);
    }
    match question.labels {
        None if case.is_strict && !key.names_resources => false,
        None => case.permit_fits || labels == 0 || labels & data.labels != 0,
        Some((stated, _)) if stated & !(labels | data.labels) != 0 && !key.names_resources => false,
        Some((stated, _)) => labels == 0 || labels & (stated | data.labels) != 0,
    }
}

fn deny_fits(key: Key, question: &Packed<'_>, case: Case, _: u8, data: &Sensitivity) -> bool {
    let level = key.level();
    if level != 0 {
        if question.level != 0 {
            if question.level_of(data.level) < level {
                return false;
            }
        } else if !case.deny_fits && data.level < level {
            return false;
        }
    }
    if key.labels == 0 {
        return true;
    }
    match question.labels {
        None => case.deny_fits || key.labels & data.labels_above != 0,
        Some((_, above)) => key.labels & (above | data.labels_above) != 0,
    }
}
