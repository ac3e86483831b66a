//! Which sockets and directories running daemons use, by their own command lines.
//!
//! Only daemons of root in this mount namespace are believed: a path on the command line of another
//! means something else, or is somebody's trap.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Endpoint, Kind};

/// Most sockets that are learnt.
const MAX_LEARNT: usize = 64;
/// Most command lines that one look gives.
const MAX_LINES: usize = 256;
/// Longest command line and configuration that are read, bytes.
const MAX_LINE: u64 = 16 << 10;
const MAX_CONFIG: u64 = 256 << 10;
/// Between two looks while questions are open: longer each time that nothing is found, and where a
/// look takes long.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(160);
const TIMES: u32 = 100;
/// Most users whose own sockets are asked.
const MAX_USERS: usize = 128;

/// Names of daemons, as the kernel cuts them.
const DAEMONS: [&str; 7] = [
    "conmon",
    "dockerd",
    "containerd",
    "containerd-shim",
    "podman",
    "crio",
    "cri-dockerd",
];

/// What has been learnt, and when.
#[derive(Debug, Default)]
pub struct Learnt {
    known: BTreeSet<Endpoint>,
    count: usize,
    not_before: Option<Instant>,
    pause: Duration,
}

/// What one look gave.
#[derive(Debug, Default)]
pub struct Found {
    /// Sockets that were not known.
    pub endpoints: Vec<Endpoint>,
    pub command_lines: Vec<Vec<String>>,
}

impl Learnt {
    /// Knows a socket that is configured or a default.
    pub fn keep(&mut self, endpoint: &Endpoint) {
        self.known.insert(endpoint.clone());
    }

    /// How long until the next look is worth it.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.not_before.map_or(Duration::ZERO, |then| {
            then.saturating_duration_since(Instant::now())
        })
    }

    /// A runtime has begun to make containers: others may run now than at the last look.
    pub fn expect_news(&mut self) {
        let soon = Instant::now() + PAUSE;
        self.pause = PAUSE;
        self.not_before = self.not_before.map(|then| then.min(soon));
    }

    /// Looks at the daemons that there are, and at users if their sockets are asked.
    pub fn look(&mut self, users: bool) -> Found {
        let start = Instant::now();
        let command_lines = command_lines();
        let mut endpoints: Vec<Endpoint> = command_lines
            .iter()
            .flat_map(|line| of_line(line))
            .collect();
        if users {
            endpoints.extend(of_users(Path::new("/run/user")));
        }
        let mut found = Found {
            endpoints: Vec::new(),
            command_lines,
        };
        for endpoint in endpoints {
            if self.count < MAX_LEARNT && self.known.insert(endpoint.clone()) {
                self.count += 1;
                found.endpoints.push(endpoint);
            }
        }
        self.pause = if found.endpoints.is_empty() {
            (self.pause * 4).clamp(PAUSE, LONGEST_PAUSE)
        } else {
            PAUSE
        };
        self.not_before = Some(Instant::now() + self.pause.max(start.elapsed() * TIMES));
        found
    }
}

/// Command lines of root's daemons in this mount namespace: one pass over `/proc`.
#[must_use]
pub fn command_lines() -> Vec<Vec<String>> {
    let Ok(own) = fs::read_link("/proc/self/ns/mnt") else {
        return Vec::new();
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut lines = BTreeSet::new();
    for process in processes.filter_map(Result::ok) {
        let dir = process.path();
        let is_pid = process
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if is_pid && let Some(line) = command_line(&dir, &own) {
            lines.insert(line);
            if lines.len() >= MAX_LINES {
                break;
            }
        }
    }
    lines.into_iter().collect()
}

fn command_line(dir: &Path, own: &Path) -> Option<Vec<String>> {
    let name = read(&dir.join("comm"), MAX_LINE)?;
    if !DAEMONS.contains(&name.trim_end()) {
        return None;
    }
    let is_roots = fs::metadata(dir).is_ok_and(|dir| dir.uid() == 0);
    let is_here = fs::read_link(dir.join("ns/mnt")).is_ok_and(|namespace| namespace == own);
    if !is_roots || !is_here {
        return None;
    }
    let line = read(&dir.join("cmdline"), MAX_LINE)?;
    let words: Vec<String> = line
        .split('\0')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    // One of many shims tells as much as all of them: where containerd listens; one of many conmons
    // where the containers of its Podman are.
    Some(match words.first() {
        Some(program) if base(program) == "conmon" => {
            let root = root_of_conmon(&words)?;
            vec!["podman".to_owned(), "--root".to_owned(), root.to_owned()]
        }
        Some(program) if base(program).starts_with("containerd-shim") => {
            let address = option(&words, &["address"])?.to_owned();
            vec![program.clone(), "-address".to_owned(), address]
        }
        _ => with_configuration(words, read_config),
    })
}

/// The storage of which a conmon runs a bundle: `ROOT/overlay-containers/ID/userdata`.
fn root_of_conmon(words: &[String]) -> Option<&str> {
    let bundle = option(words, &["b", "bundle"])?;
    let (rest, _) = bundle.strip_suffix("/userdata")?.rsplit_once('/')?;
    let (root, driver) = rest.rsplit_once('/')?;
    driver.ends_with("-containers").then_some(root)
}

/// Adds what a daemon's configuration says, as options behind those that it was started with.
fn with_configuration(
    mut words: Vec<String>,
    config: impl Fn(&Path) -> Option<String>,
) -> Vec<String> {
    let mut more = Vec::new();
    match words.first().map(|program| base(program)) {
        Some("dockerd") => {
            let file = option(&words, &["config-file"]).unwrap_or("/etc/docker/daemon.json");
            let text = config(Path::new(file)).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            for key in ["data-root", "graph", "exec-root"] {
                let value = json.get(key).and_then(serde_json::Value::as_str);
                more.extend(value.map(|value| format!("--{key}={value}")));
            }
            let hosts = json.get("hosts").and_then(serde_json::Value::as_array);
            for host in hosts.into_iter().flatten().filter_map(|host| host.as_str()) {
                more.push(format!("--host={host}"));
            }
        }
        Some("containerd") => {
            let file = option(&words, &["c", "config"]).unwrap_or("/etc/containerd/config.toml");
            let text = config(Path::new(file)).unwrap_or_default();
            let table: toml::Table = text.parse().unwrap_or_default();
            let grpc = table.get("grpc").and_then(|grpc| grpc.get("address"));
            for (key, value) in [("state", table.get("state")), ("address", grpc)] {
                let value = value.and_then(toml::Value::as_str);
                more.extend(value.map(|value| format!("--{key}={value}")));
            }
        }
        _ => {}
    }
    words.extend(more);
    words
}

fn read(file: &Path, max: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(file).ok()?;
    file.take(max).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A configuration that root's daemon was started with.
fn read_config(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= MAX_CONFIG).then(|| read(path, MAX_CONFIG))?
}

fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// The value of the first of these options.
fn option<'a>(words: &'a [String], names: &[&str]) -> Option<&'a str> {
    options(words, names).into_iter().next()
}

fn options<'a>(words: &'a [String], names: &[&str]) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix('-') else {
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        match name.split_once('=') {
            Some((name, value)) if names.contains(&name) => found.push(value),
            None if names.contains(&name) => found.extend(words.next().map(String::as_str)),
            _ => {}
        }
    }
    found
}

/// Where a daemon listens, by its command line.
fn of_line(words: &[String]) -> Vec<Endpoint> {
    let program = words.first().map(|program| base(program));
    let given = |names: &[&str]| option(words, names);
    match program.unwrap_or_default() {
        "dockerd" => {
            let mut found = sockets(Kind::Docker, options(words, &["H", "host"]));
            if let Some(exec_root) = given(&["exec-root"]) {
                let path = Path::new(exec_root).join("containerd/containerd.sock");
                found.extend(absolute(Kind::Containerd, &path));
            }
            found.extend(sockets(Kind::Containerd, given(&["containerd"])));
            found
        }
        "containerd" => of_containerd(given(&["a", "address"])),
        shim if shim.starts_with("containerd-shim") => of_containerd(given(&["address"])),
        "podman" => {
            let service = words.iter().any(|word| word == "service");
            let uris = words.iter().filter(|word| word.starts_with("unix:"));
            let uris = uris.filter(|_| service).map(String::as_str);
            sockets(Kind::Podman, uris)
        }
        "crio" => sockets(Kind::Cri, given(&["listen"])),
        "cri-dockerd" => sockets(Kind::Cri, given(&["container-runtime-endpoint"])),
        _ => Vec::new(),
    }
}

fn of_containerd(address: Option<&str>) -> Vec<Endpoint> {
    [Kind::Containerd, Kind::Cri]
        .into_iter()
        .flat_map(|kind| sockets(kind, address))
        .collect()
}

/// Paths, or URIs of unix sockets; other URIs are left out.
fn sockets<'a>(kind: Kind, addresses: impl IntoIterator<Item = &'a str>) -> Vec<Endpoint> {
    let paths = addresses.into_iter().map(|address| {
        let path = address.strip_prefix("unix:").unwrap_or(address);
        let path = path.strip_prefix("//").unwrap_or(path);
        PathBuf::from(path)
    });
    paths.filter_map(|path| absolute(kind, &path)).collect()
}

fn absolute(kind: Kind, path: &Path) -> Option<Endpoint> {
    path.is_absolute().then(|| Endpoint::new(kind, path))
}

/// The sockets of rootless runtimes, each asked about its user's containers only.
fn of_users(dir: &Path) -> Vec<Endpoint> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok).take(MAX_USERS) {
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        let user = metadata.uid();
        if !metadata.is_dir() || user == 0 {
            continue;
        }
        for (kind, below) in [
            (Kind::Docker, "docker.sock"),
            (Kind::Podman, "podman/podman.sock"),
        ] {
            found.push(Endpoint {
                kind,
                path: entry.path().join(below),
                user: Some(user),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, config: Option<(&str, &str)>, expected: &[(Kind, &str)]) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let read = |path: &Path| {
            config
                .filter(|(file, _)| path == Path::new(file))
                .map(|(_, text)| text.to_owned())
        };
        let found = of_line(&with_configuration(words, read));
        let expected: Vec<Endpoint> = expected
            .iter()
            .map(|(kind, path)| Endpoint::new(*kind, path))
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn daemons_say_where_they_listen() {
        use Kind::{Containerd, Cri, Docker, Podman};
        check("/usr/bin/dockerd", None, &[]);
        check(
            "/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock",
            None,
            &[(Containerd, "/run/containerd/containerd.sock")],
        );
        check(
            "dockerd --host=unix:///x/docker.sock -H tcp://127.0.0.1:2375 --exec-root=/x/exec",
            None,
            &[
                (Docker, "/x/docker.sock"),
                (Containerd, "/x/exec/containerd/containerd.sock"),
            ],
        );
        check(
            "dockerd --config-file /x/daemon.json",
            Some(("/x/daemon.json", r#"{"hosts":["unix:///y.sock",7]}"#)),
            &[(Docker, "/y.sock")],
        );
        check(
            "containerd --config /x/config.toml",
            Some((
                "/x/config.toml",
                "version = 2\n[grpc]\naddress = \"/x/c.sock\"\n",
            )),
            &[(Containerd, "/x/c.sock"), (Cri, "/x/c.sock")],
        );
        // k3s
        check(
            "containerd -c /var/lib/rancher/k3s/agent/etc/containerd/config.toml -a /run/k3s/containerd/containerd.sock --state /run/k3s/containerd",
            None,
            &[
                (Containerd, "/run/k3s/containerd/containerd.sock"),
                (Cri, "/run/k3s/containerd/containerd.sock"),
            ],
        );
        check(
            "/usr/bin/containerd-shim-runc-v2 -namespace moby -id abc -address /x/c.sock",
            None,
            &[(Containerd, "/x/c.sock"), (Cri, "/x/c.sock")],
        );
        check(
            "podman --root /x system service --time=0 unix:///x/p.sock",
            None,
            &[(Podman, "/x/p.sock")],
        );
        check("podman run unix:///x/p.sock", None, &[]);
        check(
            "/usr/bin/crio --listen /x/crio.sock",
            None,
            &[(Cri, "/x/crio.sock")],
        );
        check("containerd -a relative.sock", None, &[]);
        check("containerd -a", None, &[]);
    }

    #[test]
    fn a_conmon_says_where_its_podman_keeps_containers() {
        let root = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            root_of_conmon(&words).map(str::to_owned)
        };
        let podmans = "/usr/bin/conmon --api-version 1 -c a -u a -r /usr/sbin/runc";
        assert_eq!(
            root(&format!(
                "{podmans} -b /x/overlay-containers/a/userdata -p /x"
            )),
            Some("/x".to_owned())
        );
        assert_eq!(root(&format!("{podmans} -b /x/a/userdata")), None);
        assert_eq!(root(&format!("{podmans} -b")), None);
        assert_eq!(root(podmans), None);
    }

    #[test]
    fn configuration_of_any_shape_is_survived() {
        for text in [
            "",
            "[]",
            "{",
            "grpc = 7",
            "[grpc]\naddress = 7",
            "\u{0}",
            r#"{"hosts":7}"#,
        ] {
            for program in ["dockerd", "containerd"] {
                let words = vec![program.to_owned()];
                let read = |_: &Path| Some(text.to_owned());
                assert_eq!(with_configuration(words.clone(), read), words, "{text}");
            }
        }
    }

    #[test]
    fn configuration_names_directories_too() {
        let words = with_configuration(vec!["containerd".to_owned()], |_| {
            Some("state = \"/x\"".to_owned())
        });
        assert_eq!(words, ["containerd", "--state=/x"]);
    }
}
