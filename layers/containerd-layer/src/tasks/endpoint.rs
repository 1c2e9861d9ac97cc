//! Where a shim is and which version of the task service it speaks, as it answered its start.

use crate::{Error, Result, shim::bootstrap::Answer};
use hops::shim::{TASK_V2, TASK_V3};
use prost::Message;
use serde::{Deserialize, Serialize};

/// A shim's answer. Its JSON is containerd 2's `bootstrap.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    #[serde(default)]
    version: i32,
    /// `unix:///…`.
    pub(super) address: String,
    #[serde(default)]
    protocol: String,
}

impl Endpoint {
    /// Reads what a shim printed: its address alone, the JSON of containerd 1.7's shims, or the
    /// message of those since 2.3.
    ///
    /// # Errors
    /// Another text, protocol or version.
    pub(super) fn read(output: &[u8]) -> Result<Endpoint> {
        let text = || String::from_utf8_lossy(output).trim().to_owned();
        let mut endpoint = if output.starts_with(b"{") {
            serde_json::from_slice(output)
                .map_err(|e| Error::internal(format_args!("shim answered {:?}: {e}", text())))?
        } else if let Ok(Answer { version, address, protocol }) = Answer::decode(output)
            && !address.is_empty()
        {
            Endpoint { version, address, protocol }
        } else {
            Endpoint { version: 2, address: text(), protocol: String::new() }
        };
        match endpoint.protocol.as_str() {
            "" | "ttrpc" => "ttrpc".clone_into(&mut endpoint.protocol),
            other => {
                return Err(Error::unimplemented(format_args!("unsupported protocol: {other:?}")));
            }
        }
        endpoint.version = endpoint.version.max(2);
        if endpoint.version > 3 {
            let text = format!("unsupported shim version ({})", endpoint.version);
            return Err(Error::unimplemented(text));
        }
        match endpoint.address.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(endpoint),
            _ => Err(Error::internal(format_args!("shim answered no address: {:?}", text()))),
        }
    }

    /// The name of the shim's task service.
    pub(super) fn service(&self) -> &'static str {
        if self.is_version_2() { TASK_V2 } else { TASK_V3 }
    }

    /// Where a client of the sandbox service is told that it is, and its version.
    pub(super) fn dialled(&self) -> (String, u32) {
        (format!("{}+{}", self.protocol, self.address), self.version.unsigned_abs())
    }

    /// Whether its address says all of it.
    pub(super) fn is_version_2(&self) -> bool {
        self.version < 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_version() {
        let answer = |version, protocol: &str| {
            let protocol = protocol.to_owned();
            Answer { version, address: "unix:///x".into(), protocol }.encode_to_vec()
        };
        for (good, service) in [
            (b"unix:///x".to_vec(), TASK_V2),
            (b"unix:///x\n".to_vec(), TASK_V2),
            (br#"{"version":2,"address":"unix:///x","protocol":"ttrpc"}"#.to_vec(), TASK_V2),
            (br#"{"version":3,"address":"unix:///x","protocol":"ttrpc"}"#.to_vec(), TASK_V3),
            (answer(3, "ttrpc"), TASK_V3),
            (answer(2, ""), TASK_V2),
        ] {
            let endpoint = Endpoint::read(&good).unwrap();
            assert_eq!((endpoint.address.as_str(), endpoint.service()), ("unix:///x", service));
            let again = serde_json::to_vec(&endpoint).unwrap();
            assert_eq!(Endpoint::read(&again).unwrap(), endpoint);
        }
        for bad in ["", "usage: shim", r#"{"address":"unix:///x","protocol":"grpc"}"#, "{"] {
            Endpoint::read(bad.as_bytes()).unwrap_err();
        }
        for bad in [answer(4, "ttrpc"), answer(3, "grpc")] {
            Endpoint::read(&bad).unwrap_err();
        }
    }
}
