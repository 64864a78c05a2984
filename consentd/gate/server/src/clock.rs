//! Whether the clock agrees with the ledger (`policy.md`, rule 4). If it may not, questions are the daemon's.

use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How far the clock may be behind the last entry.
const MOST_BEHIND_MS: u64 = 1_000;
/// How far it may be from the time that is expected since the program began.
const MOST_JUMP_MS: u64 = 300_000;
/// How much of a difference from the expected time is taken over in a second.
const FOLLOWED_PER_S_MS: i64 = 100;

/// The machine's clock.
pub struct Clock {
    /// The wall time that was expected at an instant.
    base: Mutex<(u64, Instant)>,
}

impl Clock {
    /// Begin with the wall time.
    pub fn new() -> Self {
        Clock { base: Mutex::new((wall_ms(), Instant::now())) }
    }

    /// Return the time of a decision; None: the daemon must say what the time is.
    ///
    /// *last_ms*: time of the last entry. *heartbeat_ms*: when the writer said that it runs. *max_silence_ms*: how old
    /// this may be.
    pub fn decision_ms(&self, last_ms: u64, heartbeat_ms: u64, max_silence_ms: u64) -> Option<u64> {
        let now_ms = wall_ms();
        let is_expected = self.follow(now_ms);
        let agrees = now_ms + MOST_BEHIND_MS >= last_ms && now_ms.abs_diff(heartbeat_ms) <= max_silence_ms;
        (is_expected && agrees).then(|| now_ms.max(last_ms))
    }

    /// Return whether the wall time is near what is expected, and let the expected time follow it slowly.
    fn follow(&self, now_ms: u64) -> bool {
        let mut base = self.base.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let passed_ms = base.1.elapsed().as_millis() as u64;
        let expected_ms = base.0 + passed_ms;
        if now_ms.abs_diff(expected_ms) > MOST_JUMP_MS {
            return false;
        }
        if passed_ms >= 1_000 {
            let most = passed_ms as i64 * FOLLOWED_PER_S_MS / 1_000;
            let step = (now_ms as i64 - expected_ms as i64).clamp(-most, most);
            *base = (expected_ms.saturating_add_signed(step), Instant::now());
        }
        true
    }
}

/// Return UTC milliseconds.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}
