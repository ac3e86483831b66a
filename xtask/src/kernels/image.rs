//! The type information (BTF) inside a kernel image, without booting it.
//!
//! ```text
//!  bzImage:  boot sector │ setup code │ … payload (compressed vmlinux, its length) …
//!            offsets 0x1f1, 0x248, 0x24c                  │ gzip, xz, lz4 or zstd
//!                                                         ▼
//!  vmlinux (ELF64):  section header table ──▶ section ".BTF"
//! ```
//!
//! Offsets as in the kernel's `Documentation/arch/x86/boot.rst`, protocol 2.08 and later. All of
//! them come from the file and are checked.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, workspace};

/// How the vmlinux inside is compressed, with the program that undoes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Xz,
    Lz4,
    Zstd,
}

impl Compression {
    fn of(payload: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 4] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        MAGICS
            .into_iter()
            .find_map(|(magic, compression)| payload.starts_with(magic).then_some(compression))
    }

    fn program(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Reads the BTF of a bzImage; `scratch` is a file for what lies inside, removed afterwards.
pub fn btf(vmlinuz: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let image =
        fs::read(vmlinuz).with_context(|| format!("cannot read {}", workspace::shown(vmlinuz)))?;
    let (compression, payload) = payload(&image)?;
    fs::write(scratch, payload)
        .with_context(|| format!("cannot write {}", workspace::shown(scratch)))?;
    let inner = decompress(compression, scratch);
    drop(fs::remove_file(scratch));
    Ok(section(&inner?, b".BTF")?.to_vec())
}

fn decompress(compression: Compression, file: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(command::find(compression.program()).with_context(|| {
        format!(
            "{} is not installed: the kernel is compressed with it",
            compression.program()
        )
    })?);
    let input =
        File::open(file).with_context(|| format!("cannot read {}", workspace::shown(file)))?;
    let output = command
        .arg("-dc")
        .stdin(Stdio::from(input))
        .output()
        .with_context(|| format!("cannot start {}", command::describe(&command)))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            command::describe(&command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(output.stdout)
}

/// The compressed vmlinux in a bzImage. All but gzip are followed by the length of what comes out.
fn payload(image: &[u8]) -> Result<(Compression, &[u8])> {
    const SECTOR: usize = 512;
    const LENGTH_FIELD: usize = 4;
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("not a bzImage: it lacks the boot header");
    }
    // The boot sector itself comes before the setup code; none said means four, for history's sake.
    let setup = match image.get(0x1f1) {
        None | Some(0) => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let start = u32_at(image, 0x248)
        .and_then(|offset| offset.checked_add((setup + 1) * SECTOR))
        .context("the bzImage ends in its header")?;
    let whole = u32_at(image, 0x24c)
        .and_then(|length| image.get(start..start.checked_add(length)?))
        .context("the bzImage ends before its payload does")?;
    let compression =
        Compression::of(whole).context("the kernel is compressed in a way unknown")?;
    let payload = match compression {
        Compression::Gzip => whole,
        _ => whole
            .get(..whole.len().saturating_sub(LENGTH_FIELD))
            .unwrap_or_default(),
    };
    Ok((compression, payload))
}

/// Contents of a section of a little-endian ELF64 file.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Result<&'a [u8]> {
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("what the kernel image holds is not a 64-bit little-endian ELF file");
    }
    find_section(elf, name).with_context(|| {
        format!(
            "the kernel has no section {}: it was built without CONFIG_DEBUG_INFO_BTF",
            String::from_utf8_lossy(name)
        )
    })
}

fn find_section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let table = usize::try_from(u64_at(elf, 0x28)?).ok()?;
    let size = usize::from(u16_at(elf, 0x3a)?);
    let header = |index: u16| {
        let start = table.checked_add(size.checked_mul(usize::from(index))?)?;
        elf.get(start..start.checked_add(size)?)
    };
    let contents = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let length = usize::try_from(u64_at(header, 0x20)?).ok()?;
        elf.get(start..start.checked_add(length)?)
    };
    let names = contents(header(u16_at(elf, 0x3e)?)?)?;
    (0..u16_at(elf, 0x3c)?)
        .filter_map(header)
        .find_map(|header| {
            let own = names.get(u32_at(header, 0)?..)?;
            let is_it = own.split(|byte| *byte == 0).next() == Some(name);
            is_it.then(|| contents(header)).flatten()
        })
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<usize> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
        data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// One sector of setup code, then 16 bytes of something, then the payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * 512 + 16];
        image[0x1f1] = 1;
        put(&mut image, 0x202, b"HdrS");
        put(&mut image, 0x248, &16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        put(&mut image, 0x24c, &length.to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn the_payload_is_found_and_its_trailing_length_left_out() {
        let rows: [(&[u8], Compression, &[u8]); 3] = [
            (
                b"\x28\xb5\x2f\xfdabc\x07\0\0\0",
                Compression::Zstd,
                b"\x28\xb5\x2f\xfdabc",
            ),
            (
                b"\x02\x21\x4c\x18abc\x07\0\0\0",
                Compression::Lz4,
                b"\x02\x21\x4c\x18abc",
            ),
            (b"\x1f\x8babc", Compression::Gzip, b"\x1f\x8babc"),
        ];
        for (whole, compression, expected) in rows {
            let image = image(whole);
            assert_eq!(payload(&image).unwrap(), (compression, expected));
            for length in 0..image.len() {
                assert!(payload(&image[..length]).is_err(), "cut at {length}");
            }
        }
        assert!(payload(&image(b"unknown")).is_err());
    }

    /// Header, then the contents of `.x`, then the names, then three section headers.
    fn elf() -> Vec<u8> {
        let names = b"\0.names\0.x\0";
        let mut elf = vec![0; 64];
        put(&mut elf, 0, b"\x7fELF\x02\x01");
        elf.extend(b"contents");
        elf.extend(names);
        let table = elf.len();
        for (name, start, length) in [(0_u32, 0_usize, 0), (1, 72, names.len()), (8, 64, 8)] {
            let mut header = vec![0; 64];
            put(&mut header, 0, &name.to_le_bytes());
            put(&mut header, 0x18, &(start as u64).to_le_bytes());
            put(&mut header, 0x20, &(length as u64).to_le_bytes());
            elf.extend(header);
        }
        put(&mut elf, 0x28, &(table as u64).to_le_bytes());
        put(&mut elf, 0x3a, &64_u16.to_le_bytes());
        put(&mut elf, 0x3c, &3_u16.to_le_bytes());
        put(&mut elf, 0x3e, &1_u16.to_le_bytes());
        elf
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        let elf = elf();
        assert_eq!(section(&elf, b".x").unwrap(), b"contents");
        assert!(section(&elf, b".BTF").is_err());
        assert!(section(&elf, b".").is_err());
        for length in 0..elf.len() {
            assert!(section(&elf[..length], b".x").is_err(), "cut at {length}");
        }
    }

    #[test]
    fn wild_offsets_are_no_section() {
        for at in [
            0x28,
            0x3a,
            0x3c,
            0x3e,
            72 + 11 + 64 + 0x18,
            72 + 11 + 128 + 0x20,
        ] {
            let mut elf = elf();
            put(&mut elf, at, &[0xff, 0xff]);
            drop(section(&elf, b".x"));
            let end = (at + 8).min(elf.len());
            elf[at..end].fill(0xff);
            drop(section(&elf, b".x"));
        }
    }
}
