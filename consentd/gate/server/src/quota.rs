//! How many persons a caller checks in an hour (`policy.md`, "Limits").

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;

const HOUR_MS: u64 = 3_600_000;

struct Checked {
    start_ms: u64,
    persons: HashSet<[u8; 32]>,
}

/// Counts for all callers, up to half of the quota. Further persons are the daemon's, which has the other half.
#[derive(Default)]
pub struct Quota(RwLock<HashMap<String, Checked>>);

impl Quota {
    /// Count a person whom the caller checks; return false if the quota of this hour is used up.
    pub fn count(&self, caller: &str, identifier_hash: &[u8; 32], most: u64, now_ms: u64) -> bool {
        let is_of = |checked: &Checked| (checked.start_ms..checked.start_ms + HOUR_MS).contains(&now_ms);
        // Most checks are about a person who is counted. They wait for no thread that counts for another call.
        let callers = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if callers.get(caller).is_some_and(|checked| is_of(checked) && checked.persons.contains(identifier_hash)) {
            return true;
        }
        drop(callers);
        let mut callers = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !callers.contains_key(caller) {
            callers.insert(caller.to_owned(), Checked { start_ms: now_ms, persons: HashSet::new() });
        }
        let Some(checked) = callers.get_mut(caller) else { return false };
        if !is_of(checked) {
            *checked = Checked { start_ms: now_ms, persons: HashSet::new() };
        }
        if checked.persons.contains(identifier_hash) {
            return true;
        }
        let is_left = (checked.persons.len() as u64) < most / 2;
        if is_left {
            checked.persons.insert(*identifier_hash);
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::{Quota, HOUR_MS};

    #[test]
    fn a_person_counts_once_an_hour() {
        let quota = Quota::default();
        assert!(quota.count("a", &[1; 32], 5, 5) && quota.count("a", &[2; 32], 5, 5));
        assert!(quota.count("a", &[1; 32], 5, 6) && !quota.count("a", &[3; 32], 5, 6));
        assert!(quota.count("b", &[3; 32], 5, 6));
        assert!(quota.count("a", &[3; 32], 5, 5 + HOUR_MS));
    }
}
