//! Names in wire format: labels of 1 to 63 bytes, each after its length, and a zero (RFC 1035 section 3.1).

/// The most bytes of a name, lengths and the last zero included (RFC 2181 section 11).
pub const NAME_MAX: usize = 255;

/// The most bytes of a label.
const LABEL_MAX: usize = 63;

/// The length of the uncompressed name that `bytes` begin with; `None` if there is no valid one.
pub(super) fn len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Each label takes two bytes or more: at most 127 turns.
    while at < NAME_MAX {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            label @ 1..=LABEL_MAX => at += 1 + label,
            _ => return None,
        }
    }
    None
}

/// The wire format of a name as configurations write it: `"example.com"`, with or without the last dot, or
/// `"."`.
///
/// Case is kept. The error says what is wrong with the text: empty, an empty label, a label over 63 bytes, a
/// name over 255, or a character that is not printable ASCII. A backslash is refused: escapes are not known
/// here.
pub fn name_to_wire(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Err("a DNS name is empty; the root is written \".\"".into());
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
        return Err(format!(
            "{text:?}: {c:?} cannot be in a DNS name here; write it in ASCII, without escapes"
        ));
    }
    if text == "." {
        return Ok(vec![0]);
    }
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        match label.len() {
            0 => return Err(format!("{text:?}: a label of a DNS name is empty")),
            len @ 1..=LABEL_MAX => wire.push(len as u8),
            len => {
                return Err(format!("{text:?}: a label of {len} bytes; a DNS label has at most {LABEL_MAX}"));
            }
        }
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    match wire.len() {
        ..=NAME_MAX => Ok(wire),
        len => Err(format!("{text:?}: {len} bytes in a message; a DNS name has at most {NAME_MAX}")),
    }
}
