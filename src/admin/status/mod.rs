//! What a balancer shows of itself: one snapshot, as JSON or as rows of a table.
//!
//! | file | a change there is about |
//! |---|---|
//! | `native.rs`, `pools.rs` | what a pool shows |
//! | `decisions.rs` | what is shown of choices and of waiting |
//! | `window.rs` | how long "the last moment" of rates and latencies is |
//! | `board.rs` | one snapshot for all readers |
//! | `view.rs` | all pools alike, for whoever makes no difference between them |
//! | `history.rs` | the last ten minutes |
//! | `events.rs` | what has happened |

mod board;
mod decisions;
mod events;
mod history;
mod native;
mod pools;
mod view;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use board::{About, Board};
pub use decisions::{Decisions, Numbers};
pub use events::{Entry, EventLog, KEPT_MAX, Kind};
pub use history::{History, Second};
pub use native::{ServerStatus, Service};
pub use pools::{Latencies, PoolServerStatus, PoolStatus};
pub use view::{NATIVE, PoolView, ServerView};

use crate::base::time::{Clock, Instant};
use crate::pool::autoscale::Outlook;
use crate::pool::stats::{LatencySnapshot, NativeStats};
use crate::role::datagram::Shared;
use native::NativeSampler;
use pools::PoolSampler;

/// The balancer at one moment: its native pool, and its datagram pools. Rates and latencies are of the last moment (see
/// [`Sampler`]) where nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// This program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// When it started: milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Seconds since then.
    pub uptime_s: f64,
    /// The file of its configuration; empty without one.
    pub config: String,
    /// Whether each pool has a server that is up.
    pub ready: bool,
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
    /// Selections that fell back to two random servers after losing too many races.
    pub select_fallback: u64,
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
    /// How good the choices of servers are, and who waits for one.
    pub decisions: Decisions,
    /// Replies per second.
    pub rate: f64,
    /// Half of the replies took at most so many microseconds.
    pub latency_us_p50: u64,
    /// 99 % of the replies took at most so many microseconds.
    pub latency_us_p99: u64,
    /// These and others.
    pub latency_us_recent: Percentiles,
    /// How many servers there should be, and why; `None` if nobody scales.
    pub scaling: Option<Scaling>,
    /// The registered servers, by id.
    pub servers: Vec<ServerStatus>,
    /// Latencies of the native pool since the start, as [`Latencies::histogram`]; for metrics, not in JSON.
    #[serde(skip)]
    pub histogram: Vec<(u64, u64)>,
    /// The datagram pools, in the order of the configuration.
    pub pools: Vec<PoolStatus>,
    /// The newest events, oldest first.
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

    /// Whether each pool has a server that is up; else which has none.
    pub fn readiness(&self) -> Result<(), String> {
        let is_up = |server: &ServerView<'_>| server.state == "up";
        match self.all_pools().into_iter().find(|pool| !pool.servers.iter().any(is_up)) {
            Some(pool) => Err(format!("no server of pool {} is up", pool.name)),
            None => Ok(()),
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

/// Latencies of the last moment, in microseconds, each at most 12.5 % too high; 0 without data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    /// Half took at most so long.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
}

impl Percentiles {
    fn of(snapshot: &LatencySnapshot) -> Self {
        let quantile = |q| micros(snapshot.quantile(q));
        Percentiles { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), p999: quantile(0.999) }
    }
}

/// Takes snapshots of a balancer. Rates and recent latencies are of the time since a few snapshots before.
pub struct Sampler {
    clock: Clock,
    native: NativeSampler,
    pools: Vec<PoolSampler>,
}

impl Sampler {
    /// A sampler of the native pool's workers, the primary first (none, if it does not run), and of datagram pools. `clock` is
    /// theirs. What it calls recent is what passed since the snapshot `span` before, or since now.
    pub fn new(workers: Vec<Arc<NativeStats>>, pools: Vec<Arc<Shared>>, clock: Clock, span: usize) -> Self {
        let pools = pools.into_iter().map(|pool| PoolSampler::new(pool, span)).collect();
        Sampler { clock, native: NativeSampler::new(workers, span), pools }
    }

    /// The balancer now.
    pub fn sample(&mut self) -> Status {
        let now = self.clock.now();
        let mut status = Status::default();
        self.native.sample(now, &mut status);
        status.pools = self.pools.iter_mut().map(|pool| pool.sample(now)).collect();
        status.ready = status.readiness().is_ok();
        status
    }
}

/// The time since a gauge was set to nanoseconds of the balancer's clock; `None` if it never was.
fn since(now: Instant, nanos: u64) -> Option<Duration> {
    (nanos > 0).then(|| now.since(Instant::from_nanos(nanos)))
}

/// The same in seconds, to the millisecond.
fn seconds_since(now: Instant, nanos: u64) -> Option<f64> {
    since(now, nanos).map(|passed| passed.as_millis() as f64 / 1e3)
}

fn micros(latency: Option<Duration>) -> u64 {
    latency.map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::drop_reason::DropReason;
    use crate::pool::autoscale::Why;
    use crate::pool::health::State;

    #[test]
    fn a_snapshot_shows_the_registered_servers_of_all_workers_and_the_latency_since_the_last_one() {
        let workers: Vec<_> = (0..2).map(|_| Arc::new(NativeStats::new(4))).collect();
        let mut sampler = Sampler::new(workers.clone(), vec![], Clock::start(), 1);
        workers[0].servers[2].common.id_plus_one.set(8);
        workers[0].servers[2].common.state.set(State::Up as u64);
        workers[0].servers[2].common.since.set(Clock::start().now().as_nanos());
        workers[0].servers[2].common.weight.set(5);
        let outlook = Outlook { load: 1.5, up: 1, wanted: 1, min: 0, max: 4, why: Why::Silent(1) };
        *workers[0].scaling.lock().unwrap() = Some(outlook);
        workers[0].servers[2].estimate_error.set(3);
        workers[0].servers[2].set_addr(Some(([127, 0, 0, 1], 5300).into()));
        for n in 0..10 {
            let server = &workers[n % 2].servers[2];
            server.common.answered.add(1);
            server.common.latency.record(100);
            workers[1].common.dropped.add(DropReason::Magic, 1);
        }
        let status = sampler.sample();
        assert_eq!(status.servers.len(), 1);
        let seen = &status.servers[0];
        assert_eq!((seen.id, seen.state.as_str(), seen.answered), (7, "up", 10));
        assert!((100..=113).contains(&seen.latency_us_p99) && seen.rate > 0.0);
        assert_eq!(seen.latency_us_recent.p50, seen.latency_us_p50);
        assert_eq!(status.latency_us_recent, seen.latency_us_recent);
        assert_eq!((seen.addr.as_str(), seen.weight, seen.estimate_error), ("127.0.0.1:5300", 5, 3));
        assert!(seen.since_s.is_some_and(|since| since < 60.0) && seen.report_age_ms.is_none(), "{seen:?}");
        assert_eq!(seen.histogram.iter().map(|(_, count)| count).sum::<u64>(), 10);
        assert_eq!(status.drops["magic"], 10);
        assert!(status.ready);
        workers[0].servers[2].reported.set(1_000_000_000);
        workers[0].servers[2].common.state.set(State::Down as u64);
        let next = sampler.sample();
        assert_eq!((next.servers[0].latency_us_p99, next.servers[0].rate), (0, 0.0), "nothing since");
        assert!(next.servers[0].report_age_ms.is_some());
        assert_eq!(next.readiness().unwrap_err(), "no server of pool native is up");
        assert!(!next.ready);
        let mut read: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        assert_eq!(status.histogram, status.servers[0].histogram);
        read.servers[0].histogram = status.histogram.clone();
        read.histogram = status.histogram.clone();
        assert_eq!(read, status);
        assert_eq!(serde_json::from_str::<Status>("{\"servers\": [{\"id\": 7}]}").unwrap().servers[0].id, 7);
    }
}
