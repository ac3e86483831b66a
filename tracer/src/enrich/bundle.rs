//! An OCI bundle's `config.json`. It says nothing about names or images itself; who made it writes
//! such things into `annotations`, each in its own way. Those are believed only where the bundle is
//! that runtime's: in anybody's bundle they are labels.

use serde::Deserialize;

use super::{
    created::time,
    found::{Found, Kube, Manager},
    json::{Annotations, List, MAX_NAME, Maybe, Object, PathText, Text, parse},
    reference::ImageFacts,
    storage::pod_of_name,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    annotations: Maybe<Annotations>,
    mounts: Maybe<List<Object<Mount>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mount {
    source: PathText,
}

/// A bundle, read but not yet believed.
#[derive(Debug)]
pub(super) struct Bundle {
    annotations: Annotations,
    mounts: Vec<String>,
}

/// Text that is JSON of CRI-O's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: Maybe<Text<MAX_NAME>>,
    uid: Maybe<Text<MAX_NAME>>,
    namespace: Maybe<Text<MAX_NAME>>,
    attempt: Maybe<u64>,
}

impl Bundle {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let file: File = parse(bytes)?;
        let mounts = file.mounts.list().into_iter();
        Ok(Self {
            annotations: file.annotations.0.unwrap_or_default(),
            mounts: mounts.filter_map(|mount| mount.0.source.text()).collect(),
        })
    }

    /// dockerd's data root, by the files of its own that it mounts into each container
    /// (`<data-root>/containers/<id>/hostname`).
    pub(super) fn docker_root(&self, id: &str) -> Option<&str> {
        self.mounts.iter().find_map(|source| {
            let (dir, _) = source.rsplit_once('/')?;
            let root = dir.strip_suffix(id)?.strip_suffix("/containers/")?;
            root.starts_with('/').then_some(root)
        })
    }

    /// A bundle in containerd's state directory.
    pub(super) fn containerd(mut self) -> Found {
        let notes = &self.annotations;
        let Some(kind) = notes.get("io.kubernetes.cri.container-type") else {
            return self.containerd_client();
        };
        let sandbox = kind == "sandbox";
        let kube = Kube {
            pod: notes.name("io.kubernetes.cri.sandbox-name"),
            uid: notes.name("io.kubernetes.cri.sandbox-uid"),
            namespace: notes.name("io.kubernetes.cri.sandbox-namespace"),
            container: notes
                .name("io.kubernetes.cri.container-name")
                .filter(|_| !sandbox),
        };
        let image = if sandbox {
            notes.get("io.kubernetes.cri.podsandbox.image-name")
        } else {
            notes.get("io.kubernetes.cri.image-name")
        };
        Found {
            name: if sandbox {
                kube.pod.clone()
            } else {
                kube.container.clone()
            },
            image: ImageFacts::of(image.unwrap_or_default()),
            kube,
            sandbox,
            restart_count: number(notes, "io.kubernetes.container.restartCount"),
            pod_sandbox: notes
                .name("io.kubernetes.cri.sandbox-id")
                .filter(|_| !sandbox),
            manager: Some(Manager::Cri),
            ..Found::default()
        }
    }

    /// ctr copies labels to annotations; nerdctl copies only its own.
    fn containerd_client(&mut self) -> Found {
        Found {
            name: self.annotations.name("nerdctl/name"),
            label: self.annotations.take_rest(),
            manager: Some(Manager::Containerd),
            ..Found::default()
        }
    }

    /// A bundle in containers/storage: Podman's or CRI-O's.
    pub(super) fn storage(self) -> Found {
        let notes = &self.annotations;
        let kind = notes.get("io.kubernetes.cri-o.ContainerType");
        let sandbox = kind == Some("sandbox");
        let created = notes.get("io.kubernetes.cri-o.Created").and_then(time);
        // Podman borrows some of CRI-O's annotations; its pods are not Kubernetes'.
        if notes.get("io.container.manager") == Some("libpod") {
            return Found {
                created,
                sandbox,
                manager: Some(Manager::Podman),
                ..Found::default()
            };
        }
        if kind.is_none() {
            return Found::default();
        }
        let metadata: Metadata = self.json("io.kubernetes.cri-o.Metadata");
        let labels: Maybe<Annotations> = self.json("io.kubernetes.cri-o.Labels");
        let name = metadata.name.text();
        let mut kube = crio_pod(notes, labels.0.as_ref());
        kube.container = name.clone().or(kube.container).filter(|_| !sandbox);
        if sandbox {
            kube.pod = name.clone().or(kube.pod);
            kube.uid = metadata.uid.text().or(kube.uid);
            kube.namespace = metadata.namespace.text().or(kube.namespace);
        }
        let restarts = number(notes, "io.kubernetes.container.restartCount");
        Found {
            pod_sandbox: notes
                .name("io.kubernetes.cri-o.SandboxID")
                .filter(|_| !sandbox),
            name,
            image: crio_image(notes),
            label: labels.0.map(Annotations::into_labels).unwrap_or_default(),
            kube,
            created,
            restart_count: restarts.or(metadata.attempt.0).filter(|_| !sandbox),
            sandbox,
            manager: Some(Manager::CriO),
        }
    }

    /// Anybody's bundle.
    pub(super) fn plain(self) -> Found {
        // The specification leaves open whether this is a whole reference or only a tag.
        let reference = self
            .annotations
            .get("org.opencontainers.image.ref.name")
            .filter(|name| name.contains('/'));
        Found {
            image: ImageFacts::of(reference.unwrap_or_default()),
            label: self.annotations.into_labels(),
            ..Found::default()
        }
    }

    fn json<T: Default + serde::de::DeserializeOwned>(&self, key: &str) -> T {
        let text = self.annotations.get(key).unwrap_or_default();
        parse(text.as_bytes()).unwrap_or_default()
    }
}

/// The kubelet's labels, which CRI-O keeps as annotations too; else the name of the sandbox.
fn crio_pod(notes: &Annotations, labels: Option<&Annotations>) -> Kube {
    let get = |key: &str| {
        labels
            .and_then(|labels| labels.name(key))
            .or_else(|| notes.name(key))
    };
    let named = notes
        .get("io.kubernetes.cri-o.SandboxName")
        .and_then(pod_of_name)
        .unwrap_or_default();
    Kube {
        pod: get("io.kubernetes.pod.name").or(named.pod),
        uid: get("io.kubernetes.pod.uid").or(named.uid),
        namespace: get("io.kubernetes.pod.namespace").or(named.namespace),
        container: get("io.kubernetes.container.name"),
    }
}

/// What was asked for (a kubelet asks by id), else some name of it; then what it was found to be.
fn crio_image(notes: &Annotations) -> ImageFacts {
    let of = |key: &str| ImageFacts::of(notes.get(key).unwrap_or_default());
    of("io.kubernetes.cri-o.Image")
        .or(of("io.kubernetes.cri-o.ImageName"))
        .or(of("io.kubernetes.cri-o.ImageRef"))
}

fn number(notes: &Annotations, key: &str) -> Option<u64> {
    notes.get(key)?.parse().ok()
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
