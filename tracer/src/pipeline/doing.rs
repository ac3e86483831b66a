//! What the engine asks for: done in the kernel's tables, the freezers, and by the metadata thread.

use tokio::io::unix::AsyncFd;
use tracer_common::CgroupKey;

use crate::{
    kernel::{freezers::Freezers, tables::Tables},
    lifecycle::{Action, Event},
    metadata::Question,
    reconcile,
    record::Kind,
};

/// What actions are done with.
pub(super) struct Doing<'a> {
    pub(super) tables: &'a mut Tables,
    pub(super) freezers: Option<&'a mut AsyncFd<Freezers>>,
    pub(super) questions: &'a std::sync::mpsc::SyncSender<Question>,
    pub(super) unasked: &'a mut u64,
    pub(super) failed: anyhow::Result<()>,
}

impl Doing<'_> {
    /// Nobody has to be asked about it any more.
    pub(super) fn gone(&self, event: &Event) {
        if event.kind == Kind::Removed
            && let Some(subject) = &event.container
            && let Err(error) = (self.questions).try_send(Question::Gone(subject.identity.cgroup))
        {
            tracing::debug!(%error, "not told that a container is gone");
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        match (action, &mut self.freezers) {
            (Action::Forget(cgroup), _) => {
                if let Err(error) = self.tables.forget(cgroup) {
                    self.failed = Err(error.into());
                }
            }
            (Action::Enrich(ask), _) => {
                if self.questions.try_send(Question::Enrich(*ask)).is_err() {
                    *self.unasked += 1;
                    tracing::warn!(
                        unasked = *self.unasked,
                        "metadata not looked for: too many containers at once"
                    );
                }
            }
            (Action::WatchFreezer { root, path }, Some(freezers)) => {
                freezers.get_mut().watch(root, &path);
            }
            (Action::UnwatchFreezer { root }, Some(freezers)) => freezers.get_mut().unwatch(root),
            (Action::WatchFreezer { .. } | Action::UnwatchFreezer { .. }, None) => {}
        }
    }
}

impl reconcile::Watch for Tables {
    fn track(&mut self, cgroup: CgroupKey) {
        if let Err(error) = Self::track(self, cgroup) {
            tracing::error!(%error, id = cgroup.id, "cgroup cannot be watched");
        }
    }

    fn follow(&mut self, pid: u32, cgroup: CgroupKey, landed: bool) {
        if let Err(error) = Self::follow(self, pid, cgroup, landed) {
            tracing::error!(%error, pid, "process cannot be followed");
        }
    }
}
