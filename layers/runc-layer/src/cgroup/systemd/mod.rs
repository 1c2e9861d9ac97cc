//! systemd as the cgroup driver: the container is a scope, which systemd makes and removes.
//!
//! systemd makes a scope around a process that exists, so the container's process waits until it
//! is in it. Its limits are properties of the unit, so that systemd does not undo them, and are
//! then written to the cgroup's files as without systemd, because not all of them have properties
//! and some are rounded. The unit delegates its cgroup, so that is allowed.

mod annotations;
mod bus;
mod properties;
mod unit;

use std::{borrow::Cow, collections::BTreeMap, path::Path};

pub(crate) use bus::has_user_bus;
pub(crate) use unit::Unit;

use super::{Cgroup, Hierarchies, c_path, devices::Policy, limits, open, read, read_line, write};
use crate::{
    Error, Result,
    dbus::Value,
    error::Context,
    spec::{Resources, Spec},
    sys::{Errno, file},
};
use bus::Systemd;

/// A property of a unit.
#[derive(Clone, Debug, PartialEq)]
struct Property {
    name: Cow<'static, str>,
    value: Value,
}

impl Property {
    fn new(name: &'static str, value: Value) -> Property {
        Property { name: name.into(), value }
    }
}

/// All that is needed to start a container's unit once its process exists.
pub(crate) struct Launch {
    systemd: Systemd,
    basics: Vec<Property>,
    limits: Vec<Property>,
    /// Who is to own the cgroup, on v2.
    owner: Option<u32>,
}

/// Where the cgroup of the container `id` will be, and how to get there: in the machine's systemd,
/// or in the `user`'s. Nothing is made yet.
///
/// # Errors
///
/// What is wrong with `spec` or with systemd, in runc's words.
pub(crate) fn prepare(
    hierarchies: &Hierarchies,
    spec: &Spec,
    id: &str,
    user: bool,
    warn: &mut dyn FnMut(String),
) -> Result<(Cgroup, Launch)> {
    let extra = annotations::properties(&spec.annotations)?;
    let unit = Unit::named(&spec.linux.cgroups_path, id, user)?;
    let version = if hierarchies.is_v2() { 2 } else { 1 };
    if user && version == 1 {
        return Err(Error::Systemd(
            "cannot use rootless systemd cgroups manager on cgroup v1".to_owned(),
        ));
    }
    let none = Resources::default();
    let resources = spec.linux.resources.as_ref().unwrap_or(&none);
    limits::check(resources, version)?;
    let mut systemd = Systemd::connect(user)?;
    let mut limits = properties::devices(&Policy::new(&resources.devices)?, warn);
    limits.extend(properties::of(resources, version, &mut || systemd.idles())?);
    let base = if user { systemd.control_group()? } else { String::new() };
    let paths = match hierarchies {
        Hierarchies::V2 { mount, .. } => {
            let below = format!("{base}{}", unit.path()?);
            BTreeMap::from([(String::new(), mount.join(below.trim_start_matches('/')))])
        }
        Hierarchies::V1(_) => hierarchies.below_init(&unit.path()?)?,
    };
    let mut basics = basics(&unit, version);
    basics.extend(extra);
    let owner = if version == 2 { owner(spec) } else { None };
    let cgroup = Cgroup { version, paths, unit: Some(unit) };
    Ok((cgroup, Launch { systemd, basics, limits, owner }))
}

/// The properties that every container's unit has.
fn basics(unit: &Unit, version: u8) -> Vec<Property> {
    let on = |name, value| Property::new(name, Value::Bool(value));
    let mut list = vec![Property::new("Description", Value::text(unit.description.as_str()))];
    if unit.is_slice() {
        // A slice's parent is in its name; this only has it made.
        let wanted = Value::Array("s".to_owned(), vec![Value::text(unit.slice.as_str())]);
        list.push(Property::new("Wants", wanted));
    } else {
        list.push(Property::new("Slice", Value::text(unit.slice.as_str())));
        list.push(on("Delegate", true));
    }
    list.push(on("MemoryAccounting", true));
    list.push(on("CPUAccounting", true));
    list.push(on(if version == 2 { "IOAccounting" } else { "BlockIOAccounting" }, true));
    list.push(on("TasksAccounting", true));
    // They would stop it at the begin of a shutdown (systemd.scope(5)), before the daemon that
    // keeps the container could.
    list.push(on("DefaultDependencies", false));
    list
}

/// The user on the host that a container's cgroup is given to: its process's, when it has a cgroup
/// namespace of its own and may write to the cgroups in it.
fn owner(spec: &Spec) -> Option<u32> {
    let private = spec.linux.namespaces.iter().any(|n| n.kind == "cgroup" && n.path.is_empty());
    let writable = spec.mounts.iter().any(|m| {
        m.source == "cgroup"
            && m.destination.trim_end_matches('/') == "/sys/fs/cgroup"
            && m.options.iter().all(|o| o != "ro")
    });
    if !private || !writable {
        return None;
    }
    let uid = spec.process.as_ref().map_or(0, |p| p.user.uid);
    if spec.linux.namespaces.iter().all(|n| n.kind != "user") {
        return Some(uid);
    }
    let map = spec.linux.uid_mappings.iter().find(|m| m.contains(uid))?;
    map.host.checked_add(uid - map.container)
}

/// Gives the cgroup to `uid`, with the files that the kernel lists for it (cgroups(7),
/// "Delegation").
fn give(dir: &Path, uid: u32) -> Result<()> {
    const ALL: u32 = u32::MAX;
    let chown = |path: &Path| match file::lchown(&c_path(path)?, uid, ALL) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::os(format!("chown {}", path.display()), e)),
    };
    chown(dir)?;
    let names = std::fs::read_to_string("/sys/kernel/cgroup/delegate")
        .unwrap_or_else(|_| "cgroup.procs cgroup.subtree_control cgroup.threads".to_owned());
    names.split_whitespace().try_for_each(|name| chown(&dir.join(name)))
}

impl Cgroup {
    /// Has systemd start the unit around the process `pid`. From here on there is something to be
    /// removed, so the caller records it.
    ///
    /// # Errors
    ///
    /// systemd's refusals, in runc's words.
    pub(crate) fn start(&mut self, launch: &mut Launch, pid: i32) -> Result<()> {
        let Some(unit) = &mut self.unit else { return Ok(()) };
        if !unit.is_slice() {
            let pids = Value::Array("u".to_owned(), vec![Value::Uint32(pid.unsigned_abs())]);
            launch.basics.push(Property::new("PIDs", pids));
        }
        launch.systemd.start(unit, &launch.basics, &launch.limits)
    }

    /// Puts the process `pid` of the started unit into the hierarchies that systemd leaves alone,
    /// enables the controllers that it has not, and gives the cgroup to its owner.
    ///
    /// # Errors
    ///
    /// The kernel's refusals.
    pub(crate) fn complete(&mut self, launch: &Launch, pid: i32, lenient: bool) -> Result<()> {
        let is_slice = self.unit.as_ref().is_some_and(Unit::is_slice);
        let entrance = self.create(lenient)?;
        let pid = pid.to_string();
        let into = || format!("move {pid} to its cgroup");
        for tasks in &entrance.tasks {
            use std::os::fd::AsFd;
            file::write(tasks.as_fd(), pid.as_bytes()).context(into)?;
        }
        if self.version == 2
            && let Some(dir) = self.paths.values().next()
        {
            if is_slice {
                write(dir, "cgroup.procs", &pid)?;
            }
            if let Some(uid) = launch.owner {
                give(dir, uid)?;
            }
        }
        Ok(())
    }

    /// Removes what a runtime has left that was killed before it could record that the unit is
    /// started: its process has ended by itself, but when that was while systemd put it into the
    /// scope, systemd does not see that it is empty. A scope with processes is another's.
    pub(super) fn forget_unit(&self, unit: &Unit) -> Result<()> {
        match unit.is_slice() || self.pids_anywhere().is_ok_and(|pids| !pids.is_empty()) {
            true => Ok(()),
            false => unit.stop(),
        }
    }

    /// Whether a process of the caller's cannot enter this cgroup of the user's systemd by itself:
    /// it would need to write to a cgroup above both (cgroups(7), "Delegation containment").
    pub(crate) fn needs_attaching(&self) -> Result<bool> {
        if self.unit.as_ref().is_none_or(|unit| !unit.user) {
            return Ok(false);
        }
        let Hierarchies::V2 { mount, own } = Hierarchies::find()? else { return Ok(false) };
        let own = mount.join(own.strip_prefix("/").unwrap_or(&own));
        let common = |dir: &Path| dir.ancestors().find(|a| own.starts_with(a)).map(Path::to_owned);
        let above = self.paths.values().next().and_then(|dir| common(dir));
        Ok(above.is_some_and(|dir| open(&dir.join("cgroup.procs"), libc::O_WRONLY).is_err()))
    }

    /// Has systemd put the process `pid` into this cgroup, which is `whole` or below it.
    ///
    /// # Errors
    ///
    /// systemd's refusal.
    pub(crate) fn attach(&self, whole: &Cgroup, pid: i32) -> Result<()> {
        let Some(unit) = &self.unit else { return Ok(()) };
        let path = |cgroup: &Cgroup| cgroup.paths.values().next().cloned().unwrap_or_default();
        let (own, whole) = (path(self), path(whole));
        let below = own.strip_prefix(whole).unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let below = if below.is_empty() { below } else { format!("/{below}") };
        Systemd::connect(unit.user)?.attach(&unit.name, &below, pid.unsigned_abs())
    }

    /// Tells systemd of changed limits.
    pub(super) fn update_unit(&self, unit: &Unit, resources: &Resources) -> Result<()> {
        limits::check(resources, self.version)?;
        let mut resources = resources.clone();
        properties::complete(&mut resources.cpu, || self.cpu_limit());
        let mut systemd = Systemd::connect(unit.user)?;
        let list = properties::of(&resources, self.version, &mut || systemd.idles())?;
        systemd.set(&unit.name, &list)
    }

    /// The quota, -1 for none, and the period that the cgroup has.
    fn cpu_limit(&self) -> Option<(i64, u64)> {
        let dir = self.directory("cpu")?;
        if self.version == 2 {
            let text = read(dir, "cpu.max").ok()?;
            let (quota, period) = text.split_once(' ')?;
            return Some((quota.parse().unwrap_or(-1), period.parse().ok()?));
        }
        let number = |name| read_line(dir, name).ok();
        let quota = number("cpu.cfs_quota_us")?.parse().ok()?;
        Some((quota, number("cpu.cfs_period_us")?.parse().ok()?))
    }
}

impl Unit {
    /// Stops the unit. Where systemd does not run any more there are no units.
    pub(super) fn stop(&self) -> Result<()> {
        match bus::is_running() {
            true => Systemd::connect(self.user)?.stop(&self.name),
            false => Ok(()),
        }
    }

    /// Whether the unit is this container's.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }
}
