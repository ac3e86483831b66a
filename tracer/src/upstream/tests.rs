//! The sender against a receiver that does as the test says.

#![cfg(feature = "gateway")]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{net::UnixListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{spool::tests::record, *};
use crate::{
    record::{Kind, State},
    uplink::{
        Ack, All, FromGateway, FromNode, Hello, Query, Refused, SnapshotWanted, Welcome,
        from_gateway::Kind as Said,
        from_node::Kind as Heard,
        query::What,
        refused::Why,
        state_hash,
        uplink_server::{Uplink as Service, UplinkServer},
    },
};

/// Hands each session to the test.
#[derive(Debug)]
struct Receiver(mpsc::Sender<Session>);

#[derive(Debug)]
struct Session {
    from: Streaming<FromNode>,
    to: mpsc::Sender<Result<FromGateway, Status>>,
}

#[tonic::async_trait]
impl Service for Receiver {
    type SessionStream = ReceiverStream<Result<FromGateway, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (to, said) = mpsc::channel(16);
        let session = Session {
            from: request.into_inner(),
            to,
        };
        let handed = self.0.send(session).await;
        handed.map_err(|_gone| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

struct Test {
    runtime: Runtime,
    sessions: mpsc::Receiver<Session>,
    dir: tempfile::TempDir,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Test {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let (hand, sessions) = mpsc::channel(4);
        let socket = dir.path().join("g.sock");
        runtime.spawn(async move {
            let listener = UnixListener::bind(socket).expect("a socket");
            Server::builder()
                .add_service(UplinkServer::new(Receiver(hand)))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .expect("served");
        });
        Self {
            runtime,
            sessions,
            dir,
        }
    }

    fn uplink(&self, stream: &str) -> Uplink {
        uplink(self.dir.path(), stream)
    }

    fn session(&mut self) -> Session {
        let session = async { tokio::time::timeout(PATIENCE, self.sessions.recv()).await };
        self.runtime
            .block_on(session)
            .expect("in time")
            .expect("a session")
    }

    fn hear(&self, session: &mut Session) -> Option<Heard> {
        let heard = async { tokio::time::timeout(PATIENCE, session.from.message()).await };
        let heard = self.runtime.block_on(heard).expect("in time");
        heard.ok().flatten().and_then(|heard| heard.kind)
    }

    /// Whatever is no heartbeat.
    fn next(&self, session: &mut Session) -> Option<Heard> {
        loop {
            match self.hear(session) {
                Some(Heard::Heartbeat(_)) => {}
                heard => return heard,
            }
        }
    }

    fn hello(&self, session: &mut Session) -> Hello {
        match self.hear(session) {
            Some(Heard::Hello(hello)) => hello,
            other => panic!("{other:?} is no Hello"),
        }
    }

    fn say(&self, session: &Session, kind: Said) {
        let message = Ok(FromGateway { kind: Some(kind) });
        let said = self.runtime.block_on(session.to.send(message));
        said.expect("a node");
    }

    fn welcome(&self, session: &Session, resume_after: u64) {
        self.say(
            session,
            Said::Welcome(Welcome {
                resume_after,
                max_message_bytes: 4 << 20,
                max_in_flight_records: 4,
            }),
        );
    }

    /// Takes records up to a number, acking each message.
    fn take(&self, session: &mut Session, until: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        while taken.last() != Some(&until) {
            let Some(Heard::Records(records)) = self.next(session) else {
                panic!("no records");
            };
            let count = u64::try_from(records.records.len()).expect("a count");
            assert!(count <= 4, "more than the window");
            for (seq, line) in (records.first_seq..).zip(records.records) {
                let record: Record = serde_json::from_slice(&line).expect("a record");
                assert_eq!(record.seq, seq);
                taken.push(seq);
            }
            let seq = records.first_seq + count - 1;
            self.say(session, Said::Ack(Ack { seq }));
        }
        taken
    }

    /// The next that comes are records, of which none is acked.
    fn take_records(&self, session: &mut Session) {
        let said = self.next(session);
        assert!(matches!(said, Some(Heard::Records(_))), "{said:?}");
    }

    /// In another session `stream` comes from its beginning, and nothing else.
    fn take_stream(&mut self, stream: &str, seqs: &[u64]) {
        let mut session = self.session();
        assert_eq!(self.hello(&mut session).stream, stream);
        self.welcome(&session, 0);
        assert_eq!(
            self.take(&mut session, seqs.last().copied().unwrap_or(0)),
            seqs
        );
    }
}

fn uplink(dir: &Path, stream: &str) -> Uplink {
    Uplink::start(config(dir, stream)).expect("an uplink")
}

fn config(dir: &Path, stream: &str) -> UplinkConfig {
    let trust = Trust::default();
    let url = format!("unix:{}", dir.join("g.sock").display());
    UplinkConfig {
        directory: dir.join("spool"),
        stream: stream.to_owned(),
        known_seq: 0,
        node: "n".to_owned(),
        host: Arc::new(Host {
            name: "n".to_owned(),
            id: None,
            boot_id: "b".to_owned(),
        }),
        targets: vec![Target::parse(&url, &trust).expect("a target")],
        trust,
        bounds: Bounds {
            bytes: 1 << 20,
            age: Duration::from_hours(1),
        },
        queue_bytes: QUEUE_BYTES,
        metrics: Arc::default(),
    }
}

fn push(uplink: &Uplink, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let name = format!("c{seq}");
        let record = record(seq, Kind::Created, Some((&name, State::Created)));
        uplink.push_with(&record, b"");
    }
    assert!(uplink.spool.settle(Instant::now() + PATIENCE));
}

#[test]
fn records_come_in_windows_and_only_those_that_lack() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=10);
    let mut session = test.session();
    let hello = test.hello(&mut session);
    assert_eq!((hello.node.as_str(), hello.stream.as_str()), ("n", "s"));
    test.welcome(&session, 3);
    assert_eq!(test.take(&mut session, 10), [4, 5, 6, 7, 8, 9, 10]);
    push(&uplink, 11..=11);
    assert_eq!(test.take(&mut session, 11), [11]);
    // A receiver whose store is older than it was.
    drop(session);
    push(&uplink, 12..=12);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 5);
    assert_eq!(*test.take(&mut session, 12).last().expect("some"), 12);
}

#[test]
fn what_is_asked_is_answered_from_the_table() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=6);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 6);
    let beat = match test.hear(&mut session) {
        Some(Heard::Heartbeat(beat)) => beat,
        other => panic!("{other:?} is no heartbeat"),
    };
    assert_eq!((beat.seq, beat.containers), (6, 6));
    test.say(&session, Said::SnapshotWanted(SnapshotWanted {}));
    match test.next(&mut session) {
        Some(Heard::Snapshot(snapshot)) => {
            assert!(snapshot.last && snapshot.seq == 6 && snapshot.containers.len() == 6);
        }
        other => panic!("{other:?} is no snapshot"),
    }
    let questions = [
        (What::All(All {}), 6),
        (What::Container("c3".to_owned()), 1),
        (What::Container("nobody".to_owned()), 0),
    ];
    for (id, (what, count)) in (1..).zip(questions) {
        let what = Some(what);
        test.say(&session, Said::Query(Query { id, what }));
        match test.next(&mut session) {
            Some(Heard::Reply(reply)) => {
                assert!(reply.last && reply.error.is_empty());
                assert_eq!((reply.id, reply.containers.len()), (id, count));
            }
            other => panic!("{other:?} is no reply"),
        }
    }
    // The test goes on while the uplink says goodbye.
    let end = std::thread::spawn(move || uplink.stop(PATIENCE));
    let last = test.next(&mut session);
    assert!(matches!(last, Some(Heard::Goodbye(_))), "{last:?}");
    drop(session);
    end.join().expect("an end");
}

#[test]
fn a_stream_that_is_over_goes_first_without_a_goodbye() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=3);
    drop(test.session());
    drop(uplink);
    let uplink = test.uplink("t");
    push(&uplink, 1..=2);
    let mut session = test.session();
    let hello = test.hello(&mut session);
    assert_eq!((hello.stream.as_str(), hello.last_seq), ("s", 3));
    test.welcome(&session, 0);
    assert_eq!(test.take(&mut session, 3), [1, 2, 3]);
    assert_eq!(test.next(&mut session), None);
    drop(session);
    test.take_stream("t", &[1, 2]);
}

#[test]
fn a_receiver_that_knows_more_of_a_resumed_stream_gets_a_new_one() {
    let mut test = Test::new();
    let resumed = UplinkConfig {
        known_seq: 2,
        ..config(test.dir.path(), "s")
    };
    let mut uplink = Uplink::start(resumed).expect("an uplink");
    push(&uplink, 1..=3);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 40);
    assert_eq!(test.next(&mut session), None);
    let lost = test.runtime.block_on(uplink.lost_place());
    assert_eq!((lost.theirs, lost.ours), (40, 3));
    drop(session);
    uplink.begin_stream("t");
    push(&uplink, 1..=2);
    // The stream before has nothing that this receiver would take.
    let mut session = test.session();
    let mut hello = test.hello(&mut session);
    if hello.stream == "s" {
        test.welcome(&session, 40);
        assert_eq!(test.next(&mut session), None);
        session = test.session();
        hello = test.hello(&mut session);
    }
    assert_eq!(
        (hello.stream.as_str(), hello.process.is_empty()),
        ("t", false)
    );
    test.welcome(&session, 0);
    assert_eq!(test.take(&mut session, 2), [1, 2]);
    // In the next process as well.
    drop(session);
    uplink.stop(PATIENCE);
    let uplink = test.uplink("t");
    assert_eq!(uplink.last_seq(), 2);
}

/// Another upstream has more of the stream as well, and is still to be asked when the stream ends.
#[test]
fn a_receiver_that_has_more_of_a_stream_that_is_over_goes_on_with_the_next() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=3);
    let mut session = test.session();
    assert_eq!(test.hello(&mut session).stream, "s");
    // Made after Hello, with a number that the receiver knows as another's.
    push(&uplink, 4..=4);
    uplink.begin_stream("t");
    push(&uplink, 1..=2);
    test.welcome(&session, 40);
    test.take_records(&mut session);
    test.say(&session, Said::Ack(Ack { seq: 40 }));
    assert_eq!(test.next(&mut session), None);
    drop(session);
    test.take_stream("t", &[1, 2]);
}

#[test]
fn a_receiver_that_acks_what_was_never_sent_is_left() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=3);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 2);
    test.take_records(&mut session);
    test.say(&session, Said::Ack(Ack { seq: 4 }));
    assert_eq!(test.next(&mut session), None);
}

#[test]
fn a_receiver_that_claims_records_of_a_stream_that_began_here_is_not_believed() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=3);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 40);
    assert_eq!(test.next(&mut session), None);
    assert_eq!(*uplink.status.lost_places().borrow(), None);
}

#[test]
fn a_new_stream_in_the_middle_of_a_session_waits_for_the_end_of_the_old_one() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=3);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 0);
    assert_eq!(test.take(&mut session, 3), [1, 2, 3]);
    uplink.begin_stream("t");
    push(&uplink, 1..=2);
    assert_eq!(test.next(&mut session), None);
    drop(session);
    test.take_stream("t", &[1, 2]);
}

#[test]
fn a_refusal_is_not_the_end() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=1);
    let mut session = test.session();
    test.hello(&mut session);
    let mut refused = Refused::default();
    refused.set_why(Why::Busy);
    test.say(&session, Said::Refused(refused));
    drop(session);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 0);
    assert_eq!(test.take(&mut session, 1), [1]);
}

#[test]
fn a_heartbeat_every_five_seconds_says_how_the_node_is() {
    let mut test = Test::new();
    let uplink = test.uplink("s");
    push(&uplink, 1..=3);
    let mut session = test.session();
    test.hello(&mut session);
    test.welcome(&session, 3);
    let beat = |session: &mut Session| loop {
        if let Some(Heard::Heartbeat(beat)) = test.hear(session) {
            return beat;
        }
    };
    let first = beat(&mut session);
    let begun = Instant::now();
    assert_eq!((first.seq, first.containers, first.clock), (3, 3, None));
    push(&uplink, 4..=4);
    uplink.set_ring_losses(7);
    let clock = Clock {
        synchronized: true,
        max_error_us: 9,
        source: "adjtimex".to_owned(),
    };
    uplink.set_clock(clock.clone());
    let second = beat(&mut session);
    let passed = begun.elapsed();
    assert!(
        (Duration::from_millis(4_500)..Duration::from_secs(10)).contains(&passed),
        "{passed:?}"
    );
    assert_eq!((second.seq, second.containers), (4, 4));
    assert_eq!(second.clock, Some(clock));
    assert_eq!(second.losses.map(|losses| losses.ring), Some(7));
    let hash = (1..=4).map(|seq| state_hash(&format!("b:1:c{seq}"), seq));
    assert_eq!(second.state_hash, hash.fold(0, u64::wrapping_add));
    assert!(second.wall_ms > first.wall_ms);
}

/// One that lets everybody in and ends at once is left alone more and more.
#[test]
fn tries_become_rare() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("g.sock");
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let uplink = uplink(dir.path(), "s");
    push(&uplink, 1..=1);
    let (begun, mut tries) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(4) {
        match listener.accept() {
            Ok(_ended) => tries += 1,
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
    // After a quarter, a half, one, two seconds; each wait between half and all of that.
    assert!((3..=7).contains(&tries), "{tries} tries");
}

/// As a bus would be an upstream: no session, no questions, an ack for what was published.
#[derive(Debug, Clone, Default)]
struct Bus(Arc<Mutex<Vec<(String, u64)>>>);

impl Upstream for Bus {
    fn name(&self) -> &'static str {
        "bus"
    }

    async fn session(&mut self, link: &mut Link) -> Result<Ended, SessionError> {
        let stream = link.next_stream()?;
        let mut published = link.published.clone();
        loop {
            published.mark_unchanged();
            // What is published before the stop is read after this.
            let stops = link.stops().is_some();
            let run = link.reader.run(link.cursor, 2, 64 << 10)?;
            if !run.lines.is_empty() && run.first.stream() == stream.id {
                let seqs = (run.first.seq()..).zip(&run.lines).map(|(seq, _)| seq);
                let seqs: Vec<u64> = seqs.collect();
                let mut bus = self.0.lock().expect("a lock");
                bus.extend(seqs.iter().map(|seq| (stream.uuid.clone(), *seq)));
                drop(bus);
                link.proved = true;
                let last = seqs.last().copied().unwrap_or(0);
                link.acked(Place::new(stream.id, last));
            } else if stream.id != link.current() {
                return Ok(Ended::NextStream);
            } else if stops {
                return Ok(Ended::Stopped);
            } else {
                tokio::select! {
                    _ = published.changed() => {}
                    () = link.stopped() => {}
                }
            }
        }
    }
}

#[test]
fn another_kind_of_upstream_needs_the_trait_and_nothing_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let bus = Bus::default();
    let start = |stream: &str| {
        let sender = |_, link| Sender::start(bus.clone(), link);
        Uplink::start_with(config(dir.path(), stream), sender).expect("an uplink")
    };
    let uplink = start("s");
    push(&uplink, 1..=5);
    uplink.stop(PATIENCE);
    let uplink = start("t");
    push(&uplink, 1..=3);
    uplink.stop(PATIENCE);
    let on_bus = bus.0.lock().expect("a lock").clone();
    let expected = (1..=5).map(|seq| ("s".to_owned(), seq));
    let expected = expected.chain((1..=3).map(|seq| ("t".to_owned(), seq)));
    assert!(on_bus.iter().cloned().eq(expected), "{on_bus:?}");
}
