//! Which files are asked about a container, in which order, and when that is enough.

use std::path::{Path, PathBuf};

use super::{
    Facts, Problem, Query, Refusal,
    bundle::Bundle,
    docker,
    found::{Found, Gathered, Kube, Manager},
    open::{Content, Tree},
    sources::{Place, Places, Sources},
    state::{self, State},
    storage,
};
use crate::record::Enrichment;

/// Most bytes that one look-up reads.
pub const MAX_LOOKUP_BYTES: usize = 32 << 20;
/// Largest `config.json`, `config.v2.json`, `state.json`.
pub(super) const MAX_CONFIG: usize = 1 << 20;
/// Largest `containers.json`: some 30,000 containers.
const MAX_LIST_FILE: usize = 16 << 20;
/// Most namespaces of one containerd.
const MAX_NAMESPACES: usize = 64;
const MAX_PROBLEMS: usize = 16;
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
const TASKS: &str = "io.containerd.runtime.v2.task";
/// dockerd's namespace in containerd.
const MOBY: &str = "moby";

/// Reads what the files say about a container. See the module's description.
#[must_use]
pub fn lookup(sources: &Sources, query: &Query<'_>) -> Facts {
    let id = query.id;
    let good = !matches!(id, "" | "." | "..") && id.len() <= MAX_ID && !id.contains(['/', '\0']);
    let filesystem = query.filesystem.unwrap_or(&sources.filesystem);
    let Some(tree) = Tree::open(filesystem).ok().filter(|_| good) else {
        return Facts::default();
    };
    let mut search = Search {
        sources,
        query,
        tree,
        gathered: Gathered::default(),
        bundle: None,
        namespace: None,
        problems: Vec::new(),
        left: MAX_LOOKUP_BYTES,
        unfinished: false,
        plain: false,
    };
    let steps = steps(query.runtime);
    let settled = steps.iter().any(|step| search.take(*step));
    if settled {
        search.add_created();
    }
    search.finish(steps.is_empty())
}

/// What the place of a bundle tells about who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape<'a> {
    /// containerd's `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`.
    Task {
        state: &'a str,
        namespace: &'a str,
    },
    /// containers/storage's `<root>/<driver>-containers/<id>/userdata`.
    Storage {
        root: &'a str,
        dir: &'a str,
    },
    Plain,
}

impl<'a> Shape<'a> {
    pub(super) fn of(bundle: &'a str, id: &str) -> Self {
        let path = bundle.trim_end_matches('/');
        let above = |path: &'a str| path.strip_suffix(id)?.strip_suffix('/');
        if let Some((root, dir)) = path
            .strip_suffix("/userdata")
            .and_then(above)
            .and_then(|path| path.rsplit_once('/'))
            .filter(|(_, dir)| dir.ends_with("-containers"))
        {
            return Self::Storage { root, dir };
        }
        let task = above(path)
            .and_then(|path| path.rsplit_once('/'))
            .and_then(|(tasks, namespace)| Some((tasks.strip_suffix(TASKS)?, namespace)))
            .and_then(|(state, namespace)| Some((state.strip_suffix('/')?, namespace)));
        match task {
            Some((state, namespace)) => Self::Task { state, namespace },
            None => Self::Plain,
        }
    }
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
    tree: Tree,
    gathered: Gathered,
    bundle: Option<PathBuf>,
    namespace: Option<String>,
    problems: Vec<Problem>,
    /// Bytes that may still be read.
    left: usize,
    /// A file did not parse: it may be being written.
    unfinished: bool,
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
        let found = self.read(root, &below, MAX_CONFIG, |bytes| docker::read(bytes, id));
        self.add(found)
    }

    /// Reads a bundle as what its place says that it is.
    fn bundle(&mut self, place: &Place) -> bool {
        let text = place.path.to_str().unwrap_or_default();
        match Shape::of(text, self.query.id) {
            Shape::Task { namespace, .. } if namespace == MOBY => self.docker_bundle(place),
            _ if self.query.runtime == Some("docker") => self.docker_bundle(place),
            Shape::Task { namespace, .. } => {
                self.namespace = Some(namespace.to_owned());
                self.annotated(place, Bundle::containerd)
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
        let (bundle, file, _) = self.read(place, "config.json".as_ref(), MAX_CONFIG, parse)?;
        Some((bundle, file))
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
        let Ok(dir) = self.tree.dir(&place.path.join(below)) else {
            return Vec::new();
        };
        let names = dir.names(".".as_ref(), MAX_NAMESPACES);
        names.into_iter().map(PathBuf::from).collect()
    }

    fn storage(&mut self) -> bool {
        let sources = self.sources;
        for root in sources.storage.iter() {
            if self.tree.dir(&root.path).is_err() {
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
            let read = self.read(root, &below, MAX_LIST_FILE, |bytes| {
                storage::read(bytes, id)
            });
            // Only Podman leaves its name out of the list, and only CRI-O puts pods into it.
            let read = read.map(|(mut found, file, uid)| {
                found.manager = found.manager.or(Some(Manager::Podman));
                (found, file, uid)
            });
            self.add(read);
        }
    }

    fn state(&mut self) -> bool {
        let Some((state, file, uid)) = self.find_state() else {
            return false;
        };
        self.gathered.add(created(&state), &file);
        let Some(bundle) = state.bundle else {
            return true;
        };
        // What a user's file names must be that user's.
        self.bundle(&Place {
            path: bundle.into(),
            owner: Some(uid).filter(|uid| *uid != 0),
        });
        true
    }

    /// The creation time of containers of which only the OCI runtime writes it.
    fn add_created(&mut self) {
        if self.gathered.found.created.is_none()
            && let Some((state, file, _)) = self.find_state()
        {
            self.gathered.add(created(&state), &file);
        }
    }

    fn find_state(&mut self) -> Option<(State, PathBuf, u32)> {
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

    fn find_namespaced(&mut self, places: &Places) -> Option<(State, PathBuf, u32)> {
        places.iter().find_map(|root| {
            let namespaces = match &self.namespace {
                Some(namespace) => vec![namespace.into()],
                None => self.namespaces(root, ""),
            };
            let mut dirs = namespaces.into_iter();
            dirs.find_map(|namespace| self.state_in(root, &namespace.join(self.query.id)))
        })
    }

    fn state_in(&mut self, root: &Place, dir: &Path) -> Option<(State, PathBuf, u32)> {
        let id = self.query.id;
        state::FILES.iter().find_map(|name| {
            self.read(root, &dir.join(name), MAX_CONFIG, |bytes| {
                state::read(bytes, id)
            })
        })
    }

    fn add(&mut self, read: Option<(Found, PathBuf, u32)>) -> bool {
        let Some((found, file, _)) = read else {
            return false;
        };
        self.gathered.add(found, &file);
        true
    }

    /// Reads and parses one file; what goes wrong is noted.
    fn read<T>(
        &mut self,
        place: &Place,
        below: &Path,
        max: usize,
        parse: impl FnOnce(&[u8]) -> Result<Option<T>, serde_json::Error>,
    ) -> Option<(T, PathBuf, u32)> {
        let file = place.path.join(below);
        let read = self
            .tree
            .dir(&place.path)
            .and_then(|dir| dir.read(below, max.min(self.left), place.owner));
        let Content { bytes, uid } = match read {
            Ok(content) => content,
            Err(why) => {
                self.refuse(file, why);
                return None;
            }
        };
        self.left = self.left.saturating_sub(bytes.len());
        match parse(&bytes) {
            Ok(parsed) => parsed.map(|parsed| (parsed, file, uid)),
            Err(error) => {
                self.unfinished |= !error.is_data();
                self.refuse(file, Refusal::Syntax);
                None
            }
        }
    }

    fn refuse(&mut self, file: PathBuf, why: Refusal) {
        if why != Refusal::Missing && self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { file, why });
        }
    }

    fn level(&self) -> Enrichment {
        let found = &self.gathered.found;
        let full = match found.manager {
            Some(Manager::Docker | Manager::Podman) => {
                let pod = found.kube.is_empty() || is_complete(&found.kube, found.sandbox);
                found.name.is_some() && found.image.is_known() && pod
            }
            Some(Manager::Cri | Manager::CriO) if found.sandbox => {
                is_complete(&found.kube, true) && found.kube.uid.is_some()
            }
            Some(Manager::Cri | Manager::CriO) => {
                found.image.is_known() && is_complete(&found.kube, false)
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
        let nothing_yet = level == Enrichment::None && self.problems.is_empty();
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
                && (self.unfinished || nothing_yet),
            problems: self.problems,
            ..gathered.into_facts()
        }
    }
}

fn created(state: &State) -> Found {
    Found {
        created: state.created,
        ..Found::default()
    }
}

fn is_complete(kube: &Kube, sandbox: bool) -> bool {
    kube.pod.is_some() && kube.namespace.is_some() && (sandbox || kube.container.is_some())
}

/// Made by a program, not by a person: 25 characters or more of digits and small letters.
fn is_generated(id: &str) -> bool {
    id.len() >= 25
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}
