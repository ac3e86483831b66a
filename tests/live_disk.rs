//! Disks that are full or stall, under the file and under the state directory.

use std::fs;

use rustix::process::Signal;
use tracer_tests::disk::{Disk, Stalling};
use tracer_tests::mortal::Mortal;
use tracer_tests::raw::{RawContainer, Shape};
use tracer_tests::wait::{DEADLINE, wait_until};
use tracer_tests::{Context, Record, Result, anyhow, ensure, live};

/// Bytes that wait for a file at most.
const QUEUE: &str = "65536";

/// What memory may grow by beyond the queue, KiB: batches on their way, the allocator's slack.
const SLACK_KIB: u64 = 4 << 10;

/// Containers that come and go; their ids.
fn lives(count: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let container = RawContainer::docker()?;
        ids.push(container.id().to_owned());
        container.remove()?;
    }
    Ok(ids)
}

/// Waits until the pipe has told the end of the last of them.
fn all_in_pipe(tracer: &mut Mortal, ids: &[String]) -> Result<()> {
    let last = ids.last().context("containers")?;
    tracer
        .expect("the last of them in the pipe", |record| {
            record.is("container.removed") && record.container() == Some(last)
        })
        .map(drop)
}

fn told<'a>(records: &'a [Record], id: &str) -> Vec<&'a str> {
    records
        .iter()
        .filter(|record| record.container() == Some(id) && !record.is("container.enriched"))
        .map(Record::kind)
        .collect()
}

/// How many of what the `node.gap` of the file tells, once it is there. Nothing happens on the host
/// meanwhile.
fn gap_of_file(tracer: &Mortal, of: &str) -> Result<u64> {
    let told = wait_until(DEADLINE, "the gap of the file", || {
        let text = fs::read_to_string(tracer.file())?;
        let mut lines = text.lines();
        lines
            .find(|line| line.contains("node.gap"))
            .map(Record::parse)
            .transpose()
    })?;
    ensure!(told.text("node.sink") == Some("file"), "{told:?}");
    let lost = told.at("node.lost").and_then(|lost| lost.as_object());
    ensure!(
        lost.is_some_and(|lost| lost.keys().eq([of])),
        "not of {of} alone: {told:?}"
    );
    told.number(&format!("node.lost.{of}")).context("no count")
}

fn numbers(text: &str) -> Result<Vec<u64>> {
    text.lines()
        .map(|line| Record::parse(line)?.seq().context("no seq"))
        .collect()
}

/// `there` are all numbers in the file or its parts; `lost` are told.
fn adds_up(there: &[u64], lost: u64) -> Result<u64> {
    let newest = there.last().copied().context("nothing in the file")?;
    let count = u64::try_from(there.len())?;
    ensure!(
        count + lost == newest,
        "{count} in the file and {lost} told as left out, of {newest}"
    );
    Ok(newest)
}

/// The disk is full for a while: nobody else notices, lines stay whole, what is missing is told as
/// soon as there is room.
#[test]
fn a_full_disk_costs_records_of_the_file_alone_and_they_are_told() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&[])?;
    let small = tracer.dir().join("small");
    let _disk = Disk::mount(&small, 128 << 10)?;
    let file = small.join("events").display().to_string();
    tracer.set_arguments(&["--queue-bytes", QUEUE, "--file", &file]);
    tracer.start_synced()?;
    let ids = lives(300)?;
    all_in_pipe(&mut tracer, &ids)?;
    let full = fs::read_to_string(&file)?;
    ensure!(full.ends_with('\n'), "half a line");
    // Room again.
    fs::write(&file, "")?;
    let lost = gap_of_file(&tracer, "record")?;
    tracer.stop()?;
    let mut there = numbers(&full)?;
    there.extend(numbers(&fs::read_to_string(&file)?)?);
    let newest = adds_up(&there, lost)?;
    println!("{lost} records left out of the file, told; all {newest} in the pipe");
    Ok(())
}

/// A sink that has counted what it left out, and is killed before it could say so: the journal still
/// has those records, and they come after all.
#[test]
fn a_loss_that_was_counted_and_not_told_is_made_good_after_a_kill() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&[])?;
    let small = tracer.dir().join("small");
    let disk = Disk::mount(&small, 128 << 10)?;
    let file = small.join("events").display().to_string();
    tracer.set_arguments(&["--queue-bytes", QUEUE, "--file", &file]);
    tracer.start_synced()?;
    let ids = lives(300)?;
    all_in_pipe(&mut tracer, &ids)?;
    tracer.kill()?;
    let there = numbers(&fs::read_to_string(&file)?)?.len();
    let heard = tracer.heard();
    disk.grow(16 << 20)?;
    tracer.start_synced()?;
    tracer.stop()?;
    // Without a hole.
    let records = tracer.records()?;
    ensure!(
        there + 200 < heard,
        "{there} of {heard} were there: the disk was never full"
    );
    ensure!(
        !records
            .iter()
            .any(|record| record.text("node.sink").is_some()),
        "what came after all is told as lost"
    );
    println!("{there} of {heard} records were in the file before the kill, all after it");
    Ok(())
}

#[test]
fn a_full_state_directory_holds_nothing_up_and_the_stream_goes_on_behind_it() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&[])?;
    let disk = Disk::mount(&tracer.state(), 256 << 10)?;
    tracer.start_synced()?;
    disk.fill()?;
    let ids = lives(60)?;
    all_in_pipe(&mut tracer, &ids)?;
    let journal = tracer.state().join("journal");
    ensure!(!journal.exists(), "the journal was never full");
    disk.free()?;
    wait_until(DEADLINE, "a journal again", || {
        lives(1)?;
        Ok(journal.exists().then_some(()))
    })?;
    let last = lives(1)?;
    all_in_pipe(&mut tracer, &last)?;
    tracer.kill()?;
    tracer.start_synced()?;
    tracer.stop()?;
    let records = tracer.records()?;
    for id in &ids {
        let life = told(&records, id);
        ensure!(
            life.last() == Some(&"container.removed"),
            "{id} is {life:?}"
        );
    }
    ensure!(tracer.log().contains("the journal can be written again"));
    Ok(())
}

#[test]
fn a_kill_while_the_journal_cannot_be_written_ends_the_stream_and_that_is_told() -> Result<()> {
    let _live = live!();
    let mut tracer = Mortal::new(&[])?;
    let disk = Disk::mount(&tracer.state(), 256 << 10)?;
    tracer.start_synced()?;
    disk.fill()?;
    let ids = lives(60)?;
    all_in_pipe(&mut tracer, &ids)?;
    tracer.kill()?;
    let stays = RawContainer::docker()?;
    let mut init = stays.spawn(Shape::Joined, &["stay", "0"])?;
    // The disk is still full, which does not keep the next one from running.
    tracer.start_synced()?;
    let more = lives(1)?;
    all_in_pipe(&mut tracer, &more)?;
    tracer.stop()?;
    let streams = tracer.streams()?;
    let [before, after] = &streams[..] else {
        return Err(anyhow!("{} streams\n{}", streams.len(), tracer.log()));
    };
    let id = before[0].text("id").unwrap_or_default();
    let stream = id.split('/').next().context("a stream")?;
    let gap = &after[1];
    let reason = gap.text("node.reason").unwrap_or_default();
    ensure!(gap.is("node.gap") && reason.contains(stream), "{gap:?}");
    ensure!(reason.contains("could not be written"), "{reason}");
    ensure!(gap.text("node.since").is_some(), "{gap:?}");
    ensure!(told(after, stays.id()) == ["container.discovered"]);
    ensure!(told(after, &more[0]).last() == Some(&"container.removed"));
    init.close_stdin();
    init.finish(DEADLINE)?;
    Ok(())
}

fn rss_anon(tracer: &Mortal) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", tracer.pid()?))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).context("no RssAnon")
}

#[test]
fn a_disk_that_stalls_under_the_file_is_noticed_by_the_file_alone() -> Result<()> {
    let _live = live!("mkfs.ext4", "fsfreeze");
    let mut tracer = Mortal::new(&[])?;
    let slow = tracer.dir().join("slow");
    let mut disk = Stalling::mount(&slow)?;
    let file = slow.join("events").display().to_string();
    tracer.set_arguments(&["--queue-bytes", QUEUE, "--file", &file]);
    tracer.start_synced()?;
    // Once around, so that every buffer has been used.
    let ids = lives(100)?;
    all_in_pipe(&mut tracer, &ids)?;
    let before = rss_anon(&tracer)?;
    disk.stall()?;
    let ids = lives(300)?;
    all_in_pipe(&mut tracer, &ids)?;
    let after = rss_anon(&tracer)?;
    disk.go_on()?;
    ensure!(
        after <= before + SLACK_KIB,
        "memory grew from {before} to {after} KiB"
    );
    let lost = gap_of_file(&tracer, "record")?;
    tracer.stop()?;
    let newest = adds_up(&numbers(&fs::read_to_string(&file)?)?, lost)?;
    println!(
        "{lost} of {newest} records left out of the file and told; RssAnon {before} -> {after} KiB"
    );
    drop(tracer);
    Ok(())
}

/// Processes of a container come and go by the thousand while the file's disk stalls; what happens to
/// containers is in the file all the same.
#[test]
fn a_flood_of_processes_over_a_stalled_disk_leaves_room_for_containers() -> Result<()> {
    const FLOOD: &str = "i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done";
    let _live = live!("mkfs.ext4", "fsfreeze");
    let mut tracer = Mortal::new(&[])?;
    let slow = tracer.dir().join("slow");
    let mut disk = Stalling::mount(&slow)?;
    let file = slow.join("events").display().to_string();
    tracer.set_arguments(&["--processes", "--queue-bytes", "262144", "--file", &file]);
    tracer.start_synced()?;
    disk.stall()?;
    let busy = RawContainer::docker()?;
    busy.spawn(Shape::Joined, &["/bin/sh", "-c", FLOOD])?
        .finish(DEADLINE)?
        .ended(0)?;
    let mut ids = lives(20)?;
    ids.insert(0, busy.id().to_owned());
    busy.remove()?;
    all_in_pipe(&mut tracer, &ids[1..])?;
    disk.go_on()?;
    let lost = gap_of_file(&tracer, "process")?;
    tracer.stop()?;
    let text = fs::read_to_string(&file)?;
    let newest = adds_up(&numbers(&text)?, lost)?;
    let records: Vec<Record> = text.lines().map(Record::parse).collect::<Result<_>>()?;
    for id in &ids {
        let life = told(&records, id);
        ensure!(
            life.first() == Some(&"container.created") && life.last() == Some(&"container.removed"),
            "{id} is {life:?}"
        );
    }
    println!("{lost} of {newest} records left out of the file and told, all of processes");
    drop(tracer);
    Ok(())
}

/// The end comes while a write to the file does not return: everything else ends in order, and the
/// next tracer writes what the file lacks.
#[test]
fn an_end_while_the_files_disk_stalls_is_orderly_for_the_others() -> Result<()> {
    let _live = live!("mkfs.ext4", "fsfreeze");
    let mut tracer = Mortal::new(&[])?;
    let slow = tracer.dir().join("slow");
    let mut disk = Stalling::mount(&slow)?;
    let file = slow.join("events").display().to_string();
    tracer.set_arguments(&["--file", &file]);
    tracer.start_synced()?;
    disk.stall()?;
    let ids = lives(20)?;
    all_in_pipe(&mut tracer, &ids)?;
    tracer.signal(Signal::TERM)?;
    // All but its last thread, which sits in the kernel.
    let ended = wait_until(DEADLINE, "the end of the others", || {
        Ok(tracer.log().contains("stopped end=Signal").then_some(()))
    });
    disk.go_on()?;
    ended?;
    tracer.stop()?;
    tracer.start_synced()?;
    tracer.stop()?;
    let records = tracer.records()?;
    for id in &ids {
        ensure!(
            told(&records, id).last() == Some(&"container.removed"),
            "{id}"
        );
    }
    Ok(())
}

/// Each entry is in the journal before anything of it leaves: where its disk stalls, the stream waits
/// and the ring collects. Afterwards all of it comes.
#[test]
fn a_disk_that_stalls_under_the_journal_costs_time_alone() -> Result<()> {
    let _live = live!("mkfs.ext4", "fsfreeze");
    let mut tracer = Mortal::new(&[])?;
    let mut disk = Stalling::mount(&tracer.state())?;
    tracer.start_synced()?;
    disk.stall()?;
    let ids = lives(100)?;
    disk.go_on()?;
    all_in_pipe(&mut tracer, &ids)?;
    tracer.stop()?;
    let records = tracer.records()?;
    for id in &ids {
        let life = told(&records, id);
        ensure!(life.first() == Some(&"container.created"), "{id}: {life:?}");
        ensure!(life.last() == Some(&"container.removed"), "{id}: {life:?}");
    }
    ensure!(!records.iter().any(|record| record.is("node.gap")));
    Ok(())
}
