//! Certificates and tokens from a directory, read again when they change or on SIGHUP.
//!
//! ```text
//!  DIR/server.crt, server.key   what the gateway shows; with them every TCP connection is TLS
//!  DIR/ca.crt                   who may have signed nodes' certificates
//!  DIR/tokens                   who may report and who may read
//! ```
//!
//! Each new connection takes what is newest; those that are open go on. A change that is wrong is
//! told, and what was read before stays.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::trust::Tokens;

/// What counts now.
#[derive(Debug, Default)]
pub struct Trust {
    pub tls: Option<Arc<ServerConfig>>,
    pub tokens: Option<Tokens>,
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
        let tls = if certificate.exists() {
            Some(Arc::new(tls(directory, &certificate)?))
        } else {
            None
        };
        Ok(Self {
            tls,
            tokens: Some(tokens),
            host_is_checked: false,
        })
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

fn tls(directory: &Path, certificate: &Path) -> anyhow::Result<ServerConfig> {
    let chain = certificates(certificate)?;
    let key_path = directory.join("server.key");
    let key = PrivateKeyDer::from_pem_file(&key_path)
        .with_context(|| format!("cannot read the key {}", key_path.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("cannot use TLS")?;
    let authority = directory.join("ca.crt");
    let builder = if authority.exists() {
        let mut roots = RootCertStore::empty();
        for root in certificates(&authority)? {
            roots
                .add(root)
                .with_context(|| format!("{} is no authority", authority.display()))?;
        }
        // Readers have tokens, not certificates.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .context("cannot verify nodes' certificates")?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
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
