//! Who asks a question, and which participants it is decided for (`policy.md`, rule 10).

use std::collections::HashMap;

use crate::question::Question;
use crate::{Refused, OPEN_END_MS};

/// The reserved name of the person whose data are asked for.
pub const SUBJECT: &str = "SUBJECT";
const SUBJECT_NUMBER: u32 = u32::MAX;
const BREAK_GLASS_PURPOSE: &str = "BTG";

/// Roles and rights, as bits of `Participant`: bit *n* is the value *n* of the enum in the statement.
pub const HOLDER: u64 = 1 << 1;
const RECIPIENT: u64 = 1 << 2;
const SEE_REASONS: u64 = 1 << 2;
const ACT_FOR_SUBJECTS: u64 = 1 << 3;

/// In what capacity a participant acts for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Capacity {
    /// It carries questions and data.
    Relay = 1,
    /// It processes data for the giver.
    Processor = 2,
    /// It is an application of the giver.
    Application = 3,
}

/// A participant, as its latest statement describes it.
#[derive(Clone, Debug, Default)]
pub struct Participant {
    /// Its number in rows.
    pub number: u32,
    /// Whether it takes part now.
    pub is_active: bool,
    /// Whether it processes data in another country.
    pub is_abroad: bool,
    /// Bits of its roles.
    pub roles: u64,
    /// Bits of its rights.
    pub rights: u64,
    /// Group number, and the leaf indexes from which and until which it was a member.
    pub memberships: Vec<Membership>,
}

/// A participant was a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Number of the group.
    pub group: u32,
    /// Leaf index of the entry with which it began.
    pub from: u64,
    /// Leaf index of the entry with which it ended.
    pub until: u64,
}

impl Membership {
    /// Whether the group counts for a row given at leaf index *since*.
    pub fn counts(&self, permits: bool, since: u64) -> bool {
        self.until > since && (self.from <= since || !permits)
    }
}

/// One participant may act for another one.
#[derive(Clone, Debug, Default)]
pub struct Delegation {
    /// The purposes; none: all but BTG.
    pub purposes: Vec<String>,
    /// When it begins, UTC milliseconds.
    pub start_ms: u64,
    /// When it ends.
    pub end_ms: u64,
    /// Whether it covers BTG.
    pub break_glass: bool,
}

impl Delegation {
    fn covers(&self, purpose: &str) -> bool {
        if purpose == BREAK_GLASS_PURPOSE {
            return self.break_glass;
        }
        self.purposes.is_empty() || self.purposes.iter().any(|one| one == purpose)
    }
}

/// The registered participants and their delegations.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// The participants by id.
    pub participants: HashMap<String, Participant>,
    delegations: HashMap<String, Delegation>,
}

impl Directory {
    /// Add a delegation.
    pub fn add_delegation(&mut self, giver: &str, taker: &str, capacity: u8, delegation: Delegation) {
        self.delegations.insert(key(giver, taker, capacity), delegation);
    }

    fn delegation(&self, giver: &str, taker: &str, capacity: Capacity) -> Option<&Delegation> {
        if self.delegations.is_empty() {
            return None;
        }
        self.delegations.get(&key(giver, taker, capacity as u8))
    }
}

fn key(giver: &str, taker: &str, capacity: u8) -> String {
    format!("{giver}\0{taker}\0{capacity}")
}

/// The participants that a question is decided for.
#[derive(Clone, Debug, Default)]
pub struct Parties {
    /// Numbers with which a permit matches; none: no permit does.
    pub permit_actors: Vec<u32>,
    /// Numbers with which a deny matches.
    pub deny_actors: Vec<u32>,
    /// Numbers of the holder.
    pub holders: Vec<u32>,
    /// The groups of the same.
    pub permit_groups: Vec<Membership>,
    /// The groups of all that take part.
    pub deny_groups: Vec<Membership>,
    /// The groups of the holder.
    pub holder_groups: Vec<Membership>,
    /// Whether the holder asks.
    pub is_holder: bool,
    /// Whether the caller may see the reasons of the answer.
    pub sees_reasons: bool,
    /// Whether the caller may have conditions.
    pub gets_conditions: bool,
    /// When the first delegation begins or ends that this depends on.
    pub until_ms: u64,
}

/// Check that the caller may ask a question, and that each name in it is true. *caller*: None: the person asks.
pub fn determine(
    directory: &Directory,
    caller: Option<&str>,
    question: &Question<'_>,
    now_ms: u64,
) -> Result<Parties, Refused> {
    Check { directory, caller, question, now_ms, until_ms: OPEN_END_MS }.parties()
}

struct Check<'a> {
    directory: &'a Directory,
    caller: Option<&'a str>,
    question: &'a Question<'a>,
    now_ms: u64,
    until_ms: u64,
}

const NOT_ALLOWED: Refused = Refused("ACTOR_NOT_ALLOWED");
const CALLER: Refused = Refused("CALLER_NOT_ALLOWED");

impl<'a> Check<'a> {
    fn parties(mut self) -> Result<Parties, Refused> {
        let asked = self.question;
        let mut wanting = Vec::with_capacity(2);
        for name in [asked.organisation, asked.on_behalf_of] {
            if !name.is_empty() && name != SUBJECT {
                wanting.push(self.with_role(name, RECIPIENT | HOLDER)?);
            }
        }
        let holder = self.with_role(asked.holder, HOLDER)?;
        self.check_processor()?;
        self.check_carriers()?;
        let caller = self.check_caller()?;
        let principal = if asked.on_behalf_of.is_empty() { asked.organisation } else { asked.on_behalf_of };
        let is_active = holder.is_active && wanting.iter().all(|one| one.is_active);
        let sees_reasons = asked.organisation == SUBJECT || caller.is_none_or(|one| one.rights & SEE_REASONS != 0);
        let is_holder = self.caller == Some(asked.holder);
        let mut found = Parties {
            holders: vec![0, holder.number],
            holder_groups: holder.memberships.clone(),
            is_holder,
            sees_reasons,
            gets_conditions: sees_reasons || is_holder,
            until_ms: self.until_ms,
            ..Parties::default()
        };
        if is_active {
            let one = self.registered(principal);
            match one {
                Ok(one) if one.is_abroad => found.permit_actors = vec![one.number],
                Ok(one) => {
                    found.permit_actors = vec![0, one.number];
                    found.permit_groups.clone_from(&one.memberships);
                }
                Err(_) => found.permit_actors = vec![0, SUBJECT_NUMBER],
            }
        }
        found.deny_actors.push(0);
        let named = [asked.organisation, asked.on_behalf_of, asked.application].into_iter();
        let asker = self.caller.filter(|one| *one != asked.holder);
        for name in named.chain(asked.relays.iter().copied()).chain(asker).filter(|name| !name.is_empty()) {
            if name == SUBJECT {
                found.deny_actors.push(SUBJECT_NUMBER);
            } else if let Ok(one) = self.registered(name) {
                found.deny_actors.push(one.number);
                found.deny_groups.extend_from_slice(&one.memberships);
            }
        }
        Ok(found)
    }

    fn registered(&self, name: &str) -> Result<&'a Participant, Refused> {
        self.directory.participants.get(name).ok_or(NOT_ALLOWED)
    }

    fn with_role(&self, name: &str, roles: u64) -> Result<&'a Participant, Refused> {
        self.registered(name).and_then(|one| if one.roles & roles == 0 { Err(NOT_ALLOWED) } else { Ok(one) })
    }

    fn check_processor(&mut self) -> Result<(), Refused> {
        let asked = self.question;
        if asked.on_behalf_of.is_empty()
            || self.has_delegation(&[asked.on_behalf_of], asked.organisation, &[Capacity::Processor])
        {
            return Ok(());
        }
        Err(NOT_ALLOWED)
    }

    /// Check the application and the relays.
    fn check_carriers(&mut self) -> Result<(), Refused> {
        let asked = self.question;
        for name in &asked.relays {
            self.check_carrier(name, &[asked.organisation, asked.holder], Capacity::Relay)?;
        }
        if asked.application.is_empty() {
            return Ok(());
        }
        let givers = [asked.organisation, asked.holder, asked.on_behalf_of];
        self.check_carrier(asked.application, &givers, Capacity::Application)
    }

    fn check_carrier(&mut self, name: &str, givers: &[&str], capacity: Capacity) -> Result<(), Refused> {
        let one = self.registered(name)?;
        let is_delegated = self.has_delegation(givers, name, &[capacity]);
        if one.is_active && (is_delegated || self.acts_for_subject(one)) {
            return Ok(());
        }
        Err(NOT_ALLOWED)
    }

    /// Check that the caller may ask; return it, or None for the person.
    fn check_caller(&mut self) -> Result<Option<&'a Participant>, Refused> {
        let asked = self.question;
        let Some(caller) = self.caller else { return Ok(None) };
        let one = self.directory.participants.get(caller).filter(|one| one.is_active).ok_or(CALLER)?;
        let is_party = if asked.organisation == SUBJECT {
            self.acts_for_subject(one)
        } else {
            let pair = [asked.organisation, asked.holder];
            pair.contains(&caller) || self.has_delegation(&pair, caller, &[Capacity::Relay, Capacity::Application])
        };
        if is_party {
            Ok(Some(one))
        } else {
            Err(CALLER)
        }
    }

    fn acts_for_subject(&self, one: &Participant) -> bool {
        self.question.organisation == SUBJECT && one.rights & ACT_FOR_SUBJECTS != 0
    }

    /// Return whether one of *givers* gave *taker* a delegation that covers the purpose now.
    ///
    /// This reads all of them, also after it found one: the answer is valid until the first of their times.
    fn has_delegation(&mut self, givers: &[&str], taker: &str, capacities: &[Capacity]) -> bool {
        let mut found = false;
        for giver in givers.iter().filter(|giver| !giver.is_empty()) {
            for capacity in capacities {
                let Some(one) = self.directory.delegation(giver, taker, *capacity) else { continue };
                if one.covers(self.question.purpose) {
                    found |= one.start_ms <= self.now_ms && self.now_ms < one.end_ms;
                    for at_ms in [one.start_ms, one.end_ms] {
                        if at_ms > self.now_ms {
                            self.until_ms = self.until_ms.min(at_ms);
                        }
                    }
                }
            }
        }
        found
    }
}
