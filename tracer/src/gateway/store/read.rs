//! What readers ask: containers by search, one container, pieces of the log.
//!
//! Connections of their own, read-only, beside the writer; as many questions at a time as there are
//! connections, each on a thread that may block.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params_from_iter, types::Value};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    StoreError, Tried, open,
    pack::unpack,
    restore::{number_of, signed, state_of, unsigned},
};
use crate::{
    gateway::parse::{MIN_PREFIX, View},
    record::State,
};

/// Connections for reading.
const READERS: usize = 4;

/// Bytes of records that one page has, but for the last.
const PAGE_BYTES: usize = 4 << 20;

/// Rows that one search looks at before it gives what it has, and a cursor.
const MAX_LOOKED_AT: usize = 20_000;

/// A pool of reading connections.
#[derive(Debug)]
pub struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

/// Which containers are wanted.
#[derive(Debug, Clone, Default)]
pub struct Search {
    pub node: Option<String>,
    /// Empty: all that are not removed.
    pub states: Vec<State>,
    pub runtime: Option<String>,
    pub namespace: Option<String>,
    /// An id, a prefix of one, or a name.
    pub container: Option<String>,
    pub labels: Vec<String>,
    /// Part of a name, id, image, pod or node.
    pub text: Option<String>,
    /// Rows before this one.
    pub before: Option<i64>,
    pub limit: usize,
}

/// A row of the table of containers.
#[derive(Debug, Clone)]
pub struct ContainerRow {
    pub row: i64,
    pub node: String,
    pub instance: String,
    pub id: String,
    pub state: State,
    pub updated: u64,
    pub line: Bytes,
}

/// One page.
#[derive(Debug, Default)]
pub struct Found {
    pub rows: Vec<ContainerRow>,
    /// Where the next page begins.
    pub next: Option<i64>,
}

/// One record of the log.
#[derive(Debug, Clone)]
pub struct Item {
    pub number: u64,
    pub line: Bytes,
}

/// One batch of the log.
#[derive(Debug, Clone)]
pub struct Piece {
    pub first: u64,
    pub count: u64,
    pub received: u64,
    pub node: String,
    pub lines: Bytes,
}

impl Piece {
    /// Its records from `number` on.
    pub fn items(&self, number: u64) -> impl Iterator<Item = Item> {
        let lines = self.lines.split_inclusive(|byte| *byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\n").unwrap_or(line));
        (self.first..)
            .zip(lines)
            .filter(move |(n, _)| *n >= number)
            .map(|(number, line)| Item {
                number,
                line: self.lines.slice_ref(line),
            })
    }
}

const COLUMNS: &str = "SELECT c.id, n.name, c.instance, c.cid, c.state, c.updated, c.line, c.at
     FROM container c JOIN node n ON n.id = c.node WHERE ";

impl Readers {
    /// Connections are opened when they are needed.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            idle: Mutex::new(Vec::new()),
            places: Semaphore::new(READERS),
        }
    }

    async fn with<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        ask: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = |_| StoreError::Taken;
        let place = self.places.acquire().await.map_err(closed)?;
        let readers = std::sync::Arc::clone(self);
        let answer = spawn_blocking(move || {
            let idle = readers
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open(&readers.path, true)?,
            };
            let answer = ask(&connection)?;
            readers
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            Ok(answer)
        });
        let answer = answer.await;
        drop(place);
        answer.unwrap_or(Err(StoreError::Taken))
    }

    /// A page of containers, newest row first.
    pub async fn search(self: &std::sync::Arc<Self>, search: Search) -> Result<Found, StoreError> {
        self.with(move |connection| find(connection, &search)).await
    }

    /// All that an id, a prefix, a name or an instance may mean: first what is not removed, then the
    /// newest.
    pub async fn one(
        self: &std::sync::Arc<Self>,
        wanted: String,
        node: Option<String>,
    ) -> Result<Vec<ContainerRow>, StoreError> {
        self.with(move |connection| one(connection, &wanted, node.as_deref()))
            .await
    }

    /// Batches of the log from number `from` on, up to about `bytes`.
    pub async fn pieces(
        self: &std::sync::Arc<Self>,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<Piece>, StoreError> {
        self.with(move |connection| pieces(connection, from, bytes))
            .await
    }

    /// Number of the first record that was received at or after this time.
    pub async fn number_at(
        self: &std::sync::Arc<Self>,
        ms: u64,
    ) -> Result<Option<u64>, StoreError> {
        self.with(move |connection| number_at(connection, ms)).await
    }

    /// Where the run with this name began, and where the one after it did.
    pub async fn run(
        self: &std::sync::Arc<Self>,
        run: String,
    ) -> Result<Option<(u64, Option<u64>)>, StoreError> {
        self.with(move |connection| {
            let what = "read the runs";
            let first: Option<i64> = connection
                .query_row(
                    "SELECT first FROM run WHERE id = ?1",
                    [run.as_str()],
                    |row| row.get(0),
                )
                .optional()
                .tried(what)?;
            let Some(first) = first else { return Ok(None) };
            let next: Option<i64> = connection
                .query_row(
                    "SELECT min(first) FROM run WHERE first > ?1",
                    [first],
                    |row| row.get(0),
                )
                .tried(what)?;
            Ok(Some((unsigned(first), next.map(unsigned))))
        })
        .await
    }
}

/// Reads rows of the table; of those whose line is in the log alone it is read there.
struct Lines<'a> {
    connection: &'a Connection,
    /// Read last: neighbours are often in one.
    piece: Option<(u64, u64, Bytes)>,
}

impl<'a> Lines<'a> {
    const fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            piece: None,
        }
    }

    /// `None` where the log has its record no more: soon the row goes as well.
    fn row(&mut self, row: &Row<'_>) -> Result<Option<ContainerRow>, StoreError> {
        let what = "read a container";
        let at: Option<i64> = row.get(7).tried(what)?;
        let line = match at {
            Some(at) => self.find(unsigned(at))?,
            None => Some(Bytes::from(row.get::<_, Vec<u8>>(6).tried(what)?)),
        };
        let Some(line) = line else { return Ok(None) };
        Ok(Some(ContainerRow {
            row: row.get(0).tried(what)?,
            node: row.get(1).tried(what)?,
            instance: row.get(2).tried(what)?,
            id: row.get(3).tried(what)?,
            state: state_of(row.get(4).tried(what)?),
            updated: unsigned(row.get(5).tried(what)?),
            line,
        }))
    }

    fn find(&mut self, at: u64) -> Result<Option<Bytes>, StoreError> {
        let has = |(first, count, _): &(u64, u64, Bytes)| (*first..*first + *count).contains(&at);
        if !self.piece.as_ref().is_some_and(has) {
            self.piece = self.read(at)?.filter(has);
        }
        let Some((first, _, lines)) = &self.piece else {
            return Ok(None);
        };
        let index = usize::try_from(at - first).unwrap_or(usize::MAX);
        let line = lines.split(|byte| *byte == b'\n').nth(index);
        Ok(line.map(|line| lines.slice_ref(line)))
    }

    fn read(&self, at: u64) -> Result<Option<(u64, u64, Bytes)>, StoreError> {
        let what = "read the log";
        let found = self
            .connection
            .prepare_cached(
                "SELECT first, count, lines, plain FROM log WHERE first <= ?1
                 ORDER BY first DESC LIMIT 1",
            )
            .tried(what)?
            .query_row([signed(at)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()
            .tried(what)?;
        let Some((first, count, lines, plain)) = found else {
            return Ok(None);
        };
        Ok(Some((
            unsigned(first),
            unsigned(count),
            unpack(lines, plain)?,
        )))
    }
}

/// For LIKE: the text as it stands, with `\` as escape.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_")
}

fn find(connection: &Connection, search: &Search) -> Result<Found, StoreError> {
    let what = "search the containers";
    let (text, values) = conditions(search);
    let sql = format!("{COLUMNS}{text} ORDER BY c.id DESC");
    let mut statement = connection.prepare_cached(&sql).tried(what)?;
    let mut rows = statement.query(params_from_iter(values)).tried(what)?;
    let mut found = Found::default();
    let (mut looked_at, mut bytes) = (0, 0);
    let mut lines = Lines::new(connection);
    while let Some(next) = rows.next().tried(what)? {
        looked_at += 1;
        let at: i64 = next.get(0).tried(what)?;
        if let Some(container) = lines.row(next)?
            && has_label(&container, &search.labels)
        {
            bytes += container.line.len();
            found.rows.push(container);
        }
        let is_full = found.rows.len() >= search.limit || bytes >= PAGE_BYTES;
        if is_full || looked_at >= MAX_LOOKED_AT {
            found.next = Some(at);
            break;
        }
    }
    Ok(found)
}

fn has_label(container: &ContainerRow, wanted: &[String]) -> bool {
    wanted.is_empty() || View::parse(&container.line).is_some_and(|view| view.has_label(wanted))
}

fn conditions(search: &Search) -> (String, Vec<Value>) {
    let mut text = vec!["1 = 1".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        text.push(condition.replace('?', &format!("?{}", values.len())));
    };
    if search.states.is_empty() {
        add("c.state <> ?", number_of(State::Removed).into());
    } else {
        let set = search
            .states
            .iter()
            .fold(0, |set, state| set | 1 << number_of(*state));
        add("((1 << c.state) & ?) <> 0", Value::Integer(set));
    }
    if let Some(node) = &search.node {
        add(
            "c.node = (SELECT id FROM node WHERE name = ?)",
            node.clone().into(),
        );
    }
    if let Some(runtime) = &search.runtime {
        add("c.runtime = ?", runtime.clone().into());
    }
    if let Some(namespace) = &search.namespace {
        add("c.namespace = ?", namespace.clone().into());
    }
    if let Some(container) = &search.container {
        if container.len() >= MIN_PREFIX {
            add(
                "(c.cid = ? OR c.name = ? OR (c.cid >= ? AND c.cid < ? || char(0x10FFFF)))",
                container.clone().into(),
            );
        } else {
            add("(c.cid = ? OR c.name = ?)", container.clone().into());
        }
    }
    if let Some(wanted) = &search.text {
        add(
            "(c.name LIKE ? ESCAPE '\\' OR c.cid LIKE ? ESCAPE '\\' OR c.image LIKE ? ESCAPE '\\' \
             OR c.pod LIKE ? ESCAPE '\\' OR n.name LIKE ? ESCAPE '\\')",
            format!("%{}%", escaped(wanted)).into(),
        );
    }
    if let Some(before) = search.before {
        add("c.id < ?", before.into());
    }
    (text.join(" AND "), values)
}

/// Candidates that one question may have.
const MAX_CANDIDATES: i64 = 32;

fn one(
    connection: &Connection,
    wanted: &str,
    node: Option<&str>,
) -> Result<Vec<ContainerRow>, StoreError> {
    let what = "look a container up";
    // In this order: an index serves each of the first three; an instance has its cgroup's number in it.
    let mut ways = vec!["c.cid = ?1", "c.name = ?1"];
    if wanted.len() >= MIN_PREFIX {
        ways.push("c.cid >= ?1 AND c.cid < ?1 || char(0x10FFFF)");
    }
    if wanted.contains(':') {
        ways.push("c.instance = ?1");
    }
    for way in ways {
        let sql = format!(
            "{COLUMNS}{way} AND (?2 IS NULL OR n.name = ?2) ORDER BY c.state = {}, c.id DESC LIMIT {MAX_CANDIDATES}",
            number_of(State::Removed)
        );
        let mut statement = connection.prepare_cached(&sql).tried(what)?;
        let mut rows = statement
            .query(rusqlite::params![wanted, node])
            .tried(what)?;
        let mut lines = Lines::new(connection);
        let mut found = Vec::new();
        while let Some(row) = rows.next().tried(what)? {
            found.extend(lines.row(row)?);
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn pieces(connection: &Connection, from: u64, bytes: usize) -> Result<Vec<Piece>, StoreError> {
    let what = "read the log";
    let mut statement = connection
        .prepare_cached(
            "SELECT l.first, l.count, l.received, n.name, l.lines, l.plain FROM log l JOIN node n ON n.id = l.node
             WHERE l.first >= coalesce((SELECT max(first) FROM log WHERE first <= ?1), ?1)
             ORDER BY l.first",
        )
        .tried(what)?;
    let mut rows = statement.query([signed(from)]).tried(what)?;
    let mut pieces = Vec::new();
    let mut size = 0;
    while let Some(row) = rows.next().tried(what)? {
        let piece = Piece {
            first: unsigned(row.get(0).tried(what)?),
            count: unsigned(row.get(1).tried(what)?),
            received: unsigned(row.get(2).tried(what)?),
            node: row.get(3).tried(what)?,
            lines: unpack(row.get(4).tried(what)?, row.get(5).tried(what)?)?,
        };
        if piece.first + piece.count <= from {
            continue;
        }
        size += piece.lines.len();
        pieces.push(piece);
        if size >= bytes {
            break;
        }
    }
    Ok(pieces)
}

/// `received` rises with `first`: halves the range until it is found.
fn number_at(connection: &Connection, ms: u64) -> Result<Option<u64>, StoreError> {
    let what = "read the log";
    let ends: (Option<i64>, Option<i64>) = connection
        .query_row("SELECT min(first), max(first) FROM log", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .tried(what)?;
    let (Some(mut low), Some(mut high)) = ends else {
        return Ok(None);
    };
    let mut statement = connection
        .prepare_cached("SELECT first, received FROM log WHERE first >= ?1 ORDER BY first LIMIT 1")
        .tried(what)?;
    let mut found = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        let at: Option<(i64, i64)> = statement
            .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .tried(what)?;
        match at {
            Some((first, received)) if unsigned(received) < ms => low = first + 1,
            Some((first, _)) => {
                found = Some(unsigned(first));
                high = middle - 1;
            }
            None => high = middle - 1,
        }
    }
    Ok(found)
}
