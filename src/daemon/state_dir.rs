//! The folder in which processes leave what their successors need. Nobody else may read or write there.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Why the folder, or what is in it, is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder, or a file, cannot be made or used.
    #[error("cannot use {path} ({error}); name another folder with state_dir")]
    Unusable {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Others could put something there, or read what is there.
    #[error("{path} {what}; {remedy}, or name another folder with state_dir")]
    NotPrivate {
        /// The folder.
        path: String,
        /// What is wrong.
        what: String,
        /// What mends it.
        remedy: String,
    },
    /// Another process has the lock.
    #[error("{path} is held by process {pid}, which runs already; end that one first, or name another {key}")]
    Held {
        /// The lock.
        path: String,
        /// Who holds it.
        pid: String,
        /// The key of the configuration that keeps two of them apart.
        key: &'static str,
    },
    /// The file does not hold what was left in it.
    #[error(
        "{path} is not what was written there ({why}); end the servers that it was about, then remove it"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> StateError + '_ {
    |error| StateError::Unusable { path: path.display().to_string(), error }
}

/// Makes the folder, with mode 0700, or checks that it is this user's and nobody else's.
pub fn prepare(dir: &Path) -> Result<(), StateError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable(dir))?;
    let refuse = |what: String, remedy: String| {
        Err(StateError::NotPrivate { path: dir.display().to_string(), what, remedy })
    };
    // Neither the folder nor a link that stands in its place may be another one's.
    let metas = [dir.symlink_metadata(), dir.metadata()];
    for meta in metas {
        let meta = meta.map_err(unusable(dir))?;
        let owner = meta.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return refuse(format!("belongs to user {owner}"), "remove it".to_owned());
        }
        let mode = meta.mode() & 0o777;
        if meta.is_dir() && mode & 0o077 != 0 {
            return refuse(
                format!("is open to others (mode {mode:03o})"),
                format!("run chmod 700 {}", dir.display()),
            );
        }
    }
    Ok(())
}

/// Writes a file with mode 0600, whole or not at all. One writer a file.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    std::fs::rename(&new, path)
}

/// A lock that ends with its process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who holds it; `key` of the configuration would keep the two apart.
    pub fn take(path: &Path, key: &'static str) -> Result<Lock, StateError> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(unusable(path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            file.take(20).read_to_string(&mut pid).map_err(unusable(path))?;
            let pid = if pid.is_empty() { "?".to_owned() } else { pid.trim().to_owned() };
            return Err(StateError::Held { path: path.display().to_string(), pid, key });
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(unusable(path))?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_folder_is_made_private_and_one_that_is_not_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        prepare(&state).unwrap();
        prepare(&state).unwrap();
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o750)).unwrap();
        let error = prepare(&state).unwrap_err().to_string();
        assert!(error.contains("is open to others (mode 750); run chmod 700 "), "{error}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(prepare(&file).unwrap_err().to_string().contains("name another folder with state_dir"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&state, &link).unwrap();
        assert!(prepare(&link).is_err(), "what it leads to counts");
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
        prepare(&link).unwrap();
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let other = Path::new("/proc/1");
        if other.metadata().is_ok_and(|meta| meta.uid() != rustix::process::geteuid().as_raw()) {
            let error = prepare(other).unwrap_err().to_string();
            assert!(error.contains("belongs to user 0; remove it"), "{error}");
        } else {
            println!("skipped: this user is root, so nothing in /proc is another's");
        }
    }

    #[test]
    fn a_file_is_private_and_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        std::fs::write(&path, "old and long").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_lock_is_had_once_and_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path, "controller.port").unwrap();
        let error = Lock::take(&path, "controller.port").unwrap_err().to_string();
        let says = format!("is held by process {}, which runs already", std::process::id());
        assert!(error.contains(&says) && error.ends_with("name another controller.port"), "{error}");
        drop(held);
        Lock::take(&path, "controller.port").unwrap();
    }
}
