//! The command line, as typed. What it means together with file and environment is
//! [`crate::config`]'s.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Container lifecycle events, straight from the kernel.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    after_help = "Exit status: 0 good (a closed pipe too), 1 failed, 2 wrong usage, 3 the host lacks something."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// What is logged on standard error: error, warn, info, debug, trace, or per module
    /// (`tracer::pipeline=debug`).
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "TRACER_LOG",
        default_value = "info",
        hide_env_values = true
    )]
    pub log: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace this host: one record per line on standard output.
    Run(Box<RunArgs>),
    /// Say what cgroup paths are: container, excluded, unknown or none.
    Identify(IdentifyArgs),
    /// Say what this host offers and lacks, with the remedy.
    Doctor(DoctorArgs),
    /// Turn a recording (`run --record`) into records again.
    Replay(ReplayArgs),
    /// Follow a running daemon through its socket.
    Events(EventsArgs),
    /// List the containers that there are: those of the daemon, or of a scan where none listens.
    Ps(PsArgs),
    /// Tell all that is known of one container, and where each fact is from.
    Inspect(InspectArgs),
    /// Take in the records of many nodes, keep them, and show them live.
    #[cfg(feature = "gateway")]
    Gateway(Box<crate::commands::gateway::GatewayArgs>),
    /// Print the JSON Schema of the records.
    Schema,
    /// Detach what `run --pin` left attached.
    Unload(UnloadArgs),
    /// Print what completes commands and options in a shell.
    Completions(CompletionsArgs),
    /// Print a manual page, or write all of them into a directory.
    Man(ManArgs),
    /// Print a hardened unit for systemd.
    Unit,
    /// Load and attach the programs for a daemon, which starts this itself.
    #[command(name = "load-programs", hide = true)]
    LoadPrograms,
}

#[derive(Debug, Args, Default)]
pub struct RunArgs {
    /// Read this configuration file (TOML). Flags and environment have precedence.
    #[arg(long, value_name = "FILE", env = "TRACER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Check the configuration and end.
    #[arg(long)]
    pub check_config: bool,
    /// How the lines look; auto is pretty on a terminal and json otherwise.
    #[arg(long, value_enum, env = "TRACER_FORMAT")]
    pub format: Option<FormatArg>,
    /// Also tell every exec and exit of processes inside containers.
    #[arg(long, env = "TRACER_PROCESSES", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub processes: Option<bool>,
    /// Also tell command lines. They carry secrets: think about who reads the stream.
    #[arg(long, env = "TRACER_ARGS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub args: Option<bool>,
    /// Size of the ring buffer between kernel and tracer, bytes; a power of two.
    #[arg(long, env = "TRACER_RING_BYTES", value_name = "BYTES")]
    pub ring_bytes: Option<u32>,
    /// How much may wait for a slow reader of standard output, bytes; beyond that the newest
    /// records are left out, which `node.gap` tells.
    #[arg(long, env = "TRACER_QUEUE_BYTES", value_name = "BYTES")]
    pub queue_bytes: Option<usize>,
    /// Command name of a further container runtime (up to 15 bytes; repeatable).
    #[arg(
        long = "runtime-name",
        env = "TRACER_RUNTIME_NAMES",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub runtime_names: Vec<String>,
    /// Ask runtimes over their sockets for what no file says (labels of podman and of pods, images
    /// of ctr); in the background. Default: true.
    #[arg(long, env = "TRACER_ASK_RUNTIMES", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ask_runtimes: Option<bool>,
    /// Unix socket for `tracer events`, `ps` and `inspect`; `none` for none. Default:
    /// /run/tracer/tracer.sock, and none where that cannot be used.
    #[arg(long, value_name = "PATH", env = "TRACER_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Whose members may use the socket (name or number); default: root's.
    #[arg(long, value_name = "NAME", env = "TRACER_SOCKET_GROUP")]
    pub socket_group: Option<String>,
    /// How much of the recent stream is kept for the socket's readers, bytes.
    #[arg(long, env = "TRACER_HISTORY_BYTES", value_name = "BYTES")]
    pub history_bytes: Option<usize>,
    /// Append records to this file, as JSON lines; SIGHUP opens its name again.
    #[arg(long, value_name = "FILE", env = "TRACER_FILE")]
    pub file: Option<PathBuf>,
    /// Whether records are written to standard output.
    #[arg(long, env = "TRACER_STDOUT", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub stdout: Option<bool>,
    /// Keep here what the stream needs to go on in the next process. Without it each run is a new
    /// stream. A service's `StateDirectory=` is used by itself.
    #[arg(long, value_name = "DIR", env = "TRACER_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Leave the programs attached when tracer ends or is killed, pinned in this directory of bpffs
    /// [default: /sys/fs/bpf/tracer]: the ring goes on collecting, and the next tracer misses
    /// nothing. Needs --state-dir.
    #[arg(long, value_name = "DIR", env = "TRACER_PIN", num_args = 0..=1, default_missing_value = "/sys/fs/bpf/tracer", require_equals = true)]
    pub pin: Option<PathBuf>,
    /// What is given up once the programs are attached: capabilities and system calls that are not
    /// needed, the capabilities alone, or nothing [default: full]
    #[arg(long, value_enum, env = "TRACER_SANDBOX")]
    pub sandbox: Option<SandboxArg>,
    /// Write the raw records to this file, for `tracer replay`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Serve what tracer counts, for Prometheus, at `IP:PORT` of the loopback or `unix:/PATH`
    /// (`GET /metrics`).
    #[cfg(feature = "metrics")]
    #[arg(long, value_name = "ADDRESS", env = "TRACER_METRICS")]
    pub metrics: Option<String>,
    #[cfg(feature = "upstream")]
    #[command(flatten)]
    pub upstream: UpstreamArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// Where records are delivered to, durably.
#[cfg(feature = "upstream")]
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Upstream")]
pub struct UpstreamArgs {
    /// Deliver all records, whatever the filters, to this gateway: `https://HOST:PORT`, `unix:/PATH`, or
    /// `http://HOST:PORT` on this host (repeatable).
    #[arg(
        long = "upstream",
        value_name = "URL",
        env = "TRACER_UPSTREAM",
        value_delimiter = ','
    )]
    pub upstreams: Vec<String>,
    /// Under which name gateways know this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "TRACER_NODE")]
    pub node: Option<String>,
    /// Who may vouch for a gateway (PEM) [default: whom the host trusts]
    #[arg(long, value_name = "FILE", env = "TRACER_UPSTREAM_CA")]
    pub upstream_ca: Option<PathBuf>,
    /// This node's certificate (PEM).
    #[arg(long, value_name = "FILE", env = "TRACER_UPSTREAM_CERTIFICATE")]
    pub upstream_certificate: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE", env = "TRACER_UPSTREAM_KEY")]
    pub upstream_key: Option<PathBuf>,
    /// Holds the token by which gateways let this node in.
    #[arg(long, value_name = "FILE", env = "TRACER_UPSTREAM_TOKEN_FILE")]
    pub upstream_token_file: Option<PathBuf>,
    /// The name in a gateway's certificate, where it is not the URL's.
    #[arg(long, value_name = "NAME", env = "TRACER_UPSTREAM_SERVER_NAME")]
    pub upstream_server_name: Option<String>,
    /// Deliver in plain text to other hosts as well. Everybody on the way reads along.
    #[arg(long, env = "TRACER_INSECURE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub insecure: Option<bool>,
    /// Where records wait until every upstream has them [default: spool in the state directory]
    #[arg(long, value_name = "DIR", env = "TRACER_SPOOL_DIR")]
    pub spool_dir: Option<PathBuf>,
    /// How much may wait there, bytes; beyond that the oldest go, which `node.gap` tells
    /// [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "TRACER_SPOOL_BYTES")]
    pub spool_bytes: Option<u64>,
    /// How long records may wait there (90s, 30m, 12h, 7d) [default: 7d]
    #[arg(long, value_name = "TIME", env = "TRACER_SPOOL_AGE")]
    pub spool_age: Option<String>,
}

/// The same for every command that shows records.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Filters (several values of one: any; several filters: all)")]
pub struct FilterArgs {
    /// Only records of this type (container.started, …).
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
    /// Only containers of this runtime (docker, containerd, podman, …).
    #[arg(long = "runtime", value_name = "NAME", value_delimiter = ',')]
    pub runtimes: Vec<String>,
    /// Only the container with this id (or at least 4 characters of it) or name.
    #[arg(long = "container", value_name = "ID", value_delimiter = ',')]
    pub containers: Vec<String>,
    /// Only containers of this Kubernetes namespace.
    #[arg(long = "namespace", value_name = "NAME", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Only containers with this label.
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    pub labels: Vec<String>,
}

#[derive(Debug, Args)]
pub struct IdentifyArgs {
    /// Cgroup paths below the root of their hierarchy, lines of /proc/PID/cgroup or directories
    /// below /sys/fs/cgroup; `-` reads them from standard input, one per line.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<std::ffi::OsString>,
    #[arg(long, value_enum, default_value_t = PlainFormat::Auto)]
    pub format: PlainFormat,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Judge another kernel by its type information (a file like /sys/kernel/btf/vmlinux), and
    /// nothing of this host.
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = PlainFormat::Auto)]
    pub format: PlainFormat,
}

#[derive(Debug, Args)]
pub struct UnloadArgs {
    /// Where they are pinned.
    #[arg(
        long,
        value_name = "DIR",
        env = "TRACER_PIN",
        default_value = "/sys/fs/bpf/tracer"
    )]
    pub pin: PathBuf,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording.
    pub file: PathBuf,
    /// How the lines look; auto is pretty on a terminal and json otherwise.
    #[arg(long, value_enum, default_value_t = FormatArg::Auto)]
    pub format: FormatArg,
    #[command(flatten)]
    pub filter: FilterArgs,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The daemon's socket [default: /run/tracer/tracer.sock]
    #[arg(long, value_name = "PATH", env = "TRACER_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Begin in the recent past: so long ago (10m, 1h30m), at a time (RFC 3339), or with a record's
    /// number. What is no longer kept is told by `node.gap`. Without it: from now on.
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// End with what is kept already; without --since that is all of it.
    #[arg(long)]
    pub no_follow: bool,
    /// How the lines look; auto is pretty on a terminal and json otherwise.
    #[arg(long, value_enum, default_value_t = FormatArg::Auto)]
    pub format: FormatArg,
    #[command(flatten)]
    pub filter: FilterArgs,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    /// The daemon's socket; `none` to scan in any case [default: /run/tracer/tracer.sock]
    ///
    /// A scan needs root. It knows when a container's init was forked, the daemon when it executed
    /// the entrypoint: ages differ by what lies between.
    #[arg(long, value_name = "PATH", env = "TRACER_SOCKET")]
    pub socket: Option<PathBuf>,
    /// A table, or JSON: one object per line; auto is the table on a terminal and json otherwise.
    #[arg(long, value_enum, default_value_t = TableFormat::Auto)]
    pub format: TableFormat,
    #[command(flatten)]
    pub filter: FilterArgs,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Its id, at least 4 characters of it, its name, or its instance.
    pub id: String,
    /// The daemon's socket; `none` to scan in any case [default: /run/tracer/tracer.sock]
    #[arg(long, value_name = "PATH", env = "TRACER_SOCKET")]
    pub socket: Option<PathBuf>,
}

/// A table for eyes, or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// A table on a terminal, json otherwise.
    Auto,
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatArg {
    Auto,
    Json,
    Pretty,
    /// `CloudEvents` 1.0, structured: the record is the data.
    #[value(name = "cloudevents")]
    CloudEvents,
    /// The lines of `docker events --format '{{json .}}'`, for every runtime.
    Docker,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Whose page; without it that of tracer itself.
    pub command: Option<String>,
    /// Write the pages of all commands into this directory.
    #[arg(long = "all", value_name = "DIR", conflicts_with = "command")]
    pub directory: Option<PathBuf>,
}

/// How far the daemon shuts itself in once the programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxArg {
    /// Capabilities and system calls that are not needed are given up.
    #[default]
    Full,
    /// Only the capabilities.
    Capabilities,
    /// Nothing is given up.
    None,
}

/// For commands that answer once: text for eyes, or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlainFormat {
    /// Text on a terminal, json otherwise.
    Auto,
    Text,
    Json,
}
