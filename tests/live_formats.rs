//! `--format docker` beside the real `docker events`, and `--format cloudevents` under the
//! specification's schema.

use serde_json::Value;
use tracer_tests::lines::Lines;
use tracer_tests::runtimes::docker::Container;
use tracer_tests::runtimes::{Docker, Podman};
use tracer_tests::wait::{DEADLINE, wait_until};
use tracer_tests::{Context, Result, ensure, live};

/// What the daemon tells and the kernel cannot know: calls that change no process.
const ONLY_THE_DAEMON_KNOWS: [&str; 3] = ["attach", "restart", "stop"];

/// Ends with 0 on SIGTERM.
const POLITE: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

/// One line, taken apart.
struct Line {
    text: String,
    value: Value,
}

impl Line {
    fn parse(text: &str) -> Result<Self> {
        Ok(Self {
            text: text.to_owned(),
            value: serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))?,
        })
    }

    fn at(&self, pointer: &str) -> Option<&str> {
        self.value.pointer(pointer)?.as_str()
    }

    fn action(&self) -> &str {
        self.at("/Action").unwrap_or_default()
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.at(&format!("/Actor/Attributes/{name}"))
    }

    /// Byte for byte, but for what differs by nature: times, the daemon's own number of a session,
    /// and `execDuration`, which Docker tells from version 23 on.
    fn normal(&self, sessions: &mut Vec<String>) -> String {
        let end = self.text.find(",\"time\":").unwrap_or(self.text.len());
        let mut text = self.text[..end].to_owned();
        if let Some(session) = self.attribute("execID") {
            let known = sessions.iter().position(|known| known == session);
            let number = known.unwrap_or_else(|| {
                sessions.push(session.to_owned());
                sessions.len() - 1
            });
            text = text.replace(session, &format!("SESSION{number}"));
        }
        if let Some(duration) = self.attribute("execDuration") {
            text = text.replace(&format!("\"execDuration\":\"{duration}\","), "");
        }
        text
    }
}

/// The lines of one container that both can know.
fn comparable(lines: &[Line]) -> Vec<String> {
    let mut sessions = Vec::new();
    let mut kept = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let ends_by_it = || {
            let next = lines.get(at + 1).filter(|next| next.action() == "die");
            let code: Option<u32> = next?.attribute("exitCode")?.parse().ok();
            let signal: u32 = line.attribute("signal")?.parse().ok()?;
            (code == Some(128 + signal)).then_some(())
        };
        let is_seen = match line.action() {
            // Of the calls to kill, the one that ended it.
            "kill" => ends_by_it().is_some(),
            action => !ONLY_THE_DAEMON_KNOWS.contains(&action),
        };
        if is_seen {
            kept.push(line.normal(&mut sessions));
        }
    }
    kept
}

fn of(lines: &[String], container: &str) -> Result<Vec<Line>> {
    let own = lines.iter().filter(|line| line.contains(container));
    own.map(|line| Line::parse(line)).collect()
}

fn actions(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(Line::action).collect()
}

/// What `docker events` says of a container that was removed.
fn docker_events(docker: &Docker, container: &str) -> Result<Vec<Line>> {
    let filter = format!("container={container}");
    wait_until(DEADLINE, "docker's own destroy event", || {
        let said = docker.ok(&[
            "events",
            "--since=1h",
            "--until=0s",
            "--format={{json .}}",
            "--filter",
            &filter,
        ])?;
        let lines: Vec<String> = said.lines().map(str::to_owned).collect();
        let lines = of(&lines, container)?;
        Ok((actions(&lines).last() == Some(&"destroy")).then_some(lines))
    })
}

fn gone(lines: &[String], container: &str, times: usize) -> bool {
    let destroyed =
        |line: &&String| line.contains(container) && line.starts_with("{\"status\":\"destroy\"");
    lines.iter().filter(destroyed).count() >= times
}

/// Lets a container live beside both, compares the lines, and gives those of tracer.
fn side_by_side(
    options: &[&str],
    arguments: &[&str],
    act: impl FnOnce(&Container<'_>) -> Result<()>,
) -> Result<Vec<Line>> {
    let docker = Docker::shared()?;
    let mut tracer = Lines::start(&["--format", "docker", "--args"])?;
    let container = docker.create(options, arguments)?;
    let id = container.id().to_owned();
    act(&container)?;
    drop(container);
    tracer.wait_for("the last line", |lines| gone(lines, &id, 1))?;
    let ours = of(&tracer.stop()?, &id)?;
    let theirs = docker_events(docker, &id)?;
    let (our, their) = (comparable(&ours), comparable(&theirs));
    ensure!(
        our == their,
        "docker events:\n{}\ntracer:\n{}\nof all that docker said: {:?}",
        their.join("\n"),
        our.join("\n"),
        actions(&theirs)
    );
    Ok(ours)
}

#[test]
fn exec_pause_and_kill() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let lines = side_by_side(
        &["--label=app=shop", "--label=note=a <b> & \"c\""],
        &["/bin/sleep", "1000"],
        |container| {
            container.act(&["start"])?;
            container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
            container.exec(&["/bin/true"])?.ended(0)?;
            container.act(&["pause"])?;
            container.act(&["unpause"])?;
            container.act(&["kill", "--signal=URG"])?;
            container.act(&["kill"])
        },
    )?;
    let told = actions(&lines);
    let expected = [
        "create",
        "start",
        "exec_create: /bin/sh -c exit 5",
        "exec_start: /bin/sh -c exit 5",
        "exec_die",
        "exec_create: /bin/true ",
        "exec_start: /bin/true ",
        "exec_die",
        "pause",
        "unpause",
        "kill",
        "die",
        "destroy",
    ];
    ensure!(told == expected, "{told:?}");
    Ok(())
}

#[test]
fn exits_by_itself() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let lines = side_by_side(&[], &["/bin/sh", "-c", "exit 3"], |container| {
        container.run()?.ended(3).map(drop)
    })?;
    let told = actions(&lines);
    ensure!(told == ["create", "start", "die", "destroy"], "{told:?}");
    ensure!(lines[2].attribute("exitCode") == Some("3"));
    ensure!(lines[2].attribute("execDuration") == Some("0"));
    Ok(())
}

#[test]
fn out_of_memory() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let lines = side_by_side(
        &["--memory=32m", "--memory-swap=32m"],
        &[
            "/bin/dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=100M",
            "count=1",
        ],
        |container| container.run()?.ended(137).map(drop),
    )?;
    let told = actions(&lines);
    ensure!(
        told == ["create", "start", "oom", "die", "destroy"],
        "{told:?}"
    );
    Ok(())
}

#[test]
fn stops_when_asked() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let lines = side_by_side(&[], &["/bin/sh", "-c", POLITE], |container| {
        container.act(&["start"])?;
        container.act(&["stop", "-t", "20"])
    })?;
    let told = actions(&lines);
    ensure!(told == ["create", "start", "die", "destroy"], "{told:?}");
    Ok(())
}

#[test]
fn cannot_start() -> Result<()> {
    let _live = live!("docker", "dockerd");
    side_by_side(&[], &["/no/such/program"], |container| {
        ensure!(container.run()?.code != 0, "it did start");
        Ok(())
    })
    .map(drop)
}

/// Where the two differ by design: what is framed by `create` and `destroy`.
#[test]
fn a_restart_is_destroyed_and_created() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let mut tracer = Lines::start(&["--format", "docker"])?;
    let container = docker.create(&[], &["/bin/sh", "-c", POLITE])?;
    let id = container.id().to_owned();
    container.act(&["start"])?;
    container.act(&["restart", "-t", "20"])?;
    container.act(&["stop", "-t", "20"])?;
    drop(container);
    tracer.wait_for("the last line", |lines| gone(lines, &id, 2))?;
    let lines = of(&tracer.stop()?, &id)?;
    let told = actions(&lines);
    let once = ["create", "start", "die", "destroy"];
    ensure!(told == [once, once].concat(), "{told:?}");
    Ok(())
}

#[test]
fn the_same_lines_for_podman() -> Result<()> {
    let _live = live!("podman", "runc");
    let podman = Podman::shared()?;
    let mut tracer = Lines::start(&["--format", "docker"])?;
    let container = podman.create(&[], &["/bin/sleep", "1000"])?;
    let id = container.id().to_owned();
    container.act(&["start"])?;
    container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    container.act(&["pause"])?;
    container.act(&["unpause"])?;
    container.act(&["kill"])?;
    drop(container);
    tracer.wait_for("the last line", |lines| gone(lines, &id, 1))?;
    let lines = of(&tracer.stop()?, &id)?;
    let told = actions(&lines);
    let expected = [
        "create",
        "start",
        "exec_create: /bin/sh ",
        "exec_start: /bin/sh ",
        "exec_die",
        "pause",
        "unpause",
        "kill",
        "die",
        "destroy",
    ];
    ensure!(told == expected, "{told:?}");
    for line in &lines {
        ensure!(
            line.attribute("image") == Some(tracer_tests::image::NAME)
                && line.attribute("name").is_some(),
            "{}",
            line.text
        );
    }
    Ok(())
}

#[test]
fn cloudevents_of_a_life() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let schema = include_str!("../tracer/src/format/testdata/cloudevents.json");
    let schema: Value = serde_json::from_str(schema)?;
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)?;
    let docker = Docker::shared()?;
    let mut tracer = Lines::start(&["--format", "cloudevents"])?;
    let container = docker.create(&[], &["/bin/true"])?;
    container.run()?.ended(0)?;
    let id = container.id().to_owned();
    let removed =
        |line: &String| line.contains(&id) && line.contains("\"dev.tracer.container.removed\"");
    tracer.wait_for("the removal", |lines| lines.iter().any(removed))?;
    let mut kinds = Vec::new();
    for (number, line) in (1..).zip(tracer.stop()?) {
        let event: Value = serde_json::from_str(&line)?;
        let faults: Vec<String> = validator
            .iter_errors(&event)
            .map(|fault| fault.to_string())
            .collect();
        ensure!(faults.is_empty(), "{faults:?}: {line}");
        ensure!(event["sequence"] == format!("{number:020}"), "{line}");
        ensure!(event["id"] == event["data"]["id"], "{line}");
        if event["subject"] == id.as_str() && event["data"]["type"] != "container.enriched" {
            kinds.push(event["type"].as_str().unwrap_or_default().to_owned());
        }
    }
    let expected = ["created", "started", "exited", "emptied", "removed"];
    let expected = expected.map(|kind| format!("dev.tracer.container.{kind}"));
    ensure!(kinds == expected, "{kinds:?}");
    Ok(())
}
