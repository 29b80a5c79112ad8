//! The payload of a request.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use hex::FromHexError;

use super::marker::{self, MarkKind};
use crate::base::rng::Rng;
use crate::io::PAYLOAD_MAX;

/// A payload, written as `64` (number of random bytes), `text:...`, `hex:...` or `file:...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// This many random bytes, the same in each request.
    Random(usize),
    /// Fixed bytes.
    Bytes(Vec<u8>),
}

impl Payload {
    /// Size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Payload::Random(len) => *len,
            Payload::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of markers: `{id}` and `{id:N}` in fixed bytes.
    pub fn marks(&self) -> usize {
        self.placeholders().len()
    }

    fn placeholders(&self) -> Vec<(Range<usize>, MarkKind)> {
        match self {
            Payload::Random(_) => vec![],
            Payload::Bytes(bytes) => marker::placeholders(bytes),
        }
    }

    /// Size in bytes with all markers as they are sent.
    pub fn len_marked(&self) -> usize {
        self.placeholders().iter().fold(self.len(), |len, (at, kind)| len - at.len() + kind.len())
    }

    /// The bytes; random payloads have at least `least` bytes.
    pub fn bytes(&self, least: usize, rng: &mut Rng) -> Vec<u8> {
        match self {
            Payload::Random(len) => (0..(*len).max(least)).map(|_| rng.next_u64() as u8).collect(),
            Payload::Bytes(bytes) => bytes.clone(),
        }
    }
}

impl FromStr for Payload {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let payload =
            match text.split_once(':') {
                Some(("text", text)) => Payload::Bytes(text.as_bytes().to_vec()),
                Some(("hex", digits)) => Payload::Bytes(from_hex(digits)?),
                Some(("file", file)) => {
                    let read = std::fs::read(PathBuf::from(file));
                    Payload::Bytes(read.map_err(|error| format!("cannot read {file}: {error}"))?)
                }
                _ => Payload::Random(text.parse().map_err(|_| {
                    format!("`{text}` is no payload; use BYTES, text:..., hex:... or file:...")
                })?),
            };
        match payload.len() {
            ..=PAYLOAD_MAX => Ok(payload),
            len => Err(format!("{len} bytes, but a datagram carries at most {PAYLOAD_MAX}")),
        }
    }
}

/// Parses pairs of hexadecimal digits, and placeholders of markers between them; spaces are ignored.
fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = vec![];
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (mark, after) = after.split_once('}').ok_or("`{` without `}`")?;
        let mark = format!("{{{mark}}}");
        if marker::placeholders(mark.as_bytes()).is_empty() {
            return Err(format!("`{mark}` is no id; use {{id}}, or {{id:4}} to {{id:8}} for bytes"));
        }
        bytes.extend(from_digits(before)?);
        bytes.extend_from_slice(mark.as_bytes());
        rest = after;
    }
    bytes.extend(from_digits(rest)?);
    Ok(bytes)
}

fn from_digits(text: &str) -> Result<Vec<u8>, String> {
    let digits: String = text.split_whitespace().collect();
    hex::decode(&digits).map_err(|error| match error {
        FromHexError::InvalidHexCharacter { c, .. } => format!("`{c}` is not a hexadecimal digit"),
        _ => format!("{} hexadecimal digits; write two per byte", digits.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_write_a_payload_gives_its_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\0\xff").unwrap();
        let from_file = format!("file:{}", file.path().display());
        for (text, bytes) in [
            ("text:a: b", &b"a: b"[..]),
            ("text:", b""),
            ("hex:00fF 7e", &[0, 255, 0x7e]),
            (&from_file, &[0, 255]),
        ] {
            assert_eq!(text.parse::<Payload>().unwrap(), Payload::Bytes(bytes.to_vec()), "{text}");
        }
        assert_eq!("64".parse(), Ok(Payload::Random(64)));
        let marked: Payload = "text:{id} and {id}".parse().unwrap();
        assert_eq!((marked.marks(), marked.len(), marked.len_marked()), (2, 13, 37));
        let bytes: Payload = "hex:0001{id:8}ff".parse().unwrap();
        assert_eq!((bytes.marks(), bytes.len_marked()), (1, 11));
        let mut rng = Rng::new(1);
        assert_eq!(Payload::Random(64).bytes(100, &mut rng).len(), 100);
        assert_eq!(Payload::Random(64).bytes(0, &mut rng).len(), 64);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("x", "`x` is no payload"),
            ("-1", "is no payload"),
            ("hex:0", "1 hexadecimal digits"),
            ("hex:zz", "`z`"),
            ("hex:00{id", "without `}`"),
            ("hex:00{id:9}", "`{id:9}` is no id"),
            ("hex:0{id:8}0", "1 hexadecimal digits"),
            ("file:no/such/file", "no/such/file"),
            ("65508", "at most 65507"),
        ] {
            let error = text.parse::<Payload>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
