use std::{path::Path, time::Duration};

use bytes::Bytes;

use super::*;
use crate::gateway::fleet::{Fleet, Greeting, Limits, Out};

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

/// A node that begins a stream with each Hello leaves no more rows than are remembered.
#[test]
fn streams_of_a_node_are_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open_in(directory.path());
    let mut fleet = Fleet::new(LIMITS);
    for number in 0..200_u64 {
        let greeting = Greeting {
            node: "n".into(),
            stream: format!("s{number}").into(),
            process: "p".to_owned(),
            boot_id: String::new(),
            host_id: String::new(),
            version: String::new(),
        };
        let let_in = fleet.hello(0, greeting, number, &mut Out::default());
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
