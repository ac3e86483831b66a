//! `tracer identify PATH…`: what the path of a cgroup says, without asking the host.

use std::{
    io::{self, BufRead as _, Write as _},
    os::unix::ffi::OsStrExt as _,
};

use serde::Serialize;

use super::{Failure, wants_json};
use crate::{
    cli::IdentifyArgs,
    identity::{Container, Identity, identify},
    record::{K8s, Pod},
};

/// One answer; unknown fields are absent.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    path: String,
    #[serde(rename = "match")]
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s: Option<K8s>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Named<'a> {
    id: &'a str,
    runtime: RuntimeName,
    parents: Vec<Enclosing<'a>>,
    /// The container's own cgroup, where the path goes on below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
}

#[derive(Debug, Serialize)]
struct RuntimeName {
    name: &'static str,
}

#[derive(Debug, Serialize)]
struct Enclosing<'a> {
    id: &'a str,
    runtime: RuntimeName,
}

/// Answers for each path in turn.
///
/// # Errors
///
/// Those of standard input and output.
pub fn run(args: &IdentifyArgs) -> Result<(), Failure> {
    let json = wants_json(args.format);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = args.paths.iter().try_for_each(|path| {
        if path.as_bytes() == b"-" {
            io::stdin().lock().split(b'\n').try_for_each(|line| {
                let line = line?;
                answer(&line, json, &mut out)
            })
        } else {
            answer(path.as_bytes(), json, &mut out)
        }
    });
    match done.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Failed(
            anyhow::Error::new(error).context("cannot read the paths or write the answers"),
        )),
        _ => Ok(()),
    }
}

fn answer(path: &[u8], json: bool, out: &mut impl io::Write) -> io::Result<()> {
    let identity = identify(path);
    let path = String::from_utf8_lossy(path).into_owned();
    let answer = match &identity {
        Identity::Container(container) => of_container(path, container),
        Identity::Excluded { why } => bare(path, "excluded", Some(why)),
        Identity::Unknown => bare(
            path,
            "unknown",
            Some("the path alone cannot tell; a runtime's own command line can"),
        ),
        Identity::NotContainer { why } => bare(path, "none", Some(why)),
    };
    if json {
        serde_json::to_writer(&mut *out, &answer)?;
        return out.write_all(b"\n");
    }
    let what = match (&answer.container, answer.why) {
        (Some(container), _) => format!("{} {}", container.runtime.name, container.id),
        (None, Some(why)) => why.to_owned(),
        (None, None) => String::new(),
    };
    let line = format!(
        "{:<10} {}  {}\n",
        answer.verdict,
        answer.path.escape_debug(),
        what.escape_debug()
    );
    out.write_all(line.as_bytes())
}

fn bare<'a>(path: String, verdict: &'static str, why: Option<&'a str>) -> Answer<'a> {
    Answer {
        path,
        verdict,
        container: None,
        k8s: None,
        why,
    }
}

fn of_container(path: String, container: &Container) -> Answer<'_> {
    let own = path.get(..container.root_len);
    let cgroup = own.filter(|own| *own != path).map(str::to_owned);
    let parents = container.parents.iter().map(|parent| Enclosing {
        id: &parent.id,
        runtime: RuntimeName {
            name: parent.runtime.as_str(),
        },
    });
    Answer {
        verdict: "container",
        container: Some(Named {
            id: &container.id,
            runtime: RuntimeName {
                name: container.runtime.as_str(),
            },
            parents: parents.collect(),
            cgroup,
        }),
        k8s: container.pod_uid.clone().map(|uid| K8s {
            pod: Some(Pod {
                uid: Some(uid),
                ..Pod::default()
            }),
            ..K8s::default()
        }),
        why: None,
        path,
    }
}
