//! For `cargo xtask bench latency`: how soon runtimes tell what tracer tells, as JSON.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};

use tracer_tests::{Context as _, Result, peers};

/// The first argument is the number of containers of each runtime.
fn main() -> Result<()> {
    let lives = std::env::args().nth(1).context("how many containers?")?;
    let lives = lives.parse().context("a number of containers")?;
    writeln!(io::stdout(), "{}", peers::compare(lives)?).context("cannot write")
}
