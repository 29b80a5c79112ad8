//! A lock that one process has at a time, and that ends with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// A file that is locked until this value, or its process, ends. The file stays, with the number of that process in it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who holds it; `key` is the one of the configuration that keeps the two apart.
    pub fn take(path: &Path, key: &str) -> Result<Lock, String> {
        let shown = path.display();
        let unusable = |e: io::Error| format!("cannot use {shown}: {e}; set state_dir to another folder");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(unusable)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            file.take(20).read_to_string(&mut pid).map_err(unusable)?;
            let pid = pid.trim();
            return Err(format!(
                "{shown} is held by process {pid}, which runs already; end that one first, or set another {key}"
            ));
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
        let says = format!("is held by process {}, which runs already", std::process::id());
        assert!(error.contains(&says) && error.ends_with("set another controller.port"), "{error}");
        drop(held);
        Lock::take(&path, "controller.port").unwrap();
    }
}
