//! Slowness: how much longer a request takes at a server than at the fastest of the pool, measured from
//! responses. It becomes the cost of the server's leaf, so that (queue + 1) x cost orders servers by the
//! delay that a request would have there. Pure: time is an argument.
//!
//! **What is measured.** Servers of the native pool report how long a request takes. Of other servers only
//! the responses are known: a request took `latency`, and `position` requests were there when it ended,
//! itself included. A server that serves them one after the other takes `latency / position` for each; a
//! server that serves all concurrently takes `latency`. The balancer cannot see which of these it is. The
//! geometric mean, `latency / sqrt(position)`, is wrong by the same factor in either case, and exact if
//! the queue is short. Feedback matters more: the cost decides the queue, and the queue decides the
//! measured value. With either extreme an error about the other kind of server amplifies itself: a server
//! with more requests looks faster, and gets still more. With the mean at most half of an error returns.
//!
//! **How measurements fade.** The weight of a measurement halves each second. An avoided server therefore
//! counts as fast as the others again after some seconds, and new requests show its present speed. A
//! second is long enough for some ten requests where requests are slow. It is short enough to wait for a
//! server that has recovered. Measurements far above the known value count at once.
//!
//! **What is ignored.** Random deviations: a server takes as long as the pool's median unless it differs
//! from the median by more than its number of measurements allows. A server less than a quarter slower
//! than the fastest counts as equally fast: equal servers stay equal, and take turns. A change of less
//! than a tenth does not rewrite the cost.

use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::select::{AS_FAST, PolicyKind, SLOWNESS_MAX, Slot};
use crate::pool::stats::{Served, ServedTotals};

/// The weight of a measurement halves in this time.
const HALF_LIFE: Duration = Duration::from_secs(1);
/// Minimum time between two samples of the measurements.
const SAMPLE_GAP: Duration = Duration::from_millis(20);
/// Minimum time per slot between two samples: a sample of many slots takes time.
const SAMPLE_GAP_PER_SLOT: Duration = Duration::from_micros(20);
/// Recent measurements from which on they may replace the older ones.
const RECENT_MIN: f64 = 4.0;
/// Recent measurements from which on they join the older ones.
const RECENT_MAX: f64 = 16.0;
/// The mean of `n` recent measurements is far above the older mean if it exceeds it by a factor of 1 +
/// this / sqrt(n). A mean of `n` has a deviation of about 1 / sqrt(n), or a few times that if only a few
/// requests take long.
const FAR_ABOVE: f64 = 10.0;
/// The mean of `n` measurements differs from the pool's median if the factor between them exceeds 1 + this
/// / sqrt(n). The value is lower than [`FAR_ABOVE`]: an error costs little here, since the next sample may
/// correct it.
const DIFFERENT: f64 = 4.0;
/// The pool's median counts as this number of measurements of each server.
const PRIOR: f64 = 4.0;
/// A server counts as at most this many times as fast as the pool's median, so that a server that refuses
/// everything at once does not get all requests.
const FASTER_MAX: f64 = 4.0;
/// Below this slowness a server counts as fast as the fastest.
const SLOWER_MIN: f64 = 1.25;
/// Smallest relative change of a slowness that takes effect.
const CHANGE_MIN: f64 = 0.1;

/// Sums of measurements; older ones have less weight.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: f64,
    micros: f64,
    positions: f64,
}

impl Sums {
    fn fade(&mut self, left: f64) {
        self.count *= left;
        self.micros *= left;
        self.positions *= left;
    }

    fn add(&mut self, other: &Sums) {
        self.count += other.count;
        self.micros += other.micros;
        self.positions += other.positions;
    }

    /// Service time of a request, in microseconds: the mean latency divided by the root of the mean
    /// position.
    fn service(&self) -> Option<f64> {
        (self.count > 0.0 && self.positions > 0.0).then(|| self.micros / (self.count * self.positions).sqrt())
    }

    /// The factor by which a mean of these measurements may be off at random.
    fn noise(&self, deviations: f64) -> f64 {
        1.0 + deviations / self.count.max(f64::MIN_POSITIVE).sqrt()
    }
}

impl From<ServedTotals> for Sums {
    fn from(ServedTotals { count, micros, positions }: ServedTotals) -> Sums {
        Sums { count: count as f64, micros: micros as f64, positions: positions as f64 }
    }
}

/// The measurements of one slot's server.
#[derive(Clone, Copy, Debug)]
struct Measurements {
    /// Which server it is; `None` while the slot is empty.
    identity: Option<u64>,
    seen: ServedTotals,
    older: Sums,
    recent: Sums,
    slowness: u32,
}

impl Measurements {
    const NONE: Measurements = {
        let seen = ServedTotals { count: 0, micros: 0, positions: 0 };
        let none = Sums { count: 0.0, micros: 0.0, positions: 0.0 };
        Measurements { identity: None, seen, older: none, recent: none, slowness: AS_FAST }
    };

    /// Starts again for another server in the slot. Returns whether the slowness has changed.
    fn begin(&mut self, identity: Option<u64>, seen: ServedTotals) -> bool {
        let before = std::mem::replace(self, Measurements { identity, seen, ..Measurements::NONE });
        before.slowness != self.slowness
    }

    /// Takes the measurements since the last sample; older ones keep the share `left` of their weight.
    fn take(&mut self, totals: ServedTotals, left: f64) {
        let before = std::mem::replace(&mut self.seen, totals);
        let new = ServedTotals {
            count: totals.count.saturating_sub(before.count),
            micros: totals.micros.saturating_sub(before.micros),
            positions: totals.positions.saturating_sub(before.positions),
        };
        self.older.fade(left);
        self.recent.fade(left);
        self.recent.add(&new.into());
        if self.recent.count < RECENT_MIN {
            return;
        }
        let far_above = self.recent.noise(FAR_ABOVE);
        if let (Some(older), Some(recent)) = (self.older.service(), self.recent.service())
            && recent > older * far_above
        {
            self.older = Sums::default();
        }
        if self.recent.count >= RECENT_MAX {
            self.older.add(&std::mem::take(&mut self.recent));
        }
    }

    fn all(&self) -> Sums {
        let mut all = self.older;
        all.add(&self.recent);
        all
    }

    /// The service time that the selection uses, if the pool's median is `pool`, in microseconds.
    fn believed(&self, pool: f64) -> f64 {
        let all = self.all();
        let Some(service) = all.service() else { return pool };
        let (by, noise) = (service / pool, all.noise(DIFFERENT));
        if by < noise && by > 1.0 / noise {
            return pool;
        }
        (service * all.count + pool * PRIOR) / (all.count + PRIOR)
    }
}

/// The slowness of a pool's servers.
#[derive(Debug)]
pub struct Slowness {
    servers: Box<[Measurements]>,
    /// Buffer of a sample: each server's service time and number of measurements.
    ranks: Vec<(f64, f64)>,
    sampled: Instant,
    is_on: bool,
}

impl Slowness {
    /// The state for this number of slots; switched off.
    pub fn new(slots: usize) -> Self {
        let ranks = Vec::with_capacity(slots);
        Slowness {
            servers: vec![Measurements::NONE; slots].into(),
            ranks,
            sampled: Instant::ZERO,
            is_on: false,
        }
    }

    /// Starts to measure, or stops: then all servers count as equally fast. A change drops all
    /// measurements.
    pub fn set_on(&mut self, is_on: bool) {
        if std::mem::replace(&mut self.is_on, is_on) != is_on {
            self.servers.fill(Measurements::NONE);
        }
    }

    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.servers.len()).map(Slot::new)
    }

    /// Whether measuring is on and the next sample is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_on
            && now.since(self.sampled) >= SAMPLE_GAP.max(SAMPLE_GAP_PER_SLOT * self.servers.len() as u32)
    }

    /// Samples the measurements of each slot, of all workers together. `identity` names the server in a
    /// slot: a new value means another server, `None` an empty slot. Returns whether the slowness of a
    /// server has changed.
    pub fn sample(
        &mut self,
        now: Instant,
        identity: impl Fn(Slot) -> Option<u64>,
        totals: impl Fn(Slot) -> ServedTotals,
    ) -> bool {
        let passed = now.since(std::mem::replace(&mut self.sampled, now));
        let mut has_changed = false;
        let left = (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        for (index, server) in self.servers.iter_mut().enumerate() {
            let slot = Slot::new(index);
            let (identity, totals) = (identity(slot), totals(slot));
            if server.identity != identity {
                has_changed |= server.begin(identity, totals);
            }
            server.take(totals, left);
        }
        let Some(pool) = self.median() else { return self.set_all(AS_FAST) || has_changed };
        let present = || self.servers.iter().filter(|server| server.identity.is_some());
        let least = present().map(|server| server.believed(pool)).fold(f64::INFINITY, f64::min);
        let fastest = least.max(pool / FASTER_MAX);
        for server in &mut self.servers {
            let times = server.believed(pool) / fastest;
            has_changed |=
                server.set(if times < SLOWER_MIN { AS_FAST } else { (times * f64::from(AS_FAST)) as u32 });
        }
        has_changed
    }

    /// The median service time of all requests, in microseconds: half of the requests are at servers that
    /// take no longer. A single server cannot move it, however slow or fast.
    fn median(&mut self) -> Option<f64> {
        self.ranks.clear();
        let measured = self.servers.iter().map(Measurements::all);
        self.ranks.extend(measured.filter_map(|sums| Some((sums.service()?, sums.count))));
        self.ranks.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut left = self.ranks.iter().map(|(_, count)| count).sum::<f64>() / 2.0;
        if left < 0.5 {
            return None; // not even one request
        }
        let middle = self.ranks.iter().find(|(_, count)| {
            left -= count;
            left <= 0.0
        });
        middle.map(|(service, _)| *service).filter(|service| *service > 0.0)
    }

    fn set_all(&mut self, slowness: u32) -> bool {
        self.servers.iter_mut().fold(false, |changed, server| server.set(slowness) | changed)
    }

    /// How long a request takes at a server compared with the fastest, in units of [`AS_FAST`], which is
    /// the minimum. At most [`SLOWNESS_MAX`].
    pub fn slowness(&self, slot: Slot) -> u32 {
        self.servers[slot.index()].slowness
    }

    /// Recent service time of a request at the server of a slot; `None` without measurements.
    pub fn service(&self, slot: Slot) -> Option<Duration> {
        self.servers[slot.index()].all().service().map(|micros| Duration::from_secs_f64(micros / 1e6))
    }
}

impl Measurements {
    /// Sets the slowness; returns whether it has changed.
    fn set(&mut self, slowness: u32) -> bool {
        let slowness = slowness.clamp(AS_FAST, SLOWNESS_MAX);
        let by = (f64::from(slowness) / f64::from(self.slowness) - 1.0).abs();
        let changes = slowness != self.slowness && (slowness == AS_FAST || by >= CHANGE_MIN);
        if changes {
            self.slowness = slowness;
        }
        changes
    }
}

/// Samples the measurements of each slot, if a sample is due. Returns whether leaves must be rewritten.
/// `served` gives a worker's measurements at a slot, `identity` names the server in it, if any.
pub fn sample<'a>(
    slowness: &mut Slowness,
    now: Instant,
    workers: usize,
    served: impl Fn(usize, Slot) -> &'a Served,
    identity: impl Fn(Slot) -> Option<u64>,
) -> bool {
    if !slowness.is_due(now) {
        return false;
    }
    let totals = |slot| (0..workers).map(|worker| served(worker, slot).totals()).sum();
    let has_changed = slowness.sample(now, identity, totals);
    for slot in slowness.slots() {
        served(0, slot).show(slowness.service(slot), slowness.slowness(slot));
    }
    has_changed
}

/// Switches measuring on if this policy needs it, and otherwise off. `served` gives the primary's gauges
/// of a slot.
pub fn choose<'a>(slowness: &mut Slowness, policy: PolicyKind, served: impl Fn(Slot) -> &'a Served) {
    let is_on = policy == PolicyKind::ShortestDelay;
    slowness.set_on(is_on);
    if !is_on {
        slowness.slots().for_each(|slot| served(slot).show(None, 0));
    }
}

#[cfg(test)]
#[path = "slowness/tests.rs"]
mod tests;
