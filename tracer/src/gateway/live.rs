//! Live queries: asking the node itself, and not too often.
//!
//! ```text
//!  ?fresh=1 ─▶ cache: fresh (30 s, and no record of the node since) ─▶ answer
//!                │ no
//!                ▼
//!              one flight per question ─▶ breaker of the node ─▶ Query ─▶ Reply ─▶ cache, answer
//!                                             │ open, no reply in 3 s, not connected
//!                                             ▼
//!                                           cache: stale (5 min) ─▶ answer, marked as stale
//! ```

mod breaker;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time::timeout,
};

use self::breaker::Breaker;
use super::{
    fleet::NodeId,
    hub::{Hub, NodeView},
    metrics::Metrics,
};
use crate::uplink::{Query, Reply, query::What};

/// An answer counts as fresh so long.
pub const FRESH: Duration = Duration::from_secs(30);
/// And serves so long where the node does not answer.
pub const STALE: Duration = Duration::from_mins(5);
/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of answers that are kept.
const ANSWERS_BYTES: u64 = 16 << 20;
/// Answers that are expected to be kept: of a KiB each.
const ANSWERS: usize = 16 << 10;
/// Parts that one answer may come in.
const MAX_PARTS: usize = 64;

/// Replies on their way to who asked.
#[derive(Debug, Default)]
pub struct Replies {
    waiting: Mutex<BTreeMap<u64, mpsc::Sender<Reply>>>,
    next: AtomicU64,
}

impl Replies {
    /// From a session. The number was given to one node; another cannot guess it in time and would
    /// only answer for itself.
    pub fn take(&self, node: NodeId, reply: Reply) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = waiting.get(&reply.id).map(|sender| sender.try_send(reply));
        if !matches!(sent, Some(Ok(()))) {
            tracing::debug!(node, "nobody waits for this reply");
        }
    }

    fn expect(self: &Arc<Self>) -> (Waiter, mpsc::Receiver<Reply>) {
        let (sender, receiver) = mpsc::channel(MAX_PARTS);
        // Not to be guessed: another node could answer.
        let random = uuid::Uuid::now_v7().as_u64_pair().1;
        let id = random.wrapping_add(self.next.fetch_add(1, Ordering::Relaxed));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(id, sender);
        let waiter = Waiter {
            id,
            replies: Arc::clone(self),
        };
        (waiter, receiver)
    }
}

struct Waiter {
    id: u64,
    replies: Arc<Replies>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self
            .replies
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&self.id);
    }
}

/// What the node said.
#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    /// The newest record of the node that was durable when it was asked.
    seq: u64,
    line: Option<Bytes>,
}

/// What a live query gives.
#[derive(Debug, Clone)]
pub struct Live {
    /// The newest record about the container; `None`: the node does not have it.
    pub line: Option<Bytes>,
    pub age: Duration,
    /// The node did not answer now.
    pub stale: bool,
}

type Key = (Arc<str>, String);

/// What an answer takes.
#[derive(Debug, Clone)]
struct Size;

/// What one takes beside its texts, bytes.
const ANSWER_OVERHEAD: usize = 256;

impl Weighter<Key, Answer> for Size {
    fn weight(&self, (_, instance): &Key, answer: &Answer) -> u64 {
        let line = answer.line.as_ref().map_or(0, Bytes::len);
        (ANSWER_OVERHEAD + instance.len() + line) as u64
    }
}

/// Answers, flights and breakers.
#[derive(Debug)]
pub struct Queries {
    hub: Arc<Hub>,
    replies: Arc<Replies>,
    metrics: Arc<Metrics>,
    answers: Cache<Key, Answer, Size>,
    flights: Mutex<BTreeMap<Key, Arc<AsyncMutex<()>>>>,
    breakers: Mutex<BTreeMap<Arc<str>, Breaker>>,
}

impl Queries {
    #[must_use]
    pub fn new(hub: Arc<Hub>, replies: Arc<Replies>, metrics: Arc<Metrics>) -> Self {
        Self {
            hub,
            replies,
            metrics,
            answers: Cache::with_weighter(ANSWERS, ANSWERS_BYTES, Size),
            flights: Mutex::default(),
            breakers: Mutex::default(),
        }
    }

    /// What the node says of this instance now, or said lately; `None` where neither is to be had.
    pub async fn ask(&self, node: &str, instance: &str) -> Option<Live> {
        let node = self.hub.node(node)?;
        let key: Key = (Arc::clone(&node.name), instance.to_owned());
        if let Some(live) = self.fresh(&key) {
            return Some(live);
        }
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(flights.entry(key.clone()).or_default())
        };
        let place = flight.lock().await;
        // Whoever flew before may have brought it.
        let live = match self.fresh(&key) {
            Some(live) => Some(live),
            None => self.fly(&node, &key).await,
        };
        drop(place);
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(&flight) <= 2 {
            flights.remove(&key);
        }
        live
    }

    fn fresh(&self, key: &Key) -> Option<Live> {
        let answer = self.answers.get(key)?;
        let seq = self
            .hub
            .node(&key.0)?
            .stream
            .as_ref()
            .map_or(0, |stream| stream.seq);
        let age = answer.at.elapsed();
        (age < FRESH && answer.seq == seq).then(|| {
            self.metrics.query("cached");
            Live {
                line: answer.line,
                age,
                stale: false,
            }
        })
    }

    async fn fly(&self, node: &NodeView, key: &Key) -> Option<Live> {
        let may = self.breaker(&node.name, |breaker| breaker.may(Instant::now()));
        let answer = if may {
            self.fetch(node, &key.1).await
        } else {
            None
        };
        if may {
            let good = answer.is_some();
            self.breaker(&node.name, |breaker| breaker.done(good, Instant::now()));
        }
        if let Some(answer) = answer {
            self.metrics.query("asked");
            self.answers.insert(key.clone(), answer.clone());
            return Some(Live {
                line: answer.line,
                age: answer.at.elapsed(),
                stale: false,
            });
        }
        let old = self
            .answers
            .get(key)
            .filter(|answer| answer.at.elapsed() < STALE);
        self.metrics
            .query(if old.is_some() { "stale" } else { "failed" });
        old.map(|answer| Live {
            age: answer.at.elapsed(),
            line: answer.line,
            stale: true,
        })
    }

    fn breaker<T>(&self, node: &Arc<str>, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let breaker = breakers.entry(Arc::clone(node)).or_default();
        let done = change(breaker);
        if breaker.is_closed() {
            breakers.remove(node);
        }
        done
    }

    async fn fetch(&self, node: &NodeView, instance: &str) -> Option<Answer> {
        let outbox = node.outbox.as_ref()?;
        let (waiter, mut replies) = self.replies.expect();
        let query = Query {
            id: waiter.id,
            what: Some(What::Container(instance.to_owned())),
        };
        if !outbox.ask(query) {
            return None;
        }
        let reply = timeout(PATIENCE, replies.recv()).await.ok()??;
        if !reply.error.is_empty() {
            return None;
        }
        Some(Answer {
            at: Instant::now(),
            seq: node.stream.as_ref().map_or(0, |stream| stream.seq),
            // A copy: a slice would keep the whole message.
            line: reply
                .containers
                .first()
                .map(|line| Bytes::copy_from_slice(line)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_by_what_they_take() {
        let hub = Arc::new(Hub::new("run".to_owned()));
        let queries = Queries::new(hub, Arc::default(), Arc::new(Metrics::new()));
        let node: Arc<str> = "node".into();
        for number in 0..1_000 {
            let answer = Answer {
                at: Instant::now(),
                seq: 1,
                line: Some(Bytes::from(vec![b'x'; 200 << 10])),
            };
            let key = (Arc::clone(&node), number.to_string());
            queries.answers.insert(key, answer);
        }
        assert!(queries.answers.weight() <= ANSWERS_BYTES);
        assert!(!queries.answers.is_empty());
    }
}
