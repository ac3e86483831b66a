//! What the service manager is told: ready, alive, stopping. Nothing where nobody asks for it.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// The line to the service manager.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// When to say that the loop still turns.
    alive: Option<Interval>,
}

impl Service {
    /// Begins to say that the loop turns, where `WATCHDOG_USEC` asks for it; inside the event loop
    /// only.
    pub(super) fn new() -> Self {
        let alive = sd_notify::watchdog_enabled().map(|every| {
            // Twice as often as asked for, as sd_watchdog_enabled(3) advises.
            let every = (every / 2).max(Duration::from_millis(1));
            let mut alive = interval_at(Instant::now() + every, every);
            alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
            alive
        });
        Self { alive }
    }

    /// Waits until it is time for [`Service::alive`].
    pub(super) async fn due(&mut self) {
        match &mut self.alive {
            Some(alive) => {
                alive.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// The table is complete: what depends on tracer may start.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

pub(super) fn alive() {
    tell(NotifyState::Watchdog);
}

pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Does nothing without `NOTIFY_SOCKET`.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
