//! The Unix socket on which a running process receives requests for its sockets, in a directory that
//! only its user can access.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::Error;
use crate::io::Waker;
use crate::os::state_dir;

/// A listening socket. Dropping it removes its file, unless a successor has replaced the file.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Identity of the file: device and number.
    file: (u64, u64),
}

impl Listener {
    /// Listens at this path, for this user only (mode 0600). A file of a dead process is replaced; a
    /// process that already listens there is an error. The directory is created if needed, and must be
    /// accessible only to this user (mode 0700).
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

    /// Listens at this path in place of the current listener: for a successor that already has the
    /// sockets.
    pub fn replace(path: &Path) -> Result<Listener, Error> {
        let _lock = lock_folder(path)?;
        Listener::put(path)
    }

    /// Creates the socket under another name and renames it, so that a socket exists at every moment.
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

    /// Waits until a process connects, or the waker fires.
    pub fn wait(&self, waker: &Waker) -> io::Result<()> {
        waker.wait_beside(self.listener.as_fd())
    }

    /// Waits for the next requesting process, at most this long; `None` if none came.
    pub fn accept(&self, patience: Duration) -> Result<Option<UnixStream>, Error> {
        // Linux uses the receive timeout of a listening socket for accept(2) (socket(7)).
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

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Ok(_lock) = lock_folder(&self.path) else { return };
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path); // otherwise the next process finds a dead socket
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { path: path.into(), source }
}

/// Creates the directory of a path, or checks that only this user can access it. While the result lives,
/// no other process checks for a dead socket there.
fn lock_folder(path: &Path) -> Result<File, Error> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    state_dir::prepare(folder).map_err(Error::Directory)?;
    let lock = File::open(folder).map_err(file_error(folder))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| file_error(folder)(error.into()))?;
    Ok(lock)
}
