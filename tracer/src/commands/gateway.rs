//! `tracer gateway`: the live view of all nodes, and `tracer gateway init`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, print};
use crate::gateway::{Config, Gateway, init, listen::Address};

/// `tracer gateway`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct GatewayArgs {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make an authority, the gateway's certificate, and tokens.
    Init(InitArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to: later the gateway's --trust. What is there already stays.
    pub directory: PathBuf,
    /// Name or address that nodes reach the gateway by (repeatable) [default: localhost, 127.0.0.1]
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// A node that may report: it gets a token and a certificate (repeatable).
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// Somebody who may read: gets a token (repeatable).
    #[arg(long = "reader", value_name = "NAME")]
    pub readers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where nodes come in: HOST:PORT or unix:PATH.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TRACER_GATEWAY_LISTEN",
        default_value = "127.0.0.1:7443"
    )]
    pub listen: Address,
    /// Where readers come in, if not at the same place.
    #[arg(long, value_name = "ADDRESS", env = "TRACER_GATEWAY_HTTP")]
    pub http: Option<Address>,
    /// Directory of the store; it is made where it is not there.
    #[arg(
        long,
        value_name = "DIR",
        env = "TRACER_GATEWAY_STORE",
        required = false
    )]
    pub store: Option<PathBuf>,
    /// Certificates and tokens, as `tracer gateway init` makes them; read again when they change.
    #[arg(long, value_name = "DIR", env = "TRACER_GATEWAY_TRUST")]
    pub trust: Option<PathBuf>,
    /// Listen beyond this host without TLS.
    #[arg(long)]
    pub insecure: bool,
    /// Take records away that are older (`7d`, `12h`), and nodes that were not heard for so long.
    #[arg(long, value_name = "AGE", default_value = "7d", value_parser = age)]
    pub keep: Duration,
    /// Keep at most so much of the records, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 30)]
    pub keep_bytes: u64,
    /// Nodes that may be known, connected or not.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    pub max_nodes: usize,
    /// Containers in the table, per node.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    pub max_containers: usize,
    /// Open connections.
    #[arg(long, value_name = "NUMBER", default_value_t = 25_000)]
    pub max_connections: usize,
    /// Records per second that a node may send on average, one of n KiB counting n times; one that
    /// sends faster is slowed down.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    pub max_rate: u64,
}

/// `90s`, `12h`, `7d`.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no age: a number and s, m, h or d");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_number| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// Runs until a signal.
///
/// # Errors
///
/// [`Failure`].
pub fn run(args: GatewayArgs) -> Result<(), Failure> {
    match args.verb {
        Some(Verb::Init(args)) => initialise(args),
        None => serve(args.serve),
    }
}

fn initialise(args: InitArgs) -> Result<(), Failure> {
    let names = if args.names.is_empty() {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    } else {
        args.names
    };
    let wanted = init::Wanted {
        names,
        nodes: args.nodes,
        readers: args.readers,
    };
    let made = init::init(&args.directory, &wanted)?;
    let lines: Vec<String> = made.iter().map(|path| format!("made {path}\n")).collect();
    print(&lines.concat())
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    let Some(store) = args.store else {
        return Err(Failure::Usage(anyhow!(
            "the gateway needs a directory for its store: --store DIR"
        )));
    };
    let config = Config {
        listen: args.listen,
        http: args.http,
        store,
        trust: args.trust,
        insecure: args.insecure,
        keep: args.keep,
        keep_bytes: args.keep_bytes,
        max_nodes: args.max_nodes,
        max_containers: args.max_containers,
        max_connections: args.max_connections,
        max_rate: args.max_rate,
    };
    lift_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(until_signal(&config))?;
    Ok(())
}

/// Each connection is a descriptor.
fn lift_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "RLIMIT_NOFILE stays as it is");
    }
}

async fn until_signal(config: &Config) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let gateway = Gateway::start(config).await?;
    let shown: Vec<String> = gateway.addresses.iter().map(Address::to_string).collect();
    tracing::info!(listen = shown.join(" "), store = %config.store.display(), "the gateway is ready");
    let failed = tokio::select! {
        _ = interrupted.recv() => false,
        _ = terminated.recv() => false,
        () = gateway.failed() => true,
    };
    gateway.stop().await;
    anyhow::ensure!(
        !failed,
        "the writer ended: nothing can be made durable any more"
    );
    tracing::info!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        assert_eq!(age("7d"), Ok(Duration::from_hours(168)));
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "7", "d", "7w", "-1d", "99999999999999999999d"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
