//! Cgroups come, change and go: which are containers, and what that means for them.

use std::sync::Arc;

use tracer_common::CgroupKey;

use super::{
    Action, Emit, Identity, Instance, Machine, Output,
    calls::RuntimeCall,
    instance::End,
    places::{Claim, Group, Place, level_of},
};
use crate::{
    decode::Mkdir,
    identity::{self, identify},
    record::{K8s, Kind, Origin, Parent, Pod, Runtime},
    time::BootNs,
};

/// What a path turns out to be.
enum Verdict {
    Container(Claim),
    /// In the container with this root.
    Inside(CgroupKey),
    Candidate(Option<CgroupKey>),
    /// Of no interest.
    None,
}

impl Machine {
    pub(super) fn mkdir(&mut self, at: BootNs, mkdir: &Mkdir<'_>, out: &mut Emit<'_>) {
        let key = mkdir.cgroup;
        if self.instances.contains_key(&key) {
            // The kernel never uses an id twice: it is told again.
            self.oddities += 1;
            return;
        }
        let path = self.full_path(mkdir);
        let parent = CgroupKey::new(key.hierarchy, mkdir.parent_id);
        match self.judge(&path, Some(parent), Some(mkdir)) {
            Verdict::Container(claim) => self.appeared(at, key, claim, Origin::Kernel, out),
            Verdict::Inside(root) => self.inside(key, root, out),
            Verdict::Candidate(within) => {
                self.places.put(key, Place::Candidate { path, within });
            }
            Verdict::None => out(Output::Act(Action::Forget(key))),
        }
    }

    pub(super) fn rename(&mut self, mkdir: &Mkdir<'_>) {
        let Some(instance) = self.instances.get_mut(&mkdir.cgroup) else {
            return;
        };
        let path: Arc<[u8]> = mkdir.path.into();
        let old = std::mem::replace(&mut instance.identity_mut().path, Arc::clone(&path));
        if instance.group == old {
            instance.group = Arc::clone(&path);
        }
        if self.groups.remove_root(&old, mkdir.cgroup) {
            self.groups.set_root(&path, mkdir.cgroup);
        }
    }

    pub(super) fn rmdir(&mut self, at: BootNs, key: CgroupKey, origin: Origin, out: &mut Emit<'_>) {
        if self.instances.contains_key(&key) {
            return self.removed(at, key, origin, out);
        }
        match self.places.take(&key) {
            Some(Place::Twin(claim)) => self.twin_removed(at, key, *claim, out),
            Some(Place::Inside(root)) => {
                if let Some(Place::Twin(claim)) = self.places.get(&root)
                    && let Some(twins) = self.groups.twins(&claim.group)
                {
                    twins.cgroups.retain(|twin| *twin != key);
                }
            }
            Some(Place::Candidate { .. }) => {}
            None => self.oddities += 1,
        }
    }

    pub(super) fn populated(
        &mut self,
        at: BootNs,
        key: CgroupKey,
        populated: bool,
        out: &mut Emit<'_>,
    ) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let was = std::mem::replace(&mut instance.populated, populated);
        if populated || !was {
            return;
        }
        // Nothing runs any more, so init does not either: its end went untold only if it was not
        // followed, as one that was there before the tracer may not be.
        if instance.is_alive() {
            instance.end = Some(End::Exited);
            instance.frozen = false;
            self.tell(at, Kind::Exited, Origin::Kernel, key, out);
        }
        self.tell(at, Kind::Emptied, Origin::Kernel, key, out);
    }

    pub(super) fn frozen(&mut self, at: BootNs, key: CgroupKey, frozen: bool, out: &mut Emit<'_>) {
        let root = self.container_of(key).unwrap_or(key);
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        if key != root && instance.home != Some(key) {
            return;
        }
        if instance.frozen == frozen || !instance.is_alive() {
            return;
        }
        instance.frozen = frozen;
        let kind = if frozen { Kind::Paused } else { Kind::Resumed };
        self.tell(at, kind, Origin::Kernel, root, out);
    }

    /// Id of the parent, where a path was cut and what is missing is not known.
    #[must_use]
    pub fn lacks_parent(&self, mkdir: &Mkdir<'_>) -> Option<CgroupKey> {
        mkdir.leaf?;
        let parent = CgroupKey::new(mkdir.cgroup.hierarchy, mkdir.parent_id);
        self.path_of(&parent).is_none().then_some(parent)
    }

    /// A cgroup of before has this path.
    pub(super) fn named(&mut self, cgroup: CgroupKey, path: &Arc<[u8]>) {
        if !self.instances.contains_key(&cgroup) && self.places.get(&cgroup).is_none() {
            let path = Arc::clone(path);
            let place = Place::Candidate { path, within: None };
            self.places.put(cgroup, place);
        }
    }

    fn path_of(&self, key: &CgroupKey) -> Option<&Arc<[u8]>> {
        if let Some(instance) = self.instances.get(key) {
            return Some(&instance.identity.path);
        }
        match self.places.get(key)? {
            Place::Twin(claim) => Some(&claim.path),
            Place::Candidate { path, .. } => Some(path),
            Place::Inside(_) => None,
        }
    }

    /// The path as a whole. The kernel cuts a long one at its end; then the parent's is known, or
    /// the missing middle is marked.
    fn full_path(&self, mkdir: &Mkdir<'_>) -> Arc<[u8]> {
        let Some(leaf) = mkdir.leaf else {
            return mkdir.path.into();
        };
        let parent = CgroupKey::new(mkdir.cgroup.hierarchy, mkdir.parent_id);
        if let Some(parent) = self.path_of(&parent) {
            return [parent, b"/".as_slice(), leaf].concat().into();
        }
        let end = mkdir.path.iter().rposition(|byte| *byte == b'/');
        let kept = mkdir.path.get(..end.unwrap_or(0)).unwrap_or_default();
        [kept, "/…/".as_bytes(), leaf].concat().into()
    }

    /// The root of the container that a cgroup lies in. Most records name the root itself.
    pub(super) fn container_of(&self, key: CgroupKey) -> Option<CgroupKey> {
        if self.instances.contains_key(&key) {
            return Some(key);
        }
        match self.places.get(&key)? {
            Place::Inside(root) => Some(*root),
            Place::Candidate { within, .. } => *within,
            Place::Twin(_) => None,
        }
    }

    /// Roots above a path, the nearest first.
    pub(super) fn roots_around(&self, path: &[u8]) -> impl Iterator<Item = CgroupKey> {
        let ends = (0..path.len()).rev();
        ends.filter(|end| path.get(*end) == Some(&b'/'))
            .filter_map(|end| self.groups.root(path.get(..end)?))
    }

    fn judge(
        &self,
        path: &Arc<[u8]>,
        parent: Option<CgroupKey>,
        mkdir: Option<&Mkdir<'_>>,
    ) -> Verdict {
        let around = parent.and_then(|parent| self.container_of(parent));
        // In another hierarchy than its own a container around is not known by the parent's key, but
        // mostly by its path.
        let outer = around.or_else(|| self.roots_around(path).next());
        match identify(path) {
            identity::Identity::Container(found) if found.root_len == path.len() => {
                Verdict::Container(self.claim(found, path, outer))
            }
            identity::Identity::Container(found) => self.judge_child(&found, path, around, mkdir),
            identity::Identity::Unknown => {
                match mkdir.and_then(|mkdir| self.call_for(mkdir, leaf_of(path))) {
                    Some((pid, call)) => Verdict::Container(Claim {
                        id: Arc::clone(&call.id),
                        runtime: Some(Runtime {
                            name: call.manager(),
                        }),
                        pod_uid: None,
                        parents: self.lineage(outer),
                        path: Arc::clone(path),
                        // No path has a NUL.
                        group: format!("\0{pid} {}", call.id).into_bytes().into(),
                    }),
                    None => Verdict::Candidate(outer),
                }
            }
            // What is the host's by its path may be inside a container that only its runtime named.
            identity::Identity::Excluded { .. } | identity::Identity::NotContainer { .. } => {
                around.map_or(Verdict::None, Verdict::Inside)
            }
        }
    }

    /// A cgroup below one that is a container by its path.
    fn judge_child(
        &self,
        found: &identity::Container,
        path: &Arc<[u8]>,
        around: Option<CgroupKey>,
        mkdir: Option<&Mkdir<'_>>,
    ) -> Verdict {
        if let Some(root) = around {
            // A nested runtime may make containers of its own there, whose paths say nothing.
            return Verdict::Candidate(Some(root));
        }
        let root = path.get(..found.root_len).unwrap_or_default();
        match self.groups.get(root) {
            // Below a twin that is forgotten: the container's own, unless a runtime inside makes it.
            Some(Group::Root(root)) => mkdir
                .and_then(|mkdir| self.call_for(mkdir, leaf_of(path)))
                .map_or(Verdict::None, |_call| Verdict::Candidate(Some(*root))),
            Some(Group::Twins(twins)) => {
                let twin = twins.cgroups.first();
                twin.map_or(Verdict::None, |twin| Verdict::Inside(*twin))
            }
            None => Verdict::Candidate(None),
        }
    }

    /// The runtime call that this cgroup was made for, by the maker or by the name.
    fn call_for(&self, mkdir: &Mkdir<'_>, leaf: &[u8]) -> Option<(u32, &RuntimeCall)> {
        [mkdir.maker_pid, mkdir.maker_parent_pid]
            .into_iter()
            .find_map(|pid| {
                let call = self.calls.get(pid).filter(|call| call.fits(leaf))?;
                Some((pid, call))
            })
            .or_else(|| self.calls.for_leaf(leaf))
    }

    pub(super) fn claim(
        &self,
        found: identity::Container,
        path: &Arc<[u8]>,
        around: Option<CgroupKey>,
    ) -> Claim {
        let by_path: Vec<Parent> = found
            .parents
            .iter()
            .map(|parent| Parent {
                id: parent.id.as_str().into(),
                runtime: Some(Runtime {
                    name: parent.runtime.shared_name(),
                }),
            })
            .collect();
        let known = self.lineage(around);
        Claim {
            id: found.id.into(),
            runtime: Some(Runtime {
                name: found.runtime.shared_name(),
            }),
            pod_uid: found.pod_uid,
            // What the table knows includes containers whose paths say nothing.
            parents: if known.len() >= by_path.len() {
                known
            } else {
                by_path.into()
            },
            path: Arc::clone(path),
            group: Arc::clone(path),
        }
    }

    /// The containers around something that lies in the container `around`, that one included.
    pub(super) fn lineage(&self, around: Option<CgroupKey>) -> Arc<[Parent]> {
        let Some(instance) = around.and_then(|root| self.instances.get(&root)) else {
            return Arc::default();
        };
        let identity = &instance.identity;
        let itself = Parent {
            id: Arc::clone(&identity.id),
            runtime: identity.runtime.clone(),
        };
        identity.parents.iter().cloned().chain([itself]).collect()
    }

    /// A container's cgroup is there.
    pub(super) fn appeared(
        &mut self,
        at: BootNs,
        key: CgroupKey,
        claim: Claim,
        origin: Origin,
        out: &mut Emit<'_>,
    ) {
        match self.groups.root(&claim.group) {
            None if key.hierarchy == self.host.preferred() => {
                self.create(at, key, claim, origin, out);
            }
            None => {
                let twins = self.groups.add_twin(&claim.group, key);
                if Some(key.hierarchy) == self.host.freezer
                    && let Some(twins) = twins
                {
                    twins.freezer = Some(Arc::clone(&claim.path));
                }
                self.places.put(key, Place::Twin(Box::new(claim)));
            }
            // The same hierarchy: the one before it went without a word.
            Some(root) if root.hierarchy == key.hierarchy => {
                self.oddities += 1;
                self.removed(at, root, Origin::Reconcile, out);
                self.create(at, key, claim, origin, out);
            }
            Some(root) => self.twin_of(root, key, claim.path, out),
        }
    }

    /// A cgroup is the twin of a container that is known: it tells nothing more, but how the
    /// container's freezer is reached.
    pub(super) fn twin_of(
        &mut self,
        root: CgroupKey,
        key: CgroupKey,
        path: Arc<[u8]>,
        out: &mut Emit<'_>,
    ) {
        out(Output::Act(Action::Forget(key)));
        let Some(instance) = self.instances.get(&root) else {
            return;
        };
        if level_of(&path) > level_of(&instance.identity.path) {
            self.places.put(key, Place::Inside(root));
        }
        if Some(key.hierarchy) == self.host.freezer {
            out(Output::Act(Action::WatchFreezer { root, path }));
        }
    }

    /// A new cgroup inside a container, or inside the twin of one.
    fn inside(&mut self, key: CgroupKey, root: CgroupKey, out: &mut Emit<'_>) {
        match self.places.get(&root) {
            _ if self.instances.contains_key(&root) => {}
            Some(Place::Twin(claim)) => {
                if let Some(twins) = self.groups.twins(&claim.group) {
                    twins.cgroups.push(key);
                }
            }
            _ => return out(Output::Act(Action::Forget(key))),
        }
        self.places.put(key, Place::Inside(root));
    }

    /// Makes the instance and tells it. `Origin::Kernel` means that it was seen being made.
    pub(super) fn create(
        &mut self,
        at: BootNs,
        key: CgroupKey,
        claim: Claim,
        origin: Origin,
        out: &mut Emit<'_>,
    ) {
        self.enter(key, claim, out);
        self.foresee(key);
        if origin == Origin::Kernel {
            self.tell(at, Kind::Created, origin, key, out);
        }
        self.ask(key, true, out);
    }

    /// Enters an instance into the table without a word, in place of its twins.
    pub(super) fn enter(&mut self, key: CgroupKey, claim: Claim, out: &mut Emit<'_>) {
        let mut twins = self.groups.set_root(&claim.group, key);
        if claim.group != claim.path {
            let others = self.groups.set_root(&claim.path, key);
            twins.cgroups.extend(others.cgroups);
            twins.freezer = twins.freezer.or(others.freezer);
        }
        let path = twins.freezer.unwrap_or_else(|| Arc::clone(&claim.path));
        let level = level_of(&claim.path);
        self.places.take(&key);
        for twin in twins.cgroups {
            if twin == key {
                continue;
            }
            match self.places.take(&twin) {
                Some(Place::Twin(claim)) if level_of(&claim.path) <= level => {}
                _ => self.places.put(twin, Place::Inside(key)),
            }
            out(Output::Act(Action::Forget(twin)));
        }
        let group = Arc::clone(&claim.group);
        let instance = Instance::new(self.identity(key, claim), group);
        self.instances.insert(key, instance);
        if self.host.freezer.is_some() {
            out(Output::Act(Action::WatchFreezer { root: key, path }));
        }
    }

    fn identity(&self, key: CgroupKey, claim: Claim) -> Identity {
        let k8s = claim.pod_uid.map(|uid| {
            Arc::new(K8s {
                pod: Some(Pod {
                    uid: Some(uid),
                    ..Pod::default()
                }),
                ..K8s::default()
            })
        });
        let runtime = claim.runtime.as_ref().map(|runtime| &*runtime.name);
        let named = runtime.is_some_and(identity::is_named_by_id);
        Identity {
            name: named.then(|| Arc::clone(&claim.id)),
            id: claim.id,
            boot_id: Arc::clone(&self.host.boot_id),
            runtime: claim.runtime,
            parents: claim.parents,
            cgroup: key,
            hierarchy: self.host.hierarchy(key.hierarchy),
            path: claim.path,
            image: None,
            label: None,
            k8s,
            created: None,
            restart_count: None,
            sandbox: false,
        }
    }

    /// A process landed in a cgroup that is no root yet: now it is, if it is a container's at all.
    /// Returns the root.
    pub(super) fn settle(
        &mut self,
        at: BootNs,
        key: CgroupKey,
        parent_pid: u32,
        out: &mut Emit<'_>,
    ) -> Option<CgroupKey> {
        if self.instances.contains_key(&key) {
            return Some(key);
        }
        match self.places.get(&key)? {
            Place::Inside(root) if self.instances.contains_key(root) => Some(*root),
            Place::Inside(root) => {
                let root = *root;
                self.settle(at, root, parent_pid, out)
            }
            Place::Twin(claim) => {
                let claim = (**claim).clone();
                self.create(at, key, claim, Origin::Kernel, out);
                Some(key)
            }
            Place::Candidate { path, within } => {
                let (path, within) = (Arc::clone(path), *within);
                if let Some(root) = within.filter(|root| self.is_own(*root, parent_pid)) {
                    self.places.put(key, Place::Inside(root));
                    return Some(root);
                }
                let claim = self.claim_of_candidate(path, within, parent_pid)?;
                self.appeared(at, key, claim, Origin::Kernel, out);
                // A twin: it is in no preferred hierarchy, and a process is in it, as above.
                match self.places.get(&key) {
                    Some(Place::Candidate { .. } | Place::Inside(_)) => None,
                    Some(Place::Twin(_)) | None => self.settle(at, key, parent_pid, out),
                }
            }
        }
    }

    /// Whether what lands in a cgroup inside the container with this root is that container's own:
    /// crun puts its container into a child of the scope that systemd made for it. A container that
    /// has not started yet cannot have made another.
    fn is_own(&self, root: CgroupKey, parent_pid: u32) -> bool {
        let Some(instance) = self.instances.get(&root) else {
            return false;
        };
        let call = self.calls.get(parent_pid);
        instance.started.is_none() || call.is_some_and(|call| call.id == instance.identity.id)
    }

    /// A candidate in which a process became the first of a new pid namespace: named by the runtime
    /// that brought it in, or else by its own cgroup.
    fn claim_of_candidate(
        &self,
        path: Arc<[u8]>,
        within: Option<CgroupKey>,
        parent_pid: u32,
    ) -> Option<Claim> {
        let leaf = leaf_of(&path);
        let call = self.calls.get(parent_pid);
        let id = match call {
            Some(call) => Arc::clone(&call.id),
            None if leaf.is_empty() => return None,
            None => String::from_utf8_lossy(leaf).as_ref().into(),
        };
        Some(Claim {
            id,
            runtime: call.map(|call| Runtime {
                name: call.manager(),
            }),
            pod_uid: None,
            parents: self.lineage(within),
            group: Arc::clone(&path),
            path,
        })
    }

    /// The instance's cgroup is gone, and with it the instance.
    pub(super) fn removed(
        &mut self,
        at: BootNs,
        key: CgroupKey,
        origin: Origin,
        out: &mut Emit<'_>,
    ) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        if instance.is_alive() {
            instance.end = Some(End::Exited);
            self.tell(at, Kind::Exited, origin, key, out);
        } else if instance.started.is_none() && instance.end.is_none() {
            instance.end = Some(End::Failed);
            self.tell(at, Kind::StartFailed, origin, key, out);
        }
        // Linux 7.3 lets a cgroup go while its last tasks are dying, and may tell only after that that
        // it holds none.
        if origin == Origin::Kernel {
            self.populated(at, key, false, out);
        }
        let Some(mut event) = self.event(at, Kind::Removed, origin, key) else {
            return;
        };
        if let Some(subject) = &mut event.container {
            subject.state = crate::record::State::Removed;
        }
        out(Output::Event(&event));
        let Some(instance) = self.instances.remove(&key) else {
            return;
        };
        self.groups.remove_root(&instance.group, key);
        if instance.group != instance.identity.path {
            self.groups.remove_root(&instance.identity.path, key);
        }
        if self.host.freezer.is_some() {
            out(Output::Act(Action::UnwatchFreezer { root: key }));
        }
        self.stop_waiting(key, instance.candidate);
        // Cgroups inside go before their root; what is left of them was lost.
        self.places.take_inside(key);
    }

    /// The last twin of a container that never got a root: it lived, if only to fail.
    fn twin_removed(&mut self, at: BootNs, key: CgroupKey, claim: Claim, out: &mut Emit<'_>) {
        let Some(twins) = self.groups.twins(&claim.group) else {
            return;
        };
        twins.cgroups.retain(|twin| *twin != key);
        if !twins.cgroups.is_empty() {
            return;
        }
        self.create(at, key, claim, Origin::Kernel, out);
        self.removed(at, key, Origin::Kernel, out);
    }
}

/// Name of the cgroup with this path.
pub(super) fn leaf_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}
