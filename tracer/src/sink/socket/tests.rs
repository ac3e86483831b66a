//! The socket as clients meet it: the loop is driven by hand, the clients are real.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream as Client,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::*;
use crate::{lifecycle::Host, render::Renderer, time::WallOffset};

fn engine() -> Engine {
    let host = Host {
        boot_id: "b".into(),
        hierarchies: vec![(0, "unified".into())],
        freezer: None,
        processes: false,
    };
    let renderer = Renderer {
        stream: "s".into(),
        host: Arc::new(crate::record::Host {
            name: "h".to_owned(),
            id: None,
            boot_id: "b".to_owned(),
        }),
        offset: WallOffset(0),
        hierarchies: BTreeMap::new(),
        written: crate::render::Written::default(),
    };
    Engine::new(crate::lifecycle::Machine::new(host, 1), renderer)
}

fn path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tracer-socket-{}-{number}", std::process::id()))
}

struct Daemon {
    sink: SocketSink,
    engine: Engine,
    path: PathBuf,
    next: u64,
}

impl Daemon {
    fn new(history: usize) -> Self {
        let path = path();
        let bound = Bound::new(&Choice::At(path.clone()), None).expect("bound");
        Self {
            sink: SocketSink::new(bound.expect("asked for"), history).expect("served"),
            engine: engine(),
            path,
            next: 1,
        }
    }

    fn ask(&self, request: &str) -> Client {
        let mut client = Client::connect(&self.path).expect("connected");
        client.write_all(request.as_bytes()).expect("asked");
        client.write_all(b"\n").expect("asked");
        client
    }

    /// Serves until there is nothing to do.
    async fn settle(&mut self) {
        let quiet = Duration::from_millis(50);
        while tokio::time::timeout(quiet, self.sink.ready()).await.is_ok() {
            self.sink.turn(&self.engine, |_, _| false);
        }
    }

    fn add(&mut self, records: u64) {
        for _ in 0..records {
            self.sink.add(history::tests::record(self.next), b"");
            self.next += 1;
        }
    }
}

/// What is there to be read, as numbers of records; gaps as what they lost.
fn read(client: &mut Client) -> (Vec<u64>, u64, String) {
    client.set_nonblocking(true).expect("non-blocking");
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = client.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..len]);
    }
    let (mut seqs, mut lost, mut ending) = (Vec::new(), 0, String::new());
    for line in String::from_utf8(bytes).expect("text").lines() {
        match serde_json::from_str::<Record>(line) {
            Ok(record) => match record.node {
                Some(node) => lost += node.lost.get("record").copied().unwrap_or(0),
                None => seqs.push(record.seq),
            },
            Err(_) => ending = line.to_owned(),
        }
    }
    (seqs, lost, ending)
}

fn on_a_loop(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a loop").block_on(test);
}

#[test]
fn a_stalled_reader_is_told_what_it_missed_and_no_other_notices() {
    on_a_loop(async {
        let mut daemon = Daemon::new(256 << 10);
        let mut stalled = daemon.ask(r#"{"version":1,"verb":"events"}"#);
        let mut reader = daemon.ask(r#"{"version":1,"verb":"events"}"#);
        daemon.settle().await;
        let mut got = Vec::new();
        for _ in 0..100 {
            daemon.add(100);
            daemon.settle_quickly().await;
            let (seqs, lost, _) = read(&mut reader);
            assert_eq!(lost, 0);
            got.extend(seqs);
        }
        assert_eq!(got, (1..=10_000).collect::<Vec<u64>>());
        let (mut seqs, mut lost) = (Vec::new(), 0);
        loop {
            let (more, missed, _) = read(&mut stalled);
            daemon.settle_quickly().await;
            if more.is_empty() {
                break;
            }
            seqs.extend(more);
            lost += missed;
        }
        assert!(lost > 0, "nothing was lost");
        assert!(seqs.is_sorted());
        assert_eq!(seqs.last(), Some(&10_000));
        assert_eq!(u64::try_from(seqs.len()).expect("few") + lost, 10_000);
    });
}

impl Daemon {
    async fn settle_quickly(&mut self) {
        let quiet = Duration::from_millis(2);
        while tokio::time::timeout(quiet, self.sink.ready()).await.is_ok() {
            self.sink.turn(&self.engine, |_, _| false);
        }
    }
}

#[test]
fn the_past_is_told_and_the_answer_is_whole() {
    on_a_loop(async {
        let mut daemon = Daemon::new(1 << 20);
        daemon.add(20);
        for (request, from) in [
            (r#"{"version":1,"verb":"events","follow":false}"#, 1),
            (
                r#"{"version":1,"verb":"events","follow":false,"since":"15"}"#,
                15,
            ),
        ] {
            let mut client = daemon.ask(request);
            daemon.settle().await;
            let (seqs, lost, ending) = read(&mut client);
            assert_eq!(seqs, (from..=20).collect::<Vec<u64>>());
            assert_eq!((lost, ending.as_str()), (0, r#"{"end":"complete"}"#));
        }
        assert!(daemon.sink.readers.is_empty());
    });
}

#[test]
fn what_is_no_request_is_answered_with_why() {
    on_a_loop(async {
        let mut daemon = Daemon::new(1 << 20);
        for (request, why) in [
            ("hello", "no request"),
            (r#"{"version":2,"verb":"ps"}"#, "version"),
            (r#"{"version":1,"verb":"events","since":"soon"}"#, "soon"),
            (r#"{"version":1,"verb":"inspect","id":"nobody"}"#, "nobody"),
            (r#"{"version":1,"verb":"inspect"}"#, "id"),
        ] {
            let mut client = daemon.ask(request);
            daemon.settle().await;
            let (_, _, ending) = read(&mut client);
            assert!(
                ending.contains("error") && ending.contains(why),
                "{request}: {ending}"
            );
        }
        let mut endless = daemon.ask(&"x".repeat(60 << 10).replace('\n', ""));
        daemon.settle().await;
        let (_, _, ending) = read(&mut endless);
        assert!(ending.contains("no request"), "{ending}");
        assert!(daemon.sink.readers.is_empty());
    });
}

#[test]
fn there_are_not_more_readers_than_allowed() {
    on_a_loop(async {
        let mut daemon = Daemon::new(1 << 20);
        let request = r#"{"version":1,"verb":"events"}"#;
        let clients: Vec<Client> = (0..MAX_READERS).map(|_| daemon.ask(request)).collect();
        daemon.settle().await;
        let mut refused = Client::connect(&daemon.path).expect("connected");
        daemon.settle().await;
        let (_, _, ending) = read(&mut refused);
        assert!(ending.contains("64 readers"), "{ending}");
        drop(clients);
        daemon.settle().await;
        assert!(
            daemon.sink.readers.is_empty(),
            "those who left are still there"
        );
    });
}

#[test]
fn the_end_of_the_daemon_is_told() {
    on_a_loop(async {
        let mut daemon = Daemon::new(1 << 20);
        let mut client = daemon.ask(r#"{"version":1,"verb":"events"}"#);
        daemon.settle().await;
        daemon.add(3);
        daemon.sink.finish(Duration::from_secs(1));
        let (seqs, _, ending) = read(&mut client);
        assert_eq!(
            (seqs, ending.as_str()),
            (vec![1, 2, 3], r#"{"end":"stopped"}"#)
        );
    });
}
