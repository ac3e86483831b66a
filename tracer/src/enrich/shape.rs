//! Bundles by where they lie: each runtime keeps its own in a place of its own form.

/// Below containerd's state directory.
pub(super) const TASKS: &str = "io.containerd.runtime.v2.task";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bundle: &str, expected: Shape<'_>) {
        assert_eq!(Shape::of(bundle, "x"), expected, "{bundle}");
    }

    #[test]
    fn forms_of_places() {
        let task = Shape::Task {
            state: "/run/containerd",
            namespace: "k8s.io",
        };
        check(
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/x",
            task,
        );
        check(
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/x/",
            task,
        );
        let storage = Shape::Storage {
            root: "/s",
            dir: "vfs-containers",
        };
        check("/s/vfs-containers/x/userdata", storage);
        for plain in [
            "",
            "/",
            "/b",
            "x",
            "/x",
            "/s/vfs-containers/y/userdata",
            "/s/vfs/x/userdata",
            "/run/io.containerd.runtime.v2.task/x",
            "/run/io.containerd.runtime.v2.task/ns/y",
            "/run/ctr.io.containerd.runtime.v2.task/ns/x",
        ] {
            check(plain, Shape::Plain);
        }
    }
}
