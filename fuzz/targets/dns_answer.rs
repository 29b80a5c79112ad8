//! A response of an odd server or a forger to a query: which of them reach the client.
//!
//! Input: flags, the length of the query, the query, the response.
#![no_main]

use std::cell::RefCell;

use lbd::role::datagram::{Protocol, ProxyProtocol};
use lbd::wire::dns::records::{AXFR, IXFR, TransferProgress};
use lbd::wire::dns::{self, HEADER_LEN};
use lbd_fuzz::{BACKS, FRONT, Pool, client, server};
use libfuzzer_sys::fuzz_target;

/// The response has the id of the query.
const RIGHT_ID: u8 = 1;
/// The response arrives at another port.
const WRONG_PORT: u8 = 2;
/// The response comes from another address.
const WRONG_PEER: u8 = 4;
/// The query of the input is replaced with a usual one.
const USUAL_QUERY: u8 = 8;
/// A query for `a.` with an OPT record.
const USUAL: [u8; 30] = *b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool::new(Protocol::Dns, ProxyProtocol::Off));
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, query_len], rest)) = data.split_first_chunk() else { return };
    let (query, response) = rest.split_at(usize::from(query_len).min(rest.len()));
    let query = if flags & USUAL_QUERY != 0 { &USUAL[..] } else { query };
    walk(response);
    POOL.with_borrow_mut(|pool| run(pool, flags, query, response));
});

/// The walks over the records of a response.
fn walk(response: &[u8]) {
    for kind in [AXFR, IXFR] {
        let mut progress = TransferProgress::new(kind);
        let is_last = progress.is_last(response);
        assert!(is_last || dns::rcode(response) == dns::NOERROR);
        let _ = progress.is_last(response);
    }
    if let Some((_, options)) = dns::opt(response) {
        assert!(options.len() + HEADER_LEN < response.len());
    }
}

fn run(pool: &mut Pool, flags: u8, query: &[u8], response: &[u8]) {
    pool.rest();
    let mut sent = pool.turn(FRONT, client(), query);
    assert!(sent.len() <= 1, "{sent:?}");
    let Some(at_server) = sent.pop() else { return };
    if at_server.socket == FRONT {
        assert_eq!((at_server.to, dns::rcode(&at_server.bytes)), (client(), dns::FORMERR));
        assert_eq!(dns::id(&at_server.bytes), dns::id(query));
        return;
    }
    assert!(
        at_server.to == server() && BACKS.contains(&at_server.socket) && at_server.bytes[2..] == query[2..]
    );

    let mut response = response.to_vec();
    if flags & RIGHT_ID != 0 {
        dns::set_id(&mut response, dns::id(&at_server.bytes));
    }
    let next_port = BACKS.start + (at_server.socket + 1 - BACKS.start) % BACKS.len() as u16;
    let socket = if flags & WRONG_PORT == 0 { at_server.socket } else { next_port };
    let peer = if flags & WRONG_PEER == 0 { server() } else { client() };
    let delivered = pool.turn(socket, peer, &response);
    for delivered in &delivered {
        assert_eq!((delivered.socket, delivered.to), (FRONT, client()));
        assert_eq!(dns::id(&delivered.bytes), dns::id(query), "the client's own id");
        assert_eq!(delivered.bytes[2..], response[2..], "nothing else changes");
        assert!(flags & (WRONG_PORT | WRONG_PEER) == 0, "port and address must match");
        assert_eq!(dns::id(&response), dns::id(&at_server.bytes), "the id must match");
        match dns::question_count(&response) {
            0 => {
                let has_question = dns::question_count(query) > 0;
                let is_error = dns::extended_rcode(&response) != u16::from(dns::NOERROR);
                assert!(is_error || !has_question || dns::opcode(query) == 5, "{response:?}");
            }
            _ => assert_eq!(dns::response(&response), dns::query(query), "the question must match"),
        }
    }

    // A response that did not match has not harmed the query.
    let mut right = at_server.bytes.clone();
    right[2] |= 0x80;
    let then = pool.turn(at_server.socket, server(), &right);
    assert_eq!(delivered.len() + then.len(), 1, "one query, one response");
    if let [then] = &then[..] {
        assert_eq!((dns::id(&then.bytes), &then.bytes[2..]), (dns::id(query), &right[2..]));
    }
    assert_eq!(pool.turn(at_server.socket, server(), &right), [], "a repetition");
}
