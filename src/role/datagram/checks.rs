//! Active checks: queries and payloads, and their responses. Pure.

use super::settings::{Check, ProxyProtocol};
use crate::base::rng::SecretRng;
use crate::base::time::Instant;
use crate::wire::dns::{self, Asked, Mark, QuestionKey};
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

    /// Whether checks can have a mark.
    pub fn has_marks(&self) -> bool {
        matches!(self.check, Check::Dns { .. })
    }

    /// The length of a check, in bytes. Only a check by DNS can have a mark.
    pub fn len(&self, is_marked: bool) -> usize {
        let header = if self.with_header { proxy_protocol::LOCAL.len() } else { 0 };
        let mark = if is_marked { dns::MARK_RECORD_LEN } else { 0 };
        header
            + match &self.check {
                Check::None => 0,
                Check::Dns { name, .. } => dns::HEADER_LEN + name.len() + 4 + mark,
                Check::Payload { send, .. } => send.len(),
            }
    }

    /// Writes a check of [`Checker::len`] bytes, with this mark.
    pub fn ask(&mut self, now: Instant, mark: Option<&Mark>, into: &mut [u8]) -> OpenCheck {
        let id = self.rng.next_u16();
        let header = if self.with_header { &proxy_protocol::LOCAL[..] } else { &[] };
        let (head, rest) = into.split_at_mut(header.len());
        head.copy_from_slice(header);
        match &self.check {
            Check::None => {}
            Check::Dns { name, kind } => {
                let len = dns::write_query(rest, id, name, *kind);
                if let Some(mark) = mark {
                    dns::append_mark(rest, len, mark);
                }
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
                let question = Asked::of(&query[..len], &self.key);
                dns::id(bytes) == asked.id
                    && question.is_ok_and(|asked| asked.check(bytes, &self.key).is_ok())
            }
            Check::Payload { expect, .. } => bytes.starts_with(expect),
        }
    }

    /// The RCODE of a response to a check by DNS, unless it is among these, which mean alive.
    pub fn failure(&self, bytes: &[u8], alive: &[u16]) -> Option<u16> {
        let rcode = matches!(self.check, Check::Dns { .. }).then(|| dns::extended_rcode(bytes))?;
        (!alive.contains(&rcode)).then_some(rcode)
    }

    /// Whether a response shows that its server does not know EDNS, which a mark needs (RFC 6891 section 7).
    pub fn refuses_edns(&self, bytes: &[u8]) -> bool {
        matches!(self.check, Check::Dns { .. })
            && matches!(dns::rcode(bytes), dns::FORMERR | dns::NOTIMP)
            && dns::opt(bytes).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(checker: &mut Checker) -> (OpenCheck, Vec<u8>) {
        let mut bytes = vec![0; checker.len(false)];
        (checker.ask(Instant::ZERO, None, &mut bytes), bytes)
    }

    #[test]
    fn a_mark_is_at_the_end_of_a_query_and_its_refusal_is_an_error_without_edns() {
        let check = Check::Dns { name: dns::name_to_wire("example.com").unwrap(), kind: 1 };
        let mut checker = Checker::new(check, ProxyProtocol::Off, [1; 16], 1);
        let (plain, mut bytes) = (checker.len(false), vec![0; checker.len(true)]);
        let asked = checker.ask(Instant::ZERO, Some(b"0123456789"), &mut bytes);
        assert_eq!(dns::mark(&bytes), Some(b"0123456789"));
        bytes[2] |= 0x80;
        assert!(checker.is_answer(&asked, &bytes) && !checker.refuses_edns(&bytes));
        for (rcode, refuses) in [(0, false), (1, true), (2, false), (4, true), (5, false)] {
            bytes[3] = rcode;
            assert!(!checker.refuses_edns(&bytes), "RCODE {rcode} with an OPT record");
            let mut without = bytes[..plain].to_vec();
            without[11] = 0;
            assert_eq!(checker.refuses_edns(&without), refuses, "RCODE {rcode}");
        }
        // An error may leave the question out.
        let bare = [&bytes[..3], &[1, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(checker.is_answer(&asked, &bare));
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
