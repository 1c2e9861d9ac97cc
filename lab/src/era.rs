//! A path as data: which daemons stand on it, and how each is told of its neighbours.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The presets.
const PRESETS: [&str; 3] = [
    include_str!("../eras/pre-1.24.toml"),
    include_str!("../eras/direct.toml"),
    include_str!("../eras/containerd.toml"),
];

/// A path from the kubelet to the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Era {
    /// Its name.
    pub name: String,
    /// The layers, as a reader would draw them.
    pub title: String,
    /// The socket on which its uppermost layer serves CRI.
    pub cri: String,
    /// Who keeps its images.
    pub images: Images,
    /// Whether the host's programs and libraries are to be seen in the sandbox, read-only: for
    /// real daemons among the path's.
    #[serde(default)]
    pub host_programs: bool,
    /// Files to write before any daemon starts.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// Its daemons, lowest first: each is started when the one before it serves.
    #[serde(rename = "daemon")]
    pub daemons: Vec<Daemon>,
}

/// A file that a path's daemons read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Where it stands.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// Who keeps a path's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Images {
    /// The Docker daemon: archives are loaded through its API.
    Docker,
    /// containerd: archives are imported through its transfer service.
    Containerd,
    /// A containerd before 1.7, which has no transfer service: its own client imports.
    Ctr,
}

/// One daemon of a path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Daemon {
    /// The layer it is.
    pub layer: String,
    /// The program.
    pub program: String,
    /// The socket it serves.
    pub socket: String,
    /// Its arguments.
    pub args: Vec<String>,
}

/// What stands for the names in braces in an era's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Places {
    /// State that outlives a daemon's restart.
    pub root: String,
    /// Sockets and other state that does not outlive the sandbox.
    pub run: String,
    /// The programs.
    pub bin: String,
    /// CNI network configurations.
    pub cni: String,
    /// The pause image.
    pub pause: String,
}

impl Places {
    fn fill(&self, text: &str) -> String {
        [
            ("{root}", &self.root),
            ("{run}", &self.run),
            ("{bin}", &self.bin),
            ("{cni}", &self.cni),
            ("{pause}", &self.pause),
        ]
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

impl Era {
    /// The preset `name`, or the era in the file of that name.
    ///
    /// # Errors
    /// When there is neither, and when the file is not an era: with the field and the reason.
    pub(crate) fn find(name: &str) -> Result<Era> {
        for text in PRESETS {
            let era: Era = toml::from_str(text).context("preset")?;
            if era.name == name {
                return Ok(era);
            }
        }
        if !Path::new(name).exists() {
            let names: Vec<String> = Era::presets()?.into_iter().map(|era| era.name).collect();
            bail!("no path {name:?}: it is neither a preset ({}) nor a file", names.join(", "));
        }
        let text = std::fs::read_to_string(name).with_context(|| name.to_owned())?;
        toml::from_str(&text).with_context(|| name.to_owned())
    }

    /// Every preset.
    ///
    /// # Errors
    /// When a preset is not an era.
    pub(crate) fn presets() -> Result<Vec<Era>> {
        PRESETS.iter().map(|text| toml::from_str(text).context("preset")).collect()
    }

    /// The era with every name in braces replaced.
    pub(crate) fn at(mut self, places: &Places) -> Era {
        self.cri = places.fill(&self.cri);
        for file in &mut self.files {
            file.path = places.fill(&file.path);
            file.text = places.fill(&file.text);
        }
        for daemon in &mut self.daemons {
            daemon.socket = places.fill(&daemon.socket);
            for arg in &mut daemon.args {
                *arg = places.fill(arg);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_eras_and_leave_no_name_unfilled() {
        let places = Places {
            root: "/r".into(),
            run: "/s".into(),
            bin: "/b".into(),
            cni: "/c".into(),
            pause: "p".into(),
        };
        for era in Era::presets().unwrap() {
            let text = toml::to_string(&era.at(&places)).unwrap();
            assert!(!text.contains('{'), "{text}");
        }
    }

    #[test]
    fn an_unknown_path_names_the_presets() {
        let error = Era::find("nowhere").unwrap_err().to_string();
        assert!(error.contains("pre-1.24, direct, containerd"), "{error}");
    }
}
