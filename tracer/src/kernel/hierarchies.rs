//! The host's cgroup hierarchies: which there are, where they are mounted, which one containers are
//! told by.
//!
//! Pure: text of `/proc/self/mountinfo` and `/proc/cgroups` in, table out.

use std::path::PathBuf;

use tracer_common::MAX_HIERARCHIES;

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// `cgroup_root.hierarchy_id`; 0 is the unified one.
    pub id: u32,
    /// `unified`, or the controllers of a v1 hierarchy as mounted (`cpu,cpuacct`).
    pub name: String,
    /// One of its controllers; none for the unified one.
    pub controller: Option<String>,
    /// Where it is mounted with its root.
    pub mount: PathBuf,
}

/// What `mountinfo` and `/proc/cgroups` tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hierarchies {
    /// In the order of preference; the first is the one that containers are told by.
    pub all: Vec<Hierarchy>,
    /// v1 hierarchies without a controller (`name=systemd`): the kernel offers no way from a task to
    /// its cgroup there, so they are not followed. No container runtime uses one alone.
    pub named: Vec<String>,
}

/// Layout of a host, as `doctor` and `node.started` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Unified,
    Hybrid,
    V1,
    None,
}

impl Layout {
    /// Name of the layout.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
            Self::None => "none",
        }
    }
}

/// Which v1 hierarchy stands for a container that has no v2 cgroup: runtimes make all of them, so
/// any would do; a fixed order makes the instance key the same after a restart.
const PREFERENCE: &[&str] = &[
    "pids", "memory", "devices", "freezer", "cpuset", "cpu", "cpuacct", "blkio",
];

impl Hierarchies {
    /// Reads the two files' text.
    #[must_use]
    pub fn parse(mountinfo: &str, proc_cgroups: &str) -> Self {
        let mut found = Self::default();
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            if mount.kind == "cgroup2" {
                found.push(0, "unified".to_owned(), None, mount.point);
                continue;
            }
            let controllers: Vec<&str> = mount
                .options
                .split(',')
                .filter(|option| controller_hierarchy(proc_cgroups, option).is_some())
                .collect();
            let Some(first) = controllers.first() else {
                if let Some(name) = mount.options.split(',').find(|o| o.starts_with("name=")) {
                    found.named.push(name.to_owned());
                }
                continue;
            };
            if let Some(id) = controller_hierarchy(proc_cgroups, first) {
                let controller = (*first).to_owned();
                found.push(id, controllers.join(","), Some(controller), mount.point);
            }
        }
        found.all.sort_by_key(Hierarchy::rank);
        found.all.truncate(MAX_HIERARCHIES);
        found
    }

    fn push(&mut self, id: u32, name: String, controller: Option<String>, mount: &str) {
        // The first mount is the one at the usual place; a bind mount of it follows.
        if self.all.iter().all(|known| known.id != id) {
            self.all.push(Hierarchy {
                id,
                name,
                controller,
                mount: unescape(mount).into(),
            });
        }
    }

    /// Id of the one that containers are told by: the first.
    #[must_use]
    pub fn preferred(&self) -> Option<u32> {
        self.all.first().map(|hierarchy| hierarchy.id)
    }

    /// Which layout this is.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let unified = self.all.iter().any(|hierarchy| hierarchy.id == 0);
        let v1 = self.all.iter().any(|hierarchy| hierarchy.id != 0);
        match (unified, v1) {
            (true, true) => Layout::Hybrid,
            (true, false) => Layout::Unified,
            (false, true) => Layout::V1,
            (false, false) => Layout::None,
        }
    }

    /// The hierarchy with this id.
    #[must_use]
    pub fn by_id(&self, id: u32) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.id == id)
    }

    /// The v1 hierarchy of the freezer.
    #[must_use]
    pub fn freezer(&self) -> Option<&Hierarchy> {
        self.all
            .iter()
            .find(|hierarchy| hierarchy.name.split(',').any(|name| name == "freezer"))
    }
}

impl Hierarchy {
    fn rank(&self) -> usize {
        match &self.controller {
            None => 0,
            Some(controller) => PREFERENCE
                .iter()
                .position(|preferred| preferred == controller)
                .map_or(usize::MAX, |position| position + 1),
        }
    }
}

/// A cgroup mount of `mountinfo`.
struct Mount<'a> {
    kind: &'a str,
    point: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        if !matches!(kind, "cgroup" | "cgroup2") {
            return None;
        }
        let mut left = left.split(' ').skip(3);
        let root = left.next()?;
        let point = left.next()?;
        // A mount of less than the whole hierarchy (a container's view of itself) is of no use.
        if root != "/" {
            return None;
        }
        Some(Self {
            kind,
            point,
            options: right.nth(1).unwrap_or_default(),
        })
    }
}

/// Hierarchy that `/proc/cgroups` gives for a controller: `name hierarchy num_cgroups enabled`.
fn controller_hierarchy(proc_cgroups: &str, controller: &str) -> Option<u32> {
    proc_cgroups.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        if fields.next() != Some(controller) {
            return None;
        }
        fields.next()?.parse().ok().filter(|id| *id != 0)
    })
}

/// Undoes the `\040` escapes of mount points.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
35 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
36 30 0:30 /docker/a /var/lib/x rw,relatime - cgroup cgroup rw,pids";

    const CONTROLLERS: &str = "\
#subsys_name\thierarchy\tnum_cgroups\tenabled
cpu\t2\t1\t1
cpuacct\t2\t1\t1
freezer\t3\t1\t1
pids\t8\t1\t1
rdma\t0\t1\t1";

    #[track_caller]
    fn check(mountinfo: &str, cgroups: &str, layout: Layout, expected: &[(u32, &str)]) {
        let found = Hierarchies::parse(mountinfo, cgroups);
        let ids: Vec<(u32, &str)> = found
            .all
            .iter()
            .map(|hierarchy| (hierarchy.id, hierarchy.name.as_str()))
            .collect();
        assert_eq!((found.layout(), ids.as_slice()), (layout, expected));
    }

    #[test]
    fn layouts_are_told_apart() {
        check(
            HYBRID,
            CONTROLLERS,
            Layout::Hybrid,
            &[
                (0, "unified"),
                (8, "pids"),
                (3, "freezer"),
                (2, "cpu,cpuacct"),
            ],
        );
        check(
            "24 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",
            "",
            Layout::Unified,
            &[(0, "unified")],
        );
        let v1: Vec<&str> = HYBRID
            .lines()
            .filter(|line| !line.contains("cgroup2"))
            .collect();
        let v1 = v1.join("\n");
        check(
            &v1,
            CONTROLLERS,
            Layout::V1,
            &[(8, "pids"), (3, "freezer"), (2, "cpu,cpuacct")],
        );
        check("", "", Layout::None, &[]);
    }

    #[test]
    fn named_hierarchies_are_set_aside() {
        assert_eq!(
            Hierarchies::parse(HYBRID, CONTROLLERS).named,
            ["name=systemd"]
        );
    }

    #[test]
    fn a_partial_mount_is_not_taken_for_the_hierarchy() {
        let partial = "36 30 0:30 /docker/a /x rw - cgroup cgroup rw,pids";
        check(partial, CONTROLLERS, Layout::None, &[]);
    }
}
