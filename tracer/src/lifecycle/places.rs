//! What every known cgroup is: root of a container, inside one, twin, or not decided.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracer_common::CgroupKey;

use super::keyed::ByNumber;
use crate::record::{Parent, Runtime};

/// What a cgroup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// The root of an instance; its key is the instance's.
    Root,
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

/// What every known cgroup is.
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
            Self::Root | Self::Twin(_) => None,
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

/// The cgroups of one container.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roots {
    /// Key of the instance, once there is one.
    pub root: Option<CgroupKey>,
    /// Twins, and cgroups inside them, that the kernel still watches.
    pub twins: Vec<CgroupKey>,
    /// Path of the twin in the freezer's hierarchy.
    pub freezer: Option<Arc<[u8]>>,
}
