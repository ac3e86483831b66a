//! A good node and a good reader, while somebody else misbehaves.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{
    gateway::Gateway,
    http,
    trust::Trust,
    wire::{self, Wire},
};
use crate::tracer::binary;

/// Longer than this nobody may wait because of another: far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Memory that misbehaviour may cost the gateway, bytes.
const COST: u64 = 96 << 20;

/// A gateway with tokens on the loopback: nodes `good`, `evil` and `other`, readers `good` and
/// `evil`.
#[derive(Debug)]
pub struct Stage {
    pub gateway: Gateway,
    pub trust: Trust,
    directory: tempfile::TempDir,
}

impl Stage {
    /// Started with these flags.
    pub fn new(arguments: &[&str]) -> Result<Self> {
        Self::of(arguments, Trust::tokens)
    }

    /// The same by TLS.
    pub fn tls(arguments: &[&str]) -> Result<Self> {
        Self::of(arguments, Trust::init)
    }

    fn of(
        arguments: &[&str],
        trust: impl FnOnce(&Path, &[&str], &[&str]) -> Result<Trust>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let nodes = ["good", "evil", "other"];
        let trust = trust(&directory.path().join("trust"), &nodes, &["good", "evil"])?;
        let named = trust.directory();
        let arguments = [&["--trust", &named], arguments].concat();
        let store = directory.path().join("store");
        let mut gateway = Gateway::new(binary(), store, None)?.with(&arguments);
        gateway.start()?;
        Ok(Self {
            gateway,
            trust,
            directory,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// A file of its own.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the gateway counted: the value of one line of its metrics, 0 where it has none.
    pub fn count(&self, line: &str) -> Result<u64> {
        let token = self.trust.reader("good")?;
        let (status, body) = http::ask(http::connect(self.address())?, "/metrics", Some(&token))?;
        ensure!(status == 200, "/metrics: {status}");
        let text = String::from_utf8(body)?;
        let found = text.lines().find_map(|one| one.strip_prefix(line));
        Ok(found.map_or(Ok(0), |value| value.trim().parse())?)
    }

    /// Has `attack` happen while a good node and a good reader go on, and says what they saw; fails
    /// where they had to wait, or where it cost the gateway much memory.
    #[expect(clippy::print_stdout, reason = "for whoever reads the test's output")]
    pub fn unharmed(&self, what: &str, attack: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let witness = Witness::start(self)?;
        let before = self.gateway.resident_bytes()?;
        attack(self).with_context(|| what.to_owned())?;
        let after = self.gateway.resident_bytes()?;
        let saw = witness.finish().with_context(|| what.to_owned())?;
        println!(
            "{what}: {} records acked, slowest {:.0?}; {} answers, slowest {:.0?}; {} -> {} KiB",
            saw.acks,
            saw.slowest_ack,
            saw.answers,
            saw.slowest_answer,
            before >> 10,
            after >> 10
        );
        ensure!(saw.acks > 0 && saw.answers > 0, "{what}: {saw:?}");
        ensure!(
            saw.slowest_ack < PATIENCE && saw.slowest_answer < PATIENCE,
            "{what}: {saw:?}"
        );
        ensure!(
            after < before + COST,
            "{what}: the gateway went from {before} to {after} bytes"
        );
        Ok(())
    }
}

/// What it saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Saw {
    pub acks: u64,
    pub slowest_ack: Duration,
    pub answers: u64,
    pub slowest_answer: Duration,
}

/// Reports and reads until it is asked what it saw.
#[derive(Debug)]
struct Witness {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<Saw>>,
}

impl Witness {
    fn start(stage: &Stage) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (node, reader) = (stage.trust.node("good")?, stage.trust.reader("good")?);
        let address = stage.address();
        let ends = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ends);
        // Let in before anything happens; each witness with a stream of its own.
        let stream = crate::raw::random_uuid()?;
        let (mut wire, _) = runtime.block_on(async {
            let channel = wire::plain(address).await?;
            Wire::greet(channel, Some(&node), "good", &stream).await
        })?;
        let thread = std::thread::spawn(move || {
            let mut saw = Saw::default();
            // Once more when it is over.
            let mut last = false;
            while !last {
                last = until.load(Ordering::Relaxed);
                let seq = saw.acks + 1;
                let line = wire::line(&stream, seq, "c", "running");
                let took = runtime.block_on(wire.deliver(seq, line))?;
                saw.acks += 1;
                saw.slowest_ack = saw.slowest_ack.max(took);
                let begun = Instant::now();
                let connection = http::connect(address)?;
                let (status, _) = http::ask(connection, "/v1/nodes", Some(&reader))?;
                ensure!(status == 200, "/v1/nodes: {status}");
                saw.answers += 1;
                saw.slowest_answer = saw.slowest_answer.max(begun.elapsed());
                std::thread::park_timeout(Duration::from_millis(20));
            }
            Ok(saw)
        });
        Ok(Self { ends, thread })
    }

    fn finish(self) -> Result<Saw> {
        self.ends.store(true, Ordering::Relaxed);
        let saw = self
            .thread
            .join()
            .map_err(|_panic| anyhow!("the witness died"))?;
        saw.context("a good node or reader was hurt")
    }
}
