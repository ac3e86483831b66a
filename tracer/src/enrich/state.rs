//! What OCI runtimes keep of a container: `<root>/<id>/state.json` of runc and youki,
//! `<root>/<id>/status` of crun. All name the bundle. runc's appears shortly before the entrypoint
//! runs, so that it helps late lookups only.

use serde::Deserialize;

use super::{
    created::time,
    found::Found,
    json::{List, MAX_PATH, Maybe, Name, Object, PathText, Text, parse},
};
use crate::time::Timestamp;

/// Files of this kind, in the order of asking.
pub(super) const FILES: [&str; 2] = ["state.json", "status"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    /// runc and youki; crun's has none, its directory is the id.
    id: Name,
    created: Name,
    /// youki and crun.
    bundle: PathText,
    /// runc.
    config: Maybe<Object<Config>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    /// `KEY=VALUE`: the annotations, and `bundle=PATH` as the last.
    labels: Maybe<List<Text<MAX_PATH>>>,
}

/// What the file tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    pub bundle: Option<String>,
    pub created: Option<Timestamp>,
}

impl State {
    pub(super) fn found(&self) -> Found {
        Found {
            created: self.created,
            ..Found::default()
        }
    }
}

/// Reads a state; `None` if it is another container's.
pub(super) fn read(bytes: &[u8], id: &str) -> Result<Option<State>, serde_json::Error> {
    let file: File = parse(bytes)?;
    if file.id.text().is_some_and(|other| other != id) {
        return Ok(None);
    }
    let labels = file.config.object().unwrap_or_default().labels.list();
    let of_label = || {
        let mut bundles = labels.iter().rev();
        bundles.find_map(|label| label.0.strip_prefix("bundle=").map(str::to_owned))
    };
    Ok(Some(State {
        bundle: file
            .bundle
            .text()
            .or_else(of_label)
            .filter(|path| path.starts_with('/')),
        created: file.created.text().as_deref().and_then(time),
    }))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
