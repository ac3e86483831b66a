//! One life of a container.

use std::{cell::OnceCell, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_common::CgroupKey;

use super::{Metadata, Subject};
use crate::{
    record::{Enrichment, Image, K8s, Labels, Parent, Runtime, State},
    time::{BootNs, Timestamp},
};

/// Who the container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub id: Arc<str>,
    /// Id of the boot of the host that it was made under.
    pub boot_id: Arc<str>,
    pub runtime: Option<Runtime>,
    pub parents: Arc<[Parent]>,
    pub cgroup: CgroupKey,
    /// Name of the cgroup's hierarchy.
    pub hierarchy: Arc<str>,
    /// Below the root of the hierarchy.
    pub path: Arc<[u8]>,
    pub name: Option<Arc<str>>,
    pub image: Option<Arc<Image>>,
    pub label: Option<Arc<Labels>>,
    pub k8s: Option<Arc<K8s>>,
    /// When the runtime made it, as its files say.
    pub created: Option<Timestamp>,
    pub restart_count: Option<u64>,
    pub sandbox: bool,
}

impl Identity {
    /// By which it is told from all others, on any host: `<boot id>:<hierarchy>:<cgroup id>`.
    #[must_use]
    pub fn instance(&self) -> String {
        let CgroupKey { hierarchy, id, .. } = self.cgroup;
        format!("{}:{hierarchy}:{id}", self.boot_id)
    }
}

/// Bytes that a renderer made of an identity, kept beside it until it changes. They follow from it:
/// equal instances are equal whatever is kept.
#[derive(Debug, Default)]
pub struct Kept(OnceCell<Option<Parts>>);

/// Bytes in two parts.
#[derive(Debug)]
pub struct Parts {
    bytes: Box<[u8]>,
    /// Length of the first.
    first: usize,
}

impl Parts {
    #[must_use]
    pub fn new(first: &[u8], second: &[u8]) -> Self {
        Self {
            bytes: [first, second].concat().into(),
            first: first.len(),
        }
    }

    #[must_use]
    pub fn both(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.first)
    }
}

impl Kept {
    /// What is kept, if anything is.
    #[must_use]
    pub fn parts(&self) -> Option<&Parts> {
        self.0.get()?.as_ref()
    }

    /// Keeps what `make` makes, once; nothing where it is too much to keep.
    pub fn keep(&self, make: impl FnOnce() -> Option<Parts>) {
        self.0.get_or_init(make);
    }

    /// The identity changes.
    fn forget(&mut self) {
        self.0 = OnceCell::new();
    }
}

impl PartialEq for Kept {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Kept {}

/// A process that matters to the container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub pid: u32,
    /// Tells it from a later process with the same pid.
    pub start_ns: u64,
    /// When it began what it is here for.
    pub since: BootNs,
    /// `start_ns` comes from `/proc`, which counts in clock ticks.
    pub coarse: bool,
}

/// A clock tick as user space sees it (`USER_HZ` is 100 on every supported architecture).
const TICK_NS: u64 = 10_000_000;

impl Member {
    /// Whether this is the process with that pid and start.
    #[must_use]
    pub const fn is_process(&self, pid: u32, start_ns: u64) -> bool {
        let same_start = if self.coarse {
            self.start_ns / TICK_NS == start_ns / TICK_NS
        } else {
            self.start_ns == start_ns
        };
        self.pid == pid && same_start
    }

    /// Whether this is the process that a scan found: `/proc` counts in clock ticks.
    #[must_use]
    pub const fn is_found(&self, pid: u32, start_ns: u64) -> bool {
        self.pid == pid && self.start_ns / TICK_NS == start_ns / TICK_NS
    }
}

/// Exec sessions in the order of their pids, by which they are told apart. There are few at a time, and
/// mostly none.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sessions(Vec<Member>);

impl Sessions {
    fn place(&self, pid: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&pid, |session| session.pid)
    }

    pub(super) fn get(&self, pid: u32) -> Option<&Member> {
        self.0.get(self.place(pid).ok()?)
    }

    /// In place of another with its pid, which ended without a word.
    pub(super) fn insert(&mut self, session: Member) {
        match self.place(session.pid) {
            Ok(place) => {
                if let Some(before) = self.0.get_mut(place) {
                    *before = session;
                }
            }
            Err(place) => self.0.insert(place, session),
        }
    }

    pub(super) fn remove(&mut self, pid: u32) -> Option<Member> {
        let session = self.0.remove(self.place(pid).ok()?);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Some(session)
    }

    pub(super) fn retain(&mut self, stays: impl FnMut(&Member) -> bool) {
        self.0.retain(stays);
    }
}

/// How an instance stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Before it executed its entrypoint.
    Failed,
    /// Init ended.
    Exited,
}

/// A container from `created` or `discovered` to `removed`. What every event asks for comes first and
/// in one piece: among many containers each piece of one is in no cache of the processor.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Instance {
    /// Number of the last event that changed it.
    pub version: u64,
    pub(super) started: Option<BootNs>,
    pub(super) init: Option<Member>,
    pub enrichment: Enrichment,
    pub(super) end: Option<End>,
    pub(super) frozen: bool,
    pub(super) populated: bool,
    pub(super) init_oom: bool,
    /// What every line about it says.
    #[serde(skip)]
    kept: Kept,
    pub(super) sessions: Sessions,
    /// The first process of the container's pid namespace, before it executed anything.
    pub(super) candidate: Option<Member>,
    /// The cgroup in which init landed or was found, where it is one inside the root: a runtime that
    /// puts its container there freezes it there.
    pub(super) home: Option<CgroupKey>,
    pub identity: Identity,
    /// What its root and twins have in common.
    pub(super) group: Arc<[u8]>,
}

impl Instance {
    pub(super) fn new(identity: Identity, group: Arc<[u8]>) -> Self {
        // Named by its path: no file says more.
        let enrichment = match identity.name {
            Some(_) => Enrichment::Full,
            None => Enrichment::None,
        };
        Self {
            identity,
            group,
            enrichment,
            version: 0,
            started: None,
            end: None,
            frozen: false,
            populated: false,
            candidate: None,
            init: None,
            init_oom: false,
            kept: Kept::default(),
            home: None,
            sessions: Sessions::default(),
        }
    }

    /// Takes over what is new; says whether anything is.
    pub(super) fn learn(&mut self, metadata: &Metadata) -> bool {
        let new = self.identity.learn(metadata);
        if new {
            self.kept.forget();
        }
        new
    }

    /// The identity, to be changed.
    pub(super) fn identity_mut(&mut self) -> &mut Identity {
        self.kept.forget();
        &mut self.identity
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        if self.end.is_some() {
            State::Exited
        } else if self.started.is_none() {
            State::Created
        } else if self.frozen {
            State::Paused
        } else {
            State::Running
        }
    }

    /// Whether init has executed the entrypoint and not ended.
    pub(super) fn is_alive(&self) -> bool {
        self.started.is_some() && self.end != Some(End::Exited)
    }

    /// When init executed the entrypoint.
    #[must_use]
    pub const fn started(&self) -> Option<BootNs> {
        self.started
    }

    /// Of an init that has not ended.
    #[must_use]
    pub fn init_pid(&self) -> Option<u32> {
        self.init.filter(|_| self.is_alive()).map(|init| init.pid)
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            identity: &self.identity,
            kept: &self.kept,
            state: self.state(),
            version: self.version,
            enrichment: self.enrichment,
        }
    }
}
