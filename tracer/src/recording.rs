//! Recordings: the entries that an engine took up, in a file.
//!
//! ```text
//! "tracer-recording\n" │ version u32 │ length u32 │ header, JSON
//! then per entry: tag u8 │ 3 zero bytes │ length u32 │ now u64 │ payload, by its tag
//! ```
//!
//! Numbers are little-endian; a raw payload is in the byte order of the machine that recorded it,
//! which the header names. A file that ends within an entry is an error that says at which byte.

mod payload;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read as _, Seek, SeekFrom, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tracer_common::ABI_VERSION;

use crate::{
    engine::{Engine, Entry},
    lifecycle::{self, Machine},
    record::Host,
    render::{Renderer, Written},
    time::{BootNs, WallOffset},
};

const MAGIC: &[u8; 17] = b"tracer-recording\n";
const VERSION: u32 = 2;
/// No stream gets there; beyond it the numbers of a recording's records would overflow.
const MAX_SEQ: u64 = 1 << 62;
/// A longer entry is no entry: the largest real one is a scan of a full host.
const MAX_ENTRY: u32 = 256 << 20;

/// Up to here a length is taken at its word: nearly every entry, and no memory worth a thought.
const SMALL_ENTRY: u32 = 64 << 10;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("not a recording of tracer")]
    Foreign,
    #[error("a recording of version {0}, this tracer reads version {VERSION}")]
    Version(u32),
    #[error("recorded with ABI version {0}, this tracer has version {ABI_VERSION}")]
    Abi(u16),
    #[error("recorded on a machine of the other byte order")]
    ByteOrder,
    #[error("the recording ends within an entry, at byte {0}")]
    Truncated(u64),
    #[error("entry at byte {0} cannot be read: {1}")]
    Entry(u64, String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What an engine needs to start as the recorded one did.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, by name in a file"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header<Table = Machine> {
    pub abi: u16,
    pub big_endian: bool,
    pub stream: Arc<str>,
    pub next_seq: u64,
    pub host: Host,
    pub offset: u64,
    pub hierarchies: Vec<(u32, Arc<str>)>,
    pub freezer: Option<u32>,
    pub processes: bool,
    /// What the engine knew already; without it, it began with nothing.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    /// Losses of the kernel side that the stream has told already, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<String, u64>,
    /// When the newest record of the kernel side was made.
    #[serde(default)]
    pub last_record: BootNs,
    /// That record, where another process may find it in the ring once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Box<[u8]>>,
    /// Id of the programs that the records come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<Arc<str>>,
    /// The table is not what the host is: a scan has to follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// The process before ended in order: nothing was told after this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

impl Header<Machine> {
    /// Of a new engine.
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        Self::over(engine, None)
    }

    /// An engine as the recorded one was at its start.
    #[must_use]
    pub fn into_engine(self) -> Engine {
        let machine = self.table.unwrap_or_else(|| {
            let host = lifecycle::Host {
                boot_id: self.host.boot_id.as_str().into(),
                hierarchies: self.hierarchies.clone(),
                freezer: self.freezer,
                processes: self.processes,
            };
            Machine::new(host, self.next_seq)
        });
        let renderer = Renderer {
            stream: self.stream,
            host: Arc::new(self.host),
            offset: WallOffset(self.offset),
            hierarchies: self.hierarchies.into_iter().collect(),
            written: Written::default(),
        };
        Engine::new(machine, renderer)
    }
}

impl<'a> Header<&'a Machine> {
    /// Of an engine that goes on from here.
    #[must_use]
    pub fn of(engine: &'a Engine) -> Self {
        Self::over(engine, Some(&engine.machine))
    }
}

impl<Table> Header<Table> {
    fn over(engine: &Engine, table: Option<Table>) -> Self {
        let host = engine.machine.host();
        Self {
            abi: ABI_VERSION,
            big_endian: cfg!(target_endian = "big"),
            stream: Arc::clone(&engine.renderer.stream),
            next_seq: engine.machine.next_seq(),
            host: (*engine.renderer.host).clone(),
            offset: engine.renderer.offset.0,
            hierarchies: host.hierarchies.clone(),
            freezer: host.freezer,
            processes: host.processes,
            table,
            told: BTreeMap::new(),
            last_record: BootNs(0),
            newest: None,
            programs: None,
            unfinished: false,
            stopped: false,
        }
    }
}

/// Writes a recording. Each entry is one write: what is killed in between leaves the whole of it or
/// an end that [`Player`] names.
#[derive(Debug)]
pub struct Recorder<W> {
    to: W,
    entry: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Recorder<W> {
    /// Begins a recording.
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn new(mut to: W, header: &Header<impl Serialize>) -> io::Result<Self> {
        let header = serde_json::to_vec(header)?;
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        to.write_all(&length(&header)?.to_le_bytes())?;
        to.write_all(&header)?;
        Ok(Self::after(to, 0))
    }

    /// Goes on with a recording behind its last whole entry.
    #[must_use]
    pub const fn after(to: W, bytes: u64) -> Self {
        Self {
            to,
            entry: Vec::new(),
            bytes,
        }
    }

    /// Bytes of entries.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it writes to.
    #[must_use]
    pub const fn get_ref(&self) -> &W {
        &self.to
    }

    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn write(&mut self, now: BootNs, entry: &Entry<'_>) -> io::Result<()> {
        let to = &mut self.entry;
        to.clear();
        to.extend_from_slice(&[0; ENTRY_HEAD]);
        let tag = payload::write(entry, to)?;
        if let Some((head, payload)) = to.split_first_chunk_mut() {
            let len = length(payload)?;
            *head = Head { tag, len, now }.bytes();
        }
        self.to.write_all(&self.entry)?;
        self.bytes += u64::try_from(self.entry.len()).unwrap_or(0);
        if self.entry.capacity() > SPARE_BYTES {
            self.entry = Vec::new();
        }
        Ok(())
    }

    /// Hands everything to the file.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A longer buffer is given back after its entry, which was a scan.
const SPARE_BYTES: usize = 64 << 10;

fn length(payload: &[u8]) -> io::Result<u32> {
    u32::try_from(payload.len())
        .ok()
        .filter(|len| *len <= MAX_ENTRY)
        .ok_or_else(|| io::Error::other("entry too long for a recording"))
}

/// Reads a recording. An entry that lies whole in the reader's buffer is lent from there; only one
/// that does not is put together in memory of its own.
#[derive(Debug)]
pub struct Player<R> {
    from: R,
    at: u64,
    /// Bytes of the reader's buffer that the last entry took.
    lent: usize,
    payload: Vec<u8>,
}

/// Bytes before a payload.
const ENTRY_HEAD: usize = 16;

impl<R: BufRead> Player<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    ///
    /// [`RecordingError`] where this is no recording that can be replayed here.
    pub fn new(from: R) -> Result<(Self, Header), RecordingError> {
        let (player, header) = Self::of_any_abi(from)?;
        if header.abi != ABI_VERSION {
            return Err(RecordingError::Abi(header.abi));
        }
        Ok((player, header))
    }

    /// Likewise, also where raw records in it cannot be read here.
    ///
    /// # Errors
    ///
    /// [`RecordingError`].
    pub fn of_any_abi(from: R) -> Result<(Self, Header), RecordingError> {
        let mut player = Self {
            from,
            at: 0,
            lent: 0,
            payload: Vec::new(),
        };
        let mut magic = [0; MAGIC.len()];
        if !player.fill(&mut magic).unwrap_or(false) || magic != *MAGIC {
            return Err(RecordingError::Foreign);
        }
        let version = player.u32()?;
        if version != VERSION {
            return Err(RecordingError::Version(version));
        }
        let len = player.u32()?;
        let at = player.at;
        player.take(len)?;
        let header: Header = serde_json::from_slice(&player.payload)
            .map_err(|error| RecordingError::Entry(at, error.to_string()))?;
        if header.big_endian != cfg!(target_endian = "big") {
            return Err(RecordingError::ByteOrder);
        }
        let table = header.table.as_ref().map_or(0, Machine::next_seq);
        if header.next_seq.max(table) > MAX_SEQ {
            let why = format!("{} is no number of a record", header.next_seq);
            return Err(RecordingError::Entry(at, why));
        }
        Ok((player, header))
    }

    /// The next entry and its moment; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`RecordingError`].
    pub fn entry(&mut self) -> Result<Option<(BootNs, Entry<'_>)>, RecordingError> {
        let at = self.at;
        self.from.consume(std::mem::take(&mut self.lent));
        if let Some((head, len)) = self.whole()? {
            self.lent = ENTRY_HEAD + len;
            self.at += self.lent as u64;
            let buffer = self.from.fill_buf()?;
            let payload = buffer.get(ENTRY_HEAD..self.lent).unwrap_or_default();
            let entry =
                payload::read(head.tag, payload).map_err(|why| RecordingError::Entry(at, why))?;
            return Ok(Some((head.now, entry)));
        }
        let mut head = [0; ENTRY_HEAD];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let head = Head::of(head);
        self.take(head.len)?;
        let entry =
            payload::read(head.tag, &self.payload).map_err(|why| RecordingError::Entry(at, why))?;
        Ok(Some((head.now, entry)))
    }

    /// Head and length of the next entry, where all of it is in the reader's buffer.
    fn whole(&mut self) -> Result<Option<(Head, usize)>, RecordingError> {
        let buffer = match self.from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            buffer => buffer?,
        };
        let Some((head, rest)) = buffer.split_first_chunk() else {
            return Ok(None);
        };
        let head = Head::of(*head);
        let len = usize::try_from(head.len).unwrap_or(usize::MAX);
        Ok((len <= rest.len()).then_some((head, len)))
    }

    /// Bytes read so far: after [`Player::entry`] returned, the end of a whole entry.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// Reads on from a position that [`Player::position`] gave.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn go_to(&mut self, position: u64) -> io::Result<()>
    where
        R: Seek,
    {
        self.from.seek(SeekFrom::Start(position))?;
        self.at = position;
        Ok(())
    }

    /// Fills `to`; `false` where the file ended before its first byte.
    fn fill(&mut self, to: &mut [u8]) -> Result<bool, RecordingError> {
        let mut filled = 0;
        while let Some(rest) = to.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(RecordingError::Truncated(self.at)),
                Ok(len) => {
                    filled += len;
                    self.at += u64::try_from(len).unwrap_or(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn u32(&mut self) -> Result<u32, RecordingError> {
        let mut bytes = [0; 4];
        if self.fill(&mut bytes)? {
            Ok(u32::from_le_bytes(bytes))
        } else {
            Err(RecordingError::Truncated(self.at))
        }
    }

    /// Reads a payload. Memory grows with what is really there, not with what the length claims.
    fn take(&mut self, len: u32) -> Result<(), RecordingError> {
        if len > MAX_ENTRY {
            let why = format!("a length of {len} bytes");
            return Err(RecordingError::Entry(self.at, why));
        }
        self.payload.clear();
        if len <= SMALL_ENTRY {
            self.payload.resize(usize::try_from(len).unwrap_or(0), 0);
            let mut payload = std::mem::take(&mut self.payload);
            let filled = self.fill(&mut payload);
            self.payload = payload;
            return match filled {
                Ok(true) => Ok(()),
                Ok(false) if len == 0 => Ok(()),
                Ok(false) => Err(RecordingError::Truncated(self.at)),
                Err(error) => Err(error),
            };
        }
        let mut limited = (&mut self.from).take(u64::from(len));
        let read = limited.read_to_end(&mut self.payload)?;
        self.at += u64::try_from(read).unwrap_or(0);
        if u32::try_from(read) == Ok(len) {
            Ok(())
        } else {
            Err(RecordingError::Truncated(self.at))
        }
    }
}

/// What stands before a payload.
struct Head {
    tag: u8,
    len: u32,
    now: BootNs,
}

impl Head {
    /// Tag u8, zeros, length u32, now u64.
    const fn of(bytes: [u8; ENTRY_HEAD]) -> Self {
        let [tag, _, _, _, l0, l1, l2, l3, n0, n1, n2, n3, n4, n5, n6, n7] = bytes;
        Self {
            tag,
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            now: BootNs(u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7])),
        }
    }

    const fn bytes(&self) -> [u8; ENTRY_HEAD] {
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        let [n0, n1, n2, n3, n4, n5, n6, n7] = self.now.0.to_le_bytes();
        [
            self.tag, 0, 0, 0, l0, l1, l2, l3, n0, n1, n2, n3, n4, n5, n6, n7,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(next_seq: u64) -> Vec<u8> {
        let host = lifecycle::Host {
            boot_id: "b".into(),
            hierarchies: Vec::new(),
            freezer: None,
            processes: false,
        };
        let renderer = Renderer {
            stream: "s".into(),
            host: Arc::new(Host {
                name: "h".to_owned(),
                id: None,
                boot_id: "b".to_owned(),
            }),
            offset: WallOffset(0),
            hierarchies: BTreeMap::new(),
            written: Written::default(),
        };
        let engine = Engine::new(Machine::new(host, next_seq), renderer);
        let mut file = Vec::new();
        Recorder::new(&mut file, &Header::of(&engine)).expect("a recording");
        file
    }

    #[test]
    fn numbers_that_would_overflow_are_refused() {
        assert!(Player::new(&*header(MAX_SEQ)).is_ok());
        for beyond in [MAX_SEQ + 1, u64::MAX] {
            let error = Player::new(&*header(beyond)).expect_err("no number");
            let told = error.to_string();
            assert!(told.contains("no number of a record"), "{told}");
        }
    }
}
