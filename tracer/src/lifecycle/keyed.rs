//! Maps that events look things up in: found by hash, walked in the order of their keys.
//!
//! Every event asks a few times what its cgroup is. A tree answers in as many steps as it has levels,
//! each of which is a miss of the processor's cache on a host with many containers; a hash in one. What
//! is told in order (snapshots, pages of the socket, journals) walks a set of the keys beside it, which
//! only births and deaths pay for. Large values lie beside the table, and their keys with them: so the
//! table of ten thousand fits into the processor's second cache, and the one miss that finds a key has
//! found what is asked of the value as well.
//!
//! The hash has no secret. Keys are numbers that the kernel gives out one after the other; nobody
//! chooses them so that they collide.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    ops::RangeBounds,
};

use hashbrown::HashTable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Room that is not given back.
const SMALL: usize = 64;

/// Memory follows what is there, with room for as much again.
pub(super) fn give_back<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if has_too_much(map.capacity(), map.len()) {
        map.shrink_to(map.len() * 2);
    }
}

fn has_too_much(room: usize, taken: usize) -> bool {
    room > SMALL.max(taken * 8)
}

/// A map by numbers, written in their order but never walked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ByNumber<K: Eq + Hash, V>(HashMap<K, V, BuildHasherDefault<Mix>>);

/// A map by numbers to large values.
pub(super) struct Keyed<K, V> {
    by_key: HashTable<Box<Pair<K, V>>>,
    order: BTreeSet<K>,
}

/// A value behind its key.
#[repr(C)]
struct Pair<K, V> {
    key: K,
    value: V,
}

impl<K: Eq + Hash, V> Default for ByNumber<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Eq + Hash, V> ByNumber<K, V> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order of the keys.
    pub(super) fn sorted(&self) -> BTreeMap<&K, &V>
    where
        K: Ord,
    {
        self.0.iter().collect()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.0.remove(key);
        give_back(&mut self.0);
        value
    }
}

impl<K: Eq + Hash + Ord + Serialize, V: Serialize> Serialize for ByNumber<K, V> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.sorted())
    }
}

impl<'de, K, V> Deserialize<'de> for ByNumber<K, V>
where
    K: Eq + Hash + Deserialize<'de>,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        HashMap::deserialize(from).map(Self)
    }
}

fn hash_of<K: Hash>(key: &K) -> u64 {
    let mut mix = Mix::default();
    key.hash(&mut mix);
    mix.finish()
}

impl<K, V> Default for Keyed<K, V> {
    fn default() -> Self {
        Self {
            by_key: HashTable::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Eq + Hash + Ord, V> Keyed<K, V> {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let pair = self.by_key.find(hash_of(key), |pair| pair.key == *key)?;
        Some(&pair.value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let pair = self
            .by_key
            .find_mut(hash_of(key), |pair| pair.key == *key)?;
        Some(&mut pair.value)
    }

    /// In place of the value that the key has.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if let Some(before) = self.get_mut(&key) {
            *before = value;
            return;
        }
        let pair = Box::new(Pair { key, value });
        self.by_key
            .insert_unique(hash_of(&key), pair, |pair| hash_of(&pair.key));
        self.order.insert(key);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let found = self
            .by_key
            .find_entry(hash_of(key), |pair| pair.key == *key);
        let (pair, _) = found.ok()?.remove();
        self.order.remove(key);
        if has_too_much(self.by_key.capacity(), self.len()) {
            self.by_key
                .shrink_to(self.len() * 2, |pair| hash_of(&pair.key));
        }
        Some(pair.value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// In no order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.by_key.iter_mut().map(|pair| &mut pair.value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.range(..)
    }

    pub(super) fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        let keys = self.order.range(keys);
        keys.filter_map(|key| Some((key, self.get(key)?)))
    }
}

impl<K: Copy + Eq + Hash + Ord, V: PartialEq> PartialEq for Keyed<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Copy + Eq + Hash + Ord, V: Eq> Eq for Keyed<K, V> {}

impl<K: Copy + Eq + Hash + Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Keyed<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Copy + Eq + Hash + Ord, V> FromIterator<(K, V)> for Keyed<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut map = Self::default();
        for (key, value) in pairs {
            map.insert(key, value);
        }
        map
    }
}

/// As a list of pairs in the order of their keys: JSON knows no keys but text.
impl<K: Copy + Eq + Hash + Ord + Serialize, V: Serialize> Serialize for Keyed<K, V> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de, K, V> Deserialize<'de> for Keyed<K, V>
where
    K: Copy + Eq + Hash + Ord + Deserialize<'de>,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let pairs: Vec<(K, V)> = Deserialize::deserialize(from)?;
        Ok(pairs.into_iter().collect())
    }
}

/// Multiplies and folds: both halves of the product depend on every bit of the key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mix(u64);

/// An odd number without pattern (2^64 divided by the golden ratio).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Mix {
    fn add(&mut self, word: u64) {
        let (low, high) = (self.0 ^ word).carrying_mul(FACTOR, 0);
        self.0 = low ^ high;
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.add(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::CgroupKey;

    use super::*;

    #[test]
    fn walks_in_order_whatever_was_done_to_it() {
        let mut map: Keyed<u32, u32> = (0..1000).rev().map(|key| (key, key * 2)).collect();
        for key in (0..1000).filter(|key| key % 10 != 0) {
            assert_eq!(map.remove(&key), Some(key * 2));
            assert_eq!(map.remove(&key), None);
        }
        map.insert(20, 1);
        assert_eq!(map.len(), 100);
        let kept: Vec<u32> = map.iter().map(|(key, _)| *key).collect();
        assert_eq!(kept, (0..1000).step_by(10).collect::<Vec<_>>());
        let some: Vec<u32> = map.range(15..35).map(|(_, value)| *value).collect();
        assert_eq!(some, [1, 60]);
        assert!(map.by_key.capacity() < 1000);
        let text = serde_json::to_string(&map).expect("pairs");
        assert!(text.starts_with("[[0,0],[10,20],[20,1],"), "{text}");
        assert_eq!(
            serde_json::from_str::<Keyed<u32, u32>>(&text).expect("a map"),
            map
        );
    }

    #[test]
    fn ids_that_follow_each_other_spread() {
        let mut slots = vec![0_u32; 1024];
        for id in 0..1024_u64 {
            let mut mix = Mix::default();
            // As the kernel gives them out: 19 files to each cgroup.
            CgroupKey::new(0, 10_000 + id * 19).hash(&mut mix);
            let slot = usize::try_from(mix.finish() % 1024).expect("small");
            slots[slot] += 1;
        }
        let fullest = slots.iter().max().copied();
        assert!(fullest < Some(10), "{fullest:?} in one of 1024 slots");
    }
}
