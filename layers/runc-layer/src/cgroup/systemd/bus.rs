//! systemd's manager over D-Bus (org.freedesktop.systemd1(5)).

use std::{os::unix::ffi::OsStringExt, path::Path, time::Duration};

use super::{Property, Unit, properties};
use crate::{
    Error, Result,
    dbus::{self, Address, Call, Connection, Message, Value},
    engine::in_user_namespace,
    sys::credentials,
};

/// What systemd has for anything, as runc gives it.
const PATIENCE: Duration = Duration::from_secs(30);

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// How many jobs of others may end while one of ours is being accepted.
const JOBS: usize = 4096;

/// A connection to systemd.
pub(super) struct Systemd {
    connection: Connection,
}

/// Whether the machine was booted with systemd (sd_booted(3)).
pub(super) fn is_running() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|m| m.is_dir())
}

/// The addresses of the user's bus: what the environment says, or where it is by convention.
fn user_addresses() -> dbus::Result<Vec<Address>> {
    if let Some(text) = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok().filter(|a| !a.is_empty()) {
        return Address::parse(&text);
    }
    Ok(runtime_directory("bus").into_iter().collect())
}

fn runtime_directory(name: &str) -> Option<Address> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty())?;
    let path = Path::new(&directory).join(name);
    path.exists().then(|| Address::Path(path.into_os_string().into_vec()))
}

/// Whether there is a bus of the user's own. As root of a user namespace this is what tells the
/// user's systemd from one that runs in the namespace.
pub(crate) fn has_user_bus() -> bool {
    user_addresses().map_or(true, |list| !list.is_empty())
        || runtime_directory("systemd/private").is_some()
}

fn connect(user: bool) -> dbus::Result<Connection> {
    // In a user namespace the peer knows us by another number.
    let uid = (!in_user_namespace()).then(credentials::effective_uid);
    // systemd itself needs no bus in between; that is also how systemctl talks to it.
    let (buses, direct) = match user {
        true => (user_addresses()?, runtime_directory("systemd/private")),
        false => (
            vec![Address::Path(b"/run/dbus/system_bus_socket".to_vec())],
            Some(Address::Path(b"/run/systemd/private".to_vec())),
        ),
    };
    let mut failed = dbus::Error::NoBus;
    let direct = direct.iter().map(|address| (address, false));
    let buses = buses.iter().map(|address| (address, true));
    let ways: Vec<(&Address, bool)> =
        if user { buses.chain(direct).collect() } else { direct.chain(buses).collect() };
    for (address, bus) in ways {
        let connected = match bus {
            true => Connection::bus(address, uid, PATIENCE),
            false => Connection::direct(address, uid, PATIENCE),
        };
        match connected {
            Ok(connection) => return Ok(connection),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

/// A job that has ended: its path and how.
fn job_removed(message: &Message) -> Option<(String, String)> {
    if !message.is_signal(MANAGER, "JobRemoved") {
        return None;
    }
    let mut body = message.body("uoss").ok()?;
    body.u32().ok()?;
    let job = body.text().ok()?;
    body.text().ok()?;
    Some((job, body.text().ok()?))
}

fn call(member: &'static str, body: Vec<Value>) -> Call<'static> {
    Call { destination: NAME, path: PATH, interface: MANAGER, member, body }
}

fn list(properties: &[Property]) -> Value {
    let pair = |p: &Property| {
        Value::Struct(vec![Value::text(p.name.as_ref()), Value::Variant(Box::new(p.value.clone()))])
    };
    Value::Array("(sv)".to_owned(), properties.iter().map(pair).collect())
}

/// The arguments of StartTransientUnit; there are no further units.
fn start_arguments(name: &str, properties: &[Property]) -> Vec<Value> {
    let further = Value::Array("(sa(sv))".to_owned(), Vec::new());
    vec![Value::text(name), Value::text("replace"), list(properties), further]
}

fn said(e: dbus::Error) -> Error {
    Error::Systemd(e.to_string())
}

impl Systemd {
    /// Connects to the machine's systemd or, with `user`, to the user's.
    ///
    /// # Errors
    ///
    /// runc's texts: systemd is not running, or there is no way to it.
    pub(super) fn connect(user: bool) -> Result<Systemd> {
        if !is_running() {
            return Err(Error::Systemd(
                "systemd not running on this host, cannot use systemd cgroups manager".to_owned(),
            ));
        }
        let connection = connect(user).map_err(|e| {
            Error::Systemd(format!(
                "failed to connect to dbus (hint: for rootless containers, maybe you need to \
                 install dbus-user-session package): {e}"
            ))
        })?;
        Ok(Systemd { connection })
    }

    /// A property of the manager that is a string.
    fn property(&mut self, name: &str) -> Result<String> {
        self.connection.allow(PATIENCE);
        let get = Call {
            destination: NAME,
            path: PATH,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            body: vec![Value::text(MANAGER), Value::text(name)],
        };
        let answer = self.connection.call(get, |_| {});
        answer.and_then(|a| a.body("v")?.text_variant()).map_err(said)
    }

    /// The cgroup that this systemd manages, such as `/user.slice/…/user@1000.service`.
    pub(super) fn control_group(&mut self) -> Result<String> {
        let path = self.property("ControlGroup")?;
        let plain = path.is_empty()
            || path.starts_with('/') && !path.contains('\0') && path.split('/').all(|p| p != "..");
        match plain {
            true => Ok(path),
            false => Err(Error::Systemd(format!("systemd's ControlGroup is {path:?}"))),
        }
    }

    /// Whether it knows of an idle cpu weight.
    pub(super) fn idles(&mut self) -> Result<bool> {
        Ok(properties::version(&self.property("Version")?)? >= 252)
    }

    /// Asks for a job and waits for its end; `accepted` is called when there is one.
    fn job(
        &mut self,
        member: &'static str,
        body: Vec<Value>,
        accepted: impl FnOnce(),
    ) -> dbus::Result<String> {
        self.connection.allow(PATIENCE);
        if self.connection.has_bus() {
            let rule =
                format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved'");
            self.connection.listen(&rule)?;
            self.connection.call(call("Subscribe", Vec::new()), |_| {})?;
        }
        let mut early = Vec::new();
        let answer = self.connection.call(call(member, body), |message| {
            if let Some(job) = job_removed(&message)
                && early.len() < JOBS
            {
                early.push((message.sender, job));
            }
        })?;
        let ours = answer.body("o")?.text()?;
        accepted();
        // On a bus anybody could tell a stranger that his job is done.
        for (sender, (job, result)) in early {
            if job == ours && sender == answer.sender {
                return Ok(result);
            }
        }
        loop {
            let message = self.connection.next()?;
            match job_removed(&message) {
                Some((job, result)) if job == ours && message.sender == answer.sender => {
                    return Ok(result);
                }
                _ => {}
            }
        }
    }

    /// Makes the transient unit and waits until it is started.
    ///
    /// A unit of its name that has failed is forgotten first. A slice that is there already is
    /// given `limits` and stays another's.
    ///
    /// # Errors
    ///
    /// runc's texts, with systemd's.
    pub(super) fn start(
        &mut self,
        unit: &mut Unit,
        basics: &[Property],
        limits: &[Property],
    ) -> Result<()> {
        let Unit { name, started, .. } = unit;
        let failed = |e: dbus::Error| Error::Systemd(format!("unable to start unit {name:?}: {e}"));
        let all: Vec<Property> = basics.iter().chain(limits).cloned().collect();
        let mut job = self.job("StartTransientUnit", start_arguments(name, &all), || {
            *started = true;
        });
        if job.as_ref().is_err_and(|e| e.is("org.freedesktop.systemd1.UnitExists")) {
            if name.ends_with(".slice") {
                return self.set(name, limits);
            }
            self.reset_failed(name);
            job = self.job("StartTransientUnit", start_arguments(name, &all), || *started = true);
        }
        match job {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => {
                self.reset_failed(name);
                Err(Error::Systemd(format!("error creating systemd unit `{name}`: got `{result}`")))
            }
            Err(dbus::Error::Timeout) => {
                self.reset_failed(name);
                Err(Error::Systemd(format!("Timeout waiting for systemd to create {name}")))
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Stops the unit, which ends what is left in it, and forgets it if it has failed. One that is
    /// gone is stopped.
    ///
    /// # Errors
    ///
    /// runc's text when it takes too long, and systemd's own.
    pub(super) fn stop(&mut self, name: &str) -> Result<()> {
        let body = vec![Value::text(name), Value::text("replace")];
        match self.job("StopUnit", body, || {}) {
            Ok(_) => {}
            // One is gone; of the other name there can be none.
            Err(e)
                if e.is("org.freedesktop.systemd1.NoSuchUnit")
                    || e.is("org.freedesktop.DBus.Error.InvalidArgs") => {}
            Err(dbus::Error::Timeout) => {
                return Err(Error::Systemd(format!(
                    "Timed out while waiting for systemd to remove {name}"
                )));
            }
            Err(e) => return Err(Error::Systemd(format!("unable to stop unit {name:?}: {e}"))),
        }
        self.reset_failed(name);
        Ok(())
    }

    fn reset_failed(&mut self, name: &str) {
        self.connection.allow(PATIENCE);
        // Of a unit that is gone, which is what most are, systemd says that it is not loaded.
        let _ = self.connection.call(call("ResetFailedUnit", vec![Value::text(name)]), |_| {});
    }

    /// Moves processes into the child `below` of the unit's cgroup, an empty one being the unit's
    /// own. A user's systemd may have it done by the machine's.
    pub(super) fn attach(&mut self, name: &str, below: &str, pid: u32) -> Result<()> {
        self.connection.allow(PATIENCE);
        let pids = Value::Array("u".to_owned(), vec![Value::Uint32(pid)]);
        let body = vec![Value::text(name), Value::text(below), pids];
        let answer = self.connection.call(call("AttachProcessesToUnit", body), |_| {});
        answer.map(drop).map_err(said)
    }

    /// Sets properties until the unit or the machine stops.
    ///
    /// # Errors
    ///
    /// runc's text with systemd's.
    pub(super) fn set(&mut self, name: &str, properties: &[Property]) -> Result<()> {
        if properties.is_empty() {
            return Ok(());
        }
        self.connection.allow(PATIENCE);
        let body = vec![Value::text(name), Value::Bool(true), list(properties)];
        match self.connection.call(call("SetUnitProperties", body), |_| {}) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::Systemd(format!("unable to set unit properties: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are those that jeepney 0.9, another implementation, makes of the same call.
    #[test]
    fn a_start_is_written_as_another_implementation_writes_it() {
        let slice = Property::new("Slice", Value::text("system.slice"));
        let body = start_arguments("runc-x.scope", &[slice]);
        let expected = "6c0100015000000003000000b600000001016f00190000002f6f72672f66726565646573\
                        6b746f702f73797374656d64310000000000000002017300200000006f72672e66726565\
                        6465736b746f702e73797374656d64312e4d616e61676572000000000000000003017300\
                        1200000053746172745472616e7369656e74556e69740000000000000601730018000000\
                        6f72672e667265656465736b746f702e73797374656d6431000000000000000008016700\
                        10737361287376296128736128737629290000000c00000072756e632d782e73636f7065\
                        00000000070000007265706c61636500210000000000000005000000536c696365000173\
                        000000000c00000073797374656d2e736c6963650000000000000000";
        let bytes = call("StartTransientUnit", body).bytes(3, true);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, expected);
    }
}
