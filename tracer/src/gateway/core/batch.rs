//! Records on their way from a session to the log: one piece of memory, and where each line ends.

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use crate::gateway::{fleet::Taken, parse::Head, store::Packed};

/// Room in the writer's queue; given back after the commit.
#[derive(Debug, Default)]
pub struct Permit(pub Option<OwnedSemaphorePermit>);

/// Consecutive records of a stream, or containers of a snapshot.
#[derive(Debug, Default)]
pub struct Batch {
    pub first_seq: u64,
    /// What the node sent before; 0 in a snapshot.
    pub after_seq: u64,
    /// Each with its newline.
    text: Bytes,
    /// Where each line ends, its newline included.
    ends: Vec<usize>,
    pub heads: Vec<Option<Head>>,
    /// All lines for the log, where they go there.
    packed: Option<Packed>,
    /// Where they went: number of the first, and the indices of all, in order.
    logged: (u64, Vec<usize>),
    pub permit: Permit,
}

impl Batch {
    /// For the log: lines are packed here, on the session's time and not on the writer's.
    #[must_use]
    pub fn records(first_seq: u64, lines: &[Bytes], permit: Permit) -> Self {
        let mut batch = Self::new(first_seq, lines, permit);
        batch.packed = Some(Packed::of(&batch.text));
        batch
    }

    /// Puts the lines together and reads their heads.
    #[must_use]
    pub fn new(first_seq: u64, lines: &[Bytes], permit: Permit) -> Self {
        let size = lines.iter().map(|line| line.len() + 1).sum();
        let mut text = BytesMut::with_capacity(size);
        let mut ends = Vec::with_capacity(lines.len());
        for line in lines {
            text.extend_from_slice(line);
            text.extend_from_slice(b"\n");
            ends.push(text.len());
        }
        Self {
            first_seq,
            after_seq: 0,
            text: text.freeze(),
            ends,
            heads: lines.iter().map(|line| Head::parse(line)).collect(),
            packed: None,
            logged: (0, Vec::new()),
            permit,
        }
    }

    /// These lines are in the log, from number `first` on.
    pub fn logged(&mut self, first: u64, indices: Vec<usize>) {
        self.logged = (first, indices);
    }

    /// Number of a line in the log, where it is there.
    #[must_use]
    pub fn number(&self, index: usize) -> Option<u64> {
        let (first, indices) = &self.logged;
        let place = indices.binary_search(&index).ok()?;
        Some(first + place as u64)
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    fn range(&self, index: usize) -> (usize, usize) {
        let before = index.checked_sub(1).and_then(|index| self.ends.get(index));
        let end = self.ends.get(index).copied().unwrap_or(self.text.len());
        (before.copied().unwrap_or(0).min(end), end)
    }

    /// Indices of the lines that go to the log.
    #[must_use]
    pub fn accepted(&self, taken: &Taken) -> Vec<usize> {
        let all = taken.duplicates..self.ends.len();
        all.filter(|index| !taken.malformed.contains(index))
            .collect()
    }

    /// These lines, with their newlines; without a copy where they follow each other.
    #[must_use]
    pub fn lines(&self, indices: &[usize]) -> Bytes {
        let (Some(first), Some(last)) = (indices.first(), indices.last()) else {
            return Bytes::new();
        };
        if last - first + 1 == indices.len() {
            return self.text.slice(self.range(*first).0..self.range(*last).1);
        }
        let mut text = BytesMut::new();
        for index in indices {
            let (from, to) = self.range(*index);
            text.extend_from_slice(&self.text.slice(from..to));
        }
        text.freeze()
    }

    /// For the log: what [`Batch::lines`] gave.
    #[must_use]
    pub fn packed(&self, lines: &Bytes) -> Packed {
        let whole = self
            .packed
            .as_ref()
            .filter(|_| lines.len() == self.text.len());
        whole.map_or_else(|| Packed::of(lines), Clone::clone)
    }

    /// One line, without its newline.
    #[must_use]
    pub fn line(&self, index: usize) -> &[u8] {
        let (from, to) = self.range(index);
        let line = self.text.get(from..to).unwrap_or_default();
        line.strip_suffix(b"\n").unwrap_or(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_left_out_have_no_number() {
        let lines: Vec<Bytes> = (0..6).map(|n| Bytes::from(format!("{{{n}}}"))).collect();
        let mut batch = Batch::new(10, &lines, Permit::default());
        assert_eq!(batch.number(2), None);
        let taken = Taken {
            duplicates: 2,
            malformed: vec![3],
        };
        let accepted = batch.accepted(&taken);
        assert_eq!(batch.lines(&accepted), "{2}\n{4}\n{5}\n");
        batch.logged(100, accepted);
        let numbers: Vec<_> = (0..6).map(|index| batch.number(index)).collect();
        assert_eq!(numbers, [None, None, Some(100), None, Some(101), Some(102)]);
    }
}
