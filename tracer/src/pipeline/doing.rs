//! What the engine asks for: done in the kernel's tables, the freezers, and by the metadata thread,
//! once the lines have left.

use tokio::io::unix::AsyncFd;
use tracer_common::CgroupKey;

use super::asking::Asking;
use crate::{
    kernel::{freezers::Freezers, tables::Tables},
    lifecycle::Action,
    reconcile,
};

/// Something to be done once the lines have left.
#[derive(Debug)]
pub(super) enum Pending {
    Act(Action),
    /// Nobody has to be asked about the container with this root any more.
    Gone(CgroupKey),
}

/// Beyond this the kernel side is not kept waiting for the end of a drain.
const MAX_PENDING: usize = 256;

/// What is to be done, and what it is done with.
pub(super) struct Doing {
    pub(super) tables: Tables,
    pub(super) freezers: Option<AsyncFd<Freezers>>,
    pub(super) asking: Asking,
    /// In order.
    pending: Vec<Pending>,
}

impl Doing {
    pub(super) const fn new(
        tables: Tables,
        freezers: Option<AsyncFd<Freezers>>,
        asking: Asking,
    ) -> Self {
        Self {
            tables,
            freezers,
            asking,
            pending: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, what: Pending) {
        self.pending.push(what);
    }

    /// Whether no more should wait.
    pub(super) const fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING
    }

    /// Does what waits to be done.
    pub(super) fn act(&mut self) -> anyhow::Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        for what in pending.drain(..) {
            match what {
                Pending::Act(action) => self.act_on(action)?,
                Pending::Gone(root) => self.asking.gone(root),
            }
        }
        self.pending = pending;
        Ok(())
    }

    fn act_on(&mut self, action: Action) -> anyhow::Result<()> {
        let freezers = self.freezers.as_mut().map(AsyncFd::get_mut);
        match (action, freezers) {
            (Action::Forget(cgroup), _) => self.tables.forget(cgroup)?,
            (Action::Enrich(ask), _) => self.asking.enrich(ask),
            (Action::WatchFreezer { root, path }, Some(freezers)) => freezers.watch(root, &path),
            (Action::UnwatchFreezer { root }, Some(freezers)) => freezers.unwatch(root),
            (Action::WatchFreezer { .. } | Action::UnwatchFreezer { .. }, None) => {}
        }
        Ok(())
    }
}

impl reconcile::Watch for Tables {
    fn track(&mut self, cgroup: CgroupKey, level: u32) {
        if let Err(error) = Self::track(self, cgroup, level) {
            tracing::error!(%error, id = cgroup.id, "cgroup cannot be watched");
        }
    }

    fn forget(&mut self, cgroup: CgroupKey) {
        if let Err(error) = Self::forget(self, cgroup) {
            tracing::error!(%error, id = cgroup.id, "cgroup cannot be let go");
        }
    }

    fn follow(&mut self, pid: u32, cgroup: CgroupKey, landed: bool) {
        if let Err(error) = Self::follow(self, pid, cgroup, landed) {
            tracing::error!(%error, pid, "process cannot be followed");
        }
    }
}
