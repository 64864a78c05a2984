//! Rows with their checks, and the row of the revision.

use std::fmt;

use consentd_core::Malformed;

const CHECK_SIZE: usize = 4;
const FORMAT: u8 = 5;

/// Why the table gives no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A row is not what was written.
    Damaged,
    /// The table has another format, or lacks what every table has.
    Unusable(&'static str),
    /// The source of the rows failed; the text has no key and no value.
    Source(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Damaged => out.write_str("table row is damaged"),
            Fault::Unusable(what) => out.write_str(what),
            Fault::Source(what) => write!(out, "table cannot be read: {what}"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Fault::Damaged
    }
}

/// What is called with the key and the stored value of a row.
pub type Each<'e> = dyn FnMut(&[u8], &[u8]) -> Result<(), Fault> + 'e;

/// The stored rows of the table at one moment.
pub trait Source {
    /// Return a stored value, with its check; None: there is no such row.
    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Fault>;

    /// Call *each* with the key and the stored value of every row whose key begins with *prefix*, by key.
    fn scan(&self, prefix: &[u8], each: &mut Each<'_>) -> Result<(), Fault>;
}

/// Return the value of a stored row.
pub fn open_row<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], Fault> {
    let at = stored.len().checked_sub(CHECK_SIZE).ok_or(Fault::Damaged)?;
    let (value, check) = stored.split_at(at);
    if check_of(key, value) == check {
        Ok(value)
    } else {
        Err(Fault::Damaged)
    }
}

/// Return the check of a row: the CRC-32 of its key and its value.
pub fn check_of(key: &[u8], value: &[u8]) -> [u8; CHECK_SIZE] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(value);
    crc.finalize().to_be_bytes()
}

/// Return the value of a row; None: there is no such row.
pub fn get<'a>(source: &'a impl Source, key: &[u8]) -> Result<Option<&'a [u8]>, Fault> {
    source.get(key)?.map(|stored| open_row(key, stored)).transpose()
}

/// The row `R`: which entries the table reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Leaves of the tree.
    pub tree_size: u64,
    /// Its root.
    pub root: [u8; 32],
    /// How many entries changed the registry.
    pub generation: u64,
    /// Time of the last entry, UTC milliseconds.
    pub time_ms: u64,
}

/// Read 8 bytes, big-endian.
pub fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Fault> {
    let part: &[u8; 8] = bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).ok_or(Fault::Damaged)?;
    Ok(u64::from_be_bytes(*part))
}

/// Read 4 bytes, big-endian.
pub fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    let part: &[u8; 4] = bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).ok_or(Fault::Damaged)?;
    Ok(u32::from_be_bytes(*part))
}

impl Revision {
    /// Read the revision of a table.
    pub fn read(source: &impl Source) -> Result<Revision, Fault> {
        let row = get(source, b"R")?.ok_or(Fault::Unusable("table has no revision"))?;
        if row.get(56) != Some(&FORMAT) {
            return Err(Fault::Unusable("table has an unknown format"));
        }
        Ok(Revision {
            tree_size: u64_at(row, 0)?,
            root: row[8..40].try_into().expect("32 bytes"),
            generation: u64_at(row, 40)?,
            time_ms: u64_at(row, 48)?,
        })
    }
}
