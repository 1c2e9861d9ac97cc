//! A container in memory.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use hops::Result;
use tokio::{
    sync::{Mutex as Turn, watch},
    task::JoinHandle,
};

use super::lock;
use crate::{
    record::{Phase, Record},
    stdio::{hub::Hub, log::Mark},
};

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    /// Its directory.
    pub(crate) dir: PathBuf,
    record: Mutex<Record>,
    /// Held by a verb that changes what the container is doing.
    pub(crate) turn: Turn<()>,
    /// What those who wait for it look at.
    pub(crate) life: watch::Sender<Life>,
    pub(crate) hub: Arc<Hub>,
    /// How far its log is written.
    pub(crate) log: watch::Sender<Mark>,
    /// The task that empties its fifos.
    pub(crate) pump: Mutex<Option<JoinHandle<()>>>,
    /// The next restart's delay in milliseconds.
    pub(crate) backoff: Mutex<u64>,
    /// A remove has begun: no second one may.
    pub(crate) going: AtomicBool,
}

/// What a container has lived through since this daemon knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) runs: bool,
    /// How often its process has ended.
    pub(crate) exits: u64,
    pub(crate) exit_code: i64,
    pub(crate) error: String,
    pub(crate) removed: bool,
}

impl Container {
    pub(crate) fn new(dir: PathBuf, record: Record) -> Arc<Container> {
        let life = Life {
            runs: record.state.phase.runs(),
            exit_code: record.state.exit_code,
            ..Life::default()
        };
        Arc::new(Container {
            id: record.id.clone(),
            dir,
            hub: Arc::new(Hub::new(record.tty())),
            record: Mutex::new(record),
            turn: Turn::new(()),
            life: watch::Sender::new(life),
            log: watch::Sender::new(Mark::default()),
            pump: Mutex::new(None),
            backoff: Mutex::new(0),
            going: AtomicBool::new(false),
        })
    }

    /// Looks at the record.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Record) -> T) -> T {
        at(&lock(&self.record))
    }

    /// A copy of the record.
    pub(crate) fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Changes the record, and writes it.
    ///
    /// # Errors
    /// Those of the file system; the change stands in memory all the same.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let mut record = lock(&self.record);
        let answer = change(&mut record);
        record.save(&self.dir, false)?;
        Ok(answer)
    }

    /// Changes the record where a failure to write it must not stop what is going on.
    pub(crate) fn note<T: Default>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = lock(&self.record);
        let answer = change(&mut record);
        if let Err(error) = record.save(&self.dir, false) {
            tracing::warn!(container = self.id, %error, "the record was not written");
        }
        answer
    }

    /// Changes the record in memory; a [`Container::note`] that follows writes it.
    pub(crate) fn set<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut lock(&self.record))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.look(|r| r.state.phase)
    }

    pub(crate) fn name(&self) -> String {
        self.look(|r| r.name.clone())
    }

    /// Where its log is.
    pub(crate) fn log_path(&self) -> PathBuf {
        log_path(&self.dir, &self.id)
    }
}

/// Where the log of the container in `dir` is.
pub(crate) fn log_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}-json.log"))
}
