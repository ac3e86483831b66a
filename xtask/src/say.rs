//! What xtask tells the person in front of it: progress on stderr, results on stdout.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the one place where xtask talks to its user"
)]

use std::fmt::Display;

/// Progress, and why something is done.
pub fn note(text: impl Display) {
    eprintln!("xtask: {text}");
}

/// A line of the result that the user asked for.
pub fn result(text: impl Display) {
    println!("{text}");
}
