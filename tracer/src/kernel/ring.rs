//! The ring buffer of the programs, read in place.
//!
//! ```text
//!  page 0      page 1      data                      the same data once more
//! ┌──────────┬───────────┬─────────────────────────┬───────┬ ─ ─ ─ ─ ─ ─ ─ ─ ┐
//! │ consumer │ producer  │ header record header …  │ reach │    not mapped
//! └──────────┴───────────┴─────────────────────────┴───────┴ ─ ─ ─ ─ ─ ─ ─ ─ ┘
//!   writable   read only
//! ```
//!
//! The kernel offers the data twice, one behind the other, so that a record that runs over the end is
//! in one piece (`kernel/bpf/ringbuf.c`). Every page of such a mapping counts as resident from the
//! start. Readers map both copies as a whole; this one maps of the second only as far as the longest
//! record can reach: with the default ring that is 1 MiB less.
//!
//! # Protocol
//!
//! Positions count bytes and only grow. A record begins with a header: its length, and a bit while the
//! program that reserved it still writes it. It is the reader's until the consumer's position is moved
//! behind it, which a [`Record`] does when it goes.
//!
//! A program that commits a record wakes the reader, or asks it not to be woken, by the consumer's
//! position that it sees. So before [`Ring::next`] says that there is nothing it looks once more behind
//! a full barrier, unless it has moved nothing since it did so: either the program sees the position,
//! or the reader sees the record.
//!
//! # Safety
//!
//! This module maps, reads what the kernel wrote within what it mapped, and unmaps. The kernel writes
//! nowhere between the two positions but in records that are not complete; data is mapped read only,
//! and whoever maps it writable is refused.

#![expect(unsafe_code, reason = "see `Safety` above")]

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    ptr::{NonNull, null_mut},
    slice,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use aya::maps::MapData;
use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};
use tracer_common::MAX_RECORD;

/// Length of a record and where it is (`BPF_RINGBUF_HDR_SZ`), bytes.
const HEADER: usize = 8;
/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;
/// In the header's first word: the record is being written (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;
/// In the header's first word: nobody shall read it (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARDED: u32 = 1 << 30;

/// The reader's end of a ring buffer, of which there is one at a time.
#[derive(Debug)]
pub struct Ring<F = MapFd> {
    fd: F,
    consumer: Mapping,
    producer: Mapping,
    /// Size of the data, a power of two.
    size: usize,
    /// Where the next record begins.
    position: usize,
    /// Where the last known of them ends.
    end: usize,
    /// The position moved since the last full barrier.
    moved: bool,
}

/// A complete record. Its place is given back when this goes.
#[derive(Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    consumer: &'a Mapping,
    position: &'a mut usize,
    moved: &'a mut bool,
}

impl Ring {
    /// # Errors
    ///
    /// Those of `mmap(2)`, and of the kernel asked for the map's size.
    pub fn new(map: MapData) -> io::Result<Self> {
        let size = map.info().map_err(io::Error::other)?.max_entries();
        Self::map(MapFd(map), size as usize)
    }
}

impl<F: AsFd> Ring<F> {
    fn map(fd: F, size: usize) -> io::Result<Self> {
        let page = page_size();
        let reach = (HEADER + MAX_RECORD).next_multiple_of(page).min(size);
        let consumer = Mapping::new(fd.as_fd(), 0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let producer = Mapping::new(fd.as_fd(), page, page + size + reach, ProtFlags::READ)?;
        let position = consumer.position().load(Ordering::Acquire);
        Ok(Self {
            fd,
            consumer,
            producer,
            size,
            position,
            end: position,
            moved: false,
        })
    }
}

impl<F> Ring<F> {
    /// The next record, if there is a complete one.
    ///
    /// # Errors
    ///
    /// One that is longer than any of the programs' is not theirs.
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: a record borrows the ring"
    )]
    pub fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let length = loop {
            match self.header() {
                Some(header) if header & BUSY == 0 => {
                    let length = (header & !DISCARDED) as usize;
                    if header & DISCARDED == 0 {
                        break length;
                    }
                    give_back(&self.consumer, &mut self.position, &mut self.moved, length);
                }
                _ if self.moved => {
                    fence(Ordering::SeqCst);
                    self.moved = false;
                }
                _ => return Ok(None),
            }
        };
        let bytes = self
            .producer
            .bytes(self.offset() + HEADER, length)
            .ok_or_else(|| {
                io::Error::other(format!("a record of {length} bytes in the ring buffer"))
            })?;
        Ok(Some(Record {
            bytes,
            consumer: &self.consumer,
            position: &mut self.position,
            moved: &mut self.moved,
        }))
    }

    /// First word of the header of the next record, if one was reserved.
    fn header(&mut self) -> Option<u32> {
        if self.position == self.end {
            // Written with release when the record is reserved, its busy bit before.
            self.end = self.producer.position().load(Ordering::Acquire);
        }
        if self.position == self.end {
            return None;
        }
        // Committed by a fully ordered exchange: what was written before it is seen.
        Some(self.producer.word(self.offset())?.load(Ordering::Acquire))
    }

    /// Of the next record in the mapping of the producer.
    fn offset(&self) -> usize {
        page_size() + (self.position & (self.size - 1))
    }
}

impl<F: AsFd> AsFd for Ring<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> AsRawFd for Ring<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

impl Deref for Record<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        give_back(self.consumer, self.position, self.moved, self.bytes.len());
    }
}

/// Moves the consumer behind a record of that length.
fn give_back(consumer: &Mapping, position: &mut usize, moved: &mut bool, length: usize) {
    *position = position.wrapping_add((HEADER + length).next_multiple_of(ALIGNMENT));
    // What was read of the record was read before.
    consumer.position().store(*position, Ordering::Release);
    *moved = true;
}

/// The map, as what it is polled by.
#[derive(Debug)]
pub struct MapFd(MapData);

impl AsFd for MapFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd().as_fd()
    }
}

/// Memory that is shared with the kernel, at the beginning of which is a position.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to the process, not to a thread; what is in it is read by atomic
// operations, or is a complete record, which nobody writes.
unsafe impl Send for Mapping {}
// SAFETY: likewise.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(
        fd: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        protection: ProtFlags,
    ) -> io::Result<Self> {
        // SAFETY: the kernel chooses an address where nothing is.
        let start = unsafe {
            mmap(
                null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                fd,
                offset as u64,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, length })
    }

    /// The position at its beginning.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: the mapping is at least a page long and begins with one; the kernel accesses it by
        // atomic operations of the same width (`unsigned long`).
        unsafe { self.start.cast().as_ref() }
    }

    /// Where `length` bytes from `offset` on are, if they are inside.
    fn place(&self, offset: usize, length: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(length)? > self.length {
            return None;
        }
        // SAFETY: just seen to be inside the mapping.
        Some(unsafe { self.start.add(offset) })
    }

    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        let place: NonNull<AtomicU32> = self.place(offset, size_of::<AtomicU32>())?.cast();
        if !place.is_aligned() {
            return None;
        }
        // SAFETY: inside the mapping and aligned; the kernel accesses headers by atomic operations of
        // the same width.
        Some(unsafe { place.as_ref() })
    }

    /// Those of a complete record: nobody writes them while it is borrowed.
    fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        let place = self.place(offset, length)?;
        // SAFETY: inside the mapping, and initialised as all memory that the kernel gives.
        Some(unsafe { slice::from_raw_parts(place.as_ptr(), length) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and what borrowed from it is gone.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.length) } {
            tracing::warn!(%error, "the ring buffer cannot be unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::{fd::OwnedFd, unix::fs::FileExt as _},
    };

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    /// A file that looks like a ring buffer, and the part of the kernel.
    struct Writer {
        file: File,
        size: usize,
        position: usize,
    }

    impl Writer {
        fn new(size: usize) -> (Self, Ring<OwnedFd>) {
            let fd = memfd_create("ring", MemfdFlags::CLOEXEC).expect("a file in memory");
            let file = File::from(fd.try_clone().expect("a descriptor"));
            let pages = 2 * page_size() + 2 * size;
            file.set_len(pages as u64).expect("a length");
            let ring = Ring::map(fd, size).expect("a mapping");
            let writer = Self {
                file,
                size,
                position: 0,
            };
            (writer, ring)
        }

        /// Into both copies of the data.
        fn write(&self, position: usize, bytes: &[u8]) {
            let place = position % self.size;
            let (before, behind) = bytes.split_at(bytes.len().min(self.size - place));
            for copy in [2 * page_size(), 2 * page_size() + self.size] {
                for (place, bytes) in [(place, before), (0, behind)] {
                    let offset = (copy + place) as u64;
                    self.file.write_all_at(bytes, offset).expect("room");
                }
            }
        }

        /// Gives where its header is.
        fn reserve(&mut self, length: usize) -> usize {
            let at = self.position;
            self.write(at, &(BUSY | word(length)).to_ne_bytes());
            self.position += (HEADER + length).next_multiple_of(ALIGNMENT);
            let producer = page_size() as u64;
            self.file
                .write_all_at(&self.position.to_ne_bytes(), producer)
                .expect("room");
            at
        }

        fn commit(&self, at: usize, bytes: &[u8], bits: u32) {
            self.write(at + HEADER, bytes);
            self.write(at, &(word(bytes.len()) | bits).to_ne_bytes());
        }

        fn push(&mut self, bytes: &[u8]) {
            let at = self.reserve(bytes.len());
            self.commit(at, bytes, 0);
        }

        /// How far the reader has come.
        fn read_so_far(&self) -> usize {
            let mut position = [0; size_of::<usize>()];
            self.file.read_exact_at(&mut position, 0).expect("a page");
            usize::from_ne_bytes(position)
        }
    }

    fn word(length: usize) -> u32 {
        u32::try_from(length).expect("a short record")
    }

    fn next(ring: &mut Ring<OwnedFd>) -> Option<Vec<u8>> {
        let record = ring.next().expect("a record of the programs");
        record.map(|record| record.to_vec())
    }

    #[test]
    fn a_record_has_its_place_until_it_goes() {
        let (mut writer, mut ring) = Writer::new(page_size());
        assert_eq!(next(&mut ring), None);
        writer.push(b"one");
        writer.push(b"second");
        let record = ring.next().expect("a record").expect("the first");
        assert_eq!(&*record, b"one");
        assert_eq!(writer.read_so_far(), 0);
        drop(record);
        assert_eq!(writer.read_so_far(), 16);
        assert_eq!(next(&mut ring).as_deref(), Some(b"second".as_slice()));
        assert_eq!(next(&mut ring), None);
        assert_eq!(writer.read_so_far(), writer.position);
    }

    #[test]
    fn waits_for_what_is_being_written_and_passes_what_was_discarded() {
        let (mut writer, mut ring) = Writer::new(page_size());
        let first = writer.reserve(5);
        let second = writer.reserve(2);
        writer.push(b"third");
        assert_eq!(next(&mut ring), None);
        writer.commit(second, b"no", DISCARDED);
        assert_eq!(next(&mut ring), None);
        writer.commit(first, b"first", 0);
        assert_eq!(next(&mut ring).as_deref(), Some(b"first".as_slice()));
        assert_eq!(next(&mut ring).as_deref(), Some(b"third".as_slice()));
        assert_eq!(next(&mut ring), None);
        assert_eq!(writer.read_so_far(), writer.position);
    }

    #[test]
    fn goes_round_with_every_length() {
        let size = 16 * page_size();
        let (mut writer, mut ring) = Writer::new(size);
        let mut longest_over_the_end = 0;
        for turn in 0..2_000_usize {
            let length = (turn * 997) % MAX_RECORD + 1;
            let byte = u8::try_from(turn % 251).expect("a byte");
            let over = (writer.position % size + HEADER + length).saturating_sub(size);
            longest_over_the_end = longest_over_the_end.max(over);
            writer.push(&vec![byte; length]);
            assert_eq!(next(&mut ring), Some(vec![byte; length]));
        }
        assert!(writer.position > 50 * size);
        assert!(longest_over_the_end > MAX_RECORD / 2);
    }

    #[test]
    fn the_longest_is_whole_where_only_its_header_is_before_the_end() {
        let size = 16 * page_size();
        let (mut writer, mut ring) = Writer::new(size);
        // Longer than any, but not over the end.
        writer.push(&vec![1; size - 2 * HEADER]);
        assert!(next(&mut ring).is_some());
        writer.push(&[2; MAX_RECORD]);
        assert_eq!(next(&mut ring), Some(vec![2; MAX_RECORD]));
    }

    #[test]
    fn what_is_longer_is_refused() {
        let size = 16 * page_size();
        let (mut writer, mut ring) = Writer::new(size);
        writer.push(&vec![1; size - 2 * HEADER]);
        assert!(next(&mut ring).is_some());
        writer.push(&vec![2; size - 2 * HEADER]);
        let error = ring.next().expect_err("not of the programs");
        assert!(error.to_string().contains("65520 bytes"), "{error}");
    }

    #[test]
    fn goes_on_where_the_reader_before_was() {
        let (mut writer, mut ring) = Writer::new(page_size());
        writer.push(b"read");
        writer.push(b"left");
        assert!(next(&mut ring).is_some());
        let again = ring.fd.try_clone().expect("a descriptor");
        drop(ring);
        let mut ring = Ring::map(again, writer.size).expect("a mapping");
        assert_eq!(next(&mut ring).as_deref(), Some(b"left".as_slice()));
        assert_eq!(next(&mut ring), None);
    }
}
