//! Packages of Debian suites that this machine does not use, by a private configuration of apt: its
//! own sources, lists and cache, in a directory of ours. The machine's sources stay as they are; the
//! mirror is the one that they name, and apt checks every list and package by Debian's signature.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, workspace};

/// Base of a mirror, where the machine's own sources name none: it holds `debian` and
/// `debian-security`.
const MIRROR: &str = "TRACER_DEBIAN_MIRROR";
/// Public keys of Debian's archive, from the package of that name.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Which half of Debian's archive a suite is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Main,
    Security,
}

/// One suite of Debian.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    name: &'static str,
    half: Half,
}

impl Suite {
    pub const fn main(name: &'static str) -> Self {
        let half = Half::Main;
        Self { name, half }
    }

    pub const fn security(name: &'static str) -> Self {
        let half = Half::Security;
        Self { name, half }
    }
}

/// What the signed lists say of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub version: String,
    pub sha256: String,
}

/// An apt of our own.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Fetches the lists of these suites into `dir`.
    pub fn fetch(dir: &Path, suites: &[Suite]) -> Result<Self> {
        let archive = Self {
            dir: dir.to_owned(),
        };
        let lay_out = || {
            for name in ["lists/partial", "cache/archives/partial", "none"] {
                fs::create_dir_all(dir.join(name))?;
            }
            // Nothing is installed here: what a package needs is all of it.
            fs::write(dir.join("status"), "")
        };
        lay_out().with_context(|| format!("cannot create {}", workspace::shown(dir)))?;
        let mirror = Mirror::find(&archive.own_state("apt-get"))?;
        let sources: String = suites.iter().map(|suite| mirror.line(*suite)).collect();
        let file = dir.join("sources.list");
        fs::write(&file, sources)
            .with_context(|| format!("cannot write {}", workspace::shown(&file)))?;
        command::run(archive.apt("apt-get").args(["-q", "update"]))
            .context("could not fetch the package lists of Debian's other suites")?;
        Ok(archive)
    }

    /// Names that begin so.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = command::probe(self.apt("apt-cache").args(["pkgnames", prefix]))
            .context("`apt-cache pkgnames` failed")?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    pub fn listed(&self, package: &str) -> Result<Listed> {
        let text =
            command::probe(
                self.apt("apt-cache")
                    .args(["show", "--no-all-versions", package]),
            )
            .with_context(|| format!("the lists do not name {package}"))?;
        listed(&text).with_context(|| format!("the lists say no version or checksum of {package}"))
    }

    /// Fetches one package; its checksum is that of the lists.
    pub fn download(&self, package: &str, listed: &Listed) -> Result<PathBuf> {
        let into = self.dir.join("fetched");
        drop(fs::remove_dir_all(&into));
        fs::create_dir_all(&into)
            .with_context(|| format!("cannot create {}", workspace::shown(&into)))?;
        let mut apt = self.apt("apt-get");
        apt.current_dir(&into).args(["-q", "download", package]);
        command::run(&mut apt).with_context(|| format!("could not fetch {package}"))?;
        let file = only_file(&into)?;
        let found = sha256(&file)?;
        if found != listed.sha256 {
            bail!(
                "{package} came with checksum {found}, the signed lists say {}",
                listed.sha256
            );
        }
        Ok(file)
    }

    /// Fetches packages with all that they need, as files; apt checks them by the lists.
    pub fn download_all(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        self.forget_files()?;
        command::run(
            self.apt("apt-get")
                .args(["-q", "install", "-y", "--no-install-recommends"])
                .args(["--download-only"])
                .args(packages),
        )
        .with_context(|| format!("could not fetch {}", packages.join(" ")))?;
        let dir = self.dir.join("cache/archives");
        let mut files: Vec<PathBuf> = fs::read_dir(&dir)
            .with_context(|| format!("cannot read {}", workspace::shown(&dir)))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "deb"))
            .collect();
        files.sort();
        Ok(files)
    }

    /// Removes what [`Archive::download_all`] fetched.
    pub fn forget_files(&self) -> Result<()> {
        command::run(self.apt("apt-get").arg("clean")).context("cannot remove fetched packages")
    }

    /// With our own sources.
    fn apt(&self, program: &str) -> Command {
        let mut apt = self.own_state(program);
        let sources = self.dir.join("sources.list");
        apt.arg("-o")
            .arg(format!("Dir::Etc::sourcelist={}", sources.display()));
        for kind in ["sourceparts", "preferencesparts"] {
            let none = self.dir.join("none");
            apt.arg("-o")
                .arg(format!("Dir::Etc::{kind}={}", none.display()));
        }
        apt
    }

    /// With the machine's sources, and nothing written where it keeps its lists.
    fn own_state(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.env("LC_ALL", "C");
        for (name, path) in [
            ("Dir::State", ""),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            let path = self.dir.join(path);
            apt.arg("-o").arg(format!("{name}={}", path.display()));
        }
        // The last: root's apt would become a user that may not write here.
        for setting in [
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "APT::Architecture=amd64",
            "APT::Sandbox::User=root",
        ] {
            apt.args(["-o", setting]);
        }
        apt
    }
}

/// Why Debian's packages cannot be fetched on this machine, told without the network.
pub fn obstacle() -> Option<String> {
    if command::find("apt-get").is_none() || command::find("dpkg-deb").is_none() {
        return Some(
            "Debian's kernels and QEMU are fetched with apt, which is not here".to_owned(),
        );
    }
    if !Path::new(KEYRING).exists() {
        return Some(format!(
            "{KEYRING} is not here: install the package debian-archive-keyring"
        ));
    }
    let dir = env::temp_dir();
    Mirror::find(&Archive { dir }.own_state("apt-get"))
        .err()
        .map(|error| error.to_string())
}

/// Where the two halves of Debian's archive are.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    main: String,
    security: String,
}

impl Mirror {
    fn find(apt: &Command) -> Result<Self> {
        if let Some(base) = env::var(MIRROR).ok().filter(|base| !base.is_empty()) {
            let base = base.trim_end_matches('/');
            return Ok(Self {
                main: format!("{base}/debian"),
                security: format!("{base}/debian-security"),
            });
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let mut command = Command::new(apt.get_program());
        command.args(apt.get_args());
        let uris = command::probe(command.args(["update", "--print-uris"])).unwrap_or_default();
        codename(&release)
            .and_then(|codename| Self::of_uris(&uris, codename))
            .with_context(|| {
                format!(
                    "this machine's apt names no Debian mirror with its security half: \
                     name a mirror's base in {MIRROR}"
                )
            })
    }

    /// From lines `'<base>/dists/<suite>/InRelease' …`.
    fn of_uris(uris: &str, codename: &str) -> Option<Self> {
        let base = |suite: &str| {
            uris.lines().find_map(|line| {
                let (base, rest) = line.strip_prefix('\'')?.split_once("/dists/")?;
                rest.starts_with(&format!("{suite}/InRelease"))
                    .then(|| base.to_owned())
            })
        };
        Some(Self {
            main: base(codename)?,
            security: base(&format!("{codename}-security"))?,
        })
    }

    fn line(&self, suite: Suite) -> String {
        let base = match suite.half {
            Half::Main => &self.main,
            Half::Security => &self.security,
        };
        format!("deb [signed-by={KEYRING}] {base} {} main\n", suite.name)
    }
}

/// Debian's own name of this release; other systems have none that counts here.
fn codename(os_release: &str) -> Option<&str> {
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.trim_matches('"')))
    };
    (field("ID=")? == "debian").then_some(())?;
    field("VERSION_CODENAME=")
}

fn listed(show: &str) -> Option<Listed> {
    let field = |name: &str| show.lines().find_map(|line| line.strip_prefix(name));
    Some(Listed {
        version: field("Version: ")?.to_owned(),
        sha256: field("SHA256: ")?.to_owned(),
    })
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut entries =
        fs::read_dir(dir).with_context(|| format!("cannot read {}", workspace::shown(dir)))?;
    match (entries.next(), entries.next()) {
        (Some(Ok(entry)), None) => Ok(entry.path()),
        _ => bail!("apt left not one file in {}", workspace::shown(dir)),
    }
}

/// Checksum of a file, by coreutils.
pub fn sha256(file: &Path) -> Result<String> {
    command::probe(Command::new("sha256sum").arg("--").arg(file))
        .as_deref()
        .and_then(|text| text.trim_start_matches('\\').split_whitespace().next())
        .map(str::to_owned)
        .with_context(|| format!("`sha256sum {}` failed", workspace::shown(file)))
}

/// Unpacks a package's files, without running anything of it.
pub fn unpack(package: &Path, into: &Path) -> Result<()> {
    command::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(into))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URIS: &str = "\
'http://mirror.test/debian/dists/trixie/InRelease' mirror_InRelease 0
'http://mirror.test/debian/dists/trixie-updates/InRelease' mirror_InRelease 0
'http://other.test/tools/dists/stable/InRelease' other_InRelease 0
'http://sec.test/dists/trixie-security/InRelease' sec_InRelease 0
";

    #[test]
    fn the_mirror_is_the_machines_own() {
        let mirror = Mirror::of_uris(URIS, "trixie").unwrap();
        assert_eq!(
            mirror.line(Suite::main("trixie-backports")),
            format!("deb [signed-by={KEYRING}] http://mirror.test/debian trixie-backports main\n")
        );
        assert_eq!(
            mirror.line(Suite::security("bullseye-security")),
            format!("deb [signed-by={KEYRING}] http://sec.test bullseye-security main\n")
        );
        assert_eq!(Mirror::of_uris(URIS, "bookworm"), None);
        assert_eq!(Mirror::of_uris("", "trixie"), None);
    }

    #[test]
    fn only_debian_has_a_codename_that_counts() {
        let rows = [
            ("ID=debian\nVERSION_CODENAME=trixie\n", Some("trixie")),
            ("VERSION_CODENAME=\"trixie\"\nID=\"debian\"", Some("trixie")),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n", None),
            ("ID=debian\n", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(codename(text), expected, "{text}");
        }
    }

    #[test]
    fn what_the_lists_say_is_read() {
        let show = "Package: x\nVersion: 5.10.262-1\nSize: 3\nSHA256: abc\nDescription: y\n";
        let expected = Listed {
            version: "5.10.262-1".to_owned(),
            sha256: "abc".to_owned(),
        };
        assert_eq!(listed(show), Some(expected));
        assert_eq!(listed("Version: 1\n"), None);
    }
}
