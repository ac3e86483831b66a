//! What a record says of the table of containers. Pure.
//!
//! The table is derived from the records alone: whoever holds all records of a stream holds the same
//! table. A record changes it where it changed its container, which is where the container's
//! `version` is the record's own number; `process.*` records carry a container that they did not
//! change.

use std::sync::Arc;

use crate::{
    record::{Kind, Record, State},
    uplink::state_hash,
};

/// What becomes of a container's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub instance: Arc<str>,
    pub version: u64,
    /// This is the container's first record.
    pub born: bool,
    /// `None`: the container is removed.
    pub row: Option<Row>,
}

/// By what a container is found, beside its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: Arc<str>,
    pub name: Option<Arc<str>>,
}

impl Change {
    /// What `record` changes.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let container = record.container.as_ref()?;
        if container.version != record.seq {
            return None;
        }
        let lives = container.state != State::Removed;
        Some(Self {
            instance: Arc::clone(&container.instance),
            version: container.version,
            born: matches!(record.kind, Kind::Discovered | Kind::Created),
            row: lives.then(|| Row {
                id: Arc::clone(&container.id),
                name: container.name.clone(),
            }),
        })
    }
}

/// How many containers there are, and the sum over them that two tables are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    pub containers: u64,
    /// Modulo 2^64, of XXH3-64 of `<instance> <version>`.
    pub hash: u64,
}

impl Sum {
    /// With one more row.
    pub fn add(&mut self, instance: &str, version: u64) {
        self.containers += 1;
        self.hash = self.hash.wrapping_add(state_hash(instance, version));
    }

    /// Without a row that was in it.
    pub fn subtract(&mut self, instance: &str, version: u64) {
        self.containers = self.containers.saturating_sub(1);
        self.hash = self.hash.wrapping_sub(state_hash(instance, version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_does_not_depend_on_the_order() {
        let mut one = Sum::default();
        one.add("a:1:2", 7);
        one.add("a:1:3", 8);
        let mut other = Sum::default();
        other.add("a:1:3", 5);
        other.add("a:1:2", 7);
        assert_ne!(one, other);
        other.subtract("a:1:3", 5);
        other.add("a:1:3", 8);
        assert_eq!(one, other);
        other.subtract("a:1:2", 7);
        other.subtract("a:1:3", 8);
        assert_eq!(other, Sum::default());
    }
}
