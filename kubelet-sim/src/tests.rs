//! The kubelet against [`crate::simulated`]: what it asks for, what it does after errors, and how
//! it keeps pods.

use std::{path::Path, sync::Arc};

use hops::{
    Cx, Hop, HopError, Kind,
    fault::Faulty,
    proto::runtime::v1::*,
    trace::{Span as Written, Spans, Traced},
};
use tempfile::TempDir;

use crate::{
    Config, Kubelet, Pod,
    life::Span,
    simulated::Simulated,
    sync::{Keeping, Phase, PodStatus, State},
};

const SECOND: i64 = 1_000_000_000;

struct Node {
    kubelet: Kubelet,
    runtime: Arc<Simulated>,
    faults: Faulty<Arc<Simulated>>,
    dir: TempDir,
}

fn node_with(config: impl FnOnce(&Path) -> Config) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Arc::new(Simulated::with_images(&["app:1"]));
    let faults = Faulty::new(runtime.clone());
    let config = config(dir.path());
    let cri = Arc::new(Traced::caller(faults.clone(), config.spans.clone()));
    Node { kubelet: Kubelet::new(cri, config), runtime, faults, dir }
}

fn node() -> Node {
    node_with(config_in)
}

fn config_in(dir: &Path) -> Config {
    std::fs::write(dir.join("resolv.conf"), "nameserver 9.9.9.9\nsearch example.org\n").unwrap();
    Config {
        root_dir: dir.join("kubelet"),
        pod_logs_dir: dir.join("logs"),
        node_name: "node".into(),
        resolv_conf: dir.join("resolv.conf"),
        ..Config::default()
    }
}

impl Node {
    fn clean(&self) -> bool {
        let empty = |dir: &str| {
            std::fs::read_dir(self.dir.path().join(dir)).map_or(true, |mut d| d.next().is_none())
        };
        let inside = self.runtime.inside();
        inside.sandboxes.is_empty()
            && inside.containers.is_empty()
            && empty("kubelet/pods")
            && empty("logs")
    }

    async fn step(&self, keeping: &mut Keeping, seconds: i64) -> PodStatus {
        let now = {
            let mut inside = self.runtime.inside();
            inside.now += seconds * SECOND;
            inside.now
        };
        self.kubelet.sync_pod(&Cx::background(), keeping, now).await.unwrap()
    }

    fn script(&self, name: &str, exits: &[Option<i32>]) {
        self.runtime.inside().script.insert(name.into(), exits.iter().copied().collect());
    }

    fn starts(&self) -> usize {
        self.runtime.inside().calls.iter().filter(|c| **c == "StartContainer").count()
    }
}

fn pod(spec: &str) -> Pod {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: prod, labels: {{app: web}}, annotations: {{note: x}}}}\nspec: {spec}"
    );
    Pod::read_one(&text).unwrap().fresh("1").unwrap()
}

async fn run(node: &Node, pod: &Pod) -> crate::PodRun {
    node.kubelet.run_once(&Cx::background(), pod, Span::default()).await
}

#[tokio::test]
async fn a_life_is_the_kubelets_calls_in_the_kubelets_order() {
    let node = node();
    node.script("init", &[Some(0)]);
    let pod = pod(
        "{initContainers: [{name: init, image: 'app:1'}], containers: [{name: a, image: 'app:1'}, {name: b, image: 'other:2'}]}",
    );
    let run = run(&node, &pod).await;
    assert!(run.error.is_none(), "{:?}", run.error);
    assert!(run.start_us.unwrap() <= run.life_us);
    assert_eq!(
        node.runtime.inside().calls,
        [
            "RunPodSandbox",
            "PodSandboxStatus",
            "ImageStatus",
            "CreateContainer",
            "StartContainer",
            "ContainerStatus",
            "ImageStatus",
            "CreateContainer",
            "StartContainer",
            "ImageStatus",
            "PullImage",
            "ImageStatus",
            "CreateContainer",
            "StartContainer",
            "ContainerStatus",
            "ContainerStatus",
            "StopContainer",
            "StopContainer",
            "StopPodSandbox",
            "RemoveContainer",
            "RemoveContainer",
            "RemoveContainer",
            "RemovePodSandbox",
        ]
    );
    assert!(node.clean());
}

#[tokio::test]
async fn every_call_is_a_child_of_one_root() {
    let node = node_with(|dir| Config {
        spans: Spans::to_file("kubelet-sim", &dir.join("spans")).unwrap(),
        ..config_in(dir)
    });
    let run = run(&node, &pod("{containers: [{name: a, image: 'app:1'}]}")).await;
    let text = std::fs::read_to_string(node.dir.path().join("spans")).unwrap();
    let spans: Vec<Written> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let root = spans.iter().find(|s| s.parent.is_none()).unwrap();
    assert_eq!((root.verb.as_str(), Some(&root.trace)), ("pod", run.trace.as_ref()));
    let mut calls: Vec<_> = spans.iter().filter(|s| s.parent.is_some()).collect();
    assert_eq!(calls.len(), node.runtime.inside().calls.len());
    assert!(calls.iter().all(|s| s.parent.as_ref() == Some(&root.span)));
    calls.sort_by_key(|s| s.start_ns);
    assert!(calls.windows(2).all(|pair| pair[0].end_ns <= pair[1].start_ns));
    assert!(root.start_ns <= calls[0].start_ns);
    assert!((root.end_ns - root.start_ns) / 1000 <= run.life_us);
}

#[tokio::test]
async fn whatever_fails_the_error_is_unchanged_and_nothing_is_left() {
    for verb in [
        "RunPodSandbox",
        "PodSandboxStatus",
        "ImageStatus",
        "PullImage",
        "CreateContainer",
        "StartContainer",
        "ContainerStatus",
        "StopContainer",
        "StopPodSandbox",
        "RemoveContainer",
        "RemovePodSandbox",
    ] {
        let node = node();
        node.faults.fail_next(verb, HopError::new(Kind::Internal, "the disk is on fire"));
        let pod = pod("{containers: [{name: a, image: 'app:1'}, {name: b, image: 'pulled:1'}]}");
        let run = run(&node, &pod).await;
        let error = run.error.unwrap();
        assert_eq!((error.kind, error.message.as_str()), (Kind::Internal, "the disk is on fire"));
        assert_eq!(error.passed, [(Hop::Cri, verb)]);
        let down = verb.starts_with("Stop") || verb.starts_with("Remove");
        assert_eq!(run.start_us.is_some(), down, "{verb}");
        assert!(node.clean(), "{verb}");
    }
    let node = node();
    let run = run(&node, &pod("{containers: [{name: a, image: 'missing:1'}]}")).await;
    assert_eq!(run.error.unwrap().message, "manifest for missing:1 not found");
    assert!(node.clean());
}

#[tokio::test]
async fn containers_may_end_by_themselves_but_must_end_well() {
    let node = node();
    node.script("a", &[Some(0)]);
    let spec = "{restartPolicy: Never, containers: [{name: a, image: 'app:1'}]}";
    assert!(run(&node, &pod(spec)).await.error.is_none());
    node.script("a", &[Some(3)]);
    let failed = run(&node, &pod(spec)).await;
    assert_eq!(failed.error.unwrap().message, "container \"a\" failed with exit code 3: Error");
    assert!(node.clean());
}

#[tokio::test]
async fn a_pod_becomes_what_the_kubelet_makes_of_it() {
    let node = node();
    let pod = pod(
        "{hostname: h, dnsConfig: {options: [{name: ndots, value: '2'}]}, hostAliases: [{ip: 1.2.3.4, hostnames: [x, y]}], \
         securityContext: {runAsUser: 7, fsGroup: 8, sysctls: [{name: a.b, value: '1'}]}, volumes: [{name: v, emptyDir: {}}], \
         containers: [{name: a, image: 'app:1', command: [run, $(ME), $(NO)], args: ['$$(ME)'], workingDir: /w, tty: true, \
         env: [{name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: B, value: '<$(ME)>'}, {name: L, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}], \
         ports: [{containerPort: 80, hostPort: 8080, protocol: UDP}], volumeMounts: [{name: v, mountPath: /v, readOnly: true}], \
         securityContext: {runAsGroup: 9, allowPrivilegeEscalation: false, capabilities: {add: [NET_ADMIN]}, seccompProfile: {type: RuntimeDefault}}, \
         resources: {limits: {cpu: 1, memory: 1Mi}}}]}",
    );
    let mut keeping = Keeping::new(pod.clone());
    node.step(&mut keeping, 1).await;
    let inside = node.runtime.inside();
    let (sandbox, _) = inside.sandboxes.values().next().unwrap();
    assert_eq!(sandbox.hostname, "h");
    assert_eq!(sandbox.metadata.as_ref().unwrap().namespace, "prod");
    assert!(sandbox.log_directory.ends_with(&format!("logs/prod_web-1_{}", pod.uid)));
    assert_eq!(sandbox.labels["app"], "web");
    assert_eq!(sandbox.labels["io.kubernetes.pod.uid"], pod.uid);
    assert_eq!(sandbox.annotations["note"], "x");
    let dns = sandbox.dns_config.as_ref().unwrap();
    assert_eq!(
        (dns.servers.as_slice(), dns.options.as_slice()),
        (&["9.9.9.9".to_owned()][..], &["ndots:2".to_owned()][..])
    );
    let port = &sandbox.port_mappings[0];
    assert_eq!((port.protocol(), port.container_port, port.host_port), (Protocol::Udp, 80, 8080));
    let linux = sandbox.linux.as_ref().unwrap();
    assert_eq!(linux.sysctls["a.b"], "1");
    let namespaces = linux.security_context.as_ref().unwrap().namespace_options.as_ref().unwrap();
    assert_eq!(
        (namespaces.network(), namespaces.pid()),
        (NamespaceMode::Pod, NamespaceMode::Container)
    );

    let config = &inside.containers.values().next().unwrap().config;
    assert_eq!(config.image.as_ref().unwrap().image, "sha256:app:1");
    assert_eq!(config.command, ["run", "web-1", "$(NO)"]);
    assert_eq!(config.args, ["$(ME)"]);
    let envs: Vec<_> = config.envs.iter().map(|e| (e.key.as_str(), e.value.as_str())).collect();
    assert_eq!(envs, [("ME", "web-1"), ("IP", "10.1.0.9"), ("B", "<web-1>"), ("L", "web")]);
    assert_eq!(
        (config.working_dir.as_str(), config.tty, config.log_path.as_str()),
        ("/w", true, "a/0.log")
    );
    assert_eq!(config.labels["io.kubernetes.container.name"], "a");
    assert_eq!(config.annotations["io.kubernetes.container.restartCount"], "0");
    assert_eq!(
        config.annotations["io.kubernetes.container.terminationMessagePath"],
        "/dev/termination-log"
    );
    assert_eq!(config.annotations["io.kubernetes.pod.terminationGracePeriod"], "30");
    let mounts: Vec<_> =
        config.mounts.iter().map(|m| (m.container_path.as_str(), m.readonly)).collect();
    assert_eq!(mounts, [("/v", true), ("/etc/hosts", false), ("/dev/termination-log", false)]);
    let hosts = std::fs::read_to_string(&config.mounts[1].host_path).unwrap();
    assert!(hosts.contains("10.1.0.9\th\n") && hosts.contains("1.2.3.4\tx\ty\n"), "{hosts}");
    let linux = config.linux.as_ref().unwrap();
    let context = linux.security_context.as_ref().unwrap();
    assert_eq!(context.run_as_user.as_ref().unwrap().value, 7);
    assert_eq!(context.run_as_group.as_ref().unwrap().value, 9);
    assert_eq!(context.supplemental_groups, [8]);
    assert!(context.no_new_privs);
    assert_eq!(context.capabilities.as_ref().unwrap().add_capabilities, ["NET_ADMIN"]);
    assert_eq!(
        context.seccomp.as_ref().unwrap().profile_type(),
        security_profile::ProfileType::RuntimeDefault
    );
    let resources = linux.resources.as_ref().unwrap();
    assert_eq!(
        (resources.cpu_quota, resources.memory_limit_in_bytes, resources.oom_score_adj),
        (100_000, 1 << 20, -997)
    );
}

#[tokio::test]
async fn a_non_root_policy_is_kept() {
    let node = node();
    let spec = "{securityContext: {runAsNonRoot: true}, containers: [{name: a, image: 'app:1'}]}";
    let error = run(&node, &pod(spec)).await.error.unwrap();
    assert!(
        error.message.starts_with("container has runAsNonRoot and image will run as root"),
        "{error}"
    );
    assert!(node.clean());
}

#[tokio::test]
async fn restart_policies() {
    // Policy, exit code, phase after the end, whether it is started again.
    for (policy, exit, phase, again) in [
        ("Always", 0, Phase::Running, true),
        ("Always", 1, Phase::Running, true),
        ("OnFailure", 0, Phase::Succeeded, false),
        ("OnFailure", 1, Phase::Running, true),
        ("Never", 0, Phase::Succeeded, false),
        ("Never", 1, Phase::Failed, false),
    ] {
        let node = node();
        node.script("a", &[Some(exit), None]);
        let mut keeping = Keeping::new(pod(&format!(
            "{{restartPolicy: {policy}, containers: [{{name: a, image: 'app:1'}}]}}"
        )));
        let ended = node.step(&mut keeping, 1).await;
        assert_eq!(ended.phase, phase, "{policy} {exit}");
        node.step(&mut keeping, 1).await;
        assert_eq!(node.starts(), 1 + usize::from(again), "{policy} {exit}");
    }
}

#[tokio::test]
async fn a_container_that_ends_again_and_again_waits_longer_and_longer() {
    let node = node();
    node.script("a", &[Some(1); 20]);
    let mut keeping = Keeping::new(pod("{containers: [{name: a, image: 'app:1'}]}"));
    let (mut at, mut seconds) = (Vec::new(), 0);
    let mut starts = 0;
    while at.len() < 6 {
        let status = node.step(&mut keeping, 1).await;
        seconds += 1;
        if node.starts() > starts {
            starts = node.starts();
            at.push(seconds);
        } else {
            let State::Waiting { reason, .. } = &status.containers[0].state else {
                panic!("{status:?}")
            };
            assert_eq!(reason, "CrashLoopBackOff");
        }
    }
    let waits: Vec<_> = at.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(waits, [1, 10, 20, 40, 80]);
    assert!(node.runtime.inside().containers.len() <= 2);
}

#[tokio::test]
async fn a_kubelet_that_starts_again_finds_its_pod() {
    let node = node();
    let pod = pod("{containers: [{name: a, image: 'app:1'}]}");
    node.step(&mut Keeping::new(pod.clone()), 1).await;
    let status = node.step(&mut Keeping::new(pod.clone()), 1).await;
    assert_eq!((node.starts(), status.phase), (1, Phase::Running));
    // A sandbox that died takes its containers with it, and both are made anew.
    let id = node.runtime.inside().sandboxes.keys().next().unwrap().clone();
    node.runtime.inside().sandboxes.get_mut(&id).unwrap().1 = PodSandboxState::SandboxNotready;
    let status = node.step(&mut Keeping::new(pod.clone()), 1).await;
    assert_eq!((node.starts(), status.phase), (2, Phase::Running));
    let attempts: Vec<_> = node
        .runtime
        .inside()
        .sandboxes
        .values()
        .map(|(c, _)| c.metadata.as_ref().unwrap().attempt)
        .collect();
    assert_eq!(attempts, [0, 1]);
    node.kubelet.remove_pod(&Cx::background(), &pod, None).await.unwrap();
    assert!(node.clean());
}

#[tokio::test]
async fn init_containers_run_one_after_the_other() {
    let node = node();
    node.script("one", &[None]);
    node.script("two", &[Some(0)]);
    let mut keeping = Keeping::new(pod(
        "{initContainers: [{name: one, image: 'app:1'}, {name: two, image: 'app:1'}], containers: [{name: a, image: 'app:1'}]}",
    ));
    assert_eq!(node.step(&mut keeping, 1).await.phase, Phase::Pending);
    node.step(&mut keeping, 1).await;
    assert_eq!(node.starts(), 1);
    let one = node.runtime.inside().newest("one");
    node.runtime.inside().end(&one, 0);
    node.step(&mut keeping, 1).await;
    assert_eq!(node.starts(), 2);
    assert_eq!(node.step(&mut keeping, 1).await.phase, Phase::Running);
    assert_eq!(node.starts(), 3);
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_tried_again_later() {
    let node = node();
    let mut keeping = Keeping::new(pod("{containers: [{name: a, image: 'missing:1'}]}"));
    let status = node.step(&mut keeping, 1).await;
    assert_eq!(
        status.containers[0].state,
        State::Waiting {
            reason: "ErrImagePull".into(),
            message: "manifest for missing:1 not found".into()
        }
    );
    for _ in 0..12 {
        node.step(&mut keeping, 1).await;
    }
    let pulls = node.runtime.inside().calls.iter().filter(|c| **c == "PullImage").count();
    assert_eq!(pulls, 3);
}

#[tokio::test]
async fn probes_decide_readiness_and_life() {
    let node = node();
    let mut keeping = Keeping::new(pod(
        "{containers: [{name: a, image: 'app:1', readinessProbe: {exec: {command: [r]}, periodSeconds: 1, failureThreshold: 1}}]}",
    ));
    node.runtime.inside().execs.extend([1, 0, 1]);
    node.step(&mut keeping, 1).await;
    let mut found = Vec::new();
    for _ in 0..3 {
        found.push(node.step(&mut keeping, 1).await.containers[0].state.clone());
    }
    assert_eq!(found, [false, true, false].map(|ready| State::Running { ready }));

    let node = self::node();
    let mut keeping = Keeping::new(pod(
        "{containers: [{name: a, image: 'app:1', livenessProbe: {exec: {command: [l]}, periodSeconds: 1, failureThreshold: 2}}]}",
    ));
    node.runtime.inside().execs.extend([0, 1, 1]);
    for _ in 0..4 {
        node.step(&mut keeping, 1).await;
    }
    assert_eq!(node.starts(), 2);
    assert!(node.runtime.inside().calls.contains(&"StopContainer"));
}

#[tokio::test]
async fn hooks_run_before_and_after() {
    let node = node();
    let spec = "{containers: [{name: a, image: 'app:1', lifecycle: {postStart: {exec: {command: [up]}}, preStop: {exec: {command: [down]}}}}]}";
    assert!(run(&node, &pod(spec)).await.error.is_none());
    let calls = node.runtime.inside().calls.clone();
    let execs = calls.iter().filter(|c| **c == "ExecSync").count();
    assert_eq!(execs, 2);
    node.runtime.inside().execs.push_back(5);
    let error = run(&node, &pod(spec)).await.error.unwrap();
    assert_eq!(error.message, "PostStartHookError: command 'up' exited with 5: ");
    assert!(node.clean());
}
