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

fn answer(given: &[u8], json: bool, out: &mut impl io::Write) -> io::Result<()> {
    let path_in_hierarchy = below_hierarchy(given);
    let identity = identify(path_in_hierarchy);
    let path = String::from_utf8_lossy(given).into_owned();
    let answer = match &identity {
        Identity::Container(container) => {
            let before = given.len() - path_in_hierarchy.len();
            let own = given.get(..before + container.root_len);
            of_container(path, own.filter(|own| *own != given), container)
        }
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

fn of_container<'a>(path: String, own: Option<&[u8]>, container: &'a Container) -> Answer<'a> {
    let cgroup = own.map(|own| String::from_utf8_lossy(own).into_owned());
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

/// The path below the root of its hierarchy, where it was copied from somewhere: a whole line of
/// `/proc/PID/cgroup` (`0::/PATH`, `4:cpu,cpuacct:/PATH`), or the directory below `/sys/fs/cgroup`.
fn below_hierarchy(given: &[u8]) -> &[u8] {
    line_of_proc(given)
        .or_else(|| below_mount(given))
        .unwrap_or(given)
}

fn line_of_proc(given: &[u8]) -> Option<&[u8]> {
    let digits = given.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = given.get(digits..).filter(|_| digits > 0)?;
    let rest = rest.strip_prefix(b":")?;
    let end = rest.iter().position(|b| *b == b':')?;
    let path = rest.get(end + 1..)?;
    path.starts_with(b"/").then_some(path)
}

fn below_mount(given: &[u8]) -> Option<&[u8]> {
    let path = given.strip_prefix(b"/sys/fs/cgroup")?;
    if !matches!(path, [] | [b'/', ..]) {
        return None;
    }
    let below = path.strip_prefix(b"/").unwrap_or_default();
    let end = below.iter().position(|b| *b == b'/');
    let (first, rest) = below.split_at(end.unwrap_or(below.len()));
    Some(if is_hierarchy(first) { rest } else { path })
}

/// Whether a directory of `/sys/fs/cgroup` is called as systemd calls the mount of a hierarchy.
fn is_hierarchy(name: &[u8]) -> bool {
    const CONTROLLERS: [&[u8]; 14] = [
        b"blkio",
        b"cpu",
        b"cpuacct",
        b"cpuset",
        b"devices",
        b"freezer",
        b"hugetlb",
        b"memory",
        b"misc",
        b"net_cls",
        b"net_prio",
        b"perf_event",
        b"pids",
        b"rdma",
    ];
    matches!(name, b"unified" | b"systemd")
        || name
            .split(|b| *b == b',')
            .all(|part| CONTROLLERS.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_what_people_copy() {
        for (given, path) in [
            ("/docker/x", "/docker/x"),
            ("docker/x", "docker/x"),
            ("", ""),
            ("0::/default/web", "/default/web"),
            ("0::/", "/"),
            ("4:cpu,cpuacct:/default/web", "/default/web"),
            ("1:name=systemd:/a:b:c", "/a:b:c"),
            ("0::/default/web (deleted)", "/default/web (deleted)"),
            ("/sys/fs/cgroup", ""),
            ("/sys/fs/cgroup/", "/"),
            ("/sys/fs/cgroup/default/web", "/default/web"),
            ("/sys/fs/cgroup/unified/default/web", "/default/web"),
            ("/sys/fs/cgroup/cpu,cpuacct/default/web", "/default/web"),
            ("/sys/fs/cgroup/memory", ""),
            ("/sys/fs/cgroup/memory,web", "/memory,web"),
            // Not these: a cgroup may be called so.
            ("/0::/default/web", "/0::/default/web"),
            (":youki:web", ":youki:web"),
            ("3:b", "3:b"),
            ("/sys/fs/cgroups/x", "/sys/fs/cgroups/x"),
        ] {
            let found = below_hierarchy(given.as_bytes());
            assert_eq!(String::from_utf8_lossy(found), path, "{given}");
        }
    }

    #[test]
    fn what_is_no_utf_8_moves_no_boundary() {
        let id = "0123456789abcdef".repeat(4);
        let path = [b"/\xff\xfe/".as_slice(), id.as_bytes(), b"/a/\xff"].concat();
        let mut out = Vec::new();
        answer(&path, true, &mut out).expect("written");
        let told: serde_json::Value = serde_json::from_slice(&out).expect("an object");
        let own = format!("/\u{fffd}\u{fffd}/{id}");
        assert_eq!(told["path"], format!("{own}/a/\u{fffd}"));
        assert_eq!(told["container"]["cgroup"], own);
        assert_eq!(told["container"]["id"], id);
    }
}
