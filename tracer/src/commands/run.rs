//! `tracer run`: the daemon.

use std::{fs::File, sync::Arc};

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Failure, attach::Wanted, format, print};
#[cfg(feature = "upstream")]
use crate::upstream::{QUEUE_BYTES, Uplink, UplinkConfig};
use crate::{
    cli::RunArgs,
    config::Config,
    engine::Engine,
    enrich::Sources,
    host,
    kernel::{
        hierarchies::Hierarchies,
        load::{Kernel, Options},
    },
    lifecycle,
    metrics::Metrics,
    pipeline::{self, Before, Parts, Resumed},
    record::{Node, Program},
    sandbox,
    sink::{file::FileSink, socket::Bound, stdout::StdoutSink},
    state::{self, Found, Mark, State},
    time::wall_offset,
};

/// Runs until a signal or until standard output is closed.
///
/// # Errors
///
/// [`Failure`].
pub fn run(mut args: RunArgs) -> Result<(), Failure> {
    let check_only = std::mem::take(&mut args.check_config);
    let config = Config::new(args).map_err(Failure::Usage)?;
    if check_only {
        return print("the configuration is good\n");
    }
    check_host()?;
    let hierarchies = host::hierarchies().context("cannot read the cgroup mounts")?;
    let identity = host::identity()?;
    lift_memlock();
    let state = config.state_dir.as_deref().map(State::open).transpose()?;
    let now = Resumed {
        host: lifecycle_host(&config, &identity.boot_id, &hierarchies),
        identity,
        offset: wall_offset(),
    };
    let found = match &state {
        Some(state) => state::find(state.path(), &now.identity.boot_id)?,
        None => Found::Nothing,
    };
    let goes_on = matches!(found, Found::GoesOn(..));
    let wanted = Wanted {
        options: options(&config),
        pin: config.pin.as_deref(),
        hierarchies: &hierarchies,
        boot_id: &now.identity.boot_id,
    };
    let (kernel, programs) = wanted.attach(state.as_ref(), goes_on)?;
    let socket = Bound::new(&config.socket, config.socket_group.as_deref())?;
    // All that takes privileges is done, and no thread has begun.
    sandbox::enter(&config);
    let (engine, before) = stream(state.as_ref(), found, now)?;
    let mark = |sink| {
        state.as_ref().map_or_else(Mark::none, |state| {
            state.mark(sink, &engine.renderer.stream)
        })
    };
    let stdout = if config.stdout {
        let stdout = StdoutSink::new(config.queue_bytes, mark("stdout"));
        Some(stdout.context("cannot use standard output")?)
    } else {
        None
    };
    let file = match &config.file {
        Some(path) => {
            let stream = &engine.renderer.stream;
            let file = FileSink::open(path, stream, config.queue_bytes, mark("file"));
            Some(file.with_context(|| format!("cannot append to {}", path.display()))?)
        }
        None => None,
    };
    let record = match &config.record {
        Some(path) => {
            let file = File::create(path);
            Some(file.with_context(|| format!("cannot create the recording {}", path.display()))?)
        }
        None => None,
    };
    let metrics = Arc::new(Metrics::default());
    #[cfg(feature = "metrics")]
    if let Some(address) = &config.metrics {
        crate::metrics::serve(Arc::clone(&metrics), address)?;
    }
    #[cfg(feature = "upstream")]
    let uplink = uplink(&config, &engine, &metrics)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let parts = Parts {
        started: Box::new(started(&kernel, &hierarchies)),
        engine,
        kernel,
        hierarchies,
        filter: config.filter,
        format: format(config.format),
        stdout,
        file,
        record,
        state,
        before,
        programs,
        #[cfg(feature = "upstream")]
        uplink,
        metrics,
        processes: config.processes,
        socket: socket.map(|bound| (bound, config.history_bytes)),
        sources: Sources::default(),
        runtimes: config.runtimes,
    };
    let end = runtime.block_on(pipeline::run(parts))?;
    tracing::info!(?end, "stopped");
    Ok(())
}

fn options(config: &Config) -> Options {
    Options {
        processes: config.processes,
        args: config.args,
        ring_bytes: config.ring_bytes,
        runtimes: config.runtime_names.clone(),
    }
}

/// The stream that goes on, or a new one.
fn stream(state: Option<&State>, found: Found, now: Resumed) -> anyhow::Result<(Engine, Before)> {
    let before = match found {
        Found::GoesOn(left, engine) => return Ok((*engine, Before::GoesOn(left, now))),
        Found::Nothing => Before::Nothing,
        Found::Broken(broken) => {
            tracing::warn!(reason = broken.reason, "a new stream begins");
            Before::Broken(broken)
        }
    };
    if let Some(state) = state {
        state.forget_marks()?;
    }
    let engine = Engine::begin(now.host, Arc::new(now.identity), now.offset);
    Ok((engine, before))
}

/// Says in one sentence what is missing, before anything is tried.
fn check_host() -> Result<(), Failure> {
    if !host::may_trace(host::capabilities()) {
        return Err(Failure::Host(anyhow!(
            "tracer needs the capabilities CAP_BPF and CAP_PERFMON (or root): run it with sudo, or give its service AmbientCapabilities"
        )));
    }
    let release = host::kernel_release();
    if !host::is_supported(&release) {
        let (major, minor) = host::MIN_KERNEL;
        return Err(Failure::Host(anyhow!(
            "this is Linux {release}: tracer needs Linux {major}.{minor} or later"
        )));
    }
    Ok(())
}

/// Before Linux 5.11 the memory of eBPF maps counts against this limit, which is 64 KiB by default.
fn lift_memlock() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is");
    }
}

fn lifecycle_host(config: &Config, boot_id: &str, hierarchies: &Hierarchies) -> lifecycle::Host {
    lifecycle::Host {
        boot_id: boot_id.into(),
        hierarchies: hierarchies
            .all
            .iter()
            .map(|hierarchy| (hierarchy.id, hierarchy.name.as_str().into()))
            .collect(),
        freezer: hierarchies.freezer().map(|freezer| freezer.id),
        processes: config.processes,
    }
}

/// Starts the way up, where there is one.
#[cfg(feature = "upstream")]
fn uplink(
    config: &Config,
    engine: &Engine,
    metrics: &Arc<Metrics>,
) -> Result<Option<Uplink>, Failure> {
    let Some(settings) = &config.upstream else {
        return Ok(None);
    };
    let in_state = config.state_dir.as_ref().map(|state| state.join("spool"));
    let Some(directory) = settings.spool_dir.clone().or(in_state) else {
        return Err(Failure::Usage(anyhow!(
            "an upstream needs a place for records to wait in: --state-dir or --spool-dir"
        )));
    };
    let host = Arc::clone(&engine.renderer.host);
    let uplink = Uplink::start(UplinkConfig {
        directory,
        stream: engine.renderer.stream.to_string(),
        known_seq: engine.machine.next_seq() - 1,
        node: settings.node.clone().unwrap_or_else(|| host.name.clone()),
        host,
        targets: settings.targets.clone(),
        trust: settings.trust.clone(),
        bounds: settings.bounds,
        queue_bytes: QUEUE_BYTES,
        metrics: Arc::clone(metrics),
    })?;
    Ok(Some(uplink))
}

/// What `node.started` says.
fn started(kernel: &Kernel, hierarchies: &Hierarchies) -> Node {
    let programs = kernel.facts.report.iter().map(|program| Program {
        name: program.name.clone(),
        attached: program.error.is_none(),
        required: program.required,
        error: program.error.clone(),
        lost: program.error.as_ref().map(|_| program.gives.clone()),
    });
    Node {
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        kernel: Some(host::kernel_release()),
        programs: programs.collect(),
        degraded: kernel.facts.degraded.clone(),
        hierarchies: hierarchies.all.iter().map(|h| h.name.clone()).collect(),
        ..Node::default()
    }
}
