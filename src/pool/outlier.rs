//! Finds servers whose requests fail far more often than those of their peers. Pure: time is an argument.
//!
//! Liveness signals show that a server responds, not that it serves: it may acknowledge requests and send no
//! replies. Such a server even looks fast, so it attracts requests. What shows it is the comparison with its
//! peers (*outlier detection*, as in Envoy): a cause that all servers share, such as a lossy network, lets
//! the requests of all of them fail alike, and then none is to blame.
//!
//! The share of failed requests is a measured one, so it is compared by its bounds: the interval of Wilson
//! ("Probable Inference", 1927) at three standard deviations. A server is *doubted* if the lower bound of its
//! share is at least `SHARE_MIN`, and at least `FACTOR` times the upper bound of its best peer. So few
//! requests are enough to doubt a server that fails all of them, and chance hardly ever is: with equal
//! servers both bounds would have to miss the truth.
//!
//! A doubted server is a last resort, so nothing more is learned of it. After `DOUBT_MIN`, twice as long
//! each time, it is *on trial*: it gets requests as others do, with a bad record. One more failure makes it
//! doubted again; successes clear it.

use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::select::Slot;

/// The lower bound of the share from which on a server is doubted.
const SHARE_MIN: f64 = 0.3;
/// The share is at least this many times the best peer's.
const FACTOR: f64 = 2.0;
/// Bounds are this many standard deviations away.
const DEVIATIONS: f64 = 3.0;
/// Outcomes after which their weight is halved, so that a server is judged by its last ones.
const OUTCOMES_MAX: f64 = 128.0;
/// Failures with which a trial begins.
const TRIAL: f64 = 4.0;
/// Outcomes after which a trial is over.
const TRIAL_LEN: f64 = 32.0;
/// The shortest time of doubt.
const DOUBT_MIN: Duration = Duration::from_secs(10);
/// The longest time of doubt.
const DOUBT_MAX: Duration = Duration::from_secs(300);
/// A peer without an outcome for this time is no measure.
const PEER_FRESH: Duration = Duration::from_secs(10);
/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// Outcomes of a server's requests since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Requests that have ended.
    pub ended: u64,
    /// Of these, requests that failed.
    pub failed: u64,
}

/// A change of what is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The server's requests fail far more often than those of a peer: this share of the last ones.
    Doubted {
        /// The share of failed requests, 0 to 1.
        share: f64,
        /// The number of requests that it was measured with.
        of: u32,
    },
    /// The time of doubt is over.
    OnTrial,
}

/// What is known of the server in a slot.
#[derive(Clone, Copy, Debug)]
struct Track {
    /// Tells the server from others in the slot.
    identity: u64,
    seen: Outcomes,
    /// Outcomes that count, with their weights.
    ended: f64,
    failed: f64,
    last: Instant,
    doubted_until: Option<Instant>,
    /// Times of doubt in a row.
    doubts: u32,
}

/// The servers of a pool.
#[derive(Debug)]
pub struct Outliers {
    tracks: Box<[Option<Track>]>,
    next: Instant,
}

impl Track {
    fn new(identity: u64, seen: Outcomes) -> Track {
        let (ended, failed, last) = (0.0, 0.0, Instant::ZERO);
        Track { identity, seen, ended, failed, last, doubted_until: None, doubts: 0 }
    }

    fn take(&mut self, now: Instant, total: Outcomes) {
        let ended = total.ended.saturating_sub(self.seen.ended);
        // A response may be counted a moment before its request has ended.
        let failed = total.failed.saturating_sub(self.seen.failed).min(ended);
        if ended == 0 {
            return;
        }
        self.seen = total;
        self.last = now;
        // A large sample replaces the older ones.
        let kept = (1.0 - ended as f64 / OUTCOMES_MAX).max(0.0);
        self.ended = self.ended * kept + ended as f64;
        self.failed = self.failed * kept + failed as f64;
        if self.ended > OUTCOMES_MAX {
            (self.ended, self.failed) = (OUTCOMES_MAX, self.failed * OUTCOMES_MAX / self.ended);
        }
    }

    /// Bounds of the share of failed requests.
    fn bounds(&self) -> (f64, f64) {
        wilson(self.failed, self.ended)
    }
}

impl Outliers {
    /// Nothing is known yet of the servers of this many slots.
    pub fn new(slots: usize) -> Outliers {
        Outliers { tracks: vec![None; slots].into(), next: Instant::ZERO }
    }

    /// Whether it is time for the next sample.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Takes a sample: `outcomes` gives the identity of the server in a slot and the outcomes of its
    /// requests. `on_verdict` gets each change.
    pub fn sample(
        &mut self,
        now: Instant,
        outcomes: impl Fn(Slot) -> Option<(u64, Outcomes)>,
        mut on_verdict: impl FnMut(Slot, Verdict),
    ) {
        self.next = now + SAMPLE_EVERY;
        for (index, entry) in self.tracks.iter_mut().enumerate() {
            let Some((identity, total)) = outcomes(Slot::new(index)) else {
                *entry = None;
                continue;
            };
            if entry.is_none_or(|track| track.identity != identity) {
                *entry = Some(Track::new(identity, total));
            }
            if let Some(track) = entry {
                track.take(now, total);
            }
        }
        let [best, second] = self.best_peers(now);
        for (index, entry) in self.tracks.iter_mut().enumerate() {
            let Some(track) = entry else { continue };
            if let Some(until) = track.doubted_until {
                if now >= until {
                    track.doubted_until = None;
                    (track.ended, track.failed) = (TRIAL, TRIAL);
                    on_verdict(Slot::new(index), Verdict::OnTrial);
                }
                continue;
            }
            if track.ended >= TRIAL_LEN {
                track.doubts = 0;
            }
            let peer = if best.is_some_and(|(of, _)| of == index) { second } else { best };
            let Some((_, peer)) = peer.filter(|_| track.last == now) else { continue };
            let (lower, _) = track.bounds();
            if lower >= SHARE_MIN && lower >= FACTOR * peer {
                let time = (DOUBT_MIN * (1 << track.doubts.min(5))).min(DOUBT_MAX);
                (track.doubted_until, track.doubts) = (Some(now + time), track.doubts + 1);
                let (share, of) = (track.failed / track.ended, track.ended as u32);
                on_verdict(Slot::new(index), Verdict::Doubted { share, of });
            }
        }
    }

    /// The two servers with the lowest upper bounds, with these.
    fn best_peers(&self, now: Instant) -> [Option<(usize, f64)>; 2] {
        let mut best: [Option<(usize, f64)>; 2] = [None; 2];
        for (index, entry) in self.tracks.iter().enumerate() {
            let is_fresh = |track: &&Track| {
                track.doubted_until.is_none() && track.ended > 0.0 && now.since(track.last) <= PEER_FRESH
            };
            let Some(track) = entry.as_ref().filter(is_fresh) else { continue };
            let mut peer = Some((index, track.bounds().1));
            for place in &mut best {
                let is_better = match (peer, *place) {
                    (Some((_, bound)), Some((_, other))) => bound < other,
                    (peer, None) => peer.is_some(),
                    (None, _) => false,
                };
                if is_better {
                    std::mem::swap(place, &mut peer);
                }
            }
        }
        best
    }
}

/// The interval of Wilson for a share: `of` outcomes, of which `failed` count.
fn wilson(failed: f64, of: f64) -> (f64, f64) {
    if of <= 0.0 {
        return (0.0, 1.0);
    }
    let (share, z2) = (failed / of, DEVIATIONS * DEVIATIONS);
    let middle = share + z2 / (2.0 * of);
    let margin = DEVIATIONS * (share * (1.0 - share) / of + z2 / (4.0 * of * of)).sqrt();
    let scale = 1.0 + z2 / of;
    (((middle - margin) / scale).max(0.0), ((middle + margin) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// A pool whose servers fail requests with these probabilities.
    struct Pool {
        outliers: Outliers,
        shares: Vec<f64>,
        totals: Vec<Outcomes>,
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
                totals: vec![Outcomes::default(); shares.len()],
                doubted: vec![false; shares.len()],
                doubts: 0,
                now: Instant::from_nanos(1_000_000_000),
                rng: Rng::new(seed),
            }
        }

        /// `requests` at random servers that are not doubted, then a sample.
        fn step(&mut self, requests: usize) {
            for _ in 0..requests {
                let index = self.rng.below(self.shares.len() as u64) as usize;
                if self.doubted[index] && !self.doubted.iter().all(|&doubted| doubted) {
                    continue;
                }
                self.totals[index].ended += 1;
                self.totals[index].failed += u64::from(self.rng.unit_f64() < self.shares[index]);
            }
            self.now += SAMPLE_EVERY;
            assert!(self.outliers.is_due(self.now));
            let Pool { outliers, totals, doubted, doubts, now, .. } = self;
            outliers.sample(
                *now,
                |slot| Some((7, totals[slot.index()])),
                |slot, verdict| match verdict {
                    Verdict::Doubted { share, of } => {
                        assert!((SHARE_MIN..=1.0).contains(&share) && of > 0, "{verdict:?}");
                        doubted[slot.index()] = true;
                        *doubts += 1;
                    }
                    Verdict::OnTrial => doubted[slot.index()] = false,
                },
            );
        }

        fn run(&mut self, time: Duration, per_second: f64) {
            let mut due = 0.0;
            for _ in 0..time.as_millis() / SAMPLE_EVERY.as_millis() {
                due += per_second * SAMPLE_EVERY.as_secs_f64();
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
        assert!(failed <= 30, "{failed} failed");
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

    #[test]
    fn another_server_in_the_slot_begins_without_a_past() {
        let mut outliers = Outliers::new(2);
        let mut verdicts = vec![];
        let mut now = Instant::from_nanos(1);
        for n in 1..=20 {
            now += SAMPLE_EVERY;
            let of = |slot: Slot| {
                let failed = if slot.index() == 0 { 0 } else { 5 * n };
                Some((1, Outcomes { ended: 5 * n, failed }))
            };
            outliers.sample(now, of, |slot, _| verdicts.push(slot.index()));
        }
        assert_eq!(verdicts, [1]);
        now += SAMPLE_EVERY;
        let other = |slot: Slot| Some((slot.index() as u64 + 1, Outcomes { ended: 100, failed: 100 }));
        outliers.sample(now, other, |slot, _| verdicts.push(slot.index()));
        now += DOUBT_MIN;
        outliers.sample(now, other, |slot, _| verdicts.push(slot.index()));
        assert_eq!(verdicts, [1], "nothing is known of the other one");
    }

    #[test]
    fn the_bounds_are_those_of_wilson() {
        let (lower, upper) = wilson(0.0, 9.0);
        assert!(lower == 0.0 && (upper - 0.5).abs() < 1e-12, "{lower} {upper}");
        let (lower, upper) = wilson(50.0, 100.0);
        assert!((0.35..0.37).contains(&lower) && (0.63..0.65).contains(&upper), "{lower} {upper}");
        assert_eq!(wilson(0.0, 0.0), (0.0, 1.0));
    }
}
