//! A node without a kernel: the real spool and the real senders, fed by invented container lives.
//!
//! ```text
//! synthetic-node DIR URL NODE SEED RECORDS RATE SPOOL_BYTES
//! ```
//!
//! It stands where the pipeline stands. `DIR/journal` is its journal: each record is written there
//! before it is pushed, and after a kill everything is pushed again; the spool takes what it lacks.
//! The journal is thus the truth that a gateway is compared with. What happens next depends on SEED
//! and the record's number alone. After RECORDS records nothing new happens; losses are still told.
//! It ends in order when its standard input ends.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tracer::{
    record::{Container, Host, Kind, Node, Origin, Record, State},
    time::Timestamp,
    upstream::{Bounds, Target, Trust, Uplink, UplinkConfig},
};

struct Settings {
    directory: PathBuf,
    url: String,
    node: String,
    seed: u64,
    records: u64,
    /// Records per second.
    rate: u64,
    spool_bytes: u64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, url, node, seed, records, rate, spool_bytes] = arguments.as_slice() else {
        anyhow::bail!("usage: synthetic-node DIR URL NODE SEED RECORDS RATE SPOOL_BYTES");
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .init();
    let settings = Settings {
        directory: directory.into(),
        url: url.clone(),
        node: node.clone(),
        seed: seed.parse()?,
        records: records.parse()?,
        rate: rate.parse()?,
        spool_bytes: spool_bytes.parse()?,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(&settings))
}

async fn run(settings: &Settings) -> Result<()> {
    let mut host = Synthetic::open(settings)?;
    let (ended, mut end) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let read = io::stdin().read_to_end(&mut rest);
        drop((ended, read));
    });
    let pause = Duration::from_micros(1_000_000 / settings.rate.max(1));
    let mut tick = tokio::time::interval(pause.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let per_tick = (settings.rate / 1000).max(1);
    loop {
        tokio::select! {
            _ = &mut end => break,
            _ = tick.tick() => {}
        }
        if let Some(told) = host.uplink.take_told() {
            host.tell(Kind::NodeGap, None, Some(told))?;
        }
        for _ in 0..per_tick {
            if host.seq < settings.records {
                host.happen()?;
            }
        }
    }
    host.tell(Kind::NodeStopped, None, None)?;
    host.uplink.stop(Duration::from_secs(5));
    Ok(())
}

struct Synthetic {
    seed: u64,
    stream: String,
    host: Arc<Host>,
    seq: u64,
    /// Last kind, state and version.
    containers: BTreeMap<u64, (Kind, State, u64)>,
    next_container: u64,
    journal: File,
    uplink: Uplink,
}

impl Synthetic {
    fn open(settings: &Settings) -> Result<Self> {
        fs::create_dir_all(&settings.directory)?;
        let stream = stream(&settings.directory)?;
        let host = Arc::new(Host {
            name: settings.node.clone(),
            id: Some(settings.directory.display().to_string()),
            boot_id: "synthetic".to_owned(),
        });
        let trust = Trust::default();
        let journal = settings.directory.join("journal");
        let known = read_journal(&journal)?;
        let uplink = Uplink::start(UplinkConfig {
            directory: settings.directory.join("spool"),
            stream: stream.clone(),
            known_seq: known.last().map_or(0, |(record, _)| record.seq),
            node: settings.node.clone(),
            host: Arc::clone(&host),
            targets: vec![Target::parse(&settings.url, &trust)?],
            trust,
            bounds: Bounds {
                bytes: settings.spool_bytes,
                age: Duration::from_hours(1),
            },
            queue_bytes: 1 << 20,
            metrics: Arc::default(),
        })?;
        let mut synthetic = Self {
            seed: settings.seed,
            stream,
            host,
            seq: 0,
            containers: BTreeMap::new(),
            next_container: 1,
            journal: File::options().create(true).append(true).open(&journal)?,
            uplink,
        };
        for (record, line) in known {
            synthetic.remember(&record);
            synthetic.uplink.push(&record, &line);
        }
        if synthetic.seq == 0 {
            synthetic.tell(Kind::NodeStarted, None, None)?;
            synthetic.tell(Kind::NodeSynced, None, None)?;
        }
        Ok(synthetic)
    }

    /// Takes up a record of the journal.
    fn remember(&mut self, record: &Record) {
        self.seq = record.seq;
        let Some(container) = &record.container else {
            return;
        };
        let id = container.instance.rsplit(':').next();
        let id: u64 = id.and_then(|id| id.parse().ok()).unwrap_or(0);
        self.next_container = self.next_container.max(id + 1);
        if container.version != record.seq {
            return;
        }
        match container.state {
            State::Removed => {
                self.containers.remove(&id);
            }
            state => {
                self.containers.insert(id, (record.kind, state, record.seq));
            }
        }
    }

    /// The next thing in somebody's life.
    fn happen(&mut self) -> Result<()> {
        let mut random = mix(self.seed ^ mix(self.seq + 1));
        let mut draw = |below: u64| {
            random = mix(random);
            random % below
        };
        let live = u64::try_from(self.containers.len())?;
        let chosen = usize::try_from(draw(live.max(1)))?;
        let chosen = self.containers.iter().nth(chosen);
        let born = live < 3 || (live < 30 && draw(4) == 0);
        let (id, kind, state) = match chosen.filter(|_| !born) {
            None => (self.next_container, Kind::Created, State::Created),
            Some((id, (kind, state, _))) => {
                let (kind, state) = next(*kind, *state, draw(8));
                (*id, kind, state)
            }
        };
        // Wall clocks go wrong: up to an hour back and forth.
        let wrong = if draw(50) == 0 { draw(3_600) } else { 1_800 };
        self.tell(kind, Some((id, state, wrong)), None)
    }

    /// Writes a record into the journal, then pushes it.
    fn tell(
        &mut self,
        kind: Kind,
        container: Option<(u64, State, u64)>,
        node: Option<Node>,
    ) -> Result<()> {
        let seq = self.seq + 1;
        let wrong = container.map_or(1_800, |(_, _, wrong)| wrong);
        let seconds = 1_795_000_000 + seq / 100 + wrong;
        // What a process does inside changes nothing of the container.
        let before = container.and_then(|(id, ..)| self.containers.get(&id));
        let before = before.filter(|_| kind == Kind::ProcessExec);
        let version = before.map_or(seq, |(_, _, version)| *version);
        let record = Record {
            id: format!("{}/{seq}", self.stream),
            seq,
            time: Timestamp(seconds * 1_000_000_000 + seq),
            kind,
            origin: Origin::Kernel,
            host: Arc::clone(&self.host),
            container: container.map(|(id, state, _)| Container {
                id: format!("{:016x}{:048x}", mix(self.seed ^ id), id).into(),
                instance: format!("{}:1:{id}", self.stream).into(),
                name: Some(format!("c{id}").into()),
                runtime: None,
                image: None,
                label: None,
                created: None,
                restart_count: None,
                sandbox: false,
                state,
                version,
                parents: Arc::new([]),
            }),
            k8s: None,
            cgroup: None,
            process: None,
            exec: None,
            oom: None,
            oom_killed: None,
            duration_ns: None,
            enrichment: None,
            node: node.map(Box::new),
            emit_latency_ns: None,
        };
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        self.journal.write_all(&line).context("write the journal")?;
        self.remember(&record);
        self.uplink.push(&record, &line);
        Ok(())
    }
}

/// What may follow, by chance.
fn next(kind: Kind, state: State, chance: u64) -> (Kind, State) {
    match (state, chance) {
        (State::Created, 0) => (Kind::StartFailed, State::Exited),
        (State::Created, _) => (Kind::Started, State::Running),
        (State::Running, 0) => (Kind::Paused, State::Paused),
        (State::Running, 1) => (Kind::ExecStarted, State::Running),
        (State::Running, 2) => (Kind::ExecExited, State::Running),
        (State::Running, 3) => (Kind::Enriched, State::Running),
        (State::Running, 4) => (Kind::ProcessExec, State::Running),
        (State::Running, 5) => (Kind::Oom, State::Running),
        (State::Running, _) => (Kind::Exited, State::Exited),
        (State::Paused, _) => (Kind::Resumed, State::Running),
        (State::Exited, _) if kind == Kind::Emptied => (Kind::Removed, State::Removed),
        (State::Exited, _) => (Kind::Emptied, State::Exited),
        (State::Removed, _) => (Kind::Removed, State::Removed),
    }
}

/// `SplitMix64`'s step.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The stream of this directory.
fn stream(directory: &Path) -> Result<String> {
    let path = directory.join("stream");
    if let Ok(stream) = fs::read_to_string(&path)
        && !stream.is_empty()
    {
        return Ok(stream);
    }
    let stream = uuid::Uuid::now_v7().to_string();
    fs::write(&path, &stream)?;
    Ok(stream)
}

/// Whole lines; a torn one at the end, which nobody has seen, is cut off.
fn read_journal(path: &Path) -> Result<Vec<(Record, Vec<u8>)>> {
    let Ok(file) = File::options().read(true).write(true).open(path) else {
        return Ok(Vec::new());
    };
    let mut reader = BufReader::new(&file);
    let mut records = Vec::new();
    let mut good = 0;
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            break;
        }
        good += u64::try_from(read)?;
        records.push((serde_json::from_slice(&line)?, line));
    }
    file.set_len(good)?;
    Ok(records)
}
