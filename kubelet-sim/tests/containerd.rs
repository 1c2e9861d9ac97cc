//! The kubelet on containerd's own CRI, as Debian packages it: a pod's life, and a pod that is
//! kept, on the host's network.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "../../tests/machine/company.rs"]
mod company;

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hops::{Cx, trace::Spans};
use kubelet_sim::{Config, Kubelet, Pod, Span, endpoint};
use tempfile::TempDir;

/// A containerd of this test's own, ended when this is dropped.
struct Containerd {
    dir: TempDir,
    child: Child,
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    ["containerd", "ctr", "runc", "umoci", "busybox"]
        .into_iter()
        .find(|name| !found(name))
        .map(|name| format!("{name} is not installed"))
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

impl Containerd {
    fn start() -> Option<Containerd> {
        if let Some(reason) = missing() {
            println!("SKIP: {reason}");
            return None;
        }
        company::announce();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"strata.test/busybox:1\"\nrestrict_oom_score_adj = true\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nconf_dir = {:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("no-networks"),
            at("opt"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let child = Command::new("containerd")
            .args(["-c", &at("config.toml")])
            .stderr(Stdio::from(File::create(at("log")).unwrap()))
            .spawn()
            .unwrap();
        let containerd = Containerd { dir, child };
        containerd.wait();
        containerd.import();
        Some(containerd)
    }

    fn wait(&self) {
        for _ in 0..1200 {
            if std::os::unix::net::UnixStream::connect(self.dir.path().join("sock")).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("containerd does not listen");
    }

    /// Makes an image of busybox that runs until it is told to end, and imports it.
    fn import(&self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let (layout, bundle) = (at("oci"), at("bundle"));
        let image = format!("{layout}:1");
        run("umoci", &["init", "--layout", &layout]);
        run("umoci", &["new", "--image", &image]);
        run("umoci", &["unpack", "--image", &image, &bundle]);
        let bin = Path::new(&bundle).join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let busybox = std::env::split_paths(&path).map(|d| d.join("busybox")).find(|p| p.is_file());
        fs::copy(busybox.unwrap(), bin.join("busybox")).unwrap();
        for applet in ["sh", "sleep", "cat", "echo"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        run("umoci", &["repack", "--image", &image, &bundle]);
        let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
        let cmd = ["--config.cmd", "sh", "--config.cmd", "-c", "--config.cmd", script];
        run(
            "umoci",
            &[&["config", "--image", &image, "--config.env", "PATH=/bin"][..], &cmd].concat(),
        );
        run("tar", &["-C", &layout, "-cf", &at("image.tar"), "."]);
        let import = ["images", "import", "--base-name", "strata.test/busybox", &at("image.tar")];
        run("ctr", &[&["-a", &at("sock"), "-n", "k8s.io"][..], &import].concat());
    }

    async fn kubelet(&self, spans: Spans) -> Kubelet {
        let sock = self.dir.path().join("sock").display().to_string();
        let cri = endpoint::connect(&sock, None, spans.clone()).await.unwrap();
        let config = Config {
            root_dir: self.dir.path().join("kubelet"),
            pod_logs_dir: self.dir.path().join("logs"),
            spans,
            ..Config::default()
        };
        Kubelet::new(cri, config)
    }

    fn containers(&self) -> String {
        let sock = self.dir.path().join("sock").display().to_string();
        run("ctr", &["-a", &sock, "-n", "k8s.io", "containers", "ls", "-q"])
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: real}
spec:
  hostNetwork: true
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - {name: first, image: 'strata.test/busybox:1', command: [sh, -c, 'echo from-init > /data/x'], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: app
    image: 'strata.test/busybox:1'
    env: [{name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    args: [sh, -c, \"trap 'exit 0' TERM; echo $(ME) $(cat /data/x); while :; do sleep 0.1; done\"]
    volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
    resources: {requests: {memory: 16Mi}, limits: {memory: 64Mi}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_on_containerd_and_leaves_nothing() {
    let Some(containerd) = Containerd::start() else { return };
    let spans = Spans::to_file("kubelet-sim", &containerd.dir.path().join("spans")).unwrap();
    let kubelet = containerd.kubelet(spans).await;
    let pod = Pod::read_one(POD).unwrap().fresh("1").unwrap();
    let run = kubelet.run_once(&Cx::background(), &pod, Span::default()).await;
    assert!(run.error.is_none(), "{:?}", run.error);
    assert!(run.start_us.unwrap() < run.life_us);
    assert_eq!(containerd.containers(), "");
    let left = |dir: &str| fs::read_dir(containerd.dir.path().join(dir)).unwrap().count();
    assert_eq!((left("kubelet/pods"), left("logs")), (0, 0));

    let text = fs::read_to_string(containerd.dir.path().join("spans")).unwrap();
    let of_run = text.lines().filter(|line| line.contains(run.trace.as_deref().unwrap())).count();
    assert!(of_run > 10, "{text}");
    let mut missing = pod.clone().fresh("").unwrap();
    missing.spec.containers[0].image = Some("127.0.0.1:1/none:1".into());
    let error = kubelet.run_once(&Cx::background(), &missing, Span::default()).await.error.unwrap();
    assert!(error.message.contains("127.0.0.1:1/none:1"), "{error}");
    assert_eq!(error.passed, [(hops::Hop::Cri, "PullImage")]);
    assert_eq!(containerd.containers(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_pod_is_found_again_by_the_next_kubelet() {
    use kubelet_sim::sync::{Keeping, Phase};
    let Some(containerd) = Containerd::start() else { return };
    let cx = Cx::background();
    let pod = Pod::read_one(POD).unwrap().fresh("2").unwrap();
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_nanos() as i64
    };
    let kubelet = containerd.kubelet(Spans::disabled()).await;
    let mut keeping = Keeping::new(pod.clone());
    let log = loop {
        let status = kubelet.sync_pod(&cx, &mut keeping, now()).await.unwrap();
        let logs = containerd.dir.path().join("logs");
        let log = logs.join(format!("default_real-2_{}/app/0.log", pod.uid));
        let text = fs::read_to_string(log).unwrap_or_default();
        if status.phase == Phase::Running && !text.is_empty() {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(log.trim_end().ends_with("stdout F real-2 from-init"), "{log}");
    let before = containerd.containers();
    drop(kubelet);
    let kubelet = containerd.kubelet(Spans::disabled()).await;
    let mut keeping = Keeping::new(pod.clone());
    let status = kubelet.sync_pod(&cx, &mut keeping, now()).await.unwrap();
    assert_eq!(status.phase, Phase::Running);
    assert_eq!(containerd.containers(), before);
    kubelet.remove_pod(&cx, &pod, None).await.unwrap();
    assert_eq!(containerd.containers(), "");
}
