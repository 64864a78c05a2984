//! The subject value: the compiled consents of a person (`table-format.md`, "Subject value").

use crate::rows::{Block, ROW_SIZE};
use crate::Malformed;

const FORMAT: u8 = 4;
const HEADER_SIZE: usize = 8;
const ENTRY_SIZE: usize = 30;
const CLOSED: u8 = 2;
/// Most rows of a person (`person_stored_provisions`).
const MOST_ROWS: usize = 6_000;

/// Entry flag: its permits do not count.
pub const PAUSED: u8 = 1;
/// Entry flag: it could not be interpreted.
pub const UNREADABLE: u8 = 2;
/// Entry flag: its rows are in layer STATUTE.
pub const STATUTORY: u8 = 4;
const HAS_SIDE: u8 = 8;
/// How many rows each implicit policy has.
pub const POLICY_ROWS: [usize; 5] = [0, 1, 1, 1, 2];

const CUT_SHORT: Malformed = Malformed("subject value is cut short");

/// Which version of a consent: all are 0 for a rule of the realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Seq of the entry that is in force.
    pub seq: u32,
    /// Seq of the GRANT that began the lineage.
    pub lineage: u32,
    /// The version.
    pub version: u16,
}

/// A consent with its amendments, in the version that is in force.
#[derive(Clone, Copy, Debug)]
pub struct Lineage<'a> {
    /// Which version this is.
    pub ids: Ids,
    /// Version of the vocabulary of its masks.
    pub vocabulary: u16,
    /// The flags of its entry.
    pub flags: u8,
    /// Leaf index of the entry of this version.
    pub since: u64,
    /// Number of the version of a notice that it was given under; 0: none.
    pub notice: u32,
    /// The rows of its tree, and of its implicit policy.
    pub rows: &'a [u8],
    /// How many rows its tree has.
    pub tree: usize,
    /// Its side block.
    pub block: Block<'a>,
}

/// The consents of a person.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubjectValue<'a> {
    value: &'a [u8],
    lineages: usize,
    /// How many rows it has.
    pub rows: usize,
    /// Whether everything is denied in layer CONSENT, because the person's denies are over their limit.
    pub is_closed: bool,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |found, byte| found << 8 | u64::from(*byte))
}

impl<'a> SubjectValue<'a> {
    /// Read the header. An empty value has no consents.
    pub fn decode(value: &'a [u8]) -> Result<Self, Malformed> {
        if value.is_empty() {
            return Ok(SubjectValue::default());
        }
        let header = value.get(..HEADER_SIZE).ok_or(CUT_SHORT)?;
        let (lineages, rows) = (number(&header[4..6]) as usize, number(&header[6..8]) as usize);
        if header[0] != FORMAT {
            return Err(Malformed("subject value has an unknown format"));
        }
        if rows > MOST_ROWS || value.len() < HEADER_SIZE + lineages * ENTRY_SIZE + rows * ROW_SIZE {
            return Err(CUT_SHORT);
        }
        Ok(SubjectValue { value, lineages, rows, is_closed: header[1] & CLOSED != 0 })
    }

    /// Return the lineages, oldest first. The last item is an error if the value does not end where they do.
    pub fn lineages(&self) -> Lineages<'a> {
        let row_at = HEADER_SIZE + self.lineages * ENTRY_SIZE;
        let side_at = row_at + self.rows * ROW_SIZE;
        Lineages { value: self.value, left: self.lineages, entry_at: HEADER_SIZE, row_at, rows_end: side_at, side_at }
    }
}

/// Reads the lineages of a subject value.
#[derive(Clone, Debug)]
pub struct Lineages<'a> {
    value: &'a [u8],
    left: usize,
    entry_at: usize,
    row_at: usize,
    rows_end: usize,
    side_at: usize,
}

impl<'a> Lineages<'a> {
    fn read(&mut self) -> Result<Lineage<'a>, Malformed> {
        let entry = &self.value.get(self.entry_at..self.entry_at + ENTRY_SIZE).ok_or(CUT_SHORT)?;
        self.entry_at += ENTRY_SIZE;
        let flags = entry[13];
        let policy = POLICY_ROWS.get(usize::from(flags >> 4)).ok_or(Malformed("entry has an unknown policy"))?;
        let tree = usize::from(entry[12]) + 1;
        let end = self.row_at + (tree + policy) * ROW_SIZE;
        if end > self.rows_end {
            return Err(CUT_SHORT);
        }
        let rows = &self.value[self.row_at..end];
        self.row_at = end;
        let mut block = Block(&[]);
        if flags & HAS_SIDE != 0 {
            let length = number(self.value.get(self.side_at..self.side_at + 4).ok_or(CUT_SHORT)?) as usize;
            let begin = self.side_at + 4;
            self.side_at = begin.checked_add(length).ok_or(CUT_SHORT)?;
            block = Block(self.value.get(begin..self.side_at).ok_or(CUT_SHORT)?);
        }
        Ok(Lineage {
            ids: Ids {
                lineage: number(&entry[0..4]) as u32,
                seq: number(&entry[4..8]) as u32,
                version: number(&entry[8..10]) as u16,
            },
            vocabulary: number(&entry[10..12]) as u16,
            flags,
            since: number(&entry[14..22]),
            notice: number(&entry[26..30]) as u32,
            rows,
            tree,
            block,
        })
    }
}

impl<'a> Iterator for Lineages<'a> {
    type Item = Result<Lineage<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let is_whole = self.row_at == self.rows_end && self.side_at == self.value.len();
            if is_whole || self.value.is_empty() {
                return None;
            }
            self.value = &[];
            return Some(Err(Malformed("subject value has more than its entries")));
        }
        self.left -= 1;
        let found = self.read();
        if found.is_err() {
            self.left = 0;
            self.value = &[];
        }
        Some(found)
    }
}
