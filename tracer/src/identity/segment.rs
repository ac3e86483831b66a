//! A cgroup path cut into its names.

/// One name of a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub name: &'a [u8],
    /// Offset in the path just behind the name.
    pub end: usize,
}

/// The names of `path` in order. Empty names (leading, trailing and doubled slashes), `.` and `..`
/// are passed over: a process in a cgroup namespace sees its siblings as `/../NAME`, and the kernel
/// allows no cgroup to be called `.` or `..`.
#[derive(Debug, Clone)]
pub(super) struct Segments<'a> {
    path: &'a [u8],
    at: usize,
}

pub(super) fn segments(path: &[u8]) -> Segments<'_> {
    Segments { path, at: 0 }
}

/// The segments that follow offset `at`.
pub(super) fn segments_from(path: &[u8], at: usize) -> Segments<'_> {
    Segments { path, at }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        loop {
            let rest = self.path.get(self.at..)?;
            let len = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            let name = rest.get(..len)?;
            let end = self.at + len;
            // One past the slash; past the end of the path `get` above yields None.
            self.at = end + 1;
            if !matches!(name, b"" | b"." | b"..") {
                return Some(Segment { name, end });
            }
        }
    }
}
