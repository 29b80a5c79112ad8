//! How much longer a request takes at one server than at the fastest of the pool, from what its answers have shown. Pure:
//! time is an argument. It becomes the cost of the server's leaf, so that (queue + 1) x cost orders servers by the delay
//! that a request would have there.
//!
//! **What is measured.** Servers of the native pool say how long a request takes. Of others only the answers are seen: a
//! request took `latency`, and `position` requests were there when it ended, itself included. One that serves them one
//! after the other takes `latency / position` for each, one that serves all at once takes `latency`; which of these it is
//! cannot be seen from outside. The geometric mean, `latency / sqrt(position)`, is wrong by the same factor in either case, and by
//! none at all if the queue is short. More matters: the cost decides the queue, and the queue the measured value. With
//! either of the extremes a mistake about the other kind of server feeds on itself (whoever has more requests at once looks faster, and
//! gets still more); with the mean no more than half of it comes back.
//!
//! **How it is forgotten.** Weights of old measurements halve each second. A server that is avoided is so taken for one
//! like the others again, after some seconds, and gets requests that show what it is now. A second is long enough for some
//! ten requests where requests are slow, and short enough to be worth waiting for where a server has recovered.
//! Measurements that are far above what was known are believed at once.
//!
//! **What is ignored.** What chance explains: a server takes as long as the pool's median unless it differs from that by
//! more than its number of measurements allows. A server that is a quarter slower than the fastest is as fast: equal
//! servers stay equal, and take turns. A cost is not written anew for a change below a tenth.

use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::select::{AS_FAST, PolicyKind, SLOWNESS_MAX, Slot};
use crate::pool::stats::{Served, ServedTotals};

/// Old measurements have half of their weight after this time.
const HALF_LIFE: Duration = Duration::from_secs(1);
/// Measurements are looked at this often, at most.
const LOOK: Duration = Duration::from_millis(20);
/// And less often where there are many slots: to look takes time.
const LOOK_PER_SLOT: Duration = Duration::from_micros(20);
/// Measurements of late, which may be far above the older ones.
const RECENT_MIN: f64 = 4.0;
/// As many as these join the older ones.
const RECENT_MAX: f64 = 16.0;
/// Of `n` measurements of late, the mean is far above if it is more than 1 + this / sqrt(n) times the older. A mean of `n` has a
/// deviation of about 1 / sqrt(n), or some times that where few requests take long.
const FAR_ABOVE: f64 = 10.0;
/// Of `n` measurements, the mean is another than the pool's median if it differs by a factor of more than 1 + this / sqrt(n). Less than
/// above: to be wrong costs little here, as the next look may correct it.
const DIFFERENT: f64 = 4.0;
/// The pool's mean counts as so many measurements of each server.
const PRIOR: f64 = 4.0;
/// No server counts as more times as fast as the pool's median: one that refuses everything at once shall not get everything.
const FASTER_MAX: f64 = 4.0;
/// Who is less slow than this is as fast as the fastest.
const SLOWER_MIN: f64 = 1.25;
/// A change by less than this is none.
const CHANGE_MIN: f64 = 0.1;

/// Measurements, the older ones with less weight.
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

    /// What a request takes: the mean of the latencies by the root of the mean position, in microseconds.
    fn service(&self) -> Option<f64> {
        (self.count > 0.0 && self.positions > 0.0).then(|| self.micros / (self.count * self.positions).sqrt())
    }

    /// How many times a mean of these may be another by chance.
    fn noise(&self, deviations: f64) -> f64 {
        1.0 + deviations / self.count.max(f64::MIN_POSITIVE).sqrt()
    }
}

impl From<ServedTotals> for Sums {
    fn from(ServedTotals { count, micros, positions }: ServedTotals) -> Sums {
        Sums { count: count as f64, micros: micros as f64, positions: positions as f64 }
    }
}

/// What is known of one server.
#[derive(Clone, Copy, Debug)]
struct Figure {
    /// Which server it is.
    identity: Option<u64>,
    seen: ServedTotals,
    older: Sums,
    recent: Sums,
    slowness: u32,
}

impl Figure {
    const NONE: Figure = {
        let seen = ServedTotals { count: 0, micros: 0, positions: 0 };
        let none = Sums { count: 0.0, micros: 0.0, positions: 0.0 };
        Figure { identity: None, seen, older: none, recent: none, slowness: AS_FAST }
    };

    /// Another server has the slot: what was measured before is not about it. Whether the slowness is another now.
    fn begin(&mut self, identity: Option<u64>, seen: ServedTotals) -> bool {
        let before = std::mem::replace(self, Figure { identity, seen, ..Figure::NONE });
        before.slowness != self.slowness
    }

    /// Takes what was measured since the last look, after which this share of the old weights is left.
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

    /// What a request takes there, as it is believed where the pool's median is this.
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

/// The servers of a pool, as far as they are measured.
#[derive(Debug)]
pub struct Slowness {
    figures: Box<[Figure]>,
    /// Of a look: what requests take, and how many were measured.
    ranks: Vec<(f64, f64)>,
    looked: Instant,
    is_on: bool,
}

impl Slowness {
    /// Of so many slots; off.
    pub fn new(slots: usize) -> Self {
        let ranks = Vec::with_capacity(slots);
        Slowness { figures: vec![Figure::NONE; slots].into(), ranks, looked: Instant::ZERO, is_on: false }
    }

    /// Measures from now on, or takes all servers for equally fast. What was known is forgotten if that changes.
    pub fn set_on(&mut self, is_on: bool) {
        if std::mem::replace(&mut self.is_on, is_on) != is_on {
            self.figures.fill(Figure::NONE);
        }
    }

    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.figures.len()).map(Slot::new)
    }

    /// Whether it measures, and it is time to look.
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_on && now.since(self.looked) >= LOOK.max(LOOK_PER_SLOT * self.figures.len() as u32)
    }

    /// Looks at what was measured so far at each slot, all workers together; `identity` is another when another server has the
    /// slot, and none while nobody has it. Whether some server's slowness has changed.
    pub fn look(
        &mut self,
        now: Instant,
        identity: impl Fn(Slot) -> Option<u64>,
        totals: impl Fn(Slot) -> ServedTotals,
    ) -> bool {
        let passed = now.since(std::mem::replace(&mut self.looked, now));
        let mut has_changed = false;
        let left = (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        for (index, figure) in self.figures.iter_mut().enumerate() {
            let slot = Slot::new(index);
            let (identity, totals) = (identity(slot), totals(slot));
            if figure.identity != identity {
                has_changed |= figure.begin(identity, totals);
            }
            figure.take(totals, left);
        }
        let Some(pool) = self.median() else { return self.set_all(AS_FAST) || has_changed };
        let present = || self.figures.iter().filter(|figure| figure.identity.is_some());
        let least = present().map(|figure| figure.believed(pool)).fold(f64::INFINITY, f64::min);
        let fastest = least.max(pool / FASTER_MAX);
        for figure in &mut self.figures {
            let times = figure.believed(pool) / fastest;
            has_changed |=
                figure.set(if times < SLOWER_MIN { AS_FAST } else { (times * f64::from(AS_FAST)) as u32 });
        }
        has_changed
    }

    /// What a request takes in the middle, in microseconds: half of them are at servers that take no longer. So no single server
    /// moves it, be it ever so slow, or fast.
    fn median(&mut self) -> Option<f64> {
        self.ranks.clear();
        let measured = self.figures.iter().map(Figure::all);
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
        self.figures.iter_mut().fold(false, |changed, figure| figure.set(slowness) | changed)
    }

    /// How long a request takes at a server compared with the fastest, in [`AS_FAST`], which is the least; at most
    /// [`SLOWNESS_MAX`].
    pub fn slowness(&self, slot: Slot) -> u32 {
        self.figures[slot.index()].slowness
    }

    /// What a request takes there by itself, as far as it was measured of late.
    pub fn service(&self, slot: Slot) -> Option<Duration> {
        self.figures[slot.index()].all().service().map(|micros| Duration::from_secs_f64(micros / 1e6))
    }
}

impl Figure {
    /// Whether the slowness is another now.
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

/// Looks at what was measured at each slot, if it is time; whether leaves have to be written anew. `served` gives a worker's
/// measurements at a slot, `identity` says which server has it, if one has.
pub fn look<'a>(
    delays: &mut Slowness,
    now: Instant,
    workers: usize,
    served: impl Fn(usize, Slot) -> &'a Served,
    identity: impl Fn(Slot) -> Option<u64>,
) -> bool {
    if !delays.is_due(now) {
        return false;
    }
    let totals = |slot| (0..workers).map(|worker| served(worker, slot).totals()).sum();
    let has_changed = delays.look(now, identity, totals);
    for slot in delays.slots() {
        served(0, slot).show(delays.service(slot), delays.slowness(slot));
    }
    has_changed
}

/// Measures if this policy asks for it; `served` gives the primary's gauges of a slot.
pub fn choose<'a>(delays: &mut Slowness, policy: PolicyKind, served: impl Fn(Slot) -> &'a Served) {
    let is_on = policy == PolicyKind::ShortestDelay;
    delays.set_on(is_on);
    if !is_on {
        delays.slots().for_each(|slot| served(slot).show(None, 0));
    }
}

#[cfg(test)]
#[path = "slowness/tests.rs"]
mod tests;
