//! Simulated servers under a policy: slowness, shares and response times.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::base::rng::Rng;
use crate::base::service_time::ServiceTime;
use crate::pool::select::{Chooser, LeafState, PolicyKind, SHARE_ALL, Tree, cost_of};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

/// Totals of `count` requests that took `micros` each, with no other request at the server.
fn alone(count: u64, micros: u64) -> ServedTotals {
    ServedTotals { count, micros: count * micros, positions: count }
}

/// Samples every 20 ms until `to_ms`, with these totals at each slot.
fn sample(delays: &mut Slowness, from_ms: u64, to_ms: u64, totals: impl Fn(usize, u64) -> ServedTotals) {
    for ms in (from_ms..to_ms).step_by(20) {
        assert!(delays.is_due(at(ms)), "{ms}");
        delays.sample(at(ms), |_| Some(1), |slot| totals(slot.index(), ms));
        assert!(!delays.is_due(at(ms + 19)), "{ms}");
    }
}

fn on(slots: usize) -> Slowness {
    let mut delays = Slowness::new(slots);
    delays.set_on(true);
    delays
}

#[test]
fn a_server_five_times_as_slow_costs_about_five_times_as_much_and_this_fades_without_requests() {
    let mut delays = on(4);
    // 200 requests a second at three of them, 40 at the other; nothing after two seconds.
    let served = |slot: usize, ms: u64| match slot {
        0 => alone(ms.min(2_000) / 25, 25_000),
        _ => alone(ms.min(2_000) / 5, 5_000),
    };
    sample(&mut delays, 0, 2_000, served);
    assert_eq!([1, 2, 3].map(|slot| delays.slowness(Slot::new(slot))), [AS_FAST; 3]);
    let slow = delays.slowness(Slot::new(0));
    assert!((4_200..=5_500).contains(&slow), "{slow}"); // less the prior, and changes too small to count
    assert_eq!(delays.service(Slot::new(0)).map(|service| service.as_millis()), Some(25));
    let mut last = slow;
    for second in 2..12 {
        sample(&mut delays, second * 1_000, second * 1_000 + 1_000, served);
        let slow = delays.slowness(Slot::new(0));
        assert!(slow <= last, "{second} s: {slow}");
        last = slow;
    }
    assert_eq!(last, AS_FAST, "the measurements have faded");
}

#[test]
fn a_server_that_has_become_slow_is_noticed_within_a_few_requests() {
    let mut delays = on(4);
    let before = |ms: u64| alone(ms / 5, 5_000);
    sample(&mut delays, 0, 3_000, |_, ms| before(ms));
    for n in 1..=10 {
        let slow = ServedTotals { count: 600 + n, micros: (600 + 5 * n) * 5_000, positions: 600 + n };
        let ms = 3_000 + 20 * n;
        sample(&mut delays, ms, ms + 20, |slot, ms| if slot == 0 { slow } else { before(ms) });
        if delays.slowness(Slot::new(0)) > 3 * AS_FAST {
            assert!(n >= 4, "a few may be random");
            return;
        }
    }
    panic!("not within ten requests: {}", delays.slowness(Slot::new(0)));
}

#[test]
fn a_queue_is_no_slowness_whichever_way_a_server_serves_it() {
    // Eight requests concurrently at the first server, two at the others, served one after the other or
    // together. With the root of the position each measurement is off by at most a factor of two.
    for one_by_one in [true, false] {
        let mut delays = on(4);
        sample(&mut delays, 0, 3_000, |slot, ms| {
            let (count, position) = (ms / 4, if slot == 0 { 8 } else { 2 });
            let latency = if one_by_one { 5_000 * position } else { 5_000 };
            ServedTotals { count, micros: count * latency, positions: count * position }
        });
        let slowness = [0, 1].map(|slot| delays.slowness(Slot::new(slot)));
        let times = f64::from(slowness[0]) / f64::from(slowness[1]);
        assert!((0.45..=2.2).contains(&times), "{times}");
    }
}

#[test]
fn chance_makes_no_difference_between_equal_servers() {
    let service: ServiceTime = "bimodal:5ms".parse().unwrap();
    for seed in 0..20 {
        let (mut delays, mut rng) = (on(16), Rng::new(seed));
        let mut totals = [ServedTotals::default(); 16];
        let (mut samples, mut unequal) = (0, 0);
        for ms in (0..20_000).step_by(20) {
            for totals in &mut totals {
                for _ in 0..3 {
                    totals.count += 1;
                    totals.positions += 1;
                    totals.micros += service.sample(&mut || rng.unit_f64()).as_micros() as u64;
                }
            }
            delays.sample(at(ms), |_| Some(1), |slot| totals[slot.index()]);
            samples += 16;
            unequal += delays.slots().filter(|&slot| delays.slowness(slot) != AS_FAST).count();
        }
        assert!(unequal * 20 < samples, "seed {seed}: {unequal} of {samples}");
    }
}

#[test]
fn less_than_a_quarter_is_no_difference_however_sure_it_is() {
    for (micros, slower) in [(5_900, false), (7_000, true)] {
        let mut delays = on(4);
        sample(&mut delays, 0, 3_000, |slot, ms| alone(ms * 2, if slot == 0 { micros } else { 5_000 }));
        assert_eq!(delays.slowness(Slot::new(0)) > AS_FAST, slower, "{micros} us");
    }
}

#[test]
fn another_server_in_the_slot_starts_afresh_and_so_does_a_pool_that_is_switched_on_again() {
    let mut delays = on(2);
    let served = |slot: usize, ms: u64| alone(ms / 5, if slot == 0 { 50_000 } else { 5_000 });
    sample(&mut delays, 0, 2_000, served);
    assert!(delays.slowness(Slot::new(0)) > 8 * AS_FAST);
    delays.sample(
        at(2_020),
        |slot| Some(1 + u64::from(slot.index() == 0)),
        |slot| served(slot.index(), 2_000),
    );
    assert_eq!((delays.slowness(Slot::new(0)), delays.service(Slot::new(0))), (AS_FAST, None));
    sample(&mut delays, 2_040, 4_000, served);
    assert!(delays.slowness(Slot::new(0)) > 8 * AS_FAST);
    delays.set_on(true);
    assert!(delays.slowness(Slot::new(0)) > 8 * AS_FAST, "it was on");
    delays.set_on(false);
    assert_eq!((delays.slowness(Slot::new(0)), delays.is_due(at(9_000))), (AS_FAST, false));
}

#[test]
fn a_server_that_answers_at_once_counts_as_at_most_four_times_as_fast() {
    let mut delays = on(4);
    sample(&mut delays, 0, 3_000, |slot, ms| alone(ms / 5, if slot == 0 { 1 } else { 5_000 }));
    assert_eq!(delays.slowness(Slot::new(0)), AS_FAST);
    let others = delays.slowness(Slot::new(1));
    assert!((3_600..=4_000).contains(&others), "{others}");
    let mut delays = on(4);
    sample(&mut delays, 0, 3_000, |slot, ms| alone(ms / 5, if slot == 0 { 59_000_000 } else { 5_000 }));
    assert_eq!(delays.slowness(Slot::new(0)), SLOWNESS_MAX);
}

proptest! {
    /// For any measurements at any times: some server is the fastest, and none is beyond the bounds.
    #[test]
    fn some_server_is_the_fastest_and_all_are_within_the_bounds(
        steps in prop::collection::vec(
            (
                0usize..4,
                0u64..200,
                prop_oneof![Just(0u64), 1..100_000_000u64],
                1u64..50,
                0u64..5_000,
                0u64..3,
            ),
            1..60,
        ),
    ) {
        let mut delays = on(4);
        let (mut totals, mut now) = ([ServedTotals::default(); 4], at(0));
        let mut identities = [Some(1); 4];
        for (slot, count, micros, position, ms, identity) in steps {
            let served = &mut totals[slot];
            served.count += count;
            served.micros += count * micros;
            served.positions += count * position;
            identities[slot] = identity.checked_sub(1);
            now += MS * ms as u32;
            let before: Vec<u32> = delays.slots().map(|slot| delays.slowness(slot)).collect();
            let (identity, total) =
                (|slot: Slot| identities[slot.index()], |slot: Slot| totals[slot.index()]);
            let has_changed = delays.sample(now, identity, total);
            let after: Vec<u32> = delays.slots().map(|slot| delays.slowness(slot)).collect();
            let bounds = AS_FAST..=SLOWNESS_MAX;
            prop_assert!(after.iter().all(|slowness| bounds.contains(slowness)), "{:?}", after);
            prop_assert!(after.contains(&AS_FAST), "{:?}", after);
            // A new server begins as fast as the fastest, which is reported as a change too.
            prop_assert!(has_changed || before == after, "{:?} {:?}", before, after);
        }
    }

    #[test]
    fn the_median_is_the_middle_of_all_requests(
        servers in prop::collection::vec((1u32..20, 1u32..1_000), 1..9),
    ) {
        let mut delays = on(servers.len());
        let mut all = vec![];
        for (server, &(count, micros)) in delays.servers.iter_mut().zip(&servers) {
            let (count, micros) = (f64::from(count), f64::from(micros));
            server.older = Sums { count, micros: count * micros, positions: count };
            all.extend(std::iter::repeat_n(micros, count as usize));
        }
        all.sort_by(f64::total_cmp);
        let middle = all[all.len().div_ceil(2) - 1];
        let median = delays.median().unwrap();
        prop_assert!((median - middle).abs() < 1e-6 * middle, "{} {}", median, middle);
    }
}

/// Servers that serve one request after the other, or several concurrently, under a policy.
struct Pool {
    tree: Tree,
    chooser: Chooser,
    delays: Slowness,
    rng: Rng,
    now: f64,
    /// By server: when each of its threads is free, and its requests: (arrived, ends).
    threads: Vec<Vec<f64>>,
    requests: Vec<VecDeque<(f64, f64)>>,
    served: Vec<ServedTotals>,
    chosen: Vec<u64>,
    latencies: Vec<f64>,
    next_sample: f64,
}

impl Pool {
    fn new(seed: u64, servers: usize, threads: usize, policy: PolicyKind) -> Pool {
        let tree = Tree::new(servers, u32::MAX);
        let cost = cost_of(1, SHARE_ALL, AS_FAST);
        (0..servers).for_each(|slot| tree.set(Slot::new(slot), LeafState::Eligible, cost));
        let mut delays = Slowness::new(servers);
        delays.set_on(policy == PolicyKind::ShortestDelay);
        Pool {
            tree,
            chooser: Chooser::new(policy, seed),
            delays,
            rng: Rng::new(seed),
            now: 0.0,
            threads: vec![vec![0.0; threads]; servers],
            requests: vec![VecDeque::new(); servers],
            served: vec![ServedTotals::default(); servers],
            chosen: vec![0; servers],
            latencies: vec![],
            next_sample: 0.0,
        }
    }

    /// Runs for `ms` milliseconds with `rate` requests per millisecond; `slow` gives each server's
    /// slowness factor.
    fn run(&mut self, ms: f64, rate: f64, service: ServiceTime, slow: impl Fn(usize) -> f64) {
        let end = self.now + ms;
        self.chosen.fill(0);
        self.latencies.clear();
        loop {
            let rng = &mut self.rng;
            self.now += -(1.0 - rng.unit_f64()).ln() / rate;
            if self.now > end {
                return;
            }
            while self.next_sample <= self.now {
                self.sample(self.next_sample);
            }
            self.finish(self.now);
            let slot = self.chooser.reserve(&self.tree).unwrap().slot;
            self.chosen[slot.index()] += 1;
            let rng = &mut self.rng;
            let took = service.sample(&mut || rng.unit_f64()).as_secs_f64() * 1e3 * slow(slot.index());
            let free = self.threads[slot.index()].iter_mut().min_by(|a, b| a.total_cmp(b)).unwrap();
            *free = free.max(self.now) + took;
            let (ends, requests) = (*free, &mut self.requests[slot.index()]);
            let place = requests.iter().position(|(_, other)| *other > ends).unwrap_or(requests.len());
            requests.insert(place, (self.now, ends));
        }
    }

    /// Finishes the requests that have ended by then.
    fn finish(&mut self, by: f64) {
        for (index, requests) in self.requests.iter_mut().enumerate() {
            while requests.front().is_some_and(|(_, ends)| *ends <= by) {
                let (arrived, ends) = requests.pop_front().unwrap();
                let served = &mut self.served[index];
                served.count += 1;
                served.micros += ((ends - arrived + 0.1) * 1e3) as u64;
                served.positions += u64::from(self.tree.len(Slot::new(index)));
                self.tree.adjust(Slot::new(index), -1);
                self.latencies.push(ends - arrived);
            }
        }
    }

    fn sample(&mut self, at_ms: f64) {
        self.finish(at_ms);
        self.next_sample = at_ms + 20.0;
        let now = Instant::from_nanos((at_ms * 1e6) as u64 + 1_000_000_000);
        if self.delays.is_due(now) && self.delays.sample(now, |_| Some(1), |slot| self.served[slot.index()]) {
            for slot in self.delays.slots() {
                let cost = cost_of(1, SHARE_ALL, self.delays.slowness(slot));
                self.tree.set(slot, LeafState::Eligible, cost);
            }
        }
    }

    fn share(&self, server: usize) -> f64 {
        self.chosen[server] as f64 / self.chosen.iter().sum::<u64>() as f64
    }

    fn p99(&mut self) -> f64 {
        self.latencies.sort_by(f64::total_cmp);
        self.latencies[self.latencies.len() * 99 / 100]
    }
}

fn exponential() -> ServiceTime {
    ServiceTime::exponential(5 * MS)
}

const SERVERS: usize = 16;
/// Requests per millisecond that one server of speed 1 can serve.
const CAPACITY: f64 = 0.2;

/// The p99 of the ideal: one central queue that gives the oldest request to the fastest free server.
/// Measured at 85 % of the capacity of 15 fast servers and one that takes five times as long (exponential
/// service of 5 ms): 400,000 requests, simulated.
const IDEAL_P99_MS: f64 = 27.7;

#[test]
fn with_a_server_five_times_as_slow_waits_are_close_to_those_of_one_central_queue() {
    let slow = |server: usize| if server == 0 { 5.0 } else { 1.0 };
    let rate = 0.85 * CAPACITY * 15.2;
    let mut shortest_queue = Pool::new(1, SERVERS, 1, PolicyKind::ShortestQueue);
    shortest_queue.run(40_000.0, rate, exponential(), slow);
    for seed in 1..4 {
        let mut pool = Pool::new(seed, SERVERS, 1, PolicyKind::ShortestDelay);
        pool.run(5_000.0, rate, exponential(), slow);
        pool.run(40_000.0, rate, exponential(), slow);
        let (p99, share) = (pool.p99(), pool.share(0));
        assert!(p99 <= 1.2 * IDEAL_P99_MS, "seed {seed}: {p99} ms");
        assert!(p99 < 0.92 * shortest_queue.p99(), "seed {seed}: {p99} ms, {} ms", shortest_queue.p99());
        // A fifth of a fast server's share is this server's share of the capacity. For short queues,
        // requests leave some of that idle.
        assert!(share > 0.0005 && share < 0.2 / 15.2, "seed {seed}: {share}");
    }
}

#[test]
fn a_slow_server_is_given_its_share_when_all_are_needed() {
    let slow = |server: usize| if server == 0 { 5.0 } else { 1.0 };
    let mut pool = Pool::new(3, SERVERS, 1, PolicyKind::ShortestDelay);
    pool.run(5_000.0, 0.98 * CAPACITY * 15.2, exponential(), slow);
    pool.run(40_000.0, 0.98 * CAPACITY * 15.2, exponential(), slow);
    let of_fast = pool.share(0) * 15.0 / (1.0 - pool.share(0));
    assert!((0.08..=0.25).contains(&of_fast), "a fifth of a fast one's is all it can do: {of_fast}");
}

#[test]
fn a_server_is_avoided_soon_after_it_became_slow_and_used_again_soon_after_it_recovered() {
    for seed in 1..5 {
        for load in [0.3, 0.8] {
            let rate = load * CAPACITY * 16.0;
            let mut pool = Pool::new(seed, SERVERS, 1, PolicyKind::ShortestDelay);
            pool.run(5_000.0, rate, exponential(), |_| 1.0);
            let slow = |server: usize| if server == 0 { 5.0 } else { 1.0 };
            pool.run(1_000.0, rate, exponential(), slow);
            pool.run(5_000.0, rate, exponential(), slow);
            let avoided = pool.share(0) * 16.0;
            assert!(avoided < 0.25, "seed {seed}, load {load}: {avoided} of an equal share");
            pool.run(5_000.0, rate, exponential(), |_| 1.0);
            pool.run(3_000.0, rate, exponential(), |_| 1.0);
            let again = pool.share(0) * 16.0;
            assert!(again > 0.8, "seed {seed}, load {load}: {again} of an equal share");
        }
    }
}

#[test]
fn equal_servers_get_equal_shares_and_waits_no_longer_than_with_shortest_queue() {
    // With one thread and with many: neither may oscillate or run away.
    for threads in [1, 8] {
        for load in [0.3, 0.85] {
            let rate = load * CAPACITY * 16.0 * threads as f64;
            for name in ["exp:5ms", "bimodal:5ms"] {
                let service = name.parse().unwrap();
                let [(plain, _), (delay, shares)] = [PolicyKind::ShortestQueue, PolicyKind::ShortestDelay]
                    .map(|policy| {
                        let mut pool = Pool::new(5, SERVERS, threads, policy);
                        pool.run(20_000.0, rate, service, |_| 1.0);
                        let shares: Vec<f64> = (0..SERVERS).map(|server| pool.share(server) * 16.0).collect();
                        (pool.p99(), shares)
                    });
                assert!(delay <= 1.06 * plain, "{name}, {threads} at once, load {load}: {delay} {plain}");
                let within = shares.iter().all(|share| (0.8..1.2).contains(share));
                assert!(within, "{name}, {threads} at once, load {load}: {shares:?}");
            }
        }
    }
}

#[test]
fn half_of_the_servers_twice_as_slow_are_found_out() {
    let slow = |server: usize| if server < 8 { 2.0 } else { 1.0 };
    let rate = 0.85 * CAPACITY * 12.0;
    let [plain, delay] = [PolicyKind::ShortestQueue, PolicyKind::ShortestDelay].map(|policy| {
        let mut pool = Pool::new(7, SERVERS, 1, policy);
        pool.run(5_000.0, rate, exponential(), slow);
        pool.run(40_000.0, rate, exponential(), slow);
        pool.p99()
    });
    assert!(delay < 0.93 * plain, "{delay} {plain}");
}

#[test]
fn a_pause_of_the_balancer_is_no_harm() {
    let mut delays = on(2);
    sample(&mut delays, 0, 2_000, |_, ms| alone(ms / 5, 5_000));
    let late = at(2_000) + 3_600 * SECOND;
    assert!(!delays.sample(late, |_| Some(1), |_| alone(400, 5_000)));
    assert_eq!(delays.slowness(Slot::new(0)), AS_FAST);
}

#[test]
fn what_any_worker_has_measured_counts_and_the_primary_shows_it() {
    let served: [[Served; 3]; 2] = Default::default();
    let of = |worker: usize, slot: Slot| &served[worker][slot.index()];
    let mut delays = Slowness::new(3);
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut step = |delays: &mut Slowness| {
        // The first worker has the fast servers' responses, and the second one those of the slow server.
        (0..2).for_each(|slot| served[0][slot].note_claim(10, 1_000));
        served[1][2].note_claim(10, 8_000);
        now += Duration::from_millis(20);
        super::sample(delays, now, 2, of, |_| Some(1))
    };
    choose(&mut delays, PolicyKind::ShortestQueue, |slot| of(0, slot));
    assert!((0..10).all(|_| !step(&mut delays)));
    assert_eq!(served[0][2].slowness.get(), 0);
    choose(&mut delays, PolicyKind::ShortestDelay, |slot| of(0, slot));
    let changes = (0..10).filter(|_| step(&mut delays)).count();
    assert!((1..=4).contains(&changes), "{changes}");
    let shown = (served[0][2].service_us.get(), served[0][2].slowness.get());
    assert!((7_900..=8_100).contains(&shown.0) && (7_000..=8_000).contains(&shown.1), "{shown:?}");
    assert_eq!(served[0][0].slowness.get(), u64::from(AS_FAST));
    choose(&mut delays, PolicyKind::Random, |slot| of(0, slot));
    assert_eq!((served[0][2].service_us.get(), served[0][2].slowness.get()), (0, 0));
    assert_eq!(delays.slowness(Slot::new(2)), AS_FAST);
}
