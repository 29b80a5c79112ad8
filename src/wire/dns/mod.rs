//! The parts of a DNS message that a balancer needs: its id, its question, and the balancer's own answers.
//!
//! Pure, on byte slices, and without allocation per message. RFC 1035 section 4 has the layout, RFC 2181
//! section 11 the names. Of an ordinary query and its response nothing after the question is read, so TC,
//! EDNS (RFC 6891) and any records and sizes pass.

mod asked;
mod edns;
mod mark;
mod name;
mod own_answer;
mod question;
pub mod records;
pub mod stream;
#[cfg(test)]
mod tests;

pub use asked::Asked;
pub use edns::{Opt, extended_rcode, opt};
pub use mark::{MARK_LEN, MARK_RECORD_LEN, Mark, append_mark, mark};
pub use name::{NAME_MAX, name_to_wire};
pub use own_answer::{OWN_ANSWER_MAX, OwnAnswer};
pub use question::{Question, QuestionKey};

/// The number of a record type: of a name in any case, `TYPE65` (RFC 3597) or `65`.
pub fn type_number(text: &str) -> Option<u16> {
    let text = text.to_ascii_uppercase();
    let named = TYPES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named.or_else(|| text.strip_prefix("TYPE").unwrap_or(&text).parse().ok())
}

/// Record types with a name (IANA, "Resource Record (RR) TYPEs").
pub const TYPES: [(&str, u16); 13] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("ANY", 255),
];

/// RCODEs with a name (IANA, "DNS RCODEs"), without those of TSIG.
pub const RCODES: [(&str, u16); 14] = [
    ("NOERROR", NOERROR as u16),
    ("FORMERR", FORMERR as u16),
    ("SERVFAIL", SERVFAIL as u16),
    ("NXDOMAIN", NXDOMAIN as u16),
    ("NOTIMP", NOTIMP as u16),
    ("REFUSED", REFUSED as u16),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("DSOTYPENI", 11),
    ("BADVERS", 16),
    ("BADCOOKIE", 23),
];

/// Size of the header, in bytes.
pub const HEADER_LEN: usize = 12;

/// Maximum bytes that [`write_query`] writes: header, name, type, class.
pub const QUERY_MAX: usize = HEADER_LEN + NAME_MAX + 4;

/// First byte of the flags: QR, four bits of opcode, AA, TC, RD.
const FLAGS: usize = 2;
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RD: u8 = 0x01;
/// Second byte of the flags: RA, Z, AD, CD, four bits of RCODE.
const CD: u8 = 0x10;
const RCODE: u8 = 0x0f;
/// RCODE of an answer that is no error.
pub const NOERROR: u8 = 0;
/// RCODE of a format error.
pub const FORMERR: u8 = 1;
/// RCODE of a server failure, which the balancer uses if no server can answer.
pub const SERVFAIL: u8 = 2;
/// RCODE of a name that does not exist.
pub const NXDOMAIN: u8 = 3;
/// RCODE of a request that the server does not support.
pub const NOTIMP: u8 = 4;
/// RCODE of a refusal.
pub const REFUSED: u8 = 5;
const QDCOUNT: usize = 4;
const ARCOUNT: usize = 10;
const CLASS_IN: u16 = 1;

/// Why a message is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than a header.
    #[error("shorter than a DNS header")]
    Short,
    /// QR is 1 where a query was expected. Responses to responses would loop.
    #[error("a response where a query was expected")]
    Response,
    /// QR is 0 where a response was expected.
    #[error("a query where a response was expected")]
    Query,
    /// The number of questions is not one, or the name is compressed, too long or truncated, or type or
    /// class is missing.
    #[error("not exactly one well-formed question")]
    Question,
}

/// The question of a query: QR is 0, QDCOUNT is 1, and the question is complete. Any opcode.
pub fn query(message: &[u8]) -> Result<Question<'_>, Malformed> {
    match flags(message)? & QR {
        0 => question::parse(message),
        _ => Err(Malformed::Response),
    }
}

/// The question of a response: QR is 1, QDCOUNT is 1, and the question is complete. Any opcode and RCODE.
pub fn response(message: &[u8]) -> Result<Question<'_>, Malformed> {
    match flags(message)? & QR {
        0 => Err(Malformed::Query),
        _ => question::parse(message),
    }
}

fn flags(message: &[u8]) -> Result<u8, Malformed> {
    if message.len() < HEADER_LEN { Err(Malformed::Short) } else { Ok(message[FLAGS]) }
}

/// The id of a checked message; zero if the message is too short.
pub fn id(message: &[u8]) -> u16 {
    message.first_chunk().map_or(0, |id| u16::from_be_bytes(*id))
}

/// Sets the id of a checked message; no effect if the message is too short.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(to) = message.first_chunk_mut() {
        *to = id.to_be_bytes();
    }
}

/// The opcode of a checked message, 0 to 15; 0 is a standard query.
pub fn opcode(message: &[u8]) -> u8 {
    message.get(FLAGS).map_or(0, |flags| (flags & OPCODE) >> 3)
}

/// The RCODE of a checked message, 0 to 15; 0 is no error.
pub fn rcode(message: &[u8]) -> u8 {
    message.get(FLAGS + 1).map_or(0, |flags| flags & RCODE)
}

/// Whether a checked response says that the server does not serve the query: SERVFAIL or REFUSED.
pub fn is_failure(message: &[u8]) -> bool {
    matches!(rcode(message), SERVFAIL | REFUSED)
}

/// The number of questions that the header of a checked message states.
pub fn question_count(message: &[u8]) -> u16 {
    message.get(QDCOUNT..QDCOUNT + 2).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]))
}

/// Writes a query of class IN that asks for recursion, and returns its length, at most [`QUERY_MAX`].
///
/// `name` is in wire format, as from [`name_to_wire`]; `kind` is the type, 1 for A. If the name is
/// invalid or does not fit, the result is 0 and nothing is written.
pub fn write_query(into: &mut [u8], id: u16, name: &[u8], kind: u16) -> usize {
    let len = HEADER_LEN + name.len() + 4;
    if name::len(name) != Some(name.len()) || into.len() < len {
        return 0;
    }
    let [id_high, id_low] = id.to_be_bytes();
    into[..HEADER_LEN].copy_from_slice(&[id_high, id_low, RD, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let (to, rest) = into[HEADER_LEN..len].split_at_mut(name.len());
    to.copy_from_slice(name);
    rest[..2].copy_from_slice(&kind.to_be_bytes());
    rest[2..].copy_from_slice(&CLASS_IN.to_be_bytes());
    len
}
