//! adjtimex(2), read-only: needs no privilege.

use std::io;

use rtime_clock::adjtime::{Timex, adjtimex};

/// The kernel's opinion of its wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelClock {
    pub synchronized: bool,
    pub max_error_us: u64,
}

/// Return value: the clock is not synchronized (include/uapi/linux/timex.h, `TIME_ERROR`).
const TIME_ERROR: i32 = 5;
/// Bit of `status` (`STA_UNSYNC`).
const STA_UNSYNC: i32 = 0x40;

impl KernelClock {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// Where a sandbox forbids the call.
    pub fn read() -> io::Result<Self> {
        // All fields 0, `modes` too: nothing is changed.
        let mut timex = Timex::new();
        let state = adjtimex(&mut timex)?;
        Ok(Self {
            synchronized: state != TIME_ERROR && timex.0.status & STA_UNSYNC == 0,
            max_error_us: u64::try_from(timex.0.maxerror).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let clock = KernelClock::read().expect("adjtimex needs no privilege");
        assert!(clock.max_error_us <= 16_000_000, "{clock:?}");
    }
}
