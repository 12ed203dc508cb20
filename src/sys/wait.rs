//! How a thread waits for another: with ever longer pauses, and not for ever.

use core::time::Duration;

use super::raw;

/// Spins, then yields, then sleeps ever longer, up to a millisecond.
#[derive(Debug, Default)]
pub struct Backoff {
    spinning: crossbeam::utils::Backoff,
    rounds: u32,
}

impl Backoff {
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

    /// Whether the time in which most calls end is over.
    #[must_use]
    pub fn has_spun(&self) -> bool {
        self.spinning.is_completed()
    }

    /// Whether the wait has become long. Then it is worth system calls to find out whether the other still lives, which a short
    /// wait should not pay for.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.rounds > Self::YIELDS
    }
}

/// Makes `attempt`, with ever longer pauses, until it gives something.
pub fn until_some<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut backoff = Backoff::default();
    loop {
        if let Some(given) = attempt() {
            return given;
        }
        backoff.pause();
    }
}

/// When to give up waiting for a condition that other threads make true.
///
/// The caller looks at the condition between two questions. It looks once more after the time has come: this thread may have been
/// stopped, and the condition be true long since.
#[derive(Debug)]
pub struct Deadline {
    at: u64,
    has_come: bool,
}

impl Deadline {
    /// At this time (CLOCK_MONOTONIC, nanoseconds).
    #[must_use]
    pub fn at(time: u64) -> Self {
        Self { at: time, has_come: false }
    }

    /// Whether the time had come when this was asked before. The clock is not read while the wait is short.
    pub fn expired_twice(&mut self, backoff: &Backoff) -> bool {
        if self.has_come {
            return true;
        }
        self.has_come = backoff.is_sleeping() && raw::now() > self.at;
        false
    }
}

/// How long another process may take. Time in which this thread was stopped does not count: the other may have done its part long
/// since, and this thread has to look again.
#[derive(Debug)]
pub struct TimeBudget {
    left: u64,
    seen: u64,
    /// The most that counts between two questions.
    noticed: u64,
}

impl TimeBudget {
    /// This many nanoseconds from now on.
    #[must_use]
    pub fn of(nanoseconds: u64) -> Self {
        Self { left: nanoseconds, seen: raw::now(), noticed: nanoseconds / 8 + 1 }
    }

    /// Whether the time is up. The caller looks at what it waits for between two questions.
    pub fn is_exhausted(&mut self) -> bool {
        let now = raw::now();
        self.left = self.left.saturating_sub(now.saturating_sub(self.seen).min(self.noticed));
        self.seen = now;
        self.left == 0
    }
}
