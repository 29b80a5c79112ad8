//! The process ledger that a controller leaves for its successor: the desired servers, and their processes.
//!
//! A server is written down before it is started, with the instance that its process will carry, and again
//! when its process is known. So if the controller is killed at any moment, the next one finds the servers
//! that run, and starts none of them twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::os::lock::Lock;
use crate::os::process::{Process, ProcessIdentity};
use crate::os::state_dir;
use crate::supervise::servers::Replica;

/// The version of the file; a file of another version is refused.
const VERSION: u32 = 1;

/// The name of the pool of the native sections.
const NATIVE: &str = "native";

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// The boot id of the machine: no process outlives a reboot.
    boot: String,
    servers: Vec<LedgerRecord>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// The name of its pool. In files of releases before 0.2 the native pool has an empty name.
    pub pool: String,
    /// Its id.
    pub id: u32,
    /// Its port.
    pub port: u16,
    /// Whether it is being stopped.
    pub ends: bool,
    /// The mark in the environment of its process; empty before the first start.
    pub instance: String,
    /// Its process; `None` before and during its start.
    pub process: Option<ProcessIdentity>,
}

impl LedgerRecord {
    /// Its process, if that still runs.
    pub fn find(&self) -> Option<Process> {
        match &self.process {
            Some(identity) => Process::adopt(identity, &self.instance),
            None if self.instance.is_empty() => None,
            None => Process::find(&self.instance),
        }
    }
}

/// The file, and the lock that excludes a second controller.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    /// The file's name.
    name: String,
    boot: String,
    servers: BTreeMap<(String, u32), LedgerRecord>,
    /// The text of the file.
    written: String,
    has_failed: bool,
    _lock: Lock,
}

impl Ledger {
    /// Opens the ledger `name` in this directory. An error about a second controller names `key` of the
    /// configuration, by which the two can be kept apart.
    pub fn open(dir: &Path, name: &str, key: &str) -> Result<Ledger, String> {
        state_dir::prepare(dir)?;
        let lock = Lock::take(&dir.join(format!("{name}.lock")), key)?;
        let name = format!("{name}.json");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim().to_owned();
        let contents = read(&dir.join(&name))?.filter(|contents| contents.boot == boot);
        let servers = contents.map(|contents| contents.servers).unwrap_or_default();
        let named = |record: LedgerRecord| {
            let pool = if record.pool.is_empty() { NATIVE.to_owned() } else { record.pool };
            ((pool.clone(), record.id), LedgerRecord { pool, ..record })
        };
        let servers = servers.into_iter().map(named).collect();
        let (dir, written) = (dir.to_owned(), String::new());
        Ok(Ledger { dir, name, boot, servers, written, has_failed: false, _lock: lock })
    }

    /// Removes and returns the servers of the controller before.
    pub fn take(&mut self) -> Vec<LedgerRecord> {
        std::mem::take(&mut self.servers).into_values().collect()
    }

    /// Records the servers of a pool, in place of those that were recorded.
    pub fn keep(&mut self, pool: &str, places: impl Iterator<Item = Replica>) {
        let mut before: BTreeMap<u32, LedgerRecord> = BTreeMap::new();
        self.servers.retain(|(of, id), record| {
            let stays = of != pool;
            if !stays {
                before.insert(*id, record.clone());
            }
            stays
        });
        for Replica { id, port, ends } in places {
            let record = before.remove(&id).unwrap_or_else(|| LedgerRecord {
                pool: pool.to_owned(),
                id,
                port,
                ends,
                instance: String::new(),
                process: None,
            });
            self.servers.insert((pool.to_owned(), id), LedgerRecord { port, ends, ..record });
        }
    }

    /// Records the process of a server, or with `None` that it is being started.
    pub fn note(&mut self, pool: &str, id: u32, instance: &str, process: Option<ProcessIdentity>) {
        if let Some(record) = self.servers.get_mut(&(pool.to_owned(), id)) {
            *record = LedgerRecord { instance: instance.to_owned(), process, ..record.clone() };
        }
    }

    /// Writes the file, if anything has changed.
    pub fn save(&mut self) {
        let contents = Contents {
            version: VERSION,
            boot: self.boot.clone(),
            servers: self.servers.values().cloned().collect(),
        };
        let text = serde_json::to_string_pretty(&contents).expect("plain data");
        if text == self.written {
            return;
        }
        match state_dir::write(&self.dir, &self.name, &text) {
            Ok(_) => (self.written, self.has_failed) = (text, false),
            Err(why) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    warn!(
                        error = why,
                        effect = "a successor cannot adopt servers",
                        "process ledger not written"
                    );
                }
            }
        }
    }

    /// Removes all servers: they are being stopped.
    pub fn clear(&mut self) {
        self.servers.clear();
        self.save();
    }
}

/// The contents of the file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Contents>, String> {
    let shown = path.display();
    let damaged = |why: String| {
        format!(
            "{shown} is not a process ledger of this version ({why}); stop the servers that it lists, then \
             remove it"
        )
    };
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {shown}: {error}; set state_dir to another directory")),
        Ok(bytes) => match serde_json::from_slice::<Contents>(&bytes) {
            Ok(contents) if contents.version == VERSION => Ok(Some(contents)),
            Ok(contents) => Err(damaged(format!("version {}", contents.version))),
            Err(error) => Err(damaged(error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "controller.port";

    fn place(id: u32, ends: bool) -> Replica {
        Replica { id, port: 50_000 + id as u16, ends }
    }

    fn identity(pid: u32) -> Option<ProcessIdentity> {
        Some(ProcessIdentity { pid, start: 7 })
    }

    #[test]
    fn a_successor_reads_what_was_left_and_what_has_gone_is_not_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let mut ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        assert_eq!(ledger.take(), []);
        ledger.keep("native", [place(0, false), place(1, false)].into_iter());
        ledger.keep("dns", [place(0, false)].into_iter());
        ledger.note("native", 0, "aa", None);
        ledger.note("native", 1, "bb", identity(11));
        ledger.note("dns", 0, "cc", identity(12));
        ledger.note("dns", 9, "dd", identity(13)); // there is none
        ledger.save();
        assert!(Ledger::open(&dir, "controller-1", KEY).is_err(), "one at a time");
        Ledger::open(&dir, "controller-2", KEY).unwrap();
        drop(ledger);

        let mut ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        let record = |pool: &str, id: u32, instance: &str, process| LedgerRecord {
            pool: pool.to_owned(),
            id,
            port: 50_000 + id as u16,
            ends: false,
            instance: instance.to_owned(),
            process,
        };
        let expected = [
            record("dns", 0, "cc", identity(12)),
            record("native", 0, "aa", None),
            record("native", 1, "bb", identity(11)),
        ];
        assert_eq!(ledger.take(), expected);
        assert_eq!(ledger.take(), []);
        ledger.keep("native", [place(0, true), place(1, false)].into_iter());
        ledger.note("native", 1, "bb", identity(11));
        ledger.keep("native", [place(1, true)].into_iter());
        ledger.save();
        drop(ledger);
        let mut ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        assert_eq!(ledger.take(), [LedgerRecord { ends: true, ..expected[2].clone() }]);
        ledger.clear();
        drop(ledger);
        assert_eq!(Ledger::open(&dir, "controller-1", KEY).unwrap().take(), []);
    }

    #[test]
    fn what_is_from_before_the_machine_was_started_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let mut ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        ledger.boot = "another".to_owned();
        ledger.keep("native", [place(0, false)].into_iter());
        ledger.save();
        drop(ledger);
        assert_eq!(Ledger::open(&dir, "controller-1", KEY).unwrap().take(), []);
    }

    #[test]
    fn the_native_pool_of_the_previous_release_has_an_empty_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        let boot = ledger.boot.clone();
        drop(ledger);
        let written = r#"{"version": 1, "boot": "BOOT", "servers": [
            {"pool": "", "id": 3, "port": 50003, "ends": false, "instance": "aa",
             "process": {"pid": 11, "start": 7}}]}"#;
        std::fs::write(dir.join("controller-1.json"), written.replace("BOOT", &boot)).unwrap();
        let left = Ledger::open(&dir, "controller-1", KEY).unwrap().take();
        let left: Vec<_> = left.iter().map(|record| (record.pool.as_str(), record.id, record.port)).collect();
        assert_eq!(left, [("native", 3, 50_003)]);
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        Ledger::open(&dir, "controller-1", KEY).unwrap();
        for text in ["", "{}", "{\"version\": 2, \"boot\": \"x\", \"servers\": []}", "\u{0}\u{1}"] {
            std::fs::write(dir.join("controller-1.json"), text).unwrap();
            let error = Ledger::open(&dir, "controller-1", KEY).unwrap_err();
            assert!(error.ends_with("stop the servers that it lists, then remove it"), "{error}");
        }
    }
}
