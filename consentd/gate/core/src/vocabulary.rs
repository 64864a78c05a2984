//! The codes of a realm, with the bits above and below each (`policy.md`, rule 6).
//!
//! A reader needs no mask of a permit: the writer compiled those into the rows.

use std::collections::HashMap;

use crate::wire::{Fields, Value};
use crate::Malformed;

/// Most codes of purposes and categories: the bits of a mask.
const MOST: usize = 64;
const MOST_ACTIONS: usize = 16;
const MOST_LABELS: usize = 32;
const LEVELS: [&str; 6] = ["U", "L", "M", "N", "R", "V"];

/// Number of the highest level, V.
pub const HIGHEST_LEVEL: u8 = 6;

/// Return the number of a level, 1 to 6; 0 for the empty text; None: there is no such level.
pub fn level_number(level: &str) -> Option<u8> {
    if level.is_empty() {
        return Some(0);
    }
    LEVELS.iter().position(|one| *one == level).map(|at| at as u8 + 1)
}

/// Return the name of a level; empty for 0, and for a number that is no level's.
pub fn level_name(number: u8) -> &'static str {
    usize::from(number).checked_sub(1).and_then(|at| LEVELS.get(at)).copied().unwrap_or("")
}

/// One list of codes. The place of a code is the number of its bit.
#[derive(Clone, Debug, Default)]
pub struct Codes {
    /// The codes, in the order of their bits.
    pub codes: Vec<String>,
    /// The bit of each code and those of all codes above it.
    pub above: Vec<u64>,
    /// The bit of each code and those of all codes below it.
    pub below: Vec<u64>,
    places: HashMap<String, usize>,
}

impl Codes {
    fn add(&mut self, code: &str, parent: &str, most: usize) -> Result<usize, Malformed> {
        let at = self.codes.len();
        if at >= most || self.places.contains_key(code) {
            return Err(Malformed("vocabulary has too many codes, or one twice"));
        }
        let bit = 1u64 << at;
        let mut above = bit;
        if !parent.is_empty() {
            above |= self.above[self.place(parent).ok_or(Malformed("parent does not come before its child"))?];
        }
        for (place, below) in self.below.iter_mut().enumerate() {
            if above >> place & 1 == 1 {
                *below |= bit;
            }
        }
        self.codes.push(code.to_owned());
        self.above.push(above);
        self.below.push(bit);
        self.places.insert(code.to_owned(), at);
        Ok(at)
    }

    /// Return the place of a code.
    pub fn place(&self, code: &str) -> Option<usize> {
        self.places.get(code).copied()
    }

    /// Return the codes of a mask, in the order of the vocabulary.
    pub fn named(&self, mask: u64) -> impl Iterator<Item = &str> {
        self.codes.iter().enumerate().filter(move |(at, _)| mask >> at & 1 == 1).map(|(_, code)| code.as_str())
    }
}

/// Leaf categories that have the same labels of their own and the same default level (rule 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sensitivity {
    /// The labels.
    pub labels: u32,
    /// The labels, and those above them.
    pub labels_above: u32,
    /// Number of the default level.
    pub level: u8,
    /// Mask of the leaf categories.
    pub leaves: u64,
}

/// One version of a realm's codes.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// The version.
    pub version: u16,
    /// The purposes.
    pub purposes: Codes,
    /// The categories of data.
    pub categories: Codes,
    /// The actions.
    pub actions: Codes,
    /// The labels.
    pub labels: Codes,
    /// Mask of the leaf categories.
    pub leaves: u64,
    /// Each leaf is in exactly one item.
    pub sensitivities: Vec<Sensitivity>,
}

#[derive(Default)]
struct Code<'a> {
    kind: u64,
    code: &'a str,
    parent: &'a str,
    level: &'a str,
    labels: Vec<&'a str>,
}

impl Vocabulary {
    /// Read a `VocabularyStatement`. The daemon checked it when it was published, so only what the masks need is checked.
    pub fn decode(statement: &[u8]) -> Result<Vocabulary, Malformed> {
        let mut found = Vocabulary::default();
        let mut leaves = Vec::new();
        let mut fields = Fields::new(statement);
        while let Some((number, value)) = fields.read()? {
            match number {
                2 => {
                    found.version = u16::try_from(value.number()?).map_err(|_| Malformed("version is out of range"))?
                }
                3 => {
                    let code = read_code(value)?;
                    let (list, most) = match code.kind {
                        1 => (&mut found.purposes, MOST),
                        2 => (&mut found.categories, MOST),
                        3 => (&mut found.actions, MOST_ACTIONS),
                        4 => (&mut found.labels, MOST_LABELS),
                        _ => continue, // of the other lists, which decide nothing
                    };
                    let place = list.add(code.code, code.parent, most)?;
                    if code.kind == 2 {
                        leaves.push((place, code.level, code.labels));
                    }
                }
                _ => {}
            }
        }
        if found.version == 0 {
            return Err(Malformed("vocabulary has no version"));
        }
        leaves.retain(|(place, _, _)| found.categories.below[*place] == 1 << place);
        for (place, level, labels) in leaves {
            found.leaves |= 1 << place;
            found.add_leaf(place, level, &labels)?;
        }
        Ok(found)
    }

    fn add_leaf(&mut self, place: usize, level: &str, names: &[&str]) -> Result<(), Malformed> {
        let (mut labels, mut labels_above) = (0u32, 0u32);
        for name in names {
            let at = self.labels.place(name).ok_or(Malformed("category has an unknown label"))?;
            labels |= 1 << at;
            labels_above |= self.labels.above[at] as u32;
        }
        let level = level_number(level).filter(|number| *number > 0).ok_or(Malformed("category has no level"))?;
        let one = Sensitivity { labels, labels_above, level, leaves: 1 << place };
        let same = self.sensitivities.iter_mut().find(|other| (other.labels, other.level) == (labels, level));
        match same {
            Some(other) => other.leaves |= one.leaves,
            None => self.sensitivities.push(one),
        }
        Ok(())
    }
}

fn read_code(value: Value<'_>) -> Result<Code<'_>, Malformed> {
    let mut code = Code::default();
    let mut fields = Fields::new(value.bytes()?);
    while let Some((number, value)) = fields.read()? {
        match number {
            1 => code.kind = value.number()?,
            2 => code.code = value.text()?,
            4 => code.parent = value.text()?,
            7 => code.level = value.text()?,
            8 => code.labels.push(value.text()?),
            _ => {}
        }
    }
    Ok(code)
}
