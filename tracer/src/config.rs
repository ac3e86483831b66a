//! The configuration, checked: file, then environment, then flags, in rising order.

mod runtimes;

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use serde::Deserialize;
use tracer_common::COMM_LEN;

pub use self::runtimes::Runtimes;
use crate::{
    cli::{FilterArgs, FormatArg, RunArgs, SandboxArg},
    filter::Filter,
    record::Kind,
    sink::socket::Choice,
};

/// What `run` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub format: FormatArg,
    pub processes: bool,
    pub args: bool,
    pub ring_bytes: u32,
    pub queue_bytes: usize,
    pub runtime_names: Vec<String>,
    pub socket: Choice,
    pub socket_group: Option<String>,
    pub history_bytes: usize,
    pub record: Option<PathBuf>,
    pub sandbox: SandboxArg,
    pub file: Option<PathBuf>,
    pub stdout: bool,
    pub state_dir: Option<PathBuf>,
    pub pin: Option<PathBuf>,
    #[cfg(feature = "metrics")]
    pub metrics: Option<crate::metrics::Address>,
    #[cfg(feature = "upstream")]
    pub upstream: Option<crate::upstream::settings::Settings>,
    pub filter: Filter,
    pub runtimes: Runtimes,
}

/// The file. Unknown keys are errors: a misspelt one would be a setting that silently does nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the file")]
struct File {
    format: Option<FormatArg>,
    processes: Option<bool>,
    args: Option<bool>,
    ring_bytes: Option<u32>,
    queue_bytes: Option<usize>,
    runtime_names: Vec<String>,
    socket: Option<PathBuf>,
    socket_group: Option<String>,
    history_bytes: Option<usize>,
    file: Option<PathBuf>,
    stdout: Option<bool>,
    state_dir: Option<PathBuf>,
    pin: Option<PathBuf>,
    sandbox: Option<SandboxArg>,
    #[cfg(feature = "metrics")]
    metrics: Option<String>,
    #[cfg(feature = "upstream")]
    upstream: crate::upstream::settings::FileUpstream,
    filter: FileFilter,
    runtimes: Runtimes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileFilter {
    #[serde(rename = "type")]
    types: Vec<String>,
    runtime: Vec<String>,
    container: Vec<String>,
    namespace: Vec<String>,
    label: Vec<String>,
}

const DEFAULT_RING_BYTES: u32 = 1 << 20;
/// Smaller rings lose records in the time that a wake-up takes.
const MIN_RING_BYTES: u32 = 64 << 10;
const DEFAULT_QUEUE_BYTES: usize = 8 << 20;
const DEFAULT_HISTORY_BYTES: usize = 4 << 20;
/// Less would not even hold what one drain of the ring brings: every reader would miss records.
const MIN_HISTORY_BYTES: usize = 256 << 10;

impl Config {
    /// Puts the three sources together and checks the result.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with where it stands.
    pub fn new(args: RunArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read configuration {}", path.display()))?;
                toml::from_str(&text)
                    .with_context(|| format!("configuration {} is wrong", path.display()))?
            }
            None => File::default(),
        };
        let runtime_names = either(args.runtime_names, file.runtime_names);
        for name in &runtime_names {
            anyhow::ensure!(
                !name.is_empty() && name.len() < COMM_LEN && !name.contains('/'),
                "runtime name '{name}' is not a command name of 1 to 15 bytes"
            );
        }
        let ring_bytes = args
            .ring_bytes
            .or(file.ring_bytes)
            .unwrap_or(DEFAULT_RING_BYTES);
        anyhow::ensure!(
            ring_bytes.is_power_of_two() && ring_bytes >= MIN_RING_BYTES,
            "ring_bytes is {ring_bytes}: it must be a power of two of at least {MIN_RING_BYTES}"
        );
        let history_bytes = args
            .history_bytes
            .or(file.history_bytes)
            .unwrap_or(DEFAULT_HISTORY_BYTES);
        anyhow::ensure!(
            history_bytes >= MIN_HISTORY_BYTES,
            "history_bytes is {history_bytes}: it must be at least {MIN_HISTORY_BYTES}"
        );
        let sandbox = args.sandbox.or(file.sandbox).unwrap_or_default();
        let state_dir = args.state_dir.or(file.state_dir).or_else(systemds);
        let pin = args.pin.or(file.pin);
        anyhow::ensure!(
            pin.is_none() || state_dir.is_some(),
            "pin without state_dir: what is pinned is of no use to a tracer that does not know its table"
        );
        Ok(Self {
            format: args.format.or(file.format).unwrap_or(FormatArg::Auto),
            processes: args.processes.or(file.processes).unwrap_or(false),
            args: args.args.or(file.args).unwrap_or(false),
            ring_bytes,
            queue_bytes: args
                .queue_bytes
                .or(file.queue_bytes)
                .unwrap_or(DEFAULT_QUEUE_BYTES),
            runtime_names,
            socket: Choice::new(args.socket.or(file.socket)),
            socket_group: args.socket_group.or(file.socket_group),
            history_bytes,
            record: args.record,
            file: args.file.or(file.file),
            stdout: args.stdout.or(file.stdout).unwrap_or(true),
            sandbox,
            state_dir,
            pin,
            #[cfg(feature = "metrics")]
            metrics: match args.metrics.or(file.metrics) {
                Some(text) => Some(crate::metrics::Address::parse(&text)?),
                None => None,
            },
            #[cfg(feature = "upstream")]
            upstream: crate::upstream::settings::Settings::new(args.upstream, file.upstream)?,
            runtimes: file.runtimes.checked(args.ask_runtimes, sandbox)?,
            filter: filter(FilterArgs {
                types: either(args.filter.types, file.filter.types),
                runtimes: either(args.filter.runtimes, file.filter.runtime),
                containers: either(args.filter.containers, file.filter.container),
                namespaces: either(args.filter.namespaces, file.filter.namespace),
                labels: either(args.filter.labels, file.filter.label),
            })?,
        })
    }
}

/// The directory that systemd made for `StateDirectory=`; the first, where there are several.
fn systemds() -> Option<PathBuf> {
    let all = std::env::var_os("STATE_DIRECTORY")?;
    let first = all.to_str()?.split(':').next()?;
    (!first.is_empty()).then(|| first.into())
}

fn either<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

/// A filter as typed.
///
/// # Errors
///
/// A type that does not exist.
pub fn filter(args: FilterArgs) -> anyhow::Result<Filter> {
    let types = args.types.iter().map(|name| kind(name));
    Ok(Filter {
        types: types.collect::<anyhow::Result<_>>()?,
        runtimes: args.runtimes,
        containers: args.containers,
        namespaces: args.namespaces,
        labels: args.labels,
    })
}

/// `container.` may be left out.
fn kind(name: &str) -> anyhow::Result<Kind> {
    let found = Kind::ALL.iter().copied().find(|kind| {
        kind.as_str() == name || kind.as_str().strip_prefix("container.") == Some(name)
    });
    found.with_context(|| {
        let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("there is no type '{name}'; there are {}", all.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn with_file(text: &str, args: RunArgs) -> anyhow::Result<Config> {
        let mut path = std::env::temp_dir();
        path.push(format!(
            "tracer-config-{}-{:p}",
            std::process::id(),
            &raw const args
        ));
        fs::File::create(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("a temporary file");
        let config = Config::new(RunArgs {
            config: Some(path.clone()),
            ..args
        });
        fs::remove_file(path).expect("the temporary file");
        config
    }

    #[test]
    fn flags_win_over_the_file() {
        let args = RunArgs {
            processes: Some(false),
            ..RunArgs::default()
        };
        let config = with_file(
            "processes = true\nargs = true\n[filter]\ntype = [\"oom\"]",
            args,
        )
        .expect("good");
        assert!(!config.processes && config.args);
        assert_eq!(config.filter.types, [Kind::Oom]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("procesess = true", "procesess"),
            ("[filter]\ntypo = []", "typo"),
            ("ring_bytes = 100000", "power of two"),
            ("pin = \"/sys/fs/bpf/tracer\"", "state_dir"),
            ("runtime_names = [\"a-very-long-runtime-name\"]", "15 bytes"),
            ("[filter]\ntype = [\"container.born\"]", "container.born"),
            ("processes = \"yes\"", "processes"),
            ("[runtimes]\nask_them = true", "ask_them"),
            ("[runtimes.sockets]\nrkt = []", "rkt"),
            ("[runtimes.sockets]\ndocker = [\"x.sock\"]", "x.sock"),
            ("[runtimes.directories]\noci = \"/x\"", "oci"),
        ] {
            let error = with_file(text, RunArgs::default()).expect_err(text);
            let told = format!("{error:#}");
            assert!(told.contains(named), "{told}");
        }
    }
}
