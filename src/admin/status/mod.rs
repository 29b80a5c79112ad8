//! The status of a balancer: one snapshot of all pools, as JSON or as rows of a table.
//!
//! | file | a change there is about |
//! |---|---|
//! | `pool.rs` | the status of a pool and of a server, for every protocol |
//! | `source.rs` | where these values come from, and what only one kind of pool has |
//! | `problems.rs` | mistakes of an operator that a pool notices |
//! | `readiness.rs` | whether a pool takes traffic, and why not |
//! | `decisions.rs` | quality of selections, and the pending queue |
//! | `window.rs` | the sample window of rates and recent latencies |
//! | `board.rs` | one snapshot for all readers |
//! | `history.rs` | the last ten minutes |
//! | `events.rs` | the event log |
//! | `life.rs` | what a successor continues |
//! | `deprecated.rs` | the JSON keys of version 0.1 |

mod board;
mod decisions;
mod deprecated;
mod events;
mod history;
mod life;
mod pool;
mod problems;
mod readiness;
mod sampler;
mod source;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use board::{About, Board};
pub use decisions::{Decisions, Distribution};
pub use events::{EventEntry, EventKind, EventLog, KEPT_MAX};
pub use history::{History, HistoryPoint};
pub use life::Life;
pub use pool::{DatagramCounters, DatagramServer, NativeServer, PoolStatus, ServerStatus, Service};
pub use problems::Problem;
pub use source::PoolSource;

use crate::base::time::{Clock, Instant};
use crate::pool::autoscale::Outlook;
use crate::pool::stats::LatencySnapshot;
use sampler::PoolSampler;
use source::NATIVE;

/// The balancer at one moment. Its JSON has the first native pool at the top level too (`deprecated.rs`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// This program's version.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// Start of the balancer, in milliseconds since 1970. A takeover keeps it.
    pub started_unix_ms: u64,
    /// Seconds since the start of the balancer. All totals count from there.
    pub uptime_s: f64,
    /// Start of this process, in milliseconds since 1970.
    pub process_started_unix_ms: u64,
    /// CPU seconds of the processes that this one, and those before it, took over from.
    pub predecessors_cpu_s: f64,
    /// The configuration file; empty without one.
    pub config: String,
    /// Whether each pool has a server that is up.
    pub ready: bool,
    /// The pools, in the order of the configuration.
    pub pools: Vec<PoolStatus>,
    /// The newest events, oldest first.
    pub events: Vec<EventEntry>,
}

impl Status {
    /// The status as a line of JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&PoolStatus> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The first native pool, if there is one.
    pub fn native(&self) -> Option<&PoolStatus> {
        self.pools.iter().find(|pool| pool.protocol == NATIVE)
    }
}

/// The autoscaler's view of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Requests per server, over `grow_after`; 0 without data.
    pub load: f64,
    /// Servers that take traffic.
    pub up: u32,
    /// Desired number of servers.
    pub wanted: u32,
    /// Minimum number of servers.
    pub min: u32,
    /// Maximum number of servers.
    pub max: u32,
    /// The reason for the desired number, as text.
    pub reason: String,
}

impl From<Outlook> for Scaling {
    fn from(outlook: Outlook) -> Self {
        let Outlook { load, up, desired, min, max, why } = outlook;
        Scaling { load, up, wanted: desired, min, max, reason: why.to_string() }
    }
}

/// Latencies of the last second, in microseconds, each at most 12.5 % too high; 0 without data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    /// 50 % are not above this.
    pub p50: u64,
    /// 90 % are not above this.
    pub p90: u64,
    /// 99 % are not above this.
    pub p99: u64,
    /// 99.9 % are not above this.
    pub p999: u64,
}

impl Percentiles {
    fn of(snapshot: &LatencySnapshot) -> Self {
        let quantile = |q| micros(snapshot.quantile(q));
        Percentiles { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), p999: quantile(0.999) }
    }
}

/// Latencies since the start, in microseconds, each at most 12.5 % too high; 0 without data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latencies {
    /// 50 % are not above this.
    pub p50: u64,
    /// 90 % are not above this.
    pub p90: u64,
    /// 99 % are not above this.
    pub p99: u64,
    /// 99.9 % are not above this.
    pub p999: u64,
    /// Pairs (microseconds, count): the count of latencies not above this and above the pair before, without
    /// empty ones.
    pub histogram: Vec<(u64, u64)>,
}

impl Latencies {
    fn of(snapshot: &LatencySnapshot) -> Self {
        let Percentiles { p50, p90, p99, p999 } = Percentiles::of(snapshot);
        Latencies { p50, p90, p99, p999, histogram: snapshot.buckets().collect() }
    }
}

/// Takes snapshots of a balancer. Rates and recent values are those since a few snapshots before.
pub struct Sampler {
    clock: Clock,
    pools: Vec<PoolSampler>,
}

impl Sampler {
    /// A sampler of these pools, whose clock is `clock`. Recent values are those since the snapshot `span`
    /// before, or since now.
    pub fn new(pools: Vec<PoolSource>, clock: Clock, span: usize) -> Self {
        let pools = pools.into_iter().map(|pool| PoolSampler::new(pool, span)).collect();
        Sampler { clock, pools }
    }

    /// The balancer now.
    pub fn sample(&mut self) -> Status {
        let now = self.clock.now();
        let pools = self.pools.iter_mut().map(|pool| pool.sample(now)).collect();
        let mut status = Status { pools, ..Status::default() };
        status.ready = status.pools.iter().all(|pool| pool.unready().is_none());
        status
    }
}

/// The time since a gauge was set to nanoseconds of the balancer's clock; `None` if it never was.
fn since(now: Instant, nanos: u64) -> Option<Duration> {
    (nanos > 0).then(|| now.since(Instant::from_nanos(nanos)))
}

/// The same in milliseconds.
fn millis_since(now: Instant, nanos: u64) -> Option<u64> {
    since(now, nanos).map(|passed| passed.as_millis() as u64)
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
    use std::sync::Arc;

    use super::*;
    use crate::base::drop_reason::DropReason;
    use crate::config::Config;
    use crate::pool::autoscale::Why;
    use crate::pool::health::State;
    use crate::pool::stats::{NativeStats, ServerStats};
    use crate::role::datagram::{Chance, DatagramRole, DatagramShared, Sockets, WorkerSockets};

    fn native(name: &str, workers: &[Arc<NativeStats>]) -> PoolSource {
        PoolSource::Native { name: name.to_owned(), workers: workers.to_vec() }
    }

    fn stats(workers: usize, slots: usize) -> Vec<Arc<NativeStats>> {
        (0..workers).map(|_| Arc::new(NativeStats::new(slots))).collect()
    }

    /// A datagram pool of one worker that does nothing by itself.
    fn datagram() -> Arc<DatagramShared> {
        let text =
            r#"{"pools": [{"listen": "127.0.0.1:1", "protocol": "datagram", "servers": ["127.0.0.1:2"]}]}"#;
        let config = Config::parse(text, None).unwrap();
        let settings = config.datagram_pools().next().unwrap().settings.clone();
        let sockets = Sockets { fronts: 0..1, v4: 1..2, v6: 0..0, check_v4: None, check_v6: None };
        let addrs = vec![([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 3).into()];
        let chance = Chance { secret: [7; 16], seed: 7 };
        DatagramRole::workers(settings, chance, &[WorkerSockets { sockets, addrs }], Instant::ZERO).0
    }

    fn register(server: &ServerStats, id: u64) {
        server.id_plus_one.set(id + 1);
        server.state.set(State::Up as u64);
    }

    fn answer(server: &ServerStats, micros: u32) {
        server.dispatched.add(1);
        server.answered.add(1);
        server.latency.record(micros);
    }

    #[test]
    fn a_snapshot_adds_up_the_workers_and_forgets_what_is_not_recent() {
        let workers = stats(2, 4);
        let mut sampler = Sampler::new(vec![native("first", &workers)], Clock::start(), 1);
        let gauges = &workers[0].servers[2];
        register(&gauges.common, 7);
        gauges.common.since.set(Clock::start().now().as_nanos());
        gauges.common.weight.set(5);
        let outlook = Outlook { load: 1.5, up: 1, desired: 1, min: 0, max: 4, why: Why::Silent(1) };
        *workers[0].scaling.lock().unwrap() = Some(outlook);
        gauges.estimate_error.set(3);
        gauges.set_addr(Some(([127, 0, 0, 1], 5300).into()));
        for n in 0..10 {
            answer(&workers[n % 2].servers[2].common, 100);
            workers[1].common.dropped.add(DropReason::Magic, 1);
        }
        let status = sampler.sample();
        let pool = &status.pools[0];
        assert_eq!((pool.name.as_str(), pool.protocol.as_str(), pool.servers.len()), ("first", "native", 1));
        let seen = &pool.servers[0];
        assert_eq!((seen.id, seen.state.as_str(), seen.answered, seen.dispatched), (7, "up", 10, 10));
        assert!((100..=113).contains(&seen.latency_us_recent.p99) && seen.rate > 0.0);
        assert_eq!(pool.latency_us_recent, seen.latency_us_recent);
        assert_eq!((seen.addr.as_str(), seen.weight), ("127.0.0.1:5300", 5));
        assert_eq!(seen.native.map(|native| native.estimate_error), Some(3));
        assert!(seen.since_s.is_some_and(|since| since < 60.0) && seen.heard_ms.is_none(), "{seen:?}");
        assert_eq!(seen.latency_us.histogram.iter().map(|(_, count)| count).sum::<u64>(), 10);
        assert_eq!((pool.dropped["magic"], pool.dispatched, pool.all_dropped()), (10, 10, 10));
        assert_eq!(pool.scaling.as_ref().map(|scaling| scaling.max), Some(4));
        assert!(status.ready && status.pool("first") == Some(pool) && status.pool("other").is_none());

        workers[1].servers[2].reported.set(1_000_000_000);
        gauges.common.state.set(State::Down as u64);
        let next = sampler.sample();
        let server = &next.pools[0].servers[0];
        assert_eq!((server.latency_us_recent.p99, server.rate), (0, 0.0), "nothing since");
        assert!(server.heard_ms.is_some() && server.native.unwrap().report_age_ms == server.heard_ms);
        assert!(!next.ready && next.pools[0].unready().is_some());
        assert!(!next.ready);
        let read: Status = serde_json::from_str(&status.to_json().unwrap()).unwrap();
        assert_eq!(read, status);
    }

    #[test]
    fn latencies_mean_the_same_in_both_kinds_of_pools() {
        let (workers, pool) = (stats(1, 1), datagram());
        let (of_native, of_datagram) = (&workers[0].servers[0].common, &pool.stats[0].servers[0].common);
        let sources = vec![native("native", &workers), PoolSource::Datagram(Arc::clone(&pool))];
        let mut sampler = Sampler::new(sources, Clock::start(), 1);
        for server in [of_native, of_datagram] {
            register(server, 0);
            (0..100).for_each(|_| answer(server, 50_000));
        }
        sampler.sample();
        for server in [of_native, of_datagram] {
            (0..10).for_each(|_| answer(server, 100));
        }
        let json = serde_json::to_value(sampler.sample()).unwrap();
        for pool in json["pools"].as_array().unwrap() {
            for of in [pool, &pool["servers"][0]] {
                let micros = |key: &str| of[key]["p50"].as_u64().unwrap();
                assert!((100..=113).contains(&micros("latency_us_recent")), "the last second: {of}");
                assert!((50_000..=56_250).contains(&micros("latency_us")), "since the start: {of}");
            }
        }
    }

    #[test]
    fn both_kinds_of_pools_have_one_shape() {
        let (workers, pool) = (stats(1, 1), datagram());
        register(&workers[0].servers[0].common, 3);
        register(&pool.stats[0].servers[0].common, 4);
        let of_worker = [&workers[0].common, &pool.stats[0].common];
        for stats in of_worker {
            stats.out_of_slots.add(2);
            stats.completions_delayed.add(3);
            stats.kernel_drops_back.add(4);
            stats.refused.add(DropReason::ServersFull, 5);
        }
        pool.stats[0].timed_out.add(6);
        workers[0].servers[0].lost.set(7);
        let sources = vec![native("native", &workers), PoolSource::Datagram(Arc::clone(&pool))];
        let status = Sampler::new(sources, Clock::start(), 1).sample();
        let [native, datagram] = &status.pools[..] else { panic!("{status:?}") };
        for pool in [native, datagram] {
            assert_eq!((pool.out_of_slots, pool.completions_delayed, pool.all_dropped()), (2, 3, 4));
            assert_eq!((pool.refused["servers_full"], pool.up()), (5, 1));
        }
        assert_eq!((native.failed(), datagram.failed()), (5, 11));
        assert_eq!((native.servers[0].failed(), native.decisions.corrections), (7, 7));
        let json = serde_json::to_value(&status).unwrap();
        let keys = |of: &serde_json::Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let only = |mine: Vec<String>, others: Vec<String>| {
            mine.into_iter().filter(|key| !others.contains(key)).collect::<Vec<_>>()
        };
        let (native, datagram) = (&json["pools"][0], &json["pools"][1]);
        assert!(only(keys(native), keys(datagram)).is_empty());
        let of_server = only(keys(&native["servers"][0]), keys(&datagram["servers"][0]));
        assert_eq!(of_server, ["estimate_error", "lost", "report_age_ms"]);
    }
}
