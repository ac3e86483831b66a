//! What goes wrong in a run, and when: it depends on the seed alone.
//!
//! Moments are numbers of records in the node's journal, not times: a slow machine sees the same
//! faults at the same places.

use super::chance::Chance;

/// Something that goes wrong, or ends doing so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// All connections end.
    Cut,
    Stall,
    Drip,
    Refuse,
    /// The network is good again.
    Fair,
    /// kill -9, and started again.
    KillNode,
    /// Orderly end, and started again.
    RestartNode,
    /// As after a reboot: orderly end, and started with another stream.
    NewStream,
    /// kill -9.
    KillGateway,
    StartGateway,
    /// A copy of the gateway's store is put aside (the gateway is killed for it).
    SaveStore,
    /// The gateway is killed and goes on with that copy.
    RestoreStore,
    FillNode,
    FillGateway,
    /// All disks have room again.
    FreeDisks,
    /// Another node claims the same name.
    Rival,
    RivalEnds,
    /// Messages come twice, late, or once more.
    Meddle,
    MeddleNoMore,
    /// The node's wall clock is so many seconds ahead of the true one.
    SetNodeClock(i64),
    SetGatewayClock(i64),
}

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Theme {
    Network,
    NodeKilled,
    GatewayKilled,
    BothKilled,
    Overflow,
    RestoredStore,
    NodeDiskFull,
    GatewayDiskFull,
    Rivals,
    NewStreams,
    Disorder,
    Clocks,
}

impl Theme {
    /// Every theme.
    pub const ALL: [Self; 12] = [
        Self::Network,
        Self::NodeKilled,
        Self::GatewayKilled,
        Self::BothKilled,
        Self::Overflow,
        Self::RestoredStore,
        Self::NodeDiskFull,
        Self::GatewayDiskFull,
        Self::Rivals,
        Self::NewStreams,
        Self::Disorder,
        Self::Clocks,
    ];

    /// Records may be missing at the gateway in the end, if that is told.
    #[must_use]
    pub const fn may_lose(self) -> bool {
        matches!(
            self,
            Self::Overflow | Self::RestoredStore | Self::NodeDiskFull
        )
    }

    /// It needs file systems of its own.
    #[must_use]
    pub const fn mounts(self) -> bool {
        matches!(self, Self::NodeDiskFull | Self::GatewayDiskFull)
    }
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub theme: Theme,
    pub records: u64,
    /// Per second.
    pub rate: u64,
    pub spool_bytes: u64,
    /// By rising number of records.
    pub steps: Vec<(u64, Fault)>,
}

const ROOMY: u64 = 64 << 20;

impl Plan {
    /// The plan of a seed: themes take turns.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let themes = Theme::ALL.len() as u64;
        let index = usize::try_from(seed % themes).unwrap_or(0);
        let theme = Theme::ALL.get(index).copied().unwrap_or(Theme::Network);
        let mut chance = Chance::new(seed);
        let records = 600 + chance.below(600);
        let mut plan = Self {
            seed,
            theme,
            records,
            rate: 500 + chance.below(1_000),
            spool_bytes: if theme == Theme::Overflow {
                (32 << 10) + chance.below(32 << 10)
            } else {
                ROOMY
            },
            steps: Vec::new(),
        };
        plan.theme(&mut chance);
        plan.noise(&mut chance);
        // In a moment that two share, the one that was meant first comes first.
        plan.steps.sort_by_key(|(at, _)| *at);
        plan
    }

    /// At least one of what the run is about.
    fn theme(&mut self, chance: &mut Chance) {
        for _ in 0..=chance.below(3) {
            match self.theme {
                Theme::Network => {
                    let weather = [Fault::Stall, Fault::Drip, Fault::Refuse];
                    let index = usize::try_from(chance.below(3)).unwrap_or(0);
                    let weather = weather.get(index).copied().unwrap_or(Fault::Cut);
                    self.window(chance, weather, Fault::Fair);
                    self.once(chance, Fault::Cut);
                }
                Theme::NodeKilled => self.once(chance, Fault::KillNode),
                Theme::GatewayKilled => {
                    self.window(chance, Fault::KillGateway, Fault::StartGateway);
                }
                Theme::BothKilled => {
                    self.once(chance, Fault::KillNode);
                    self.window(chance, Fault::KillGateway, Fault::StartGateway);
                }
                Theme::Overflow => {
                    self.window(chance, Fault::Refuse, Fault::Fair);
                    self.once(chance, Fault::Cut);
                }
                Theme::RestoredStore => {
                    self.window(chance, Fault::SaveStore, Fault::RestoreStore);
                    return;
                }
                Theme::NodeDiskFull => self.window(chance, Fault::FillNode, Fault::FreeDisks),
                Theme::GatewayDiskFull => {
                    self.window(chance, Fault::FillGateway, Fault::FreeDisks);
                }
                Theme::Rivals => {
                    self.window(chance, Fault::Rival, Fault::RivalEnds);
                    return;
                }
                Theme::NewStreams => {
                    self.window(chance, Fault::Refuse, Fault::Fair);
                    self.once(chance, Fault::NewStream);
                }
                Theme::Disorder => self.window(chance, Fault::Meddle, Fault::MeddleNoMore),
                Theme::Clocks => {
                    let (node, gateway) = (wrong_by(chance), wrong_by(chance));
                    self.once(chance, Fault::SetNodeClock(node));
                    self.once(chance, Fault::SetGatewayClock(gateway));
                    // It looks at the age of what it has when it starts.
                    self.window(chance, Fault::KillGateway, Fault::StartGateway);
                }
            }
        }
    }

    /// Something else, as it happens.
    fn noise(&mut self, chance: &mut Chance) {
        for _ in 0..chance.below(4) {
            let fault = match chance.below(4) {
                0 => Fault::RestartNode,
                // Who holds a name and is killed leaves it to whoever comes first.
                1 if self.theme != Theme::Rivals => Fault::KillNode,
                _ => Fault::Cut,
            };
            if self.theme != Theme::Rivals || fault == Fault::Cut {
                self.once(chance, fault);
            }
        }
    }

    fn once(&mut self, chance: &mut Chance, fault: Fault) {
        self.steps.push((1 + chance.below(self.records), fault));
    }

    fn window(&mut self, chance: &mut Chance, begin: Fault, end: Fault) {
        let from = 1 + chance.below(self.records * 3 / 4);
        let until = from + 1 + chance.below(self.records - from);
        self.steps.push((from, begin));
        self.steps.push((until, end));
    }
}

/// Seconds that a clock may be wrong by: up to an hour, a year or 30 years, ahead or behind.
const fn wrong_by(chance: &mut Chance) -> i64 {
    const YEAR: u64 = 365 * 86_400;
    let most = match chance.below(3) {
        0 => 3_600,
        1 => YEAR,
        _ => 30 * YEAR,
    };
    // Below 2^31.
    let seconds = chance.below(most).cast_signed();
    if chance.once_in(2) { seconds } else { -seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        for seed in 0..200 {
            let (plan, again) = (Plan::of(seed), Plan::of(seed));
            assert_eq!(plan.steps, again.steps);
            assert!(!plan.steps.is_empty());
            assert!(plan.steps.is_sorted_by_key(|(at, _)| *at));
            assert!(plan.steps.iter().all(|(at, _)| *at <= plan.records));
        }
    }
}
