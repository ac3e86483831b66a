//! A stream that goes on: restarts, pins, files, and what stands in their way.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tracer_tests::command::run;
use tracer_tests::mortal::{Mortal, PinDir};
use tracer_tests::raw::{RawContainer, Shape, random_uuid};
use tracer_tests::tracer::binary;
use tracer_tests::wait::{DEADLINE, wait_until};
use tracer_tests::{Context, Record, Result, anyhow, ensure, live};

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

/// Waits until the file tells this of the container, or of anything where `id` is empty.
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

/// Programs that a process attached and pinned before it was killed, too early to say so in the
/// journal: the time before them is a gap all the same.
#[test]
fn pins_that_no_journal_names_hide_no_gap() -> Result<()> {
    const ROUNDS: usize = 8;
    let _live = live!();
    let pins = PinDir::new()?;
    let mut tracer = Mortal::new(&[&pins.flag()])?;
    tracer.start_synced()?;
    tracer.stop()?;
    let mut lives = Vec::new();
    let mut goes = RawContainer::docker()?;
    for _ in 0..ROUNDS {
        pins.unload()?;
        let comes = RawContainer::docker()?;
        let gone = std::mem::replace(&mut goes, comes);
        let ids = (gone.id().to_owned(), goes.id().to_owned());
        gone.remove()?;
        tracer.start()?;
        let noted = tracer.state().join("pins.json");
        wait_until(DEADLINE, "pins", || {
            Ok((pins.path().exists() && noted.exists()).then_some(()))
        })?;
        tracer.kill()?;
        tracer.start_synced()?;
        tracer.stop()?;
        lives.push(ids);
    }
    let records = tracer.records()?;
    let gaps = records.iter().filter(|record| record.is("node.gap"));
    ensure!(gaps.count() >= ROUNDS, "a gap is hidden");
    for (index, (gone, came)) in lives.iter().enumerate() {
        ensure!(of(&records, came).first() == Some(&"container.discovered"));
        if index > 0 {
            ensure!(of(&records, gone).last() == Some(&"container.removed"));
        }
    }
    Ok(())
}

/// A machine that lost its power, as far as that can be had without: the journal is of another boot.
#[test]
fn after_a_power_failure_a_new_stream_says_what_it_follows() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&[])?;
    let stays = RawContainer::docker()?;
    tracer.start_synced()?;
    in_file(&tracer, "node.synced", "")?;
    tracer.kill()?;
    // What was written last did not reach the disk.
    let written = fs::read_to_string(tracer.file())?;
    let (kept, _) = written
        .trim_end()
        .rsplit_once('\n')
        .context("one line alone")?;
    fs::write(tracer.file(), format!("{kept}\n"))?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let other = random_uuid()?;
    let journal = tracer.state().join("journal");
    let mut bytes = fs::read(&journal)?;
    let mut changed = 0;
    for at in 0..bytes.len() {
        let window = bytes.get_mut(at..at + other.len());
        if let Some(window) = window.filter(|window| *window == boot.trim().as_bytes()) {
            window.copy_from_slice(other.as_bytes());
            changed += 1;
        }
    }
    ensure!(changed > 0, "the journal does not name its boot");
    fs::write(&journal, bytes)?;
    tracer.start_synced()?;
    tracer.stop()?;

    let streams = tracer.streams()?;
    let [before, after] = &streams[..] else {
        return Err(anyhow!("{} streams", streams.len()));
    };
    let gap = &after[1];
    let on_disk = before.last().and_then(|record| record.text("time"));
    let before = stream(&before[0]).context("a stream")?;
    let reason = gap.text("node.reason").unwrap_or_default();
    ensure!(
        after[0].is("node.started") && gap.is("node.gap"),
        "{after:?}"
    );
    ensure!(
        reason.contains(before) && reason.contains("went down"),
        "{reason}"
    );
    let since = gap.text("node.since");
    ensure!(since.is_some() && since <= on_disk, "{gap:?}");
    ensure!(gap.text("node.since") < gap.text("node.until"), "{gap:?}");
    ensure!(of(after, stays.id()) == ["container.discovered"]);
    let last: Vec<&str> = after.iter().map(Record::kind).collect();
    ensure!(last.contains(&"node.resynced"), "{last:?}");
    Ok(())
}
