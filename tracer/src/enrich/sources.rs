//! Where runtimes keep their files: learnt from their command lines, then configured, then their
//! defaults.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
};

use super::{bundle::Bundle, open::Tree, search::MAX_CONFIG, shape::Shape};

/// Most places of one kind that are learnt; the oldest go first.
const MAX_LEARNT: usize = 16;
/// Most users whose own places are looked for.
const MAX_USERS: usize = 128;

/// A directory in which a runtime keeps its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// Whose the files in it must be, where it is one user's: nobody speaks for another's container.
    pub owner: Option<u32>,
}

/// Places of one kind, in the order of asking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    learnt: VecDeque<Place>,
    fixed: Vec<Place>,
}

/// Where files are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Whether files are read at all.
    pub files: bool,
    /// The file system that paths are in; another one where tracer itself is in a container and
    /// the host's is mounted there.
    pub filesystem: PathBuf,
    /// dockerd's `--data-root`.
    pub docker: Places,
    /// containerd's `--state`, below which `io.containerd.runtime.v2.task/<namespace>/<id>` are the
    /// bundles. dockerd's own containerd has it in `<exec-root>/containerd/daemon`.
    pub containerd: Places,
    /// containers/storage: `--root` and `--runroot` of Podman and CRI-O.
    pub storage: Places,
    /// `--root` of runc, crun, youki: `<root>/<id>`.
    pub oci: Places,
    /// The same as containerd's shims use it: `<root>/<namespace>/<id>`.
    pub oci_namespaced: Places,
}

impl Place {
    /// A place that is not one user's.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            owner: None,
        }
    }
}

impl Places {
    fn of(paths: &[&str]) -> Self {
        Self {
            learnt: VecDeque::new(),
            fixed: paths.iter().map(Place::new).collect(),
        }
    }

    /// Puts a configured place before the defaults.
    pub fn configure(&mut self, path: impl Into<PathBuf>) {
        self.fixed.insert(0, Place::new(path));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.learnt.iter().chain(&self.fixed)
    }

    fn knows(&self, path: &Path) -> bool {
        self.iter().any(|place| place.path == path)
    }

    fn learn(&mut self, path: &Path) {
        if self.knows(path) {
            return;
        }
        self.learnt.truncate(MAX_LEARNT - 1);
        self.learnt.push_front(Place::new(path));
    }
}

impl Default for Sources {
    /// The runtimes' defaults, of k3s, `MicroK8s` and snaps too. No I/O.
    fn default() -> Self {
        Self {
            files: true,
            filesystem: "/".into(),
            docker: Places::of(&["/var/lib/docker", "/var/snap/docker/common/var-lib-docker"]),
            containerd: Places::of(&[
                "/run/containerd",
                "/run/docker/containerd/daemon",
                "/run/k3s/containerd",
                "/var/snap/microk8s/common/run/containerd",
            ]),
            storage: Places::of(&["/var/lib/containers/storage", "/run/containers/storage"]),
            oci: Places::of(&["/run/runc", "/run/crun", "/run/youki"]),
            oci_namespaced: Places::of(&["/run/containerd/runc", "/run/docker/runtime-runc"]),
        }
    }
}

impl Sources {
    /// Adds the places of rootless runtimes: below the homes in `/home`, and in `/run/user`. They
    /// are asked last, and only for files of the user whose they are.
    pub fn add_users(&mut self) {
        if !self.files {
            return;
        }
        for (home, uid) in owned_dirs(&self.filesystem.join("home")) {
            let home = Path::new("/home").join(home).join(".local/share");
            self.docker.add_user(home.join("docker"), uid);
            self.storage.add_user(home.join("containers/storage"), uid);
        }
        for (name, uid) in owned_dirs(&self.filesystem.join("run/user")) {
            let run = Path::new("/run/user").join(name);
            self.storage.add_user(run.join("containers"), uid);
            self.containerd
                .add_user(run.join("docker/containerd/daemon"), uid);
            self.oci.add_user(run.join("crun"), uid);
            self.oci.add_user(run.join("runc"), uid);
            self.oci.add_user(run.join("youki"), uid);
            self.oci_namespaced
                .add_user(run.join("docker/runtime-runc"), uid);
        }
    }

    /// Learns from the call of a container's runtime where others of its kind are.
    ///
    /// A place counts for other containers only if it is root's and only root writes to it: any user
    /// can execute something that is named `runc`. Does I/O where the place is new.
    pub fn learn(&mut self, id: &str, bundle: Option<&str>, root: Option<&str>) {
        match bundle.map(|bundle| Shape::of(bundle, id)) {
            Some(Shape::Storage { root, .. }) if self.is_new_and_roots(&self.storage, root) => {
                self.storage.learn(root.as_ref());
            }
            Some(Shape::Task { state, .. }) if self.is_new_and_roots(&self.containerd, state) => {
                self.containerd.learn(state.as_ref());
                self.learn_docker(id, bundle.unwrap_or_default());
            }
            _ => {}
        }
        if let Some(root) = root
            && self.is_new_and_roots(&self.oci, root)
        {
            self.oci.learn(root.as_ref());
        }
    }

    /// Learns from the command line of a daemon or of Podman: its program, then its arguments.
    pub fn learn_daemon<'a>(&mut self, args: impl IntoIterator<Item = &'a str>) {
        let mut args = args.into_iter();
        let program = args.next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default();
        let mut pending: Option<&str> = None;
        for word in args {
            let (name, value) = match (pending.take(), word.split_once('=')) {
                (Some(name), _) => (name, word),
                (None, Some(pair)) => pair,
                (None, None) => {
                    pending = Some(word);
                    continue;
                }
            };
            // What followed a flag without value may be an option itself.
            if value.starts_with('-') {
                pending = Some(value);
            } else if value.starts_with('/') {
                self.learn_option(program, name, Path::new(value));
            }
        }
    }

    fn learn_option(&mut self, program: &str, name: &str, value: &Path) {
        match (program, name.trim_start_matches('-')) {
            ("dockerd", "data-root" | "graph" | "g") => self.docker.learn(value),
            ("dockerd", "exec-root") => {
                self.containerd.learn(&value.join("containerd/daemon"));
                self.oci_namespaced.learn(&value.join("runtime-runc"));
            }
            ("containerd", "state") => self.containerd.learn(value),
            ("podman" | "crio", "root" | "runroot") => self.storage.learn(value),
            _ => {}
        }
    }

    fn learn_docker(&mut self, id: &str, bundle: &str) {
        let read = Tree::open(&self.filesystem)
            .and_then(|tree| tree.dir(bundle.as_ref()))
            .and_then(|dir| dir.read("config.json".as_ref(), MAX_CONFIG, None));
        let parsed = read.ok().and_then(|file| Bundle::parse(&file.bytes).ok());
        if let Some(root) = parsed.as_ref().and_then(|bundle| bundle.docker_root(id))
            && self.is_new_and_roots(&self.docker, root)
        {
            self.docker.learn(root.as_ref());
        }
    }

    fn is_new_and_roots(&self, places: &Places, path: &str) -> bool {
        self.files
            && path.starts_with('/')
            && !places.knows(path.as_ref())
            && Tree::open(&self.filesystem)
                .and_then(|tree| tree.dir(path.as_ref()))
                .is_ok_and(|dir| dir.owner() == Some((0, false)))
    }
}

impl Places {
    fn add_user(&mut self, path: PathBuf, uid: u32) {
        self.fixed.push(Place {
            path,
            owner: Some(uid),
        });
    }
}

/// The directories in `dir` and whose they are, in the order of their names.
fn owned_dirs(dir: &Path) -> Vec<(PathBuf, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut dirs: Vec<_> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let metadata = fs::symlink_metadata(entry.path()).ok()?;
            metadata
                .is_dir()
                .then(|| (PathBuf::from(entry.file_name()), metadata.uid()))
        })
        .take(MAX_USERS)
        .collect();
    dirs.sort();
    dirs
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
