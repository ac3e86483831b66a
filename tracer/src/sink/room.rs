//! What a full queue leaves out: the newest records, counted until they are told.
//!
//! Processes inside containers, of which there may be any number, have half of a queue: however many
//! come and go, what happens to the containers themselves finds room. After a loss no more of what was
//! lost goes out before that is told, so that a reader knows from where on it lacks something.

use super::Line;

/// Records that were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Of processes inside containers.
    pub bulk: u64,
    pub others: u64,
}

/// What is left out until it is told that something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Losing {
    #[default]
    Nothing,
    Bulk,
    All,
}

/// The room of a queue.
#[derive(Debug)]
pub(super) struct Room {
    /// Bytes.
    capacity: usize,
    losing: Losing,
    /// Not told yet.
    pub lost: LeftOut,
    /// Number of the oldest of them.
    pub first_lost: Option<u64>,
}

impl Room {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            losing: Losing::default(),
            lost: LeftOut::default(),
            first_lost: None,
        }
    }

    /// Bytes that processes may fill.
    pub(super) const fn half(&self) -> usize {
        self.capacity / 2
    }

    /// Whether a line may go out where so many bytes wait; what may not is counted.
    pub(super) fn admits(&mut self, line: &Line<'_>, waiting: usize) -> bool {
        let (room, without) = if line.bulk {
            (self.half(), Losing::Bulk)
        } else {
            (self.capacity, Losing::All)
        };
        if waiting + line.bytes.len() > room {
            self.losing = self.losing.max(without);
        }
        self.is_open(line)
    }

    /// Likewise where nothing waits: however long it is.
    pub(super) fn is_open(&mut self, line: &Line<'_>) -> bool {
        let without = if line.bulk { Losing::Bulk } else { Losing::All };
        let open = self.losing < without;
        if !open {
            self.lose(line);
        }
        open
    }

    /// Counts a line that is left out.
    pub(super) fn lose(&mut self, line: &Line<'_>) {
        if line.bulk {
            self.lost.bulk += 1;
        } else {
            self.lost.others += 1;
        }
        self.first_lost.get_or_insert(line.seq);
    }

    /// Whether something is left out and that is not told yet.
    pub(super) fn is_losing(&self) -> bool {
        self.losing != Losing::Nothing
    }

    /// Whether there is something to tell.
    pub(super) fn has_lost(&self) -> bool {
        self.lost != LeftOut::default()
    }

    /// With fewer bytes waiting it is told.
    pub(super) const fn enough(&self) -> usize {
        match self.losing {
            // Well below what it may fill, or each piece that is taken is followed by a gap.
            Losing::Bulk => self.capacity / 4,
            Losing::Nothing | Losing::All => self.half(),
        }
    }

    /// It is told.
    pub(super) fn tell(&mut self) -> LeftOut {
        self.losing = Losing::Nothing;
        self.first_lost = None;
        std::mem::take(&mut self.lost)
    }
}
