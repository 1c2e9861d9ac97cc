//! `POST /containers/create`.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Result,
    docker::{
        ContainerCreate, Json, Request,
        models::{
            ContainerConfig, ContainerCreateBody, ContainerCreateResponse, HealthConfig,
            HostConfig, HostConfigCgroupnsModeEnum as CgroupNs, HostConfigLogConfig, MountPoint,
            MountType, RestartPolicy, RestartPolicyNameEnum as Policy,
        },
    },
    proto::containerd::services::snapshots::v1::{PrepareSnapshotRequest, RemoveSnapshotRequest},
};
use serde_json::Value;

use super::{Engine, container::Container};
use crate::{
    cgroups::Cgroups,
    image::Image,
    names,
    record::{Record, RootMount},
    spec,
    stdio::log::Keeping,
    time,
};

/// What keeps a snapshot that nothing refers to from containerd's garbage collection.
const GC_ROOT: &str = "containerd.io/gc.root";

#[async_trait]
impl Handle<Request<ContainerCreate>> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        call: Request<ContainerCreate>,
    ) -> Result<Json<ContainerCreateResponse>> {
        let body = call.body.0;
        let (mut config, mut host) = split(body);
        let asked = config.image.clone().unwrap_or_default();
        if asked.is_empty() {
            return Err(HopError::invalid("invalid reference format"));
        }
        let mut warnings = Vec::new();
        check(&mut host, &config, &mut warnings)?;
        self.cgroups.discard(&mut host, &mut warnings)?;
        let image = self.images.find(cx, &asked).await?;
        inherit(&mut config, image.config());
        let args: Vec<String> =
            config.entrypoint.iter().chain(&config.cmd).flatten().cloned().collect();
        if args.first().is_none_or(String::is_empty) {
            return Err(HopError::invalid("No command specified"));
        }
        let id = names::id()?;
        let name = self.name(&id, call.query.name.as_deref())?;
        self.complete(&id, &mut config, &mut host)?;
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            created: time::now(),
            image_id: image.id.clone(),
            args,
            config,
            host,
            ..Record::default()
        };
        let made = self.make(cx, record, &image).await;
        let container = made.inspect_err(|_| self.release(&id, &name))?;
        self.write().containers.insert(id.clone(), container.clone());
        self.tell(&container, "create", &[]);
        Ok(Json(ContainerCreateResponse { id, warnings }))
    }
}

impl Engine {
    /// Takes the name that was asked for, or a random one.
    fn name(&self, id: &str, asked: Option<&str>) -> Result<String> {
        if let Some(asked) = asked.filter(|n| !n.is_empty()) {
            let name = names::checked(asked)?;
            self.reserve(id, name)?;
            return Ok(name.to_owned());
        }
        for attempt in 0.. {
            let name = names::random(id, attempt);
            if self.reserve(id, &name).is_ok() {
                return Ok(name);
            }
        }
        Err(HopError::internal("no name is left"))
    }

    /// Fills in what Docker shows of a container for which nothing was said.
    fn complete(
        &self,
        id: &str,
        config: &mut ContainerConfig,
        host: &mut HostConfig,
    ) -> Result<()> {
        let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        if empty(&config.hostname) {
            let own = host.network_mode.as_deref() == Some("host");
            config.hostname =
                Some(if own { super::system::hostname() } else { names::short(id).to_owned() });
        }
        if empty(&host.network_mode) {
            host.network_mode = Some("default".to_owned());
        }
        if empty(&host.ipc_mode) {
            host.ipc_mode = Some("private".to_owned());
        }
        host.shm_size.get_or_insert(0);
        if host.shm_size == Some(0) {
            host.shm_size = Some(64 << 20);
        }
        host.runtime = Some("runc".to_owned());
        host.log_config.get_or_insert_with(HostConfigLogConfig::default);
        if let Some(log) = &mut host.log_config {
            if empty(&log.typ) {
                log.typ = Some("json-file".to_owned());
            }
            log.config.get_or_insert_default();
        }
        let policy = host.restart_policy.get_or_insert_with(RestartPolicy::default);
        if matches!(policy.name, None | Some(Policy::EMPTY)) {
            policy.name = Some(Policy::NO);
        }
        policy.maximum_retry_count.get_or_insert(0);
        if matches!(host.cgroupns_mode, None | Some(CgroupNs::EMPTY)) {
            host.cgroupns_mode = Some(if self.cgroups == Cgroups::Unified {
                CgroupNs::PRIVATE
            } else {
                CgroupNs::HOST
            });
        }
        let open = host.privileged == Some(true);
        host.masked_paths.get_or_insert_with(|| strings(if open { &[] } else { &spec::MASKED }));
        host.readonly_paths
            .get_or_insert_with(|| strings(if open { &[] } else { &spec::READONLY }));
        Ok(())
    }

    /// Makes what the container is made of; on failure nothing of it is left.
    async fn make(
        &self,
        cx: &Cx,
        mut record: Record,
        image: &Image,
    ) -> Result<std::sync::Arc<Container>> {
        let id = record.id.clone();
        self.user_mounts(&mut record, image)?;
        let prepare = PrepareSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: id.clone(),
            parent: image.top().to_owned(),
            labels: HashMap::from([(GC_ROOT.to_owned(), time::rfc3339(record.created))]),
        };
        let named = self.named(cx);
        let prepared = self.containerd.handle(&named, prepare).await.inspect_err(|_| {
            // The image went away behind the cached name.
            self.images.forget(None);
        })?;
        record.rootfs = prepared.mounts.iter().map(RootMount::from).collect();
        let dir = self.dir(&id);
        let made = (|| -> Result<()> {
            std::fs::create_dir(&dir)?;
            self.make_volumes(&mut record)?;
            record.save(&dir, true)
        })();
        if let Err(error) = made {
            let remove = RemoveSnapshotRequest {
                snapshotter: self.config.snapshotter.clone(),
                key: id.clone(),
            };
            let _ = self.containerd.handle(&named, remove).await;
            let _ = std::fs::remove_dir_all(&dir);
            self.remove_volumes(&record.anonymous_volumes);
            return Err(error);
        }
        Ok(Container::new(dir, record))
    }

    /// The mounts that the user and the image ask for.
    fn user_mounts(&self, record: &mut Record, image: &Image) -> Result<()> {
        let mut points: Vec<MountPoint> = Vec::new();
        let mut add = |point: MountPoint| -> Result<()> {
            if points.iter().any(|p| p.destination == point.destination) {
                let at = point.destination.unwrap_or_default();
                return Err(HopError::invalid(format!("Duplicate mount point: {at}")));
            }
            points.push(point);
            Ok(())
        };
        for bind in record.host.binds.iter().flatten() {
            add(spec::parse_bind(bind)?)?;
        }
        for mount in record.host.mounts.iter().flatten() {
            add(mount_point(mount)?)?;
        }
        for from in record.host.volumes_from.iter().flatten() {
            let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
            for mut point in self.find(name)?.look(|r| r.mounts.clone()) {
                if mode == "ro" {
                    point.rw = Some(false);
                }
                if !points.iter().any(|p| p.destination == point.destination) {
                    points.push(point);
                }
            }
        }
        let of_image = image.config()["Volumes"].as_object().into_iter().flat_map(|v| v.keys());
        let volumes: BTreeSet<&String> =
            record.config.volumes.iter().flatten().chain(of_image).collect();
        for path in volumes {
            let destination = format!("/{}", path.trim_matches('/'));
            let tmpfs = record.host.tmpfs.as_ref().is_some_and(|t| t.contains_key(&destination));
            if !tmpfs && !points.iter().any(|p| p.destination.as_ref() == Some(&destination)) {
                points.push(MountPoint {
                    typ: Some("volume".to_owned()),
                    destination: Some(destination),
                    driver: Some("local".to_owned()),
                    mode: Some(String::new()),
                    rw: Some(true),
                    propagation: Some(String::new()),
                    ..MountPoint::default()
                });
            }
        }
        record.mounts = points;
        Ok(())
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// `--mount`.
fn mount_point(mount: &hops::docker::models::Mount) -> Result<MountPoint> {
    let target = mount.target.clone().unwrap_or_default();
    let source = mount.source.clone().unwrap_or_default();
    let kind = mount.typ.unwrap_or(MountType::VOLUME);
    let refuse = |words: &str| {
        Err(HopError::invalid(format!("invalid mount config for type \"{kind}\": {words}")))
    };
    if !target.starts_with('/') {
        return refuse(if target.is_empty() {
            "field Target must not be empty"
        } else {
            "invalid mount path: mount path must be absolute"
        });
    }
    let mut point = MountPoint {
        typ: Some(kind.to_string()),
        destination: Some(target),
        rw: Some(mount.read_only != Some(true)),
        mode: Some(String::new()),
        propagation: Some(String::new()),
        ..MountPoint::default()
    };
    match kind {
        MountType::BIND if !std::path::Path::new(&source).exists() => {
            return refuse(&format!("bind source path does not exist: {source}"));
        }
        MountType::BIND => {
            point.source = Some(source);
            let asked = mount.bind_options.as_ref().and_then(|o| o.propagation);
            point.propagation = Some(
                asked.map(|p| p.to_string()).filter(|p| !p.is_empty()).unwrap_or("rprivate".into()),
            );
        }
        MountType::VOLUME => {
            point.name = Some(source).filter(|s| !s.is_empty());
            point.driver = Some("local".to_owned());
        }
        MountType::TMPFS => {
            let options = mount.tmpfs_options.as_ref();
            let size = options.and_then(|o| o.size_bytes).map(|n| format!("size={n}"));
            let mode = options.and_then(|o| o.mode).map(|m| format!("mode={m:o}"));
            point.mode = Some(size.into_iter().chain(mode).collect::<Vec<_>>().join(","));
        }
        _ => return refuse("mount type unknown"),
    }
    Ok(point)
}

/// The two halves of the body.
fn split(body: ContainerCreateBody) -> (ContainerConfig, HostConfig) {
    let config = ContainerConfig {
        hostname: body.hostname,
        domainname: body.domainname,
        user: body.user,
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        exposed_ports: body.exposed_ports,
        tty: body.tty,
        open_stdin: body.open_stdin,
        stdin_once: body.stdin_once,
        env: body.env,
        cmd: body.cmd,
        healthcheck: body.healthcheck,
        args_escaped: body.args_escaped,
        image: body.image,
        volumes: body.volumes,
        working_dir: body.working_dir,
        entrypoint: body.entrypoint,
        network_disabled: body.network_disabled,
        on_build: body.on_build,
        labels: body.labels,
        stop_signal: body.stop_signal,
        stop_timeout: body.stop_timeout,
        shell: body.shell,
    };
    (config, body.host_config.unwrap_or_default())
}

/// Checks what does not depend on the image.
fn check(
    host: &mut HostConfig,
    config: &ContainerConfig,
    warnings: &mut Vec<String>,
) -> Result<()> {
    spec::check(host)?;
    spec::Security::parse(host.security_opt.as_ref())?;
    spec::capabilities::of(host.cap_add.as_ref(), host.cap_drop.as_ref(), false)?;
    Keeping::of(host.log_config.as_ref())?;
    if let Some(signal) = config.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        super::stop::signal(signal)?;
    }
    if let Some(dir) = config.working_dir.as_deref().filter(|d| !d.is_empty())
        && !dir.starts_with('/')
    {
        return Err(HopError::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    for env in config.env.iter().flatten() {
        if env.is_empty() || env.starts_with('=') {
            return Err(HopError::invalid(format!("invalid environment variable: {env}")));
        }
    }
    let policy = host.restart_policy.clone().unwrap_or_default();
    let retries = policy.maximum_retry_count.unwrap_or(0);
    match policy.name.unwrap_or(Policy::NO) {
        Policy::ON_FAILURE if retries < 0 => {
            return Err(HopError::invalid("maximum retry count cannot be negative"));
        }
        Policy::ON_FAILURE => {}
        name if retries != 0 => {
            return Err(HopError::invalid(format!(
                "maximum retry count cannot be used with restart policy '{name}'"
            )));
        }
        _ => {}
    }
    if host.auto_remove == Some(true)
        && !matches!(policy.name, None | Some(Policy::EMPTY | Policy::NO))
    {
        return Err(HopError::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    match host.userns_mode.as_deref() {
        None | Some("" | "host") => {}
        Some(_) => return Err(HopError::invalid("invalid userns mode")),
    }
    if host.init == Some(true) {
        return Err(HopError::invalid("exec: \"docker-init\": executable file not found in $PATH"));
    }
    match host.runtime.as_deref() {
        None | Some("" | "runc") => {}
        Some(other) => {
            return Err(HopError::invalid(format!("Unknown runtime specified {other}")));
        }
    }
    match host.ipc_mode.as_deref() {
        None | Some("" | "private" | "shareable" | "host" | "none") => {}
        Some(mode) if mode.starts_with("container:") => {}
        Some(mode) => return Err(HopError::invalid(format!("invalid IPC mode: {mode}"))),
    }
    match host.pid_mode.as_deref() {
        None | Some("" | "host") => {}
        Some(mode) if mode.starts_with("container:") => {}
        Some(mode) => return Err(HopError::invalid(format!("invalid PID mode: {mode}"))),
    }
    let shares = host.network_mode.as_deref().is_some_and(|m| m.starts_with("container:"));
    let bound = host.port_bindings.as_ref().is_some_and(|p| !p.is_empty());
    if shares && (bound || host.publish_all_ports == Some(true)) {
        return Err(HopError::invalid(
            "conflicting options: port publishing and the container type network mode",
        ));
    }
    if shares && host.dns.as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(HopError::invalid("conflicting options: dns and the network mode"));
    }
    if host.links.as_ref().is_some_and(|l| !l.is_empty()) {
        return Err(HopError::invalid("links are not supported: name containers in ExtraHosts"));
    }
    if host.device_requests.as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(HopError::invalid(
            "could not select device driver \"\" with capabilities: [[gpu]]",
        ));
    }
    if checks_health(config.healthcheck.as_ref()) {
        warnings.push("Health checks are not run by this daemon.".to_owned());
    }
    if host.oom_kill_disable == Some(true) && host.memory.unwrap_or(0) == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can \
             result in the system running out of resources."
                .to_owned(),
        );
    }
    Ok(())
}

fn checks_health(health: Option<&HealthConfig>) -> bool {
    let test = health.and_then(|h| h.test.as_ref()).and_then(|t| t.first());
    test.is_some_and(|first| first != "NONE")
}

/// Takes over from the image what the container does not say itself (moby's `runconfig.Merge`).
fn inherit(config: &mut ContainerConfig, image: &Value) {
    let list = |key: &str| -> Option<Vec<String>> {
        serde_json::from_value(image[key].clone()).ok().flatten()
    };
    let text = |own: &mut Option<String>, key: &str| {
        if own.as_deref().is_none_or(str::is_empty) {
            *own = image[key].as_str().map(str::to_owned);
        }
    };
    text(&mut config.user, "User");
    text(&mut config.working_dir, "WorkingDir");
    text(&mut config.stop_signal, "StopSignal");
    let env = config.env.get_or_insert_default();
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let own: Vec<String> = env.iter().map(|e| key(e)).collect();
    env.extend(list("Env").unwrap_or_default().into_iter().filter(|e| !own.contains(&key(e))));
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd = list("Cmd");
        }
        if config.entrypoint.is_none() {
            config.entrypoint = list("Entrypoint");
        }
    }
    // One empty word resets the image's entry point.
    if config.entrypoint.as_ref().is_some_and(|e| e.len() == 1 && e[0].is_empty()) {
        config.entrypoint = None;
    }
    let labels = config.labels.get_or_insert_default();
    for (name, value) in image["Labels"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default().to_owned();
        labels.entry(name.clone()).or_insert(value);
    }
    let ports = config.exposed_ports.get_or_insert_default();
    for port in image["ExposedPorts"].as_object().into_iter().flat_map(|p| p.keys()) {
        if !ports.contains(port) {
            ports.push(port.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_images_configuration_is_inherited_as_docker_merges_it() {
        let image = json!({"Env": ["A=1", "B=2"], "Cmd": ["c"], "Entrypoint": ["e"], "User": "u",
            "Labels": {"l": "1"}, "ExposedPorts": {"80/tcp": {}}});
        let mut plain = ContainerConfig { env: Some(vec!["A=9".into()]), ..Default::default() };
        inherit(&mut plain, &image);
        assert_eq!(plain.env.unwrap(), ["A=9", "B=2"]);
        assert_eq!(
            (plain.cmd.unwrap(), plain.entrypoint.unwrap()),
            (strings(&["c"]), strings(&["e"]))
        );
        let mut own = ContainerConfig { entrypoint: Some(strings(&["x"])), ..Default::default() };
        inherit(&mut own, &image);
        assert_eq!((own.cmd, own.entrypoint.unwrap()), (None, strings(&["x"])));
        let mut reset = ContainerConfig {
            entrypoint: Some(strings(&[""])),
            cmd: Some(strings(&["y"])),
            ..Default::default()
        };
        inherit(&mut reset, &image);
        assert_eq!((reset.cmd.unwrap(), reset.entrypoint), (strings(&["y"]), None));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |host: HostConfig| {
            check(&mut host.clone(), &ContainerConfig::default(), &mut Vec::new()).unwrap_err()
        };
        let host = HostConfig::default;
        for (host, words) in [
            (HostConfig { init: Some(true), ..host() }, "docker-init"),
            (HostConfig { userns_mode: Some("x".into()), ..host() }, "userns"),
            (HostConfig { runtime: Some("kata".into()), ..host() }, "Unknown runtime"),
            (HostConfig { ipc_mode: Some("x".into()), ..host() }, "IPC mode"),
        ] {
            assert!(refused(host).message.contains(words), "{words}");
        }
    }
}
