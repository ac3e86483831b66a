//! From what runtimes have already written on disk to facts about a container.
//!
//! ```text
//! Query ──▶ search ──▶ open (bounded, no links) ──▶ docker · storage · bundle · state (pure) ──▶ Facts
//!              ▲ Sources (learnt, configured, default places)
//! ```
//!
//! A file adds facts and never overrides those of an earlier one. The order of asking follows the
//! runtime that the cgroup's path names; where the path cannot know (Docker below Kubernetes, any
//! custom parent) the files decide, and [`Facts::runtime`] says so.
//!
//! | runtime | file | full means |
//! | --- | --- | --- |
//! | docker | `config.v2.json` | name, image (its id where nothing else was asked for), of a pod also pod, namespace, container |
//! | containerd by CRI | bundle | name, image, pod, namespace, container; a sandbox: pod, its uid, namespace |
//! | containerd by ctr, nerdctl | bundle | the bundle was read: no file holds the image |
//! | cri-o | bundle, then storage | as CRI |
//! | podman | storage, bundle | name and image; no file holds the labels |
//! | bare OCI | bundle, state | the bundle was read |
//!
//! Partial is less than that, none is nothing at all. Names are those that the runtime itself lists:
//! of CRI containers the container's name in its pod, of sandboxes the pod's. Who makes a container
//! by ctr or by a bare runtime chooses its id: the id is its name, unless it looks generated.
//!
//! Files are hostile. They are opened below their place without links, must be regular, have at most
//! [`MAX_LOOKUP_BYTES`] together, and are parsed by a visitor that stores what is asked for and
//! within bounds. A bundle's path comes from a command line that any user can write: it is
//! followed as the runtime follows it, but for links of /proc; [`Query::owner`] says whose the files
//! must be, so that nobody has tracer read out what is another's. CRI's and CRI-O's annotations
//! are believed only in bundles that lie where these keep theirs.
//!
//! Invariants: [`lookup`] never fails or panics; at most 32 MiB are read and parsed in one call; it
//! starts nothing and waits for nobody but a file system that does not answer, for which the caller
//! has a thread of its own.

mod alone;
pub mod api;
mod bundle;
mod created;
mod docker;
mod found;
#[cfg(test)]
mod hostile_tests;
mod json;
mod open;
mod reader;
mod reference;
mod search;
mod shape;
mod sources;
mod state;
mod storage;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    record::{Enrichment, Image, K8s},
    time::Timestamp,
};

pub use alone::{Alone, read_alone};
pub use open::Refusal;
pub use reader::MAX_LOOKUP_BYTES;
pub use search::lookup;
pub use sources::{Place, Places, Sources};

/// Which container, and what is known of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<'a> {
    /// In full.
    pub id: &'a str,
    /// By the cgroup's path (`docker`, `cri-o`, …); the OCI runtime that was seen only where the
    /// path tells nothing.
    pub runtime: Option<&'a str>,
    /// containerd's, where the path tells it.
    pub namespace: Option<&'a str>,
    /// Of the runtime's command line; counts only if absolute.
    pub bundle: Option<&'a str>,
    /// The state directory, likewise.
    pub root: Option<&'a str>,
    /// By the cgroup's path; goes before what a file says.
    pub pod_uid: Option<&'a str>,
    /// The user who ran the runtime. If it is not root, files in `bundle` and `root` must be this
    /// user's. Where unknown, nothing is required.
    pub owner: Option<u32>,
    /// The file system in which the paths are meant, if not [`Sources::filesystem`]: for the
    /// container of a runtime that is in a container itself, `/proc/PID/root` of that runtime.
    pub filesystem: Option<&'a Path>,
}

/// What is known from files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub name: Option<String>,
    pub image: Option<Image>,
    /// `NAME@DIGEST`, where the image was asked for by digest.
    pub repo_digests: Vec<String>,
    pub label: BTreeMap<String, String>,
    pub k8s: Option<K8s>,
    pub created: Option<Timestamp>,
    pub restart_count: Option<u64>,
    /// It holds the namespaces of a pod and runs nothing of its own.
    pub sandbox: bool,
    /// Where a file proves who keeps the container.
    pub runtime: Option<&'static str>,
    /// The sandbox of the container's pod, what a CRI runtime must be asked with.
    pub pod_sandbox: Option<String>,
    /// containerd's namespace, by the place of the bundle: what its API must be asked with.
    pub namespace: Option<String>,
    /// Where the bundle was found.
    pub bundle: Option<PathBuf>,
    pub level: Enrichment,
    /// It is worth trying again: a file was being written, or there was none yet.
    pub retry: bool,
    /// Which fact is from which file.
    pub sources: Vec<Source>,
    /// Files that exist and were not used.
    pub problems: Vec<Problem>,
}

/// Where a fact is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path in the record, where it is in there.
    pub fact: &'static str,
    pub file: PathBuf,
}

/// A file that was not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    pub why: Refusal,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            name: None,
            image: None,
            repo_digests: Vec::new(),
            label: BTreeMap::new(),
            k8s: None,
            created: None,
            restart_count: None,
            sandbox: false,
            runtime: None,
            pod_sandbox: None,
            namespace: None,
            bundle: None,
            level: Enrichment::None,
            retry: false,
            sources: Vec::new(),
            problems: Vec::new(),
        }
    }
}
