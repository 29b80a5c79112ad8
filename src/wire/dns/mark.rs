//! The mark of a balancer's own health checks: an EDNS option that a loop brings back to the balancer.
//!
//! Servers ignore unknown options (RFC 6891 section 6.1.2), and another balancer passes them on. A marked
//! query ends with its mark, so that a look at its end finds the mark.

use super::HEADER_LEN;
use super::edns::{self, OPT_LEN, OPTION_HEAD};

/// Code of the option, one of those for local use.
const CODE: u16 = 65_053;
/// Size of a mark, in bytes.
pub const MARK_LEN: usize = 10;
/// Bytes that a mark adds to a query.
pub const MARK_RECORD_LEN: usize = OPT_LEN + OPTION_HEAD + MARK_LEN;
/// Head of the option: code and length.
const HEAD: [u8; OPTION_HEAD] = {
    let [c0, c1] = CODE.to_be_bytes();
    [c0, c1, 0, MARK_LEN as u8]
};

/// What the balancer needs to know its own check again.
pub type Mark = [u8; MARK_LEN];

/// Adds a mark to a query of `len` bytes without an OPT record. Returns the new length, which is
/// [`MARK_RECORD_LEN`] more; 0 if there is no room.
pub fn append_mark(query: &mut [u8], len: usize, mark: &Mark) -> usize {
    edns::append(query, len, false, Some((CODE, mark)))
}

/// The mark at the end of a query.
#[inline]
pub fn mark(query: &[u8]) -> Option<&Mark> {
    let (rest, mark) = query.split_last_chunk::<MARK_LEN>()?;
    let (rest, head) = rest.split_last_chunk::<OPTION_HEAD>()?;
    (*head == HEAD && rest.len() >= HEADER_LEN + OPT_LEN).then_some(mark)
}
