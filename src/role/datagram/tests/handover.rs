//! Handover: a pool continues with the state of its predecessor.

use super::bench::*;
use super::*;
use crate::pool::order::Order;
use crate::pool::part::{Part, Unreadable};

fn flows() -> DatagramSettings {
    DatagramSettings { affinity: Affinity::Client, replies: None, ..settings(Protocol::Datagram) }
}

/// The same pool in another process, with these servers; of what the old one leaves, the bytes.
fn successor(
    old: &Bench,
    settings: DatagramSettings,
    ports: u16,
    servers: impl IntoIterator<Item = u16>,
) -> Bench {
    let mut new = Bench::with_seed(99, settings, ports, servers);
    new.now = new.now.max(old.now);
    import(&mut new, &exported(old)).unwrap();
    new
}

fn exported(old: &Bench) -> Vec<Part> {
    old.workers.iter().map(|worker| worker.export(old.now)).collect()
}

fn import(new: &mut Bench, parts: &[Part]) -> Result<(), Unreadable> {
    let now = new.now;
    let outcome = import_from(new, parts, &SocketOrigins::default());
    new.now = now;
    outcome
}

fn import_from(new: &mut Bench, parts: &[Part], origins: &SocketOrigins) -> Result<(), Unreadable> {
    let now = new.now;
    let outcome = DatagramRole::import(&mut new.workers.iter_mut().collect::<Vec<_>>(), now, parts, origins);
    new.check();
    outcome
}

/// The same pool in another process that reads the ports of the old one too: from this one on, at each of the
/// families.
fn heir(old: &Bench, ports: u16, servers: impl IntoIterator<Item = u16>, first: u16) -> Bench {
    let mut new = Bench::with_seed(99, flows(), ports, servers);
    new.now = new.now.max(old.now);
    let origins = SocketOrigins {
        fronts: (0..4).map(|id| ((0, id), (0, id))).collect(),
        ports: vec![PortOrigin { worker: 0, v4: first, v6: first }],
    };
    import_from(&mut new, &exported(old), &origins).unwrap();
    new
}

#[test]
fn flows_keep_their_ports_where_the_ports_are_handed_over() {
    let mut old = Bench::new(flows(), 16, [1, 2, 3]);
    let mut ways: Vec<Sent> = vec![];
    for n in 0..12 {
        let way = old.forwarded(client(n), b"hello");
        old.turn(&[way.answered(b"hello too")]);
        ways.push(way);
    }
    let unanswered = old.forwarded(client(99), b"hello?");
    let mut new = heir(&old, 24, [3, 2, 1], 8);
    assert_eq!(new.stats().flows.get(), 13, "at once");
    assert_eq!([1, 2, 3].map(|n| new.queue(n)), [1, 2, 3].map(|n| old.queue(n)));
    // The server speaks first.
    let (before, after) =
        ([1, 2, 3].map(|n| old.ports_to(server(n))), [1, 2, 3].map(|n| new.ports_to(server(n))));
    let moved = |way: &Sent| {
        let n = [1, 2, 3].iter().position(|&n| server(n) == way.to).unwrap();
        Sent { socket: after[n].start + 8 + (way.socket - before[n].start), ..way.clone() }
    };
    assert_eq!(new.turn(&[moved(&unanswered).answered(b"late")])[0].to, client(99));
    for (n, way) in (0..).zip(&ways) {
        assert_eq!(new.turn(&[moved(way).answered(b"a push")])[0].to, client(n));
        let more = new.forwarded(client(n), b"more");
        assert_eq!((more.to, more.socket), (way.to, moved(way).socket), "client {n}");
    }
    assert_eq!(new.stats().flows.get(), 13);
    let mut third = heir(&new, 24, [1, 2, 3], 0);
    for (n, way) in (0..).zip(&ways) {
        let more = third.forwarded(client(n), b"more");
        assert_eq!((more.to, more.socket), (way.to, moved(way).socket), "client {n}");
    }
    third.pass(IDLE * 2);
    assert_eq!(third.stats().flows.get(), 0);
    third.check_rest();
}

#[test]
fn a_pair_in_quarantine_stays_its_client_s_in_the_successor() {
    let mut old = Bench::new(flows(), 8, [1]);
    let way = old.forwarded(client(1), b"hello?");
    old.pass(TIMEOUT + 20 * MS); // the flow has ended unanswered, and its pair rests
    assert_eq!(old.stats().flows.get(), 0);
    let mut new = heir(&old, 8, [1], 0);
    assert_ne!(new.forwarded(client(2), b"hello").socket, way.socket);
    assert_eq!(new.turn(&[way.answered(b"late")])[0].to, client(1));
}

#[test]
fn datagrams_for_clients_of_a_server_that_had_left_reach_nobody() {
    let mut old = Bench::new(flows(), 4, [1, 2]);
    let way = open_at(&mut old, 1);
    old.want(wanted([2]));
    old.pass(TIMEOUT * 2);
    assert!(old.slot(1).is_none(), "it has left");
    let mut new = heir(&old, 4, [1, 2], 0);
    for n in 0..4 {
        if let Some(sent) = new.turn(&[In::new(0, client(n), b"hello")]).first() {
            assert_eq!(sent.to, server(2));
        }
    }
    assert!(new.turn(&[way.answered(b"late")]).is_empty());
}

/// A flow at this server.
fn open_at(pool: &mut Bench, n: u16) -> Sent {
    for client in (0..).map(client) {
        let way = pool.forwarded(client, b"hello");
        if way.to == server(n) {
            return way;
        }
    }
    unreachable!("one of the first clients")
}

/// A flow that its server has answered; where that is.
fn open(pool: &mut Bench, n: u16) -> SocketAddr {
    let way = pool.forwarded(client(n), b"hello");
    assert_eq!(pool.turn(&[way.answered(b"hello too")])[0].to, client(n));
    way.to
}

#[test]
fn clients_come_back_to_their_servers() {
    let mut old = Bench::new(flows(), 16, [1, 2, 3]);
    let servers: Vec<_> = (0..12).map(|n| open(&mut old, n)).collect();
    let mut new = successor(&old, flows(), 16, [1, 2, 3]);
    // In another order, so that chance would choose otherwise.
    for n in (0..12).rev() {
        let way = new.forwarded(client(n), b"more");
        assert_eq!(way.to, servers[usize::from(n)], "client {n}");
        assert_eq!(new.turn(&[way.answered(b"much more")])[0].to, client(n));
    }
    assert_eq!([1, 2, 3].map(|n| new.queue(n)), [1, 2, 3].map(|n| old.queue(n)));
    assert_eq!(new.stats().flows.get(), 12);
}

#[test]
fn flows_that_were_answered_come_back_all_at_once() {
    // Unanswered ones have at most half of a server's ports.
    let mut old = Bench::new(flows(), 4, [1]);
    for n in 0..4 {
        open(&mut old, n);
    }
    let mut new = successor(&old, flows(), 4, [1]);
    (0..4).for_each(|n| assert_eq!(new.forwarded(client(n), b"more").to, server(1)));
    new.pass(TIMEOUT * 2);
    assert_eq!(new.stats().flows.get(), 4, "they do not wait for an answer");
    new.pass(IDLE);
    assert_eq!(new.stats().flows.get(), 0);
    new.check_rest();
}

#[test]
fn a_flow_that_was_never_answered_is_treated_so() {
    let mut old = Bench::new(flows(), 4, [1]);
    old.forwarded(client(1), b"hello?");
    let mut new = successor(&old, flows(), 4, [1]);
    new.forwarded(client(1), b"hello?");
    new.pass(TIMEOUT * 2);
    assert_eq!(new.stats().flows.get(), 0);
    new.check_rest();
}

#[test]
fn a_server_that_the_successor_does_not_desire_drains() {
    let mut old = Bench::new(flows(), 8, [1]);
    for n in 0..3 {
        open(&mut old, n);
    }
    let mut new = successor(&old, flows(), 8, [2]);
    new.pass(flows().idle_timeout / 2);
    assert_eq!(new.state(1), "draining");
    (0..3).for_each(|n| assert_eq!(new.forwarded(client(n), b"more").to, server(1)));
    assert_eq!(new.forwarded(client(9), b"hello").to, server(2));
    new.pass(flows().drain_timeout);
    assert_eq!((new.slot(1), new.states()), (None, vec![(1, "left")]));
}

#[test]
fn a_drain_goes_on_at_the_successor_and_ends_when_it_would_have_ended() {
    let settings = DatagramSettings { drain_timeout: Duration::from_secs(3), ..flows() };
    let mut old = Bench::new(settings.clone(), 8, [1]);
    open(&mut old, 0);
    old.want(wanted([2]));
    old.pass(Duration::from_secs(1));
    let mut new = successor(&old, settings.clone(), 8, [2]);
    assert_eq!(new.forwarded(client(0), b"more").to, server(1));
    let mut third = successor(&new, settings.clone(), 8, [2]);
    third.pass(Duration::from_millis(1_500));
    assert_eq!(third.forwarded(client(0), b"more").to, server(1));
    third.pass(Duration::from_millis(500));
    assert_eq!(third.forwarded(client(0), b"more").to, server(2));
    // One that desires the server again has it up.
    let mut back = successor(&new, settings, 8, [1, 2]);
    assert_eq!(back.state(1), "up");
    assert_eq!(back.forwarded(client(0), b"more").to, server(1));
    back.pass(Duration::from_secs(4));
    assert_eq!(back.state(1), "up");
}

#[test]
fn flows_of_a_server_that_is_down_or_has_moved_are_picked_anew() {
    let mut old = Bench::new(flows(), 8, [1]);
    open(&mut old, 0);
    old.rename(1, [2]);
    let mut disabled = Bench::new(flows(), 8, [1]);
    open(&mut disabled, 0);
    disabled.workers[0].order(disabled.now, 1, Order::Disable).unwrap();
    for old in [&old, &disabled] {
        let mut new = successor(old, flows(), 8, [2]);
        assert_eq!(new.forwarded(client(0), b"more").to, server(2));
    }
}

#[test]
fn who_does_not_come_within_the_idle_time_out_is_forgotten() {
    let mut old = Bench::new(flows(), 8, [1]);
    for n in 0..2 {
        open(&mut old, n);
    }
    let mut new = successor(&old, flows(), 8, [1, 2]);
    new.pass(IDLE - 10 * MS);
    assert_eq!(new.forwarded(client(0), b"more").to, server(1));
    new.pass(20 * MS);
    assert_eq!(new.workers[0].export_flows(new.now).len(), 1, "the one that has come");
    assert_eq!(new.forwarded(client(1), b"more").to, server(2), "the shorter queue");
}

#[test]
fn who_has_not_come_yet_is_handed_on() {
    let mut old = Bench::new(flows(), 8, [1]);
    for n in 0..3 {
        open(&mut old, n);
    }
    let mut second = successor(&old, flows(), 8, [1, 2]);
    second.forwarded(client(0), b"more");
    let mut third = successor(&second, flows(), 8, [1, 2]);
    (0..3).for_each(|n| assert_eq!(third.forwarded(client(n), b"more").to, server(1)));
}

#[test]
fn a_client_is_known_by_the_front_and_the_address_that_it_asks() {
    let mut old = Bench::new(flows(), 8, [1]);
    let asks = |last: u8| In {
        local_ip: Some(std::net::IpAddr::from([192, 0, 2, last])),
        ..In::new(WILDCARD, client(1), b"hello")
    };
    for last in [7, 8] {
        let way = old.turn(&[asks(last)]).remove(0);
        old.turn(&[way.answered(b"hello too")]);
    }
    let mut new = successor(&old, flows(), 8, [1, 2]);
    new.turn(&[asks(9)]); // another flow, and another number
    for last in [8, 7] {
        let way = new.turn(&[asks(last)]).remove(0);
        assert_eq!(way.to, server(1));
        let sent = new.turn(&[way.answered(b"more")]).remove(0);
        assert_eq!((sent.socket, sent.source_ip), (WILDCARD, asks(last).local_ip));
    }
}

#[test]
fn without_affinity_there_is_nothing_to_hand_over() {
    let mut old = Bench::new(settings(Protocol::Datagram), 8, [1]);
    old.forwarded(client(1), b"a question");
    assert_eq!(old.workers[0].export_flows(old.now), []);
    assert_eq!(Bench::new(settings(Protocol::Dns), 8, [1]).workers[0].export_flows(old.now), []);
}

#[test]
fn flows_are_bounded() {
    let (mut old, mut new) = (Bench::new(flows(), 2, [1]), Bench::new(flows(), 2, [1]));
    open(&mut old, 1);
    let one = old.workers[0].export_flows(old.now)[0];
    let many = (0..100).map(|n| Flow { client: client(n), lease: None, ..one }).collect();
    new.workers[0].import_flows(new.now, many, vec![]);
    let pairs = 2 * flows().servers_max;
    assert_eq!(new.workers[0].export_flows(new.now).len(), pairs);
}

#[test]
fn what_is_known_of_servers_stays_known() {
    let settings = settings(Protocol::Datagram);
    let mut old = Bench::new(settings.clone(), 64, [1, 2, 4]);
    old.workers[0].order(old.now, 4, Order::Disable).unwrap();
    old.workers[0].order(old.now, 2, Order::Weight(5)).unwrap();
    old.refuse(0, server(1), 1);
    old.pass(20 * MS);
    assert_eq!(old.state(1), "suspect");
    let mut new = successor(&old, settings.clone(), 64, [1, 2, 4]);
    assert_eq!([1, 2, 4].map(|n| new.state(n)), ["suspect", "up", "disabled"]);
    assert_eq!(new.workers[0].poll_event(), None, "nothing has happened");
    for n in 0..20 {
        assert_eq!(new.forwarded(client(n), b"a question").to, server(2));
    }
    // One that comes later, too.
    let mut later = successor(&old, settings, 64, [2]);
    later.want(wanted([2, 4]));
    assert_eq!(later.state(4), "disabled");
}

#[test]
fn orders_of_servers_that_are_not_there_reach_the_successor() {
    let settings = DatagramSettings { timeout: Duration::from_secs(2), ..settings(Protocol::Datagram) };
    let mut old = Bench::new(settings.clone(), 64, [1, 2]);
    old.forwarded(client(1), b"a question");
    old.want(vec![]);
    let leaving = if old.slot(1).is_some() { 1 } else { 2 };
    for id in [leaving, 3 - leaving] {
        assert_eq!(old.workers[0].order(old.now, id, Order::Disable), Ok(()), "server {id}");
    }
    // One process takes both in before it hears of them, another one later.
    let early = successor(&old, settings.clone(), 64, [1, 2]);
    let mut late = successor(&old, settings, 64, []);
    late.want(wanted([1, 2]));
    for new in [&early, &late] {
        assert_eq!([1, 2].map(|n| new.state(n)), ["disabled"; 2]);
    }
}

#[test]
fn the_state_of_another_version_is_refused_and_changes_nothing() {
    let mut old = Bench::new(flows(), 8, [1]);
    open(&mut old, 1);
    old.workers[0].order(old.now, 1, Order::Disable).unwrap();
    let mut new = Bench::with_seed(99, flows(), 8, [1]);
    let [part] = &exported(&old)[..] else { panic!("one worker") };
    let newer = Part { version: part.version + 1, ..part.clone() };
    assert_eq!(import(&mut new, &[newer]), Err(Unreadable::Version));
    let cut = Part { bytes: part.bytes[1..].to_vec(), ..part.clone() };
    assert_eq!(import(&mut new, &[part.clone(), cut]), Err(Unreadable::Garbled));
    assert_eq!((new.state(1), new.workers[0].export_flows(new.now)), ("up", vec![]));
    let text = Unreadable::Version.to_string();
    assert!(text.starts_with("cannot take over: ") && text.ends_with("restart without --takeover"), "{text}");
}
