//! The daemon itself: what it holds, and the verbs of its face by subject.
//!
//! A container changes under its `turn`, one verb at a time; what a container is doing is told to
//! those who wait by its `life`. Ends of processes come as containerd's events ([`exits`]).

mod attach;
mod container;
mod create;
mod events;
mod exec;
mod exits;
mod filters;
mod images;
mod inspect;
mod list;
mod networks;
mod remove;
mod restore;
mod start;
mod stats;
mod stop;
mod system;
mod top;
mod update;
mod volumes;
mod wait;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use hops::{Cni, Containerd, Cx, HopError, Kind, Result};

use crate::{cgroups::Cgroups, config::Config, image::Images};
use container::Container;
use events::Events;
use exec::Exec;

/// The Docker daemon. Cheap to clone; it works until the last clone is dropped.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

impl Deref for Engine {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What the verbs share.
pub struct Shared {
    config: Config,
    containerd: Arc<dyn Containerd>,
    cni: Option<Arc<dyn Cni>>,
    registry: RwLock<Registry>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    images: Images,
    events: Events,
    /// The network `bridge`, `host` and `none`, by id.
    networks: networks::Networks,
    /// This daemon's own id.
    id: String,
    cgroups: Cgroups,
}

/// The containers by id, and the ids by name.
#[derive(Default)]
struct Registry {
    containers: BTreeMap<String, Arc<Container>>,
    names: HashMap<String, String>,
}

/// A lock that a panic elsewhere does not make unusable: what it guards is always whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Opens the daemon: finds its containers again, and starts to listen to containerd. Networks
    /// other than the host's and others' containers' need `cni`, which has to know the plugins
    /// `bridge`, `host-local`, `loopback` and, for published ports, `portmap`.
    ///
    /// # Errors
    /// Those of its directories and of containerd.
    pub async fn open(
        config: Config,
        containerd: Arc<dyn Containerd>,
        cni: Option<Arc<dyn Cni>>,
    ) -> Result<Engine> {
        for dir in [config.data_root.join("containers"), config.data_root.join("volumes")] {
            fs::create_dir_all(&dir)?;
        }
        for dir in [config.exec_root.join("io"), config.exec_root.join("netns")] {
            fs::create_dir_all(&dir)?;
        }
        let images =
            Images::new(containerd.clone(), config.namespace.clone(), config.snapshotter.clone());
        let networks = networks::Networks::open(&config)?;
        let id = system::daemon_id(&config)?;
        let engine = Engine(Arc::new(Shared {
            cgroups: Cgroups::here(),
            config,
            containerd,
            cni,
            registry: RwLock::default(),
            execs: Mutex::default(),
            images,
            events: Events::default(),
            networks,
            id,
        }));
        engine.load()?;
        engine.listen().await?;
        engine.restore().await?;
        Ok(engine)
    }

    /// The context for work that belongs to no call.
    fn background(&self) -> Cx {
        self.named(&Cx::background())
    }

    /// The same context, in this daemon's containerd namespace.
    fn named(&self, cx: &Cx) -> Cx {
        cx.in_namespace(self.config.namespace.clone())
    }

    /// The directory of a container.
    fn dir(&self, id: &str) -> PathBuf {
        self.config.data_root.join("containers").join(id)
    }

    /// The directory of the fifos.
    fn io_dir(&self) -> PathBuf {
        self.config.exec_root.join("io")
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every container.
    fn all(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    /// Finds a container by its id, its name, or a beginning of its id that no other has.
    fn find(&self, name: &str) -> Result<Arc<Container>> {
        let registry = self.read();
        if let Some(container) = registry.containers.get(name) {
            return Ok(container.clone());
        }
        let bare = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = registry.names.get(bare).and_then(|id| registry.containers.get(id))
        {
            return Ok(container.clone());
        }
        if !name.is_empty() {
            let mut found = registry
                .containers
                .range(name.to_owned()..)
                .take_while(|(id, _)| id.starts_with(name));
            match (found.next(), found.next()) {
                (Some((_, container)), None) => return Ok(container.clone()),
                (Some(_), Some(_)) => {
                    return Err(HopError::invalid(format!(
                        "Multiple IDs found with provided prefix: {name}"
                    )));
                }
                _ => {}
            }
        }
        Err(HopError::not_found(format!("No such container: {name}")))
    }

    /// Gives a container its name, which nobody else may have.
    fn reserve(&self, id: &str, name: &str) -> Result<()> {
        let mut registry = self.write();
        if let Some(other) = registry.names.get(name) {
            return Err(HopError::new(
                Kind::AlreadyExists,
                format!(
                    "Conflict. The container name \"/{name}\" is already in use by container \
                     \"{other}\". You have to remove (or rename) that container to be able to \
                     reuse that name."
                ),
            ));
        }
        registry.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    fn release(&self, id: &str, name: &str) {
        let mut registry = self.write();
        if registry.names.get(name).is_some_and(|owner| owner == id) {
            registry.names.remove(name);
        }
    }
}

/// An error that Docker answers with 409.
fn conflict(message: impl Into<String>) -> HopError {
    HopError::new(Kind::FailedPrecondition, message)
}
