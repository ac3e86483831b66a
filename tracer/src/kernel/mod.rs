//! The boundary to the kernel: what is needed of it, the programs, the ring.
//!
//! ```text
//! /sys/kernel/btf/vmlinux ─▶ btf ─▶ needs ─▶ constants ─┐
//! mountinfo, /proc/cgroups ─▶ hierarchies ─▶ slots ─────┴─▶ load ─▶ programs, maps, attach report
//!                                  (a process of its own: loader)      │
//!                          daemon ◀─ Kernel::open ◀─── pins (bpffs) ◀──┘
//! ring ─▶ bytes of one record at a time ─▶ crate::decode
//! ```

pub mod btf;
pub mod freezers;
pub mod hierarchies;
pub mod load;
pub mod loader;
pub mod needs;
pub mod pins;
pub mod ring;
pub mod tables;
