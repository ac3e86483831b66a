//! Descriptors that the event loop waits on.

use std::{io, os::fd::AsRawFd};

use tokio::io::{Interest, unix::AsyncFd};

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
