//! Bytes of one ring buffer record to a [`RawEvent`]; pure.
//!
//! Reads by offset what `tracer_common` lays out, checks every length, borrows every text. A record
//! of an unknown kind or version, or shorter than what it says, is an error that the caller counts; it
//! never stops the stream.
//!
//! What is behind the last text of a record is whatever was in the ring before: it is not read, and not
//! kept ([`trim`]).

use std::mem::{offset_of, size_of};

use tracer_common::{
    ABI_VERSION, COMM_LEN, CgroupKey, FILENAME_LEN, Head, LEAF_LEN, PATH_LARGE, Process,
    RUNTIME_ARGS_LEN, kind,
};

/// Why a record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("record of {len} bytes is shorter than its kind ({kind})")]
    Short { kind: u16, len: usize },
    #[error("record of unknown kind {0}")]
    Kind(u16),
    #[error("record of ABI version {0}, this is {ABI_VERSION}")]
    Version(u16),
}

/// A record of the kernel side; texts are bytes, exactly as the kernel has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub time_ns: u64,
    /// CPU that made the record.
    pub cpu: u32,
    /// Low half of what this CPU had lost by then.
    pub drops: u32,
    pub what: What<'a>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    Mkdir(Mkdir<'a>),
    Rename(Mkdir<'a>),
    Rmdir {
        cgroup: CgroupKey,
    },
    Populated {
        cgroup: CgroupKey,
        populated: bool,
    },
    Frozen {
        cgroup: CgroupKey,
        frozen: bool,
    },
    Fork {
        cgroup: CgroupKey,
        child: Task<'a>,
        flags: u32,
    },
    Exec(Exec<'a>),
    Exit {
        cgroup: CgroupKey,
        process: Task<'a>,
        /// Wait status.
        status: u32,
        flags: u32,
    },
    Oom(Oom<'a>),
}

/// A cgroup that came to be, or its new path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mkdir<'a> {
    pub cgroup: CgroupKey,
    pub parent_id: u64,
    pub level: u32,
    pub maker_pid: u32,
    pub maker_parent_pid: u32,
    /// Path below the hierarchy's root; cut at its end where `leaf` is there.
    pub path: &'a [u8],
    /// Name of the leaf, where the kernel cut the path.
    pub leaf: Option<&'a [u8]>,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task<'a> {
    pub start_ns: u64,
    pub pid: u32,
    pub vpid: u32,
    pub parent_pid: u32,
    pub pid_ns_level: u32,
    pub comm: &'a [u8],
}

/// A program executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exec<'a> {
    pub cgroup: CgroupKey,
    pub parent_cgroup: CgroupKey,
    pub process: Task<'a>,
    pub flags: u32,
    pub filename: &'a [u8],
    /// NUL between arguments; empty where they were not asked for.
    pub args: &'a [u8],
    /// Effective user id, in the initial user namespace.
    pub uid: u32,
}

/// A victim of the OOM killer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oom<'a> {
    pub cgroup: CgroupKey,
    pub victim: Task<'a>,
    /// Memory cgroup whose limit was hit; none where the host ran out.
    pub limit: Option<CgroupKey>,
    /// Memory cgroup of the victim.
    pub memory: CgroupKey,
    pub limit_bytes: u64,
}

impl What<'_> {
    /// The cgroup that the record is about.
    #[must_use]
    pub const fn cgroup(&self) -> CgroupKey {
        match self {
            Self::Mkdir(mkdir) | Self::Rename(mkdir) => mkdir.cgroup,
            Self::Rmdir { cgroup }
            | Self::Populated { cgroup, .. }
            | Self::Frozen { cgroup, .. }
            | Self::Fork { cgroup, .. }
            | Self::Exit { cgroup, .. } => *cgroup,
            Self::Exec(exec) => exec.cgroup,
            Self::Oom(oom) => oom.cgroup,
        }
    }
}

/// Reads one record.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode(record: &[u8]) -> Result<RawEvent<'_>, DecodeError> {
    decode_first(record).map(|(event, _)| event)
}

/// A record without what is behind the last that it says; what cannot be read is left as it is.
#[must_use]
pub fn trim(record: &[u8]) -> &[u8] {
    let behind = decode_first(record).map_or(0, |(_, behind)| behind.len());
    let said = record.len().saturating_sub(behind);
    record.get(..said).unwrap_or(record)
}

/// Also gives what is behind.
fn decode_first(record: &[u8]) -> Result<(RawEvent<'_>, &[u8]), DecodeError> {
    let mut fields = Fields(record);
    let head = fields.head().ok_or(DecodeError::Short {
        kind: 0,
        len: record.len(),
    })?;
    if head.version != ABI_VERSION {
        return Err(DecodeError::Version(head.version));
    }
    let what = match head.kind {
        kind::CGROUP_MKDIR => fields.mkdir().map(What::Mkdir),
        kind::CGROUP_RENAME => fields.mkdir().map(What::Rename),
        kind::CGROUP_RMDIR => fields.state().map(|(cgroup, _)| What::Rmdir { cgroup }),
        kind::CGROUP_POPULATED => fields
            .state()
            .map(|(cgroup, populated)| What::Populated { cgroup, populated }),
        kind::CGROUP_FROZEN => fields
            .state()
            .map(|(cgroup, frozen)| What::Frozen { cgroup, frozen }),
        kind::FORK => fields.fork(),
        kind::EXEC => fields.exec().map(What::Exec),
        kind::EXIT => fields.exit(),
        kind::OOM => fields.oom().map(What::Oom),
        other => return Err(DecodeError::Kind(other)),
    };
    let what = what.ok_or(DecodeError::Short {
        kind: head.kind,
        len: record.len(),
    })?;
    let event = RawEvent {
        time_ns: head.time_ns,
        cpu: head.cpu,
        drops: head.drops,
        what,
    };
    Ok((event, fields.0))
}

// The reader below takes the fields one after the other; these pin their order to the ABI's.
const _: () = assert!(size_of::<Process>() == 8 + 4 * 4 + COMM_LEN);
const _: () = assert!(offset_of!(tracer_common::Exec, flags) == 24 + 16 + 16 + 40);
const _: () = assert!(offset_of!(tracer_common::Oom, limit_bytes) == 24 + 16 + 40 + 16 + 16);

/// The rest of a record; each call takes the next field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*taken))
    }

    fn u32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*taken))
    }

    fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_ne_bytes(*taken))
    }

    fn head(&mut self) -> Option<Head> {
        Some(Head {
            time_ns: self.u64()?,
            drops: self.u32()?,
            cpu: self.u32()?,
            kind: self.u16()?,
            version: self.u16()?,
            len: self.u32()?,
        })
    }

    fn cgroup(&mut self) -> Option<CgroupKey> {
        let id = self.u64()?;
        let hierarchy = self.u32()?;
        self.u32()?;
        Some(CgroupKey::new(hierarchy, id))
    }

    fn task(&mut self) -> Option<Task<'a>> {
        Some(Task {
            start_ns: self.u64()?,
            pid: self.u32()?,
            vpid: self.u32()?,
            parent_pid: self.u32()?,
            pid_ns_level: self.u32()?,
            comm: until_nul(self.bytes(COMM_LEN)?),
        })
    }

    /// `len` bytes of a text whose class has `capacity`.
    /// A text with another behind it.
    fn text(&mut self, capacity: usize, len: u16) -> Option<&'a [u8]> {
        self.bytes(capacity)?.get(..usize::from(len))
    }

    /// The last text: what is behind it may be missing.
    fn last_text(&mut self, capacity: usize, len: u16) -> Option<&'a [u8]> {
        let len = usize::from(len);
        self.bytes(len).filter(|_| len <= capacity)
    }

    fn mkdir(&mut self) -> Option<Mkdir<'a>> {
        let cgroup = self.cgroup()?;
        let parent_id = self.u64()?;
        let level = self.u32()?;
        let maker_pid = self.u32()?;
        let maker_parent_pid = self.u32()?;
        let path_len = self.u16()?;
        let leaf_len = self.u16()?;
        // Only the larger class has a leaf.
        let (path, leaf) = if leaf_len == 0 {
            (self.last_text(PATH_LARGE, path_len)?, None)
        } else {
            let path = self.text(PATH_LARGE, path_len)?;
            (path, Some(self.last_text(LEAF_LEN, leaf_len)?))
        };
        Some(Mkdir {
            cgroup,
            parent_id,
            level,
            maker_pid,
            maker_parent_pid,
            path,
            leaf,
        })
    }

    fn state(&mut self) -> Option<(CgroupKey, bool)> {
        Some((self.cgroup()?, self.u32()? != 0))
    }

    fn fork(&mut self) -> Option<What<'a>> {
        Some(What::Fork {
            cgroup: self.cgroup()?,
            child: self.task()?,
            flags: self.u32()?,
        })
    }

    fn exec(&mut self) -> Option<Exec<'a>> {
        let cgroup = self.cgroup()?;
        let parent_cgroup = self.cgroup()?;
        let process = self.task()?;
        let flags = self.u32()?;
        let filename_len = self.u16()?;
        let args_len = self.u16()?;
        let uid = self.u32()?;
        self.u32()?;
        let (filename, args) = if args_len == 0 {
            (self.last_text(FILENAME_LEN, filename_len)?, &[][..])
        } else {
            let filename = self.text(FILENAME_LEN, filename_len)?;
            (filename, self.last_text(RUNTIME_ARGS_LEN, args_len)?)
        };
        Some(Exec {
            cgroup,
            parent_cgroup,
            process,
            flags,
            filename,
            args,
            uid,
        })
    }

    fn exit(&mut self) -> Option<What<'a>> {
        Some(What::Exit {
            cgroup: self.cgroup()?,
            process: self.task()?,
            status: self.u32()?,
            flags: self.u32()?,
        })
    }

    fn oom(&mut self) -> Option<Oom<'a>> {
        let cgroup = self.cgroup()?;
        let victim = self.task()?;
        let limit = self.cgroup()?;
        let memory = self.cgroup()?;
        Some(Oom {
            cgroup,
            victim,
            limit: (limit.id != 0).then_some(limit),
            memory,
            limit_bytes: self.u64()?,
        })
    }
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::{ARGS_LEN, PATH_SMALL};

    /// Builds a record field by field, in the order in which the ABI has them.
    struct Build(Vec<u8>);

    impl Build {
        fn new(kind: u16) -> Self {
            Self(Vec::new())
                .u64(7_000)
                .u32(3)
                .u32(1)
                .u16(kind)
                .u16(ABI_VERSION)
                .u32(0)
        }

        fn bytes(mut self, bytes: &[u8], capacity: usize) -> Self {
            self.0.extend_from_slice(bytes);
            // What is behind a text is whatever was in the ring before.
            self.0.resize(self.0.len() + capacity - bytes.len(), 0xa5);
            self
        }

        fn u64(mut self, value: u64) -> Self {
            self.0.extend_from_slice(&value.to_ne_bytes());
            self
        }

        fn u32(mut self, value: u32) -> Self {
            self.0.extend_from_slice(&value.to_ne_bytes());
            self
        }

        fn u16(mut self, value: u16) -> Self {
            self.0.extend_from_slice(&value.to_ne_bytes());
            self
        }

        fn key(self, hierarchy: u32, id: u64) -> Self {
            self.u64(id).u32(hierarchy).u32(0)
        }

        fn task(self) -> Self {
            self.u64(5)
                .u32(4711)
                .u32(1)
                .u32(4690)
                .u32(1)
                .bytes(b"sh\0", COMM_LEN)
        }
    }

    const TASK: Task<'_> = Task {
        start_ns: 5,
        pid: 4711,
        vpid: 1,
        parent_pid: 4690,
        pid_ns_level: 1,
        comm: b"sh",
    };

    const KEY: CgroupKey = CgroupKey::new(2, 42);

    /// Decodes to `expected`, and every shorter record to an error.
    #[track_caller]
    fn check(record: &Build, expected: What<'_>) {
        let raw = decode(&record.0).expect("a good record");
        assert_eq!((raw.time_ns, raw.drops, raw.cpu), (7_000, 3, 1));
        assert_eq!(raw.what, expected);
        let trimmed = trim(&record.0);
        for len in 0..record.0.len() {
            let cut = record.0.get(..len).expect("shorter");
            match decode(cut) {
                // Only what is behind the last text may be missing.
                Ok(raw) => {
                    assert_eq!(raw.what, expected, "cut at {len}");
                    assert_eq!(trim(cut), trimmed, "cut at {len}");
                }
                Err(error) => {
                    assert!(len < trimmed.len(), "{error}, cut at {len}");
                    assert!(matches!(error, DecodeError::Short { .. }), "{error}");
                }
            }
        }
    }

    fn mkdir<'a>(path: &'a [u8], leaf: Option<&'a [u8]>) -> What<'a> {
        What::Mkdir(Mkdir {
            cgroup: KEY,
            parent_id: 41,
            level: 2,
            maker_pid: 50,
            maker_parent_pid: 40,
            path,
            leaf,
        })
    }

    fn mkdir_record(path_len: u16, leaf_len: u16) -> Build {
        Build::new(kind::CGROUP_MKDIR)
            .key(2, 42)
            .u64(41)
            .u32(2)
            .u32(50)
            .u32(40)
            .u16(path_len)
            .u16(leaf_len)
    }

    #[test]
    fn paths_of_both_classes() {
        let short = mkdir_record(3, 0).bytes(b"/t1", PATH_SMALL);
        check(&short, mkdir(b"/t1", None));
        let long = vec![b'x'; 1023];
        let record = mkdir_record(1023, 4)
            .bytes(&long, PATH_LARGE)
            .bytes(b"leaf", LEAF_LEN);
        let raw = decode(&record.0).expect("a good record");
        assert_eq!(raw.what, mkdir(&long, Some(b"leaf")));
    }

    #[test]
    fn states_of_a_cgroup() {
        let state = |kind| Build::new(kind).key(2, 42).u32(1).u32(0);
        check(&state(kind::CGROUP_RMDIR), What::Rmdir { cgroup: KEY });
        let populated = true;
        check(
            &state(kind::CGROUP_POPULATED),
            What::Populated {
                cgroup: KEY,
                populated,
            },
        );
        let frozen = true;
        check(
            &state(kind::CGROUP_FROZEN),
            What::Frozen {
                cgroup: KEY,
                frozen,
            },
        );
    }

    #[test]
    fn processes() {
        check(
            &Build::new(kind::FORK).key(2, 42).task().u32(5).u32(0),
            What::Fork {
                cgroup: KEY,
                child: TASK,
                flags: 5,
            },
        );
        check(
            &Build::new(kind::EXIT).key(2, 42).task().u32(0x300).u32(6),
            What::Exit {
                cgroup: KEY,
                process: TASK,
                status: 0x300,
                flags: 6,
            },
        );
    }

    #[test]
    fn execs_of_every_class() {
        for (class, args) in [
            (0, b"".as_slice()),
            (ARGS_LEN, b"sh\0-c\0x\0"),
            (RUNTIME_ARGS_LEN, b"runc\0run\0t1\0"),
        ] {
            let record = Build::new(kind::EXEC)
                .key(2, 42)
                .key(2, 1)
                .task()
                .u32(7)
                .u16(7)
                .u16(u16::try_from(args.len()).expect("short"))
                .u32(1000)
                .u32(0)
                .bytes(b"/bin/sh", FILENAME_LEN)
                .bytes(args, class);
            let raw = decode(&record.0).expect("a good record");
            let expected = What::Exec(Exec {
                cgroup: KEY,
                parent_cgroup: CgroupKey::new(2, 1),
                process: TASK,
                flags: 7,
                filename: b"/bin/sh",
                args,
                uid: 1000,
            });
            assert_eq!(raw.what, expected);
        }
    }

    #[test]
    fn a_victim() {
        let record = |limit| {
            Build::new(kind::OOM)
                .key(2, 42)
                .task()
                .key(4, limit)
                .key(4, 70)
                .u64(1 << 20)
                .u32(0)
                .u32(0)
        };
        for (id, limit) in [(0, None), (71, Some(CgroupKey::new(4, 71)))] {
            check(
                &record(id),
                What::Oom(Oom {
                    cgroup: KEY,
                    victim: TASK,
                    limit,
                    memory: CgroupKey::new(4, 70),
                    limit_bytes: 1 << 20,
                }),
            );
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(decode(&Build::new(99).0), Err(DecodeError::Kind(99)));
        let mut other = Build::new(kind::CGROUP_RMDIR).key(2, 42).u64(0);
        other.0[18] = 0xff;
        assert!(matches!(decode(&other.0), Err(DecodeError::Version(_))));
        // A length that reaches beyond the class is no reason to read beyond it.
        let lie = mkdir_record(u16::MAX, 0).bytes(b"/t1", PATH_SMALL);
        assert!(matches!(decode(&lie.0), Err(DecodeError::Short { .. })));
        assert_eq!(trim(&lie.0), &*lie.0);
    }
}
