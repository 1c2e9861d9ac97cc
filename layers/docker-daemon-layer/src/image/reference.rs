//! Image names: what people write, what is stored, and what is shown again.

use hops::{HopError, Result};

const HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";

/// A name in full: `docker.io/library/busybox:latest`, `reg:5000/a/b@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The registry.
    pub domain: String,
    /// The repository in it.
    pub path: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name as people write it (distribution's `ParseNormalizedNamed`).
    ///
    /// # Errors
    /// `invalid reference format`, and the distribution project's other words for a bad name.
    pub fn parse(text: &str) -> Result<Reference> {
        let malformed = || HopError::invalid("invalid reference format");
        if is_id(text) {
            return Err(HopError::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(malformed()),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                if !is_tag(tag) {
                    return Err(malformed());
                }
                (name, Some(tag.to_owned()))
            }
            _ => (rest, None),
        };
        let (domain, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (if first == "index.docker.io" { HUB } else { first }, path.to_owned())
            }
            _ => (HUB, name.to_owned()),
        };
        let path =
            if domain == HUB && !path.contains('/') { format!("{OFFICIAL}{path}") } else { path };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(HopError::invalid(
                "invalid reference format: repository name must be lowercase",
            ));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) {
            return Err(malformed());
        }
        Ok(Reference { domain: domain.to_owned(), path, tag, digest })
    }

    /// The same name; with neither a tag nor a digest it means `latest`.
    pub fn tagged(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The repository as people write it: without Docker's own registry.
    pub fn familiar_name(&self) -> String {
        match self.domain.as_str() {
            HUB => self.path.strip_prefix(OFFICIAL).unwrap_or(&self.path).to_owned(),
            domain => format!("{domain}/{}", self.path),
        }
    }

    /// The name as people write it.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The name in full, as containerd stores it. A digest is what counts where both are given.
    pub fn full(&self) -> String {
        let name = format!("{}/{}", self.domain, self.path);
        match &self.digest {
            Some(digest) => format!("{name}@{digest}"),
            None => self.with_suffix(name),
        }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name = format!("{name}:{tag}");
        }
        match &self.digest {
            Some(digest) => format!("{name}@{digest}"),
            None => name,
        }
    }
}

/// Whether `text` is a whole image or container id.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `text` is a digest that this daemon can verify.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_id)
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
    !host.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

/// Lower-case words, joined by one dot, one or two underscores, or dashes.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    for (at, byte) in text.bytes().enumerate() {
        if word(byte) {
            let joins = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|b| b == b'-');
            if !joins || (at == separator.len() && at > 0) {
                return false;
            }
            separator.clear();
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.push(byte as char);
        } else {
            return false;
        }
    }
    !text.is_empty() && separator.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_shortened() {
        for (given, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("me/x:1", "docker.io/me/x:1", "me/x:1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "127.0.0.1:5000/a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "index.docker.io/library/a_b__c-d",
                "docker.io/library/a_b__c-d:latest",
                "a_b__c-d:latest",
            ),
        ] {
            let reference = Reference::parse(given).unwrap().tagged();
            assert_eq!(
                (reference.full().as_str(), reference.familiar().as_str()),
                (full, familiar)
            );
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = Reference::parse(&format!("busybox:1@{digest}")).unwrap().tagged();
        assert_eq!(by_digest.full(), format!("docker.io/library/busybox@{digest}"));
    }

    #[test]
    fn bad_names_are_refused_in_the_distribution_projects_words() {
        for bad in ["", ":tag", "a//b", "-a", "a-", "a..b", "a:b c", "a@sha256:1", "a___b"] {
            let message = Reference::parse(bad).unwrap_err().message;
            assert_eq!(message, "invalid reference format", "{bad}");
        }
        assert!(Reference::parse("Busybox").unwrap_err().message.ends_with("must be lowercase"));
        assert!(Reference::parse(&"a".repeat(64)).unwrap_err().message.contains("64-byte"));
    }
}
