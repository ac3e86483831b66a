//! `kill -9` while the programs are being loaded and pinned: nothing of it stays, and the next tracer
//! begins well.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracer_tests::mortal::{Mortal, PinDir};
use tracer_tests::raw::{RawContainer, Shape};
use tracer_tests::wait::{DEADLINE, wait_until};
use tracer_tests::{Record, Result, ensure, live};

/// Pins that are there when it is killed: none yet, some maps, all of them, some links.
const STAGES: [usize; 6] = [0, 1, 4, 6, 9, 15];

fn loading(pid: i32) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("tracer-load-{pid}"))
}

fn count(directory: &Path) -> Option<usize> {
    Some(fs::read_dir(directory).ok()?.count())
}

/// Without a pause between two looks: a stage takes microseconds.
fn wait_for_pins(pid: i32, pins: usize, settled: &Path) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    let directory = loading(pid);
    while count(&directory).is_none_or(|found| found < pins) && !settled.exists() {
        ensure!(Instant::now() < end, "no {pins} pins in time");
    }
    Ok(())
}

/// Programs of tracer that the kernel has, by one of their names.
fn programs() -> usize {
    aya::programs::loaded_programs()
        .flatten()
        .filter(|program| program.name_as_str() == Some("cgroup_mkdir"))
        .count()
}

#[test]
fn a_kill_in_the_first_load_leaves_nothing_and_the_next_tracer_begins_well() -> Result<()> {
    let _live = live!("cc");
    let before = programs();
    let mut seen = Vec::new();
    for stage in STAGES {
        let pins = PinDir::new()?;
        let mut tracer = Mortal::new(&[&pins.flag()])?;
        tracer.start()?;
        let pid = tracer.pid()?;
        wait_for_pins(pid, stage, pins.path())?;
        tracer.kill()?;
        seen.push(count(&loading(pid)));
        tracer.start_synced()?;
        let container = RawContainer::docker()?;
        container
            .spawn(Shape::Joined, &["/bin/true"])?
            .finish(DEADLINE)?
            .ended(0)?;
        let id = container.id().to_owned();
        container.remove()?;
        tracer.stop()?;
        wait_until(DEADLINE, "what the killed one left to be gone", || {
            Ok((!loading(pid).exists()).then_some(()))
        })?;
        let records = tracer.records()?;
        let life: Vec<&str> = records
            .iter()
            .filter(|record| record.container() == Some(&id))
            .map(Record::kind)
            .filter(|kind| *kind != "container.enriched")
            .collect();
        ensure!(life.len() == 5, "{life:?} at stage {stage}");
        pins.unload()?;
        wait_until(DEADLINE, "the programs to be detached", || {
            Ok((programs() == before).then_some(()))
        })?;
    }
    println!("killed with so many pins there: {seen:?}");
    Ok(())
}
