//! The rows that all checks share: vocabulary, rules, participants, groups and delegations.

use consentd_core::parties::{Delegation, Directory, Membership, Participant};
use consentd_core::rules::Rules;
use consentd_core::vocabulary::Vocabulary;
use consentd_core::wire::{numbers, Fields};
use consentd_core::OPEN_END_MS;

use crate::rows::{get, open_row, u32_at, u64_at, Fault, Source};

/// The country of participants that state none.
const HOME_COUNTRY: &str = "KR";
/// Persons that a caller checks in an hour, where the rules state no quota (`persons_per_hour`).
const PERSONS_PER_HOUR: u64 = 2_000;
const MEMBERSHIP_SIZE: usize = 20;

/// The registry at one generation.
#[derive(Clone, Debug)]
pub struct Registry {
    /// The vocabulary in force.
    pub vocabulary: Vocabulary,
    /// The rules in force.
    pub rules: Rules,
    /// Participants and delegations.
    pub directory: Directory,
    /// How many persons a caller may check in an hour about whom it records no access.
    pub persons_per_hour: u64,
}

impl Registry {
    /// Read the registry of a table.
    pub fn read(source: &impl Source) -> Result<Registry, Fault> {
        let none = Fault::Unusable("table has no vocabulary or no rules");
        let vocabulary = Vocabulary::decode(get(source, b"v")?.ok_or(none.clone())?)?;
        let mut rules = Rules::decode(get(source, b"c")?.ok_or(none)?, vocabulary.version)?;
        source.scan(b"w", &mut |key, stored| {
            rules.campaigns.insert(u32_at(key, 1)?, u64_at(open_row(key, stored)?, 0)?);
            Ok(())
        })?;
        let mut directory = Directory::default();
        source.scan(b"p", &mut |key, stored| {
            let id = std::str::from_utf8(&key[1..]).map_err(|_| Fault::Damaged)?;
            directory.participants.insert(id.to_owned(), read_participant(open_row(key, stored)?)?);
            Ok(())
        })?;
        source.scan(b"d", &mut |key, stored| read_delegation(open_row(key, stored)?, &mut directory))?;
        let stated = get(source, b"r")?.map_or(Ok(0), persons_per_hour)?;
        let persons_per_hour = if stated == 0 { PERSONS_PER_HOUR } else { stated };
        Ok(Registry { vocabulary, rules, directory, persons_per_hour })
    }
}

/// Read a row `p`.
fn read_participant(row: &[u8]) -> Result<Participant, Fault> {
    let mut found = Participant { number: u32_at(row, 0)?, ..Participant::default() };
    let count = u32_at(row, 4)? as usize;
    let mut at = 8;
    for _ in 0..count {
        found.memberships.push(Membership {
            group: u32_at(row, at)?,
            from: u64_at(row, at + 4)?,
            until: u64_at(row, at + 12)?,
        });
        at += MEMBERSHIP_SIZE;
    }
    let mut fields = Fields::new(row.get(at..).ok_or(Fault::Damaged)?);
    let (mut roles, mut rights) = (Vec::new(), Vec::new());
    while let Some((number, value)) = fields.read()? {
        match number {
            3 => numbers(value, &mut roles)?,
            4 => numbers(value, &mut rights)?,
            7 => found.is_active = value.number()? != 0,
            9 => found.is_abroad = !matches!(value.text()?, "" | HOME_COUNTRY),
            _ => {}
        }
    }
    let bits = |numbers: &[u64]| numbers.iter().filter(|one| **one < 64).fold(0u64, |bits, one| bits | 1 << one);
    (found.roles, found.rights) = (bits(&roles), bits(&rights));
    Ok(found)
}

/// Read a row `d`.
fn read_delegation(row: &[u8], directory: &mut Directory) -> Result<(), Fault> {
    let mut found = Delegation::default();
    let (mut giver, mut taker, mut capacity) = ("", "", 0);
    let mut fields = Fields::new(row);
    while let Some((number, value)) = fields.read()? {
        match number {
            1 => giver = value.text()?,
            2 => taker = value.text()?,
            3 => capacity = u8::try_from(value.number()?).map_err(|_| Fault::Damaged)?,
            4 => found.purposes.push(value.text()?.to_owned()),
            5 => found.start_ms = value.number()?,
            6 => found.end_ms = value.number()?,
            7 => found.break_glass = value.number()? != 0,
            8 if value.number()? != 0 => return Err(Fault::Damaged), // one that was ended has no row
            _ => {}
        }
    }
    if found.end_ms == 0 {
        found.end_ms = OPEN_END_MS;
    }
    directory.add_delegation(giver, taker, capacity, found);
    Ok(())
}

/// Return the quota that a `RulesStatement` states; 0: none.
fn persons_per_hour(row: &[u8]) -> Result<u64, Fault> {
    let mut found = 0;
    let mut fields = Fields::new(row);
    while let Some((number, value)) = fields.read()? {
        if number == 10 {
            let mut quotas = Fields::new(value.bytes()?);
            while let Some((number, value)) = quotas.read()? {
                if number == 3 {
                    found = value.number()?;
                }
            }
        }
    }
    Ok(found)
}
