//! Ways out through descriptors that the runtime holds.

use std::{fs, os::unix::fs::symlink, process::Command};

use crate::bundle::{Bundle, Said};
use serde_json::json;

/// Runs the command line with descriptors of the host's root open, as a runtime's own may be.
fn leaking(b: &Bundle, args: &[&str]) -> Said {
    let inner = b.runc(args);
    let mut outer = Command::new("/bin/sh");
    outer.args(["-c", "exec 7</ 8</proc/self/cwd; exec \"$@\"", "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args()).current_dir(b.path());
    Said::from(outer.output().unwrap())
}

/// As CVE-2024-21626: a descriptor of the host's is the working directory, named by the
/// configuration, by a link of the image, or by `exec`.
#[test]
fn cve_2024_21626_the_working_directory_is_a_descriptor() {
    let Some(mut b) = Bundle::new("") else {
        return;
    };
    // Found from any directory of the host's by going up, and from none of the container's.
    // Found from any directory of the host's by going up, and from none of the container's.
    let marker = b.path().join("marker").to_string_lossy().trim_start_matches('/').to_owned();
    fs::write(b.path().join("marker"), "the host's").unwrap();
    let climb = format!(
        "for up in .. ../.. ../../.. ../../../.. ../../../../.. ../../../../../..; do cat $up/{marker}; done; echo end"
    );
    b.config["process"]["args"][2] = json!(climb);
    b.config["root"]["readonly"] = json!(false);
    for fd in 3..16 {
        for direct in [true, false] {
            let path = format!("/proc/self/fd/{fd}");
            let link = b.rootfs().join("work");
            let _ = fs::remove_file(&link);
            symlink(&path, &link).unwrap();
            b.config["process"]["cwd"] = json!(if direct { path.as_str() } else { "/work" });
            let said = leaking(&b, &["run", &b.id]);
            assert!(!said.out.contains("the host's"), "descriptor {fd}: {said:?}");
            assert_ne!(said.code, 0, "descriptor {fd}: {said:?}");
            b.call(&["delete", "--force", &b.id]);
        }
    }
    b.config["process"]["cwd"] = json!("/");
    b.config["process"]["args"] = json!(["sleep", "1000"]);
    assert_eq!(b.create().code, 0);
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    for fd in 3..16 {
        let path = format!("/proc/self/fd/{fd}");
        let said = leaking(&b, &["exec", "--cwd", &path, &b.id, "sh", "-c", &climb]);
        assert!(!said.out.contains("the host's") && said.code != 0, "exec, {fd}: {said:?}");
        // The other half of it: a program below a descriptor.
        let program = format!("{path}/../../../../../../../bin/busybox");
        let said = leaking(&b, &["exec", &b.id, &program, "true"]);
        assert_ne!(said.code, 0, "exec of {program}: {said:?}");
    }
}
