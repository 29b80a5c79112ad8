//! What a worker leaves for a successor, as bytes that name their version: the successor may be another
//! version of this program. Pure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A worker's state, as bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub(crate) version: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Why a successor cannot read a [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The bytes are of another version.
    #[error("cannot take over: the running balancer uses another state version; restart without --takeover")]
    Version,
    /// The bytes make no sense.
    #[error("cannot take over: the state of the running balancer is damaged; restart without --takeover")]
    Garbled,
}

impl std::fmt::Debug for Part {
    /// Without the bytes: there are keys among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part(version {}, {} bytes)", self.version, self.bytes.len())
    }
}

impl Part {
    /// Encodes a state. The version must rise whenever a field's order, type or presence changes.
    pub fn new(version: u32, state: &impl Serialize) -> Part {
        Part { version, bytes: postcard::to_allocvec(state).expect("plain values in memory") }
    }

    /// Decodes the state, if it is of this version.
    pub fn state<T: DeserializeOwned>(&self, version: u32) -> Result<T, Unreadable> {
        if self.version != version {
            return Err(Unreadable::Version);
        }
        match postcard::take_from_bytes(&self.bytes) {
            Ok((state, [])) => Ok(state),
            _ => Err(Unreadable::Garbled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_told_from_garbage_and_the_bytes_are_not_printed() {
        let part = Part::new(3, &(1u8, "secret"));
        assert_eq!(part.state::<(u8, String)>(3), Ok((1, "secret".to_owned())));
        assert_eq!(part.state::<(u8, String)>(4), Err(Unreadable::Version));
        let longer = Part { bytes: [&part.bytes[..], &[0]].concat(), ..part.clone() };
        assert_eq!(longer.state::<(u8, String)>(3), Err(Unreadable::Garbled));
        let shorter = Part { bytes: vec![1], ..part.clone() };
        assert_eq!(shorter.state::<(u8, String)>(3), Err(Unreadable::Garbled));
        assert_eq!(format!("{part:?}"), "Part(version 3, 8 bytes)");
    }
}
