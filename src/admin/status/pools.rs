//! What a datagram pool shows of itself.
//!
//! At rest `arrived = received + kernel_drops`, and
//! `received = answered + timed_out + forwarded + the sum of refused + in_flight`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::decisions::DecisionSampler;
use super::native::{Service, by_reason, state_name};
use super::window::{Look, Window};
use super::{Decisions, Percentiles, Scaling, micros};
use crate::base::drop_reason::DropCounters;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::pool::stats::{Counter, DatagramServerStats, DatagramStats, LatencySnapshot};
use crate::role::datagram::Shared;

/// A datagram pool at one moment. Totals are since the start; rates and recent latencies are of the last moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: String,
    /// Datagrams of clients that reached this machine: those that were read and those that the kernel dropped.
    pub arrived: u64,
    /// Datagrams of clients that were read.
    pub received: u64,
    /// The same by worker.
    pub workers: Vec<u64>,
    /// Requests whose answer was delivered in time.
    pub answered: u64,
    /// Requests without an answer in time.
    pub timed_out: u64,
    /// Datagrams sent to servers that no single answer is awaited for: one-way, and of flows.
    pub forwarded: u64,
    /// Datagrams of clients that were not sent to a server, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Of these, queries that were answered with SERVFAIL.
    pub servfail: u64,
    /// Requests that wait for their answer.
    pub in_flight: u64,
    /// Datagrams of clients that the kernel dropped before they were read.
    pub kernel_drops: u64,
    /// Datagrams of servers that the kernel dropped before they were read.
    pub kernel_drops_back: u64,
    /// Datagrams that could not be sent.
    pub send_drops: u64,
    /// Workers that the kernel refused segmentation offload to.
    pub gso_off: u64,
    /// Datagrams of servers delivered to clients: answers, late answers, and what flows bring.
    pub delivered: u64,
    /// Answers delivered after the time-out.
    pub late: u64,
    /// Datagrams on the server side that reached nobody, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Flows that live.
    pub flows: u64,
    /// Flows opened so far.
    pub flows_opened: u64,
    /// TCP connections that live.
    pub tcp_open: u64,
    /// TCP connections spliced so far.
    pub tcp_opened: u64,
    /// TCP connections refused.
    pub tcp_refused: u64,
    /// Selections that fell back to two random servers after losing too many races.
    pub select_fallback: u64,
    /// How good the choices of servers are, and who waits for one.
    pub decisions: Decisions,
    /// Answers per second.
    pub rate: f64,
    /// Latencies of all servers together, since the start.
    pub latency_us: Latencies,
    /// The same of the last moment.
    pub latency_us_recent: Percentiles,
    /// How many servers there should be, and why; `None` if nobody scales.
    pub scaling: Option<Scaling>,
    /// The servers, by id.
    pub servers: Vec<PoolServerStatus>,
}

/// One server of a datagram pool at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolServerStatus {
    /// Its id.
    pub id: u32,
    /// Its address.
    pub addr: String,
    /// Its state's name.
    pub state: String,
    /// Seconds that it has been in its state; `None` if that is not known.
    pub since_s: Option<f64>,
    /// Its share relative to others.
    pub weight: u64,
    /// Requests or flows there, and TCP connections.
    pub queue: u64,
    /// What a request takes there by its answers, and how many times as long as at the fastest server that is; `None` unless the
    /// policy is shortest_delay.
    pub service: Option<Service>,
    /// Milliseconds since anything valid came from its slot; `None` before the first.
    pub heard_ms: Option<u64>,
    /// Datagrams of clients sent to its slot.
    pub dispatched: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were not answered in time.
    pub timed_out: u64,
    /// Datagrams sent there that no single answer is awaited for.
    pub forwarded: u64,
    /// Requests that wait for their answer: `dispatched - answered - timed_out - forwarded`.
    pub in_flight: u64,
    /// Datagrams from there delivered to clients.
    pub delivered: u64,
    /// How often the network said that it is not there (ICMP).
    pub errors: u64,
    /// Answers per second.
    pub rate: f64,
    /// Time from a request to its answer, as the balancer sees it, since the start.
    pub latency_us: Latencies,
    /// The same of the last moment.
    pub latency_us_recent: Percentiles,
}

/// Latencies since the start, in microseconds, each at most 12.5 % too high.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latencies {
    /// Half took at most so long; 0 without data.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// How many took at most so long, and longer than the pair before: (microseconds, count), without empty ones.
    pub histogram: Vec<(u64, u64)>,
}

impl Latencies {
    pub(super) fn of(snapshot: &LatencySnapshot) -> Self {
        let quantile = |q| micros(snapshot.quantile(q));
        Latencies {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            histogram: snapshot.buckets().collect(),
        }
    }
}

/// Takes snapshots of a datagram pool and remembers the last ones.
pub(super) struct PoolSampler {
    pool: Arc<Shared>,
    window: Window,
    decisions: DecisionSampler,
}

impl PoolSampler {
    pub fn new(pool: Arc<Shared>, span: usize) -> Self {
        let first = (0..pool.stats[0].servers.len()).map(|slot| look(&pool, slot)).collect();
        let decisions =
            DecisionSampler::new(span, false, pool.stats.iter().map(|stats| stats.common.decision_source()));
        PoolSampler { pool, window: Window::new(span, first), decisions }
    }

    /// The pool now.
    pub fn sample(&mut self, now: Instant) -> PoolStatus {
        let PoolSampler { pool, window, decisions } = self;
        let seconds = window.begin();
        let (mut all, mut recent) = (LatencySnapshot::default(), LatencySnapshot::default());
        let mut servers = vec![];
        let mut rate = 0.0;
        for slot in 0..pool.stats[0].servers.len() {
            let total = look(pool, slot);
            all.merge(&total.latency);
            let latency_us = Latencies::of(&total.latency);
            let passed = window.look(slot, total);
            recent.merge(&passed.latency);
            rate += passed.answered as f64 / seconds;
            servers.extend(server(pool, slot, now).map(|server| PoolServerStatus {
                rate: passed.answered as f64 / seconds,
                latency_us,
                latency_us_recent: Percentiles::of(&passed.latency),
                ..server
            }));
        }
        servers.sort_by_key(|s| s.id);
        let total = |counter: fn(&DatagramStats) -> &Counter| -> u64 {
            pool.stats.iter().map(|stats| counter(stats).get()).sum()
        };
        let by_reason = |counters: fn(&DatagramStats) -> &DropCounters| {
            by_reason(pool.stats.iter().map(|stats| counters(stats)))
        };
        let (received, kernel_drops) = (total(|s| &s.common.received), total(|s| &s.common.kernel_drops));
        PoolStatus {
            name: pool.name().to_owned(),
            protocol: pool.protocol().name().to_owned(),
            arrived: received + kernel_drops,
            received,
            workers: pool.stats.iter().map(|stats| stats.common.received.get()).collect(),
            answered: total(|s| &s.common.answered),
            timed_out: total(|s| &s.timed_out),
            forwarded: total(|s| &s.forwarded),
            refused: by_reason(|s| &s.common.refused),
            servfail: total(|s| &s.servfail),
            in_flight: total(|s| &s.in_flight),
            kernel_drops,
            kernel_drops_back: total(|s| &s.common.kernel_drops_back),
            send_drops: total(|s| &s.common.send_drops),
            gso_off: total(|s| &s.common.gso_off),
            delivered: total(|s| &s.delivered),
            late: total(|s| &s.late),
            dropped: by_reason(|s| &s.common.dropped),
            flows: total(|s| &s.flows),
            flows_opened: total(|s| &s.flows_opened),
            tcp_open: pool.tcp.open.get(),
            tcp_opened: pool.tcp.opened.get(),
            tcp_refused: pool.tcp.refused.get(),
            select_fallback: total(|s| &s.common.select_fallback),
            decisions: decisions.sample(
                total(|s| &s.common.decisions.given_up),
                pool.stats.iter().map(|stats| stats.common.decision_source()),
            ),
            rate,
            latency_us: Latencies::of(&all),
            latency_us_recent: Percentiles::of(&recent),
            scaling: None, // its controller is another process, and knows
            servers,
        }
    }
}

/// A counter of a slot at all workers together.
fn sum(pool: &Shared, slot: usize, counter: fn(&DatagramServerStats) -> &Counter) -> u64 {
    pool.stats.iter().map(|stats| counter(&stats.servers[slot]).get()).sum()
}

/// Answers from a slot, and their latencies, at all workers together.
fn look(pool: &Shared, slot: usize) -> Look {
    let answered = sum(pool, slot, |s| &s.common.answered);
    let mut latency = LatencySnapshot::default();
    if answered > 0 {
        pool.stats.iter().for_each(|stats| latency.merge(&stats.servers[slot].common.latency.snapshot()));
    }
    Look { answered, latency }
}

/// A slot that a server has; without rate and latencies.
fn server(pool: &Shared, slot: usize, now: Instant) -> Option<PoolServerStatus> {
    let primary = &pool.stats[0].servers[slot].common;
    let id = primary.id_plus_one.get().checked_sub(1)?;
    // What has ended is read before what was begun: so the difference is never negative.
    let (answered, timed_out) = (sum(pool, slot, |s| &s.common.answered), sum(pool, slot, |s| &s.timed_out));
    let forwarded = sum(pool, slot, |s| &s.forwarded);
    let dispatched = sum(pool, slot, |s| &s.common.dispatched);
    Some(PoolServerStatus {
        id: id as u32,
        addr: pool.server(Slot::new(slot)).map_or(String::new(), |addr| addr.to_string()),
        state: state_name(primary.state.get()),
        since_s: super::seconds_since(now, primary.since.get()),
        weight: primary.weight.get(),
        queue: u64::from(pool.queue(Slot::new(slot))),
        service: Service::of(&primary.served),
        heard_ms: super::since(now, pool.heard_at(Slot::new(slot)).as_nanos())
            .map(|age| age.as_millis() as u64),
        dispatched,
        answered,
        timed_out,
        forwarded,
        in_flight: dispatched.saturating_sub(answered + timed_out + forwarded),
        delivered: sum(pool, slot, |s| &s.delivered),
        errors: sum(pool, slot, |s| &s.errors),
        ..PoolServerStatus::default()
    })
}
