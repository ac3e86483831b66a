//! Another stream in the same process, because the one that goes on has lost its place.
//!
//! An upstream may have more of the stream than was ever made here: then the state directory was
//! restored from an old copy, and the numbers that this process gives were given before, to other
//! records. Nobody can tell the two apart any more, and the upstream would drop the new ones as known.
//! So the stream ends, and another begins as in a new process: with what is there now, after a gap
//! that says since when something may be missing.
//!
//! That happens once in a process at most: of a stream that began here no upstream can have more than
//! was made here, and one that says so is not believed.
//!
//! What was told with numbers that were given before stays told at the sinks that have it. Upstreams
//! that lack records of the old stream get them first; the one that has more of it does not, and
//! the gap covers them.

use std::{collections::BTreeMap, sync::Arc};

use super::{Live, Wake, core::head};
use crate::{
    engine::Engine,
    metrics::Count,
    record::{Kind, Origin},
    time::boot_now,
    upstream::{LostPlace, Uplink},
};

/// Waits until an upstream has more than was ever made here.
pub(super) async fn lost_place(uplink: Option<&mut Uplink>) -> Wake {
    match uplink {
        Some(uplink) => Wake::LostPlace(uplink.lost_place().await),
        None => std::future::pending().await,
    }
}

impl Live {
    /// Ends the stream, and begins another.
    pub(super) async fn begin_anew(&mut self, lost: LostPlace) -> anyhow::Result<()> {
        let LostPlace { theirs, ours, .. } = lost;
        let before = Arc::clone(&self.core.engine.renderer.stream);
        tracing::error!(
            stream = &*before,
            theirs,
            ours,
            "an upstream has more of the stream than this state directory knows of: it is an old copy, and a new stream begins"
        );
        self.drain()?;
        if self.core.meanwhile.take().is_some() {
            // A scan for the table that ends here.
            drop(self.scans.done.recv().await);
        }
        let core = &mut self.core;
        core.outlets.metrics.add(Count::UpstreamLostPlace, 1);
        let renderer = &core.engine.renderer;
        let host = core.engine.machine.host().clone();
        core.engine = Engine::begin(host, Arc::clone(&renderer.host), renderer.offset);
        core.outlets.begin_stream(&core.engine.renderer.stream);
        core.begin_journal_of_stream();
        if core.recorder.take().is_some() {
            tracing::warn!("the recording ends with its stream");
        }
        core.node(Kind::NodeStarted, self.started.clone())?;
        let reason = format!(
            "an upstream has record {theirs} of stream {before}, of which only {ours} are known here: the state directory is an old copy"
        );
        core.gap(
            self.left_at.take(),
            boot_now(),
            BTreeMap::new(),
            Some(&reason),
        )?;
        core.losses.repair = false;
        self.sync(Origin::Reconcile, None)?;
        self.resynced()?;
        self.core.node(Kind::NodeSynced, Box::default())?;
        self.core.flush()
    }
}

impl super::Core {
    /// The old stream's journal must not be gone on with.
    fn begin_journal_of_stream(&mut self) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        let mut head = head(&self.engine, &self.losses);
        head.unfinished = true;
        if !journal.begin_again(boot_now(), &head) {
            journal.set_aside();
        }
    }
}
