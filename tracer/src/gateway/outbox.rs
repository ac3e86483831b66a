//! What goes to one node: the newest ack, whether a snapshot is wanted, questions.
//!
//! Acks and wishes for a snapshot are values, not messages: the newest stands for all before it. So
//! nothing here grows, however slowly a node reads; of questions there is a bounded number. Until the
//! Welcome nothing goes but a refusal.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio_stream::Stream;
use tonic::Status;

use crate::uplink::{
    Ack, FromGateway, Query, Refused, SnapshotWanted, Welcome, from_gateway::Kind,
};

/// Questions that may wait for one node.
const MAX_QUERIES: usize = 32;

#[derive(Debug, Default)]
struct Waiting {
    welcome: Option<Welcome>,
    welcomed: bool,
    ack: Option<u64>,
    snapshot: bool,
    queries: VecDeque<Query>,
    refused: Option<Refused>,
    closed: bool,
    waker: Option<Waker>,
}

/// The writing end; clones write to the same node.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Arc<Mutex<Waiting>>);

impl Outbox {
    fn with<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting: MutexGuard<'_, Waiting> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut waiting);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        done
    }

    pub fn welcome(&self, welcome: Welcome) {
        self.with(|waiting| waiting.welcome = Some(welcome));
    }

    /// Everything up to this number is durable.
    pub fn ack(&self, seq: u64) {
        self.with(|waiting| waiting.ack = waiting.ack.max(Some(seq)));
    }

    pub fn want_snapshot(&self) {
        self.with(|waiting| waiting.snapshot = true);
    }

    /// Asks; `false` where too many questions wait already.
    #[must_use]
    pub fn ask(&self, query: Query) -> bool {
        self.with(|waiting| {
            let room = !waiting.closed && waiting.queries.len() < MAX_QUERIES;
            if room {
                waiting.queries.push_back(query);
            }
            room
        })
    }

    /// Says why, then ends the stream.
    pub fn refuse(&self, refused: Refused) {
        self.with(|waiting| {
            waiting.refused = Some(refused);
            waiting.closed = true;
        });
    }

    /// Ends the stream after what waits.
    pub fn close(&self) {
        self.with(|waiting| waiting.closed = true);
    }

    /// Whether the stream is at its end, or will be.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).closed
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Outgoing(pub Outbox);

impl Stream for Outgoing {
    type Item = Result<FromGateway, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = if let Some(welcome) = waiting.welcome.take() {
            waiting.welcomed = true;
            Kind::Welcome(welcome)
        } else if let Some(seq) = waiting.welcomed.then(|| waiting.ack.take()).flatten() {
            Kind::Ack(Ack { seq })
        } else if let Some(refused) = waiting.refused.take() {
            Kind::Refused(refused)
        } else if waiting.closed {
            return Poll::Ready(None);
        } else if !waiting.welcomed {
            waiting.waker = Some(context.waker().clone());
            return Poll::Pending;
        } else if std::mem::take(&mut waiting.snapshot) {
            Kind::SnapshotWanted(SnapshotWanted {})
        } else if let Some(query) = waiting.queries.pop_front() {
            Kind::Query(query)
        } else {
            waiting.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        Poll::Ready(Some(Ok(FromGateway { kind: Some(kind) })))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes out now.
    fn next(outgoing: &mut Outgoing) -> Option<Kind> {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(outgoing).poll_next(&mut context) {
            Poll::Ready(Some(Ok(said))) => said.kind,
            Poll::Ready(_) | Poll::Pending => None,
        }
    }

    /// The ack of a session whose place this one took came first: the node took it for a breach.
    #[test]
    fn nothing_goes_before_the_welcome() {
        let outbox = Outbox::default();
        let mut outgoing = Outgoing(outbox.clone());
        outbox.ack(7);
        outbox.want_snapshot();
        assert_eq!(next(&mut outgoing), None);
        outbox.welcome(Welcome::default());
        assert!(matches!(next(&mut outgoing), Some(Kind::Welcome(_))));
        assert_eq!(next(&mut outgoing), Some(Kind::Ack(Ack { seq: 7 })));
        assert!(matches!(next(&mut outgoing), Some(Kind::SnapshotWanted(_))));
        assert_eq!(next(&mut outgoing), None);
    }

    #[test]
    fn a_refusal_needs_no_welcome() {
        let outbox = Outbox::default();
        let mut outgoing = Outgoing(outbox.clone());
        outbox.refuse(Refused::default());
        assert!(matches!(next(&mut outgoing), Some(Kind::Refused(_))));
        assert_eq!(next(&mut outgoing), None);
        assert!(outbox.is_closed());
    }
}
