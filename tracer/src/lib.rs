//! tracer: container lifecycle events, straight from the kernel.
//!
//! ```text
//! kernel ──▶ ring ──▶ decode ──▶ lifecycle ──▶ render ──▶ sink
//!    ▲                  ▲  identity ┘   │         record ┘
//!    └── tables ◀─ actions ─────────────┘
//! reconcile (cgroupfs, /proc) ──▶ Snapshot ──▶ lifecycle
//! ```
//!
//! Order of dependence, never back: `tracer_common` ← [`decode`] ← [`identity`], [`lifecycle`] ←
//! [`record`], [`render`] ← [`mod@format`], [`sink`] ← [`pipeline`] ← [`commands`]. Everything left of the sinks is
//! pure: no clock, no I/O; [`engine`] ties it together, so that a recording replays through exactly
//! the code that runs live.

#![deny(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod decode;
pub mod engine;
pub mod enrich;
pub mod filter;
pub mod format;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod host;
pub mod identity;
pub mod kernel;
pub mod lifecycle;
pub mod metadata;
pub mod metrics;
pub mod pipeline;
pub mod poll;
pub mod pretty;
pub mod reconcile;
pub mod record;
pub mod recording;
pub mod render;
pub mod resident;
#[cfg(feature = "runtimes")]
pub mod runtimes;
pub mod sandbox;
pub mod sink;
pub mod state;
pub mod status;
pub mod time;
#[cfg(feature = "upstream")]
pub mod uplink;
#[cfg(feature = "upstream")]
pub mod upstream;
#[cfg(feature = "upstream")]
pub mod wal;
