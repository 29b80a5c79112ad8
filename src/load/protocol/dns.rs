//! DNS queries over UDP. A response counts if it comes from the target, goes to the client that asked,
//! and has id and question of an open query. An error may come without the question.
//!
//! There is no state per query. The `k`-th query of a client has the `k`-th id of a random order of all
//! ids. Id and client therefore give the query's number, and the number gives its question.

use std::net::SocketAddr;
use std::ops::Range;

use super::marker::{self, MARK, Marker};
use super::{LoadProtocol, NextRequest, in_turn};
use crate::base::batch::{Received, SocketId};
use crate::base::drop_reason::DropReason;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::load::counts::RequestEnd;
use crate::load::dns_answers::{DnsAnswers, DnsCounts};
use crate::load::ledger::RequestLedger;
use crate::load::schedule::Share;
use crate::wire::dns::{self, HEADER_LEN, QUERY_MAX, SERVFAIL, name_to_wire, write_query};

/// Number of ids.
const IDS: usize = 1 << 16;
/// Size of an OPT record without options, in bytes (RFC 6891 section 6.1).
const OPT_LEN: usize = 11;
const OPT: u16 = 41;
/// Offset of the low byte of ARCOUNT.
const ADDITIONAL_COUNT: usize = 11;
/// Offsets of the flags: QR, opcode, AA, TC and RD in the first byte. Offset of ANCOUNT.
const FLAGS: usize = 2;
const QR: u8 = 0x80;
const TC: u8 = 0x02;
const ANSWER_COUNT: usize = 6;
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// Parses a record type: a name, `TYPE65` (RFC 3597) or `65`.
pub fn type_from(text: &str) -> Result<u16, String> {
    dns::type_number(text).ok_or_else(|| {
        let names = dns::TYPES.map(|(name, _)| name).join(", ");
        format!("unknown DNS record type `{text}`; use {names}, or a number up to 65535")
    })
}

/// The queries to send in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsQueries {
    /// Header, question and OPT record of each query, concatenated.
    bytes: Vec<u8>,
    each: Vec<DnsQuery>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DnsQuery {
    bytes: Range<usize>,
    /// Offset of the marker within the query.
    mark: Option<usize>,
}

impl DnsQueries {
    /// Adds a query. `{id}` in the name becomes 16 unique hexadecimal digits, so that no cache can answer.
    /// `edns`: response size that an OPT record allows. The error describes the problem with the name.
    pub fn add(&mut self, name: &str, kind: u16, edns: Option<u16>) -> Result<(), String> {
        let mark = name.find(MARK);
        let text = name.replacen(MARK, &"0".repeat(marker::LEN), 1);
        if text.contains(MARK) {
            return Err(format!("`{name}` has several {MARK}; use only one"));
        }
        let mut query = [0; QUERY_MAX + OPT_LEN];
        let mut len = write_query(&mut query, 0, &name_to_wire(&text)?, kind);
        if let Some(size) = edns {
            query[ADDITIONAL_COUNT] = 1;
            query[len + 1..len + 3].copy_from_slice(&OPT.to_be_bytes());
            query[len + 3..len + 5].copy_from_slice(&size.to_be_bytes());
            len += OPT_LEN;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&query[..len]);
        // On the wire, a length byte precedes the first label and replaces each dot, so offsets shift by one.
        let mark = mark.map(|at| HEADER_LEN + 1 + at);
        self.each.push(DnsQuery { bytes: start..start + len, mark });
        Ok(())
    }

    /// Adds the queries of a text with one `NAME [TYPE]` per line. Empty lines and text after `#` or `;`
    /// are ignored, so files of other tools work. The error names the line.
    pub fn add_lines(&mut self, text: &str, kind: u16, edns: Option<u16>) -> Result<(), String> {
        for (line, number) in text.lines().zip(1..) {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            let Some(name) = words.next() else { continue };
            let add = match words.next().map_or(Ok(kind), type_from) {
                Ok(kind) => self.add(name, kind, edns),
                Err(why) => Err(why),
            };
            add.map_err(|why| format!("line {number}: {why}"))?;
            if let Some(word) = words.next() {
                return Err(format!("line {number}: unexpected `{word}`; a line is: NAME [TYPE]"));
            }
        }
        if self.each.is_empty() { Err("no name found; a line is: NAME [TYPE]".to_owned()) } else { Ok(()) }
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// Size of the longest query, in bytes.
    pub fn len_max(&self) -> usize {
        self.each.iter().map(|query| query.bytes.len()).max().unwrap_or(0)
    }
}

/// Sends the queries in turn, repeatedly.
pub struct DnsLoad {
    target: SocketAddr,
    clients: u64,
    queries: DnsQueries,
    share: Share,
    marker: Marker,
    /// All ids in random order, and the position of each id in that order.
    ids: Box<[u16]>,
    places: Box<[u16]>,
    answers: DnsCounts,
}

impl DnsLoad {
    /// A protocol with this many clients. Each of several generators sends its share of the queries.
    pub fn new(target: SocketAddr, clients: u16, queries: DnsQueries, share: Share, rng: &mut Rng) -> Self {
        assert!(!queries.is_empty());
        let mut ids: Box<[u16]> = (0..=u16::MAX).collect();
        for last in (1..IDS).rev() {
            ids.swap(last, rng.below(last as u64 + 1) as usize);
        }
        let mut places = vec![0; IDS].into_boxed_slice();
        ids.iter().enumerate().for_each(|(place, id)| places[usize::from(*id)] = place as u16);
        let (marker, answers) = (Marker::new(rng), DnsCounts::default());
        DnsLoad { target, clients: clients.into(), queries, share, marker, ids, places, answers }
    }

    fn query(&self, number: u64) -> &DnsQuery {
        let turn = number.wrapping_mul(self.share.of.into()).wrapping_add(self.share.index.into());
        &self.queries.each[(turn % self.queries.each.len() as u64) as usize]
    }

    fn id(&self, number: u64) -> u16 {
        self.ids[(number / self.clients) as usize % IDS]
    }

    /// The only number in the span that has this id at this client.
    fn number(&self, client: SocketId, id: u16, oldest: u64) -> u64 {
        let client = u64::from(client.0);
        // No open request of any client is further back in the order of ids.
        let before = oldest / self.clients;
        let beyond = self.places[usize::from(id)].wrapping_sub(before as u16);
        (before + u64::from(beyond)) * self.clients + client
    }

    /// The bytes of a query, and its length.
    fn compose(&self, number: u64) -> ([u8; QUERY_MAX + OPT_LEN], usize) {
        let query = self.query(number);
        let (mut bytes, len) = ([0; QUERY_MAX + OPT_LEN], query.bytes.len());
        bytes[..len].copy_from_slice(&self.queries.bytes[query.bytes.clone()]);
        if let Some(at) = query.mark {
            self.marker.write(number, &mut bytes[at..at + marker::LEN]);
        }
        dns::set_id(&mut bytes, self.id(number));
        (bytes, len)
    }

    fn answer(
        &self,
        from: &Received,
        message: &[u8],
        ledger: &RequestLedger,
    ) -> Result<(u64, RequestEnd), DropReason> {
        if from.peer != self.target {
            return Err(DropReason::WrongSource);
        }
        let question = match dns::response(message) {
            Ok(question) => Some(question),
            Err(_) if is_bare_error(message) => None,
            Err(_) => return Err(DropReason::Malformed),
        };
        let number = self.number(from.socket, dns::id(message), ledger.span().start);
        if !ledger.is_open(number) {
            return Err(DropReason::NotOpen);
        }
        let (query, len) = self.compose(number);
        let asked = dns::query(&query[..len]).expect("it was written as a query");
        if question.is_some_and(|question| question != asked) {
            return Err(DropReason::WrongQuestion);
        }
        match dns::rcode(message) {
            NO_ERROR | NO_SUCH_NAME => Ok((number, RequestEnd::Answered)),
            SERVFAIL => Ok((number, RequestEnd::Busy)),
            _ => Ok((number, RequestEnd::Refused)),
        }
    }
}

/// Whether a message is a response with an error and without a question.
fn is_bare_error(message: &[u8]) -> bool {
    let is_response = message.len() >= HEADER_LEN && message[FLAGS] & QR != 0;
    is_response && dns::question_count(message) == 0 && dns::rcode(message) != NO_ERROR
}

impl LoadProtocol for DnsLoad {
    fn len_max(&self) -> usize {
        self.queries.len_max()
    }

    fn span_max(&self) -> u64 {
        IDS as u64 * self.clients - self.clients
    }

    fn plan(&self, request: &NextRequest) -> (SocketId, usize) {
        (in_turn(request.number, self.clients), self.query(request.number).bytes.len())
    }

    fn write(&mut self, request: &NextRequest, bytes: &mut [u8]) {
        let (query, len) = self.compose(request.number);
        bytes.copy_from_slice(&query[..len]);
    }

    fn dns_answers(&self) -> Option<DnsAnswers> {
        Some(self.answers.into())
    }

    fn read(&mut self, now: Instant, from: &Received, datagram: &mut [u8], ledger: &mut RequestLedger) {
        match self.answer(from, datagram, ledger) {
            Ok((number, ending)) => {
                if ledger.is_measured(number) {
                    let (rcode, is_truncated) = (dns::rcode(datagram), datagram[FLAGS] & TC != 0);
                    let has_answer = datagram[ANSWER_COUNT..ANSWER_COUNT + 2] != [0, 0];
                    self.answers.add(rcode, is_truncated, rcode == NO_ERROR && !is_truncated && !has_answer);
                }
                ledger.end(number, now, ending);
            }
            Err(reason) => ledger.drop(reason, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, kind: u16, edns: Option<u16>) -> (Vec<u8>, Option<usize>) {
        let mut queries = DnsQueries::default();
        queries.add(name, kind, edns).unwrap();
        (queries.bytes, queries.each[0].mark)
    }

    #[test]
    fn queries_are_what_the_standards_say() {
        let head = b"\0\0\x01\0\0\x01\0\0\0\0\0\0";
        assert_eq!(one("a.bc", 28, None), ([&head[..], b"\x01a\x02bc\0\0\x1c\0\x01"].concat(), None));
        // RFC 6891 section 6.1.2: root name, OPT, size, and no more.
        let (with_opt, _) = one("a.bc", 1, Some(1232));
        let head = b"\0\0\x01\0\0\x01\0\0\0\0\0\x01";
        let expected = [&head[..], b"\x01a\x02bc\0\0\x01\0\x01", b"\0\0\x29\x04\xd0\0\0\0\0\0\0"].concat();
        assert_eq!(with_opt, expected);
        let (marked, at) = one("x.y{id}.z", 1, None);
        let at = at.unwrap();
        assert_eq!((&marked[at - 2..at], &marked[at + 16..at + 18]), (&b"\x11y"[..], &b"\x01z"[..]));
    }

    #[test]
    fn lines_are_names_and_types_and_mistakes_are_named() {
        let mut queries = DnsQueries::default();
        queries
            .add_lines("# comment\na.example\n\nb.example AAAA ; more\nc.example type65\n", 16, None)
            .unwrap();
        let kinds: Vec<u16> =
            queries.each.iter().map(|q| dns::query(&queries.bytes[q.bytes.clone()]).unwrap().kind).collect();
        assert_eq!(kinds, [16, 28, 65]);
        for (text, named) in [
            ("", "no name"),
            ("a.example\nb..example", "line 2: "),
            ("a.example B", "line 1: unknown DNS record type `B`"),
            ("a.example A A", "line 1: unexpected `A`"),
            ("{id}.{id}.example", "has several {id}"),
        ] {
            let why = DnsQueries::default().add_lines(text, 1, None).unwrap_err();
            assert!(why.contains(named), "{text:?}: {why}");
        }
    }

    #[test]
    fn types_have_names_and_numbers() {
        for (text, kind) in [("A", 1), ("aaaa", 28), ("TYPE65535", 65_535), ("16", 16), ("https", 65)] {
            assert_eq!(type_from(text), Ok(kind));
        }
        assert!(type_from("65536").is_err() && type_from("").is_err());
    }

    #[test]
    fn every_number_of_the_span_is_found_by_client_and_id() {
        let mut queries = DnsQueries::default();
        queries.add("a.example", 1, None).unwrap();
        let target = "127.0.0.1:53".parse().unwrap();
        for clients in [1, 3] {
            let dns = DnsLoad::new(target, clients, queries.clone(), Share::WHOLE, &mut Rng::new(1));
            for oldest in [1, 2, 65_535, 65_536, 200_003] {
                let last = oldest + dns.span_max();
                for number in (oldest..last).step_by(97).chain([last - 1]) {
                    let client = in_turn(number, clients.into());
                    assert_eq!(
                        dns.number(client, dns.id(number), oldest),
                        number,
                        "of {clients} from {oldest}"
                    );
                }
            }
        }
    }
}
