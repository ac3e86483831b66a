//! Paths in which no family found anything: the host's own, or possibly a bare runtime's.
//!
//! A bare runtime (runc, crun, youki with cgroupfs) puts a container where its caller says, by
//! default below the caller's own cgroup or beside it, under any name. So a plain name is unknown
//! unless something says that it is the host's; a systemd unit is the host's, but for scopes of an
//! unusual prefix, which a caller of runc can choose (`SLICE:PREFIX:NAME`).

use super::Identity;
use super::containerd::is_namespace;
use super::kubernetes::is_kubepods;
use super::segment::segments;
use super::text::{UnitKind, unit_kind};

/// What systemd, logind, desktops, terminals and snapd call their scopes.
const SCOPE_PREFIXES: [&[u8]; 14] = [
    b"session-",
    b"run-",
    b"app-",
    b"snap.",
    b"flatpak-",
    b"vte-spawn-",
    b"tmux-spawn-",
    b"ptyxis-spawn-",
    b"gnome-",
    b"dbus-",
    b"apps-",
    b"lxc-",
    b"user-",
    b"systemd-",
];

/// Slices of a user's systemd whose scopes are programs that a desktop started (systemd
/// `docs/DESKTOP_ENVIRONMENTS.md`).
const DESKTOP_SLICES: [&[u8]; 3] = [b"app.slice", b"session.slice", b"background.slice"];

/// Services whose child cgroups are their own: they are delegated to and start no bare runtime
/// below themselves.
const DAEMONS: [&[u8]; 19] = [
    b"buildkit",
    b"containerd",
    b"cri-docker",
    b"crio",
    b"dbus",
    b"dbus-broker",
    b"docker",
    b"garden",
    b"incus",
    b"k3s",
    b"k3s-agent",
    b"kubelet",
    b"libvirtd",
    b"lxc",
    b"lxd",
    b"nix-daemon",
    b"podman",
    b"rke2-agent",
    b"rke2-server",
];

/// Directories under which runtimes and kubelet put what they make.
const PARENTS: [&[u8]; 14] = [
    b"actions_job",
    b"besteffort",
    b"burstable",
    b"docker",
    b"ecs",
    b"elogind",
    b"firecracker",
    b"garden",
    b"libpod_parent",
    b"libvirt",
    b"lxc",
    b"lxc.payload",
    b"nomad",
    b"openrc",
];

pub(super) fn classify(path: &[u8]) -> Identity {
    let mut verdict = not("the root of the hierarchy");
    let mut closed = false;
    let mut above: &[u8] = &[];
    for (depth, segment) in segments(path).enumerate() {
        let name = segment.name;
        verdict = match unit_kind(name) {
            Some(kind) => unit(above, name, kind),
            // Where systemd runs a unit's further commands (systemd `src/core/service.c`).
            None if name == b".control" => not("systemd's, inside a unit"),
            None if closed => not("inside a cgroup of the host's"),
            None if is_parent(above, name, depth) => not("holds containers, is none"),
            None => Identity::Unknown,
        };
        closed = is_closed(name, closed);
        above = name;
    }
    verdict
}

fn not(why: &'static str) -> Identity {
    Identity::NotContainer { why }
}

fn unit(above: &[u8], name: &[u8], kind: UnitKind) -> Identity {
    match kind {
        UnitKind::Slice => not("a systemd slice"),
        UnitKind::Service => not("a systemd service"),
        UnitKind::Mount => not("a systemd mount"),
        UnitKind::Socket => not("a systemd socket"),
        UnitKind::Swap => not("a systemd swap"),
        UnitKind::Scope => {
            let known = SCOPE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || DESKTOP_SLICES.contains(&above);
            // Every runtime joins a prefix and a name.
            if known || !name.contains(&b'-') {
                not("a systemd scope")
            } else {
                Identity::Unknown
            }
        }
    }
}

fn is_parent(above: &[u8], name: &[u8], depth: usize) -> bool {
    let subdivision = matches!(
        (above, name),
        (b"docker", b"buildkit" | b"buildx")
            | (b"garden", b"good" | b"bad")
            // OpenRC's services on cgroup v1; on v2 they are `/openrc.NAME` (openrc
            // `sh/rc-cgroup.sh`).
            // A cluster of ECS likewise.
            | (b"openrc" | b"ecs", _)
            | (b"nomad", b"share" | b"shared" | b"reserve" | b"reserved")
    );
    PARENTS.contains(&name)
        || subdivision
        || is_kubepods(name)
        || (depth == 0
            && (name == b"kubelet" || is_namespace(name) || name.starts_with(b"openrc.")))
}

/// Whether plain names below this one are the host's.
fn is_closed(name: &[u8], already: bool) -> bool {
    match unit_kind(name) {
        Some(UnitKind::Mount | UnitKind::Socket | UnitKind::Swap) => true,
        Some(UnitKind::Service) => {
            let stem = name.strip_suffix(b".service").unwrap_or(name);
            DAEMONS.contains(&stem) || stem.starts_with(b"systemd-") || stem.starts_with(b"snap.")
        }
        // systemd itself lives there.
        Some(UnitKind::Scope) => name == b"init.scope",
        Some(UnitKind::Slice) => false,
        None => already,
    }
}
