//! One call of a plugin, read: the attachment and what every plugin wants to know of it.

use std::path::PathBuf;

use hops::cni::{Attached, Attachment};
use serde::Deserialize;
use serde_json::Value;

use wire::cni::{
    error::{CniError, Result, code},
    netns::Netns,
    result,
};

/// An attachment whose names and versions have been checked.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// What the caller said.
    pub of: &'a Attachment,
    /// The network's name.
    pub network: String,
    /// The configuration's version.
    pub version: String,
    /// The plugin that the configuration is for.
    pub kind: String,
    /// What the plugins before this one answered.
    pub prev: Option<Attached>,
    /// Where plugins that are not built in are found, first first; `CNI_PATH`.
    pub path: &'a [PathBuf],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    prev_result: Option<Value>,
}

/// The longest name of a link, in bytes: the kernel's IFNAMSIZ less the final zero.
const LINK_NAME_BYTES: usize = 15;

impl<'a> Call<'a> {
    /// Reads an attachment. Ids, link names and networks that could not be what they name are
    /// refused in the words of the reference library (libcni 1.1).
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`], [`code::INVALID_CONFIG`], [`code::DECODING`] and
    /// [`code::INCOMPATIBLE_VERSION`], naming the field.
    pub fn read(of: &'a Attachment, path: &'a [PathBuf]) -> Result<Call<'a>> {
        check_container(&of.container_id)?;
        check_link(&of.ifname)?;
        let head: Head = decode(&of.config)?;
        if head.name.is_empty() {
            return Err(CniError::invalid("missing network name"));
        }
        if !identifier(&head.name) {
            return Err(
                CniError::invalid("invalid characters found in network name").detailed(head.name)
            );
        }
        let version = match head.cni_version.as_str() {
            "" => result::UNNAMED.to_owned(),
            _ => head.cni_version,
        };
        result::rank(&version)?;
        let prev = head.prev_result.filter(|prev| !prev.is_null());
        let prev = prev.map(|prev| result::read(prev, &version)).transpose()?;
        Ok(Call { of, network: head.name, version, kind: head.kind, prev, path })
    }

    /// Reads the configuration as `T`.
    ///
    /// # Errors
    /// [`code::DECODING`] naming the field.
    pub fn config<T: Deserialize<'a>>(&self) -> Result<T> {
        decode(&self.of.config)
    }

    /// The value of `key` in `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&'a str> {
        self.of.args.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Whether the configuration's version is `version` or newer.
    pub fn at_least(&self, version: &str) -> bool {
        matches!((result::rank(&self.version), result::rank(version)), (Ok(a), Ok(b)) if a >= b)
    }

    /// Opens the container's namespace, which must not be the caller's own: a plugin that mistakes
    /// the host for a container takes the host off the network.
    ///
    /// # Errors
    /// Those of [`Netns::open`], and the reference library's refusals.
    pub fn netns(&self) -> Result<Netns> {
        let path = self.of.netns.as_deref().filter(|path| !path.as_os_str().is_empty());
        let Some(path) = path else {
            return Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                "required env variables [CNI_NETNS] missing",
            ));
        };
        let netns = Netns::open(path)?;
        if netns.is_current()? {
            return Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                "plugin's netns and netns from CNI_NETNS should not be the same",
            ));
        }
        Ok(netns)
    }

    /// Opens the container's namespace for a DEL: `None` where it is gone already.
    ///
    /// # Errors
    /// Those of [`Call::netns`], except that there is none.
    pub fn netns_if_any(&self) -> Result<Option<Netns>> {
        match self.of.netns.as_deref() {
            Some(path) if path.exists() => self.netns().map(Some),
            _ => Ok(None),
        }
    }

    /// What the plugins before this one answered, for one that only works on their result.
    ///
    /// # Errors
    /// [`code::INVALID_CONFIG`] when there were none.
    pub fn required_prev(&self) -> Result<&Attached> {
        self.prev.as_ref().ok_or_else(|| CniError::invalid("Required prevResult missing"))
    }
}

fn decode<'a, T: Deserialize<'a>>(config: &'a Value) -> Result<T> {
    T::deserialize(config)
        .map_err(|e| CniError::new(code::DECODING, format!("failed to load netconf: {e}")))
}

fn check_container(id: &str) -> Result<()> {
    let error = |msg: &str| Err(CniError::new(code::INVALID_ENVIRONMENT, msg).detailed(id));
    match id {
        "" => error("missing containerID"),
        id if !identifier(id) => error("invalid characters in containerID"),
        _ => Ok(()),
    }
}

fn check_link(name: &str) -> Result<()> {
    let error = |msg: &str| Err(CniError::new(code::INVALID_ENVIRONMENT, msg));
    match name {
        "" => error("interface name is empty"),
        "." | ".." => error("interface name is . or .."),
        name if name.len() > LINK_NAME_BYTES => error("interface name is too long")
            .map_err(|e| e.detailed("interface name should be less than 16 characters")),
        name if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => {
            error("interface name contains / or : or whitespace characters")
        }
        _ => Ok(()),
    }
}

/// The specification's rule for container ids and network names: a letter or digit, then letters,
/// digits, `_`, `.` and `-`.
fn identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            container_id: "abc".into(),
            ifname: "eth0".into(),
            args: vec![("IP".into(), "10.0.0.9".into())],
            config: json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge" }),
            ..Attachment::default()
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        Call::read(&attachment(), &[]).unwrap();
        for (id, ifname, name, want) in [
            ("", "eth0", "net", "missing containerID"),
            ("../x", "eth0", "net", "invalid characters in containerID"),
            ("a", "", "net", "interface name is empty"),
            ("a", "sixteen-letters-", "net", "interface name is too long"),
            ("a", "..", "net", "interface name is . or .."),
            ("a", "a/b", "net", "interface name contains / or : or whitespace characters"),
            ("a", "eth0", "", "missing network name"),
            ("a", "eth0", "../../etc", "invalid characters found in network name"),
        ] {
            let mut attachment = attachment();
            (attachment.container_id, attachment.ifname) = (id.into(), ifname.into());
            attachment.config["name"] = name.into();
            assert_eq!(Call::read(&attachment, &[]).unwrap_err().msg, want);
        }
    }

    #[test]
    fn a_call_knows_its_version_and_arguments() {
        let attachment = attachment();
        let call = Call::read(&attachment, &[]).unwrap();
        assert!(call.at_least("0.4.0") && !call.at_least("1.1.0"));
        assert_eq!((call.arg("IP"), call.arg("MAC")), (Some("10.0.0.9"), None));
        assert_eq!(call.netns().unwrap_err().code, code::INVALID_ENVIRONMENT);
    }
}
