//! What the gateway counts, in the text format of Prometheus: every stage has in, out, dropped and why.
//!
//! `records_received = records_stored + records_dropped{…} + records held in the queue`.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

type Count = Counter<u64, AtomicU64>;

/// All counters; a field each, registered in [`Metrics::new`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub received: Count,
    pub stored: Count,
    dropped: Family<Reason, Count>,
    pub missing: Count,
    pub heartbeats: Count,
    pub snapshots: Count,
    pub snapshots_wanted: Count,
    pub sessions: Gauge,
    refused: Family<Reason, Count>,
    pub connections: Gauge,
    connections_dropped: Family<Reason, Count>,
    pub commits: Histogram,
    pub syncs: Histogram,
    pub failed_commits: Count,
    pub log_bytes: Gauge,
    pub subscribers: Gauge,
    pub streamed: Count,
    streamed_dropped: Family<Reason, Count>,
    queries: Family<Outcome, Count>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tracer_gateway"),
            received: Count::default(),
            stored: Count::default(),
            dropped: Family::default(),
            missing: Count::default(),
            heartbeats: Count::default(),
            snapshots: Count::default(),
            snapshots_wanted: Count::default(),
            sessions: Gauge::default(),
            refused: Family::default(),
            connections: Gauge::default(),
            connections_dropped: Family::default(),
            commits: Histogram::new(exponential_buckets(0.0001, 2.0, 14)),
            syncs: Histogram::new(exponential_buckets(0.0001, 2.0, 14)),
            failed_commits: Count::default(),
            log_bytes: Gauge::default(),
            subscribers: Gauge::default(),
            streamed: Count::default(),
            streamed_dropped: Family::default(),
            queries: Family::default(),
        };
        metrics.register_ingest();
        metrics.register_face();
        metrics
    }

    fn register_ingest(&mut self) {
        let r = &mut self.registry;
        r.register(
            "records_received",
            "Records that came from nodes",
            self.received.clone(),
        );
        r.register(
            "records_stored",
            "Records made durable",
            self.stored.clone(),
        );
        r.register(
            "records_dropped",
            "Records not stored, or not in the table",
            self.dropped.clone(),
        );
        r.register(
            "records_missing",
            "Records that never came",
            self.missing.clone(),
        );
        r.register("heartbeats", "Heartbeats of nodes", self.heartbeats.clone());
        r.register(
            "snapshots",
            "Parts of snapshots of nodes",
            self.snapshots.clone(),
        );
        r.register(
            "snapshots_wanted",
            "Snapshots asked for",
            self.snapshots_wanted.clone(),
        );
        r.register("sessions", "Open sessions of nodes", self.sessions.clone());
        r.register("sessions_refused", "Sessions refused", self.refused.clone());
        r.register("connections", "Open connections", self.connections.clone());
        r.register(
            "connections_dropped",
            "Connections ended by the gateway",
            self.connections_dropped.clone(),
        );
        r.register_with_unit(
            "commit",
            "One transaction",
            Unit::Seconds,
            self.commits.clone(),
        );
        r.register_with_unit(
            "sync",
            "Forcing what was committed to the disk",
            Unit::Seconds,
            self.syncs.clone(),
        );
        r.register(
            "commits_failed",
            "Transactions that failed",
            self.failed_commits.clone(),
        );
        r.register_with_unit("log", "Records kept", Unit::Bytes, self.log_bytes.clone());
    }

    fn register_face(&mut self) {
        let r = &mut self.registry;
        r.register(
            "subscribers",
            "Readers of the event stream",
            self.subscribers.clone(),
        );
        r.register(
            "events_sent",
            "Records given to readers",
            self.streamed.clone(),
        );
        r.register(
            "events_dropped",
            "Records not given to readers",
            self.streamed_dropped.clone(),
        );
        r.register("queries", "Live queries by outcome", self.queries.clone());
    }

    /// Records not stored (`duplicate`, `malformed`), or not in the table (`containers`).
    pub fn dropped(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.dropped.get_or_create(&Reason { reason }).inc_by(count);
        }
    }

    /// A session that was not let in, or was ended for cause.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// A connection that was ended for cause.
    pub fn connection_dropped(&self, reason: &'static str) {
        self.connections_dropped
            .get_or_create(&Reason { reason })
            .inc();
    }

    /// Records that a reader asked past: filtered, or no longer kept.
    pub fn not_streamed(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.streamed_dropped
                .get_or_create(&Reason { reason })
                .inc_by(count);
        }
    }

    /// A live query.
    pub fn query(&self, outcome: &'static str) {
        self.queries.get_or_create(&Outcome { outcome }).inc();
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::debug!(%error, "metrics");
        }
        text
    }
}
