//! How far the host's wall clock can be trusted. Nothing is ordered or measured by it: this is for
//! whoever compares the times of several hosts.
//!
//! ```text
//!  adjtimex: at start, every 30 s, when the clock was set ─┐
//!  D-Bus: timesync1 and timedate1 changed, every 15 min ───┴─▶ judge ─ a change? ─▶ pipeline: node.clock
//! ```
//!
//! The kernel's `maxerror` grows by 500 us each second that nobody disciplines the clock, so only
//! its class is compared: see [`Reading::is_news`]. It all happens on a thread of its own, so that
//! the pipeline is woken by changes alone. A host without a bus, or whose clock is kept by somebody
//! unknown to it, loses only the faster notice.

#[cfg(feature = "dbus")]
mod bus;
mod kernel;
mod watch;

pub use self::{
    kernel::KernelClock,
    watch::{Polls, Watch},
};

/// What is known of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Somebody keeps it in step with the world.
    pub synchronized: bool,
    /// It is at most so far off, as the kernel estimates.
    pub max_error_us: u64,
    pub source: Source,
}

/// From whom it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The kernel, and nobody else.
    #[default]
    Adjtimex,
    /// The kernel, and systemd-timesyncd, which tells when it has heard from its server.
    Timesync1,
    /// The kernel could not be asked: systemd-timedated.
    Timedate1,
}

impl Source {
    /// As in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Adjtimex => "adjtimex",
            Self::Timesync1 => "timesync1",
            Self::Timedate1 => "timedate1",
        }
    }
}

/// What the bus says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BusState {
    /// timesync1 is there.
    pub timesync1: bool,
    /// timedate1's `NTPSynchronized`, where it is there.
    pub timedate1: Option<bool>,
}

/// Bounds between the classes of the largest error, us. timesyncd sets the error to 0 each time it
/// hears from its server, at least every 2048 s, so that a clock in its care comes close to 1 s and
/// stays in the first class.
const CLASSES: [u64; 2] = [2_000_000, 8_000_000];

impl Reading {
    /// Puts both together; `None` where nobody knows anything.
    #[must_use]
    pub fn judge(kernel: Option<KernelClock>, bus: BusState) -> Option<Self> {
        match (kernel, bus.timedate1) {
            (Some(kernel), _) => Some(Self {
                synchronized: kernel.synchronized,
                max_error_us: kernel.max_error_us,
                source: if bus.timesync1 {
                    Source::Timesync1
                } else {
                    Source::Adjtimex
                },
            }),
            (None, Some(synchronized)) => Some(Self {
                synchronized,
                max_error_us: if synchronized { 0 } else { MAX_ERROR_US },
                source: Source::Timedate1,
            }),
            (None, None) => None,
        }
    }

    /// Whether this differs from what was told by more than the passing of time.
    #[must_use]
    pub fn is_news(&self, told: &Self) -> bool {
        self.synchronized != told.synchronized
            || self.source != told.source
            || self.class() != told.class()
    }

    fn class(&self) -> usize {
        CLASSES
            .iter()
            .take_while(|bound| self.max_error_us > **bound)
            .count()
    }
}

/// The kernel's estimate where nobody disciplines the clock (`NTP_PHASE_LIMIT`, include/linux/timex.h).
const MAX_ERROR_US: u64 = 16_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(synchronized: bool, max_error_us: u64) -> Reading {
        Reading {
            synchronized,
            max_error_us,
            source: Source::Adjtimex,
        }
    }

    #[test]
    fn the_passing_of_time_is_no_news() {
        let told = reading(true, 0);
        assert!(!reading(true, 1_024_000).is_news(&told));
        assert!(!reading(true, 2_000_000).is_news(&told));
        assert!(reading(true, 2_000_001).is_news(&told));
        assert!(!reading(true, 7_000_000).is_news(&reading(true, 2_000_001)));
        assert!(reading(true, 16_000_000).is_news(&reading(true, 7_000_000)));
        assert!(reading(false, 0).is_news(&told));
    }

    #[test]
    fn the_kernel_knows_best_and_the_bus_says_who_cares() {
        let kernel = Some(KernelClock {
            synchronized: false,
            max_error_us: 16_000_000,
        });
        let bus = |timesync1, timedate1| BusState {
            timesync1,
            timedate1,
        };
        let judged = |kernel, bus| {
            Reading::judge(kernel, bus).map(|reading| (reading.synchronized, reading.source))
        };
        let none = BusState::default();
        assert_eq!(judged(kernel, none), Some((false, Source::Adjtimex)));
        let both = bus(true, Some(true));
        assert_eq!(judged(kernel, both), Some((false, Source::Timesync1)));
        assert_eq!(judged(None, both), Some((true, Source::Timedate1)));
        assert_eq!(judged(None, bus(true, None)), None);
    }
}
