//! The unix socket: recent and coming records, and the table, for members of its group.
//!
//! ```text
//!  record ─▶ history (one ring, bounded in bytes) ◀─ place ─ reader ─▶ client
//!                                                 ◀─ place ─ reader ─▶ client
//! ```
//!
//! It lives in the daemon's own loop, after standard output: nothing here waits, each reader does a
//! bounded piece of work per turn, and the ring of the kernel side is looked at between turns.
//!
//! # When a reader is slow
//!
//! Readers have no queues of their own. Each has a place in the history, and at most
//! a few lines on their way; memory is bounded by the history and by [`MAX_READERS`]. A reader that falls behind
//! by more than the history holds loses the *oldest* of what it has not read; it is told by a
//! `node.gap` with `sink: socket`, and goes on with what is kept. With a queue per reader the newest
//! would be lost instead, the memory would be 64 times as much, and the reader would
//! be behind by a whole queue for ever after.

mod bind;
mod history;
mod peer;
pub mod protocol;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    net::{UnixListener, UnixStream},
    time::{Sleep, sleep},
};

pub use self::{
    bind::{Bound, Choice, DEFAULT_PATH},
    history::History,
};
use self::{
    peer::{Fate, Peer},
    protocol::Last,
};
use crate::{engine::Engine, enrich::Source, lifecycle::Ask, record::Record};

/// Clients at a time.
pub const MAX_READERS: usize = 64;

/// A client that asks nothing for so long makes way for another.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nobody is let in after that failed (too many open files).
const PAUSE: Duration = Duration::from_secs(1);

/// Hands over a question about files; false where there is no room for it.
type Explain<'a> = &'a mut dyn FnMut(Ask) -> bool;

/// The socket with its clients.
#[derive(Debug)]
pub struct SocketSink {
    listener: UnixListener,
    history: History,
    readers: BTreeMap<u64, Peer>,
    next_reader: u64,
    pause: Option<Pin<Box<Sleep>>>,
    /// Removes the file at the end.
    _bound: Bound,
}

impl SocketSink {
    /// Takes over a bound socket; inside the event loop only.
    ///
    /// # Errors
    ///
    /// Those of registering it.
    pub fn new(mut bound: Bound, history_bytes: usize) -> io::Result<Self> {
        let listener = bound
            .listener
            .take()
            .ok_or_else(|| io::Error::other("this socket is served already"))?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            history: History::new(history_bytes),
            readers: BTreeMap::new(),
            next_reader: 0,
            pause: None,
            _bound: bound,
        })
    }

    /// Takes a record that standard output has had; `line` is empty if it was not written there as
    /// JSON.
    pub fn add(&mut self, record: Record, line: &[u8]) {
        self.history.add(record, line);
    }

    /// Another stream begins: records of the one before would be taken for its own. Readers that
    /// have not got them yet are told.
    pub fn begin_stream(&mut self) {
        self.history.clear();
    }

    /// Waits until [`SocketSink::turn`] has something to do.
    pub async fn ready(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ready = self.poll_accept(cx).is_ready();
        for reader in self.readers.values() {
            ready |= reader.poll(cx, &self.history).is_ready();
        }
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match std::task::ready!(self.listener.poll_accept(cx)) {
            Ok((stream, _)) => self.admit(stream),
            Err(error) => {
                tracing::warn!(%error, "client of the socket not let in");
                self.pause = Some(Box::pin(sleep(PAUSE)));
            }
        }
        Poll::Ready(())
    }

    fn admit(&mut self, stream: UnixStream) {
        if self.readers.len() >= MAX_READERS {
            let silent = self.readers.iter().max_by_key(|(_, peer)| peer.silence());
            match silent.map(|(reader, peer)| (*reader, peer.silence())) {
                Some((reader, silence)) if silence > PATIENCE => {
                    self.readers.remove(&reader);
                }
                _ => {
                    let why = format!("there are {MAX_READERS} readers already");
                    let refused = rustix::net::send(
                        &stream,
                        &Last::Error(why).line(),
                        rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
                    );
                    tracing::warn!(?refused, "too many readers of the socket: one more refused");
                    return;
                }
            }
        }
        self.readers.insert(self.next_reader, Peer::new(stream));
        self.next_reader += 1;
    }

    /// Every reader does a little. `explain` hands over a reader's question about files.
    pub fn turn(&mut self, engine: &Engine, mut explain: impl FnMut(u64, Ask) -> bool) {
        let history = &self.history;
        self.readers.retain(|reader, peer| {
            let mut explain = |ask| explain(*reader, ask);
            peer.turn(history, engine, &mut explain) == Fate::There
        });
    }

    /// Answers a reader's question about files.
    pub fn explained(&mut self, reader: u64, files: &[Source]) {
        if let Some(peer) = self.readers.get_mut(&reader) {
            peer.explained(files);
        }
    }

    /// Gives followers until `patience` to take what they have not got, and tells them the end.
    pub fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for peer in self.readers.values_mut() {
            if let Err(error) = peer.finish(&self.history, deadline) {
                tracing::debug!(%error, "a reader of the socket did not take the last records");
            }
        }
    }
}

#[cfg(test)]
mod tests;
