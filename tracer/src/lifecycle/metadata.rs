//! What runtimes wrote about a container: asked for when its cgroup appears, told when it is there.
//!
//! A lifecycle event never waits for it. What is known by then is in the event; if it comes later,
//! `container.enriched` tells it, once per change.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_common::CgroupKey;

use super::{Action, Identity, Machine, Output};
use crate::{
    record::{Enrichment, Image, K8s, Kind, Origin, Runtime},
    time::{BootNs, Timestamp},
};

/// Facts about one container; what is not known is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub name: Option<Arc<str>>,
    pub image: Option<Arc<Image>>,
    pub label: Option<Arc<BTreeMap<String, String>>>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
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
}

impl Machine {
    /// Asks for what is known of the container with this root, unless all is.
    pub(super) fn ask(&self, root: CgroupKey, out: &mut Vec<Output>) {
        let Some(instance) = self.instances.get(&root) else {
            return;
        };
        if instance.enrichment == Enrichment::Full {
            return;
        }
        if let Some(question) = self.question(root) {
            out.push(Output::Act(Action::Enrich(Box::new(question))));
        }
    }

    /// What to ask about the container with this root.
    #[must_use]
    pub fn question(&self, root: CgroupKey) -> Option<Ask> {
        let instance = self.instances.get(&root)?;
        let identity = &instance.identity;
        let call = self.calls.for_id(&identity.id);
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
        })
    }

    /// What was found.
    pub(super) fn metadata(
        &mut self,
        at: BootNs,
        root: CgroupKey,
        metadata: &Metadata,
        out: &mut Vec<Output>,
    ) {
        let Some(instance) = self.instances.get_mut(&root) else {
            return;
        };
        instance.enrichment = instance.enrichment.max(metadata.level);
        let mut identity = (*instance.identity).clone();
        identity.learn(metadata);
        if identity != *instance.identity {
            instance.identity = Arc::new(identity);
            self.tell(at, Kind::Enriched, Origin::Kernel, root, out);
        }
    }
}

impl Identity {
    /// Takes over what is new; what is known is not unlearnt.
    fn learn(&mut self, metadata: &Metadata) {
        take(&mut self.name, metadata.name.as_ref());
        take(&mut self.image, metadata.image.as_ref());
        take(&mut self.label, metadata.label.as_ref());
        take(&mut self.created, metadata.created.as_ref());
        take(&mut self.restart_count, metadata.restart_count.as_ref());
        self.sandbox |= metadata.sandbox;
        take(&mut self.runtime, metadata.runtime.as_ref());
        if let Some(found) = &metadata.k8s {
            let mut k8s = self.k8s.as_deref().cloned().unwrap_or_default();
            if let Some(found) = &found.pod {
                let pod = k8s.pod.get_or_insert_default();
                take(&mut pod.name, found.name.as_ref());
                take(&mut pod.uid, found.uid.as_ref());
            }
            take(&mut k8s.namespace, found.namespace.as_ref());
            take(&mut k8s.container, found.container.as_ref());
            self.k8s = Some(Arc::new(k8s));
        }
    }
}

fn take<T: Clone>(known: &mut Option<T>, found: Option<&T>) {
    if let Some(found) = found {
        *known = Some(found.clone());
    }
}
