//! What a scan of the host found, against what the table knows.
//!
//! At start the table is empty and everything found is `discovered`. After a loss the table is
//! repaired: what is new is discovered, what changed is told, what is gone is removed; what is equal
//! is not told again. An incomplete scan removes nothing but what was there before a reboot.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_common::CgroupKey;

use super::{
    Action, Comm, Emit, Machine, Output,
    cgroups::leaf_of,
    instance::{End, Instance, Member},
    places::{Claim, Place},
};
use crate::{
    identity::{self, identify},
    record::{Kind, Origin, Parent, Runtime, State},
    time::BootNs,
};

/// A scan of cgroupfs and `/proc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Parents before children, the preferred hierarchy first.
    pub found: Vec<Found>,
    /// Every directory could be read or was gone.
    pub complete: bool,
    /// Cgroups of which the ring, drained after the scan, tells something newer: what is known of
    /// them is not compared with the scan.
    pub touched: BTreeSet<CgroupKey>,
    /// Those of them that the ring tells from their mkdir on: they are not taken from the scan at
    /// all.
    pub born: BTreeSet<CgroupKey>,
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub cgroup: CgroupKey,
    pub path: Arc<[u8]>,
    pub frozen: bool,
    pub populated: bool,
    /// Made a moment before the scan: if it is empty, then because it is not filled yet.
    #[serde(default)]
    pub fresh: bool,
    /// Its own processes, without those of the cgroups inside.
    pub processes: Vec<FoundProcess>,
}

/// A process in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundProcess {
    pub pid: u32,
    pub vpid: u32,
    pub parent_pid: u32,
    /// Nesting level of its pid namespace, seen from the tracer's.
    pub pid_ns_level: u32,
    /// Nanoseconds since boot, in steps of a clock tick: `/proc` tells no more.
    pub start_ns: u64,
    pub comm: Comm,
}

/// Containers whose cgroup in the preferred hierarchy is not taken from the scan. Their twins in other
/// hierarchies are not taken either: they would be told as containers that live there alone.
#[derive(Default)]
struct LeftOut<'a> {
    paths: BTreeSet<&'a [u8]>,
    /// Pid and start of each first process of a pid namespace, for twins with another path.
    inits: BTreeSet<(u32, u64)>,
    preferred: u32,
}

/// What a scan tells of one container.
struct Sight<'a> {
    root: &'a Found,
    /// Those inside.
    inside: &'a [Found],
    /// All processes in it, cgroups inside included.
    processes: Vec<&'a FoundProcess>,
}

impl Machine {
    pub(super) fn snapshot(
        &mut self,
        at: BootNs,
        snapshot: &Snapshot,
        origin: Origin,
        out: &mut Emit<'_>,
    ) {
        // What was there before a reboot is gone, though another cgroup may have its id by now.
        let boot_id = Arc::clone(&self.host.boot_id);
        let before = |instance: &Instance| instance.identity.boot_id != boot_id;
        self.all_removed(at, |_, instance| before(instance), origin, out);
        let mut seen = BTreeSet::new();
        let left_out = LeftOut::of(snapshot, self.host.preferred());
        for (index, found) in snapshot.found.iter().enumerate() {
            if snapshot.born.contains(&found.cgroup) || left_out.has_twin(found) {
                continue;
            }
            if let Some(instance) = self.instances.get(&found.cgroup)
                && [Some(found.cgroup), instance.home]
                    .into_iter()
                    .flatten()
                    .any(|cgroup| snapshot.touched.contains(&cgroup))
            {
                seen.insert(found.cgroup);
                continue;
            }
            let inside = snapshot.found.get(index + 1..).unwrap_or_default();
            self.found(at, found, inside, origin, &mut seen, out);
        }
        if !snapshot.complete {
            return;
        }
        let gone = |key: &CgroupKey| !seen.contains(key) && !snapshot.touched.contains(key);
        self.all_removed(at, |key, _| gone(key), origin, out);
    }

    /// Tells those as removed of which `gone` is true.
    fn all_removed(
        &mut self,
        at: BootNs,
        gone: impl Fn(&CgroupKey, &Instance) -> bool,
        origin: Origin,
        out: &mut Emit<'_>,
    ) {
        let gone: Vec<CgroupKey> = self
            .instances
            .iter()
            .filter(|(key, instance)| gone(key, instance))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.removed(at, key, origin, out);
        }
    }

    fn found(
        &mut self,
        at: BootNs,
        found: &Found,
        after: &[Found],
        origin: Origin,
        seen: &mut BTreeSet<CgroupKey>,
        out: &mut Emit<'_>,
    ) {
        let sight = Sight::of(found, after);
        if self.instances.contains_key(&found.cgroup) {
            seen.insert(found.cgroup);
            self.compare(at, &sight, origin, out);
            return;
        }
        match self.claim_of(found, &sight) {
            Sighting::Container(claim) => {
                let other = self.groups.root(&claim.path);
                let twin_of = other
                    .filter(|root| root.hierarchy != found.cgroup.hierarchy)
                    .or_else(|| self.known_elsewhere(&sight));
                if let Some(root) = twin_of {
                    self.twin_of(root, found.cgroup, claim.path, out);
                    return;
                }
                seen.insert(found.cgroup);
                if let Some(root) = other {
                    self.removed(at, root, origin, out);
                }
                self.enter(found.cgroup, claim, out);
                if let Some(instance) = self.instances.get_mut(&found.cgroup) {
                    instance.adopt(&sight);
                }
                self.tell(at, Kind::Discovered, origin, found.cgroup, out);
                self.ask(found.cgroup, true, out);
            }
            Sighting::Inside(root) => {
                if self.places.get(&found.cgroup).is_none() {
                    self.places.put(found.cgroup, Place::Inside(root));
                }
            }
            Sighting::Candidate(within) => {
                let path = Arc::clone(&found.path);
                if self.places.get(&found.cgroup).is_none() {
                    let place = Place::Candidate { path, within };
                    self.places.put(found.cgroup, place);
                }
            }
            Sighting::None => out(Output::Act(Action::Forget(found.cgroup))),
        }
    }

    /// The same container, found in the preferred hierarchy under another path, as one that its
    /// runtime was given no path for may be.
    fn known_elsewhere(&self, sight: &Sight<'_>) -> Option<CgroupKey> {
        let init = sight.init()?;
        let key = sight.root.cgroup;
        if key.hierarchy == self.host.preferred() {
            return None;
        }
        let mut instances = self.instances.iter();
        let (root, _) = instances.find(|(root, instance)| {
            root.hierarchy != key.hierarchy
                && [instance.init, instance.candidate]
                    .into_iter()
                    .flatten()
                    .any(|member| member.is_found(init.pid, init.start_ns))
        })?;
        Some(*root)
    }

    fn claim_of(&self, found: &Found, sight: &Sight<'_>) -> Sighting {
        let around = self.around(found);
        // As for a mkdir: in another hierarchy the container around is known by its path.
        let outer = around.or_else(|| self.roots_around(&found.path).next());
        match identify(&found.path) {
            identity::Identity::Container(container) if container.root_len == found.path.len() => {
                Sighting::Container(self.claim_found(container, found, outer))
            }
            identity::Identity::Container(_) => match outer {
                Some(root) if self.is_nested(root, sight) => {
                    Sighting::Container(self.claim_unknown(found, outer))
                }
                _ => around.map_or(Sighting::None, Sighting::Inside),
            },
            identity::Identity::Unknown => match sight.init() {
                Some(_) => Sighting::Container(self.claim_unknown(found, outer)),
                None => Sighting::Candidate(around),
            },
            identity::Identity::Excluded { .. } | identity::Identity::NotContainer { .. } => {
                around.map_or(Sighting::None, Sighting::Inside)
            }
        }
    }

    /// Whether what was found in the container with this root is a container of its own, which no
    /// path tells: the first process of a pid namespace is in it that lies within the outer one's.
    fn is_nested(&self, root: CgroupKey, sight: &Sight<'_>) -> bool {
        let outer = self.instances.get(&root).and_then(|outer| outer.init);
        sight
            .root
            .inits()
            .any(|init| outer.is_some_and(|outer| !outer.is_found(init.pid, init.start_ns)))
    }

    /// The container that this cgroup lies in, by its path: parents were found before.
    fn around(&self, found: &Found) -> Option<CgroupKey> {
        self.roots_around(&found.path)
            .find(|root| root.hierarchy == found.cgroup.hierarchy)
    }

    fn claim_found(
        &self,
        container: identity::Container,
        found: &Found,
        around: Option<CgroupKey>,
    ) -> Claim {
        self.claim(container, &found.path, around)
    }

    fn claim_unknown(&self, found: &Found, around: Option<CgroupKey>) -> Claim {
        let leaf = leaf_of(&found.path);
        let call = self.calls.for_leaf(leaf).map(|(_, call)| call);
        let parents: Arc<[Parent]> = self.lineage(around);
        Claim {
            id: call.map_or_else(
                || String::from_utf8_lossy(leaf).as_ref().into(),
                |call| Arc::clone(&call.id),
            ),
            runtime: call.map(|call| Runtime {
                name: call.manager(),
            }),
            pod_uid: None,
            parents,
            path: Arc::clone(&found.path),
            group: Arc::clone(&found.path),
        }
    }

    /// A container that was known: tells what changed since.
    fn compare(&mut self, at: BootNs, sight: &Sight<'_>, origin: Origin, out: &mut Emit<'_>) {
        let key = sight.root.cgroup;
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let before = instance.state();
        let populated = instance.populated;
        let init = sight.init();
        let mut told = Vec::new();
        let mut waited_for = None;
        if before == State::Created
            && let Some(init) = init.filter(|init| !init.is_waiting())
        {
            waited_for = instance.adopt_init(init);
            told.push(Kind::Started);
        }
        if instance.is_alive() {
            told.extend(instance.compare_init(sight));
        }
        instance.populated = sight.root.populated;
        if populated && !sight.root.populated {
            told.push(Kind::Emptied);
        }
        let sessions = instance.compare_sessions(sight);
        self.stop_waiting(key, waited_for);
        for (kind, session) in sessions {
            if let Some(mut event) = self.event(at, kind, origin, key) {
                event.session = Some((session.pid, session.start_ns));
                out(Output::Event(&event));
            }
        }
        for kind in told {
            self.tell(at, kind, origin, key, out);
        }
    }
}

impl<'a> LeftOut<'a> {
    fn of(snapshot: &'a Snapshot, preferred: u32) -> Self {
        let mut left_out = Self {
            preferred,
            ..Self::default()
        };
        for found in &snapshot.found {
            if found.cgroup.hierarchy == preferred && snapshot.born.contains(&found.cgroup) {
                left_out.paths.insert(&found.path);
                left_out.inits.extend(found.inits().map(FoundProcess::key));
            }
        }
        left_out
    }

    fn has_twin(&self, found: &Found) -> bool {
        found.cgroup.hierarchy != self.preferred
            && (self.paths.contains(&*found.path)
                || found.inits().any(|init| self.inits.contains(&init.key())))
    }
}

impl Found {
    /// The first processes of pid namespaces of the container's own.
    fn inits(&self) -> impl Iterator<Item = &FoundProcess> {
        self.processes.iter().filter(|process| process.is_first())
    }
}

/// What a cgroup that a scan found is.
enum Sighting {
    Container(Claim),
    Inside(CgroupKey),
    Candidate(Option<CgroupKey>),
    None,
}

impl<'a> Sight<'a> {
    /// `after` are the cgroups found after `root`; those inside follow it directly.
    fn of(root: &'a Found, after: &'a [Found]) -> Self {
        let is_inside = |other: &Found| {
            other.cgroup.hierarchy == root.cgroup.hierarchy
                && other
                    .path
                    .strip_prefix(&*root.path)
                    .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let outside = after.iter().position(|other| !is_inside(other));
        let inside = after.get(..outside.unwrap_or(after.len()));
        let inside = inside.unwrap_or_default();
        Self {
            root,
            inside,
            processes: [root]
                .into_iter()
                .chain(inside)
                .flat_map(|found| &found.processes)
                .collect(),
        }
    }

    /// The first process of the container's pid namespace; without one of its own (`--pid=host`,
    /// `--pid=container:`) the oldest process that came from outside.
    fn init(&self) -> Option<&'a FoundProcess> {
        let own = self.processes.iter().copied();
        own.filter(|process| process.is_first())
            .min_by_key(|process| (process.pid_ns_level, process.start_ns))
    }

    /// The cgroup inside in which a process is.
    fn place_inside(&self, process: &FoundProcess) -> Option<&'a Found> {
        self.inside.iter().find(|found| {
            let mut processes = found.processes.iter();
            processes.any(|other| other.key() == process.key())
        })
    }

    fn oldest_entered(&self) -> Option<&'a FoundProcess> {
        self.entered().min_by_key(|process| process.start_ns)
    }

    /// Processes whose parent is not in the container.
    fn entered(&self) -> impl Iterator<Item = &'a FoundProcess> {
        self.processes.iter().copied().filter(|process| {
            self.processes
                .iter()
                .all(|other| other.pid != process.parent_pid)
        })
    }
}

impl FoundProcess {
    /// Whether it is a runtime's own stage, waiting to be told to start.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        super::processes::is_runtime_init(&self.comm)
    }

    /// Whether it is the first of a pid namespace that is not the tracer's.
    const fn is_first(&self) -> bool {
        self.vpid == 1 && self.pid_ns_level > 0
    }

    /// What no other process has.
    const fn key(&self) -> (u32, u64) {
        (self.pid, self.start_ns)
    }
}

impl Instance {
    /// Takes over the state in which a container was found.
    fn adopt(&mut self, sight: &Sight<'_>) {
        self.populated = sight.root.populated;
        match sight.init().or_else(|| sight.oldest_entered()) {
            Some(init) if init.is_waiting() => {
                self.candidate = Some(init.member());
            }
            Some(init) => {
                self.adopt_init(init);
                self.adopt_place(sight, init);
                for process in sight.entered().filter(|p| p.pid != init.pid) {
                    self.sessions.insert(process.member());
                }
            }
            // A runtime that made a cgroup fills it at once; one that cleans up may leave it for
            // long. Should it be filled all the same, its start is told.
            None if sight.root.fresh => {}
            None => self.end = Some(End::Exited),
        }
    }

    /// What became of init since.
    fn compare_init(&mut self, sight: &Sight<'_>) -> Option<Kind> {
        let init = self.init.and_then(|member| {
            let mut processes = sight.processes.iter();
            processes.find(|process| member.is_found(process.pid, process.start_ns))
        });
        let Some(init) = init else {
            self.end = Some(End::Exited);
            self.frozen = false;
            return Some(Kind::Exited);
        };
        let was_frozen = self.frozen;
        self.adopt_place(sight, init);
        match (was_frozen, self.frozen) {
            (false, true) => Some(Kind::Paused),
            (true, false) => Some(Kind::Resumed),
            _ => None,
        }
    }

    /// Which exec sessions ended and began since. One that began is told from an orphan by its
    /// parent: in a pid namespace of the container's own, orphans become children of its init.
    fn compare_sessions(&mut self, sight: &Sight<'_>) -> Vec<(Kind, Member)> {
        let mut changes = Vec::new();
        self.sessions.retain(|session| {
            let mut processes = sight.processes.iter();
            let there = processes.any(|process| session.is_found(process.pid, process.start_ns));
            if !there {
                changes.push((Kind::ExecExited, *session));
            }
            there
        });
        let Some(init) = sight.init().filter(|_| self.is_alive()) else {
            return changes;
        };
        for process in sight.entered() {
            let own = process.pid_ns_level == init.pid_ns_level && process.pid != init.pid;
            if own && !process.is_waiting() && self.sessions.get(process.pid).is_none() {
                self.sessions.insert(process.member());
                changes.push((Kind::ExecStarted, process.member()));
            }
        }
        changes
    }

    /// Where init is, and whether it is frozen there: a runtime that puts its container into a cgroup
    /// inside freezes that one alone.
    fn adopt_place(&mut self, sight: &Sight<'_>, init: &FoundProcess) {
        let inside = sight.place_inside(init);
        self.home = inside.map(|found| found.cgroup);
        self.frozen = sight.root.frozen || inside.is_some_and(|found| found.frozen);
    }

    /// Gives what was waited for.
    fn adopt_init(&mut self, init: &FoundProcess) -> Option<Member> {
        self.started = Some(BootNs(init.start_ns));
        self.init = Some(init.member());
        self.candidate.take()
    }
}

impl FoundProcess {
    fn member(&self) -> Member {
        Member {
            pid: self.pid,
            start_ns: self.start_ns,
            since: BootNs(self.start_ns),
            coarse: true,
        }
    }
}
