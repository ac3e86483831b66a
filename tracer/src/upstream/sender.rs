//! Delivers the spool to one upstream, for ever: a thread with an event loop of its own, so that an
//! upstream that is dead or slow delays neither the pipeline nor the others.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use tokio::time::sleep;

use crate::metrics::Count;

use super::{
    link::{Link, LostPlace},
    retry::{Patience, Retry},
};

/// A way to deliver records: one session at a time, from connecting to its end.
pub trait Upstream: Send + 'static {
    /// For logs.
    fn name(&self) -> &str;

    /// Delivers what `link` has until the upstream fails, tracer ends or another stream has its
    /// turn. Deadlines are the implementation's; retries are not.
    fn session(&mut self, link: &mut Link) -> impl Future<Output = Result<Ended, SessionError>>;
}

/// A session that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of a stream that is over was delivered.
    NextStream,
    /// Tracer ends.
    Stopped,
}

/// Why a session ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot be reached: {0:#}")]
    Connect(anyhow::Error),
    #[error("does not let this node in ({why}): {detail}")]
    Refused {
        why: &'static str,
        detail: String,
        patience: Patience,
    },
    #[error("ended the session: {0}")]
    Lost(String),
    #[error("did not answer in time: {0}")]
    Stalled(&'static str),
    #[error("broke the protocol: {0}")]
    Protocol(&'static str),
    #[error(
        "has record {} of this stream, of which only {} were made here: this state directory is an old copy, or was lost in part",
        .0.theirs, .0.ours
    )]
    LostPlace(LostPlace),
    #[error("the spool cannot be read")]
    Spool(#[from] rusqlite::Error),
}

impl SessionError {
    fn patience(&self) -> Patience {
        match self {
            Self::Refused { patience, .. } => *patience,
            Self::Protocol(_) | Self::LostPlace(_) => Patience::Long,
            Self::Connect(_) | Self::Lost(_) | Self::Stalled(_) | Self::Spool(_) => {
                Patience::Backoff
            }
        }
    }
}

/// A sender's thread; it has ended when this has no other end.
#[derive(Debug)]
pub struct Sender(Receiver<()>);

impl Sender {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Those of starting a thread and an event loop.
    pub fn start<U: Upstream>(upstream: U, link: Link) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ended, end) = sync_channel(1);
        std::thread::Builder::new()
            .name("upstream".to_owned())
            .spawn(move || {
                runtime.block_on(deliver(upstream, link));
                drop(ended);
            })?;
        Ok(Self(end))
    }

    /// Waits for its end; false where that takes too long.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        use std::sync::mpsc::RecvTimeoutError;
        self.0.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
    }
}

async fn deliver<U: Upstream>(mut upstream: U, mut link: Link) {
    let mut retry = Retry::default();
    let chance = RandomState::new();
    while link.stops().is_none() {
        link.proved = false;
        let current = link.current();
        let ended = upstream.session(&mut link).await;
        if link.proved {
            retry.reset();
        }
        let error = match ended {
            Ok(Ended::NextStream) => {
                // That another has begun may not be stored yet.
                if link.current() == current && link.newest(current).is_none() {
                    tokio::select! {
                        () = link.another_stream(current) => {}
                        () = link.stopped() => {}
                    }
                }
                continue;
            }
            Ok(Ended::Stopped) => return,
            Err(error) => error,
        };
        link.metrics.add(Count::UpstreamFailures, 1);
        let was_open = retry.is_open();
        let bits = chance.hash_one(retry.failures()) >> 32;
        let wait = retry.failed(error.patience(), u32::try_from(bits).unwrap_or(0));
        // A dead upstream is told when it dies and when it is left alone, not at each try.
        if retry.failures() == 1 || retry.is_open() != was_open {
            tracing::warn!(upstream = upstream.name(), again_in = ?wait, "upstream {error}");
        } else {
            tracing::debug!(upstream = upstream.name(), again_in = ?wait, "upstream {error}");
        }
        tokio::select! {
            () = sleep(wait) => {}
            // What was wrong was the stream.
            () = link.another_stream(current), if matches!(error, SessionError::LostPlace(_)) => {}
            () = link.stopped() => return,
        }
    }
}
