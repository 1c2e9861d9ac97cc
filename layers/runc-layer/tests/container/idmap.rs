//! Mounts that show other owners than their file system has.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::bundle::{Bundle, Said};
use serde_json::{Value, json};

/// A bundle with a directory `data` whose files have the uids and gids 0:0 and 3:4.
fn bundle(script: &str) -> Option<Bundle> {
    let b = Bundle::new(script)?;
    let data = b.path().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    for path in [data.clone(), b.path().to_owned()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (name, uid, gid) in [("zero", 0, 0), ("other", 3, 4)] {
        fs::write(data.join(name), name).unwrap();
        chown(data.join(name), Some(uid), Some(gid)).unwrap();
    }
    Some(b)
}

fn add_mount(b: &mut Bundle, options: &[&str], maps: Option<Value>) {
    let mut mount =
        json!({"destination": "/data", "type": "bind", "source": "data", "options": options});
    if let Some(maps) = maps {
        mount["uidMappings"] = maps.clone();
        mount["gidMappings"] = maps;
    }
    b.config["mounts"].as_array_mut().unwrap().push(mount);
}

fn map(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

/// Whether the file system below the temporary directory cannot have its ids mapped.
fn unmappable(said: &Said) -> bool {
    let no = said.err.contains("maybe the filesystem used doesn't support idmap");
    if no {
        println!("SKIP: the temporary directory's file system has no idmapped mounts");
    }
    no
}

#[test]
fn a_mount_shows_the_mapped_owners_and_stores_the_others() {
    let script = "cd /data; busybox stat -c '%n %u:%g' zero other; touch new; touch /tmp/own";
    let Some(mut b) = bundle(script) else { return };
    b.config["root"]["readonly"] = json!(false);
    fs::set_permissions(b.rootfs().join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(b.path().join("data"), fs::Permissions::from_mode(0o777)).unwrap();
    b.config["process"]["user"] = json!({"uid": 1003, "gid": 1004});
    add_mount(&mut b, &["bind", "nosuid"], Some(map(0, 1000, 10)));
    let said = b.run();
    if unmappable(&said) {
        return;
    }
    assert_eq!(said.out, "zero 1000:1000\nother 1003:1004\n", "{said:?}");
    let owner = |path: &str| {
        let stat = fs::metadata(b.path().join(path)).unwrap();
        (stat.uid(), stat.gid())
    };
    assert_eq!(owner("data/new"), (3, 4), "on the disk it is the other way round");
    assert_eq!(owner("rootfs/tmp/own"), (1003, 1004), "only the mount is mapped");
    b.assert_gone();
}

#[test]
fn who_is_not_in_the_map_owns_nothing_there() {
    let script = "busybox stat -c %u:%g /data/other; touch /data/new";
    let Some(mut b) = bundle(script) else { return };
    add_mount(&mut b, &["bind"], Some(map(0, 1000, 1)));
    let said = b.run();
    if unmappable(&said) {
        return;
    }
    assert_eq!(said.out, "65534:65534\n", "{said:?}");
    assert!(said.err.contains("Value too large"), "root has no id in the file system: {said:?}");
}

#[test]
fn idmap_is_for_the_mount_and_ridmap_for_all_below() {
    for (option, expected) in [("idmap", "1000\n7\n"), ("ridmap", "1000\n1007\n")] {
        let Some(mut b) = bundle("busybox stat -c %u /data/zero /data/sub/seven") else { return };
        add_mount(&mut b, &["rbind", option], Some(map(0, 1000, 10)));
        let sub = b.path().join("data/sub");
        // A mount below the source, in a namespace of this thread's own.
        let (b, said) = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("tmpfs"), &sub, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            fs::write(sub.join("seven"), "").unwrap();
            chown(sub.join("seven"), Some(7), Some(7)).unwrap();
            let said = b.run();
            // Outside, where nothing is mounted in it, the bundle can be removed.
            (b, said)
        })
        .join()
        .unwrap();
        b.assert_gone();
        if unmappable(&said) {
            return;
        }
        assert_eq!(said.out, expected, "{option}: {said:?}");
    }
}

#[test]
fn without_maps_of_its_own_a_mount_has_the_containers() {
    let script = "cd /data; busybox stat -c %u:%g zero other; touch new; touch /data/ro/x; ls -d .";
    let Some(mut b) = bundle(script) else { return };
    let ids = map(0, 100_000, 1000);
    b.config["linux"]["uidMappings"] = ids.clone();
    b.config["linux"]["gidMappings"] = ids;
    b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for path in ["rootfs", "rootfs/tmp", "rootfs/dev", "rootfs/etc"] {
        chown(b.path().join(path), Some(100_000), Some(100_000)).unwrap();
    }
    add_mount(&mut b, &["rbind", "idmap", "nodev"], None);
    let said = b.run();
    if unmappable(&said) {
        return;
    }
    assert_eq!(said.out, "0:0\n3:4\n.\n", "root there owns what root owns here: {said:?}");
    assert_eq!(fs::metadata(b.path().join("data/new")).unwrap().uid(), 0, "{said:?}");
    // Without it they belong to nobody.
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["options"] = json!(["rbind", "nodev"]);
    assert!(b.run().out.starts_with("65534:65534\n"));
    b.assert_gone();
}

#[test]
fn half_a_map_and_other_mounts_are_refused() {
    let Some(mut b) = bundle("true") else { return };
    let both = "id-mapped mounts must have both uid and gid mappings specified";
    let good = b.config["mounts"].clone();
    for (change, text) in [
        (json!({"options": ["bind", "idmap"]}), both),
        (json!({"options": ["bind"], "uidMappings": map(0, 1000, 1)}), both),
        (
            json!({"type": "tmpfs", "source": "tmpfs", "options": ["ridmap"]}),
            "id-mapped mounts are only supported for bind-mounts",
        ),
    ] {
        b.config["mounts"] = good.clone();
        add_mount(&mut b, &[], None);
        let mount = b.config["mounts"].as_array_mut().unwrap().last_mut().unwrap();
        for (key, value) in change.as_object().unwrap() {
            mount[key] = value.clone();
        }
        let said = b.run();
        assert!(said.code == 1 && said.err.contains(text), "{said:?}");
        b.assert_gone();
    }
}
