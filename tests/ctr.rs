//! ctr, line by line, on a real containerd and on strata-containerd: what is kept. Exit codes, tables
//! and the texts of errors must be the same. The notation is in `table/mod.rs`; what runs is in
//! `ctr_tasks.rs`, `ctr_diffs.rs` and `ctr_told.rs`.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../layers/containerd-layer/tests/support/distribution.rs"]
mod distribution;
mod machine;
mod rig;
mod table;

use rig::{Rig, need};
use table::{
    compare,
    sides::{on_both, sides},
};

#[test]
fn namespaces() {
    on_both("ctr-ns", "
        ns ls
        ns create one
        ns create one
        ns create two a=b c=d
        ns create ''
        ns create
        ns create -- -x
        ns create a--b
        ns create a/b
        ns create aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
        ns ls
        ns ls -q
        ns label one x=y
        ns label two a=
        ns label none x=y
        ns label one
        ns label '' x=y
        ns ls
        ns rm two
        ns rm two
        ns rm one none
        ns rm
        ns ls
        images import {archive}
        ns rm {ns}
        images rm --sync {image}
        snapshots ls
        content ls
        leases ls
        ns rm {ns}
        ns ls
    ");
}

#[test]
fn images() {
    on_both(
        "ctr-images",
        "
        images ls
        images ls -q
        images check
        images import /nosuch.tar
        # images import --no-unpack {archive}
        images ls
        images ls -q
        images ls name=={image}
        images ls name~=nosuch
        images ls 'name=='
        images ls 'name='
        images ls '=='
        images ls 'name==a,'
        images ls 'name==a b'
        images ls 'name~=['
        images ls 'name==\"x'
        images ls 'name.==x'
        images ls 'name!x'
        images ls ','
        images ls ''
        images ls 'labels.a.b==c'
        images ls 'name==a,name==b' name==c
        images ls nosuchfield==1
        images check
        images check -q
        images check name==none
        images import {archive}
        images import --base-name example.com/foo {archive}
        images import --digests --base-name example.com/bar {archive}
        images import --index-name example.com/index:1 {archive}
        images import --snapshotter native {archive}
        images import --snapshotter nosuch {archive}
        images import --all-platforms {archive}
        images import --platform linux/arm64 {archive}
        images ls
        images check
        images check --snapshotter native
        images check --snapshotter nosuch
        images label {image} a=b
        images label {image} a= c=d
        images label --replace-all {image} e=f
        images label nosuch a=b
        images label {image}
        images ls
        images tag {image} example.com/tagged:1
        images tag {image} example.com/tagged:1
        images tag --force {image} example.com/tagged:1
        images tag {image} 'not a reference'
        images tag {image}
        images tag nosuch example.com/x:1
        images tag {image} example.com/a:1 example.com/b:2
        images ls -q
        images rm example.com/a:1
        images rm example.com/a:1
        images rm example.com/b:2 nosuch
        images rm
        images export {dir}/out.tar {image}
        images export {dir}/out2.tar nosuch
        images export {dir}/out3.tar
        images export --platform linux/arm64 {dir}/out4.tar {image}
        images export --all-platforms {dir}/out5.tar {image}
        images export --skip-manifest-json {dir}/out6.tar {image} example.com/tagged:1
        images export /nosuch/dir/out.tar {image}
        images import {dir}/out6.tar
        images mount {image} {dir}/nosuch
        images mount nosuch {dir}/nosuch
        images unmount {dir}/nosuch
        images convert --oci {image} example.com/converted:1
        images convert nosuch example.com/converted:2
        images convert --uncompress {image} example.com/converted:3
        images ls
        images pull --local nosuch
        images pull 'bad reference'
        images pull --plain-http 127.0.0.1:1/x:1
        images push --plain-http 127.0.0.1:1/x:1 nosuch
        ? images push --plain-http 127.0.0.1:1/x:1 {image}
        images usage
        images nosuch
        images rm --sync {image}
        images rm --sync example.com/tagged:1
        images ls -q
    ",
    );
}

#[test]
fn content() {
    on_both("ctr-content", "
        content ls
        content ls -q
        images import {archive}
        leases create --id gc
        leases rm --sync gc
        content ls
        content ls -q
        content ls labels.nosuch==1
        content ls 'size==5'
        content get nosuch
        content get sha256:0000000000000000000000000000000000000000000000000000000000000000
        content get
        <hello> content ingest one
        content label sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 containerd.io/gc.root=x
        <hello> content ingest one
        <hello> content ingest --expected-size 5 two
        <hello!> content ingest --expected-size 5 two
        <other> content ingest --expected-digest sha256:0000000000000000000000000000000000000000000000000000000000000000 three
        <other> content ingest --expected-digest nonsense four
        <x> content ingest
        content ls
        ? content active
        ? content active -t 1s
        content get sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
        content label sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 a=b
        content label sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
        content label sha256:0000000000000000000000000000000000000000000000000000000000000000 a=b
        content label nosuch a=b
        content ls
        content edit nosuch
        content edit sha256:0000000000000000000000000000000000000000000000000000000000000000
        content rm sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
        content rm sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
        content rm nosuch
        content rm
        content prune references
        content prune references --dry
        content prune
        content fetch 'bad reference'
        content fetch --plain-http 127.0.0.1:1/x:1
        content fetch-object --plain-http 127.0.0.1:1/x:1 sha256:00
        content push-object --plain-http 127.0.0.1:1/x:1 sha256:0000000000000000000000000000000000000000000000000000000000000000 application/x
        content ls -q
    ");
}

#[test]
fn snapshots() {
    on_both(
        "ctr-snapshots",
        "
        snapshots ls
        snapshots tree
        images import {archive}
        leases create --id gc
        leases rm --sync gc
        snapshots ls
        snapshots tree
        # snapshots usage
        snapshots usage nosuch
        snapshots info nosuch
        snapshots info
        snapshots prepare
        snapshots prepare a
        snapshots prepare a
        snapshots prepare b nosuch
        ~ snapshots prepare c a
        ~ snapshots view v a
        snapshots view
        snapshots view v
        snapshots label v containerd.io/gc.root=x
        snapshots view v
        snapshots info a
        snapshots info v
        snapshots ls
        ~ snapshots mounts {dir}/m a
        ~ snapshots mounts {dir}/m v
        snapshots mounts {dir}/m nosuch
        snapshots mounts {dir}/m
        snapshots mounts
        snapshots commit
        snapshots commit base
        snapshots commit base nosuch
        ~ snapshots commit base v
        snapshots commit base a
        snapshots commit base a
        ~ snapshots mounts {dir}/m base
        snapshots prepare d base
        snapshots prepare e base
        snapshots commit base e
        snapshots commit top e
        snapshots tree
        snapshots ls
        snapshots rm base
        snapshots rm nosuch
        snapshots rm
        snapshots label top x=y
        snapshots label top
        snapshots label nosuch x=y
        snapshots info top
        # snapshots usage -b
        # snapshots usage top
        snapshots rm top
        snapshots rm d base v
        snapshots --snapshotter native ls
        snapshots --snapshotter native prepare n
        snapshots --snapshotter native ls
        ? snapshots --snapshotter native mounts {dir}/m n
        snapshots --snapshotter native commit nb n
        snapshots --snapshotter native prepare n2 nb
        snapshots --snapshotter native tree
        snapshots --snapshotter native info n2
        snapshots --snapshotter native rm nb
        snapshots --snapshotter native rm n2
        snapshots --snapshotter nosuch ls
        snapshots --snapshotter nosuch prepare a
        snapshots --snapshotter nosuch rm a
        snapshots --snapshotter nosuch tree
        snapshots --snapshotter nosuch info a
        snapshots --snapshotter nosuch usage
        snapshots unpack nosuch
        snapshots unpack
        snapshots unpack sha256:0000000000000000000000000000000000000000000000000000000000000000
        snapshots ls
    ",
    );
}

#[test]
fn leases_plugins_and_the_rest() {
    on_both(
        "ctr-rest",
        "
        leases ls
        leases ls -q
        leases create --id one
        leases create --id one
        leases create --id two --expires 1h a=b
        leases create --id three -x 0 c=d
        leases create --id a/b
        ? leases create
        # leases ls
        leases ls -q id==one
        leases ls id==two
        leases ls labels.a==b
        leases ls 'id=='
        leases rm one
        leases rm one
        leases rm nosuch
        leases rm --sync two three
        leases rm
        # oci spec
        plugins ls id==overlayfs
        plugins ls -q id==overlayfs
        plugins ls -d id==overlayfs
        plugins ls id==nosuch
        # plugins ls id==bolt
        # plugins ls type==io.containerd.service.v1
        ? version
        install nosuch
        install {image}
        shim --id nosuch state
        pprof --help
        nosuch
        -n '' containers ls
        -n a--b containers ls
        -n a--b run --rm {image} x
    ",
    );
}

#[test]
fn registries() {
    need!("containerd", "ctr", "busybox", "timeout", "docker-registry");
    let mut rig = Rig::new("ctr-registry");
    let Some(registry) = distribution::registry(&rig.path("")) else { return };
    let mut sides = sides(&mut rig);
    for side in &mut sides {
        side.names.insert("registry", registry.host.clone());
    }
    compare(
        "
        images import {archive}
        ? images push --plain-http {registry}/{ns}:1 {image}
        ? images push --plain-http {registry}/{ns}:1 nosuch
        images rm --sync {image}
        content ls
        snapshots ls
        ? images pull --plain-http {registry}/{ns}:1
        images ls
        images check
        content ls -q
        snapshots ls
        ? images pull --plain-http {registry}/{ns}:1
        ? images pull --plain-http --snapshotter native {registry}/{ns}:1
        snapshots --snapshotter native ls
        ? images pull --plain-http --all-platforms {registry}/{ns}:1
        ? images pull --plain-http --platform linux/arm64 {registry}/{ns}:1
        images pull --plain-http {registry}/{ns}:2
        images pull --plain-http {registry}/nosuch:1
        ? images pull {registry}/{ns}:1
        ? content fetch --plain-http {registry}/{ns}:1
        content ls -q
        content active
        images tag {registry}/{ns}:1 {registry}/{ns}:3
        ? images push --plain-http {registry}/{ns}:3
        images rm --sync {registry}/{ns}:1 {registry}/{ns}:3
        content ls
        snapshots ls
        snapshots --snapshotter native ls
        leases ls
        ? content fetch --plain-http {registry}/{ns}:1
        snapshots ls
        content ls -q
    ",
        &sides,
    );
    drop(registry);
    rig.end();
}
