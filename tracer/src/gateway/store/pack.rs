//! Lines as they lie in the log: compressed, since records of one node repeat themselves, and the disk
//! is what bounds how many can be taken in.

use bytes::Bytes;

/// Below this it is not worth the while, bytes.
const LEAST: usize = 512;

/// Lines, ready to be written.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    pub bytes: Bytes,
    /// Bytes of the text; 0 where it stands as it is.
    pub plain: u32,
}

/// What was stored is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("lines of the log are damaged: {0}")]
pub struct Damaged(lz4_flex::block::DecompressError);

impl Packed {
    /// Of lines, each with its newline.
    #[must_use]
    pub fn of(lines: &Bytes) -> Self {
        let Ok(plain) = u32::try_from(lines.len()) else {
            return Self::as_they_are(lines);
        };
        if lines.len() < LEAST {
            return Self::as_they_are(lines);
        }
        let bytes = lz4_flex::block::compress(lines);
        if bytes.len() >= lines.len() {
            return Self::as_they_are(lines);
        }
        Self {
            bytes: bytes.into(),
            plain,
        }
    }

    fn as_they_are(lines: &Bytes) -> Self {
        Self {
            bytes: lines.clone(),
            plain: 0,
        }
    }
}

/// The lines again.
pub fn unpack(bytes: Vec<u8>, plain: u32) -> Result<Bytes, Damaged> {
    if plain == 0 {
        return Ok(bytes.into());
    }
    let size = usize::try_from(plain).unwrap_or(usize::MAX);
    let lines = lz4_flex::block::decompress(&bytes, size).map_err(Damaged)?;
    Ok(lines.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were() {
        let record = br#"{"id":"x/1","seq":1,"type":"container.started"}"#;
        for text in [&b""[..], b"{}\n", &record.repeat(3), &record.repeat(1000)] {
            let lines = Bytes::copy_from_slice(text);
            let packed = Packed::of(&lines);
            assert!(packed.bytes.len() <= lines.len());
            assert_eq!(packed.plain != 0, lines.len() >= LEAST);
            let again = unpack(packed.bytes.to_vec(), packed.plain).expect("whole");
            assert_eq!(again, lines);
        }
    }

    #[test]
    fn what_is_damaged_is_told_and_never_larger_than_said() {
        let lines = Bytes::from(b"container ".repeat(1000));
        let packed = Packed::of(&lines);
        let mut cut = packed.bytes.to_vec();
        cut.truncate(cut.len() / 2);
        assert!(unpack(cut, packed.plain).is_err());
        assert!(unpack(packed.bytes.to_vec(), 10).is_err());
    }
}
