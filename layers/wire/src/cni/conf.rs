//! Networks as the administrator writes them: `/etc/cni/net.d`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use hops::cni::Attached;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cni::{
    error::{CniError, Doing, Result, code},
    result,
};

/// A network: plugins that are called one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkList {
    /// Its name.
    pub name: String,
    /// The version of its configuration.
    pub cni_version: String,
    /// Whether its plugins must not be asked to CHECK.
    pub disable_check: bool,
    /// The plugins' configurations, in the order of ADD.
    pub plugins: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListFile {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    disable_check: bool,
    #[serde(default)]
    plugins: Vec<Value>,
}

impl NetworkList {
    /// Reads a list (the content of a `.conflist`).
    ///
    /// # Errors
    /// [`code::DECODING`] and [`code::INVALID_CONFIG`], naming the field.
    pub fn from_list(json: &Value) -> Result<NetworkList> {
        let file = ListFile::deserialize(json).map_err(|e| {
            CniError::new(code::DECODING, format!("error parsing configuration list: {e}"))
        })?;
        if file.name.is_empty() {
            return Err(CniError::invalid("error parsing configuration list: no name"));
        }
        if file.plugins.is_empty() {
            return Err(CniError::invalid("error parsing configuration list: no 'plugins' key"));
        }
        if let Some(at) = file.plugins.iter().position(|plugin| kind(plugin).is_none()) {
            return Err(CniError::invalid(format!(
                "failed to parse plugin config {at}: missing 'type'"
            )));
        }
        Ok(NetworkList {
            name: file.name,
            cni_version: or_unnamed(file.cni_version),
            disable_check: file.disable_check,
            plugins: file.plugins,
        })
    }

    /// Reads a single plugin's configuration (the content of a `.conf`) as a list of one.
    ///
    /// # Errors
    /// [`code::INVALID_CONFIG`], naming the field.
    pub fn from_plugin(json: &Value) -> Result<NetworkList> {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        if kind(json).is_none() {
            return Err(CniError::invalid("error parsing configuration: missing 'type'"));
        }
        if text("name").is_empty() {
            return Err(CniError::invalid("error parsing configuration: no name"));
        }
        Ok(NetworkList {
            name: text("name"),
            cni_version: or_unnamed(text("cniVersion")),
            disable_check: false,
            plugins: vec![json.clone()],
        })
    }

    /// Reads a file, by its ending a list or a single plugin's configuration.
    ///
    /// # Errors
    /// [`code::IO`], [`code::DECODING`] and [`code::INVALID_CONFIG`], naming the file.
    pub fn from_file(path: &Path) -> Result<NetworkList> {
        let named = |e: CniError| e.context(path.display());
        let text =
            fs::read_to_string(path).map_err(|e| named(CniError::new(code::IO, e.to_string())))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| named(CniError::new(code::DECODING, e.to_string())))?;
        let list = path.extension().is_some_and(|e| e == "conflist");
        if list { Self::from_list(&json) } else { Self::from_plugin(&json) }.map_err(named)
    }

    /// Reads the first network of a directory: of the files ending in `.conf`, `.conflist` and
    /// `.json`, in the order of their names, the first that can be read. The others are passed
    /// over, as dockershim and containerd do.
    ///
    /// # Errors
    /// [`code::INVALID_CONFIG`] in dockershim's words when there is none; the details say what is
    /// wrong with those that could not be read.
    pub fn from_dir(dir: &Path) -> Result<NetworkList> {
        let mut complaints = Vec::new();
        for file in files(dir)? {
            match Self::from_file(&file) {
                Ok(list) => return Ok(list),
                Err(error) => complaints.push(error.to_string()),
            }
        }
        let dir = dir.display();
        Err(match complaints.is_empty() {
            true => CniError::invalid(format!("no networks found in {dir}")),
            false => CniError::invalid(format!("no valid networks found in {dir}"))
                .detailed(complaints.join("; ")),
        })
    }

    /// The `type` of plugin number `at`.
    pub fn kind(&self, at: usize) -> &str {
        self.plugins.get(at).and_then(kind).unwrap_or_default()
    }

    /// What plugin number `at` reads on its standard input: its configuration with the network's
    /// name and version, the result so far, and those of the runtime's `capabilities` that it says
    /// it has.
    pub fn config(
        &self,
        at: usize,
        prev: Option<&Attached>,
        capabilities: &Map<String, Value>,
    ) -> Result<Value> {
        let mut config = self.plugins.get(at).cloned().unwrap_or_default();
        config["name"] = self.name.as_str().into();
        config["cniVersion"] = self.cni_version.as_str().into();
        if let Some(prev) = prev {
            config["prevResult"] = result::write(prev, &self.cni_version)?;
        }
        let has = |capability: &str| config["capabilities"][capability] == Value::Bool(true);
        let given: Map<_, _> = capabilities
            .iter()
            .filter(|(capability, _)| has(capability))
            .map(|(capability, value)| (capability.clone(), value.clone()))
            .collect();
        if !given.is_empty() {
            config["runtimeConfig"] = given.into();
        }
        Ok(config)
    }
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin["type"].as_str().filter(|kind| !kind.is_empty())
}

fn or_unnamed(version: String) -> String {
    if version.is_empty() { result::UNNAMED.to_owned() } else { version }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(format_args!("read {}", dir.display()))?,
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            ["conf", "conflist", "json"].contains(&ending) && path.is_file()
        })
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_valid_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let none = NetworkList::from_dir(dir.path()).unwrap_err();
        assert!(none.msg.starts_with("no networks found in "), "{none}");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("10-broken.conflist", "{");
        write("15-ignored.yaml", "{}");
        let broken = NetworkList::from_dir(dir.path()).unwrap_err();
        assert!(broken.msg.starts_with("no valid networks found in "), "{broken}");
        assert!(broken.details.contains("10-broken.conflist"), "{broken}");
        write("30-last.conf", r#"{"name":"last","type":"bridge"}"#);
        write(
            "20-first.conflist",
            r#"{"name":"first","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#,
        );
        assert_eq!(NetworkList::from_dir(dir.path()).unwrap().name, "first");
        fs::remove_file(dir.path().join("20-first.conflist")).unwrap();
        let last = NetworkList::from_dir(dir.path()).unwrap();
        assert_eq!((last.name.as_str(), last.cni_version.as_str()), ("last", "0.1.0"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (json, want) in [
            (json!({ "plugins": [{ "type": "a" }] }), "no name"),
            (json!({ "name": "n" }), "no 'plugins' key"),
            (
                json!({ "name": "n", "plugins": [{ "type": "a" }, {}] }),
                "plugin config 1: missing 'type'",
            ),
            (json!({ "name": 1 }), "invalid type"),
        ] {
            let error = NetworkList::from_list(&json).unwrap_err();
            assert!(error.msg.contains(want), "{error}");
        }
    }

    #[test]
    fn a_plugin_is_told_what_it_can_use() {
        let list = NetworkList::from_list(&json!({
            "name": "n", "cniVersion": "0.4.0",
            "plugins": [{ "type": "a" }, { "type": "b", "capabilities": { "portMappings": true, "mac": false } }],
        }))
        .unwrap();
        let runtime = json!({ "portMappings": [1], "mac": "x" });
        let runtime = runtime.as_object().unwrap();
        let first = list.config(0, None, runtime).unwrap();
        assert_eq!(first, json!({ "type": "a", "name": "n", "cniVersion": "0.4.0" }));
        let second = list.config(1, Some(&Attached::default()), runtime).unwrap();
        assert_eq!(second["runtimeConfig"], json!({ "portMappings": [1] }));
        assert_eq!(second["prevResult"]["cniVersion"], "0.4.0");
    }
}
