//! A node's containers and streams, as numbers: what they look like is in the store.

use std::{collections::BTreeMap, sync::Arc};

use crate::record::State;

/// What is known of a container in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its row in the store.
    pub row: i64,
    pub epoch: u32,
    pub version: u64,
    /// Of the record that it is from.
    pub seq: u64,
    /// Its part of the state hash.
    pub hash: u64,
    pub state: State,
}

impl Entry {
    /// What states are ordered by.
    #[must_use]
    pub const fn order(&self) -> (u32, u64, u64) {
        (self.epoch, self.version, self.seq)
    }
}

/// The containers of a node that are not removed.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<u128, Entry>,
    hash: u64,
}

impl Table {
    /// Sum of the entries' hashes.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn get(&self, key: u128) -> Option<&Entry> {
        self.entries.get(&key)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn insert(&mut self, key: u128, entry: Entry) {
        self.hash = self.hash.wrapping_add(entry.hash);
        if let Some(old) = self.entries.insert(key, entry) {
            self.hash = self.hash.wrapping_sub(old.hash);
        }
    }

    pub fn remove(&mut self, key: u128) {
        if let Some(old) = self.entries.remove(&key) {
            self.hash = self.hash.wrapping_sub(old.hash);
        }
    }

    /// Keeps the wanted; gives the rows of the others.
    pub fn retain(&mut self, mut wanted: impl FnMut(u128, &Entry) -> bool) -> Vec<i64> {
        let mut gone = Vec::new();
        let hash = &mut self.hash;
        self.entries.retain(|key, entry| {
            let keep = wanted(*key, entry);
            if !keep {
                *hash = hash.wrapping_sub(entry.hash);
                gone.push(entry.row);
            }
            keep
        });
        gone
    }
}

/// One stream that a node spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The store's number.
    pub id: i64,
    pub uuid: Arc<str>,
    pub epoch: u32,
    /// The newest record that was taken, or told to be missing.
    pub committed: u64,
    /// The table is as of this record, where a snapshot was ahead of the records.
    pub as_of: u64,
    /// Records that never came.
    pub missing: u64,
    /// Records that the node said it had to let go.
    pub told: u64,
}

impl Stream {
    /// The record that the table is as of.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.committed.max(self.as_of)
    }
}
