//! Settings that change while requests are in flight.

use std::collections::HashMap;

use proptest::prelude::*;

use super::bench::*;
use super::*;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::Limit;

const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

/// A key, and a change of it.
type Forbidden<'a> = (&'a str, &'a dyn Fn(&mut DatagramSettings));

/// Continues with other settings.
fn change(pool: &Bench, change: impl FnOnce(&mut DatagramSettings)) -> Result<(), &'static str> {
    let mut settings = pool.shared.settings().as_ref().clone();
    change(&mut settings);
    pool.shared.reconfigure(settings)
}

#[test]
fn what_a_pool_is_built_for_is_refused_by_the_name_of_its_key_and_changes_nothing() {
    let old = DatagramSettings { timeout: 2 * TIMEOUT, ..settings(Protocol::Datagram) };
    let payload = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let changes: [Forbidden; 8] = [
        ("name", &|s| s.name = "other".into()),
        ("protocol", &|s| s.protocol = Protocol::Dns),
        ("affinity", &|s| s.affinity = Affinity::Client),
        ("workers", &|s| s.workers = 2),
        ("servers_max", &|s| s.servers_max = 9),
        ("proxy_protocol", &|s| s.proxy_protocol = ProxyProtocol::Every),
        ("transparent", &|s| s.transparent = true),
        ("health.check", &|s| s.health.check = payload.clone()),
    ];
    let pool = Bench::new(old.clone(), 4, [1]);
    for (key, make) in changes {
        let refused = change(&pool, |settings| {
            make(settings);
            settings.timeout = TIMEOUT;
        });
        assert_eq!(refused, Err(key));
        assert_eq!(*pool.shared.settings(), old, "{key}");
    }
    assert_eq!(change(&pool, |settings| settings.timeout = TIMEOUT), Ok(()));
}

#[test]
fn limits_and_policy_count_from_the_next_turn_on() {
    for protocol in Protocol::ALL {
        let old = DatagramSettings {
            max_outstanding: Some(Limit::Fixed(2)),
            waiting_max: 0,
            timeout: 60 * TIMEOUT,
            ..settings(protocol)
        };
        let mut pool = Bench::new(old, 64, [1, 2]);
        let mut n = 0;
        let mut fill = |pool: &mut Bench| {
            for _ in 0..20 {
                n += 1;
                pool.ask(client(n), QUERY);
            }
            pool.queue(1) + pool.queue(2)
        };
        assert_eq!(fill(&mut pool), 4, "{protocol:?}");
        change(&pool, |settings| settings.max_outstanding = Some(Limit::Fixed(5))).unwrap();
        assert_eq!(fill(&mut pool), 10, "{protocol:?}");
        change(&pool, |settings| settings.max_outstanding = Some(Limit::Fixed(1))).unwrap();
        assert_eq!(fill(&mut pool), 10, "{protocol:?}");
        change(&pool, |settings| settings.max_outstanding = None).unwrap();
        assert_eq!(fill(&mut pool), 30, "{protocol:?}");
        pool.workers[0].order(pool.now, 2, crate::pool::order::Order::Weight(100)).unwrap();
        change(&pool, |settings| settings.policy = PolicyKind::RoundRobin).unwrap();
        let before = pool.queue(1);
        fill(&mut pool);
        assert_eq!(pool.queue(1) - before, 10, "{protocol:?}: regardless of the weights");
    }
}

#[test]
fn who_may_send_and_how_much_changes_for_all_workers() {
    let old = DatagramSettings { workers: 2, rate_per_source: Some(5.0), ..settings(Protocol::Dns) };
    let mut pool = Bench::new(old, 4, [1]);
    let asked = |pool: &mut Bench, worker: usize, count: usize| {
        let arrived = vec![In::new(0, client(1), QUERY); count];
        pool.turn_of(worker, &arrived).iter().filter(|sent| !pool.is_front(sent.socket)).count()
    };
    assert_eq!((asked(&mut pool, 0, 3), asked(&mut pool, 1, 3)), (3, 2));
    change(&pool, |settings| settings.deny = vec!["198.51.100.1/32".parse().unwrap()]).unwrap();
    assert_eq!((asked(&mut pool, 0, 1), asked(&mut pool, 1, 1)), (0, 0));
    assert_eq!(pool.refused(DropReason::Denied), 2);
    assert!(!pool.shared.gate().admits(client(1).ip(), pool.now));
    change(&pool, |settings| settings.deny.clear()).unwrap();
    assert_eq!(asked(&mut pool, 0, 1), 0, "what was used up is used up");
    change(&pool, |settings| settings.rate_per_source = Some(7.0)).unwrap();
    assert_eq!((asked(&mut pool, 1, 6), asked(&mut pool, 0, 6)), (6, 1), "another rate, one for all");
    change(&pool, |settings| settings.rate_per_source = None).unwrap();
    assert_eq!(asked(&mut pool, 0, 50), 50);
}

#[test]
fn another_question_is_asked_and_servers_are_judged_by_other_rules() {
    let check = |text: &str| Check::Payload { send: text.into(), expect: text.into() };
    let mut old = settings(Protocol::Datagram);
    old.health.check = check("old");
    let mut pool = Bench::new(old, 4, [1, 2]);
    pool.pass(Duration::from_secs(5));
    assert_eq!((pool.state(1), pool.state(2)), ("down", "down"));
    change(&pool, |settings| {
        settings.health.check = check("new!");
        (settings.health.interval, settings.health.timeout) = (100 * MS, 50 * MS);
        (settings.health.rules.rise, settings.health.rules.fall) = (1, 1);
    })
    .unwrap();
    let mut asked = vec![];
    for _ in 0..15 {
        let to_first = |sent: &Sent| sent.to == server(1);
        let answers: Vec<_> =
            asked.drain(..).filter(to_first).map(|way: Sent| way.answered(&way.bytes)).collect();
        asked = pool.turn(&answers);
        assert!(asked.iter().all(|sent| sent.bytes == b"new!"), "{asked:?}");
        asked.extend(pool.pass(10 * MS));
    }
    assert_eq!((pool.state(1), pool.state(2)), ("up", "down"));
    change(&pool, |settings| settings.health.rules.down_max = 0.1).unwrap();
    pool.turn(&[]);
    let tree = &pool.shared.pool.tree;
    assert!(tree.is_eligible(pool.slot(2).unwrap()), "too many are down by the new rule");
}

#[test]
fn a_shorter_time_out_ends_what_waits_and_a_longer_one_keeps_it() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(settings(protocol), 4, [1]);
        pool.forwarded(client(1), QUERY);
        change(&pool, |settings| settings.timeout = 3 * TIMEOUT).unwrap();
        pool.pass(2 * TIMEOUT);
        assert_eq!(pool.queue(1), 1, "{protocol:?}");
        change(&pool, |settings| settings.timeout = TIMEOUT).unwrap();
        pool.pass(10 * MS);
        assert_eq!(pool.queue(1), 0, "{protocol:?}");
    }
    let flows =
        DatagramSettings { affinity: Affinity::Client, replies: None, ..settings(Protocol::Datagram) };
    let mut pool = Bench::new(flows, 4, [1]);
    let way = pool.forwarded(client(1), QUERY);
    pool.turn(&[way.answered(b"hello")]);
    change(&pool, |settings| settings.idle_timeout = 10 * MS).unwrap();
    pool.pass(30 * MS);
    assert_eq!(pool.stats().flows.get(), 0);
}

/// What happens between two turns.
#[derive(Clone, Debug)]
enum Step {
    Ask(u16, u8),
    Answer(prop::sample::Index),
    Pass(u64),
    Change(Box<Change>),
}

/// Settings that lose nothing that is answered within a tenth of a second.
#[derive(Clone, Debug)]
struct Change {
    policy: usize,
    timeout: u64,
    replies: u32,
    hold: Option<u64>,
    rate: Option<f64>,
    interval: u64,
    rise: u8,
    down_max: f64,
    slow_start: u64,
    limit: Option<u32>,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (
        (0..4usize, 400..5_000u64, 1..3u32, prop::option::of(0..80u64), prop::option::of(1e6..1e7)),
        (10..2_000u64, 1..5u8, 0.0..1.0, 0..20_000u64, prop::option::of(200..300u32)),
    );
    let change =
        change.prop_map(
            |((policy, timeout, replies, hold, rate), (interval, rise, down_max, slow_start, limit))| {
                Change { policy, timeout, replies, hold, rate, interval, rise, down_max, slow_start, limit }
            },
        );
    prop_oneof![
        4 => (0..40u16, 0..2u8).prop_map(|(client, worker)| Step::Ask(client, worker)),
        3 => any::<prop::sample::Index>().prop_map(Step::Answer),
        1 => (0..20u64).prop_map(Step::Pass),
        2 => change.prop_map(|change| Step::Change(Box::new(change))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_lost_by_changes_in_the_middle_of_traffic(
        is_dns in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let protocol = if is_dns { Protocol::Dns } else { Protocol::Datagram };
        let ports = if is_dns { 2 } else { 64 };
        let mut pool = Bench::new(DatagramSettings { workers: 2, ..settings(protocol) }, ports, [1, 2, 4]);
        let mut open: Vec<(usize, Sent, SocketAddr, u16)> = vec![];
        let mut asked = HashMap::new();
        let answer = |pool: &mut Bench, at: usize, open: &mut Vec<(usize, Sent, SocketAddr, u16)>| {
            let (worker, way, from, id) = open.remove(at);
            let mut bytes = way.bytes.clone();
            bytes[2] |= 0x80;
            let sent = pool.turn_of(worker, &[way.answered(&bytes)]);
            assert_eq!(sent.len(), 1, "{sent:?}");
            assert_eq!((sent[0].to, &sent[0].bytes[..2]), (from, &id.to_be_bytes()[..]));
        };
        for (number, step) in (0u16..).zip(steps) {
            match step {
                Step::Ask(n, worker) => {
                    let mut query = QUERY.to_vec();
                    query[..2].copy_from_slice(&number.to_be_bytes());
                    let worker = usize::from(worker);
                    let sent = pool.turn_of(worker, &[In::new(0, client(n), &query)]);
                    prop_assert_eq!(sent.len(), 1, "it is served");
                    open.push((worker, sent.into_iter().next().unwrap(), client(n), number));
                    *asked.entry(n).or_insert(0) += 1;
                }
                Step::Answer(at) if !open.is_empty() => {
                    let at = at.index(open.len());
                    answer(&mut pool, at, &mut open);
                }
                Step::Answer(_) => {}
                // All are answered in time.
                Step::Pass(ms) => {
                    while let Some(at) = open.len().checked_sub(1) {
                        answer(&mut pool, at, &mut open);
                    }
                    pool.pass(Duration::from_millis(ms));
                }
                Step::Change(to) => change(&pool, |settings| {
                    settings.policy = PolicyKind::ALL[to.policy];
                    settings.timeout = Duration::from_millis(to.timeout);
                    settings.replies = Some(if is_dns { 1 } else { to.replies });
                    settings.hold = to.hold.map(Duration::from_millis);
                    settings.rate_per_source = to.rate;
                    settings.max_outstanding = to.limit.map(Limit::Fixed);
                    settings.health.interval = Duration::from_millis(to.interval);
                    settings.health.rules.rise = to.rise;
                    settings.health.rules.down_max = to.down_max;
                    settings.health.rules.slow_start = Duration::from_millis(to.slow_start);
                })
                .unwrap(),
            }
        }
        while let Some(at) = open.len().checked_sub(1) {
            answer(&mut pool, at, &mut open);
        }
        let total: u64 = asked.values().sum();
        let answered: u64 = pool.workers.iter().map(|worker| worker.stats().common.answered.get()).sum();
        prop_assert_eq!(answered, total);
        pool.check_rest();
    }
}
