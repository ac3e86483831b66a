//! What event loops wait on: descriptors, and time.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

/// Registers a descriptor with the event loop.
///
/// # Errors
///
/// Those of `epoll_ctl`: `EPERM` for what can never block, such as a regular file.
#[expect(
    deprecated,
    reason = "the replacement is an unsafe function; what it asks for, a descriptor that stays open and the same, holds for each type used here: it owns it"
)]
pub fn poll_for<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}

/// Sleeps, and wakes the thread once. tokio's timers wake it up to three times on the way, each time
/// that a long one comes into a finer wheel: for a thread that does nothing else, that is most of
/// what it does.
pub async fn sleep_at_rest(duration: Duration) {
    let then = Instant::now() + duration;
    if duration >= LONG
        && let Ok(timer) = timer(duration)
        && timer.readable().await.is_ok()
    {
        return;
    }
    // Also where there is no descriptor left for a timer.
    sleep_until(then).await;
}

/// Not worth three system calls below this.
const LONG: Duration = Duration::from_secs(1);

/// Readable once, after `duration`.
fn timer(duration: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let value = Timespec::try_from(duration).map_err(io::Error::other)?;
    let it_interval = Timespec::default();
    let once = Itimerspec {
        it_interval,
        it_value: value,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    poll_for(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Voluntary switches of this thread.
    fn switches() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").expect("own status");
        let mut lines = status.lines();
        let switches = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches
            .and_then(|number| number.trim().parse().ok())
            .expect("a number")
    }

    #[test]
    fn a_long_sleep_wakes_its_thread_once() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("an event loop");
        let duration = Duration::from_millis(4_200);
        let (begun, before) = (Instant::now(), switches());
        runtime.block_on(sleep_at_rest(duration));
        assert!(begun.elapsed() >= duration);
        assert_eq!(switches() - before, 1);
    }
}
