//! The `process` object, which `exec --process` takes on its own.

use serde::Deserialize;

use super::nullable;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Process {
    #[serde(deserialize_with = "nullable")]
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<ConsoleSize>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) user: User,
    #[serde(deserialize_with = "nullable")]
    pub(crate) args: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) cwd: String,
    pub(crate) capabilities: Option<Capabilities>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) rlimits: Vec<Rlimit>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) no_new_privileges: bool,
    #[serde(deserialize_with = "nullable")]
    pub(crate) apparmor_profile: String,
    pub(crate) oom_score_adj: Option<i32>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) selinux_label: String,
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    pub(crate) exec_cpu_affinity: Option<CpuAffinity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConsoleSize {
    pub(crate) height: u16,
    pub(crate) width: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct User {
    #[serde(deserialize_with = "nullable")]
    pub(crate) uid: u32,
    #[serde(deserialize_with = "nullable")]
    pub(crate) gid: u32,
    pub(crate) umask: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    #[serde(deserialize_with = "nullable")]
    pub(crate) bounding: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) effective: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) inheritable: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) permitted: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) ambient: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rlimit {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) hard: u64,
    pub(crate) soft: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Scheduler {
    pub(crate) policy: String,
    pub(crate) nice: i32,
    pub(crate) priority: i32,
    #[serde(deserialize_with = "nullable")]
    pub(crate) flags: Vec<String>,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct IoPriority {
    pub(crate) class: String,
    pub(crate) priority: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CpuAffinity {
    #[serde(deserialize_with = "nullable")]
    pub(crate) initial: String,
    #[serde(rename = "final", deserialize_with = "nullable")]
    pub(crate) last: String,
}
