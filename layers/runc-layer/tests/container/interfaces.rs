//! Network devices that are the host's and become the container's.

use std::process::{Child, Command};

use nix::sched::{CloneFlags, unshare};

use crate::bundle::{Bundle, Said, eventually};
use serde_json::{Value, json};

/// Runs `ip` with `args`; what it says.
fn ip(args: &str) -> Said {
    let said = Command::new("ip").args(args.split(' ')).output().unwrap();
    Said::from(said)
}

/// Does `test` in a network namespace of its own, which is the host's as far as the runtime knows,
/// with a veth device `strata0` in it.
fn with_device(script: &str, test: impl FnOnce(Bundle) + Send + 'static) {
    let Some(mut b) = Bundle::new(script) else { return };
    b.config["linux"]["netDevices"] = json!({"strata0": {}});
    let done = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        match Command::new("ip").arg("-V").output() {
            // Not busybox's, which makes no devices.
            Ok(said) if String::from_utf8_lossy(&said.stdout).contains("iproute2") => {
                assert_eq!(ip("link add strata0 type veth peer name strata0p").code, 0);
                test(b);
            }
            _ => println!("SKIP: needs iproute2"),
        }
    });
    done.join().unwrap();
}

/// A process with a namespace that others join.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this thread's namespace has the device.
fn here(name: &str) -> bool {
    ip(&format!("link show dev {name}")).code == 0
}

#[test]
fn a_device_moves_with_its_addresses_and_its_new_name() {
    let script = "busybox ip addr show dev inside; cat /proc/sys/net/ipv4/conf/inside/forwarding";
    with_device(script, |mut b| {
        for args in [
            "link set strata0 mtu 1789 address 02:11:22:33:44:55 up",
            "addr add 192.0.2.7/24 broadcast 192.0.2.255 dev strata0",
            "addr add 198.51.100.1 peer 198.51.100.2 dev strata0",
            "addr add 2001:db8::7/64 nodad dev strata0",
            "addr add 169.254.1.1/16 scope link dev strata0",
            "addr add 203.0.113.1/24 valid_lft 600 preferred_lft 600 dev strata0",
        ] {
            let said = ip(args);
            assert_eq!(said.code, 0, "{args}: {said:?}");
        }
        let features: Value = serde_json::from_str(&b.call(&["features"]).out).unwrap();
        assert_eq!(features["linux"]["netDevices"]["enabled"], true);
        b.config["linux"]["netDevices"] = json!({"strata0": {"name": "inside"}});
        // They are there before what is set for them.
        b.config["linux"]["sysctl"] = json!({"net.ipv4.conf.inside.forwarding": "1"});
        let said = b.run();
        for text in [
            "mtu 1789",
            "02:11:22:33:44:55",
            "inet 192.0.2.7/24 brd 192.0.2.255 scope global inside",
            "inet 198.51.100.1 peer 198.51.100.2/32 scope global inside",
            "inet6 2001:db8::7/64 scope global",
            ",UP",
        ] {
            assert!(said.out.contains(text), "{text}: {said:?}");
        }
        // What is the link's own, or for a time, belonged to where it was.
        assert!(!said.out.contains("169.254.1.1") && !said.out.contains("203.0.113.1"), "{said:?}");
        assert!(said.out.ends_with("\n1\n"), "{said:?}");
        assert!(!here("strata0") && !here("inside"));
        // It ended with the container's namespace, which the kernel takes down in its own time.
        eventually("its peer is gone", || !here("strata0p"));
        b.assert_gone();
    });
}

#[test]
fn a_device_that_was_down_is_up_and_is_for_a_user_namespace_too() {
    with_device(
        "busybox ip -o link; busybox ip link set strata0 mtu 1400 && echo mine",
        |mut b| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
            b.config["linux"]["uidMappings"] = ids.clone();
            b.config["linux"]["gidMappings"] = ids;
            b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            let caps = b.config["process"]["capabilities"].as_object_mut().unwrap();
            caps.values_mut().for_each(|set| *set = json!(["CAP_NET_ADMIN"]));
            use std::os::unix::fs::{PermissionsExt, chown};
            std::fs::set_permissions(b.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            for path in ["rootfs", "rootfs/tmp", "rootfs/dev", "rootfs/etc"] {
                chown(b.path().join(path), Some(100_000), Some(100_000)).unwrap();
            }
            let said = b.run();
            let line = said.out.lines().find(|l| l.contains("strata0@")).unwrap_or_default();
            assert!(line.contains(",UP") && said.out.ends_with("mine\n"), "{said:?}");
        },
    );
}

#[test]
fn a_namespace_that_is_joined_keeps_the_device() {
    with_device("busybox ip -o link", |mut b| {
        let holder = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn();
        let holder = Holder(holder.unwrap());
        let path = format!("/proc/{}/ns/net", holder.0.id());
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(&path).unwrap() == own {
            std::thread::yield_now();
        }
        let namespaces = b.config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|n| n["type"] == "network").unwrap();
        network["path"] = json!(path);
        let first = b.run();
        let line = first.out.lines().find(|l| l.contains("strata0@")).unwrap_or_default();
        assert!(line.contains(",UP"), "{first:?}");
        // It is there for the next one, whose own of that name stays where it is, and up.
        assert_eq!(ip("link add strata0 type veth peer name strata1p").code, 0);
        assert_eq!(ip("link set strata0 up").code, 0);
        let second = b.run();
        let up = ip("-o link show dev strata0").out;
        let text = format!(
            "error creating network interfaces: move netDevice strata0 to namespace {path}: \
             fail to move network device strata0 to network namespace {path}: file exists"
        );
        assert!(second.code == 1 && second.err.contains(&text), "{second:?}");
        assert!(up.contains(",UP"), "{up}");
        b.assert_gone();
    });
}

#[test]
fn devices_that_cannot_be_moved_are_refused() {
    with_device("true", |mut b| {
        b.config["linux"]["netDevices"] = json!({"strata0": {}, "strata9": {}});
        let said = b.run();
        assert!(
            said.code == 1
                && said.err.contains("move netDevice strata9 to namespace /proc/")
                && said.err.contains(
                    "link not found for interface strata9 on runtime namespace: Link not found"
                ),
            "{said:?}"
        );
        b.assert_gone();
        for (devices, name) in [
            (json!({"a/b": {}}), "a/b"),
            (json!({"a:b": {}}), "a:b"),
            (json!({"a b": {}}), "a b"),
            (json!({"..": {}}), ".."),
            (json!({"sixteen-bytes-xx": {}}), "sixteen-bytes-xx"),
            (json!({"ok": {"name": "a/b"}}), "a/b"),
        ] {
            b.config["linux"]["netDevices"] = devices;
            let said = b.run();
            let text = format!("invalid network device name \\\"{name}\\\"");
            assert!(said.code == 1 && said.err.contains(&text), "{said:?}");
            b.assert_gone();
        }
        b.config["linux"]["netDevices"] = json!({"lo": {}});
        assert_eq!(b.run().code, 1, "the loopback device is every namespace's own");
        b.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
        let said = b.run();
        let text = "unable to move network devices without a NET namespace";
        assert!(said.code == 1 && said.err.contains(text), "{said:?}");
        b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "network"}));
        let said = b.call(&["--rootless", "true", "run", &b.id]);
        let text = "network devices are not supported for rootless containers";
        assert!(said.code == 1 && said.err.contains(text), "{said:?}");
        b.assert_gone();
    });
}
