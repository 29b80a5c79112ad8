//! Servers that are removed: their flows stay until they end, or the drain timeout is over.

use super::bench::*;
use super::*;
use crate::pool::order::Order;

const DRAIN: Duration = Duration::from_secs(10);

fn flows() -> DatagramSettings {
    DatagramSettings {
        affinity: Affinity::Client,
        replies: None,
        idle_timeout: Duration::from_secs(5),
        drain_timeout: DRAIN,
        ..settings(Protocol::Datagram)
    }
}

/// A flow that its server has answered.
fn open(pool: &mut Bench, n: u16) -> Sent {
    let way = pool.forwarded(client(n), b"hello");
    assert_eq!(pool.turn(&[way.answered(b"hello too")])[0].to, client(n));
    way
}

/// A pool of the servers 1 and 2 with two flows at each; the clients at server 1.
fn pool_with(settings: DatagramSettings) -> (Bench, Vec<u16>) {
    let mut pool = Bench::new(settings, 64, [1, 2]);
    let ways = [11, 12, 13, 14].map(|n| (n, open(&mut pool, n).to));
    let at_first: Vec<u16> = ways.iter().filter(|(_, to)| *to == server(1)).map(|(n, _)| *n).collect();
    assert_eq!(at_first.len(), 2);
    (pool, at_first)
}

/// Both sides of each flow speak; where its datagrams go.
fn talk(pool: &mut Bench, clients: &[u16]) -> Vec<SocketAddr> {
    let talk = |&n: &u16| {
        let way = pool.forwarded(client(n), b"more");
        assert_eq!(pool.turn(&[way.answered(b"much more")])[0].to, client(n));
        way.to
    };
    clients.iter().map(talk).collect()
}

#[test]
fn flows_of_a_removed_server_stay_until_the_drain_timeout_and_new_ones_go_elsewhere() {
    let (mut pool, at_first) = pool_with(flows());
    pool.want(wanted([2]));
    let begun = pool.now;
    let mut newcomer = 20;
    while pool.now.since(begun) < DRAIN - Duration::from_secs(1) {
        assert_eq!(talk(&mut pool, &at_first), [server(1); 2], "after {:?}", pool.now.since(begun));
        assert_eq!(open(&mut pool, newcomer).to, server(2));
        assert_eq!(pool.state(1), "draining");
        newcomer += 1;
        pool.pass(500 * MS);
    }
    assert_eq!(pool.states(), [(1, "draining")]);
    // No side speaks when it is over: the flows end, the server is gone.
    pool.pass(Duration::from_secs(2));
    assert_eq!((pool.states(), pool.slot(1)), (vec![(1, "left")], None));
    assert_eq!(talk(&mut pool, &at_first), [server(2); 2]);
}

#[test]
fn a_removed_server_is_gone_when_its_last_flow_has_ended() {
    let (mut pool, at_first) = pool_with(flows());
    pool.want(wanted([2]));
    pool.pass(Duration::from_secs(3));
    assert_eq!(talk(&mut pool, &at_first[..1]), [server(1)]);
    pool.pass(Duration::from_secs(3));
    assert_eq!((pool.state(1), pool.queue(1)), ("draining", 1), "the other flow was idle");
    pool.pass(Duration::from_secs(3));
    assert_eq!((pool.states(), pool.slot(1)), (vec![(1, "draining"), (1, "left")], None));
}

#[test]
fn a_server_that_returns_while_it_drains_is_up_with_its_slot_and_its_record() {
    let (mut pool, at_first) = pool_with(flows());
    pool.workers[0].order(pool.now, 1, Order::Weight(7)).unwrap();
    let slot = pool.slot(1);
    pool.want(wanted([2]));
    pool.pass(Duration::from_secs(2));
    pool.want(wanted([2, 1]));
    assert_eq!((pool.state(1), pool.slot(1)), ("up", slot));
    assert_eq!(pool.stats().servers[slot.unwrap().index()].common.weight.get(), 7);
    assert_eq!(talk(&mut pool, &at_first), [server(1); 2]);
    // Its drain is forgotten: the next one has its whole time.
    pool.pass(Duration::from_secs(4));
    talk(&mut pool, &at_first);
    pool.pass(Duration::from_secs(4));
    talk(&mut pool, &at_first);
    pool.want(wanted([2]));
    pool.pass(Duration::from_secs(3));
    assert_eq!(talk(&mut pool, &at_first), [server(1); 2]);
}

#[test]
fn a_second_change_while_a_server_drains_does_not_begin_its_drain_again() {
    let (mut pool, at_first) = pool_with(flows());
    pool.want(wanted([2]));
    for servers in [&[2, 5][..], &[5], &[2]] {
        pool.pass(Duration::from_secs(2));
        talk(&mut pool, &at_first);
        pool.want(wanted(servers.iter().copied()));
        assert_eq!(talk(&mut pool, &at_first), [server(1); 2]);
    }
    pool.pass(Duration::from_secs(4));
    assert_eq!(pool.slot(1), None);
    // A shorter timeout holds for drains that have begun.
    let (mut pool, at_first) = pool_with(flows());
    pool.want(wanted([2]));
    let shorter = DatagramSettings { drain_timeout: Duration::from_secs(1), ..flows() };
    pool.shared.reconfigure(shorter).unwrap();
    pool.pass(Duration::from_secs(1));
    assert_eq!(talk(&mut pool, &at_first), [server(2); 2]);
}

#[test]
fn flows_move_at_once_when_the_name_of_their_server_has_moved() {
    let (mut pool, at_first) = pool_with(flows());
    let way = pool.forwarded(client(at_first[0]), b"more");
    pool.rename(1, [2, 4]);
    assert_eq!(pool.state(1), "draining", "what it still sends arrives");
    assert_eq!(pool.turn(&[way.answered(b"much more")])[0].to, client(at_first[0]));
    let moved = talk(&mut pool, &at_first);
    assert!(moved.iter().all(|to| *to != server(1)), "{moved:?}");
    pool.pass(50 * MS);
    assert_eq!(pool.slot(1), None);
}

#[test]
fn flows_leave_a_removed_server_that_is_dead() {
    // Its port is closed.
    let (mut pool, at_first) = pool_with(flows());
    pool.want(wanted([2]));
    pool.refuse(0, server(1), 1);
    pool.pass(20 * MS);
    pool.pass(TIMEOUT);
    pool.refuse(0, server(1), 1);
    pool.pass(20 * MS);
    assert_eq!(talk(&mut pool, &at_first), [server(2); 2]);
    // It answers no checks.
    let check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let checked = DatagramSettings { health: HealthCheck { check, ..flows().health }, ..flows() };
    let mut pool = Bench::new(checked, 64, [1, 2]);
    let answer = |pool: &mut Bench, dead: Option<SocketAddr>| {
        for sent in pool.pass(100 * MS) {
            if sent.bytes == b"ping" && Some(sent.to) != dead {
                pool.turn(&[sent.answered(b"pong")]);
            }
        }
    };
    // The first checks were sent before the bench gave what was sent.
    (0..30).for_each(|_| answer(&mut pool, None));
    assert_eq!([pool.state(1), pool.state(2)], ["up"; 2]);
    let ways = [11, 12].map(|n| (n, open(&mut pool, n).to));
    let (at_first, _) = *ways.iter().find(|(_, to)| *to == server(1)).unwrap();
    pool.shared.want(wanted([2]));
    for _ in 0..20 {
        answer(&mut pool, None);
        assert_eq!(pool.forwarded(client(at_first), b"more").to, server(1), "it answers its checks");
    }
    (0..40).for_each(|_| answer(&mut pool, Some(server(1))));
    assert_eq!(pool.forwarded(client(at_first), b"more").to, server(2));
}

#[test]
fn flows_of_a_server_that_was_down_or_disabled_do_not_return_to_it_when_it_is_removed() {
    let (mut pool, at_first) = pool_with(flows());
    pool.workers[0].order(pool.now, 1, Order::Disable).unwrap();
    pool.want(wanted([2]));
    assert_eq!(talk(&mut pool, &at_first), [server(2); 2]);
}

#[test]
fn drains_end_early_when_a_new_server_needs_their_room() {
    let two = DatagramSettings { servers_max: 2, ..flows() };
    let (mut pool, at_first) = pool_with(two);
    pool.want(wanted([2, 4]));
    pool.pass(20 * MS);
    assert_eq!(talk(&mut pool, &at_first), [server(2); 2], "there is no room for both");
    pool.pass(TIMEOUT * 4);
    assert_eq!(pool.states(), [(1, "draining"), (1, "left"), (4, "joined")]);
}

#[test]
fn a_server_that_takes_the_id_of_one_that_drains_has_it_alone() {
    let (mut pool, _) = pool_with(flows());
    let mut servers = wanted([2]);
    servers[0].id = 1;
    pool.want(servers);
    let id = |pool: &Bench, n: u16| {
        pool.stats().servers[pool.slot(n).unwrap().index()].common.id_plus_one.get() - 1
    };
    assert_eq!((id(&pool, 2), pool.state(1)), (1, "draining"));
    assert!(id(&pool, 1) > 1, "two servers with an id");
}

#[test]
fn a_worker_that_sleeps_through_the_end_of_a_drain_ends_its_flows_later() {
    let two = DatagramSettings { workers: 2, servers_max: 1, ..flows() };
    let mut pool = Bench::new(two, 64, [1]);
    let way = pool.turn_of(1, &[In::new(0, client(1), b"hello")]).remove(0);
    assert_eq!(pool.turn_of(1, &[way.answered(b"hello too")])[0].to, client(1));
    pool.shared.want(wanted([2]));
    let end = pool.now + DRAIN + Duration::from_secs(5);
    while pool.now < end {
        pool.now += 10 * MS;
        pool.turn(&[]);
    }
    assert_eq!(pool.states(), [(1, "draining"), (1, "left")], "the slot is not free yet");
    let sent = pool.turn_of(1, &[In::new(0, client(1), b"more")]);
    assert_eq!(sent, [], "there is no server");
    pool.pass(500 * MS);
    assert_eq!(pool.states(), [(2, "joined")]);
    let way = pool.turn_of(1, &[In::new(0, client(1), b"more")]).remove(0);
    assert_eq!((way.to, pool.queue(2)), (server(2), 1));
}
