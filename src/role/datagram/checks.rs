//! Active checks: queries and payloads, and their responses. Pure.

use super::settings::{Check, ProxyProtocol};
use crate::base::rng::SecretRng;
use crate::base::time::Instant;
use crate::wire::dns::{self, QuestionKey};
use crate::wire::proxy_protocol;

/// A check in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenCheck {
    pub sent: Instant,
    /// The id of a DNS query.
    id: u16,
}

/// Writes checks and recognises their responses.
pub(super) struct Checker {
    check: Check,
    with_header: bool,
    key: QuestionKey,
    rng: SecretRng,
}

impl Checker {
    pub fn new(check: Check, proxy_protocol: ProxyProtocol, secret: [u8; 16], seed: u64) -> Self {
        let with_header = proxy_protocol != ProxyProtocol::Off;
        Checker {
            check,
            with_header,
            key: QuestionKey::new(secret),
            rng: SecretRng::new(&secret, seed, u64::MAX),
        }
    }

    /// Replaces the check.
    pub fn set_check(&mut self, check: Check) {
        self.check = check;
    }

    /// Whether servers are checked.
    pub fn is_active(&self) -> bool {
        self.check != Check::None
    }

    /// The length of a check, in bytes.
    pub fn len(&self) -> usize {
        let header = if self.with_header { proxy_protocol::LOCAL.len() } else { 0 };
        header
            + match &self.check {
                Check::None => 0,
                Check::Dns { name, .. } => dns::HEADER_LEN + name.len() + 4,
                Check::Payload { send, .. } => send.len(),
            }
    }

    /// Writes a check of [`Checker::len`] bytes.
    pub fn ask(&mut self, now: Instant, into: &mut [u8]) -> OpenCheck {
        let id = self.rng.next_u16();
        let header = if self.with_header { &proxy_protocol::LOCAL[..] } else { &[] };
        let (head, rest) = into.split_at_mut(header.len());
        head.copy_from_slice(header);
        match &self.check {
            Check::None => {}
            Check::Dns { name, kind } => {
                dns::write_query(rest, id, name, *kind);
            }
            Check::Payload { send, .. } => rest.copy_from_slice(send),
        }
        OpenCheck { sent: now, id }
    }

    /// Whether these bytes are the response to a check.
    pub fn is_answer(&self, asked: &OpenCheck, bytes: &[u8]) -> bool {
        match &self.check {
            Check::None => false,
            Check::Dns { name, kind } => {
                let mut query = [0; dns::QUERY_MAX];
                let len = dns::write_query(&mut query, asked.id, name, *kind);
                let hash = |question: dns::Question<'_>| question.hash(&self.key);
                let same = dns::query(&query[..len]).map(hash) == dns::response(bytes).map(hash);
                same && dns::id(bytes) == asked.id
            }
            Check::Payload { expect, .. } => bytes.starts_with(expect),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(checker: &mut Checker) -> (OpenCheck, Vec<u8>) {
        let mut bytes = vec![0; checker.len()];
        (checker.ask(Instant::ZERO, &mut bytes), bytes)
    }

    #[test]
    fn only_the_answer_to_the_query_that_was_asked_counts() {
        let check = Check::Dns { name: dns::name_to_wire("example.com").unwrap(), kind: 1 };
        let mut checker = Checker::new(check, ProxyProtocol::Off, [1; 16], 1);
        let (first, mut bytes) = asked(&mut checker);
        assert!(!checker.is_answer(&first, &bytes), "the query itself");
        bytes[2] |= 0x80;
        assert!(checker.is_answer(&first, &bytes));
        let (second, _) = asked(&mut checker);
        assert!(!checker.is_answer(&second, &bytes), "of the query before");
        bytes[13] = b'f';
        assert!(!checker.is_answer(&first, &bytes), "to another question");
    }

    #[test]
    fn a_payload_is_answered_by_its_prefix() {
        let check = Check::Payload { send: b"ping".to_vec(), expect: b"po".to_vec() };
        let mut checker = Checker::new(check, ProxyProtocol::Every, [1; 16], 1);
        let (asked, bytes) = asked(&mut checker);
        assert_eq!(bytes[..16], proxy_protocol::LOCAL);
        assert_eq!(&bytes[16..], b"ping");
        assert!(checker.is_answer(&asked, b"pong") && !checker.is_answer(&asked, b"p"));
    }

    #[test]
    fn without_a_check_nothing_is_asked_and_nothing_is_an_answer() {
        let mut checker = Checker::new(Check::None, ProxyProtocol::Off, [1; 16], 1);
        let (asked, bytes) = asked(&mut checker);
        assert!(bytes.is_empty() && !checker.is_active() && !checker.is_answer(&asked, b""));
    }
}
