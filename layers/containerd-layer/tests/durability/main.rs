//! A daemon that is killed at any moment, under load, loses nothing that it said was done, and takes
//! nothing half done for whole.
//!
//! `STRATA_DURABILITY=1000` kills so many times instead of the few that a test run has time for, and
//! `STRATA_SEED` repeats a run's decisions (not its times).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod check;
#[path = "../daemon/mod.rs"]
mod daemon;
mod diffs;
mod imports;
mod ledger;
mod load;
mod random;
#[path = "../support/mod.rs"]
mod support;

use containerd_layer::{Config, metadata::Metadata};
use daemon::Daemon;
use hops::Cx;
use imports::Archive;
use load::{Client, Cut};
use nix::sys::signal::{Signal, kill};
use random::Random;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use support::{Image, Registry, Reply, gzip, image, tar_of};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_strata-containerd"))
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// How many images there are to pull and to import. They share a layer.
const IMAGES: usize = 3;

/// The images, each with its layers as they are unpacked.
fn images() -> Vec<(Image, Vec<Vec<u8>>)> {
    let shared = tar_of(&[("etc/shared", b"shared")]);
    (0..IMAGES)
        .map(|n| {
            let noise = Random::new(n as u64 + 1).bytes(200_000);
            let own = tar_of(&[("etc/own", n.to_string().as_bytes()), ("noise", &noise)]);
            let blobs = [gzip(&shared), gzip(&own)];
            let image =
                image(&[(shared.clone(), blobs[0].clone()), (own.clone(), blobs[1].clone())]);
            (image, vec![shared.clone(), own])
        })
        .collect()
}

async fn registry(images: Vec<Image>) -> Registry {
    Registry::serve(move |request| {
        let of = |n: &usize| request.path.contains(&format!("/image-{n}/"));
        let asked = (0..IMAGES).find(of);
        asked.map_or_else(|| Reply::status(404), |n| images[n].answer(request))
    })
    .await
}

/// The namespaces, each with its own client.
const KINDS: [&str; 7] = ["blobs", "overlayfs", "native", "records", "pulls", "imports", "diffs"];

/// Where images come from.
struct Sources {
    registry: Registry,
    archives: Vec<Archive>,
}

async fn work(client: &mut Client, sources: &Sources) -> Cut {
    match client.ns.clone().as_str() {
        "blobs" => client.blobs().await,
        "records" => client.records().await,
        "pulls" => client.pulls(&sources.registry.host, IMAGES).await,
        "imports" => client.imports(&sources.archives).await,
        "diffs" => client.diffs().await,
        snapshotter => client.snapshots(snapshotter).await,
    }
}

/// Has every client work until the daemon, which is killed after `life`, answers no more. Meanwhile
/// copies of the database are taken.
async fn under_load(
    daemon: Daemon,
    clients: Vec<Client>,
    sources: &Arc<Sources>,
    life: Duration,
    config: &Config,
    copies: &Path,
) -> Vec<Client> {
    let ending = Arc::new(AtomicBool::new(false));
    let work = clients.into_iter().map(|mut client| {
        let (ending, sources) = (ending.clone(), sources.clone());
        tokio::spawn(async move {
            loop {
                if let Err(error) = work(&mut client, &sources).await {
                    let over = ending.load(Ordering::SeqCst);
                    assert!(over, "{}: {error:?}", client.ns);
                    return client;
                }
            }
        })
    });
    let work: Vec<_> = work.collect();
    tokio::time::sleep(life / 2).await;
    // As it is on the disk's cache at one moment, which is what a kill leaves.
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    fs::copy(config.root.join("metadata.redb"), copies.join("metadata.redb")).unwrap();
    kill(daemon.pid(), Signal::SIGCONT).unwrap();
    Metadata::open(&copies.join("metadata.redb")).unwrap().view().unwrap();
    tokio::time::sleep(life / 2).await;
    ending.store(true, Ordering::SeqCst);
    daemon.kill();
    let mut back = Vec::new();
    for client in work {
        back.push(client.await.unwrap());
    }
    back
}

async fn settle(clients: &mut [Client], config: &Config) {
    for client in &mut *clients {
        // The daemon is another one.
        client.wire = wire::grpc::Client::new(&config.address);
    }
    check::nothing_dangles(&clients.iter().collect::<Vec<_>>(), config).await;
    for client in clients {
        let found = match client.ns.as_str() {
            "blobs" => check::own_blobs(client, config).await,
            "records" => check::records(client).await,
            "diffs" => diffs::found(client, config).await,
            "pulls" | "imports" => check::pulled(client, config).await,
            snapshotter => check::own_snapshots(client, snapshotter).await,
        };
        client.ledger.settle(found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_at_any_moment_loses_nothing() {
    let rounds = number("STRATA_DURABILITY", 30);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("STRATA_SEED", now.as_secs());
    println!("STRATA_SEED={seed}");
    let mut random = Random::new(seed);
    let images = images();
    let archives = imports::archives(&images);
    let registry = registry(images.into_iter().map(|(image, _)| image).collect()).await;
    let sources = Arc::new(Sources { registry, archives });
    let dir = tempfile::tempdir().unwrap();
    let config = daemon::config(dir.path());
    let copies = dir.path().join("copies");
    fs::create_dir(&copies).unwrap();
    // Comparing means mounting.
    let may_mount = nix::unistd::geteuid().is_root();
    let mut clients: Vec<Client> = KINDS
        .iter()
        .filter(|ns| may_mount || **ns != "diffs")
        .map(|ns| Client {
            ns: (*ns).to_owned(),
            cx: Cx::background().in_namespace((*ns).to_owned()).within(Duration::from_secs(7200)),
            wire: wire::grpc::Client::new(&config.address),
            random: Random::new(random.next()),
            ledger: ledger::Ledger::default(),
        })
        .collect();
    let mut again = BTreeMap::new();
    for round in 0..rounds {
        // Some die while they open what the last one left, and repair it.
        while random.below(4) == 0 {
            let daemon = Daemon::spawn(program(), &config);
            tokio::time::sleep(Duration::from_micros(random.below(40_000) as u64)).await;
            daemon.kill();
        }
        let daemon = Daemon::start(program(), &config);
        settle(&mut clients, &config).await;
        for client in &clients {
            *again.entry(client.ns.clone()).or_insert(0) += client.ledger.present().len();
        }
        let life = Duration::from_micros(5_000 + random.below(250_000) as u64);
        clients = under_load(daemon, clients, &sources, life, &config, &copies).await;
        if round % 100 == 99 {
            println!("{} kills", round + 1);
        }
    }
    let _daemon = Daemon::start(program(), &config);
    settle(&mut clients, &config).await;
    println!("{rounds} kills under load, found again: {again:?}");
    assert!(again.values().any(|n| *n > 0), "nothing was made: the load does not work");
}

#[test]
fn a_daemon_killed_at_its_first_start_can_be_started_again() {
    let rounds = number("STRATA_DURABILITY", 30);
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let config = daemon::config(dir.path());
        let daemon = Daemon::spawn(program(), &config);
        // Over the time that a first start takes, a little later in each round.
        std::thread::sleep(Duration::from_micros(1_000 + round * 7_919 % 25_000));
        daemon.kill();
        drop(Daemon::start(program(), &config));
    }
}
