//! Pulling and unpacking an image of 300 MB in six layers from a registry on loopback.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
};

use hops::{
    Cx, Handle,
    proto::{
        Any,
        containerd::{
            services::transfer::v1::TransferRequest,
            types::{
                Platform,
                transfer::{ImageStore, OciRegistry, UnpackConfiguration},
            },
        },
    },
};
use prost::{Message, Name};
use wire::grpc::Client;

use crate::{
    daemons::{Daemon, Place, Running},
    images,
    machine::installed,
    quantile, run, timed,
};

/// One who pulls, and how it forgets what it pulled.
type Puller<'a> = (&'static str, Box<dyn Fn() + 'a>, Box<dyn Fn() + 'a>);

/// Measures and prints a table of its own.
pub(crate) fn measure(
    place: &Place,
    daemons: &[Daemon],
    runtime: &tokio::runtime::Runtime,
    rounds: usize,
) {
    for program in ["docker-registry", "skopeo"] {
        if installed(program).is_none() {
            return println!("SKIP: pulls: {program} is not installed");
        }
    }
    let layers = images::large(&place.path("layout"));
    let packed: u64 = layers.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    let (_registry, host) = registry(place);
    let name = format!("{host}/large:1");
    run(Command::new("skopeo")
        .args(["copy", "-q", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:1", place.text("layout")))
        .arg(format!("docker://{name}")));

    let docker = docker(place, daemons);
    let into = place.path("unpacked");
    let mut pullers: Vec<Puller> = Vec::new();
    for daemon in daemons {
        let forget = || drop(daemon.ctr(&["images", "rm", "--sync", &name]));
        if daemon.name == "containerd" {
            let pull = || drop(daemon.ctr(&["images", "pull", "--plain-http", &name]));
            pullers.push(("ctr images pull", Box::new(pull), Box::new(forget)));
        } else {
            let pull = || runtime.block_on(transfer(daemon, &name));
            pullers.push((daemon.name, Box::new(pull), Box::new(forget)));
        }
    }
    if let Some((_dockerd, socket)) = &docker {
        let docker =
            |args: &[&str]| drop(run(Command::new("docker").args(["-H", socket]).args(args)));
        let (pulled, name) = (name.clone(), name.clone());
        pullers.push((
            "docker pull",
            Box::new(move || docker(&["pull", "-q", &pulled])),
            Box::new(move || docker(&["rmi", "-f", &name])),
        ));
    }
    if installed("igzip").is_some() {
        let unpack = || {
            fs::create_dir(&into).unwrap();
            for layer in &layers {
                let line = format!("igzip -dc {} | tar -x -C {}", layer.display(), into.display());
                run(Command::new("sh").args(["-c", &line]));
            }
        };
        let forget = || fs::remove_dir_all(&into).unwrap();
        pullers.push(("igzip, then tar", Box::new(unpack), Box::new(forget)));
    } else {
        println!("\nSKIP: the limit of unpacking: igzip is not installed");
    }

    let mut times = vec![Vec::new(); pullers.len()];
    for round in 0..=rounds {
        for ((_, pull, forget), times) in pullers.iter().zip(&mut times) {
            let took = timed(pull);
            if round > 0 {
                times.push(took);
            }
            forget();
            nix::unistd::sync();
        }
    }
    println!(
        "\nAn image of 300 MB in six layers ({} MB packed) from docker-registry on loopback, \
         {rounds} rounds.\n\n| | milliseconds: median [slowest] | ratio to strata-containerd |\n\
         | --- | --- | --- |",
        packed / 1_000_000
    );
    for ((name, ..), own) in pullers.iter().zip(&times) {
        let p50 = quantile(own, 0.5);
        let ratio = p50 / quantile(&times[0], 0.5);
        println!("| {name} | {p50:.0} [{:.0}] | {ratio:.2} |", quantile(own, 1.0));
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Has the daemon pull, as the ctr of containerd 2 does.
async fn transfer(daemon: &Daemon, name: &str) {
    let platform = Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        ..Platform::default()
    };
    let store = ImageStore {
        name: name.to_owned(),
        platforms: vec![platform.clone()],
        unpacks: vec![UnpackConfiguration {
            platform: Some(platform),
            snapshotter: "overlayfs".to_owned(),
        }],
        ..ImageStore::default()
    };
    let request = TransferRequest {
        source: Some(any(&OciRegistry { reference: name.to_owned(), resolver: None })),
        destination: Some(any(&store)),
        options: None,
    };
    let cx = Cx::background().in_namespace("default");
    Client::new(daemon.socket.clone()).handle(&cx, request).await.expect("a pull");
}

fn registry(place: &Place) -> (Running, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let config = place.path("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: \"{host}\"}}\n",
        place.text("registry")
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config);
    let running = Running::start(place, &mut command, || TcpStream::connect(&host).is_ok());
    (running, host)
}

/// A real dockerd on the real containerd, and its address.
fn docker(place: &Place, daemons: &[Daemon]) -> Option<(Running, String)> {
    let containerd = daemons.iter().find(|daemon| daemon.name == "containerd")?;
    if installed("dockerd").is_none() || installed("docker").is_none() {
        println!("\nSKIP: docker is not installed");
        return None;
    }
    let socket: PathBuf = place.path("docker.sock");
    let address = format!("unix://{}", socket.display());
    let mut command = Command::new("dockerd");
    command
        .args(["-H", &address, "--bridge", "none", "--iptables=false", "--ip6tables=false"])
        .args(["--data-root", &place.text("docker-root"), "--exec-root", &place.text("docker-run")])
        .args(["--pidfile", &place.text("docker.pid"), "--containerd"])
        .arg(&containerd.socket);
    let running = Running::start(place, &mut command, || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    Some((running, address))
}
