//! Where the socket lies, and who may use it.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::{FlockOperation, Mode, flock},
    process::umask,
};

/// Where the socket is unless something else is said.
pub const DEFAULT_PATH: &str = "/run/tracer/tracer.sock";

/// Which socket to serve.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// [`DEFAULT_PATH`], where that is possible.
    #[default]
    Default,
    /// None.
    Off,
    /// This one, or it is an error.
    At(PathBuf),
}

impl Choice {
    /// As typed: `none` or a path.
    #[must_use]
    pub fn new(typed: Option<PathBuf>) -> Self {
        match typed {
            None => Self::Default,
            Some(path) if path.as_os_str() == "none" => Self::Off,
            Some(path) => Self::At(path),
        }
    }

    /// The path, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Default => Some(Path::new(DEFAULT_PATH)),
            Self::Off => None,
            Self::At(path) => Some(path),
        }
    }
}

/// A socket that listens. Its file goes with it, unless another daemon has replaced it.
#[derive(Debug)]
pub struct Bound {
    /// Taken by the event loop.
    pub(super) listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Bound {
    /// Listens where `choice` says; members of `group` may connect.
    ///
    /// # Errors
    ///
    /// A path that was asked for and cannot be used, a group that does not exist. The default path
    /// is done without where it cannot be used.
    pub fn new(choice: &Choice, group: Option<&str>) -> anyhow::Result<Option<Self>> {
        let gid = group.map(gid).transpose()?;
        let Some(path) = choice.path() else {
            return Ok(None);
        };
        match (Self::at(path, gid), choice) {
            (Err(error), Choice::Default) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    "no socket: `tracer events` cannot follow this daemon"
                );
                Ok(None)
            }
            (bound, _) => bound.map(Some),
        }
    }

    fn at(path: &Path, gid: Option<u32>) -> anyhow::Result<Self> {
        let name = path.display();
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        make(directory, gid)?;
        // Two daemons that start at once look at what is there one after the other.
        let held = fs::File::open(directory)
            .with_context(|| format!("cannot open {}", directory.display()))?;
        if let Err(error) = flock(&held, FlockOperation::NonBlockingLockExclusive) {
            tracing::debug!(%error, "directory of the socket not locked");
        }
        clear(path)?;
        let before = umask(Mode::RWXG | Mode::RWXO);
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.with_context(|| format!("cannot listen on {name}"))?;
        listener
            .set_nonblocking(true)
            .with_context(|| format!("cannot listen on {name}"))?;
        if let Some(gid) = gid {
            std::os::unix::fs::chown(path, None, Some(gid))
                .with_context(|| format!("cannot give {name} to group {gid}"))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .with_context(|| format!("cannot set the mode of {name}"))?;
        let file = fs::symlink_metadata(path).with_context(|| format!("cannot find {name}"))?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
            file: (file.dev(), file.ino()),
        })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let own = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if own && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "socket file stays");
        }
    }
}

/// Makes the socket's directory where there is none; one that exists stays as it is.
fn make(directory: &Path, gid: Option<u32>) -> anyhow::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let name = directory.display();
    let mode = if gid.is_some() { 0o750 } else { 0o755 };
    let above = directory.parent().map_or(Ok(()), fs::create_dir_all);
    above
        .and_then(|()| fs::DirBuilder::new().mode(mode).create(directory))
        .with_context(|| format!("cannot make the directory {name}"))?;
    if gid.is_some() {
        std::os::unix::fs::chown(directory, None, gid)
            .with_context(|| format!("cannot give {name} to the socket's group"))?;
    }
    Ok(())
}

/// Removes the socket of a daemon that is gone.
fn clear(path: &Path) -> anyhow::Result<()> {
    let name = path.display();
    match UnixStream::connect(path) {
        Ok(_) => {
            bail!("another daemon listens on {name}: stop it, or choose another path with --socket")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            use std::os::unix::fs::FileTypeExt as _;
            let file = fs::symlink_metadata(path).with_context(|| format!("cannot find {name}"))?;
            if !file.file_type().is_socket() {
                bail!(
                    "{name} is there and is no socket: remove it, or choose another path with --socket"
                );
            }
            fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {name}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot use {name}")),
    }
}

/// Number of a group by its name in `/etc/group`, or as a number.
fn gid(group: &str) -> anyhow::Result<u32> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let groups = fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    find_gid(&groups, group).with_context(|| {
        format!("there is no group '{group}' in /etc/group: make it, or give its number")
    })
}

fn find_gid(groups: &str, group: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tracer-bind-{}-{number}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\nadm:x:4:syslog\ntracer:x:987:me,you\n";
        for (group, gid) in [("root", Some(0)), ("tracer", Some(987)), ("me", None)] {
            assert_eq!(find_gid(groups, group), gid);
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_an_error() {
        let directory = directory();
        let path = directory.join("below").join("s");
        let choice = Choice::At(path.clone());
        let bound = Bound::new(&choice, None)
            .expect("bound")
            .expect("asked for");
        let mode = fs::metadata(&path)
            .expect("the socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = Bound::new(&choice, None).expect_err("a live daemon");
        assert!(format!("{error:#}").contains("another daemon"), "{error:#}");
        drop(bound);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).expect("a socket that nobody serves"));
        assert!(path.exists());
        drop(Bound::new(&choice, None).expect("replaced"));

        fs::write(&path, "precious").expect("a file");
        let error = Bound::new(&choice, None).expect_err("no socket");
        assert!(format!("{error:#}").contains("no socket"), "{error:#}");
        fs::remove_dir_all(directory).expect("the directory");
    }

    #[test]
    fn a_group_that_does_not_exist_is_named() {
        let error = Bound::new(&Choice::Default, Some("no-such-group")).expect_err("no group");
        assert!(error.to_string().contains("no-such-group"));
    }
}
