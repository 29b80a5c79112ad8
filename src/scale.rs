//! How many servers there should be. Pure: samples in, decisions out.
//!
//! ```text
//! load = (outstanding + waiting + shed in the window) / servers up
//! grow    when the mean load over `grow_after` is above 0.9 x threshold
//! shrink  when the same load on one server fewer stays below 0.5 x threshold for all of `shrink_after`
//! ```
//!
//! A queue length says little about *why* it is short, so a pool that is too small at some request rate
//! and idle one server larger would flap for ever. Therefore the scaler remembers at which rate n servers
//! were not enough, and goes back to n only when the rate has fallen well below it.
//! No data is not zero load: without servers up, or without samples for a whole window, it holds.

use std::time::Duration;

use crate::time::Instant;

/// When to grow and shrink.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Requests per server that are thought to be too many (`server_scaling_threshold`).
    pub threshold: f64,
    /// How long the load must be high.
    pub grow_after: Duration,
    /// How long the load must be low.
    pub shrink_after: Duration,
    /// The least time between two decisions.
    pub cool_down: Duration,
    /// Never fewer servers.
    pub min: u32,
    /// Never more servers.
    pub max: u32,
}

/// The pool at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Requests under way or in a server.
    pub outstanding: u64,
    /// Requests refused so far for want of room, in total since the start.
    pub shed: u64,
    /// Requests that arrived so far, in total since the start.
    pub arrived: u64,
    /// Servers that take traffic.
    pub up: u32,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Nothing.
    Hold,
    /// There should be `target` servers.
    Grow {
        /// How many.
        target: u32,
        /// The load that says so.
        load: f64,
    },
    /// One server is too many.
    Shrink {
        /// The load that says so.
        load: f64,
    },
}

/// Buckets of a window.
const BUCKETS: usize = 10;
/// Back to n servers only below this share of the rate that n servers could not carry.
const RETURN_BELOW: f64 = 0.85;

/// Mean load per bucket of a sliding window.
#[derive(Clone, Debug)]
struct Window {
    bucket: Duration,
    started: Option<Instant>,
    /// (sum, samples) of the last buckets; the newest is at `at`.
    buckets: [(f64, u32); BUCKETS],
    at: usize,
    filled: usize,
}

impl Window {
    fn new(span: Duration) -> Self {
        Window {
            bucket: span / BUCKETS as u32,
            started: None,
            buckets: [(0.0, 0); BUCKETS],
            at: 0,
            filled: 0,
        }
    }

    fn clear(&mut self) {
        *self = Window::new(self.bucket * BUCKETS as u32);
    }

    fn add(&mut self, now: Instant, load: f64) {
        let started = *self.started.get_or_insert(now);
        if now.since(started) >= self.bucket {
            // A gap of a whole window is missing data: start again.
            if now.since(started) >= self.bucket * BUCKETS as u32 {
                self.clear();
            } else {
                self.at = (self.at + 1) % BUCKETS;
                self.filled = (self.filled + 1).min(BUCKETS);
                self.buckets[self.at] = (0.0, 0);
            }
            self.started = Some(now);
        }
        let (sum, samples) = &mut self.buckets[self.at];
        *sum += load;
        *samples += 1;
    }

    /// The finished buckets' means, once a whole window has passed.
    fn means(&self) -> Option<impl Iterator<Item = f64> + '_> {
        let done = self.buckets.iter().filter(|b| b.1 > 0);
        (self.filled >= BUCKETS - 1).then(|| done.map(|&(sum, n)| sum / f64::from(n)))
    }

    fn mean(&self) -> Option<f64> {
        let (sum, n) = self.means()?.fold((0.0, 0), |(sum, n), mean| (sum + mean, n + 1));
        Some(sum / f64::from(n))
    }

    fn max(&self) -> Option<f64> {
        self.means().map(|means| means.fold(0.0, f64::max))
    }
}

/// Watches the load and decides.
#[derive(Clone, Debug)]
pub struct Scaler {
    policy: Policy,
    high: Window,
    low: Window,
    last: Option<Sample>,
    up: u32,
    not_before: Instant,
    rate: Rate,
    /// The highest request rate per second that n servers could not carry, by n.
    too_few_at: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    since: Option<(Instant, u64)>,
    per_second: f64,
}

impl Rate {
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
    /// A scaler that has seen nothing yet.
    pub fn new(policy: Policy, now: Instant) -> Self {
        Scaler {
            policy,
            high: Window::new(policy.grow_after),
            low: Window::new(policy.shrink_after),
            last: None,
            up: 0,
            not_before: now,
            rate: Rate::default(),
            too_few_at: vec![0.0; policy.max as usize + 1],
        }
    }

    /// The highest request rate per second that n servers could not carry, by n: what a successor should know.
    pub fn too_few_at(&self) -> &[f64] {
        &self.too_few_at
    }

    /// Remembers what a predecessor has learned.
    pub fn remember(&mut self, too_few_at: &[f64]) {
        for (mine, &theirs) in self.too_few_at.iter_mut().zip(too_few_at) {
            *mine = mine.max(theirs);
        }
    }

    /// Takes a sample and decides. Called at every tick; a decision is given once and then rests for
    /// the cool-down.
    pub fn observe(&mut self, now: Instant, sample: Sample) -> Decision {
        let shed = self.last.map_or(0, |last| sample.shed.saturating_sub(last.shed));
        self.last = Some(sample);
        self.rate.add(now, sample.arrived);
        if sample.up != self.up {
            // Other servers, other load: what was measured before says nothing.
            self.up = sample.up;
            self.high.clear();
            self.low.clear();
        }
        if sample.up == 0 {
            return Decision::Hold;
        }
        let requests = (sample.outstanding + shed) as f64;
        self.high.add(now, requests / f64::from(sample.up));
        self.low.add(now, requests / f64::from((sample.up - 1).max(1)));
        if now < self.not_before {
            return Decision::Hold;
        }
        let decision = self.decide(sample.up);
        if decision != Decision::Hold {
            self.not_before = now + self.policy.cool_down;
        }
        decision
    }

    fn decide(&mut self, up: u32) -> Decision {
        let Policy { threshold, min, max, .. } = self.policy;
        let grow_above = 0.9 * threshold;
        if let Some(load) = self.high.mean().filter(|&load| load > grow_above && up < max) {
            let too_few_at = &mut self.too_few_at[up as usize];
            *too_few_at = too_few_at.max(self.rate.per_second);
            let wanted = (f64::from(up) * load / grow_above).ceil() as u32;
            return Decision::Grow { target: wanted.clamp(up + 1, (up * 2).min(max)), load };
        }
        let carried = |n: u32| {
            let too_few_at = self.too_few_at.get(n as usize).copied().unwrap_or(0.0);
            too_few_at == 0.0 || self.rate.per_second < RETURN_BELOW * too_few_at
        };
        match self.low.max() {
            Some(load) if up > min && up > 1 && load < 0.5 * threshold && carried(up - 1) => {
                Decision::Shrink { load }
            }
            _ => Decision::Hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        threshold: 5.0,
        grow_after: Duration::from_millis(500),
        shrink_after: Duration::from_secs(3),
        cool_down: Duration::from_secs(1),
        min: 1,
        max: 16,
    };

    /// Runs a pool in which `load(up)` requests are outstanding and the decisions are carried out at once.
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
                Decision::Grow { target, .. } => *up = target,
                Decision::Shrink { .. } => *up -= 1,
                Decision::Hold => continue,
            }
            decisions.push(decision);
        }
        decisions
    }

    fn outstanding(n: u64) -> impl FnMut(u32, u64) -> Sample {
        move |up, ms| Sample { outstanding: n, shed: 0, arrived: ms, up }
    }

    #[test]
    fn it_grows_until_the_load_is_below_the_threshold_and_no_further() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY, Instant::ZERO), 0, 1);
        run(&mut s, &mut clock, &mut up, 20_000, outstanding(18));
        assert!((4..=8).contains(&up), "{up} servers for 18 requests");
        let quiet = run(&mut s, &mut clock, &mut up, 20_000, outstanding(18));
        assert_eq!(quiet, []);
    }

    #[test]
    fn a_short_peak_is_no_reason_to_grow() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY, Instant::ZERO), 0, 2);
        for _ in 0..20 {
            run(&mut s, &mut clock, &mut up, 100, outstanding(20));
            run(&mut s, &mut clock, &mut up, 900, outstanding(4));
        }
        assert_eq!(up, 2);
    }

    #[test]
    fn it_shrinks_one_by_one_to_the_minimum_when_the_load_has_gone() {
        let (mut s, mut clock, mut up) = (Scaler::new(Policy { min: 2, ..POLICY }, Instant::ZERO), 0, 6);
        let gone = |up, _| Sample { outstanding: 0, shed: 0, arrived: 0, up };
        let decisions = run(&mut s, &mut clock, &mut up, 30_000, gone);
        assert_eq!((up, decisions.len()), (2, 4));
        assert_eq!(run(&mut s, &mut clock, &mut up, 30_000, gone), []);
    }

    #[test]
    fn no_servers_and_no_samples_are_no_reason_to_do_anything() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY, Instant::ZERO), 0, 0);
        assert_eq!(run(&mut s, &mut clock, &mut up, 10_000, outstanding(0)), []);
        up = 4;
        for _ in 0..10 {
            clock += 60_000; // a minute without data
            assert_eq!(run(&mut s, &mut clock, &mut up, 500, outstanding(0)), []);
        }
    }

    #[test]
    fn shed_requests_count_as_load() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY, Instant::ZERO), 0, 1);
        let mut shed = 0;
        run(&mut s, &mut clock, &mut up, 2_000, |up, ms| {
            shed += 10;
            Sample { outstanding: 1, shed, arrived: ms, up }
        });
        assert!(up > 1);
    }

    /// M/M/n-like: one server is hopeless at this rate, two are nearly idle.
    #[test]
    fn a_pool_that_was_too_small_at_this_rate_is_not_shrunk_to_it_again() {
        let (mut s, mut clock, mut up) = (Scaler::new(POLICY, Instant::ZERO), 0, 1);
        let cliff =
            |up, ms: u64| Sample { outstanding: if up == 1 { 9 } else { 1 }, shed: 0, arrived: ms, up };
        let decisions = run(&mut s, &mut clock, &mut up, 120_000, cliff);
        assert_eq!((up, decisions.len()), (2, 1), "{decisions:?}");
        let mut arrived = 1_000_000;
        run(&mut s, &mut clock, &mut up, 20_000, |up, _| {
            arrived += 3; // a third of the rate
            Sample { outstanding: 0, shed: 0, arrived, up }
        });
        assert_eq!(up, 1);
    }
}
