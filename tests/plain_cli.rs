//! The command line: answers, messages and exit codes, without privilege.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;
use tracer_tests::{Context, Result, command::run, ensure, tracer::binary};

fn tracer(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs and requires the exit code, and that standard error names `named`.
fn fails(arguments: &[&str], code: i32, named: &str) -> Result<()> {
    let done = run(&mut tracer(arguments))?;
    ensure!(done.code == code, "{arguments:?}: {}", done.stderr);
    ensure!(
        done.stderr.contains(named),
        "{arguments:?}: {}",
        done.stderr
    );
    ensure!(done.stdout.is_empty(), "{arguments:?}: {}", done.stdout);
    Ok(())
}

fn file(directory: &tempfile::TempDir, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = directory.path().join(name);
    fs::write(&path, content)?;
    Ok(path)
}

#[test]
fn texts_come_with_the_program() -> Result<()> {
    for (shell, named) in [
        ("bash", "_tracer()"),
        ("zsh", "#compdef tracer"),
        ("fish", "complete -c tracer"),
    ] {
        let done = run(&mut tracer(&["completions", shell]))?.ended(0)?;
        ensure!(
            done.stdout.contains(named) && done.stdout.contains("--state-dir"),
            "{shell}: {}",
            done.stdout
        );
    }
    let page = run(&mut tracer(&["man", "run"]))?.ended(0)?;
    ensure!(page.stdout.contains(".TH") && page.stdout.contains("sandbox"));
    fails(&["man", "nothing"], 2, "nothing")?;
    let directory = tempfile::tempdir()?;
    let pages = directory.path().join("man1");
    let all = pages.display().to_string();
    run(&mut tracer(&["man", "--all", &all]))?.ended(0)?;
    for page in ["tracer.1", "tracer-run.1", "tracer-events.1"] {
        ensure!(pages.join(page).is_file(), "{page}");
    }
    ensure!(!pages.join("tracer-load-programs.1").exists());
    let unit = run(&mut tracer(&["unit"]))?.ended(0)?;
    ensure!(unit.stdout.contains("\nType=notify\n"), "{}", unit.stdout);
    Ok(())
}

#[test]
fn wrong_usage_is_named_and_ends_with_2() -> Result<()> {
    fails(&["run", "--nope"], 2, "--nope")?;
    fails(&["run", "--type", "container.born"], 2, "container.born")?;
    fails(&["run", "--ring-bytes", "100000"], 2, "power of two")?;
    fails(&["run", "--runtime-name", "a/b"], 2, "a/b")?;
    fails(&["--log", "a=b=c", "doctor"], 2, "a=b=c")?;
    fails(&[], 2, "Usage")?;
    Ok(())
}

#[test]
fn a_wrong_configuration_is_named_with_its_place() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let wrong = file(&directory, "wrong.toml", b"args = true\nprocesess = true\n")?;
    let wrong = wrong.to_string_lossy();
    fails(&["run", "--config", &wrong], 2, "procesess")?;
    fails(&["run", "--config", &wrong], 2, "line 2")?;
    fails(
        &["run", "--check-config", "--config", &wrong],
        2,
        "procesess",
    )?;
    fails(
        &["run", "--config", "/nonexistent.toml"],
        2,
        "/nonexistent.toml",
    )?;
    let good = file(&directory, "good.toml", b"processes = true\n")?;
    let good = good.to_string_lossy();
    let done = run(&mut tracer(&["run", "--check-config", "--config", &good]))?.ended(0)?;
    ensure!(
        done.text() == "the configuration is good",
        "{}",
        done.stdout
    );
    Ok(())
}

#[test]
fn without_privilege_the_remedy_is_named_and_3_ends_it() -> Result<()> {
    // The binary may lie where only root can go.
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let copy = directory.path().join("tracer");
    fs::copy(binary(), &copy)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set=-all", "--inh-caps=-all", "--reuid=65534"])
        .args(["--regid=65534", "--clear-groups"])
        .arg(&copy)
        .arg("run");
    let mut own = Command::new(&copy);
    own.arg("run");
    let is_root = rustix::process::geteuid().is_root();
    let done = run(if is_root { &mut command } else { &mut own })?.ended(3)?;
    ensure!(done.stderr.contains("CAP_BPF"), "{}", done.stderr);
    ensure!(done.stderr.contains("sudo"), "{}", done.stderr);
    Ok(())
}

#[test]
fn identify_answers_each_path_with_one_object() -> Result<()> {
    let id = "45312fe41c2a9b8d45312fe41c2a9b8d45312fe41c2a9b8d45312fe41c2a9b8d";
    let uid = "0b2f7f6c-6f1e-4a0b-9d1e-0c9a3b1d2e3f";
    let slice = uid.replace('-', "_");
    let paths = [
        format!("/docker/{id}/child"),
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{id}.scope"
        ),
        format!("/machine.slice/libpod-conmon-{id}.scope"),
        "/t1".to_owned(),
        "/system.slice/cron.service".to_owned(),
    ];
    let mut arguments = vec!["identify", "--format", "json"];
    arguments.extend(paths.iter().map(String::as_str));
    let by_argument = run(&mut tracer(&arguments))?.ended(0)?.stdout;
    let answers: Vec<Value> = by_argument
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let verdicts: Vec<&str> = answers.iter().filter_map(|a| a["match"].as_str()).collect();
    ensure!(
        verdicts == ["container", "container", "excluded", "unknown", "none"],
        "{by_argument}"
    );
    ensure!(answers[0]["container"]["id"] == id, "{by_argument}");
    ensure!(
        answers[0]["container"]["runtime"]["name"] == "docker",
        "{by_argument}"
    );
    ensure!(
        answers[0]["container"]["cgroup"] == format!("/docker/{id}"),
        "{by_argument}"
    );
    ensure!(answers[1]["k8s"]["pod"]["uid"] == uid, "{by_argument}");
    ensure!(answers[2]["why"].is_string(), "{by_argument}");

    let by_stdin = identify_lines((paths.join("\n") + "\n").as_bytes())?;
    ensure!(by_stdin == by_argument, "{by_stdin}");
    Ok(())
}

fn identify_lines(lines: &[u8]) -> Result<String> {
    let mut child = tracer(&["identify", "--format", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(lines)?;
    drop(stdin);
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?)
}

#[test]
fn identify_answers_any_line_in_its_place() -> Result<()> {
    let id = "45312fe41c2a9b8d45312fe41c2a9b8d45312fe41c2a9b8d45312fe41c2a9b8d";
    let parent = "b6a1f0e9d8c7b6a5f4e3d2c1b0a99887766554433221100ffeeddccbbaa99887";
    let uid = "0b2f7f6c-6f1e-4a0b-9d1e-0c9a3b1d2e3f";
    let whole = format!("/docker/{parent}/kubelet/kubepods/besteffort/pod{uid}/{id}");
    let mut lines = format!("{whole}\n\n0::/default/web\n").into_bytes();
    // No UTF-8, a quote and a bell; the last line has no end.
    lines.extend_from_slice(b"/\xff\"\x07/x\n/t1");
    let told = identify_lines(&lines)?;
    let answers: Vec<Value> = told
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let expected = serde_json::json!({
        "path": whole,
        "match": "container",
        "container": {
            "id": id,
            "runtime": {"name": "containerd"},
            "parents": [{"id": parent, "runtime": {"name": "docker"}}],
        },
        "k8s": {"pod": {"uid": uid}},
    });
    ensure!(answers.first() == Some(&expected), "{told}");
    let shown: Vec<_> = answers
        .iter()
        .skip(1)
        .map(|answer| (answer["path"].as_str(), answer["match"].as_str()))
        .collect();
    let expected = [
        (Some(""), Some("none")),
        (Some("0::/default/web"), Some("container")),
        (Some("/\u{fffd}\"\u{7}/x"), Some("unknown")),
        (Some("/t1"), Some("unknown")),
    ];
    ensure!(shown == expected, "{told}");
    Ok(())
}

#[test]
fn the_schema_is_a_schema_that_records_are_checked_with() -> Result<()> {
    let text = run(&mut tracer(&["schema"]))?.ended(0)?.stdout;
    let schema: Value = serde_json::from_str(&text)?;
    ensure!(
        schema["$schema"].is_string() && schema["title"] == "Record",
        "{text}"
    );
    jsonschema::validator_for(&schema).context("not a schema")?;
    Ok(())
}

#[test]
fn a_recording_that_is_none_gets_a_clear_error() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for (content, named) in [
        (b"".as_slice(), "not a recording"),
        (b"{\"seq\":1}\n{\"seq\":2}\n", "not a recording"),
        (b"tracer-recording\n\xff\0\0\0", "version 255"),
        (b"tracer-recording\n\x02\0\0\0\x10\0\0\0{", "ends within"),
        (b"tracer-recording\n\x02\0\0\0\xff\xff\xff\xff{", "length"),
    ] {
        let path = file(&directory, "foreign", content)?;
        fails(&["replay", &path.to_string_lossy()], 1, named)?;
    }
    fails(&["replay", "/nonexistent"], 1, "/nonexistent")?;
    Ok(())
}
