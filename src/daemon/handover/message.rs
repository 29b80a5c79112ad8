//! Messages of the protocol. Pure: bytes and meaning, no sockets.
//!
//! Each direction starts with a preface, whose form is the same in every version. Messages follow, each
//! after its length. Lengths and numbers outside of messages are little-endian.
//!
//! ```text
//! preface   "lbd-hand" | version u32
//! message   length u32 | postcard
//! ```

use serde::{Deserialize, Serialize};

use super::{Error, Label};

/// Version of this protocol. Another version is refused with an error text.
pub const VERSION: u32 = 1;

/// Size of a preface, in bytes.
pub const PREFACE_LEN: usize = 12;

const MAGIC: [u8; 8] = *b"lbd-hand";

/// Purpose of a request for sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandoverPurpose {
    /// Duplicates of the descriptors only: the process that has them continues.
    Copy,
    /// Replacing the process that has the sockets.
    Takeover,
}

/// A message of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandoverMessage {
    /// First message of the requester.
    Hello(HandoverPurpose),
    /// Labels of the descriptors that follow.
    Sockets(Vec<Label>),
    /// The requester has prepared everything that does not need the state.
    Ready,
    /// State of the holder.
    State(Vec<u8>),
    /// The requester can start.
    Running,
    /// The requester must start: the sockets belong to it.
    Yours,
    /// The other side refuses, for this reason.
    Refused(String),
    /// Pools whose server-side sockets the requester will read, by name; before `Ready`, if there are any.
    /// The holder has given such sockets, so it knows this message.
    Continues(Vec<String>),
}

impl HandoverMessage {
    /// The bytes of the message, without its length.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        postcard::to_allocvec(self).map_err(|_| Error::Garbled)
    }

    /// The message in these bytes. A refusal is a message too.
    pub fn decode(bytes: &[u8]) -> Result<HandoverMessage, Error> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            _ => Err(Error::Garbled),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            HandoverMessage::Hello(_) => "its greeting",
            HandoverMessage::Sockets(_) => "its sockets",
            HandoverMessage::Ready => "\"ready\"",
            HandoverMessage::State(_) => "its state",
            HandoverMessage::Running => "\"running\"",
            HandoverMessage::Yours => "its final message",
            HandoverMessage::Refused(_) => "a refusal",
            HandoverMessage::Continues(_) => "the pools that it continues",
        }
    }
}

/// The first bytes of each direction.
pub fn preface() -> [u8; PREFACE_LEN] {
    let mut bytes = [0; PREFACE_LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Whether the peer uses this protocol in this version.
pub fn check_preface(bytes: &[u8; PREFACE_LEN]) -> Result<(), Error> {
    let (magic, version) = bytes.split_at(8);
    if magic != MAGIC {
        return Err(Error::NotLbd);
    }
    match u32::from_le_bytes(version.try_into().expect("four bytes")) {
        VERSION => Ok(()),
        other => Err(Error::Version(other)),
    }
}
