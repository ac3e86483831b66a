//! A stream that goes on: restarts, pins, files, and what stands in their way.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tracer_tests::command::{program, run, run_ok};
use tracer_tests::mortal::{Mortal, PinDir};
use tracer_tests::raw::{RawContainer, Shape};
use tracer_tests::tracer::binary;
use tracer_tests::wait::{DEADLINE, wait_until};
use tracer_tests::{Context, Record, Result, ensure, live};

fn of<'a>(records: &'a [Record], id: &str) -> Vec<&'a str> {
    let of = records
        .iter()
        .filter(|record| record.container() == Some(id));
    of.map(Record::kind)
        .filter(|kind| *kind != "container.enriched")
        .collect()
}

fn stream(record: &Record) -> Option<&str> {
    record.text("id")?.split('/').next()
}

/// Waits until the file tells this of the container.
fn in_file(tracer: &Mortal, kind: &str, id: &str) -> Result<()> {
    wait_until(DEADLINE, &format!("{kind} of {id} in the file"), || {
        let text = fs::read_to_string(tracer.file()).unwrap_or_default();
        let mut lines = text.lines();
        Ok(lines
            .any(|line| line.contains(kind) && line.contains(id))
            .then_some(()))
    })
}

#[test]
fn an_orderly_restart_goes_on_with_the_next_number() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&[])?;
    let stays = RawContainer::docker()?;
    let mut init = stays.spawn(Shape::Joined, &["stay", "0"])?;
    let goes = RawContainer::docker()?;
    let goes_id = goes.id().to_owned();
    tracer.start_synced()?;
    tracer.stop()?;
    goes.remove()?;
    let comes = RawContainer::docker()?;
    tracer.start_synced()?;
    tracer.stop()?;
    let records = tracer.records()?;
    ensure!(
        records
            .iter()
            .all(|record| stream(record) == stream(&records[0])),
        "two streams"
    );
    ensure!(of(&records, stays.id()) == ["container.discovered"]);
    ensure!(
        of(&records, &goes_id).last() == Some(&"container.removed"),
        "{:?}",
        of(&records, &goes_id)
    );
    ensure!(of(&records, comes.id()) == ["container.discovered"]);
    let gap = records
        .iter()
        .find(|record| record.is("node.gap"))
        .context("the time between was not told")?;
    ensure!(gap.text("node.reason").is_some(), "{gap:?}");
    ensure!(tracer.repeated_in_pipe()? == 0);
    init.close_stdin();
    init.finish(DEADLINE)?;
    Ok(())
}

#[test]
fn pinned_programs_collect_while_no_tracer_runs() -> Result<()> {
    let _live = live!();
    let pins = PinDir::new()?;
    let mut tracer = Mortal::new(&[&pins.flag()])?;
    tracer.start_synced()?;
    let before = RawContainer::docker()?;
    let mut init = before.spawn(Shape::Joined, &["stay", "7"])?;
    tracer.stop()?;
    init.close_stdin();
    init.finish(DEADLINE)?;
    let before_id = before.id().to_owned();
    before.remove()?;
    let between = RawContainer::docker()?;
    let mut init = between.spawn(Shape::Joined, &["stay", "8"])?;
    init.close_stdin();
    init.finish(DEADLINE)?;
    let between_id = between.id().to_owned();
    between.remove()?;
    // This one takes the pins over and leaves none.
    tracer.set_arguments(&[]);
    tracer.start_synced()?;
    ensure!(!pins.path().exists(), "pins were left");
    tracer.stop()?;
    let records = tracer.records()?;
    let whole = [
        "container.created",
        "container.started",
        "container.exited",
        "container.emptied",
        "container.removed",
    ];
    ensure!(of(&records, &before_id) == whole);
    ensure!(of(&records, &between_id) == whole);
    let exited = |id: &str| {
        let mut of = records.iter();
        of.find(|record| record.is("container.exited") && record.container() == Some(id))
            .and_then(|record| record.number("process.exit.code"))
    };
    ensure!((exited(&before_id), exited(&between_id)) == (Some(7), Some(8)));
    ensure!(!records.iter().any(|record| record.is("node.gap")));
    Ok(())
}

#[test]
fn a_ring_that_overflows_while_no_tracer_runs_is_a_gap_and_repaired() -> Result<()> {
    let _live = live!();
    let pins = PinDir::new()?;
    let mut tracer = Mortal::new(&[&pins.flag(), "--ring-bytes", "65536"])?;
    tracer.start_synced()?;
    tracer.kill()?;
    for _ in 0..200 {
        RawContainer::docker()?.remove()?;
    }
    let stays = RawContainer::docker()?;
    let id = stays.id().to_owned();
    let from = tracer.heard();
    tracer.start()?;
    tracer.expect_after(from, "the end of the repair", |record| {
        record.is("node.resynced")
    })?;
    tracer.stop()?;
    let records = tracer.records()?;
    let gap = records
        .iter()
        .find(|record| record.is("node.gap"))
        .context("no gap was told")?;
    let lost = gap.at("node.lost").context("no counts")?;
    ensure!(lost["cgroup_mkdir"].as_u64() > Some(0), "{lost}");
    ensure!(of(&records, &id) == ["container.discovered"]);
    Ok(())
}

#[test]
fn unload_detaches_and_the_next_tracer_says_what_it_missed() -> Result<()> {
    let _live = live!();
    let pins = PinDir::new()?;
    let mut tracer = Mortal::new(&[&pins.flag()])?;
    tracer.start_synced()?;
    tracer.kill()?;
    let said = pins.unload()?;
    ensure!(said.contains("removed"), "{said}");
    ensure!(!pins.path().exists());
    ensure!(pins.unload()?.contains("nothing is pinned"));
    tracer.start_synced()?;
    tracer.stop()?;
    let records = tracer.records()?;
    ensure!(records.iter().any(|record| record.is("node.gap")));
    Ok(())
}

#[test]
fn a_second_tracer_is_refused_the_state_directory_and_the_pins() -> Result<()> {
    let _live = live!();
    let pins = PinDir::new()?;
    let mut tracer = Mortal::new(&[&pins.flag()])?;
    tracer.start_synced()?;
    let other = |state: &Path| {
        let mut command = Command::new(binary());
        command.args(["run", "--socket", "none", "--state-dir"]);
        command.arg(state).arg(pins.flag());
        run(&mut command)
    };
    let done = other(&tracer.dir().join("state"))?.ended(1)?;
    ensure!(done.stderr.contains("another tracer"), "{}", done.stderr);
    let done = other(&tracer.dir().join("other"))?.ended(1)?;
    ensure!(done.stderr.contains("tracer unload"), "{}", done.stderr);
    let mut command = Command::new(binary());
    command.args(["run", "--socket", "none", &pins.flag()]);
    let done = run(&mut command)?.ended(2)?;
    ensure!(done.stderr.contains("state_dir"), "{}", done.stderr);
    tracer.stop()
}

#[test]
fn a_rotated_file_is_opened_again() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&["--stdout=false"])?;
    tracer.start()?;
    let first = wait_for_synced(&tracer)?;
    ensure!(first > 0);
    let old = tracer.dir().join("events.1");
    fs::rename(tracer.file(), &old).context("rotate")?;
    tracer.signal(Signal::HUP)?;
    wait_until(DEADLINE, "the new file", || {
        Ok(tracer.file().exists().then_some(()))
    })?;
    let container = RawContainer::docker()?;
    let id = container.id().to_owned();
    container.remove()?;
    in_file(&tracer, "container.removed", &id)?;
    tracer.stop()?;
    let whole = fs::read_to_string(&old)? + &fs::read_to_string(tracer.file())?;
    fs::write(tracer.file(), whole)?;
    tracer.records()?;
    ensure!(tracer.heard() == 0, "--stdout=false wrote to it");
    Ok(())
}

fn wait_for_synced(tracer: &Mortal) -> Result<usize> {
    wait_until(DEADLINE, "node.synced in the file", || {
        let text = fs::read_to_string(tracer.file()).unwrap_or_default();
        Ok(text.contains("node.synced").then_some(text.len()))
    })
}

/// A small file system that ends with the test.
struct Small(std::path::PathBuf);

impl Small {
    fn new(at: &Path, bytes: usize) -> Result<Self> {
        fs::create_dir_all(at)?;
        let mut mount = program("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]);
        run_ok(mount.arg(at))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(run(program("umount").arg("--lazy").arg(&self.0)));
    }
}

/// The disk is full for a while: nobody else notices, lines stay whole, what is missing is told.
#[test]
fn a_full_disk_costs_records_of_the_file_alone_and_they_are_told() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&[])?;
    let small = Small::new(&tracer.dir().join("small"), 128 << 10)?;
    let file = small.0.join("events");
    let path = file.display().to_string();
    tracer.set_arguments(&["--queue-bytes", "65536", "--file", &path]);
    tracer.start_synced()?;
    let mut ids = Vec::new();
    for _ in 0..300 {
        let container = RawContainer::docker()?;
        ids.push(container.id().to_owned());
        container.remove()?;
    }
    let newest_id = ids.last().context("containers")?.clone();
    tracer.expect("the last of them in the pipe", |record| {
        record.is("container.removed") && record.container() == Some(&newest_id)
    })?;
    let full = fs::read_to_string(&file)?;
    ensure!(full.ends_with('\n'), "half a line");
    // Room again.
    fs::write(&file, "")?;
    let told = wait_until(DEADLINE, "the gap of the file", || {
        let container = RawContainer::docker()?;
        container.remove()?;
        let text = fs::read_to_string(&file)?;
        let mut lines = text.lines();
        lines
            .find(|line| line.contains("node.gap"))
            .map(Record::parse)
            .transpose()
    })?;
    ensure!(told.text("node.sink") == Some("file"), "{told:?}");
    let lost = told.number("node.lost.record").context("no count")?;
    tracer.stop()?;
    // In the pipe all of them are; in the file all but as many as were told.
    let rest = fs::read_to_string(&file)?;
    let numbers = |text: &str| -> Result<Vec<u64>> {
        text.lines()
            .map(|line| Record::parse(line)?.seq().context("no seq"))
            .collect()
    };
    let (before, after) = (numbers(&full)?, numbers(&rest)?);
    let newest = after.last().copied().context("nothing after the room")?;
    let there = u64::try_from(before.len() + after.len())?;
    ensure!(
        there + lost == newest,
        "{there} in the file and {lost} told as left out, of {newest}"
    );
    println!("{lost} records left out of the file, told; all {newest} in the pipe");
    Ok(())
}
