//! What one file tells, and how several files are put together.

use std::{collections::BTreeMap, path::Path};

use super::{Facts, Source, reference::ImageFacts};
use crate::{
    record::{Image, K8s, Labels, Named, Pod},
    time::Timestamp,
};

/// What one file tells; all of it optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    pub name: Option<String>,
    pub image: ImageFacts,
    pub label: BTreeMap<String, String>,
    pub kube: Kube,
    pub created: Option<Timestamp>,
    pub restart_count: Option<u64>,
    pub sandbox: bool,
    /// The sandbox of its pod.
    pub pod_sandbox: Option<String>,
    /// Who keeps the container, where the file says so.
    pub manager: Option<Manager>,
}

/// Kubernetes' names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Kube {
    pub pod: Option<String>,
    pub uid: Option<String>,
    pub namespace: Option<String>,
    pub container: Option<String>,
}

/// Who keeps a container; decides what can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    Docker,
    /// containerd's CRI.
    Cri,
    /// containerd through ctr, nerdctl or another client.
    Containerd,
    CriO,
    Podman,
}

impl Manager {
    pub(super) fn runtime(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Cri | Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
        }
    }
}

impl Kube {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether everything but the pod's uid is known; a sandbox has no container's name.
    pub(super) fn is_complete(&self, sandbox: bool) -> bool {
        self.pod.is_some() && self.namespace.is_some() && (sandbox || self.container.is_some())
    }

    fn into_record(self) -> Option<K8s> {
        if self.is_empty() {
            return None;
        }
        let named = |name: Option<String>| name.map(|name| Named { name });
        let pod = Pod {
            name: self.pod,
            uid: self.uid,
            label: Labels::default(),
        };
        Some(K8s {
            pod: (pod != Pod::default()).then_some(pod),
            namespace: named(self.namespace),
            container: named(self.container),
        })
    }
}

/// All that is known so far: a file adds, it never overrides an earlier one.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub found: Found,
    pub sources: Vec<Source>,
}

impl Gathered {
    pub(super) fn add(&mut self, more: Found, file: &Path) {
        let have = &mut self.found;
        let mut told = Vec::new();
        let mut tell = |fact: &'static str, new: bool| {
            if new {
                told.push(fact);
            }
        };
        tell("container.name", fill(&mut have.name, more.name));
        let before = have.image.clone();
        have.image = std::mem::take(&mut have.image).or(more.image);
        tell("container.image.name", before.name != have.image.name);
        tell("container.image.tags", before.tags != have.image.tags);
        tell("container.image.id", before.id != have.image.id);
        tell(
            "container.image.repo_digests",
            before.repo_digests != have.image.repo_digests,
        );
        let new = have.label.is_empty() && !more.label.is_empty();
        tell("container.label", new);
        if new {
            have.label = more.label;
        }
        let (kube, other) = (&mut have.kube, more.kube);
        tell("k8s.pod.name", fill(&mut kube.pod, other.pod));
        tell("k8s.pod.uid", fill(&mut kube.uid, other.uid));
        tell(
            "k8s.namespace.name",
            fill(&mut kube.namespace, other.namespace),
        );
        tell(
            "k8s.container.name",
            fill(&mut kube.container, other.container),
        );
        tell("container.created", fill(&mut have.created, more.created));
        tell(
            "container.restart_count",
            fill(&mut have.restart_count, more.restart_count),
        );
        fill(&mut have.pod_sandbox, more.pod_sandbox);
        tell("container.sandbox", more.sandbox && !have.sandbox);
        have.sandbox |= more.sandbox;
        tell(
            "container.runtime.name",
            fill(&mut have.manager, more.manager),
        );
        self.sources.extend(told.into_iter().map(|fact| Source {
            fact,
            file: file.to_owned(),
        }));
    }

    /// The facts, but for what the search itself knows.
    pub(super) fn into_facts(self) -> Facts {
        let Found {
            name,
            image,
            label,
            kube,
            created,
            restart_count,
            sandbox,
            pod_sandbox,
            manager,
        } = self.found;
        let known = image.is_known();
        let ImageFacts {
            name: image_name,
            tags,
            id,
            repo_digests,
        } = image;
        Facts {
            name,
            image: known.then_some(Image {
                name: image_name,
                tags,
                id,
                repo_digests: Vec::new(),
            }),
            repo_digests,
            label,
            k8s: kube.into_record(),
            created,
            restart_count,
            sandbox,
            pod_sandbox,
            runtime: manager.map(Manager::runtime),
            sources: self.sources,
            ..Facts::default()
        }
    }
}

fn fill<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let new = slot.is_none() && value.is_some();
    if new {
        *slot = value;
    }
    new
}
