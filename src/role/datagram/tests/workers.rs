//! Workers that share a pool: each has its own sockets and table; one judges for all.

use super::bench::*;
use super::*;

fn pool(protocol: Protocol) -> Bench {
    Bench::new(DatagramSettings { workers: 2, ..settings(protocol) }, 4, [1, 2])
}

const QUERY: &[u8] = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

fn answer(way: &Sent) -> In {
    let mut bytes = way.bytes.clone();
    bytes[2] |= 0x80;
    way.answered(&bytes)
}

#[test]
fn queues_are_those_of_all_workers_together() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol);
        for n in 0..8 {
            let worker = usize::from(n >= 4);
            pool.turn_of(worker, &[In::new(0, client(n), QUERY)]);
        }
        assert_eq!((pool.queue(1), pool.queue(2)), (4, 4), "{protocol:?}");
        pool.pass(TIMEOUT + 110 * MS);
        pool.check_rest();
    }
}

#[test]
fn an_answer_counts_at_the_worker_that_asked() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol);
        let way = pool.turn_of(1, &[In::new(0, client(1), QUERY)]).remove(0);
        assert_eq!(pool.turn_of(0, &[answer(&way)]), [], "{protocol:?}");
        assert_eq!(pool.turn_of(1, &[answer(&way)])[0].to, client(1));
        pool.check_rest();
    }
}

#[test]
fn what_one_worker_notices_the_primary_judges() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol);
        pool.refuse(1, server(1), 1);
        pool.pass(10 * MS);
        assert_eq!(pool.states(), [(1, "suspect")], "{protocol:?}");
        assert_eq!(pool.workers[1].poll_event(), None);
        for n in 0..4 {
            let sent = pool.turn_of(1, &[In::new(0, client(n), QUERY)]);
            assert_eq!(sent[0].to, server(2), "the other worker knows");
        }
        // What a suspect is asked at one worker brings it back at all.
        pool.pass(Duration::from_secs(1));
        let sent = pool.turn_of(1, &[In::new(0, client(9), QUERY)]);
        let trial = sent.iter().find(|way| way.to == server(1)).expect("it is tried");
        pool.turn_of(1, &[answer(trial)]);
        pool.pass(200 * MS);
        assert!(pool.states().contains(&(1, "up")), "{protocol:?}");
    }
}

#[test]
fn a_silence_that_another_worker_has_not_met_is_none() {
    for protocol in Protocol::ALL {
        let slow = DatagramSettings { workers: 2, timeout: Duration::from_secs(5), ..settings(protocol) };
        let mut pool = Bench::new(slow, 16, [1]);
        let way = pool.turn_of(1, &[In::new(0, client(1), QUERY)]).remove(0);
        pool.pass(10 * MS);
        pool.turn_of(1, &[answer(&way)]);
        pool.turn_of(1, &[In::new(0, client(1), QUERY)]); // stays unanswered
        for _ in 0..20 {
            let way = pool.turn_of(0, &[In::new(0, client(2), QUERY)]).remove(0);
            pool.pass(10 * MS);
            pool.turn_of(0, &[answer(&way)]);
            pool.pass(30 * MS);
        }
        assert_eq!(pool.states(), [], "{protocol:?}");
    }
}

#[test]
fn a_place_is_free_when_no_worker_has_anything_there() {
    for protocol in Protocol::ALL {
        let slow = DatagramSettings { workers: 2, timeout: Duration::from_secs(5), ..settings(protocol) };
        let mut pool = Bench::new(slow, 4, [1]);
        let ways: Vec<_> =
            (0..2).map(|worker| pool.turn_of(worker, &[In::new(0, client(1), QUERY)]).remove(0)).collect();
        pool.want(wanted([2]));
        for (worker, way) in ways.iter().enumerate() {
            pool.pass(50 * MS);
            assert!(!pool.states().contains(&(1, "left")), "{protocol:?}");
            assert_eq!(pool.turn_of(worker, &[answer(way)]).len(), 1);
        }
        pool.pass(50 * MS);
        assert_eq!(pool.states(), [(1, "left")], "{protocol:?}");
        pool.check_rest();
    }
}

#[test]
fn sources_are_limited_over_all_workers() {
    let limited = DatagramSettings {
        workers: 2,
        rate_per_source: Some(10.0),
        rate_limit_truncate: 0,
        ..settings(Protocol::Dns)
    };
    let mut pool = Bench::new(limited, 2, [1]);
    let turn = vec![In::new(0, client(1), QUERY); 8];
    assert_eq!((pool.turn_of(0, &turn).len(), pool.turn_of(1, &turn).len()), (8, 2));
    assert_eq!(pool.refused(DropReason::Rate), 6);
}
