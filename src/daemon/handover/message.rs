//! What is said. Pure: bytes and meaning, no sockets.
//!
//! Each direction starts with a preface, whose form no version may change; messages follow, each with its length before
//! it. Lengths and numbers outside of messages are little-endian.
//!
//! ```text
//! preface   "lbd-hand" | version u32
//! message   length u32 | postcard
//! ```

use serde::{Deserialize, Serialize};

use super::{Error, Label};

/// The version of this protocol. Another one is refused, in words.
pub const VERSION: u32 = 1;

/// Bytes of a preface.
pub(super) const PREFACE_LEN: usize = 12;

const MAGIC: [u8; 8] = *b"lbd-hand";

/// What a process wants the sockets for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Duplicates of the descriptors, nothing else: the process that has them goes on.
    Copy,
    /// To go on in its place.
    Takeover,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The first word of who wants the sockets.
    Hello(Purpose),
    /// What the descriptors are that follow.
    Sockets(Vec<Label>),
    /// All is made but what needs the state.
    Ready,
    /// What the one that serves knows.
    State(Vec<u8>),
    /// It could start now.
    Running,
    /// It shall.
    Yours,
    /// It shall not, for this reason.
    Refused(String),
}

impl Message {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "its greeting",
            Message::Sockets(_) => "its sockets",
            Message::Ready => "that it is ready",
            Message::State(_) => "its state",
            Message::Running => "that it could start",
            Message::Yours => "its last word",
            Message::Refused(_) => "a refusal",
        }
    }
}

/// The first bytes of each direction.
pub(super) fn preface() -> [u8; PREFACE_LEN] {
    let mut bytes = [0; PREFACE_LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Whether the peer speaks this protocol, in this version.
pub(super) fn check_preface(bytes: &[u8; PREFACE_LEN]) -> Result<(), Error> {
    let (magic, version) = bytes.split_at(8);
    if magic != MAGIC {
        return Err(Error::NotLbd);
    }
    match u32::from_le_bytes(version.try_into().expect("four bytes")) {
        VERSION => Ok(()),
        other => Err(Error::Version(other)),
    }
}
