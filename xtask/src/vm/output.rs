//! What a guest says, as results: libtest's lines between the lines of `tests/vm/run.sh`. Pure.

use crate::test::count::{self, Skip, Tally};

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    Skipped(String),
}

/// One test: `vm_matrix::crun::a_whole_life`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    pub name: String,
    pub verdict: Verdict,
}

impl Test {
    /// The container runtime that it drives, by the module or target that it is in.
    pub fn runtime(&self) -> &'static str {
        const TARGETS: [&str; 2] = ["live_", "vm_"];
        let stem = |part| {
            TARGETS
                .iter()
                .find_map(|head| str::strip_prefix(part, head))
        };
        ["runc", "crun", "podman", "lxc", "nspawn"]
            .into_iter()
            .find(|runtime| {
                let mut parts = self.name.split("::");
                parts.any(|part| stem(part).unwrap_or(part) == *runtime)
            })
            .unwrap_or("-")
    }
}

/// Reads the output as it comes.
#[derive(Debug, Default)]
pub struct Output {
    pub tests: Vec<Test>,
    /// What went wrong beside tests.
    pub faults: Vec<String>,
    /// The test program that runs.
    target: Option<String>,
    /// The test whose end is still to come.
    open: Option<String>,
    is_up: bool,
    is_complete: bool,
}

impl Output {
    pub fn line(&mut self, line: &str) {
        if let Some(word) = line.strip_prefix("tracer-vm: ") {
            self.marker(word);
        } else if let Some(skip) = count::skip_line(line) {
            self.skip(&skip);
        } else if let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        {
            self.open = Some(name.to_owned());
            self.verdict(verdict);
        } else if self.open.is_some() {
            // The test wrote to the same place: its verdict comes later, at the end of a line.
            self.verdict(line);
        }
    }

    fn verdict(&mut self, text: &str) {
        let verdict = match text.trim_end() {
            end if end.ends_with("ok") => Verdict::Passed,
            end if end.ends_with("FAILED") => Verdict::Failed,
            end if end.starts_with("ignored") => Verdict::Skipped(end.to_owned()),
            _ => return,
        };
        if let Some(name) = self.open.take() {
            let target = self.target.as_deref().unwrap_or("?");
            let name = format!("{target}::{name}");
            self.tests.push(Test { name, verdict });
        }
    }

    fn marker(&mut self, word: &str) {
        if let Some(name) = self.open.take() {
            self.faults.push(format!("{name} did not end"));
        }
        let mut words = word.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("up"), ..) => self.is_up = true,
            (Some("begin"), Some(target), _) => self.target = Some(target.to_owned()),
            (Some("ended"), Some(target), Some(code)) => {
                let has_failure = self.tests.iter().any(|test| {
                    test.name.starts_with(&format!("{target}::")) && test.verdict == Verdict::Failed
                });
                if code != "0" && !has_failure {
                    self.faults.push(format!("{target} ended with {code}"));
                }
                self.target = None;
            }
            (Some("end"), ..) => self.is_complete = true,
            _ => {}
        }
    }

    /// A test counted as passed that says itself that it could not run.
    fn skip(&mut self, skip: &Skip) {
        let known = self.tests.iter_mut().find(|test| test.name == skip.name);
        let verdict = Verdict::Skipped(skip.reason.clone());
        match known {
            Some(test) => test.verdict = verdict,
            None => self.tests.push(Test {
                name: skip.name.clone(),
                verdict,
            }),
        }
    }

    /// Ends the reading; `why` is told where the guest did not come to its end.
    pub fn end(&mut self, why: &str) {
        if self.is_complete {
            return;
        }
        let at = match (&self.open, &self.target) {
            (Some(test), _) => format!("in {test}"),
            (None, Some(target)) => format!("in {target}"),
            (None, None) if self.is_up => "between tests".to_owned(),
            (None, None) => "before its first test".to_owned(),
        };
        self.faults.push(format!("the machine ended {at}: {why}"));
    }

    /// Faults count as failures.
    pub fn tally(&self) -> Tally {
        let mut tally = tally(self.tests.iter());
        tally.failed += u64::try_from(self.faults.len()).unwrap_or(u64::MAX);
        tally
    }
}

pub fn tally<'a>(tests: impl Iterator<Item = &'a Test>) -> Tally {
    let mut tally = Tally::default();
    for test in tests {
        match test.verdict {
            Verdict::Passed => tally.passed += 1,
            Verdict::Failed => tally.failed += 1,
            Verdict::Skipped(_) => tally.skipped += 1,
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Output {
        let mut output = Output::default();
        text.lines().for_each(|line| output.line(line));
        output
    }

    const WHOLE: &str = "\
tracer-vm: up 5.10.0-46-cloud-amd64 2.29
tracer-vm: begin vm_matrix
running 4 tests
test crun::a_whole_life ... ok
test runc::a_whole_life ... FAILED
test runc::out_of_memory ... noise of the test
more ok
test runc::x ... ok

failures:

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
tracer-vm: ended vm_matrix 101
tracer-vm: begin live_node
tracer-vm: ended live_node 0
SKIPPED vm_matrix::runc::x: no memory controller
tracer-vm: end";

    #[test]
    fn a_guests_output_is_read() {
        let mut output = read(WHOLE);
        output.end("unused");
        let told: Vec<_> = output
            .tests
            .iter()
            .map(|test| (test.name.as_str(), test.runtime(), &test.verdict))
            .collect();
        let skipped = Verdict::Skipped("no memory controller".to_owned());
        assert_eq!(
            told,
            [
                ("vm_matrix::crun::a_whole_life", "crun", &Verdict::Passed),
                ("vm_matrix::runc::a_whole_life", "runc", &Verdict::Failed),
                ("vm_matrix::runc::out_of_memory", "runc", &Verdict::Passed),
                ("vm_matrix::runc::x", "runc", &skipped),
            ]
        );
        assert!(output.faults.is_empty(), "{:?}", output.faults);
        let tally = output.tally();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 1, 1));
    }

    #[test]
    fn a_runtime_is_known_by_module_or_target() {
        let rows = [
            ("vm_matrix::crun::a_whole_life", "crun"),
            ("live_runc::a_whole_life", "runc"),
            ("live_podman::exec_pause_and_kill", "podman"),
            ("vm_podman::out_of_memory_as_a_group", "podman"),
            ("live_machines::lxc::a_container_ends_by_itself", "lxc"),
            ("live_nested::runc_inside_a_runc_container", "-"),
        ];
        for (name, expected) in rows {
            let name = name.to_owned();
            let verdict = Verdict::Passed;
            assert_eq!(Test { name, verdict }.runtime(), expected);
        }
    }

    #[test]
    fn an_early_end_is_a_fault_that_says_where() {
        let rows = [
            ("", "before its first test: late"),
            ("tracer-vm: up x", "between tests"),
            ("tracer-vm: up x\ntracer-vm: begin a", "in a: late"),
            ("tracer-vm: begin a\ntest b::c ... ", "in b::c: late"),
        ];
        for (text, part) in rows {
            let mut output = read(text);
            output.end("late");
            assert!(output.faults[0].contains(part), "{text}: {output:?}");
            assert_eq!(output.tally().failed, 1);
        }
    }

    #[test]
    fn a_program_that_dies_without_a_failed_test_is_a_fault() {
        let output = read("tracer-vm: begin a\ntracer-vm: ended a 139\ntracer-vm: end");
        assert_eq!(output.faults, ["a ended with 139"]);
        let output = read("tracer-vm: begin a\ntest b ... \ntracer-vm: ended a 134\n");
        assert_eq!(output.faults.len(), 2);
    }
}
