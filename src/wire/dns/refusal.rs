//! The balancer's own answers over TCP: SERVFAIL and REFUSED, with an OPT record if the query has one (RFC
//! 6891 section 6.1.1) and an extended error that gives the reason (RFC 8914). Pure.

use super::records::opt_flags;
use super::{CD, FLAGS, HEADER_LEN, OPCODE, QDCOUNT, QR, RD, query};

/// RCODE of a query that policy forbids.
pub const REFUSED: u8 = 5;
/// The size of UDP messages that the OPT record names, in bytes.
const UDP_SIZE: u16 = 1_232;
const OPT: u16 = 41;
/// The option code of an extended error.
const EXTENDED_ERROR: u16 = 15;
/// DO: the client wants DNSSEC records. The only flag that an answer repeats (RFC 3225).
const DO: u16 = 0x8000;

/// Why the balancer answers itself: INFO-CODE and text of the extended error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT.
    pub text: &'static str,
}

/// No server is up.
pub const NO_SERVER: ExtendedError = ExtendedError { code: 22, text: "no server is up" };
/// All servers are at their limit.
pub const SERVERS_FULL: ExtendedError = ExtendedError { code: 14, text: "all servers are at their limit" };
/// The balancer's table of queries is full.
pub const TABLE_FULL: ExtendedError = ExtendedError { code: 14, text: "too many queries in flight" };
/// The server did not answer in time.
pub const TIMED_OUT: ExtendedError = ExtendedError { code: 22, text: "no response in time" };
/// The connections to the servers broke.
pub const BROKEN: ExtendedError = ExtendedError { code: 23, text: "connections to the servers broke" };
/// The client exceeds its rate limit.
pub const RATE: ExtendedError = ExtendedError { code: 18, text: "rate limit" };

/// Writes the answer to a query into an empty buffer. Id, opcode, RD, CD and the question stay; a query
/// without exactly one question gets a bare header. `query_bytes` has at least a header.
pub fn write_refusal(query_bytes: &[u8], rcode: u8, why: ExtendedError, into: &mut Vec<u8>) {
    let question_len = query(query_bytes).map_or(0, |question| question.wire_len());
    into.extend_from_slice(&query_bytes[..HEADER_LEN + question_len]);
    into[FLAGS] = into[FLAGS] & (OPCODE | RD) | QR;
    into[FLAGS + 1] = into[FLAGS + 1] & CD | rcode;
    into[QDCOUNT..HEADER_LEN].fill(0);
    into[QDCOUNT + 1] = u8::from(question_len > 0);
    let Some(flags) = opt_flags(query_bytes) else { return };
    into[HEADER_LEN - 1] = 1;
    let option_len = 2 + why.text.len() as u16;
    into.push(0); // the root
    for number in [OPT, UDP_SIZE, 0, flags & DO, 4 + option_len, EXTENDED_ERROR, option_len, why.code] {
        into.extend_from_slice(&number.to_be_bytes());
    }
    into.extend_from_slice(why.text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{QUERY_MAX, SERVFAIL, id, name_to_wire, rcode, response, write_query};
    use super::*;

    fn asked(more: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; QUERY_MAX];
        let len = write_query(&mut bytes, 0x1234, &name_to_wire("A.example").unwrap(), 1);
        bytes.truncate(len);
        bytes[11] = u8::from(!more.is_empty());
        bytes.extend(more);
        bytes
    }

    fn refusal(query: &[u8]) -> Vec<u8> {
        let mut answer = vec![];
        write_refusal(query, SERVFAIL, NO_SERVER, &mut answer);
        answer
    }

    #[test]
    fn a_query_without_opt_gets_header_and_question() {
        let query_bytes = asked(&[]);
        let answer = refusal(&query_bytes);
        assert_eq!((id(&answer), rcode(&answer), answer.len()), (0x1234, SERVFAIL, query_bytes.len()));
        assert_eq!(response(&answer).unwrap(), query(&query_bytes).unwrap());
        assert_eq!(answer[QDCOUNT..HEADER_LEN], [0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_query_with_opt_gets_one_that_gives_the_reason_and_no_option_of_the_query() {
        let cookie = b"\0\0\x29\x10\x00\0\0\x80\x01\0\x0c\0\x0a\0\x0801234567";
        let answer = refusal(&asked(cookie));
        let opt = &answer[asked(&[]).len()..];
        assert_eq!(answer[HEADER_LEN - 2..HEADER_LEN], [0, 1]);
        assert_eq!(opt[..11], *b"\0\0\x29\x04\xd0\0\0\x80\0\0\x15");
        assert_eq!(opt[11..], *b"\0\x0f\0\x11\0\x16no server is up");
    }

    #[test]
    fn a_query_without_a_question_gets_a_header_without_one() {
        let mut none = vec![0; HEADER_LEN];
        none[..2].copy_from_slice(&[9, 9]);
        none[2] = RD;
        let answer = refusal(&none);
        assert_eq!(answer, [9, 9, QR | RD, SERVFAIL, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn any_query_gets_an_answer_under_its_id(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, HEADER_LEN..200),
        ) {
            let answer = refusal(&bytes);
            proptest::prop_assert_eq!((id(&answer), rcode(&answer)), (id(&bytes), SERVFAIL));
        }
    }
}
