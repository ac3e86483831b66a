//! Many short lives, and a busy host that is nobody's business.

use tracer_tests::command::{program, spawn};
use tracer_tests::raw::{RawContainer, Shape};
use tracer_tests::runtimes::{Runc, Spec};
use tracer_tests::tracer::latency;
use tracer_tests::wait::DEADLINE;
use tracer_tests::{
    Result, Step, Tracer, created, emptied, ensure, exited, live, removed, started,
};

const LIVES: usize = 500;

fn life(executable: &str, code: u8) -> Vec<Step> {
    vec![
        created(),
        started(executable),
        exited(code),
        emptied(),
        removed(),
    ]
}

/// Compares all lives; gives a line about the latency that the records themselves tell.
fn compare(mut tracer: Tracer, lives: &[(String, Vec<Step>)]) -> Result<String> {
    let borrowed: Vec<(&str, &[Step])> = lives
        .iter()
        .map(|(id, steps)| (id.as_str(), steps.as_slice()))
        .collect();
    tracer.expect_lives(&borrowed)?;
    let records = tracer.stop()?;
    let seen = latency(&records)?;
    Ok(format!(
        "{} lives, emit latency of {} records: median {} us, p99 {} us",
        lives.len(),
        seen.records,
        seen.median_ns / 1000,
        seen.p99_ns / 1000
    ))
}

#[test]
fn five_hundred_runc_containers_of_a_millisecond() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let bundle = runc.container(&Spec::new(&["/bin/true"]))?;
    let tracer = Tracer::start(&[])?;
    let mut lives = Vec::new();
    for number in 0..LIVES {
        let id = format!("{}-{number}", bundle.id());
        bundle.run_as(&id)?.ended(0)?;
        lives.push((id, life("/bin/true", 0)));
    }
    println!("{}", compare(tracer, &lives)?);
    Ok(())
}

/// Faster than any runtime: what a runtime does around a start takes longer than these live.
#[test]
fn five_hundred_containers_without_a_runtime_each_with_its_own_exit_code() -> Result<()> {
    let _live = live!("cc");
    let tracer = Tracer::start(&[])?;
    let mut lives = Vec::new();
    for code in (0..=u8::MAX).cycle().take(LIVES) {
        let container = RawContainer::docker()?;
        container
            .spawn(Shape::Joined, &["/bin/sh", "-c", &format!("exit {code}")])?
            .finish(DEADLINE)?
            .ended(i32::from(code))?;
        lives.push((container.id().to_owned(), life("/bin/sh", code)));
        container.remove()?;
    }
    println!("{}", compare(tracer, &lives)?);
    Ok(())
}

#[test]
fn twenty_thousand_executions_outside_containers_say_nothing() -> Result<()> {
    const EACH: usize = 10_000;
    let _live = live!("busybox");
    let mut tracer = Tracer::start(&[])?;
    tracer.settle()?;
    let before = tracer.records().len();
    let script = format!("i=0; while [ $i -lt {EACH} ]; do /bin/busybox true; i=$((i+1)); done");
    let busy = [
        spawn(program("sh").args(["-c", &script]))?,
        spawn(program("sh").args(["-c", &script]))?,
    ];
    for one in busy {
        one.finish(DEADLINE * 10)?.ended(0)?;
    }
    tracer.settle()?;
    let told: Vec<_> = tracer.records().iter().skip(before).collect();
    ensure!(
        told.iter().all(|record| record.at("process").is_none()),
        tracer.failure("a process outside containers was told")
    );
    // What came is the marker of `settle` and the node's own.
    ensure!(
        told.len() < 20,
        tracer.failure(&format!("{} records of an idle table", told.len()))
    );
    tracer.stop()?;
    Ok(())
}
