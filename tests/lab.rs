//! The policy lab as a library: what a seed replays, what theory says, and how near to the ideal the policies
//! come. The figures are those of docs/POLICIES.md with fewer requests, so limits have some room.

use std::time::Duration;

use lbd::base::service_time::ServiceTime;
use lbd::lab::{
    Figures, Overload, PolicyUnderTest, PoolKind, Quantiles, Setup, central_queue, exact_shortest_queue,
    simulate,
};
use lbd::wire::ReplyPath;

const MS: Duration = Duration::from_millis(1);

fn small(requests: usize) -> Setup {
    Setup { requests, warmup: Some(requests / 10), ..Setup::default() }
}

fn run(setup: &Setup, contender: &str, load: f64, seed: u64) -> Figures {
    let trace = setup.trace(load, seed);
    simulate(setup, contender.parse().unwrap(), &trace, seed).unwrap()
}

/// p50, p99 and p99.9 against those of one queue for all servers.
fn ratios(setup: &Setup, contender: &str, load: f64, seed: u64) -> [f64; 3] {
    let ideal = central_queue(&setup.trace(load, seed), &setup.speeds());
    let ideal = Quantiles::of(ideal[setup.warmup.unwrap()..].to_vec()).all();
    let real = run(setup, contender, load, seed).latency.all();
    [0, 1, 2].map(|n| real[n] as f64 / ideal[n] as f64)
}

#[test]
fn a_seed_replays_its_run_whatever_is_simulated() {
    let lossy = Setup { loss: 0.02, jitter: Duration::from_micros(300), ..small(3_000) };
    let setups = [
        Setup { balancers: 3, ..lossy.clone() },
        Setup { reply_path: ReplyPath::Direct, ..lossy.clone() },
        Setup { clients: 7, ..lossy.clone() },
        Setup { kind: PoolKind::Datagram, balancers: 2, ..lossy },
    ];
    for setup in setups {
        for contender in ["shortest_queue", "two_choices", "bounded:1"] {
            let figures = run(&setup, contender, 0.8, 5);
            assert_eq!(figures, run(&setup, contender, 0.8, 5), "{setup:?}");
            assert_ne!(figures, run(&setup, contender, 0.8, 6), "{setup:?}");
        }
    }
}

#[test]
fn without_loss_every_request_is_answered_and_with_it_the_lost_ones_are_known() {
    for kind in [PoolKind::Native, PoolKind::Datagram] {
        for contender in PolicyUnderTest::all() {
            let setup = Setup { kind, balancers: 2, ..small(4_000) };
            let trace = setup.trace(0.7, 1);
            let figures = simulate(&setup, contender, &trace, 1).unwrap();
            let Figures { requests, answered, refused, lost, .. } = figures;
            assert_eq!((requests, answered, refused, lost), (3_600, 3_600, 0, 0), "{kind:?} {contender}");
        }
    }
    // Each request goes two ways: 1 - 0.9^2 = 19 % are lost.
    let setup = Setup { loss: 0.1, ..small(6_000) };
    let Figures { answered, lost, refused, requests, .. } = run(&setup, "shortest_queue", 0.7, 1);
    assert_eq!((answered + lost, refused), (requests, 0));
    assert!((0.16..0.22).contains(&(lost as f64 / requests as f64)), "{lost} of {requests}");
}

/// Servers that are selected at random are independent queues, and theory gives their response time: with
/// exponential work and load r it is exponential too, with mean work / (1 - r). A server has one queue for
/// the requests of all balancers.
#[test]
fn chance_is_what_theory_says() {
    for balancers in [1, 4] {
        let setup = Setup { rtt: Duration::ZERO, balancers, ..small(40_000) };
        let latency = run(&setup, "random", 0.6, 3).latency;
        let mean = 5e6 / (1.0 - 0.6);
        for (found, share) in [(latency.p50, 0.5_f64), (latency.p99, 0.99)] {
            let expected = -mean * (1.0 - share).ln();
            let ratio = found as f64 / expected;
            assert!((0.92..1.08).contains(&ratio), "{balancers}, {share}: {found} ns, {expected} expected");
        }
    }
}

/// Without a network, a balancer that holds requests back until a server is free is the one queue itself.
#[test]
fn one_request_at_a_server_and_no_network_is_the_central_queue() {
    for kind in [PoolKind::Native, PoolKind::Datagram] {
        let setup = Setup { kind, rtt: Duration::ZERO, ..small(20_000) };
        let found = ratios(&setup, "bounded:1", 0.85, 7);
        assert!(found.iter().all(|ratio| (0.999..1.001).contains(ratio)), "{kind:?}: {found:?}");
    }
}

/// The shortest queue of one balancer without a network is exact knowledge; ties are broken otherwise.
#[test]
fn the_shortest_queue_without_a_network_is_exact_knowledge() {
    let setup = Setup { rtt: Duration::ZERO, ..small(40_000) };
    let figures = run(&setup, "shortest_queue", 0.85, 7);
    let (latencies, longest) = exact_shortest_queue(&setup.trace(0.85, 7), &setup.speeds(), 7);
    let exact = Quantiles::of(latencies[setup.warmup.unwrap()..].to_vec());
    assert_eq!((figures.regret, figures.error), (0.0, 0.0));
    assert!(figures.queue_max.abs_diff(longest) <= 1);
    let ratio = figures.latency.p99 as f64 / exact.p99 as f64;
    assert!((0.97..1.03).contains(&ratio), "{figures:?}, {exact:?}");
}

#[test]
fn late_binding_comes_near_to_the_central_queue() {
    for (service, p99_max) in [("exp:5ms", 1.05), ("bimodal:5ms", 1.08)] {
        let setup = Setup { service: service.parse().unwrap(), ..small(40_000) };
        let [_, p99, p999] = ratios(&setup, "bounded:1", 0.85, 7);
        assert!(p99 <= p99_max && p999 <= 1.10, "{service}: {p99}, {p999}");
        let [_, of_two, _] = ratios(&setup, "bounded:2", 0.85, 7);
        let [_, unbounded, _] = ratios(&setup, "shortest_queue", 0.85, 7);
        assert!(p99 < of_two && of_two < unbounded, "{service}: {p99}, {of_two}, {unbounded}");
        assert!((1.1..1.4).contains(&unbounded), "{service}: {unbounded}");
    }
}

#[test]
fn more_knowledge_is_better_and_old_knowledge_is_worse_than_none() {
    let of = |setup: Setup, contender| run(&setup, contender, 0.85, 3).latency.p99;
    let setup = || small(20_000);
    let [shortest, two, round, random] =
        ["shortest_queue", "two_choices", "round_robin", "random"].map(|name| of(setup(), name));
    assert!(shortest < two && two < round && round < random, "{shortest} {two} {round} {random}");
    let several = |balancers| of(Setup { balancers, ..setup() }, "shortest_queue");
    assert!(shortest < several(2) && several(2) < several(8));
    let stale = |staleness, contender| {
        let (reply_path, reports_turns) = (ReplyPath::Direct, false);
        of(Setup { balancers: 8, staleness, reply_path, reports_turns, ..setup() }, contender)
    };
    assert!(stale(10 * MS, "shortest_queue") < stale(100 * MS, "shortest_queue"));
    assert!(stale(1_000 * MS, "shortest_queue") > stale(1_000 * MS, "two_choices"));
}

/// Servers that report tell a balancer what others have sent there.
#[test]
fn balancers_that_share_servers_do_better_where_these_report() {
    let p99 =
        |kind| run(&Setup { kind, balancers: 8, ..small(20_000) }, "shortest_queue", 0.85, 3).latency.p99;
    let (native, datagram) = (p99(PoolKind::Native), p99(PoolKind::Datagram));
    assert!(native * 11 < datagram * 10, "{native}, {datagram}");
}

/// One that is slow is found out, and so is one that was.
#[test]
fn shortest_delay_finds_the_slow_server() {
    let setup = Setup { spells: vec!["1x5".parse().unwrap()], ..small(40_000) };
    let [_, p99, p999] = ratios(&setup, "shortest_delay", 0.85, 7);
    let [_, unaware, _] = ratios(&setup, "shortest_queue", 0.85, 7);
    assert!(p99 <= 1.2 && p999 <= 1.2 && unaware > p99, "{p99}, {p999}, {unaware}");
    let [_, bounded, _] = ratios(&setup, "bounded:1", 0.85, 7);
    assert!(bounded <= 1.2, "{bounded}");
    // Ten seconds after it has recovered, all is as if it had never been slow.
    let recovered =
        Setup { spells: vec!["1x5@0s..4s".parse().unwrap()], warmup: Some(36_000), ..small(48_000) };
    let [_, p99, _] = ratios(&recovered, "shortest_delay", 0.85, 7);
    let [_, never, _] = ratios(&Setup { spells: vec![], ..recovered }, "shortest_delay", 0.85, 7);
    assert!(p99 < never * 1.05, "{p99}, {never}");
}

/// The servers' weights reach the balancers.
#[test]
fn weights_help_where_servers_are_unequal() {
    let setup = Setup { groups: vec!["4x4".parse().unwrap()], ..small(20_000) };
    let plain = run(&setup, "shortest_queue", 0.8, 3).latency.p99;
    let weighted = run(&Setup { weighted: true, ..setup }, "shortest_queue", 0.8, 3).latency.p99;
    assert!(weighted < plain, "{weighted}, {plain}");
}

#[test]
fn a_server_that_is_slow_for_a_time_is_slow_for_that_time_only() {
    let setup = |slow: &str| Setup { spells: vec![slow.parse().unwrap()], ..small(20_000) };
    let p999 = |slow| run(&setup(slow), "round_robin", 0.5, 3).latency.p999;
    let never = p999("1x1");
    assert_eq!(never, run(&small(20_000), "round_robin", 0.5, 3).latency.p999);
    assert_eq!(never, p999("1x5@1h"), "long after the end");
    assert!(p999("1x5@2s..4s") > 2 * never);
}

#[test]
fn a_large_system_is_dealt_out_to_its_balancers() {
    let setup = Setup { servers: 1_000, balancers: 100, ..small(3_000) };
    assert!(setup.servers_of_one() < 1_000);
    let Figures { answered, requests, queue_max, .. } = run(&setup, "shortest_queue", 0.5, 1);
    assert_eq!(answered, requests);
    assert!(queue_max <= 5, "{queue_max}");
}

#[test]
fn an_overload_is_survived_and_forgotten() {
    let setup = Setup { clients: 64, service: ServiceTime::exponential(5 * MS).into(), ..Setup::default() };
    let overload = Overload { factor: 2.0, lasts: Duration::from_secs(5) };
    let survivals = overload.run(&setup, &["bounded:1".parse().unwrap()], 0.85, 3, 1).unwrap();
    let [survival] = &survivals[..] else { panic!("one contender") };
    assert!(survival.during >= 0.9, "{survival:?}");
    assert!(survival.back_after <= 1.0, "{survival:?}");
}
