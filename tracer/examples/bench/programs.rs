//! What the kernel counted of each tracing program (`kernel.bpf_stats_enabled`).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::Context as _;
use aya::programs::loaded_programs;
use serde_json::{Value, json};
use tracer::kernel::needs::PROGRAMS;

/// Prints one JSON array: id, name, runs and nanoseconds of each.
pub fn run() -> anyhow::Result<()> {
    let mut found: Vec<Value> = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
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
        let cut = program.name_as_str().unwrap_or_default().to_owned();
        // The kernel keeps 15 bytes of a name; tracer loads programs in the order of its list.
        let full = PROGRAMS.iter().filter(|need| need.name.starts_with(&cut));
        let same: Vec<&str> = full.map(|need| need.name).collect();
        let before = seen.entry(cut.clone()).or_default();
        let name = same.get(*before % same.len().max(1)).copied();
        *before += 1;
        found.push(json!({
            "id": program.id(),
            "name": name.unwrap_or(&cut),
            "runs": number("run_cnt:"),
            "ns": number("run_time_ns:"),
        }));
    }
    writeln!(io::stdout(), "{}", Value::from(found)).context("cannot write")
}
