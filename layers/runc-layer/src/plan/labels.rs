//! Labels of the kernel's security modules, AppArmor and SELinux: the process's for its exec, the
//! content's for what is mounted.

use std::{ffi::CString, path::Path};

use super::c_string;
use crate::{Error, Result, spec::Process, sys::Errno};

/// What the process writes into a file of its own below /proc.
pub(crate) struct Label {
    /// Below /proc.
    pub(crate) file: CString,
    pub(crate) line: Vec<u8>,
    /// The process's keys have it too: SELinux's.
    pub(crate) of_keys: bool,
}

impl Label {
    /// runc 1.1's words for a label that the kernel did not take, of a new container's process or of
    /// one `for_exec`.
    pub(crate) fn refused(&self, errno: Errno, for_exec: bool) -> String {
        let file = self.file.to_string_lossy();
        let (what, failed) = match self.of_keys {
            true => ("can't set process label: ", ""),
            false => ("unable to apply apparmor profile: ", "apparmor failed to apply profile: "),
        };
        let what = if for_exec { "" } else { what };
        format!("{what}{failed}write /proc/{file}: {errno}")
    }
}

/// The label that the program is to have.
pub(super) fn of_process(process: &Process) -> Result<Option<Label>> {
    let refuse = |what: &str, reason: &str| Error::Spec {
        field: format!("config.json: process.{what}"),
        reason: reason.into(),
    };
    if !process.selinux_label.is_empty() {
        if !Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(refuse(
                "selinuxLabel",
                "selinux label is specified in config, but selinux is disabled or not supported",
            ));
        }
        let line = process.selinux_label.clone().into_bytes();
        return Ok(Some(Label { file: c"self/attr/exec".to_owned(), line, of_keys: true }));
    }
    if !process.apparmor_profile.is_empty() {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with(b"Y"));
        if !enabled {
            return match process.apparmor_profile.as_str() {
                "unconfined" => Ok(None),
                _ => Err(refuse(
                    "apparmorProfile",
                    "apparmor failed to apply profile: AppArmor is not enabled on the host",
                )),
            };
        }
        // Its own file since Linux 5.8; the other is the first module's that takes labels.
        let file = match Path::new("/proc/self/attr/apparmor/exec").exists() {
            true => c"self/attr/apparmor/exec",
            false => c"self/attr/exec",
        };
        let line = format!("exec {}", process.apparmor_profile).into_bytes();
        return Ok(Some(Label { file: file.to_owned(), line, of_keys: false }));
    }
    Ok(None)
}

/// The `data` of a mount of `kind` with `linux.mountLabel` (runc 1.1, libcontainer/rootfs_linux.go):
/// proc and sysfs take no context, a message queue is labelled when it is mounted, and the
/// hierarchies of cgroups are not the container's.
pub(super) fn mount_data(kind: &str, data: String, label: &str) -> String {
    let takes_none = ["proc", "sysfs", "mqueue", "cgroup", "cgroup2"].contains(&kind);
    match (label, data.as_str()) {
        ("", _) => data,
        _ if takes_none => data,
        (label, "") => format!("context={label:?}"),
        (label, data) => format!("{data},context={label:?}"),
    }
}

/// The label that what was mounted of `kind` is given afterwards.
pub(super) fn of_mounted(kind: &str, label: &str) -> Result<Option<CString>> {
    match kind == "mqueue" && !label.is_empty() {
        true => c_string("linux.mountLabel", label).map(Some),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_its_label_behind_its_data() {
        let data = |kind, data: &str, label| mount_data(kind, data.to_owned(), label);
        assert_eq!(data("tmpfs", "mode=755", ""), "mode=755");
        assert_eq!(data("tmpfs", "mode=755", "u:r:t:s0"), "mode=755,context=\"u:r:t:s0\"");
        assert_eq!(data("devpts", "", "u:r:t"), "context=\"u:r:t\"");
        for kind in ["proc", "sysfs", "mqueue", "cgroup2"] {
            assert_eq!(data(kind, "", "u:r:t"), "", "{kind}");
        }
        assert_eq!(of_mounted("mqueue", "u:r:t").unwrap().as_deref(), Some(c"u:r:t"));
        assert_eq!(of_mounted("tmpfs", "u:r:t").unwrap(), None);
    }
}
