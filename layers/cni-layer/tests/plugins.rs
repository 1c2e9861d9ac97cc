//! The plugins beside the reference plugins, in a chain, and given what they must refuse.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use cni_layer::{
    Engine,
    netlink::{nft::Nft, route::Rtnl},
    suite::{self, Sandbox, apart, converse},
};
use hops::{Cx, cni::Attachment, op::now};
use serde_json::{Value, json};
use wire::cni::{Network, NetworkList, Pod};

const OURS: &str = env!("CARGO_BIN_EXE_strata-cni");
const REFERENCE: &str = "/usr/lib/cni/bridge";

/// Runs the test on ground of its own, with a directory; skips it where there is none to be had.
fn ground(test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    match apart(|| test(&path)) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("SKIP: making namespaces needs root: {e}");
        }
        outcome => outcome.unwrap(),
    }
}

fn call(program: &str, input: &str, env: &[(&str, &str)]) -> Output {
    let mut child = Command::new(program)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not want its input closes it early.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn plugin(program: &str, command: &str, netns: &Path, config: &Value) -> Value {
    let netns = netns.to_str().unwrap();
    let env = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "peer"),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/usr/lib/cni"),
    ];
    let output = call(program, &config.to_string(), &env);
    assert!(output.status.success(), "{program} {command}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn dual(dir: &Path, version: &str) -> Value {
    let mut config = suite::bridge(dir, version);
    config["ipam"]["ranges"] = json!([
        [{ "subnet": "10.99.0.0/24" }],
        [{ "subnet": "fd99::/64", "rangeStart": "fd99::10" }],
    ]);
    config["ipam"]["routes"] =
        json!([{ "dst": "192.168.0.0/16" }, { "dst": "172.16.0.0/12", "gw": "10.99.0.9" }]);
    config["dns"] = json!({ "nameservers": ["10.99.0.53"], "search": ["a.example"] });
    config
}

/// Erases what is drawn by lot.
fn erase(mut result: Value) -> Value {
    for link in result["interfaces"].as_array_mut().into_iter().flatten() {
        assert!(link["mac"].is_string(), "{link}");
        link["mac"] = Value::Null;
        if link["name"].as_str().unwrap().starts_with("veth") {
            link["name"] = "veth".into();
        }
    }
    result
}

#[test]
fn results_are_the_reference_plugins_in_every_version() {
    if !Path::new(REFERENCE).exists() {
        println!("SKIP: no {REFERENCE}");
        return;
    }
    ground(|dir| {
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            let sandbox = Sandbox::new(dir.join("sandbox")).unwrap();
            let answer = |program| {
                let config = dual(dir, version);
                let answer = plugin(program, "ADD", sandbox.path(), &config);
                plugin(program, "DEL", sandbox.path(), &config);
                // Both begin at the first address.
                fs::remove_dir_all(dir.join("leases")).unwrap();
                erase(answer)
            };
            assert_eq!(answer(OURS), answer(REFERENCE), "{version}");
        }
    });
}

#[test]
fn many_pods_come_and_go_at_once() {
    ground(|dir| {
        let config = suite::bridge(dir, "1.0.0");
        let sandboxes: Vec<_> =
            (0..6).map(|n| Sandbox::new(dir.join(format!("s{n}"))).unwrap()).collect();
        let at_once = |work: &(dyn Fn(&Attachment) + Sync)| {
            std::thread::scope(|scope| {
                for (n, sandbox) in sandboxes.iter().enumerate() {
                    let of = attachment(&format!("c{n}"), sandbox.path(), config.clone());
                    scope.spawn(move || work(&of));
                }
            });
        };
        at_once(&|of| drop(Engine::default().add(of).unwrap()));
        assert_eq!(Nft::open().unwrap().rules("strata_cni").unwrap().len(), 6);
        at_once(&|of| Engine::default().del(of).unwrap());
        assert_eq!(Nft::open().unwrap().rules("strata_cni").unwrap(), []);
        let links = Rtnl::open().unwrap().links().unwrap();
        assert!(links.iter().all(|link| link.kind != "veth"), "{links:?}");
    });
}

#[test]
fn loopback_answers_as_the_reference_plugin() {
    let reference = "/usr/lib/cni/loopback";
    if !Path::new(reference).exists() {
        println!("SKIP: no {reference}");
        return;
    }
    ground(|dir| {
        let config = json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" });
        let sandbox = Sandbox::new(dir.join("sandbox")).unwrap();
        let answer = |program| {
            let answer = plugin(program, "ADD", sandbox.path(), &config);
            plugin(program, "DEL", sandbox.path(), &config);
            answer
        };
        assert_eq!(answer(OURS), answer(reference));
    });
}

#[test]
fn either_finds_what_the_other_made() {
    if !Path::new(REFERENCE).exists() {
        println!("SKIP: no {REFERENCE}");
        return;
    }
    ground(|dir| {
        let mut config = dual(dir, "1.0.0");
        // Each masquerades by rules of its own, which the other does not look for.
        config["ipMasq"] = false.into();
        // The reference plugin's CHECK does not find a route whose gateway is its address's.
        config["ipam"]["routes"] = json!([]);
        for (maker, remover) in [(OURS, REFERENCE), (REFERENCE, OURS)] {
            let sandbox = Sandbox::new(dir.join("sandbox")).unwrap();
            let prev = plugin(maker, "ADD", sandbox.path(), &config);
            let mut told = config.clone();
            told["prevResult"] = prev;
            plugin(remover, "CHECK", sandbox.path(), &told);
            plugin(remover, "DEL", sandbox.path(), &config);
            let left: Vec<_> = fs::read_dir(dir.join("leases/contract"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.parse::<IpAddr>().is_ok())
                .collect();
            assert_eq!(left, [""; 0], "{maker} {remover}");
            let links = Rtnl::open().unwrap().links().unwrap();
            assert!(links.iter().all(|link| link.kind != "veth"), "{links:?}");
        }
    });
}

fn published(dir: &Path) -> NetworkList {
    NetworkList::from_list(&json!({
        "cniVersion": "1.0.0", "name": "contract",
        "plugins": [
            suite::bridge(dir, "1.0.0"),
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    }))
    .unwrap()
}

fn pod(id: &str, sandbox: &Sandbox) -> Pod {
    Pod {
        container_id: id.into(),
        netns: Some(sandbox.path().into()),
        ifname: "eth0".into(),
        ..Pod::default()
    }
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_closed_again() {
    ground(|dir| {
        let network = Network::new(published(dir), Arc::new(Engine::default()));
        let cx = Cx::background();
        let sandbox = |name: &str| Sandbox::new(dir.join(name)).unwrap();
        let (server, other) = (sandbox("server"), sandbox("other"));
        let mut published = pod("server", &server);
        published.capabilities.insert(
            "portMappings".into(),
            json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]),
        );
        let attached = now(network.add(&cx, &published)).unwrap();
        now(network.add(&cx, &pod("other", &other))).unwrap();
        now(network.check(&cx, &published, &attached)).unwrap();

        let ip: IpAddr = attached.ips[0].address.split('/').next().unwrap().parse().unwrap();
        let listener = server.run(|| Ok(TcpListener::bind((ip, 80)).unwrap())).unwrap();
        let gateway: SocketAddr = "10.99.0.1:8080".parse().unwrap();
        for from in [&other, &server] {
            converse(from, &listener, gateway).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| listener.accept().unwrap());
            std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        });
        let rules = Nft::open().unwrap().rules("strata_cni").unwrap();
        assert_eq!(rules.iter().filter(|rule| rule.comment.starts_with("port server ")).count(), 4);
        assert_eq!(rules.iter().filter(|rule| rule.comment.starts_with("masq ")).count(), 2);

        now(network.del(&cx, &published, Some(&attached))).unwrap();
        let rules = Nft::open().unwrap().rules("strata_cni").unwrap();
        assert_eq!(rules.len(), 1, "the other pod's masquerading stays: {rules:?}");
        assert!(std::net::TcpStream::connect("127.0.0.1:8080").is_err());
        now(network.del(&cx, &published, None)).unwrap();
        now(network.del(&cx, &pod("other", &other), None)).unwrap();
        assert_eq!(Nft::open().unwrap().rules("strata_cni").unwrap(), []);
    });
}

#[test]
fn a_chain_that_fails_leaves_nothing() {
    ground(|dir| {
        let mut list = published(dir);
        list.plugins.push(json!({ "type": "nosuch" }));
        let network = Network::new(list, Arc::new(Engine::default()));
        let sandbox = Sandbox::new(dir.join("sandbox")).unwrap();
        let error = now(network.add(&Cx::background(), &pod("p", &sandbox))).unwrap_err();
        assert_eq!(
            error.message,
            "plugin type=\"nosuch\" name=\"contract\" failed (add): \
             failed to find plugin \"nosuch\" in path []"
        );
        let links = Rtnl::open().unwrap().links().unwrap();
        assert!(links.iter().all(|link| link.kind != "veth"), "{links:?}");
        assert!(!dir.join("leases/contract/10.99.0.2").exists());
        assert_eq!(Nft::open().unwrap().rules("strata_cni").unwrap(), []);
    });
}

fn attachment(id: &str, netns: &Path, config: Value) -> Attachment {
    Attachment {
        container_id: id.into(),
        netns: Some(netns.into()),
        ifname: "eth0".into(),
        config,
        ..Attachment::default()
    }
}

#[test]
fn a_refused_add_leaves_nothing_even_without_a_del() {
    ground(|dir| {
        let sandbox = Sandbox::new(dir.join("sandbox")).unwrap();
        let mut config = suite::bridge(dir, "1.0.0");
        let first = attachment("first", sandbox.path(), config.clone());
        Engine::default().add(&first).unwrap();
        Engine::default().del(&first).unwrap();
        config["ipam"]["ranges"] = json!([[{ "subnet": "10.98.0.0/24" }]]);
        let error = Engine::default().add(&attachment("p", sandbox.path(), config.clone()));
        assert_eq!(
            error.unwrap_err().msg,
            "failed to set bridge addr: \"contract0\" already has an IP address different from 10.98.0.1/24"
        );
        let links = Rtnl::open().unwrap().links().unwrap();
        assert!(links.iter().all(|link| link.kind != "veth"), "{links:?}");
        assert!(!dir.join("leases/contract/10.98.0.2").exists());

        config["forceAddress"] = true.into();
        Engine::default().add(&attachment("p", sandbox.path(), config)).unwrap();
        let mut net = Rtnl::open().unwrap();
        let bridge = net.link_by_name("contract0").unwrap().unwrap();
        let own = net.addresses(bridge.index).unwrap();
        let own: Vec<_> = own.iter().filter(|a| a.ip.is_ipv4()).map(ToString::to_string).collect();
        assert_eq!(own, ["10.98.0.1/24"]);
    });
}

#[test]
fn addresses_are_given_once() {
    ground(|dir| {
        let mut config = suite::bridge(dir, "1.0.0");
        config["type"] = "host-local".into();
        let take = |id: &str, args: &[(&str, &str)]| {
            let mut attachment = attachment(id, Path::new(""), config.clone());
            attachment.args = args.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            let taken = Engine::default().add(&attachment).map_err(|e| e.msg);
            taken.map(|attached| attached.ips[0].address.clone())
        };
        let mut taken: Vec<String> = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..8).map(|n| scope.spawn(move || take(&format!("c{n}"), &[]).unwrap())).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        taken.sort();
        let want: Vec<_> = (2..10).map(|n| format!("10.99.0.{n}/24")).collect();
        assert_eq!(taken, want);
        assert_eq!(take("asked", &[("IP", "10.99.0.77")]).unwrap(), "10.99.0.77/24");
        assert_eq!(
            take("late", &[("IP", "10.99.0.77")]).unwrap_err(),
            "failed to allocate for range 0: requested IP address 10.99.0.77 is not available \
             in range set 10.99.0.1-10.99.0.254"
        );
        assert_eq!(
            take("c0", &[]).unwrap_err(),
            format!(
                "failed to allocate for range 0: {} has been allocated to c0, \
                 duplicate allocation is not allowed",
                fs::read_dir(dir.join("leases/contract"))
                    .unwrap()
                    .map(|entry| entry.unwrap())
                    .find(|e| fs::read_to_string(e.path()).unwrap() == "c0\r\neth0")
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
            )
        );
        assert_eq!(
            take("far", &[("IP", "10.1.1.1")]).unwrap_err(),
            "failed to allocate all requested IPs: 10.1.1.1"
        );
    });
}

#[test]
fn what_cannot_be_done_is_refused_by_its_code() {
    let full = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_NETNS", "/proc/self/ns/net"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/nowhere"),
    ];
    let ok = r#"{"cniVersion":"1.0.0","name":"n","type":"bridge"}"#;
    for (config, without, code, msg) in [
        ("{", "", 6, "error unmarshall network config: "),
        (r#"{"cniVersion":"1.0.0","name":"n","type":"x"}"#, "", 7, "no plugin of type \"x\""),
        (
            r#"{"cniVersion":"3.0.0","name":"n","type":"bridge"}"#,
            "",
            1,
            "incompatible CNI versions",
        ),
        (r#"{"cniVersion":"1.0.0","type":"bridge"}"#, "", 7, "missing network name"),
        (
            r#"{"cniVersion":"1.0.0","name":"n","type":"bridge","vlan":7}"#,
            "",
            2,
            "bridge: field \"vlan\"",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","type":"bridge","mtu":"x"}"#,
            "",
            6,
            "failed to load netconf: ",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","type":"bridge","hairpinMode":true,"promiscMode":true}"#,
            "",
            7,
            "cannot set hairpin mode and promiscuous mode at the same time",
        ),
        (ok, "CNI_NETNS", 4, "required env variables [CNI_NETNS] missing"),
        (ok, "", 4, "plugin's netns and netns from CNI_NETNS should not be the same"),
        (
            r#"{"cniVersion":"1.0.0","name":"n","type":"portmap"}"#,
            "",
            7,
            "must be called as chained plugin",
        ),
    ] {
        let env: Vec<_> = full.iter().copied().filter(|(name, _)| *name != without).collect();
        let output = call(OURS, config, &env);
        assert_eq!(output.status.code(), Some(1), "{config}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["code"], code, "{config}: {error}");
        assert!(error["msg"].as_str().unwrap().starts_with(msg), "{config}: {error}");
    }
}

#[test]
fn the_program_says_what_it_speaks_and_what_took_its_time() {
    let output = call(OURS, "", &[("CNI_COMMAND", "VERSION")]);
    let versions: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(versions["supportedVersions"][2], "0.3.0");
    let about = call(OURS, "", &[]);
    assert!(about.status.success());
    assert!(
        String::from_utf8(about.stderr).unwrap().contains("bridge, host-local, loopback, portmap")
    );

    let dir = tempfile::tempdir().unwrap();
    let spans = dir.path().join("spans");
    let parent = "00-0000000000000000000000000000abcd-000000000000ef01-01";
    let env = [
        ("CNI_COMMAND", "STATUS"),
        ("TRACEPARENT", parent),
        ("STRATA_SPANS", spans.to_str().unwrap()),
    ];
    let output = call(OURS, r#"{"cniVersion":"1.1.0","name":"n","type":"bridge"}"#, &env);
    assert!(output.status.success(), "{output:?}");
    let span: Value = serde_json::from_str(&fs::read_to_string(&spans).unwrap()).unwrap();
    assert_eq!((&span["hop"], &span["verb"]), (&json!("Cni"), &json!("STATUS")));
    assert_eq!((&span["side"], &span["parent"]), (&json!("callee"), &json!("000000000000ef01")));
}
