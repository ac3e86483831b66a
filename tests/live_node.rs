//! What tracer says about itself on a real host.

use tracer_tests::{Result, Tracer, ensure, live};

/// Every program of the design, by what it hangs on.
const HOOKS: [&str; 10] = [
    "cgroup_mkdir",
    "cgroup_rmdir",
    "cgroup_rename",
    "cgroup_attach_task",
    "cgroup_notify_populated",
    "cgroup_notify_frozen",
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
    "mark_victim",
];

#[test]
fn the_first_record_lists_every_program() -> Result<()> {
    let _live = live!();
    let tracer = Tracer::start(&[])?;
    let first = tracer.records().first().cloned();
    let programs = first
        .as_ref()
        .and_then(|record| record.at("node.programs"))
        .and_then(|programs| programs.as_array())
        .cloned()
        .unwrap_or_default();
    for hook in HOOKS {
        ensure!(
            programs
                .iter()
                .any(|program| program["attached"] == true && program.to_string().contains(hook)),
            "no attached program on {hook}: {programs:?}"
        );
    }
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_stream_begins_with_started_then_synced_and_ends_with_stopped() -> Result<()> {
    let _live = live!();
    let mut tracer = Tracer::start(&[])?;
    tracer.settle()?;
    let records = tracer.stop()?;
    let of = |kind: &str| records.iter().position(|record| record.is(kind));
    ensure!(of("node.started") == Some(0), "{records:?}");
    ensure!(of("node.stopped") == Some(records.len() - 1), "{records:?}");
    let synced = of("node.synced").unwrap_or_default();
    ensure!(
        records[1..synced]
            .iter()
            .all(|record| record.is("container.discovered")),
        "only what was discovered comes before node.synced: {records:?}"
    );
    ensure!(
        records[synced + 1..]
            .iter()
            .all(|record| !record.is("container.discovered")),
        "nothing is discovered after node.synced: {records:?}"
    );
    Ok(())
}
