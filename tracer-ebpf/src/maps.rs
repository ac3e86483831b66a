//! Every map of the kernel side, and the few operations on them.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use tracer_common::{COMM_LEN, CgroupKey, Followed, MAX_HIERARCHIES, SlotCount, Tracked, loss};

/// All records, in the order in which they were reserved. The loader sets the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Cgroups whose tasks are watched: candidates from their mkdir on, until user space says no.
#[map]
pub static TRACKED: HashMap<CgroupKey, Tracked> = HashMap::with_max_entries(65_536, 0);

/// Processes that came into a tracked cgroup from outside. An entry goes with its process.
#[map]
pub static PROCS: HashMap<u32, Followed> = HashMap::with_max_entries(32_768, 0);

/// Names of container runtimes whose command lines tell which container they make.
#[map]
pub static RUNTIMES: HashMap<[u8; COMM_LEN], u32> = HashMap::with_max_entries(64, 0);

/// What was lost, per CPU; indices in [`tracer_common::loss`].
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// Per slot: cgroups entered and taken out by programs. Index 0 sums all slots but slot 0.
#[map]
pub static LIVE: Array<SlotCount> = Array::with_max_entries(MAX_HIERARCHIES as u32, 0);

/// Per slot: cgroups taken out by user space, which alone writes here. Index 0 as in [`LIVE`].
#[map]
pub static DROPPED: Array<u64> = Array::with_max_entries(MAX_HIERARCHIES as u32, 0);

/// User space writes 1 before it sleeps without a timer; the next bulk record then wakes it.
#[map]
pub static READER_IDLE: Array<u32> = Array::with_max_entries(1, 0);

/// Atomic `*counter += 1`. The BPF target has no `fetch_add` in core (no compare-and-swap before
/// cpu v3), but the instruction exists since the beginning.
///
/// # Safety
///
/// `counter` points to eight aligned bytes of a live map value.
#[inline(always)]
unsafe fn add_one(counter: *mut u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one instruction on the memory that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {one}",
            counter = in(reg) counter,
            one = in(reg) 1_u64,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = counter;
}

/// Counts one loss of `index` on this CPU.
#[inline(always)]
pub fn count_loss(index: u32) {
    for index in [index, loss::TOTAL] {
        if let Some(counter) = LOST.get_ptr_mut(index) {
            // SAFETY: the pointer came from a successful look-up.
            unsafe { add_one(counter) };
        }
    }
}

/// What this CPU has lost in all, low half.
#[inline(always)]
pub fn lost_total() -> u32 {
    LOST.get(loss::TOTAL).map_or(0, |total| *total as u32)
}

/// Which of the two counters of a slot to step.
#[derive(Clone, Copy)]
pub enum Step {
    Added,
    Removed,
}

/// Steps the counters of `slot` and their sum; slot 0 is always looked up and not counted.
#[inline(always)]
pub fn count_live(slot: u32, step: Step) {
    if slot == 0 {
        return;
    }
    for index in [slot, 0] {
        if let Some(count) = LIVE.get_ptr_mut(index) {
            let field: *mut u64 = match step {
                // SAFETY: the pointer came from a successful look-up.
                Step::Added => unsafe { &raw mut (*count).added },
                // SAFETY: as above.
                Step::Removed => unsafe { &raw mut (*count).removed },
            };
            // SAFETY: a field of a live map value.
            unsafe { add_one(field) };
        }
    }
}

/// Whether a tracked cgroup may be in `slot`; index 0 asks for all slots but slot 0.
#[inline(always)]
pub fn slot_in_use(slot: u32) -> bool {
    match (LIVE.get(slot), DROPPED.get(slot)) {
        (Some(live), Some(dropped)) => live.added != live.removed.wrapping_add(*dropped),
        _ => false,
    }
}

/// True once after user space announced that it sleeps.
#[inline(always)]
pub fn take_reader_idle() -> bool {
    match READER_IDLE.get_ptr_mut(0) {
        Some(idle) => {
            // SAFETY: the pointer came from a successful look-up. Volatile: user space writes it.
            let was = unsafe { idle.read_volatile() };
            if was != 0 {
                // SAFETY: as above; two CPUs that both clear it wake the reader twice, no harm.
                unsafe { idle.write_volatile(0) };
            }
            was != 0
        }
        None => false,
    }
}
