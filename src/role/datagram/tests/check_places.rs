//! Checks are load: what they cost the requests, and which servers are not asked.

use super::bench::*;
use super::*;
use crate::pool::waiting::Limit;

const SECOND: Duration = Duration::from_secs(1);

/// A query whose name has the number in it.
fn query(number: u16) -> Vec<u8> {
    let mut bytes = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x05q".to_vec();
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    bytes.extend(format!("{number:04x}").bytes());
    bytes.extend(b"\0\0\x01\0\x01");
    bytes
}

/// The number in a query's name; `None` of a check.
fn number_of(query: &[u8]) -> Option<usize> {
    let name = query.get(14..18).filter(|_| query[13] == b'q')?;
    usize::from_str_radix(std::str::from_utf8(name).ok()?, 16).ok()
}

fn dns_check() -> Check {
    Check::Dns { name: vec![0], kind: 2 }
}

fn limited(check: Check) -> DatagramSettings {
    let mut settings = DatagramSettings {
        max_outstanding: Some(Limit::Fixed(1)),
        waiting_max: 4_096,
        timeout: 30 * SECOND,
        ..settings(Protocol::Dns)
    };
    (settings.health.check, settings.health.timeout) = (check, SECOND);
    settings
}

fn answered(way: &Sent, rcode: u8) -> In {
    let mut bytes = way.bytes.clone();
    bytes[2] |= 0x80;
    bytes[3] = rcode;
    way.answered(&bytes)
}

/// Queries of one client at intervals, each answered at once with this RCODE; the checks meanwhile.
fn checks_during(pool: &mut Bench, every: Duration, count: u16, rcode: u8) -> usize {
    let mut checks = 0;
    for number in 0..count {
        let mut sent = pool.ask(client(1), &query(number));
        sent.extend(pool.pass(every));
        sent.retain(|way| !pool.is_front(way.socket));
        for way in sent {
            let is_check = number_of(&way.bytes).is_none();
            checks += usize::from(is_check);
            pool.turn(&[answered(&way, if is_check { 0 } else { rcode })]);
        }
    }
    checks
}

#[test]
fn a_server_that_has_answered_a_client_within_the_interval_is_not_asked() {
    let mut pool = Bench::new(limited(dns_check()), 4, [1]);
    checks_during(&mut pool, SECOND, 3, 0);
    assert_eq!(pool.state(1), "up");
    assert_eq!(checks_during(&mut pool, SECOND / 4, 80, 0), 0);
    assert_eq!(checks_during(&mut pool, SECOND / 4, 80, 3), 0, "a name that does not exist");
    let checks = checks_during(&mut pool, SECOND / 4, 80, 2);
    assert!((18..=21).contains(&checks), "{checks} checks in 20 s of SERVFAIL");
    let checks = checks_during(&mut pool, 2 * SECOND, 10, 0);
    assert!((9..=21).contains(&checks), "{checks} checks in 20 s with a query each 2 s");
}

/// A pool with one server that is up, at the moment at which it is checked; the check.
fn at_a_check(settings: DatagramSettings) -> (Bench, Sent) {
    let mut pool = Bench::new(settings, 4, [1]);
    for step in 0..600 {
        let Some(check) = pool.pass(10 * MS).pop() else { continue };
        assert_eq!(number_of(&check.bytes), None);
        if step > 400 {
            assert_eq!(pool.state(1), "up");
            return (pool, check);
        }
        pool.turn(&[answered(&check, 0)]);
    }
    panic!("no check in 2 s");
}

#[test]
fn no_request_is_sent_behind_a_check_until_it_is_answered() {
    let (mut pool, check) = at_a_check(limited(dns_check()));
    assert_eq!(pool.ask(client(1), &query(1)), [], "it waits");
    pool.pass(20 * MS);
    let sent = pool.turn(&[answered(&check, 0)]);
    assert_eq!(sent.iter().map(|way| way.to).collect::<Vec<_>>(), [server(1)]);
    assert_eq!(pool.turn(&[answered(&sent[0], 0)])[0].to, client(1));
    pool.check_rest();
}

#[test]
fn an_unanswered_check_gives_its_place_back_long_before_its_timeout() {
    let (mut pool, _) = at_a_check(limited(dns_check()));
    assert_eq!(pool.ask(client(1), &query(1)), []);
    let sent = pool.pass(60 * MS);
    assert_eq!(sent.iter().map(|way| way.to).collect::<Vec<_>>(), [server(1)]);
    assert_eq!(pool.turn(&[answered(&sent[0], 0)])[0].to, client(1));
    pool.check();
}

#[test]
fn a_check_refuses_no_request_and_is_no_flow() {
    let no_queue = DatagramSettings { waiting_max: 0, ..limited(dns_check()) };
    let (mut pool, _) = at_a_check(no_queue);
    assert_eq!(pool.forwarded(client(1), &query(1)).to, server(1));
    let flows = DatagramSettings {
        protocol: Protocol::Datagram,
        affinity: Affinity::Client,
        replies: None,
        idle_timeout: SECOND / 2,
        ..limited(dns_check())
    };
    let (mut pool, _) = at_a_check(flows);
    assert_eq!(pool.forwarded(client(1), &query(1)).to, server(1));
}

#[test]
fn a_server_that_leaves_or_is_checked_in_another_way_has_no_place_taken() {
    for removed in [false, true] {
        let (mut pool, _) = at_a_check(limited(dns_check()));
        assert_eq!(pool.queue(1), 1);
        if removed {
            pool.want(vec![]);
            assert_eq!(pool.slot(1), None);
        } else {
            let mut other = limited(Check::Dns { name: vec![1, b'x', 0], kind: 1 });
            other.health.interval = 60 * SECOND;
            pool.shared.reconfigure(other).unwrap();
            pool.pass(20 * MS);
            assert_eq!(pool.queue(1), 0);
        }
        pool.check();
    }
}
