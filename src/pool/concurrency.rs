//! The adaptive limit (`max_outstanding: auto`): the lowest limit of outstanding requests that keeps the
//! servers busy.
//!
//! One more request at a server is useful only if the server then finishes more requests in the same time.
//! That is so if the server works on several requests concurrently, or if the round trip takes a
//! considerable part of the time. So the search measures the rate at which servers finish requests, by the
//! number of requests that they have:
//!
//! ```text
//! rate(k) = requests finished by servers that had k / time that servers had k
//! ```
//!
//! The limit is the lowest `k` at which one more request gains too little. The search needs neither the
//! service time nor the round trip. A server that works on one request after the other has `rate(1) = 1 /
//! (service + round trip)` and `rate(2) = 1 / service`, so the gain is the round trip as a share of the
//! service time. A server with four threads gains until it has four requests.
//!
//! Times are sampled: the primary reports at each tick how many requests each server has. Pure: no clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::select::{Slot, Tree};
use crate::pool::waiting::{LIMIT_AT_FIRST, Limit};

/// The longest queue with a count of its own; longer queues share its count.
pub const QUEUE_MAX: usize = 64;
/// The limits that the search can select. Neighbours differ enough to be measured. Servers that still gain
/// at the end have no limit.
const LADDER: [u32; 8] = [1, 2, 4, 8, 16, 32, QUEUE_MAX as u32, u32::MAX];
/// The gain that the next limit must bring, as a share of the rate. A server whose round trip is a tenth
/// of its service time gains that by a second request.
const GAIN_MIN: f64 = 0.10;
/// The search returns to the limit below if the present one brings less than this part of [`GAIN_MIN`].
/// The difference keeps the limit from wavering.
const HYSTERESIS: f64 = 0.8;
/// Requests that must be finished at a queue length before its rate counts. The rate is then known to 2.5
/// %, or to 4 % if service times vary more.
const FINISHED_MIN: f64 = 1_600.0;
/// Counts are halved when they exceed this many times [`FINISHED_MIN`].
const FADE: f64 = 3.0;
/// Time between two decisions about the limit.
const EVERY: Duration = Duration::from_millis(250);
/// Maximum duration of a trial of another limit.
const TRY_MAX: Duration = Duration::from_secs(10);
/// Time between two trials when the results are known. Repeated trials detect a change of the servers.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// Samples further apart than this do not count: the time between them is unknown.
const GAP_MAX: Duration = Duration::from_millis(100);

/// Finished requests, by the number of requests that their server had. One worker writes.
#[derive(Debug)]
pub struct FinishedCounts([AtomicU64; QUEUE_MAX + 1]);

impl Default for FinishedCounts {
    fn default() -> Self {
        FinishedCounts(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl FinishedCounts {
    /// Counts `n` finished requests of a server that had `queue` requests, these included.
    pub fn add(&self, queue: u32, n: u32) {
        let count = &self.0[(queue as usize).min(QUEUE_MAX)];
        count.store(count.load(Ordering::Relaxed) + u64::from(n), Ordering::Relaxed);
    }
}

/// A trial of another limit.
#[derive(Clone, Copy, Debug)]
struct LimitTrial {
    /// Index of the limit in `LADDER`.
    step: usize,
    until: Instant,
}

/// The search for the limit.
#[derive(Debug)]
pub struct LimitSearch {
    /// Index of the limit in `LADDER`.
    step: usize,
    trial: Option<LimitTrial>,
    /// Time of the next trial when the results are known, and whether the limit above is tried next.
    again: Instant,
    again_above: bool,
    /// Seconds that servers had each queue length, and requests that they finished in this time. Both
    /// fade.
    time: [f64; QUEUE_MAX + 1],
    finished: [f64; QUEUE_MAX + 1],
    /// The workers' counts at the last sample.
    seen: [u64; QUEUE_MAX + 1],
    last_sample: Option<Instant>,
    next_decision: Instant,
    /// Whether requests were queued since the last decision. The limit matters only then.
    was_short: bool,
}

impl LimitSearch {
    /// A search that begins with a limit of 16: enough to keep most servers busy, and a short queue at the
    /// server.
    pub fn new(now: Instant) -> Self {
        LimitSearch {
            step: LADDER.iter().position(|&limit| limit == LIMIT_AT_FIRST).expect("it is there"),
            trial: None,
            again: now + TRY_AGAIN,
            again_above: true,
            time: [0.0; QUEUE_MAX + 1],
            finished: [0.0; QUEUE_MAX + 1],
            seen: [0; QUEUE_MAX + 1],
            last_sample: None,
            next_decision: now + EVERY,
            was_short: false,
        }
    }

    /// The present limit.
    pub fn limit(&self) -> u32 {
        LADDER[self.trial.map_or(self.step, |trial| trial.step)]
    }

    /// Takes a sample: the outstanding requests of each server that takes traffic, the workers' counts,
    /// and whether requests are queued. Returns the limit if it has changed.
    pub fn sample<'a>(
        &mut self,
        now: Instant,
        queues: impl Iterator<Item = u32>,
        workers: impl Iterator<Item = &'a FinishedCounts>,
        is_short: bool,
    ) -> Option<u32> {
        let gap = self.last_sample.replace(now).map(|last| now.since(last));
        let mut counted = [0; QUEUE_MAX + 1];
        for worker in workers {
            for (sum, count) in counted.iter_mut().zip(&worker.0) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        let before = std::mem::replace(&mut self.seen, counted);
        let seconds = gap.filter(|gap| *gap <= GAP_MAX)?.as_secs_f64();
        for (sum, (now, before)) in self.finished.iter_mut().zip(counted.iter().zip(before)) {
            *sum += now.saturating_sub(before) as f64;
        }
        for queue in queues {
            self.time[(queue as usize).min(QUEUE_MAX)] += seconds;
        }
        self.was_short |= is_short;
        if now < self.next_decision {
            return None;
        }
        self.next_decision = now + EVERY;
        let old = self.limit();
        self.decide(now);
        self.was_short = false;
        (self.limit() != old).then(|| self.limit())
    }

    fn decide(&mut self, now: Instant) {
        for k in 0..=QUEUE_MAX {
            if self.finished[k] > FADE * FINISHED_MIN {
                self.finished[k] /= 2.0;
                self.time[k] /= 2.0;
            }
        }
        if let Some(trial) = self.trial {
            if self.rate(trial.step).is_none() && now < trial.until {
                return;
            }
            self.trial = None;
            self.again = now + TRY_AGAIN;
        }
        // In a pool with little load all queue lengths occur without trials: take the lowest sufficient
        // one.
        let known = (0..self.step).take_while(|&step| self.is_worth(step).is_some());
        if let Some(enough) = known.into_iter().find(|&step| self.is_worth(step) == Some(false)) {
            self.step = enough;
            return;
        }
        // In a pool with more load than capacity only the limit itself occurs: try its neighbours.
        if !self.was_short || (self.rate(self.step).is_none() && LADDER[self.step] != u32::MAX) {
            return;
        }
        let below = self.step.checked_sub(1);
        let above = (self.step + 1 < LADDER.len()).then_some(self.step + 1);
        match (below.map(|below| self.is_worth(below)), above.map(|_| self.is_worth(self.step))) {
            (Some(None), _) => self.attempt(now, below),
            (Some(Some(false)), _) => self.step -= 1,
            (_, Some(None)) => self.attempt(now, above),
            (_, Some(Some(true))) => self.step += 1,
            _ if now >= self.again => {
                let step = if self.again_above { above } else { below };
                self.again_above = !self.again_above;
                self.again = now + TRY_AGAIN;
                self.attempt(now, step);
            }
            _ => {}
        }
    }

    /// Starts a trial of a limit and drops what was measured at it.
    fn attempt(&mut self, now: Instant, step: Option<usize>) {
        let Some(step) = step.filter(|&step| LADDER[step] as usize <= QUEUE_MAX) else { return };
        let k = LADDER[step] as usize;
        (self.finished[k], self.time[k]) = (0.0, 0.0);
        self.trial = Some(LimitTrial { step, until: now + TRY_MAX });
    }

    /// Whether the step after this one gains enough; `None` without enough measurements.
    fn is_worth(&self, step: usize) -> Option<bool> {
        if LADDER[step + 1] as usize > QUEUE_MAX {
            // The gain of the longest measured queues decides for longer ones.
            return self.is_worth(step.checked_sub(1)?);
        }
        let gain = self.rate(step + 1)? / self.rate(step)? - 1.0;
        let least = if step < self.step { GAIN_MIN * HYSTERESIS } else { GAIN_MIN };
        gain.is_finite().then_some(gain > least)
    }

    /// Requests per second that a server finishes with a queue of this step's length; `None` without
    /// enough measurements.
    fn rate(&self, step: usize) -> Option<f64> {
        let k = LADDER[step] as usize;
        let finished = *self.finished.get(k)?;
        (finished >= FINISHED_MIN).then(|| finished / self.time[k])
    }
}

/// The search, if the limit is `auto`.
#[derive(Debug, Default)]
pub struct AdaptiveLimit(Option<LimitSearch>);

impl AdaptiveLimit {
    /// A search if `limit` is `auto`.
    pub fn of(now: Instant, limit: Option<Limit>) -> Self {
        let mut auto = AdaptiveLimit::default();
        auto.set(now, limit);
        auto
    }

    /// Starts a search if `limit` is `auto` and none runs; ends the search if `limit` is not.
    pub fn set(&mut self, now: Instant, limit: Option<Limit>) {
        match limit {
            Some(Limit::Auto) => drop(self.0.get_or_insert_with(|| LimitSearch::new(now))),
            Some(Limit::Fixed(_)) | None => self.0 = None,
        }
    }

    /// The limit that the search has selected; `None` without a search.
    pub fn limit(&self) -> Option<u32> {
        self.0.as_ref().map(LimitSearch::limit)
    }

    /// Samples the pool and sets the limit in the tree if it has changed. Runs at every tick.
    pub fn sample<'a>(
        &mut self,
        now: Instant,
        tree: &Tree,
        finished: impl Iterator<Item = &'a FinishedCounts>,
        is_short: bool,
    ) {
        let Some(search) = &mut self.0 else { return };
        let served = (0..tree.slot_count()).map(Slot::new).filter(|&slot| tree.takes_traffic(slot));
        if let Some(limit) = search.sample(now, served.map(|slot| tree.own_len(slot)), finished, is_short) {
            tree.set_cap(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::base::rng::Rng;
    use crate::base::service_time::ServiceTime;

    const SERVERS: usize = 4;

    /// Servers behind a limit. Requests arrive at a rate, or whenever a server has room.
    struct World {
        search: LimitSearch,
        finished: FinishedCounts,
        rng: Rng,
        now: f64,
        service: ServiceTime,
        round_trip: f64,
        threads: usize,
        /// Requests per second; `None` = whenever a server has room.
        rate: Option<f64>,
        waiting: u64,
        next_arrival: f64,
        next_sample: f64,
        servers: Vec<Server>,
    }

    #[derive(Default)]
    struct Server {
        /// When the responses to its requests arrive.
        back: VecDeque<f64>,
        /// When each thread becomes free.
        free: Vec<f64>,
    }

    impl World {
        fn new(service: &str, round_trip_ms: f64, threads: usize, rate: Option<f64>) -> World {
            let server = || Server { back: VecDeque::new(), free: vec![0.0; threads] };
            World {
                search: LimitSearch::new(Instant::ZERO),
                finished: FinishedCounts::default(),
                rng: Rng::new(7),
                now: 0.0,
                service: service.parse().unwrap(),
                round_trip: round_trip_ms / 1e3,
                threads,
                rate,
                waiting: 0,
                next_arrival: 0.0,
                next_sample: 0.0,
                servers: (0..SERVERS).map(|_| server()).collect(),
            }
        }

        fn dispatch(&mut self) {
            while self.waiting > 0 || self.rate.is_none() {
                let limit = self.search.limit() as usize;
                let server = self.servers.iter_mut().min_by_key(|server| server.back.len()).unwrap();
                if server.back.len() >= limit.min(200) {
                    return;
                }
                let rng = &mut self.rng;
                let took = self.service.sample(&mut || rng.unit_f64()).as_secs_f64();
                let thread =
                    (0..self.threads).min_by(|&a, &b| server.free[a].total_cmp(&server.free[b])).unwrap();
                let arrives = self.now + self.round_trip / 2.0;
                server.free[thread] = server.free[thread].max(arrives) + took;
                server.back.push_back(server.free[thread] + self.round_trip / 2.0);
                server.back.make_contiguous().sort_by(f64::total_cmp);
                self.waiting = self.waiting.saturating_sub(1);
            }
        }

        /// Runs the pool for this number of seconds and returns the limit.
        fn run(&mut self, seconds: f64) -> u32 {
            let end = self.now + seconds;
            while self.now < end {
                self.dispatch();
                let back = self.servers.iter().filter_map(|server| server.back.front().copied());
                let next_back = back.fold(f64::INFINITY, f64::min);
                let arrival = self.rate.map_or(f64::INFINITY, |_| self.next_arrival);
                self.now = next_back.min(arrival).min(self.next_sample);
                if self.now >= self.next_sample {
                    self.next_sample += 0.01;
                    let queues = self.servers.iter().map(|server| server.back.len() as u32);
                    let now = Instant::from_nanos((self.now * 1e9) as u64);
                    let is_short = self.waiting > 0 || self.rate.is_none();
                    self.search.sample(now, queues, [&self.finished].into_iter(), is_short);
                } else if self.now >= arrival {
                    self.waiting += 1;
                    self.next_arrival += -(1.0 - self.rng.unit_f64()).ln() / self.rate.unwrap();
                } else {
                    for server in &mut self.servers {
                        if server.back.front() == Some(&self.now) {
                            self.finished.add(server.back.len() as u32, 1);
                            server.back.pop_front();
                        }
                    }
                }
            }
            self.search.limit()
        }
    }

    #[test]
    fn a_single_thread_and_a_short_round_trip_need_one() {
        for service in ["exp:5ms", "bimodal:5ms", "fixed:5ms"] {
            let mut world = World::new(service, 0.1, 1, None);
            assert_eq!(world.run(30.0), 1, "{service}");
        }
        // The same at 85 % of the servers' capacity.
        let mut world = World::new("exp:5ms", 0.1, 1, Some(0.85 * SERVERS as f64 / 5e-3));
        assert_eq!(world.run(30.0), 1);
    }

    #[test]
    fn a_long_round_trip_needs_the_requests_in_transit() {
        let mut world = World::new("exp:2ms", 1.0, 1, None);
        let limit = world.run(30.0);
        assert!(limit == 2, "{limit}: half of the service time");
    }

    #[test]
    fn servers_with_threads_need_one_for_each() {
        for (threads, from, to) in [(4, 4, 4), (32, 32, 32)] {
            let mut world = World::new("exp:10ms", 0.02, threads, None);
            let limit = world.run(20.0);
            assert!((from..=to).contains(&limit), "{limit} for {threads} threads");
        }
    }

    #[test]
    fn servers_that_always_gain_have_no_limit() {
        let mut world = World::new("exp:50ms", 0.02, 100, None);
        assert_eq!(world.run(25.0), u32::MAX);
    }

    #[test]
    fn a_change_of_the_servers_is_noticed() {
        let mut world = World::new("exp:2ms", 0.02, 1, None);
        assert_eq!(world.run(20.0), 1);
        world.threads = 4;
        world.servers.iter_mut().for_each(|server| server.free = vec![world.now; 4]);
        let limit = world.run(120.0);
        assert!(limit == 4, "{limit}");
        world.threads = 1;
        world.servers.iter_mut().for_each(|server| server.free = vec![world.now; 1]);
        assert_eq!(world.run(60.0), 1);
    }

    #[test]
    fn a_pool_with_little_to_do_keeps_its_limit_and_tries_nothing() {
        let mut world = World::new("exp:5ms", 0.1, 1, Some(10.0));
        assert_eq!(world.run(120.0), 16);
    }

    #[test]
    fn samples_far_apart_do_not_count() {
        let mut search = LimitSearch::new(Instant::ZERO);
        let finished = FinishedCounts::default();
        for n in 0..1000u64 {
            finished.add(1, 10);
            finished.add(2, 10);
            let now = Instant::from_nanos(n * 200_000_000);
            assert_eq!(search.sample(now, [1, 2].into_iter(), [&finished].into_iter(), true), None);
        }
    }
}
