//! What waits for the disk: acks and welcomes.
//!
//! The writer commits and goes on; this thread forces the log to the disk, again and again while
//! there is something new, and then says so to all whose records were committed before it began. So
//! nobody's ack waits for more than two of the disk's turns, and no commit waits for any.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Instant,
};

use tokio::sync::oneshot;

use crate::{
    gateway::{
        fleet::{Denied, NodeId},
        metrics::Metrics,
        outbox::Outbox,
        store::StoreError,
    },
    wal::Log,
};

/// Committed turns that may wait for the disk; then the writer waits.
const TURNS: usize = 256;

/// An answer to a node's Hello: its number, and the newest record that is durable.
pub type Answer = oneshot::Sender<Result<(NodeId, u64), Denied>>;

/// Of one transaction: what is to be said once it is on the disk.
#[derive(Default)]
pub struct Promised {
    pub acks: Vec<(Outbox, u64)>,
    pub welcomes: Vec<(Answer, NodeId, u64)>,
}

impl Promised {
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.welcomes.is_empty()
    }

    fn keep(self) {
        for (outbox, seq) in self.acks {
            outbox.ack(seq);
        }
        for (answer, node, committed) in self.welcomes {
            // Whoever asked may be gone.
            drop(answer.send(Ok((node, committed))));
        }
    }
}

/// The thread.
#[derive(Debug)]
pub struct Syncer {
    turns: SyncSender<Promised>,
    thread: thread::JoinHandle<()>,
}

impl Syncer {
    pub fn start(log: Log, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (turns, waiting) = sync_channel(TURNS);
        let thread = thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || run(&log, &waiting, &metrics))?;
        Ok(Self { turns, thread })
    }

    /// Takes what a committed transaction promises.
    pub fn promise(&self, promised: Promised) -> Result<(), StoreError> {
        if promised.is_empty() {
            return Ok(());
        }
        self.turns.send(promised).map_err(|_gone| StoreError::Disk)
    }

    /// Waits until all is said.
    pub fn end(self) {
        drop(self.turns);
        if self.thread.join().is_err() {
            tracing::error!("the thread that forces the log to the disk panicked");
        }
    }
}

fn run(log: &Log, waiting: &Receiver<Promised>, metrics: &Metrics) {
    while let Ok(first) = waiting.recv() {
        let others: Vec<Promised> = waiting.try_iter().collect();
        let begin = Instant::now();
        if let Err(error) = log.sync() {
            tracing::error!(%error, "the log cannot be forced to the disk: the gateway ends");
            return;
        }
        metrics.syncs.observe(begin.elapsed().as_secs_f64());
        first.keep();
        others.into_iter().for_each(Promised::keep);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Whether a node is welcomed by a gateway whose log is what `make` puts there.
    fn is_welcomed(make: impl FnOnce(&std::path::Path)) -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        make(&directory.path().join("gateway.db-wal"));
        let log = Log::of(&directory.path().join("gateway.db")).expect("a log");
        let syncer = Syncer::start(log, Arc::new(Metrics::new())).expect("a thread");
        let (answer, answered) = oneshot::channel();
        let promised = Promised {
            welcomes: vec![(answer, 7, 42)],
            ..Promised::default()
        };
        syncer.promise(promised).expect("taken");
        syncer.end();
        answered
            .blocking_recv()
            .is_ok_and(|said| said.is_ok_and(|said| said == (7, 42)))
    }

    #[test]
    fn nothing_is_promised_that_the_disk_did_not_take() {
        assert!(is_welcomed(|log| fs::write(log, "pages").expect("a file")));
        // It can be opened, and forced nowhere.
        assert!(!is_welcomed(
            |log| symlink("/dev/null", log).expect("a link")
        ));
    }
}
