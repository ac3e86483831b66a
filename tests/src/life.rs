//! The life of a container as a test expects it, compared whole with what was told.
//!
//! ```no_run
//! # use tracer_tests::{created, emptied, exited, removed, started};
//! let life = [created(), started("/bin/true"), exited(0), emptied(), removed()];
//! ```
//!
//! `container.enriched` is left out of the comparison: it may come at any time and changes no state.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::record::Record;

/// One expected record of a container: its type and what its fields must say.
#[derive(Debug, Clone)]
pub struct Step {
    kind: &'static str,
    wants: Vec<Want>,
}

#[derive(Debug, Clone)]
enum Want {
    Is(&'static str, Value),
    Absent(&'static str),
    Present(&'static str),
    /// Records with the same tag have the same value, others a different one.
    Tag(&'static str, &'static str),
    Parents(Vec<String>),
}

impl Step {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            wants: Vec::new(),
        }
    }

    /// The field has this value.
    #[must_use]
    pub fn is(mut self, path: &'static str, value: impl Into<Value>) -> Self {
        self.wants.push(Want::Is(path, value.into()));
        self
    }

    #[must_use]
    pub fn absent(mut self, path: &'static str) -> Self {
        self.wants.push(Want::Absent(path));
        self
    }

    #[must_use]
    pub fn present(mut self, path: &'static str) -> Self {
        self.wants.push(Want::Present(path));
        self
    }

    /// The chain of containers around this one.
    #[must_use]
    pub fn parents(mut self, ids: &[&str]) -> Self {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        self.wants.push(Want::Parents(ids));
        self
    }

    /// Process id inside the container, where it is not 1.
    #[must_use]
    pub fn vpid(mut self, vpid: u32) -> Self {
        self.wants
            .retain(|want| !matches!(want, Want::Is("process.vpid", _)));
        self.is("process.vpid", vpid)
    }

    /// The process id inside is not part of what is expected.
    #[must_use]
    pub fn any_vpid(mut self) -> Self {
        self.wants
            .retain(|want| !matches!(want, Want::Is("process.vpid", _)));
        self
    }

    /// When init began may be unknown: it did before tracer.
    #[must_use]
    pub fn any_duration(mut self) -> Self {
        self.wants
            .retain(|want| !matches!(want, Want::Present("duration_ns")));
        self
    }

    /// Ended by the kernel's OOM killer.
    #[must_use]
    pub fn by_oom(mut self) -> Self {
        self.wants
            .retain(|want| !matches!(want, Want::Is("oom_killed", _)));
        self.is("oom_killed", true)
    }

    #[must_use]
    pub fn runtime(self, name: &str) -> Self {
        self.is("container.runtime.name", name)
    }

    fn ends_an_instance(&self) -> bool {
        self.kind == "container.removed"
    }
}

#[must_use]
pub fn created() -> Step {
    Step::new("container.created")
        .is("container.state", "created")
        .is("origin", "kernel")
}

/// Found by the snapshot, in this state.
#[must_use]
pub fn discovered(state: &str) -> Step {
    Step::new("container.discovered")
        .is("container.state", state)
        .is("origin", "snapshot")
}

/// The entrypoint runs as process 1 of its own process id namespace.
#[must_use]
pub fn started(executable: &str) -> Step {
    executed(Step::new("container.started"), executable)
        .is("process.vpid", 1)
        .is("container.state", "running")
        .is("origin", "kernel")
}

/// Init runs, and never executes anything.
#[must_use]
pub fn started_without_exec() -> Step {
    Step::new("container.started")
        .is("process.vpid", 1)
        .present("process.pid")
        .is("container.state", "running")
        .is("origin", "kernel")
}

#[must_use]
pub fn start_failed() -> Step {
    Step::new("container.start_failed").is("origin", "kernel")
}

/// `session` is a name of the test's own: the same name, the same session.
#[must_use]
pub fn exec_started(session: &'static str, executable: &str) -> Step {
    let mut step = executed(Step::new("container.exec_started"), executable)
        .present("process.vpid")
        .is("container.state", "running");
    step.wants.push(Want::Tag("exec.session", session));
    step
}

#[must_use]
pub fn exec_exited(session: &'static str, code: u8) -> Step {
    let mut step = plain_end(Step::new("container.exec_exited"), code);
    step.wants.push(Want::Tag("exec.session", session));
    step
}

/// An exec session that a signal ended, without a core dump.
#[must_use]
pub fn exec_killed(session: &'static str, signal: &str, number: u8) -> Step {
    let mut step = signal_end(Step::new("container.exec_exited"), signal, number, false);
    step.wants.push(Want::Tag("exec.session", session));
    step
}

#[must_use]
pub fn paused() -> Step {
    Step::new("container.paused").is("container.state", "paused")
}

#[must_use]
pub fn resumed() -> Step {
    Step::new("container.resumed").is("container.state", "running")
}

/// The OOM killer chose a process; `init`: the container's first one.
#[must_use]
pub fn oom(init: bool) -> Step {
    Step::new("container.oom")
        .is("oom.init", init)
        .present("process.pid")
        .is("origin", "kernel")
}

/// Init ended by itself.
#[must_use]
pub fn exited(code: u8) -> Step {
    plain_end(Step::new("container.exited"), code)
        .is("container.state", "exited")
        .is("oom_killed", false)
        .is("origin", "kernel")
        .present("duration_ns")
}

/// A signal ended init, with or without a core dump.
#[must_use]
pub fn killed(signal: &str, number: u8, core: bool) -> Step {
    signal_end(Step::new("container.exited"), signal, number, core)
        .is("container.state", "exited")
        .is("oom_killed", false)
        .is("origin", "kernel")
        .present("duration_ns")
}

#[must_use]
pub fn emptied() -> Step {
    Step::new("container.emptied").is("origin", "kernel")
}

#[must_use]
pub fn removed() -> Step {
    Step::new("container.removed")
        .is("container.state", "removed")
        .is("origin", "kernel")
}

fn executed(step: Step, executable: &str) -> Step {
    let name = executable.rsplit('/').next().unwrap_or(executable);
    step.is("process.executable.path", executable)
        .is("process.executable.name", name)
        .present("process.pid")
}

fn plain_end(step: Step, code: u8) -> Step {
    step.is("process.exit.code", code)
        .is("process.exit.status", u32::from(code) << 8)
        .is("process.exit.core_dumped", false)
        .absent("process.exit.signal")
}

fn signal_end(step: Step, signal: &str, number: u8, core: bool) -> Step {
    /// Bit of a wait status that says a core was dumped.
    const WCOREFLAG: u32 = 0x80;
    step.is("process.exit.code", 128 + u32::from(number))
        .is("process.exit.signal", signal)
        .is("process.exit.core_dumped", core)
        .is(
            "process.exit.status",
            u32::from(number) | if core { WCOREFLAG } else { 0 },
        )
}

/// Number of instances that the expected records bring to their end.
#[must_use]
pub fn ends(steps: &[Step]) -> usize {
    steps.iter().filter(|step| step.ends_an_instance()).count()
}

/// Whether a record takes part in the comparison.
#[must_use]
pub fn counts(record: &Record) -> bool {
    record.kind().starts_with("container.") && !record.is("container.enriched")
}

/// Compares what was told of one container with what was expected, record by record.
pub fn compare(told: &[&Record], expected: &[Step]) -> Result<()> {
    let have: Vec<&str> = told.iter().map(|record| record.kind()).collect();
    let want: Vec<&str> = expected.iter().map(|step| step.kind).collect();
    if have != want {
        let at = have.iter().zip(&want).take_while(|(a, b)| a == b).count();
        bail!(
            "record {} of the container: expected {}, got {}\n  expected: {}\n       got: {}",
            at + 1,
            want.get(at).unwrap_or(&"nothing more"),
            have.get(at).unwrap_or(&"nothing more"),
            want.join(" "),
            have.join(" ")
        );
    }
    let mut tags = BTreeMap::new();
    let mut faults = Vec::new();
    for (record, step) in told.iter().zip(expected) {
        for want in &step.wants {
            if let Some(fault) = unmet(record, want, &mut tags) {
                let seq = record.seq().unwrap_or_default();
                faults.push(format!("  {} (seq {seq}): {fault}", record.kind()));
            }
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("fields differ:\n{}", faults.join("\n"))
}

fn unmet(
    record: &Record,
    want: &Want,
    tags: &mut BTreeMap<(&'static str, &'static str), Value>,
) -> Option<String> {
    let shown = |path: &str| {
        record
            .at(path)
            .map_or_else(|| "absent".to_owned(), Value::to_string)
    };
    match want {
        Want::Is(path, value) => (record.at(path) != Some(value))
            .then(|| format!("{path} is {}, expected {value}", shown(path))),
        Want::Absent(path) => record
            .at(path)
            .map(|value| format!("{path} is {value}, expected absent")),
        Want::Present(path) => record
            .at(path)
            .is_none()
            .then(|| format!("{path} is absent")),
        Want::Tag(path, tag) => {
            let value = record.at(path).cloned().unwrap_or_default();
            if value.is_null() {
                return Some(format!("{path} is absent"));
            }
            if let Some(known) = tags.get(&(*path, *tag)) {
                return (known != &value)
                    .then(|| format!("{path} is {value}, expected {known} as before"));
            }
            let taken = tags
                .iter()
                .any(|((other, _), known)| other == path && known == &value);
            tags.insert((*path, *tag), value.clone());
            taken.then(|| format!("{path} {value} was another one's before"))
        }
        Want::Parents(ids) => (record.parents() != *ids)
            .then(|| format!("parents are {:?}, expected {ids:?}", record.parents())),
    }
}

/// The records as a table for people.
#[must_use]
pub fn table(records: &[&Record]) -> String {
    let head = [
        "seq",
        "type",
        "origin",
        "state",
        "pid",
        "vpid",
        "executable",
        "exit",
        "more",
    ];
    let mut rows = vec![line(head.map(str::to_owned))];
    rows.extend(records.iter().map(|record| line(cells(record))));
    rows.concat()
}

fn line([seq, kind, origin, state, pid, vpid, executable, exit, more]: [String; 9]) -> String {
    let text = format!(
        "  {seq:>6} {kind:<26} {origin:<9} {state:<9} {pid:>7} {vpid:>5} {executable:<22} {exit:<16} {more}"
    );
    format!("{}\n", text.trim_end())
}

fn cells(record: &Record) -> [String; 9] {
    /// Longer values (the list of programs) say nothing in a table.
    const MORE_CHARS: usize = 200;
    let text = |path: &str| record.text(path).unwrap_or("-").to_owned();
    let number = |path: &str| {
        record
            .number(path)
            .map_or_else(|| "-".to_owned(), |number| number.to_string())
    };
    let exit = match record.number("process.exit.code") {
        Some(code) => format!(
            "{code} {}{}",
            record.text("process.exit.signal").unwrap_or_default(),
            match record.at("process.exit.core_dumped") {
                Some(Value::Bool(true)) => " core",
                _ => "",
            }
        ),
        None => String::new(),
    };
    let more: String = ["exec.session", "oom", "oom_killed", "cgroup.path", "node"]
        .iter()
        .filter_map(|path| record.at(path).map(|value| format!("{path}={value} ")))
        .collect();
    [
        number("seq"),
        record.kind().to_owned(),
        text("origin"),
        text("container.state"),
        number("process.pid"),
        number("process.vpid"),
        text("process.executable.path"),
        exit,
        more.chars().take(MORE_CHARS).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn records(lines: &[Value]) -> Vec<Record> {
        lines
            .iter()
            .map(|line| Record::parse(&line.to_string()).unwrap())
            .collect()
    }

    fn verdict(lines: &[Value], expected: &[Step]) -> String {
        let told = records(lines);
        let told: Vec<&Record> = told.iter().collect();
        compare(&told, expected).map_or_else(|error| error.to_string(), |()| "fits".to_owned())
    }

    fn start() -> Value {
        json!({"type": "container.started", "origin": "kernel", "container": {"state": "running"},
               "process": {"pid": 9, "vpid": 1, "executable": {"name": "sh", "path": "/bin/sh"}}})
    }

    fn session(kind: &str, key: &str) -> Value {
        json!({"type": kind, "exec": {"session": key}, "container": {"state": "running"},
               "process": {"pid": 9, "vpid": 7, "executable": {"name": "sh", "path": "/bin/sh"},
                           "exit": {"code": 5, "status": 1280, "core_dumped": false}}})
    }

    #[test]
    fn order_and_number_must_fit() {
        let life = [started("/bin/sh")];
        assert_eq!(verdict(&[start()], &life), "fits");
        for (told, part) in [
            (vec![], "expected container.started, got nothing more"),
            (
                vec![start(), start()],
                "expected nothing more, got container.started",
            ),
        ] {
            let said = verdict(&told, &life);
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn fields_must_fit() {
        for (step, part) in [
            (
                started("/bin/ls"),
                "process.executable.path is \"/bin/sh\", expected \"/bin/ls\"",
            ),
            (started("/bin/sh").vpid(4), "process.vpid is 1, expected 4"),
            (
                started("/bin/sh").present("process.exit"),
                "process.exit is absent",
            ),
            (
                started("/bin/sh").absent("process.pid"),
                "process.pid is 9, expected absent",
            ),
            (
                started("/bin/sh").parents(&["p"]),
                "parents are [], expected [\"p\"]",
            ),
        ] {
            let said = verdict(&[start()], &[step]);
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn sessions_are_told_apart() {
        let life = [
            exec_started("a", "/bin/sh"),
            exec_exited("a", 5),
            exec_started("b", "/bin/sh"),
        ];
        let told = |keys: [&str; 3]| {
            [
                session("container.exec_started", keys[0]),
                session("container.exec_exited", keys[1]),
                session("container.exec_started", keys[2]),
            ]
        };
        assert_eq!(verdict(&told(["x", "x", "y"]), &life), "fits");
        assert!(verdict(&told(["x", "z", "y"]), &life).contains("as before"));
        assert!(verdict(&told(["x", "x", "x"]), &life).contains("another one's"));
    }

    #[test]
    fn the_table_shows_each_record() {
        let told = records(&[start(), session("container.exec_exited", "k")]);
        let text = table(&told.iter().collect::<Vec<_>>());
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.contains("/bin/sh") && text.contains("exec.session=\"k\""),
            "{text}"
        );
    }
}
