//! Ids, names and times as containerd's CRI writes them.

use std::{
    io::Read,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hops::proto::{
    Timestamp,
    runtime::v1::{ContainerMetadata, PodSandboxMetadata},
};

/// A new random id: 64 hexadecimal digits.
///
/// # Errors
/// Those of reading the kernel's random numbers.
pub(crate) fn random_id() -> std::io::Result<String> {
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex(&bytes))
}

/// `bytes` in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits.map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// The name that keeps two attempts at one sandbox apart.
pub(crate) fn sandbox_name(of: &PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}", of.name, of.namespace, of.uid, of.attempt)
}

/// The name that keeps two attempts at one container apart.
pub(crate) fn container_name(of: &ContainerMetadata, pod: &PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}_{}", of.name, pod.name, pod.namespace, pod.uid, of.attempt)
}

/// Now, in nanoseconds since 1970, as CRI's times are.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A protobuf time in nanoseconds since 1970; `or` where there is none.
pub(crate) fn nanos(time: Option<&Timestamp>, or: i64) -> i64 {
    time.map_or(or, |t| t.seconds.saturating_mul(1_000_000_000) + i64::from(t.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_digits_and_differ() {
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(a.len(), 64);
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }
}
