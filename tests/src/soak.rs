//! Many lives in a row, and what is left of them: in the stream, in the kernel's tables, in those
//! of tracer itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, MapInfo};
use rustix::process::Signal;

use crate::{
    cgroup::{self, Kind},
    command::{self, Leash, Process, shell_code},
    janitor::tail,
    raw,
    record::Record,
    tracer::binary,
    wait::{DEADLINE, wait_until},
};

const RAW_SOAK: &str = include_str!("raw_soak.c");

/// In every one of so many lives a process is brought in from outside.
pub const SESSION_EVERY: u64 = 8;

/// Digits of a life's number in its id.
const DIGITS: usize = 16;

/// A running tracer, its stream judged life by life and forgotten.
#[derive(Debug)]
pub struct Soak {
    process: Process,
    _leash: Leash,
    reader: Option<JoinHandle<Result<()>>>,
    ended: Arc<AtomicU64>,
    wrong: Arc<Mutex<Option<String>>>,
    prefix: String,
    program: PathBuf,
    docker: PathBuf,
    begun: u64,
    dir: tempfile::TempDir,
    pid: u32,
}

impl Soak {
    /// Starts tracer with all of its usual sinks and a state directory.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir().context("a directory for the soak")?;
        let program = raw::compile(RAW_SOAK, dir.path(), "raw_soak")?;
        let hierarchies = cgroup::hierarchies()?;
        let unified = hierarchies
            .iter()
            .find(|hierarchy| hierarchy.kind == Kind::Unified)
            .context("no cgroup v2 is mounted")?;
        let docker = cgroup::create(unified, "/docker")?;
        let mut child = Command::new(binary())
            .args(["run", "--format", "json", "--history-bytes", "262144"])
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .arg("--socket")
            .arg(dir.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("stderr"))?)
            .spawn()
            .context("start tracer")?;
        let stdout = child.stdout.take().context("tracer's standard output")?;
        let pid = child.id();
        let process = Process::new(child, "tracer")?;
        let leash = Leash::new(&process)?;
        let random = raw::random_id()?;
        let prefix = random.get(..64 - DIGITS).context("a long id")?.to_owned();
        let ended = Arc::new(AtomicU64::new(0));
        let wrong = Arc::new(Mutex::new(None));
        let synced = Arc::new(AtomicBool::new(false));
        let mut judge = Judge {
            prefix: prefix.clone(),
            open: BTreeMap::new(),
            seq: 0,
            ended: Arc::clone(&ended),
            synced: Arc::clone(&synced),
        };
        let told = Arc::clone(&wrong);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line.context("read tracer's standard output")?;
                if let Err(error) = judge.line(&line) {
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.get_or_insert(format!("{error:#}\nin: {line}"));
                }
            }
            ensure!(judge.open.is_empty(), "not ended: {:?}", judge.open);
            Ok(())
        });
        wait_until(DEADLINE, "tracer to be ready", || {
            Ok(synced.load(Ordering::Relaxed).then_some(()))
        })?;
        Ok(Self {
            process,
            _leash: leash,
            reader: Some(reader),
            ended,
            wrong,
            prefix,
            program,
            docker,
            begun: 0,
            dir,
            pid,
        })
    }

    /// Lets `count` more containers live, and waits until all of them have been told to the end.
    pub fn live(&mut self, count: u64) -> Result<()> {
        let mut lives = Command::new(&self.program);
        lives
            .arg(&self.docker)
            .arg(&self.prefix)
            .args([self.begun, count, SESSION_EVERY].map(|number| number.to_string()))
            .stdin(Stdio::null());
        // A hundred lives a second is ten times slower than the slowest machine seen.
        let patience = DEADLINE + Duration::from_secs(count / 100);
        command::spawn(&mut lives)?.finish(patience)?.ended(0)?;
        self.begun += count;
        wait_until(DEADLINE, "the last life to be told", || {
            let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wrong) = &*wrong {
                let said = tail(&self.dir.path().join("stderr"), 20);
                bail!("{wrong}\ntracer's standard error:\n{said}");
            }
            let ended = self.ended.load(Ordering::Relaxed);
            Ok((ended == self.begun).then_some(()))
        })
    }

    /// `RssAnon`, KiB.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse().ok()).context("no RssAnon")
    }

    /// Keys that the kernel's tables still have of what is gone: cgroups of v2 that do not exist,
    /// processes that do not exist. Waits for the last of them to leave.
    pub fn left_in_kernel(&self) -> Result<()> {
        let (mut tracked, mut procs) = (None, None);
        for id in map_ids(self.pid)? {
            let map = MapInfo::from_id(id).context("a map that tracer holds")?;
            let name = String::from_utf8_lossy(map.name()).into_owned();
            let data = || MapData::from_id(id).map(Map::HashMap);
            match name.trim_end_matches('\0') {
                "TRACKED" => tracked = Some(data()?),
                "PROCS" => procs = Some(data()?),
                _ => {}
            }
        }
        let tracked: HashMap<_, [u8; 16], [u8; 8]> =
            HashMap::try_from(tracked.context("no map TRACKED")?)?;
        let procs: HashMap<_, u32, [u8; 24]> = HashMap::try_from(procs.context("no map PROCS")?)?;
        let root = self.docker.parent().context("the root of v2")?;
        wait_until(DEADLINE, "the kernel's tables to be empty", || {
            let cgroups: BTreeSet<[u8; 16]> = tracked.keys().collect::<Result<_, _>>()?;
            let pids: BTreeSet<u32> = procs.keys().collect::<Result<_, _>>()?;
            let there = inodes(root);
            // Cgroup id and hierarchy; v2 is number 0.
            let gone = cgroups.iter().filter(|key| {
                let (id, rest) = key.split_at(8);
                rest.iter().all(|byte| *byte == 0)
                    && !there.contains(&u64::from_ne_bytes(id.try_into().unwrap_or_default()))
            });
            let dead = pids
                .iter()
                .filter(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            Ok((gone.count() == 0 && dead.count() == 0).then_some(()))
        })
    }

    /// SIGTERM; gives what is left in tracer's own tables, as the journal keeps them.
    pub fn stop(mut self) -> Result<serde_json::Value> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(DEADLINE)?;
        ensure!(shell_code(status) == 0, "tracer ended with {status}");
        if let Some(reader) = self.reader.take() {
            match reader.join() {
                Ok(read) => read?,
                Err(_) => bail!("the reading thread panicked"),
            }
        }
        let journal = File::open(self.dir.path().join("state/journal"))?;
        let (_, header) = tracer::recording::Player::new(BufReader::new(journal))?;
        serde_json::to_value(header.table).context("the table of the journal")
    }

    /// What every id of its containers begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// The maps that a process has open.
fn map_ids(pid: u32) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(info) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// Inode numbers of all directories: the ids of the cgroups.
fn inodes(root: &Path) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        found.extend(fs::metadata(&dir).map(|dir| dir.ino()));
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        open.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

/// Follows each life from its first record to its last.
struct Judge {
    prefix: String,
    /// Types told so far, of lives that have not ended.
    open: BTreeMap<u64, Vec<String>>,
    seq: u64,
    ended: Arc<AtomicU64>,
    synced: Arc<AtomicBool>,
}

impl Judge {
    fn line(&mut self, line: &str) -> Result<()> {
        let record = Record::parse(line)?;
        let seq = record.seq().context("no seq")?;
        ensure!(seq == self.seq + 1, "{} comes before {seq}", self.seq);
        self.seq = seq;
        ensure!(!record.is("node.gap"), "records were lost");
        if record.is("node.synced") {
            self.synced.store(true, Ordering::Relaxed);
        }
        let number = record
            .container()
            .and_then(|id| id.strip_prefix(&self.prefix));
        let Some(number) = number else { return Ok(()) };
        let number = u64::from_str_radix(number, 16)?;
        let kind = record.kind().trim_start_matches("container.").to_owned();
        if kind == "enriched" {
            return Ok(());
        }
        let code = record.number("process.exit.code");
        match kind.as_str() {
            "exited" => ensure!(code == Some(number % 100), "code {code:?}"),
            "exec_exited" => ensure!(code == Some(7), "code {code:?}"),
            _ => {}
        }
        let is_last = kind == "removed";
        let told = self.open.entry(number).or_default();
        told.push(kind);
        if is_last {
            let expected: &[&str] = match number % SESSION_EVERY {
                0 => &[
                    "created",
                    "started",
                    "exec_started",
                    "exec_exited",
                    "exited",
                    "emptied",
                    "removed",
                ],
                _ => &["created", "started", "exited", "emptied", "removed"],
            };
            ensure!(told == expected, "life {number} is {told:?}");
            self.open.remove(&number);
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
