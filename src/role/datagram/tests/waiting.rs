//! The pending queue: requests leave in order, servers keep their limit, and each request is counted.

use proptest::prelude::*;

use super::bench::*;
use super::*;
use crate::pool::waiting::Limit;

/// The body of a DNS query and of a plain datagram: the first two bytes number it.
fn question(number: u16) -> Vec<u8> {
    let mut bytes = b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01".to_vec();
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn answer(way: &Sent) -> In {
    let mut bytes = way.bytes.clone();
    bytes[2] |= 0x80;
    way.answered(&bytes)
}

fn limited(protocol: Protocol, limit: u32) -> DatagramSettings {
    DatagramSettings { max_outstanding: Some(Limit::Fixed(limit)), ..settings(protocol) }
}

/// What goes to servers, and what to clients.
fn split(pool: &Bench, sent: Vec<Sent>) -> (Vec<Sent>, Vec<Sent>) {
    sent.into_iter().partition(|sent| !pool.is_front(sent.socket))
}

#[test]
fn the_rest_waits_and_leaves_in_order_as_servers_get_room() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(limited(protocol, 1), 16, [1, 2]);
        let mut at_servers =
            vec![pool.forwarded(client(0), &question(0)), pool.forwarded(client(1), &question(1))];
        for n in 2..6 {
            assert_eq!(pool.ask(client(n), &question(n)), [], "{protocol:?}: it waits");
        }
        assert_eq!((pool.queue(1), pool.queue(2), pool.shared.pool.pending.len()), (1, 1, 4));
        for n in 0..6u16 {
            pool.now += MS;
            let way = at_servers.remove(0);
            let sent = pool.turn(&[answer(&way)]);
            let (on, back) = split(&pool, sent);
            assert_eq!((back[0].to, &back[0].bytes[..2]), (client(n), &n.to_be_bytes()[..]), "{protocol:?}");
            assert_eq!(on.len(), usize::from(n < 4), "the next one leaves in the same turn");
            assert!(on.iter().all(|next| next.to == way.to), "for the server that is free");
            at_servers.extend(on);
        }
        let stats = pool.stats();
        assert_eq!(
            (
                stats.common.waited.get(),
                stats.common.waiting_delay.snapshot().count(),
                stats.common.answered.get()
            ),
            (4, 4, 6)
        );
        pool.check_rest();
    }
}

#[test]
fn one_that_comes_joins_the_tail_even_if_a_server_is_free_by_then() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(limited(protocol, 1), 16, [1]);
        let way = pool.forwarded(client(0), &question(0));
        pool.ask(client(1), &question(1));
        // In one turn the server is free again, and a request arrives.
        let sent = pool.turn(&[answer(&way), In::new(0, client(2), &question(2))]);
        let (on, _) = split(&pool, sent);
        let sent = pool.turn(&[answer(&on[0])]);
        let (_, back) = split(&pool, sent);
        assert_eq!(back[0].to, client(1), "{protocol:?}");
    }
}

#[test]
fn a_full_room_is_said_so_and_what_has_waited_for_too_long_is_not_sent() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(DatagramSettings { waiting_max: 2, ..limited(protocol, 1) }, 16, [1]);
        let way = pool.forwarded(client(0), &question(0));
        (1..3).for_each(|n| assert_eq!(pool.ask(client(n), &question(n)), []));
        let refused = pool.ask(client(3), &question(3));
        // SERVFAIL for who can read it, silence for the others.
        let is_told = refused.iter().any(|sent| sent.to == client(3) && sent.bytes[3] & 0xf == 2);
        assert_eq!(is_told, protocol == Protocol::Dns);
        assert_eq!(pool.refused(DropReason::ServersFull), 1);
        // The server is silent: its request is given up, and those who waited were here for as long.
        let sent = pool.pass(TIMEOUT + 20 * MS);
        assert_eq!(pool.refused(DropReason::Expired), 2, "{protocol:?}");
        let told: Vec<_> = sent.iter().filter(|sent| sent.bytes[3] & 0xf == 2).map(|sent| sent.to).collect();
        let expected = if protocol == Protocol::Dns { vec![client(1), client(2)] } else { vec![] };
        assert_eq!(told, expected, "{protocol:?}");
        assert_eq!((pool.shared.pool.pending.len(), pool.stats().timed_out.get()), (0, 1));
        drop(way);
        pool.check_rest();
    }
}

#[test]
fn a_query_that_waits_in_vain_is_told_when_its_time_is_over() {
    let mut pool = Bench::new(limited(Protocol::Dns, 1), 16, [1]);
    pool.forwarded(client(0), &question(0));
    pool.pass(TIMEOUT / 2);
    let edns = [&question(1)[..10], b"\0\x01\x01a\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0"].concat();
    assert_eq!(pool.ask(client(1), &edns), []);
    // Another query takes the place of the first one, so no server is free when the time is over.
    let way = pool.pass(TIMEOUT / 2).remove(0);
    assert_eq!(way.to, server(1));
    assert_eq!(pool.ask(client(2), &question(2)), []);
    let sent = pool.pass(TIMEOUT + 20 * MS);
    let told: Vec<_> = sent.iter().filter(|sent| pool.is_front(sent.socket)).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].to, told[0].bytes[3] & 0xf), (client(2), 2));
}

#[test]
fn nobody_waits_for_servers_that_are_gone() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(limited(protocol, 1), 16, [1]);
        pool.forwarded(client(0), &question(0));
        pool.ask(client(1), &question(1));
        pool.shared.want(vec![]);
        let sent = pool.pass(250 * MS);
        let is_told = sent.iter().any(|sent| sent.to == client(1) && sent.bytes[3] & 0xf == 2);
        assert_eq!(is_told, protocol == Protocol::Dns, "{sent:?}");
        assert_eq!((pool.refused(DropReason::NoServer), pool.shared.pool.pending.len()), (1, 0));
    }
}

#[test]
fn a_server_that_joins_takes_what_waits() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(limited(protocol, 1), 16, [1]);
        pool.forwarded(client(0), &question(0));
        pool.ask(client(1), &question(1));
        pool.shared.want(wanted([1, 2]));
        let sent = pool.pass(250 * MS);
        assert_eq!((sent.len(), sent[0].to), (1, server(2)), "{protocol:?}");
    }
}

#[test]
fn a_higher_limit_or_none_lets_go_what_waits() {
    for (protocol, limit) in Protocol::ALL.into_iter().flat_map(|p| [(p, Some(Limit::Fixed(3))), (p, None)]) {
        let mut pool = Bench::new(limited(protocol, 1), 16, [1]);
        pool.forwarded(client(0), &question(0));
        (1..3).for_each(|n| drop(pool.ask(client(n), &question(n))));
        let new = DatagramSettings { max_outstanding: limit, ..(*pool.shared.settings()).clone() };
        pool.shared.reconfigure(new).unwrap();
        assert_eq!(pool.turn(&[]).len(), 2, "{protocol:?}");
    }
}

#[test]
fn who_retires_sends_what_waits_and_is_idle_when_that_is_answered() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(limited(protocol, 1), 16, [1]);
        let mut open = vec![pool.forwarded(client(0), &question(0))];
        (1..4).for_each(|n| drop(pool.ask(client(n), &question(n))));
        let now = pool.now;
        pool.workers[0].retire(now);
        assert!(!pool.workers[0].is_idle(now));
        open.extend(pool.turn(&[]));
        assert_eq!(open.len(), 4, "{protocol:?}");
        let answers: Vec<_> = open.iter().map(answer).collect();
        assert_eq!(pool.turn(&answers).len(), 4);
        assert!(pool.workers[0].is_idle(pool.now));
        pool.check_rest();
    }
}

#[test]
fn a_turn_without_room_keeps_what_waits_for_the_next_one() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(limited(protocol, 1), 16, [1]);
        let way = pool.forwarded(client(0), &question(0));
        pool.ask(client(1), &question(1));
        let sent = pool.turn_in(0, &[answer(&way)], true);
        assert_eq!(sent, []);
        // The answer had no room either, so its server is busy still; by its time-out it is not.
        pool.pass(TIMEOUT - 10 * MS);
        pool.turn_in(0, &[], true);
        assert_eq!(pool.shared.pool.pending.len(), 1);
        assert_eq!(pool.refused(DropReason::TurnFull), 0, "{protocol:?}");
    }
}

#[test]
fn flows_do_not_wait_for_each_other() {
    let mut pool = Bench::new(
        DatagramSettings { affinity: Affinity::Client, replies: None, ..limited(Protocol::Datagram, 1) },
        16,
        [1],
    );
    pool.forwarded(client(0), b"open");
    assert_eq!(pool.ask(client(1), b"open"), []);
    assert_eq!((pool.refused(DropReason::ServersFull), pool.shared.pool.pending.len()), (1, 0));
}

#[test]
fn a_datagram_that_is_too_long_for_the_room_is_refused() {
    let mut pool = Bench::new(limited(Protocol::Datagram, 1), 16, [1]);
    pool.forwarded(client(0), b"first");
    pool.ask(client(1), &[7; 2_048]);
    assert_eq!((pool.shared.pool.pending.len(), pool.refused(DropReason::ServersFull)), (1, 0));
    pool.ask(client(1), &[7; 2_049]);
    assert_eq!((pool.shared.pool.pending.len(), pool.refused(DropReason::ServersFull)), (1, 1));
}

#[derive(Clone, Debug)]
enum Step {
    /// A client, at a worker.
    Ask(u16, usize),
    Answer(prop::sample::Index),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..9u16, 0..3usize).prop_map(|(n, worker)| Step::Ask(n, worker)),
        4 => any::<prop::sample::Index>().prop_map(Step::Answer),
        1 => (1..300u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Three workers share a room: no server has more than its limit, nothing waits while one has room, each
    /// request is answered, refused or given up, and each answer reaches who asked.
    #[test]
    fn workers_share_the_room(
        is_dns in any::<bool>(), limit in 1..4u32, places in 0..6usize,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let protocol = if is_dns { Protocol::Dns } else { Protocol::Datagram };
        let settings = DatagramSettings { workers: 3, waiting_max: places, ..limited(protocol, limit) };
        let mut pool = Bench::new(settings, if is_dns { 2 } else { 64 }, [1, 2, 4]);
        type Open = Vec<(usize, Sent, Instant)>;
        let mut open: Open = vec![];
        let mut asked = std::collections::HashMap::new();
        let dispatch = |pool: &Bench, worker: usize, sent: Vec<Sent>, open: &mut Open| {
            let (on, back) = split(pool, sent);
            open.extend(on.into_iter().map(|way| (worker, way, pool.now)));
            back
        };
        for (number, step) in (0u16..).zip(steps) {
            match step {
                Step::Ask(n, worker) => {
                    asked.insert(number, client(n));
                    let sent = pool.turn_of(worker, &[In::new(0, client(n), &question(number))]);
                    for refusal in dispatch(&pool, worker, sent, &mut open) {
                        prop_assert_eq!((refusal.to, refusal.bytes[3] & 0xf), (client(n), 2));
                    }
                }
                Step::Answer(at) if !open.is_empty() => {
                    let (worker, way, _) = open.remove(at.index(open.len()));
                    let sent = pool.turn_of(worker, &[answer(&way)]);
                    for back in dispatch(&pool, worker, sent, &mut open) {
                        let number = u16::from_be_bytes([back.bytes[0], back.bytes[1]]);
                        prop_assert_eq!(Some(&back.to), asked.get(&number));
                    }
                }
                Step::Answer(_) => {}
                Step::Pass(ms) => {
                    for _ in 0..ms.div_ceil(10) {
                        pool.now += 10 * MS;
                        for worker in 0..3 {
                            let sent = pool.turn_of(worker, &[]);
                            dispatch(&pool, worker, sent, &mut open);
                        }
                    }
                    // No server responds after three timeouts: a pair serves another client then.
                    open.retain(|&(_, _, sent)| pool.now.since(sent) < 2 * TIMEOUT);
                }
            }
            let queues = [1, 2, 4].map(|n| pool.queue(n));
            // A suspect may be tried by one more.
            prop_assert!(queues.iter().all(|&queue| queue <= limit + 1), "{:?}", queues);
            let has_room = pool.slots().any(|slot| pool.shared.pool.tree.is_choosable(slot));
            let pending = pool.shared.pool.pending.len();
            prop_assert!(!has_room || pending == 0, "{:?} while {} wait", queues, pending);
        }
        pool.pass(3 * TIMEOUT);
        prop_assert_eq!(pool.shared.pool.pending.len(), 0);
        pool.check_rest();
    }
}
