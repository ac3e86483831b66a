//! Times as runtimes write them: RFC 3339 with any number of digits and any zone.

use serde::{
    Deserialize,
    de::value::{Error, StrDeserializer},
};

use crate::time::Timestamp;

const DIGITS: usize = 9;
/// Bytes of `2026-11-21T21:02:48`.
const SECONDS_LEN: usize = 19;

/// Reads a time. Go's zero time, like every time before 1970, is none.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let (seconds, rest) = text.split_at_checked(SECONDS_LEN)?;
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at_checked(zone_at)?;
    let digits = fraction.strip_prefix('.').unwrap_or(fraction);
    let good = digits.bytes().all(|byte| byte.is_ascii_digit())
        && digits.len() <= DIGITS
        && digits.is_empty() == fraction.is_empty();
    if !good {
        return None;
    }
    let text = format!("{seconds}.{digits:0<DIGITS$}Z");
    let local = Timestamp::deserialize(StrDeserializer::<Error>::new(&text)).ok()?;
    let utc = i64::try_from(local.0).ok()?.checked_sub(offset_ns(zone)?)?;
    u64::try_from(utc).ok().map(Timestamp)
}

/// `Z`, or hours and minutes east of Greenwich.
fn offset_ns(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (sign, rest) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+')?),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, below: i64| {
        let good = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let value: Option<i64> = text.parse().ok();
        value.filter(|value| good && *value < below)
    };
    let seconds = number(hours, 24)? * 3600 + number(minutes, 60)? * 60;
    Some(sign * seconds * 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let found = time(text).map(|time| time.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }

    #[test]
    fn times_of_runtimes() {
        // dockerd, containers/storage and runc cut trailing zeros; crun has microseconds.
        for text in [
            "2026-11-21T23:16:56.053062Z",
            "2026-11-21T23:16:56.053062000Z",
            "2026-11-22T00:46:56.053062+01:30",
            "2026-11-21T22:16:56.053062-01:00",
        ] {
            check(text, Some("2026-11-21T23:16:56.053062000Z"));
        }
        check(
            "2026-11-21T23:16:56Z",
            Some("2026-11-21T23:16:56.000000000Z"),
        );
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "0001-01-01T00:00:00Z",
            "1970-01-01T00:00:00+01:00",
            "2026-11-21",
            "2026-11-21T23:16:56",
            "2026-11-21T23:16:56.Z",
            "2026-11-21T23:16:56.0000000001Z",
            "2026-11-21T23:16:56.1Zulu",
            "2026-11-21T23:16:56+1:00",
            "2026-11-21T23:16:56+24:00",
            "2026-11-21T23:16:5éZ",
            "2026-13-21T23:16:56Z",
        ] {
            check(text, None);
        }
    }
}
