//! What runtimes wrote about a container: asked for when its cgroup appears, told when it is there.
//!
//! A lifecycle event never waits for it. What is known by then is in the event; if it comes later,
//! `container.enriched` tells it, once per change.

use std::sync::{Arc, LazyLock};

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use tracer_common::CgroupKey;

use super::{Action, Emit, Identity, Machine, Output};
use crate::{
    record::{Enrichment, Image, K8s, Kind, Labels, Origin, Runtime},
    time::{BootNs, Timestamp},
};

/// Facts about one container; what is not known is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metadata {
    pub name: Option<Arc<str>>,
    pub image: Option<Arc<Image>>,
    pub label: Option<Arc<Labels>>,
    pub k8s: Option<Arc<K8s>>,
    pub created: Option<Timestamp>,
    pub restart_count: Option<u64>,
    /// It holds the namespaces of a pod and runs nothing of its own.
    pub sandbox: bool,
    /// Where a file proves who keeps the container.
    pub runtime: Option<Runtime>,
    pub level: Enrichment,
}

/// What is needed to find a container's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ask {
    /// Of the container, or a runtime's call that will make one: see [`of_call`].
    pub root: CgroupKey,
    pub id: Arc<str>,
    pub runtime: Option<Arc<str>>,
    /// Bundle and state directory, as the runtime's command line gave them.
    pub bundle: Option<Arc<str>>,
    pub state: Option<Arc<str>>,
    /// By the cgroup's path.
    pub pod_uid: Option<String>,
    /// Who ran the runtime.
    pub owner: Option<u32>,
    /// The user in whose slice the cgroup is.
    pub user: Option<u32>,
    /// The runtime's process while it makes the container: paths are meant as it sees them.
    pub caller: Option<u32>,
    /// Init of the container around this one: what is inside has its files there.
    pub outer: Option<u32>,
    /// Runtimes may be asked for what no file says.
    pub sockets: bool,
}

/// In place of a hierarchy, in the key of a question about a call.
const CALLS: u32 = u32::MAX;

/// Whether a question is about a container that a runtime is about to make.
#[must_use]
pub const fn of_call(root: CgroupKey) -> bool {
    root.hierarchy == CALLS
}

impl Machine {
    /// Asks for what is known of the container with this root. What its runtime had written before
    /// the cgroup was there may be known already; sockets may add to it.
    pub(super) fn ask(&self, root: CgroupKey, sockets: bool, out: &mut Emit<'_>) {
        if let Some(question) = self.question(root) {
            out(Output::Act(Action::Enrich(Box::new(Ask {
                sockets,
                ..question
            }))));
        }
    }

    /// Asks about a container that is about to be: its runtime's command line names the bundle tens
    /// of milliseconds before there is a cgroup, a bare runtime's entrypoint follows that at once.
    pub(super) fn ask_for_call(&mut self, pid: u32, parent_pid: u32, out: &mut Emit<'_>) {
        let Some((number, call)) = self.calls.numbered(pid) else {
            return;
        };
        // conmon's child makes the container that conmon was told of.
        let parent = self.calls.get(parent_pid);
        let known = parent.filter(|parent| parent.id == call.id);
        if let Some(known) = known.and_then(|parent| parent.known.clone()) {
            self.calls.learn(number, known);
            return;
        }
        out(Output::Act(Action::Enrich(Box::new(Ask {
            root: CgroupKey::new(CALLS, number),
            id: Arc::clone(&call.id),
            runtime: Some(call.manager()),
            bundle: call.bundle.clone(),
            state: call.root.clone(),
            owner: Some(call.uid),
            caller: Some(pid),
            ..Ask::default()
        }))));
    }

    /// Takes over what was learnt of a container before it was there.
    pub(super) fn foresee(&mut self, root: CgroupKey) {
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        let identity = &instance.identity;
        let call = self.calls.for_id(&identity.id, user_of(&identity.path));
        if let Some(known) = call.and_then(|call| call.known.clone()) {
            instance.enrichment = known.level;
            instance.learn(&known);
        }
    }

    /// What to ask about the container with this root.
    #[must_use]
    pub fn question(&self, root: CgroupKey) -> Option<Ask> {
        let instance = self.instances.get(&root)?;
        let identity = &instance.identity;
        let user = user_of(&identity.path);
        let call = self.calls.for_id(&identity.id, user);
        let outer = identity.parents.last().and_then(|parent| {
            self.roots_around(&identity.path)
                .filter_map(|root| self.instances.get(&root))
                .find(|outer| outer.identity.id == parent.id)?
                .init_pid()
        });
        Some(Ask {
            root,
            id: Arc::clone(&identity.id),
            runtime: identity.runtime.as_ref().map(|r| Arc::clone(&r.name)),
            bundle: call.and_then(|call| call.bundle.clone()),
            state: call.and_then(|call| call.root.clone()),
            pod_uid: identity
                .k8s
                .as_ref()
                .and_then(|k8s| k8s.pod.as_ref()?.uid.clone()),
            owner: call.map(|call| call.uid),
            user,
            caller: None,
            outer,
            sockets: false,
        })
    }

    /// What was found.
    pub(super) fn metadata(
        &mut self,
        at: BootNs,
        root: CgroupKey,
        metadata: &Metadata,
        out: &mut Emit<'_>,
    ) {
        if of_call(root) {
            self.calls.learn(root.id, Arc::new(metadata.clone()));
            return;
        }
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        instance.enrichment = instance.enrichment.max(metadata.level);
        if instance.learn(metadata) {
            self.tell(at, Kind::Enriched, Origin::Kernel, root, out);
        }
    }
}

/// The user in whose slice a cgroup is: `user.slice/user-1000.slice/…`.
fn user_of(path: &[u8]) -> Option<u32> {
    static BEFORE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("/user.slice/user-"));
    let start = BEFORE.find(path)? + BEFORE.needle().len();
    let name = path.get(start..)?.split(|byte| *byte == b'/').next()?;
    let digits = name.strip_suffix(b".slice")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Identity {
    /// Takes over what is new; what is known is not unlearnt. Says whether anything was: a copy of
    /// the whole, to compare it with, would cost more than all else that an event costs.
    pub(super) fn learn(&mut self, metadata: &Metadata) -> bool {
        let mut new = take(&mut self.name, metadata.name.as_ref());
        new |= self.learn_image(metadata.image.as_ref());
        new |= take(&mut self.label, metadata.label.as_ref());
        new |= take(&mut self.created, metadata.created.as_ref());
        new |= take(&mut self.restart_count, metadata.restart_count.as_ref());
        new |= metadata.sandbox && !std::mem::replace(&mut self.sandbox, true);
        new |= take(&mut self.runtime, metadata.runtime.as_ref());
        if let Some(found) = &metadata.k8s {
            let mut k8s = self.k8s.as_deref().cloned().unwrap_or_default();
            if let Some(found) = &found.pod {
                let pod = k8s.pod.get_or_insert_default();
                take(&mut pod.name, found.name.as_ref());
                take(&mut pod.uid, found.uid.as_ref());
                if !found.label.is_empty() {
                    pod.label.clone_from(&found.label);
                }
            }
            take(&mut k8s.namespace, found.namespace.as_ref());
            take(&mut k8s.container, found.container.as_ref());
            new |= take(&mut self.k8s, Some(&Arc::new(k8s)));
        }
        new
    }

    /// Files never know a digest that a socket told: it stays with the image that it is of.
    fn learn_image(&mut self, found: Option<&Arc<Image>>) -> bool {
        let (Some(known), Some(found)) = (&self.image, found) else {
            return take(&mut self.image, found);
        };
        let keeps = found.repo_digests.is_empty() && known.name == found.name;
        let image = if keeps && !known.repo_digests.is_empty() {
            Arc::new(Image {
                repo_digests: known.repo_digests.clone(),
                ..(**found).clone()
            })
        } else {
            Arc::clone(found)
        };
        take(&mut self.image, Some(&image))
    }
}

/// Whether what was found is not what is known.
fn take<T: Clone + PartialEq>(known: &mut Option<T>, found: Option<&T>) -> bool {
    let is_new = found.is_some() && known.as_ref() != found;
    if is_new {
        *known = found.cloned();
    }
    is_new
}
