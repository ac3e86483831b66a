//! Who may do what: tokens and certificates.
//!
//! A node's token, or a certificate that has the node's name among its DNS names, gives the right to
//! report that one node and nothing else. A reader's token gives the right to read. Tokens are kept as
//! SHA-256 of 256 random bits: the file tells nobody a token.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::Context as _;
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a token.
pub type Fingerprint = [u8; 32];

/// What a token gives the right to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// To report this node.
    Report(Arc<str>),
    /// To read.
    Read(Arc<str>),
}

/// All tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens(BTreeMap<Fingerprint, Right>);

/// Of a token.
#[must_use]
pub fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token.as_bytes()).into()
}

/// As hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _infallible: std::fmt::Result = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl Tokens {
    /// Reads lines `node NAME sha256:…` and `reader NAME sha256:…`; `#` begins a comment.
    ///
    /// # Errors
    ///
    /// What cannot be read, and the line that is wrong.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the tokens {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the tokens {} are wrong", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut tokens = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(kind) = words.next() else { continue };
            let name = words.next().unwrap_or_default();
            let digest = words.next().and_then(|word| word.strip_prefix("sha256:"));
            let right = match kind {
                "node" => Right::Report(name.into()),
                "reader" => Right::Read(name.into()),
                _ => anyhow::bail!(
                    "line {}: '{}' is neither node nor reader",
                    number + 1,
                    kind.escape_debug()
                ),
            };
            let digest = digest.and_then(unhex).with_context(|| {
                format!("line {}: there is no sha256:… of 64 digits", number + 1)
            })?;
            tokens.insert(digest, right);
        }
        Ok(Self(tokens))
    }

    /// What the token with this fingerprint gives the right to.
    #[must_use]
    pub fn right_of(&self, print: &Fingerprint) -> Option<&Right> {
        self.0.get(print)
    }
}

/// Who is at the other end of a call.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Nobody has to say who he is: a gateway on loopback or a unix socket without tokens.
    pub open: bool,
    pub right: Option<Right>,
    pub certificate: Option<CertificateDer<'static>>,
}

impl Peer {
    /// Whether it may report any node.
    #[must_use]
    pub fn may_report_at_all(&self) -> bool {
        self.open || self.certificate.is_some() || matches!(self.right, Some(Right::Report(_)))
    }

    /// Whether it may report this one.
    #[must_use]
    pub fn may_report(&self, node: &str) -> bool {
        let by_token = match &self.right {
            Some(Right::Report(name)) => **name == *node,
            _ => false,
        };
        self.open
            || by_token
            || self
                .certificate
                .as_ref()
                .is_some_and(|cert| names(cert, node))
    }

    /// By what its share of places is counted; `None` where nobody has to say who he is.
    #[must_use]
    pub fn who(&self) -> Option<String> {
        match (&self.right, &self.certificate) {
            _ if self.open => None,
            (Some(Right::Report(name)), _) => Some(format!("node {name}")),
            (Some(Right::Read(name)), _) => Some(format!("reader {name}")),
            (None, Some(certificate)) => {
                Some(hex(&<Fingerprint>::from(Sha256::digest(certificate))))
            }
            (None, None) => Some(String::new()),
        }
    }

    /// Whether it may read.
    #[must_use]
    pub const fn may_read(&self) -> bool {
        self.open || matches!(self.right, Some(Right::Read(_)))
    }
}

/// The certificate was verified by the handshake; here only its names count.
fn names(certificate: &CertificateDer<'_>, node: &str) -> bool {
    let Ok(name) = ServerName::try_from(node) else {
        return false;
    };
    let parsed = ParsedCertificate::try_from(certificate);
    parsed.is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_one_right() {
        let digest = hex(&fingerprint("secret"));
        let other = hex(&fingerprint("other"));
        let text =
            format!("# comment\nnode edge-1 sha256:{digest}\n\nreader ops sha256:{other} # x\n");
        let tokens = Tokens::parse(&text).expect("good");
        assert_eq!(
            tokens.right_of(&fingerprint("secret")),
            Some(&Right::Report("edge-1".into()))
        );
        assert_eq!(tokens.right_of(&fingerprint("Secret")), None);
        let peer = |token| Peer {
            open: false,
            right: tokens.right_of(&fingerprint(token)).cloned(),
            certificate: None,
        };
        assert!(peer("secret").may_report("edge-1") && !peer("secret").may_report("edge-2"));
        assert!(!peer("secret").may_read() && peer("other").may_read());
        assert!(!peer("other").may_report_at_all() && !peer("none").may_read());
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, named) in [
            ("nodes a sha256:00", "nodes"),
            ("node a", "line 1"),
            ("\nreader a sha256:zz", "line 2"),
            ("reader a 0123", "line 1"),
        ] {
            let error = Tokens::parse(text).expect_err(text);
            assert!(format!("{error:#}").contains(named), "{error:#}");
        }
    }
}
