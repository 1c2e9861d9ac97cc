//! Server addresses: `unix:path=/run/user/1000/bus,guid=…;unix:abstract=…` (D-Bus Specification
//! 0.41, "Server Addresses").

use super::{Error, Result};

/// A unix socket's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Path(Vec<u8>),
    Abstract(Vec<u8>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Path(path) => f.write_str(&String::from_utf8_lossy(path)),
            Address::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl Address {
    /// The unix sockets among the alternatives of `text`, in their order.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when there is none.
    pub(crate) fn parse(text: &str) -> Result<Vec<Address>> {
        let sockets: Vec<Address> = text.split(';').filter_map(one).collect();
        match sockets.is_empty() {
            true => Err(Error::Address(text.to_owned())),
            false => Ok(sockets),
        }
    }
}

fn one(text: &str) -> Option<Address> {
    let keys = text.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", value) => unescape(value).map(Address::Path),
        ("abstract", value) => unescape(value).map(Address::Abstract),
        _ => None,
    })
}

/// Undoes `%2f`; a percent sign without two digits is no value.
fn unescape(value: &str) -> Option<Vec<u8>> {
    let mut bytes = value.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let high = digit(bytes.next()?)?;
                (high * 16 + digit(bytes.next()?)?) as u8
            }
            byte => byte,
        });
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_sockets_are_found_among_what_an_address_lists() {
        let path = |p: &str| Address::Path(p.into());
        for (text, expected) in [
            ("unix:path=/run/user/1000/bus", vec![path("/run/user/1000/bus")]),
            ("unix:path=/a%20b%2c,guid=0123", vec![path("/a b,")]),
            (
                "tcp:host=x,port=1;unix:guid=1,abstract=/tmp/d;unix:path=/c",
                vec![Address::Abstract(b"/tmp/d".to_vec()), path("/c")],
            ),
        ] {
            assert_eq!(Address::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "tcp:host=x", "unix:", "unix:path=", "unix:path=%4", "unix:path=%zz"] {
            assert_eq!(Address::parse(text), Err(Error::Address(text.into())), "{text}");
        }
    }
}
