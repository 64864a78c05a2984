//! Rows and side records (`table-format.md`, "Row", "Side record").

use crate::{Malformed, OPEN_END_MS};

/// Bytes of a row.
pub const ROW_SIZE: usize = 52;
/// Flag: the row permits.
pub const PERMIT: u8 = 1;
/// Flag: the row has a side record.
pub const SIDE: u8 = 2;
/// Flag: an actor or a holder of the row is a group.
pub const GROUP: u8 = 4;
/// Flag: the row is the permit of a normal policy.
pub const NORMAL: u8 = 8;
/// Where the depth of a row is.
pub const DEPTH_AT: usize = 49;

/// Bytes of a list of uses before its items, and of an item.
const USES_HEAD: usize = 24;
const USE_SIZE: usize = 24;
/// Most uses of a consent that are not over (`consent_uses`).
const MOST_USES: usize = 128;

const CUT_SHORT: Malformed = Malformed("side block is cut short");

/// A provision of a consent, or a rule of the realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Number of the actor; 0: any, or see the side record.
    pub actor: u32,
    /// Number of the holder, in the same way.
    pub holder: u32,
    /// Mask of purposes.
    pub purposes: u64,
    /// Mask of categories.
    pub categories: u64,
    /// When the row comes into force, UTC milliseconds.
    pub start_ms: u64,
    /// When it goes out of force.
    pub end_ms: u64,
    /// Mask of labels; 0: none is named.
    pub labels: u32,
    /// Mask of actions.
    pub actions: u16,
    /// Word of the side record.
    pub side: u16,
    /// The flags, and from bit 4 on the level.
    pub flags: u8,
    /// Index in the preorder of the tree.
    pub node: u8,
    /// Number of descendants.
    pub below: u8,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Row {
    /// Read a row.
    pub fn decode(row: &[u8; ROW_SIZE]) -> Row {
        Row {
            actor: u32_at(row, 0),
            holder: u32_at(row, 4),
            purposes: u64_at(row, 8),
            categories: u64_at(row, 16),
            start_ms: u64_at(row, 24),
            end_ms: u64_at(row, 32),
            labels: u32_at(row, 40),
            actions: u16_at(row, 44),
            side: u16_at(row, 46),
            flags: row[48],
            node: row[50],
            below: row[51],
        }
    }

    /// Whether the row permits.
    pub fn permits(&self) -> bool {
        self.flags & PERMIT != 0
    }
}

/// Read rows. Bytes that are no whole row at the end are left out.
pub fn decode_rows(rows: &[u8]) -> impl ExactSizeIterator<Item = Row> + '_ {
    rows.chunks_exact(ROW_SIZE).map(|row| Row::decode(row.try_into().expect("a chunk has the size of a row")))
}

/// The start of a side record, with its data period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Word of the list of actors; 0: no list.
    pub actors: u16,
    /// Word of the list of holders.
    pub holders: u16,
    /// Word of the list of resources.
    pub resources: u16,
    /// The data period; None: no limit.
    pub data_period: Option<(i64, i64)>,
    /// Word of the list of ends.
    pub ends: u16,
    /// Word of the list of uses.
    pub uses: u16,
}

/// A side block: the side records of a consent or of the rules, and their lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block<'a>(pub &'a [u8]);

impl<'a> Block<'a> {
    fn get(&self, at: usize, length: usize) -> Result<&'a [u8], Malformed> {
        at.checked_add(length).and_then(|end| self.0.get(at..end)).ok_or(CUT_SHORT)
    }

    /// Read the record at a word.
    pub fn record(&self, word: u16) -> Result<Record, Malformed> {
        let at = 4 * usize::from(word);
        let start = self.get(at, 12)?;
        let data_period = match u16_at(start, 6) {
            0 => None,
            1 => {
                let period = self.get(at + 12, 16)?;
                Some((u64_at(period, 0) as i64, u64_at(period, 8) as i64))
            }
            _ => return Err(Malformed("side record has several data periods")),
        };
        Ok(Record {
            actors: u16_at(start, 0),
            holders: u16_at(start, 2),
            resources: u16_at(start, 4),
            data_period,
            ends: u16_at(start, 8),
            uses: u16_at(start, 10),
        })
    }

    fn items(&self, word: u16, size: usize) -> Result<&'a [u8], Malformed> {
        let count = self.count(word)?;
        self.get(4 * usize::from(word) + 4, count.checked_mul(size).ok_or(CUT_SHORT)?)
    }

    /// Return how many items the list at a word has.
    pub fn count(&self, word: u16) -> Result<usize, Malformed> {
        Ok(u32_at(self.get(4 * usize::from(word), 4)?, 0) as usize)
    }

    /// Return the numbers of the list at a word.
    pub fn numbers(&self, word: u16) -> Result<impl Iterator<Item = u32> + 'a, Malformed> {
        Ok(self.items(word, 4)?.chunks_exact(4).map(|one| u32_at(one, 0)))
    }

    /// Return the items of the list of ends at a word: a mask of purposes, and their end.
    pub fn ends(&self, word: u16) -> Result<impl Iterator<Item = (u64, u64)> + 'a, Malformed> {
        Ok(self.items(word, 16)?.chunks_exact(16).map(|one| (u64_at(one, 0), u64_at(one, 8))))
    }

    /// Return which categories the list of uses at a word has for a holder at an instant, and when that may change.
    ///
    /// The mask has every bit if the consent has as many uses as it may have (rule 13).
    pub fn used(&self, word: u16, holder: u32, now_ms: u64) -> Result<(u64, u64), Malformed> {
        let count = self.count(word)?;
        let length = count.checked_mul(USE_SIZE).ok_or(CUT_SHORT)?;
        let items = self.get(4 * usize::from(word) + USES_HEAD, length)?.chunks_exact(USE_SIZE);
        let lasting = items.filter(|one| u64_at(one, 16) > now_ms);
        let end = |until_ms: u64, one: &[u8]| until_ms.min(u64_at(one, 16));
        if lasting.clone().count() >= MOST_USES {
            return Ok((u64::MAX, lasting.fold(OPEN_END_MS, end)));
        }
        let of_holder = lasting.filter(|one| u32_at(one, 0) == holder);
        let mask = of_holder.clone().fold(0, |mask, one| mask | u64_at(one, 8));
        Ok((mask, of_holder.fold(OPEN_END_MS, end)))
    }

    /// Return the references of the list at a word, in their order; none for word 0.
    pub fn references(&self, word: u16) -> Result<Vec<&'a str>, Malformed> {
        if word == 0 {
            return Ok(Vec::new());
        }
        let count = self.count(word)?;
        let mut at = 4 * usize::from(word) + 4;
        let mut found = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            let length = usize::from(u16_at(self.get(at, 2)?, 0));
            let text =
                std::str::from_utf8(self.get(at + 2, length)?).map_err(|_| Malformed("reference is not UTF-8"))?;
            if text.is_empty() {
                return Err(CUT_SHORT);
            }
            found.push(text);
            at += 2 + length;
        }
        Ok(found)
    }
}
