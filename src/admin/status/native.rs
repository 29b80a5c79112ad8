//! What the native pool shows of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::decisions::{DecisionSampler, Source};
use super::window::{Look, Window};
use super::{Percentiles, Scaling, Status, micros};
use crate::base::drop_reason::{DropCounters, DropReason};
use crate::base::time::Instant;
use crate::pool::health::State;
use crate::pool::select::AS_FAST;
use crate::pool::stats::{Counter, LatencySnapshot, NativeServerStats, NativeStats, Served, WorkerStats};

/// One server of the native pool at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerStatus {
    /// Its id.
    pub id: u32,
    /// Where it takes requests; empty if that is not known.
    pub addr: String,
    /// Its state's name.
    pub state: String,
    /// Seconds that it has been in its state; `None` if that is not known.
    pub since_s: Option<f64>,
    /// Its share relative to others.
    pub weight: u64,
    /// Requests under way or in it, by the estimate.
    pub queue: u64,
    /// By how many requests the estimate differed from what its last report said.
    pub estimate_error: u64,
    /// What a request takes there by what it says, in microseconds, and how many times as long as at the fastest server that is;
    /// `None` unless the policy is shortest_delay.
    pub service: Option<Service>,
    /// Milliseconds since its last report, or reply with counters; `None` before the first.
    pub report_age_ms: Option<u64>,
    /// Requests sent to its slot.
    pub dispatched: u64,
    /// Replies from its slot.
    pub answered: u64,
    /// Requests known to be lost on the way.
    pub lost: u64,
    /// Replies per second.
    pub rate: f64,
    /// Half of the replies took at most so many microseconds.
    pub latency_us_p50: u64,
    /// 99 % of the replies took at most so many microseconds.
    pub latency_us_p99: u64,
    /// These and others.
    pub latency_us_recent: Percentiles,
    /// Latencies since the start, as [`super::Latencies::histogram`]; for metrics, not in JSON.
    #[serde(skip)]
    pub histogram: Vec<(u64, u64)>,
}

/// How long a server takes for a request, as policy shortest_delay sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// In microseconds; 0 without data.
    pub time_us: u64,
    /// How many times as long as at the fastest server; 1 where there is no difference worth the name.
    pub slowness: f64,
}

impl Service {
    pub(super) fn of(served: &Served) -> Option<Service> {
        let slowness = served.slowness.get();
        (slowness > 0).then(|| Service {
            time_us: served.service_us.get(),
            slowness: slowness as f64 / f64::from(AS_FAST),
        })
    }
}

impl WorkerStats {
    pub(super) fn decision_source(&self) -> Source<'_> {
        let WorkerStats { decisions, waiting, waited, waiting_delay, .. } = self;
        Source { decisions, waiting, waited, waiting_delay }
    }
}

/// Takes snapshots of the native pool and remembers the last ones.
pub(super) struct NativeSampler {
    workers: Vec<Arc<NativeStats>>,
    window: Window,
    decisions: DecisionSampler,
}

impl NativeSampler {
    /// Of these workers, the primary first.
    pub fn new(workers: Vec<Arc<NativeStats>>, span: usize) -> Self {
        let slots = workers.first().map_or(0, |primary| primary.servers.len());
        let first = (0..slots).map(|slot| look(&workers, slot)).collect();
        let decisions =
            DecisionSampler::new(span, true, workers.iter().map(|stats| stats.common.decision_source()));
        NativeSampler { workers, window: Window::new(span, first), decisions }
    }

    /// Brings the pool's figures into a status.
    pub fn sample(&mut self, now: Instant, status: &mut Status) {
        let NativeSampler { workers, window, decisions } = self;
        let Some(primary) = workers.first() else { return };
        let seconds = window.begin();
        status.scaling = primary.scaling.lock().expect("no panic while it is held").map(Scaling::from);
        let (mut all, mut ever) = (LatencySnapshot::default(), LatencySnapshot::default());
        for (slot, gauges) in primary.servers.iter().enumerate() {
            let total = look(workers, slot);
            ever.merge(&total.latency);
            let (answered, histogram) = (total.answered, total.latency.buckets().collect());
            let passed = window.look(slot, total);
            status.rate += passed.answered as f64 / seconds;
            all.merge(&passed.latency);
            let Some(id) = gauges.common.id_plus_one.get().checked_sub(1) else { continue };
            let sum = |counter: fn(&NativeServerStats) -> &Counter| -> u64 {
                workers.iter().map(|stats| counter(&stats.servers[slot]).get()).sum()
            };
            let recent = Percentiles::of(&passed.latency);
            status.servers.push(ServerStatus {
                id: id as u32,
                addr: gauges.addr().map_or(String::new(), |addr| addr.to_string()),
                state: state_name(gauges.common.state.get()),
                since_s: super::seconds_since(now, gauges.common.since.get()),
                weight: gauges.common.weight.get(),
                queue: gauges.outstanding.get(),
                estimate_error: gauges.estimate_error.get(),
                report_age_ms: super::since(now, gauges.reported.get()).map(|age| age.as_millis() as u64),
                service: Service::of(&gauges.common.served),
                dispatched: sum(|s| &s.common.dispatched),
                answered,
                lost: sum(|s| &s.lost),
                rate: passed.answered as f64 / seconds,
                latency_us_p50: recent.p50,
                latency_us_p99: recent.p99,
                latency_us_recent: recent,
                histogram,
            });
        }
        status.servers.sort_by_key(|server| server.id);
        let sum = |counter: fn(&WorkerStats) -> &Counter| -> u64 {
            workers.iter().map(|stats| counter(&stats.common).get()).sum()
        };
        let lost = (0..primary.servers.len())
            .flat_map(|slot| workers.iter().map(move |w| w.servers[slot].lost.get()));
        status.decisions =
            decisions.sample(lost.sum(), workers.iter().map(|stats| stats.common.decision_source()));
        status.workers = workers.iter().map(|stats| stats.common.received.get()).collect();
        status.requests = sum(|s| &s.received);
        status.dispatched = workers
            .iter()
            .flat_map(|stats| &stats.servers)
            .map(|server| server.common.dispatched.get())
            .sum();
        let refused = |reason| workers.iter().map(|stats| stats.common.refused.get(reason)).sum();
        status.answered = sum(|s| &s.answered);
        status.busy_no_server = refused(DropReason::NoServer);
        status.busy_shed = refused(DropReason::ServersFull);
        status.refused_mode = refused(DropReason::Mode);
        status.select_fallback = sum(|s| &s.select_fallback);
        status.kernel_drops = sum(|s| &s.kernel_drops) + sum(|s| &s.kernel_drops_back);
        status.send_drops = sum(|s| &s.send_drops);
        status.gso_off = sum(|s| &s.gso_off);
        status.out_of_slots = sum(|s| &s.out_of_slots);
        status.completions_delayed = sum(|s| &s.completions_delayed);
        status.drops = by_reason(workers.iter().map(|stats| &stats.common.dropped));
        status.histogram = ever.buckets().collect();
        status.latency_us_recent = Percentiles::of(&all);
        status.latency_us_p50 = micros(all.quantile(0.5));
        status.latency_us_p99 = micros(all.quantile(0.99));
    }
}

/// Counts by the names of their reasons, of all workers together.
pub(super) fn by_reason<'a>(counters: impl Iterator<Item = &'a DropCounters>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (reason, n) in counters.flat_map(DropCounters::nonzero) {
        *sums.entry(reason.name().to_owned()).or_default() += n;
    }
    sums
}

/// The name of a state that is kept as a number.
pub(super) fn state_name(number: u64) -> String {
    State::ALL.get(number as usize).map_or("unknown", |state| state.name()).to_owned()
}

/// Replies from a slot, and their latencies, at all workers together.
fn look(workers: &[Arc<NativeStats>], slot: usize) -> Look {
    let servers = || workers.iter().map(|stats| &stats.servers[slot]);
    let answered = servers().map(|server| server.common.answered.get()).sum();
    let mut latency = LatencySnapshot::default();
    if answered > 0 {
        servers().for_each(|server| latency.merge(&server.common.latency.snapshot()));
    }
    Look { answered, latency }
}
