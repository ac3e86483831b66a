//! Whether a node is there. Pure: time comes in as milliseconds of a monotonic clock.
//!
//! ```text
//!            heard                     15 s of silence
//!  (new) ───────────▶ online ◀────────────────────────▶ unreachable
//!                       │ ▲            heard                 │
//!               goodbye │ │ heard                            │ goodbye
//!                       ▼ │                                  ▼
//!                     offline ◀──────────────────────────────┘
//! ```
//!
//! Each arrow is told once. After the gateway's own start every node that was online has [`GRACE_MS`]
//! to report; until then nothing is said about it, and nothing is said if it does.

use serde::{Deserialize, Serialize};

/// Silence that makes a node unreachable: three heartbeats.
pub const SILENCE_MS: u64 = 15_000;

/// How long nodes have to report after the gateway's start: their longest wait between two attempts,
/// and three heartbeats.
pub const GRACE_MS: u64 = 45_000;

/// Where a node is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    Online,
    Unreachable,
    /// It said goodbye.
    Offline,
}

impl Reach {
    /// As in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unreachable => "unreachable",
            Self::Offline => "offline",
        }
    }
}

/// One node's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// `None`: never heard.
    reach: Option<Reach>,
    /// When it counts as silent.
    deadline: u64,
}

/// What is to be told: where the node was, and is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub was: Option<Reach>,
    pub is: Reach,
}

impl Liveness {
    /// Of a node that was never heard.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            reach: None,
            deadline: u64::MAX,
        }
    }

    /// As the store has it, at the gateway's start.
    #[must_use]
    pub const fn restored(reach: Option<Reach>, now: u64) -> Self {
        Self {
            reach,
            deadline: now.saturating_add(GRACE_MS),
        }
    }

    /// Where it is; `None` where it was never heard.
    #[must_use]
    pub const fn reach(&self) -> Option<Reach> {
        self.reach
    }

    /// A message came.
    pub fn heard(&mut self, now: u64) -> Option<Change> {
        self.deadline = now.saturating_add(SILENCE_MS);
        self.to(Reach::Online)
    }

    /// An orderly end.
    pub fn goodbye(&mut self) -> Option<Change> {
        self.to(Reach::Offline)
    }

    /// Time went on.
    pub fn tick(&mut self, now: u64) -> Option<Change> {
        if self.reach == Some(Reach::Online) && now >= self.deadline {
            return self.to(Reach::Unreachable);
        }
        None
    }

    fn to(&mut self, is: Reach) -> Option<Change> {
        let was = self.reach.replace(is);
        (was != Some(is)).then_some(Change { was, is })
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(change: Option<Change>) -> Option<Reach> {
        change.map(|change| change.is)
    }

    #[test]
    fn three_missed_heartbeats_are_told_once_and_so_is_the_return() {
        let mut node = Liveness::new();
        assert_eq!(is(node.heard(0)), Some(Reach::Online));
        assert_eq!(node.heard(5_000), None);
        assert_eq!(node.tick(19_999), None);
        assert_eq!(is(node.tick(20_000)), Some(Reach::Unreachable));
        for later in [20_001, 60_000, 900_000] {
            assert_eq!(node.tick(later), None);
        }
        let back = node.heard(900_001).expect("told");
        assert_eq!(
            (back.was, back.is),
            (Some(Reach::Unreachable), Reach::Online)
        );
        assert_eq!(node.heard(900_002), None);
    }

    #[test]
    fn who_said_goodbye_is_offline_and_not_unreachable() {
        let mut node = Liveness::new();
        node.heard(0);
        assert_eq!(is(node.goodbye()), Some(Reach::Offline));
        assert_eq!(node.goodbye(), None);
        assert_eq!(node.tick(1_000_000), None);
        assert_eq!(is(node.heard(1_000_001)), Some(Reach::Online));
    }

    #[test]
    fn a_start_of_the_gateway_invents_nothing() {
        for reach in [
            None,
            Some(Reach::Online),
            Some(Reach::Unreachable),
            Some(Reach::Offline),
        ] {
            let mut node = Liveness::restored(reach, 1_000);
            assert_eq!(node.tick(1_000 + GRACE_MS - 1), None);
            let told = is(node.tick(1_000 + GRACE_MS));
            assert_eq!(
                told,
                (reach == Some(Reach::Online)).then_some(Reach::Unreachable)
            );
        }
        let mut node = Liveness::restored(Some(Reach::Online), 0);
        assert_eq!(node.heard(GRACE_MS - 1), None);
        assert_eq!(node.tick(GRACE_MS), None);
    }
}
