//! The one transactional database, `<root>/metadata.redb`. Everything in it is a record under
//! (namespace, name), so one generic table serves every kind; the kinds are in [`records`].
//!
//! A transaction that returned `Ok` has been fsynced. A kill at any moment leaves the last one that
//! did; files that belong to no record are swept when the store opens.

pub mod identifier;
mod leases;
pub mod namespaces;
#[cfg(test)]
mod power;
mod records;
pub mod timestamp;

pub use records::{
    Container, Content, Image, Labels, Lease, Namespace, Record, Resource, Sandbox, Snapshot,
    SnapshotKind,
};

use crate::{Error, Kind, Result, error::At};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

type Key = (&'static str, &'static str);
/// A redb table of encoded records under (namespace, name).
pub type Table = TableDefinition<'static, Key, &'static [u8]>;

const COUNTERS: TableDefinition<'static, &str, u64> = TableDefinition::new("counters");

/// The database.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    /// Nothing only while it is opened again, or after that failed.
    db: RwLock<Option<redb::Database>>,
    /// A write failed: redb wants to be opened again.
    failed: AtomicBool,
}

/// A consistent view of the database.
#[derive(Debug)]
pub struct View(redb::ReadTransaction);

/// A transaction that can change the database.
pub struct Change(redb::WriteTransaction);

fn database(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(e) => Error::io("metadata database", &e),
        e => Error::internal(format_args!("metadata database: {e}")),
    }
}

impl Metadata {
    /// Opens or creates the database, repairing it after a crash.
    ///
    /// # Errors
    /// When another process has it open, or the disk refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let db = RwLock::new(Some(open(path)?));
        Ok(Self { path: path.to_owned(), db, failed: AtomicBool::new(false) })
    }

    /// A view of the latest committed state; costs no I/O beyond page-cache reads.
    pub fn view(&self) -> Result<View> {
        self.with(|db| db.begin_read().map(View))
    }

    /// Runs `work` in a write transaction: committed and durable when it returns `Ok`, without
    /// effect when it returns an error. Blocks while another change runs, and for one fsync.
    pub fn change<T>(&self, work: impl FnOnce(&Change) -> Result<T>) -> Result<T> {
        let changed = self.with(|db| db.begin_write().map(Change)).and_then(|change| {
            let value = work(&change)?;
            change.0.commit().map_err(database)?;
            Ok(value)
        });
        if let Err(e) = &changed
            && matches!(e.kind, Kind::ResourceExhausted | Kind::Internal)
        {
            self.failed.store(true, Ordering::Release);
        }
        changed
    }

    /// Begins a transaction. After a failed write, on a full disk for one, the file is opened again
    /// first: the state is then the last committed one.
    fn with<T>(
        &self,
        begin: impl Fn(&redb::Database) -> Result<T, redb::TransactionError>,
    ) -> Result<T> {
        if !self.failed.load(Ordering::Acquire)
            && let Some(db) = self.db.read().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            return begin(db).map_err(database);
        }
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // The file stays locked until the last view of it is gone, which is a matter of moments.
        drop(db.take());
        let mut tries = 0;
        let opened = loop {
            match open(&self.path) {
                Err(_) if tries < 100 => {
                    tries += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                opened => break opened?,
            }
        };
        self.failed.store(false, Ordering::Release);
        begin(db.insert(opened)).map_err(database)
    }

    /// One record, `NotFound` when it is missing.
    pub fn get<R: Record>(&self, ns: &str, name: &str) -> Result<R> {
        self.view()?.get(ns, name)
    }

    /// All records of a namespace in the order of their names.
    pub fn list<R: Record>(&self, ns: &str) -> Result<Vec<(String, R)>> {
        self.view()?.list(ns)
    }
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(8 << 20);
    builder
}

/// Opens the file and makes the tables that are missing.
///
/// A file that is not there is made under another name and then renamed: half of one could never be
/// opened again.
fn open(path: &Path) -> Result<redb::Database> {
    if !path.exists() {
        let fresh = path.with_extension("new");
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", &fresh)?,
            _ => {}
        }
        let made = builder().create(&fresh);
        drop(furnished(made.map_err(|e| database(e).during(fresh.display()))?)?);
        fs::rename(&fresh, path).at("renaming to", path)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|dir| dir.sync_all()).at("syncing", dir)?;
    }
    furnished(builder().create(path).map_err(|e| database(e).during(path.display()))?)
}

/// Makes the tables that are missing.
fn furnished(db: redb::Database) -> Result<redb::Database> {
    let tx = db.begin_write().map_err(database)?;
    for table in records::TABLES {
        tx.open_table(*table).map_err(database)?;
    }
    tx.open_table(COUNTERS).map_err(database)?;
    tx.commit().map_err(database)?;
    Ok(db)
}

fn find<R: Record>(
    table: &impl ReadableTable<Key, &'static [u8]>,
    key: (&str, &str),
) -> Result<Option<R>> {
    table.get(key).map_err(database)?.map(|v| R::decode(v.value())).transpose()
}

fn collect<R: Record>(
    table: &impl ReadableTable<Key, &'static [u8]>,
    ns: &str,
) -> Result<Vec<(String, R)>> {
    let mut records = Vec::new();
    for entry in table.range((ns, "")..).map_err(database)? {
        let (key, value) = entry.map_err(database)?;
        let (found, name) = key.value();
        if found != ns {
            break;
        }
        records.push((name.to_owned(), R::decode(value.value())?));
    }
    Ok(records)
}

fn every<R: Record>(
    table: &impl ReadableTable<Key, &'static [u8]>,
) -> Result<Vec<(String, String, R)>> {
    let mut records = Vec::new();
    for entry in table.iter().map_err(database)? {
        let (key, value) = entry.map_err(database)?;
        let (ns, name) = key.value();
        records.push((ns.to_owned(), name.to_owned(), R::decode(value.value())?));
    }
    Ok(records)
}

/// Reading works alike in a view and in a change, which sees its own writes.
macro_rules! reads {
    () => {
        /// One record, or nothing.
        pub fn find<R: Record>(&self, ns: &str, name: &str) -> Result<Option<R>> {
            find(&self.0.open_table(R::TABLE).map_err(database)?, (ns, name))
        }

        /// One record, `NotFound` when it is missing.
        pub fn get<R: Record>(&self, ns: &str, name: &str) -> Result<R> {
            self.find(ns, name)?.ok_or_else(|| Error::not_found(R::describe(name)))
        }

        /// All records of a namespace in the order of their names.
        pub fn list<R: Record>(&self, ns: &str) -> Result<Vec<(String, R)>> {
            collect(&self.0.open_table(R::TABLE).map_err(database)?, ns)
        }

        /// All records of all namespaces: (namespace, name, record).
        pub fn all<R: Record>(&self) -> Result<Vec<(String, String, R)>> {
            every(&self.0.open_table(R::TABLE).map_err(database)?)
        }
    };
}

impl View {
    reads!();
}

impl Change {
    reads!();

    /// Writes a record, whether or not it was there, and its namespace if that is new.
    pub fn put<R: Record>(&self, ns: &str, name: &str, record: &R) -> Result<()> {
        self.table_put(R::TABLE, ns, name, &record.encode()?)?;
        if !ns.is_empty() && self.find::<Namespace>("", ns)?.is_none() {
            self.table_put(Namespace::TABLE, "", ns, &Namespace::default().encode()?)?;
        }
        Ok(())
    }

    fn table_put(&self, table: Table, ns: &str, name: &str, value: &[u8]) -> Result<()> {
        let mut table = self.0.open_table(table).map_err(database)?;
        table.insert((ns, name), value).map_err(database)?;
        Ok(())
    }

    /// Writes a new record, `AlreadyExists` when there is one.
    pub fn create<R: Record>(&self, ns: &str, name: &str, record: &R) -> Result<()> {
        if self.find::<R>(ns, name)?.is_some() {
            return Err(Error::already_exists(R::describe(name)));
        }
        self.put(ns, name, record)
    }

    /// Changes a record in place, `NotFound` when it is missing.
    pub fn update<R: Record>(
        &self,
        ns: &str,
        name: &str,
        change: impl FnOnce(&mut R) -> Result<()>,
    ) -> Result<R> {
        let mut record = self.get(ns, name)?;
        change(&mut record)?;
        self.put(ns, name, &record)?;
        Ok(record)
    }

    /// Removes a record and returns it, `NotFound` when it is missing.
    pub fn remove<R: Record>(&self, ns: &str, name: &str) -> Result<R> {
        let mut table = self.0.open_table(R::TABLE).map_err(database)?;
        let removed = table.remove((ns, name)).map_err(database)?;
        match removed {
            Some(value) => R::decode(value.value()),
            None => Err(Error::not_found(R::describe(name))),
        }
    }

    /// The next number of a counter that never goes back, from 1.
    pub fn next(&self, counter: &str) -> Result<u64> {
        let mut table = self.0.open_table(COUNTERS).map_err(database)?;
        let next = table.get(counter).map_err(database)?.map_or(0, |v| v.value()) + 1;
        table.insert(counter, next).map_err(database)?;
        Ok(next)
    }
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Change")
    }
}
