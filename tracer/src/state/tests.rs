use std::{fs, sync::Arc};

use tracer_common::CgroupKey;

use super::*;
use crate::{
    engine::{Engine, Entry},
    lifecycle::{self, Found as Seen, FoundProcess, Machine, Output, Snapshot},
    record::{Host, Kind, Node, Origin},
    recording::Header,
    render::Renderer,
    time::{BootNs, WallOffset},
};

fn engine() -> Engine {
    let host = lifecycle::Host {
        boot_id: "boot".into(),
        hierarchies: vec![(0, "unified".into())],
        freezer: None,
        processes: false,
    };
    let renderer = Renderer {
        stream: "s".into(),
        host: Arc::new(Host {
            name: "h".to_owned(),
            id: None,
            boot_id: "boot".to_owned(),
        }),
        offset: WallOffset(7),
        hierarchies: [(0, Arc::from("unified"))].into(),
        written: crate::render::Written::default(),
    };
    Engine::new(Machine::new(host, 1), renderer)
}

fn found(id: u64) -> Seen {
    Seen {
        cgroup: CgroupKey::new(0, id),
        path: format!("/docker/{id:0>64}").into_bytes().into(),
        frozen: false,
        populated: true,
        fresh: false,
        processes: vec![FoundProcess {
            pid: 7,
            vpid: 1,
            parent_pid: 1,
            pid_ns_level: 1,
            start_ns: 5,
            comm: b"sh".as_slice().into(),
        }],
    }
}

fn scan(ids: &[u64]) -> Entry<'static> {
    let snapshot = Snapshot {
        found: ids.iter().copied().map(found).collect(),
        complete: true,
        ..Snapshot::default()
    };
    Entry::Snapshot(Arc::new(snapshot), Origin::Snapshot)
}

const BOOT: &str = "boot";
const NOW: BootNs = BootNs(9);

fn begin(dir: &Path, engine: &Engine) -> Journal {
    Journal::begin(dir, NOW, &Header::of(engine))
}

fn goes_on(dir: &Path) -> (Left, Engine) {
    match find(dir, BOOT).expect("read") {
        Found::GoesOn(left, engine) => (*left, *engine),
        other => panic!("{other:?}"),
    }
}

fn broken(dir: &Path, boot: &str) -> Broken {
    match find(dir, boot).expect("read") {
        Found::Broken(broken) => broken,
        other => panic!("{other:?}"),
    }
}

fn step(engine: &mut Engine, entry: &Entry<'_>) -> String {
    let mut lines = Vec::new();
    engine
        .step(BootNs(9), entry, |renderer, output| {
            if let Output::Event(event) = output {
                renderer.line(event, BootNs(9), &mut lines);
            }
        })
        .expect("entries that can be read");
    String::from_utf8(lines).expect("text")
}

fn entries() -> Vec<Entry<'static>> {
    let node = |kind| Entry::Node(kind, Box::default());
    vec![
        node(Kind::NodeStarted),
        scan(&[11, 12]),
        node(Kind::NodeSynced),
        scan(&[12, 13]),
    ]
}

#[test]
fn a_journal_tells_again_what_was_told_and_leaves_the_same_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut first = engine();
    let mut journal = begin(dir.path(), &first);
    let mut told = String::new();
    for (index, entry) in entries().iter().enumerate() {
        // In the middle it is replaced by the table.
        if index == 3 {
            assert!(journal.begin_again(NOW, &Header::of(&first)));
            told.clear();
        }
        journal.write(NOW, entry);
        told += &step(&mut first, entry);
    }
    drop(journal);

    let (left, mut second) = goes_on(dir.path());
    assert_eq!(left.next_seq, 5);
    let mut again = String::new();
    left.replay(|_, entry| {
        again += &step(&mut second, entry);
        Ok(())
    })
    .expect("replayed");
    assert_eq!(again, told);
    assert!(again.contains("container.removed") && again.contains("container.discovered"));
    assert_eq!(second.machine, first.machine);
}

#[test]
fn a_journal_cut_at_any_byte_is_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine();
    let mut journal = begin(dir.path(), &engine);
    let path = dir.path().join("journal");
    let head = fs::metadata(&path).expect("a file").len();
    for entry in &entries() {
        journal.write(NOW, entry);
    }
    let whole = fs::read(&path).expect("the file");
    for cut in usize::try_from(head).expect("small")..whole.len() {
        fs::write(&path, &whole[..cut]).expect("cut");
        let (left, _) = goes_on(dir.path());
        let mut count = 0;
        let (mut journal, _) = left
            .replay(|_, _| {
                count += 1;
                Ok(())
            })
            .expect("replayed");
        journal.write(NOW, &Entry::Tick);
        let (left, _) = goes_on(dir.path());
        let mut after = 0;
        left.replay(|_, entry| {
            after += 1;
            assert!(after <= count || *entry == Entry::Tick);
            Ok(())
        })
        .expect("replayed");
        assert_eq!(after, count + 1, "cut at {cut}");
    }
}

#[test]
fn how_the_process_before_ended_is_known() {
    let gap = |reason: Option<&str>, sink: Option<&str>| {
        let node = Node {
            reason: reason.map(str::to_owned),
            sink: sink.map(str::to_owned),
            ..Node::default()
        };
        Entry::Node(Kind::NodeGap, Box::new(node))
    };
    let node = |kind| Entry::Node(kind, Box::default());
    let rows = [
        (vec![], (false, true)),
        (vec![node(Kind::NodeSynced)], (false, false)),
        (
            vec![node(Kind::NodeSynced), gap(Some("x"), None)],
            (false, true),
        ),
        (
            vec![node(Kind::NodeSynced), gap(None, Some("stdout"))],
            (false, false),
        ),
        (
            vec![gap(Some("x"), None), node(Kind::NodeResynced)],
            (false, false),
        ),
        (
            vec![node(Kind::NodeSynced), node(Kind::NodeStopped)],
            (true, false),
        ),
    ];
    for (entries, expected) in rows {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = engine();
        let mut head = Header::of(&engine);
        head.unfinished = true;
        let mut journal = Journal::begin(dir.path(), NOW, &head);
        for entry in &entries {
            journal.write(NOW, entry);
        }
        let (left, _) = goes_on(dir.path());
        let (_, last) = left.replay(|_, _| Ok(())).expect("replayed");
        assert_eq!((last.stopped, last.unfinished), expected, "{entries:?}");
    }
}

#[test]
fn a_directory_is_one_tracers() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = State::open(&dir.path().join("a/b")).expect("made");
    let mut mark = state.mark("stdout", "s");
    assert_eq!(mark.seq(), 0);
    mark.store(42);
    let error = State::open(state.path()).expect_err("in use");
    assert!(error.to_string().contains("another tracer"), "{error}");
    let path = state.path().to_owned();
    drop(state);
    let state = State::open(&path).expect("free again");
    assert_eq!(state.mark("stdout", "s").seq(), 42);
    // Of another stream it says nothing.
    assert_eq!(state.mark("stdout", "t").seq(), 0);
    let mut mark = state.mark("stdout", "t");
    mark.store(7);
    mark.begin_stream("longer");
    mark.begin_stream("u");
    mark.store(3);
    assert_eq!(state.mark("stdout", "u").seq(), 3);
    state.forget_marks().expect("forgotten");
    assert_eq!(state.mark("stdout", "u").seq(), 0);
}

#[test]
fn what_cannot_be_read_is_kept_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("journal"), "something else").expect("a file");
    let Broken { reason, since } = broken(dir.path(), BOOT);
    assert!(
        reason.contains("not a recording") && since.is_none(),
        "{reason}"
    );
    assert!(dir.path().join("journal.unreadable").exists());
    assert!(matches!(find(dir.path(), BOOT), Ok(Found::Nothing)));
}

#[test]
fn a_stream_goes_on_over_a_boot_only_after_an_orderly_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine();
    let mut head = Header::of(&engine);
    head.last_record = BootNs(5);
    let mut journal = Journal::begin(dir.path(), NOW, &head);
    let Broken { reason, since } = broken(dir.path(), "next");
    assert!(
        reason.contains("stream s ") && reason.contains("went down"),
        "{reason}"
    );
    // The offset of that boot is 7.
    assert_eq!(since, Some(crate::time::Timestamp(12)));
    head.stopped = true;
    assert!(journal.begin_again(NOW, &head));
    assert!(matches!(find(dir.path(), "next"), Ok(Found::GoesOn(..))));
    let node = |kind| Entry::Node(kind, Box::default());
    journal.write(NOW, &node(Kind::NodeStarted));
    broken(dir.path(), "next");
    // As where a sink lacked records at the end.
    journal.write(NOW, &node(Kind::NodeStopped));
    assert!(matches!(find(dir.path(), "next"), Ok(Found::GoesOn(..))));
}

#[test]
fn a_journal_that_was_damaged_or_left_behind_is_not_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine();
    let path = dir.path().join("journal");
    let mut journal = begin(dir.path(), &engine);
    journal.write(NOW, &Entry::Tick);
    let good = fs::metadata(&path).expect("a file").len();
    journal.write(NOW, &Entry::Tick);
    let mut bytes = fs::read(&path).expect("the file");
    bytes[usize::try_from(good).expect("small")] = 99;
    fs::write(&path, bytes).expect("damaged");
    assert!(broken(dir.path(), BOOT).reason.contains("damaged"));

    let mut journal = begin(dir.path(), &engine);
    journal.set_aside();
    journal.write(NOW, &Entry::Tick);
    assert!(
        broken(dir.path(), BOOT)
            .reason
            .contains("could not be written")
    );
    assert!(journal.begin_again(NOW, &Header::of(&engine)));
    goes_on(dir.path());
    assert!(!dir.path().join("journal.behind").exists());
}

#[test]
fn a_table_of_another_abi_is_gone_on_with_and_its_records_are_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine();
    let mut head = Header::of(&engine);
    head.abi = 0;
    let mut journal = Journal::begin(dir.path(), NOW, &head);
    journal.write(NOW, &Entry::Tick);
    assert!(goes_on(dir.path()).0.other_abi);
    journal.write(NOW, &Entry::Raw(&[0; 64]));
    assert!(broken(dir.path(), BOOT).reason.contains("cannot read"));
}

#[test]
fn programs_that_the_journal_names_have_lost_nothing_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine();
    let mut head = Header::of(&engine);
    head.programs = Some("a".into());
    let mut journal = Journal::begin(dir.path(), NOW, &head);
    journal.write(NOW, &Entry::Raw(b"raw"));
    let last = |dir| goes_on(dir).0.last().clone();
    let first = last(dir.path());
    assert_eq!(first.programs.as_deref(), Some("a"));
    assert!(first.raw.is_some() && !first.unfinished);
    journal.write(NOW, &Entry::Programs("b".into()));
    let second = last(dir.path());
    assert_eq!(second.programs.as_deref(), Some("b"));
    // The scan that has to follow did not.
    assert!(second.raw.is_none() && second.unfinished);
}

#[test]
fn what_is_added_to_what_was_left_is_replayed_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut journal = begin(dir.path(), &engine());
    journal.write(NOW, &Entry::Tick);
    let path = dir.path().join("journal");
    let mut torn = fs::read(&path).expect("the file");
    torn.extend([3, 0, 0]);
    fs::write(&path, torn).expect("torn");
    let (mut left, _) = goes_on(dir.path());
    left.add(NOW, &Entry::Offset(WallOffset(1))).expect("added");
    let mut seen = Vec::new();
    left.replay(|_, entry| {
        seen.push(format!("{entry:?}"));
        Ok(())
    })
    .expect("replayed");
    assert_eq!(seen, ["Tick", "Offset(WallOffset(1))"]);
}
