//! Memory that only the start needed.
//!
//! Of what the kernel maps of the binary and its libraries most is run once: the command line, the
//! look at the host, the first scan. It counts as the daemon's resident memory as long as it is mapped,
//! and mapped pages are the last that the kernel reclaims where memory is short. Once the start is over
//! all of it is unmapped ([`shed`]); what the daemon works with comes back at its next use, from the
//! page cache, a neighbourhood of 64 KiB at a time: some dozens of minor faults, once.
//!
//! # Safety
//!
//! `MADV_DONTNEED` gives back what a mapping had: of a private file mapping the next access finds what
//! the file has. So nothing is lost of a mapping that cannot be written to and in which no page is the
//! process's own. What the dynamic linker has relocated and then made read only has such pages, and is
//! left alone (`Anonymous` and `Swap` of `proc_pid_smaps(5)`).

#![expect(unsafe_code, reason = "see `Safety` above")]

use std::{fs, io, ptr::with_exposed_provenance_mut};

use rustix::mm::{Advice, madvise};

/// Unmaps what is mapped of files and is as the files are.
///
/// # Errors
///
/// `/proc/self/smaps` cannot be read.
pub fn shed() -> io::Result<()> {
    for Mapping { start, length } in clean(&fs::read_to_string("/proc/self/smaps")?) {
        // SAFETY: see above; what is executed meanwhile comes back as any other of these pages.
        let advised = unsafe {
            madvise(
                with_exposed_provenance_mut(start),
                length,
                Advice::LinuxDontNeed,
            )
        };
        if let Err(error) = advised {
            tracing::debug!(%error, start, "a mapping stays as it is");
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    length: usize,
}

/// Mappings of files that cannot be written to and have no page of the process's own.
fn clean(smaps: &str) -> Vec<Mapping> {
    let mut clean = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        match first.strip_suffix(':') {
            Some("Anonymous" | "Swap") if words.next() != Some("0") => current = None,
            // The last of each.
            Some("VmFlags") => clean.extend(current.take()),
            Some(_) => {}
            None => current = mapping_of(line),
        }
    }
    clean
}

/// `start-end perms offset device inode path`
fn mapping_of(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let path = words.nth(3)?;
    if !matches!(permissions, "r-xp" | "r--p") || !path.starts_with('/') {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    let start = address(start)?;
    Some(Mapping {
        start,
        length: address(end)?.checked_sub(start)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_the_file_is_goes() {
        let smaps = "\
            1000-3000 r--p 00000000 fe:00 1 /usr/bin/tracer\nRss: 8 kB\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd mr\n\
            3000-4000 r-xp 00002000 fe:00 1 /usr/bin/tracer\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd ex\n\
            4000-5000 r--p 00003000 fe:00 1 /usr/bin/tracer\nAnonymous: 4 kB\nSwap: 0 kB\nVmFlags: rd\n\
            5000-6000 r--p 00003000 fe:00 1 /usr/bin/tracer\nAnonymous: 0 kB\nSwap: 4 kB\nVmFlags: rd\n\
            6000-7000 rw-p 00004000 fe:00 1 /usr/bin/tracer\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd wr\n\
            7000-8000 r--s 00000000 00:0e 2 /dev/shared\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd\n\
            8000-9000 r-xp 00000000 00:00 0 [vdso]\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd ex\n\
            9000-a000 r--p 00000000 00:00 0\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd\n\
            a000-b000 r-xp 00000000 fe:00 1 /usr/lib/with a space\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd\n";
        let starts: Vec<usize> = clean(smaps).iter().map(|mapping| mapping.start).collect();
        assert_eq!(starts, [0x1000, 0x3000, 0xa000]);
        assert_eq!(
            clean(smaps)[0],
            Mapping {
                start: 0x1000,
                length: 0x2000
            }
        );
    }

    #[test]
    fn the_process_goes_on() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").expect("own status");
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("RssFile:"));
            let line = line.expect("files").trim().to_owned();
            line.trim_end_matches(" kB").parse::<u64>().expect("KiB")
        };
        let before = resident();
        shed().expect("own mappings");
        assert!(resident() < before, "{before} KiB of files before");
    }
}
