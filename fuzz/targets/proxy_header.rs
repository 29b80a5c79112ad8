//! A client that sends a PROXY header itself, to a pool whose servers expect one at the beginning of a flow.
//!
//! Input: a selector, the length of the first datagram, the first datagram, the second.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;

use lbd::role::datagram::{Protocol, ProxyProtocol};
use lbd::wire::proxy_protocol::{self, LOCAL, Transport};
use lbd_fuzz::{FRONT, Pool, client, server};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool::new(Protocol::Datagram, ProxyProtocol::First));
}

fuzz_target!(|data: &[u8]| {
    let Some((&[selector, first_len], rest)) = data.split_first_chunk() else { return };
    let (first, second) = rest.split_at(usize::from(first_len).min(rest.len()));
    for bytes in [first, second] {
        assert_eq!(proxy_protocol::begins_as_header(bytes), bytes.get(..12) == Some(&LOCAL[..12]));
    }
    write(selector, rest);
    POOL.with_borrow_mut(|pool| run(pool, first, second));
});

/// A header that lbd writes is recognised, whatever follows.
fn write(selector: u8, bytes: &[u8]) {
    let Some((&ips, bytes)) = bytes.split_first_chunk::<32>() else { return };
    let Some((&[a, b, c, d], payload)) = bytes.split_first_chunk() else { return };
    let (ip, local) = ips.split_at(16);
    let address = |ip: &[u8], is_v4, port| match is_v4 {
        true => SocketAddr::from((<[u8; 4]>::try_from(&ip[..4]).expect("four bytes"), port)),
        false => SocketAddr::from((<[u8; 16]>::try_from(ip).expect("sixteen bytes"), port)),
    };
    let client = address(ip, selector & 1 != 0, u16::from_be_bytes([a, b]));
    let local = address(local, selector & 2 != 0, u16::from_be_bytes([c, d]));
    let transport = if selector & 4 == 0 { Transport::Datagram } else { Transport::Stream };
    let header = proxy_protocol::header(transport, client, local);
    let is_v4 = header.len() == 28;
    assert!(is_v4 || header.len() == proxy_protocol::HEADER_MAX);
    assert_eq!(is_v4, client.ip().to_canonical().is_ipv4() && local.ip().to_canonical().is_ipv4());
    assert_eq!(usize::from(u16::from_be_bytes([header[14], header[15]])), header.len() - 16);
    assert_eq!(header[header.len() - 4..], [a, b, c, d]);
    assert!(proxy_protocol::begins_as_header(&[&header[..], payload].concat()));
}

fn run(pool: &mut Pool, first: &[u8], second: &[u8]) {
    pool.rest();
    if first.is_empty() || second.is_empty() {
        return;
    }
    let local = SocketAddr::from(([192, 0, 2, 53], 53));
    let header = proxy_protocol::header(Transport::Datagram, client(), local);
    let sent = pool.turn(FRONT, client(), first);
    let [at_server] = &sent[..] else { panic!("the first datagram opens a flow: {sent:?}") };
    assert_eq!((at_server.to, &at_server.bytes), (server(), &[&header[..], first].concat()));
    let later = pool.turn(FRONT, client(), second);
    if proxy_protocol::begins_as_header(second) {
        assert_eq!(later, [], "the server would take it for the balancer's");
    } else {
        let [later] = &later[..] else { panic!("the flow continues: {later:?}") };
        assert_eq!((later.to, later.socket, &later.bytes[..]), (server(), at_server.socket, second));
    }
}
