//! The last ten minutes, one point per second, so that a new reader can draw a full chart.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Status;

/// Maximum number of points.
const SECONDS_MAX: usize = 600;

/// The newest points, oldest first. The owner adds one each second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The points.
    pub seconds: VecDeque<HistoryPoint>,
}

/// All pools together at one moment, and each of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryPoint {
    /// Time of the point, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The sums of rates and servers; latencies are those of the pool with the highest rate, as percentiles
    /// do not add up.
    #[serde(flatten)]
    pub all: Point,
    /// Each pool, by name.
    pub pools: BTreeMap<String, Point>,
}

/// A pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Answers per second.
    pub rate: f64,
    /// 50 % of the responses of the last second took at most this, in microseconds.
    pub latency_us_p50: u64,
    /// 99 % of the responses of the last second took at most this, in microseconds.
    pub latency_us_p99: u64,
    /// Servers that take traffic.
    pub up: usize,
    /// All servers.
    pub servers: usize,
    /// Requests or flows at the servers.
    pub queue: u64,
    /// Desired number of servers; `None` where this process does not scale.
    pub wanted: Option<u32>,
}

impl History {
    /// Adds the point of a second, and removes the oldest if there are 600.
    pub fn add(&mut self, unix_ms: u64, status: &Status) {
        let mut second = HistoryPoint { unix_ms, ..HistoryPoint::default() };
        let mut busiest = -1.0;
        for pool in &status.pools {
            let point = Point {
                rate: pool.rate,
                latency_us_p50: pool.latency_us_recent.p50,
                latency_us_p99: pool.latency_us_recent.p99,
                up: pool.up(),
                servers: pool.servers.len(),
                queue: pool.servers.iter().map(|server| server.queue).sum(),
                wanted: pool.scaling.as_ref().map(|scaling| scaling.wanted),
            };
            let all = &mut second.all;
            all.rate += point.rate;
            all.up += point.up;
            all.servers += point.servers;
            all.queue += point.queue;
            if let Some(wanted) = point.wanted {
                *all.wanted.get_or_insert(0) += wanted;
            }
            if point.rate > busiest {
                busiest = point.rate;
                (all.latency_us_p50, all.latency_us_p99) = (point.latency_us_p50, point.latency_us_p99);
            }
            second.pools.insert(pool.name.clone(), point);
        }
        if self.seconds.len() == SECONDS_MAX {
            self.seconds.pop_front();
        }
        self.seconds.push_back(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Percentiles, PoolStatus, Scaling, ServerStatus};

    #[test]
    fn a_second_has_the_sums_and_each_pool_and_the_oldest_go() {
        let percentiles = |p50, p99| Percentiles { p50, p99, ..Default::default() };
        let server = |state: &str, queue| ServerStatus { state: state.into(), queue, ..Default::default() };
        let native = PoolStatus {
            name: "native".into(),
            rate: 100.0,
            latency_us_recent: percentiles(5, 50),
            scaling: Some(Scaling { wanted: 3, ..Default::default() }),
            servers: vec![server("up", 2)],
            ..Default::default()
        };
        let dns = PoolStatus {
            name: "dns".into(),
            rate: 900.0,
            latency_us_recent: percentiles(7, 70),
            servers: vec![server("up", 4), server("down", 4)],
            ..Default::default()
        };
        let status = Status { pools: vec![native, dns], ..Default::default() };
        let mut history = History::default();
        for n in 0..SECONDS_MAX as u64 + 5 {
            history.add(n, &status);
        }
        assert_eq!((history.seconds.len(), history.seconds[0].unix_ms), (SECONDS_MAX, 5));
        let json = serde_json::to_value(&history).unwrap();
        let second = &json["seconds"][0];
        let all = ["rate", "latency_us_p50", "latency_us_p99", "up", "servers", "queue", "wanted"];
        assert_eq!(all.map(|key| second[key].as_f64().unwrap()), [1000.0, 7.0, 70.0, 2.0, 3.0, 10.0, 3.0]);
        let native = &second["pools"]["native"];
        assert_eq!(all.map(|key| native[key].as_f64().unwrap()), [100.0, 5.0, 50.0, 1.0, 1.0, 2.0, 3.0]);
        assert_eq!(second["pools"]["dns"]["wanted"], serde_json::Value::Null);
        assert_eq!(serde_json::from_value::<History>(json).unwrap(), history);
    }
}
