//! Where a running process is asked for its sockets: a Unix socket in a folder that is its user's alone.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::Error;
use crate::os::state_dir;

/// A socket that is listened at. Dropping it removes its file, unless a successor has put its own there.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is: device and number.
    file: (u64, u64),
}

impl Listener {
    /// Listens at this path, for this user only (mode 0600). A file that a dead process has left is replaced; a process that
    /// listens there already is an error. The folder is made if need be, and must be the user's alone (mode 0700).
    pub fn bind(path: &Path) -> Result<Listener, Error> {
        let _lock = lock_folder(path)?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(path)(error)),
            Ok(file) if !file.file_type().is_socket() => return Err(Error::NotASocket(path.into())),
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(file_error(path)(error)),
                Ok(_) => return Err(Error::InUse(path.into())),
            },
        }
        Listener::put(path)
    }

    /// Listens at this path in the place of whoever does so now: for a successor, once the sockets are its.
    pub fn replace(path: &Path) -> Result<Listener, Error> {
        let _lock = lock_folder(path)?;
        Listener::put(path)
    }

    /// Makes the socket beside its place and moves it there, so that there is one at every moment.
    fn put(path: &Path) -> Result<Listener, Error> {
        let beside = path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error(&beside)(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&beside).map_err(file_error(&beside))?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600)).map_err(file_error(&beside))?;
        let file = identity(&beside).map_err(file_error(&beside))?;
        fs::rename(&beside, path).map_err(file_error(path))?;
        Ok(Listener { listener, path: path.into(), file })
    }

    /// Waits for the next process that wants something: at most so long, then `None`.
    pub fn accept(&self, patience: Duration) -> Result<Option<UnixStream>, Error> {
        // Linux takes the receive time-out of a listening socket as one of accept(2) (socket(7)).
        let timeout = patience.max(Duration::from_micros(1));
        socket2::SockRef::from(&self.listener).set_read_timeout(Some(timeout))?;
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(file_error(&self.path)(error)),
            },
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Ok(_lock) = lock_folder(&self.path) else { return };
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path); // else the next one finds it dead
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { path: path.into(), source }
}

/// Makes the folder of a path, or sees that it is the user's alone; then keeps others out that look for a dead
/// socket there, as long as the result lives.
fn lock_folder(path: &Path) -> Result<File, Error> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    state_dir::prepare(folder).map_err(Error::Folder)?;
    let lock = File::open(folder).map_err(file_error(folder))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| file_error(folder)(error.into()))?;
    Ok(lock)
}
