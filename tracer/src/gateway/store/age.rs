//! Retention: what is too old, or too much, is taken away.
//!
//! Age is by the store's own clock ([`AgeClock`]), never by a wall clock that may be set: from time
//! to time a *mark* notes up to which record the log was at which time of that clock. A record is as
//! old as the first mark behind it.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Store, StoreError, Tried,
    restore::{signed, unsigned},
};
use crate::time::{AgeClock, AgeMark, boot_s};

/// The store's clock, and what it said last.
#[derive(Debug)]
pub struct Age {
    clock: AgeClock,
    boot_id: String,
    /// Time and next record of the newest mark.
    marked: (u64, u64),
}

/// All that is older than a mark.
#[derive(Debug, Clone, Copy)]
struct Dead {
    clock_s: i64,
    /// Records below this number.
    first: i64,
    /// Containers that were gone before this time (milliseconds since 1970, as `updated` has it).
    received: i64,
}

/// Rows that one step of retention takes away, so that no transaction is long.
const STEP: i64 = 256;
/// Containers, likewise: a storm leaves one for every five records.
const CONTAINERS_STEP: i64 = 8 * STEP;
/// Marks per span of retention: so exactly it is kept to.
const MARKS: u32 = 64;
/// Between two marks.
const OFTEN: Duration = Duration::from_secs(1);
const RARELY: Duration = Duration::from_mins(1);

impl Age {
    /// Goes on from the newest mark.
    pub(super) fn read(connection: &Connection, boot_id: &str) -> Result<Self, StoreError> {
        let what = "read the marks";
        let newest = connection
            .query_row(
                "SELECT clock_s, boot_s, boot_id, first FROM mark ORDER BY clock_s DESC LIMIT 1",
                [],
                |row| {
                    let mark = AgeMark {
                        clock_s: unsigned(row.get(0)?),
                        boot_s: unsigned(row.get(1)?),
                        boot_id: row.get(2)?,
                    };
                    Ok((mark, unsigned(row.get(3)?)))
                },
            )
            .optional()
            .tried(what)?;
        let (mark, first) = newest.unwrap_or_default();
        Ok(Self {
            clock: AgeClock::resume(&mark, boot_id),
            boot_id: boot_id.to_owned(),
            marked: (mark.clock_s, first),
        })
    }
}

impl Age {
    /// After a failed transaction.
    pub(super) fn again(&self, connection: &Connection) -> Result<Self, StoreError> {
        let read = Self::read(connection, &self.boot_id)?;
        Ok(Self {
            clock: self.clock,
            ..read
        })
    }
}

impl Store {
    /// Seconds by the store's own clock.
    #[must_use]
    pub fn age_s(&self) -> u64 {
        self.age.clock.now_s()
    }

    /// Whether [`Store::mark`] has something to note.
    #[must_use]
    pub fn is_mark_due(&self, keep: Duration) -> bool {
        let (clock_s, first) = self.age.marked;
        let every = (keep / MARKS).clamp(OFTEN, RARELY).as_secs();
        first != self.tail.next && self.age.clock.now_s() >= clock_s + every
    }

    /// Notes where the log is now.
    pub fn mark(&mut self) -> Result<(), StoreError> {
        self.mark_at(self.age.clock.now_s())
    }

    pub(super) fn mark_at(&mut self, clock_s: u64) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO mark (clock_s, boot_s, boot_id, first, received)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .tried("write a mark")?
            .execute(params![
                signed(clock_s),
                signed(boot_s()),
                self.age.boot_id,
                signed(self.tail.next),
                signed(self.tail.received),
            ])
            .tried("write a mark")?;
        self.age.marked = (clock_s, self.tail.next);
        Ok(())
    }

    /// Takes a step's worth of what is older than `keep` or beyond `max_bytes` away; says whether
    /// there may be more.
    pub fn expire(&mut self, keep: Duration, max_bytes: u64) -> Result<bool, StoreError> {
        self.expire_at(self.age.clock.now_s(), keep, max_bytes)
    }

    pub(super) fn expire_at(
        &mut self,
        clock_s: u64,
        keep: Duration,
        max_bytes: u64,
    ) -> Result<bool, StoreError> {
        let dead = match clock_s.checked_sub(keep.as_secs()) {
            Some(dead_s) => self.dead(dead_s)?,
            None => None,
        };
        let records = self.expire_records(dead.map_or(0, |dead| dead.first), max_bytes)?;
        let what = "take old containers away";
        // Nor is one of use whose last record is gone already.
        let oldest = self.oldest_received()?.map(signed);
        let gone = dead.map(|dead| dead.received).max(oldest);
        let containers = self
            .connection
            // As the index on them has it.
            .prepare_cached(
                "DELETE FROM container WHERE id IN
                 (SELECT id FROM container WHERE state = 4 AND updated < ?1
                  ORDER BY updated LIMIT ?2)",
            )
            .tried(what)?
            .execute(params![gone.unwrap_or(0), CONTAINERS_STEP])
            .tried(what)?;
        if let Some(dead) = dead {
            self.connection
                .prepare_cached("DELETE FROM mark WHERE clock_s < ?1")
                .tried(what)?
                .execute([dead.clock_s])
                .tried(what)?;
        }
        Ok(records || containers > 0)
    }

    /// When the oldest record of the log was received, milliseconds since 1970.
    pub fn oldest_received(&self) -> Result<Option<u64>, StoreError> {
        let what = "read the log";
        let received: Option<i64> = self
            .connection
            .prepare_cached("SELECT received FROM log ORDER BY first LIMIT 1")
            .tried(what)?
            .query_row([], |row| row.get(0))
            .optional()
            .tried(what)?;
        Ok(received.map(unsigned))
    }

    /// The newest mark that is as old as this.
    fn dead(&self, dead_s: u64) -> Result<Option<Dead>, StoreError> {
        self.connection
            .prepare_cached(
                "SELECT clock_s, first, received FROM mark WHERE clock_s <= ?1
                 ORDER BY clock_s DESC LIMIT 1",
            )
            .tried("read the marks")?
            .query_row([signed(dead_s)], |row| {
                Ok(Dead {
                    clock_s: row.get(0)?,
                    first: row.get(1)?,
                    received: row.get(2)?,
                })
            })
            .optional()
            .tried("read the marks")
    }

    /// Takes records below number `dead` away, and the oldest of what is beyond `max_bytes`.
    fn expire_records(&mut self, dead: i64, max_bytes: u64) -> Result<bool, StoreError> {
        let what = "take old records away";
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT first, length(lines) FROM log WHERE first < ?1 ORDER BY first LIMIT ?2",
            )
            .tried(what)?;
        // What the table has not followed yet stays.
        let applied = signed(self.tail.applied);
        let rows = statement
            .query_map(params![applied, STEP], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
            .tried(what)?;
        let mut end = None;
        let mut freed = 0;
        for row in rows {
            let (first, len) = row.tried(what)?;
            if first >= dead && self.tail.bytes.saturating_sub(freed) <= max_bytes {
                break;
            }
            freed += unsigned(len);
            end = Some(first);
        }
        drop(statement);
        if let Some(end) = end {
            self.connection
                .execute("DELETE FROM log WHERE first <= ?1", [end])
                .tried(what)?;
            self.tail.bytes = self.tail.bytes.saturating_sub(freed);
        }
        Ok(end.is_some())
    }
}
