//! `config.json`: a view of the OCI runtime specification 1.2 that is cheap to read.
//!
//! Field names and meanings are the specification's ("Configuration", "Linux Container
//! Configuration"). Null and absent are the same, as they are for runc.

mod linux;
mod process;
mod validate;

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Result, sys::Errno};

pub(crate) use linux::*;
pub(crate) use process::*;

/// The newest version of the specification that the layer follows.
pub const VERSION: &str = "1.2.1";

/// Reads null as the type's default.
pub(crate) fn nullable<'de, T, D>(deserializer: D) -> std::result::Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    #[serde(deserialize_with = "nullable")]
    pub(crate) oci_version: String,
    pub(crate) process: Option<Process>,
    pub(crate) root: Option<Root>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) hostname: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) domainname: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) mounts: Vec<Mount>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) hooks: Hooks,
    #[serde(deserialize_with = "nullable")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) linux: Linux,
    pub(crate) vm: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Root {
    #[serde(deserialize_with = "nullable")]
    pub(crate) path: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) readonly: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Mount {
    #[serde(deserialize_with = "nullable")]
    pub(crate) destination: String,
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) source: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) options: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) uid_mappings: Vec<IdMapping>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) gid_mappings: Vec<IdMapping>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hooks {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) prestart: Vec<Hook>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) create_runtime: Vec<Hook>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) create_container: Vec<Hook>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) start_container: Vec<Hook>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Hook {
    #[serde(deserialize_with = "nullable")]
    pub(crate) path: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) args: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) env: Vec<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<i64>,
}

impl Spec {
    /// Reads and checks `config.json` of the bundle directory `bundle`.
    pub(crate) fn load(bundle: &Path) -> Result<Spec> {
        let path = bundle.join("config.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if !bundle.is_dir() {
                    return Err(Error::os(format!("chdir {}", bundle.display()), Errno::NOENT));
                }
                return Err(Error::NoConfig);
            }
            Err(e) => return Err(Error::os(format!("open {}", path.display()), e.into())),
        };
        Spec::parse(&bytes)
    }

    /// Decodes and checks the text of a `config.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Spec> {
        let spec: Spec = decode(bytes, "config.json")?;
        spec.validate()?;
        Ok(spec)
    }
}

/// Decodes JSON; an error names the field of `document` that is wrong.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], document: &str) -> Result<T> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    // One way to decode, not a quick one and one for errors: the code of each is a sixth of the
    // program, and what the program takes to start is its pages.
    let wrong = |place: String, reason: serde_json::Error| Error::Spec {
        field: match place.as_str() {
            "." => document.to_owned(),
            place => format!("{document}: {place}"),
        },
        reason: reason.to_string(),
    };
    let decoded = serde_path_to_error::deserialize(&mut text)
        .map_err(|e| wrong(e.path().to_string(), e.into_inner()))?;
    text.end().map_err(|e| wrong(".".to_owned(), e))?;
    Ok(decoded)
}
