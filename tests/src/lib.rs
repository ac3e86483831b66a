//! The harness of the live tests: real kernel, real container runtimes, the real `tracer` binary.
//!
//! ```text
//!  test ──▶ runtimes (private daemons in temporary directories) ──▶ containers ──▶ kernel
//!   │                                                                                │
//!   │         expect_life(id, [created, started, …])                                 ▼
//!   └──────▶ tracer::Tracer ◀── lines ── check (schema, invariants) ◀── stdout ── tracer run
//! ```
//!
//! # Invariants
//!
//! * A test waits for what it expects, with a deadline; nothing here sleeps and hopes.
//! * A sequence is asserted whole: what is missing fails, and what came too much fails as well.
//!   "Nothing more came" is known from a later container's record, because the stream is in kernel
//!   order, not from a pause.
//! * Every record that any test sees is checked against the schema that the binary itself prints
//!   and against the rules of the stream; no test can forget to.
//! * What the harness starts, it stops by process id, also when a test process is killed.
//! * What cannot run is named: see [`need`].
//!
//! Functions return `Result`; only the tests themselves decide to fail.

#![forbid(unsafe_code)]

pub mod browser;
pub mod cgroup;
pub mod check;
pub mod command;
pub mod disk;
pub mod facts;
pub mod image;
pub mod janitor;
pub mod life;
pub mod lines;
pub mod mortal;
pub mod need;
pub mod peers;
pub mod raw;
pub mod record;
pub mod runtimes;
pub mod soak;
pub mod tracer;
pub mod upstream;
pub mod wait;

pub use anyhow::{Context, Result, anyhow, ensure};
pub use life::{
    Step, created, discovered, emptied, exec_exited, exec_killed, exec_started, exited, killed,
    oom, paused, removed, resumed, start_failed, started, started_without_exec,
};
pub use record::Record;
pub use tracer::Tracer;
