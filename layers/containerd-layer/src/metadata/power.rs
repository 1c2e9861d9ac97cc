//! What a power cut leaves of the database. A disk keeps what was synced; of what was written since,
//! it keeps some sectors and not others.

use super::{Labels, Metadata, Namespace, builder, furnished};
use redb::StorageBackend;
use std::{
    io,
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
};

/// What a disk writes at once, in bytes.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Step {
    Length(usize),
    Write(usize, Vec<u8>),
    Sync,
}

#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

/// A disk that remembers in which order it was written.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Written>>);

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Length(length) => bytes.resize(*length, 0),
        Step::Write(offset, data) => bytes[*offset..offset + data.len()].copy_from_slice(data),
        Step::Sync => {}
    }
}

impl Disk {
    fn step(&self, step: Step) {
        let mut written = self.0.lock().unwrap();
        apply(&mut written.bytes, &step);
        written.steps.push(step);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let written = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let Some(bytes) = written.bytes.get(offset..offset + out.len()) else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        self.step(Step::Length(usize::try_from(length).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.step(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.step(Step::Write(usize::try_from(offset).unwrap(), data.to_vec()));
        Ok(())
    }
}

fn metadata(disk: Disk) -> crate::Result<Metadata> {
    let db = builder().create_with_backend(disk).map_err(super::database)?;
    let db = RwLock::new(Some(furnished(db)?));
    Ok(Metadata { path: "".into(), db, failed: AtomicBool::new(false) })
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// What is there after `steps`, of which those behind the last sync may be lost in parts.
fn cut(steps: &[Step], state: &mut u64) -> Vec<u8> {
    let synced = steps.iter().rposition(|s| matches!(s, Step::Sync)).map_or(0, |at| at + 1);
    let mut bytes = Vec::new();
    for step in &steps[..synced] {
        apply(&mut bytes, step);
    }
    for step in &steps[synced..] {
        match step {
            Step::Write(offset, data) => {
                for (n, sector) in data.chunks(SECTOR).enumerate() {
                    if random(state) & 1 == 0 {
                        apply(&mut bytes, &Step::Write(offset + n * SECTOR, sector.to_vec()));
                    }
                }
            }
            step => apply(&mut bytes, step),
        }
    }
    bytes
}

#[test]
fn a_power_cut_at_any_moment_keeps_what_was_committed() {
    const CHANGES: usize = 60;
    let seed = std::env::var("STRATA_SEED").map_or(20_261_127, |text| text.parse().unwrap());
    println!("STRATA_SEED={seed}");
    let mut state: u64 = seed;
    let disk = Disk::default();
    let store = metadata(disk.clone()).unwrap();
    // How far the disk was when a change was done.
    let mut done = vec![disk.0.lock().unwrap().steps.len()];
    let name = |n: usize| format!("ns{}", n % 7);
    for n in 1..=CHANGES {
        let text = "x".repeat((random(&mut state) % 5000) as usize);
        let labels = Labels::from([("n".to_owned(), n.to_string()), ("text".to_owned(), text)]);
        store.change(|tx| tx.put("", &name(n), &Namespace { labels })).unwrap();
        done.push(disk.0.lock().unwrap().steps.len());
    }
    let steps = disk.0.lock().unwrap().steps.clone();
    drop(store);
    let mut inexact = 0;
    for at in done[0]..=steps.len() {
        let bytes = cut(&steps[..at], &mut state);
        let disk = Disk::default();
        disk.0.lock().unwrap().bytes = bytes;
        let store = metadata(disk).unwrap_or_else(|e| panic!("after step {at}: {e}"));
        // The change that was done last, or the one after it if it was on its way.
        let last = done.iter().rposition(|steps| *steps <= at).unwrap();
        let all = store.list::<Namespace>("").unwrap();
        let numbers = all.iter().map(|(_, ns)| ns.labels["n"].parse::<usize>().unwrap());
        let newest = numbers.max().unwrap_or(0);
        assert!(newest == last || newest == last + 1, "{newest} after {last}, step {at}");
        inexact += usize::from(newest != last);
        for (found, namespace) in all {
            let n: usize = namespace.labels["n"].parse().unwrap();
            assert_eq!(found, name(n));
            assert!(n + 7 > newest, "{found} is of change {n}, and {newest} is done");
        }
    }
    println!("{} moments, {inexact} after a commit that nobody was told of", steps.len() - done[0]);
}
