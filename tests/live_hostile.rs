//! What a container, or bad luck, can put in tracer's way.

use std::{
    io::Read as _,
    process::{Command, Stdio},
};

use tracer_tests::{
    Context, Result, Tracer, cgroup,
    command::{program, run},
    ensure, live,
    raw::{RawContainer, random_id, random_uuid},
    tracer::binary,
    wait::{DEADLINE, wait_until},
};

/// The kernel tells 1023 bytes of a path; what it leaves out was there before tracer.
#[test]
fn a_path_longer_than_the_kernel_tells_is_told_in_whole() -> Result<()> {
    let _live = live!();
    let unified = cgroup::hierarchies()?
        .into_iter()
        .find(|hierarchy| hierarchy.kind == cgroup::Kind::Unified)
        .context("no unified hierarchy")?;
    let top = format!("/long-{}", random_uuid()?);
    let mut made = vec![top.clone()];
    for _ in 0..6 {
        let path = format!("{}/{}", made[made.len() - 1], "d".repeat(230));
        made.push(path);
    }
    for path in &made {
        std::fs::create_dir(unified.dir(path))?;
    }
    let mut tracer = Tracer::start(&[])?;
    let id = random_id()?;
    let path = format!("{}/docker-{id}.scope", made[made.len() - 1]);
    std::fs::create_dir(unified.dir(&path))?;
    made.push(path.clone());
    let told = tracer.expect_of(&id, "container.created", 1);
    for path in made.iter().rev() {
        cgroup::remove(&unified.dir(path))?;
    }
    let told = told?;
    ensure!(
        told.text("cgroup.path") == Some(&path),
        "{:?} for {path}",
        told.text("cgroup.path")
    );
    tracer.stop()?;
    Ok(())
}

/// The kernel cuts the path of its cgroup events after 1023 bytes, at the end: where the id is.
#[test]
fn a_path_beyond_what_the_kernel_tells_keeps_its_container() -> Result<()> {
    let _live = live!();
    let mut tracer = Tracer::start(&[])?;
    let hierarchies = cgroup::hierarchies()?;
    let hierarchy = hierarchies.last().context("no hierarchy")?;
    let id = random_id()?;
    let mut path = format!("/tracer-live-{}", "d".repeat(200));
    let mut made = vec![path.clone()];
    for _ in 0..5 {
        path = format!("{path}/{}", "e".repeat(200));
        made.push(path.clone());
    }
    let leaf = format!("{path}/docker-{id}.scope");
    ensure!(leaf.len() > 1023, "not long enough to be cut");
    made.push(leaf);
    std::fs::create_dir_all(hierarchy.dir(made.last().context("a leaf")?))?;
    for path in made.iter().rev() {
        std::fs::remove_dir(hierarchy.dir(path))?;
    }
    tracer.expect_of(&id, "container.created", 1)?;
    let removed = tracer.expect_of(&id, "container.removed", 1)?;
    let told = removed.text("cgroup.path").context("no path")?;
    ensure!(told.ends_with(&format!("docker-{id}.scope")), "{told}");
    tracer.stop()?;
    Ok(())
}

/// A reader that does not read costs others nothing and is told what it missed; tracer goes on.
#[test]
fn a_reader_that_stalls_is_told_what_it_missed() -> Result<()> {
    const LIVES: usize = 400;
    let _live = live!();
    let mut child = Command::new(binary())
        .args(["run", "--format", "json", "--queue-bytes", "65536"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdout = child.stdout.take().context("stdout")?;
    let mut text = Vec::new();
    let mut chunk = vec![0; 4096];
    while !String::from_utf8_lossy(&text).contains("node.synced") {
        let len = stdout.read(&mut chunk)?;
        ensure!(len > 0, "tracer ended: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(chunk.get(..len).unwrap_or_default());
    }
    // Nobody reads: pipe and queue fill.
    for _ in 0..LIVES {
        RawContainer::docker()?.remove()?;
    }
    let (mut used, mut idle) = (u64::MAX, 0);
    wait_until(DEADLINE, "tracer to have taken up all of it", || {
        let before = std::mem::replace(&mut used, cpu_ticks(child.id())?);
        idle = if before == used { idle + 1 } else { 0 };
        Ok((idle >= 30).then_some(()))
    })?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let gone = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("a pid")?;
    let (sender, chunks) = std::sync::mpsc::sync_channel(1024);
    std::thread::spawn(move || {
        let mut chunk = vec![0; 4096];
        while let Ok(len) = stdout.read(&mut chunk) {
            let read = chunk.get(..len).unwrap_or_default().to_vec();
            if len == 0 || sender.send(read).is_err() {
                return;
            }
        }
    });
    while !String::from_utf8_lossy(&text).contains("node.gap") {
        text.extend(chunks.recv_timeout(DEADLINE).context("no gap was told")?);
    }
    // One more life behind the stall: it must come.
    let last = RawContainer::docker()?;
    let last_id = last.id().to_owned();
    last.remove()?;
    rustix::process::kill_process(gone, rustix::process::Signal::TERM)?;
    while let Ok(chunk) = chunks.recv_timeout(DEADLINE) {
        text.extend(chunk);
    }
    let code = child.wait()?;
    ensure!(code.success(), "{code}");
    let text = String::from_utf8(text)?;
    let mut seqs = Vec::new();
    let mut left_out = 0;
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).context("a torn line")?;
        seqs.push(record["seq"].as_u64().context("no seq")?);
        if record["type"] == "node.gap" {
            ensure!(record["node"]["sink"] == "stdout", "{line}");
            let counts = record["node"]["lost"].as_object().context("no counts")?;
            left_out += counts
                .values()
                .filter_map(serde_json::Value::as_u64)
                .sum::<u64>();
        }
    }
    ensure!(left_out > 0, "nothing was lost: the stall was none");
    let holes = seqs.last().copied().unwrap_or(0) - u64::try_from(seqs.len())?;
    ensure!(
        holes == left_out,
        "{holes} records are missing, {left_out} were told"
    );
    ensure!(
        text.contains(&last_id),
        "what came after the stall is missing"
    );
    let rss = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap_or("RssAnon unknown")
        .to_owned();
    println!("{left_out} records left out and told; {rss}");
    Ok(())
}

/// Processor time that a process has used, in clock ticks.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    let ticks = |field: usize| fields.split(' ').nth(field)?.parse::<u64>().ok();
    // utime and stime are fields 14 and 15 of proc(5), which counts the name as the second.
    Ok(ticks(11).context("utime")? + ticks(12).context("stime")?)
}

#[test]
fn a_closed_pipe_ends_an_idle_tracer_with_0() -> Result<()> {
    let _live = live!();
    let mut child = Command::new(binary())
        .args(["run", "--format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdout = child.stdout.take().context("stdout")?;
    let mut first = [0; 1];
    stdout.read_exact(&mut first)?;
    drop(stdout);
    let code = child.wait()?;
    ensure!(code.success(), "{code}");
    Ok(())
}

#[test]
fn a_host_without_btf_is_told_so() -> Result<()> {
    let _live = live!("unshare");
    let script = format!(
        "mount -t tmpfs none /sys/kernel/btf && exec {} run",
        binary().display()
    );
    let mut unshare = program("unshare");
    unshare.args(["--mount", "sh", "-c", &script]);
    let done = run(&mut unshare)?.ended(3)?;
    ensure!(
        done.stderr.contains("CONFIG_DEBUG_INFO_BTF"),
        "{}",
        done.stderr
    );
    Ok(())
}

/// The programs attach by BTF: tracefs is of no concern.
#[test]
fn a_host_without_tracefs_is_traced() -> Result<()> {
    let _live = live!("unshare", "timeout");
    let script = format!(
        "umount -a -t tracefs; mount -t tmpfs none /sys/kernel/tracing 2>/dev/null; exec timeout --preserve-status 3 {} run --format json --type node.started",
        binary().display()
    );
    let mut unshare = program("unshare");
    unshare.args(["--mount", "sh", "-c", &script]);
    let done = run(&mut unshare)?.ended(0)?;
    ensure!(done.stdout.contains("node.started"), "{}", done.stderr);
    Ok(())
}
