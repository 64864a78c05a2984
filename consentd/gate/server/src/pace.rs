//! How a long batch leaves the processor to other calls: it rests after each slice of time in which others came.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long a batch is worked on at a time.
const SLICE: Duration = Duration::from_micros(200);

/// The pace of one batch.
pub struct Pace {
    /// When this slice began.
    began: Cell<Instant>,
    /// How many other calls there had been when it was last asked for a rest.
    others: Cell<u64>,
}

impl Pace {
    /// Begin *now*. *others*: how many other calls there have been.
    pub fn begin(now: Instant, others: u64) -> Self {
        Pace { began: Cell::new(now), others: Cell::new(others) }
    }

    /// Return how long the batch must rest: as long as it was worked on; None: it goes on. *others*: as for `begin`.
    pub fn rest(&self, now: Instant, others: impl FnOnce() -> u64) -> Option<Duration> {
        let took = now.duration_since(self.began.get());
        if took < SLICE {
            return None;
        }
        self.go_on(now);
        let others = others();
        (self.others.replace(others) < others).then_some(took)
    }

    /// Begin the next slice *now*.
    pub fn go_on(&self, now: Instant) {
        self.began.set(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Pace, SLICE};

    #[test]
    fn a_batch_rests_only_after_a_slice_in_which_others_came() {
        let mut now = Instant::now();
        let pace = Pace::begin(now, 7);
        let mut rests = |others| {
            now += SLICE;
            pace.rest(now, || others)
        };
        let found = [7, 8, 8, 8, 10, 10].map(|others| rests(others).is_some());
        assert_eq!(found, [false, true, false, false, true, false]);
        assert!(pace.rest(now + SLICE / 2, || 11).is_none(), "the slice is not over");
        assert_eq!(pace.rest(now + 3 * SLICE, || 11), Some(3 * SLICE));
    }
}
