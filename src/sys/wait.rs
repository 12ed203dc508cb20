//! How a thread waits for another: ever longer, and not for ever.

use core::time::Duration;

use crossbeam_utils::Backoff;

use super::raw;

/// Spins, then yields, then sleeps ever longer, up to a millisecond.
#[derive(Debug, Default)]
pub struct Patience {
    spinning: Backoff,
    rounds: u32,
}

impl Patience {
    const YIELDS: u32 = 16;

    /// Waits a little.
    pub fn pause(&mut self) {
        if !self.spinning.is_completed() {
            self.spinning.snooze();
            return;
        }
        match self.rounds {
            0..Self::YIELDS => raw::yield_now(),
            rounds => raw::nap(Duration::from_micros(20 << (rounds - Self::YIELDS).min(6))),
        }
        self.rounds = self.rounds.saturating_add(1);
    }

    /// Whether it is time to ask whether the other still lives: system calls that a short wait should not pay for.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        self.rounds > Self::YIELDS
    }
}

/// How long somebody else may take. What this thread does not notice, because it is stopped itself, does not count: others may have
/// done their part long since, and are to be asked again.
#[derive(Debug)]
pub struct Allowance {
    left: u64,
    seen: u64,
    /// The most that counts between two looks.
    noticed: u64,
}

impl Allowance {
    /// So many nanoseconds from now on.
    #[must_use]
    pub fn of(nanoseconds: u64) -> Self {
        Self { left: nanoseconds, seen: raw::now(), noticed: nanoseconds / 8 + 1 }
    }

    /// Whether the time is up. To be asked between looks.
    pub fn is_spent(&mut self) -> bool {
        let now = raw::now();
        self.left = self.left.saturating_sub(now.saturating_sub(self.seen).min(self.noticed));
        self.seen = now;
        self.left == 0
    }
}
