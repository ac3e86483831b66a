//! `tracer run`: the daemon.

use std::{collections::BTreeMap, fs::File, io::BufWriter, sync::Arc};

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, setrlimit};
use uuid::Uuid;

use super::{Failure, format, print};
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
        load::{Kernel, LoadError, Options},
    },
    lifecycle,
    metrics::Metrics,
    pipeline::{self, Parts},
    record::{Host, Node, Program},
    recording::{Header, Recorder},
    render::Renderer,
    sink::{socket::Bound, stdout::StdoutSink},
    time::wall_offset,
};

/// Number of a stream's first record.
const FIRST_SEQ: u64 = 1;

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
    let kernel = Kernel::load(
        &Options {
            processes: config.processes,
            args: config.args,
            ring_bytes: config.ring_bytes,
            runtimes: config.runtime_names.clone(),
        },
        &hierarchies,
    )
    .map_err(failure)?;
    let engine = engine(&config, identity, &hierarchies);
    let socket = Bound::new(&config.socket, config.socket_group.as_deref())?;
    let recorder = match &config.record {
        Some(path) => {
            let file = File::create(path)
                .with_context(|| format!("cannot create the recording {}", path.display()))?;
            let header = header(&engine, &config, &hierarchies);
            let recorder = Recorder::new(BufWriter::new(file), &header)
                .with_context(|| format!("cannot write the recording {}", path.display()))?;
            Some(recorder)
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
        sink: StdoutSink::new(config.queue_bytes).context("cannot use standard output")?,
        recorder,
        #[cfg(feature = "upstream")]
        uplink,
        metrics,
        processes: config.processes,
        socket: socket.map(|bound| (bound, config.history_bytes)),
        sources: Sources::default(),
    };
    let end = runtime.block_on(pipeline::run(parts))?;
    tracing::info!(?end, "stopped");
    Ok(())
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

fn failure(error: LoadError) -> Failure {
    match error {
        LoadError::Object(_) | LoadError::Map(_) => Failure::Failed(error.into()),
        LoadError::NoBtf(_)
        | LoadError::BadBtf(_)
        | LoadError::Kernel(_)
        | LoadError::NoCgroups
        | LoadError::Maps(_)
        | LoadError::Program { .. } => Failure::Host(error.into()),
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

fn engine(config: &Config, identity: Host, hierarchies: &Hierarchies) -> Engine {
    let host = lifecycle_host(config, &identity.boot_id, hierarchies);
    let names: BTreeMap<u32, Arc<str>> = host.hierarchies.iter().cloned().collect();
    let renderer = Renderer {
        stream: Uuid::now_v7().to_string().into(),
        host: Arc::new(identity),
        offset: wall_offset(),
        hierarchies: names,
    };
    Engine::new(host, renderer, FIRST_SEQ)
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
    let Some(directory) = settings.spool_dir.clone() else {
        return Err(Failure::Usage(anyhow!(
            "an upstream needs a place for records to wait in: --spool-dir"
        )));
    };
    let host = Arc::clone(&engine.renderer.host);
    let uplink = Uplink::start(UplinkConfig {
        directory,
        stream: engine.renderer.stream.to_string(),
        known_seq: FIRST_SEQ - 1,
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

fn header(engine: &Engine, config: &Config, hierarchies: &Hierarchies) -> Header {
    let boot_id = engine.renderer.host.boot_id.as_str();
    let host = lifecycle_host(config, boot_id, hierarchies);
    Header::new(&host, &engine.renderer, FIRST_SEQ)
}

/// What `node.started` says.
fn started(kernel: &Kernel, hierarchies: &Hierarchies) -> Node {
    let programs = kernel.report.iter().map(|program| Program {
        name: program.name.to_owned(),
        attached: program.error.is_none(),
        required: program.required,
        error: program.error.clone(),
        lost: program.error.as_ref().map(|_| program.gives.to_owned()),
    });
    Node {
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        kernel: Some(host::kernel_release()),
        programs: programs.collect(),
        degraded: kernel.degraded.clone(),
        hierarchies: hierarchies.all.iter().map(|h| h.name.clone()).collect(),
        ..Node::default()
    }
}
