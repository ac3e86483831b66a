//! Times: `CLOCK_BOOTTIME` inside, RFC 3339 outside.
//!
//! Order and durations come from the boot clock alone. The wall clock is added when a record is
//! made, as one offset that is read again when the clock is set.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct BootNs(pub u64);

impl BootNs {
    /// From `earlier` to this, 0 if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds since 1970, UTC; written as RFC 3339 with nine digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$"))]
pub struct Timestamp(pub u64);

/// What is added to [`BootNs`] to get a [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallOffset(pub u64);

impl WallOffset {
    /// The wall time of a moment.
    #[must_use]
    pub const fn at(self, moment: BootNs) -> Timestamp {
        Timestamp(self.0.wrapping_add(moment.0))
    }
}

/// Reads the boot clock.
#[must_use]
pub fn boot_now() -> BootNs {
    BootNs(read(ClockId::Boottime))
}

/// Reads the offset between the wall clock and the boot clock: between two readings of the boot
/// clock, so that a preemption in between is noticed as a wide bracket and tried again.
#[must_use]
pub fn wall_offset() -> WallOffset {
    const GOOD_NS: u64 = 2_000;
    let mut best = (u64::MAX, 0);
    for _ in 0..8 {
        let before = read(ClockId::Boottime);
        let wall = wall_now();
        let after = read(ClockId::Boottime);
        let width = after.saturating_sub(before);
        if width < best.0 {
            best = (width, wall.wrapping_sub(before + width / 2));
        }
        if width <= GOOD_NS {
            break;
        }
    }
    WallOffset(best.1)
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}

/// The wall clock, by way of the C library: tests put a clock in its place that they can set.
fn wall_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Seconds that go by while a process runs, or while the boot lasts that it ran in. What is kept for
/// a time is kept by this clock: a wall clock that is set ages nothing.
#[derive(Debug, Clone, Copy)]
pub struct AgeClock {
    base_s: u64,
    boot_s: u64,
}

/// What such a clock said, to go on from in a later process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgeMark {
    pub clock_s: u64,
    /// When the boot clock said this …
    pub boot_s: u64,
    /// … in this boot.
    pub boot_id: String,
}

impl AgeClock {
    /// Goes on from `then`, in the boot `boot_id`.
    #[must_use]
    pub fn resume(then: &AgeMark, boot_id: &str) -> Self {
        let boot_s = boot_s();
        let passed = if then.boot_id == boot_id {
            boot_s.saturating_sub(then.boot_s)
        } else {
            0
        };
        Self {
            base_s: then.clock_s + passed,
            boot_s,
        }
    }

    /// Now.
    #[must_use]
    pub fn now_s(self) -> u64 {
        self.base_s + boot_s().saturating_sub(self.boot_s)
    }
}

/// Seconds since boot.
#[must_use]
pub fn boot_s() -> u64 {
    boot_now().0 / 1_000_000_000
}

/// Bytes of `2026-11-21T21:02:48.197953294Z`.
const TEXT_LEN: usize = 30;

/// Bytes of `197953294Z`.
const FRACTION_LEN: usize = 10;

impl Timestamp {
    /// The text, without allocation.
    #[must_use]
    pub fn text(self) -> [u8; TEXT_LEN] {
        let seconds = self.0 / 1_000_000_000;
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        for (at, pair) in [
            (0, year / 100),
            (2, year % 100),
            (5, month),
            (8, day),
            (11, rest / 3600),
            (14, rest / 60 % 60),
            (17, rest % 60),
        ] {
            put_pair(&mut text, at, pair);
        }
        if let Some(end) = text.last_chunk_mut() {
            *end = self.fraction();
        }
        text
    }

    /// The end of the text: nine digits of the second and the zone.
    #[must_use]
    pub const fn fraction(self) -> [u8; FRACTION_LEN] {
        let nanos = self.0 % 1_000_000_000;
        let mut text = *b"000000000Z";
        put_pair(&mut text, 0, nanos / 10_000_000);
        put_pair(&mut text, 2, nanos / 100_000 % 100);
        put_pair(&mut text, 4, nanos / 1_000 % 100);
        put_pair(&mut text, 6, nanos / 10 % 100);
        text[8] = digit(nanos % 10);
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes: &[u8; TEXT_LEN] = text.as_bytes().try_into().ok()?;
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
        let year = number(0, 4)?;
        let (month, day) = (number(5, 7)?, number(8, 10)?);
        let seconds = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
        let days = days_since_1970(year, month, day)?;
        // Four digits of a year reach beyond what 64 bits of nanoseconds hold (2554).
        let seconds = days.checked_mul(86_400)?.checked_add(seconds)?;
        let nanos = seconds.checked_mul(1_000_000_000)?;
        let value = Self(nanos.checked_add(number(20, 29)?)?);
        (value.text() == *bytes).then_some(value)
    }
}

/// Writes two digits.
const fn put_pair(text: &mut [u8], at: usize, value: u64) {
    if let Some((_, rest)) = text.split_at_mut_checked(at)
        && let Some(pair) = rest.first_chunk_mut()
    {
        *pair = [digit(value / 10), digit(value % 10)];
    }
}

/// The digit of a number below ten.
const fn digit(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    b'0' + low
}

/// Date of a day counted from 1970-01-01, by eras of 400 years that begin in March.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// The inverse of [`civil`] for dates from 1970 on.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 {
        year.checked_sub(1)?
    } else {
        year
    };
    let era = year / 400;
    let year_of_era = year % 400;
    let march_month = (month + 9) % 12;
    let of_year = (153 * march_month + 2) / 5 + day.checked_sub(1)?;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    (era * 146_097 + of_era).checked_sub(719_468)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("'{text}' is not a time")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(nanos: u64, text: &str) {
        assert_eq!(Timestamp(nanos).to_string(), text);
        assert_eq!(Timestamp::parse(text), Some(Timestamp(nanos)));
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z");
        check(1_795_296_168_197_953_294, "2026-11-21T21:22:48.197953294Z");
        check(4_107_542_399_999_999_999, "2100-02-28T23:59:59.999999999Z");
        check(4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z");
        check(u64::MAX, "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn nonsense_is_no_timestamp() {
        for text in [
            "",
            "2026-11-21",
            "2026-13-21T21:22:48.197953294Z",
            "x026-11-21T21:22:48.197953294Z",
            "2554-07-21T23:34:33.709551616Z",
            "9999-12-31T23:59:59.999999999Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_age_goes_on_within_a_boot_alone() {
        let then = AgeMark {
            clock_s: 100,
            boot_s: boot_s().saturating_sub(5),
            boot_id: "b".to_owned(),
        };
        let passed = boot_s() - then.boot_s;
        assert!(AgeClock::resume(&then, "b").now_s() >= 100 + passed);
        assert!(AgeClock::resume(&then, "c").now_s() < 100 + passed.max(2));
    }

    #[test]
    fn the_offset_leads_to_the_wall_clock() {
        let offset = wall_offset();
        let wall = wall_now();
        assert!(offset.at(boot_now()).0.abs_diff(wall) < 1_000_000_000);
    }
}
