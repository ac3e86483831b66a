//! Certificates and tokens, as `tracer gateway init` makes them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use super::http;
use crate::{command::run_ok, tracer::binary};

/// What lies in a directory.
#[derive(Debug, Clone)]
pub struct Trust(PathBuf);

impl Trust {
    /// Makes an authority, the gateway's certificate for `localhost`, these nodes and readers; adds
    /// them where there is an authority already.
    pub fn init(directory: &Path, nodes: &[&str], readers: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary());
        command.args(["gateway", "init"]).arg(directory);
        command.args(["--name", "localhost"]);
        for node in nodes {
            command.args(["--node", node]);
        }
        for reader in readers {
            command.args(["--reader", reader]);
        }
        run_ok(&mut command)?;
        Ok(Self(directory.to_owned()))
    }

    /// Tokens alone: a gateway with them has no TLS.
    pub fn tokens(directory: &Path, nodes: &[&str], readers: &[&str]) -> Result<Self> {
        let trust = Self::init(directory, nodes, readers)?;
        for file in ["server.crt", "server.key", "ca.crt", "ca.key"] {
            fs::remove_file(directory.join(file))?;
        }
        Ok(trust)
    }

    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// As a flag's value.
    #[must_use]
    pub fn directory(&self) -> String {
        self.0.display().to_string()
    }

    pub fn node(&self, name: &str) -> Result<String> {
        self.token(&format!("nodes/{name}.token"))
    }

    pub fn reader(&self, name: &str) -> Result<String> {
        self.token(&format!("readers/{name}.token"))
    }

    fn token(&self, name: &str) -> Result<String> {
        let token = fs::read_to_string(self.path(name)).with_context(|| name.to_owned())?;
        Ok(token.trim().to_owned())
    }

    /// A connection of a reader by TLS.
    pub fn connect(
        &self,
        address: SocketAddr,
    ) -> Result<StreamOwned<ClientConnection, std::net::TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.crt"))?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost")?;
        let mut client = ClientConnection::new(Arc::new(config), name)?;
        let mut stream = http::connect(address)?;
        while client.is_handshaking() {
            client.complete_io(&mut stream).context("the handshake")?;
        }
        Ok(StreamOwned::new(client, stream))
    }

    /// The certificate that the gateway shows.
    pub fn shown(&self, address: SocketAddr) -> Result<Vec<u8>> {
        let stream = self.connect(address)?;
        let shown = stream.conn.peer_certificates().and_then(<[_]>::first);
        Ok(shown.context("a certificate")?.to_vec())
    }
}
