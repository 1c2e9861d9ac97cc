//! Image references as users write them and as containerd names images.

/// A reference in its full form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `docker.io/library/busybox`.
    pub(crate) repository: String,
    /// The tag, where it has one and no digest.
    pub(crate) tag: Option<String>,
    /// `sha256:…`, where it has one.
    pub(crate) digest: Option<String>,
}

impl Reference {
    /// Reads a reference, adding what it leaves out as Docker does: the registry `docker.io`, its
    /// `library/`, and the tag `latest`. A digest makes a tag beside it void (containerd 1.6).
    ///
    /// # Errors
    /// In the words of Docker's reference library.
    pub(crate) fn parse(text: &str) -> Result<Reference, String> {
        let invalid = |why: &str| format!("failed to parse image reference {text:?}: {why}");
        const FORMAT: &str = "invalid reference format";
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|d| !is_digest(d)) {
            return Err(invalid(FORMAT));
        }
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(invalid(FORMAT));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (if first == "index.docker.io" { "docker.io" } else { first }, rest.to_owned())
            }
            _ => ("docker.io", name.to_owned()),
        };
        let path = match registry {
            "docker.io" if !path.contains('/') => format!("library/{path}"),
            _ => path,
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("repository name must be lowercase"));
        }
        if !path.split('/').all(is_component) {
            return Err(invalid(FORMAT));
        }
        Ok(Reference {
            repository: format!("{registry}/{path}"),
            tag: match digest {
                None => Some(tag.unwrap_or("latest").to_owned()),
                Some(_) => None,
            },
            digest: digest.map(str::to_owned),
        })
    }

    /// containerd's name of it.
    pub(crate) fn name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository),
            (None, Some(tag)) => format!("{}:{tag}", self.repository),
            (None, None) => self.repository.clone(),
        }
    }
}

/// Whether `text` is `algorithm:hex` of a length that can be one.
pub(crate) fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    })
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().enumerate().all(|(i, b)| word(b) || (i > 0 && (b == b'.' || b == b'-')))
}

/// Lowercase letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().last().is_some_and(alphanumeric);
    ends && text.bytes().all(|b| alphanumeric(b) || b"._-".contains(&b))
        && !["..", "___", "._", "_.", ".-", "-.", "_-", "-_"].iter().any(|s| text.contains(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_added() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (short, full) in [
            ("busybox".to_owned(), "docker.io/library/busybox:latest".to_owned()),
            ("user/app:1.0".into(), "docker.io/user/app:1.0".into()),
            ("localhost/app".into(), "localhost/app:latest".into()),
            ("127.0.0.1:5000/a/b:t".into(), "127.0.0.1:5000/a/b:t".into()),
            ("registry.k8s.io/pause:3.10".into(), "registry.k8s.io/pause:3.10".into()),
            (format!("busybox:1@{digest}"), format!("docker.io/library/busybox@{digest}")),
        ] {
            assert_eq!(Reference::parse(&short).unwrap().name(), full);
        }
        for bad in ["", "Upper", "a b", "busybox:", "busybox@sha256:12", "-a", "a//b", "a:b:c"] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
