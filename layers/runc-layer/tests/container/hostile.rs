//! Configurations in which something is not what it should be: each is carried out or refused in
//! words, none ends the runtime in another way, and nothing of any of them is left.

use serde_json::{Value, json};

use crate::bundle::Bundle;

/// What is put in the place of every value of a configuration, one at a time.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("../../.."),
        json!("with a \0 in it"),
        json!("x".repeat(70_000)),
        json!([]),
        json!([[], {}, null, "x"]),
        json!({}),
    ]
}

/// A configuration that has most sections.
fn whole(bundle: &Bundle) -> Value {
    let mut config = bundle.config.clone();
    config["annotations"] = json!({"a": "b"});
    config["domainname"] = json!("domain");
    config["process"]["user"] = json!({"uid": 1, "gid": 2, "additionalGids": [3], "umask": 18});
    config["process"]["oomScoreAdj"] = json!(100);
    config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 4});
    config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "0"});
    config["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10,
        "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}]);
    config["linux"]["rootfsPropagation"] = json!("rslave");
    let resources = &mut config["linux"]["resources"];
    resources["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20});
    resources["cpu"] = json!({"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"});
    resources["pids"] = json!({"limit": 50});
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
            "args": [{"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}],
    });
    config
}

/// The JSON pointers of every value below `value`.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    let escaped = |key: &str| format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(map) => map.iter().for_each(|(key, below)| {
            into.push(escaped(key));
            places(below, &escaped(key), into);
        }),
        // What holds of the first of a list holds of the others.
        Value::Array(list) => list.iter().take(2).enumerate().for_each(|(i, below)| {
            into.push(format!("{at}/{i}"));
            places(below, &format!("{at}/{i}"), into);
        }),
        _ => {}
    }
}

#[test]
fn a_wrong_value_anywhere_is_carried_out_or_refused_in_words() {
    let Some(mut bundle) = Bundle::new("true") else { return };
    let config = whole(&bundle);
    bundle.config = config.clone();
    assert_eq!(bundle.create().code, 0, "{}", bundle.output());
    assert_eq!(bundle.call(&["delete", "--force", &bundle.id]).code, 0);
    let mut all = Vec::new();
    places(&config, "", &mut all);
    let mut refused = 0;
    for (n, place) in all.iter().enumerate() {
        // A third of the values for each place, every one of them for some.
        for value in values().into_iter().skip(n % 3).step_by(3) {
            bundle.config = config.clone();
            *bundle.config.pointer_mut(place).unwrap() = value.clone();
            let made = bundle.create();
            let text = bundle.output();
            let what = format!("{place} = {:.60}: {} {text:.500}", value.to_string(), made.code);
            assert!(matches!(made.code, 0 | 1), "{what}");
            assert!(made.code == 0 || text.contains("level=error"), "{what}");
            assert!(!text.contains("panicked"), "{what}");
            refused += usize::from(made.code == 1);
            assert_eq!(bundle.call(&["delete", "--force", &bundle.id]).code, 0, "{what}");
        }
    }
    assert!(refused > all.len(), "{refused} of {} places' values were refused", all.len());
    bundle.assert_gone();
}

#[test]
fn what_is_no_configuration_is_refused_with_the_place() {
    let Some(bundle) = Bundle::new("true") else { return };
    let text = serde_json::to_vec(&bundle.config).unwrap();
    let path = bundle.path().join("config.json");
    for cut in (0..text.len()).step_by(text.len() / 40) {
        let mut command = bundle.runc(&["create", &bundle.id]);
        std::fs::write(&path, &text[..cut]).unwrap();
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{cut}: {said}");
        assert!(said.contains("config.json") && said.contains("line 1 column"), "{cut}: {said}");
    }
    bundle.assert_gone();
}
