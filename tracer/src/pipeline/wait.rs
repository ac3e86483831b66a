//! What the loop waits on, beside the ring: descriptors, the wall clock.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use crate::sink::{file::FileSink, socket::SocketSink};

/// Development only: lines that the programs log.
#[cfg(feature = "log")]
pub(super) fn follow_log(mut log: AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>) {
    tokio::spawn(async move {
        while let Ok(mut ready) = log.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}

/// A timer that never expires but is cancelled whenever the wall clock is set.
pub(super) fn clock_set_timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&timer)?;
    Ok(timer)
}

pub(super) fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Timespec {
        tv_sec: i64::from(i32::MAX) * 4,
        tv_nsec: 0,
    };
    let once = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: never,
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &once)?;
    Ok(())
}

/// Waits until a descriptor is ready; for ever where there is none.
pub(super) async fn ready<T: AsRawFd>(
    fd: Option<&AsyncFd<T>>,
    interest: Interest,
) -> io::Result<()> {
    match fd {
        Some(fd) => {
            fd.ready(interest).await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

/// Waits until a file that left records out has room to say so.
pub(super) async fn file_has_room(file: Option<&FileSink>) {
    match file {
        Some(file) => file.has_room().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn socket_ready(socket: Option<&mut SocketSink>) {
    match socket {
        Some(socket) => socket.ready().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn until(timer: Option<Instant>) {
    match timer {
        Some(timer) => sleep_until(timer).await,
        None => std::future::pending().await,
    }
}
