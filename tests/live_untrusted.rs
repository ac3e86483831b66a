//! Files of runtimes that are large, slow to read or traps: a container's life is told as if there
//! were none.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tracer_tests::{
    Context, Record, Result, Step, Tracer, anyhow, created, emptied, ensure, exited, live,
    raw::{RawContainer, Shape},
    removed, started,
    tracer::latency,
    wait::DEADLINE,
};

/// Largest list that is read, and a file that is larger than any.
const LIST_BYTES: usize = 15 << 20;
const TOO_LARGE: u64 = 1 << 40;

/// A second is what a busy machine may take; a reader that waits takes longer.
const LATEST_NS: u64 = 1_000_000_000;

/// Tracer with files of its own, and no sockets.
fn tracer(dir: &Path, directories: &str) -> Result<Tracer> {
    let config = dir.join("tracer.toml");
    let text = format!("[runtimes]\nask = false\n[runtimes.directories]\n{directories}\n");
    fs::write(&config, text)?;
    Tracer::start(&["--config", &config.display().to_string()])
}

fn life() -> Vec<Step> {
    let steps = [
        created(),
        started("/bin/true"),
        exited(0),
        emptied(),
        removed(),
    ];
    steps
        .into_iter()
        .map(|step| step.is("enrichment", "none"))
        .collect()
}

fn live_once(container: RawContainer) -> Result<()> {
    let running = container.spawn(Shape::Joined, &["/bin/true"])?;
    running.finish(DEADLINE)?.ended(0)?;
    container.remove()
}

fn none_was_late(records: &[Record]) -> Result<()> {
    let late = records
        .iter()
        .filter_map(|record| Some((record.number("emit_latency_ns")?, record)))
        .filter(|(_, record)| record.text("origin") == Some("kernel"))
        .max_by_key(|(waited, _)| *waited);
    let (waited, record) = late.context("no record has a latency")?;
    ensure!(waited < LATEST_NS, "late: {record:?}");
    Ok(())
}

/// Processor time of the thread that reads files, in clock ticks.
fn reading_ticks(pid: u32) -> Result<u64> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == "metadata" {
            let stat = fs::read_to_string(task.join("stat"))?;
            let (_, fields) = stat.rsplit_once(") ").context("no name")?;
            // utime is field 14 of proc(5), which counts the name as the second.
            return Ok(fields.split(' ').nth(11).context("utime")?.parse()?);
        }
    }
    Err(anyhow!("nobody reads files"))
}

#[test]
fn no_record_waits_for_a_large_list() -> Result<()> {
    const LIVES: usize = 40;
    /// What reading must have taken to prove anything, and what is less than one look-up takes.
    const TICKS: u64 = 20;
    const MEDIAN_NS: u64 = 5_000_000;
    let _live = live!("cc");
    let dir = tempfile::tempdir()?;
    let roots = ["one", "two"].map(|root| dir.path().join(root));
    let entry = r#"{"id":"someone","names":["else"],"metadata":"{\"name\":\"else\"}"},"#;
    let mut text = format!("[{}", entry.repeat(LIST_BYTES / entry.len()));
    text.pop();
    text.push(']');
    for root in &roots {
        let containers = root.join("overlay-containers");
        fs::create_dir_all(&containers)?;
        fs::write(containers.join("containers.json"), &text)?;
    }
    let mut tracer = tracer(dir.path(), &format!("storage = {roots:?}"))?;
    let mut ids = Vec::new();
    for _ in 0..LIVES {
        let container = RawContainer::podman()?;
        ids.push(container.id().to_owned());
        live_once(container)?;
    }
    let life = life();
    let lives: Vec<(&str, &[Step])> = ids.iter().map(|id| (id.as_str(), &life[..])).collect();
    tracer.expect_lives(&lives)?;
    let ticks = reading_ticks(tracer.pid())?;
    let records = tracer.stop()?;
    none_was_late(&records)?;
    let told = latency(&records)?;
    ensure!(
        told.median_ns < MEDIAN_NS,
        "half of the records waited {} ns",
        told.median_ns
    );
    ensure!(
        ticks >= TICKS,
        "reading took {ticks} ticks: it proves nothing"
    );
    Ok(())
}

/// What is made in the place of a container's file.
type Trap = fn(&Path) -> Result<()>;

const TRAPS: [(&str, Trap); 6] = [
    ("FIFO", |at| {
        let mode = rustix::fs::Mode::RUSR;
        Ok(rustix::fs::mkfifoat(rustix::fs::CWD, at, mode)?)
    }),
    ("endless", |at| Ok(symlink("/dev/zero", at)?)),
    ("link", |at| Ok(symlink("/etc/passwd", at)?)),
    ("huge", |at| Ok(fs::File::create(at)?.set_len(TOO_LARGE)?)),
    ("directory", |at| Ok(fs::create_dir(at)?)),
    ("half", |at| Ok(fs::write(at, "{\"ID\":\"")?)),
];

#[test]
fn no_record_waits_for_a_trap() -> Result<()> {
    let _live = live!("cc");
    let dir = tempfile::tempdir()?;
    let mut tracer = tracer(
        dir.path(),
        &format!("docker = [\"{}\"]", dir.path().display()),
    )?;
    let mut lives = Vec::new();
    for (name, make) in TRAPS {
        let container = RawContainer::docker()?;
        let id = container.id().to_owned();
        let own: PathBuf = dir.path().join("containers").join(&id);
        fs::create_dir_all(&own)?;
        make(&own.join("config.v2.json")).with_context(|| name.to_owned())?;
        live_once(container)?;
        lives.push(id);
    }
    let life = life();
    let lives: Vec<(&str, &[Step])> = lives.iter().map(|id| (id.as_str(), &life[..])).collect();
    tracer.expect_lives(&lives)?;
    none_was_late(&tracer.stop()?)
}
