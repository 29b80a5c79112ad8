//! Checks that no server answers, answers that do not mean alive, and servers that fail at once.

use std::collections::HashMap;

use super::bench::*;
use super::*;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::Limit;
use crate::wire::dns::{NOERROR, REFUSED, SERVFAIL, name_to_wire};

/// A query of a client.
fn query(id: u16) -> Vec<u8> {
    let mut bytes = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec();
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes
}

fn checked() -> DatagramSettings {
    let mut settings = settings(Protocol::Dns);
    settings.health.check = Check::Dns { name: name_to_wire("check.example").unwrap(), kind: 1 };
    settings
}

/// How a server answers a query: with this RCODE, or not at all.
type Answering = fn(server: u16, is_check: bool) -> Option<u8>;

/// What clients saw: answers by RCODE, those of the balancer included.
type Seen = HashMap<u8, usize>;

/// A pool of DNS servers that answer at once.
struct Dns {
    pool: Bench,
    answering: Answering,
    seen: Seen,
    number: u16,
}

impl Dns {
    fn new(settings: DatagramSettings, servers: impl IntoIterator<Item = u16>, answering: Answering) -> Dns {
        let pool = Bench::new(settings, 16, []);
        pool.shared.want(wanted(servers));
        let mut dns = Dns { pool, answering, seen: Seen::new(), number: 0 };
        dns.idle(250 * MS); // until they are members
        dns
    }

    /// Lets the servers answer what they are sent, until nothing more is sent.
    fn settle(&mut self, mut sent: Vec<Sent>) {
        while !sent.is_empty() {
            let mut answers = vec![];
            for way in sent {
                if self.pool.is_front(way.socket) {
                    *self.seen.entry(way.bytes[3] & 15).or_default() += 1;
                    continue;
                }
                let is_check = !self.pool.ports().contains(&way.socket);
                let number = (1..20).find(|&n| server(n) == way.to).unwrap();
                if let Some(rcode) = (self.answering)(number, is_check) {
                    let mut bytes = way.bytes.clone();
                    (bytes[2], bytes[3]) = (bytes[2] | 0x80, rcode);
                    answers.push(way.answered(&bytes));
                }
            }
            sent = if answers.is_empty() { vec![] } else { self.pool.turn(&answers) };
        }
    }

    /// Time passes without a client.
    fn idle(&mut self, time: Duration) {
        let end = self.pool.now + time;
        while self.pool.now < end {
            let sent = self.pool.pass(10 * MS);
            self.settle(sent);
        }
    }

    /// A query each 10 ms.
    fn traffic(&mut self, count: usize) -> Seen {
        self.seen.clear();
        for _ in 0..count {
            self.number += 1;
            let sent = self.pool.ask(client(self.number % 100), &query(self.number));
            self.settle(sent);
            self.idle(10 * MS);
        }
        std::mem::take(&mut self.seen)
    }

    fn is_ignored(&self) -> bool {
        self.pool.stats().checks_ignored.get() > 0
    }

    /// The changes of what checks are worth, since the last call.
    fn changes(&mut self) -> Vec<bool> {
        let events = std::iter::from_fn(|| self.pool.workers[0].poll_event());
        events
            .filter_map(|event| if let Event::ChecksIgnored(on) = event { Some(on) } else { None })
            .collect()
    }
}

fn all_answered(count: usize) -> Seen {
    HashMap::from([(NOERROR, count)])
}

#[test]
fn a_pool_serves_whose_servers_answer_every_query_and_no_check() {
    for idle in [0, 5, 60] {
        let mut dns = Dns::new(checked(), [1, 2, 5], |_, is_check| (!is_check).then_some(NOERROR));
        dns.idle(Duration::from_secs(idle));
        assert_eq!(dns.traffic(1_000), all_answered(1_000), "{idle} s without traffic before");
        assert!(dns.is_ignored());
        assert_eq!([1, 2, 5].map(|n| dns.pool.state(n)), ["up"; 3]);
        assert_eq!(dns.changes(), [true], "once");
        dns.idle(Duration::from_secs(60));
        assert_eq!(dns.traffic(100), all_answered(100));
        assert_eq!([1, 2, 5].map(|n| dns.pool.state(n)), ["up"; 3]);
        // One of them answers checks again: then they count.
        dns.answering = |n, is_check| (!is_check || n == 2).then_some(NOERROR);
        dns.idle(Duration::from_secs(5));
        assert_eq!((dns.changes(), dns.is_ignored()), (vec![false], false));
        assert_eq!([1, 2, 5].map(|n| dns.pool.state(n)), ["down", "up", "down"]);
    }
}

#[test]
fn a_pool_whose_servers_all_refuse_the_check_is_up_at_once() {
    let mut dns = Dns::new(checked(), [1, 2], |_, is_check| Some(if is_check { REFUSED } else { NOERROR }));
    dns.idle(300 * MS);
    assert_eq!([1, 2].map(|n| dns.pool.state(n)), ["up"; 2]);
    assert_eq!((dns.changes(), dns.is_ignored()), (vec![true], true));
    assert_eq!(dns.traffic(100), all_answered(100));
}

#[test]
fn dead_servers_are_down_although_nothing_but_checks_is_sent_to_them() {
    let mut dns = Dns::new(checked(), [1, 2], |_, _| None);
    dns.idle(Duration::from_secs(5));
    assert_eq!([1, 2].map(|n| dns.pool.state(n)), ["down"; 2]);
    dns.traffic(100);
    let seen = dns.traffic(100);
    assert!(seen[&SERVFAIL] == 100 && !dns.is_ignored(), "no client waits for them: {seen:?}");
    // They live again, and still answer no check: copies of queries find out.
    dns.answering = |_, is_check| (!is_check).then_some(NOERROR);
    dns.traffic(3_000);
    assert_eq!(dns.traffic(100), all_answered(100));
}

#[test]
fn a_server_that_the_network_calls_absent_is_no_last_resort() {
    let mut dns = Dns::new(checked(), [1], |_, _| None);
    dns.idle(Duration::from_secs(5));
    assert!(dns.pool.shared.can_serve(), "only checks speak against it");
    dns.pool.refuse(0, server(1), 1);
    dns.pool.pass(20 * MS);
    assert!(!dns.pool.shared.can_serve());
}

#[test]
fn a_check_that_is_answered_with_another_rcode_has_failed() {
    let mut dns = Dns::new(checked(), [1, 2], |n, _| Some(if n == 1 { REFUSED } else { NOERROR }));
    dns.idle(Duration::from_secs(5));
    assert_eq!([1, 2].map(|n| dns.pool.state(n)), ["down", "up"]);
    assert_eq!(dns.traffic(300), all_answered(300), "not one query went there");
    let mut settings = checked();
    settings.health.rcodes = vec![0, 5];
    let mut dns =
        Dns::new(settings, [1, 2], |n, is_check| Some(if n == 1 && is_check { REFUSED } else { NOERROR }));
    dns.idle(Duration::from_secs(5));
    assert_eq!([1, 2].map(|n| dns.pool.state(n)), ["up", "up"]);
    assert!(!dns.is_ignored());
}

#[test]
fn answers_to_clients_do_not_bring_back_a_server_whose_checks_are_refused() {
    let mut dns = Dns::new(checked(), [1, 2], |_, _| Some(NOERROR));
    dns.traffic(100);
    assert_eq!([1, 2].map(|n| dns.pool.state(n)), ["up", "up"]);
    dns.answering = |n, is_check| Some(if n == 1 && is_check { SERVFAIL } else { NOERROR });
    dns.idle(Duration::from_secs(3)); // a server that answers clients is not checked
    dns.traffic(500);
    assert_eq!([1, 2].map(|n| dns.pool.state(n)), ["down", "up"]);
    dns.answering = |_, _| Some(NOERROR);
    dns.traffic(500);
    assert_eq!([1, 2].map(|n| dns.pool.state(n)), ["up", "up"]);
}

/// Server 1 answers at once, with this RCODE; server 2 takes 30 ms. A query each 2 ms for 3 s. Gives the
/// share of answers of server 1, and its states.
fn beside_a_slow_one(settings: DatagramSettings, rcode: u8) -> (f64, Vec<&'static str>) {
    let mut pool = Bench::new(settings, 16, [1, 2]);
    let (mut later, mut counts) = (std::collections::VecDeque::new(), [0; 2]);
    for number in 0..1_500u16 {
        pool.now += 2 * MS;
        let mut sent = pool.ask(client(number % 100), &query(number));
        while let Some(way) = sent.pop() {
            if pool.is_front(way.socket) {
                continue;
            }
            let mut bytes = way.bytes.clone();
            bytes[2] |= 0x80;
            if way.to == server(1) {
                bytes[3] = rcode;
                counts[0] += 1;
                sent.extend(pool.turn(&[way.answered(&bytes)]));
            } else {
                later.push_back((pool.now + 30 * MS, way.answered(&bytes)));
            }
        }
        while later.front().is_some_and(|(at, _)| *at <= pool.now) {
            let (_, answer) = later.pop_front().unwrap();
            counts[1] += 1;
            pool.turn(&[answer]);
        }
    }
    let states = pool.states().into_iter().filter(|(n, _)| *n == 1).map(|(_, state)| state);
    (f64::from(counts[0]) / f64::from(counts[0] + counts[1]), states.collect())
}

#[test]
fn a_server_that_fails_at_once_does_not_attract_the_queries() {
    for policy in PolicyKind::ALL {
        for rcode in [SERVFAIL, REFUSED] {
            let settings = DatagramSettings { policy, ..settings(Protocol::Dns) };
            let (share, states) = beside_a_slow_one(settings, rcode);
            assert!(share < 0.02, "{policy}: {share}");
            assert_eq!(states, ["suspect"], "{policy}");
        }
    }
    let limited = DatagramSettings { max_outstanding: Some(Limit::Fixed(16)), ..settings(Protocol::Dns) };
    let (share, _) = beside_a_slow_one(limited, SERVFAIL);
    assert!(share < 0.02, "with a limit: {share}");
}

#[test]
fn a_server_that_answers_at_once_and_well_does_attract_them() {
    let (share, states) = beside_a_slow_one(settings(Protocol::Dns), NOERROR);
    assert!(share > 0.8 && states.is_empty(), "{share}, {states:?}");
}

#[test]
fn when_all_servers_fail_every_query_all_are_used() {
    let mut dns = Dns::new(settings(Protocol::Dns), [1, 2, 5], |_, _| Some(SERVFAIL));
    let seen = dns.traffic(1_000);
    assert_eq!(seen, HashMap::from([(SERVFAIL, 1_000)]));
    let counts = dns.pool.stats().servers.iter().map(|server| server.common.failed_answers.get());
    let counts: Vec<u64> = counts.take(3).collect();
    assert!(counts.iter().all(|count| *count > 250) && counts.iter().sum::<u64>() == 1_000, "{counts:?}");
    assert_eq!([1, 2, 5].map(|n| dns.pool.state(n)), ["up"; 3]);
}
