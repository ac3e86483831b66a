//! From the path of a cgroup to the container that it belongs to. Pure: no I/O, no state.
//!
//! A path is read name by name from the root. Each family of runtimes (one file each, with the
//! origin of every form it knows) looks at whole names in their place: the names just above, and
//! whether a pod or a container encloses them. The deepest container wins and those around it are
//! its parents, so that Docker in a pod, kind or LXC with Docker inside come out right. What
//! follows below the innermost container (`init.scope`, crun's `container`, LXC's `.lxc`, a service
//! of a systemd inside) is a child cgroup of it.
//!
//! Where no family speaks, [`Identity::Unknown`] is for what a bare runtime might have made and
//! [`Identity::NotContainer`] for what only the host makes. There is no guessing: an id has the
//! right length and alphabet or it is none, and substrings never count.
//!
//! Invariants: any bytes are accepted and nothing panics; a path without a container allocates
//! nothing (but for the escaped name of a virtual machine's scope); `root_len` ends on the end of a
//! name.

mod containerd;
mod crio;
mod docker;
mod host;
mod kubernetes;
mod lxc;
mod machined;
mod oci;
mod orchestrators;
mod place;
mod podman;
mod segment;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use place::{Form, Found, Mark, Place};
use segment::{Segment, segments};

/// What the path of a cgroup tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The cgroup of a container, or a child cgroup inside one.
    Container(Container),
    /// Beside or around containers and easily mistaken for one: a runtime's monitor, a pod.
    Excluded { why: &'static str },
    /// Perhaps the container of a bare runtime; the path alone cannot tell.
    Unknown,
    /// The host's own, never a container.
    NotContainer { why: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The full id as the runtime prints it: 64 digits for most, a name for LXC, nspawn, ctr and
    /// the OCI runtimes, `ALLOC.TASK` for Nomad, the handle for Garden, `TASK-NUMBER` for Fargate.
    pub id: String,
    pub runtime: Runtime,
    /// The Kubernetes pod that encloses the container, the nearest one if several do, as
    /// Kubernetes prints it: dashes restored, or 32 digits for a static pod.
    pub pod_uid: Option<String>,
    /// containerd's namespace where it is part of the path (`/default/ID`). Elsewhere it is fixed
    /// by the client (`k8s.io` for the CRI, `moby` for Docker) and absent here.
    pub namespace: Option<String>,
    /// The containers around this one, outermost first.
    pub parents: Vec<Parent>,
    /// `path[..root_len]` is the container's own cgroup, the one that its runtime made and removes.
    /// A longer path is a child cgroup inside it.
    pub root_len: usize,
}

/// A container that encloses another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub id: String,
    pub runtime: Runtime,
}

/// Who runs a container: the tool to ask about it.
///
/// The names go into `container.runtime.name` of OpenTelemetry's semantic conventions, which lists
/// `docker`, `containerd` and `rkt` as examples: the manager that owns the id, not the OCI runtime
/// below it. So `cri-o` and `podman` are named, and runc, crun and youki only where nobody is above
/// them. Build steps of dockerd are `docker`, those of buildkitd `buildkit`. ECS on EC2 is `docker`,
/// which it drives; on Fargate the path shows no runtime, so it is `ecs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    Docker,
    /// Through the CRI, ctr or nerdctl.
    Containerd,
    CriO,
    Podman,
    Buildkit,
    Runc,
    Crun,
    Youki,
    /// LXC itself, Incus, LXD, Proxmox.
    Lxc,
    /// libvirt's LXC driver, which shares nothing with LXC but the name.
    LibvirtLxc,
    /// systemd-nspawn, and any other container that is registered with systemd-machined.
    SystemdNspawn,
    Nomad,
    /// Cloud Foundry and Concourse.
    Garden,
    /// AWS Fargate.
    Ecs,
}

impl Runtime {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Buildkit => "buildkit",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Youki => "youki",
            Self::Lxc => "lxc",
            Self::LibvirtLxc => "libvirt-lxc",
            Self::SystemdNspawn => "systemd-nspawn",
            Self::Nomad => "nomad",
            Self::Garden => "garden",
            Self::Ecs => "ecs",
        }
    }

    /// Likewise, one text for all containers of a host.
    #[must_use]
    pub fn shared_name(self) -> Arc<str> {
        static NAMES: [OnceLock<Arc<str>>; Runtime::Ecs as usize + 1] =
            [const { OnceLock::new() }; _];
        match NAMES.get(self as usize) {
            Some(name) => Arc::clone(name.get_or_init(|| self.as_str().into())),
            None => self.as_str().into(),
        }
    }
}

/// Whether the id of a container of this runtime is the name that a person gave it, and all that
/// the runtime knows it by.
#[must_use]
pub fn is_named_by_id(runtime: &str) -> bool {
    let named = [Runtime::Lxc, Runtime::LibvirtLxc, Runtime::SystemdNspawn];
    named.iter().any(|one| one.as_str() == runtime)
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the path of a cgroup, relative to the root of its hierarchy or, with leading `..`, to that
/// of a cgroup namespace.
#[must_use]
pub fn identify(path: &[u8]) -> Identity {
    // /proc/PID/cgroup says so of a removed cgroup (cgroups(7)).
    let mut path = path;
    // As often as it is there: what is left is judged like any path.
    while let Some(gone) = path.strip_suffix(b" (deleted)") {
        path = gone;
    }
    let mut walk = Walk::new(path);
    for segment in segments(path) {
        if walk.step(segment).is_break() {
            break;
        }
    }
    walk.finish()
}

/// A container on the way down.
#[derive(Debug)]
struct Level<'a> {
    found: Found<'a>,
    root_len: usize,
    pod_uid: Option<&'a [u8]>,
}

#[derive(Debug)]
struct Walk<'a> {
    path: &'a [u8],
    /// The containers found, outermost first.
    chain: Vec<Level<'a>>,
    /// The nearest pod so far, also around an enclosing container.
    pod_uid: Option<&'a [u8]>,
    /// Why the names since the last container are none, if a family said so.
    refused: Option<Identity>,
    parent: &'a [u8],
    grandparent: &'a [u8],
    in_pod: bool,
    in_kubepods: bool,
}

impl<'a> Walk<'a> {
    fn new(path: &'a [u8]) -> Self {
        Self {
            path,
            chain: Vec::new(),
            pod_uid: None,
            refused: None,
            parent: &[],
            grandparent: &[],
            in_pod: false,
            in_kubepods: false,
        }
    }

    fn step(&mut self, segment: Segment<'a>) -> ControlFlow<()> {
        if self.is_aside_child(segment.name) {
            self.chain.pop();
            return self.refuse("the runtime's own process beside the container");
        }
        let place = Place {
            name: segment.name,
            parent: self.parent,
            grandparent: self.grandparent,
            nested: !self.chain.is_empty(),
            in_pod: self.in_pod,
            in_kubepods: self.in_kubepods,
            path: self.path,
            end: segment.end,
            form: Form::of(segment.name),
        };
        match read(&place) {
            Some(Mark::Container(found)) => self.enter(found, &place),
            Some(Mark::Aside { why }) => return self.refuse(why),
            Some(Mark::Machine { why }) => {
                self.refused = Some(Identity::NotContainer { why });
                return ControlFlow::Break(());
            }
            Some(Mark::Group {
                kubernetes,
                pod_uid,
                why,
            }) => {
                self.in_pod |= kubernetes;
                self.pod_uid = pod_uid.or(self.pod_uid);
                self.refused = Some(Identity::Excluded { why });
                self.descend(place.name);
            }
            // What is in a pod and of no known form may be a container all the same.
            None => {
                self.refused = None;
                self.descend(place.name);
            }
        }
        ControlFlow::Continue(())
    }

    fn is_aside_child(&self, name: &[u8]) -> bool {
        let Some(last) = self.chain.last() else {
            return false;
        };
        self.parent.is_empty() && last.found.aside_child == Some(name)
    }

    fn refuse(&mut self, why: &'static str) -> ControlFlow<()> {
        self.refused = Some(Identity::Excluded { why });
        ControlFlow::Break(())
    }

    fn descend(&mut self, name: &'a [u8]) {
        self.in_kubepods |= kubernetes::is_kubepods(name);
        self.grandparent = self.parent;
        self.parent = name;
    }

    fn enter(&mut self, found: Found<'a>, place: &Place<'a>) {
        // `kubepods-podUID.slice:cri-containerd:ID` names its pod in the same breath.
        if let Some((slice, _, _)) = place.colons() {
            let stem = slice.strip_suffix(b".slice").unwrap_or(slice);
            let pod = kubernetes::pod_of_slice(stem);
            self.pod_uid = pod.and_then(|pod| pod.uid).or(self.pod_uid);
        }
        self.chain.push(Level {
            found,
            root_len: place.end,
            pod_uid: self.pod_uid,
        });
        self.parent = &[];
        self.grandparent = &[];
        self.in_pod = false;
        self.in_kubepods = false;
        self.refused = None;
    }

    fn finish(mut self) -> Identity {
        // What is refused inside a container (a monitor in kind's node, the pods there) still runs
        // in that container.
        let Some(innermost) = self.chain.pop() else {
            return self.refused.unwrap_or_else(|| host::classify(self.path));
        };
        let parents = self.chain.into_iter().map(|level| Parent {
            id: level.found.id,
            runtime: level.found.runtime,
        });
        Identity::Container(Container {
            id: innermost.found.id,
            runtime: innermost.found.runtime,
            pod_uid: innermost.pod_uid.map(dashed),
            namespace: innermost.found.namespace.map(lossy),
            parents: parents.collect(),
            root_len: innermost.root_len,
        })
    }
}

fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    // Podman's pods are bare ids and so come before Docker's containers; so do the parents under
    // which a bare id is somebody else's.
    kubernetes::read(place)
        .or_else(|| podman::read(place))
        .or_else(|| crio::read(place))
        .or_else(|| oci::read(place))
        .or_else(|| lxc::read(place))
        .or_else(|| machined::read(place))
        .or_else(|| orchestrators::read(place))
        .or_else(|| containerd_or_docker(place))
}

fn containerd_or_docker<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    // A build step of buildkitd is below `buildkit`, which is a namespace of containerd as well.
    docker::build_step(place)
        .or_else(|| containerd::read(place))
        .or_else(|| docker::read(place))
}

fn dashed(uid: &[u8]) -> String {
    lossy(uid).replace('_', "-")
}

/// Both callers pass text that was checked to be ASCII.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
