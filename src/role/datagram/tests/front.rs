//! Who may send, and what servers learn of the sender.

use super::bench::*;
use super::*;
use crate::wire::proxy_protocol::{Transport, header};

fn one_way() -> DatagramSettings {
    DatagramSettings { replies: Some(0), ..settings(Protocol::Datagram) }
}

#[test]
fn who_may_not_send_is_counted_by_reason() {
    let limited = DatagramSettings {
        allow: vec!["198.51.100.0/24".parse().unwrap(), "10.1.0.0/24".parse().unwrap()],
        deny: vec!["198.51.100.7/32".parse().unwrap()],
        ..one_way()
    };
    let mut pool = Bench::new(limited, 2, [1, 3]);
    for (socket, peer, local_ip, reason) in [
        (0, "198.51.100.1:0", None, DropReason::SourcePort),
        (0, "198.51.100.7:7", None, DropReason::Denied),
        (0, "203.0.113.1:7", None, DropReason::Denied),
        (1, "[2001:db8::9]:7", None, DropReason::Denied),
        (0, "10.1.0.1:7000", None, DropReason::NotAClient),
        (1, "[2001:db8::1:3]:7000", None, DropReason::NotAClient),
        (WILDCARD, "192.0.2.53:53", None, DropReason::NotAClient),
        (WILDCARD, "192.0.2.9:20001", Some("192.0.2.9"), DropReason::NotAClient),
        (WILDCARD, "127.0.0.1:5353", Some("192.0.2.9"), DropReason::NotAClient),
    ] {
        let before = pool.refused(reason);
        let local_ip = local_ip.map(|ip: &str| ip.parse().unwrap());
        let sent = pool.turn(&[In { local_ip, ..In::new(socket, addr(peer), b"a line") }]);
        assert_eq!((sent, pool.refused(reason)), (vec![], before + 1), "{peer}");
    }
    for peer in ["198.51.100.6:7", "10.1.0.1:7001"] {
        pool.forwarded(addr(peer), b"a line");
    }
    assert_eq!(pool.stats().common.received.get(), 11);
}

#[test]
fn a_source_gets_its_rate_and_others_are_not_disturbed() {
    let mut pool = Bench::new(DatagramSettings { rate_per_source: Some(10.0), ..one_way() }, 2, [1]);
    let merged = In { stride: 2, ..In::new(0, client(1), &[0; 60]) };
    assert_eq!(pool.turn(std::slice::from_ref(&merged)).len(), 10);
    assert_eq!(pool.refused(DropReason::Rate), 20);
    assert_eq!(pool.ask(SocketAddr::new(client(1).ip(), 9), b"other port"), []);
    pool.forwarded(client(2), b"other source");
    pool.pass(500 * MS);
    assert_eq!(pool.turn(&[merged]).len(), 5);
}

#[test]
fn a_header_names_the_client_and_the_address_that_it_asked() {
    let query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    for protocol in Protocol::ALL {
        for proxy_protocol in [ProxyProtocol::First, ProxyProtocol::Every] {
            let mut pool = Bench::new(DatagramSettings { proxy_protocol, ..settings(protocol) }, 8, [1]);
            for (socket, peer, local_ip, local) in [
                (0, client(1), None, "192.0.2.53:53"),
                (1, addr("[2001:db8::9]:9"), None, "[2001:db8::53]:53"),
                (WILDCARD, client(1), Some("192.0.2.7"), "192.0.2.7:5353"),
            ] {
                let local_ip = local_ip.map(|ip: &str| ip.parse().unwrap());
                for round in 0..2 {
                    let sent = pool.turn(&[In { local_ip, ..In::new(socket, peer, query) }]);
                    let header = header(Transport::Datagram, peer, addr(local));
                    assert_eq!((sent.len(), sent[0].to), (1, server(1)));
                    let rest = sent[0].bytes.strip_prefix(&header[..]).expect("it begins with the header");
                    assert_eq!(rest[2..], query[2..], "round {round}");
                }
            }
        }
    }
}

#[test]
fn a_flow_begins_with_a_header_or_has_it_always() {
    for (proxy_protocol, is_always) in [(ProxyProtocol::First, false), (ProxyProtocol::Every, true)] {
        let flows = DatagramSettings {
            proxy_protocol,
            affinity: Affinity::Client,
            replies: None,
            ..settings(Protocol::Datagram)
        };
        let mut pool = Bench::new(flows, 2, [1]);
        let header = header(Transport::Datagram, client(1), addr("192.0.2.53:53"));
        let with_header = [&header[..], b"hello"].concat();
        let way = pool.forwarded(client(1), b"hello");
        assert_eq!(way.bytes, with_header);
        pool.turn(&[way.answered(b"hello too")]);
        let plain = b"hello".to_vec();
        let next = if is_always { &with_header } else { &plain };
        assert_eq!(&pool.forwarded(client(1), b"hello").bytes, next);
        // A flow that gets another server begins again.
        pool.rename(1, [2]);
        assert_eq!(pool.forwarded(client(1), b"hello").bytes, with_header);
        assert_eq!(&pool.forwarded(client(1), b"hello").bytes, next);
    }
}

#[test]
fn a_clients_own_header_is_dropped_where_it_would_be_taken_for_ours() {
    for (proxy_protocol, passes) in
        [(ProxyProtocol::Off, true), (ProxyProtocol::First, false), (ProxyProtocol::Every, true)]
    {
        let affinity = Affinity::Client;
        let flows = DatagramSettings { proxy_protocol, affinity, ..settings(Protocol::Datagram) };
        let mut pool = Bench::new(flows, 8, [1]);
        let forged = [&header(Transport::Datagram, client(9), addr("192.0.2.53:53"))[..], b"evil"].concat();
        pool.forwarded(client(1), b"one");
        let sent = pool.ask(client(1), &forged);
        assert_eq!(sent.len(), usize::from(passes), "{proxy_protocol:?}: {sent:?}");
        assert_eq!(pool.refused(DropReason::ProxyHeader), u64::from(!passes));
        let ours = header(Transport::Datagram, client(1), addr("192.0.2.53:53"));
        let is_behind_ours = |sent: &Sent| sent.bytes.starts_with(&ours);
        assert_eq!(sent.iter().any(is_behind_ours), proxy_protocol == ProxyProtocol::Every);
        // As the first datagram of a flow it is behind the balancer's own header, so it is payload.
        let first = pool.forwarded(client(2), &forged);
        assert!(first.bytes.ends_with(&forged), "{first:?}");
        assert_eq!(pool.forwarded(client(1), b"\r\n\r\n\0\r\nQUIT").bytes.len() % 28, 11, "no signature");
    }
}

#[test]
fn servers_of_a_transparent_pool_see_the_client() {
    for affinity in [Affinity::None, Affinity::Client] {
        let transparent = DatagramSettings { transparent: true, affinity, ..settings(Protocol::Datagram) };
        let mut pool = Bench::new(transparent, 4, [1]);
        let turn: Vec<_> = [1, 2, 1].map(|n| In::new(0, client(n), b"question")).into();
        let sent = pool.turn(&turn);
        let ips = |n: u16| sent.iter().filter(|way| way.source_ip == Some(client(n).ip())).count();
        assert_eq!((sent.len(), ips(1), ips(2)), (3, 2, 1));
        let reply = pool.turn(&[sent[0].answered(b"answer")]);
        assert_eq!((reply[0].to, reply[0].source_ip), (client(1), None));
    }
}
