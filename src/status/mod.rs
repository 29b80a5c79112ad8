//! What a balancer shows of itself: one snapshot, as JSON or as rows of a table.

mod events;
mod pools;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use events::{Entry, EventLog, KEPT_MAX, Kind};
pub use pools::{Latencies, PoolSampler, PoolServerStatus, PoolStatus};

use crate::health::State;
use crate::role::relay::Shared;
use crate::scale::Outlook;
use crate::stats::{Counter, LatencySnapshot, PoolStats, ServerStats};

/// The balancer at one moment: its native pool, and its datagram pools. Rates and latencies of the native pool are of the time since the
/// snapshot before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// When the process started: milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Valid requests that arrived, by worker.
    pub workers: Vec<u64>,
    /// Valid requests that arrived.
    pub requests: u64,
    /// Requests sent to servers.
    pub dispatched: u64,
    /// Replies delivered to clients.
    pub answered: u64,
    /// Requests refused: no server.
    pub busy_no_server: u64,
    /// Requests refused: all servers at their limit.
    pub busy_shed: u64,
    /// Requests refused: their mode is not served.
    pub refused_mode: u64,
    /// Datagrams dropped by the kernel before they were read.
    pub kernel_drops: u64,
    /// Datagrams that could not be sent.
    pub send_drops: u64,
    /// Workers that the kernel refused segmentation offload to.
    pub gso_off: u64,
    /// How often a socket had to wait since all slots of a turn were taken (io_uring).
    pub out_of_slots: u64,
    /// How often the completion queue was full (io_uring).
    pub completions_delayed: u64,
    /// Frames dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Replies per second.
    pub rate: f64,
    /// Half of the replies took at most so many microseconds.
    pub latency_us_p50: u64,
    /// 99 % of the replies took at most so many microseconds.
    pub latency_us_p99: u64,
    /// The registered servers, by id.
    pub servers: Vec<ServerStatus>,
    /// How many servers there should be, and why; `None` before the first look.
    pub scaling: Option<Scaling>,
    /// The datagram pools, in the order of the configuration.
    pub pools: Vec<PoolStatus>,
    /// What has happened lately, the newest last.
    pub events: Vec<Entry>,
}

impl Status {
    /// As a line of JSON; without a native pool only the datagram pools.
    pub fn to_json(&self) -> serde_json::Result<String> {
        match self.workers.is_empty() {
            true => serde_json::to_string(&serde_json::json!({ "pools": self.pools })),
            false => serde_json::to_string(self),
        }
    }
}

/// What the scaler thinks of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Requests per server, over `grow_after`; 0 without data.
    pub load: f64,
    /// Servers that take traffic.
    pub up: u32,
    /// Servers there shall be.
    pub wanted: u32,
    /// Never fewer servers.
    pub min: u32,
    /// Never more servers.
    pub max: u32,
    /// Why so many, in words.
    pub reason: String,
}

impl From<Outlook> for Scaling {
    fn from(outlook: Outlook) -> Self {
        let Outlook { load, up, wanted, min, max, why } = outlook;
        Scaling { load, up, wanted, min, max, reason: why.to_string() }
    }
}

/// One server at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its id.
    pub id: u32,
    /// Its state's name.
    pub state: String,
    /// Requests under way or in it, by the estimate.
    pub queue: u64,
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
}

/// Takes snapshots of a balancer and remembers the last one.
pub struct Sampler {
    workers: Vec<Arc<PoolStats>>,
    last_at: Instant,
    last: Vec<(u64, LatencySnapshot)>,
    pools: Vec<PoolSampler>,
}

impl Sampler {
    /// A sampler of the native pool's workers, the primary first (none, if it does not run), and of datagram pools. Its
    /// first snapshot covers the time from now.
    pub fn new(workers: Vec<Arc<PoolStats>>, pools: Vec<Arc<Shared>>) -> Self {
        let slots = workers.first().map_or(0, |primary| primary.servers.len());
        let last = (0..slots).map(|slot| answered(&workers, slot)).collect();
        let pools = pools.into_iter().map(PoolSampler::new).collect();
        Sampler { workers, last_at: Instant::now(), last, pools }
    }

    /// The balancer now.
    pub fn sample(&mut self) -> Status {
        let passed = std::mem::replace(&mut self.last_at, Instant::now()).elapsed();
        let seconds = passed.as_secs_f64().max(1e-6);
        let workers = &self.workers;
        let mut all = LatencySnapshot::default();
        let mut servers = vec![];
        let mut rate = 0.0;
        for (slot, last) in self.last.iter_mut().enumerate() {
            let sum = |counter: fn(&ServerStats) -> &Counter| -> u64 {
                workers.iter().map(|stats| counter(&stats.servers[slot]).get()).sum()
            };
            let now = answered(workers, slot);
            let latency = now.1.since(&last.1);
            let server_rate = (now.0 - last.0) as f64 / seconds;
            rate += server_rate;
            all.merge(&latency);
            let answered = now.0;
            *last = now;
            let primary = &workers[0].servers[slot];
            let Some(id) = primary.id_plus_one.get().checked_sub(1) else { continue };
            let state = State::ALL.get(primary.state.get() as usize).map_or("unknown", |s| s.name());
            servers.push(ServerStatus {
                id: id as u32,
                state: state.to_owned(),
                queue: primary.outstanding.get(),
                dispatched: sum(|s| &s.dispatched),
                answered,
                lost: sum(|s| &s.lost),
                rate: server_rate,
                latency_us_p50: micros(latency.quantile(0.5)),
                latency_us_p99: micros(latency.quantile(0.99)),
            });
        }
        servers.sort_by_key(|s| s.id);
        let sum = |counter: fn(&PoolStats) -> &Counter| -> u64 {
            workers.iter().map(|stats| counter(stats).get()).sum()
        };
        let mut drops = BTreeMap::new();
        for (reason, n) in workers.iter().flat_map(|stats| stats.drops.nonzero()) {
            *drops.entry(reason.name().to_owned()).or_default() += n;
        }
        Status {
            started_unix_ms: 0,
            workers: workers.iter().map(|stats| stats.requests.get()).collect(),
            requests: sum(|s| &s.requests),
            dispatched: sum(|s| &s.dispatched),
            answered: sum(|s| &s.answered),
            busy_no_server: sum(|s| &s.busy_no_server),
            busy_shed: sum(|s| &s.busy_shed),
            refused_mode: sum(|s| &s.refused_mode),
            kernel_drops: sum(|s| &s.kernel_drops),
            send_drops: sum(|s| &s.send_drops),
            gso_off: sum(|s| &s.gso_off),
            out_of_slots: sum(|s| &s.out_of_slots),
            completions_delayed: sum(|s| &s.completions_delayed),
            drops,
            rate,
            latency_us_p50: micros(all.quantile(0.5)),
            latency_us_p99: micros(all.quantile(0.99)),
            servers,
            scaling: workers.first().and_then(|primary| {
                primary.scaling.lock().expect("no panic while it is held").map(Scaling::from)
            }),
            pools: self.pools.iter_mut().map(PoolSampler::sample).collect(),
            events: vec![],
        }
    }
}

/// Replies from a slot, and their latencies, at all workers together.
fn answered(workers: &[Arc<PoolStats>], slot: usize) -> (u64, LatencySnapshot) {
    let mut latency = LatencySnapshot::default();
    let mut count = 0;
    for server in workers.iter().map(|stats| &stats.servers[slot]) {
        count += server.answered.get();
        latency.merge(&server.latency.snapshot());
    }
    (count, latency)
}

fn micros(latency: Option<Duration>) -> u64 {
    latency.map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drop_reason::DropReason;
    use crate::scale::Why;

    #[test]
    fn a_snapshot_shows_the_registered_servers_of_all_workers_and_the_latency_since_the_last_one() {
        let workers: Vec<_> = (0..2).map(|_| Arc::new(PoolStats::new(4))).collect();
        let mut sampler = Sampler::new(workers.clone(), vec![]);
        workers[0].servers[2].id_plus_one.set(8);
        workers[0].servers[2].state.set(State::Up as u64);
        for n in 0..10 {
            let server = &workers[n % 2].servers[2];
            server.answered.add(1);
            server.latency.record(100);
            workers[1].drops.add(DropReason::Magic, 1);
        }
        let why = Why::Silent(1);
        let outlook = Outlook { load: 1.5, up: 1, wanted: 1, min: 0, max: 4, why };
        *workers[0].scaling.lock().unwrap() = Some(outlook);
        let status = sampler.sample();
        let scaling = status.scaling.as_ref().unwrap();
        assert_eq!((scaling.max, scaling.reason.as_str()), (4, "1 server is silent: no data"));
        assert_eq!(status.servers.len(), 1);
        let seen = &status.servers[0];
        assert_eq!((seen.id, seen.state.as_str(), seen.answered), (7, "up", 10));
        assert!((100..=113).contains(&seen.latency_us_p99) && seen.rate > 0.0);
        assert_eq!(status.drops["magic"], 10);
        assert_eq!(sampler.sample().servers[0].latency_us_p99, 0, "nothing since");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
