//! Image names: `host[:port]/path[:tag][@digest]`, full names as containerd wants them.
//!
//! Short names (`busybox`) mean something to Docker's and the CRI's clients only; [`familiar`] is
//! their rule, for whoever plays such a client.

use crate::{Digest, Error, Result};
use std::fmt;

/// A full image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry's host and port.
    pub host: String,
    /// The repository in it.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest, which outranks the tag.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses a full name.
    ///
    /// # Errors
    /// `InvalidArgument` naming the text and what is missing or wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let bad =
            |reason: &str| Error::invalid(format_args!("invalid reference {text:?}: {reason}"));
        if text.contains("://") {
            return Err(bad("no scheme is allowed"));
        }
        let (host, rest) = text.split_once('/').ok_or_else(|| bad("hostname required"))?;
        if host.is_empty() {
            return Err(bad("hostname required"));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (rest, None),
        };
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '_', '-'])
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        if !repository.split('/').all(part) {
            return Err(bad("a repository is of lower-case letters, digits, '.', '_' and '-'"));
        }
        let word = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if let Some(tag) = &tag
            && (tag.is_empty() || tag.len() > 128 || !tag.bytes().all(word))
        {
            return Err(bad("invalid tag"));
        }
        if tag.is_none() && digest.is_none() {
            return Err(bad("object required"));
        }
        let fine = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
        // A host is the name of a directory as well (`certs.d`): it must not lead out of there.
        let begins = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
        if !begins || !host.bytes().all(fine) {
            return Err(bad("invalid host"));
        }
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), tag, digest })
    }

    /// Where the registry of this name is: Docker Hub has another host than its name.
    pub fn endpoint(&self) -> &str {
        if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host }
    }

    /// What to ask the registry for: the digest, else the tag.
    pub fn object(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The full name of what a Docker user calls `name`: `busybox` is
/// `docker.io/library/busybox:latest`.
pub fn familiar(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    let full = match (is_host, first) {
        (true, "index.docker.io") => format!("docker.io/{rest}"),
        (true, _) => name.to_owned(),
        (false, "") => format!("docker.io/library/{name}"),
        (false, _) => format!("docker.io/{name}"),
    };
    let full = match full.strip_prefix("docker.io/") {
        Some(rest) if !rest.contains('/') => format!("docker.io/library/{rest}"),
        _ => full,
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { full } else { format!("{full}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names() {
        let digest = Digest::of(b"");
        for (text, host, repository, object) in [
            ("docker.io/library/busybox:1", "docker.io", "library/busybox", "1"),
            ("localhost:5000/a/b:x", "localhost:5000", "a/b", "x"),
            ("127.0.0.1:5000/a:x", "127.0.0.1:5000", "a", "x"),
            ("[::1]:5000/a:x", "[::1]:5000", "a", "x"),
            (&format!("r.io/a:x@{digest}"), "r.io", "a", digest.as_str()),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.host.as_str(), reference.repository.as_str(), reference.object()),
                (host, repository, object)
            );
            assert_eq!(reference.to_string(), text);
        }
        for bad in [
            "busybox",
            "/x:1",
            "r.io/a",
            "r.io/A:1",
            "r.io/a:",
            "http://r.io/a:1",
            "r.io/../a:1",
            "../a:1",
            "./a:1",
            "r.io/a@sha256:1",
        ] {
            assert_eq!(Reference::parse(bad).unwrap_err().kind, crate::Kind::InvalidArgument);
        }
    }

    #[test]
    fn short_names() {
        for (name, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("r.io/x@sha256:0", "r.io/x@sha256:0"),
        ] {
            assert_eq!(familiar(name), want);
        }
    }
}
