//! runc and strata-runc, each in a bundle of its own, and what they say made comparable.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";

/// Why the two cannot be compared here, if so.
fn lacking() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|l| l.starts_with("Uid:\t0\t0")) {
        return Some("needs root".into());
    }
    if !Path::new(BUSYBOX).exists() {
        return Some(format!("needs a static busybox at {BUSYBOX}"));
    }
    let Ok(version) = Command::new("runc").arg("--version").output() else {
        return Some("runc is not installed".into());
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let first = version.lines().next().unwrap_or_default();
    (!first.starts_with("runc version 1.1.")).then(|| format!("needs runc 1.1, not {first:?}"))
}

/// One of the two runtimes. Their directories and ids are equally long, so that tables have equal
/// columns.
pub(crate) struct Side {
    program: PathBuf,
    dir: PathBuf,
    id: String,
    config: Value,
}

/// Both, and the directory that is theirs.
pub(crate) struct Sides {
    pub(crate) both: [Side; 2],
    // After the sides, which clear away what is in it.
    dir: tempfile::TempDir,
}

/// What a command line led to.
#[derive(PartialEq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Sides {
    /// Equal bundles for both; `None`, with the reason printed, where they cannot be compared.
    pub(crate) fn new(name: &str) -> Option<Sides> {
        if let Some(reason) = lacking() {
            println!("SKIP: {reason}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let both = [("a", "runc".into()), ("b", env!("CARGO_BIN_EXE_strata-runc").into())];
        let both = both.map(|(side, program)| {
            let id = format!("peer-{name}-{}-{side}", std::process::id());
            Side::new(program, dir.path().join(side), id)
        });
        Some(Sides { both, dir })
    }

    /// Fails when a container, a cgroup or a mount of either is left.
    pub(crate) fn end(self) {
        for side in &self.both {
            let records = fs::read_dir(side.dir.join("root")).map_or(0, Iterator::count);
            assert_eq!(records, 0, "{} left records", side.program.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts are left");
    }
}

impl Side {
    fn new(program: PathBuf, dir: PathBuf, id: String) -> Side {
        let rootfs = dir.join("rootfs");
        for sub in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "ls", "id", "sleep", "true", "echo"] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::write(rootfs.join("etc/plain"), "not a program\n").unwrap();
        let spec = Command::new("runc").args(["spec", "-b"]).arg(&dir).status().unwrap();
        assert!(spec.success());
        let mut config: Value =
            serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sleep", "100"]);
        let side = Side { program, dir, id, config };
        side.configure(&[]);
        side
    }

    /// Writes the usual configuration with `changes`: JSON pointers and what is there.
    pub(crate) fn configure(&self, changes: &[(&str, Value)]) {
        let mut config = self.config.clone();
        for (pointer, value) in changes {
            set(&mut config, pointer, value.clone());
        }
        fs::write(self.dir.join("config.json"), self.filled(&config.to_string())).unwrap();
    }

    /// `text` with this side's id and directory.
    fn filled(&self, text: &str) -> String {
        text.replace("{id}", &self.id).replace("{dir}", self.dir.to_str().unwrap())
    }

    /// Runs a command line of the table in the bundle. One with `$ ` in front is the shell's, with
    /// the runtime as `$R`.
    pub(crate) fn run(&self, line: &str) -> Said {
        let line = self.filled(line);
        let root = self.dir.join("root");
        let runtime = format!("{} --root {}", self.program.display(), root.display());
        let script = match line.strip_prefix("$ ") {
            Some(script) => script.to_owned(),
            None => format!("exec {runtime} {line}"),
        };
        // Files: what a container's process keeps open would keep a pipe from its end.
        let [out, err] = ["out", "err"].map(|name| self.dir.join(name));
        let status = Command::new("timeout")
            .args(["-k", "1", "10", "sh", "-c", &script])
            .env("R", &runtime)
            .env("LC_ALL", "C")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .status()
            .unwrap();
        let read = |path| self.plain(&String::from_utf8_lossy(&fs::read(path).unwrap()));
        Said { code: status.code().unwrap_or(-1), out: read(&out), err: read(&err) }
    }

    /// What is another on each side by its nature, taken for the same.
    fn plain(&self, text: &str) -> String {
        let text = text
            .replace(self.dir.to_str().unwrap(), "{dir}")
            .replace(&self.id, "{id}")
            .replace("strata-runc", "runc");
        unpadded(&timeless(&text))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let list = self.run("list -q");
        for id in list.out.lines() {
            self.run(&format!("delete --force {id}"));
        }
    }
}

/// Puts `value` where the JSON pointer says, making objects on the way; null removes.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let (above, last) = pointer.rsplit_once('/').unwrap();
    let mut at = config;
    for part in above.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(i) => &mut at[i],
            Err(_) => &mut at[part],
        };
    }
    match (last.parse::<usize>(), value) {
        (Ok(i), value) => at[i] = value,
        (_, Value::Null) => drop(at.as_object_mut().unwrap().remove(last)),
        (_, value) => at[last] = value,
    }
}

/// Time stamps, RFC 3339's, as `T`.
fn timeless(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('T') {
        let date = at.checked_sub(10).and_then(|from| rest.get(from..at));
        let is_date = date.is_some_and(|date| {
            date.bytes().enumerate().all(|(i, b)| match i {
                4 | 7 => b == b'-',
                _ => b.is_ascii_digit(),
            })
        });
        if !is_date {
            plain.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
            continue;
        }
        plain.push_str(&rest[..at - 10]);
        plain.push('T');
        let after = &rest[at + 1..];
        let end = after.find(|c: char| !(c.is_ascii_digit() || ":.+-Z".contains(c)));
        rest = &after[end.unwrap_or(after.len())..];
    }
    plain + rest
}

/// The table of `list` with one blank where the time's own length has made more.
fn unpadded(text: &str) -> String {
    if !text.starts_with("ID ") {
        return text.to_owned();
    }
    let line = |line: &str| match line.rsplit_once("  ") {
        Some((rest, owner)) => format!("{} {owner}\n", rest.trim_end()),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Any number as good as any other.
pub(crate) fn numberless(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if plain.ends_with('N') => {}
            true => plain.push('N'),
            false => plain.push(c),
        }
    }
    plain
}
