use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;

use super::*;
use crate::{
    gateway::fleet::{Entry, Fleet, Greeting, Limits, NodeId, Out},
    record::State,
};

const ROOMY: u64 = 1 << 30;
const DAY: Duration = Duration::from_hours(24);
const LIMITS: Limits = Limits {
    nodes: 10,
    containers_per_node: 10,
};

fn open_in(directory: &Path) -> Store {
    Store::open(&directory.join("gateway.db"), "00000001", "b").expect("a store")
}

/// Appends one record per commit; `received` rises whatever the wall clock says.
fn append(store: &mut Store, wall_ms: u64, lines: &[u8]) {
    store.begin().expect("begun");
    let row = LogRow {
        node: 1,
        epoch: 1,
        count: 1,
        lines: &Packed::of(&Bytes::copy_from_slice(lines)),
    };
    store.append(wall_ms, &row).expect("appended");
    store.table(std::iter::empty()).expect("followed");
    store.commit().expect("committed");
}

fn in_turn(store: &mut Store, what: impl FnOnce(&mut Store)) {
    store.begin().expect("begun");
    what(store);
    store.commit().expect("committed");
}

/// First numbers of the log's rows.
fn kept(store: &Store) -> Vec<i64> {
    let mut rows = store
        .connection
        .prepare("SELECT first FROM log ORDER BY first")
        .expect("a question");
    let rows = rows.query_map([], |row| row.get(0)).expect("an answer");
    rows.map(|row| row.expect("a row")).collect()
}

fn expire(store: &mut Store, clock_s: u64, keep: Duration, max_bytes: u64) {
    in_turn(store, |store| {
        while store.expire_at(clock_s, keep, max_bytes).expect("expired") {}
    });
}

#[test]
fn records_are_kept_as_long_as_asked_by_the_store_s_own_clock() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open_in(directory.path());
    append(&mut store, 1_000, b"a\n");
    in_turn(&mut store, |store| store.mark_at(100).expect("marked"));
    // A wall clock that is ten years ahead for a while.
    append(&mut store, 315_360_000_000, b"b\n");
    in_turn(&mut store, |store| store.mark_at(200).expect("marked"));
    append(&mut store, 2_000, b"c\n");
    let day = DAY.as_secs();
    expire(&mut store, 100 + day - 1, DAY, ROOMY);
    assert_eq!(kept(&store), [1, 2, 3]);
    expire(&mut store, 100 + day, DAY, ROOMY);
    assert_eq!(kept(&store), [2, 3]);
    expire(&mut store, 200 + day, DAY, ROOMY);
    assert_eq!(kept(&store), [3]);
    // Numbers go on, over a start as well.
    drop(store);
    let store = open_in(directory.path());
    assert_eq!((store.tail().next, store.tail().bytes), (4, 2));
}

#[test]
fn the_oldest_go_where_there_is_too_much() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open_in(directory.path());
    for _ in 0..10 {
        append(&mut store, 1_000, &[b'x'; 100]);
    }
    expire(&mut store, 0, DAY, 350);
    assert_eq!(kept(&store), [8, 9, 10]);
    assert_eq!(store.tail().bytes, 300);
    expire(&mut store, 0, DAY, 350);
    assert_eq!(kept(&store), [8, 9, 10]);
}

#[test]
fn the_record_of_a_removed_container_is_in_the_log_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open_in(directory.path());
    let id = node_in(&mut store);
    let record = br#"{"seq":2,"type":"container.removed","container":{"id":"abcd","instance":"b:1:2","state":"removed","version":2}}"#;
    let lines = [b"{}\n", &record[..], b"\n{}\n"].concat();
    let entry = Entry {
        row: 1,
        epoch: 1,
        version: 2,
        seq: 2,
        hash: 0,
        state: State::Removed,
    };
    in_turn(&mut store, |store| {
        let row = LogRow {
            node: id,
            epoch: 1,
            count: 3,
            lines: &Packed::of(&Bytes::from(lines)),
        };
        let first = store.append(1_000, &row).expect("appended");
        let put = Put {
            row: 1,
            node: id,
            entry: Some(entry),
            line: Bytes::from_static(record),
            at: Some(first + 1),
            received: 1_000,
        };
        store.table([&put].into_iter()).expect("written");
    });
    let stored: i64 = store
        .connection
        .query_row("SELECT length(line) FROM container", [], |row| row.get(0))
        .expect("a row");
    assert_eq!(stored, 0);
    let readers = Arc::new(Readers::new(&directory.path().join("gateway.db")));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let find = || {
        let search = Search {
            states: vec![State::Removed],
            limit: 10,
            ..Search::default()
        };
        let found = runtime.block_on(readers.search(search)).expect("found");
        let one = runtime.block_on(readers.one("abcd".to_owned(), None));
        let lines = found.rows.into_iter().chain(one.expect("found"));
        lines.map(|row| row.line).collect::<Vec<_>>()
    };
    assert_eq!(find(), [&record[..], &record[..]]);
    // It goes with its record, and is nowhere in between.
    append(&mut store, 2_000, b"{}\n");
    in_turn(&mut store, |store| {
        let gone = store
            .connection
            .execute("DELETE FROM log WHERE first = 1", []);
        assert_eq!(gone.expect("gone"), 1);
    });
    assert!(find().is_empty());
    expire(&mut store, 0, DAY, ROOMY);
    let rows = store
        .connection
        .query_row("SELECT count(*) FROM container", [], |row| row.get(0));
    assert_eq!(rows.unwrap_or(-1_i64), 0);
}

/// A node, as the fleet makes one.
fn node_in(store: &mut Store) -> NodeId {
    let mut fleet = Fleet::new(LIMITS);
    let let_in = fleet.hello(0, greeting(1), 1, &mut Out::default());
    let (id, _) = let_in.expect("let in");
    in_turn(store, |store| {
        let node = fleet.node(id).expect("a node");
        store.node(id, node, Seen::default()).expect("a node");
    });
    id
}

fn greeting(stream: u64) -> Greeting {
    Greeting {
        node: "n".into(),
        stream: format!("s{stream}").into(),
        process: "p".to_owned(),
        boot_id: String::new(),
        host_id: String::new(),
        version: String::new(),
    }
}

/// A node that begins a stream with each Hello leaves no more rows than are remembered.
#[test]
fn streams_of_a_node_are_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open_in(directory.path());
    let mut fleet = Fleet::new(LIMITS);
    for number in 0..200_u64 {
        let let_in = fleet.hello(0, greeting(number), number, &mut Out::default());
        let (id, _) = let_in.expect("let in");
        in_turn(&mut store, |store| {
            let node = fleet.node(id).expect("a node");
            store.node(id, node, Seen::default()).expect("a node");
            let stream = node.stream().expect("a stream");
            store.stream(id, stream).expect("a stream");
            store.forget_streams(id).expect("forgotten");
        });
    }
    let count = |store: &Store| -> i64 {
        let sql = "SELECT count(*) FROM stream";
        let count = store.connection.query_row(sql, [], |row| row.get(0));
        count.expect("a count")
    };
    assert_eq!(count(&store), 64);
    let restored = store.restore(LIMITS, 0).expect("restored");
    let (_, node) = restored.fleet.nodes().next().expect("a node");
    assert_eq!(node.stream().map(|stream| &*stream.uuid), Some("s199"));
}
