//! How fast a node may report. Pure: time comes in.

use std::time::{Duration, Instant};

/// A token bucket that never refuses: it says how long to wait.
#[derive(Debug)]
pub struct Bucket {
    per_second: u64,
    /// Everything that was taken is paid for at this time.
    paid: Option<Instant>,
}

impl Bucket {
    /// Full.
    #[must_use]
    pub const fn new(per_second: u64) -> Self {
        Self {
            per_second,
            paid: None,
        }
    }

    /// Takes `count`; `Some` where whoever takes must wait so long. A second's worth may be taken at
    /// once.
    pub fn take(&mut self, count: u64, now: Instant) -> Option<Duration> {
        let burst = Duration::from_secs(1);
        let cost = Duration::from_secs(1)
            .saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
            .checked_div(u32::try_from(self.per_second).unwrap_or(u32::MAX).max(1))
            .unwrap_or_default();
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + cost;
        self.paid = Some(paid);
        let owed = paid.saturating_duration_since(now).checked_sub(burst)?;
        (!owed.is_zero()).then_some(owed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_is_free_and_the_rest_is_paid_in_time() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100);
        assert_eq!(bucket.take(100, now), None);
        assert_eq!(bucket.take(50, now), Some(Duration::from_millis(500)));
        let later = now + Duration::from_secs(1);
        assert_eq!(bucket.take(50, later), None);
        let idle = now + Duration::from_secs(1_000);
        assert_eq!(bucket.take(101, idle), Some(Duration::from_millis(10)));
    }
}
