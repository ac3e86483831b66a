//! A client of the Container Runtime Interface (`runtime.v1`): the calls that a kubelet makes for a
//! pod, with the fields that the tests need. Field numbers are those of the CRI's `api.proto`.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::wait::DEADLINE;

/// A connection to a CRI socket.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
}

/// Whose pid namespace containers of a pod use (`NamespaceMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum PidMode {
    /// One for the whole pod: `shareProcessNamespace`.
    Pod = 0,
    /// Each container its own: what a kubelet asks for by default.
    Container = 1,
}

/// Network of the host (`NamespaceMode::NODE`): no CNI.
const NODE: i32 = 2;

impl Cri {
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime for gRPC")?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .context("address of the CRI socket")?
            .timeout(DEADLINE);
        let channel = runtime
            .block_on(endpoint.connect())
            .with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Self { runtime, channel })
    }

    /// A pod in `/kubepods/burstable/pod<uid>`; gives the id of its sandbox.
    pub fn run_pod(&self, pod: &Pod) -> Result<String> {
        let request = RunPodSandboxRequest {
            config: Some(pod.config()),
            runtime_handler: String::new(),
        };
        let reply: RunPodSandboxResponse = self.call("RunPodSandbox", request)?;
        Ok(reply.pod_sandbox_id)
    }

    /// A container in a pod; gives its id.
    pub fn create_container(
        &self,
        pod: &Pod,
        sandbox: &str,
        name: &str,
        image: &str,
        command: &[&str],
    ) -> Result<String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: image.to_owned(),
            }),
            command: command.iter().map(|part| (*part).to_owned()).collect(),
            labels: HashMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(pod.namespaces()),
                }),
            }),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.config()),
        };
        let reply: CreateContainerResponse = self.call("CreateContainer", request)?;
        Ok(reply.container_id)
    }

    pub fn start_container(&self, id: &str) -> Result<()> {
        self.call::<_, Empty>("StartContainer", OneId::of(id))
            .map(drop)
    }

    /// Runs a command in a container; gives its exit code.
    pub fn exec(&self, id: &str, command: &[&str]) -> Result<i32> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|part| (*part).to_owned()).collect(),
            timeout: 20,
        };
        let reply: ExecSyncResponse = self.call("ExecSync", request)?;
        Ok(reply.exit_code)
    }

    /// SIGTERM, then SIGKILL after `grace_seconds`.
    pub fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<()> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace_seconds,
        };
        self.call::<_, Empty>("StopContainer", request).map(drop)
    }

    pub fn remove_container(&self, id: &str) -> Result<()> {
        self.call::<_, Empty>("RemoveContainer", OneId::of(id))
            .map(drop)
    }

    /// Stops and removes a pod with all that is left in it.
    pub fn remove_pod(&self, sandbox: &str) -> Result<()> {
        self.call::<_, Empty>("StopPodSandbox", OneId::of(sandbox))?;
        self.call::<_, Empty>("RemovePodSandbox", OneId::of(sandbox))
            .map(drop)
    }

    fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}")
            .parse()
            .context("path of a CRI method")?;
        self.runtime.block_on(async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.context("CRI connection")?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(tonic::Request::new(request), path, codec)
                .await
                .map(tonic::Response::into_inner)
                .map_err(|status| anyhow::anyhow!("CRI {method}: {}", status.message()))
        })
    }
}

/// What a pod is to be.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub pid: PidMode,
    pub log_directory: String,
}

impl Pod {
    fn namespaces(&self) -> NamespaceOption {
        NamespaceOption {
            network: NODE,
            pid: self.pid as i32,
            ipc: 0,
        }
    }

    fn config(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid.clone(),
                namespace: self.namespace.clone(),
                attempt: 0,
            }),
            log_directory: self.log_directory.clone(),
            labels: HashMap::from([("app".to_owned(), "tracer-test".to_owned())]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/burstable/pod{}", self.uid),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(self.namespaces()),
                }),
            }),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// The requests whose only field is an id all number it 1.
#[derive(Clone, PartialEq, Message)]
struct OneId {
    #[prost(string, tag = "1")]
    id: String,
}

impl OneId {
    fn of(id: &str) -> Self {
        Self { id: id.to_owned() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(int32, tag = "2")]
    pid: i32,
    #[prost(int32, tag = "3")]
    ipc: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxSandboxSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
    #[prost(string, tag = "2")]
    runtime_handler: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxResponse {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
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
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainerSecurityContext {
    #[prost(message, optional, tag = "3")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainerConfig {
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxContainerSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainerConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerResponse {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, repeated, tag = "2")]
    cmd: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncResponse {
    #[prost(int32, tag = "3")]
    exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StopContainerRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(int64, tag = "2")]
    timeout: i64,
}
