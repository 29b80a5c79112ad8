//! What a controller leaves for its successor: which servers there shall be, and which processes they are.
//!
//! A server is written down before it is started, with the instance that its process will carry, and again when its process
//! is known. So whenever the controller is killed, the next one finds what runs, and starts nothing twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::os::lock::Lock;
use crate::os::process::{Identity, Process};
use crate::os::state_dir;
use crate::supervise::servers::Replica;

/// The form of the file; another one is not read.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// Processes do not outlive the machine's start that this names.
    boot: String,
    servers: Vec<Record>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The pool that it is of; empty = the one with lbd's own frames.
    pub pool: String,
    /// Its id.
    pub id: u32,
    /// Its port.
    pub port: u16,
    /// Whether it was told to end.
    pub ends: bool,
    /// What its process has in its environment; empty before the first start.
    pub instance: String,
    /// Its process; `None` while it is being started, or waits for that.
    pub process: Option<Identity>,
}

impl Record {
    /// The process, if it still runs.
    pub fn find(&self) -> Option<Process> {
        match &self.process {
            Some(identity) => Process::adopt(identity, &self.instance),
            None if self.instance.is_empty() => None,
            None => Process::find(&self.instance),
        }
    }
}

/// The file, and the lock that keeps a second controller from it.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    /// The file's name.
    name: String,
    boot: String,
    servers: BTreeMap<(String, u32), Record>,
    /// What the file holds.
    written: String,
    has_failed: bool,
    _lock: Lock,
}

impl Ledger {
    /// Opens the ledger `name` in this folder. `key` of the configuration keeps two controllers apart.
    pub fn open(dir: &Path, name: &str, key: &str) -> Result<Ledger, String> {
        state_dir::prepare(dir)?;
        let lock = Lock::take(&dir.join(format!("{name}.lock")), key)?;
        let name = format!("{name}.json");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim().to_owned();
        let contents = read(&dir.join(&name))?.filter(|contents| contents.boot == boot);
        let servers = contents.map(|contents| contents.servers).unwrap_or_default();
        let servers = servers.into_iter().map(|record| ((record.pool.clone(), record.id), record)).collect();
        let (dir, written) = (dir.to_owned(), String::new());
        Ok(Ledger { dir, name, boot, servers, written, has_failed: false, _lock: lock })
    }

    /// The servers that the last controller has left behind; they are not in the ledger any more.
    pub fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.servers).into_values().collect()
    }

    /// Notes which servers of a pool there are.
    pub fn keep(&mut self, pool: &str, places: impl Iterator<Item = Replica>) {
        let mut before: BTreeMap<u32, Record> = BTreeMap::new();
        self.servers.retain(|(of, id), record| {
            let stays = of != pool;
            if !stays {
                before.insert(*id, record.clone());
            }
            stays
        });
        for Replica { id, port, ends } in places {
            let record = before.remove(&id).unwrap_or_else(|| Record {
                pool: pool.to_owned(),
                id,
                port,
                ends,
                instance: String::new(),
                process: None,
            });
            self.servers.insert((pool.to_owned(), id), Record { port, ends, ..record });
        }
    }

    /// Notes the process of a server, or that one is being started.
    pub fn note(&mut self, pool: &str, id: u32, instance: &str, process: Option<Identity>) {
        if let Some(record) = self.servers.get_mut(&(pool.to_owned(), id)) {
            *record = Record { instance: instance.to_owned(), process, ..record.clone() };
        }
    }

    /// Writes the file, if there is anything new.
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
                    warn!("{why}: another controller could not adopt these servers");
                }
            }
        }
    }

    /// Forgets everything: the servers were told to end.
    pub fn clear(&mut self) {
        self.servers.clear();
        self.save();
    }
}

/// What the file holds; `None` if there is none.
fn read(path: &Path) -> Result<Option<Contents>, String> {
    let shown = path.display();
    let damaged = |why: String| {
        format!(
            "{shown} is not what a controller has left ({why}); end the servers that it was about, then remove it"
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

    fn identity(pid: u32) -> Option<Identity> {
        Some(Identity { pid, start: 7 })
    }

    #[test]
    fn a_successor_reads_what_was_left_and_what_has_gone_is_not_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let mut ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        assert_eq!(ledger.take(), []);
        ledger.keep("", [place(0, false), place(1, false)].into_iter());
        ledger.keep("dns", [place(0, false)].into_iter());
        ledger.note("", 0, "aa", None);
        ledger.note("", 1, "bb", identity(11));
        ledger.note("dns", 0, "cc", identity(12));
        ledger.note("dns", 9, "dd", identity(13)); // there is none
        ledger.save();
        assert!(Ledger::open(&dir, "controller-1", KEY).is_err(), "one at a time");
        Ledger::open(&dir, "controller-2", KEY).unwrap();
        drop(ledger);

        let mut ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        let record = |pool: &str, id: u32, instance: &str, process| Record {
            pool: pool.to_owned(),
            id,
            port: 50_000 + id as u16,
            ends: false,
            instance: instance.to_owned(),
            process,
        };
        let expected = [
            record("", 0, "aa", None),
            record("", 1, "bb", identity(11)),
            record("dns", 0, "cc", identity(12)),
        ];
        assert_eq!(ledger.take(), expected);
        assert_eq!(ledger.take(), []);
        ledger.keep("", [place(0, true), place(1, false)].into_iter());
        ledger.note("", 1, "bb", identity(11));
        ledger.keep("", [place(1, true)].into_iter());
        ledger.save();
        drop(ledger);
        let mut ledger = Ledger::open(&dir, "controller-1", KEY).unwrap();
        assert_eq!(ledger.take(), [Record { ends: true, ..expected[1].clone() }]);
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
        ledger.keep("", [place(0, false)].into_iter());
        ledger.save();
        drop(ledger);
        assert_eq!(Ledger::open(&dir, "controller-1", KEY).unwrap().take(), []);
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        Ledger::open(&dir, "controller-1", KEY).unwrap();
        for text in ["", "{}", "{\"version\": 2, \"boot\": \"x\", \"servers\": []}", "\u{0}\u{1}"] {
            std::fs::write(dir.join("controller-1.json"), text).unwrap();
            let error = Ledger::open(&dir, "controller-1", KEY).unwrap_err();
            assert!(error.ends_with("end the servers that it was about, then remove it"), "{error}");
        }
    }
}
