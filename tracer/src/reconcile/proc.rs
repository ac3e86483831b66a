//! One process, from `/proc/PID`.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::lifecycle::{Comm, FoundProcess};

/// `USER_HZ` is 100 on every supported architecture.
const TICK_NS: u64 = 10_000_000;

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub pid: u32,
    pub vpid: u32,
    pub parent_pid: u32,
    pub pid_ns_level: u32,
    pub start_ns: u64,
    pub comm: Comm,
    /// It is the first of its pid namespace, or that or its mount namespace is not its parent's.
    pub entered: bool,
}

impl Seen {
    pub(super) fn is_waiting(&self) -> bool {
        FoundProcess::from(self.clone()).is_waiting()
    }
}

/// Reads processes one after the other. Those next to each other mostly have the same parent, whose
/// namespaces are kept for the next.
#[derive(Debug, Default)]
pub(super) struct Reader {
    parent: Option<(u32, Namespaces)>,
}

/// The pid and the mount namespace; `None` for what may not be known or is gone.
type Namespaces = [Option<PathBuf>; 2];

fn namespaces(pid: u32) -> Namespaces {
    ["pid", "mnt"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
}

impl Reader {
    /// Reads a process.
    ///
    /// # Errors
    ///
    /// Those of reading; a process that is gone is `NotFound` or `ESRCH`.
    pub(super) fn process(&mut self, pid: u32) -> io::Result<Seen> {
        let stat = read(Path::new(&format!("/proc/{pid}/stat")))?;
        let status = read(Path::new(&format!("/proc/{pid}/status")))?;
        let stat = parse_stat(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let (vpid, pid_ns_level) = parse_nspid(&status).unwrap_or((pid, 0));
        Ok(Seen {
            pid,
            vpid,
            parent_pid: stat.parent_pid,
            pid_ns_level,
            start_ns: stat.start_ns,
            comm: stat.comm,
            entered: vpid == 1 || self.has_namespaces_of_its_own(pid, stat.parent_pid),
        })
    }

    /// Whether a process is in other namespaces than its parent.
    fn has_namespaces_of_its_own(&mut self, pid: u32, parent: u32) -> bool {
        let own = namespaces(pid);
        match &self.parent {
            Some((known, theirs)) if *known == parent => own != *theirs,
            _ => {
                let (_, theirs) = self.parent.insert((parent, namespaces(parent)));
                own != *theirs
            }
        }
    }
}

/// Reads a file that the kernel makes as one piece (its `single_open`): in `/proc`, or of values in
/// cgroupfs. A read that leaves room has had all of it, so that most take one.
///
/// # Errors
///
/// Those of opening and reading.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut text = vec![0; 4096];
    let mut filled = 0;
    while let Some(room) = text.get_mut(filled..) {
        match file.read(room) {
            Ok(len) if len < room.len() => {
                filled += len;
                break;
            }
            Ok(len) => {
                filled += len;
                text.resize(2 * filled, 0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(filled);
    Ok(text)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: Comm,
    parent_pid: u32,
    start_ns: u64,
}

/// `pid (comm) state ppid … starttime …`; comm may hold anything, so the last `)` ends it.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let comm = stat.get(open + 1..close)?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    // The fields are numbered from 1 in proc(5); 3 is the first after comm.
    let mut fields = rest.split_ascii_whitespace();
    let parent_pid = fields.nth(1)?.parse().ok()?;
    let ticks: u64 = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        comm: comm.into(),
        parent_pid,
        start_ns: ticks.checked_mul(TICK_NS)?,
    })
}

/// The innermost pid of the `NSpid:` line, and how many namespaces deep it is.
fn parse_nspid(status: &[u8]) -> Option<(u32, u32)> {
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"NSpid:"))?;
    let pids: Vec<u32> = std::str::from_utf8(line)
        .ok()?
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    let level = u32::try_from(pids.len().checked_sub(1)?).ok()?;
    Some((*pids.last()?, level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let stat = b"4711 (a) R 1 (b) S 4690 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 812 0";
        assert_eq!(
            parse_stat(stat),
            Some(Stat {
                comm: b"a) R 1 (b".as_slice().into(),
                parent_pid: 4690,
                start_ns: 8_120_000_000,
            })
        );
        assert_eq!(parse_stat(b"4711 (a"), None);
    }

    #[test]
    fn the_innermost_pid_counts() {
        assert_eq!(
            parse_nspid(b"Name:\tx\nNSpid:\t4711\t12\t1\n"),
            Some((1, 2))
        );
        assert_eq!(parse_nspid(b"NSpid:\t4711\n"), Some((4711, 0)));
        assert_eq!(parse_nspid(b"Name:\tx\n"), None);
    }

    #[test]
    fn a_file_is_read_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        for len in [0, 100, 4095, 4096, 4097, 8192, 20_000] {
            let text = vec![b'x'; len];
            fs::write(&path, &text).expect("a file");
            assert_eq!(read(&path).expect("the file"), text);
        }
    }

    #[test]
    fn this_process_can_be_read() {
        let own = Reader::default()
            .process(std::process::id())
            .expect("own /proc entry");
        assert!(own.start_ns > 0 && !own.comm.is_empty());
    }
}
