//! The autoscaler: how many servers a pool needs. Pure: samples in, decisions out, each with its reason.
//!
//! ```text
//! load = (outstanding + waiting + shed in the window) / servers up
//! grow    when the mean load over `grow_after` is above 0.9 x threshold
//! shrink  when the same load on fewer servers stays below 0.5 x threshold for all of `shrink_after`
//! ```
//!
//! A queue length does not show *why* it is short. A pool that is too small at some request rate and idle
//! with one server more would flap forever. Therefore the autoscaler remembers the rate at which n servers
//! were not enough. It returns to n servers only when the rate has fallen below 85 % of that rate.
//!
//! Missing data is not zero load. Without servers up, with a silent server, or without samples for a whole
//! window, the autoscaler does not shrink the pool.

use std::fmt;
use std::time::Duration;

use crate::base::time::Instant;

/// When to grow and shrink.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Requests per server that count as too many (`server_scaling_threshold`).
    pub threshold: f64,
    /// How long the load must be high before the pool grows.
    pub grow_after: Duration,
    /// How long the load must be low before the pool shrinks.
    pub shrink_after: Duration,
    /// Minimum time from a decision to the next decision to grow.
    pub grow_cool_down: Duration,
    /// Minimum time from a decision to the next decision to shrink.
    pub shrink_cool_down: Duration,
    /// Maximum number of servers that one decision adds; `None` = as many as are up.
    pub grow_max: Option<u32>,
    /// Maximum number of servers that one decision removes; at least 1.
    pub shrink_max: u32,
    /// Minimum number of servers.
    pub min: u32,
    /// Maximum number of servers.
    pub max: u32,
}

/// The state of a pool at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Requests in flight, at the servers or queued.
    pub outstanding: u64,
    /// Requests refused because the queue had no room, in total since the start.
    pub shed: u64,
    /// Requests that arrived, in total since the start.
    pub arrived: u64,
    /// Servers that take traffic.
    pub up: u32,
    /// Servers that should report and are silent.
    pub silent: u32,
}

/// The autoscaler's decision for one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Do nothing.
    Hold,
    /// Grow to `target` servers.
    Grow {
        /// Desired number of servers.
        target: u32,
        /// The load that led to the decision, in requests per server.
        load: f64,
    },
    /// Shrink to `target` servers.
    Shrink {
        /// Desired number of servers.
        target: u32,
        /// The load that `target` servers would have, in requests per server.
        load: f64,
    },
}

/// Why the number of servers changes, or does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// No server takes traffic, so there is nothing to measure.
    NoServer,
    /// No whole window has passed since the number of servers changed.
    NoDataYet,
    /// The load is within the limits.
    Right {
        /// The load, in requests per server.
        load: f64,
        /// Servers up.
        up: u32,
    },
    /// The pool has too few servers.
    Grow {
        /// The load, in requests per server.
        load: f64,
        /// The load above which the pool grows.
        above: f64,
        /// How long the load was above the limit.
        after: Duration,
        /// Servers up.
        up: u32,
        /// Desired number of servers.
        target: u32,
    },
    /// The pool has too few servers and is at its maximum.
    AtMax {
        /// The load, in requests per server.
        load: f64,
        /// The load above which the pool grows.
        above: f64,
        /// Maximum number of servers.
        max: u32,
    },
    /// The pool has too many servers.
    Shrink {
        /// The load that `target` servers would have, in requests per server.
        load: f64,
        /// The load below which the pool shrinks.
        below: f64,
        /// How long the load was below the limit.
        after: Duration,
        /// Desired number of servers.
        target: u32,
    },
    /// The pool has too many servers and is at its minimum.
    AtMin {
        /// Minimum number of servers.
        min: u32,
    },
    /// The pool may have too many servers, but this number of them is silent, so their load is unknown.
    Silent(u32),
    /// The pool has too many servers by queue length, but fewer were not enough at this rate before.
    TooFewBefore {
        /// The number of servers that was not enough.
        servers: u32,
        /// The request rate that these servers could not serve, per second.
        rate: f64,
    },
    /// The number of servers should change, but the last decision is too recent. The rest of the cool-down
    /// time.
    CoolingDown(Duration),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = |n: u32| if n == 1 { "1 server".to_owned() } else { format!("{n} servers") };
        match *self {
            Why::NoServer => f.write_str("no server takes traffic"),
            Why::NoDataYet => f.write_str("not enough data yet"),
            Why::Right { load, up } => write!(f, "load {load:.2} within limits at {}", servers(up)),
            Why::Grow { load, above, after, up, target } => {
                let up = servers(up);
                write!(f, "load {load:.2} above {above:.2} for {after:?} at {up}: grow to {target}")
            }
            Why::AtMax { load, above, max } => {
                write!(f, "load {load:.2} above {above:.2}, but at max = {max}")
            }
            Why::Shrink { load, below, after, target } => {
                let on = servers(target);
                write!(f, "load {load:.2} below {below:.2} on {on} for {after:?}: shrink to {target}")
            }
            Why::AtMin { min } => write!(f, "at min = {min}"),
            Why::Silent(n) => write!(
                f,
                "{} silent: no data",
                if n == 1 { "1 server is".to_owned() } else { format!("{n} servers are") }
            ),
            Why::TooFewBefore { servers: n, rate } => {
                let were = if n == 1 { "was" } else { "were" };
                write!(f, "{} {were} too few at {rate:.0} requests/s before", servers(n))
            }
            Why::CoolingDown(left) => write!(f, "cooling down for {:.1} s", left.as_secs_f64()),
        }
    }
}

/// The autoscaler's present view of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// Requests per server, mean over `grow_after`; 0 without data.
    pub load: f64,
    /// Servers that take traffic.
    pub up: u32,
    /// Desired number of servers: the last decision's, until the pool has it or the cool-down is over;
    /// then those up.
    pub desired: u32,
    /// Minimum number of servers.
    pub min: u32,
    /// Maximum number of servers.
    pub max: u32,
    /// The reason for the desired number.
    pub why: Why,
}

/// Buckets per window.
const BUCKETS: usize = 10;
/// The pool returns to n servers only below this share of the rate that n servers could not serve.
const RETURN_BELOW: f64 = 0.85;

/// Mean load per bucket of a sliding window.
#[derive(Clone, Debug)]
struct LoadWindow {
    bucket: Duration,
    /// When the first and the last sample were added; `None` without samples.
    span: Option<(Instant, Instant)>,
    /// When the newest bucket began.
    started: Instant,
    /// (sum, samples) of the last buckets; the newest is at `at`.
    buckets: [(f64, u32); BUCKETS],
    at: usize,
    /// Whether the last sample was without load. The balancer samples an idle pool seldom: then the buckets
    /// that a sample skips had no load either.
    was_idle: bool,
}

impl LoadWindow {
    fn new(span: Duration) -> Self {
        LoadWindow {
            bucket: span / BUCKETS as u32,
            span: None,
            started: Instant::ZERO,
            buckets: [(0.0, 0); BUCKETS],
            at: 0,
            was_idle: false,
        }
    }

    fn clear(&mut self) {
        *self = LoadWindow::new(self.bucket * BUCKETS as u32);
    }

    fn add(&mut self, now: Instant, load: f64) {
        // A gap of a whole window is missing data: start again.
        if self.span.is_some_and(|(_, last)| now.since(last) >= self.bucket * BUCKETS as u32) {
            self.clear();
        }
        let (first, _) = self.span.unwrap_or_else(|| {
            self.started = now;
            (now, now)
        });
        self.span = Some((first, now));
        while now.since(self.started) >= self.bucket {
            self.started += self.bucket;
            self.at = (self.at + 1) % BUCKETS;
            let is_skipped = now.since(self.started) >= self.bucket;
            self.buckets[self.at] = (0.0, u32::from(is_skipped && self.was_idle));
        }
        self.was_idle = load == 0.0;
        let (sum, samples) = &mut self.buckets[self.at];
        *sum += load;
        *samples += 1;
    }

    /// The means of the buckets that have samples, once almost a whole window has passed.
    fn means(&self) -> Option<impl Iterator<Item = f64> + '_> {
        let (first, last) = self.span?;
        let has_passed = last.since(first) >= self.bucket * (BUCKETS as u32 - 1);
        let with_samples = self.buckets.iter().filter(|bucket| bucket.1 > 0);
        has_passed.then(|| with_samples.map(|&(sum, n)| sum / f64::from(n)))
    }

    fn mean(&self) -> Option<f64> {
        let (sum, n) = self.means()?.fold((0.0, 0), |(sum, n), mean| (sum + mean, n + 1));
        Some(sum / f64::from(n))
    }

    fn max(&self) -> Option<f64> {
        self.means().map(|means| means.fold(0.0, f64::max))
    }
}

/// The last decision.
#[derive(Clone, Copy, Debug)]
struct Decided {
    at: Instant,
    target: u32,
    why: Why,
}

/// Watches a pool's load and decides when the pool grows or shrinks.
#[derive(Clone, Debug)]
pub struct Scaler {
    policy: Policy,
    high: LoadWindow,
    low: LoadWindow,
    last: Option<Sample>,
    decided: Option<Decided>,
    outlook: Outlook,
    rate: RequestRate,
    /// The highest request rate that n servers could not serve, per second, by n.
    too_few_at: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RequestRate {
    since: Option<(Instant, u64)>,
    per_second: f64,
}

impl RequestRate {
    fn add(&mut self, now: Instant, total: u64) {
        let (since, then) = *self.since.get_or_insert((now, total));
        let passed = now.since(since).as_secs_f64();
        if passed >= 0.25 {
            let now_per_second = total.wrapping_sub(then) as f64 / passed;
            self.per_second = (self.per_second + now_per_second) / 2.0;
            self.since = Some((now, total));
        }
    }
}

impl Scaler {
    /// An autoscaler without samples.
    pub fn new(policy: Policy) -> Self {
        let Policy { min, max, .. } = policy;
        Scaler {
            policy,
            high: LoadWindow::new(policy.grow_after),
            low: LoadWindow::new(policy.shrink_after),
            last: None,
            decided: None,
            outlook: Outlook { load: 0.0, up: 0, desired: 0, min, max, why: Why::NoServer },
            rate: RequestRate::default(),
            too_few_at: vec![0.0; policy.max as usize + 1],
        }
    }

    /// The present view of the pool.
    pub fn outlook(&self) -> Outlook {
        self.outlook
    }

    /// Changes the policy. Samples of a window whose length changes are dropped, and so are the rates that
    /// were too high if the threshold changes.
    pub fn set_policy(&mut self, policy: Policy) {
        let (grow, shrink) = (self.policy.grow_after, self.policy.shrink_after);
        if policy.grow_after != grow {
            self.high = LoadWindow::new(policy.grow_after);
        }
        if policy.shrink_after != shrink {
            self.low = LoadWindow::new(policy.shrink_after);
        }
        if policy.threshold != self.policy.threshold {
            self.too_few_at.fill(0.0); // the old threshold's rates
        }
        self.too_few_at.resize(policy.max as usize + 1, 0.0);
        self.policy = policy;
    }

    /// The highest request rate that n servers could not serve, per second, by n. A successor takes it
    /// over.
    pub fn too_few_at(&self) -> &[f64] {
        &self.too_few_at
    }

    /// Takes over the rates that a predecessor has learned.
    pub fn remember(&mut self, too_few_at: &[f64]) {
        for (mine, &theirs) in self.too_few_at.iter_mut().zip(too_few_at) {
            *mine = mine.max(theirs);
        }
    }

    /// Takes a sample and decides. The caller calls it at every tick. Each decision is given once; the
    /// next one waits for the cool-down.
    pub fn observe(&mut self, now: Instant, sample: Sample) -> Decision {
        let shed = self.last.map_or(0, |last| sample.shed.saturating_sub(last.shed));
        let up = sample.up;
        if self.last.is_none_or(|last| last.up != up) {
            // The number of servers has changed, and with it the load per server: earlier samples do not
            // apply.
            self.high.clear();
            self.low.clear();
        }
        self.last = Some(sample);
        self.rate.add(now, sample.arrived);
        if up > 0 {
            let requests = (sample.outstanding + shed) as f64;
            self.high.add(now, requests / f64::from(up));
            self.low.add(now, requests / f64::from((up - 1).max(1)));
        }
        if sample.silent > 0 {
            // The queue of a silent server is unknown, so the load may have been higher than the samples
            // show.
            self.low.clear();
        }
        let why = self.judge(now, sample);
        let decision = match why {
            Why::Grow { load, target, .. } => Decision::Grow { target, load },
            Why::Shrink { load, target, .. } => Decision::Shrink { target, load },
            _ => Decision::Hold,
        };
        if let Decision::Grow { target, .. } | Decision::Shrink { target, .. } = decision {
            self.decided = Some(Decided { at: now, target, why });
        }
        let unfinished = self.decided.filter(|decided| {
            let cool_down = self.policy.grow_cool_down.max(self.policy.shrink_cool_down);
            let is_there = match decided.why {
                Why::Shrink { target, .. } => up <= target,
                _ => up >= decided.target,
            };
            !is_there && now < decided.at + cool_down
        });
        self.outlook = Outlook {
            load: self.high.mean().unwrap_or(0.0),
            up,
            desired: unfinished.map_or(up, |decided| decided.target),
            why: unfinished.map_or(why, |decided| decided.why),
            ..self.outlook
        };
        decision
    }

    fn judge(&mut self, now: Instant, Sample { up, silent, .. }: Sample) -> Why {
        let Policy { threshold, min, max, .. } = self.policy;
        let (above, below) = (0.9 * threshold, 0.5 * threshold);
        if up == 0 {
            return Why::NoServer;
        }
        let load = self.high.mean();
        if let Some(load) = load.filter(|&load| load > above) {
            if up >= max {
                return Why::AtMax { load, above, max };
            }
            if let Some(left) = self.cool_down_left(now, self.policy.grow_cool_down) {
                return Why::CoolingDown(left);
            }
            let too_few_at = &mut self.too_few_at[up as usize];
            *too_few_at = too_few_at.max(self.rate.per_second);
            let desired = (f64::from(up) * load / above).ceil() as u32;
            let most = up.saturating_add(self.policy.grow_max.unwrap_or(up)).min(max);
            let target = desired.clamp(up + 1, most);
            return Why::Grow { load, above, after: self.policy.grow_after, up, target };
        }
        if silent > 0 {
            return Why::Silent(silent);
        }
        let Some(load) = load else { return Why::NoDataYet };
        let Some(low) = self.low.max().filter(|&low| low < below) else { return Why::Right { load, up } };
        let least = min.max(1);
        if up <= least {
            return Why::AtMin { min: least };
        }
        let rate = self.rate.per_second;
        let too_few_at = |n: u32| self.too_few_at.get(n as usize).copied().unwrap_or(0.0);
        let carried = |n: u32| too_few_at(n) == 0.0 || rate < RETURN_BELOW * too_few_at(n);
        if !carried(up - 1) {
            return Why::TooFewBefore { servers: up - 1, rate: too_few_at(up - 1) };
        }
        if let Some(left) = self.cool_down_left(now, self.policy.shrink_cool_down) {
            return Why::CoolingDown(left);
        }
        let load_on = |n: u32| low * f64::from(up - 1) / f64::from(n);
        let fewest = up.saturating_sub(self.policy.shrink_max.max(1)).max(least);
        let fits = (fewest..up).rev().take_while(|&n| load_on(n) < below && carried(n));
        let target = fits.last().unwrap_or(up - 1);
        Why::Shrink { load: load_on(target), below, after: self.policy.shrink_after, target }
    }

    /// The rest of the cool-down time after the last decision; `None` if it is over.
    fn cool_down_left(&self, now: Instant, cool_down: Duration) -> Option<Duration> {
        let until = self.decided?.at + cool_down;
        (now < until).then(|| until.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        threshold: 5.0,
        grow_after: Duration::from_millis(500),
        shrink_after: Duration::from_secs(3),
        grow_cool_down: Duration::from_secs(1),
        shrink_cool_down: Duration::from_secs(1),
        grow_max: None,
        shrink_max: 1,
        min: 1,
        max: 16,
    };

    /// Runs a pool with `load(up)` outstanding requests that carries out each decision at once.
    fn run(
        scaler: &mut Scaler,
        clock: &mut u64,
        up: &mut u32,
        ms: u64,
        mut sample: impl FnMut(u32, u64) -> Sample,
    ) -> Vec<Decision> {
        let mut decisions = vec![];
        for _ in 0..ms / 10 {
            *clock += 10;
            let decision = scaler.observe(Instant::from_nanos(*clock * 1_000_000), sample(*up, *clock));
            match decision {
                Decision::Grow { target, .. } | Decision::Shrink { target, .. } => *up = target,
                Decision::Hold => continue,
            }
            decisions.push(decision);
        }
        decisions
    }

    fn outstanding(n: u64) -> impl FnMut(u32, u64) -> Sample {
        move |up, ms| Sample { outstanding: n, shed: 0, arrived: ms, up, silent: 0 }
    }

    #[test]
    fn it_grows_until_the_load_is_below_the_threshold_and_no_further() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY), 0, 1);
        run(&mut s, &mut clock, &mut up, 20_000, outstanding(18));
        assert!((4..=8).contains(&up), "{up} servers for 18 requests");
        let quiet = run(&mut s, &mut clock, &mut up, 20_000, outstanding(18));
        assert_eq!(quiet, []);
    }

    #[test]
    fn few_samples_a_window_are_enough() {
        let policy = Policy { grow_after: Duration::from_secs(1), ..POLICY };
        let mut s = Scaler::new(policy);
        let at = |n: u64| Instant::from_nanos(n * 250_000_000);
        let decisions: Vec<_> = (0..5).map(|n| s.observe(at(n), outstanding(20)(2, n))).collect();
        let grow = Decision::Grow { target: 4, load: 10.0 };
        assert_eq!(decisions, [Decision::Hold, Decision::Hold, Decision::Hold, Decision::Hold, grow]);
    }

    #[test]
    fn a_short_peak_is_no_reason_to_grow() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY), 0, 2);
        for _ in 0..20 {
            run(&mut s, &mut clock, &mut up, 100, outstanding(20));
            run(&mut s, &mut clock, &mut up, 900, outstanding(4));
        }
        assert_eq!(up, 2);
    }

    #[test]
    fn it_shrinks_one_by_one_to_the_minimum_when_the_load_has_gone() {
        let (mut s, mut clock, mut up) = (Scaler::new(Policy { min: 2, ..POLICY }), 0, 6);
        let gone = |up, _| Sample { outstanding: 0, shed: 0, arrived: 0, up, silent: 0 };
        let decisions = run(&mut s, &mut clock, &mut up, 30_000, gone);
        assert_eq!((up, decisions.len()), (2, 4));
        assert_eq!(run(&mut s, &mut clock, &mut up, 30_000, gone), []);
    }

    #[test]
    fn an_idle_pool_that_is_sampled_seldom_grows_no_earlier_than_one_that_is_sampled_often() {
        let grows_at = |pause: usize| {
            let mut scaler = Scaler::new(Policy { min: 2, ..POLICY });
            let mut observe = |ms, outstanding| {
                let sample = Sample { outstanding, up: 2, ..Sample::default() };
                scaler.observe(Instant::from_nanos(ms * 1_000_000), sample)
            };
            assert!((0..=4_000).step_by(pause).all(|ms| observe(ms, 0) == Decision::Hold));
            (4_002..).step_by(2).find(|&ms| observe(ms, 12) != Decision::Hold).expect("it grows at last")
        };
        let (often, seldom): (u64, u64) = (grows_at(2), grows_at(200));
        assert!(often.abs_diff(seldom) <= 50, "at {often} ms and at {seldom} ms");
    }

    #[test]
    fn without_servers_or_samples_it_does_nothing() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY), 0, 0);
        assert_eq!(run(&mut s, &mut clock, &mut up, 10_000, outstanding(0)), []);
        up = 4;
        for _ in 0..10 {
            clock += 60_000; // a minute without data
            assert_eq!(run(&mut s, &mut clock, &mut up, 500, outstanding(0)), []);
        }
    }

    #[test]
    fn another_policy_counts_at_once() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY), 0, 4);
        assert_eq!(run(&mut s, &mut clock, &mut up, 20_000, outstanding(14)), []);
        s.set_policy(Policy { threshold: 2.0, max: 64, grow_after: Duration::from_secs(5), ..POLICY });
        assert_eq!(run(&mut s, &mut clock, &mut up, 4_500, outstanding(14)), [], "a window of five seconds");
        assert_eq!(run(&mut s, &mut clock, &mut up, 1_000, outstanding(14)).len(), 1);
        up = 60;
        run(&mut s, &mut clock, &mut up, 20_000, outstanding(500));
        assert_eq!(up, 64, "room for more");
        s.set_policy(Policy { max: 8, ..POLICY });
        let gone = |up, _| Sample { outstanding: 0, shed: 0, arrived: 0, up, silent: 0 };
        run(&mut s, &mut clock, &mut up, 300_000, gone);
        assert_eq!(up, 1);
    }

    #[test]
    fn shed_requests_count_as_load() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY), 0, 1);
        let mut shed = 0;
        run(&mut s, &mut clock, &mut up, 2_000, |up, ms| {
            shed += 10;
            Sample { outstanding: 1, shed, arrived: ms, up, silent: 0 }
        });
        assert!(up > 1);
    }

    /// M/M/n-like: one server is overloaded at this rate, two are nearly idle.
    #[test]
    fn a_pool_that_was_too_small_at_this_rate_is_not_shrunk_to_it_again() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY), 0, 1);
        let cliff = |up, ms: u64| Sample {
            outstanding: if up == 1 { 9 } else { 1 },
            shed: 0,
            arrived: ms,
            up,
            silent: 0,
        };
        let decisions = run(&mut s, &mut clock, &mut up, 120_000, cliff);
        assert_eq!((up, decisions.len()), (2, 1), "{decisions:?}");
        let mut arrived = 1_000_000;
        run(&mut s, &mut clock, &mut up, 20_000, |up, _| {
            arrived += 3; // a third of the rate
            Sample { outstanding: 0, shed: 0, arrived, up, silent: 0 }
        });
        assert_eq!(up, 1);
    }

    #[test]
    fn one_decision_adds_and_removes_no_more_than_its_step() {
        for (grow_max, shrink_max, expected) in [
            (None, 1, [2, 4, 8, 7, 6, 5]),
            (Some(1), 2, [2, 3, 4, 2, 1, 1]),
            (Some(5), 100, [6, 11, 16, 1, 1, 1]),
        ] {
            let policy = Policy { grow_max, shrink_max, ..POLICY };
            let (mut s, mut clock, mut up) = (Scaler::new(policy), 0, 1);
            let mut sizes = vec![];
            let mut after_one = |outstanding: u64, s: &mut Scaler, up: &mut u32| {
                for _ in 0..10_000 {
                    let decided =
                        run(s, &mut clock, up, 10, |up, _| Sample { outstanding, up, ..Sample::default() });
                    if !decided.is_empty() {
                        break;
                    }
                }
                sizes.push(*up);
            };
            (0..3).for_each(|_| after_one(1_000, &mut s, &mut up));
            (0..3).for_each(|_| after_one(0, &mut s, &mut up));
            assert_eq!(sizes, expected, "at most {grow_max:?} more and {shrink_max} fewer");
        }
    }

    #[test]
    fn as_many_are_removed_as_the_load_allows() {
        let policy = Policy { shrink_max: 100, ..POLICY };
        let (mut s, mut clock, mut up) = (Scaler::new(policy), 0, 10);
        // 9 requests: 2.25 on four servers, 3 on three; the limit is 2.5.
        let decisions = run(&mut s, &mut clock, &mut up, 4_000, outstanding(9));
        assert_eq!(decisions, [Decision::Shrink { target: 4, load: 2.25 }]);
    }

    #[test]
    fn each_way_has_its_own_cool_down_from_the_last_decision_on() {
        let ms = Duration::from_millis;
        let policy = Policy {
            grow_after: ms(100),
            shrink_after: ms(100),
            grow_cool_down: ms(400),
            shrink_cool_down: ms(2_000),
            ..POLICY
        };
        let (mut s, mut clock, mut up) = (Scaler::new(policy), 0, 4);
        let at = |s: &mut Scaler, clock: &mut u64, up: &mut u32, n: u64| {
            for _ in 0..1_000 {
                if !run(s, clock, up, 10, outstanding(n)).is_empty() {
                    break;
                }
            }
            *clock
        };
        let first = at(&mut s, &mut clock, &mut up, 100);
        assert_eq!(up, 8);
        assert_eq!(at(&mut s, &mut clock, &mut up, 100) - first, 400);
        let second = clock;
        assert_eq!(at(&mut s, &mut clock, &mut up, 0) - second, 2_000);
        assert_eq!(up, 15);
        let third = clock;
        assert_eq!(at(&mut s, &mut clock, &mut up, 100) - third, 400);
    }

    #[test]
    fn with_a_silent_server_it_grows_but_does_not_shrink() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY), 0, 4);
        let silent = |up, ms| Sample { silent: 1, ..outstanding(0)(up, ms) };
        assert_eq!(run(&mut s, &mut clock, &mut up, 20_000, silent), []);
        assert_eq!(s.outlook().why, Why::Silent(1));
        let quiet = run(&mut s, &mut clock, &mut up, 2_600, outstanding(0));
        assert_eq!(quiet, [], "a whole window without it being silent has to pass first");
        assert_eq!(run(&mut s, &mut clock, &mut up, 400, outstanding(0)).len(), 1);
        let busy = |up, ms| Sample { silent: 1, ..outstanding(100)(up, ms) };
        assert!(matches!(run(&mut s, &mut clock, &mut up, 2_000, busy)[0], Decision::Grow { .. }));
    }

    #[test]
    fn every_decision_and_every_hold_has_a_reason() {
        let ms = Duration::from_millis;
        let policy = Policy { max: 8, grow_cool_down: ms(3_000), ..POLICY };
        let (mut s, mut clock, mut up) = (Scaler::new(policy), 0, 0);
        let mut reason = |s: &mut Scaler, up: &mut u32, time: u64, n: u64| {
            run(s, &mut clock, up, time, outstanding(n));
            let Outlook { up, desired, why, .. } = s.outlook();
            format!("{up} of {desired}: {why}")
        };
        assert_eq!(reason(&mut s, &mut up, 100, 0), "0 of 0: no server takes traffic");
        up = 3;
        assert_eq!(reason(&mut s, &mut up, 100, 15), "3 of 3: not enough data yet");
        assert_eq!(reason(&mut s, &mut up, 900, 12), "3 of 3: load 4.00 within limits at 3 servers");
        for _ in 0..60 {
            reason(&mut s, &mut up, 10, 15);
            if up > 3 {
                break;
            }
        }
        let grown = s.outlook();
        assert_eq!((grown.up, grown.desired, grown.min, grown.max), (3, 4, 1, 8));
        let why = grown.why.to_string();
        assert!(why.starts_with("load 4.") && why.ends_with(" above 4.50 for 500ms at 3 servers: grow to 4"));
        assert_eq!(reason(&mut s, &mut up, 100, 19), "4 of 4: not enough data yet");
        assert_eq!(reason(&mut s, &mut up, 900, 19), "4 of 4: cooling down for 2.0 s");
        up = 8;
        assert_eq!(reason(&mut s, &mut up, 600, 64), "8 of 8: load 8.00 above 4.50, but at max = 8");
        assert_eq!(reason(&mut s, &mut up, 1_000, 8), "8 of 8: load 1.00 within limits at 8 servers");
        for _ in 0..300 {
            reason(&mut s, &mut up, 10, 8);
            if up < 8 {
                break;
            }
        }
        let shrunk = s.outlook();
        assert_eq!((shrunk.up, shrunk.desired), (8, 7));
        assert_eq!(shrunk.why.to_string(), "load 1.14 below 2.50 on 7 servers for 3s: shrink to 7");
        up = 1;
        assert_eq!(reason(&mut s, &mut up, 4_000, 0), "1 of 1: at min = 1");
        assert_eq!(Why::Silent(2).to_string(), "2 servers are silent: no data");
        let before = Why::TooFewBefore { servers: 1, rate: 511.6 };
        assert_eq!(before.to_string(), "1 server was too few at 512 requests/s before");
    }
}
