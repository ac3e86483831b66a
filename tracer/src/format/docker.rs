//! The lines of `docker events --format '{{json .}}'`, for the containers of every runtime.
//!
//! Fields, their order and their spelling are those of Docker (moby `api/types/events`); attributes
//! are the container's labels, `image`, `name` and what belongs to the action. What is not known is
//! left out.
//!
//! | record | action | attributes |
//! | --- | --- | --- |
//! | `container.created` | `create` | |
//! | `container.started` | `start` | |
//! | `container.exec_started` | `exec_create: COMMAND`, `exec_start: COMMAND` | `execID` |
//! | `container.exec_exited` | `exec_die` | `execID`, `exitCode` |
//! | `container.oom` | `oom` | |
//! | `container.paused`, `container.resumed` | `pause`, `unpause` | |
//! | `container.exited` | `kill` (see below), `die` | `signal`; `exitCode`, `execDuration` |
//! | `container.removed` | `destroy` | |
//! | all others | nothing | |
//!
//! # Where the kernel sees something else than the daemon
//!
//! * `create` and `destroy` frame a task, not the daemon's entry of a container: a container that is
//!   stopped and started again is destroyed and created in between, always in pairs.
//! * `create` waits until all metadata is known, or until there is anything else to tell of the same
//!   instance: a script that looks at image and name gets them. It has the time of the creation.
//! * A call to kill is not seen, a death by signal is. So `kill` stands in front of a `die` that a
//!   signal brought about, unless the OOM killer sent it or it is one that programs bring on
//!   themselves ([`OWN_SIGNALS`]). Signals that a container survives are not told.
//! * COMMAND is the command line where `--args` is given, else the executed path alone, with the
//!   blank behind it that Docker prints after a command without arguments.
//! * `execID` is made of boot id, start time and pid: 64 hexadecimal digits, unique, the same in all
//!   lines of a session, but not the number that the daemon gave it.
//! * A label never replaces an attribute of the action: an image cannot fake an exit code.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;

use crate::{
    record::{Container, Enrichment, Image, Kind, Process, Record},
    time::Timestamp,
};

/// Signals that a process can bring on itself by a fault or a limit, as pid 1 of a namespace too or
/// without one: a death by them does not tell that someone sent them.
const OWN_SIGNALS: [u32; 10] = [
    4,  // ILL
    5,  // TRAP
    6,  // ABRT
    7,  // BUS
    8,  // FPE
    11, // SEGV
    13, // PIPE
    24, // XCPU
    25, // XFSZ
    31, // SYS
];

/// Creations that may wait for metadata; beyond that the oldest is told without.
const MAX_WAITING: usize = 4096;

/// One line. The order of the fields is that of Docker.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    status: String,
    id: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: String,
    #[serde(rename = "Actor")]
    actor: Actor,
    scope: &'static str,
    time: u64,
    #[serde(rename = "timeNano")]
    time_nano: u64,
}

/// What the line is about.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: Arc<str>,
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<String, String>,
}

/// The view, with the creations that were not told yet.
#[derive(Debug, Default)]
pub struct Docker {
    waiting: VecDeque<Creation>,
}

#[derive(Debug)]
struct Creation {
    time: Timestamp,
    container: Container,
}

impl Docker {
    /// The lines of one record; of most one, of some two, of others none.
    pub fn messages(&mut self, record: &Record) -> Vec<Message> {
        let Some(container) = &record.container else {
            return Vec::new();
        };
        let mut told = self.creations(record, container);
        for (action, attributes) in actions(record) {
            told.push(message(record.time, container, action, attributes));
        }
        told
    }

    /// Creations that this record lets go: its own instance's, or one too many.
    fn creations(&mut self, record: &Record, container: &Container) -> Vec<Message> {
        let mut told = Vec::new();
        if record.kind == Kind::Created {
            self.waiting.push_back(Creation {
                time: record.time,
                container: container.clone(),
            });
            if self.waiting.len() > MAX_WAITING
                && let Some(oldest) = self.waiting.pop_front()
            {
                told.push(create(oldest.time, &oldest.container));
            }
        }
        let may_get_more = matches!(record.kind, Kind::Created | Kind::Enriched)
            && record.enrichment != Some(Enrichment::Full);
        let mut own = self.waiting.iter();
        if !may_get_more
            && let Some(at) = own.position(|c| c.container.instance == container.instance)
            && let Some(creation) = self.waiting.remove(at)
        {
            told.push(create(creation.time, container));
        }
        told
    }
}

fn create(time: Timestamp, container: &Container) -> Message {
    message(time, container, "create".to_owned(), Vec::new())
}

/// What belongs to one action alone.
type Own = Vec<(&'static str, String)>;

fn actions(record: &Record) -> Vec<(String, Own)> {
    let one = |action: &str, own: Own| vec![(action.to_owned(), own)];
    match record.kind {
        Kind::Started => one("start", Own::new()),
        Kind::ExecStarted => {
            let command = command(record.process.as_ref());
            let own: Own = exec_id(record).into_iter().collect();
            vec![
                (format!("exec_create: {command}"), own.clone()),
                (format!("exec_start: {command}"), own),
            ]
        }
        Kind::ExecExited => {
            let own = exec_id(record).into_iter().chain(exit_code(record));
            one("exec_die", own.collect())
        }
        Kind::Oom => one("oom", Own::new()),
        Kind::Paused => one("pause", Own::new()),
        Kind::Resumed => one("unpause", Own::new()),
        Kind::Exited => {
            let mut actions = Vec::new();
            if let Some(signal) = sent_signal(record) {
                actions.push(("kill".to_owned(), vec![("signal", signal.to_string())]));
            }
            let own = exit_code(record).into_iter().chain(duration(record));
            actions.push(("die".to_owned(), own.collect()));
            actions
        }
        Kind::Removed => one("destroy", Own::new()),
        Kind::Created
        | Kind::Discovered
        | Kind::StartFailed
        | Kind::Emptied
        | Kind::Enriched
        | Kind::ProcessExec
        | Kind::ProcessExited
        | Kind::NodeStarted
        | Kind::NodeSynced
        | Kind::NodeGap
        | Kind::NodeResynced
        | Kind::NodeClock
        | Kind::NodeStopped => Vec::new(),
    }
}

fn message(time: Timestamp, container: &Container, action: String, own: Own) -> Message {
    let image = container.image.as_deref().and_then(image_name);
    let mut attributes = container
        .label
        .iter()
        .flat_map(|labels| labels.iter())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect::<BTreeMap<String, String>>();
    let name = container.name.as_deref().map(str::to_owned);
    let named = [("image", image.clone()), ("name", name)];
    let named = named
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    for (key, value) in named.chain(own) {
        attributes.insert(key.to_owned(), value);
    }
    Message {
        status: action.clone(),
        id: Arc::clone(&container.id),
        from: image,
        kind: "container",
        action,
        actor: Actor {
            id: Arc::clone(&container.id),
            attributes,
        },
        scope: "local",
        time: time.0 / 1_000_000_000,
        time_nano: time.0,
    }
}

/// As it was asked for: name and tag, or the id.
fn image_name(image: &Image) -> Option<String> {
    match (&image.name, image.tags.first()) {
        (Some(name), Some(tag)) => Some(format!("{name}:{tag}")),
        (Some(name), None) => Some(name.clone()),
        (None, _) => image.id.clone(),
    }
}

/// Docker joins program, a blank and the arguments, which it joins by blanks.
fn command(process: Option<&Process>) -> String {
    let given = process.and_then(|process| process.command_args.as_deref());
    if let Some((program, arguments)) = given.and_then(<[String]>::split_first) {
        return format!("{program} {}", arguments.join(" "));
    }
    let executable = process.and_then(|process| process.executable.as_ref());
    let program = executable.and_then(|file| file.path.as_deref().or(file.name.as_deref()));
    format!("{} ", program.unwrap_or_default())
}

/// Boot id (32 digits), start time (16), pid (16).
fn exec_id(record: &Record) -> Option<(&'static str, String)> {
    let (pid, start) = record.exec.as_ref()?.session.split_once(':')?;
    let (pid, start): (u32, u64) = (pid.parse().ok()?, start.parse().ok()?);
    let boot = record.host.boot_id.chars();
    let boot: String = boot.filter(char::is_ascii_hexdigit).take(32).collect();
    Some(("execID", format!("{boot:0>32}{start:016x}{pid:016x}")))
}

fn exit_code(record: &Record) -> Option<(&'static str, String)> {
    let exit = record.process.as_ref()?.exit.as_ref()?;
    Some(("exitCode", exit.code.to_string()))
}

/// Whole seconds.
fn duration(record: &Record) -> Option<(&'static str, String)> {
    let ns: u64 = record.duration_ns.as_ref()?.parse().ok()?;
    Some(("execDuration", (ns / 1_000_000_000).to_string()))
}

/// The signal that someone must have sent.
fn sent_signal(record: &Record) -> Option<u32> {
    let exit = record.process.as_ref()?.exit.as_ref()?;
    exit.signal.as_ref()?;
    let signal = exit.status & 0x7f;
    let is_sent = record.oom_killed != Some(true) && !OWN_SIGNALS.contains(&signal);
    is_sent.then_some(signal)
}
