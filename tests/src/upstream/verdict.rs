//! What has to be true in the end.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::node::{Journal, number, text};

/// What a gateway has of a node.
#[derive(Debug, Default)]
pub struct Held {
    /// By stream and number.
    pub records: BTreeMap<String, BTreeMap<u64, Value>>,
    /// Records that came a second time: stream and number.
    pub twice: Vec<(String, u64)>,
    /// Numbers that the gateway told to be missing, by stream.
    pub told: BTreeMap<String, BTreeSet<u64>>,
    /// Numbers that it told so more than once.
    pub told_twice: usize,
    /// `node.online`, `node.unreachable`, `node.offline`, as they were told.
    pub reach: Vec<String>,
    /// Instance to version and state.
    pub table: BTreeMap<String, (u64, String)>,
}

impl Held {
    /// Takes up a record of the log.
    pub fn add(&mut self, record: Value) -> Result<()> {
        let id = text(&record, "/id");
        let (stream, _) = id.rsplit_once('/').context("an id")?;
        let seq = number(&record, "/seq").context("a number")?;
        let stream = stream.to_owned();
        let records = self.records.entry(stream.clone()).or_default();
        if records.insert(seq, record).is_some() {
            self.twice.push((stream, seq));
        }
        Ok(())
    }
}

/// Records of a stream that a gateway lacks, all of which it told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Missing(pub u64);

/// Compares a gateway with what a node knows of one stream: no duplicate, nothing changed, no hole
/// that is not told, nothing told that is there.
pub fn stream(held: &Held, truth: &Journal) -> Result<Missing> {
    ensure!(held.twice.is_empty(), "twice in the log: {:?}", held.twice);
    ensure!(
        held.told_twice == 0,
        "{} records told to be missing twice",
        held.told_twice
    );
    let nothing = BTreeMap::new();
    let records = held.records.get(&truth.stream).unwrap_or(&nothing);
    let none = BTreeSet::new();
    let told = held.told.get(&truth.stream).unwrap_or(&none);
    let mut missing = 0;
    for (seq, expected) in (1..).zip(&truth.records) {
        match (records.get(&seq), told.contains(&seq)) {
            (Some(got), false) => {
                ensure!(
                    got == expected,
                    "record {seq} is another: {got} instead of {expected}"
                );
            }
            (None, true) => missing += 1,
            (Some(_), true) => anyhow::bail!("record {seq} is there and told to be missing"),
            (None, false) => anyhow::bail!(
                "record {seq} of {} in {} is missing, and nobody says so",
                truth.last_seq(),
                truth.stream
            ),
        }
    }
    let beyond: Vec<_> = records.range(truth.last_seq() + 1..).collect();
    ensure!(beyond.is_empty(), "records that nobody made: {beyond:?}");
    Ok(Missing(missing))
}

/// As [`stream`], for a node that was turned away at some time: what came is a beginning.
pub fn prefix(held: &Held, truth: Journal) -> Result<Missing> {
    let there = held.records.get(&truth.stream).into_iter();
    let told = held.told.get(&truth.stream).into_iter();
    let there = there.flat_map(|records| records.keys());
    let last = there.chain(told.flatten()).max().copied().unwrap_or(0);
    let mut truth = truth;
    truth
        .records
        .truncate(usize::try_from(last).unwrap_or(usize::MAX));
    stream(held, &truth)
}

/// Where a node is, is told where it changes, and it is online first and last.
pub fn reach(held: &Held) -> Result<()> {
    let told = &held.reach;
    let changes = told.windows(2).all(|pair| pair.first() != pair.last());
    let ends = [told.first(), told.last()];
    ensure!(
        changes
            && ends
                .iter()
                .all(|end| end.is_some_and(|end| end == "node.online")),
        "the node was told to be {told:?}"
    );
    Ok(())
}

/// Compares the tables.
pub fn table(held: &Held, truth: &Journal) -> Result<()> {
    if held.table == truth.table {
        return Ok(());
    }
    let differs: Vec<String> = held
        .table
        .keys()
        .chain(truth.table.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|instance| held.table.get(*instance) != truth.table.get(*instance))
        .map(|instance| {
            format!(
                "{instance}: gateway {:?}, node {:?}",
                held.table.get(instance),
                truth.table.get(instance)
            )
        })
        .collect();
    anyhow::bail!("the tables differ: {differs:#?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(seq: u64) -> Value {
        json!({"id": format!("s/{seq}"), "seq": seq})
    }

    fn truth(records: u64) -> Journal {
        Journal {
            stream: "s".to_owned(),
            records: (1..=records).map(record).collect(),
            table: BTreeMap::new(),
            told: 0,
        }
    }

    fn held(seqs: &[u64], told: &[u64]) -> Held {
        let mut held = Held::default();
        for seq in seqs {
            held.add(record(*seq)).unwrap();
        }
        held.told
            .insert("s".to_owned(), told.iter().copied().collect());
        held
    }

    #[test]
    fn the_judge_sees_what_is_wrong() {
        let judge = |seqs: &[u64], told: &[u64]| stream(&held(seqs, told), &truth(3)).ok();
        assert_eq!(judge(&[1, 2, 3], &[]), Some(Missing(0)));
        assert_eq!(judge(&[1, 3], &[2]), Some(Missing(1)));
        assert_eq!(judge(&[1, 3], &[]), None);
        assert_eq!(judge(&[1, 2, 3], &[2]), None);
        assert_eq!(judge(&[1, 2, 2, 3], &[]), None);
        assert_eq!(judge(&[1, 2, 3, 4], &[]), None);
    }

    #[test]
    fn what_did_not_change_is_not_told_again() {
        for (told, good) in [
            (vec!["online"], true),
            (vec!["online", "offline", "online"], true),
            (vec![], false),
            (vec!["online", "online"], false),
            (vec!["online", "unreachable"], false),
        ] {
            let mut held = held(&[], &[]);
            held.reach = told.iter().map(|kind| format!("node.{kind}")).collect();
            assert_eq!(reach(&held).is_ok(), good, "{told:?}");
        }
    }

    #[test]
    fn a_row_that_differs_is_found() {
        let mut held = held(&[], &[]);
        let mut truth = truth(0);
        let row = |version| (version, "running".to_owned());
        held.table.insert("a".to_owned(), row(1));
        truth.table.insert("a".to_owned(), row(2));
        assert!(table(&held, &truth).is_err());
        held.table.insert("a".to_owned(), row(2));
        assert!(table(&held, &truth).is_ok());
    }
}
