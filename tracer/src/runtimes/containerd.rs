//! containerd's own API (`containerd.services.*.v1`), for containers of ctr, nerdctl and other
//! clients: image, digest, labels, creation time. Field numbers are those of containerd's
//! `api/services/{containers,images,namespaces}/v1/*.proto`.

use std::collections::HashMap;

use prost::Message;

use super::{
    Endpoint, Question,
    grpc::{Connection, Reply},
    peer::Failed,
};
use crate::enrich::api::{self, Told};

/// Most namespaces that are asked where no file says which.
const MAX_NAMESPACES: usize = 16;

pub(super) struct Containerd(Connection);

impl Containerd {
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, Failed> {
        Connection::new(endpoint).await.map(Self)
    }

    pub(super) async fn ask(&mut self, question: &Question) -> Result<Option<Told>, Failed> {
        if let Some(namespace) = &question.namespace {
            return self.ask_in(namespace, question).await;
        }
        for namespace in self.namespaces().await? {
            if let Some(told) = self.ask_in(&namespace, question).await? {
                return Ok(Some(told));
            }
        }
        Ok(None)
    }

    async fn ask_in(
        &mut self,
        namespace: &str,
        question: &Question,
    ) -> Result<Option<Told>, Failed> {
        let id = question.id.to_string();
        let reply: Reply<GetContainerResponse> = self
            .0
            .call(
                "/containerd.services.containers.v1.Containers/Get",
                Some(namespace),
                Get { key: id },
            )
            .await?;
        let Reply::Good(GetContainerResponse {
            container: Some(container),
        }) = reply
        else {
            return Ok(None);
        };
        if container.id != *question.id {
            return Ok(None);
        }
        let digest = match container.image.as_str() {
            "" => None,
            image => self.digest(namespace, image).await?,
        };
        Ok(Some(Told {
            image: api::image(&container.image, None, digest.as_deref()),
            label: api::labels(container.labels),
            created: container
                .created_at
                .and_then(|time| api::time_of(time.seconds, time.nanos)),
            ..Told::default()
        }))
    }

    /// What an image's name stands for.
    async fn digest(&mut self, namespace: &str, image: &str) -> Result<Option<String>, Failed> {
        let key = image.to_owned();
        let reply: Reply<GetImageResponse> = self
            .0
            .call(
                "/containerd.services.images.v1.Images/Get",
                Some(namespace),
                Get { key },
            )
            .await?;
        Ok(match reply {
            Reply::Good(reply) => reply
                .image
                .and_then(|image| image.target)
                .map(|target| target.digest),
            Reply::NotFound | Reply::Unimplemented => None,
        })
    }

    async fn namespaces(&mut self) -> Result<Vec<String>, Failed> {
        let reply: Reply<ListNamespacesResponse> = self
            .0
            .call(
                "/containerd.services.namespaces.v1.Namespaces/List",
                None,
                Nothing {},
            )
            .await?;
        let mut names: Vec<String> = match reply {
            Reply::Good(reply) => reply.namespaces.into_iter().map(|one| one.name).collect(),
            Reply::NotFound | Reply::Unimplemented => Vec::new(),
        };
        names.truncate(MAX_NAMESPACES);
        Ok(names)
    }
}

/// Requests by an id or a name all number it 1.
#[derive(Clone, PartialEq, Message)]
struct Get {
    #[prost(string, tag = "1")]
    key: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct GetContainerResponse {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    image: String,
    #[prost(message, optional, tag = "8")]
    created_at: Option<Time>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct GetImageResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(message, optional, tag = "3")]
    target: Option<Descriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(string, tag = "2")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListNamespacesResponse {
    #[prost(message, repeated, tag = "1")]
    namespaces: Vec<Namespace>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(string, tag = "1")]
    name: String,
}
