//! What a balancer shows of itself: one snapshot, as JSON or as rows of a table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::health::State;
use crate::stats::{LatencySnapshot, PoolStats};

/// The balancer at one moment; rates and latencies are of the time since the snapshot before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
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
    /// Frames dropped, by reason.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Replies per second.
    pub rate: f64,
    /// Half of the replies took at most so many microseconds.
    pub latency_us_p50: u64,
    /// 99 % of the replies took at most so many microseconds.
    pub latency_us_p99: u64,
    /// The registered servers, by id.
    pub servers: Vec<ServerStatus>,
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

/// Takes snapshots of a pool and remembers the last one.
pub struct Sampler {
    stats: Arc<PoolStats>,
    last_at: Instant,
    last: Vec<(u64, LatencySnapshot)>,
}

impl Sampler {
    /// A sampler whose first snapshot covers the time from now.
    pub fn new(stats: Arc<PoolStats>) -> Self {
        let last = stats.servers.iter().map(|s| (s.answered.get(), s.latency.snapshot())).collect();
        Sampler { stats, last_at: Instant::now(), last }
    }

    /// The pool now.
    pub fn sample(&mut self) -> Status {
        let passed = std::mem::replace(&mut self.last_at, Instant::now()).elapsed();
        let seconds = passed.as_secs_f64().max(1e-6);
        let stats = &self.stats;
        let mut all = LatencySnapshot::default();
        let mut servers = vec![];
        let mut rate = 0.0;
        for (server, last) in stats.servers.iter().zip(&mut self.last) {
            let now = (server.answered.get(), server.latency.snapshot());
            let latency = now.1.since(&last.1);
            let server_rate = (now.0 - last.0) as f64 / seconds;
            rate += server_rate;
            all.merge(&latency);
            *last = now;
            let Some(id) = server.id_plus_one.get().checked_sub(1) else { continue };
            let state = State::ALL.get(server.state.get() as usize).map_or("unknown", |s| s.name());
            servers.push(ServerStatus {
                id: id as u32,
                state: state.to_owned(),
                queue: server.outstanding.get(),
                dispatched: server.dispatched.get(),
                answered: server.answered.get(),
                lost: server.lost.get(),
                rate: server_rate,
                latency_us_p50: micros(latency.quantile(0.5)),
                latency_us_p99: micros(latency.quantile(0.99)),
            });
        }
        servers.sort_by_key(|s| s.id);
        Status {
            requests: stats.requests.get(),
            dispatched: stats.dispatched.get(),
            answered: stats.answered.get(),
            busy_no_server: stats.busy_no_server.get(),
            busy_shed: stats.busy_shed.get(),
            refused_mode: stats.refused_mode.get(),
            kernel_drops: stats.kernel_drops.get(),
            send_drops: stats.send_drops.get(),
            drops: stats.drops.nonzero().map(|(r, n)| (r.name().to_owned(), n)).collect(),
            rate,
            latency_us_p50: micros(all.quantile(0.5)),
            latency_us_p99: micros(all.quantile(0.99)),
            servers,
        }
    }
}

fn micros(latency: Option<Duration>) -> u64 {
    latency.map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_the_registered_servers_and_the_latency_since_the_last_one() {
        let stats = Arc::new(PoolStats::new(4));
        let mut sampler = Sampler::new(Arc::clone(&stats));
        let server = &stats.servers[2];
        server.id_plus_one.set(8);
        server.state.set(State::Up as u64);
        for _ in 0..10 {
            server.answered.add(1);
            server.latency.record(100);
        }
        let status = sampler.sample();
        assert_eq!(status.servers.len(), 1);
        let seen = &status.servers[0];
        assert_eq!((seen.id, seen.state.as_str(), seen.answered), (7, "up", 10));
        assert!((100..=113).contains(&seen.latency_us_p99) && seen.rate > 0.0);
        assert_eq!(sampler.sample().servers[0].latency_us_p99, 0, "nothing since");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
