//! What was lost on the way from the kernel, and what the ring tells while that is repaired.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tracer_common::CgroupKey;

use crate::{
    decode::{What, decode},
    engine::Entry,
    record::Kind,
    time::BootNs,
};

/// Cgroups that records were about while a scan went on.
#[derive(Debug, Default)]
pub(super) struct Meanwhile {
    pub(super) touched: BTreeSet<CgroupKey>,
    /// Those of them whose mkdir was among the records: all that there is to know is known.
    pub(super) born: BTreeSet<CgroupKey>,
}

impl Meanwhile {
    pub(super) fn note(&mut self, what: &What<'_>) {
        let cgroup = what.cgroup();
        self.touched.insert(cgroup);
        if matches!(what, What::Mkdir(_)) {
            self.born.insert(cgroup);
        }
    }
}

/// What is known to be lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Low half of each CPU's count, as the last record or reading said.
    pub(super) by_cpu: BTreeMap<u32, u32>,
    /// By name, what the stream has told of the programs that run.
    pub(super) told: BTreeMap<String, u64>,
    pub(super) last_record: BootNs,
    pub(super) repair: bool,
    /// Id of the programs that run.
    pub(super) programs: Option<Arc<str>>,
}

impl Losses {
    /// Whether CPUs have lost more by now than the records told that were read: what is counted is
    /// not over with the newest of those.
    pub(super) fn are_behind(&self, totals: &[u32]) -> bool {
        (0..)
            .zip(totals)
            .any(|(cpu, total)| self.by_cpu.get(&cpu).copied().unwrap_or(0) != *total)
    }

    pub(super) fn note(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Raw(bytes) => {
                if let Ok(raw) = decode(bytes) {
                    self.by_cpu.insert(raw.cpu, raw.drops);
                    self.last_record = BootNs(raw.time_ns);
                }
            }
            Entry::Programs(id) => {
                // They have lost nothing yet.
                self.told.clear();
                self.by_cpu.clear();
                self.programs = Some(Arc::clone(id));
            }
            Entry::Node(Kind::NodeGap, node) if node.sink.is_none() => {
                for (name, count) in &node.lost {
                    *self.told.entry(name.clone()).or_default() += count;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Node;

    #[test]
    fn a_gap_is_over_where_the_newest_record_knew_all_of_it() {
        let losses = Losses {
            by_cpu: BTreeMap::from([(0, 5), (2, 1)]),
            ..Losses::default()
        };
        let rows: [(&[u32], bool); 5] = [
            (&[5, 0, 1], false),
            (&[5, 0, 1, 0], false),
            (&[6, 0, 1], true),
            (&[5, 1, 1], true),
            (&[5, 0, 1, 7], true),
        ];
        for (totals, behind) in rows {
            assert_eq!(losses.are_behind(totals), behind, "{totals:?}");
        }
    }

    #[test]
    fn new_programs_have_lost_nothing() {
        let gap = |lost| Node {
            lost: BTreeMap::from([("process".to_owned(), lost)]),
            ..Node::default()
        };
        let mut losses = Losses::default();
        losses.note(&Entry::Node(Kind::NodeGap, Box::new(gap(3))));
        losses.note(&Entry::Node(Kind::NodeGap, Box::new(gap(4))));
        assert_eq!(losses.told["process"], 7);
        losses.note(&Entry::Programs("p".into()));
        assert!(losses.told.is_empty() && losses.programs.as_deref() == Some("p"));
        losses.note(&Entry::Node(Kind::NodeGap, Box::new(gap(2))));
        assert_eq!(losses.told["process"], 2);
    }
}
