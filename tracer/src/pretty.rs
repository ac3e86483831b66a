//! Lines for eyes: aligned, coloured on a terminal.
//!
//! ```text
//! 21:02:48.197953  exited        docker  45312fe41c2a  web       code=137 SIGKILL  ran 1m21s
//! ```
//!
//! Everything a container can choose is escaped: a name cannot move the cursor or fake a line.

use crate::record::{Container, Enrichment, Kind, OomScope, Process, Record};

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pretty {
    pub colour: bool,
}

impl Pretty {
    /// Appends one record as a line.
    pub fn write(self, record: &Record, to: &mut Vec<u8>) {
        let time = record.time.text();
        let clock = String::from_utf8_lossy(time.get(11..26).unwrap_or_default()).into_owned();
        let kind = record.kind.as_str();
        let short = kind.strip_prefix("container.").unwrap_or(kind);
        let mut line = format!(
            "{clock}  {}",
            self.paint(record.kind, &format!("{short:<13}"))
        );
        if let Some(container) = &record.container {
            subject(container, &mut line);
        }
        for fact in facts(record) {
            line.push_str("  ");
            line.push_str(&fact);
        }
        to.extend_from_slice(line.trim_end().as_bytes());
        to.push(b'\n');
    }

    fn paint(self, kind: Kind, text: &str) -> String {
        let colour = match kind {
            Kind::Started | Kind::Resumed | Kind::ExecStarted => 32,
            Kind::Exited | Kind::ExecExited | Kind::Paused => 33,
            Kind::Oom | Kind::StartFailed | Kind::NodeGap => 31,
            Kind::Created | Kind::Discovered | Kind::Enriched => 36,
            _ => 90,
        };
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Shortest form of an id that people know from their tools.
const SHORT_ID: usize = 12;

/// An id of 64 hexadecimal digits is cut, any other is somebody's choice.
pub(crate) fn short_id(id: &str) -> &str {
    let is_hex = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    id.get(..SHORT_ID).filter(|_| is_hex).unwrap_or(id)
}

fn subject(container: &Container, line: &mut String) {
    let runtime = container.runtime.as_ref().map_or("-", |r| &*r.name);
    let id = short_id(&container.id);
    let name = container.name.as_deref().unwrap_or_default();
    let text = format!(
        "  {:<10} {:<12}  {}",
        escape(runtime),
        escape(id),
        escape(name)
    );
    line.push_str(&text);
}

fn facts(record: &Record) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(process) = &record.process {
        process_facts(process, &mut facts);
    }
    if let Some(oom) = &record.oom {
        let whose = match oom.limit.scope {
            OomScope::Cgroup => "its own limit",
            OomScope::Ancestor => "a limit above it",
            OomScope::Host => "host out of memory",
        };
        let victim = if oom.init { "init" } else { "a process" };
        facts.push(format!("killed {victim}, {whose}"));
    }
    if record.oom_killed == Some(true) {
        facts.push("by the OOM killer".to_owned());
    }
    if let Some(duration) = record.duration_ns.as_ref().and_then(|ns| ns.parse().ok()) {
        facts.push(format!("ran {}", duration_text(duration)));
    }
    if let Some(image) = record
        .container
        .as_ref()
        .and_then(|container| container.image.as_ref()?.name.as_deref())
    {
        facts.push(format!("image={}", escape(image)));
    }
    if let Some(node) = &record.node {
        node_facts(node, &mut facts);
    }
    if record.enrichment == Some(Enrichment::Partial) {
        facts.push("(metadata incomplete)".to_owned());
    }
    facts
}

fn process_facts(process: &Process, facts: &mut Vec<String>) {
    match &process.exit {
        Some(exit) => {
            let mut text = format!("code={}", exit.code);
            if let Some(signal) = &exit.signal {
                text.push(' ');
                text.push_str(signal);
            }
            if exit.core_dumped {
                text.push_str(" core dumped");
            }
            facts.push(text);
        }
        None => facts.push(format!("pid={}", process.pid)),
    }
    if process.exit.is_none()
        && let Some(executable) = &process.executable
        && let Some(path) = executable.path.as_ref().or(executable.name.as_ref())
    {
        facts.push(escape(path));
    }
}

fn node_facts(node: &crate::record::Node, facts: &mut Vec<String>) {
    if let Some(version) = &node.version {
        facts.push(format!("tracer {version}"));
    }
    if let Some(kernel) = &node.kernel {
        facts.push(format!("Linux {}", escape(kernel)));
    }
    let attached = node.programs.iter().filter(|p| p.attached).count();
    if !node.programs.is_empty() {
        facts.push(format!("{attached}/{} programs", node.programs.len()));
    }
    if let Some(containers) = node.containers {
        facts.push(format!("{containers} containers"));
    }
    for (kind, count) in &node.lost {
        facts.push(format!("lost {count} {kind}"));
    }
    if let Some(clock) = &node.clock {
        let how = if clock.synchronized { "" } else { "not " };
        let error = duration_text(clock.max_error_us.saturating_mul(1_000));
        facts.push(format!("clock {how}synchronized, at most {error} off"));
    }
    if let Some(reason) = &node.reason {
        facts.push(escape(reason));
    }
    facts.extend(node.degraded.iter().map(|text| escape(text)));
}

/// A duration as people say it: `0.8ms`, `3.2s`, `1m21s`, `5h03m`.
pub(crate) fn duration_text(ns: u64) -> String {
    let (micros, millis, seconds) = (ns / 1_000, ns / 1_000_000, ns / 1_000_000_000);
    match seconds {
        0 if millis == 0 => format!("0.{:03}ms", micros % 1_000),
        0 => format!("{millis}.{}ms", micros / 100 % 10),
        1..60 => format!("{seconds}.{}s", millis / 100 % 10),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Control characters, and those that change the direction of text, become visible.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        let hostile = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if hostile {
            escaped.extend(c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (ns, text) in [
            (900, "0.000ms"),
            (812_345, "0.812ms"),
            (12_345_678, "12.3ms"),
            (3_200_000_000, "3.2s"),
            (81_345_678_901, "1m21s"),
            (18_180_000_000_000, "5h03m"),
        ] {
            assert_eq!(duration_text(ns), text);
        }
    }

    #[test]
    fn a_name_cannot_fake_a_line() {
        assert_eq!(
            escape("a\x1b[31m\nb\u{202e}"),
            "a\\u{1b}[31m\\u{a}b\\u{202e}"
        );
    }
}
