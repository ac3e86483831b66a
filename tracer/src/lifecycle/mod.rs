//! What the kernel says, turned into the lives of containers. Pure.
//!
//! ```text
//!              ┌── places: cgroup ─▶ root of an instance │ inside one │ twin │ candidate
//! Input ─▶ apply ── instances: state, init, exec sessions, identity
//!              └── calls: runtime processes seen ─▶ which container they make
//!                        │
//!                        ├──▶ Output::Event  (numbered: the stream)
//!                        └──▶ Output::Act    (what the pipeline shall do in the kernel or on disk)
//! ```
//!
//! # Cgroups and hierarchies
//!
//! A container is told by one cgroup, its *root*: the one in the preferred hierarchy (unified where it
//! is mounted). On hosts with v1 hierarchies its runtime makes up to nine more with the same path,
//! its *twins*, before or after. A twin waits: if the root appears, twins are forgotten, in the kernel
//! too; if a process lands in it instead, the container lives in v1 alone and the twin becomes the
//! root. The order in which a runtime makes them does not matter, and the instance key is the same
//! whether the container was seen being made or found by a scan.
//!
//! A container in v1 alone may lie inside one with a unified cgroup, which its processes are in as
//! well: the kernel side names the deepest cgroup that it watches. A twin that lies deeper than its
//! root (a runtime that is given no path puts them below its own) speaks for the root until the kernel
//! side has forgotten it.
//!
//! A cgroup whose path says nothing is a *candidate*: it becomes a container when a runtime's own
//! command line names it, or when a process lands in it as the first of a new pid namespace.
//!
//! # Invariants
//!
//! * No clock, no I/O, no randomness, no logging: same inputs, same outputs, byte for byte.
//! * It never fails. What does not fit (an exit without a start, a second mkdir) is counted in
//!   [`Machine::oddities`] and changes nothing that is known.
//! * An instance's first event is `created` or `discovered`, its last `removed`; at most one
//!   `started` and at most one `exited`, in this order; an equal state is never told twice.
//! * Memory is bounded by the cgroups that exist, plus [`calls::MAX_CALLS`] runtime processes.

pub mod calls;
mod cgroups;
mod instance;
mod keyed;
mod metadata;
mod places;
mod processes;
mod snapshot;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    ops::{Bound, Deref},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracer_common::{COMM_LEN, CgroupKey};

use self::{
    calls::RuntimeCalls,
    keyed::Keyed,
    places::{Groups, Places},
};
pub use self::{
    instance::{Identity, Instance, Kept, Parts},
    metadata::{Ask, Metadata, of_call},
    places::level_of,
    snapshot::{Found, FoundProcess, Snapshot},
};
use crate::{
    decode::What,
    record::{Enrichment, Kind, Node, Origin, State},
    time::BootNs,
};

/// A map by paths, as a list of pairs in their order: JSON knows no keys but text.
mod pairs {
    use std::{
        collections::{BTreeMap, HashMap},
        hash::Hash,
    };

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize + Ord, V: Serialize, S: Serializer>(
        map: &HashMap<K, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.iter().collect::<BTreeMap<_, _>>())
    }

    pub(super) fn deserialize<'de, K, V, D>(from: D) -> Result<HashMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Eq + Hash,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let pairs: Vec<(K, V)> = Deserialize::deserialize(from)?;
        Ok(pairs.into_iter().collect())
    }
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A record of the kernel side.
    Raw(&'a What<'a>),
    /// What files say of the container with this root.
    Metadata {
        root: CgroupKey,
        metadata: &'a Metadata,
    },
    /// A container's v1 freezer changed.
    Freezer { root: CgroupKey, frozen: bool },
    /// What a scan found; `Origin::Snapshot` at start, `Origin::Reconcile` after a loss.
    Snapshot(&'a Snapshot, Origin),
    /// The tracer speaks of itself.
    Node(Kind, Box<Node>),
    /// The path of a cgroup that is known by its id alone.
    Path {
        cgroup: CgroupKey,
        path: &'a Arc<[u8]>,
    },
    /// Time passed; due when [`Machine::deadline`] says so.
    Tick,
}

/// What follows from an input. It is handed on at once, in order, so that nothing of a scan of
/// thousands has to be kept.
#[derive(Debug)]
pub enum Output<'a> {
    Event(&'a Event<'a>),
    Act(Action),
}

/// Takes what follows.
pub type Emit<'a> = dyn FnMut(Output<'_>) + 'a;

/// What the pipeline shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stop watching the tasks of this cgroup.
    Forget(CgroupKey),
    /// Watch the v1 freezer of the container with this root; `path` is below the hierarchy's root.
    WatchFreezer { root: CgroupKey, path: Arc<[u8]> },
    /// Look for what the runtime wrote about a container.
    Enrich(Box<Ask>),
    /// The container is gone.
    UnwatchFreezer { root: CgroupKey },
}

/// One record to be. It borrows from the table and from what happened: nothing is copied to tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    pub seq: u64,
    pub time: BootNs,
    pub kind: Kind,
    pub origin: Origin,
    pub container: Option<Subject<'a>>,
    pub process: Option<Actor<'a>>,
    /// Exec session: pid and start.
    pub session: Option<(u32, u64)>,
    pub oom: Option<OomFacts>,
    pub oom_killed: Option<bool>,
    pub duration_ns: Option<u64>,
    pub node: Option<Box<Node>>,
}

impl<'a> Event<'a> {
    /// An event about a container, which it changes: the version becomes its number.
    fn of(
        instance: &'a mut Instance,
        next_seq: &mut u64,
        time: BootNs,
        kind: Kind,
        origin: Origin,
    ) -> Self {
        let mut event = Self::blank(next_seq, time, kind, origin);
        if !kind.is_bulk() {
            instance.version = event.seq;
        }
        event.container = Some(instance.subject());
        event
    }

    /// An event with the next number and nothing else.
    const fn blank(next_seq: &mut u64, time: BootNs, kind: Kind, origin: Origin) -> Self {
        let seq = *next_seq;
        *next_seq += 1;
        Self {
            seq,
            time,
            kind,
            origin,
            container: None,
            process: None,
            session: None,
            oom: None,
            oom_killed: None,
            duration_ns: None,
            node: None,
        }
    }
}

/// The container that an event is about, as it is after the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    pub identity: &'a Identity,
    /// What was written of it before.
    pub kept: &'a Kept,
    pub state: State,
    pub version: u64,
    pub enrichment: Enrichment,
}

/// The process that an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actor<'a> {
    pub pid: u32,
    pub vpid: u32,
    pub parent_pid: u32,
    pub comm: &'a [u8],
    /// As given to exec.
    pub path: &'a [u8],
    /// NUL between arguments.
    pub args: &'a [u8],
    /// Wait status.
    pub status: Option<u32>,
}

/// The name of a task; the kernel's has 15 bytes. Written as a list of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Comm {
    bytes: [u8; COMM_LEN],
    len: u8,
}

impl From<&[u8]> for Comm {
    /// What is longer is cut.
    fn from(name: &[u8]) -> Self {
        let mut comm = Self::default();
        for (to, from) in comm.bytes.iter_mut().zip(name) {
            *to = *from;
            comm.len += 1;
        }
        comm
    }
}

impl Deref for Comm {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(&**self)
    }
}

impl<'de> Deserialize<'de> for Comm {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::deserialize(from).map(|name| Self::from(&*name))
    }
}

/// What the OOM killer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomFacts {
    pub init: bool,
    pub limit: Option<CgroupKey>,
    /// The limit is on the memory cgroup that the victim is in.
    pub own: bool,
    pub limit_bytes: u64,
}

/// Makes one text of two that are equal.
fn share(text: &mut Arc<str>, with: &Arc<str>) {
    if text == with {
        *text = Arc::clone(with);
    }
}

/// What does not change while the machine runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub boot_id: Arc<str>,
    /// Hierarchies in the order of preference: id and name.
    pub hierarchies: Vec<(u32, Arc<str>)>,
    /// The v1 hierarchy of the freezer.
    pub freezer: Option<u32>,
    /// Tell every exec and exit inside containers.
    pub processes: bool,
}

impl Host {
    /// The hierarchy that containers are told by.
    fn preferred(&self) -> u32 {
        self.hierarchies.first().map_or(0, |(id, _)| *id)
    }

    /// Name of a hierarchy.
    #[must_use]
    pub fn hierarchy(&self, id: u32) -> Arc<str> {
        self.hierarchies
            .iter()
            .find(|(known, _)| *known == id)
            .map_or_else(|| id.to_string().into(), |(_, name)| Arc::clone(name))
    }
}

/// The table of all containers. Serialised it is the head of a journal, from which it goes on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    host: Host,
    next_seq: u64,
    places: Places,
    instances: Keyed<CgroupKey, Instance>,
    groups: Groups,
    calls: RuntimeCalls,
    /// When an init that has not executed anything counts as started all the same.
    waiting: BTreeSet<(BootNs, CgroupKey)>,
    /// Exits of inner processes lately told: kernels before 6.16 report some twice.
    ended: processes::Ended,
    oddities: u64,
}

impl Machine {
    /// An empty table whose first event will be number `next_seq`.
    #[must_use]
    pub fn new(host: Host, next_seq: u64) -> Self {
        Self {
            host,
            next_seq,
            places: Places::default(),
            instances: Keyed::default(),
            groups: Groups::default(),
            calls: RuntimeCalls::default(),
            waiting: BTreeSet::new(),
            ended: processes::Ended::default(),
            oddities: 0,
        }
    }

    /// Goes on in another process: what this table asked of the one before is asked again, and how
    /// things are told follows `host`, which is the same host.
    pub fn resume(&mut self, host: Host, out: &mut Emit<'_>) {
        self.host = host;
        // Read from a file, each has texts of its own.
        for instance in self.instances.values_mut() {
            let identity = &mut instance.identity;
            share(&mut identity.boot_id, &self.host.boot_id);
            let hierarchy = self.host.hierarchy(identity.cgroup.hierarchy);
            share(&mut identity.hierarchy, &hierarchy);
        }
        for (root, instance) in self.instances.iter() {
            if self.host.freezer.is_some() {
                out(Output::Act(Action::WatchFreezer {
                    root: *root,
                    path: Arc::clone(&instance.identity.path),
                }));
            }
            self.ask(*root, true, out);
        }
    }

    /// Applies one input that happened at `at`; `out` is called for what follows, in order.
    pub fn apply(&mut self, at: BootNs, input: Input<'_>, out: &mut Emit<'_>) {
        match input {
            Input::Raw(what) => self.raw(at, what, out),
            Input::Metadata { root, metadata } => self.metadata(at, root, metadata, out),
            Input::Freezer { root, frozen } => self.frozen(at, root, frozen, out),
            Input::Snapshot(snapshot, origin) => self.snapshot(at, snapshot, origin, out),
            Input::Path { cgroup, path } => self.named(cgroup, path),
            Input::Node(kind, node) => self.node(at, kind, node, out),
            Input::Tick => self.tick(at, out),
        }
    }

    /// Containers that are not removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// All that is known was lost with the kernel that knew it: a reboot. Instances stay, to be
    /// told as removed.
    pub fn reboot(&mut self) {
        self.places = Places::default();
        self.groups.clear();
        self.calls = RuntimeCalls::default();
        self.waiting.clear();
        self.ended = processes::Ended::default();
    }

    /// Whether there is no container.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// Whether this is the root of a container.
    #[must_use]
    pub fn holds(&self, root: CgroupKey) -> bool {
        self.instances.contains_key(&root)
    }

    /// Cgroups that are known, of containers or not yet decided.
    #[must_use]
    pub fn places(&self) -> usize {
        self.instances.len() + self.places.len()
    }

    /// All instances in the order of their keys.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// The instances behind `key`, in the order of their keys.
    pub fn instances_after(&self, key: Option<CgroupKey>) -> impl Iterator<Item = &Instance> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.instances
            .range((from, Bound::Unbounded))
            .map(|(_, instance)| instance)
    }

    /// Records that did not fit what was known.
    #[must_use]
    pub const fn oddities(&self) -> u64 {
        self.oddities
    }

    /// When to apply [`Input::Tick`] next.
    #[must_use]
    pub fn deadline(&self) -> Option<BootNs> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// What does not change while it runs.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Number of the next event.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    fn raw(&mut self, at: BootNs, what: &What<'_>, out: &mut Emit<'_>) {
        match what {
            What::Mkdir(mkdir) => self.mkdir(at, mkdir, out),
            What::Rename(mkdir) => self.rename(mkdir),
            What::Rmdir { cgroup } => self.rmdir(at, *cgroup, Origin::Kernel, out),
            What::Populated { cgroup, populated } => self.populated(at, *cgroup, *populated, out),
            What::Frozen { cgroup, frozen } => self.frozen(at, *cgroup, *frozen, out),
            What::Fork {
                cgroup,
                child,
                flags,
            } => self.fork(at, *cgroup, child, *flags, out),
            What::Exec(exec) => self.exec(at, exec, out),
            What::Exit {
                cgroup,
                process,
                status,
                flags,
            } => self.exit(at, *cgroup, process, *status, *flags, out),
            What::Oom(oom) => self.oom(at, oom, out),
        }
    }

    fn node(&mut self, at: BootNs, kind: Kind, mut node: Box<Node>, out: &mut Emit<'_>) {
        if matches!(kind, Kind::NodeSynced | Kind::NodeResynced) {
            node.containers = u64::try_from(self.instances.len()).ok();
        }
        let mut event = Event::blank(&mut self.next_seq, at, kind, Origin::Kernel);
        event.node = Some(node);
        out(Output::Event(&event));
    }

    /// An event about the container with this root, as [`Event::of`]; `None` where there is no such
    /// container.
    fn event(
        &mut self,
        time: BootNs,
        kind: Kind,
        origin: Origin,
        root: CgroupKey,
    ) -> Option<Event<'_>> {
        let instance = self.instances.get_mut(&root)?;
        Some(Event::of(instance, &mut self.next_seq, time, kind, origin))
    }

    /// As [`Machine::event`], without more to say.
    fn tell(
        &mut self,
        time: BootNs,
        kind: Kind,
        origin: Origin,
        root: CgroupKey,
        out: &mut Emit<'_>,
    ) {
        if let Some(event) = self.event(time, kind, origin, root) {
            out(Output::Event(&event));
        }
    }
}
