//! For `cargo xtask bench latency`: how soon runtimes tell what tracer tells, as JSON.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};

use tracer_tests::{Context as _, Result, peers};

/// The first argument is the number of containers of each runtime, the second what can be the floor.
fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let lives = args.next().context("how many containers?")?;
    let lives = lives.to_string_lossy().parse();
    let lives = lives.context("a number of containers")?;
    let floor = args.next().context("what is the floor?")?;
    let compared = peers::compare(lives, floor.as_ref())?;
    writeln!(io::stdout(), "{compared}").context("cannot write")
}
