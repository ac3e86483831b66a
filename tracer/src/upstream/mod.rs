//! The way up: records to gateways, durably and exactly once per receiver.
//!
//! ```text
//!  pipeline ── push ──▶ spool (SQLite) ──▶ sender, one per upstream ──▶ gateway
//!     ▲                    │   ▲              │ heartbeats, snapshots, answers
//!     └──── take_told ◀────┘   └──── acks ◀───┘
//! ```
//!
//! # Invariants
//!
//! * The pipeline never waits: neither for the disk nor for an upstream.
//! * A record is sent only after it is on disk here, and is kept until every upstream has acked it
//!   or the spool's bounds take it, which is counted and told.
//! * Numbers make it exactly once: [`Uplink::last_seq`] says from where on the pipeline has to push
//!   again after a crash, the gateway's `Welcome` from where on the sender has to send.
//! * What is asked about the containers is answered from the spool's table, which is derived from
//!   the records alone; the pipeline's loop is not involved.
//!
//! The gateway's protocol is one implementation of [`Upstream`]; another needs no more than that trait
//! and what a [`Link`] gives.

mod grpc;
mod link;
mod retry;
mod sender;
pub mod settings;
pub mod spool;
pub mod table;
mod target;
#[cfg(test)]
#[cfg(feature = "gateway")]
mod tests;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use self::{
    grpc::Gateway,
    link::Status,
    spool::{Owner, Place, Spool},
};
pub use self::{
    link::{Identity, Link, LostPlace},
    sender::{Ended, Sender, SessionError, Upstream},
    spool::{Bounds, Counts},
    target::{Target, Trust},
};
use crate::{
    metrics::Metrics,
    record::{Host, Node, Record},
    uplink::Clock,
};

/// Longer records are not taken: none is that long unless something is wrong with it.
pub const MAX_LINE_BYTES: usize = 256 << 10;

/// What may wait in memory for the disk, bytes.
pub const QUEUE_BYTES: usize = 4 << 20;

/// What the way up is made of.
#[derive(Debug, Clone)]
pub struct UplinkConfig {
    /// The spool's directory.
    pub directory: PathBuf,
    /// UUID of the pipeline's stream.
    pub stream: String,
    /// Newest number of that stream that the pipeline knows; 0 for a new one.
    pub known_seq: u64,
    /// Under which gateways know this node.
    pub node: String,
    pub host: Arc<Host>,
    pub targets: Vec<Target>,
    pub trust: Trust,
    pub bounds: Bounds,
    /// See [`QUEUE_BYTES`].
    pub queue_bytes: usize,
    pub metrics: Arc<Metrics>,
}

/// The running spool with its senders.
#[derive(Debug)]
pub struct Uplink {
    spool: Spool,
    status: Arc<Status>,
    lost_places: watch::Receiver<Option<LostPlace>>,
    senders: Vec<Sender>,
    stop: watch::Sender<Option<tokio::time::Instant>>,
}

impl Uplink {
    /// Opens the spool and starts a sender for each upstream.
    ///
    /// # Errors
    ///
    /// Where the spool or a thread cannot be had. Upstreams that cannot be reached are no error.
    pub fn start(config: UplinkConfig) -> anyhow::Result<Self> {
        let trust = config.trust.clone();
        Self::start_with(config, |target, link| {
            let trust = trust.clone();
            Sender::start(Gateway { target, trust }, link)
        })
    }

    /// As [`Uplink::start`], with whatever kind of upstream a target stands for.
    fn start_with(
        config: UplinkConfig,
        sender: impl Fn(Target, Link) -> io::Result<Sender>,
    ) -> anyhow::Result<Self> {
        let names: Vec<String> = config
            .targets
            .iter()
            .map(|target| target.url().to_owned())
            .collect();
        let owner = Owner {
            stream: &config.stream,
            boot_id: &config.host.boot_id,
            upstreams: &names,
        };
        let spool = Spool::open(
            &config.directory,
            &owner,
            config.bounds,
            config.queue_bytes,
            Arc::clone(&config.metrics),
        )?;
        let identity = Arc::new(Identity {
            node: config.node,
            boot_id: config.host.boot_id.clone(),
            host_id: config.host.id.clone(),
            process: Uuid::now_v7().to_string(),
        });
        let status = Arc::new(Status::default());
        let (stop, stopped) = watch::channel(None);
        let mut senders = Vec::new();
        for (upstream, target) in config.targets.into_iter().enumerate() {
            let link = Link {
                upstream,
                identity: Arc::clone(&identity),
                reader: spool.reader()?,
                spool: spool.shared(),
                published: spool.shared().published(),
                status: Arc::clone(&status),
                stop: stopped.clone(),
                cursor: spool.cursor(upstream),
                known: Place::new(spool.current(), config.known_seq),
                metrics: Arc::clone(&config.metrics),
                proved: false,
            };
            senders.push(sender(target, link).context("cannot start a sender")?);
        }
        Ok(Self {
            spool,
            lost_places: status.lost_places(),
            status,
            senders,
            stop,
        })
    }

    /// Number of the newest record that the spool has of this stream. After a crash the pipeline
    /// pushes what is newer again.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.spool.last_seq()
    }

    /// Takes a record and its JSON line, with or without the newline. Never waits.
    pub fn push(&self, record: &Record, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        self.spool.push(record, Bytes::copy_from_slice(line));
    }

    /// As [`Uplink::push`]; a record without a line is written first.
    pub fn push_with(&self, record: &Record, line: &[u8]) {
        if !line.is_empty() {
            return self.push(record, line);
        }
        match serde_json::to_vec(record) {
            Ok(line) => self.push(record, &line),
            Err(error) => tracing::error!(%error, seq = record.seq, "record cannot be written"),
        }
    }

    /// Losses since this was last asked, for a `node.gap` to be pushed like any record.
    #[must_use]
    pub fn take_told(&self) -> Option<Node> {
        self.spool.take_told()
    }

    /// The clock is so from now on.
    pub fn set_clock(&self, clock: Clock) {
        self.status.set_clock(clock);
    }

    /// Records lost between kernel and tracer since the stream began.
    pub fn set_ring_losses(&self, records: u64) {
        self.status.set_ring_losses(records);
    }

    /// Waits until an upstream has more of the current stream than was ever made here: this state is
    /// an old copy. What is numbered on from here would be taken for duplicates; only a new stream
    /// is taken ([`Uplink::begin_stream`]).
    pub async fn lost_place(&mut self) -> LostPlace {
        loop {
            let lost = *self.lost_places.borrow_and_update();
            if let Some(lost) = lost.filter(|lost| lost.stream == self.spool.current()) {
                return lost;
            }
            if self.lost_places.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Goes on with another stream, whose records are numbered from 1 on. What is stored of the one
    /// before is delivered first, to whoever lacks it.
    pub fn begin_stream(&self, uuid: &str) {
        self.spool.begin_stream(uuid);
    }

    /// What became of the records so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.spool.counts()
    }

    /// Stores what was pushed, delivers what can be delivered within `patience`, and says goodbye.
    pub fn stop(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        if !self.spool.settle(deadline) {
            tracing::error!("not all records are in the spool");
        }
        // Without the grace that a goodbye takes.
        let deliver = deadline.checked_sub(patience / 4).unwrap_or(deadline);
        self.stop.send_replace(Some(deliver.into()));
        for sender in &self.senders {
            let left = deadline.saturating_duration_since(Instant::now());
            if !sender.wait(left) {
                tracing::debug!("an upstream takes too long to end");
            }
        }
        self.spool.stop(Instant::now() + spool::RETRY);
    }
}
