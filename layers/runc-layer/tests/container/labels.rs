//! Labels of AppArmor and of SELinux, where the kernel has one of the two (`just test-v2` makes
//! such machines).

use std::{fs, path::Path, process::Command};

use crate::bundle::Bundle;
use serde_json::json;

const PARSER: &str = "/usr/sbin/apparmor_parser";

/// An AppArmor profile in the kernel, which forbids to write to /tmp/closed.
struct Profile {
    name: String,
    text: tempfile::NamedTempFile,
}

impl Profile {
    /// `None`, with the reason printed, where there is no AppArmor.
    fn load(name: &str) -> Option<Profile> {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
        if !enabled.starts_with(b"Y") || !Path::new("/sys/kernel/security/apparmor").exists() {
            println!("SKIP: needs a kernel with AppArmor");
            return None;
        }
        if !Path::new(PARSER).exists() {
            println!("SKIP: needs apparmor_parser");
            return None;
        }
        let name = format!("strata-{name}-{}", std::process::id());
        let text = tempfile::NamedTempFile::new().unwrap();
        let rules = "file, capability, network, mount, signal, unix, ptrace, deny /tmp/closed w,";
        let flags = "attach_disconnected,mediate_deleted";
        fs::write(text.path(), format!("profile {name} flags=({flags}) {{ {rules} }}\n")).unwrap();
        let profile = Profile { name, text };
        assert!(profile.parser("--replace"), "the profile is not taken");
        Some(profile)
    }

    fn parser(&self, verb: &str) -> bool {
        let mut command = Command::new(PARSER);
        command.args([verb, "--skip-cache"]).arg(self.text.path());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

const CURRENT: &str = "cat /proc/self/attr/current";

#[test]
fn apparmor_confines_the_container_and_what_is_executed_in_it() {
    let script = "cat /proc/self/attr/current; touch /tmp/open && echo open; \
                  touch /tmp/closed || echo closed; exec sleep 1000";
    let Some(mut b) = Bundle::new(script) else { return };
    let (Some(profile), Some(other)) = (Profile::load("one"), Profile::load("other")) else {
        return;
    };
    b.config["root"]["readonly"] = json!(false);
    b.config["process"]["apparmorProfile"] = json!(profile.name);
    let created = b.create();
    assert_eq!(created.code, 0, "{created:?}");
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for_output("closed\n");
    let output = b.output();
    assert!(output.contains(&format!("{} (enforce)\n", profile.name)), "{output}");
    assert!(output.contains("open\n") && output.contains("Permission denied"), "{output}");
    let current = |more: &[&str]| {
        let mut args = vec!["exec"];
        args.extend_from_slice(more);
        args.extend([b.id.as_str(), "sh", "-c", CURRENT]);
        b.call(&args).out
    };
    assert_eq!(current(&[]), format!("{} (enforce)\n", profile.name));
    assert_eq!(current(&["--apparmor", &other.name]), format!("{} (enforce)\n", other.name));
    assert_eq!(current(&["--apparmor", "unconfined"]), "unconfined\n");
    let said = b.call(&["exec", "--apparmor", "no-such-profile", &b.id, "true"]);
    let words = "unable to start container process: apparmor failed to apply profile: \
                 write /proc/self/attr/apparmor/exec: no such file or directory";
    assert!(said.code == 255 && said.err.contains(words), "{said:?}");
}

#[test]
fn an_apparmor_profile_that_is_not_loaded_is_refused_in_runcs_words() {
    let Some(mut b) = Bundle::new("true") else { return };
    let Some(_profile) = Profile::load("third") else { return };
    b.config["process"]["apparmorProfile"] = json!("no-such-profile");
    let said = b.run();
    let words = "unable to apply apparmor profile: apparmor failed to apply profile: \
                 write /proc/self/attr/apparmor/exec: no such file or directory";
    assert!(said.code == 1 && said.err.contains(words), "{said:?}");
    b.assert_gone();
}

/// Two contexts of the policy that the virtual machine is given (`tests/vm/policy.conf`).
const CONTAINER: &str = "tests_u:tests_r:container_t";
const CONTENT: &str = "tests_u:tests_r:content_t";

fn has_policy() -> bool {
    let known = fs::write("/sys/fs/selinux/context", CONTAINER).is_ok();
    if !known {
        println!("SKIP: needs SELinux with the policy of tests/vm");
    }
    known
}

#[test]
fn selinux_labels_the_process_and_what_is_mounted() {
    let script = "cat /proc/self/attr/current; echo; grep context= /proc/self/mounts; echo end; \
                  exec sleep 1000";
    let Some(mut b) = Bundle::new(script) else { return };
    if !has_policy() {
        return;
    }
    b.config["process"]["selinuxLabel"] = json!(CONTAINER);
    b.config["linux"]["mountLabel"] = json!(CONTENT);
    let created = b.create();
    assert_eq!(created.code, 0, "{created:?}");
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for_output("end\n");
    let output = b.output();
    assert!(output.starts_with(CONTAINER), "{output}");
    let context = format!("context={CONTENT}");
    let of = |target: &str| output.lines().find(|l| l.split(' ').nth(1) == Some(target));
    for target in ["/dev", "/dev/pts", "/dev/shm", "/sys/fs/cgroup", "/proc/acpi", "/sys/firmware"]
    {
        assert!(of(target).is_some_and(|line| line.contains(&context)), "{target}: {output}");
    }
    let pid = b.state("pid");
    let queues = format!("/proc/{pid}/root/dev/mqueue");
    assert_eq!(label_of(&queues), format!("{CONTENT}\0"));
    let current = |more: &[&str]| {
        let mut args = vec!["exec"];
        args.extend_from_slice(more);
        args.extend([b.id.as_str(), "sh", "-c", CURRENT]);
        b.call(&args)
    };
    assert_eq!(current(&[]).out.trim_end_matches('\0'), CONTAINER);
    assert_eq!(current(&["--process-label", CONTENT]).out.trim_end_matches('\0'), CONTENT);
    let said = current(&["--process-label", "bad"]);
    let words = "exec failed: unable to start container process: \
                 write /proc/self/attr/keycreate: invalid argument";
    assert!(said.code == 255 && said.err.contains(words), "{said:?}");
}

/// The SELinux label of a file.
fn label_of(path: &str) -> String {
    let mut value = vec![0; 256];
    let n = rustix::fs::lgetxattr(path, "security.selinux", &mut value).unwrap();
    String::from_utf8(value[..n].to_vec()).unwrap()
}

#[test]
fn selinux_labels_that_the_policy_has_not_are_refused_in_runcs_words() {
    for (object, field, words) in [
        ("process", "selinuxLabel", "write /proc/self/attr/keycreate: invalid argument"),
        ("linux", "mountLabel", "error mounting \\\"tmpfs\\\" to rootfs at \\\"/dev\\\": "),
    ] {
        let Some(mut b) = Bundle::new("true") else { return };
        if !has_policy() {
            return;
        }
        b.config[object][field] = json!("bad");
        let said = b.run();
        assert!(said.code == 1 && said.err.contains(words), "{said:?}");
        b.assert_gone();
    }
}
