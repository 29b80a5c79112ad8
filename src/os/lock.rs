//! A lock for one process; it ends with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// A lock on a file. It ends when this value is dropped or the process ends. The file stays, with the id
/// of that process in it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or returns an error with the process that holds it. `key`: the configuration key
    /// that separates the two processes.
    pub fn take(path: &Path, key: &str) -> Result<Lock, String> {
        let shown = path.display();
        let unusable = |e: io::Error| format!("cannot use {shown}: {e}; set state_dir to another directory");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(unusable)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            file.take(20).read_to_string(&mut pid).map_err(unusable)?;
            let pid = pid.trim();
            return Err(format!("{shown} is locked by process {pid}; stop it first, or set another {key}"));
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_had_once_and_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path, "controller.port").unwrap();
        let error = Lock::take(&path, "controller.port").unwrap_err();
        let says = format!("is locked by process {}; stop it first", std::process::id());
        assert!(error.contains(&says) && error.ends_with("set another controller.port"), "{error}");
        drop(held);
        Lock::take(&path, "controller.port").unwrap();
    }
}
