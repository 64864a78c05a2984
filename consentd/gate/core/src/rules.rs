//! The rules of a realm, compiled to rows (`table-format.md`, "Compiled rules").

use std::collections::HashMap;

use crate::rows::{decode_rows, Block, Row, ROW_SIZE, SIDE};
use crate::subject::POLICY_ROWS;
use crate::vocabulary::HIGHEST_LEVEL;
use crate::Malformed;

const FORMAT: u8 = 3;
const HEADER_SIZE: usize = 20;
const PERMIT_UNLESS_DENY: u8 = 6;

/// How the answers of several consents are combined (rule 3). The numbers are those of the table and of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combining(pub u8);

impl Combining {
    /// Whether a deny wins over an unknown, and an unknown over a permit.
    pub fn denies_first(self) -> bool {
        matches!(self.0, 1 | 3 | PERMIT_UNLESS_DENY)
    }

    /// Whether the newest consent is the first of the reasons.
    pub fn is_ordered(self) -> bool {
        matches!(self.0, 3 | 4)
    }

    /// Whether what nothing permits is denied.
    pub fn denies_unless_permit(self) -> bool {
        self.0 == 5
    }
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How consents are combined.
    pub combining: Combining,
    /// Number of the highest level that the normal policies cover.
    pub normal_level: u8,
    /// Leaf index of the entry of the rules.
    pub since: u64,
    /// The statutory rules, in their order.
    pub statutory: Vec<Row>,
    /// The break-glass rules, in their order.
    pub break_glass: Vec<Row>,
    /// The rows of the realm's implicit policy.
    pub policy: Vec<Row>,
    /// What combining permits where no consent says anything; None unless it is permit-unless-deny.
    pub otherwise: Option<Row>,
    /// Number of a version of a notice, and from when permits under it do not count (rule 8). The caller sets this: the
    /// bytes of the rules do not have it.
    pub campaigns: HashMap<u32, u64>,
    block: Vec<u8>,
}

impl Rules {
    /// Read the value of row `c`. *vocabulary*: the version that the reader has.
    pub fn decode(value: &[u8], vocabulary: u16) -> Result<Rules, Malformed> {
        let malformed = Malformed("compiled rules are malformed");
        let header: &[u8; HEADER_SIZE] =
            value.get(..HEADER_SIZE).and_then(|one| one.try_into().ok()).ok_or(malformed)?;
        let count = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (combining, policy, normal_level) = (header[1], header[2], header[3]);
        let (statutory, break_glass, defaults) = (count(6), count(8), count(10));
        let end = HEADER_SIZE + (statutory + break_glass + defaults) * ROW_SIZE;
        if header[0] != FORMAT || value.len() < end || value.len() % 4 != 0 {
            return Err(malformed);
        }
        if !(1..=6).contains(&combining) || !(1..=4).contains(&policy) || count(4) > usize::from(vocabulary) {
            return Err(malformed);
        }
        let policies = if policy == 1 { 0 } else { POLICY_ROWS[usize::from(policy)] };
        let is_open = combining == PERMIT_UNLESS_DENY;
        if defaults != policies + usize::from(is_open) || !(1..=HIGHEST_LEVEL).contains(&normal_level) {
            return Err(malformed);
        }
        let mut rows = decode_rows(&value[HEADER_SIZE..end]);
        let mut take = |count: usize| rows.by_ref().take(count).collect::<Vec<Row>>();
        let found = Rules {
            combining: Combining(combining),
            normal_level,
            since: u64::from_le_bytes(header[12..20].try_into().expect("8 bytes")),
            statutory: take(statutory),
            break_glass: take(break_glass),
            policy: take(policies),
            otherwise: take(1).first().copied(),
            campaigns: HashMap::new(),
            block: value[end..].to_vec(),
        };
        for row in found.statutory.iter().chain(&found.break_glass).chain(&found.policy) {
            if row.flags & SIDE != 0 {
                let record = found.block().record(row.side)?;
                if record.ends != 0 || record.uses != 0 {
                    return Err(Malformed("compiled rules were written by a later version"));
                }
                for word in [record.actors, record.holders] {
                    if word != 0 {
                        drop(found.block().numbers(word)?);
                    }
                }
                found.block().references(record.resources)?;
            }
        }
        Ok(found)
    }

    /// The side block of all rows.
    pub fn block(&self) -> Block<'_> {
        Block(&self.block)
    }
}
