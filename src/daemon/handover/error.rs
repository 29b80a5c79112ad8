//! Errors of a handover, as text for the operator.

use std::io;
use std::path::PathBuf;

use super::message::VERSION;
use crate::os::private_socket::SocketError;

/// Why a handover failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process listens at the path.
    #[error(
        "{} is in use: another balancer of this configuration runs; stop it, or take over from it \
         with --takeover",
        .0.display()
    )]
    InUse(PathBuf),
    /// No process listens at the path.
    #[error("no balancer of this configuration listens at {}; start one without --takeover", .0.display())]
    NoListener(PathBuf),
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
    /// The peer belongs to another user.
    #[error("the peer process belongs to user {0}; run both processes as the same user")]
    Stranger(u32),
    /// The peer uses another protocol.
    #[error("the peer process is not lbd")]
    NotLbd,
    /// The peer uses another version.
    #[error(
        "the peer process uses version {0} of the handover, this one uses version {VERSION}; \
         restart without --takeover"
    )]
    Version(u32),
    /// The peer refuses, for this reason.
    #[error("the peer process refused: {0}")]
    Refused(String),
    /// Nothing arrived in time.
    #[error("the peer process did not send {0} in time")]
    Stalled(&'static str),
    /// The peer did not read in time.
    #[error("the peer process does not read")]
    Deaf,
    /// The peer closed the connection, or died.
    #[error("the peer process closed the connection")]
    Gone,
    /// A message other than the expected one arrived.
    #[error("the peer process sent {got} instead of {wanted}")]
    Unexpected {
        /// The expected message.
        wanted: &'static str,
        /// The received message.
        got: &'static str,
    },
    /// A message that cannot be decoded.
    #[error("the peer process sent an invalid message")]
    Garbled,
    /// A message larger than [`MESSAGE_MAX`](super::MESSAGE_MAX).
    #[error("a message of {0} bytes is too long for a handover")]
    TooLong(usize),
    /// Some descriptors did not arrive.
    #[error("only {got} of {expected} descriptors arrived; raise the limit of open files (ulimit -n)")]
    Descriptors {
        /// Descriptors of the batch.
        expected: usize,
        /// Descriptors that arrived.
        got: usize,
    },
    /// An error of the system.
    #[error("the connection to the peer process failed: {0}")]
    Io(#[from] io::Error),
}

impl From<SocketError> for Error {
    fn from(error: SocketError) -> Error {
        match error {
            SocketError::InUse(path) => Error::InUse(path),
            SocketError::NotASocket(path) => Error::NotASocket(path),
            SocketError::Directory(why) => Error::Directory(why),
            SocketError::File { path, source } => Error::File { path, source },
            SocketError::Stranger(user) => Error::Stranger(user),
            SocketError::Unknown(error) => Error::Io(error),
        }
    }
}

impl Error {
    /// Separates the end of a connection from other errors.
    pub(super) fn of_stream(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Error::Gone,
            _ => Error::Io(error),
        }
    }
}
