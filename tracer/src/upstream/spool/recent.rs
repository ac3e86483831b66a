//! The newest records, in memory: what goes on to the upstreams while the disk turns.
//!
//! A record may so arrive before it is in the spool. That is no promise broken: what an upstream has,
//! nobody has to keep; a killed tracer finds the record in its journal and numbers on after it, and
//! after a power failure a new stream begins.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes that are kept. Whoever is further behind reads the store.
const BYTES: usize = 256 << 10;

/// Records without a hole.
#[derive(Debug, Default)]
pub struct Recent {
    /// Number of the first.
    first: u64,
    lines: VecDeque<Bytes>,
    bytes: usize,
}

impl Recent {
    pub fn push(&mut self, seq: u64, line: Bytes) {
        if seq != self.first + self.lines.len() as u64 {
            self.lines.clear();
            self.bytes = 0;
            self.first = seq;
        }
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > BYTES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len();
            self.first += 1;
        }
    }

    /// Another stream begins.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The records right after this one, so many or so many bytes at most, but one in any case;
    /// none where the next is not here.
    pub fn after(&self, seq: u64, records: usize, bytes: usize) -> Vec<Bytes> {
        let skip = (seq + 1).checked_sub(self.first);
        let Some(skip) = skip.and_then(|skip| usize::try_from(skip).ok()) else {
            return Vec::new();
        };
        let mut size = 0;
        let lines = self.lines.iter().skip(skip).take(records);
        let lines = lines.take_while(|line| {
            let room = size == 0 || size + line.len() <= bytes;
            size += line.len();
            room
        });
        lines.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_ones_are_given_without_a_hole_or_none() {
        let mut recent = Recent::default();
        assert!(recent.after(0, 10, 100).is_empty());
        for seq in 5..10 {
            recent.push(seq, Bytes::from(vec![b'x'; 10]));
        }
        assert!(recent.after(3, 10, 100).is_empty());
        assert_eq!(recent.after(4, 10, 100).len(), 5);
        assert_eq!(recent.after(7, 10, 100).len(), 2);
        assert_eq!(recent.after(4, 3, 100).len(), 3);
        assert_eq!(recent.after(4, 10, 25).len(), 2);
        assert_eq!(recent.after(4, 10, 1).len(), 1);
        assert!(recent.after(9, 10, 100).is_empty());
        // Numbers that jump are those of records that were given up.
        recent.push(20, Bytes::from_static(b"x"));
        assert!(recent.after(9, 10, 100).is_empty());
        assert_eq!(recent.after(19, 10, 100).len(), 1);
        for seq in 21..2_000 {
            recent.push(seq, Bytes::from(vec![b'x'; 1000]));
        }
        assert!(recent.bytes <= BYTES && recent.lines.len() == BYTES / 1000);
    }
}
