//! A node that does not answer is left alone for a while. Pure: time comes in.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long it stays open before one may try.
const REST: Duration = Duration::from_secs(10);

/// Closed where nothing went wrong lately.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    opened: Option<Instant>,
}

impl Breaker {
    /// Whether one may ask; of those that come after the rest only the first may.
    pub fn may(&mut self, now: Instant) -> bool {
        match self.opened {
            None => true,
            Some(opened) if now.saturating_duration_since(opened) >= REST => {
                self.opened = Some(now);
                true
            }
            Some(_) => false,
        }
    }

    /// What came of it.
    pub fn done(&mut self, good: bool, now: Instant) {
        if good {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.opened = Some(now);
        }
    }

    /// Nothing to remember.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_give_a_rest_and_then_one_may_try() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.may(now));
            breaker.done(false, now);
        }
        assert!(!breaker.may(now));
        let later = now + REST;
        assert!(breaker.may(later));
        assert!(!breaker.may(later));
        breaker.done(false, later);
        assert!(!breaker.may(later + REST / 2));
        assert!(breaker.may(later + REST));
        breaker.done(true, later + REST);
        assert!(breaker.may(later + REST) && breaker.is_closed());
    }
}
