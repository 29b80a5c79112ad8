//! `affinity: client`: a client's datagrams stay with one server as long as its flow lasts.

use proptest::prelude::*;

use super::bench::*;
use super::model::{play, turns};
use super::*;
use crate::pool::order::Order;

fn flows() -> DatagramSettings {
    DatagramSettings { affinity: Affinity::Client, replies: None, ..settings(Protocol::Datagram) }
}

fn pool(ports: u16, servers: impl IntoIterator<Item = u16>) -> Bench {
    Bench::new(flows(), ports, servers)
}

/// A flow that its server has answered.
fn open(pool: &mut Bench, n: u16) -> Sent {
    let way = pool.forwarded(client(n), b"hello");
    assert_eq!(pool.turn(&[way.answered(b"hello too")])[0].to, client(n));
    way
}

fn live(pool: &Bench) -> u64 {
    pool.stats().flows.get()
}

#[test]
fn a_flow_goes_to_one_server_both_ways_as_often_as_both_like() {
    let mut pool = pool(4, [1, 2, 3]);
    let ways = [1, 2, 3].map(|n| open(&mut pool, n));
    assert_eq!([1, 2, 3].map(|n| pool.queue(n)), [1; 3], "each server has a flow");
    for round in 0..20 {
        for (n, way) in (1..).zip(&ways) {
            let sent = pool.forwarded(client(n), b"more");
            assert_eq!((sent.socket, sent.to), (way.socket, way.to), "round {round}");
            let sent = pool.turn(&vec![way.answered(b"much more"); 5]);
            assert_eq!(sent.len(), 5, "round {round}");
            assert!(sent.iter().all(|sent| sent.to == client(n)));
        }
    }
    assert_eq!((live(&pool), pool.stats().flows_opened.get(), pool.stats().forwarded.get()), (3, 3, 63));
}

#[test]
fn replies_are_bounded_where_that_is_wanted() {
    let mut pool = Bench::new(DatagramSettings { replies: Some(2), ..flows() }, 2, [1]);
    let way = pool.forwarded(client(1), b"hello");
    assert_eq!(pool.turn(&vec![way.answered(b"hello too"); 5]).len(), 2);
    pool.forwarded(client(1), b"more");
    pool.forwarded(client(1), b"more");
    assert_eq!(pool.turn(&vec![way.answered(b"much more"); 5]).len(), 4);
    assert_eq!(pool.dropped(DropReason::Unasked), 4);
}

#[test]
fn a_flow_ends_when_neither_side_has_sent_for_long() {
    let mut pool = pool(2, [1]);
    let way = open(&mut pool, 1);
    for is_client in [true, false, true] {
        pool.pass(IDLE - MS);
        let sent = if is_client { pool.ask(client(1), b"more") } else { pool.turn(&[way.answered(b"more")]) };
        assert_eq!((sent.len(), live(&pool)), (1, 1));
    }
    pool.pass(IDLE);
    assert_eq!(live(&pool), 0);
    pool.check_rest();
    // The quarantine is not over: the datagram is still the client's. Later it is dropped.
    assert_eq!(pool.turn(&[way.answered(b"late")])[0].to, client(1));
    pool.pass(HOLD);
    assert_eq!(pool.turn(&[way.answered(b"late")]), []);
    assert_eq!((pool.stats().late.get(), pool.dropped(DropReason::Late)), (1, 1));
}

#[test]
fn an_unanswered_flow_keeps_its_server_while_its_client_sends() {
    let mut pool = pool(8, [1, 2, 3]);
    let way = pool.forwarded(client(1), b"hello?");
    for round in 0..40 {
        pool.pass(50 * MS);
        let sent = pool.forwarded(client(1), b"hello?");
        assert_eq!((sent.socket, sent.to), (way.socket, way.to), "round {round}");
    }
    assert_eq!((live(&pool), pool.stats().flows_opened.get()), (1, 1));
    // Without a datagram within a timeout it ends at the end of the next one.
    pool.pass(TIMEOUT * 2);
    assert_eq!(live(&pool), 0);
    pool.check_rest();
}

#[test]
fn an_unanswered_flow_rests_as_one_that_may_still_be_answered() {
    let mut pool = pool(2, [1]);
    pool.forwarded(client(1), b"hello?");
    pool.pass(TIMEOUT);
    assert_eq!(live(&pool), 0);
    pool.check_rest();
    pool.pass(TIMEOUT * 2 - MS);
    assert_eq!(pool.ask(client(2), b"hello"), []);
    pool.pass(MS);
    pool.forwarded(client(2), b"hello");
}

/// The `n`-th port of the client at this address.
fn at(ip: u8, n: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, ip], 1_000 + n))
}

/// Opens flows from one address, which the server answers; the number that were admitted.
fn open_many(pool: &mut Bench, worker: usize, ip: u8, ports: std::ops::Range<u16>) -> usize {
    ports
        .filter(|&n| {
            let sent = pool.turn_of(worker, &[In::new(0, at(ip, n), b"hello")]);
            let answers: Vec<_> = sent.iter().map(|way| way.answered(b"hello too")).collect();
            !pool.turn_of(worker, &answers).is_empty()
        })
        .count()
}

#[test]
fn a_source_has_its_number_of_flows_at_all_workers_together() {
    let limited = DatagramSettings { flows_per_source: Some(20), workers: 2, ..flows() };
    let mut pool = Bench::new(limited, 64, [1, 2]);
    let first = open_many(&mut pool, 0, 1, 0..15);
    let second = open_many(&mut pool, 1, 1, 15..60);
    assert_eq!((first, second, pool.refused(DropReason::FlowsPerSource)), (15, 5, 40));
    assert_eq!(open_many(&mut pool, 0, 2, 0..20), 20, "another source");
    // Its open flows continue, and when they have ended the source gets new ones.
    assert_eq!(pool.ask(at(1, 3), b"more").len(), 1);
    pool.pass(IDLE);
    assert_eq!(open_many(&mut pool, 1, 1, 100..130), 20);
}

#[test]
fn without_a_number_a_source_has_a_tenth_of_the_table() {
    let mut pool = pool(200, [1, 2]);
    assert_eq!(open_many(&mut pool, 0, 1, 0..100), 40, "of 400 pairs");
    let mut small = Bench::new(flows(), 20, [1]);
    assert_eq!(open_many(&mut small, 0, 1, 0..20), 16, "but no fewer than 16, of 20 pairs");
}

#[test]
fn at_a_full_table_the_source_that_holds_most_gives_way() {
    let idle_timeout = Duration::from_secs(3_600);
    let unlimited = DatagramSettings { flows_per_source: Some(1_000), idle_timeout, ..flows() };
    let mut pool = Bench::new(unlimited, 64, [1]);
    let quiet = open_many(&mut pool, 0, 1, 0..2);
    assert_eq!((quiet, open_many(&mut pool, 0, 2, 0..100)), (2, 54), "an eighth stays free");
    // Quiet sources come one after the other: each is served, and a flow of the large one ends for it.
    for ip in 10..40 {
        assert_eq!(open_many(&mut pool, 0, ip, 0..1), 1, "source {ip}");
        pool.pass(HOLD.max(TIMEOUT * 2));
        let kept = (0..2).filter(|&n| pool.ask(at(1, n), b"more").len() == 1).count();
        assert_eq!((kept, pool.stats().flows_opened.get()), (2, 57 + u64::from(ip) - 10), "source {ip}");
    }
}

#[test]
fn unanswered_flows_of_the_source_that_holds_most_give_way() {
    let unlimited = DatagramSettings { flows_per_source: Some(1_000), ..flows() };
    let mut pool = Bench::new(unlimited, 64, [1]);
    for n in 0..100 {
        pool.ask(at(1, n), b"junk");
    }
    assert_eq!(pool.stats().flows_opened.get(), 32, "half of the ports");
    for ip in 2..10 {
        assert_eq!(open_many(&mut pool, 0, ip, 0..1), 1, "source {ip}");
    }
    assert!(pool.refused(DropReason::FlowsFull) == 68 && live(&pool) == 32, "{}", live(&pool));
}

#[test]
fn unanswered_flows_have_at_most_half_of_a_servers_ports() {
    let mut pool = pool(4, [1]);
    pool.forwarded(client(1), b"hello?");
    pool.forwarded(client(2), b"hello?");
    assert_eq!(pool.ask(client(3), b"hello?"), []);
    assert_eq!(pool.refused(DropReason::FlowsFull), 1);
    pool.pass(TIMEOUT * 2);
    assert_eq!(pool.ask(client(3), b"hello?"), [], "those that rest unanswered count too");
    pool.pass(TIMEOUT);
    open(&mut pool, 3);
    pool.forwarded(client(4), b"hello?");
    pool.forwarded(client(5), b"hello?");
    assert_eq!(pool.ask(client(6), b"hello?"), []);
    assert_eq!(pool.refused(DropReason::FlowsFull), 3);
}

#[test]
fn a_full_table_refuses_and_answered_flows_stay() {
    let mut pool = pool(2, [1]);
    let ways = [1, 2].map(|n| open(&mut pool, n));
    for n in 3..20 {
        assert_eq!(pool.ask(client(n), b"hello?"), []);
    }
    assert_eq!((pool.refused(DropReason::NoPort), pool.queue(1)), (17, 2));
    for (n, way) in (1..).zip(&ways) {
        assert_eq!(pool.forwarded(client(n), b"more").socket, way.socket);
    }
}

#[test]
fn a_flow_whose_server_has_moved_is_picked_anew_at_its_next_datagram() {
    let mut pool = pool(2, [1, 2]);
    let ways = [1, 2].map(|n| open(&mut pool, n));
    let (gone, stays) = (usize::from(ways[0].to != server(1)), usize::from(ways[0].to == server(1)));
    pool.rename(1, [2]);
    assert_eq!((pool.state(1), pool.queue(1)), ("draining", 1), "it waits for its flow");
    assert_eq!(pool.turn(&[ways[gone].answered(b"a last word")]).len(), 1);
    assert_eq!(pool.forwarded(client(gone as u16 + 1), b"more").to, server(2));
    assert_eq!(pool.forwarded(client(stays as u16 + 1), b"more").socket, ways[stays].socket);
    pool.pass(50 * MS);
    assert_eq!((pool.slot(1), pool.queue(2)), (None, 2));
}

#[test]
fn a_flow_whose_server_is_down_is_picked_anew() {
    let mut settings = flows();
    (settings.health.rules.fall, settings.health.interval) = (1, 100 * MS);
    let mut pool = Bench::new(settings, 64, [1, 2]);
    let ways = [1, 2].map(|n| open(&mut pool, n));
    let well = 1 + u16::from(ways[0].to != server(2));
    // Server 1 answers no new flow, and server 2 answers its old one.
    for n in 10..26 {
        let way = pool.forwarded(client(well), b"more");
        pool.turn(&[way.answered(b"yes")]);
        let sent = pool.ask(client(n), b"hello?");
        let answers: Vec<_> =
            sent.iter().filter(|way| way.to == server(2)).map(|way| way.answered(b"yes")).collect();
        pool.turn(&answers);
        pool.pass(TIMEOUT / 2);
    }
    pool.pass(TIMEOUT * 2);
    assert_eq!(pool.state(1), "down");
    pool.ask(client(20), b"hello?"); // what it may prove itself on, if it is its time
    for n in [1, 2] {
        assert_eq!(pool.forwarded(client(n), b"more").to, server(2));
    }
}

/// The flow was answered, but its last datagram was not: the answer may come for as long as to any other.
#[test]
fn a_pair_whose_flow_was_picked_anew_rests_as_if_it_were_unanswered() {
    let mut pool = Bench::new(DatagramSettings { timeout: Duration::from_secs(1), ..flows() }, 2, [1]);
    let way = open(&mut pool, 1);
    open(&mut pool, 9); // keeps the server
    pool.forwarded(client(1), b"a question");
    pool.rename(1, [2]);
    assert_eq!(pool.forwarded(client(1), b"more").to, server(2));
    pool.want(wanted([1, 2]));
    pool.pass(HOLD);
    for n in 2..4 {
        pool.ask(client(n), b"hello?");
    }
    let delivered = pool.turn(&[way.answered(b"an answer")]);
    assert_eq!(delivered.iter().map(|sent| sent.to).collect::<Vec<_>>(), [client(1)]);
}

#[test]
fn flows_of_one_way_datagrams_keep_their_server() {
    let mut pool = Bench::new(DatagramSettings { replies: Some(0), ..flows() }, 4, [1, 2]);
    let ways = [1, 2].map(|n| pool.forwarded(client(n), b"a line"));
    assert_ne!(ways[0].to, ways[1].to);
    for _ in 0..5 {
        pool.pass(IDLE / 2);
        for (n, way) in (1..).zip(&ways) {
            assert_eq!(pool.forwarded(client(n), b"a line").to, way.to);
        }
    }
    assert_eq!(pool.turn(&[ways[0].answered(b"thanks")]), []);
    assert_eq!(pool.dropped(DropReason::Unasked), 1);
    pool.pass(IDLE);
    pool.check_rest();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_a_server_sends_reaches_the_client_of_the_flow_or_nobody(
        turns in turns(5, 2),
        ports in 1..4u16,
        replies in prop_oneof![Just(None), Just(Some(0)), Just(Some(2))],
        seed: u64,
    ) {
        let settings = DatagramSettings { replies, workers: 2, ..flows() };
        let bound = replies.map(|replies| replies as usize);
        let pool = Bench::with_seed(seed, settings, ports, [1, 2]);
        play(pool, &turns, bound, |_, way, now| now >= way.at + TIMEOUT * 2)?;
    }
}

#[test]
fn a_flow_without_an_answer_leaves_its_pair_in_quarantine_for_hold_at_least() {
    let (timeout, hold) = (Duration::from_millis(500), Duration::from_secs(6));
    let idle_timeout = Duration::from_secs(60);
    let mut pool =
        Bench::new(DatagramSettings { timeout, idle_timeout, hold: Some(hold), ..flows() }, 4, [1]);
    for n in 1..=3 {
        open(&mut pool, n);
    }
    let way = pool.forwarded(client(4), b"hello");
    pool.pass(timeout + hold - Duration::from_millis(1));
    assert_eq!(pool.ask(client(5), b"hello"), []);
    assert_eq!(pool.refused(DropReason::NoPort), 1);
    assert_eq!(pool.turn(&[way.answered(b"hello too")])[0].to, client(4), "late, and to its own client");
    pool.pass(Duration::from_millis(1));
    assert_eq!(pool.forwarded(client(5), b"hello").socket, way.socket);
}

#[test]
fn a_late_answer_to_a_flow_that_has_moved_reaches_no_other_client() {
    let mut pool = pool(1, [1, 2]);
    let way = pool.forwarded(client(1), b"hello?");
    let (old, now) = (pool.slot(1).filter(|_| way.to == server(1)).map_or(2, |_| 1), pool.now);
    pool.workers[0].order(now, old, Order::Disable).unwrap();
    let moved = pool.forwarded(client(1), b"hello?");
    assert_ne!(moved.to, way.to);
    assert_eq!(pool.turn(&[moved.answered(b"hello too")])[0].to, client(1));
    let now = pool.now;
    pool.workers[0].order(now, old, Order::Enable).unwrap();
    pool.pass(TIMEOUT * 3 - 20 * MS);
    pool.ask(client(2), b"hello?");
    let sent = pool.turn(&[way.answered(b"late")]);
    assert!(sent.iter().all(|sent| sent.to == client(1)), "an answer to client 1: {sent:?}");
    pool.pass(30 * MS);
    assert_eq!(pool.forwarded(client(2), b"hello?").to, way.to);
}
