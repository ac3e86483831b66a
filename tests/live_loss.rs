//! What was lost is told, and the table is repaired.

use rustix::process::Signal;
use tracer_tests::{
    Context, Record, Result, Step, Tracer, created, emptied, ensure, exited, live,
    raw::{RawContainer, Shape},
    removed, started,
    wait::DEADLINE,
};

/// The smallest ring that tracer takes: a few containers on a hybrid host fill it.
const SMALL_RING: [&str; 2] = ["--ring-bytes", "65536"];

fn position(records: &[Record], kind: &str) -> Option<usize> {
    records.iter().position(|record| record.is(kind))
}

/// While tracer does not get to run, its ring overflows: one container of before ends unseen, one
/// comes unseen and stays.
#[test]
fn a_gap_is_told_ahead_of_the_repair_and_the_repair_brings_the_truth() -> Result<()> {
    let _live = live!();
    let mut tracer = Tracer::start(&SMALL_RING)?;
    let gone = RawContainer::docker()?;
    let mut init = gone.spawn(Shape::Joined, &["stay", "3"])?;
    let gone_id = gone.id().to_owned();
    tracer.expect_of(&gone_id, "container.created", 1)?;

    tracer.signal(Signal::STOP)?;
    for _ in 0..200 {
        RawContainer::docker()?.remove()?;
    }
    init.close_stdin();
    init.finish(DEADLINE)?;
    gone.remove()?;
    let stays = RawContainer::docker()?;
    let mut stays_init = stays.spawn(Shape::Joined, &["stay", "4"])?;
    let stays_id = stays.id().to_owned();
    stays.wait_for_init()?;
    tracer.signal(Signal::CONT)?;

    tracer.expect("node.resynced", |record| record.is("node.resynced"))?;
    tracer.settle()?;
    stays_init.close_stdin();
    stays_init.finish(DEADLINE)?;
    stays.remove()?;
    tracer.expect_of(&stays_id, "container.removed", 1)?;
    let records = tracer.stop_after_loss()?;

    let gap = position(&records, "node.gap").context("no gap was told")?;
    let lost = records[gap].at("node.lost").context("no counts")?;
    ensure!(lost["cgroup_mkdir"].as_u64() > Some(0), "{lost}");
    for time in ["node.since", "node.until"] {
        ensure!(records[gap].text(time).is_some(), "no {time}");
    }
    let resynced = position(&records, "node.resynced").context("no end of the repair")?;
    ensure!(
        gap < resynced,
        "the repair ended before it was told to be needed"
    );
    let life = |id: &str| -> Vec<&Record> {
        let of = records
            .iter()
            .filter(|record| record.container() == Some(id));
        of.filter(|record| !record.is("container.enriched"))
            .collect()
    };
    let gone = life(&gone_id);
    ensure!(
        gone.last()
            .is_some_and(|record| record.is("container.removed")),
        "{gone:?}"
    );
    let stays = life(&stays_id);
    let first = stays
        .first()
        .context("the one that stayed was never told")?;
    ensure!(
        first.is("container.discovered") && first.text("origin") == Some("reconcile"),
        "{first:?}"
    );
    let exited = stays.iter().find(|record| record.is("container.exited"));
    ensure!(
        exited.and_then(|record| record.number("process.exit.code")) == Some(4),
        "its end was not followed: {stays:?}"
    );
    Ok(())
}

/// Bulk records give way first, and are told; no container's record is missing. Tracer does not get
/// to run during the storm, so that the ring fills up to the head-room.
#[test]
fn a_storm_inside_containers_pushes_out_no_lifecycle_record() -> Result<()> {
    let _live = live!("runc");
    let mut tracer = Tracer::start(&["--ring-bytes", "262144", "--processes"])?;
    let runc = tracer_tests::runtimes::Runc::new()?;
    let storm = "i=0; while [ $i -lt 3000 ]; do /bin/true; i=$((i+1)); done; exit 9";
    let bundle = runc.container(&tracer_tests::runtimes::Spec::new(&[
        "/bin/sh", "-c", storm,
    ]))?;
    let id = format!("{}-storm", bundle.id());
    let run = bundle.start_as(&id)?;
    tracer.expect_of(&id, "container.started", 1)?;
    tracer.signal(Signal::STOP)?;
    let ended = run.finish(DEADLINE);
    tracer.signal(Signal::CONT)?;
    ended?.ended(9)?;
    tracer.expect_of(&id, "container.removed", 1)?;
    let records = tracer.stop_after_loss()?;
    let kinds: Vec<&str> = records
        .iter()
        .filter(|record| record.container() == Some(&id) && record.kind().starts_with("container."))
        .map(Record::kind)
        .filter(|kind| *kind != "container.enriched")
        .collect();
    ensure!(
        kinds
            == [
                "container.created",
                "container.started",
                "container.exited",
                "container.emptied",
                "container.removed"
            ],
        "{kinds:?}"
    );
    let told = |kind: &str| {
        let mut of = 0_u64;
        for record in &records {
            of += u64::from(record.is(kind) && record.container() == Some(&id));
        }
        of
    };
    let mut dropped = 0;
    for record in records.iter().filter(|record| record.is("node.gap")) {
        let lost = record.at("node.lost").context("no counts")?;
        let lost = lost.as_object().context("no object")?;
        ensure!(
            lost.keys().eq(["process"]),
            "more than bulk was lost: {lost:?}"
        );
        dropped += lost["process"].as_u64().unwrap_or(0);
    }
    ensure!(dropped > 0, "the ring never filled: this was no storm");
    let seen = told("process.exec") + told("process.exited");
    ensure!(
        seen + dropped == 2 * 3000,
        "{seen} told and {dropped} dropped of 6000 bulk records"
    );
    println!("bulk: {seen} told, {dropped} dropped and told as such");
    Ok(())
}

/// A storm at full speed in one container, told exec by exec as far as that goes; others live beside
/// it, and each of them is told whole.
#[test]
fn lives_beside_a_storm_are_told_whole() -> Result<()> {
    const LIVES: usize = 100;
    let _live = live!("runc", "cc");
    let mut tracer = Tracer::start(&["--ring-bytes", "262144", "--processes"])?;
    let runc = tracer_tests::runtimes::Runc::new()?;
    let storm = "while :; do /bin/true; done";
    let bundle = runc.container(&tracer_tests::runtimes::Spec::new(&[
        "/bin/sh", "-c", storm,
    ]))?;
    let run = bundle.run_spawn()?;
    tracer.expect_of(bundle.id(), "container.started", 1)?;
    let mut ids = Vec::new();
    for _ in 0..LIVES {
        let container = RawContainer::docker()?;
        container
            .spawn(Shape::Joined, &["/bin/true"])?
            .finish(DEADLINE)?
            .ended(0)?;
        ids.push(container.id().to_owned());
        container.remove()?;
    }
    bundle.kill("KILL")?;
    run.finish(DEADLINE)?.ended(137)?;
    let life = [
        created(),
        started("/bin/true"),
        exited(0),
        emptied(),
        removed(),
    ];
    let lives: Vec<(&str, &[Step])> = ids.iter().map(|id| (id.as_str(), &life[..])).collect();
    tracer.expect_lives(&lives)?;
    let records = tracer.stop_after_loss()?;
    let storm = records.iter().filter(|record| record.is("process.exec"));
    let gaps = records.iter().filter(|record| record.is("node.gap"));
    let dropped: u64 = gaps
        .filter_map(|gap| gap.at("node.lost")?.get("process")?.as_u64())
        .sum();
    println!(
        "{LIVES} lives beside {} told and {dropped} dropped bulk records",
        storm.count()
    );
    Ok(())
}
