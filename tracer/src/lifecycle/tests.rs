//! The machine alone: lives as tables of what happens and what is told, and what must hold whatever
//! happens.

use std::collections::BTreeMap;

use super::*;
use crate::decode::{Exec, Mkdir, Oom, Task};
use tracer_common::flags::{
    ENTRANT, LANDED, MNT_NS_DIFFERS, PARENT_ENTRANT, PID_NS_DIFFERS, RUNTIME, TRACKED,
};

const ID: &str = "45312fe41c2a9b8d45312fe41c2a9b8d45312fe41c2a9b8d45312fe41c2a9b8d";
const UNIFIED: u32 = 0;
const PIDS: u32 = 8;
const FREEZER: u32 = 3;
const OUTSIDE: CgroupKey = CgroupKey::new(UNIFIED, 1);

fn host(processes: bool) -> Host {
    Host {
        boot_id: "boot".into(),
        hierarchies: vec![
            (UNIFIED, "unified".into()),
            (PIDS, "pids".into()),
            (FREEZER, "freezer".into()),
        ],
        freezer: Some(FREEZER),
        processes,
    }
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Event(Box<Event<'static>>),
    Act(Action),
}

/// The event, with all that it borrows from the table and from what happened.
fn outliving(event: &Event<'_>) -> Event<'static> {
    let bytes = |bytes: &[u8]| -> &'static [u8] { bytes.to_vec().leak() };
    Event {
        container: event.container.map(|subject| Subject {
            identity: Box::leak(Box::new(subject.identity.clone())),
            kept: Box::leak(Box::default()),
            ..subject
        }),
        process: event.process.map(|actor| Actor {
            comm: bytes(actor.comm),
            path: bytes(actor.path),
            args: bytes(actor.args),
            ..actor
        }),
        node: event.node.clone(),
        ..*event
    }
}

/// Drives a machine and keeps what came out.
struct Script {
    machine: Machine,
    now: u64,
    out: Vec<Kept>,
}

fn task(pid: u32, vpid: u32, comm: &'static [u8]) -> Task<'static> {
    Task {
        start_ns: u64::from(pid) * 1_000,
        pid,
        vpid,
        parent_pid: 50,
        pid_ns_level: u32::from(pid != vpid),
        comm,
    }
}

impl Script {
    fn new() -> Self {
        Self::with(host(false))
    }

    fn with(host: Host) -> Self {
        Self {
            machine: Machine::new(host, 1),
            now: 1_000_000,
            out: Vec::new(),
        }
    }

    fn raw(&mut self, what: What<'_>) -> &mut Self {
        self.now += 1_000;
        self.apply(BootNs(self.now), Input::Raw(&what));
        self
    }

    fn mkdir(&mut self, hierarchy: u32, id: u64, path: &str) -> &mut Self {
        self.mkdir_in(hierarchy, id, 1, path)
    }

    fn mkdir_in(&mut self, hierarchy: u32, id: u64, parent_id: u64, path: &str) -> &mut Self {
        self.raw(What::Mkdir(Mkdir {
            cgroup: CgroupKey::new(hierarchy, id),
            parent_id,
            level: 2,
            maker_pid: 50,
            maker_parent_pid: 40,
            path: path.as_bytes(),
            leaf: None,
        }))
    }

    fn rmdir(&mut self, hierarchy: u32, id: u64) -> &mut Self {
        self.raw(What::Rmdir {
            cgroup: CgroupKey::new(hierarchy, id),
        })
    }

    fn populated(&mut self, id: u64, populated: bool) -> &mut Self {
        self.raw(What::Populated {
            cgroup: CgroupKey::new(UNIFIED, id),
            populated,
        })
    }

    fn frozen(&mut self, id: u64, frozen: bool) -> &mut Self {
        self.raw(What::Frozen {
            cgroup: CgroupKey::new(UNIFIED, id),
            frozen,
        })
    }

    fn born(&mut self, id: u64, pid: u32, comm: &'static [u8]) -> &mut Self {
        self.raw(What::Fork {
            cgroup: CgroupKey::new(UNIFIED, id),
            child: task(pid, 1, comm),
            flags: PID_NS_DIFFERS | ENTRANT | TRACKED,
        })
    }

    fn exec(&mut self, key: CgroupKey, from: CgroupKey, task: Task<'_>, flags: u32) -> &mut Self {
        self.raw(What::Exec(Exec {
            cgroup: key,
            parent_cgroup: from,
            process: task,
            flags: flags | TRACKED,
            filename: b"/bin/sh",
            args: b"",
            uid: 0,
        }))
    }

    fn lands(&mut self, id: u64, pid: u32, vpid: u32) -> &mut Self {
        self.exec(
            CgroupKey::new(UNIFIED, id),
            OUTSIDE,
            task(pid, vpid, b"sh"),
            PID_NS_DIFFERS | MNT_NS_DIFFERS | ENTRANT | LANDED,
        )
    }

    fn ends(&mut self, id: u64, pid: u32, vpid: u32, status: u32, flags: u32) -> &mut Self {
        self.raw(What::Exit {
            cgroup: CgroupKey::new(UNIFIED, id),
            process: task(pid, vpid, b"sh"),
            status,
            flags: flags | TRACKED,
        })
    }

    fn runtime(&mut self, pid: u32, args: &str) -> &mut Self {
        let args = args.replace(' ', "\0");
        self.raw(What::Exec(Exec {
            cgroup: CgroupKey::new(u32::MAX, 0),
            parent_cgroup: CgroupKey::new(u32::MAX, 0),
            process: task(pid, pid, b"runc"),
            flags: RUNTIME,
            filename: b"/usr/sbin/runc",
            args: args.as_bytes(),
            uid: 0,
        }))
    }

    fn scan(&mut self, snapshot: &Snapshot, origin: Origin) -> &mut Self {
        self.now += 1_000;
        let input = Input::Snapshot(snapshot, origin);
        self.apply(BootNs(self.now), input);
        self
    }

    fn apply(&mut self, at: BootNs, input: Input<'_>) {
        let Self { machine, out, .. } = self;
        machine.apply(at, input, &mut |output| {
            out.push(match output {
                Output::Event(event) => Kept::Event(Box::new(outliving(event))),
                Output::Act(action) => Kept::Act(action),
            });
        });
    }

    fn events(&self) -> Vec<&Event<'static>> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Kept::Event(event) => Some(&**event),
                Kept::Act(_) => None,
            })
            .collect()
    }

    fn forgotten(&self) -> Vec<CgroupKey> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Kept::Act(Action::Forget(key)) => Some(*key),
                _ => None,
            })
            .collect()
    }

    #[track_caller]
    fn check(&self, expected: &[&str]) {
        let events = self.events();
        let told: Vec<&str> = events
            .iter()
            .map(|event| {
                let kind = event.kind.as_str();
                kind.strip_prefix("container.").unwrap_or(kind)
            })
            .collect();
        assert_eq!(told, expected);
        hold_invariants(&events, 1);
    }
}

/// Section by section what every stream must hold.
#[track_caller]
fn hold_invariants(events: &[&Event<'_>], first_seq: u64) {
    // The kernel never uses a cgroup id twice; a test that does makes a second life of it.
    let mut removed: BTreeMap<String, u32> = BTreeMap::new();
    let mut lives: BTreeMap<(String, u32), Vec<&Event<'_>>> = BTreeMap::new();
    for (event, seq) in events.iter().zip(first_seq..) {
        assert_eq!(event.seq, seq, "a hole in seq");
        if let Some(subject) = &event.container {
            let instance = subject.identity.instance();
            let life = removed.entry(instance.clone()).or_default();
            lives.entry((instance, *life)).or_default().push(event);
            *life += u32::from(event.kind == Kind::Removed);
        }
    }
    for ((instance, _), life) in lives {
        let kinds: Vec<Kind> = life.iter().map(|event| event.kind).collect();
        let position = |kind: Kind| kinds.iter().position(|found| *found == kind);
        let count = |kind: Kind| kinds.iter().filter(|found| **found == kind).count();
        assert!(
            matches!(kinds[0], Kind::Created | Kind::Discovered),
            "{instance}: {kinds:?}"
        );
        assert_eq!(
            count(Kind::Created) + count(Kind::Discovered),
            1,
            "{kinds:?}"
        );
        for once in [
            Kind::Started,
            Kind::StartFailed,
            Kind::Exited,
            Kind::Removed,
        ] {
            assert!(count(once) <= 1, "{instance}: {kinds:?}");
        }
        if let Some(removed) = position(Kind::Removed) {
            assert_eq!(removed, kinds.len() - 1, "{instance}: {kinds:?}");
        }
        if let (Some(started), Some(exited)) = (position(Kind::Started), position(Kind::Exited)) {
            assert!(started < exited, "{instance}: {kinds:?}");
        }
        let mut version = 0;
        let mut frozen = false;
        for event in life {
            let subject = event.container.as_ref().expect("has one");
            assert!(subject.version >= version, "{instance}: version went back");
            version = subject.version;
            if !matches!(event.kind, Kind::ProcessExec | Kind::ProcessExited) {
                assert_eq!(version, event.seq, "{instance}: {:?}", event.kind);
            }
            match event.kind {
                Kind::Discovered => frozen = subject.state == State::Paused,
                Kind::Paused => assert!(!std::mem::replace(&mut frozen, true), "paused twice"),
                Kind::Resumed => assert!(std::mem::take(&mut frozen), "resumed twice"),
                _ => {}
            }
        }
    }
}

fn docker() -> String {
    format!("/docker/{ID}")
}

#[test]
fn a_whole_life() {
    let mut script = Script::new();
    script
        .mkdir(UNIFIED, 10, &docker())
        .populated(10, true)
        .born(10, 100, b"runc:[1:CHILD]")
        .lands(10, 100, 1)
        .lands(10, 107, 7)
        .ends(10, 107, 7, 0x500, LANDED)
        .frozen(10, true)
        .frozen(10, false)
        .ends(10, 100, 1, 0x89, LANDED)
        .populated(10, false)
        .rmdir(UNIFIED, 10);
    script.check(&[
        "created",
        "started",
        "exec_started",
        "exec_exited",
        "paused",
        "resumed",
        "exited",
        "emptied",
        "removed",
    ]);
    let events = script.events();
    assert_eq!(events[2].session, events[3].session);
    let exit = events[6].process.as_ref().and_then(|actor| actor.status);
    assert_eq!(exit, Some(0x89));
    assert!(script.machine.is_empty() && script.machine.places() == 0);
    assert_eq!(script.machine.oddities(), 0);
}

#[test]
fn a_cgroup_that_goes_before_it_is_told_to_be_empty() {
    let mut script = Script::new();
    script
        .mkdir(UNIFIED, 10, &docker())
        .populated(10, true)
        .born(10, 100, b"runc:[1:CHILD]")
        .lands(10, 100, 1)
        .ends(10, 100, 1, 0, LANDED)
        .rmdir(UNIFIED, 10)
        .populated(10, false);
    script.check(&["created", "started", "exited", "emptied", "removed"]);
    assert!(script.machine.is_empty() && script.machine.places() == 0);
}

#[test]
fn an_entrypoint_that_is_missing() {
    let mut script = Script::new();
    script
        .mkdir(UNIFIED, 10, &docker())
        .born(10, 100, b"runc:[1:CHILD]")
        .ends(10, 100, 1, 0x100, ENTRANT)
        .rmdir(UNIFIED, 10);
    script.check(&["created", "start_failed", "removed"]);
}

#[test]
fn a_cgroup_that_was_never_used() {
    let mut script = Script::new();
    script.mkdir(UNIFIED, 10, &docker()).rmdir(UNIFIED, 10);
    script.check(&["created", "start_failed", "removed"]);
}

#[test]
fn twins_before_and_after_the_root_are_one_container() {
    for order in [
        [PIDS, FREEZER, UNIFIED],
        [UNIFIED, PIDS, FREEZER],
        [PIDS, UNIFIED, FREEZER],
        [FREEZER, UNIFIED, PIDS],
    ] {
        let mut script = Script::new();
        let mut made = Vec::new();
        let mut asked_for_both = false;
        for hierarchy in order {
            let before = script.out.len();
            script.mkdir(hierarchy, 10 + u64::from(hierarchy), &docker());
            made.push(hierarchy);
            // A watch that was asked for before the freezer is there finds nothing.
            asked_for_both |= made.contains(&UNIFIED)
                && made.contains(&FREEZER)
                && script.out[before..]
                    .iter()
                    .any(|output| matches!(output, Kept::Act(Action::WatchFreezer { .. })));
        }
        assert!(asked_for_both, "{order:?}: its freezer is not watched");
        script.lands(10, 100, 1).ends(10, 100, 1, 0, LANDED);
        script.rmdir(UNIFIED, 10);
        script.check(&["created", "started", "exited", "emptied", "removed"]);
        let mut forgotten = script.forgotten();
        forgotten.sort();
        assert_eq!(
            forgotten,
            [CgroupKey::new(FREEZER, 13), CgroupKey::new(PIDS, 18)],
            "{order:?}"
        );
        assert_eq!(script.machine.places(), 0, "{order:?}");
    }
}

#[test]
fn a_container_in_v1_alone_is_found_when_it_starts() {
    let key = CgroupKey::new(PIDS, 18);
    let mut script = Script::new();
    script.mkdir(PIDS, 18, &docker()).exec(
        key,
        CgroupKey::new(PIDS, 1),
        task(100, 1, b"sh"),
        PID_NS_DIFFERS | MNT_NS_DIFFERS | ENTRANT | LANDED,
    );
    script.raw(What::Exit {
        cgroup: key,
        process: task(100, 1, b"sh"),
        status: 0,
        flags: LANDED | TRACKED,
    });
    script.rmdir(PIDS, 18);
    script.check(&["created", "started", "exited", "emptied", "removed"]);
    assert_eq!(script.machine.places(), 0);
}

#[test]
fn a_container_in_v1_alone_that_never_started() {
    let mut script = Script::new();
    script.mkdir(PIDS, 18, &docker()).rmdir(PIDS, 18);
    script.check(&["created", "start_failed", "removed"]);
}

#[test]
fn a_restart_keeps_the_id_and_makes_an_instance() {
    let mut script = Script::new();
    for id in [10, 30] {
        script.mkdir(UNIFIED, id, &docker()).lands(id, 100, 1);
        script.ends(id, 100, 1, 0, LANDED).rmdir(UNIFIED, id);
    }
    script.check(&[
        "created", "started", "exited", "emptied", "removed", "created", "started", "exited",
        "emptied", "removed",
    ]);
}

#[test]
fn a_bare_container_is_named_by_its_runtime() {
    let mut script = Script::new();
    script
        .runtime(50, "runc --root /r run -b /b t1")
        .mkdir(UNIFIED, 10, "/somewhere/t1")
        .lands(10, 100, 1);
    script.check(&["created", "started"]);
    let identity = &script.events()[0].container.as_ref().expect("one").identity;
    assert_eq!(&*identity.id, "t1");
    assert_eq!(identity.runtime.as_ref().map(|r| &*r.name), Some("runc"));
}

#[test]
fn a_bare_container_is_one_though_its_paths_differ_between_hierarchies() {
    for order in [[PIDS, FREEZER, UNIFIED], [UNIFIED, PIDS, FREEZER]] {
        let mut script = Script::new();
        script.runtime(50, "runc run t1");
        for hierarchy in order {
            let path = match hierarchy {
                UNIFIED => "/t1".to_owned(),
                other => format!("/session/{other}/t1"),
            };
            script.mkdir(hierarchy, 10 + u64::from(hierarchy), &path);
        }
        script.lands(10, 100, 1).ends(10, 100, 1, 0, LANDED);
        script.rmdir(UNIFIED, 10);
        script.check(&["created", "started", "exited", "emptied", "removed"]);
        let freezer = script.out.iter().any(|output| {
            let Kept::Act(Action::WatchFreezer { path, .. }) = output else {
                return false;
            };
            **path == *b"/session/3/t1"
        });
        assert!(freezer, "{order:?}: its freezer is elsewhere");
        assert_eq!(script.machine.places(), 0, "{order:?}");
    }
}

#[test]
fn a_bare_container_in_a_cgroup_of_any_name_is_told_before_it_starts() {
    let mut script = Script::new();
    script
        .runtime(50, "runc create -b /b t1")
        .mkdir(UNIFIED, 10, "/any")
        .mkdir_in(UNIFIED, 11, 10, "/any/name")
        .born(11, 100, b"runc:[1:CHILD]");
    script.check(&["created"]);
    let identity = &script.events()[0].container.as_ref().expect("one").identity;
    assert_eq!(
        (&*identity.id, &*identity.path),
        ("t1", b"/any/name".as_slice())
    );
}

#[test]
fn an_unknown_cgroup_stays_quiet_until_an_init_lands_in_it() {
    let mut script = Script::new();
    script.mkdir(UNIFIED, 10, "/jobs/17");
    // An ordinary process of the host that was moved there.
    script.exec(
        CgroupKey::new(UNIFIED, 10),
        OUTSIDE,
        task(90, 90, b"sh"),
        ENTRANT,
    );
    script.check(&[]);
    script.lands(10, 100, 1);
    script.check(&["created", "started"]);
}

#[test]
fn host_services_are_forgotten_at_once() {
    let mut script = Script::new();
    script.mkdir(UNIFIED, 10, "/system.slice/cron.service");
    script.check(&[]);
    assert_eq!(script.forgotten(), [CgroupKey::new(UNIFIED, 10)]);
}

#[test]
fn nested_containers_know_their_parents() {
    let mut script = Script::new();
    script
        .runtime(50, "runc run outer")
        .mkdir(UNIFIED, 10, "/outer")
        .lands(10, 100, 1)
        .mkdir_in(UNIFIED, 11, 10, "/outer/docker")
        .mkdir_in(UNIFIED, 12, 11, &format!("/outer/docker/{ID}"))
        .lands(12, 200, 1);
    script.check(&["created", "started", "created", "started"]);
    let inner = &script.events()[3].container.as_ref().expect("one").identity;
    let parents: Vec<&str> = inner.parents.iter().map(|parent| &*parent.id).collect();
    assert_eq!((&*inner.id, parents), (ID, vec!["outer"]));
}

#[test]
fn a_container_in_v1_alone_inside_one_that_is_not_is_its_own() {
    let inner = ID.replace('4', "5");
    let path = format!("{}/docker/{inner}", docker());
    let mut script = Script::new();
    script
        .mkdir(PIDS, 9, &docker())
        .mkdir(UNIFIED, 10, &docker())
        .lands(10, 100, 1)
        .mkdir_in(PIDS, 20, 9, &format!("{}/docker", docker()))
        .mkdir_in(PIDS, 21, 20, &path)
        .exec(
            CgroupKey::new(PIDS, 21),
            CgroupKey::new(PIDS, 9),
            task(200, 1, b"sh"),
            PID_NS_DIFFERS | MNT_NS_DIFFERS | ENTRANT | LANDED,
        )
        .ends(10, 200, 1, 0, LANDED)
        .rmdir(PIDS, 21);
    script.check(&[
        "created", "started", "created", "started", "exited", "emptied", "removed",
    ]);
    let told = script.events()[5].container.as_ref().expect("one");
    let parents: Vec<&str> = told.identity.parents.iter().map(|p| &*p.id).collect();
    assert_eq!((&*told.identity.id, parents), (&*inner, vec![ID]));
}

#[test]
fn a_bare_container_in_v1_alone_inside_one_that_is_not_is_its_own() {
    let mut script = Script::new();
    script
        .mkdir(PIDS, 9, &docker())
        .mkdir(UNIFIED, 10, &docker())
        .lands(10, 100, 1)
        .runtime(50, "runc run t1")
        .mkdir_in(PIDS, 21, 9, &format!("{}/t1", docker()));
    script.now += 1_000;
    script.exec(
        CgroupKey::new(PIDS, 21),
        CgroupKey::new(PIDS, 9),
        task(200, 1, b"sh"),
        PID_NS_DIFFERS | MNT_NS_DIFFERS | ENTRANT | LANDED,
    );
    script.check(&["created", "started", "created", "started"]);
    let told = script.events()[3].container.as_ref().expect("one");
    let parents: Vec<&str> = told.identity.parents.iter().map(|p| &*p.id).collect();
    assert_eq!((&*told.identity.id, parents), ("t1", vec![ID]));
}

#[test]
fn a_deeper_twin_speaks_for_its_container_until_it_is_forgotten() {
    for order in [[PIDS, UNIFIED], [UNIFIED, PIDS]] {
        let mut script = Script::new();
        script.runtime(50, "runc run t1");
        for hierarchy in order {
            let path = match hierarchy {
                UNIFIED => "/t1",
                _ => "/session/7/t1",
            };
            script.mkdir(hierarchy, 10 + u64::from(hierarchy), path);
        }
        let twin = CgroupKey::new(PIDS, 10 + u64::from(PIDS));
        script.exec(
            twin,
            CgroupKey::new(PIDS, 1),
            task(100, 1, b"sh"),
            PID_NS_DIFFERS | MNT_NS_DIFFERS | ENTRANT | LANDED,
        );
        script.ends(10, 100, 1, 0, LANDED).rmdir(UNIFIED, 10);
        script.check(&["created", "started", "exited", "emptied", "removed"]);
        assert_eq!(script.machine.places(), 0, "{order:?}");
    }
}

#[test]
fn a_container_in_a_child_of_its_own_scope_is_one() {
    let mut script = Script::new();
    let scope = format!("/machine.slice/libpod-{ID}.scope");
    script
        .runtime(50, &format!("crun --systemd-cgroup create -b /b {ID}"))
        .mkdir(UNIFIED, 10, &scope)
        .mkdir_in(UNIFIED, 11, 10, &format!("{scope}/container"))
        .born(11, 100, b"crun")
        .lands(11, 100, 1)
        .lands(11, 107, 7)
        .ends(11, 107, 7, 0, LANDED)
        .frozen(11, true)
        .frozen(10, true)
        .frozen(11, false)
        .ends(11, 100, 1, 0, LANDED)
        .rmdir(UNIFIED, 11)
        .rmdir(UNIFIED, 10);
    script.check(&[
        "created",
        "started",
        "exec_started",
        "exec_exited",
        "paused",
        "resumed",
        "exited",
        "emptied",
        "removed",
    ]);
    assert_eq!(script.machine.places(), 0);
}

#[test]
fn an_init_that_was_born_outside_and_failed() {
    let mut script = Script::new();
    script
        .mkdir(UNIFIED, 10, &docker())
        .ends(10, 100, 1, 0x100, ENTRANT)
        .rmdir(UNIFIED, 10);
    script.check(&["created", "start_failed", "removed"]);
    let status = script.events()[1].process.as_ref().and_then(|p| p.status);
    assert_eq!(status, Some(0x100));
}

#[test]
fn processes_inside_are_told_only_on_request() {
    for processes in [false, true] {
        let key = CgroupKey::new(UNIFIED, 10);
        let mut script = Script::with(host(processes));
        script.mkdir(UNIFIED, 10, &docker()).lands(10, 100, 1);
        script.exec(key, key, task(120, 20, b"ls"), 0);
        script.ends(10, 120, 20, 0, 0);
        // Kernels before 6.16 report some ends twice.
        script.ends(10, 120, 20, 0, 0);
        if processes {
            script.check(&["created", "started", "process.exec", "process.exited"]);
        } else {
            script.check(&["created", "started"]);
        }
    }
}

#[test]
fn a_nested_pid_namespace_is_no_exec_session() {
    let key = CgroupKey::new(UNIFIED, 10);
    let mut script = Script::new();
    script.mkdir(UNIFIED, 10, &docker()).lands(10, 100, 1);
    script.exec(key, key, task(130, 1, b"sh"), PID_NS_DIFFERS | LANDED);
    script.ends(10, 130, 1, 0, LANDED);
    script.check(&["created", "started"]);
}

#[test]
fn an_init_that_never_executes_anything() {
    let mut by_time = Script::new();
    by_time
        .mkdir(UNIFIED, 10, &docker())
        .born(10, 100, b"lxc-start");
    let deadline = by_time.machine.deadline().expect("waits");
    by_time.apply(deadline, Input::Tick);
    by_time.ends(10, 100, 1, 0, ENTRANT);
    by_time.check(&["created", "started", "exited"]);
    assert_eq!(by_time.machine.deadline(), None);

    let mut by_child = Script::new();
    by_child
        .mkdir(UNIFIED, 10, &docker())
        .born(10, 100, b"lxc-start");
    let child = Task {
        parent_pid: 100,
        ..task(101, 2, b"lxc-start")
    };
    by_child.raw(What::Fork {
        cgroup: CgroupKey::new(UNIFIED, 10),
        child,
        flags: TRACKED | ENTRANT | PARENT_ENTRANT,
    });
    by_child.check(&["created", "started"]);
    assert_eq!(by_child.machine.deadline(), None);
}

#[test]
fn a_runtime_may_hold_its_init_for_ever() {
    let mut script = Script::new();
    script
        .mkdir(UNIFIED, 10, &docker())
        .born(10, 100, b"runc:[1:CHILD]");
    assert_eq!(script.machine.deadline(), None);
}

#[test]
fn the_oom_killer_and_whom_it_chose() {
    for (pid, init) in [(100, true), (120, false)] {
        let mut script = Script::new();
        script.mkdir(UNIFIED, 10, &docker()).lands(10, 100, 1);
        let memory = CgroupKey::new(4, 70);
        script.raw(What::Oom(Oom {
            cgroup: CgroupKey::new(UNIFIED, 10),
            victim: task(pid, 1, b"sh"),
            limit: Some(memory),
            memory,
            limit_bytes: 1 << 20,
        }));
        script.ends(10, 100, 1, 9, LANDED);
        script.check(&["created", "started", "oom", "exited"]);
        let events = script.events();
        assert_eq!(
            events[2].oom.map(|oom| (oom.init, oom.own)),
            Some((init, true))
        );
        assert_eq!(events[3].oom_killed, Some(init));
    }
}

#[test]
fn events_after_the_end_of_init_do_not_start_anything() {
    let mut script = Script::new();
    script.mkdir(UNIFIED, 10, &docker()).lands(10, 100, 1);
    script.lands(10, 107, 7).ends(10, 100, 1, 9, LANDED);
    script.lands(10, 108, 8).ends(10, 107, 7, 9, LANDED);
    script.populated(10, false).rmdir(UNIFIED, 10);
    script.check(&[
        "created",
        "started",
        "exec_started",
        "exited",
        "exec_exited",
        "emptied",
        "removed",
    ]);
}

#[test]
fn a_path_that_the_kernel_cut_keeps_its_leaf() {
    let mut script = Script::new();
    let long = format!("/{}", "x/".repeat(511));
    script.raw(What::Mkdir(Mkdir {
        cgroup: CgroupKey::new(UNIFIED, 10),
        parent_id: 9,
        level: 600,
        maker_pid: 1,
        maker_parent_pid: 0,
        path: long.as_bytes(),
        leaf: Some(format!("docker-{ID}.scope").as_bytes()),
    }));
    script.check(&["created"]);
    let identity = &script.events()[0].container.as_ref().expect("one").identity;
    assert_eq!(&*identity.id, ID);
    assert!(identity.path.ends_with(b".scope"));
}

#[test]
fn a_path_that_the_kernel_cut_is_whole_once_its_parent_is_known() {
    let mut script = Script::new();
    let (parent, long) = (
        format!("/{}y", "x/".repeat(600)),
        format!("/{}", "x/".repeat(511)),
    );
    let leaf = format!("docker-{ID}.scope");
    let mkdir = Mkdir {
        cgroup: CgroupKey::new(UNIFIED, 10),
        parent_id: 9,
        level: 600,
        maker_pid: 1,
        maker_parent_pid: 0,
        path: long.as_bytes(),
        leaf: Some(leaf.as_bytes()),
    };
    let cgroup = CgroupKey::new(UNIFIED, 9);
    assert_eq!(script.machine.lacks_parent(&mkdir), Some(cgroup));
    let path: Arc<[u8]> = parent.as_bytes().into();
    let input = Input::Path {
        cgroup,
        path: &path,
    };
    script.machine.apply(BootNs(1), input, &mut |_| {});
    assert_eq!(script.machine.lacks_parent(&mkdir), None);
    script.raw(What::Mkdir(mkdir));
    script.check(&["created"]);
    let identity = &script.events()[0].container.as_ref().expect("one").identity;
    assert_eq!(*identity.path, *format!("{parent}/{leaf}").as_bytes());
}

fn found(id: u64, path: &str, processes: &[(u32, u32, &[u8])]) -> Found {
    Found {
        cgroup: CgroupKey::new(UNIFIED, id),
        path: path.as_bytes().into(),
        frozen: false,
        fresh: false,
        populated: !processes.is_empty(),
        processes: processes
            .iter()
            .map(|(pid, vpid, comm)| FoundProcess {
                pid: *pid,
                vpid: *vpid,
                parent_pid: if *vpid == 1 { 50 } else { 100 },
                pid_ns_level: 1,
                start_ns: u64::from(*pid) * 1_000 / 10_000_000 * 10_000_000,
                comm: (*comm).into(),
            })
            .collect(),
    }
}

fn snapshot(found: Vec<Found>) -> Snapshot {
    Snapshot {
        found,
        complete: true,
        ..Snapshot::default()
    }
}

#[test]
fn what_ran_before_is_discovered_in_its_state() {
    for (processes, frozen, state) in [
        (vec![(100, 1, b"sh".as_slice())], false, State::Running),
        (vec![(100, 1, b"sh".as_slice())], true, State::Paused),
        (
            vec![(100, 1, b"runc:[2:INIT]".as_slice())],
            false,
            State::Created,
        ),
        (vec![], false, State::Exited),
    ] {
        let mut script = Script::new();
        let mut one = found(10, &docker(), &processes);
        one.frozen = frozen;
        script.scan(&snapshot(vec![one]), Origin::Snapshot);
        script.check(&["discovered"]);
        let subject = script.events()[0].container.expect("one");
        assert_eq!(subject.state, state);
    }
}

/// crun with systemd: the scope is empty, and what it pauses is the cgroup inside.
fn crun_of_systemd(frozen: bool) -> Vec<Found> {
    let scope = format!("/machine.slice/libpod-{ID}.scope");
    let mut root = found(10, &scope, &[]);
    root.populated = true;
    let mut inner = found(11, &format!("{scope}/container"), &[(100, 1, b"sh")]);
    inner.frozen = frozen;
    vec![root, inner]
}

#[test]
fn a_container_that_is_paused_inside_its_scope_is_discovered_so() {
    for (frozen, state) in [(true, State::Paused), (false, State::Running)] {
        let mut script = Script::new();
        script.scan(&snapshot(crun_of_systemd(frozen)), Origin::Snapshot);
        let subject = script.events()[0].container.expect("one");
        assert_eq!(subject.state, state);
        script.frozen(11, !frozen).frozen(11, frozen);
        script.check(&if frozen {
            ["discovered", "resumed", "paused"]
        } else {
            ["discovered", "paused", "resumed"]
        });
    }
}

/// Cgroup ids begin anew with each boot, and a runtime starts its containers again.
#[test]
fn what_has_the_id_of_a_container_before_a_reboot_is_another() {
    for complete in [true, false] {
        let mut scan = snapshot(vec![found(10, &docker(), &[(100, 1, b"sh")])]);
        let mut script = Script::new();
        script.scan(&scan, Origin::Snapshot);
        script.machine.reboot();
        let rebooted = Host {
            boot_id: "another".into(),
            // v1 numbers hierarchies anew, too.
            hierarchies: vec![(UNIFIED, "renumbered".into())],
            ..host(false)
        };
        script.machine.resume(rebooted, &mut |_| {});
        scan.complete = complete;
        script.scan(&scan, Origin::Reconcile);
        script.check(&["discovered", "exited", "removed", "discovered"]);
        let boots = script.events().into_iter().filter_map(|event| {
            let identity = event.container?.identity;
            Some((&*identity.boot_id, &*identity.hierarchy))
        });
        let boots: Vec<(&str, &str)> = boots.collect();
        let before = ("boot", "unified");
        let after = ("another", "renumbered");
        assert_eq!(boots, [before, before, before, after]);
        script.rmdir(UNIFIED, 10);
        script.check(&[
            "discovered",
            "exited",
            "removed",
            "discovered",
            "exited",
            "emptied",
            "removed",
        ]);
    }
}

#[test]
fn a_repair_knows_of_a_pause_inside_the_scope() {
    let mut script = Script::new();
    script.scan(&snapshot(crun_of_systemd(false)), Origin::Snapshot);
    let mut overtaken = snapshot(crun_of_systemd(true));
    overtaken.touched.insert(CgroupKey::new(UNIFIED, 11));
    script.scan(&overtaken, Origin::Reconcile);
    script.check(&["discovered"]);
    script.scan(&snapshot(crun_of_systemd(true)), Origin::Reconcile);
    script.scan(&snapshot(crun_of_systemd(true)), Origin::Reconcile);
    script.check(&["discovered", "paused"]);
    script.scan(&snapshot(crun_of_systemd(false)), Origin::Reconcile);
    script.check(&["discovered", "paused", "resumed"]);
    let mut gone = crun_of_systemd(true);
    gone[1].processes.clear();
    script.scan(&snapshot(gone), Origin::Reconcile);
    script.check(&["discovered", "paused", "resumed", "exited"]);
}

#[test]
fn a_container_with_other_paths_in_other_hierarchies_is_discovered_once() {
    let mut script = Script::new();
    let one = found(10, "/t1", &[(100, 1, b"sh")]);
    let mut twin = found(18, "/session/t1", &[(100, 1, b"sh")]);
    twin.cgroup = CgroupKey::new(PIDS, 18);
    script.scan(&snapshot(vec![one, twin]), Origin::Snapshot);
    script.check(&["discovered"]);
}

#[test]
fn a_bare_container_inside_another_is_discovered_too() {
    let outer = docker();
    // In v1 alone its processes are in the outer one's unified cgroup, and the outer's own in its twin.
    for hierarchy in [UNIFIED, PIDS] {
        let mut inner = found(11, &format!("{outer}/t1"), &[(200, 1, b"sh")]);
        inner.cgroup = CgroupKey::new(hierarchy, 11);
        for process in &mut inner.processes {
            process.pid_ns_level = 2;
        }
        let mut own = found(12, &format!("{outer}/init.scope"), &[(100, 1, b"sh")]);
        own.cgroup = CgroupKey::new(hierarchy, 12);
        let root = found(10, &outer, &[(100, 1, b"sh"), (101, 2, b"sh")]);
        let mut script = Script::new();
        script.scan(&snapshot(vec![root, inner, own]), Origin::Snapshot);
        script.check(&["discovered", "discovered"]);
        let told = script.events()[1].container.as_ref().expect("one");
        let parents: Vec<&str> = told.identity.parents.iter().map(|p| &*p.id).collect();
        assert_eq!((&*told.identity.id, parents), ("t1", vec![ID]));
        assert_eq!(told.state, State::Running);
    }
}

#[test]
fn a_discovered_container_ends_like_any_other() {
    let mut script = Script::new();
    let one = found(10, &docker(), &[(100, 1, b"sh")]);
    script.scan(&snapshot(vec![one]), Origin::Snapshot);
    script
        .ends(10, 100, 1, 0x300, LANDED)
        .populated(10, false)
        .rmdir(UNIFIED, 10);
    script.check(&["discovered", "exited", "emptied", "removed"]);
}

#[test]
fn a_scan_that_was_overtaken_by_the_ring_invents_nothing() {
    let mut script = Script::new();
    let mut scan = snapshot(vec![found(10, &docker(), &[(100, 1, b"sh")])]);
    scan.born.insert(CgroupKey::new(UNIFIED, 10));
    scan.touched.insert(CgroupKey::new(UNIFIED, 10));
    script.scan(&scan, Origin::Snapshot);
    script.check(&[]);
    script.mkdir(UNIFIED, 10, &docker()).lands(10, 100, 1);
    script.check(&["created", "started"]);
}

/// While a scan goes on beside the stream a process enters the container that it finds: the ring tells
/// of the unified cgroup alone, and the next scan takes it.
#[test]
fn a_container_that_is_left_out_of_a_scan_is_left_out_in_every_hierarchy() {
    for twin_path in [docker(), "/session/t1".to_owned()] {
        let init: &[(u32, u32, &[u8])] = &[(100, 1, b"sh")];
        let mut twin = found(18, &twin_path, init);
        twin.cgroup = CgroupKey::new(PIDS, 18);
        let mut scan = snapshot(vec![found(10, &docker(), init), twin]);
        scan.born.insert(CgroupKey::new(UNIFIED, 10));
        scan.touched.insert(CgroupKey::new(UNIFIED, 10));
        let mut script = Script::new();
        script.scan(&scan, Origin::Reconcile);
        script.check(&[]);
        scan.born.clear();
        scan.touched.clear();
        script.scan(&scan, Origin::Reconcile);
        script.check(&["discovered"]);
        assert_eq!(
            script.events()[0]
                .container
                .as_ref()
                .expect("one")
                .identity
                .cgroup
                .hierarchy,
            UNIFIED
        );
        script.ends(10, 100, 1, 0x400, LANDED);
        script.check(&["discovered", "exited"]);
    }
}

#[test]
fn a_repair_tells_what_changed_and_nothing_else() {
    let mut script = Script::new();
    script.mkdir(UNIFIED, 10, &docker()).lands(10, 100, 1);
    let same = snapshot(vec![found(10, &docker(), &[(100, 1, b"sh")])]);
    script.scan(&same, Origin::Reconcile);
    script.check(&["created", "started"]);
    script.scan(&snapshot(vec![]), Origin::Reconcile);
    script.check(&["created", "started", "exited", "removed"]);
    let exited = script.events()[2];
    assert_eq!(exited.origin, Origin::Reconcile);
    assert_eq!(exited.process, None, "the status cannot be known");
}

#[test]
fn an_incomplete_scan_removes_nothing() {
    let mut script = Script::new();
    script.mkdir(UNIFIED, 10, &docker()).lands(10, 100, 1);
    let scan = Snapshot {
        complete: false,
        ..Snapshot::default()
    };
    script.scan(&scan, Origin::Reconcile);
    script.check(&["created", "started"]);
}

/// A small generator of numbers (xorshift); the seed is in the failure message.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Throws any record at the machine, in any order, about few cgroups and processes, so that they
/// collide.
fn throw(script: &mut Script, dice: &mut Dice) {
    let hierarchy =
        [UNIFIED, UNIFIED, PIDS, FREEZER][usize::try_from(dice.below(4)).expect("small")];
    let slot = dice.below(6);
    let id = 10 + slot;
    let path = match slot {
        0 => docker(),
        1 => format!("/docker/{ID}/inner"),
        2 => format!("/docker/{}", ID.replace('4', "5")),
        3 => "/t1".to_owned(),
        4 => "/t1/system.slice".to_owned(),
        _ => "/system.slice/cron.service".to_owned(),
    };
    let pid = 100 + u32::try_from(dice.below(5)).expect("small");
    let vpid = if dice.below(2) == 0 { 1 } else { pid };
    let key = CgroupKey::new(hierarchy, id);
    let bits = u32::try_from(dice.below(1024)).expect("small");
    match dice.below(11) {
        0 | 1 => script.mkdir_in(hierarchy, id, 9 + slot, &path),
        2 => script.rmdir(hierarchy, id),
        3 => script.populated(id, dice.below(2) == 0),
        4 => script.frozen(id, dice.below(2) == 0),
        5 => script.born(id, pid, b"x"),
        6 => script.exec(
            key,
            CgroupKey::new(hierarchy, 10 + dice.below(6)),
            task(pid, vpid, b"x"),
            bits,
        ),
        7 => script.raw(What::Exit {
            cgroup: key,
            process: task(pid, vpid, b"x"),
            status: bits,
            flags: bits,
        }),
        8 => script.runtime(50, "runc run t1"),
        9 => {
            let input = Input::Freezer {
                root: key,
                frozen: dice.below(2) == 0,
            };
            script.apply(BootNs(script.now), input);
            script
        }
        _ => {
            if let Some(deadline) = script.machine.deadline() {
                script.apply(deadline, Input::Tick);
            }
            script
        }
    };
}

#[test]
fn whatever_is_thrown_at_it_the_invariants_hold_and_a_scan_brings_the_truth() {
    for seed in 1..=400 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut script = Script::with(host(seed % 2 == 0));
        for _ in 0..dice.below(300) {
            throw(&mut script, &mut dice);
        }
        hold_invariants(&script.events(), 1);
        let truth = snapshot(vec![
            found(10, &docker(), &[(100, 1, b"sh")]),
            found(77, "/docker/nothing", &[]),
        ]);
        script.scan(&truth, Origin::Reconcile);
        script.scan(&truth, Origin::Reconcile);
        hold_invariants(&script.events(), 1);
        let keys: Vec<CgroupKey> = script
            .machine
            .instances
            .iter()
            .map(|(key, _)| *key)
            .collect();
        assert_eq!(keys, [CgroupKey::new(UNIFIED, 10)], "seed {seed}");
        for id in 10..20 {
            for hierarchy in [UNIFIED, PIDS, FREEZER] {
                script.rmdir(hierarchy, id);
            }
        }
        let left: Vec<CgroupKey> = script
            .machine
            .instances
            .iter()
            .map(|(key, _)| *key)
            .collect();
        assert_eq!(left, [], "seed {seed}: {:?}", script.machine.places);
        assert!(
            script.machine.groups.is_empty(),
            "seed {seed}: {:?}",
            script.machine.groups
        );
        assert!(script.machine.waiting.is_empty(), "seed {seed}");
        hold_invariants(&script.events(), 1);
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = || {
        let mut dice = Dice(42);
        let mut script = Script::new();
        for _ in 0..2_000 {
            throw(&mut script, &mut dice);
        }
        script.out
    };
    assert_eq!(run(), run());
}
