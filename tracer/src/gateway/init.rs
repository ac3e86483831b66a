//! `tracer gateway init DIR`: an authority, the gateway's certificate, tokens.
//!
//! ```text
//!  DIR/ca.crt ca.key          the authority; nodes need ca.crt to know their gateway
//!  DIR/server.crt server.key  the gateway's
//!  DIR/tokens                 digests of all tokens
//!  DIR/nodes/NAME.token .crt .key     what a node needs: its token, or its certificate
//!  DIR/readers/NAME.token     what a reader needs
//! ```
//!
//! Run again it adds nodes and readers, and makes nothing anew that is there.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::trust::{fingerprint, hex};
use crate::time::{boot_now, wall_offset};

/// What to make.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Names and addresses that nodes reach the gateway by.
    pub names: Vec<String>,
    pub nodes: Vec<String>,
    pub readers: Vec<String>,
}

const AUTHORITY_YEARS: u64 = 10;
const LEAF_YEARS: u64 = 2;

/// Makes what is not there; gives what was made, for the user to read.
///
/// # Errors
///
/// What cannot be made.
pub fn init(directory: &Path, wanted: &Wanted) -> anyhow::Result<Vec<String>> {
    let mut made = Vec::new();
    for sub in ["", "nodes", "readers"] {
        let path = directory.join(sub);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the directory {}", path.display()))?;
    }
    let authority = authority(directory, &mut made)?;
    if !directory.join("server.crt").exists() {
        let params = leaf(
            &wanted.names,
            "tracer gateway",
            ExtendedKeyUsagePurpose::ServerAuth,
        )?;
        certificate(directory, "server", &params, &authority, &mut made)?;
    }
    if !directory.join("tokens").exists() {
        write(
            directory,
            "tokens",
            "# KIND NAME DIGEST; read again when it changes\n",
            &mut made,
        )?;
    }
    for name in &wanted.nodes {
        let params = leaf(
            std::slice::from_ref(name),
            name,
            ExtendedKeyUsagePurpose::ClientAuth,
        )?;
        token(directory, "node", name, &mut made)?;
        certificate(
            directory,
            &format!("nodes/{name}"),
            &params,
            &authority,
            &mut made,
        )?;
    }
    for name in &wanted.readers {
        token(directory, "reader", name, &mut made)?;
    }
    Ok(made)
}

type Authority = Issuer<'static, KeyPair>;

fn authority(directory: &Path, made: &mut Vec<String>) -> anyhow::Result<Authority> {
    let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
    if certificate.exists() {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let key = KeyPair::from_pem(&read(&key)?).context("the authority's key is wrong")?;
        return Issuer::from_ca_cert_pem(&read(&certificate)?, key)
            .context("the authority's certificate is wrong");
    }
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "tracer authority");
    period(&mut params, AUTHORITY_YEARS);
    write(directory, "ca.key", &key.serialize_pem(), made)?;
    let pem = params
        .self_signed(&key)
        .context("cannot make an authority")?
        .pem();
    write(directory, "ca.crt", &pem, made)?;
    Issuer::from_ca_cert_pem(&pem, key).context("the authority's certificate is wrong")
}

fn leaf(
    names: &[String],
    title: &str,
    usage: ExtendedKeyUsagePurpose,
) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names.to_vec()).with_context(|| {
        format!(
            "'{}' is no name for a certificate",
            names.join(", ").escape_debug()
        )
    })?;
    params.distinguished_name.push(DnType::CommonName, title);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    period(&mut params, LEAF_YEARS);
    Ok(params)
}

/// From yesterday on, for clocks that are slow.
fn period(params: &mut CertificateParams, years: u64) {
    const DAY_NS: u64 = 86_400_000_000_000;
    let now = wall_offset().at(boot_now()).0;
    let date = |ns: u64| {
        let text = crate::time::Timestamp(ns).to_string();
        let part =
            |from: usize, to: usize| text.get(from..to).and_then(|part| part.parse::<u16>().ok());
        let small = |from, to| {
            part(from, to)
                .and_then(|part| u8::try_from(part).ok())
                .unwrap_or(1)
        };
        let year = part(0, 4).map_or(2026, i32::from);
        rcgen::date_time_ymd(year, small(5, 7), small(8, 10))
    };
    params.not_before = date(now.saturating_sub(DAY_NS));
    params.not_after = date(now.saturating_add(years * 365 * DAY_NS));
}

fn certificate(
    directory: &Path,
    name: &str,
    params: &CertificateParams,
    authority: &Authority,
    made: &mut Vec<String>,
) -> anyhow::Result<()> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let signed = params
        .signed_by(&key, authority)
        .with_context(|| format!("cannot sign the certificate of {name}"))?;
    write(directory, &format!("{name}.crt"), &signed.pem(), made)?;
    write(
        directory,
        &format!("{name}.key"),
        &key.serialize_pem(),
        made,
    )
}

fn token(directory: &Path, kind: &str, name: &str, made: &mut Vec<String>) -> anyhow::Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    anyhow::ensure!(
        !name.is_empty() && name.len() <= 253 && name.bytes().all(good) && !name.starts_with('.'),
        "'{}' is no name: letters, digits, '-', '_' and '.'",
        name.escape_debug()
    );
    let token = random()?;
    write(
        directory,
        &format!("{kind}s/{name}.token"),
        &format!("{token}\n"),
        made,
    )?;
    let line = format!("{kind} {name} sha256:{}\n", hex(&fingerprint(&token)));
    let path = directory.join("tokens");
    let mut tokens = fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    tokens
        .write_all(line.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// 256 random bits.
fn random() -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(hex(&bytes))
}

/// For the owner alone, and never over something that is there.
fn write(directory: &Path, name: &str, text: &str, made: &mut Vec<String>) -> anyhow::Result<()> {
    let path = directory.join(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    made.push(path.display().to_string());
    Ok(())
}
