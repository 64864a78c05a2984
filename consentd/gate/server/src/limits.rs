//! How much one caller may have in flight: calls that were passed on, batches, and bytes of requests.
//!
//! A caller is known by its token. Callers whose credential only the daemon can examine are one caller for each address,
//! and so are those without a credential. So no caller takes what the others need, and forged logins of one address take
//! nothing of those of another.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Most calls of one caller that were passed on and have not ended (the daemon's `max_calls_per_caller`).
const MOST_CALLS: usize = 512;
/// The same of callers without a credential, of one address.
const MOST_UNKNOWN_CALLS: usize = 64;
/// Most batches of one caller that wait or are worked on.
const MOST_BATCHES: usize = 32;
/// Most bytes of long requests, of one caller and of all.
const MOST_BYTES: usize = 16 << 20;
const MOST_BYTES_OF_ALL: usize = 64 << 20;
/// The same of all callers whose credential is not known here, so that they leave room for those that are.
const MOST_BYTES_OF_STATED: usize = 32 << 20;

/// Who calls, as far as limits need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The holder of a token.
    Known(String),
    /// A caller at this address that has a login or a signature: the daemon examines it.
    Stated(IpAddr),
    /// A caller without a credential, at this address.
    Nobody(IpAddr),
}

impl Principal {
    /// Return a number that is the same for all calls of the principal.
    pub fn number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A call that is passed on.
    Call,
    /// A revocation that is passed on: calls of other kinds leave room for it.
    Revocation,
    /// A batch that is answered here.
    Batch,
}

#[derive(Default)]
struct Load {
    calls: usize,
    batches: usize,
    bytes: usize,
}

/// Counts for all callers. Threads share it.
#[derive(Clone, Default)]
pub struct Limits(Arc<Mutex<HashMap<Principal, Load>>>);

/// What one call has taken; dropping it gives it back.
pub struct Taken {
    limits: Limits,
    principal: Principal,
    calls: usize,
    batches: usize,
    bytes: usize,
}

impl Limits {
    /// Count a call of *principal*; None: it has too many of them.
    pub fn enter(&self, principal: Principal, kind: Kind) -> Option<Taken> {
        let most = if matches!(principal, Principal::Nobody(_)) { MOST_UNKNOWN_CALLS } else { MOST_CALLS };
        let (calls, batches) = if matches!(kind, Kind::Batch) { (0, 1) } else { (1, 0) };
        let most = if matches!(kind, Kind::Revocation) { 2 * most } else { most };
        self.change(&principal, |load, _| {
            let is_free = load.calls + calls <= most && load.batches + batches <= MOST_BATCHES;
            if is_free {
                load.calls += calls;
                load.batches += batches;
            }
            is_free
        })
        .then(|| Taken { limits: self.clone(), principal, calls, batches, bytes: 0 })
    }

    /// Begin to count the bytes of a request of *principal*.
    pub fn begin_bytes(&self, principal: Principal) -> Taken {
        Taken { limits: self.clone(), principal, calls: 0, batches: 0, bytes: 0 }
    }

    /// Change what is counted; *change* is also told how many bytes there is room for beside those of all callers.
    fn change(&self, principal: &Principal, change: impl FnOnce(&mut Load, usize) -> bool) -> bool {
        let mut loads = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (mut room, mut room_of_stated) = (MOST_BYTES_OF_ALL, MOST_BYTES_OF_STATED);
        for (one, load) in loads.iter() {
            room -= load.bytes;
            room_of_stated -= if matches!(one, Principal::Known(_)) { 0 } else { load.bytes };
        }
        let room = if matches!(principal, Principal::Known(_)) { room } else { room.min(room_of_stated) };
        let done = change(loads.entry(principal.clone()).or_default(), room);
        loads.retain(|one, load| one != principal || load.calls + load.batches + load.bytes > 0);
        done
    }
}

impl Taken {
    /// Count more bytes of the request; return whether they may be held.
    pub fn add_bytes(&mut self, bytes: usize) -> bool {
        let is_free = self.limits.change(&self.principal, |load, room| {
            let is_free = load.bytes + bytes <= MOST_BYTES && bytes <= room;
            load.bytes += if is_free { bytes } else { 0 };
            is_free
        });
        self.bytes += if is_free { bytes } else { 0 };
        is_free
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.limits.change(&self.principal, |load, _| {
            load.calls -= self.calls;
            load.batches -= self.batches;
            load.bytes -= self.bytes;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Limits, Principal, MOST_BATCHES, MOST_BYTES, MOST_CALLS, MOST_UNKNOWN_CALLS};

    #[test]
    fn a_caller_takes_no_more_than_its_share() {
        let limits = Limits::default();
        let (one, other) = (Principal::Known("one".to_owned()), Principal::Known("other".to_owned()));
        let taken: Vec<_> = (0..MOST_CALLS).map(|_| limits.enter(one.clone(), Kind::Call)).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(limits.enter(one.clone(), Kind::Call).is_none());
        assert!(limits.enter(one.clone(), Kind::Revocation).is_some());
        assert!(limits.enter(other, Kind::Call).is_some());
        drop(taken);
        assert!(limits.enter(one, Kind::Call).is_some());
        assert!(limits.0.lock().unwrap().is_empty());
    }

    #[test]
    fn addresses_batches_and_bytes_have_their_own_limits() {
        let limits = Limits::default();
        let nobody = Principal::Nobody([127, 0, 0, 1].into());
        let taken: Vec<_> = (0..=MOST_UNKNOWN_CALLS).map(|_| limits.enter(nobody.clone(), Kind::Call)).collect();
        assert_eq!(taken.iter().flatten().count(), MOST_UNKNOWN_CALLS);
        assert!(limits.enter(Principal::Nobody([127, 0, 0, 2].into()), Kind::Call).is_some());
        let (stated, elsewhere) = (Principal::Stated([127, 0, 0, 1].into()), Principal::Stated([127, 0, 0, 2].into()));
        let batches: Vec<_> = (0..=MOST_BATCHES).map(|_| limits.enter(stated.clone(), Kind::Batch)).collect();
        assert_eq!(batches.iter().flatten().count(), MOST_BATCHES);
        assert!(limits.enter(elsewhere.clone(), Kind::Batch).is_some());
        let mut bytes = limits.begin_bytes(stated.clone());
        assert!(bytes.add_bytes(MOST_BYTES) && !bytes.add_bytes(1));
        assert!(limits.begin_bytes(elsewhere).add_bytes(1));
        drop(bytes);
        assert!(limits.begin_bytes(stated).add_bytes(1));
    }

    #[test]
    fn callers_that_are_not_known_leave_room_for_the_bytes_of_those_that_are() {
        let limits = Limits::default();
        let stated = |last| Principal::Stated([127, 0, 0, last].into());
        let mut taken: Vec<_> = (1..=3).map(|last| limits.begin_bytes(stated(last))).collect();
        let added: Vec<_> = taken.iter_mut().map(|one| one.add_bytes(MOST_BYTES)).collect();
        assert_eq!(added, [true, true, false]);
        let mut known: Vec<_> =
            ["a", "b", "c"].map(|name| limits.begin_bytes(Principal::Known(name.to_owned()))).into();
        let added: Vec<_> = known.iter_mut().map(|one| one.add_bytes(MOST_BYTES)).collect();
        assert_eq!(added, [true, true, false]);
        taken.clear();
        assert!(known[2].add_bytes(MOST_BYTES) && !limits.begin_bytes(stated(1)).add_bytes(MOST_BYTES + 1));
    }
}
