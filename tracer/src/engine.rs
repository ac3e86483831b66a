//! The pure core as one piece: entries in, events and actions out.
//!
//! Live and replay drive the same [`Engine`] with the same [`Entry`]s; what a recording holds is the
//! entries. Each entry carries the moment at which it was taken up, so that even the latency in a
//! replayed record is the one of the live record.

use std::sync::Arc;

use tracer_common::CgroupKey;
use uuid::Uuid;

use crate::{
    decode::{DecodeError, decode},
    lifecycle::{self, Input, Machine, Metadata, Output, Snapshot},
    record::{Host, Kind, Node, Origin, Record},
    render::{Renderer, Written},
    time::{BootNs, WallOffset},
};

/// One thing for the engine to take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A record of the kernel side, undecoded.
    Raw(&'a [u8]),
    /// Files about a container were read.
    Metadata {
        root: CgroupKey,
        metadata: Arc<Metadata>,
    },
    /// A container's v1 freezer was read.
    Freezer { root: CgroupKey, frozen: bool },
    /// A scan.
    Snapshot(Arc<Snapshot>, Origin),
    /// The tracer speaks of itself.
    Node(Kind, Box<Node>),
    /// Time passed.
    Tick,
    /// The wall clock was set.
    Offset(WallOffset),
    /// The path of a cgroup, where the kernel's word of it is cut.
    Path { cgroup: CgroupKey, path: Arc<[u8]> },
    /// Records of the kernel side come from the programs with this id from here on.
    Programs(Arc<str>),
}

/// The machine with its renderer.
#[derive(Debug)]
pub struct Engine {
    pub machine: Machine,
    pub renderer: Renderer,
    undecoded: u64,
}

/// Number of a stream's first record.
const FIRST_SEQ: u64 = 1;

impl Engine {
    /// A new stream, that knows of no container yet.
    #[must_use]
    pub fn begin(host: lifecycle::Host, identity: Arc<Host>, offset: WallOffset) -> Self {
        let renderer = Renderer {
            stream: Uuid::now_v7().to_string().into(),
            host: identity,
            offset,
            hierarchies: host.hierarchies.iter().cloned().collect(),
            written: Written::default(),
        };
        Self::new(Machine::new(host, FIRST_SEQ), renderer)
    }

    /// An engine that goes on where `machine` is.
    #[must_use]
    pub const fn new(machine: Machine, renderer: Renderer) -> Self {
        Self {
            machine,
            renderer,
            undecoded: 0,
        }
    }

    /// Takes up one entry at `now`; `out` is called for what follows, in order and at once.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] for a raw record that cannot be read; it is counted and has no effect.
    pub fn step(
        &mut self,
        now: BootNs,
        entry: &Entry<'_>,
        mut out: impl FnMut(&Renderer, Output<'_>),
    ) -> Result<(), DecodeError> {
        let raw;
        let mut at = now;
        let input = match entry {
            Entry::Raw(bytes) => {
                raw = decode(bytes).inspect_err(|_| self.undecoded += 1)?;
                at = BootNs(raw.time_ns);
                Input::Raw(&raw.what)
            }
            Entry::Metadata { root, metadata } => Input::Metadata {
                root: *root,
                metadata,
            },
            Entry::Freezer { root, frozen } => Input::Freezer {
                root: *root,
                frozen: *frozen,
            },
            Entry::Snapshot(snapshot, origin) => Input::Snapshot(snapshot, *origin),
            Entry::Node(kind, node) => Input::Node(*kind, node.clone()),
            Entry::Tick => Input::Tick,
            Entry::Offset(offset) => {
                self.renderer.offset = *offset;
                return Ok(());
            }
            Entry::Programs(_) => return Ok(()),
            Entry::Path { cgroup, path } => Input::Path {
                cgroup: *cgroup,
                path,
            },
        };
        let renderer = &self.renderer;
        self.machine
            .apply(at, input, &mut |output| out(renderer, output));
        Ok(())
    }

    /// Goes on in another process, under the same or another boot of the host.
    pub fn resume(
        &mut self,
        host: lifecycle::Host,
        identity: Host,
        offset: WallOffset,
        mut out: impl FnMut(&Renderer, Output<'_>),
    ) {
        if identity.boot_id != self.renderer.host.boot_id {
            self.machine.reboot();
        }
        self.renderer.hierarchies = host.hierarchies.iter().cloned().collect();
        self.renderer.host = Arc::new(identity);
        self.renderer.offset = offset;
        self.renderer.written = Written::default();
        let renderer = &self.renderer;
        self.machine
            .resume(host, &mut |output| out(renderer, output));
    }

    /// Raw records that could not be read.
    #[must_use]
    pub const fn undecoded(&self) -> u64 {
        self.undecoded
    }
}

/// Appends `record` to `to` as one JSON line.
///
/// # Errors
///
/// None that the record types can cause; serde's signature has one.
pub fn write_line(record: &Record, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *to, record)?;
    to.push(b'\n');
    Ok(())
}
