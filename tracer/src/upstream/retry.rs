//! How long to leave an upstream alone. Pure: chance and time are arguments.
//!
//! Jittered exponential backoff, and a breaker: after [`OPENS_AFTER`] failures in a row without a
//! session that proved itself (an ack, or a while without trouble) only one try per [`MAX`] is made.
//! A receiver that lets everybody in and then fails does not count as back.

use std::time::Duration;

/// After the first failure, less jitter.
pub const MIN: Duration = Duration::from_millis(250);
/// Never longer.
pub const MAX: Duration = Duration::from_secs(30);
/// Failures in a row after which the breaker is open.
pub const OPENS_AFTER: u32 = 8;

/// Where an upstream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retry {
    failures: u32,
}

/// What a failure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It may be back soon.
    Backoff,
    /// Trying often does not help: something has to be changed.
    Long,
}

impl Retry {
    /// A session proved itself.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failures(self) -> u32 {
        self.failures
    }

    /// Only probes are made.
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.failures >= OPENS_AFTER
    }

    /// How long to wait after one more failure: between half and all of the step, by `chance`.
    pub fn failed(&mut self, patience: Patience, chance: u32) -> Duration {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let step = match patience {
            Patience::Backoff if !self.is_open() => MIN.saturating_mul(1 << doublings).min(MAX),
            Patience::Backoff | Patience::Long => MAX,
        };
        let half = step / 2;
        half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew() {
        let mut retry = Retry::default();
        let most: Vec<u128> = (0..10)
            .map(|_| retry.failed(Patience::Backoff, u32::MAX).as_millis())
            .collect();
        assert_eq!(
            most,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
        );
        assert!(retry.is_open());
        retry.reset();
        assert!(!retry.is_open());
        assert_eq!(retry.failed(Patience::Backoff, 0).as_millis(), 125);
        assert_eq!(retry.failed(Patience::Long, 0).as_millis(), 15_000);
    }
}
