//! Takes the status of a pool from its counters.

use std::collections::BTreeMap;

use super::decisions::DecisionSampler;
use super::pool::{PoolStatus, ServerStatus, Service};
use super::source::PoolSource;
use super::window::{SampleWindow, SlotSample};
use super::{Latencies, Percentiles};
use crate::base::drop_reason::DropCounters;
use crate::base::time::Instant;
use crate::pool::health::State;
use crate::pool::stats::{Counter, LatencySnapshot, WorkerStats};

/// Takes snapshots of a pool and remembers those of the last second.
pub(super) struct PoolSampler {
    source: PoolSource,
    window: SampleWindow,
    decisions: DecisionSampler,
}

impl PoolSampler {
    /// Rates and recent values are those since the snapshot `span` before, or since now.
    pub fn new(source: PoolSource, span: usize) -> Self {
        let first = (0..source.slots()).map(|slot| sample_slot(&source, slot)).collect();
        let decisions = DecisionSampler::new(span, source.has_reports(), source.workers());
        PoolSampler { source, window: SampleWindow::new(span, first), decisions }
    }

    /// The pool now.
    pub fn sample(&mut self, now: Instant) -> PoolStatus {
        let PoolSampler { source, window, decisions } = self;
        let seconds = window.begin();
        let mut status = source.describe();
        status.problems = source.problems(now);
        let (mut all, mut recent) = (LatencySnapshot::default(), LatencySnapshot::default());
        for slot in 0..source.slots() {
            let total = sample_slot(source, slot);
            let gauges = source.server(0, slot);
            let id = gauges.id_plus_one.get().checked_sub(1);
            // Counters of ended requests are read before `dispatched`, so the difference is never negative.
            let described = id.map(|_| source.describe_server(now, slot));
            let of_slot = (0..source.thread_count()).map(|worker| source.server(worker, slot));
            let failed_answers = of_slot.clone().map(|stats| stats.failed_answers.get()).sum();
            let dispatched = of_slot.map(|stats| stats.dispatched.get()).sum();
            let (answered, latency) = (total.answered, total.latency.clone());
            let passed = window.sample(slot, total);
            let rate = passed.answered as f64 / seconds;
            status.dispatched += dispatched;
            status.rate += rate;
            all.merge(&latency);
            recent.merge(&passed.latency);
            let (Some(id), Some(mut server)) = (id, described) else { continue };
            if let Some(datagram) = &mut server.datagram {
                let ended = answered + datagram.timed_out + datagram.forwarded;
                datagram.in_flight = u64::saturating_sub(dispatched, ended);
            }
            status.servers.push(ServerStatus {
                id: id as u32,
                state: state_name(gauges.state.get()),
                since_s: super::seconds_since(now, gauges.since.get()),
                weight: gauges.weight.get(),
                service: Service::of(&gauges.served),
                dispatched,
                answered,
                failed_answers,
                rate,
                latency_us: Latencies::of(&latency),
                latency_us_recent: Percentiles::of(&passed.latency),
                ..server
            });
        }
        status.servers.sort_by_key(|server| server.id);
        status.latency_us = Latencies::of(&all);
        status.latency_us_recent = Percentiles::of(&recent);
        status.decisions = decisions.sample(source.corrections(), source.workers());
        let sum = |counter: fn(&WorkerStats) -> &Counter| -> u64 {
            source.workers().map(|stats| counter(stats).get()).sum()
        };
        let by_worker = source.workers().take(source.worker_count());
        status.workers = by_worker.map(|stats| stats.received.get()).collect();
        status.received = sum(|stats| &stats.received);
        status.answered = sum(|stats| &stats.answered);
        add_by_reason(&mut status.refused, source.workers().map(|stats| &stats.refused));
        add_by_reason(&mut status.dropped, source.workers().map(|stats| &stats.dropped));
        status.kernel_drops = sum(|stats| &stats.kernel_drops);
        status.arrived = status.received + status.kernel_drops;
        status.kernel_drops_back = sum(|stats| &stats.kernel_drops_back);
        status.send_drops = sum(|stats| &stats.send_drops);
        status.gso_off = sum(|stats| &stats.gso_off);
        status.out_of_slots = sum(|stats| &stats.out_of_slots);
        status.completions_delayed = sum(|stats| &stats.completions_delayed);
        status.select_fallback = sum(|stats| &stats.select_fallback);
        status
    }
}

/// Adds the counts of all workers, by the names of their reasons.
fn add_by_reason<'a>(sums: &mut BTreeMap<String, u64>, counters: impl Iterator<Item = &'a DropCounters>) {
    for (reason, n) in counters.flat_map(DropCounters::nonzero) {
        *sums.entry(reason.name().to_owned()).or_default() += n;
    }
}

/// Responses of a slot and their latencies, of all workers together.
fn sample_slot(source: &PoolSource, slot: usize) -> SlotSample {
    let servers = || (0..source.thread_count()).map(|worker| source.server(worker, slot));
    let answered = servers().map(|server| server.answered.get()).sum();
    let mut latency = LatencySnapshot::default();
    if answered > 0 {
        servers().for_each(|server| latency.merge(&server.latency.snapshot()));
    }
    SlotSample { answered, latency }
}

/// The name of a state that a gauge holds as a number.
fn state_name(number: u64) -> String {
    State::ALL.get(number as usize).map_or("unknown", |state| state.name()).to_owned()
}
