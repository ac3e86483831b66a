//! What fuzzing begins with, made from the test data of the tree: recordings, files of runtimes,
//! tables of paths. Small: libFuzzer does the rest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::workspace;

/// Most seeds of one kind; more of the same only slow the beginning down.
const MOST: usize = 400;
/// Bytes of a recording that are a seed.
const CUTS: [usize; 3] = [4 << 10, 8 << 10, 16 << 10];

/// A seed with the name of its file.
type Seed = (String, Vec<u8>);

/// Writes the seeds of `target` into `corpus`; how many there are.
pub fn write(target: &str, corpus: &Path) -> Result<usize> {
    let seeds = match target {
        "decode" => records()?,
        "identify" => paths()?,
        "recording" => recordings()?,
        "btf" => btf(),
        "enrich" => files()?,
        "request" => lines(REQUESTS),
        "config" => lines(CONFIGURATIONS),
        _ => Vec::new(),
    };
    for (name, bytes) in &seeds {
        let file = corpus.join(format!("seed-{name}"));
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(seeds.len())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Files of a directory of the tree, by name.
fn listed(below: &str) -> Result<Vec<PathBuf>> {
    let dir = workspace::root().join(below);
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn all_recordings() -> Result<Vec<(String, Vec<u8>)>> {
    let files = listed("tests/data")?;
    let recordings = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rec"));
    recordings
        .map(|file| Ok((stem(file), read(file)?)))
        .collect()
}

/// The beginnings of recordings, cut between entries.
fn recordings() -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for (name, bytes) in all_recordings()? {
        let ends: Vec<usize> = Entries::of(&bytes).map(|entry| entry.end).collect();
        for cut in CUTS {
            let end = ends.iter().copied().take_while(|end| *end <= cut).last();
            let begin = end.and_then(|end| bytes.get(..end));
            seeds.extend(begin.map(|begin| (format!("{name}-{cut}"), begin.to_vec())));
        }
    }
    Ok(seeds)
}

/// Records of the kernel side, out of recordings.
fn records() -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for (name, bytes) in all_recordings()? {
        let raw = Entries::of(&bytes).filter(|entry| entry.tag == RAW);
        for (number, entry) in raw.take(MOST / 4).enumerate() {
            seeds.push((format!("{name}-{number}"), entry.payload.to_vec()));
        }
    }
    Ok(seeds)
}

/// Tag of an entry that holds a record of the kernel side.
const RAW: u8 = 1;

/// The entries of a recording, as `tracer/src/recording.rs` lays them out.
struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Entry<'a> {
    tag: u8,
    payload: &'a [u8],
    /// Where the next one begins.
    end: usize,
}

impl<'a> Entries<'a> {
    /// Behind the line that says what it is, version, length and header.
    fn of(bytes: &'a [u8]) -> Self {
        const FIXED: usize = 17 + 4;
        let header = word(bytes, FIXED).unwrap_or(usize::MAX);
        Self {
            bytes,
            at: header.saturating_add(FIXED + 4),
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        const HEAD: usize = 16;
        let tag = *self.bytes.get(self.at)?;
        let start = self.at + HEAD;
        let end = start.checked_add(word(self.bytes, self.at + 4)?)?;
        let payload = self.bytes.get(start..end)?;
        self.at = end;
        Some(Entry { tag, payload, end })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*word)).ok()
}

/// The paths of the identity's own tables: rows of `path | verdict | origin`.
fn paths() -> Result<Vec<Seed>> {
    const SHORT: [(&str, &str); 9] = [
        (
            "{A}",
            "45312fe4a2b1c09d8e7f6a5b4c3d2e1f00112233445566778899aabbccddeeff",
        ),
        (
            "{B}",
            "b6a1f0e9d8c7b6a5f4e3d2c1b0a99887766554433221100ffeeddccbbaa99887",
        ),
        ("{P}", "872d2066-00ef-48ea-a7d8-51b18b72d739"),
        ("{P_}", "872d2066_00ef_48ea_a7d8_51b18b72d739"),
        ("{S}", "d76e26fba3bf2bfd215eb29011d55250"),
        ("{N}", "f5lxx1zz5pnorynqglhzmsp33"),
        ("{T}", "34dc0b5e626f2c5c4c5170e34b10e765"),
        ("{G}", "6f265890-5165-7fab-6b52-18d1"),
        ("{U}", "5b3a9e2c-7d41-4f0b-9a6e-1c2d3e4f5a6b"),
    ];
    let mut seeds = Vec::new();
    for file in listed("tracer/src/identity/tests")? {
        let text = String::from_utf8_lossy(&read(&file)?).into_owned();
        let rows = text.lines().filter(|row| row.starts_with('/'));
        for (number, row) in rows.enumerate() {
            let Some((path, _)) = row.split_once(" | ") else {
                continue;
            };
            let path = SHORT
                .iter()
                .fold(path.replace('^', ""), |path, (short, long)| {
                    path.replace(short, long)
                });
            seeds.push((format!("{}-{number}", stem(&file)), path.into_bytes()));
        }
    }
    Ok(seeds)
}

/// Files of runtimes, behind the letter that tells the target whose they are.
fn files() -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for file in listed("tracer/src/enrich/testdata")? {
        let name = stem(&file);
        let kinds: &[u8] = match name.as_str() {
            name if name.ends_with("bundle") => b"cpb",
            name if name.contains("config") => b"d",
            name if name.contains("containers") => b"s",
            _ => b"r",
        };
        let bytes = read(&file)?;
        for kind in kinds {
            let seed = [std::slice::from_ref(kind), &bytes].concat();
            seeds.push((format!("{name}-{}", char::from(*kind)), seed));
        }
    }
    seeds.extend(lines(FILES));
    Ok(seeds)
}

fn lines(texts: &[&str]) -> Vec<Seed> {
    let named = texts.iter().enumerate();
    named
        .map(|(number, text)| (number.to_string(), text.as_bytes().to_vec()))
        .collect()
}

const FILES: &[&str] = &[
    r#"d{"ID":"x","Created":"2026-11-21T23:16:56.05Z","Config":{"Image":"nginx:1","Labels":{"a":"b"}},"Name":"/web"}"#,
    r#"s[{"id":"x","names":["n"],"metadata":"{\"pod-name\":\"k8s_a_b_c_0\",\"attempt\":3}","created":"9999-12-31T23:59:59Z"}]"#,
    r#"r{"id":"x","bundle":"/b","config":{"labels":["a=b","bundle=/c"]},"created":"2024-05-01T10:00:00+01:00"}"#,
    r#"p{"annotations":{"io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.Metadata":"{\"name\":\"w\",\"attempt\":1}","io.kubernetes.cri-o.Labels":"{\"a\":\"b\"}"}}"#,
    r#"b{"annotations":{"org.opencontainers.image.ref.name":"h:5000/a/b:1@sha256:98bd7cfc43b8ef0ff130465e3d5427c0"},"mounts":[{"source":"/d/containers/x/hostname"}]}"#,
];

const REQUESTS: &[&str] = &[
    r#"{"version":1,"verb":"ps"}"#,
    r#"{"version":1,"verb":"inspect","id":"45312fe4"}"#,
    r#"{"version":1,"verb":"events","since":"1h30m","filter":{"types":["container.started"],"runtimes":["docker"],"labels":["a=b"]},"follow":true}"#,
    "1842",
    "2026-11-21T22:02:48.197+01:00",
    "2026-11-21",
    "500ms",
];

const CONFIGURATIONS: &[&str] = &[
    "processes = true\nargs = false\nring_bytes = 8388608\nqueue_bytes = 1\n",
    "socket = \"/run/x.sock\"\nsocket_group = \"adm\"\nhistory_bytes = 4194304\nformat = \"json\"\n",
    "runtime_names = [\"a\", 'b']\n[filter]\ntype = [\"oom\"]\nruntime = []\nlabel = [\"a=b\"]\n",
];

/// Type information in miniature: a union, a struct with it as an anonymous member, a pointer, a
/// prototype, a pointer to it, the typedef of a tracepoint, an enum.
fn btf() -> Vec<Seed> {
    let blobs = [
        blob(TYPES.split_at(3).0, NAMES),
        blob(TYPES, NAMES),
        blob(TYPES, b"\0"),
    ];
    let named = blobs.into_iter().enumerate();
    named
        .map(|(number, blob)| (number.to_string(), blob))
        .collect()
}

/// Offsets of the names are in [`TYPES`].
const NAMES: &[u8] =
    b"\0inner\0task_struct\0pid\0btf_trace_sched_process_exit\0cgroup_subsys_id\0memory_cgrp_id\0";

/// Each type in words: name, kind and number of parts, size or type, then the parts.
const TYPES: &[&[u32]] = &[
    &[0, (5 << 24) | 1, 8, 1, 0, 32],
    &[7, (4 << 24) | 2, 64, 19, 0, 64, 0, 1, 128],
    &[0, 2 << 24, 2],
    &[0, (13 << 24) | 2, 0, 0, 0, 0, 3],
    &[0, 2 << 24, 4],
    &[23, 8 << 24, 5],
    &[52, (6 << 24) | 1, 4, 69, 4],
];

fn blob(types: &[&[u32]], names: &[u8]) -> Vec<u8> {
    let types: Vec<u8> = types
        .iter()
        .flat_map(|words| words.iter().flat_map(|word| word.to_ne_bytes()))
        .collect();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut blob = 0xeb9f_u16.to_ne_bytes().to_vec();
    blob.extend_from_slice(&[1, 0]);
    for word in [24, 0, len(&types), len(&types), len(names)] {
        blob.extend_from_slice(&word.to_ne_bytes());
    }
    blob.extend_from_slice(&types);
    blob.extend_from_slice(names);
    blob
}
