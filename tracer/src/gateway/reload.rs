//! Certificates and tokens from a directory, read again when they change or on SIGHUP.
//!
//! ```text
//!  DIR/server.crt, server.key   what the gateway shows; with them every TCP connection is TLS
//!  DIR/ca.crt                   who may have signed nodes' certificates
//!  DIR/tokens                   who may report and who may read
//! ```
//!
//! Each new connection takes what is newest. Those that are open go on, but for one whose token or
//! certificate counts no more ([`Credentials`]). A change that is wrong is told, and what was read
//! before stays.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::trust::{Fingerprint, Right, Tokens};

/// What counts now.
#[derive(Debug, Default)]
pub struct Trust {
    pub tls: Option<Arc<ServerConfig>>,
    pub tokens: Option<Tokens>,
    /// Of nodes' certificates.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Without tokens only local names are answered to.
    pub host_is_checked: bool,
}

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

const FILES: [&str; 4] = ["server.crt", "server.key", "ca.crt", "tokens"];

impl Trust {
    /// Nobody has to say who he is.
    #[must_use]
    pub const fn open(host_is_checked: bool) -> Self {
        Self {
            tls: None,
            tokens: None,
            verifier: None,
            host_is_checked,
        }
    }

    /// Reads the directory.
    ///
    /// # Errors
    ///
    /// What is missing or wrong.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let tokens = Tokens::read(&directory.join("tokens"))?;
        let certificate = directory.join("server.crt");
        let mut trust = Self {
            tls: None,
            tokens: Some(tokens),
            verifier: None,
            host_is_checked: false,
        };
        if certificate.exists() {
            trust.verifier = verifier(directory)?;
            let tls = tls(directory, &certificate, trust.verifier.clone())?;
            trust.tls = Some(Arc::new(tls));
        }
        Ok(trust)
    }
}

/// What a connection was let in by.
#[derive(Debug, Default)]
pub struct Credentials {
    /// Tokens that were shown on it, and what they gave the right to.
    pub tokens: BTreeMap<Fingerprint, Right>,
    /// The node's certificate, and those between it and the authority.
    pub certificates: Vec<CertificateDer<'static>>,
}

impl Credentials {
    /// Whether all of it counts still.
    #[must_use]
    pub fn count(&self, trust: &Trust) -> bool {
        let tokens = trust.tokens.as_ref();
        let right = |print| tokens.and_then(|tokens| tokens.right_of(print));
        let is_certified = match (self.certificates.split_first(), &trust.verifier) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((own, between)), Some(verifier)) => verifier
                .verify_client_cert(own, between, UnixTime::now())
                .is_ok(),
        };
        is_certified
            && self
                .tokens
                .iter()
                .all(|(print, had)| right(print) == Some(had))
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let what = || format!("cannot read the certificates {}", path.display());
    let all = CertificateDer::pem_file_iter(path).with_context(what)?;
    let all: Vec<_> = all.collect::<Result<_, _>>().with_context(what)?;
    anyhow::ensure!(
        !all.is_empty(),
        "there is no certificate in {}",
        path.display()
    );
    Ok(all)
}

/// Of nodes' certificates, where there is an authority for them.
fn verifier(directory: &Path) -> anyhow::Result<Option<Arc<dyn ClientCertVerifier>>> {
    let authority = directory.join("ca.crt");
    if !authority.exists() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for root in certificates(&authority)? {
        roots
            .add(root)
            .with_context(|| format!("{} is no authority", authority.display()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Readers have tokens, not certificates.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .context("cannot verify nodes' certificates")?;
    Ok(Some(verifier))
}

fn tls(
    directory: &Path,
    certificate: &Path,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> anyhow::Result<ServerConfig> {
    let chain = certificates(certificate)?;
    let key_path = directory.join("server.key");
    let key = PrivateKeyDer::from_pem_file(&key_path)
        .with_context(|| format!("cannot read the key {}", key_path.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot use TLS")?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .context("the server's certificate and key do not fit")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads again on SIGHUP and when a file changes.
pub async fn watch(directory: PathBuf, trust: watch::Sender<Arc<Trust>>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!(%error, "cannot wait for SIGHUP"),
    };
    let mut seen = stamps(&directory);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
            () = trust.closed() => return,
        };
        let now = stamps(&directory);
        if !asked && now == seen {
            continue;
        }
        seen = now;
        let had_tls = trust.borrow().tls.is_some();
        match read_again(&directory, had_tls) {
            Ok(read) => {
                trust.send_replace(Arc::new(read));
                tracing::info!("certificates and tokens were read again");
            }
            Err(error) => tracing::error!("certificates and tokens stay as they were: {error:#}"),
        }
    }
}

/// Whoever removes the certificate of a gateway that runs does not mean that it goes on in plain text.
fn read_again(directory: &Path, had_tls: bool) -> anyhow::Result<Trust> {
    let read = Trust::read(directory)?;
    anyhow::ensure!(
        read.tls.is_some() || !had_tls,
        "there is no certificate any more in {}",
        directory.display()
    );
    Ok(read)
}

fn stamps(directory: &Path) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |name: &&str| {
        let meta = fs::metadata(directory.join(name)).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    FILES.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_runs_does_not_fall_back_to_plain_text() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("tokens"), "").expect("written");
        assert!(read_again(directory.path(), false).is_ok());
        let error = read_again(directory.path(), true).expect_err("no certificate");
        assert!(format!("{error:#}").contains("certificate"), "{error:#}");
    }
}
