//! The public record: one JSON object per line.
//!
//! These types are the schema (`tracer schema` prints it). Field paths are the names of
//! OpenTelemetry's semantic conventions where those have one. What is not known is absent, never
//! empty. Ids and nanosecond counts that may pass 2^53 are strings: jq and JavaScript damage larger
//! numbers.
//!
//! Texts from containers (names, paths, labels) are hostile: bounded where they are taken, escaped
//! by JSON, never interpreted. Bytes that are no UTF-8 become U+FFFD.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

mod labels;

pub use labels::Labels;

/// One line of the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// `<stream>/<seq>`: unique for ever, the same if the record is sent again.
    pub id: String,
    /// Position in the stream; each record has one more than the one before it.
    pub seq: u64,
    /// When it happened: RFC 3339, UTC, nanoseconds.
    pub time: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// How tracer knows.
    pub origin: Origin,
    pub host: Arc<Host>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s: Option<Arc<K8s>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecSession>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom: Option<Oom>,
    /// With `container.exited`: the OOM killer chose the init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
    /// With `container.exited`, `container.exec_exited`: how long it ran, nanoseconds of
    /// `CLOCK_BOOTTIME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ns: Option<String>,
    /// How much of the container's metadata is in this record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrichment: Option<Enrichment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Box<Node>>,
    /// From the kernel's time stamp to the serialised record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emit_latency_ns: Option<u64>,
}

/// What happened.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Kind {
    #[serde(rename = "container.discovered")]
    Discovered,
    #[serde(rename = "container.created")]
    Created,
    #[serde(rename = "container.started")]
    Started,
    #[serde(rename = "container.start_failed")]
    StartFailed,
    #[serde(rename = "container.exec_started")]
    ExecStarted,
    #[serde(rename = "container.exec_exited")]
    ExecExited,
    #[serde(rename = "container.oom")]
    Oom,
    #[serde(rename = "container.paused")]
    Paused,
    #[serde(rename = "container.resumed")]
    Resumed,
    #[serde(rename = "container.exited")]
    Exited,
    #[serde(rename = "container.emptied")]
    Emptied,
    #[serde(rename = "container.removed")]
    Removed,
    #[serde(rename = "container.enriched")]
    Enriched,
    #[serde(rename = "process.exec")]
    ProcessExec,
    #[serde(rename = "process.exited")]
    ProcessExited,
    #[serde(rename = "node.started")]
    NodeStarted,
    #[serde(rename = "node.synced")]
    NodeSynced,
    #[serde(rename = "node.gap")]
    NodeGap,
    #[serde(rename = "node.resynced")]
    NodeResynced,
    #[serde(rename = "node.clock")]
    NodeClock,
    #[serde(rename = "node.stopped")]
    NodeStopped,
}

impl Kind {
    /// Every kind, for filters and help texts.
    pub const ALL: &[Self] = &[
        Self::Discovered,
        Self::Created,
        Self::Started,
        Self::StartFailed,
        Self::ExecStarted,
        Self::ExecExited,
        Self::Oom,
        Self::Paused,
        Self::Resumed,
        Self::Exited,
        Self::Emptied,
        Self::Removed,
        Self::Enriched,
        Self::ProcessExec,
        Self::ProcessExited,
        Self::NodeStarted,
        Self::NodeSynced,
        Self::NodeGap,
        Self::NodeResynced,
        Self::NodeClock,
        Self::NodeStopped,
    ];

    /// The value of `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discovered => "container.discovered",
            Self::Created => "container.created",
            Self::Started => "container.started",
            Self::StartFailed => "container.start_failed",
            Self::ExecStarted => "container.exec_started",
            Self::ExecExited => "container.exec_exited",
            Self::Oom => "container.oom",
            Self::Paused => "container.paused",
            Self::Resumed => "container.resumed",
            Self::Exited => "container.exited",
            Self::Emptied => "container.emptied",
            Self::Removed => "container.removed",
            Self::Enriched => "container.enriched",
            Self::ProcessExec => "process.exec",
            Self::ProcessExited => "process.exited",
            Self::NodeStarted => "node.started",
            Self::NodeSynced => "node.synced",
            Self::NodeGap => "node.gap",
            Self::NodeResynced => "node.resynced",
            Self::NodeClock => "node.clock",
            Self::NodeStopped => "node.stopped",
        }
    }

    /// Whether this tells of a process inside a container, of which there may be any number.
    #[must_use]
    pub const fn is_bulk(self) -> bool {
        matches!(self, Self::ProcessExec | Self::ProcessExited)
    }

    /// Whether this is one of the tracer's own records.
    #[must_use]
    pub const fn is_node(self) -> bool {
        matches!(
            self,
            Self::NodeStarted
                | Self::NodeSynced
                | Self::NodeGap
                | Self::NodeResynced
                | Self::NodeClock
                | Self::NodeStopped
        )
    }
}

/// How tracer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A kernel event.
    Kernel,
    /// The scan at start.
    Snapshot,
    /// The repair after a loss.
    Reconcile,
}

/// The host that tracer runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    pub name: String,
    /// `/etc/machine-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// A container, as far as it is known when the record is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Container {
    /// The runtime's id, in full.
    pub id: Arc<str>,
    /// One life of it: `<boot id>:<hierarchy>:<cgroup id>`. A restart keeps the id and makes a new
    /// instance.
    pub instance: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Arc<Image>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Arc<Labels>>,
    /// When the runtime made it, as its files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// How often the runtime started it again, as its files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_count: Option<u64>,
    /// It holds the namespaces of a pod and runs nothing of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
    /// State after this record.
    pub state: State,
    /// `seq` of the last record that changed this instance.
    pub version: u64,
    /// Containers that enclose this one, outermost first.
    pub parents: Arc<[Parent]>,
}

/// Who made the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Runtime {
    pub name: Arc<str>,
}

/// What the container was made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `NAME@DIGEST`, where it was asked for by digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repo_digests: Vec<String>,
}

/// An enclosing container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parent {
    pub id: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Created,
    Running,
    Paused,
    Exited,
    Removed,
}

/// Kubernetes' view of the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct K8s {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Named>,
}

/// The pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Pod {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The pod's own, which only its runtime's socket tells.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub label: Labels,
}

/// Anything that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    pub name: String,
}

/// The cgroup that an instance is keyed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cgroup {
    /// `unified`, or the controllers of a v1 hierarchy.
    pub hierarchy: Arc<str>,
    /// Inode number of the cgroup's directory.
    pub id: String,
    /// Below the hierarchy's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// In the host's pid namespace.
    pub pid: u32,
    /// In its own pid namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<Executable>,
    /// Only with `--args`: command lines carry secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_args: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// The file that a process executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Executable {
    /// Name of the task (15 bytes at most).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// As given to exec; of a long one the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// As a shell says it: the exit code, or 128 + signal.
    pub code: u32,
    /// Name of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    pub core_dumped: bool,
    /// Raw wait status.
    pub status: u32,
}

impl Exit {
    /// Reads a wait status.
    #[must_use]
    pub fn from_wait_status(status: u32) -> Self {
        let signal = status & 0x7f;
        Self {
            code: if signal == 0 {
                (status >> 8) & 0xff
            } else {
                128 + signal
            },
            signal: (signal != 0).then(|| signal_name(signal)),
            core_dumped: signal != 0 && status & 0x80 != 0,
            status,
        }
    }
}

/// Names of the standard signals, `SIGRTMIN+n` for the others (x86, arm64 and riscv agree).
fn signal_name(signal: u32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(signal)
        .unwrap_or(usize::MAX)
        .wrapping_sub(1);
    match NAMES.get(index) {
        Some(name) => format!("SIG{name}"),
        // The kernel's SIGRTMIN is 32; the C library keeps two for itself.
        None => format!("SIGRTMIN+{}", signal.saturating_sub(34)),
    }
}

/// Ties `exec_started` and `exec_exited` together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecSession {
    /// `<pid>:<start time in ns since boot>`.
    pub session: String,
}

/// What the OOM killer did; the victim is in `process`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Oom {
    /// The victim is the container's init.
    pub init: bool,
    /// Whose limit was hit.
    pub limit: OomLimit,
}

/// A memory limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OomLimit {
    pub scope: OomScope,
    /// The memory cgroup that ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    /// The limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

/// Where a memory limit is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OomScope {
    /// On the memory cgroup that the victim is in.
    Cgroup,
    /// On a cgroup above it: the container's, its pod's, a slice's.
    Ancestor,
    /// Nowhere: the host ran out.
    Host,
}

/// How much of the container's metadata is in a record.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum Enrichment {
    #[default]
    None,
    Partial,
    Full,
}

/// The tracer's own records.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Version of tracer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Release of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// What was attached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Program>,
    /// What this host lacks and what that costs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// cgroup hierarchies; the first is the one that containers are told by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hierarchies: Vec<String>,
    /// With `node.synced`, `node.resynced`: containers that the table holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<u64>,
    /// With `node.gap`: lost records by kind; `process` are those of processes inside containers,
    /// `record` those of any kind that a sink left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<String, u64>,
    /// With `node.gap`: nothing is missing before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// With `node.gap`: nor after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// With `node.gap`: where the records were lost, if not between kernel and tracer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// With `node.clock`: how far the host's wall clock can be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// With `node.stopped`, and with a `node.gap` in which nothing was traced: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Node {
    /// Whether this `node.gap` leaves the table in doubt: what a sink left out does not, nor do bulk
    /// records, which change no state.
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        let bulk = tracer_common::loss::name(tracer_common::loss::BULK);
        self.sink.is_none() && (self.reason.is_some() || self.lost.keys().any(|name| name != bulk))
    }
}

/// How far a wall clock can be trusted. Nothing is ordered by it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Clock {
    /// Somebody keeps it in step with the world.
    pub synchronized: bool,
    /// It is at most so far off, as the kernel estimates, microseconds.
    pub max_error_us: u64,
    /// How this is known: `adjtimex`, `timesync1`, `timedate1`.
    pub source: String,
}

/// What became of one eBPF program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Program {
    /// Of the program and its tracepoint.
    pub name: String,
    pub attached: bool,
    pub required: bool,
    /// Why it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is missing without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}
