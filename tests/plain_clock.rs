//! The clock's watch against a test double of systemd's time services, on a private bus.

use std::{
    fs::File,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Runtime, time::timeout};
use tracer::clock::{KernelClock, Polls, Reading, Source, Watch};
use tracer_tests::{Context, Result, command::Keep, ensure, need, this_test, wait::wait_until};
use zbus::{Connection, connection::Builder};

const PATIENCE: Duration = Duration::from_secs(20);

/// The kernel, as the test wants it, and how often it was asked.
#[derive(Debug, Clone)]
struct Kernel {
    clock: Arc<Mutex<Option<KernelClock>>>,
    asked: Arc<AtomicU64>,
}

impl Kernel {
    fn new(clock: Option<KernelClock>) -> Self {
        Self {
            clock: Arc::new(Mutex::new(clock)),
            asked: Arc::default(),
        }
    }

    fn set(&self, clock: KernelClock) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn watch(&self, bus: &str) -> Result<Watch> {
        self.watch_often(bus, Polls::default())
    }

    fn watch_often(&self, bus: &str, polls: Polls) -> Result<Watch> {
        let own = self.clone();
        let ask = move || {
            own.asked.fetch_add(1, Ordering::SeqCst);
            let clock = *own.clock.lock().unwrap_or_else(PoisonError::into_inner);
            clock.ok_or_else(|| std::io::Error::other("forbidden"))
        };
        Ok(Watch::over(Box::new(ask), Some(bus.to_owned()), polls)?)
    }
}

fn kernel(synchronized: bool, max_error_us: u64) -> KernelClock {
    KernelClock {
        synchronized,
        max_error_us,
    }
}

/// `org.freedesktop.timesync1.Manager`, as far as anybody looks.
#[derive(Debug)]
struct Timesync(u64);

#[zbus::interface(name = "org.freedesktop.timesync1.Manager")]
impl Timesync {
    #[zbus(property, name = "NTPMessage")]
    fn ntp_message(&self) -> u64 {
        self.0
    }
}

/// `org.freedesktop.timedate1`; no signal tells that it changed, as with the real one.
#[derive(Debug)]
struct Timedate(bool);

#[zbus::interface(name = "org.freedesktop.timedate1")]
impl Timedate {
    #[zbus(property(emits_changed_signal = "false"), name = "NTPSynchronized")]
    fn ntp_synchronized(&self) -> bool {
        self.0
    }
}

const TIMESYNC: &str = "/org/freedesktop/timesync1";
const TIMEDATE: &str = "/org/freedesktop/timedate1";

/// A bus of its own, ended with it.
struct Bus {
    address: String,
    daemon: Keep,
    _dir: tempfile::TempDir,
}

impl Bus {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("bus");
        let address = format!("unix:path={}", socket.display());
        let daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile"])
            .arg(format!("--address={address}"))
            .stdin(Stdio::null())
            .stdout(File::create(dir.path().join("out"))?)
            .stderr(File::create(dir.path().join("err"))?)
            .spawn()
            .context("start dbus-daemon")?;
        let daemon = Keep::new(daemon, "dbus-daemon")?;
        wait_until(PATIENCE, "the bus", || Ok(socket.exists().then_some(())))?;
        Ok(Self {
            address,
            daemon,
            _dir: dir,
        })
    }

    /// A double of timesyncd on it.
    fn timesyncd(&self, runtime: &Runtime) -> Result<Connection> {
        let service = Builder::address(self.address.as_str())
            .name("org.freedesktop.timesync1")
            .serve_at(TIMESYNC, Timesync(0));
        Ok(runtime.block_on(service.build())?)
    }

    /// A double of timedated on it.
    fn timedated(&self, runtime: &Runtime, synchronized: bool) -> Result<Connection> {
        let service = Builder::address(self.address.as_str())
            .name("org.freedesktop.timedate1")
            .serve_at(TIMEDATE, Timedate(synchronized));
        Ok(runtime.block_on(service.build())?)
    }
}

/// What timesyncd does at each answer of its server.
fn speak(runtime: &Runtime, service: &Connection, message: u64) -> Result<()> {
    runtime.block_on(async {
        let server = service.object_server();
        let there = server.interface::<_, Timesync>(TIMESYNC).await?;
        let mut timesync = there.get_mut().await;
        timesync.0 = message;
        timesync
            .n_t_p_message_changed(there.signal_emitter())
            .await?;
        Ok(())
    })
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

fn changed(runtime: &Runtime, watch: &mut Watch) -> Result<Reading> {
    let changed = async { timeout(PATIENCE, watch.changed()).await };
    runtime.block_on(changed).context("a change in time")
}

#[test]
fn without_a_bus_the_kernel_is_enough() -> Result<()> {
    let runtime = runtime()?;
    let own = Kernel::new(Some(kernel(false, 16_000_000)));
    let mut watch = own.watch("unix:path=/nonexistent/bus")?;
    let first = changed(&runtime, &mut watch)?;
    ensure!(!first.synchronized && first.source == Source::Adjtimex);
    // Set, and looked at: no news, then news.
    let before = own.asked();
    watch.look();
    wait_until(PATIENCE, "another look", || {
        Ok((own.asked() > before).then_some(()))
    })?;
    own.set(kernel(true, 1_000));
    watch.look();
    let next = changed(&runtime, &mut watch)?;
    ensure!(next.synchronized && next.max_error_us == 1_000);
    Ok(())
}

#[test]
fn a_word_of_timesync1_is_a_reason_to_look_and_no_record_by_itself() -> Result<()> {
    if !need::on_path("dbus-daemon") {
        return need::skip(this_test!(), "dbus-daemon is not installed");
    }
    let (runtime, bus) = (runtime()?, Bus::start()?);
    let service = bus.timesyncd(&runtime)?;
    let own = Kernel::new(Some(kernel(false, 16_000_000)));
    let mut watch = own.watch(&bus.address)?;
    let first = changed(&runtime, &mut watch)?;
    ensure!(
        !first.synchronized && first.source == Source::Timesync1,
        "{first:?}"
    );
    // Each answer of the server is told by timesyncd; nothing is told by tracer while nothing changed.
    let before = own.asked();
    for message in 1..=3 {
        speak(&runtime, &service, message)?;
    }
    wait_until(PATIENCE, "another look", || {
        Ok((own.asked() > before).then_some(()))
    })?;
    own.set(kernel(true, 0));
    speak(&runtime, &service, 4)?;
    let next = changed(&runtime, &mut watch)?;
    ensure!(
        next.synchronized && next.source == Source::Timesync1,
        "{next:?}"
    );
    Ok(())
}

#[test]
fn where_the_kernel_may_not_be_asked_timedate1_is() -> Result<()> {
    if !need::on_path("dbus-daemon") {
        return need::skip(this_test!(), "dbus-daemon is not installed");
    }
    let (runtime, bus) = (runtime()?, Bus::start()?);
    let _service = bus.timedated(&runtime, true)?;
    let mut watch = Kernel::new(None).watch(&bus.address)?;
    let first = changed(&runtime, &mut watch)?;
    ensure!(
        first.synchronized && first.source == Source::Timedate1,
        "{first:?}"
    );
    Ok(())
}

#[test]
fn a_bus_that_goes_away_takes_only_its_own_word_with_it() -> Result<()> {
    if !need::on_path("dbus-daemon") {
        return need::skip(this_test!(), "dbus-daemon is not installed");
    }
    let (runtime, bus) = (runtime()?, Bus::start()?);
    let _service = bus.timesyncd(&runtime)?;
    let own = Kernel::new(Some(kernel(true, 1_000)));
    let mut watch = own.watch(&bus.address)?;
    let first = changed(&runtime, &mut watch)?;
    ensure!(
        first.synchronized && first.source == Source::Timesync1,
        "{first:?}"
    );
    bus.daemon.kill()?;
    let next = changed(&runtime, &mut watch)?;
    ensure!(
        next.synchronized && next.source == Source::Adjtimex,
        "{next:?}"
    );
    // The kernel is still asked.
    own.set(kernel(false, 16_000_000));
    watch.look();
    ensure!(!changed(&runtime, &mut watch)?.synchronized);
    Ok(())
}

#[test]
fn a_service_that_comes_later_is_heard() -> Result<()> {
    if !need::on_path("dbus-daemon") {
        return need::skip(this_test!(), "dbus-daemon is not installed");
    }
    let (runtime, bus) = (runtime()?, Bus::start()?);
    let own = Kernel::new(Some(kernel(true, 1_000)));
    let mut watch = own.watch(&bus.address)?;
    let first = changed(&runtime, &mut watch)?;
    ensure!(first.source == Source::Adjtimex, "{first:?}");
    let service = bus.timesyncd(&runtime)?;
    let mut message = 0;
    // More than once: on a slow machine the bus is heard only after the first state was told.
    let next = wait_until(PATIENCE, "a change", || {
        message += 1;
        speak(&runtime, &service, message)?;
        let changed = async { timeout(Duration::from_millis(200), watch.changed()).await };
        Ok(runtime.block_on(changed).ok())
    })?;
    ensure!(next.source == Source::Timesync1, "{next:?}");
    Ok(())
}

#[test]
fn a_service_that_leaves_is_missed_at_once() -> Result<()> {
    if !need::on_path("dbus-daemon") {
        return need::skip(this_test!(), "dbus-daemon is not installed");
    }
    let (runtime, bus) = (runtime()?, Bus::start()?);
    let service = bus.timesyncd(&runtime)?;
    let own = Kernel::new(Some(kernel(true, 1_000)));
    let mut watch = own.watch(&bus.address)?;
    let first = changed(&runtime, &mut watch)?;
    ensure!(first.source == Source::Timesync1, "{first:?}");
    // The bus itself stays, and its next poll is a quarter of an hour away.
    runtime.block_on(service.close())?;
    let next = changed(&runtime, &mut watch)?;
    ensure!(next.source == Source::Adjtimex, "{next:?}");
    Ok(())
}

/// As every quarter of an hour, but sooner.
#[test]
fn what_no_signal_tells_the_poll_finds() -> Result<()> {
    if !need::on_path("dbus-daemon") {
        return need::skip(this_test!(), "dbus-daemon is not installed");
    }
    let (runtime, bus) = (runtime()?, Bus::start()?);
    let service = bus.timedated(&runtime, false)?;
    let own = Kernel::new(None);
    let often = Polls {
        bus: Duration::from_millis(300),
        ..Polls::default()
    };
    let mut watch = own.watch_often(&bus.address, often)?;
    let first = changed(&runtime, &mut watch)?;
    ensure!(
        !first.synchronized && first.source == Source::Timedate1,
        "{first:?}"
    );
    runtime.block_on(async {
        let server = service.object_server();
        let there = server.interface::<_, Timedate>(TIMEDATE).await?;
        there.get_mut().await.0 = true;
        zbus::Result::Ok(())
    })?;
    let next = changed(&runtime, &mut watch)?;
    ensure!(next.synchronized, "{next:?}");
    Ok(())
}
