//! Which kernels there are to choose from: a series is asked for, its newest package is taken. Pure.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Error, Result};

/// The first is the oldest that tracer supports; `7` is whatever is newest.
pub const DEFAULT: [Series; 5] = [
    Series::of(5, Some(10)),
    Series::of(6, Some(1)),
    Series::of(6, Some(12)),
    Series::of(6, Some(18)),
    Series::of(7, None),
];

/// `6.12`, or `7` for the newest of all 7.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    major: u32,
    minor: Option<u32>,
}

impl Series {
    const fn of(major: u32, minor: Option<u32>) -> Self {
        Self { major, minor }
    }

    fn holds(self, release: &[u64]) -> bool {
        release.first() == Some(&u64::from(self.major))
            && self
                .minor
                .is_none_or(|minor| release.get(1) == Some(&u64::from(minor)))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.major)?;
        self.minor.map_or(Ok(()), |minor| write!(f, ".{minor}"))
    }
}

impl FromStr for Series {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (major, minor) = match text.split_once('.') {
            Some((major, minor)) => (major, Some(minor)),
            None => (text, None),
        };
        let number = |digits: &str| {
            digits
                .parse()
                .with_context(|| format!("{text} is no kernel series such as 6.12 or 7"))
        };
        Ok(Self::of(number(major)?, minor.map(number).transpose()?))
    }
}

/// The package with the newest kernel of this series, of Debian's small `cloud` build, which has all
/// that a virtual machine needs. From 7.3 on `linux-image` is empty and `linux-binary` has the kernel.
pub fn newest<'a>(series: Series, packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    packages
        .filter_map(|name| {
            let (release, kind) = match name.strip_prefix("linux-image-") {
                Some(release) => (release, 0),
                None => (name.strip_prefix("linux-binary-")?, 1),
            };
            let release = release
                .strip_suffix("-cloud-amd64")
                .filter(|release| release.starts_with(|c: char| c.is_ascii_digit()))?;
            let release = numbers(release);
            series.holds(&release).then_some((release, kind, name))
        })
        .max()
        .map(|(_, _, name)| name)
}

/// `6.12.90+deb12.1` as 6, 12, 90, 12, 1: compared so, a later build is larger.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 14] = [
        "linux-image-5.10.0-9-cloud-amd64",
        "linux-image-5.10.0-46-cloud-amd64",
        "linux-image-5.10.0-47-cloud-amd64-unsigned",
        "linux-image-5.10.0-48-rt-amd64",
        "linux-image-6.1-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.12.90+deb12.1-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-7.2.12+deb13-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
        "linux-headers-7.9.0+deb13-cloud-amd64",
        "linux-image-cloud-amd64",
    ];

    #[test]
    fn the_newest_kernel_of_a_series_is_chosen() {
        let rows = [
            ("5.10", Some("linux-image-5.10.0-46-cloud-amd64")),
            ("6.1", Some("linux-image-6.1.0-56-cloud-amd64")),
            ("6.12", Some("linux-image-6.12.117+deb12-cloud-amd64")),
            ("6.18", None),
            ("7.2", Some("linux-image-7.2.12+deb13-cloud-amd64")),
            ("7", Some("linux-binary-7.3.4+deb13-cloud-amd64")),
            ("8", None),
        ];
        for (series, expected) in rows {
            let series = series.parse().unwrap();
            assert_eq!(newest(series, NAMES.into_iter()), expected, "{series}");
        }
    }

    #[test]
    fn a_series_is_read_and_shown_alike() {
        for text in ["5.10", "7"] {
            assert_eq!(text.parse::<Series>().unwrap().to_string(), text);
        }
        for text in ["", "oom", "6.", "6.1.2", "-1"] {
            assert!(text.parse::<Series>().is_err(), "{text}");
        }
    }
}
