//! Comparing the table with the host, at start and after a loss.
//!
//! A scan takes from milliseconds to a second, and the ring must not wait for it. So it has a thread
//! of its own, and the stream goes on. What the ring tells meanwhile is newer than the scan, or
//! older, nobody knows: cgroups that it is about are left out of this scan. Those of them that a
//! loss may concern (the ring did not tell them from their mkdir on) are scanned once more. Where
//! that does not come to an end, because such cgroups never rest, the last scan has the ring wait:
//! then everything in the ring is newer than what was attached when the scan began, and is applied
//! after it.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{Live, losses::Meanwhile};
use crate::{
    decode::decode,
    engine::Entry,
    lifecycle::Snapshot,
    reconcile,
    record::{Kind, Origin},
};

/// Scans beside the stream; after these one has the ring wait.
const MAX_SCANS: u32 = 3;

/// Scans on their way.
pub(super) struct Scans {
    /// Of the repair that goes on.
    rounds: u32,
    begun: mpsc::Sender<Snapshot>,
    pub(super) done: mpsc::Receiver<Snapshot>,
}

impl Default for Scans {
    fn default() -> Self {
        let (begun, done) = mpsc::channel(1);
        Self {
            rounds: 0,
            begun,
            done,
        }
    }
}

impl Live {
    /// Begins to repair the table where it is in doubt and nobody does.
    pub(super) fn repair_if_needed(&mut self) -> anyhow::Result<()> {
        if self.core.meanwhile.is_some() || !std::mem::take(&mut self.core.losses.repair) {
            return Ok(());
        }
        self.scans.rounds = 0;
        self.scan_beside()
    }

    fn scan_beside(&mut self) -> anyhow::Result<()> {
        self.core.meanwhile = Some(Meanwhile::default());
        self.scans.rounds += 1;
        let mut tables = self.core.doing.tables.duplicate()?;
        let hierarchies = self.hierarchies.clone();
        let done = self.scans.begun.clone();
        std::thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || {
                let snapshot = reconcile::scan(&hierarchies, &mut tables);
                // Nobody waits for it any more: tracer ends.
                drop(done.blocking_send(snapshot));
            })
            .context("cannot start a thread")?;
        Ok(())
    }

    /// A scan beside the stream is done.
    pub(super) fn scanned(&mut self, mut snapshot: Snapshot) -> anyhow::Result<()> {
        // What the ring has by now may be about the time before the scan.
        self.drain()?;
        let Meanwhile { touched, born } = self.core.meanwhile.take().unwrap_or_default();
        let machine = &self.core.engine.machine;
        let in_doubt = touched.difference(&born).any(|cgroup| {
            let mut found = snapshot.found.iter();
            machine.holds(*cgroup) || found.any(|found| found.cgroup == *cgroup)
        });
        snapshot.born.clone_from(&touched);
        snapshot.touched = touched;
        self.compare(snapshot, Origin::Reconcile)?;
        if !in_doubt && !self.core.losses.repair {
            return self.resynced();
        }
        if self.scans.rounds < MAX_SCANS {
            self.core.losses.repair = false;
            return self.scan_beside();
        }
        self.core.losses.repair = false;
        self.sync(Origin::Reconcile, None)?;
        self.resynced()
    }

    pub(super) fn resynced(&mut self) -> anyhow::Result<()> {
        self.core.node(Kind::NodeResynced, Box::default())?;
        self.core.flush()
    }

    /// Scans the host while the ring waits, then applies the scan, then what the ring collected:
    /// `first` of all, where that was taken already.
    pub(super) fn sync(&mut self, origin: Origin, first: Option<Box<[u8]>>) -> anyhow::Result<()> {
        let mut snapshot = reconcile::scan(&self.hierarchies, &mut self.core.doing.tables);
        let mut collected: Vec<Box<[u8]>> = first.into_iter().collect();
        let ring = self.ring.get_mut();
        while let Some(record) = ring.next()? {
            collected.push((*record).into());
        }
        let mut meanwhile = Meanwhile::default();
        for raw in collected.iter().filter_map(|record| decode(record).ok()) {
            meanwhile.note(&raw.what);
        }
        snapshot.touched = meanwhile.touched;
        snapshot.born = meanwhile.born;
        self.compare(snapshot, origin)?;
        for record in collected {
            self.core.record(&record)?;
        }
        self.core.flush()
    }

    fn compare(&mut self, snapshot: Snapshot, origin: Origin) -> anyhow::Result<()> {
        self.core
            .entry(&Entry::Snapshot(Arc::new(snapshot), origin))
    }
}
