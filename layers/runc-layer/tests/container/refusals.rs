//! Configurations that are wrong: each refused with its field, each leaving nothing.

use crate::bundle::Bundle;
use serde_json::{Value, json};

#[test]
fn every_wrong_field_is_named() {
    let Some(mut b) = Bundle::new("true") else { return };
    let good = b.config.clone();
    type Break = (&'static str, fn(&mut Value));
    let cases: [Break; 22] = [
        ("root: must be specified", |c| drop(c.as_object_mut().unwrap().remove("root"))),
        ("root.path: rootfs (", |c| c["root"]["path"] = json!("nowhere")),
        ("root.path: ", |c| c["root"]["path"] = json!("")),
        ("root.path: invalid type", |c| c["root"]["path"] = json!(7)),
        ("ociVersion", |c| c["ociVersion"] = json!("3.0.0")),
        ("ociVersion", |c| c["ociVersion"] = json!("")),
        ("process: must be specified", |c| drop(c.as_object_mut().unwrap().remove("process"))),
        ("process.args", |c| c["process"]["args"] = json!([])),
        ("process.args[1]", |c| c["process"]["args"] = json!(["a", {}])),
        ("process.cwd", |c| c["process"]["cwd"] = json!("relative")),
        ("process.rlimits[0].type", |c| c["process"]["rlimits"][0]["type"] = json!("RLIMIT_X")),
        ("linux.namespaces[0].type", |c| c["linux"]["namespaces"][0]["type"] = json!("nets")),
        ("duplicated ns", |c| c["linux"]["namespaces"][1] = json!({"type": "pid"})),
        ("linux.namespaces[type=network].path", |c| {
            c["linux"]["namespaces"][1] = json!({"type": "network", "path": "/nowhere"});
        }),
        ("linux.uidMappings", |c| {
            c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}])
        }),
        ("linux.sysctl.vm.swappiness", |c| c["linux"]["sysctl"] = json!({"vm.swappiness": "1"})),
        ("linux.seccomp.defaultAction", |c| c["linux"]["seccomp"] = json!({"defaultAction": "NO"})),
        ("linux.resources.devices[0].type", |c| {
            c["linux"]["resources"]["devices"] = json!([{"allow": true, "type": "x"}]);
        }),
        ("linux.cgroupsPath", |c| c["linux"]["cgroupsPath"] = json!("/")),
        ("linux.rootfsPropagation", |c| c["linux"]["rootfsPropagation"] = json!("sideways")),
        ("hooks.prestart[0].path", |c| c["hooks"] = json!({"prestart": [{"path": "sh"}]})),
        ("linux.intelRdt", |c| c["linux"]["intelRdt"] = json!({"l3CacheSchema": "L3:0=f"})),
    ];
    for (field, break_it) in cases {
        b.config = good.clone();
        break_it(&mut b.config);
        let said = b.run();
        assert!(said.code == 1 && said.err.contains(field), "{field}: {said:?}");
        b.assert_gone();
    }
    b.config = good;
}

#[test]
fn command_lines_are_checked() {
    let Some(b) = Bundle::new("true") else { return };
    for (args, text) in [
        (vec!["create", "--nope", "x"], "flag provided but not defined: -nope"),
        // runc has none either: the umask is the configuration's.
        (vec!["exec", "--umask", "077", "x", "true"], "flag provided but not defined: -umask"),
        (vec!["state"], "requires exactly 1 argument(s)"),
        (vec!["state", "a", "b"], "requires exactly 1 argument(s)"),
        (vec!["state", "a/b"], "invalid container ID format"),
        (vec!["kill", "nothing", "SIGNOPE"], "container does not exist"),
        (vec!["checkpoint", "nothing"], "container does not exist"),
        (vec!["restore", "--empty-ns", "ipc", "nothing"], "is not supported"),
        (
            vec!["restore", "--manage-cgroups-mode", "x", "nothing"],
            "invalid manage-cgroups-mode value",
        ),
        (vec!["frobnicate"], "No help topic for 'frobnicate'"),
        (vec!["--log-format", "xml", "list"], "invalid log-format"),
    ] {
        let said = b.call(&args);
        // An unknown command has a code of its own, as runc's.
        let code = if args[0] == "frobnicate" { 3 } else { 1 };
        assert!(said.code == code && said.err.contains(text), "{args:?}: {said:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    let said = b.call(&["run", "-b", path, "x"]);
    assert!(said.err.contains("JSON specification file config.json not found"), "{said:?}");
}
