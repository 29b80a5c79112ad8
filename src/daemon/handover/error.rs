//! What can go wrong, in words for the operator.

use std::io;
use std::path::PathBuf;

use super::message::VERSION;

/// Why a hand-over did not take place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process listens there.
    #[error("{} is in use: another balancer of this configuration runs; stop it, or take over from it with --takeover", .0.display())]
    InUse(PathBuf),
    /// Nobody listens there.
    #[error("nobody listens at {}: no balancer of this configuration runs, start one without --takeover", .0.display())]
    Nobody(PathBuf),
    /// Something else has the name of the socket.
    #[error("{} is not a socket: move it away, or choose another state_dir", .0.display())]
    NotASocket(PathBuf),
    /// The folder is not the user's alone, or cannot be made.
    #[error("{0}")]
    Folder(String),
    /// A file or socket cannot be made, opened or removed.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The peer belongs to another user.
    #[error(
        "the process at the other end belongs to user {0}: only processes of one user hand over to each other"
    )]
    Stranger(u32),
    /// What came is not this protocol.
    #[error("what is at the other end is not lbd")]
    NotLbd,
    /// The peer speaks another version.
    #[error(
        "the process at the other end speaks version {0} of the hand-over, this one version {VERSION}: \
         restart without --takeover"
    )]
    Version(u32),
    /// The peer has reasons not to hand over.
    #[error("refused by the process at the other end: {0}")]
    Refused(String),
    /// Nothing came in time.
    #[error("the process at the other end has not sent {0} in time")]
    Stalled(&'static str),
    /// What was sent was not taken in time.
    #[error("the process at the other end does not read")]
    Deaf,
    /// The peer has closed the connection, or died.
    #[error("the process at the other end has gone away")]
    Gone,
    /// Something other than the next step came.
    #[error("the process at the other end has sent {got} instead of {wanted}")]
    Unexpected {
        /// What was to come.
        wanted: &'static str,
        /// What came.
        got: &'static str,
    },
    /// A message that cannot be read.
    #[error("the process at the other end has sent what cannot be read")]
    Garbled,
    /// A message over [`MESSAGE_MAX`](super::MESSAGE_MAX).
    #[error("a message of {0} bytes is too long for a hand-over")]
    TooLong(usize),
    /// Some descriptors did not arrive.
    #[error("of {expected} descriptors {got} came: raise the limit of open files (ulimit -n)")]
    Descriptors {
        /// Descriptors of one batch.
        expected: usize,
        /// How many of them came.
        got: usize,
    },
    /// The system said no.
    #[error("the connection to the other process: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// Tells the ends of a connection from other errors.
    pub(super) fn of_stream(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Error::Gone,
            _ => Error::Io(error),
        }
    }
}
