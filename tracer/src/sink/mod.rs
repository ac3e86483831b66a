//! Where records go. Every sink takes a [`Batch`], never waits for its reader, and counts what it
//! leaves out.
//!
//! | sink | when its reader is slow | after a kill |
//! | --- | --- | --- |
//! | [`stdout`] | a queue in bytes, half of it for processes inside containers; then the newest are left out ([`room`]) | goes on behind its mark: what was written behind it comes again |
//! | [`file`] | likewise, on a thread of its own | goes on behind the last whole line in the file |
//! | [`socket`] | the oldest of the history are lost to that reader | begins anew |
//!
//! What a sink left out is told in the stream by a `node.gap` that names the sink.

mod batch;
pub mod file;
pub mod room;
pub mod socket;
pub mod stdout;

pub use self::batch::{Batch, Line};
