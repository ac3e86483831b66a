//! Which files are asked about a container, in which order, and when that is enough.

use std::path::{Path, PathBuf};

use super::{
    Facts, Query,
    bundle::Bundle,
    docker,
    found::{Found, Gathered, Manager},
    open::Tree,
    reader::{Read, Reader},
    shape::{Shape, TASKS},
    sources::{Place, Places, Sources},
    state::{self, State},
    storage,
};
use crate::record::Enrichment;

/// Largest `config.json`, `config.v2.json`, `state.json`.
pub(super) const MAX_CONFIG: usize = 1 << 20;
/// Largest `containers.json`: some 30,000 containers.
const MAX_LIST_FILE: usize = 16 << 20;
/// Most namespaces of one containerd.
const MAX_NAMESPACES: usize = 64;
/// Longest container id.
const MAX_ID: usize = 1024;

/// Graph drivers of containers/storage, the usual one first.
const STORAGE_DIRS: [&str; 4] = [
    "overlay-containers",
    "vfs-containers",
    "btrfs-containers",
    "zfs-containers",
];
const STORAGE_LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];
/// dockerd's namespace in containerd.
const MOBY: &str = "moby";

/// Reads what the files say about a container. See the module's description.
#[must_use]
pub fn lookup(sources: &Sources, query: &Query<'_>) -> Facts {
    let id = query.id;
    let good = !matches!(id, "" | "." | "..") && id.len() <= MAX_ID && !id.contains(['/', '\0']);
    let filesystem = query.filesystem.unwrap_or(&sources.filesystem);
    let tree = (good && sources.files).then(|| Tree::open(filesystem).ok());
    let Some(tree) = tree.flatten() else {
        return Facts::default();
    };
    let mut search = Search {
        sources,
        query,
        reader: Reader::new(tree),
        gathered: Gathered::default(),
        bundle: None,
        namespace: None,
        plain: false,
    };
    let steps = steps(query.runtime);
    let settled = steps.iter().any(|step| search.take(*step));
    if settled {
        search.add_created();
    }
    search.finish(steps.is_empty())
}

/// One kind of place to ask.
#[derive(Debug, Clone, Copy)]
enum Step {
    Docker,
    /// The bundle of the command line.
    Bundle,
    /// Bundles in containerd's state directories.
    Tasks,
    Storage,
    /// States of OCI runtimes.
    State,
}

fn steps(runtime: Option<&str>) -> &'static [Step] {
    match runtime {
        Some("docker") => &[Step::Docker, Step::Bundle, Step::Tasks],
        Some("containerd") => &[Step::Bundle, Step::Tasks, Step::Docker],
        Some("podman" | "cri-o") => &[Step::Bundle, Step::Storage],
        Some("buildkit" | "garden") => &[Step::Bundle],
        Some("lxc" | "libvirt-lxc" | "systemd-nspawn" | "nomad" | "ecs") => &[],
        _ => &[
            Step::Bundle,
            Step::State,
            Step::Tasks,
            Step::Storage,
            Step::Docker,
        ],
    }
}

struct Search<'a> {
    sources: &'a Sources,
    query: &'a Query<'a>,
    reader: Reader,
    gathered: Gathered,
    bundle: Option<PathBuf>,
    namespace: Option<String>,
    /// The bundle is nobody's but the OCI runtime's.
    plain: bool,
}

impl Search<'_> {
    /// Whether the files of this step are the container's.
    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Docker => self.docker(),
            Step::Bundle => self
                .given(self.query.bundle)
                .is_some_and(|place| self.bundle(&place)),
            Step::Tasks => self.tasks(),
            Step::Storage => self.storage(),
            Step::State => self.state(),
        }
    }

    /// A place of the command line.
    fn given(&self, path: Option<&str>) -> Option<Place> {
        Some(Place {
            path: path.filter(|path| path.starts_with('/'))?.into(),
            owner: self.query.owner.filter(|uid| *uid != 0),
        })
    }

    fn docker(&mut self) -> bool {
        let sources = self.sources;
        sources.docker.iter().any(|place| self.docker_in(place))
    }

    fn docker_in(&mut self, root: &Place) -> bool {
        let id = self.query.id;
        let below = Path::new("containers").join(id).join("config.v2.json");
        let found = self
            .reader
            .read(root, &below, MAX_CONFIG, |bytes| docker::read(bytes, id));
        self.add(found)
    }

    /// Reads a bundle as what its place says that it is.
    fn bundle(&mut self, place: &Place) -> bool {
        let text = place.path.to_str().unwrap_or_default();
        match Shape::of(text, self.query.id) {
            Shape::Task { namespace, .. } if namespace == MOBY => self.docker_bundle(place),
            _ if self.query.runtime == Some("docker") => self.docker_bundle(place),
            Shape::Task { namespace, .. } => {
                let read = self.annotated(place, Bundle::containerd);
                if read {
                    self.namespace = Some(namespace.to_owned());
                }
                read
            }
            Shape::Storage { root, dir } => {
                let root = Place {
                    path: root.into(),
                    owner: place.owner,
                };
                self.storage_in(&root, dir);
                // With a transient store the lists are below another root.
                self.level() == Enrichment::Full || self.storage()
            }
            Shape::Plain => {
                self.plain = self.annotated(place, Bundle::plain);
                self.plain
            }
        }
    }

    /// dockerd writes nothing into its bundles but where its data root is.
    fn docker_bundle(&mut self, place: &Place) -> bool {
        if self.docker() {
            self.bundle = Some(place.path.clone());
            return true;
        }
        let Some((bundle, _)) = self.config(place) else {
            return false;
        };
        self.bundle = Some(place.path.clone());
        let Some(root) = bundle.docker_root(self.query.id) else {
            return false;
        };
        self.docker_in(&Place {
            path: root.into(),
            owner: place.owner,
        })
    }

    /// A bundle whose annotations `read` knows. An id that a person chose is the name.
    fn annotated(&mut self, place: &Place, read: fn(Bundle) -> Found) -> bool {
        let Some((bundle, file)) = self.config(place) else {
            return false;
        };
        let id = self.query.id;
        let mut found = read(bundle);
        if matches!(found.manager, None | Some(Manager::Containerd)) && !is_generated(id) {
            found.name = found.name.or_else(|| Some(id.to_owned()));
        }
        self.bundle = Some(place.path.clone());
        self.gathered.add(found, &file);
        true
    }

    fn config(&mut self, place: &Place) -> Option<(Bundle, PathBuf)> {
        let parse = |bytes: &[u8]| Bundle::parse(bytes).map(Some);
        let read = self.reader.read(place, "config.json", MAX_CONFIG, parse)?;
        Some((read.value, read.file))
    }

    fn tasks(&mut self) -> bool {
        let sources = self.sources;
        sources.containerd.iter().any(|place| {
            self.namespaces(place, TASKS).into_iter().any(|namespace| {
                let path = place.path.join(TASKS).join(namespace).join(self.query.id);
                let owner = place.owner;
                self.bundle(&Place { path, owner })
            })
        })
    }

    /// The namespace of the path, or those that there are.
    fn namespaces(&self, place: &Place, below: &str) -> Vec<PathBuf> {
        if let Some(namespace) = self.query.namespace {
            return vec![namespace.into()];
        }
        let Ok(dir) = self.reader.tree.dir(&place.path.join(below)) else {
            return Vec::new();
        };
        let names = dir.names(".".as_ref(), MAX_NAMESPACES);
        names.into_iter().map(PathBuf::from).collect()
    }

    fn storage(&mut self) -> bool {
        let sources = self.sources;
        for root in sources.storage.iter() {
            if self.reader.tree.dir(&root.path).is_err() {
                continue;
            }
            for dir in STORAGE_DIRS {
                self.storage_in(root, dir);
                if self.level() == Enrichment::Full {
                    return true;
                }
            }
        }
        !self.gathered.sources.is_empty()
    }

    /// The bundle and the lists below one root for one graph driver.
    fn storage_in(&mut self, root: &Place, dir: &str) {
        let bundle = Place {
            path: root.path.join(dir).join(self.query.id).join("userdata"),
            owner: root.owner,
        };
        if let Some((config, file)) = self.config(&bundle) {
            self.bundle.get_or_insert(bundle.path);
            self.gathered.add(config.storage(), &file);
        }
        self.storage_lists(root, dir);
    }

    /// The lists in one directory; CRI-O's bundle has all that they could add.
    fn storage_lists(&mut self, root: &Place, dir: &str) {
        let id = self.query.id;
        for list in STORAGE_LISTS {
            if self.level() == Enrichment::Full {
                return;
            }
            let below = Path::new(dir).join(list);
            let read = self.reader.read(root, &below, MAX_LIST_FILE, |bytes| {
                storage::read(bytes, id)
            });
            // Only Podman leaves its name out of the list, and only CRI-O puts pods into it.
            let read = read.map(|mut read| {
                read.value.manager = read.value.manager.or(Some(Manager::Podman));
                read
            });
            self.add(read);
        }
    }

    fn state(&mut self) -> bool {
        let Some(read) = self.find_state() else {
            return false;
        };
        self.gathered.add(read.value.found(), &read.file);
        if let Some(bundle) = read.value.bundle {
            self.bundle(&Place {
                path: bundle.into(),
                // What a user's file names must be that user's.
                owner: Some(read.uid).filter(|uid| *uid != 0),
            });
        }
        true
    }

    /// The creation time of containers of which only the OCI runtime writes it.
    fn add_created(&mut self) {
        if self.gathered.found.created.is_none()
            && let Some(read) = self.find_state()
        {
            self.gathered.add(read.value.found(), &read.file);
        }
    }

    fn find_state(&mut self) -> Option<Read<State>> {
        if let Some(root) = self.given(self.query.root) {
            return self.state_in(&root, Path::new(self.query.id));
        }
        let sources = self.sources;
        let found = sources
            .oci
            .iter()
            .find_map(|root| self.state_in(root, Path::new(self.query.id)));
        found.or_else(|| self.find_namespaced(&sources.oci_namespaced))
    }

    fn find_namespaced(&mut self, places: &Places) -> Option<Read<State>> {
        places.iter().find_map(|root| {
            let namespaces = match &self.namespace {
                Some(namespace) => vec![namespace.into()],
                None => self.namespaces(root, ""),
            };
            let mut dirs = namespaces.into_iter();
            dirs.find_map(|namespace| self.state_in(root, &namespace.join(self.query.id)))
        })
    }

    fn state_in(&mut self, root: &Place, dir: &Path) -> Option<Read<State>> {
        let id = self.query.id;
        state::FILES.iter().find_map(|name| {
            self.reader.read(root, dir.join(name), MAX_CONFIG, |bytes| {
                state::read(bytes, id)
            })
        })
    }

    fn add(&mut self, read: Option<Read<Found>>) -> bool {
        let Some(read) = read else {
            return false;
        };
        self.gathered.add(read.value, &read.file);
        true
    }
    fn level(&self) -> Enrichment {
        let found = &self.gathered.found;
        let full = match found.manager {
            Some(Manager::Docker | Manager::Podman) => {
                let pod = found.kube.is_empty() || found.kube.is_complete(found.sandbox);
                found.name.is_some() && found.image.is_known() && pod
            }
            Some(Manager::Cri | Manager::CriO) if found.sandbox => {
                found.kube.is_complete(true) && found.kube.uid.is_some()
            }
            Some(Manager::Cri | Manager::CriO) => {
                found.image.is_known() && found.kube.is_complete(false)
            }
            Some(Manager::Containerd) => true,
            None => self.plain,
        };
        match full {
            true => Enrichment::Full,
            false if self.gathered.sources.is_empty() => Enrichment::None,
            false => Enrichment::Partial,
        }
    }

    fn finish(self, nothing_to_read: bool) -> Facts {
        let level = self.level();
        let nothing_yet = level == Enrichment::None && self.reader.problems.is_empty();
        let mut gathered = self.gathered;
        if let Some(uid) = self.query.pod_uid {
            gathered.found.kube.uid = Some(uid.to_owned());
        }
        Facts {
            namespace: self.namespace,
            bundle: self.bundle,
            level,
            retry: level != Enrichment::Full
                && !nothing_to_read
                && (self.reader.unfinished || nothing_yet),
            problems: self.reader.problems,
            ..gathered.into_facts()
        }
    }
}

/// Made by a program, not by a person: 25 characters or more of digits and small letters.
fn is_generated(id: &str) -> bool {
    id.len() >= 25
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}
