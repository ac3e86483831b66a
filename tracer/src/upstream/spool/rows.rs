//! The steps of a commit, each on the open transaction.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    super::table::{Change, Sum},
    place::Place,
    queue::Batch,
};
use crate::time::{AgeClock, AgeMark};

/// When records are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of the lines, with [`RECORD_OVERHEAD`] each.
    pub bytes: u64,
    /// By the spool's own clock.
    pub age: Duration,
}

/// What a record is taken to occupy beside its line, bytes.
pub const RECORD_OVERHEAD: u64 = 32;

/// What a commit changes; replaced only when it succeeded.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) last_seq: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) told: u64,
    pub(super) sum: Sum,
    pub(super) cursors: Vec<Place>,
}

/// What a record occupies, as [`Bounds::bytes`] counts it.
pub(super) fn weight(line: usize) -> u64 {
    u64::try_from(line)
        .unwrap_or(u64::MAX)
        .saturating_add(RECORD_OVERHEAD)
}

/// The stream's number; it is made the newest of all.
pub(super) fn adopt(db: &Transaction<'_>, uuid: &str) -> rusqlite::Result<i64> {
    let newest: i64 = db.query_row("SELECT coalesce(max(id), 0) FROM stream", [], |row| {
        row.get(0)
    })?;
    let known: Option<i64> = db
        .query_row("SELECT id FROM stream WHERE uuid = ?", [uuid], |row| {
            row.get(0)
        })
        .optional()?;
    match known {
        Some(id) if id == newest => Ok(id),
        Some(id) => {
            // A state directory that was restored goes on with a stream that was not the last.
            let to = newest + 1;
            let (from, until) = (Place::new(id, 0).raw(), Place::new(id + 1, 0).raw());
            let delta = Place::new(to, 0).raw() - from;
            db.execute(
                "UPDATE record SET place = place + ? WHERE place >= ? AND place < ?",
                [delta, from, until],
            )?;
            db.execute("UPDATE container SET stream = ? WHERE stream = ?", [to, id])?;
            db.execute("UPDATE stream SET id = ? WHERE id = ?", [to, id])?;
            Ok(to)
        }
        None => begin(db, newest + 1, uuid),
    }
}

/// Makes a stream known under a number that is higher than that of all others.
pub(super) fn begin(db: &Transaction<'_>, id: i64, uuid: &str) -> rusqlite::Result<i64> {
    db.execute(
        "INSERT INTO stream (id, uuid, last_seq) VALUES (?, ?, 0)",
        params![id, uuid],
    )?;
    Ok(id)
}

/// Forgets upstreams that are no longer named, and makes the others known.
pub(super) fn cursors(db: &Transaction<'_>, names: &[String]) -> rusqlite::Result<Vec<Place>> {
    let known: Vec<(String, i64)> = db
        .prepare("SELECT name, place FROM upstream")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    db.execute("DELETE FROM upstream", [])?;
    let mut cursors = Vec::with_capacity(names.len());
    for name in names {
        let place = known.iter().find(|(known, _)| known == name);
        let place = place.map_or(0, |(_, place)| *place);
        db.execute(
            "INSERT OR REPLACE INTO upstream (name, place) VALUES (?, ?)",
            params![name, place],
        )?;
        cursors.push(Place::from_raw(place));
    }
    Ok(cursors)
}

pub(super) fn clock(db: &Transaction<'_>, boot_id: &str) -> rusqlite::Result<AgeClock> {
    let then = db.query_row("SELECT clock_s, boot_s, boot_id FROM spool", [], |row| {
        Ok(AgeMark {
            clock_s: row.get(0)?,
            boot_s: row.get(1)?,
            boot_id: row.get(2)?,
        })
    })?;
    Ok(AgeClock::resume(&then, boot_id))
}

/// The sum over a stream's table.
pub(super) fn sum(db: &Connection, stream: i64) -> rusqlite::Result<Sum> {
    let mut sum = Sum::default();
    let mut rows = db.prepare_cached("SELECT instance, version FROM container WHERE stream = ?")?;
    let mut rows = rows.query([stream])?;
    while let Some(row) = rows.next()? {
        sum.add(row.get_ref(0)?.as_str()?, row.get(1)?);
    }
    Ok(sum)
}

/// One stream's table within a commit.
pub(super) struct Table<'a> {
    pub(super) db: &'a Transaction<'a>,
    pub(super) stream: i64,
}

impl Table<'_> {
    /// A version never goes back.
    pub(super) fn apply(
        &self,
        change: &Change,
        line: &[u8],
        sum: &mut Sum,
    ) -> rusqlite::Result<()> {
        let known: Option<u64> = self
            .db
            .prepare_cached("SELECT version FROM container WHERE stream = ? AND instance = ?")?
            .query_row(params![self.stream, change.instance], |row| row.get(0))
            .optional()?;
        if known.is_some_and(|known| known >= change.version) {
            return Ok(());
        }
        if let Some(known) = known {
            sum.subtract(&change.instance, known);
        }
        let Some(row) = &change.row else {
            self.db
                .prepare_cached("DELETE FROM container WHERE stream = ? AND instance = ?")?
                .execute(params![self.stream, change.instance])?;
            return Ok(());
        };
        sum.add(&change.instance, change.version);
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO container (stream, instance, id, name, version, line) \
                 VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                self.stream,
                change.instance,
                row.id,
                row.name.as_ref().map(Arc::clone),
                change.version,
                line
            ])?;
        Ok(())
    }
}

pub(super) fn acknowledge(
    db: &Transaction<'_>,
    upstreams: &[String],
    batch: &Batch,
    state: &mut State,
) -> rusqlite::Result<()> {
    for (upstream, place) in &batch.acks {
        let (Some(cursor), Some(name)) =
            (state.cursors.get_mut(*upstream), upstreams.get(*upstream))
        else {
            continue;
        };
        if *place > *cursor {
            *cursor = *place;
            db.prepare_cached("UPDATE upstream SET place = ? WHERE name = ?")?
                .execute(params![place.raw(), name])?;
        }
    }
    Ok(())
}

pub(super) fn delete_acked(db: &Transaction<'_>, state: &mut State) -> rusqlite::Result<u64> {
    match state.cursors.iter().min() {
        Some(all_have) if *all_have != Place::START => delete_until(db, *all_have, state),
        _ => Ok(0),
    }
}

/// Deletes the records up to a place; says how many.
fn delete_until(db: &Transaction<'_>, until: Place, state: &mut State) -> rusqlite::Result<u64> {
    let mut delete =
        db.prepare_cached("DELETE FROM record WHERE place <= ? RETURNING length(line)")?;
    let mut rows = delete.query([until.raw()])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        state.bytes = state.bytes.saturating_sub(weight(row.get(0)?));
        count += 1;
    }
    Ok(count)
}

/// Gives up the oldest where there is too much or too old; says how many.
pub(super) fn evict(
    db: &Transaction<'_>,
    bounds: Bounds,
    now_s: u64,
    state: &mut State,
) -> rusqlite::Result<u64> {
    let mut until = None;
    let dead_s = now_s.saturating_sub(bounds.age.as_secs());
    let mut excess = if state.bytes > bounds.bytes {
        // Some more, so that not every later record costs a commit its own eviction and a gap.
        state.bytes - (bounds.bytes - bounds.bytes / 16)
    } else {
        0
    };
    {
        let mut oldest =
            db.prepare_cached("SELECT place, at_s, length(line) FROM record ORDER BY place")?;
        let mut rows = oldest.query([])?;
        while let Some(row) = rows.next()? {
            let at_s: u64 = row.get(1)?;
            if excess == 0 && at_s >= dead_s {
                break;
            }
            until = Some(Place::from_raw(row.get(0)?));
            excess = excess.saturating_sub(weight(row.get(2)?));
        }
    }
    let Some(until) = until else { return Ok(0) };
    let evicted = delete_until(db, until, state)?;
    state.lost += evicted;
    Ok(evicted)
}

/// Forgets streams that are over and delivered; says whether there are some left.
pub(super) fn purge_streams(db: &Transaction<'_>, current: i64) -> rusqlite::Result<bool> {
    let old: Vec<i64> = db
        .prepare_cached("SELECT id FROM stream WHERE id <> ? ORDER BY id")?
        .query_map([current], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut left = false;
    for stream in old {
        let (from, until) = (Place::new(stream, 0), Place::new(stream + 1, 0));
        let is_empty: bool = db
            .prepare_cached(
                "SELECT NOT EXISTS (SELECT 1 FROM record WHERE place >= ? AND place < ?)",
            )?
            .query_row([from.raw(), until.raw()], |row| row.get(0))?;
        if is_empty {
            db.execute("DELETE FROM container WHERE stream = ?", [stream])?;
            db.execute("DELETE FROM stream WHERE id = ?", [stream])?;
        }
        left |= !is_empty;
    }
    Ok(left)
}
