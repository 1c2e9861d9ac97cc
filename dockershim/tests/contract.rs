//! dockershim on the real Docker daemon keeps the contract of the `Cri` face: in process, and
//! through client and server in both versions of CRI.

mod support;

use std::sync::Arc;

use cri_layer::suite::{Subject, suite};
use dockershim::{Config, Engine};
use hops::{Cri, Cx, Handle, proto::runtime::v1::*};
use support::{Docker, IMAGE, PAUSE};
use tokio::sync::oneshot;

fn engine(docker: &Docker, name: &str) -> Arc<Engine> {
    let config = Config {
        root: docker.dir.path().join(name),
        sandbox_image: PAUSE.into(),
        cni_conf_dir: docker.dir.path().join("no-networks"),
        restrict_oom_score_adj: true,
        ..Config::default()
    };
    let client = Arc::new(wire::http::Client::new(docker.socket()));
    Arc::new(Engine::open(config, client, Arc::new(wire::cni::Client::default())).unwrap())
}

async fn keeps(face: Arc<dyn Cri>, docker: &Docker) {
    let subject = Subject {
        face,
        image: IMAGE.into(),
        logs: docker.dir.path().join("logs"),
        // Docker writes its own log format, and reopens nothing.
        skip: vec!["logs"],
    };
    suite(&subject).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_on_a_real_docker() {
    let Some(docker) = Docker::start() else { return };
    let engine = engine(&docker, "shim");
    keeps(engine.clone(), &docker).await;

    let path = docker.dir.path().join("cri.sock");
    let listener = wire::socket::listen(&path).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = wire::grpc::Server::new().face::<dyn Cri>(engine);
    let serving = tokio::spawn(server.serve(listener, async { drop(stopped.await) }));
    keeps(Arc::new(wire::grpc::Client::new(&path)), &docker).await;
    keeps(Arc::new(wire::grpc::Client::new(&path).v1alpha2()), &docker).await;
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert_eq!(docker.cli(&["ps", "-aq"]), "");
    let left = std::fs::read_dir(docker.dir.path().join("shim/sandbox")).unwrap().count();
    assert_eq!(left, 0, "checkpoints");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_docker_is_told_and_what_is_refused() {
    let Some(docker) = Docker::start() else { return };
    let engine = engine(&docker, "shim");
    let cx = Cx::background();
    let metadata =
        |attempt| Some(PodSandboxMetadata { name: "p".into(), namespace: "n".into(), uid: "u".into(), attempt });
    let on_host = LinuxPodSandboxConfig {
        security_context: Some(LinuxSandboxSecurityContext {
            namespace_options: Some(NamespaceOption {
                network: NamespaceMode::Node.into(),
                ..NamespaceOption::default()
            }),
            ..LinuxSandboxSecurityContext::default()
        }),
        ..LinuxPodSandboxConfig::default()
    };
    let config = |attempt, linux| PodSandboxConfig {
        metadata: metadata(attempt),
        dns_config: Some(DnsConfig { servers: vec!["9.9.9.9".into()], ..DnsConfig::default() }),
        log_directory: docker.dir.path().join("logs").display().to_string(),
        linux,
        ..PodSandboxConfig::default()
    };
    let run = |config| RunPodSandboxRequest { config: Some(config), ..Default::default() };

    // A pod network without one being configured: the real words, and nothing left.
    let error = engine.handle(&cx, run(config(0, None))).await.unwrap_err();
    assert!(
        error.message.starts_with("failed to set up sandbox container ")
            && error.message.ends_with(
                "network for pod \"p\": networkPlugin cni failed to set up pod \"p_n\" network: cni config uninitialized"
            ),
        "{error}"
    );
    assert_eq!(docker.cli(&["ps", "-aq"]), "");
    let status = engine.handle(&cx, StatusRequest { verbose: false }).await.unwrap().status.unwrap();
    let network = &status.conditions[1];
    assert_eq!((network.status, network.reason.as_str()), (false, "NetworkPluginNotReady"));

    // The same name twice: the first one goes, the error is told, the third try succeeds.
    let first = engine.handle(&cx, run(config(0, Some(on_host.clone())))).await.unwrap();
    docker.cli(&["kill", &first.pod_sandbox_id]);
    let error = engine.handle(&cx, run(config(0, Some(on_host.clone())))).await.unwrap_err();
    assert!(error.message.contains("is already in use by container"), "{error}");
    let id = engine.handle(&cx, run(config(0, Some(on_host)))).await.unwrap().pod_sandbox_id;
    let name = docker.cli(&["inspect", "-f", "{{.Name}} {{.HostConfig.IpcMode}} {{.HostConfig.ShmSize}} {{.HostConfig.CpuShares}} {{.HostConfig.SecurityOpt}}", &id]);
    assert_eq!(name.trim(), "/k8s_POD_p_n_u_0 shareable 67108864 2 [no-new-privileges seccomp=unconfined]");
    let resolv = docker.cli(&["inspect", "-f", "{{.ResolvConfPath}}", &id]);
    assert_eq!(std::fs::read_to_string(resolv.trim()).unwrap(), "nameserver 9.9.9.9\n");
    let checkpoint = docker.dir.path().join("shim/sandbox").join(&id);
    assert!(std::fs::read_to_string(&checkpoint).unwrap().contains("\"host_network\":true"));

    for words in [
        engine.handle(&cx, ReopenContainerLogRequest::default()).await.map(drop),
        engine.handle(&cx, ExecRequest::default()).await.map(drop),
    ]
    .map(|refused| refused.unwrap_err().message)
    {
        assert!(
            ["docker does not support reopening container log files", "method Exec not implemented"]
                .contains(&words.as_str()),
            "{words}"
        );
    }

    // Docker loses the sandbox behind dockershim's back: the checkpoint still leads to its end.
    docker.cli(&["rm", "-f", &id]);
    let listed = engine.handle(&cx, ListPodSandboxRequest::default()).await.unwrap().items;
    assert_eq!(listed.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    engine.handle(&cx, StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
    engine.handle(&cx, RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
    assert!(!checkpoint.exists());
}
