//! Which bytes may be an id or a name. All checks are exact: whole strings, the right length, the
//! alphabet that the writer uses. Ids are lower case because every runtime prints them so.

/// `len` lower-case hexadecimal digits.
pub(super) fn is_hex(bytes: &[u8], len: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() | matches!(byte, b'a'..=b'f');
    // Without a way out in the middle the processor takes many bytes at once.
    bytes.len() == len && bytes.iter().fold(true, |all, byte| all & is_digit(*byte))
}

/// The 64 hexadecimal digits that Docker, containerd's CRI, CRI-O, Podman and nerdctl use as id.
pub(super) fn hex_id(bytes: &[u8]) -> Option<String> {
    if is_hex(bytes, 64) {
        ascii(bytes)
    } else {
        None
    }
}

/// `BuildKit`'s 25 base-36 digits (moby/buildkit `identity/randomid.go`).
pub(super) fn base36_id(bytes: &[u8]) -> Option<String> {
    let digits = bytes
        .iter()
        .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    if bytes.len() == 25 && digits {
        ascii(bytes)
    } else {
        None
    }
}

/// Groups of lower-case hexadecimal digits of the given lengths, joined by `separator`.
pub(super) fn is_hex_groups(bytes: &[u8], lengths: &[usize], separator: u8) -> bool {
    let mut groups = bytes.split(|b| *b == separator);
    lengths
        .iter()
        .all(|len| groups.next().is_some_and(|group| is_hex(group, *len)))
        && groups.next().is_none()
}

pub(super) fn is_uuid(bytes: &[u8]) -> bool {
    is_hex_groups(bytes, &[8, 4, 4, 4, 12], b'-')
}

/// containerd's rule for namespaces and container ids (containerd 2.x
/// `pkg/identifiers/validate.go`): alphanumeric runs joined by single `.`, `_` or `-`, at most 76
/// bytes. Names that end like a systemd unit are refused although containerd takes them: in a
/// cgroup tree they are units.
pub(super) fn identifier(bytes: &[u8]) -> Option<String> {
    let runs = bytes
        .split(|b| matches!(b, b'.' | b'_' | b'-'))
        .all(|run| !run.is_empty() && run.iter().all(u8::is_ascii_alphanumeric));
    if runs && bytes.len() <= 76 && unit_kind(bytes).is_none() {
        ascii(bytes)
    } else {
        None
    }
}

/// The ids that runc, crun and youki take (runc `libcontainer/factory_linux.go`: word characters,
/// `+`, `.` and `-`).
pub(super) fn oci_id(bytes: &[u8]) -> Option<String> {
    let allowed = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'.' | b'-'));
    if allowed && !matches!(bytes, b"" | b"." | b"..") && bytes.len() <= 1024 {
        ascii(bytes)
    } else {
        None
    }
}

/// The name of an LXC container or of a machine: what a host name may hold, and `_`, `+`, `@`, `:`
/// which LXC leaves alone. Never the name of a unit.
pub(super) fn host_name(bytes: &[u8]) -> Option<String> {
    let allowed = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'+' | b'@' | b':'));
    let starts_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    if allowed && starts_well && bytes.len() <= 255 && unit_kind(bytes).is_none() {
        ascii(bytes)
    } else {
        None
    }
}

/// Any UTF-8 text without control characters.
pub(super) fn printable(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.is_empty() || text.chars().any(char::is_control) {
        None
    } else {
        Some(text.to_owned())
    }
}

/// Undoes systemd's escaping of a unit name part (`\x2d` is `-`). A damaged escape yields None.
///
/// systemd writes `/` as `-`, but no machine name holds a slash, so a plain `-` is kept: machined
/// never writes one, other tools that imitate it do.
pub(super) fn unescape(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        rest = match rest {
            [] => return Some(out),
            [b'\\', b'x', high, low, tail @ ..] => {
                let pair = [*high, *low];
                let digits = std::str::from_utf8(&pair).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                tail
            }
            [b'\\', ..] => return None,
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
        };
    }
}

/// The unit types that own cgroups (systemd.unit(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnitKind {
    Slice,
    Scope,
    Service,
    Mount,
    Socket,
    Swap,
}

/// The kind of systemd unit that a cgroup of this name belongs to, if it is named like one.
pub(super) fn unit_kind(name: &[u8]) -> Option<UnitKind> {
    const SUFFIXES: [(&[u8], UnitKind); 6] = [
        (b".slice", UnitKind::Slice),
        (b".scope", UnitKind::Scope),
        (b".service", UnitKind::Service),
        (b".mount", UnitKind::Mount),
        (b".socket", UnitKind::Socket),
        (b".swap", UnitKind::Swap),
    ];
    SUFFIXES
        .iter()
        .find(|(suffix, _)| name.ends_with(suffix))
        .map(|(_, kind)| *kind)
}

fn ascii(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}
