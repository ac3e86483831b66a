//! What the kernel counted of each tracing program (`kernel.bpf_stats_enabled`).

use std::{
    fs,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::Context as _;
use aya::programs::loaded_programs;
use serde_json::{Value, json};

/// Prints one JSON array: id, name, runs and nanoseconds of each.
pub fn run() -> anyhow::Result<()> {
    let mut found: Vec<Value> = Vec::new();
    for program in loaded_programs() {
        let program = program.context("cannot list the loaded programs")?;
        // One that went meanwhile counts no more.
        let Ok(fd) = program.fd() else { continue };
        let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let info = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let number = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        found.push(json!({
            "id": program.id(),
            "name": program.name_as_str(),
            "runs": number("run_cnt:"),
            "ns": number("run_time_ns:"),
        }));
    }
    writeln!(io::stdout(), "{}", Value::from(found)).context("cannot write")
}
