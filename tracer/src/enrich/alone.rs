//! What one file says by itself, without a search around it: `tests/fuzz` goes through here.

use std::path::{Path, PathBuf};

use super::{
    Facts,
    bundle::Bundle,
    docker,
    found::{Found, Gathered},
    state, storage,
};

/// A file, by who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// dockerd's `config.v2.json`.
    Docker,
    /// `containers.json` of containers/storage.
    Storage,
    /// runc's and youki's `state.json`, crun's `status`.
    State,
    /// A bundle's `config.json` in containerd's state directory.
    Containerd,
    /// A bundle in containers/storage: Podman's or CRI-O's.
    StorageBundle,
    /// Anybody's bundle.
    Bundle,
}

/// Reads a file's facts about container `id`; `None` if it is another container's. The bundle that
/// a state names, and the data root of Docker that a bundle names, are `bundle` in the facts.
///
/// # Errors
///
/// Broken syntax, or a top level of another type.
pub fn read_alone(kind: Alone, bytes: &[u8], id: &str) -> Result<Option<Facts>, serde_json::Error> {
    let mut path = None;
    let found = match kind {
        Alone::Docker => docker::read(bytes, id)?,
        Alone::Storage => storage::read(bytes, id)?,
        Alone::State => state::read(bytes, id)?.map(|state| {
            path = state.bundle.as_deref().map(PathBuf::from);
            state.found()
        }),
        Alone::Containerd => Some(Bundle::parse(bytes)?.containerd()),
        Alone::StorageBundle => Some(Bundle::parse(bytes)?.storage()),
        Alone::Bundle => {
            let bundle = Bundle::parse(bytes)?;
            path = bundle.docker_root(id).map(PathBuf::from);
            Some(bundle.plain())
        }
    };
    Ok(found.map(|found| Facts {
        bundle: path,
        ..facts(found)
    }))
}

fn facts(found: Found) -> Facts {
    let mut gathered = Gathered::default();
    gathered.add(found, Path::new(""));
    gathered.into_facts()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_speaks_for_its_container_alone() {
        let state = br#"{"id":"c","bundle":"/b","created":"2024-05-01T10:00:00Z"}"#;
        let facts = read_alone(Alone::State, state, "c").expect("json");
        let facts = facts.expect("this container");
        assert_eq!(facts.bundle, Some(PathBuf::from("/b")));
        assert!(facts.created.is_some());
        assert_eq!(read_alone(Alone::State, state, "d").expect("json"), None);
        assert!(read_alone(Alone::Bundle, b"{", "c").is_err());
    }
}
