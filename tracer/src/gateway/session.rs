//! One node's session: from the wire to the writer.
//!
//! A task per session reads one message at a time, reads the records' heads, takes room in the
//! writer's queue and waits where there is none: the node's own window then stands still, nobody
//! else's. A session that says nothing for [`IDLE`], or whose messages break a rule, is ended.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    core::{Batch, Input, Permit, wall_ms},
    fleet::{Beat, ClockReport, Denied, Greeting, LossReport, NodeId},
    live::Replies,
    metrics::Metrics,
    outbox::{Outbox, Outgoing},
    rate::Bucket,
    trust::Peer,
};
use crate::uplink::{
    FromNode, Heartbeat, Hello, Records, Refused, Reply, VERSION, Welcome, from_node::Kind,
    refused::Why, uplink_server::Uplink,
};

/// Largest message that a node may send, bytes.
pub const MAX_MESSAGE: u32 = 1 << 20;
/// Records that may be under way without an ack.
pub const MAX_IN_FLIGHT: u32 = 16 << 10;
/// Bytes of records in the writer's queue, of all sessions.
pub const QUEUE_BYTES: usize = 32 << 20;
/// Messages in the writer's queue.
pub const QUEUE_MESSAGES: usize = 4096;
/// From the call to its Hello.
const GREETING: Duration = Duration::from_secs(10);
/// Six heartbeats.
const IDLE: Duration = Duration::from_secs(30);

/// The service; clones share everything.
#[derive(Debug, Clone)]
pub struct Service {
    inputs: mpsc::Sender<Input>,
    room: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    replies: Arc<Replies>,
    next: Arc<AtomicU64>,
    /// Records per second and node.
    rate: u64,
    open: Arc<Mutex<BTreeMap<u64, Outbox>>>,
}

/// A session that was let in.
struct Session {
    id: u64,
    node: NodeId,
    service: Service,
    bucket: Bucket,
    outbox: Outbox,
    /// A piece of the last message, where that had records, until the next has come: that one so gets
    /// memory of its own, as little as it needs. Otherwise a node that says a lot once keeps as much.
    last: Option<bytes::Bytes>,
}

/// Why a session ends.
enum End {
    /// The node or the connection went away, or the writer did.
    Gone,
    Goodbye,
    Wrong(&'static str),
}

impl Service {
    #[must_use]
    pub fn new(
        inputs: mpsc::Sender<Input>,
        metrics: Arc<Metrics>,
        replies: Arc<Replies>,
        rate: u64,
    ) -> Self {
        Self {
            inputs,
            room: Arc::new(Semaphore::new(QUEUE_BYTES)),
            metrics,
            replies,
            next: Arc::new(AtomicU64::new(1)),
            rate,
            open: Arc::default(),
        }
    }

    /// Ends all sessions: the gateway stops.
    pub fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for outbox in open.values() {
            outbox.close();
        }
    }

    async fn serve(self, mut incoming: Streaming<FromNode>, peer: Peer, outbox: Outbox) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let hello = match timeout(GREETING, incoming.message()).await {
            Ok(Ok(Some(FromNode {
                kind: Some(Kind::Hello(hello)),
            }))) => hello,
            Ok(Ok(Some(_))) => {
                return self.refuse(
                    &outbox,
                    Why::Protocol,
                    "protocol",
                    "the first message is not Hello",
                );
            }
            _ => {
                self.metrics.refused("no_hello");
                return outbox.close();
            }
        };
        if let Err((why, reason, detail)) = check(&hello, &peer) {
            return self.refuse(&outbox, why, reason, &detail);
        }
        let name = hello.node.clone();
        let node = match self.admit(hello, id, &outbox).await {
            Ok((node, committed)) => {
                outbox.welcome(Welcome {
                    resume_after: committed,
                    max_message_bytes: MAX_MESSAGE,
                    max_in_flight_records: MAX_IN_FLIGHT,
                });
                node
            }
            Err(Some(Denied::NameTaken)) => {
                let detail = format!("'{name}' is spoken for by another agent that is connected");
                return self.refuse(&outbox, Why::NameTaken, "name_taken", &detail);
            }
            Err(Some(Denied::Full)) => {
                return self.refuse(
                    &outbox,
                    Why::Busy,
                    "nodes",
                    "there are as many nodes as there may be",
                );
            }
            Err(None) => return outbox.close(),
        };
        self.metrics.sessions.inc();
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, outbox.clone());
        let mut session = Session {
            id,
            node,
            bucket: Bucket::new(self.rate),
            service: self.clone(),
            outbox,
            last: None,
        };
        let end = session.read(&mut incoming).await;
        if let End::Wrong(detail) = end {
            tracing::warn!(node = name, detail, "session ended");
            self.refuse(&session.outbox, Why::Protocol, "protocol", detail);
        }
        session.outbox.close();
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        self.metrics.sessions.dec();
        // Without a writer there is nothing to tell.
        drop(self.inputs.send(Input::Closed { node, session: id }).await);
    }

    fn refuse(&self, outbox: &Outbox, why: Why, reason: &'static str, detail: &str) {
        self.metrics.refused(reason);
        outbox.refuse(Refused {
            why: why.into(),
            detail: detail.to_owned(),
        });
    }

    async fn admit(
        &self,
        hello: Hello,
        session: u64,
        outbox: &Outbox,
    ) -> Result<(NodeId, u64), Option<Denied>> {
        let (answer, answered) = oneshot::channel();
        let greeting = Greeting {
            node: hello.node.into(),
            stream: hello.stream.into(),
            process: hello.process,
            boot_id: hello.boot_id,
            host_id: hello.host_id,
            version: hello.tracer_version,
        };
        let input = Input::Hello {
            greeting,
            session,
            outbox: outbox.clone(),
            answer,
        };
        self.inputs.send(input).await.map_err(|_closed| None)?;
        answered.await.map_err(|_closed| None)?.map_err(Some)
    }

    /// Room for so many bytes in the writer's queue.
    async fn room(&self, bytes: usize) -> Permit {
        let bytes = u32::try_from(bytes.clamp(1, QUEUE_BYTES / 4)).unwrap_or(u32::MAX);
        Permit(Arc::clone(&self.room).acquire_many_owned(bytes).await.ok())
    }
}

/// Longest name of a node, bytes.
const MAX_NAME: usize = 253;
/// Longest of the other texts in Hello, bytes.
const MAX_TEXT: usize = 128;

/// Whether this peer may greet so.
fn check(hello: &Hello, peer: &Peer) -> Result<(), (Why, &'static str, String)> {
    if hello.version != VERSION {
        return Err((
            Why::Version,
            "version",
            format!("this gateway speaks version {VERSION}"),
        ));
    }
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if hello.node.is_empty() || hello.node.len() > MAX_NAME || !hello.node.bytes().all(name) {
        let detail = "a node's name has 1 to 253 letters, digits, '-', '_' and '.'";
        return Err((Why::Protocol, "protocol", detail.to_owned()));
    }
    let texts = [
        &hello.stream,
        &hello.boot_id,
        &hello.host_id,
        &hello.tracer_version,
        &hello.process,
    ];
    if hello.stream.is_empty() || texts.iter().any(|text| text.len() > MAX_TEXT) {
        return Err((
            Why::Protocol,
            "protocol",
            "Hello is not well-formed".to_owned(),
        ));
    }
    if !peer.may_report(&hello.node) {
        let detail = format!("this token or certificate is not that of '{}'", hello.node);
        return Err((Why::NameTaken, "not_yours", detail));
    }
    Ok(())
}

impl Session {
    async fn read(&mut self, incoming: &mut Streaming<FromNode>) -> End {
        loop {
            let message = match timeout(IDLE, incoming.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Err(status)) if status.code() == tonic::Code::OutOfRange => {
                    return End::Wrong("a message is larger than allowed");
                }
                Ok(Ok(None) | Err(_)) => return End::Gone,
                Err(_silent) => return End::Wrong("nothing was heard for 30 s"),
            };
            drop(self.last.take());
            if self.outbox.is_closed() {
                return End::Gone;
            }
            let end = match message.kind {
                Some(kind) => self.take(kind).await,
                None => Err(End::Wrong("a message is empty")),
            };
            if let Err(end) = end {
                return end;
            }
        }
    }

    async fn take(&mut self, kind: Kind) -> Result<(), End> {
        let (node, session) = (self.node, self.id);
        self.pay(&kind).await?;
        match kind {
            Kind::Hello(_) => Err(End::Wrong("Hello came twice")),
            Kind::Records(records) => self.records(records).await,
            Kind::Heartbeat(beat) => {
                let beat = report(beat);
                self.send(Input::Heartbeat {
                    node,
                    session,
                    beat,
                })
                .await
            }
            Kind::Snapshot(part) => {
                let permit = self.service.room(size(&part.containers)).await;
                let batch = Batch::new(0, &part.containers, permit);
                let (seq, last) = (part.seq, part.last);
                self.send(Input::Snapshot {
                    node,
                    session,
                    seq,
                    batch,
                    last,
                })
                .await
            }
            Kind::Reply(reply) => {
                self.reply(reply);
                self.send(Input::Heard { node, session }).await
            }
            Kind::Goodbye(goodbye) => {
                let mut reason = goodbye.reason;
                reason.truncate(reason.floor_char_boundary(256));
                self.send(Input::Goodbye {
                    node,
                    session,
                    reason,
                })
                .await?;
                Err(End::Goodbye)
            }
        }
    }

    async fn records(&mut self, records: Records) -> Result<(), End> {
        let count = records.records.len() as u64;
        if records.first_seq == 0
            || records
                .first_seq
                .checked_add(count)
                .is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(End::Wrong("a record's number is out of range"));
        }
        if count == 0 {
            return Ok(());
        }
        self.service.metrics.received.inc_by(count);
        self.last = records.records.last().cloned();
        let permit = self.service.room(size(&records.records)).await;
        let mut batch = Batch::records(records.first_seq, &records.records, permit);
        batch.after_seq = records.after_seq;
        let (node, session) = (self.node, self.id);
        self.send(Input::Records {
            node,
            session,
            batch,
        })
        .await
    }

    /// Waits where the node sends faster than it may, whatever it is that it sends.
    async fn pay(&mut self, kind: &Kind) -> Result<(), End> {
        let lines = match kind {
            Kind::Records(records) => &records.records[..],
            Kind::Snapshot(part) => &part.containers[..],
            Kind::Reply(reply) => &reply.containers[..],
            Kind::Hello(_) | Kind::Heartbeat(_) | Kind::Goodbye(_) => &[],
        };
        if lines.len() > MAX_IN_FLIGHT as usize {
            return Err(End::Wrong(
                "a message has more records than may be under way",
            ));
        }
        if let Some(wait) = self.bucket.take(price(lines), Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn reply(&self, reply: Reply) {
        self.service.replies.take(self.node, reply);
    }

    async fn send(&self, input: Input) -> Result<(), End> {
        self.service
            .inputs
            .send(input)
            .await
            .map_err(|_closed| End::Gone)
    }
}

/// What a record takes in memory beside its line, bytes: many short ones are not free.
const OVERHEAD: usize = 128;

fn size(lines: &[bytes::Bytes]) -> usize {
    lines.iter().map(|line| line.len() + OVERHEAD).sum()
}

/// What one record costs of a node's rate, and each further piece of so many bytes again.
const PRICED_BYTES: usize = 1 << 10;

/// As records: a message without any costs as much as one.
fn price(lines: &[bytes::Bytes]) -> u64 {
    let each = lines.iter().map(|line| 1 + line.len() / PRICED_BYTES);
    each.sum::<usize>().max(1) as u64
}

fn report(beat: Heartbeat) -> Beat {
    let clock = beat.clock.map(|clock| {
        let mut source = clock.source;
        source.truncate(source.floor_char_boundary(32));
        ClockReport {
            synchronized: clock.synchronized,
            max_error_us: clock.max_error_us,
            source,
        }
    });
    let losses = beat.losses.unwrap_or_default();
    let ahead = i128::from(beat.wall_ms) - i128::from(wall_ms());
    Beat {
        seq: beat.seq,
        containers: beat.containers,
        hash: beat.state_hash,
        clock,
        losses: LossReport {
            ring: losses.ring,
            spool: losses.spool,
        },
        clock_ahead_ms: i64::try_from(ahead).ok().filter(|_| beat.wall_ms != 0),
    }
}

#[tonic::async_trait]
impl Uplink for Service {
    type SessionStream = Outgoing;

    async fn session(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<Outgoing>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.filter(Peer::may_report_at_all);
        let Some(peer) = peer else {
            self.metrics.refused("unauthenticated");
            return Err(Status::unauthenticated(
                "a node needs its token or its certificate",
            ));
        };
        let outbox = Outbox::default();
        let service = self.clone();
        tokio::spawn(service.serve(request.into_inner(), peer, outbox.clone()));
        Ok(Response::new(Outgoing(outbox)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_price_and_a_size() {
        let line = |bytes: usize| bytes::Bytes::from(vec![b'x'; bytes]);
        assert_eq!(price(&[]), 1);
        assert_eq!(price(&[line(0), line(300)]), 2);
        assert_eq!(price(&[line(256 << 10), line(1)]), 258);
        // A message full of nothing is not small in memory.
        let nothing: Vec<_> = (0..1_000).map(|_| line(0)).collect();
        assert_eq!(size(&nothing), 128_000);
    }
}
