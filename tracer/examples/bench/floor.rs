//! The floor: the same programs and the same ring, and between its wake-up and the pipe nothing but
//! one `write(2)` per record.
//!
//! No decoding, no table, no JSON, no event loop: poll, take, write. Nobody who forwards each record
//! to another process can be sooner by more than chance.

use std::{io, os::fd::AsFd as _};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, poll};
use tracer::{
    host,
    kernel::load::{Loaded, Options},
};

/// Forwards until the reader is gone or a signal comes.
pub fn run() -> anyhow::Result<()> {
    let hierarchies = host::hierarchies().context("cannot read the cgroup hierarchies")?;
    let mut kernel = Loaded::load(&Options::default(), &hierarchies)?.into_kernel()?;
    let stdout = io::stdout();
    let stdout = stdout.as_fd();
    // An empty line says that the programs are attached.
    rustix::io::write(stdout, b"\n").context("cannot write")?;
    loop {
        while let Some(record) = kernel.ring.next()? {
            match rustix::io::write(stdout, &record) {
                Ok(_) => {}
                Err(rustix::io::Errno::PIPE) => return Ok(()),
                Err(error) => return Err(error).context("cannot write"),
            }
        }
        let ring = &kernel.ring;
        match poll(&mut [PollFd::new(ring, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the ring"),
        }
    }
}
