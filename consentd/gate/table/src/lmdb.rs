//! Read the table that a daemon writes: an LMDB environment, opened for reading.
//!
//! A daemon may replace the files of its table by new ones (after an erasure). A reader of the old files sees no later
//! commit. So each read first looks whether the path still names the files that are open, and opens them again if it
//! does not: no read that begins after a withdrawal was acknowledged sees the consent.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use lmdb::{Cursor, Database, Environment, EnvironmentFlags, Error, RoTransaction, Transaction};

use crate::registry::Registry;
use crate::rows::{get, u64_at, Each, Fault, Revision, Source};

/// How often the files are opened until none is replaced meanwhile.
const OPENINGS: usize = 5;

/// A table. Threads share it; each read has a transaction of its own.
pub struct Table {
    path: PathBuf,
    opened: RwLock<Arc<Opened>>,
}

struct Opened {
    environment: Environment,
    database: Database,
    file: (u64, u64),
    /// Held for reading by each transaction, and for writing while the map takes over another size.
    map: RwLock<()>,
    /// The registry that was read last, and at which state.
    registry: Mutex<Option<(State, Arc<Registry>)>>,
}

/// What a registry depends on: the generation, and how often shared rows were mended.
type State = (u64, u64);

/// The table after one commit.
pub struct Snapshot<'t> {
    transaction: RoTransaction<'t>,
    database: Database,
    /// What it reflects.
    pub revision: Revision,
    /// When the writer last said that it runs, UTC milliseconds; 0: never.
    pub heartbeat_ms: u64,
    /// How often the writer has put a shared row right.
    mended: u64,
}

impl Source for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Fault> {
        get_stored(&self.transaction, self.database, key)
    }

    fn scan(&self, prefix: &[u8], each: &mut Each<'_>) -> Result<(), Fault> {
        let mut cursor = self.transaction.open_ro_cursor(self.database).map_err(source)?;
        for row in cursor.iter_from(prefix) {
            let (key, stored) = row.map_err(source)?;
            if !key.starts_with(prefix) {
                break;
            }
            each(key, stored)?;
        }
        Ok(())
    }
}

/// Rows before the revision is known.
struct Stored<'a, 't>(&'a RoTransaction<'t>, Database);

impl Source for Stored<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Fault> {
        get_stored(self.0, self.1, key)
    }

    fn scan(&self, _: &[u8], _: &mut Each<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

fn get_stored<'a>(
    transaction: &'a RoTransaction<'_>,
    database: Database,
    key: &[u8],
) -> Result<Option<&'a [u8]>, Fault> {
    match transaction.get(database, &key) {
        Ok(stored) => Ok(Some(stored)),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(source(error)),
    }
}

fn source(error: Error) -> Fault {
    Fault::Source(error.to_string())
}

impl Table {
    /// Open the table in a directory. The process must be able to write its lock file, and writes nothing else.
    pub fn open(path: &Path) -> Result<Table, Fault> {
        Ok(Table { path: path.to_owned(), opened: RwLock::new(Arc::new(Opened::open(path)?)) })
    }

    /// Read the last commit: call *read* with it and with its registry.
    pub fn read<T>(&self, read: impl FnOnce(&Snapshot<'_>, &Registry) -> Result<T, Fault>) -> Result<T, Fault> {
        let opened = self.current()?;
        let _map = opened.map.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let transaction = match opened.environment.begin_ro_txn() {
            Err(Error::MapResized) => {
                drop(_map);
                opened.resize()?;
                return Err(Fault::Source("the map has another size now".to_owned()));
            }
            other => other.map_err(source)?,
        };
        let stored = Stored(&transaction, opened.database);
        let revision = Revision::read(&stored)?;
        let heartbeat = get(&stored, b"H")?.unwrap_or(&[0; 16]);
        let (heartbeat_ms, mended) = (u64_at(heartbeat, 0)?, u64_at(heartbeat, 8)?);
        let snapshot = Snapshot { transaction, database: opened.database, revision, heartbeat_ms, mended };
        let registry = opened.registry(&snapshot)?;
        read(&snapshot, &registry)
    }

    /// Return what is open, after opening it again if the files were replaced.
    fn current(&self) -> Result<Arc<Opened>, Fault> {
        let file = file_of(&self.path)?;
        let opened = Arc::clone(&self.opened.read().unwrap_or_else(|poisoned| poisoned.into_inner()));
        if opened.file == file {
            return Ok(opened);
        }
        let mut slot = self.opened.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if slot.file != file_of(&self.path)? {
            *slot = Arc::new(Opened::open(&self.path)?);
        }
        Ok(Arc::clone(&slot))
    }
}

impl Opened {
    fn open(path: &Path) -> Result<Opened, Fault> {
        for _ in 0..OPENINGS {
            let file = file_of(path)?;
            // A transaction belongs to no thread, so that a pool of threads can share few slots of readers.
            let flags = EnvironmentFlags::READ_ONLY | EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_READAHEAD;
            let environment = Environment::new().set_flags(flags).open(path).map_err(source)?;
            let database = environment.open_db(None).map_err(source)?;
            if file == file_of(path)? {
                return Ok(Opened { environment, database, file, map: RwLock::new(()), registry: Mutex::new(None) });
            }
        }
        Err(Fault::Source("its files are replaced again and again".to_owned()))
    }

    /// Take over the size of the writer's map, which has grown.
    fn resize(&self) -> Result<(), Fault> {
        let _alone = self.map.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.environment.set_map_size(0).map_err(source)
    }

    fn registry(&self, snapshot: &Snapshot<'_>) -> Result<Arc<Registry>, Fault> {
        let state: State = (snapshot.revision.generation, snapshot.mended);
        let mut kept = self.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((of, registry)) = kept.as_ref() {
            if *of == state {
                return Ok(Arc::clone(registry));
            }
        }
        let found = Arc::new(Registry::read(snapshot)?);
        // A snapshot of an older commit does not replace a newer registry.
        if kept.as_ref().is_none_or(|(of, _)| *of < state) {
            *kept = Some((state, Arc::clone(&found)));
        }
        Ok(found)
    }
}

/// Return which file the table's data are now: device and inode.
fn file_of(path: &Path) -> Result<(u64, u64), Fault> {
    let found = std::fs::metadata(path.join("data.mdb")).map_err(|error| Fault::Source(error.to_string()))?;
    Ok((found.dev(), found.ino()))
}
