//! Where a record stands among all that a spool ever held.

/// Streams in the order in which the spool met them, then records by number: the order in which they
/// are delivered and, where there is no room, given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place(i64);

/// Bits for the number within a stream: 89 years of 100,000 records a second.
const SEQ_BITS: u32 = 48;

impl Place {
    /// Before everything.
    pub const START: Self = Self(0);

    /// The place of record `seq` of a stream.
    #[must_use]
    pub fn new(stream: i64, seq: u64) -> Self {
        let mask = (1_u64 << SEQ_BITS) - 1;
        // 48 bits always fit.
        let seq = i64::try_from(seq.min(mask)).unwrap_or(i64::MAX);
        Self((stream << SEQ_BITS) | seq)
    }

    /// As the store has it.
    #[must_use]
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// From the store.
    #[must_use]
    pub const fn from_raw(raw: i64) -> Self {
        Self(raw)
    }

    /// Number of the stream in this spool.
    #[must_use]
    pub const fn stream(self) -> i64 {
        self.0 >> SEQ_BITS
    }

    /// Number of the record in its stream.
    #[must_use]
    pub fn seq(self) -> u64 {
        u64::try_from(self.0 & ((1 << SEQ_BITS) - 1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_ordered_by_stream_and_number() {
        let places = [(1, 1), (1, 2), (1, u64::MAX >> 16), (2, 0), (2, 1)];
        let places = places.map(|(stream, seq)| Place::new(stream, seq));
        assert!(places.is_sorted());
        assert_eq!((places[2].stream(), places[2].seq()), (1, (1 << 48) - 1));
        assert_eq!(Place::from_raw(places[4].raw()), places[4]);
    }
}
