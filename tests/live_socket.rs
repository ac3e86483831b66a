//! The daemon's socket: several readers at once, one of them stalled; filters; `ps` and `inspect`
//! with and without a daemon.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    process::Command,
};

use serde_json::Value;
use tracer_tests::{
    Context, Record, Result, Tracer,
    command::{Done, Running, run, spawn},
    ensure, live,
    raw::RawContainer,
    runtimes::{Podman, Runc, Spec},
    tracer::binary,
    wait::DEADLINE,
};

fn tracer(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(std::process::Stdio::null());
    command
}

fn socket(directory: &tempfile::TempDir) -> Result<String> {
    let path = directory.path().join("below").join("tracer.sock");
    path.to_str().map(str::to_owned).context("a path of text")
}

fn records(text: &str) -> Result<Vec<Record>> {
    text.lines().map(Record::parse).collect()
}

/// Connects, asks for all that comes, and waits until the daemon has heard it.
fn reader(path: &str) -> Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    writeln!(stream, r#"{{"version":1,"verb":"events","since":"0"}}"#)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let first = Record::parse(&line)?;
    ensure!(first.is("node.started"), "{line}");
    Ok(reader)
}

fn follow(path: &str, more: &[&str]) -> Result<Running> {
    let arguments = ["events", "--socket", path, "--since", "0"];
    spawn(tracer(&arguments).args(["--format", "json"]).args(more))
}

fn some_lives(count: usize) -> Result<()> {
    for _ in 0..count {
        RawContainer::docker()?.remove()?;
    }
    Ok(())
}

#[test]
fn readers_get_the_stream_whatever_another_does() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let path = socket(&directory)?;
    let mut tracer = Tracer::start(&["--socket", &path])?;
    // Asks, reads one line, then nothing any more.
    let stalled = reader(&path)?;
    let everything = follow(&path, &[])?;
    let removals = follow(&path, &["--type", "removed"])?;
    let docker = RawContainer::docker()?;
    let id = docker.id().to_owned();
    let one = follow(&path, &["--container", id.get(..12).unwrap_or_default()])?;
    docker.remove()?;
    some_lives(50)?;
    tracer.settle()?;
    let told: Vec<String> = tracer
        .stop()?
        .iter()
        .map(|r| r.value().to_string())
        .collect();

    let everything = everything.finish(DEADLINE)?.ended(0)?;
    let seen: Vec<String> = records(&everything.stdout)?
        .iter()
        .map(|record| record.value().to_string())
        .collect();
    ensure!(seen == told, "{} records, not {}", seen.len(), told.len());

    let removals = records(&removals.finish(DEADLINE)?.ended(0)?.stdout)?;
    ensure!(removals.len() >= 52, "{} removals", removals.len());
    ensure!(removals.iter().all(|record| record.is("container.removed")));

    let one = records(&one.finish(DEADLINE)?.ended(0)?.stdout)?;
    let of_others = |record: &&Record| record.container().is_some_and(|other| other != id);
    ensure!(one.iter().find(of_others).is_none(), "a record of another");
    ensure!(
        one.iter()
            .any(|record| record.is("container.removed") && record.container() == Some(&id))
    );
    drop(stalled);
    ensure!(!Path::new(&path).exists(), "the socket outlived the daemon");
    Ok(())
}

#[test]
fn the_past_is_told_as_far_as_it_is_kept() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let path = socket(&directory)?;
    let mut tracer = Tracer::start(&["--socket", &path, "--history-bytes", "262144"])?;
    some_lives(150)?;
    tracer.settle()?;
    let past = |since: &str| -> Result<Vec<Record>> {
        let arguments = ["events", "--socket", &path, "--no-follow", "--since", since];
        records(&run(&mut self::tracer(&arguments))?.ended(0)?.stdout)
    };
    for since in ["1", "1h", "2020-01-01T00:00:00Z"] {
        let past = past(since)?;
        let first = past.first().context("no record")?;
        ensure!(first.is("node.gap") && first.text("node.sink") == Some("socket"));
        let rest = past.get(1..).unwrap_or_default();
        let seqs: Vec<u64> = rest.iter().filter_map(Record::seq).collect();
        ensure!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a hole");
        if since == "1" {
            let lost = first.number("node.lost.record").unwrap_or(0);
            ensure!(seqs.first() == Some(&(lost + 1)), "{lost} lost");
        }
    }
    let last = tracer.records().last().and_then(Record::seq);
    let last = last.context("no record")?;
    let only = past(&last.to_string())?;
    ensure!(only.first().and_then(Record::seq) == Some(last));
    tracer.stop()?;
    Ok(())
}

#[test]
fn the_socket_is_its_groups_alone() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let path = socket(&directory)?;
    let tracer = Tracer::start(&["--socket", &path, "--socket-group", "adm"])?;
    let file = fs::metadata(&path)?;
    ensure!(file.permissions().mode() & 0o777 == 0o660, "the mode");
    ensure!(file.gid() == 4, "the group");
    let parent = fs::metadata(Path::new(&path).parent().context("a parent")?)?;
    ensure!(parent.permissions().mode() & 0o777 == 0o750 && parent.gid() == 4);

    let second = run(&mut self::tracer(&["run", "--socket", &path]))?.ended(1)?;
    ensure!(second.stderr.contains(&path), "{}", second.stderr);
    tracer.stop()?;
    Ok(())
}

#[test]
fn where_no_daemon_listens_the_remedy_is_named() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let path = socket(&directory)?;
    let done = run(&mut tracer(&["events", "--socket", &path]))?.ended(3)?;
    ensure!(
        done.stderr.contains(&path) && done.stderr.contains("tracer run"),
        "{}",
        done.stderr
    );
    Ok(())
}

fn listed(done: &Done, id: &str) -> Result<Option<Record>> {
    let list = records(&done.stdout)?;
    Ok(list.into_iter().find(|one| one.container() == Some(id)))
}

/// `ps` and `inspect` must say the same of it, whoever looks.
fn shown(path: &str, id: &str, state: &str, live: &str) -> Result<()> {
    let ps = ["ps", "--socket", path, "--container", id];
    let json = run(&mut tracer(&[&ps[..], &["--format", "json"]].concat()))?.ended(0)?;
    let one = listed(&json, id)?.context("it is not listed")?;
    ensure!(
        one.text("container.state") == Some(state),
        "{}",
        json.stdout
    );
    ensure!(one.text("cgroup.path").is_some() && one.text("since").is_some());
    let table = run(&mut tracer(&[&ps[..], &["--format", "table"]].concat()))?.ended(0)?;
    ensure!(table.stdout.starts_with("CONTAINER") && table.stdout.contains(id));

    let prefix = id.get(..id.len() - 2).context("a long id")?;
    let done = run(&mut tracer(&["inspect", "--socket", path, prefix]))?.ended(0)?;
    let inspected: Value = serde_json::from_str(&done.stdout)?;
    let at = |pointer: &str| inspected.pointer(pointer).and_then(Value::as_str);
    ensure!(at("/container/id") == Some(id), "{}", done.stdout);
    ensure!(
        at("/sources/container.state") == Some(live),
        "{}",
        done.stdout
    );
    // Each source is that of a fact which is there.
    let sources = inspected.get("sources").and_then(Value::as_object);
    let sources = sources.context("no sources")?;
    for fact in sources.keys() {
        let pointer = format!("/{}", fact.replace('.', "/"));
        ensure!(
            inspected.pointer(&pointer).is_some(),
            "{fact}: {}",
            done.stdout
        );
    }
    Ok(())
}

#[test]
fn a_container_is_shown_with_and_without_a_daemon() -> Result<()> {
    let _live = live!("runc");
    let directory = tempfile::tempdir()?;
    let path = socket(&directory)?;
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&["--socket", &path])?;
    let container = runc.container(&Spec::new(&["/bin/sleep", "1000"]))?;
    let id = container.id();
    let running = container.run_spawn()?;
    tracer.expect_of(id, "container.started", 1)?;
    shown(&path, id, "running", "kernel")?;
    container.act("pause")?;
    tracer.expect_of(id, "container.paused", 1)?;
    shown(&path, id, "paused", "kernel")?;
    container.act("resume")?;
    tracer.expect_of(id, "container.resumed", 1)?;
    tracer.stop()?;

    let none = ["ps", "--socket", "none", "--format", "json"];
    let done = run(&mut self::tracer(&none))?.ended(0)?;
    let found = records(&done.stdout)?.into_iter().find(|one| {
        one.text("cgroup.path")
            .is_some_and(|path| path.contains(id))
    });
    let found = found.context("the scan does not find it")?;
    ensure!(found.text("container.state") == Some("running"));

    container.kill("KILL")?;
    running.finish(DEADLINE)?.ended(137)?;
    let gone = run(&mut self::tracer(&["inspect", "--socket", "none", id]))?.ended(1)?;
    ensure!(gone.stderr.contains(id), "{}", gone.stderr);
    Ok(())
}

/// Its storage is where no default is, and no daemon says so: its monitor does.
#[test]
fn a_scan_names_containers_of_any_podman() -> Result<()> {
    let _live = live!("podman", "runc");
    let podman = Podman::shared()?;
    let container = podman.create(&[], &["/bin/sleep", "1000"])?;
    container.act(&["start"])?;
    let id = container.id();
    let ps = ["ps", "--socket", "none", "--format", "json"];
    let done = run(tracer(&ps).args(["--container", id]))?.ended(0)?;
    let found = listed(&done, id)?.context("the scan does not find it")?;
    ensure!(found.text("container.name").is_some(), "{}", done.stdout);
    ensure!(found.text("enrichment") == Some("full"), "{}", done.stdout);
    Ok(())
}
