//! A server that comes up gets a tenth of its share at first.

use super::bench::*;
use super::*;
use crate::pool::order::Order;

const SECOND: Duration = Duration::from_secs(1);

fn pool(protocol: Protocol, servers: impl IntoIterator<Item = u16>) -> Bench {
    let mut settings = DatagramSettings { timeout: 60 * SECOND, ..settings(protocol) };
    settings.health.rules.slow_start = 10 * SECOND;
    Bench::new(settings, 64, servers)
}

/// How 42 requests are spread over servers 1, 2 and 4; they are answered afterwards.
fn spread(pool: &mut Bench) -> [u32; 3] {
    let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    let ways: Vec<_> = (0..42).map(|n| pool.forwarded(client(n), query)).collect();
    let spread = [1, 2, 4].map(|n| pool.queue(n));
    for way in ways {
        let mut answer = way.bytes.clone();
        answer[2] |= 0x80;
        assert_eq!(pool.turn(&[way.answered(&answer)]).len(), 1);
    }
    spread
}

#[test]
fn those_that_are_there_from_the_start_have_their_share_at_once() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        pool.want(wanted([1, 2, 4]));
        assert_eq!(spread(&mut pool), [14; 3], "{protocol:?}");
    }
}

#[test]
fn a_new_one_gets_a_tenth_and_then_more_and_then_all() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        pool.pass(6 * SECOND);
        pool.want(wanted([1, 2, 4]));
        assert!((1..=2).contains(&spread(&mut pool)[2]), "{protocol:?}");
        pool.pass(5 * SECOND - 250 * MS);
        let half = spread(&mut pool)[2];
        assert!((8..=10).contains(&half), "{protocol:?}: {half}");
        pool.pass(5 * SECOND);
        assert_eq!(spread(&mut pool), [14; 3], "{protocol:?}");
    }
}

#[test]
fn so_does_one_that_was_switched_off_and_a_weight_that_was_ordered_counts_meanwhile() {
    let mut pool = pool(Protocol::Datagram, [1, 2, 4]);
    pool.pass(6 * SECOND);
    assert_eq!(spread(&mut pool), [14; 3]);
    for order in [Order::Disable, Order::Enable] {
        let now = pool.now;
        pool.workers[0].order(now, 4, order).unwrap();
    }
    assert!((1..=2).contains(&spread(&mut pool)[2]));
    let now = pool.now;
    pool.workers[0].order(now, 4, Order::Weight(5)).unwrap();
    let slow = spread(&mut pool)[2];
    assert!((7..=9).contains(&slow), "half a share: {slow}");
    let slot = pool.slot(4).unwrap().index();
    let gauges = &pool.stats().servers[slot];
    assert_eq!((gauges.common.weight.get(), gauges.common.since.get()), (5, now.as_nanos()));
}
