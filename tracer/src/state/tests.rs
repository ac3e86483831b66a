use std::{fs, sync::Arc};

use tracer_common::CgroupKey;

use super::*;
use crate::{
    engine::{Effect, Engine, Entry},
    lifecycle::{self, Found, FoundProcess, Machine, Snapshot},
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

fn found(id: u64) -> Found {
    Found {
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

fn step(engine: &mut Engine, entry: &Entry<'_>) -> String {
    let mut lines = Vec::new();
    engine
        .step(BootNs(9), entry, |renderer, effect| {
            if let Effect::Event(event) = effect {
                renderer.line(&event, BootNs(9), &mut lines);
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
    let mut journal = Journal::begin(dir.path(), &Header::of(&first)).expect("a journal");
    let mut told = String::new();
    for (index, entry) in entries().iter().enumerate() {
        // In the middle it is replaced by the table.
        if index == 3 {
            journal.begin_again(&Header::of(&first)).expect("again");
            told.clear();
        }
        journal.write(BootNs(9), entry).expect("written");
        told += &step(&mut first, entry);
    }
    drop(journal);

    let (left, mut second) = Left::find(dir.path()).expect("read").expect("there");
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
    let mut journal = Journal::begin(dir.path(), &Header::of(&engine)).expect("a journal");
    let path = dir.path().join("journal");
    let head = fs::metadata(&path).expect("a file").len();
    for entry in &entries() {
        journal.write(BootNs(9), entry).expect("written");
    }
    let whole = fs::read(&path).expect("the file");
    for cut in usize::try_from(head).expect("small")..whole.len() {
        fs::write(&path, &whole[..cut]).expect("cut");
        let (left, _) = Left::find(dir.path()).expect("read").expect("there");
        let mut count = 0;
        let (mut journal, _) = left
            .replay(|_, _| {
                count += 1;
                Ok(())
            })
            .expect("replayed");
        journal.write(BootNs(9), &Entry::Tick).expect("it goes on");
        let (left, _) = Left::find(dir.path()).expect("read").expect("there");
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
        let mut journal = Journal::begin(dir.path(), &head).expect("a journal");
        for entry in &entries {
            journal.write(BootNs(9), entry).expect("written");
        }
        let (left, _) = Left::find(dir.path()).expect("read").expect("there");
        let (_, last) = left.replay(|_, _| Ok(())).expect("replayed");
        assert_eq!((last.stopped, last.unfinished), expected, "{entries:?}");
    }
}

#[test]
fn a_directory_is_one_tracers() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = State::open(&dir.path().join("a/b")).expect("made");
    let mut mark = state.mark("stdout").expect("a mark");
    assert_eq!(mark.seq(), 0);
    mark.store(42).expect("stored");
    let error = State::open(state.path()).expect_err("in use");
    assert!(error.to_string().contains("another tracer"), "{error}");
    let path = state.path().to_owned();
    drop(state);
    let state = State::open(&path).expect("free again");
    assert_eq!(state.mark("stdout").expect("a mark").seq(), 42);
    state.forget_marks().expect("forgotten");
    assert_eq!(state.mark("stdout").expect("a mark").seq(), 0);
}

#[test]
fn what_cannot_be_read_is_kept_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("journal"), "something else").expect("a file");
    assert!(Left::find(dir.path()).expect("no failure").is_none());
    assert!(dir.path().join("journal.unreadable").exists());
}
