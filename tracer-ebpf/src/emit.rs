//! The one way into the ring buffer.
//!
//! | class | wakes the reader | when the ring is short |
//! | --- | --- | --- |
//! | lifecycle | at once | counted when not even the head-room is left |
//! | bulk (`--processes`) | when 64 KiB wait, or when it sleeps without a timer | gives way when three quarters are full, counted |

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str_bytes},
    maps::ring_buf::RingBufEntry,
};
use tracer_common::{ABI_VERSION, Head, MAX_RECORD, loss};

use crate::{
    maps::{EVENTS, count_loss, lost_total, take_reader_idle},
    offsets::RING_BYTES,
};

/// Bytes waiting in the ring that wake the reader of bulk records.
const BULK_WAKE_BYTES: u64 = 64 << 10;

/// Whose room a record takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Lifecycle,
    Bulk,
}

/// Reserves a `T`, or counts the loss.
#[inline(always)]
pub fn reserve<T: 'static>(kind: u16, class: Class) -> Option<RingBufEntry<T>> {
    const { assert!(size_of::<T>() <= MAX_RECORD) };
    if class == Class::Bulk {
        let limit = RING_BYTES.load() / 4 * 3;
        if EVENTS.query(BPF_RB_AVAIL_DATA.into()) > limit {
            count_loss(loss::BULK);
            return None;
        }
    }
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none() {
        count_loss(match class {
            Class::Lifecycle => u32::from(kind),
            Class::Bulk => loss::BULK,
        });
    }
    entry
}

/// The head of a record of `kind` that is a `T` as a whole.
#[inline(always)]
pub fn head<T>(kind: u16) -> Head {
    Head {
        // SAFETY: the helper has no precondition.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        drops: lost_total(),
        // SAFETY: the helper has no precondition.
        cpu: unsafe { bpf_get_smp_processor_id() },
        kind,
        version: ABI_VERSION,
        len: size_of::<T>() as u32,
    }
}

/// Hands a complete record to the reader.
#[inline(always)]
pub fn submit<T>(entry: RingBufEntry<T>, class: Class) {
    let wake = match class {
        Class::Lifecycle => true,
        Class::Bulk => {
            EVENTS.query(BPF_RB_AVAIL_DATA.into()) >= BULK_WAKE_BYTES || take_reader_idle()
        }
    };
    let flags = if wake {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(flags.into());
}

/// Emits a record without text.
#[inline(always)]
pub fn emit<T: 'static>(kind: u16, make: impl FnOnce(Head) -> T) {
    let Some(mut entry) = reserve::<T>(kind, Class::Lifecycle) else {
        return;
    };
    entry.write(make(head::<T>(kind)));
    submit(entry, Class::Lifecycle);
}

/// Copies the kernel string at `src` into `dst`; returns its length without NUL. A length of
/// `dst.len() - 1` may mean that it was cut.
#[inline(always)]
pub fn read_str(src: *const u8, dst: &mut [u8]) -> usize {
    // SAFETY: the helper checks the address and stays within `dst`.
    match unsafe { bpf_probe_read_kernel_str_bytes(src, dst) } {
        Ok(text) => text.len(),
        Err(_) => 0,
    }
}
