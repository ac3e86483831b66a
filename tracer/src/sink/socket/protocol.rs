//! What is said over the socket: one line asks, lines answer.
//!
//! ```text
//! ▶ {"version":1,"verb":"events","since":"10m","filter":{"runtimes":["docker"]},"follow":true}
//! ◀ {"id":"…/7","seq":7,"type":"container.started",…}      records as on standard output
//! ◀ {"end":"stopped"}
//! ```
//!
//! The last line says that the answer is whole, or why it is not; an answer without it was cut off.

use std::time::Duration;

use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer as _, value},
};

use crate::{filter::Filter, time::Timestamp};

/// The version that this program speaks.
pub const VERSION: u32 = 1;

/// Longest request, bytes.
pub const MAX_REQUEST: usize = 64 << 10;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub version: u32,
    pub verb: Verb,
    /// With `events`: a [`Since`]; without it from now on, or all that is kept if not following.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(default)]
    pub filter: Filter,
    /// With `events`: go on with what happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    /// With `inspect`: id, at least 4 characters of it, or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Events,
    Ps,
    Inspect,
}

/// The last line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Last {
    /// `complete`: that was all; `stopped`: the daemon ends.
    End(String),
    /// The request cannot be answered.
    Error(String),
}

impl Last {
    /// Its line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Where to begin in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// With this number.
    Seq(u64),
    /// At this time.
    Time(Timestamp),
}

impl Since {
    /// Reads `1842` (a number), `10m`, `1h30m` (that long before `now`) or an RFC 3339 time.
    #[must_use]
    pub fn parse(text: &str, now: Timestamp) -> Option<Self> {
        if let Ok(seq) = text.parse() {
            return Some(Self::Seq(seq));
        }
        if let Some(ago) = duration(text) {
            let ago = u64::try_from(ago.as_nanos()).ok()?;
            return Some(Self::Time(Timestamp(now.0.saturating_sub(ago))));
        }
        time(text).map(Self::Time)
    }
}

/// `90s`, `10m`, `1h30m`, `2d`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(end)?;
        let number: u64 = number.parse().ok()?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = next;
    }
    (!text.is_empty()).then_some(sum)
}

/// RFC 3339 with any number of digits and any offset, and the date alone.
fn time(text: &str) -> Option<Timestamp> {
    let (date, clock) = text
        .split_once(['T', 't', ' '])
        .unwrap_or((text, "00:00:00Z"));
    let zone = clock.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = clock.split_at_checked(zone)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || fraction.len() > 9 {
        return None;
    }
    let text = format!("{date}T{clock}.{fraction:0<9}Z");
    let text: value::StringDeserializer<value::Error> = text.into_deserializer();
    let local = Timestamp::deserialize(text).ok()?;
    let (east, offset) = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => return Some(local),
        (sign, offset) => (sign == "+", offset),
    };
    let (hours, minutes) = offset.split_once(':')?;
    let number = |text: &str, below: u64| {
        let value: Option<u64> = text.parse().ok();
        value.filter(|value| *value < below)
    };
    let ns = (number(hours, 24)? * 60 + number(minutes, 60)?) * 60_000_000_000;
    let utc = if east {
        local.0.checked_sub(ns)?
    } else {
        local.0.checked_add(ns)?
    };
    Some(Timestamp(utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_number_a_duration_or_a_time() {
        let now = time("2026-11-21T21:00:00Z").expect("a time");
        let at = |text: &str| Some(Since::Time(time(text).expect("a time")));
        for (text, since) in [
            ("1842", Some(Since::Seq(1842))),
            ("10m", at("2026-11-21T20:50:00Z")),
            ("1h30m", at("2026-11-21T19:30:00Z")),
            ("500ms", at("2026-11-21T20:59:59.5Z")),
            (
                "2026-11-21T22:02:48.197+01:00",
                at("2026-11-21T21:02:48.197Z"),
            ),
            ("2026-11-21T15:32:48-05:30", at("2026-11-21T21:02:48Z")),
            ("2026-11-21", at("2026-11-21T00:00:00Z")),
            ("", None),
            ("10", Some(Since::Seq(10))),
            ("10x", None),
            ("m", None),
            ("yesterday", None),
            ("2026-11-21T21:02:48", None),
            ("2026-13-21T21:02:48Z", None),
            ("2026-11-21T21:02:48.x1Z", None),
            ("99999999999999999999d", None),
            ("2026-11-21T21:02:48+18446744073709551615:59", None),
            ("2026-11-21T21:02:48+01:60", None),
            ("9999-11-21T21:02:48Z", None),
        ] {
            assert_eq!(Since::parse(text, now), since, "{text}");
        }
    }

    #[test]
    fn a_request_without_extras_is_short_and_unknown_fields_are_errors() {
        let request: Request =
            serde_json::from_str(r#"{"version":1,"verb":"ps"}"#).expect("a request");
        assert_eq!(request.verb, Verb::Ps);
        for wrong in [
            r#"{"version":1,"verb":"shutdown"}"#,
            r#"{"version":1,"verb":"ps","folow":true}"#,
            r#"{"version":1,"verb":"events","filter":{"typo":[]}}"#,
        ] {
            assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
        }
    }
}
