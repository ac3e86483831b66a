//! The gateway's protocol (`proto/uplink.proto`), the node's side.
//!
//! ```text
//!  connect ─▶ Hello ─▶ Welcome ─▶ Records … (as many as the window allows) ◀─ Ack
//!                                  Heartbeat, every 5 s
//!                                  Snapshot, Reply (when asked)
//! ```
//!
//! A session is about one stream. One that is over is delivered first, in a session of its own that
//! ends without a `Goodbye`: the node stays.
//!
//! # Bounds
//!
//! Under way is at most what the receiver's window allows; in memory at most a message or two, and
//! the answers to [`MAX_QUESTIONS`] questions. Whoever neither takes nor acks anything for
//! [`STALLED`] is given up.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use super::{
    link::{Link, LostPlace},
    retry::Patience,
    sender::{Ended, SessionError, Upstream},
    spool::{Found, Place, Stream},
    target::{Target, Trust},
};
use crate::metrics::Count;
use crate::uplink::{
    self, FromGateway, FromNode, Goodbye, Hello, Query, Records, Refused, Reply, Snapshot, Welcome,
    from_gateway::Kind as Heard, from_node::Kind as Said, query::What, refused::Why,
    uplink_client::UplinkClient,
};

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// For each step of the opening.
const OPENING: Duration = Duration::from_secs(10);
/// Without any progress although there is something to do: a line that carries less than
/// [`MESSAGE_BYTES`] in this time is none.
const STALLED: Duration = Duration::from_secs(30);
/// For the receiver to end its side after the node ended its own.
const CLOSING: Duration = Duration::from_secs(2);
/// Bytes of lines in one message.
const MESSAGE_BYTES: usize = 64 << 10;
/// What a line takes in a message beside itself.
const LINE_OVERHEAD: usize = 8;
/// A receiver takes at least this: the longest line and its company.
const MIN_MESSAGE_BYTES: usize = super::MAX_LINE_BYTES + 1024;
/// Messages between session and socket.
const CHANNEL: usize = 2;
/// Messages that wait to be sent beside records: questions beyond that are refused.
const MAX_QUESTIONS: usize = 64;
/// What the gateway says is short.
const MAX_HEARD_BYTES: usize = 64 << 10;

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    pub target: Target,
    pub trust: Trust,
}

impl Upstream for Gateway {
    fn name(&self) -> &str {
        self.target.url()
    }

    async fn session(&mut self, link: &mut Link) -> Result<Ended, SessionError> {
        let stream = link.next_stream()?;
        let (to, from, welcome) = self.open(link, &stream).await?;
        let mut session = Session::new(link, stream, &welcome)?;
        session.link.metrics.add(Count::UpstreamSessions, 1);
        tracing::info!(
            upstream = self.name(),
            stream = session.stream.uuid,
            resume_after = welcome.resume_after,
            "connected"
        );
        let ended = session.run(to, from).await;
        tracing::debug!(upstream = self.target.url(), ?ended, "session over");
        ended
    }
}

type Opened = (mpsc::Sender<FromNode>, Streaming<FromGateway>, Welcome);

impl Gateway {
    async fn open(&self, link: &Link, stream: &Stream) -> Result<Opened, SessionError> {
        let endpoint = self
            .target
            .endpoint(&self.trust)
            .map_err(SessionError::Connect)?;
        let authorization = self.trust.authorization().map_err(SessionError::Connect)?;
        let channel = timeout(OPENING, endpoint.connect())
            .await
            .map_err(|_elapsed| SessionError::Stalled("connecting"))?
            .map_err(|error| unreachable(&error))?;
        let mut client = UplinkClient::new(channel).max_decoding_message_size(MAX_HEARD_BYTES);
        let (to, said) = mpsc::channel(CHANNEL);
        let hello = from_node(Said::Hello(hello(link, stream)));
        // The channel is new and has room.
        if to.try_send(hello).is_err() {
            return Err(SessionError::Protocol("no room for the first message"));
        }
        let mut request = Request::new(ReceiverStream::new(said));
        if let Some(authorization) = authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization);
        }
        let mut from = timeout(OPENING, client.session(request))
            .await
            .map_err(|_elapsed| SessionError::Stalled("opening a session"))?
            .map_err(|status| lost(&status))?
            .into_inner();
        let heard = timeout(OPENING, from.message())
            .await
            .map_err(|_elapsed| SessionError::Stalled("Hello"))?
            .map_err(|status| lost(&status))?;
        match heard.and_then(|heard| heard.kind) {
            Some(Heard::Welcome(welcome)) => Ok((to, from, welcome)),
            Some(Heard::Refused(refused)) => Err(refusal(refused)),
            Some(_) => Err(SessionError::Protocol("Hello was not answered")),
            None => Err(SessionError::Lost("at once".to_owned())),
        }
    }
}

/// A session that was let in.
struct Session<'a> {
    link: &'a mut Link,
    stream: Stream,
    /// The stream goes on.
    is_current: bool,
    window: u64,
    message_bytes: usize,
    sent: Place,
    acked: Place,
    /// Number of the newest record that the receiver had at the beginning. Of a stream that is over it
    /// may be one that was never made here: then the state directory was an old copy.
    had: u64,
    /// There may be records after `sent`.
    more: bool,
    /// The last heartbeat was as of a record before this one, which was sent and is not stored yet:
    /// another is to follow.
    owed: Option<Place>,
    outbox: VecDeque<FromNode>,
    /// A snapshot is in the outbox.
    snapshot: bool,
    progress: Instant,
    beats: u64,
}

impl<'a> Session<'a> {
    fn new(link: &'a mut Link, stream: Stream, welcome: &Welcome) -> Result<Self, SessionError> {
        // Not as of Hello: there may have been records since.
        let made = link.newest(stream.id);
        let is_current = made.is_some();
        let newest = made.unwrap_or(stream.last_seq);
        if welcome.resume_after > newest && is_current {
            if !link.is_resumed(stream.id) {
                // No old copy explains that. Would it be believed, a receiver could have the stream
                // of all other sinks begun anew as often as it likes.
                return Err(SessionError::Protocol(
                    "it claims records of a stream that began here and that nobody made",
                ));
            }
            let lost = LostPlace {
                stream: stream.id,
                theirs: welcome.resume_after,
                ours: newest,
            };
            link.status.lose_place(lost);
            return Err(SessionError::LostPlace(lost));
        }
        let message_bytes = usize::try_from(welcome.max_message_bytes).unwrap_or(usize::MAX);
        if message_bytes < MIN_MESSAGE_BYTES || welcome.max_in_flight_records == 0 {
            return Err(SessionError::Protocol(
                "its bounds leave no room for records",
            ));
        }
        let from = Place::new(stream.id, welcome.resume_after.min(newest));
        link.acked(from);
        Ok(Self {
            link,
            stream,
            is_current,
            window: u64::from(welcome.max_in_flight_records),
            message_bytes: (message_bytes - 1024).min(MESSAGE_BYTES),
            sent: from,
            acked: from,
            had: welcome.resume_after,
            more: true,
            owed: None,
            outbox: VecDeque::new(),
            snapshot: false,
            progress: Instant::now(),
            beats: 0,
        })
    }

    async fn run(
        &mut self,
        to: mpsc::Sender<FromNode>,
        mut from: Streaming<FromGateway>,
    ) -> Result<Ended, SessionError> {
        let mut published = self.link.published.clone();
        let mut pushed = self.link.spool.pushed();
        let mut stopped = self.link.stop.clone();
        let mut heartbeat = heartbeats();
        loop {
            // Seen before the spool is read: what is committed after that wakes the loop.
            published.mark_unchanged();
            pushed.mark_unchanged();
            self.end_stream()?;
            self.prepare()?;
            if self.is_delivered() && !self.is_current {
                let all = Place::new(self.stream.id, self.stream.last_seq);
                self.link.acked(all);
                close(to, from, None).await;
                return Ok(Ended::NextStream);
            }
            let stop = self.link.stops();
            if stop.is_some_and(|stop| self.is_delivered() || stop <= Instant::now()) {
                close(to, from, Some("stopped")).await;
                return Ok(Ended::Stopped);
            }
            let speaks = !self.outbox.is_empty();
            let waits = speaks || self.sent > self.acked;
            tokio::select! {
                biased;
                heard = from.message() => match heard.map_err(|status| lost(&status))? {
                    Some(heard) => self.hear(heard)?,
                    None => return Err(SessionError::Lost("without a word".to_owned())),
                },
                permit = to.reserve(), if speaks => match permit {
                    Ok(permit) => self.say(permit),
                    Err(_gone) => {
                        return Err(SessionError::Lost("while it was told something".to_owned()));
                    }
                },
                changed = published.changed(), if self.is_current && !self.more => match changed {
                    Ok(()) => self.wake(),
                    Err(_gone) => return Ok(Ended::Stopped),
                },
                changed = pushed.changed(), if self.is_current && !self.more && self.owed.is_none() => {
                    match changed {
                        Ok(()) => self.wake(),
                        Err(_gone) => return Ok(Ended::Stopped),
                    }
                }
                _ = heartbeat.tick() => self.beat(),
                () = sleep_until(self.progress + STALLED), if waits => {
                    return Err(SessionError::Stalled("no ack"));
                }
                // An error is the end as well: whoever would say so is gone.
                _ = stopped.changed(), if stop.is_none() => {}
                () = until(stop) => {}
            }
        }
    }

    /// Where the pipeline has begun another stream, this one ends with what the spool has of it.
    fn end_stream(&mut self) -> Result<(), SessionError> {
        let is_over = self.link.newest(self.stream.id).is_none();
        // Before that the spool may still be storing records of this one.
        if self.is_current && is_over && self.link.current() != self.stream.id {
            self.is_current = false;
            self.more = true;
            match self.link.reader.stream(self.stream.id)? {
                Some(stream) => self.stream = stream,
                // Delivered to all and forgotten.
                None => self.stream.last_seq = self.acked.seq(),
            }
        }
        Ok(())
    }

    /// There are new records.
    fn wake(&mut self) {
        self.more = true;
        if self.sent == self.acked {
            // Until now there was nothing to make progress with.
            self.progress = Instant::now();
        }
    }

    /// Says what waits to be said.
    fn say(&mut self, permit: mpsc::Permit<'_, FromNode>) {
        if let Some(message) = self.outbox.pop_front() {
            self.snapshot &= !ends_snapshot(&message);
            if !matches!(message.kind, Some(Said::Heartbeat(_))) {
                self.progress = Instant::now();
            }
            permit.send(message);
        }
    }

    /// Nothing is left to send, and all that was sent is acked.
    fn is_delivered(&self) -> bool {
        !self.more && self.sent <= self.acked && self.outbox.is_empty()
    }

    /// Takes the next records, from memory or out of the spool, where there is room for them on the
    /// way.
    fn prepare(&mut self) -> Result<(), SessionError> {
        let stored = self.link.published.borrow().newest;
        if self.owed.take_if(|owed| *owed <= stored).is_some() {
            self.say_heartbeat();
        }
        let under_way = self.sent.seq().saturating_sub(self.acked.seq());
        if !self.more || !self.outbox.is_empty() || under_way >= self.window {
            return Ok(());
        }
        let room = usize::try_from(self.window - under_way).unwrap_or(usize::MAX);
        // A table can be compared only as of what is stored: until then nothing newer is sent.
        if self.is_current && self.owed.is_none() {
            let lines = self.link.spool.recent(self.sent, room, self.message_bytes);
            if !lines.is_empty() {
                self.send(self.sent.seq() + 1, lines);
                return Ok(());
            }
        }
        let run = self.link.reader.run(self.sent, room, self.message_bytes)?;
        if run.lines.is_empty() || run.first.stream() != self.stream.id {
            self.more = false;
            return Ok(());
        }
        self.send(run.first.seq(), run.lines);
        Ok(())
    }

    fn send(&mut self, first_seq: u64, records: Vec<Bytes>) {
        let count = u64::try_from(records.len()).unwrap_or(0);
        let after_seq = self.sent.seq();
        self.sent = Place::new(self.stream.id, first_seq + count - 1);
        self.link.metrics.add(Count::UpstreamSent, count);
        self.outbox.push_back(from_node(Said::Records(Records {
            first_seq,
            records,
            after_seq,
        })));
    }

    fn hear(&mut self, heard: FromGateway) -> Result<(), SessionError> {
        match heard.kind {
            Some(Heard::Ack(ack)) => {
                if ack.seq > self.sent.seq().max(self.had) {
                    return Err(SessionError::Protocol("it acked what was never sent"));
                }
                let place = Place::new(self.stream.id, ack.seq).min(self.sent);
                if place > self.acked {
                    self.acked = place;
                    self.progress = Instant::now();
                    self.link.proved = true;
                    self.link.acked(place);
                }
            }
            Some(Heard::SnapshotWanted(_)) if self.snapshot => {}
            Some(Heard::SnapshotWanted(_)) => {
                // Of a stream that is forgotten there is nothing to say.
                if let Some(found) = self.link.reader.containers(self.stream.id)? {
                    self.snapshot = true;
                    self.answer(found, |seq, containers, last| {
                        Said::Snapshot(Snapshot {
                            seq,
                            containers,
                            last,
                        })
                    });
                }
            }
            Some(Heard::Query(query)) => self.reply(query)?,
            Some(Heard::Refused(refused)) => return Err(refusal(refused)),
            Some(Heard::Welcome(_)) => {
                return Err(SessionError::Protocol("a second Welcome"));
            }
            // Of a later version of the protocol.
            None => {}
        }
        Ok(())
    }

    fn reply(&mut self, query: Query) -> Result<(), SessionError> {
        let id = query.id;
        let failed = |error: &str| {
            from_node(Said::Reply(Reply {
                id,
                error: error.to_owned(),
                last: true,
                ..Reply::default()
            }))
        };
        if self.outbox.len() >= MAX_QUESTIONS {
            self.outbox.push_back(failed("too many questions"));
            return Ok(());
        }
        let found = match query.what {
            Some(What::All(_)) => self.link.reader.containers(self.stream.id)?,
            Some(What::Container(what)) => self.link.reader.find(self.stream.id, &what)?,
            None => {
                self.outbox.push_back(failed("unknown question"));
                return Ok(());
            }
        };
        match found {
            Some(found) => self.answer(found, |seq, containers, last| {
                Said::Reply(Reply {
                    id,
                    seq,
                    containers,
                    last,
                    ..Reply::default()
                })
            }),
            None => self.outbox.push_back(failed("this stream is over")),
        }
        Ok(())
    }

    /// Puts containers into as many messages as they need, at least one.
    fn answer(&mut self, found: Found, message: impl Fn(u64, Vec<Bytes>, bool) -> Said) {
        let mut part = Vec::new();
        let mut bytes = 0;
        for line in found.lines {
            bytes += line.len() + LINE_OVERHEAD;
            if bytes > self.message_bytes && !part.is_empty() {
                bytes = line.len() + LINE_OVERHEAD;
                let part = std::mem::take(&mut part);
                let part = message(found.seq, part, false);
                self.outbox.push_back(from_node(part));
            }
            part.push(line);
        }
        let last = message(found.seq, part, true);
        self.outbox.push_back(from_node(last));
    }

    fn beat(&mut self) {
        self.beats += 1;
        // Let in, and two heartbeats later still there.
        self.link.proved |= self.beats > 2;
        if self.outbox.is_empty() && self.sent <= self.acked {
            self.progress = Instant::now();
        }
        let is_said = |message: &FromNode| matches!(message.kind, Some(Said::Heartbeat(_)));
        if !self.outbox.iter().any(is_said) {
            let stored = self.link.published.borrow().newest;
            self.owed = Some(self.sent).filter(|sent| self.is_current && *sent > stored);
            self.say_heartbeat();
        }
    }

    fn say_heartbeat(&mut self) {
        let heartbeat = self.link.heartbeat(&self.stream);
        self.outbox.push_back(from_node(Said::Heartbeat(heartbeat)));
    }
}

/// Ends the node's side, and waits a little for the other's end.
async fn close(
    to: mpsc::Sender<FromNode>,
    mut from: Streaming<FromGateway>,
    goodbye: Option<&str>,
) {
    let closing = async {
        if let Some(reason) = goodbye {
            let goodbye = from_node(Said::Goodbye(Goodbye {
                reason: reason.to_owned(),
            }));
            if to.send(goodbye).await.is_err() {
                return;
            }
        }
        drop(to);
        while let Ok(Some(_)) = from.message().await {}
    };
    if timeout(CLOSING, closing).await.is_err() {
        tracing::debug!("the upstream did not end the session in time");
    }
}

fn heartbeats() -> Interval {
    let mut heartbeats = interval(HEARTBEAT);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeats
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn from_node(kind: Said) -> FromNode {
    FromNode { kind: Some(kind) }
}

fn ends_snapshot(message: &FromNode) -> bool {
    matches!(&message.kind, Some(Said::Snapshot(snapshot)) if snapshot.last)
}

fn hello(link: &Link, stream: &Stream) -> Hello {
    let identity = &link.identity;
    Hello {
        version: uplink::VERSION,
        node: identity.node.clone(),
        stream: stream.uuid.clone(),
        first_seq: stream.kept.0,
        last_seq: stream.kept.1,
        boot_id: identity.boot_id.clone(),
        host_id: identity.host_id.clone().unwrap_or_default(),
        tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
        process: identity.process.clone(),
    }
}

fn refusal(refused: Refused) -> SessionError {
    let (why, patience) = match refused.why() {
        Why::NameTaken => ("its name is taken", Patience::Backoff),
        Why::Busy => ("busy", Patience::Backoff),
        Why::Version => ("another version", Patience::Long),
        Why::Protocol => ("against the protocol", Patience::Long),
        Why::Unspecified => ("no reason given", Patience::Long),
    };
    SessionError::Refused {
        why,
        detail: refused.detail,
        patience,
    }
}

/// The transport's errors repeat their causes: the first cause says it all.
fn unreachable(error: &tonic::transport::Error) -> SessionError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    SessionError::Connect(anyhow::anyhow!("{cause}"))
}

/// What a call's end says.
fn lost(status: &tonic::Status) -> SessionError {
    use tonic::Code::{PermissionDenied, Unauthenticated, Unimplemented};
    match status.code() {
        Unauthenticated | PermissionDenied | Unimplemented => SessionError::Refused {
            why: "by its status",
            detail: status.message().to_owned(),
            patience: Patience::Long,
        },
        code => SessionError::Lost(format!("{code}: {}", status.message())),
    }
}
