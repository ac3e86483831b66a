//! The lines of one drain.

/// Where a line is, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    seq: u64,
    end: usize,
    passes: bool,
    bulk: bool,
}

/// Lines in the order of their records. A record may have several, or none.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// The lines of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Number of the record.
    pub seq: u64,
    /// With their newlines.
    pub bytes: &'a [u8],
    /// Whether the filter lets the record pass.
    pub passes: bool,
    /// Whether it tells of a process inside a container, of which there may be any number.
    pub bulk: bool,
}

impl Batch {
    /// Adds what `write` writes for record `seq`.
    pub fn add(&mut self, seq: u64, passes: bool, bulk: bool, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.places.push(Place {
            seq,
            end: self.bytes.len(),
            passes,
            bulk,
        });
    }

    /// The lines, record by record.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut start = 0;
        self.places.iter().map(move |place| {
            let bytes = self.bytes.get(start..place.end).unwrap_or_default();
            start = place.end;
            Line {
                seq: place.seq,
                bytes,
                passes: place.passes,
                bulk: place.bulk,
            }
        })
    }

    /// Bytes of all lines.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no record in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Makes room for the next.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }
}
