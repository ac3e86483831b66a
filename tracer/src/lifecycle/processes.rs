//! Processes enter, land and end: what that means for the container they are in.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tracer_common::{CgroupKey, flags};

use super::{
    Actor, Emit, Event, Machine, OomFacts, Output,
    instance::{End, Instance, Member},
    keyed::ByNumber,
    places::Place,
};
use crate::{
    decode::{Exec, Oom, Task},
    record::{Enrichment, Kind, Origin},
    time::BootNs,
};

/// How long an init that no known runtime made may go without executing anything before it counts
/// as started: it then is what it was cloned from.
const NEVER_EXECS_NS: u64 = 1_000_000_000;

impl Machine {
    /// A process that may be an init was born, or one such had its first child.
    pub(super) fn fork(
        &mut self,
        at: BootNs,
        cgroup: CgroupKey,
        child: &Task<'_>,
        bits: u32,
        out: &mut Emit<'_>,
    ) {
        if bits & flags::PID_NS_DIFFERS != 0 && child.vpid == 1 {
            self.init_born(at, cgroup, child, out);
            return;
        }
        if bits & flags::PARENT_ENTRANT == 0 || is_runtime_init(child.comm) {
            return;
        }
        // It has children and executed nothing: the workload is the image it was cloned from.
        let root = self.container_of(cgroup);
        if let Some((root, candidate)) = root.and_then(|root| {
            let candidate = self.instances.get(&root)?.candidate?;
            (candidate.pid == child.parent_pid).then_some((root, candidate))
        }) {
            self.started_without_exec(at, root, candidate, out);
        }
    }

    fn init_born(&mut self, at: BootNs, cgroup: CgroupKey, child: &Task<'_>, out: &mut Emit<'_>) {
        let by_runtime = is_runtime_init(child.comm);
        let settles = match self.places.get(&cgroup) {
            Some(Place::Twin(_)) => true,
            // Only a runtime makes a container of a cgroup whose path says nothing, before anything
            // is executed there.
            Some(Place::Candidate { .. }) => {
                by_runtime || self.calls.get(child.parent_pid).is_some()
            }
            _ => false,
        };
        let root = if settles {
            self.settle(at, cgroup, child.parent_pid, out)
        } else {
            self.container_of(cgroup)
        };
        let Some(root) = root else { return };
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        if instance.started.is_some() || instance.candidate.is_some() {
            return;
        }
        let deadline = BootNs(at.0 + NEVER_EXECS_NS);
        instance.candidate = Some(Member {
            pid: child.pid,
            start_ns: child.start_ns,
            since: deadline,
            coarse: false,
        });
        if !by_runtime {
            self.waiting.insert((deadline, root));
        }
    }

    /// Inits that waited long enough.
    pub(super) fn tick(&mut self, at: BootNs, out: &mut Emit<'_>) {
        while let Some((deadline, root)) = self.waiting.first().copied() {
            if deadline > at {
                break;
            }
            self.waiting.pop_first();
            let candidate = self.instances.get(&root).and_then(|i| i.candidate);
            if let Some(candidate) = candidate {
                self.started_without_exec(at, root, candidate, out);
            }
        }
    }

    /// Whether its init executes anything is decided, or does not matter any more.
    pub(super) fn stop_waiting(&mut self, root: CgroupKey, candidate: Option<Member>) {
        if let Some(candidate) = candidate {
            self.waiting.remove(&(candidate.since, root));
        }
    }

    fn started_without_exec(
        &mut self,
        at: BootNs,
        root: CgroupKey,
        candidate: Member,
        out: &mut Emit<'_>,
    ) {
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        if instance.started.is_some() || instance.end == Some(End::Failed) {
            return;
        }
        instance.begin(at, candidate.pid, candidate.start_ns);
        self.stop_waiting(root, Some(candidate));
        if let Some(mut event) = self.event(at, Kind::Started, Origin::Kernel, root) {
            event.process = Some(Actor {
                pid: candidate.pid,
                vpid: 1,
                ..Actor::default()
            });
            out(Output::Event(&event));
        }
    }

    pub(super) fn exec(&mut self, at: BootNs, exec: &Exec<'_>, out: &mut Emit<'_>) {
        if exec.flags & flags::RUNTIME != 0 {
            self.calls
                .note(exec.process.pid, exec.uid, exec.process.comm, exec.args);
            self.ask_for_call(exec.process.pid, exec.process.parent_pid, out);
        }
        if exec.flags & flags::TRACKED == 0 {
            return;
        }
        let landed = exec.flags & flags::LANDED != 0;
        let root = if landed && self.may_settle(exec) {
            self.settle(at, exec.cgroup, exec.process.parent_pid, out)
        } else {
            self.container_of(exec.cgroup)
        };
        let Some(root) = root else { return };
        // Nearly always the same cgroup, which was looked up a moment ago.
        let parent_inside = exec.parent_cgroup == exec.cgroup
            || self.container_of(exec.parent_cgroup) == Some(root);
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        let task = &exec.process;
        if landed && instance.started.is_none() && instance.end != Some(End::Failed) {
            let candidate = instance.begin(at, task.pid, task.start_ns);
            instance.home = (exec.cgroup != root).then_some(exec.cgroup);
            self.stop_waiting(root, candidate);
            self.tell_exec(at, Kind::Started, root, exec, out);
            // What an OCI runtime itself writes was not there when the cgroup appeared.
            let lacks = |instance: &Instance| {
                instance.enrichment != Enrichment::Full || instance.identity.created.is_none()
            };
            if self.instances.get(&root).is_some_and(lacks) {
                self.ask(root, false, out);
            }
        } else if landed
            && !parent_inside
            && instance.end != Some(End::Exited)
            && !instance.is_init(task)
        {
            let session = Member {
                pid: task.pid,
                start_ns: task.start_ns,
                since: at,
                coarse: false,
            };
            instance.sessions.insert(session);
            self.tell_exec(at, Kind::ExecStarted, root, exec, out);
        } else if self.host.processes
            && (landed || parent_inside || exec.flags & flags::ENTRANT == 0)
        {
            let kind = Kind::ProcessExec;
            let event = Event::of(instance, &mut self.next_seq, at, kind, Origin::Kernel);
            push_exec(event, exec, out);
        }
    }

    /// Whether this landing makes a container of a cgroup that is none yet. A candidate asks for
    /// more: the first process of a new pid namespace with mounts of its own, brought in from a
    /// cgroup that is not in the same container.
    fn may_settle(&self, exec: &Exec<'_>) -> bool {
        const ALL: u32 = flags::PID_NS_DIFFERS | flags::MNT_NS_DIFFERS | flags::ENTRANT;
        match self.places.get(&exec.cgroup) {
            Some(Place::Candidate { within, .. }) => {
                let own = exec.flags & ALL == ALL
                    && exec.process.vpid == 1
                    && exec.parent_cgroup != exec.cgroup;
                own || within.is_none() && self.calls.get(exec.process.parent_pid).is_some()
            }
            Some(_) => true,
            None => false,
        }
    }

    fn tell_exec(
        &mut self,
        at: BootNs,
        kind: Kind,
        root: CgroupKey,
        exec: &Exec<'_>,
        out: &mut Emit<'_>,
    ) {
        if let Some(event) = self.event(at, kind, Origin::Kernel, root) {
            push_exec(event, exec, out);
        }
    }

    pub(super) fn exit(
        &mut self,
        at: BootNs,
        cgroup: CgroupKey,
        task: &Task<'_>,
        status: u32,
        bits: u32,
        out: &mut Emit<'_>,
    ) {
        let Some(root) = self.container_of(cgroup) else {
            return;
        };
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        let next_seq = &mut self.next_seq;
        let mut tell = |instance, kind| Event::of(instance, next_seq, at, kind, Origin::Kernel);
        // One that was born before it was brought in (crun on v1) is known by its place alone.
        let is_first = bits & (flags::ENTRANT | flags::LANDED) == flags::ENTRANT && task.vpid == 1;
        let is_candidate = instance
            .candidate
            .map_or(is_first, |candidate| candidate.is(task));
        if instance.is_init(task) && instance.end != Some(End::Exited) {
            instance.end = Some(End::Exited);
            instance.frozen = false;
            let killed = instance.init_oom;
            let ran = instance.ran_until(at);
            let mut event = tell(instance, Kind::Exited);
            event.oom_killed = Some(killed);
            event.duration_ns = ran;
            push_exit(event, task, status, out);
        } else if instance.sessions.get(task.pid).is_some_and(|s| s.is(task)) {
            let session = instance.sessions.remove(task.pid);
            let mut event = tell(instance, Kind::ExecExited);
            event.session = Some((task.pid, task.start_ns));
            event.duration_ns = session.map(|session| at.since(session.since));
            push_exit(event, task, status, out);
        } else if is_candidate && instance.started.is_none() && instance.end != Some(End::Failed) {
            instance.end = Some(End::Failed);
            let candidate = instance.candidate;
            self.stop_waiting(root, candidate);
            if let Some(event) = self.event(at, Kind::StartFailed, Origin::Kernel, root) {
                push_exit(event, task, status, out);
            }
        } else if self.host.processes && bits & flags::ENTRANT == 0 && self.ended.is_new(task) {
            push_exit(tell(instance, Kind::ProcessExited), task, status, out);
        }
    }

    pub(super) fn oom(&mut self, at: BootNs, oom: &Oom<'_>, out: &mut Emit<'_>) {
        let Some(root) = self.container_of(oom.cgroup) else {
            return;
        };
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        let init = instance.is_init(&oom.victim);
        instance.init_oom |= init;
        if let Some(mut event) = self.event(at, Kind::Oom, Origin::Kernel, root) {
            event.process = Some(actor(&oom.victim));
            event.oom = Some(OomFacts {
                init,
                limit: oom.limit,
                own: oom.limit == Some(oom.memory),
                limit_bytes: oom.limit_bytes,
            });
            out(Output::Event(&event));
        }
    }
}

impl Instance {
    /// Init does what it is here for. Gives what was waited for.
    fn begin(&mut self, at: BootNs, pid: u32, start_ns: u64) -> Option<Member> {
        self.started = Some(at);
        self.populated = true;
        self.end = None;
        self.init = Some(Member {
            pid,
            start_ns,
            since: at,
            coarse: false,
        });
        self.candidate.take()
    }

    fn is_init(&self, task: &Task<'_>) -> bool {
        self.init.is_some_and(|init| init.is(task))
    }

    fn ran_until(&self, at: BootNs) -> Option<u64> {
        self.init.map(|init| at.since(init.since))
    }
}

impl Member {
    fn is(&self, task: &Task<'_>) -> bool {
        self.is_process(task.pid, task.start_ns)
    }
}

fn actor<'a>(task: &Task<'a>) -> Actor<'a> {
    Actor {
        pid: task.pid,
        vpid: task.vpid,
        parent_pid: task.parent_pid,
        comm: task.comm,
        ..Actor::default()
    }
}

fn push_exec<'a>(mut event: Event<'a>, exec: &Exec<'a>, out: &mut Emit<'_>) {
    if event.kind == Kind::ExecStarted {
        event.session = Some((exec.process.pid, exec.process.start_ns));
    }
    event.process = Some(Actor {
        path: exec.filename,
        // A runtime's arguments are recorded to learn what it does, not to be told.
        args: if exec.flags & flags::RUNTIME == 0 {
            exec.args
        } else {
            &[]
        },
        ..actor(&exec.process)
    });
    out(Output::Event(&event));
}

fn push_exit<'a>(mut event: Event<'a>, task: &Task<'a>, status: u32, out: &mut Emit<'_>) {
    event.process = Some(Actor {
        status: Some(status),
        ..actor(task)
    });
    out(Output::Event(&event));
}

/// Whether a name is that of a runtime's own stage before the entrypoint: `runc:[2:INIT]`,
/// `youki:[2:INIT]`, crun under its own name or as the memfd it executes itself from, and the bare
/// file descriptor number that `/dev/fd/6` becomes.
pub(super) fn is_runtime_init(comm: &[u8]) -> bool {
    comm.starts_with(b"runc")
        || comm.starts_with(b"crun")
        || comm.starts_with(b"libcrun")
        || comm.starts_with(b"youki")
        || comm.starts_with(b"memfd:")
        || comm == b"exe"
        || (!comm.is_empty() && comm.iter().all(u8::is_ascii_digit))
}

/// Ends of inner processes lately told, oldest first.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// Start of the process that had the pid.
    known: ByNumber<u32, u64>,
    order: VecDeque<(u32, u64)>,
}

/// Two threads of one exit report it within the same instant; this many other exits in between are
/// more than any host has.
const MAX_ENDED: usize = 1024;

impl Ended {
    fn is_new(&mut self, task: &Task<'_>) -> bool {
        if self.known.insert(task.pid, task.start_ns) == Some(task.start_ns) {
            return false;
        }
        self.order.push_back((task.pid, task.start_ns));
        if self.order.len() > MAX_ENDED
            && let Some((pid, start)) = self.order.pop_front()
            // Another process may have the pid by now.
            && self.known.get(&pid) == Some(&start)
        {
            self.known.remove(&pid);
        }
        true
    }
}
