//! The thread that watches the clock.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};

use super::{BusState, KernelClock, Reading};
use crate::poll::sleep_at_rest;

/// How often to look without a reason.
#[derive(Debug, Clone, Copy)]
pub struct Polls {
    /// At the kernel.
    pub kernel: Duration,
    /// At the bus, or for one.
    pub bus: Duration,
}

impl Default for Polls {
    fn default() -> Self {
        Self {
            kernel: Duration::from_secs(30),
            bus: Duration::from_mins(15),
        }
    }
}

/// How long the first look waits for the bus.
const BUS_PATIENCE: Duration = Duration::from_secs(1);

/// Changes that wait for the pipeline; more than a few are not to be expected in its lifetime.
const CHANGES: usize = 16;

/// The running watch; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<Reading>,
    nudge: Arc<Notify>,
}

/// Asks the kernel, or says what the test wants.
pub type Ask = Box<dyn Fn() -> io::Result<KernelClock> + Send>;

impl Watch {
    /// Watches this host's clock. The first change is its state.
    ///
    /// # Errors
    ///
    /// Those of starting a thread and an event loop.
    pub fn start() -> io::Result<Self> {
        Self::over(Box::new(KernelClock::read), None, Polls::default())
    }

    /// As [`Watch::start`], with another kernel, another bus (a D-Bus address) and other polls.
    ///
    /// # Errors
    ///
    /// Those of starting a thread and an event loop.
    pub fn over(kernel: Ask, bus: Option<String>, polls: Polls) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (told, changes) = mpsc::channel(CHANGES);
        let nudge = Arc::new(Notify::new());
        let nudged = Arc::clone(&nudge);
        std::thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || runtime.block_on(follow(kernel, bus, polls, told, nudged)))?;
        Ok(Self { changes, nudge })
    }

    /// The clock was set: look at once.
    pub fn look(&self) {
        self.nudge.notify_one();
    }

    /// Waits for the next change; for ever where there will be none.
    pub async fn changed(&mut self) -> Reading {
        match self.changes.recv().await {
            Some(reading) => reading,
            None => std::future::pending().await,
        }
    }
}

async fn follow(
    kernel: Ask,
    bus: Option<String>,
    polls: Polls,
    changes: mpsc::Sender<Reading>,
    nudged: Arc<Notify>,
) {
    let (said, mut hears) = watch::channel(BusState::default());
    #[cfg(feature = "dbus")]
    tokio::spawn(super::bus::follow(bus, polls.bus, said));
    #[cfg(not(feature = "dbus"))]
    drop((bus, said));
    // So that the first state is told once, with its source.
    let mut has_bus = !matches!(timeout(BUS_PATIENCE, hears.changed()).await, Ok(Err(_)));
    let mut pause = Duration::ZERO;
    let mut told = None;
    loop {
        tokio::select! {
            () = sleep_at_rest(pause) => {}
            () = nudged.notified() => {}
            () = changes.closed() => return,
            news = hears.changed(), if has_bus => has_bus = news.is_ok(),
        }
        pause = polls.kernel;
        let kernel = match kernel() {
            Ok(kernel) => Some(kernel),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not tell about the clock");
                None
            }
        };
        let bus = *hears.borrow_and_update();
        let Some(reading) = Reading::judge(kernel, bus) else {
            continue;
        };
        if told.is_none_or(|told| reading.is_news(&told)) {
            told = Some(reading);
            if changes.send(reading).await.is_err() {
                return;
            }
        }
    }
}
