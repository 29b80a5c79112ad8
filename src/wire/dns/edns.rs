//! The OPT record of a message (RFC 6891 section 6.1), which is behind the question.

use super::{ARCOUNT, HEADER_LEN, QDCOUNT, rcode};

/// Size of an OPT record without options, in bytes.
pub(super) const OPT_LEN: usize = 11;
/// Type of the OPT record.
const OPT: u16 = 41;
/// Bytes of a question after its name: type and class.
const QUESTION_END: usize = 4;
/// Bytes of a record after its name: type, class, TTL and the length of its data.
const RECORD_END: usize = 10;
/// The largest UDP payload that the balancer announces, in bytes. It asks nothing that needs more.
const PAYLOAD_MAX: u16 = 1_232;
/// First byte of the flags: DNSSEC records are wanted (RFC 3225).
const DO: u8 = 0x80;
/// Bits of the RCODE in the header.
const RCODE_BITS: u32 = 4;

/// What an OPT record says, apart from its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opt {
    /// Upper eight bits of the extended RCODE.
    pub rcode_high: u8,
    /// EDNS version; 0 is the only one so far.
    pub version: u8,
    /// Whether DNSSEC records are wanted.
    pub wants_dnssec: bool,
}

/// The first OPT record of a message, and its options. `None` if there is none, or if the message is
/// malformed before its end. Off the data path: the search takes a step for each record.
pub fn opt(message: &[u8]) -> Option<(Opt, &[u8])> {
    let counts: [u16; 4] = std::array::from_fn(|section| count(message, QDCOUNT + 2 * section));
    let [questions, answers, authorities, additional] = counts.map(usize::from);
    let before = answers + authorities;
    if additional == 0 {
        return None;
    }
    let mut rest = message.get(HEADER_LEN..)?;
    for _ in 0..questions {
        rest = rest.get(name_len(rest)? + QUESTION_END..)?;
    }
    for record in 0..before + additional {
        let after_name = rest.get(name_len(rest)?..)?;
        let (end, after) = after_name.split_first_chunk::<RECORD_END>()?;
        let [t0, t1, _, _, rcode_high, version, flags, _, l0, l1] = *end;
        let (data, next) = after.split_at_checked(u16::from_be_bytes([l0, l1]).into())?;
        if record >= before && rest[0] == 0 && u16::from_be_bytes([t0, t1]) == OPT {
            return Some((Opt { rcode_high, version, wants_dnssec: flags & DO != 0 }, data));
        }
        rest = next;
    }
    None
}

/// The RCODE of a checked message with the upper bits from its OPT record, 0 to 4,095.
pub fn extended_rcode(message: &[u8]) -> u16 {
    let high = opt(message).map_or(0, |(opt, _)| opt.rcode_high);
    u16::from(high) << RCODE_BITS | u16::from(rcode(message))
}

/// Writes an OPT record with this option, or without options, and counts it as the message's only additional
/// record. `at` is the end of the message so far. Returns the new end; 0 if there is no room.
pub(super) fn append(
    message: &mut [u8],
    at: usize,
    wants_dnssec: bool,
    option: Option<(u16, &[u8])>,
) -> usize {
    let data_len = option.map_or(0, |(_, data)| OPTION_HEAD + data.len());
    let Some(record) = message.get_mut(at..at + OPT_LEN + data_len) else { return 0 };
    let (record, rest) = record.split_at_mut(OPT_LEN);
    let [t0, t1] = OPT.to_be_bytes();
    let [s0, s1] = PAYLOAD_MAX.to_be_bytes();
    let [l0, l1] = (data_len as u16).to_be_bytes();
    let flags = if wants_dnssec { DO } else { 0 };
    record.copy_from_slice(&[0, t0, t1, s0, s1, 0, 0, flags, 0, l0, l1]);
    if let Some((code, data)) = option {
        let (head, to) = rest.split_at_mut(OPTION_HEAD);
        head[..2].copy_from_slice(&code.to_be_bytes());
        head[2..].copy_from_slice(&(data.len() as u16).to_be_bytes());
        to.copy_from_slice(data);
    }
    message[ARCOUNT..HEADER_LEN].copy_from_slice(&[0, 1]);
    at + OPT_LEN + data_len
}

/// Bytes of an option before its data: code and length.
pub(super) const OPTION_HEAD: usize = 4;

/// The length of a name in a record, which may end with a pointer.
fn name_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            label @ 1..=63 => at += 1 + label,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

fn count(message: &[u8], at: usize) -> u16 {
    message.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |count| u16::from_be_bytes(*count))
}
