//! From an [`Event`] to a [`Record`], or straight to its line. Pure: the moment of serialising is an
//! argument.
//!
//! ```text
//!             ┌── record ─▶ Record: for whoever asks about its fields (filters' details, formats)
//! Event ──────┤                │ serde: the same bytes, as a test asserts
//!             └── line ───▶ bytes: the stream
//! ```

mod line;
mod written;

use std::{collections::BTreeMap, sync::Arc};

use tracer_common::CgroupKey;

use crate::{
    lifecycle::{Actor, Event, OomFacts, Subject},
    record::{
        Cgroup, Container, ExecSession, Executable, Exit, Host, K8s, Oom, OomLimit, OomScope,
        Origin, Process, Record,
    },
    time::{BootNs, WallOffset},
};

pub use self::written::Written;

/// Longest text that a container can put into a record, bytes.
const MAX_TEXT: usize = 4096;

/// What is the same for all records.
#[derive(Debug, Clone)]
pub struct Renderer {
    /// Id of the stream.
    pub stream: Arc<str>,
    pub host: Arc<Host>,
    pub offset: WallOffset,
    /// Names of hierarchies by id.
    pub hierarchies: BTreeMap<u32, Arc<str>>,
    /// Parts of lines that were written before.
    pub written: Written,
}

impl Renderer {
    /// The record of `event`, as it leaves at `now`.
    #[must_use]
    pub fn record(&self, event: &Event<'_>, now: BootNs) -> Record {
        Record {
            id: format!("{}/{}", self.stream, event.seq),
            seq: event.seq,
            time: self.offset.at(event.time),
            kind: event.kind,
            origin: event.origin,
            host: Arc::clone(&self.host),
            container: event.container.map(container),
            k8s: event
                .container
                .and_then(|subject| subject.identity.k8s.clone()),
            cgroup: event.container.map(cgroup),
            process: event.process.map(process),
            exec: event.session.map(|(pid, start)| ExecSession {
                session: format!("{pid}:{start}"),
            }),
            oom: event.oom.as_ref().map(|facts| self.oom(facts)),
            oom_killed: event.oom_killed,
            duration_ns: event.duration_ns.map(|ns| ns.to_string()),
            enrichment: event.container.map(|subject| subject.enrichment),
            node: event.node.clone(),
            emit_latency_ns: latency(event, now),
        }
    }

    /// What every record says of a container.
    #[must_use]
    pub fn subject(&self, subject: Subject<'_>) -> (Container, Option<Arc<K8s>>, Cgroup) {
        let k8s = subject.identity.k8s.clone();
        (container(subject), k8s, cgroup(subject))
    }

    fn oom(&self, facts: &OomFacts) -> Oom {
        let scope = match (facts.limit, facts.own) {
            (None, _) => OomScope::Host,
            (Some(_), true) => OomScope::Cgroup,
            (Some(_), false) => OomScope::Ancestor,
        };
        Oom {
            init: facts.init,
            limit: OomLimit {
                scope,
                cgroup: facts.limit.map(|key| self.memory_cgroup(key)),
                bytes: facts.limit.map(|_| facts.limit_bytes.to_string()),
            },
        }
    }

    fn memory_cgroup(&self, key: CgroupKey) -> Cgroup {
        let name = self.hierarchies.get(&key.hierarchy);
        Cgroup {
            hierarchy: name.map_or_else(|| key.hierarchy.to_string().into(), Arc::clone),
            id: key.id.to_string(),
            path: None,
        }
    }
}

/// From the kernel's stamp to now, where the event has one.
fn latency(event: &Event<'_>, now: BootNs) -> Option<u64> {
    let kernel = event.origin == Origin::Kernel && !event.kind.is_node();
    // 0: the moment is tracer's own (a freezer was read), not the kernel's stamp.
    Some(now.since(event.time)).filter(|ns| kernel && *ns != 0)
}

/// The kernel side says 0 for what it does not know.
fn known(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

fn container(subject: Subject<'_>) -> Container {
    let identity = &subject.identity;
    Container {
        id: Arc::clone(&identity.id),
        instance: identity.instance().into(),
        name: identity.name.clone(),
        runtime: identity.runtime.clone(),
        image: identity.image.clone(),
        label: identity.label.clone(),
        created: identity.created,
        restart_count: identity.restart_count,
        sandbox: identity.sandbox,
        state: subject.state,
        version: subject.version,
        parents: Arc::clone(&identity.parents),
    }
}

fn cgroup(subject: Subject<'_>) -> Cgroup {
    let identity = &subject.identity;
    Cgroup {
        hierarchy: Arc::clone(&identity.hierarchy),
        id: identity.cgroup.id.to_string(),
        path: text(&identity.path).map(Into::into),
    }
}

fn process(actor: Actor<'_>) -> Process {
    let name = text(actor.comm).map(Into::into);
    let path = text(actor.path).map(Into::into);
    Process {
        pid: actor.pid,
        vpid: known(actor.vpid),
        parent_pid: known(actor.parent_pid),
        executable: (name.is_some() || path.is_some()).then_some(Executable { name, path }),
        command_args: (!actor.args.is_empty()).then(|| arguments(actor.args)),
        exit: actor.status.map(Exit::from_wait_status),
    }
}

fn arguments(args: &[u8]) -> Vec<String> {
    let args = args.strip_suffix(b"\0").unwrap_or(args);
    args.split(|byte| *byte == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect()
}

/// Bytes that a container chose, as text; absent where there are none.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.get(..MAX_TEXT).unwrap_or(bytes);
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}
