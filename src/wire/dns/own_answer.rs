//! The balancer's own answers, for UDP and TCP alike: SERVFAIL, FORMERR and REFUSED with the reason (RFC
//! 8914), and an empty truncated answer.
//!
//! Id, opcode, RD, CD (RFC 4035 section 3.2.2) and a well-formed question stay. All other flags and all
//! records are removed. If the query had an OPT record, the answer has one, too (RFC 6891 section 6.1.1),
//! without the query's options. Otherwise a resolver would conclude that the service does not know EDNS.

use super::edns::{self, OPT_LEN, OPTION_HEAD};
use super::{
    CD, FLAGS, FORMERR, HEADER_LEN, NAME_MAX, NOERROR, OPCODE, QDCOUNT, QR, RD, REFUSED, SERVFAIL, flags,
    question,
};

/// Code of the option with an extended error (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// Longest reason, in bytes.
const TEXT_MAX: usize = 48;
/// Size of an extended error without its text.
const INFO_CODE_LEN: usize = 2;
/// TC: the answer is truncated.
const TC: u8 = 0x02;

/// Maximum size of an own answer, in bytes: header, question, OPT record, and the reason.
pub const OWN_ANSWER_MAX: usize =
    HEADER_LEN + NAME_MAX + 4 + OPT_LEN + OPTION_HEAD + INFO_CODE_LEN + TEXT_MAX;

/// What the balancer itself answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnAnswer {
    /// SERVFAIL: no server is up.
    NoServer,
    /// SERVFAIL: all servers are at their limit, and the query would wait for too long.
    ServersFull,
    /// SERVFAIL: the query has waited for too long for a server below its limit.
    Waited,
    /// SERVFAIL: the server that has the query did not answer, or its connection failed.
    NoResponse,
    /// SERVFAIL: the balancer has no room for another open query.
    TableFull,
    /// FORMERR: the query does not have one well-formed question or none.
    NotOneQuestion,
    /// REFUSED: the access list denies the client.
    Denied,
    /// REFUSED: the client sends more than the rate per source.
    Rate,
    /// NOERROR without records and with TC: the client repeats its query by TCP.
    Truncated,
}

impl OwnAnswer {
    /// All own answers.
    pub const ALL: [OwnAnswer; 9] = [
        OwnAnswer::NoServer,
        OwnAnswer::ServersFull,
        OwnAnswer::Waited,
        OwnAnswer::NoResponse,
        OwnAnswer::TableFull,
        OwnAnswer::NotOneQuestion,
        OwnAnswer::Denied,
        OwnAnswer::Rate,
        OwnAnswer::Truncated,
    ];

    /// RCODE in the header.
    pub const fn rcode(self) -> u8 {
        match self {
            OwnAnswer::NoServer
            | OwnAnswer::ServersFull
            | OwnAnswer::Waited
            | OwnAnswer::NoResponse
            | OwnAnswer::TableFull => SERVFAIL,
            OwnAnswer::NotOneQuestion => FORMERR,
            OwnAnswer::Denied | OwnAnswer::Rate => REFUSED,
            OwnAnswer::Truncated => NOERROR,
        }
    }

    /// INFO-CODE and text of the extended error (RFC 8914 section 4); `None` where there is no error.
    const fn reason(self) -> Option<(u16, &'static str)> {
        const OTHER: u16 = 0;
        const PROHIBITED: u16 = 18;
        const NO_REACHABLE_AUTHORITY: u16 = 22;
        const NETWORK_ERROR: u16 = 23;
        Some(match self {
            OwnAnswer::NoServer => (NETWORK_ERROR, "no server is up"),
            OwnAnswer::ServersFull => (OTHER, "all servers are at their limit"),
            OwnAnswer::Waited => (OTHER, "waited too long for a server"),
            OwnAnswer::NoResponse => (NO_REACHABLE_AUTHORITY, "no response from the server"),
            OwnAnswer::TableFull => (OTHER, "too many open queries"),
            OwnAnswer::NotOneQuestion => (OTHER, "not exactly one well-formed question"),
            OwnAnswer::Denied => (PROHIBITED, "client not allowed"),
            OwnAnswer::Rate => (PROHIBITED, "too many queries from this source"),
            OwnAnswer::Truncated => return None,
        })
    }

    /// Writes this answer to a query, and returns its length. The reason is left out where it does not fit.
    ///
    /// A message that is shorter than a header or is itself a response has no answer: 0. A buffer of
    /// [`OWN_ANSWER_MAX`] bytes is always large enough. In a buffer of the query's size everything but the
    /// reason fits.
    pub fn write(self, query: &[u8], into: &mut [u8]) -> usize {
        if flags(query).is_ok_and(|flags| flags & QR == 0) { self.write_to_query(query, into) } else { 0 }
    }

    fn write_to_query(self, query: &[u8], into: &mut [u8]) -> usize {
        let question_len = question::parse(query).map_or(0, |question| question.wire_len());
        let len = HEADER_LEN + question_len;
        let Some(plain) = into.get_mut(..len) else { return 0 };
        plain.copy_from_slice(&query[..len]);
        let tc = if self == OwnAnswer::Truncated { TC } else { 0 };
        plain[FLAGS] = query[FLAGS] & (OPCODE | RD) | QR | tc;
        plain[FLAGS + 1] = query[FLAGS + 1] & CD | self.rcode();
        plain[QDCOUNT..HEADER_LEN].fill(0);
        plain[QDCOUNT + 1] = u8::from(question_len > 0);
        let Some((asked, _)) = edns::opt(query) else { return len };
        let mut error = [0; INFO_CODE_LEN + TEXT_MAX];
        let reason = self.reason().map(|(code, text)| {
            let (number, to) = error.split_at_mut(INFO_CODE_LEN);
            number.copy_from_slice(&code.to_be_bytes());
            to[..text.len()].copy_from_slice(text.as_bytes());
            (EXTENDED_ERROR, &error[..INFO_CODE_LEN + text.len()])
        });
        let mut with = |option| edns::append(into, len, asked.wants_dnssec, option);
        [reason, None].into_iter().map(&mut with).find(|&end| end > 0).unwrap_or(len)
    }
}
