//! The `linux` object.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::nullable;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Linux {
    #[serde(deserialize_with = "nullable")]
    pub(crate) uid_mappings: Vec<IdMapping>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) gid_mappings: Vec<IdMapping>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) sysctl: BTreeMap<String, String>,
    pub(crate) resources: Option<Resources>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) cgroups_path: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) namespaces: Vec<Namespace>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) devices: Vec<Device>,
    pub(crate) seccomp: Option<Seccomp>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) rootfs_propagation: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) masked_paths: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) readonly_paths: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) mount_label: String,
    pub(crate) intel_rdt: Option<IntelRdt>,
    pub(crate) personality: Option<Personality>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) time_offsets: BTreeMap<String, TimeOffset>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) net_devices: BTreeMap<String, NetDevice>,
}

/// A device of the host for the container; the key is its name on the host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NetDevice {
    /// Its name in the container, if it is to have another.
    #[serde(deserialize_with = "nullable")]
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(crate) container: u32,
    #[serde(rename = "hostID")]
    pub(crate) host: u32,
    pub(crate) size: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Device {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) path: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) major: i64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Personality {
    pub(crate) domain: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) flags: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TimeOffset {
    pub(crate) secs: i64,
    pub(crate) nanosecs: u32,
}

/// `linux.resources`; what is absent is left as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Resources {
    #[serde(deserialize_with = "nullable")]
    pub(crate) devices: Vec<DeviceRule>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) memory: Memory,
    #[serde(deserialize_with = "nullable")]
    pub(crate) cpu: Cpu,
    #[serde(deserialize_with = "nullable")]
    pub(crate) pids: Pids,
    #[serde(rename = "blockIO", deserialize_with = "nullable")]
    pub(crate) block_io: BlockIo,
    #[serde(deserialize_with = "nullable")]
    pub(crate) hugepage_limits: Vec<HugepageLimit>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) network: Network,
    #[serde(deserialize_with = "nullable")]
    pub(crate) rdma: BTreeMap<String, Rdma>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) unified: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceRule {
    #[serde(deserialize_with = "nullable")]
    pub(crate) allow: bool,
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) access: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Memory {
    pub(crate) limit: Option<i64>,
    pub(crate) reservation: Option<i64>,
    pub(crate) swap: Option<i64>,
    pub(crate) kernel: Option<i64>,
    #[serde(rename = "kernelTCP")]
    pub(crate) kernel_tcp: Option<i64>,
    pub(crate) swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub(crate) disable_oom_killer: Option<bool>,
    pub(crate) use_hierarchy: Option<bool>,
    pub(crate) check_before_update: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Cpu {
    pub(crate) shares: Option<u64>,
    pub(crate) quota: Option<i64>,
    pub(crate) burst: Option<u64>,
    pub(crate) period: Option<u64>,
    pub(crate) realtime_runtime: Option<i64>,
    pub(crate) realtime_period: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) cpus: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) mems: String,
    pub(crate) idle: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Pids {
    pub(crate) limit: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BlockIo {
    pub(crate) weight: Option<u16>,
    pub(crate) leaf_weight: Option<u16>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) weight_device: Vec<WeightDevice>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) throttle_read_bps_device: Vec<ThrottleDevice>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) throttle_write_bps_device: Vec<ThrottleDevice>,
    #[serde(rename = "throttleReadIOPSDevice", deserialize_with = "nullable")]
    pub(crate) throttle_read_iops_device: Vec<ThrottleDevice>,
    #[serde(rename = "throttleWriteIOPSDevice", deserialize_with = "nullable")]
    pub(crate) throttle_write_iops_device: Vec<ThrottleDevice>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WeightDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) weight: Option<u16>,
    pub(crate) leaf_weight: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ThrottleDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) rate: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HugepageLimit {
    pub(crate) page_size: String,
    pub(crate) limit: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Network {
    #[serde(rename = "classID")]
    pub(crate) class_id: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) priorities: Vec<InterfacePriority>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct InterfacePriority {
    pub(crate) name: String,
    pub(crate) priority: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rdma {
    pub(crate) hca_handles: Option<u32>,
    pub(crate) hca_objects: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Seccomp {
    pub(crate) default_action: String,
    pub(crate) default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) architectures: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) flags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) listener_path: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) listener_metadata: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) syscalls: Vec<SeccompRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeccompRule {
    #[serde(deserialize_with = "nullable")]
    pub(crate) names: Vec<String>,
    pub(crate) action: String,
    pub(crate) errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) args: Vec<SeccompArg>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeccompArg {
    pub(crate) index: u32,
    pub(crate) value: u64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) value_two: u64,
    pub(crate) op: String,
}

/// What cannot be done without Intel RDT; the rest of the object changes nothing without these.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IntelRdt {
    #[serde(deserialize_with = "nullable")]
    pub(crate) l3_cache_schema: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) mem_bw_schema: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) schemata: Vec<String>,
}
