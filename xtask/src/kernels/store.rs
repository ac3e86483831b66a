//! The kernels that were fetched: `target/kernels/<series>/` with the image, its BTF and a note of
//! where they came from. What is there is used without any network.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    archive::{self, Archive, Listed, Suite},
    image,
    series::{self, Series},
};
use crate::{
    packages::{self, Package, Policy},
    say, workspace,
};

const SUITES: [Suite; 4] = [
    Suite::security("bullseye-security"),
    Suite::security("bookworm-security"),
    Suite::main("bookworm-backports"),
    Suite::main("trixie-backports"),
];

/// A kernel on disk.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As Debian numbers it, without its own revision: `5.10.262`.
    pub version: String,
    dir: PathBuf,
}

impl Kernel {
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    pub fn btf(&self) -> PathBuf {
        self.dir.join("btf")
    }
}

/// A series, and its kernel or why there is none.
pub type Found = (Series, Result<Kernel, String>);

/// `origin.json` beside the image.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    package: String,
    version: String,
    package_sha256: String,
    image_sha256: String,
    btf_sha256: String,
}

/// Everything of Debian's that is fetched.
pub fn home() -> PathBuf {
    workspace::target().join("kernels")
}

/// Gives a kernel for each series; fetches those that are not there, all of them with `refresh`.
///
/// # Errors
///
/// Where nothing can be fetched. A series that Debian does not have is not an error here.
pub fn ensure(wanted: &[Series], refresh: bool, policy: Policy) -> Result<Vec<Found>> {
    let mut archive = None;
    let mut all = Vec::new();
    for series in wanted {
        let there = if refresh { None } else { cached(*series) };
        let found = if let Some(kernel) = there {
            Ok(kernel)
        } else {
            let archive = match &archive {
                Some(open) => open,
                None => archive.insert(open(policy)?),
            };
            fetch(*series, archive)?
        };
        all.push((*series, found));
    }
    Ok(all)
}

fn cached(series: Series) -> Option<Kernel> {
    let dir = home().join(series.to_string());
    let origin: Origin = serde_json::from_slice(&fs::read(dir.join("origin.json")).ok()?).ok()?;
    let kernel = Kernel {
        version: short(&origin.version),
        dir,
    };
    for (file, sha256) in [
        (kernel.image(), origin.image_sha256),
        (kernel.btf(), origin.btf_sha256),
    ] {
        if archive::sha256(&file).ok()? != sha256 {
            say::note(format_args!(
                "{} is not what was fetched: fetching it again",
                workspace::shown(&file)
            ));
            return None;
        }
    }
    Some(kernel)
}

/// The lists of Debian's packages, and what opens the images in them.
fn open(policy: Policy) -> Result<Archive> {
    let why = "kernels are compressed with it";
    packages::ensure_programs(
        &[
            ("zstd", Package::new("zstd", why)),
            ("lz4", Package::new("lz4", why)),
            ("xz", Package::new("xz-utils", why)),
        ],
        policy,
    )?;
    Archive::fetch(&home().join("apt"), &SUITES)
}

fn fetch(series: Series, archive: &Archive) -> Result<Result<Kernel, String>> {
    let names = archive.names("linux-")?;
    let Some(package) = series::newest(series, names.iter().map(String::as_str)) else {
        return Ok(Err(format!(
            "Debian has no cloud kernel {series} in the suites that are searched"
        )));
    };
    let listed = archive.listed(package)?;
    say::note(format_args!(
        "fetching kernel {} ({package})",
        listed.version
    ));
    let file = archive.download(package, &listed)?;

    let dir = home().join(series.to_string());
    let beside = home().join(format!("{series}.new"));
    drop(fs::remove_dir_all(&beside));
    let version = short(&listed.version);
    lay_out(&beside, &file, package, listed)
        .with_context(|| format!("cannot use what is in {package}"))?;
    let place = || {
        fs::remove_file(&file)?;
        drop(fs::remove_dir_all(&dir));
        fs::rename(&beside, &dir)
    };
    place().with_context(|| format!("cannot put the kernel into {}", workspace::shown(&dir)))?;
    Ok(Ok(Kernel { version, dir }))
}

/// Takes the image out of a package, and the BTF out of the image.
fn lay_out(dir: &Path, file: &Path, package: &str, listed: Listed) -> Result<()> {
    let unpacked = dir.join("unpacked");
    fs::create_dir_all(&unpacked).context("cannot create a directory")?;
    archive::unpack(file, &unpacked)?;
    let image = find_image(&unpacked).context("it holds no kernel image: it may have moved")?;
    let (vmlinuz, btf) = (dir.join("vmlinuz"), dir.join("btf"));
    fs::rename(&image, &vmlinuz).context("cannot move the kernel image")?;
    let types = image::btf(&vmlinuz, &dir.join("payload"))?;
    fs::write(&btf, types).context("cannot write the BTF")?;
    let origin = Origin {
        package: package.to_owned(),
        version: listed.version,
        package_sha256: listed.sha256,
        image_sha256: archive::sha256(&vmlinuz)?,
        btf_sha256: archive::sha256(&btf)?,
    };
    let note = serde_json::to_vec_pretty(&origin).context("cannot write the origin")?;
    fs::write(dir.join("origin.json"), note).context("cannot write the origin")?;
    fs::remove_dir_all(&unpacked).context("cannot remove the unpacked package")
}

/// `boot/vmlinuz-<release>`, or `usr/lib/modules/<release>/vmlinuz` in newer packages.
fn find_image(root: &Path) -> Option<PathBuf> {
    let mut dirs = vec![root.join("boot")];
    dirs.extend(entries(&root.join("usr/lib/modules")));
    dirs.iter().flat_map(|dir| entries(dir)).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

fn short(version: &str) -> String {
    let end = version.rfind('-').unwrap_or(version.len());
    version.get(..end).unwrap_or(version).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_shown_without_debians_revision() {
        assert_eq!(short("5.10.262-1"), "5.10.262");
        assert_eq!(short("6.12.117-1~deb12u1"), "6.12.117");
        assert_eq!(short("7"), "7");
    }
}
