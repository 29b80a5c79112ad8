//! The Unix socket on which a running process receives requests for its sockets.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::Error;
use crate::io::Waker;
use crate::os::private_socket::PrivateSocket;

/// A listening socket. Dropping it removes its file, unless a successor has replaced the file.
#[derive(Debug)]
pub struct Listener(PrivateSocket);

impl Listener {
    /// Listens at this path, as [`PrivateSocket::bind`] does.
    pub fn bind(path: &Path) -> Result<Listener, Error> {
        Ok(Listener(PrivateSocket::bind(path)?))
    }

    /// Listens at this path in place of the current listener: for a successor that already has the
    /// sockets.
    pub fn replace(path: &Path) -> Result<Listener, Error> {
        Ok(Listener(PrivateSocket::replace(path)?))
    }

    /// Waits until a process connects, or the waker fires.
    pub fn wait(&self, waker: &Waker) -> io::Result<()> {
        waker.wait_beside(self.0.listener().as_fd())
    }

    /// Waits for the next requesting process, at most this long; `None` if none came.
    pub fn accept(&self, patience: Duration) -> Result<Option<UnixStream>, Error> {
        let listener = self.0.listener();
        // Linux uses the receive timeout of a listening socket for accept(2) (socket(7)).
        let timeout = patience.max(Duration::from_micros(1));
        socket2::SockRef::from(listener).set_read_timeout(Some(timeout))?;
        match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(Error::File { path: self.path().into(), source: error }),
            },
        }
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
