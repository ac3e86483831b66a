//! What the loop waits on, beside the ring: descriptors, the wall clock, the metadata thread.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::Context as _;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    config::Runtimes,
    enrich::Sources,
    metadata::{self, Answer, Question},
    sink::{file::FileSink, socket::SocketSink},
};

/// Questions about containers that may wait to be asked.
const MAX_QUESTIONS: usize = 4096;

/// Questions one way, answers the other.
pub(super) type Asking = (
    std::sync::mpsc::SyncSender<Question>,
    mpsc::Receiver<Answer>,
);

/// Starts the thread that reads what runtimes wrote, and the one that asks runtimes. They end when
/// either queue has no other end.
pub(super) fn ask_on_a_thread(sources: Sources, runtimes: &Runtimes) -> anyhow::Result<Asking> {
    let (questions, asked) = std::sync::mpsc::sync_channel(MAX_QUESTIONS);
    let (answered, answers) = mpsc::channel(MAX_QUESTIONS);
    let sockets = runtimes.ask_on_a_thread(&answered)?;
    let (mut sources, runtimes) = (sources, runtimes.clone());
    std::thread::Builder::new()
        .name("metadata".to_owned())
        .spawn(move || {
            runtimes.configure(&mut sources);
            metadata::serve(&asked, sources, sockets, |answer| {
                answered.blocking_send(answer).is_ok()
            });
        })
        .context("cannot start a thread")?;
    Ok((questions, answers))
}

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
