//! Finds servers whose requests fail far more often than those of their peers. Pure: time is an argument.
//!
//! Liveness signals show that a server responds, not that it serves: it may acknowledge requests and send no
//! replies, or answer each of them at once with an error. Such a server even looks fast, so it attracts
//! requests. What shows it is the comparison with its peers (*outlier detection*, as in Envoy): a cause that
//! all servers share, such as a lossy network or a broken zone, lets the requests of all of them fail alike,
//! and then none is to blame.
//!
//! The share of failed requests is a measured one, so it is compared by its bounds: the interval of Wilson
//! ("Probable Inference", 1927) at three standard deviations. A server is *doubted* if the lower bound of its
//! share is at least `SHARE_MIN`, and at least `FACTOR` times the upper bound of its best peer. So few
//! requests are enough to doubt a server that fails all of them, and chance hardly ever is: with equal
//! servers both bounds would have to miss the truth.
//!
//! The bound of a slow peer takes a while, and a server that fails at once gets most requests until then. So
//! a server is *avoided* meanwhile: as soon as its own lower bound is at least `SHARE_MIN`, and at least
//! `FACTOR` times the *measured* share of its best peer (0 before the peer's first outcome). That is a weaker
//! reason, so it holds for `AVOID` at most, and it ends when the peer turns out to fail alike.
//!
//! Failures may take longer than successes, so a peer that has just joined seems to fail less than it does.
//! It is a measure for younger servers at once, and for older ones after `SETTLED`.
//!
//! A doubted server is a last resort, so nothing more is learned of it. After `DOUBT_MIN`, twice as long
//! each time, it is *on trial*: it gets requests as others do, with a bad record. One more failure makes it
//! doubted again; successes clear it.

use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::select::Slot;

/// The lower bound of the share from which on a server is avoided or doubted.
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
/// The longest time for which a server is avoided.
const AVOID: Duration = Duration::from_secs(2);
/// The shortest time of doubt.
const DOUBT_MIN: Duration = Duration::from_secs(10);
/// The longest time of doubt.
const DOUBT_MAX: Duration = Duration::from_secs(300);
/// A peer without an outcome for this time is no measure.
const PEER_FRESH: Duration = Duration::from_secs(10);
/// A peer that has been there for this time, or for half of a server's time, is a measure for the server.
const SETTLED: Duration = Duration::from_secs(5);
/// Minimum time between two samples.
const SAMPLE_GAP: Duration = Duration::from_millis(10);
/// Minimum time per slot between two samples: a sample of many slots takes time.
const SAMPLE_GAP_PER_SLOT: Duration = Duration::from_micros(10);
/// Most servers that one sample compares with each of their peers.
const COMPARED_MAX: usize = 64;

/// Outcomes of a server's requests since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Requests that have ended.
    pub ended: u64,
    /// Of these, requests that failed.
    pub failed: u64,
}

/// What is known of a server when a sample is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Tells the server from others in the slot.
    pub identity: u64,
    /// The outcomes of its requests.
    pub outcomes: Outcomes,
    /// Whether it is in service, so that requests can go there instead.
    pub is_peer: bool,
}

/// A change of what is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The server's requests fail, and no peer is known to fail alike. Requests go to its peers for now.
    Avoided,
    /// The server is no longer avoided.
    Tried,
    /// The server's requests fail far more often than those of a peer: this share of the last ones.
    Doubted {
        /// The share of failed requests, 0 to 1.
        share: f64,
        /// The number of requests that it was measured with.
        of: u32,
    },
    /// The time of doubt is over.
    OnTrial,
    /// Nothing is known any more of a server that was avoided or doubted.
    Forgotten,
}

/// What is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Opinion {
    Trusted,
    AvoidedUntil(Instant),
    DoubtedUntil(Instant),
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
    since: Instant,
    last: Instant,
    last_failure: Instant,
    is_peer: bool,
    opinion: Opinion,
    /// Times of doubt in a row.
    doubts: u32,
}

/// The best of the peers of a server, by each measure.
#[derive(Clone, Copy, Debug)]
struct BestPeer {
    /// The least measured share of failed requests.
    share: f64,
    /// The least upper bound of that share.
    upper: f64,
}

/// The servers of a pool.
#[derive(Debug)]
pub struct Outliers {
    tracks: Box<[Option<Track>]>,
    next: Instant,
}

impl Track {
    fn new(identity: u64, seen: Outcomes, now: Instant) -> Track {
        Track {
            identity,
            seen,
            ended: 0.0,
            failed: 0.0,
            since: now,
            last: Instant::ZERO,
            last_failure: Instant::ZERO,
            is_peer: false,
            opinion: Opinion::Trusted,
            doubts: 0,
        }
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
        if failed > 0 {
            self.last_failure = now;
        }
        // A large sample replaces the older ones.
        let kept = (1.0 - ended as f64 / OUTCOMES_MAX).max(0.0);
        self.ended = self.ended * kept + ended as f64;
        self.failed = self.failed * kept + failed as f64;
        if self.ended > OUTCOMES_MAX {
            (self.ended, self.failed) = (OUTCOMES_MAX, self.failed * OUTCOMES_MAX / self.ended);
        }
    }

    /// Begins a trial: with a bad record.
    fn try_out(&mut self) {
        self.opinion = Opinion::Trusted;
        (self.ended, self.failed) = (TRIAL, TRIAL);
    }

    /// Bounds of the share of failed requests.
    fn bounds(&self) -> (f64, f64) {
        wilson(self.failed, self.ended)
    }

    /// As a peer of others: its share of failed requests and the upper bound of that share. `None` if
    /// requests cannot go there instead.
    fn as_peer(&self, now: Instant) -> Option<BestPeer> {
        if !self.is_peer || self.opinion != Opinion::Trusted {
            return None;
        }
        let is_fresh = self.ended > 0.0 && now.since(self.last) <= PEER_FRESH;
        Some(match is_fresh {
            true => BestPeer { share: self.failed / self.ended, upper: self.bounds().1 },
            false => BestPeer { share: 0.0, upper: 1.0 },
        })
    }

    /// Whether it has been there for long enough to be a measure for a server that is there since then.
    fn is_settled_for(&self, now: Instant, since: Instant) -> bool {
        now.since(self.since) >= (now.since(since) / 2).min(SETTLED)
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

    /// Takes a sample: `observe` gives what is known of the server in a slot, `None` if it is not to be
    /// judged. `on_verdict` gets each change.
    pub fn sample(
        &mut self,
        now: Instant,
        mut observe: impl FnMut(Slot) -> Option<Observed>,
        mut on_verdict: impl FnMut(Slot, Verdict),
    ) {
        self.next = now + SAMPLE_GAP.max(SAMPLE_GAP_PER_SLOT * self.tracks.len() as u32);
        for (index, entry) in self.tracks.iter_mut().enumerate() {
            let slot = Slot::new(index);
            let observed = observe(slot);
            let is_same = |track: &Track| observed.is_some_and(|seen| seen.identity == track.identity);
            if entry.is_some_and(|track| !is_same(&track) && track.opinion != Opinion::Trusted) {
                on_verdict(slot, Verdict::Forgotten);
            }
            let Some(Observed { identity, outcomes, is_peer }) = observed else {
                *entry = None;
                continue;
            };
            let track = match entry {
                Some(track) if track.identity == identity => track,
                _ => entry.insert(Track::new(identity, outcomes, now)),
            };
            track.is_peer = is_peer;
            track.take(now, outcomes);
        }
        let least = self.least_shares(now);
        let mut compared = 0;
        for index in 0..self.tracks.len() {
            let Some(track) = self.tracks[index] else { continue };
            let least = if least[0].is_some_and(|(of, _)| of == index) { least[1] } else { least[0] };
            let may_be_outlier = track.may_be_outlier(now, least.map(|(_, share)| share));
            if may_be_outlier && compared == COMPARED_MAX {
                continue; // the next sample compares it
            }
            compared += usize::from(may_be_outlier);
            let best = if may_be_outlier { self.best_peer(now, index, track.since) } else { None };
            if let Some(track) = &mut self.tracks[index]
                && let Some(verdict) = track.judge(now, best)
            {
                on_verdict(Slot::new(index), verdict);
            }
        }
    }

    /// Forgets what is known of the server in a slot.
    pub fn forget(&mut self, slot: Slot) {
        self.tracks[slot.index()] = None;
    }

    /// The two servers with the least measured shares, with these.
    fn least_shares(&self, now: Instant) -> [Option<(usize, f64)>; 2] {
        let mut least: [Option<(usize, f64)>; 2] = [None; 2];
        for (index, track) in self.tracks.iter().enumerate() {
            let Some(peer) = track.as_ref().and_then(|track| track.as_peer(now)) else { continue };
            let mut next = Some((index, peer.share));
            for place in &mut least {
                let is_less = match (next, *place) {
                    (Some((_, share)), Some((_, other))) => share < other,
                    (next, None) => next.is_some(),
                    (None, _) => false,
                };
                if is_less {
                    std::mem::swap(place, &mut next);
                }
            }
        }
        least
    }

    /// The best of the peers that are a measure for the server of a slot, which is there since then. `None`
    /// without such a peer.
    fn best_peer(&self, now: Instant, index: usize, since: Instant) -> Option<BestPeer> {
        let others = self.tracks.iter().enumerate().filter(|(other, _)| *other != index);
        let peers = others.filter_map(|(_, track)| {
            track.as_ref().filter(|track| track.is_settled_for(now, since))?.as_peer(now)
        });
        peers.reduce(|best, peer| BestPeer {
            share: best.share.min(peer.share),
            upper: best.upper.min(peer.upper),
        })
    }
}

impl Track {
    /// Whether the server must be compared with its peers; `least` is the least measured share among them.
    fn may_be_outlier(&self, now: Instant, least: Option<f64>) -> bool {
        let is_judged = match self.opinion {
            Opinion::Trusted => self.last_failure == now,
            Opinion::AvoidedUntil(_) => true,
            Opinion::DoubtedUntil(_) => false,
        };
        let lower = self.bounds().0;
        is_judged && lower >= SHARE_MIN && least.is_some_and(|least| lower >= FACTOR * least)
    }

    /// Judges the server; `best` is its best peer, `None` if it is like its peers.
    fn judge(&mut self, now: Instant, best: Option<BestPeer>) -> Option<Verdict> {
        if let Opinion::DoubtedUntil(until) = self.opinion {
            if now < until {
                return None;
            }
            self.try_out();
            return Some(Verdict::OnTrial);
        }
        if self.opinion == Opinion::Trusted && self.ended >= TRIAL_LEN {
            self.doubts = 0;
        }
        let lower = self.bounds().0;
        if best.is_some_and(|best| lower >= FACTOR * best.upper) {
            let time = (DOUBT_MIN * (1 << self.doubts.min(5))).min(DOUBT_MAX);
            (self.opinion, self.doubts) = (Opinion::DoubtedUntil(now + time), self.doubts + 1);
            return Some(Verdict::Doubted { share: self.failed / self.ended, of: self.ended as u32 });
        }
        let is_avoidable = best.is_some_and(|best| lower >= FACTOR * best.share);
        match self.opinion {
            Opinion::Trusted if is_avoidable => {
                self.opinion = Opinion::AvoidedUntil(now + AVOID);
                Some(Verdict::Avoided)
            }
            Opinion::AvoidedUntil(until) if now >= until => {
                self.try_out();
                Some(Verdict::Tried)
            }
            Opinion::AvoidedUntil(_) if !is_avoidable => {
                self.opinion = Opinion::Trusted;
                Some(Verdict::Tried)
            }
            _ => None,
        }
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
mod tests;
