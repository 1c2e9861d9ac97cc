//! Content names: `sha256:<64 hex digits>`, which is what registries use, and the longer ones of the
//! OCI image specification's "Registered algorithms".

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::{fmt, str::FromStr};

/// How a digest is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// What everything is named by that comes without a name.
    #[default]
    Sha256,
    /// Go's go-digest knows it, so containerd does.
    Sha384,
    /// The specification's other one.
    Sha512,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in a digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of its digests in hexadecimal digits.
    fn length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// A checked digest in its text form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The sha256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::by(Algorithm::default(), bytes)
    }

    /// The digest of `bytes`.
    pub fn by(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// How it is made.
    pub fn algorithm(&self) -> Algorithm {
        let name = self.0.split(':').next().unwrap_or_default();
        Algorithm::ALL.into_iter().find(|a| a.name() == name).unwrap_or_default()
    }

    /// The hexadecimal digits.
    pub fn hex(&self) -> &str {
        self.0.split(':').nth(1).unwrap_or_default()
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(Error::invalid(format_args!("invalid checksum digest format: {text:?}")));
        };
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|a| a.name() == algorithm) else {
            return Err(Error::invalid(format_args!("unsupported digest algorithm: {text:?}")));
        };
        if hex.len() != algorithm.length() {
            return Err(Error::invalid(format_args!("invalid checksum digest length: {text:?}")));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Error::invalid(format_args!("invalid checksum digest format: {text:?}")));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A digest under way.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(Box<sha2::Sha384>),
    Sha512(Box<sha2::Sha512>),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new(Algorithm::default())
    }
}

impl Hasher {
    /// A digest of nothing so far.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => State::Sha384(Box::default()),
            Algorithm::Sha512 => State::Sha512(Box::default()),
        })
    }

    /// How it is made.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha384(_) => Algorithm::Sha384,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        match self.0 {
            State::Sha256(state) => text(algorithm, &state.finalize()),
            State::Sha384(state) => text(algorithm, &state.finalize()),
            State::Sha512(state) => text(algorithm, &state.finalize()),
        }
    }
}

fn text(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    use fmt::Write as _;
    let mut text = String::with_capacity(algorithm.name().len() + 1 + algorithm.length());
    text.push_str(algorithm.name());
    text.push(':');
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Digest(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        // FIPS 180-2, appendices B.1, D.1 and C.1: the digests of "abc".
        for (algorithm, begins, ends) in [
            (Algorithm::Sha256, "sha256:ba7816bf8f01cfea", "b410ff61f20015ad"),
            (Algorithm::Sha384, "sha384:cb00753f45a35e8b", "58baeca134c825a7"),
            (Algorithm::Sha512, "sha512:ddaf35a193617aba", "2a9ac94fa54ca49f"),
        ] {
            let digest = Digest::by(algorithm, b"abc");
            let text = digest.as_str();
            assert!(text.starts_with(begins) && text.ends_with(ends), "{text}");
            assert_eq!(digest.algorithm(), algorithm);
            assert_eq!(text.parse::<Digest>().unwrap(), digest);
            assert_eq!(format!("{}:{}", algorithm.name(), digest.hex()), text);
            assert!(text[..text.len() - 1].parse::<Digest>().is_err());
            assert!(text.to_uppercase().replacen("SHA", "sha", 1).parse::<Digest>().is_err());
        }
        for bad in ["", "sha256", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha512:", "sha256:../x"]
        {
            assert_eq!(bad.parse::<Digest>().unwrap_err().kind, crate::Kind::InvalidArgument);
        }
    }
}
