use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    record::{Container, Host, Kind, Node, Origin, Record, State},
    time::Timestamp,
    upstream::table::Sum,
};

const ROOMY: Bounds = Bounds {
    bytes: 64 << 20,
    age: Duration::from_hours(24),
};

fn owner<'a>(stream: &'a str, upstreams: &'a [String]) -> Owner<'a> {
    Owner {
        stream,
        boot_id: "b",
        upstreams,
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn open(dir: &Path, stream: &str, upstreams: &[&str], bounds: Bounds) -> Spool {
    let upstreams = names(upstreams);
    Spool::open(
        dir,
        &owner(stream, &upstreams),
        bounds,
        1 << 20,
        Arc::default(),
    )
    .expect("a spool")
}

pub(in crate::upstream) fn record(
    seq: u64,
    kind: Kind,
    container: Option<(&str, State)>,
) -> Record {
    Record {
        id: format!("s/{seq}"),
        seq,
        time: Timestamp(seq),
        kind,
        origin: Origin::Kernel,
        host: Arc::new(Host {
            name: "n".to_owned(),
            id: None,
            boot_id: "b".to_owned(),
        }),
        container: container.map(|(name, state)| Container {
            id: format!("x{name}0123456789").into(),
            instance: format!("b:1:{name}").into(),
            name: Some(name.into()),
            runtime: None,
            image: None,
            label: None,
            created: None,
            restart_count: None,
            sandbox: false,
            state,
            version: seq,
            parents: Arc::new([]),
        }),
        k8s: None,
        cgroup: None,
        process: None,
        exec: None,
        oom: None,
        oom_killed: None,
        duration_ns: None,
        enrichment: None,
        node: None,
        emit_latency_ns: None,
    }
}

fn push(spool: &Spool, record: &Record) {
    let line = serde_json::to_vec(record).expect("JSON");
    spool.push(record, line.into());
}

fn settle(spool: &Spool) {
    assert!(spool.settle(Instant::now() + Duration::from_secs(20)));
}

/// Waits for the writer to take up what is no record.
fn wait_for(spool: &Spool, what: impl Fn(Counts) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut inner = spool.shared.lock();
    while !what(inner.counts) {
        assert!(Instant::now() < deadline, "{:?}", inner.counts);
        inner = spool.shared.wait(inner, Some(Duration::from_millis(50)));
    }
}

fn kept(spool: &Spool) -> Vec<(i64, u64)> {
    let reader = spool.reader().expect("a reader");
    let mut after = Place::START;
    let mut kept = Vec::new();
    loop {
        let run = reader.run(after, 3, 1 << 20).expect("a run");
        if run.lines.is_empty() {
            return kept;
        }
        for (at, line) in (0..).zip(&run.lines) {
            let place = Place::new(run.first.stream(), run.first.seq() + at);
            let line: Record = serde_json::from_slice(line).expect("a record");
            assert_eq!(line.seq, place.seq());
            kept.push((place.stream(), place.seq()));
            after = place;
        }
    }
}

fn life(spool: &Spool, seq: u64, name: &str) {
    push(
        spool,
        &record(seq, Kind::Created, Some((name, State::Created))),
    );
    push(
        spool,
        &record(seq + 1, Kind::Started, Some((name, State::Running))),
    );
}

#[test]
fn what_was_pushed_is_there_after_a_restart_and_once() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let spool = open(dir.path(), "s", &["u"], ROOMY);
        life(&spool, 1, "a");
        life(&spool, 3, "b");
        settle(&spool);
    }
    let spool = open(dir.path(), "s", &["u"], ROOMY);
    assert_eq!(spool.last_seq(), 4);
    life(&spool, 3, "b");
    life(&spool, 5, "c");
    settle(&spool);
    assert_eq!(
        kept(&spool),
        (1..=6).map(|seq| (1, seq)).collect::<Vec<_>>()
    );
    assert_eq!((spool.counts().pushed, spool.counts().repeated), (2, 2));
}

#[test]
fn a_second_tracer_is_kept_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let _spool = open(dir.path(), "s", &["u"], ROOMY);
    let upstreams = names(&["u"]);
    let second = Spool::open(
        dir.path(),
        &owner("s", &upstreams),
        ROOMY,
        1 << 20,
        Arc::default(),
    );
    assert!(matches!(second, Err(SpoolError::InUse { .. })));
}

#[test]
fn a_record_goes_when_all_upstreams_have_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path(), "s", &["u", "v"], ROOMY);
    life(&spool, 1, "a");
    life(&spool, 3, "b");
    settle(&spool);
    spool.shared().acked(0, Place::new(1, 4));
    spool.shared().acked(1, Place::new(1, 1));
    wait_for(&spool, |counts| counts.acked == 1);
    assert_eq!(kept(&spool), [(1, 2), (1, 3), (1, 4)]);
    drop(spool);
    // Without the slow one the rest is not needed either.
    let spool = open(dir.path(), "s", &["u"], ROOMY);
    assert_eq!(kept(&spool), []);
    assert_eq!(spool.cursor(0), Place::new(1, 4));
}

#[test]
fn the_oldest_are_given_up_counted_and_told_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = Bounds {
        bytes: 16 << 10,
        ..ROOMY
    };
    let spool = open(dir.path(), "s", &["u"], small);
    for life_number in 0..50 {
        life(&spool, life_number * 2 + 1, &format!("c{life_number}"));
        settle(&spool);
    }
    let evicted = spool.counts().evicted;
    assert!(evicted > 0 && spool.counts().dropped == 0);
    let left = kept(&spool);
    assert_eq!(left.len() as u64, 100 - evicted);
    assert_eq!(left.last(), Some(&(1, 100)));
    drop(spool);
    // Killed before it was told.
    let spool = open(dir.path(), "s", &["u"], small);
    let told = spool.take_told().expect("a loss");
    assert_eq!(told.lost.get("record"), Some(&evicted));
    assert_eq!(spool.take_told(), None);
    let mut gap = record(101, Kind::NodeGap, None);
    gap.node = Some(Box::new(told));
    push(&spool, &gap);
    settle(&spool);
    let then = spool.counts().evicted;
    drop(spool);
    let spool = open(dir.path(), "s", &["u"], small);
    let again = spool
        .take_told()
        .and_then(|told| told.lost.get("record").copied());
    assert_eq!(again.unwrap_or(0), then);
    // The table was not given up.
    let reader = spool.reader().expect("a reader");
    let found = reader.containers(1).expect("readable").expect("a stream");
    assert_eq!((found.seq, found.lines.len()), (101, 50));
}

#[test]
fn a_gap_that_is_pushed_again_after_a_crash_is_not_told_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = Bounds {
        bytes: 4 << 10,
        ..ROOMY
    };
    let spool = open(dir.path(), "s", &["u"], small);
    for number in 0..20 {
        life(&spool, number * 2 + 1, "x");
        settle(&spool);
    }
    let lost = spool.counts().evicted;
    drop(spool);
    // The gap was in the pipeline's journal, but not in the spool.
    let spool = open(dir.path(), "s", &["u"], small);
    let mut gap = record(41, Kind::NodeGap, None);
    gap.node = Some(Box::new(Node {
        lost: BTreeMap::from([("record".to_owned(), lost)]),
        sink: Some("spool".to_owned()),
        ..Node::default()
    }));
    push(&spool, &gap);
    assert_eq!(spool.take_told(), None);
}

#[test]
fn old_records_go_by_the_spools_own_clock() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path(), "s", &["u"], ROOMY);
    life(&spool, 1, "a");
    settle(&spool);
    drop(spool);
    // As if the host had been up for long: the clock stands still in another boot.
    let db = rusqlite::Connection::open(dir.path().join("spool.db")).expect("a database");
    db.execute("UPDATE spool SET clock_s = clock_s + 1000", [])
        .expect("an update");
    drop(db);
    let young = Bounds {
        age: Duration::from_secs(999),
        ..ROOMY
    };
    let spool = open(dir.path(), "s", &["u"], young);
    assert_eq!(kept(&spool), []);
    assert_eq!(
        spool
            .take_told()
            .and_then(|told| told.lost.get("record").copied()),
        Some(2)
    );
}

#[test]
fn a_stream_that_is_over_is_delivered_first_and_then_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path(), "s", &["u"], ROOMY);
    life(&spool, 1, "a");
    settle(&spool);
    drop(spool);
    let spool = open(dir.path(), "t", &["u"], ROOMY);
    assert_eq!(spool.last_seq(), 0);
    life(&spool, 1, "a");
    settle(&spool);
    assert_eq!(kept(&spool), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    let reader = spool.reader().expect("a reader");
    let old = reader.stream(1).expect("readable").expect("a stream");
    assert_eq!(
        (old.uuid.as_str(), old.last_seq, old.kept),
        ("s", 2, (1, 2))
    );
    assert_eq!(
        old.sum,
        reader.stream(2).expect("readable").expect("a stream").sum
    );
    spool.shared().acked(0, Place::new(1, 2));
    wait_for(&spool, |counts| counts.acked == 2);
    assert_eq!(reader.stream(1).expect("readable"), None);
    assert_eq!(reader.containers(1).expect("readable"), None);
    assert_eq!(kept(&spool), [(2, 1), (2, 2)]);
}

#[test]
fn a_stream_that_is_taken_up_again_is_the_newest() {
    let dir = tempfile::tempdir().expect("a directory");
    for stream in ["s", "t", "s"] {
        let spool = open(dir.path(), stream, &["u"], ROOMY);
        life(&spool, spool.last_seq() + 1, "a");
        settle(&spool);
    }
    let spool = open(dir.path(), "s", &["u"], ROOMY);
    assert_eq!(
        kept(&spool),
        [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (3, 4)]
    );
}

#[test]
fn the_sum_is_that_of_the_table_at_any_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path(), "s", &["u"], ROOMY);
    let reader = spool.reader().expect("a reader");
    let mut random = 7_u64;
    for seq in 1..=400 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let name = format!("c{}", random >> 60);
        let (kind, state) = match (random >> 40) % 4 {
            0 => (Kind::Created, State::Created),
            1 => (Kind::Started, State::Running),
            2 => (Kind::Exited, State::Exited),
            _ => (Kind::Removed, State::Removed),
        };
        push(&spool, &record(seq, kind, Some((&name, state))));
        if seq % 50 == 0 {
            settle(&spool);
            let published = *spool.shared().published().borrow();
            let found = reader.containers(1).expect("readable").expect("a stream");
            let mut sum = Sum::default();
            for line in &found.lines {
                let row: Record = serde_json::from_slice(line).expect("a record");
                let container = row.container.expect("a container");
                sum.add(&container.instance, container.version);
            }
            assert_eq!((found.seq, sum), (seq, published.sum));
        }
    }
    let found = |what: &str| {
        let found = reader.find(1, what).expect("readable").expect("a stream");
        found.lines.len()
    };
    let all = reader
        .containers(1)
        .expect("readable")
        .expect("a stream")
        .lines;
    assert!(!all.is_empty());
    for line in all {
        let row: Record = serde_json::from_slice(&line).expect("a record");
        let container = row.container.expect("a container");
        let name = container.name.expect("a name");
        for what in [&*container.id, &*container.instance, &*name] {
            assert_eq!(found(what), 1, "{what}");
        }
        assert!(found(&container.id[..6]) >= 1);
        assert_eq!(found(&container.id[..3]), 0);
    }
}

#[test]
fn a_damaged_spool_is_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("spool.db"), vec![7; 8192]).expect("a file");
    let spool = open(dir.path(), "s", &["u"], ROOMY);
    life(&spool, 1, "a");
    settle(&spool);
    assert_eq!(kept(&spool).len(), 2);
    assert!(dir.path().join("spool.db.damaged").is_file());
}
