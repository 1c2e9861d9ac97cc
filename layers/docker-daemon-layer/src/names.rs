//! Ids, container names, and the words of random names.

use std::{fs::File, io::Read};

use hops::{HopError, Result};

/// 64 hexadecimal digits, whose first twelve are not a decimal number: a short id that was one
/// would be taken for it by programs that set it as a host name (moby's `stringid`).
///
/// # Errors
/// When the kernel gives no random bytes.
pub(crate) fn id() -> Result<String> {
    let mut random = File::open("/dev/urandom")?;
    loop {
        let mut bytes = [0u8; 32];
        random.read_exact(&mut bytes)?;
        let id: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        if id[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
            return Ok(id);
        }
    }
}

/// The first twelve digits, as `docker ps` shows them.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// A container's name without its slash.
///
/// # Errors
/// Docker's words for a name outside `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn checked(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let begins = bare.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && bare.len() > 1 && bare.bytes().all(allowed) {
        return Ok(bare);
    }
    Err(HopError::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

const MOODS: [&str; 40] = [
    "agile", "amber", "bold", "brave", "bright", "calm", "candid", "clever", "cosmic", "crisp",
    "dapper", "deft", "eager", "fair", "fleet", "gentle", "glad", "golden", "grand", "hardy",
    "humble", "jolly", "keen", "kind", "lively", "lucid", "merry", "mild", "noble", "patient",
    "placid", "proud", "quick", "quiet", "serene", "sharp", "steady", "sunny", "vivid", "wise",
];

const PEOPLE: [&str; 40] = [
    "abel", "ampere", "babbage", "bohr", "boole", "cantor", "carson", "church", "codd", "curie",
    "darwin", "dijkstra", "erdos", "euclid", "euler", "fermat", "galois", "gauss", "goedel",
    "hamming", "hopper", "hypatia", "kepler", "knuth", "lamport", "leibniz", "lovelace", "maxwell",
    "meitner", "mendel", "newton", "noether", "pascal", "planck", "ritchie", "shannon", "tesla",
    "thompson", "turing", "volta",
];

/// A name made from an id, which is random already; a later `attempt` gives another one.
pub(crate) fn random(id: &str, attempt: usize) -> String {
    let n = usize::from_str_radix(&id[..8], 16).unwrap_or(0) + attempt * 7919;
    let name = format!("{}_{}", MOODS[n % MOODS.len()], PEOPLE[n / MOODS.len() % PEOPLE.len()]);
    if attempt < 8 { name } else { format!("{name}{attempt}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_digits_and_not_a_number() {
        let id = id().unwrap();
        assert_eq!(id.len(), 64);
        assert!(short(&id).parse::<u64>().is_err());
    }

    #[test]
    fn names_are_checked_in_dockers_words() {
        assert_eq!(checked("/web.1").unwrap(), "web.1");
        for bad in ["a", "", "-x", "a b", "a/b"] {
            let error = checked(bad).unwrap_err();
            assert!(error.message.starts_with("Invalid container name ("), "{bad}");
        }
    }
}
