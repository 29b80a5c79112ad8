//! Servers that lead back to the pool: they are found by checks that come back, and get no traffic.

use super::bench::*;
use super::*;
use crate::wire::dns::{self, name_to_wire};

fn checked(protocol: Protocol, check: Check) -> DatagramSettings {
    let mut settings = settings(protocol);
    settings.health.check = check;
    settings
}

fn by_dns() -> Check {
    Check::Dns { name: name_to_wire("a.example").unwrap(), kind: 1 }
}

fn by_payload() -> Check {
    Check::Payload { send: b"alive?".to_vec(), expect: vec![] }
}

fn answer(way: &Sent) -> In {
    let mut bytes = way.bytes.clone();
    bytes[2] |= 0x80;
    way.answered(&bytes)
}

/// Another balancer passes a datagram on under another id.
fn passed_on(way: &Sent, client: SocketAddr) -> In {
    let mut bytes = way.bytes.clone();
    bytes[0] ^= 0x55;
    In::new(0, client, &bytes)
}

/// Lets time pass. Checks of servers that `lead_back` come back from there, the other servers answer theirs.
/// Gives the number of datagrams to each server that leads back, beside checks.
fn pass(pool: &mut Bench, time: Duration, leads_back: impl Fn(SocketAddr) -> bool) {
    let end = pool.now + time;
    let mut arrived = vec![];
    while pool.now < end {
        pool.now += 10 * MS;
        let sent = pool.turn(&std::mem::take(&mut arrived));
        for way in sent.iter().filter(|way| !pool.is_front(way.socket)) {
            arrived.push(if leads_back(way.to) { passed_on(way, client(9)) } else { answer(way) });
        }
    }
}

const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

#[test]
fn a_server_whose_checks_come_back_is_barred_until_they_do_not() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(checked(protocol, by_dns()), 16, [1]);
        pass(&mut pool, Duration::from_secs(5), |_| true);
        assert_eq!((pool.state(1), pool.states()), ("looping", vec![(1, "looping")]), "{protocol:?}");
        let loops = pool.refused(DropReason::Loop);
        assert!((4..=7).contains(&loops), "{protocol:?}: {loops} checks came back in 5 s");
        // No request goes there, even if no other server is left.
        let sent = pool.ask(client(1), QUERY);
        assert!(sent.iter().all(|sent| pool.is_front(sent.socket)), "{protocol:?}: {sent:?}");
        assert_eq!(pool.refused(DropReason::NoServer), 1);
        // Its answers to checks do not help for a minute after the last check that came back.
        pass(&mut pool, Duration::from_secs(55), |_| false);
        assert_eq!(pool.states(), [], "{protocol:?}");
        pass(&mut pool, Duration::from_secs(10), |_| false);
        assert_eq!(pool.states(), [(1, "down"), (1, "up")], "{protocol:?}");
        // The next time it is barred for twice as long.
        pass(&mut pool, Duration::from_secs(2), |_| true);
        pass(&mut pool, Duration::from_secs(110), |_| false);
        assert_eq!(pool.states(), [(1, "looping")], "{protocol:?}");
    }
}

#[test]
fn the_other_servers_of_a_pool_with_a_loop_serve() {
    let mut settings = checked(Protocol::Dns, by_dns());
    settings.health.rules.down_max = 0.0;
    let mut pool = Bench::new(settings, 16, [1, 2, 3]);
    pass(&mut pool, Duration::from_secs(3), |to| to != server(2));
    let states = [1, 2, 3].map(|n| pool.state(n));
    assert_eq!(states, ["looping", "up", "looping"], "fail open does not use them");
    for n in 0..6 {
        assert_eq!(pool.forwarded(client(n), QUERY).to, server(2));
    }
}

#[test]
fn a_mark_of_another_server_or_pool_is_a_query_like_any_other() {
    let mut pool = Bench::new(checked(Protocol::Dns, by_dns()), 16, [1, 2]);
    let checks = pool.pass(1_200 * MS);
    let check = checks.iter().find(|way| way.to == server(1)).unwrap();
    let mark = dns::mark(&check.bytes).copied().unwrap();
    let other = pool.slot(2).unwrap().index() as u8;
    for forged in [[0, other], [0, 3], [0xff, 0xff]] {
        let mut bytes = check.bytes.clone();
        let at = bytes.len() - mark.len();
        bytes[at..at + 2].copy_from_slice(&forged);
        assert_eq!(pool.ask(client(1), &bytes).len(), 1, "it is forwarded");
    }
    assert_eq!(pool.refused(DropReason::Loop), 0);
    assert!([1, 2].iter().all(|&n| pool.state(n) != "looping"));
}

/// The next check, which is in flight.
fn next_check(pool: &mut Bench) -> Sent {
    loop {
        if let Some(check) = pool.pass(10 * MS).pop() {
            return check;
        }
    }
}

#[test]
fn a_server_without_edns_is_checked_without_a_mark() {
    let mut pool = Bench::new(checked(Protocol::Dns, by_dns()), 16, [1]);
    let marked = next_check(&mut pool);
    assert!(dns::mark(&marked.bytes).is_some());
    let mut refusal = marked.bytes[..12].to_vec();
    refusal[2..].copy_from_slice(&[0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let before = pool.now;
    pool.turn(&[marked.answered(&refusal)]);
    let plain = next_check(&mut pool);
    assert!(pool.now <= before + 20 * MS, "at once");
    assert_eq!((dns::mark(&plain.bytes), plain.bytes[11]), (None, 0));
    pool.turn(&[answer(&plain)]);
    assert!(dns::mark(&next_check(&mut pool).bytes).is_none(), "from then on");
}

#[test]
fn a_payload_that_comes_back_while_its_server_is_silent_is_a_loop() {
    let mut pool = Bench::new(checked(Protocol::Datagram, by_payload()), 16, [1, 2]);
    pass(&mut pool, Duration::from_secs(1), |_| false);
    assert_eq!([1, 2].map(|n| pool.state(n)), ["up", "up"]);
    // The payload that a client sends itself proves nothing about servers that answer.
    for n in 0..400 {
        pool.now += 10 * MS;
        let mut arrived: Vec<In> = pool.turn(&[]).iter().map(answer).collect();
        arrived.push(In::new(0, client(n % 50), b"alive?"));
        let answers: Vec<In> = pool.turn(&arrived).iter().map(answer).collect();
        pool.turn(&answers.into_iter().filter(|way| !pool.is_front(way.socket)).collect::<Vec<_>>());
    }
    assert_eq!([1, 2].map(|n| pool.state(n)), ["up", "up"]);
    pool.states();
    let end = pool.now + Duration::from_secs(6);
    let mut arrived = vec![];
    while pool.now < end {
        pool.now += 10 * MS;
        for way in pool.turn(&std::mem::take(&mut arrived)) {
            match (pool.is_front(way.socket), way.to == server(2)) {
                (false, true) => arrived.push(answer(&way)),
                (false, false) => arrived.push(In::new(0, client(9), &way.bytes)),
                (true, _) => {}
            }
        }
    }
    assert_eq!([1, 2].map(|n| pool.state(n)), ["looping", "up"], "{:?}", pool.states());
}

#[test]
fn a_server_that_is_silent_without_an_echo_is_down() {
    let mut pool = Bench::new(checked(Protocol::Datagram, by_payload()), 16, [1]);
    pool.pass(Duration::from_secs(6));
    assert_eq!(pool.state(1), "down");
}
