//! Reading files within one look-up's budget, and noting what goes wrong.

use std::path::{Path, PathBuf};

use super::{
    Problem, Refusal,
    open::{Content, Tree},
    sources::Place,
};

/// Most bytes that one look-up reads.
pub const MAX_LOOKUP_BYTES: usize = 32 << 20;
const MAX_PROBLEMS: usize = 16;

/// What one look-up has read.
#[derive(Debug)]
pub(super) struct Reader {
    pub tree: Tree,
    /// Files that exist and were not used.
    pub problems: Vec<Problem>,
    /// A file did not parse: it may be being written.
    pub unfinished: bool,
    /// Bytes that may still be read.
    left: usize,
}

/// A file that was read and parsed.
#[derive(Debug)]
pub(super) struct Read<T> {
    pub value: T,
    pub file: PathBuf,
    /// Who owns it.
    pub uid: u32,
}

impl Reader {
    pub(super) fn new(tree: Tree) -> Self {
        Self {
            tree,
            problems: Vec::new(),
            unfinished: false,
            left: MAX_LOOKUP_BYTES,
        }
    }

    /// Reads and parses a file of at most `max` bytes; what goes wrong is noted.
    pub(super) fn read<T>(
        &mut self,
        place: &Place,
        below: impl AsRef<Path>,
        max: usize,
        parse: impl FnOnce(&[u8]) -> Result<Option<T>, serde_json::Error>,
    ) -> Option<Read<T>> {
        let below = below.as_ref();
        let file = place.path.join(below);
        let content = self
            .tree
            .dir(&place.path)
            .and_then(|dir| dir.read(below, max.min(self.left), place.owner));
        let Content { bytes, uid } = match content {
            Ok(content) => content,
            Err(why) => {
                self.refuse(file, why);
                return None;
            }
        };
        self.left = self.left.saturating_sub(bytes.len());
        match parse(&bytes) {
            Ok(value) => value.map(|value| Read { value, file, uid }),
            Err(error) => {
                self.unfinished |= !error.is_data();
                self.refuse(file, Refusal::Syntax);
                None
            }
        }
    }

    fn refuse(&mut self, file: PathBuf, why: Refusal) {
        if why != Refusal::Missing && self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { file, why });
        }
    }
}
