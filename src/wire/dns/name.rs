//! Names in wire format: labels of 1 to 63 bytes, each after its length, and a zero byte (RFC 1035
//! section 3.1).

/// Maximum size of a name in bytes, lengths and final zero included (RFC 2181 section 11).
pub const NAME_MAX: usize = 255;

/// Maximum size of a label, in bytes.
const LABEL_MAX: usize = 63;

/// The length of the uncompressed name at the start of `bytes`; `None` if there is no valid one.
pub(super) fn len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Each label takes at least two bytes, so there are at most 127 turns.
    while at < NAME_MAX {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            label @ 1..=LABEL_MAX => at += 1 + label,
            _ => return None,
        }
    }
    None
}

/// The wire format of a name as configurations write it: `"example.com"`, with or without the final dot,
/// or `"."`.
///
/// Case is kept. The error describes the problem: an empty text, an empty label, a label over 63 bytes,
/// a name over 255 bytes, or a character that is not printable ASCII. A backslash is rejected, since
/// escapes are not supported.
pub fn name_to_wire(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Err("the DNS name is empty; write \".\" for the root".into());
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
        return Err(format!("{text:?}: {c:?} is not allowed in a DNS name; use ASCII without escapes"));
    }
    if text == "." {
        return Ok(vec![0]);
    }
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        match label.len() {
            0 => return Err(format!("{text:?}: a label of the DNS name is empty")),
            len @ 1..=LABEL_MAX => wire.push(len as u8),
            len => {
                return Err(format!(
                    "{text:?}: a label has {len} bytes; a DNS label has at most {LABEL_MAX}"
                ));
            }
        }
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    match wire.len() {
        ..=NAME_MAX => Ok(wire),
        len => Err(format!(
            "{text:?}: the name takes {len} bytes in a message; a DNS name has at most {NAME_MAX}"
        )),
    }
}
