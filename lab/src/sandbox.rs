//! A sandbox: a container of our own, made by our own runtime, in which a whole stack runs.
//!
//! It has its own mount, network, pid, ipc, uts and cgroup namespaces and a cgroup subtree (as an
//! ordinary user also a user namespace), so nothing made inside can leak on to the host, and its
//! end is the end of everything inside: when its standard input ends, its init does, and the kernel
//! takes down the rest.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::unistd::{getgid, getuid};
use serde_json::{Value, json};

use crate::{premises::Premises, stack::Plan};

/// How long a stack may take to end by itself before its init is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What the runtime calls the container; its state directory is the sandbox's own.
pub(crate) const ID: &str = "sandbox";

/// A running sandbox.
pub(crate) struct Sandbox {
    name: String,
    dir: PathBuf,
    /// What the sandbox says on standard error.
    words: fs::File,
    runtime: Child,
    jobs: Jobs,
    answers: BufReader<ChildStdout>,
}

/// The end at which jobs go in; closing it ends the stack.
#[derive(Clone, Default)]
pub(crate) struct Jobs(Arc<Mutex<Option<ChildStdin>>>);

impl Jobs {
    /// Sends one line.
    fn send(&self, line: &str) -> Result<()> {
        let mut jobs = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let pipe = jobs.as_mut().context("interrupted")?;
        writeln!(pipe, "{line}").context("the stack went away")
    }

    /// Ends the stack.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).take();
    }
}

/// Where a sandbox's things are, outside and inside.
pub(crate) struct Layout {
    /// The sandbox's directory on the host.
    pub dir: PathBuf,
}

impl Layout {
    /// A fresh directory for the sandbox `name`, with everything but the bundle's configuration.
    ///
    /// # Errors
    /// Those of making directories.
    pub(crate) fn new(premises: &Premises, name: &str) -> Result<Layout> {
        let dir = premises.dir().join(name);
        for sub in ["bundle/rootfs", "root", "shared"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        Ok(Layout { dir })
    }

    /// A file that both sides see, as the host names it.
    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.dir.join("shared").join(name)
    }

    /// The same file as the sandbox names it.
    pub(crate) fn inside(&self, name: &str) -> PathBuf {
        Path::new("/shared").join(name)
    }
}

impl Sandbox {
    /// Starts the stack `plan` in a sandbox at `layout`.
    ///
    /// # Errors
    /// When the sandbox cannot be made: what is missing, in the runtime's words.
    pub(crate) fn start(
        premises: &Premises,
        name: &str,
        layout: &Layout,
        plan: &Plan,
    ) -> Result<Sandbox> {
        let program = std::env::current_exe()?;
        // The directory's name is this comparison's alone, and so is a cgroup that is called so.
        let place = premises.dir().file_name().context("sandbox")?.to_string_lossy().into_owned();
        let config = config(&program, &format!("{place}-{name}"), layout, plan)?;
        fs::write(layout.dir.join("bundle/config.json"), serde_json::to_vec_pretty(&config)?)?;
        let log = layout.shared("sandbox.log");
        let words = fs::File::options().read(true).append(true).create(true).open(log)?;
        premises.start(|| {
            let mut runtime = runtime(&layout.dir)?
                .args(["run", "--bundle"])
                .arg(layout.dir.join("bundle"))
                .arg(ID)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(words.try_clone()?)
                .process_group(0)
                .spawn()
                .context("the sandbox's runtime")?;
            let (Some(stdin), Some(stdout)) = (runtime.stdin.take(), runtime.stdout.take()) else {
                bail!("the sandbox's runtime has no standard streams");
            };
            let jobs = Jobs(Arc::new(Mutex::new(Some(stdin))));
            let sandbox = Sandbox {
                name: name.to_owned(),
                dir: layout.dir.clone(),
                words,
                runtime,
                jobs: jobs.clone(),
                answers: BufReader::new(stdout),
            };
            Ok((sandbox, jobs))
        })
    }

    /// The runtime's pid: the ancestor of every process of the sandbox.
    pub(crate) fn pid(&self) -> u32 {
        self.runtime.id()
    }

    /// Sends a job, to be answered by [`Sandbox::answer`].
    ///
    /// # Errors
    /// When the stack has gone, with its last words.
    pub(crate) fn send(&mut self, job: &Value) -> Result<()> {
        self.jobs.send(&job.to_string()).or_else(|e| bail!("{e}: {}", self.last_words()))
    }

    /// The next answer.
    ///
    /// # Errors
    /// When the stack has gone, with its last words.
    pub(crate) fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the stack {} ended: {}", self.name, self.last_words());
        }
        serde_json::from_str(&line).with_context(|| format!("the kubelet answered {line:?}"))
    }

    fn last_words(&self) -> String {
        let mut text = String::new();
        // What cannot be read is not said; the error that it would explain is reported anyway.
        let _ = (&self.words).seek(std::io::SeekFrom::Start(0));
        let _ = (&self.words).read_to_string(&mut text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Sandbox {
    /// Ends the stack and waits for its end.
    fn drop(&mut self) {
        self.jobs.close();
        let begun = Instant::now();
        while let Ok(None) = self.runtime.try_wait() {
            if begun.elapsed() > GRACE {
                let _ = runtime(&self.dir).map(|mut r| r.args(["kill", ID, "KILL"]).output());
                let _ = self.runtime.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The runtime that runs the sandbox in `dir`.
///
/// # Errors
/// When this program does not know where it is.
pub(crate) fn runtime(dir: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0("strata-runc").arg("--root").arg(dir.join("runtime"));
    Ok(command)
}

/// The sandbox's OCI configuration.
fn config(program: &Path, id: &str, layout: &Layout, plan: &Plan) -> Result<Value> {
    let root = getuid().is_root();
    let bind = |source: &Path, target: &str| json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rw"]});
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}),
        bind(program, "/strata"),
        bind(&layout.dir.join("root"), &plan.places.root),
        bind(&layout.dir.join("shared"), "/shared"),
    ];
    if plan.era.host_programs {
        for dir in ["/usr", "/bin", "/sbin", "/lib", "/lib64"].map(Path::new) {
            if dir.exists() {
                mounts.push(json!({"destination": dir, "type": "bind", "source": dir,
                    "options": ["rbind", "ro"]}));
            }
        }
    }
    let mut namespaces: Vec<Value> =
        ["mount", "network", "pid", "ipc", "uts"].map(|kind| json!({"type": kind})).into();
    let mut linux = json!({});
    if root {
        namespaces.push(json!({"type": "cgroup"}));
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "rw"]}));
        linux["cgroupsPath"] = json!(format!("/{id}"));
        linux["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    } else {
        namespaces.push(json!({"type": "user"}));
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
        linux["uidMappings"] = map(getuid().as_raw());
        linux["gidMappings"] = map(getgid().as_raw());
    }
    linux["namespaces"] = namespaces.into();
    let capabilities = capabilities(root)?;
    Ok(json!({
        "ociVersion": "1.0.2",
        "hostname": "strata",
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": linux,
        "process": {
            "terminal": false,
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "args": ["/strata", "stack", serde_json::to_string(plan)?],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"],
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
                "inheritable": [],
                "ambient": [],
            },
        },
    }))
}

/// Every capability that the sandbox may have: as root those of this process's bounding set, in a
/// user namespace of its own all of them.
fn capabilities(root: bool) -> Result<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .context("/proc/self/status has no CapBnd")?;
    let set = if root { bounding } else { u64::MAX };
    Ok(CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(n, _)| set >> n & 1 == 1)
        .map(|(_, c)| *c)
        .collect())
}

/// Linux's capabilities in the order of their numbers (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];
