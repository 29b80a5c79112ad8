//! Servers that join, change and leave while requests are in flight.

use super::bench::*;
use super::*;

fn pool(protocol: Protocol, servers: impl IntoIterator<Item = u16>) -> Bench {
    Bench::new(settings(protocol), 1, servers)
}

#[test]
fn a_server_that_is_not_wanted_any_more_finishes_what_it_has_and_leaves() {
    let mut pool = Bench::new(
        DatagramSettings { timeout: Duration::from_secs(2), ..settings(Protocol::Datagram) },
        4,
        [1],
    );
    let way = pool.forwarded(client(1), b"question");
    pool.want(wanted([2]));
    assert_eq!((pool.state(1), pool.states()), ("draining", vec![(1, "draining"), (2, "joined")]));
    for n in 2..6 {
        assert_eq!(pool.forwarded(client(n), b"question").to, server(2));
    }
    assert_eq!(pool.turn(&[way.answered(b"answer")])[0].to, client(1));
    pool.pass(50 * MS);
    assert_eq!((pool.states(), pool.slot(1)), (vec![(1, "left")], None));
    assert_eq!(pool.turn(&[way.answered(b"answer")]), []);
    assert_eq!(pool.dropped(DropReason::WrongSource), 1);
}

#[test]
fn a_server_that_is_wanted_again_before_it_has_left_stays() {
    let mut pool = Bench::new(
        DatagramSettings { timeout: Duration::from_secs(2), ..settings(Protocol::Datagram) },
        4,
        [1],
    );
    let way = pool.forwarded(client(1), b"question");
    pool.want(vec![]);
    assert_eq!(pool.ask(client(2), b"question"), []);
    assert_eq!(pool.refused(DropReason::NoServer), 1);
    pool.want(wanted([1]));
    assert_eq!(pool.forwarded(client(2), b"question").to, server(1));
    assert_eq!(pool.turn(&[way.answered(b"answer")])[0].to, client(1));
}

#[test]
fn a_weight_changes_at_once() {
    let mut pool = Bench::new(settings(Protocol::Datagram), 64, [1, 2]);
    let mut servers = wanted([1, 2]);
    servers[0].weight = 3;
    pool.want(servers);
    assert_eq!(pool.states(), []);
    for n in 0..40 {
        pool.forwarded(client(n), b"question");
    }
    assert_eq!((pool.queue(1), pool.queue(2)), (30, 10));
}

#[test]
fn there_is_room_for_servers_max() {
    let mut pool = pool(Protocol::Datagram, [1, 2, 3, 4]);
    pool.shared.want(wanted([1, 2, 3, 4, 5]));
    pool.pass(250 * MS);
    let events: Vec<_> = std::iter::from_fn(|| pool.workers[0].poll_event()).collect();
    assert_eq!(events, [Event::NoRoom { addr: server(5) }]);
    assert_eq!(pool.slot(5), None);
}

#[test]
fn a_server_that_no_port_leads_to_is_told_and_left_out() {
    for protocol in Protocol::ALL {
        let now = Instant::from_nanos(5_000_000_000);
        // Two ports towards IPv4 servers, none towards IPv6.
        let sockets = Sockets { fronts: 0..1, v4: 1..3, v6: 3..3, check_v4: None, check_v6: None };
        let addrs = vec![addr("192.0.2.53:53"), addr("0.0.0.0:20000"), addr("0.0.0.0:20001")];
        let chance = Chance { secret: [7; 16], seed: 1 };
        let (shared, mut workers) =
            DatagramRole::workers(settings(protocol), chance, &[WorkerSockets { sockets, addrs }], now);
        shared.want(wanted([1, 3]));
        workers[0].on_timeout(now, &mut Tx::new(1, 0, 1));
        let events: Vec<_> = std::iter::from_fn(|| workers[0].poll_event()).collect();
        assert_eq!(events, [Event::Joined { id: 1, addr: server(1) }, Event::NoPort { addr: server(3) }]);
    }
}

/// An answer of a server that has left and come back, to a request from before, by a pair that looks like
/// another now.
#[test]
fn what_is_late_reaches_nobody_when_its_server_comes_back_in_another_place() {
    let mut pool = pool(Protocol::Datagram, [1]);
    let late = pool.forwarded(client(1), b"question");
    pool.want(wanted([2])); // the request times out, and server 1 leaves
    assert_eq!(pool.states(), [(1, "draining"), (2, "joined"), (1, "left")]);
    pool.want(wanted([2, 4, 1]));
    let asks: Vec<_> = (2..6).map(|n| In::new(0, client(n), b"question")).collect();
    let ways = pool.turn(&asks);
    assert!(ways.iter().all(|way| way.socket == late.socket));
    assert!(pool.now < Instant::from_nanos(5_000_000_000) + 250 * MS + TIMEOUT * 3);
    for sent in pool.turn(&[late.answered(b"late")]) {
        assert_eq!(sent.to, client(1), "{ways:?}");
    }
}

/// The same where its place is another's by then, although its last request was answered, as it seemed, by
/// what was late of the one before.
#[test]
fn a_place_rests_for_as_long_as_an_answer_may_be_late() {
    let timeout = TIMEOUT * 3;
    let mut pool =
        Bench::new(DatagramSettings { servers_max: 2, timeout, ..settings(Protocol::Datagram) }, 1, [1]);
    let way = pool.forwarded(client(1), b"first");
    pool.want(wanted([1, 2]));
    pool.pass(timeout - 250 * MS - MS);
    let sent = pool.turn(&[In::new(0, client(9), b"question"), In::new(0, client(1), b"second")]);
    assert_eq!(sent.iter().map(|sent| sent.to).collect::<Vec<_>>(), [server(2), server(1)]);
    let second_sent = pool.now;
    pool.shared.want(vec![]);
    pool.pass(MS);
    pool.turn(&[way.answered(b"to the first, late"), sent[0].answered(b"answer")]);
    pool.pass(250 * MS);
    assert!(pool.states().ends_with(&[(1, "left"), (2, "left")]));
    pool.pass(timeout * 2);
    pool.want(wanted([5, 1])); // in this order: 5 looks for a place first
    let asks: Vec<_> = (2..6).map(|n| In::new(0, client(n), b"question")).collect();
    let ways = pool.turn(&asks);
    assert!(pool.now < second_sent + timeout * 3);
    for sent in pool.turn(&[way.answered(b"to the second")]) {
        assert_eq!(sent.to, client(1), "{ways:?}");
    }
}

#[test]
fn nothing_of_a_server_reaches_clients_of_its_successor() {
    let mut pool = Bench::new(DatagramSettings { servers_max: 1, ..settings(Protocol::Datagram) }, 1, [1]);
    let late = pool.forwarded(client(1), b"question");
    pool.want(wanted([2]));
    assert_eq!((pool.slot(1), pool.slot(2)), (None, None), "the place rests");
    assert_eq!(pool.states(), [(1, "draining"), (1, "left")]);
    pool.pass(TIMEOUT * 4);
    assert_eq!(pool.states(), [(2, "joined")]);
    let way = pool.forwarded(client(2), b"question");
    assert_eq!((way.to, way.socket), (server(2), late.socket));
    assert_eq!(pool.turn(&[late.answered(b"late")]), []);
    assert_eq!(pool.dropped(DropReason::WrongSource), 1);
    assert_eq!(pool.turn(&[way.answered(b"answer")])[0].to, client(2));
}

#[test]
fn a_server_that_comes_back_at_once_has_nothing_of_before() {
    let mut pool = pool(Protocol::Datagram, [1]);
    let late = pool.forwarded(client(1), b"question");
    pool.want(vec![]);
    pool.want(wanted([1]));
    assert_eq!(pool.states(), [(1, "draining"), (1, "left"), (1, "joined")]);
    assert_eq!(pool.turn(&[late.answered(b"late")]), []);
    assert_eq!(pool.dropped(DropReason::Late), 1);
    assert_eq!(pool.ask(client(2), b"question"), [], "its pair rests for the one it has served");
    let way = pool.forwarded(client(1), b"question");
    assert_eq!(pool.turn(&[way.answered(b"answer")])[0].to, client(1));
}

#[test]
fn what_a_server_owes_from_before_it_came_back_keeps_its_pair() {
    let mut pool = pool(Protocol::Datagram, [1]);
    let way = pool.forwarded(client(1), b"before");
    pool.want(vec![]);
    pool.want(wanted([1]));
    pool.forwarded(client(1), b"after");
    let answers = [b"one", b"two"].map(|bytes| way.answered(bytes));
    assert_eq!(pool.turn(&answers[..1])[0].to, client(1));
    pool.pass(HOLD);
    assert_eq!(pool.ask(client(2), b"question"), []);
    assert_eq!(pool.turn(&answers[1..])[0].to, client(1));
}

#[test]
fn dns_queries_under_way_end_as_if_their_server_had_stayed() {
    let query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    let mut pool =
        Bench::new(DatagramSettings { timeout: Duration::from_secs(2), ..settings(Protocol::Dns) }, 2, [1]);
    let way = pool.forwarded(client(1), query);
    pool.want(wanted([2]));
    let mut answer = way.bytes.clone();
    answer[2] |= 0x80;
    assert_eq!(pool.turn(&[way.answered(&answer)])[0].bytes[..2], [0, 7]);
    pool.pass(50 * MS);
    assert_eq!(pool.slot(1), None);
    pool.check_rest();
}
