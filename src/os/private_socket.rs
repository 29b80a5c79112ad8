//! A Unix socket that only processes of the same user or of root can use: for a successor's takeover and for
//! the commands of the balancer's owner. Its file is in a directory that only this user can access, and each
//! peer's user is checked as well, since an operator may change the mode of both.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};

use super::state_dir;

/// Why a socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens at the path.
    #[error("another process listens at {}", .0.display())]
    InUse(PathBuf),
    /// The path is not a socket.
    #[error("{} is not a socket; move it away, or set another state_dir", .0.display())]
    NotASocket(PathBuf),
    /// The directory is accessible to other users, or cannot be created.
    #[error("{0}")]
    Directory(String),
    /// A file or socket cannot be created, opened or removed.
    #[error("{}: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The peer belongs to this other user.
    #[error("the peer process belongs to user {0}; run both processes as the same user")]
    Stranger(u32),
    /// The user of the peer is unknown.
    #[error("the user of the peer process is unknown: {0}")]
    Unknown(io::Error),
}

/// A listening socket. Dropping it removes its file, unless a successor has replaced the file.
#[derive(Debug)]
pub struct PrivateSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Identity of the file: device and number.
    file: (u64, u64),
}

impl PrivateSocket {
    /// Listens at this path, for this user only (mode 0600). A file of a dead process is replaced; a
    /// process that already listens there is an error. The directory is created if needed, and must be
    /// accessible only to this user (mode 0700).
    pub fn bind(path: &Path) -> Result<PrivateSocket, SocketError> {
        let _lock = lock_folder(path)?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(path)(error)),
            Ok(file) if !file.file_type().is_socket() => return Err(SocketError::NotASocket(path.into())),
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(file_error(path)(error)),
                Ok(_) => return Err(SocketError::InUse(path.into())),
            },
        }
        PrivateSocket::put(path)
    }

    /// Listens at this path in place of the current listener: for a successor that already has the
    /// sockets.
    pub fn replace(path: &Path) -> Result<PrivateSocket, SocketError> {
        let _lock = lock_folder(path)?;
        PrivateSocket::put(path)
    }

    /// Creates the socket under another name and renames it, so that a socket exists at every moment.
    fn put(path: &Path) -> Result<PrivateSocket, SocketError> {
        let beside = path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error(&beside)(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&beside).map_err(file_error(&beside))?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600)).map_err(file_error(&beside))?;
        let file = identity(&beside).map_err(file_error(&beside))?;
        fs::rename(&beside, path).map_err(file_error(path))?;
        Ok(PrivateSocket { listener, path: path.into(), file })
    }

    /// The socket itself.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateSocket {
    fn drop(&mut self) {
        let Ok(_lock) = lock_folder(&self.path) else { return };
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path); // otherwise the next process finds a dead socket
        }
    }
}

/// Connects to the socket at this path; the connect itself takes `patience` at most.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience.max(Duration::from_micros(1))))?; // also limits connect(2)
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}

/// The process id of the peer of a connected socket (SO_PEERCRED, unix(7)). An error unless the peer belongs
/// to the same user or to root.
pub fn check_peer(stream: impl AsFd) -> Result<u32, SocketError> {
    let peer = socket_peercred(stream).map_err(|error| SocketError::Unknown(error.into()))?;
    if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
        return Err(SocketError::Stranger(peer.uid.as_raw()));
    }
    Ok(peer.pid.as_raw_nonzero().get() as u32)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError::File { path: path.into(), source }
}

/// Creates the directory of a path, or checks that only this user can access it. While the result lives,
/// no other process checks for a dead socket there.
fn lock_folder(path: &Path) -> Result<File, SocketError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    state_dir::prepare(folder).map_err(SocketError::Directory)?;
    let lock = File::open(folder).map_err(file_error(folder))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| file_error(folder)(error.into()))?;
    Ok(lock)
}
