//! Image references: `[REGISTRY[:PORT]/]PATH[:TAG][@DIGEST]`, or an id.

use super::json::MAX_NAME;

/// What references and ids tell about an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ImageFacts {
    /// Without tag and digest, as written: `nginx` stays `nginx`.
    pub name: Option<String>,
    pub tags: Vec<String>,
    /// With its algorithm: `sha256:…`.
    pub id: Option<String>,
    /// `NAME@DIGEST`.
    pub repo_digests: Vec<String>,
}

/// Longest tag (OCI distribution specification, "Pulling manifests").
const MAX_TAG: usize = 128;

impl ImageFacts {
    /// Reads a reference; an id in its place is taken as one.
    pub(super) fn of(reference: &str) -> Self {
        if reference.len() > 2 * MAX_NAME {
            return Self::default();
        }
        if let Some(id) = id(reference) {
            return Self {
                id: Some(id),
                ..Self::default()
            };
        }
        let (rest, digest) = match reference.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (reference, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if is_tag(tag) => (name, Some(tag)),
            _ => (rest, None),
        };
        if name.is_empty() || name.len() > MAX_NAME {
            return Self::default();
        }
        let digest = digest.filter(|digest| is_digest(digest));
        Self {
            name: Some(name.to_owned()),
            tags: tag.map(str::to_owned).into_iter().collect(),
            id: None,
            repo_digests: digest
                .map(|digest| format!("{name}@{digest}"))
                .into_iter()
                .collect(),
        }
    }

    /// The same with the image's id, where that is one. A name that only begins the id (`docker run
    /// 4f06bd3a2e1c`) is no name.
    pub(super) fn with_id(mut self, text: Option<&str>) -> Self {
        self.id = text.and_then(id).or(self.id);
        let digits = self.id.as_deref().and_then(|id| id.split_once(':'));
        if let (Some(name), Some((_, digits))) = (&self.name, digits)
            && name.len() >= 4
            && digits.starts_with(name.as_str())
        {
            self.name = None;
        }
        self
    }

    /// Adds what is not known yet; a name comes with its tags.
    pub(super) fn or(mut self, other: Self) -> Self {
        if self.name.is_none() {
            self.name = other.name;
            self.tags = other.tags;
        }
        if self.repo_digests.is_empty() {
            self.repo_digests = other.repo_digests;
        }
        self.id = self.id.or(other.id);
        self
    }

    pub(super) fn is_known(&self) -> bool {
        self.name.is_some() || self.id.is_some()
    }
}

/// 64 hexadecimal digits, with or without `sha256:`.
fn id(text: &str) -> Option<String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    (digits.len() == 64 && is_hex(digits)).then(|| format!("sha256:{digits}"))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, digits)| {
        !algorithm.is_empty() && digits.len() >= 32 && digits.len() <= 128 && is_hex(digits)
    })
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// What follows a colon is a tag, or else a registry's port and path.
fn is_tag(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_TAG
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "b8448bf69fa3b2ced122bd2d5ae97b3cd2fb524fa224c76e2a1d3384d88fa12f";

    #[track_caller]
    fn check(reference: &str, name: Option<&str>, tags: &[&str], id: bool, digests: &[&str]) {
        let found = ImageFacts::of(reference);
        assert_eq!(found.name.as_deref(), name, "{reference}");
        assert_eq!(found.tags, tags, "{reference}");
        assert_eq!(found.id.is_some(), id, "{reference}");
        assert_eq!(found.repo_digests, digests, "{reference}");
    }

    #[test]
    fn references() {
        check("nginx", Some("nginx"), &[], false, &[]);
        check("nginx:1.27", Some("nginx"), &["1.27"], false, &[]);
        check(
            "localhost:5000/web",
            Some("localhost:5000/web"),
            &[],
            false,
            &[],
        );
        check(
            "registry.example:5000/team/web:1.27",
            Some("registry.example:5000/team/web"),
            &["1.27"],
            false,
            &[],
        );
        check(
            &format!("docker.io/library/nginx@sha256:{HEX}"),
            Some("docker.io/library/nginx"),
            &[],
            false,
            &[&format!("docker.io/library/nginx@sha256:{HEX}")],
        );
        check(
            &format!("h:1/nginx:1.27@sha256:{HEX}"),
            Some("h:1/nginx"),
            &["1.27"],
            false,
            &[&format!("h:1/nginx@sha256:{HEX}")],
        );
        check(&format!("sha256:{HEX}"), None, &[], true, &[]);
        check(HEX, None, &[], true, &[]);
    }

    #[test]
    fn what_is_no_reference() {
        check("", None, &[], false, &[]);
        check(":tag", None, &[], false, &[]);
        check(&format!("@sha256:{HEX}"), None, &[], false, &[]);
        check("a@b", Some("a"), &[], false, &[]);
        check("a:b c", Some("a:b c"), &[], false, &[]);
        check(&"a".repeat(MAX_NAME + 1), None, &[], false, &[]);
        check(&"a:".repeat(4_000), None, &[], false, &[]);
    }

    #[test]
    fn a_short_id_is_no_name() {
        let short = ImageFacts::of(&HEX[..12]).with_id(Some(HEX));
        assert_eq!(short.name, None);
        assert_eq!(short.id, Some(format!("sha256:{HEX}")));
        let named = ImageFacts::of("beef").with_id(Some(HEX));
        assert_eq!(named.name.as_deref(), Some("beef"));
        assert_eq!(ImageFacts::of("a").with_id(Some("nonsense")).id, None);
    }
}
