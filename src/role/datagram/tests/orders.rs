//! What an operator orders, and a worker that makes way for another process.

use super::bench::*;
use super::*;
use crate::pool::order::Order;

fn slow(affinity: Affinity) -> DatagramSettings {
    let replies = (affinity == Affinity::None).then_some(1);
    DatagramSettings { affinity, replies, timeout: Duration::from_secs(2), ..settings(Protocol::Datagram) }
}

fn order(pool: &mut Bench, n: u16, order: Order) {
    let now = pool.now;
    assert_eq!(pool.workers[0].order(now, n.into(), order), Ok(()));
}

/// Where the requests of twenty clients go; all are answered.
fn chosen(pool: &mut Bench) -> Vec<SocketAddr> {
    let ways: Vec<_> = (20..40).map(|n| pool.forwarded(client(n), b"question")).collect();
    for way in &ways {
        assert_eq!(pool.turn(&[way.answered(b"answer")]).len(), 1);
    }
    let mut servers: Vec<_> = ways.into_iter().map(|way| way.to).collect();
    servers.sort();
    servers.dedup();
    servers
}

#[test]
fn a_drained_or_disabled_server_gets_nothing_new_and_what_it_has_is_answered() {
    for (word, state) in [(Order::Drain, "draining"), (Order::Disable, "disabled")] {
        let mut pool = Bench::new(slow(Affinity::None), 64, [1, 2]);
        let ways = [1, 2].map(|n| pool.forwarded(client(n), b"question"));
        let (to_first, to_second): (Vec<_>, Vec<_>) = ways.into_iter().partition(|way| way.to == server(1));
        order(&mut pool, 1, word);
        assert_eq!((pool.state(1), pool.states()), (state, vec![(1, state)]));
        assert_eq!(chosen(&mut pool), [server(2)], "{word:?}");
        for way in [&to_first[0], &to_second[0]] {
            assert_eq!(pool.turn(&[way.answered(b"answer")]).len(), 1);
        }
        pool.pass(Duration::from_secs(3));
        assert_eq!((pool.state(1), pool.queue(1)), (state, 0), "it stays on the list");
        // Names are looked up again and again: that is no order.
        pool.want(wanted([1, 2]));
        assert_eq!((pool.state(1), chosen(&mut pool)), (state, vec![server(2)]));
        order(&mut pool, 1, Order::Enable);
        assert_eq!(chosen(&mut pool), [server(1), server(2)]);
    }
}

#[test]
fn what_was_ordered_holds_when_a_server_has_left_and_comes_back() {
    let mut pool = Bench::new(slow(Affinity::None), 64, [1, 2]);
    order(&mut pool, 1, Order::Disable);
    order(&mut pool, 2, Order::Weight(4));
    pool.want(vec![]);
    pool.pass(50 * MS);
    assert_eq!((pool.slot(1), pool.slot(2)), (None, None));
    pool.want(wanted([1, 2, 3]));
    assert_eq!((pool.state(1), pool.state(2)), ("disabled", "up"));
    for n in 0..50 {
        pool.forwarded(client(n), b"question");
    }
    assert_eq!((pool.queue(1), pool.queue(2), pool.queue(3)), (0, 40, 10));
    order(&mut pool, 1, Order::Enable);
    assert_eq!(pool.state(1), "up");
}

#[test]
fn a_weight_that_was_ordered_counts_at_once_and_more_than_what_is_wanted() {
    let mut pool = Bench::new(slow(Affinity::None), 64, [1, 2]);
    order(&mut pool, 1, Order::Weight(3));
    pool.want(wanted([1, 2]));
    for n in 0..40 {
        pool.forwarded(client(n), b"question");
    }
    assert_eq!((pool.queue(1), pool.queue(2)), (30, 10));
}

#[test]
fn an_order_for_an_id_that_never_was_there_is_refused() {
    let mut pool = Bench::new(settings(Protocol::Dns), 4, [1]);
    let now = pool.now;
    let mut refused = |id, order| pool.workers[0].order(now, id, order);
    assert_eq!(refused(2, Order::Drain), Err(Refused::UnknownServer));
    assert_eq!(refused(1, Order::Weight(0)), Err(Refused::Weight));
}

#[test]
fn an_order_for_a_server_that_has_left_holds_when_it_returns() {
    let mut pool = Bench::new(slow(Affinity::None), 64, [1, 2]);
    pool.want(vec![]);
    assert_eq!((pool.slot(1), pool.slot(2)), (None, None));
    order(&mut pool, 1, Order::Disable);
    order(&mut pool, 2, Order::Weight(4));
    pool.want(wanted([1, 2, 3]));
    assert_eq!((pool.state(1), pool.state(2)), ("disabled", "up"));
    for n in 0..50 {
        pool.forwarded(client(n), b"question");
    }
    assert_eq!((pool.queue(1), pool.queue(2), pool.queue(3)), (0, 40, 10));
}

#[test]
fn an_order_for_a_server_that_is_about_to_leave_holds_when_it_returns() {
    let mut pool = Bench::new(slow(Affinity::None), 4, [1]);
    let way = pool.forwarded(client(1), b"question");
    pool.want(vec![]);
    order(&mut pool, 1, Order::Enable);
    assert_eq!(pool.state(1), "draining", "it is not desired");
    order(&mut pool, 1, Order::Disable);
    assert_eq!(pool.turn(&[way.answered(b"answer")]).len(), 1, "it finishes what it has");
    pool.pass(50 * MS);
    assert_eq!(pool.slot(1), None);
    pool.want(wanted([1]));
    assert_eq!(pool.state(1), "disabled");
}

#[test]
fn flows_end_at_a_drained_server_and_leave_a_disabled_one() {
    let mut pool = Bench::new(slow(Affinity::Client), 64, [1]);
    let way = pool.forwarded(client(1), b"hello");
    pool.turn(&[way.answered(b"hello too")]);
    pool.want(wanted([1, 2]));
    order(&mut pool, 1, Order::Drain);
    assert_eq!(pool.forwarded(client(1), b"more").to, server(1), "its flow is finished there");
    assert_eq!(pool.forwarded(client(2), b"hello").to, server(2));
    assert_eq!(pool.forwarded(client(3), b"hello").to, server(2));
    order(&mut pool, 1, Order::Disable);
    assert_eq!(pool.forwarded(client(1), b"more").to, server(2));
    order(&mut pool, 1, Order::Enable);
    assert_eq!(pool.forwarded(client(4), b"hello").to, server(1), "it has the fewest");
}

#[test]
fn a_server_that_is_not_wanted_any_more_leaves_also_if_it_was_disabled() {
    for word in [Order::Drain, Order::Disable] {
        let mut pool = Bench::new(slow(Affinity::None), 4, [1, 2]);
        order(&mut pool, 1, word);
        pool.states();
        pool.want(wanted([2]));
        let left = [(1, "draining"), (1, "left")];
        let expected = if word == Order::Drain { &left[1..] } else { &left };
        assert_eq!(pool.states(), expected, "{word:?}");
    }
}

#[test]
fn a_checked_server_that_is_enabled_proves_itself_first() {
    let mut settings = settings(Protocol::Datagram);
    settings.health.check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let mut pool = Bench::new(settings, 4, [1]);
    order(&mut pool, 1, Order::Disable);
    assert_eq!(pool.pass(Duration::from_secs(3)), [], "it is not asked");
    order(&mut pool, 1, Order::Enable);
    assert_eq!(pool.state(1), "suspect");
    let asked = pool.pass(10 * MS);
    pool.turn(&[asked[0].answered(b"pong")]);
    pool.pass(20 * MS);
    assert_eq!(pool.state(1), "up");
}

#[test]
fn a_worker_that_retires_is_idle_when_nothing_is_owed_any_more() {
    for protocol in Protocol::ALL {
        let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        let mut pool = Bench::new(settings(protocol), 4, [1]);
        let ways = [1, 2].map(|n| pool.forwarded(client(n), query));
        pool.workers[0].retire(pool.now);
        assert!(!pool.workers[0].is_idle(pool.now));
        let mut answer = ways[0].bytes.clone();
        answer[2] |= 0x80;
        assert_eq!(pool.turn(&[ways[0].answered(&answer)])[0].to, client(1), "{protocol:?}");
        assert!(!pool.workers[0].is_idle(pool.now));
        // What was read already is served.
        pool.forwarded(client(3), query);
        pool.pass(TIMEOUT + 10 * MS);
        assert!(pool.workers[0].is_idle(pool.now), "{protocol:?}: the others have had their time");
        assert_eq!(pool.workers[0].next_deadline(), None, "{protocol:?}");
    }
}

#[test]
fn a_worker_that_retires_judges_and_asks_nobody() {
    let mut settings = settings(Protocol::Datagram);
    settings.health.check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let mut pool = Bench::new(settings, 4, [1]);
    pool.workers[0].retire(pool.now);
    assert_eq!((pool.pass(Duration::from_secs(3)), pool.states()), (vec![], vec![]));
}

#[test]
fn flows_are_waited_for_while_they_are_in_use_and_no_longer_than_an_answer_may_take() {
    let mut pool = Bench::new(slow(Affinity::Client), 4, [1]);
    let way = pool.forwarded(client(1), b"hello");
    pool.workers[0].retire(pool.now);
    let retired = pool.now;
    assert!(!pool.workers[0].is_idle(pool.now), "it is not answered");
    pool.turn(&[way.answered(b"hello too")]);
    pool.pass(Duration::from_millis(990));
    assert!(!pool.workers[0].is_idle(pool.now));
    pool.pass(20 * MS);
    assert!(pool.workers[0].is_idle(pool.now), "quiet for a second");
    pool.forwarded(client(1), b"more");
    assert!(!pool.workers[0].is_idle(pool.now));
    while pool.now < retired + Duration::from_secs(2) {
        assert_eq!(pool.turn(&[way.answered(b"on and on")]).len(), 1);
        assert!(!pool.workers[0].is_idle(pool.now));
        pool.pass(100 * MS);
    }
    pool.turn(&[way.answered(b"on and on")]);
    assert!(pool.workers[0].is_idle(pool.now), "even if it sends");
}
