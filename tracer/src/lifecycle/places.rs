//! What every known cgroup is that is not the root of a container: inside one, twin, or not decided.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracer_common::CgroupKey;

use super::keyed::{ByNumber, give_back};
use crate::record::{Parent, Runtime};

/// What a cgroup is that is no root: a root's key is its instance's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// Inside the container whose root or twin has this key; or a twin of that root that lies deeper
    /// than it, which records may name until the kernel side has forgotten it.
    Inside(CgroupKey),
    /// A container's cgroup in a hierarchy that is not the preferred one, as long as no cgroup with
    /// the same path has become its root.
    Twin(Box<Claim>),
    /// Not known to be a container.
    Candidate {
        path: Arc<[u8]>,
        /// Root of the container that it lies in.
        within: Option<CgroupKey>,
    },
}

/// How deep a cgroup with this path lies below the root of its hierarchy.
#[must_use]
pub fn level_of(path: &[u8]) -> u32 {
    let level = path.split(|byte| *byte == b'/').count().saturating_sub(1);
    u32::try_from(level).unwrap_or(u32::MAX)
}

/// What every known cgroup is, but for roots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    by_key: ByNumber<CgroupKey, Place>,
    /// Root and what lies inside, so that a removal costs what it removes.
    inside: BTreeSet<(CgroupKey, CgroupKey)>,
}

impl Places {
    pub(super) fn get(&self, key: &CgroupKey) -> Option<&Place> {
        self.by_key.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn put(&mut self, key: CgroupKey, place: Place) {
        self.take(&key);
        if let Some(root) = place.root() {
            self.inside.insert((root, key));
        }
        self.by_key.insert(key, place);
    }

    pub(super) fn take(&mut self, key: &CgroupKey) -> Option<Place> {
        let place = self.by_key.remove(key)?;
        if let Some(root) = place.root() {
            self.inside.remove(&(root, *key));
        }
        Some(place)
    }

    /// Takes out everything inside the container with this root.
    pub(super) fn take_inside(&mut self, root: CgroupKey) {
        let first = (root, CgroupKey::new(0, 0));
        while let Some((of, key)) = self.inside.range(first..).next().copied() {
            if of != root {
                break;
            }
            self.take(&key);
        }
    }
}

impl Serialize for Places {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.by_key.sorted())
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut places = Self::default();
        for (key, place) in Vec::<(CgroupKey, Place)>::deserialize(from)? {
            places.put(key, place);
        }
        Ok(places)
    }
}

impl Place {
    /// Root of the container that it lies in.
    pub(super) fn root(&self) -> Option<CgroupKey> {
        match self {
            Self::Inside(root) => Some(*root),
            Self::Candidate { within, .. } => *within,
            Self::Twin(_) => None,
        }
    }
}

/// Who a cgroup says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub id: Arc<str>,
    pub runtime: Option<Runtime>,
    pub pod_uid: Option<String>,
    pub parents: Arc<[Parent]>,
    pub path: Arc<[u8]>,
    /// What the root and its twins have in common: the path, or, where the path says nothing, the
    /// call of the runtime that makes them. (A runtime that is given no path makes a cgroup below
    /// its own in each v1 hierarchy, and those may differ.)
    pub group: Arc<[u8]>,
}

/// Who has what a root and its twins have in common.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Group {
    /// The root of this instance.
    Root(CgroupKey),
    /// Twins, as long as there is no root.
    Twins(Box<Twins>),
}

/// Twins that wait for their root.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Twins {
    /// They, and cgroups inside them, that the kernel still watches.
    pub cgroups: Vec<CgroupKey>,
    /// Path of the one in the freezer's hierarchy.
    pub freezer: Option<Arc<[u8]>>,
}

/// Groups by what their cgroups have in common; a container whose group is not its path has its path
/// as well. Never walked: the hash has a secret, because a container chooses paths.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups(#[serde(with = "super::pairs")] HashMap<Arc<[u8]>, Group>);

impl Groups {
    pub(super) fn get(&self, group: &[u8]) -> Option<&Group> {
        self.0.get(group)
    }

    /// The root of the container with this path or group.
    pub(super) fn root(&self, group: &[u8]) -> Option<CgroupKey> {
        match self.0.get(group)? {
            Group::Root(root) => Some(*root),
            Group::Twins(_) => None,
        }
    }

    /// The twins of a group that has no root.
    pub(super) fn twins(&mut self, group: &[u8]) -> Option<&mut Twins> {
        match self.0.get_mut(group)? {
            Group::Root(_) => None,
            Group::Twins(twins) => Some(twins),
        }
    }

    /// Another one for a group that has no root.
    pub(super) fn add_twin(&mut self, group: &Arc<[u8]>, twin: CgroupKey) -> Option<&mut Twins> {
        let entry = self.0.entry(Arc::clone(group));
        match entry.or_insert_with(|| Group::Twins(Box::default())) {
            Group::Root(_) => None,
            Group::Twins(twins) => {
                twins.cgroups.push(twin);
                Some(twins)
            }
        }
    }

    /// A root has this group, or path, from now on. Gives the twins that waited for it.
    pub(super) fn set_root(&mut self, group: &Arc<[u8]>, root: CgroupKey) -> Twins {
        match self.0.insert(Arc::clone(group), Group::Root(root)) {
            Some(Group::Twins(twins)) => *twins,
            Some(Group::Root(_)) | None => Twins::default(),
        }
    }

    /// The root has it no longer.
    pub(super) fn remove_root(&mut self, group: &[u8], root: CgroupKey) -> bool {
        let Some((group, held)) = self.0.remove_entry(group) else {
            return false;
        };
        let is_its = held == Group::Root(root);
        if is_its {
            give_back(&mut self.0);
        } else {
            self.0.insert(group, held);
        }
        is_its
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
