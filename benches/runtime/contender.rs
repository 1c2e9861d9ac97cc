//! Who runs, and on what.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::{
    mount::{MsFlags, mount, umount},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::machine::installed;

/// A bundle, and where the runtimes keep their records of it.
pub(crate) struct Bundle {
    dir: tempfile::TempDir,
}

impl Bundle {
    /// busybox, and the configuration that `spec` writes, without a terminal, for `/bin/true`.
    pub(crate) fn new() -> Bundle {
        let dir = tempfile::tempdir().expect("a directory");
        let rootfs = dir.path().join("rootfs");
        for sub in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(sub)).expect("rootfs");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("a static busybox");
        symlink("busybox", rootfs.join("bin/true")).expect("bin/true");
        // The runtimes' records are on a tmpfs, as /run is on users' machines.
        let state = dir.path().join("state");
        fs::create_dir(&state).expect("state");
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a tmpfs");
        let strata = env!("CARGO_BIN_EXE_strata-runc");
        let program = if installed("runc").is_some() { "runc" } else { strata };
        let spec = Command::new(program).arg("spec").current_dir(&dir).status().expect("spec");
        assert!(spec.success());
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/true"]);
        // crun 1.8 takes nothing newer.
        config["ociVersion"] = json!("1.0.2");
        fs::write(path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
        Bundle { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the configuration a filter, so that loading one is among the steps.
    pub(crate) fn add_filter(&self) {
        let path = self.path("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}],
        });
        fs::write(path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    }

    /// The container's process, as the pid file of `create` says.
    pub(crate) fn pid(&self) -> Pid {
        let text = fs::read_to_string(self.path("pid")).expect("the pid file");
        Pid::from_raw(text.trim().parse().expect("a pid"))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = umount(&self.path("state"));
    }
}

/// One of those compared.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    /// Where its records are; the limit has none.
    root: Option<PathBuf>,
}

/// strata-runc first, then what is installed of the others.
pub(crate) fn contenders(bundle: &Bundle) -> Vec<Contender> {
    let runtime =
        |name, program| Contender { name, program, root: Some(bundle.path("state").join(name)) };
    let mut all = vec![runtime("strata-runc", env!("CARGO_BIN_EXE_strata-runc").into())];
    for name in ["crun", "runc"] {
        match installed(name) {
            Some(program) => all.push(runtime(name, program)),
            None => println!("SKIP: {name} is not installed"),
        }
    }
    let program = bundle.path("limit");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/runtime/limit.c");
    let built =
        Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(source).status();
    match built {
        Ok(status) if status.success() => {
            all.push(Contender { name: "limit", program, root: None });
        }
        _ => println!("SKIP: the limit needs a C compiler and a static C library"),
    }
    all
}

impl Contender {
    pub(crate) fn is_runtime(&self) -> bool {
        self.root.is_some()
    }

    /// A command line up to the verb, with nothing on its standard streams.
    pub(crate) fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            command.arg("--root").arg(root);
        }
        command.arg(verb).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        command
    }

    /// The container from nothing to its end.
    pub(crate) fn run(&self, bundle: &Bundle, id: &str) -> Command {
        let mut command = self.verb("run");
        if self.is_runtime() {
            command.arg("--bundle").arg(bundle.path("")).arg(id);
        } else {
            command.arg(bundle.path("rootfs")).arg("/bin/true");
        }
        command
    }

    /// The container up to where it waits for `start`.
    pub(crate) fn create(&self, bundle: &Bundle, id: &str) -> Command {
        let mut command = self.verb("create");
        command.arg("--bundle").arg(bundle.path("")).arg("--pid-file").arg(bundle.path("pid"));
        command.arg(id);
        command
    }

    pub(crate) fn version(&self) -> String {
        if !self.is_runtime() {
            return "the same namespaces, mounts and devices in C, and nothing else".to_owned();
        }
        let out = Command::new(&self.program).arg("--version").output().expect("version");
        String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned()
    }
}
