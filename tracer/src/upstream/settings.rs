//! The upstream part of the configuration: as in the file, as typed, and checked.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::{Bounds, Target, Trust};
use crate::cli::UpstreamArgs;

/// `[upstream]` of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileUpstream {
    url: Vec<String>,
    node: Option<String>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    server_name: Option<String>,
    insecure: Option<bool>,
    spool_dir: Option<PathBuf>,
    spool_bytes: Option<u64>,
    spool_age: Option<String>,
}

/// What is to be delivered whereto.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// At least one.
    pub targets: Vec<Target>,
    pub trust: Trust,
    /// Under which gateways know this node; the host's name if none is given.
    pub node: Option<String>,
    pub bounds: Bounds,
    /// Where the spool is, if not in the state directory.
    pub spool_dir: Option<PathBuf>,
}

const DEFAULT_SPOOL_BYTES: u64 = 256 << 20;
/// Room for the records of one drain of the ring.
const MIN_SPOOL_BYTES: u64 = 16 << 10;
const DEFAULT_SPOOL_AGE: Duration = Duration::from_hours(7 * 24);

impl Settings {
    /// Puts file and flags together and checks them; `None` where there is no upstream.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn new(args: UpstreamArgs, file: FileUpstream) -> anyhow::Result<Option<Self>> {
        let urls = if args.upstreams.is_empty() {
            file.url
        } else {
            args.upstreams
        };
        let trust = Trust {
            ca: args.upstream_ca.or(file.ca),
            certificate: args.upstream_certificate.or(file.certificate),
            key: args.upstream_key.or(file.key),
            token: args.upstream_token_file.or(file.token_file),
            server_name: args.upstream_server_name.or(file.server_name),
            insecure: args.insecure.or(file.insecure).unwrap_or(false),
        };
        ensure!(
            trust.certificate.is_some() == trust.key.is_some(),
            "a certificate needs its key, and a key its certificate"
        );
        let bytes = args.spool_bytes.or(file.spool_bytes);
        let bytes = bytes.unwrap_or(DEFAULT_SPOOL_BYTES);
        ensure!(
            bytes >= MIN_SPOOL_BYTES,
            "spool_bytes is {bytes}: it must be at least {MIN_SPOOL_BYTES}"
        );
        let age = match args.spool_age.or(file.spool_age) {
            Some(text) => duration(&text)?,
            None => DEFAULT_SPOOL_AGE,
        };
        let targets = urls.iter().map(|url| Target::parse(url, &trust));
        let targets: Vec<Target> = targets.collect::<anyhow::Result<_>>()?;
        for (at, target) in targets.iter().enumerate() {
            ensure!(
                !targets.iter().take(at).any(|other| other == target),
                "upstream '{}' is named twice",
                target.url()
            );
        }
        let node = args.node.or(file.node);
        ensure!(
            node.as_ref()
                .is_none_or(|node| !node.is_empty() && node.len() <= MAX_NODE_BYTES),
            "the node's name must have 1 to {MAX_NODE_BYTES} bytes"
        );
        Ok((!targets.is_empty()).then_some(Self {
            targets,
            trust,
            node,
            bounds: Bounds { bytes, age },
            spool_dir: args.spool_dir.or(file.spool_dir),
        }))
    }
}

/// As long as a host name may be.
const MAX_NODE_BYTES: usize = 253;

/// `90s`, `30m`, `12h`, `7d`.
fn duration(text: &str) -> anyhow::Result<Duration> {
    let wrong = || format!("'{text}' is no length of time (90s, 30m, 12h, 7d)");
    let split = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(split).with_context(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => anyhow::bail!(wrong()),
    };
    let number: u64 = number.parse().with_context(wrong)?;
    let total = number.checked_mul(seconds).filter(|total| *total != 0);
    Ok(Duration::from_secs(total.with_context(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str, args: UpstreamArgs) -> anyhow::Result<Option<Settings>> {
        Settings::new(args, toml::from_str(toml)?)
    }

    #[test]
    fn flags_win_over_the_file() {
        let args = UpstreamArgs {
            upstreams: vec!["https://b:1".to_owned()],
            spool_age: Some("2h".to_owned()),
            ..UpstreamArgs::default()
        };
        let file = "url = ['https://a:1']\nnode = 'n'\nspool_age = '1d'\nspool_bytes = 65536";
        let settings = settings(file, args).expect("good").expect("an upstream");
        assert_eq!(settings.targets.len(), 1);
        assert_eq!(settings.targets[0].url(), "https://b:1");
        assert_eq!(settings.node.as_deref(), Some("n"));
        assert_eq!(settings.bounds.bytes, 65_536);
        assert_eq!(settings.bounds.age, Duration::from_hours(2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("url = ['http://far:1']", "plain text"),
            ("url = ['unix:/a', 'unix:///a']", "twice"),
            ("key = '/k'", "certificate"),
            ("spool_bytes = 1", "spool_bytes"),
            ("spool_age = '7'", "'7'"),
            ("spool_age = '0s'", "'0s'"),
            ("node = ''", "name"),
            ("urls = []", "urls"),
        ] {
            let error = settings(text, UpstreamArgs::default()).expect_err(text);
            let told = format!("{error:#}");
            assert!(told.contains(named), "{told}");
        }
        let none = settings("", UpstreamArgs::default()).expect("good");
        assert_eq!(none, None);
    }
}
