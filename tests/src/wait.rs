//! Waiting with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a test waits for one thing. Reached only where something is wrong: far above what the
/// slowest machine needs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Pause between two probes of a condition that nothing announces.
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// Probes until `probe` gives a value, at most for `deadline`.
///
/// The one place that polls. It is for conditions without an event to block on: a daemon that
/// begins to answer, a cgroup directory that the kernel lets go of.
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("gave up after {deadline:?} waiting for {what}");
        }
        thread::park_timeout(PROBE_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_the_probe_gave() {
        let mut left = 3;
        let value = wait_until(DEADLINE, "the third probe", || {
            left -= 1;
            Ok((left == 0).then_some("there"))
        });
        assert_eq!(value.unwrap(), "there");
    }

    #[test]
    fn names_what_did_not_come() {
        let error = wait_until(Duration::ZERO, "the moon", || Ok(None::<()>)).unwrap_err();
        assert!(error.to_string().contains("waiting for the moon"));
    }
}
