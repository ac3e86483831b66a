//! What a family of runtimes may look at when it reads one name, and what it may say.

use super::Runtime;
use super::segment::segments_from;
use super::text::is_hex;

/// One name of the path and its surroundings. "Level" is the stretch between two containers: it
/// starts at the root or just below the innermost container found so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub name: &'a [u8],
    /// The name before it in this level; empty if it is the first.
    pub parent: &'a [u8],
    /// The name before `parent` in this level; empty if there is none.
    pub grandparent: &'a [u8],
    /// Inside a container.
    pub nested: bool,
    /// Below the cgroup of a Kubernetes pod, in this level.
    pub in_pod: bool,
    /// Below a cgroup of kubelet (`kubepods`, `kubepods.slice`, `kubelet-kubepods.slice`…), in
    /// this level.
    pub in_kubepods: bool,
    pub path: &'a [u8],
    /// Offset just behind `name`.
    pub end: usize,
    /// What every family asks about `name`.
    pub form: Form<'a>,
}

/// How a name is built: found out once, because a dozen prefixes are tried on each name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form<'a> {
    /// The three parts of a literal `SLICE:PREFIX:ID`. SLICE may be empty.
    colons: Option<(&'a [u8], &'a [u8], &'a [u8])>,
    /// What comes before `.scope`.
    scope: Option<&'a [u8]>,
}

impl<'a> Form<'a> {
    pub(super) fn of(name: &'a [u8]) -> Self {
        Self {
            colons: three_parts(name),
            scope: name.strip_suffix(b".scope"),
        }
    }
}

fn three_parts(name: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut parts = name.split(|b| *b == b':');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

impl<'a> Place<'a> {
    /// The id where `name` is a unit of runtime prefix `prefix`: `PREFIX-ID.scope`, which systemd
    /// makes of the OCI cgroups path `SLICE:PREFIX:ID` (runc `docs/systemd.md`), or that OCI path
    /// itself as a literal name, which a runtime writes that was not told to use systemd
    /// (falcosecurity/libs#63).
    pub(super) fn unit_id(&self, prefix: &[u8]) -> Option<&'a [u8]> {
        if let Some((_, middle, id)) = self.form.colons {
            return (middle == prefix).then_some(id);
        }
        self.form.scope?.strip_prefix(prefix)?.strip_prefix(b"-")
    }

    /// The three parts of a literal `SLICE:PREFIX:ID`. SLICE may be empty.
    pub(super) fn colons(&self) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        self.form.colons
    }

    /// The name after this one; empty if it is the last.
    pub(super) fn next(&self) -> &'a [u8] {
        segments_from(self.path, self.end)
            .next()
            .map_or(&[], |segment| segment.name)
    }

    /// Just below the first name of its level.
    pub(super) fn is_second_of_level(&self) -> bool {
        !self.parent.is_empty() && self.grandparent.is_empty()
    }

    pub(super) fn is_hex_id(&self) -> bool {
        is_hex(self.name, 64)
    }
}

/// What a family says of a name.
#[derive(Debug)]
pub(super) enum Mark<'a> {
    /// A container starts here.
    Container(Found<'a>),
    /// The cgroup that encloses the containers of a pod or task. It is no container itself, those
    /// below may be.
    Group {
        kubernetes: bool,
        pod_uid: Option<&'a [u8]>,
        why: &'static str,
    },
    /// A process of a runtime beside its containers; nothing below is a container either.
    Aside { why: &'static str },
    /// A virtual machine; its host side holds no container.
    Machine { why: &'static str },
}

#[derive(Debug)]
pub(super) struct Found<'a> {
    pub id: String,
    pub runtime: Runtime,
    pub namespace: Option<&'a [u8]>,
    /// The child that the runtime makes for itself beside the container's processes.
    pub aside_child: Option<&'static [u8]>,
}

impl<'a> Mark<'a> {
    pub(super) fn container(runtime: Runtime, id: String) -> Self {
        Self::Container(Found {
            id,
            runtime,
            namespace: None,
            aside_child: None,
        })
    }

    pub(super) fn in_namespace(runtime: Runtime, id: String, namespace: &'a [u8]) -> Self {
        Self::Container(Found {
            id,
            runtime,
            namespace: Some(namespace),
            aside_child: None,
        })
    }

    pub(super) fn with_aside(runtime: Runtime, id: String, child: &'static [u8]) -> Self {
        Self::Container(Found {
            id,
            runtime,
            namespace: None,
            aside_child: Some(child),
        })
    }
}
