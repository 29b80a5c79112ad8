//! All pools alike: the native one, if it runs, and then the datagram pools.

use super::{Decisions, Percentiles, PoolStatus, Scaling, Status};

/// The name of the native pool.
pub const NATIVE: &str = "native";

/// What every pool shows.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolView<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it speaks.
    pub protocol: &'a str,
    /// Requests or datagrams of clients that arrived.
    pub received: u64,
    /// Those of them that were answered.
    pub answered: u64,
    /// Those of them that were refused, for whatever reason, or not answered in time.
    pub failed: u64,
    /// Datagrams that were dropped in silence, by lbd or by the kernel.
    pub dropped: u64,
    /// Answers per second.
    pub rate: f64,
    /// Latencies of the last moment.
    pub latency_us: Percentiles,
    /// How good the choices of servers are, and who waits for one.
    pub decisions: &'a Decisions,
    /// How many servers there should be, and why.
    pub scaling: Option<&'a Scaling>,
    /// Its servers, by id.
    pub servers: Vec<ServerView<'a>>,
}

/// What every server shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerView<'a> {
    /// Its id.
    pub id: u32,
    /// Where it is.
    pub addr: &'a str,
    /// Its state's name.
    pub state: &'a str,
    /// Seconds that it has been in its state.
    pub since_s: Option<f64>,
    /// Its share relative to others.
    pub weight: u64,
    /// Requests or flows there.
    pub queue: u64,
    /// Requests that it answered.
    pub answered: u64,
    /// Requests that were lost on the way, or not answered in time.
    pub failed: u64,
    /// Answers per second.
    pub rate: f64,
    /// Latencies of the last moment.
    pub latency_us: Percentiles,
}

impl PoolView<'_> {
    /// Servers that take traffic.
    pub fn up(&self) -> usize {
        self.servers.iter().filter(|server| server.state == "up").count()
    }
}

impl Status {
    /// All pools alike.
    pub fn all_pools(&self) -> Vec<PoolView<'_>> {
        self.native().into_iter().chain(self.pools.iter().map(datagram)).collect()
    }

    /// The native pool, if it runs.
    fn native(&self) -> Option<PoolView<'_>> {
        (!self.workers.is_empty()).then(|| PoolView {
            name: NATIVE,
            protocol: NATIVE,
            received: self.requests,
            answered: self.answered,
            failed: self.busy_no_server + self.busy_shed + self.refused_mode,
            dropped: self.drops.values().sum::<u64>() + self.kernel_drops + self.send_drops,
            rate: self.rate,
            latency_us: self.latency_us_recent,
            decisions: &self.decisions,
            scaling: self.scaling.as_ref(),
            servers: self
                .servers
                .iter()
                .map(|server| ServerView {
                    id: server.id,
                    addr: &server.addr,
                    state: &server.state,
                    since_s: server.since_s,
                    weight: server.weight,
                    queue: server.queue,
                    answered: server.answered,
                    failed: server.lost,
                    rate: server.rate,
                    latency_us: server.latency_us_recent,
                })
                .collect(),
        })
    }
}

fn datagram(pool: &PoolStatus) -> PoolView<'_> {
    PoolView {
        name: &pool.name,
        protocol: &pool.protocol,
        received: pool.received,
        answered: pool.answered,
        failed: pool.timed_out + pool.refused.values().sum::<u64>(),
        dropped: pool.dropped.values().sum::<u64>()
            + pool.kernel_drops
            + pool.kernel_drops_back
            + pool.send_drops,
        rate: pool.rate,
        latency_us: pool.latency_us_recent,
        decisions: &pool.decisions,
        scaling: pool.scaling.as_ref(),
        servers: pool
            .servers
            .iter()
            .map(|server| ServerView {
                id: server.id,
                addr: &server.addr,
                state: &server.state,
                since_s: server.since_s,
                weight: server.weight,
                queue: server.queue,
                answered: server.answered,
                failed: server.timed_out,
                rate: server.rate,
                latency_us: server.latency_us_recent,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{PoolServerStatus, ServerStatus};

    #[test]
    fn the_native_pool_is_one_of_all_if_it_runs() {
        let recent = Percentiles { p50: 1, p90: 2, p99: 3, p999: 4 };
        let mut status = Status {
            workers: vec![4, 5],
            requests: 9,
            busy_shed: 2,
            busy_no_server: 1,
            refused_mode: 4,
            send_drops: 2,
            kernel_drops: 3,
            drops: [("magic".to_owned(), 4)].into(),
            servers: vec![ServerStatus {
                id: 3,
                state: "up".into(),
                lost: 7,
                queue: 8,
                ..Default::default()
            }],
            latency_us_recent: recent,
            pools: vec![PoolStatus {
                name: "dns".into(),
                protocol: "dns".into(),
                timed_out: 5,
                refused: [("denied".to_owned(), 6)].into(),
                dropped: [("late".to_owned(), 1)].into(),
                kernel_drops_back: 1,
                servers: vec![PoolServerStatus {
                    id: 0,
                    state: "down".into(),
                    timed_out: 5,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let all = status.all_pools();
        let figures = |pool: &PoolView<'_>| (pool.name.to_owned(), pool.failed, pool.dropped, pool.up());
        assert_eq!(
            all.iter().map(figures).collect::<Vec<_>>(),
            [("native".to_owned(), 7, 9, 1), ("dns".to_owned(), 11, 2, 0)]
        );
        assert_eq!((all[0].latency_us, all[0].servers[0].failed, all[0].servers[0].queue), (recent, 7, 8));
        assert_eq!((all[1].servers[0].id, all[1].servers[0].failed), (0, 5));
        status.workers.clear();
        assert_eq!(status.all_pools().len(), 1);
    }
}
