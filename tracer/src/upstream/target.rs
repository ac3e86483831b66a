//! Where an upstream is, and how both sides know each other. Files are read at each connect, so
//! that certificates and tokens are replaced without a restart.

use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tonic::{
    metadata::AsciiMetadataValue,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri},
};

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: String,
    transport: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tls,
    Plain,
    Unix,
}

/// What both sides know each other by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Who may vouch for the gateway (PEM); without it, whom the host trusts.
    pub ca: Option<PathBuf>,
    /// This node's certificate with its chain (PEM).
    pub certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// Holds this node's token.
    pub token: Option<PathBuf>,
    /// The gateway's name in its certificate, where it is not the URL's.
    pub server_name: Option<String>,
    /// Plain text to anywhere.
    pub insecure: bool,
}

/// For connecting, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// Between signs of life that HTTP/2 asks for, and until it gives up.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Where distributions keep what they trust.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Target {
    /// `https://HOST:PORT`, `unix:/PATH`, or `http://HOST:PORT` on this host; elsewhere only where
    /// `trust` says so.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(url: &str, trust: &Trust) -> anyhow::Result<Self> {
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            ensure!(
                path.starts_with('/'),
                "upstream '{url}' has no absolute path"
            );
            return Ok(Self {
                url: format!("unix:{path}"),
                transport: Transport::Unix,
            });
        }
        let uri: Uri = url
            .parse()
            .with_context(|| format!("upstream '{url}' is not a URL"))?;
        let host = uri.host().unwrap_or_default();
        ensure!(
            !host.is_empty() && matches!(uri.path(), "" | "/") && uri.query().is_none(),
            "upstream '{url}' is not https://HOST:PORT, http://HOST:PORT or unix:/PATH"
        );
        ensure!(
            uri.authority()
                .is_none_or(|authority| !authority.as_str().contains('@')),
            "upstream URLs carry no credentials: use a token file or a certificate"
        );
        let transport = match uri.scheme_str() {
            Some("https") => Transport::Tls,
            Some("http") if is_loopback(host) || trust.insecure => Transport::Plain,
            Some("http") => bail!(
                "upstream '{url}' would be plain text over the network: use https, or --insecure where the network is trusted"
            ),
            _ => bail!("upstream '{url}' is neither https, http nor unix"),
        };
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            transport,
        })
    }

    /// Under which it is known in the spool and in logs.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How to reach it.
    ///
    /// # Errors
    ///
    /// Where a file that `trust` names cannot be used.
    pub fn endpoint(&self, trust: &Trust) -> anyhow::Result<Endpoint> {
        let endpoint = Endpoint::from_shared(self.url.clone())
            .with_context(|| format!("upstream '{}' cannot be used", self.url))?
            .user_agent(concat!("tracer/", env!("CARGO_PKG_VERSION")))
            .context("the user agent cannot be used")?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        match self.transport {
            Transport::Plain | Transport::Unix => Ok(endpoint),
            Transport::Tls => endpoint
                .tls_config(trust.tls()?)
                .context("the certificates cannot be used"),
        }
    }
}

impl Trust {
    /// The token, as it goes with a call.
    ///
    /// # Errors
    ///
    /// Where its file cannot be used.
    pub fn authorization(&self) -> anyhow::Result<Option<AsciiMetadataValue>> {
        let Some(path) = &self.token else {
            return Ok(None);
        };
        let token = fs::read_to_string(path)
            .with_context(|| format!("cannot read the token file {}", path.display()))?;
        let token = token.trim();
        ensure!(
            !token.is_empty(),
            "the token file {} is empty",
            path.display()
        );
        let mut value: AsciiMetadataValue = format!("Bearer {token}")
            .parse()
            .with_context(|| format!("the token in {} is not plain text", path.display()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let ca = match &self.ca {
            Some(path) => read(path)?,
            None => BUNDLES
                .iter()
                .find_map(|path| fs::read(path).ok())
                .context(
                    "this host has no list of authorities that it trusts: name the gateway's",
                )?,
        };
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .timeout(CONNECT);
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                Ok(tls.identity(Identity::from_pem(read(certificate)?, read(key)?)))
            }
            (None, None) => Ok(tls),
            _ => bail!("a certificate needs its key, and a key its certificate"),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, insecure: bool, expected: Option<(&str, Transport)>) {
        let trust = Trust {
            insecure,
            ..Trust::default()
        };
        let target = Target::parse(url, &trust).ok();
        let got = target
            .as_ref()
            .map(|target| (target.url.as_str(), target.transport));
        assert_eq!(got, expected, "{url}");
    }

    #[test]
    fn plain_text_stays_on_the_host() {
        for url in [
            "http://127.0.0.1:7443",
            "http://localhost:7443",
            "http://[::1]:7443",
        ] {
            check(url, false, Some((url, Transport::Plain)));
        }
        check("http://10.0.0.1:7443", false, None);
        check("http://localhost.example.org:7443", false, None);
        let far = "http://10.0.0.1:7443";
        check(far, true, Some((far, Transport::Plain)));
    }

    #[test]
    fn an_upstream_is_a_place_and_nothing_more() {
        check(
            "https://gateway:7443/",
            false,
            Some(("https://gateway:7443", Transport::Tls)),
        );
        let socket = Some(("unix:/run/g.sock", Transport::Unix));
        check("unix:/run/g.sock", false, socket);
        check("unix:///run/g.sock", false, socket);
        for wrong in [
            "",
            "gateway",
            "gateway:7443",
            "unix:g.sock",
            "ftp://gateway",
            "https://gateway/path",
            "https://gateway?x",
            "https://user:secret@gateway",
        ] {
            check(wrong, true, None);
        }
    }
}
