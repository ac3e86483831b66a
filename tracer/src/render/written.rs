//! What lines have in common, kept as it was written.
//!
//! Events come in bursts of one container (created, started, …) and most of a line says who that
//! is. Of the [`SLOTS`] containers that were last told of, this part is kept: a container has one
//! slot by the number of its cgroup, and drives out the one that was there. Beyond that many
//! containers at once a part is written anew, which costs less than twice as much; the memory is
//! bounded by the slots and by [`MAX_KEPT`].
//!
//! A kept part is of one [`Identity`], by address: the machine replaces an identity when it learns
//! something, it never changes one. The slot holds the identity, so the address cannot come again.

use std::{cell::Cell, fmt, sync::Arc};

use crate::{lifecycle::Identity, record::Host, time::Timestamp};

/// Containers whose part is kept.
const SLOTS: usize = 1024;

/// Longer parts (of many labels) are not kept, bytes.
const MAX_KEPT: usize = 4096;

/// Bytes of a time that change once per second: up to the decimal point.
const SECOND_LEN: usize = 20;

/// Kept parts.
#[derive(Default)]
pub struct Written {
    /// Out of its place only while a line is written.
    slots: Cell<Vec<Option<Kept>>>,
    host: Cell<Option<KeptHost>>,
    second: Cell<Option<(u64, [u8; SECOND_LEN])>>,
}

/// A host and its part.
type KeptHost = (Arc<Host>, Box<[u8]>);

/// A container's part: what comes before its state, and what comes after its version.
#[derive(Debug)]
struct Kept {
    identity: Arc<Identity>,
    bytes: Vec<u8>,
    before: usize,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").finish_non_exhaustive()
    }
}

impl Clone for Written {
    /// Nothing is known that could not be written again.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Written {
    /// Appends to `to`: what `before` writes, what `between` writes, what `after` writes; the first
    /// and the last from memory, if they are there.
    pub(super) fn subject(
        &self,
        identity: &Arc<Identity>,
        to: &mut Vec<u8>,
        before: impl FnOnce(&mut Vec<u8>),
        between: impl FnOnce(&mut Vec<u8>),
        after: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut slots = self.slots.take();
        if slots.is_empty() {
            slots.resize_with(SLOTS, || None);
        }
        let index = usize::try_from(identity.cgroup.id).unwrap_or(0) % SLOTS;
        let slot = slots.get_mut(index);
        match slot {
            Some(Some(kept)) if Arc::ptr_eq(&kept.identity, identity) => {
                let (head, tail) = kept.bytes.split_at(kept.before.min(kept.bytes.len()));
                to.extend_from_slice(head);
                between(to);
                to.extend_from_slice(tail);
            }
            slot => {
                let start = to.len();
                before(to);
                let end = to.len();
                between(to);
                let rest = to.len();
                after(to);
                let parts = (to.get(start..end), to.get(rest..));
                if let (Some(slot), (Some(head), Some(tail))) = (slot, parts)
                    && head.len() + tail.len() <= MAX_KEPT
                {
                    // The memory of the one that is driven out.
                    let mut bytes = slot.take().map(|kept| kept.bytes).unwrap_or_default();
                    bytes.clear();
                    bytes.extend_from_slice(head);
                    bytes.extend_from_slice(tail);
                    *slot = Some(Kept {
                        identity: Arc::clone(identity),
                        bytes,
                        before: head.len(),
                    });
                }
            }
        }
        self.slots.set(slots);
    }

    /// Appends what `write` makes of the host, from memory if it is there.
    pub(super) fn host(
        &self,
        host: &Arc<Host>,
        to: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let kept = self.host.take().filter(|(kept, _)| Arc::ptr_eq(kept, host));
        let kept = kept.unwrap_or_else(|| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            (Arc::clone(host), bytes.into())
        });
        to.extend_from_slice(&kept.1);
        self.host.set(Some(kept));
    }

    /// Appends a time; within one second only the nanoseconds are made.
    pub(super) fn time(&self, time: Timestamp, to: &mut Vec<u8>) {
        let second = time.0 / 1_000_000_000;
        let start = to.len();
        match self.second.get() {
            Some((kept, text)) if kept == second => {
                to.extend_from_slice(&text);
                to.extend_from_slice(&time.fraction());
            }
            _ => {
                to.extend_from_slice(&time.text());
                let text = to.get(start..).and_then(|text| text.first_chunk());
                self.second.set(text.map(|text| (second, *text)));
            }
        }
    }
}
