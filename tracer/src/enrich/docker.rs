//! dockerd's `<data-root>/containers/<id>/config.v2.json`, written before anything runs and
//! replaced by rename. Labels that cri-dockerd sets name the pod.

use serde::Deserialize;

use super::{
    created::time,
    found::{Found, Kube, Manager},
    json::{Annotations, MAX_NAME, Maybe, Name, Object, Text, parse},
    reference::ImageFacts,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct File {
    /// `Id` in what its API answers.
    #[serde(rename = "ID", alias = "Id")]
    id: Name,
    created: Name,
    config: Maybe<Object<Config>>,
    image: Name,
    name: Name,
    restart_count: Maybe<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    /// As the user wrote it: a reference, an id or the beginning of one.
    image: Maybe<Text<{ 2 * MAX_NAME }>>,
    labels: Maybe<Annotations>,
}

/// What the file tells; `None` if it is another container's.
pub(super) fn read(bytes: &[u8], id: &str) -> Result<Option<Found>, serde_json::Error> {
    let file: File = parse(bytes)?;
    if file.id.text().as_deref() != Some(id) {
        return Ok(None);
    }
    let config = file.config.object().unwrap_or_default();
    let labels = config.labels.0.unwrap_or_default();
    let (kube, sandbox) = kube(&labels);
    let restarts = labels.get("annotation.io.kubernetes.container.restartCount");
    let restart_count = match restarts {
        Some(text) => text.parse().ok(),
        None => file.restart_count.0,
    };
    let image = config.image.text();
    Ok(Some(Found {
        name: file
            .name
            .text()
            .and_then(|name| some(name.strip_prefix('/').unwrap_or(&name))),
        image: ImageFacts::of(image.as_deref().unwrap_or_default())
            .with_id(file.image.text().as_deref()),
        kube,
        sandbox,
        created: file.created.text().as_deref().and_then(time),
        restart_count,
        manager: Some(Manager::Docker),
        label: labels.into_labels(),
        pod_sandbox: None,
    }))
}

fn kube(labels: &Annotations) -> (Kube, bool) {
    let sandbox = matches!(
        labels.get("io.kubernetes.docker.type"),
        Some("podsandbox" | "sandbox")
    );
    let kube = Kube {
        pod: labels.name("io.kubernetes.pod.name"),
        uid: labels.name("io.kubernetes.pod.uid"),
        namespace: labels.name("io.kubernetes.pod.namespace"),
        // The sandbox's is the placeholder `POD`.
        container: labels
            .name("io.kubernetes.container.name")
            .filter(|_| !sandbox),
    };
    (kube, sandbox)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
#[path = "docker_tests.rs"]
mod tests;
