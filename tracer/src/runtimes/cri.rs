//! The Container Runtime Interface (`runtime.v1`), as containerd, CRI-O and cri-dockerd serve it:
//! labels of container and pod, digest, creation time, restart count. Field numbers are those of
//! Kubernetes' `cri-api/pkg/apis/runtime/v1/api.proto`.

use std::collections::HashMap;

use prost::Message;

use super::{
    Endpoint, Question,
    grpc::{Connection, Reply},
    peer::Failed,
};
use crate::enrich::api::{self, Told};

/// A runtime that serves containerd alone, without CRI.
const NO_CRI: &str = "it does not speak CRI";

pub(super) struct Cri(Connection);

impl Cri {
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, Failed> {
        Connection::new(endpoint).await.map(Self)
    }

    pub(super) async fn ask(&mut self, question: &Question) -> Result<Option<Told>, Failed> {
        let id = &*question.id;
        if question.known.as_ref().is_some_and(|known| known.sandbox) {
            return Ok(self.pod(id).await?.map(PodSandboxStatus::told));
        }
        let Some(container) = self.container(id).await? else {
            // It may be a sandbox of which no file said so.
            return Ok(self.pod(id).await?.map(PodSandboxStatus::told));
        };
        let sandbox = match &question.pod_sandbox {
            Some(sandbox) => Some(sandbox.to_string()),
            None => self.sandbox_of(id).await?,
        };
        let mut told = container.told();
        if let Some(sandbox) = sandbox
            && let Some(pod) = self.pod(&sandbox).await?
        {
            let PodSandboxStatus {
                metadata, labels, ..
            } = pod;
            told.pod_label = api::labels(labels);
            if let Some(metadata) = metadata {
                told.pod = api::name(metadata.name);
                told.pod_uid = api::name(metadata.uid);
                told.pod_namespace = api::name(metadata.namespace);
            }
        }
        Ok(Some(told))
    }

    async fn container(&mut self, id: &str) -> Result<Option<ContainerStatus>, Failed> {
        let path = "/runtime.v1.RuntimeService/ContainerStatus";
        let one = One { id: id.to_owned() };
        let reply: Reply<ContainerStatusResponse> = self.0.call(path, None, one).await?;
        Ok(good(reply)?
            .and_then(|reply| reply.status)
            .filter(|status| status.id == id))
    }

    async fn pod(&mut self, id: &str) -> Result<Option<PodSandboxStatus>, Failed> {
        let path = "/runtime.v1.RuntimeService/PodSandboxStatus";
        let one = One { id: id.to_owned() };
        let reply: Reply<PodSandboxStatusResponse> = self.0.call(path, None, one).await?;
        Ok(good(reply)?
            .and_then(|reply| reply.status)
            .filter(|status| status.id == id))
    }

    /// In which sandbox a container is; its status does not say.
    async fn sandbox_of(&mut self, id: &str) -> Result<Option<String>, Failed> {
        let path = "/runtime.v1.RuntimeService/ListContainers";
        let filter = Some(One { id: id.to_owned() });
        let list = ListContainersRequest { filter };
        let reply: Reply<ListContainersResponse> = self.0.call(path, None, list).await?;
        let containers = good(reply)?.map(|reply| reply.containers);
        let found = containers.into_iter().flatten().find(|one| one.id == id);
        Ok(found.map(|container| container.pod_sandbox_id))
    }
}

fn good<T>(reply: Reply<T>) -> Result<Option<T>, Failed> {
    match reply {
        Reply::Good(reply) => Ok(Some(reply)),
        Reply::NotFound => Ok(None),
        Reply::Unimplemented => Err(Failed::Refused(NO_CRI.to_owned())),
    }
}

impl ContainerStatus {
    fn told(self) -> Told {
        let restarts = self.annotations.get("io.kubernetes.container.restartCount");
        let restarts = restarts.and_then(|text| text.parse().ok());
        let metadata = self.metadata.unwrap_or_default();
        let image = self.image.unwrap_or_default();
        let asked = match image.user_specified_image.as_str() {
            "" => &image.image,
            asked => asked,
        };
        Told {
            name: api::name(metadata.name.clone()),
            container: api::name(metadata.name),
            image: api::image(asked, Some(&self.image_ref), None),
            label: api::labels(self.labels),
            created: api::time_of_ns(self.created_at),
            restart_count: restarts.or(Some(u64::from(metadata.attempt))),
            ..Told::default()
        }
    }
}

impl PodSandboxStatus {
    fn told(self) -> Told {
        let metadata = self.metadata.unwrap_or_default();
        let labels = api::labels(self.labels);
        Told {
            name: api::name(metadata.name.clone()),
            pod: api::name(metadata.name),
            pod_uid: api::name(metadata.uid),
            pod_namespace: api::name(metadata.namespace),
            label: labels.clone(),
            pod_label: labels,
            created: api::time_of_ns(self.created_at),
            sandbox: true,
            ..Told::default()
        }
    }
}

/// Requests and filters by an id all number it 1.
#[derive(Clone, PartialEq, Message)]
struct One {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<ContainerMetadata>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(message, optional, tag = "8")]
    image: Option<ImageSpec>,
    #[prost(string, tag = "9")]
    image_ref: String,
    #[prost(map = "string, string", tag = "12")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "13")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
    #[prost(string, tag = "18")]
    user_specified_image: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodMetadata>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(map = "string, string", tag = "7")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListContainersRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<One>,
}

#[derive(Clone, PartialEq, Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Listed>,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
}
