//! Detection and false alarms of the comparison, over random outcomes.

use std::collections::VecDeque;

use super::*;
use crate::base::rng::Rng;

/// A pool whose servers fail requests with these probabilities.
struct Pool {
    outliers: Outliers,
    shares: Vec<f64>,
    /// Shares of the requests that the servers get.
    weights: Vec<f64>,
    totals: Vec<Outcomes>,
    /// Failures take this number of samples longer than successes.
    delay: usize,
    late: VecDeque<Vec<u64>>,
    avoided: Vec<bool>,
    doubted: Vec<bool>,
    doubts: usize,
    now: Instant,
    rng: Rng,
}

impl Pool {
    fn new(shares: &[f64], seed: u64) -> Pool {
        Pool {
            outliers: Outliers::new(shares.len()),
            shares: shares.to_vec(),
            weights: vec![1.0; shares.len()],
            totals: vec![Outcomes::default(); shares.len()],
            delay: 0,
            late: VecDeque::new(),
            avoided: vec![false; shares.len()],
            doubted: vec![false; shares.len()],
            doubts: 0,
            now: Instant::from_nanos(1_000_000_000),
            rng: Rng::new(seed),
        }
    }

    /// A random server, by the weights; one that is avoided or doubted only if there is no other.
    fn server(&mut self) -> usize {
        let is_out = |index: usize| self.avoided[index] || self.doubted[index] || self.weights[index] == 0.0;
        let all_are_out = (0..self.shares.len()).all(is_out);
        let weights = self.weights.iter().enumerate();
        let weights: Vec<f64> = weights
            .map(|(index, weight)| if is_out(index) && !all_are_out { 0.0 } else { *weight })
            .collect();
        let mut at = self.rng.unit_f64() * weights.iter().sum::<f64>();
        let found = weights.iter().position(|weight| {
            at -= weight;
            at < 0.0
        });
        found.unwrap_or(0)
    }

    /// `requests`, then a sample.
    fn step(&mut self, requests: usize) {
        let mut late = vec![0; self.shares.len()];
        for _ in 0..requests {
            let index = self.server();
            match self.rng.unit_f64() < self.shares[index] {
                true => late[index] += 1,
                false => self.totals[index].ended += 1,
            }
        }
        self.late.push_back(late);
        if self.late.len() > self.delay {
            for (total, failed) in self.totals.iter_mut().zip(self.late.pop_front().unwrap()) {
                (total.ended, total.failed) = (total.ended + failed, total.failed + failed);
            }
        }
        self.now += SAMPLE_GAP;
        assert!(self.outliers.is_due(self.now));
        let Pool { outliers, totals, weights, avoided, doubted, doubts, now, .. } = self;
        outliers.sample(
            *now,
            |slot| {
                let index = slot.index();
                let observed = Observed { identity: 7, outcomes: totals[index], is_peer: true };
                (weights[index] > 0.0).then_some(observed)
            },
            |slot, verdict| {
                avoided[slot.index()] = verdict == Verdict::Avoided;
                match verdict {
                    Verdict::Doubted { share, of } => {
                        assert!((SHARE_MIN..=1.0).contains(&share) && of > 0, "{verdict:?}");
                        doubted[slot.index()] = true;
                        *doubts += 1;
                    }
                    _ => doubted[slot.index()] = false,
                }
            },
        );
    }

    fn run(&mut self, time: Duration, per_second: f64) {
        let mut due = 0.0;
        for _ in 0..time.as_millis() / SAMPLE_GAP.as_millis() {
            due += per_second * SAMPLE_GAP.as_secs_f64();
            self.step(due as usize);
            due -= due.floor();
        }
    }
}

#[test]
fn a_server_that_fails_everything_is_doubted_within_a_second_and_costs_little_afterwards() {
    let mut pool = Pool::new(&[0.0, 0.01, 0.0, 1.0], 1);
    pool.run(Duration::from_secs(1), 200.0);
    assert_eq!(pool.doubted, [false, false, false, true]);
    let failed = pool.totals[3].failed;
    assert!(failed <= 10, "{failed} failed");
    pool.run(Duration::from_secs(600), 200.0);
    let later = pool.totals[3].failed - failed;
    assert!(later <= 30, "{later} of 120,000 failed later");
}

#[test]
fn a_server_that_fails_half_of_its_requests_is_doubted_too() {
    for seed in 0..20 {
        let mut pool = Pool::new(&[0.02, 0.02, 0.02, 0.5], seed);
        pool.run(Duration::from_secs(5), 200.0);
        assert!(pool.doubts > 0, "seed {seed}");
    }
}

#[test]
fn a_server_that_serves_again_is_cleared_by_its_trial() {
    let mut pool = Pool::new(&[0.0, 1.0], 3);
    pool.run(Duration::from_secs(2), 100.0);
    assert!(pool.doubted[1]);
    pool.shares[1] = 0.0;
    pool.run(Duration::from_secs(60), 100.0);
    assert_eq!((pool.doubted[1], pool.doubts), (false, 1));
    pool.shares[1] = 1.0;
    pool.run(Duration::from_secs(5), 100.0);
    assert!(pool.doubted[1], "its past does not protect it");
}

#[test]
fn when_all_fail_alike_none_is_doubted() {
    for (seed, share) in [0.0, 0.05, 0.2, 0.5, 0.9, 1.0].into_iter().cycle().take(24).enumerate() {
        let mut pool = Pool::new(&[share; 8], seed as u64);
        pool.run(Duration::from_secs(300), 400.0);
        assert_eq!(pool.doubts, 0, "seed {seed}, share {share}");
    }
}

#[test]
fn a_cause_that_begins_at_all_servers_at_once_condemns_none() {
    for seed in 0..20 {
        let mut pool = Pool::new(&[0.0; 6], seed);
        pool.run(Duration::from_secs(30), 300.0);
        pool.shares.fill(1.0);
        pool.run(Duration::from_secs(30), 300.0);
        pool.shares.fill(0.3);
        pool.run(Duration::from_secs(60), 300.0);
        assert!(pool.doubts <= 1, "seed {seed}: {} doubts", pool.doubts);
    }
}

#[test]
fn a_server_alone_is_never_doubted() {
    let mut pool = Pool::new(&[1.0], 5);
    pool.run(Duration::from_secs(60), 100.0);
    assert_eq!(pool.doubts, 0);
}

/// Takes samples of two servers, of which the first fails nothing and the second everything, until the
/// second is doubted. Gives the verdicts.
fn until_doubted(outliers: &mut Outliers, now: &mut Instant) -> Vec<(usize, Verdict)> {
    let mut verdicts = vec![];
    for n in 1.. {
        *now += SAMPLE_GAP;
        let of = |slot: Slot| {
            let failed = if slot.index() == 0 { 0 } else { n };
            let outcomes = Outcomes { ended: n, failed };
            Some(Observed { identity: 1, outcomes, is_peer: true })
        };
        outliers.sample(*now, of, |slot, verdict| verdicts.push((slot.index(), verdict)));
        if matches!(verdicts.last(), Some((1, Verdict::Doubted { .. }))) {
            assert!(n < 30, "{n} requests");
            break;
        }
    }
    verdicts
}

#[test]
fn another_server_in_the_slot_begins_without_a_past() {
    let (mut outliers, mut now) = (Outliers::new(2), Instant::from_nanos(1));
    let mut verdicts = until_doubted(&mut outliers, &mut now);
    assert!(matches!(verdicts[..], [(1, Verdict::Avoided), (1, Verdict::Doubted { .. })]), "{verdicts:?}");
    verdicts.clear();
    let other = |slot: Slot| {
        let outcomes = Outcomes { ended: 100, failed: 100 };
        Some(Observed { identity: slot.index() as u64 + 1, outcomes, is_peer: true })
    };
    for pause in [SAMPLE_GAP, DOUBT_MIN] {
        now += pause;
        outliers.sample(now, other, |slot, verdict| verdicts.push((slot.index(), verdict)));
    }
    assert_eq!(verdicts, [(1, Verdict::Forgotten)], "nothing is known of the other one");
}

#[test]
fn a_server_that_is_not_judged_any_more_is_forgotten() {
    let (mut outliers, mut now) = (Outliers::new(2), Instant::from_nanos(1));
    until_doubted(&mut outliers, &mut now);
    let mut verdicts = vec![];
    for _ in 0..2 {
        now += SAMPLE_GAP;
        outliers.sample(now, |_| None, |slot, verdict| verdicts.push((slot.index(), verdict)));
    }
    assert_eq!(verdicts, [(1, Verdict::Forgotten)]);
}

/// A server that fails at once, beside one whose requests take this number of samples, at ten requests a
/// sample. The fast one has the shorter queue, so it gets all of them as long as it may. Gives its failures.
fn fast_failures(samples: u64, requests: u64, other_fails: bool) -> (u64, bool) {
    let (mut outliers, mut now) = (Outliers::new(2), Instant::from_nanos(1));
    let mut slow = VecDeque::from(vec![0; samples as usize]);
    let (mut totals, mut is_out, mut is_doubted) = ([Outcomes::default(); 2], false, false);
    for _ in 0..requests / 10 {
        slow.push_back(if is_out { 10 } else { 0 });
        let ended = slow.pop_front().unwrap();
        totals[0].ended += ended;
        totals[0].failed += if other_fails { ended } else { 0 };
        if !is_out {
            (totals[1].ended, totals[1].failed) = (totals[1].ended + 10, totals[1].failed + 10);
        }
        now += SAMPLE_GAP;
        let observe =
            |slot: Slot| Some(Observed { identity: 1, outcomes: totals[slot.index()], is_peer: true });
        outliers.sample(now, observe, |slot, verdict| {
            assert_eq!(slot.index(), 1, "{verdict:?}");
            is_doubted |= matches!(verdict, Verdict::Doubted { .. });
            is_out = matches!(verdict, Verdict::Avoided | Verdict::Doubted { .. });
        });
    }
    (totals[1].failed, is_doubted)
}

#[test]
fn a_server_that_fails_at_once_gets_few_requests_before_a_slow_peer_has_shown_anything() {
    for samples in [1, 3, 10, 50, 150] {
        let (failed, is_doubted) = fast_failures(samples, 6_000, false);
        assert!(failed <= 20 && is_doubted, "{samples} samples: {failed}, {is_doubted}");
    }
}

#[test]
fn a_server_is_avoided_no_longer_than_until_its_slow_peer_fails_alike() {
    let (failed, is_doubted) = fast_failures(20, 6_000, true);
    assert!(failed > 5_000 && !is_doubted, "{failed}, {is_doubted}");
}

#[test]
fn without_a_peer_that_ever_answers_a_server_is_avoided_for_a_while_only() {
    let (failed, is_doubted) = fast_failures(10_000, 6_000, false);
    assert!((20..=60).contains(&failed) && !is_doubted, "6 s: {failed}, {is_doubted}");
}

#[test]
fn of_thousands_of_healthy_pools_none_has_a_doubted_server() {
    let mut seed = 0;
    for share in [0.0, 0.05, 0.5] {
        for _ in 0..1_000 {
            seed += 1;
            let mut rng = Rng::new(seed);
            let servers = 2 + rng.below(7) as usize;
            let mut pool = Pool::new(&vec![share; servers], seed);
            // Some get far more requests than others, and requests are frequent or rare.
            pool.weights = (0..servers).map(|_| 1.0 + rng.below(10) as f64).collect();
            pool.delay = rng.below(3) as usize * 30;
            let per_second = [20.0, 200.0, 2_000.0][rng.below(3) as usize];
            pool.run(Duration::from_secs_f64(600.0 / per_second).min(Duration::from_secs(6)), per_second);
            assert_eq!(pool.doubts, 0, "seed {seed}: {servers} servers that fail {share}");
        }
    }
}

#[test]
fn a_server_that_joins_while_all_fail_slowly_makes_none_an_outlier() {
    for seed in 0..10 {
        let mut pool = Pool::new(&[0.6; 5], seed);
        pool.delay = 200; // 2 s
        pool.weights[4] = 0.0;
        pool.run(Duration::from_secs(20), 1_000.0);
        pool.weights[4] = 1.0;
        pool.run(Duration::from_millis(1_900), 1_000.0);
        assert_eq!(pool.avoided, [false; 5], "seed {seed}: its failures come later");
        pool.run(Duration::from_secs(20), 1_000.0);
        assert_eq!(pool.doubts, 0, "seed {seed}");
    }
}

#[test]
fn the_bounds_are_those_of_wilson() {
    let (lower, upper) = wilson(0.0, 9.0);
    assert!(lower == 0.0 && (upper - 0.5).abs() < 1e-12, "{lower} {upper}");
    let (lower, upper) = wilson(50.0, 100.0);
    assert!((0.35..0.37).contains(&lower) && (0.63..0.65).contains(&upper), "{lower} {upper}");
    assert_eq!(wilson(0.0, 0.0), (0.0, 1.0));
}
