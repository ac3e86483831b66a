//! What container runtimes were told to do, read from their own command lines.
//!
//! A bare `runc run -b BUNDLE ID` makes a cgroup whose path may be anything; its command line names
//! the container before the cgroup exists. The syntax read here is that of the OCI runtime command
//! line (`create`, `run`, `restore`, with the container's id as the last argument) and of conmon
//! (`-c ID`, `-b BUNDLE`, `-r RUNTIME`).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Metadata;

/// Runtime processes that are remembered; the oldest go first.
pub const MAX_CALLS: usize = 1024;

/// Longest container id that is believed.
const MAX_ID: usize = 1024;

/// One call that makes a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeCall {
    /// Base name of the runtime.
    pub runtime: Arc<str>,
    pub id: Arc<str>,
    /// Directory of the bundle, as given.
    pub bundle: Option<Arc<str>>,
    /// State directory, as given.
    pub root: Option<Arc<str>>,
    /// Whom it runs as: what it names may be read on this user's behalf only.
    pub uid: u32,
    /// What files said of the container before it was there.
    pub known: Option<Arc<Metadata>>,
}

/// The calls lately seen, by the pid that made them.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeCalls {
    by_pid: BTreeMap<u32, (u64, RuntimeCall)>,
    by_age: BTreeMap<u64, u32>,
    next: u64,
}

impl RuntimeCalls {
    /// Remembers that `pid` executed a runtime with `args`.
    pub fn note(&mut self, pid: u32, uid: u32, comm: &[u8], args: &[u8]) {
        self.remove(pid);
        let Some(call) = parse(comm, args) else {
            return;
        };
        let call = RuntimeCall { uid, ..call };
        if self.by_pid.len() >= MAX_CALLS
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_pid.remove(&oldest);
        }
        self.by_pid.insert(pid, (self.next, call));
        self.by_age.insert(self.next, pid);
        self.next += 1;
    }

    /// The call that `pid` made.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&RuntimeCall> {
        self.by_pid.get(&pid).map(|(_, call)| call)
    }

    /// The latest call for a container that this cgroup's name fits, with its pid.
    #[must_use]
    pub fn for_leaf(&self, leaf: &[u8]) -> Option<(u32, &RuntimeCall)> {
        self.by_age
            .values()
            .rev()
            .filter_map(|pid| Some((*pid, self.get(*pid)?)))
            .find(|(_, call)| call.fits(leaf))
    }

    /// The latest call for the container with this id; one of the user whose it is goes before
    /// anybody else's, who may have called it the same.
    #[must_use]
    pub fn for_id(&self, id: &str, user: Option<u32>) -> Option<&RuntimeCall> {
        let pids = self.by_age.values().rev();
        let mut calls = pids
            .filter_map(|pid| self.get(*pid))
            .filter(|call| &*call.id == id);
        let latest = calls.next()?;
        let is_users = |call: &&RuntimeCall| call.uid == user.unwrap_or(0);
        Some(latest)
            .into_iter()
            .chain(calls)
            .find(is_users)
            .or(Some(latest))
    }

    /// The call that `pid` made, and its number.
    #[must_use]
    pub fn numbered(&self, pid: u32) -> Option<(u64, &RuntimeCall)> {
        self.by_pid.get(&pid).map(|(number, call)| (*number, call))
    }

    /// Remembers what files say of the container that a call makes.
    pub fn learn(&mut self, number: u64, known: Arc<Metadata>) {
        let pid = self.by_age.get(&number);
        if let Some((_, call)) = pid.and_then(|pid| self.by_pid.get_mut(pid)) {
            call.known = Some(known);
        }
    }

    fn remove(&mut self, pid: u32) {
        if let Some((age, _)) = self.by_pid.remove(&pid) {
            self.by_age.remove(&age);
        }
    }
}

impl RuntimeCall {
    /// Who manages the container: the runtime itself, or containerd or Docker where the bundle lies
    /// in the directory of containerd's shim (`<state>/io.containerd.runtime.v2.task/<namespace>`).
    #[must_use]
    pub fn manager(&self) -> Arc<str> {
        let mut parts = self.bundle.as_deref().unwrap_or_default().split('/');
        match parts.find(|part| part.starts_with("io.containerd.runtime.")) {
            Some(_) if parts.next() == Some("moby") => "docker".into(),
            Some(_) => "containerd".into(),
            None => Arc::clone(&self.runtime),
        }
    }

    /// Whether a cgroup of this name may be the container's: its id, or its id in a systemd scope.
    #[must_use]
    pub fn fits(&self, leaf: &[u8]) -> bool {
        let id = self.id.as_bytes();
        leaf == id
            || leaf
                .strip_suffix(b".scope")
                .and_then(|name| name.strip_suffix(id))
                .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with(b"-"))
    }
}

/// Options of OCI runtimes that take their value as the next argument. Others are flags, or carry
/// their value after `=`.
const WITH_VALUE: &[&str] = &[
    "root",
    "log",
    "log-format",
    "log-level",
    "bundle",
    "b",
    "console-socket",
    "pid-file",
    "preserve-fds",
    "cgroup-manager",
    "criu",
    "rootless",
    "f",
    "file",
    "config",
    "c",
    "image-path",
    "work-path",
    "parent-path",
    "manage-cgroups-mode",
    "lsm-profile",
    "lsm-mount-context",
    "empty-ns",
    "pidfile-path",
    "no-pivot-root-path",
    "user-log",
    "platform",
    "network",
];

/// Reads a runtime's arguments (NUL between them).
fn parse(comm: &[u8], args: &[u8]) -> Option<RuntimeCall> {
    let mut words = args
        .split(|byte| *byte == 0)
        .map(|word| std::str::from_utf8(word).unwrap_or_default())
        .filter(|word| !word.is_empty());
    let program = words.next()?;
    if comm == b"conmon" {
        return parse_conmon(words);
    }
    let mut call = Oci::default();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix('-') else {
            call.positional(word);
            continue;
        };
        let option = option.strip_prefix('-').unwrap_or(option);
        match option.split_once('=') {
            Some((name, value)) => call.option(name, value),
            None if WITH_VALUE.contains(&option) => {
                if let Some(value) = words.next() {
                    call.option(option, value);
                }
            }
            None => {}
        }
    }
    if !matches!(call.verb, Some("create" | "run" | "restore")) {
        return None;
    }
    Some(RuntimeCall {
        runtime: base_name(program).into(),
        id: valid_id(call.id?)?,
        bundle: call.bundle.map(Into::into),
        root: call.root.map(Into::into),
        uid: 0,
        known: None,
    })
}

#[derive(Default)]
struct Oci<'a> {
    verb: Option<&'a str>,
    id: Option<&'a str>,
    bundle: Option<&'a str>,
    root: Option<&'a str>,
}

impl<'a> Oci<'a> {
    fn positional(&mut self, word: &'a str) {
        if self.verb.is_none() {
            self.verb = Some(word);
        } else {
            self.id = Some(word);
        }
    }

    fn option(&mut self, name: &str, value: &'a str) {
        match name {
            "bundle" | "b" => self.bundle = Some(value),
            "root" => self.root = Some(value),
            _ => {}
        }
    }
}

fn parse_conmon<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<RuntimeCall> {
    let (mut id, mut bundle, mut runtime) = (None, None, None);
    while let Some(word) = words.next() {
        match word {
            "-c" | "--cid" => id = words.next(),
            "-b" | "--bundle" => bundle = words.next(),
            "-r" | "--runtime" => runtime = words.next(),
            // `conmon -e` attends an exec session: no container is made.
            "-e" | "--exec" | "--exec-attach" => return None,
            _ => {}
        }
    }
    Some(RuntimeCall {
        runtime: base_name(runtime.unwrap_or("conmon")).into(),
        id: valid_id(id?)?,
        bundle: bundle.map(Into::into),
        root: None,
        uid: 0,
        known: None,
    })
}

fn valid_id(id: &str) -> Option<Arc<str>> {
    let good = !id.is_empty() && id.len() <= MAX_ID && !id.contains('/') && id != "." && id != "..";
    good.then(|| id.into())
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(comm: &str, line: &str, expected: Option<(&str, &str, Option<&str>, Option<&str>)>) {
        let args = line.replace(' ', "\0");
        let found = parse(comm.as_bytes(), args.as_bytes());
        let found = found.as_ref().map(|call| {
            (
                &*call.runtime,
                &*call.id,
                call.bundle.as_deref(),
                call.root.as_deref(),
            )
        });
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn command_lines_of_runtimes() {
        check("runc", "runc run t1", Some(("runc", "t1", None, None)));
        check(
            "runc",
            "/usr/sbin/runc --root /tmp/r --log=/x --systemd-cgroup run -d --bundle /b t1",
            Some(("runc", "t1", Some("/b"), Some("/tmp/r"))),
        );
        // dockerd 20.10 through containerd-shim-runc-v2
        check(
            "runc",
            "runc --root /run/r/moby --log /b/log.json --log-format json create --bundle /b --pid-file /b/init.pid 45312f",
            Some(("runc", "45312f", Some("/b"), Some("/run/r/moby"))),
        );
        check("runc", "runc start t1", None);
        check("runc", "runc exec t1 run x", None);
        check("runc", "runc init", None);
        check("runc", "runc create", None);
        check("runc", "runc run ../x", None);
        check(
            "crun",
            "crun run -b=/b c1",
            Some(("crun", "c1", Some("/b"), None)),
        );
        // podman 4.3
        check(
            "conmon",
            "/usr/bin/conmon --api-version 1 -c abc -u abc -r /usr/sbin/runc -b /ud -p /ud/pidfile -n web",
            Some(("runc", "abc", Some("/ud"), None)),
        );
        check("conmon", "conmon -c abc -e --exec-process-spec /x", None);
        check("runc", "", None);
    }

    #[test]
    fn a_scope_fits_its_container() {
        let call = parse(b"runc", b"runc\0run\0t-1").expect("a call");
        assert!(call.fits(b"t-1") && call.fits(b"runc-t-1.scope") && call.fits(b"t-1.scope"));
        assert!(!call.fits(b"t-12") && !call.fits(b"xt-1.scope") && !call.fits(b""));
    }

    #[test]
    fn memory_of_calls_is_bounded() {
        let mut calls = RuntimeCalls::default();
        for pid in 0..5_000 {
            calls.note(pid, 0, b"runc", format!("runc\0run\0c{pid}").as_bytes());
        }
        assert_eq!(
            (calls.by_pid.len(), calls.by_age.len()),
            (MAX_CALLS, MAX_CALLS)
        );
        assert_eq!(calls.get(4_999).map(|call| &*call.id), Some("c4999"));
        assert_eq!(calls.get(1), None);
    }
}
