//! The simulated system.

use std::time::Duration;

use serde::Serialize;

use super::links::DATAGRAM;
use super::speeds::{Group, Speeds, Spell};
use super::steady::planned_requests;
use super::work::{Gaps, Work};
use crate::base::service_time::ServiceTime;
use crate::wire::{FrameFormat, ReplyPath};

/// Frame format of the native pool.
pub(super) const FORMAT: FrameFormat = FrameFormat { size: DATAGRAM, tagged: false };

/// Kind of pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// Native servers: they use lbd's frames and report their queues.
    Native,
    /// Unmodified servers: each balancer knows only the requests that it sent itself.
    Datagram,
}

/// A system and its requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Kind of pool.
    pub kind: PoolKind,
    /// Number of servers; each serves one request at a time.
    pub servers: usize,
    /// Number of balancers. Each request goes to one of them at random.
    pub balancers: usize,
    /// Servers per balancer: `None` for all, or a part of a large system. All servers get the same
    /// number of balancers.
    pub subset: Option<usize>,
    /// Servers whose speed is not 1.
    pub groups: Vec<Group>,
    /// Times in which servers are slow.
    pub spells: Vec<Spell>,
    /// Whether each server's weight is its speed, rounded. Otherwise all weights are equal.
    pub weighted: bool,
    /// Spacing of the requests.
    pub gaps: Gaps,
    /// Service times of the requests.
    pub service: Work,
    /// Interval of the servers' reports.
    pub staleness: Duration,
    /// Path of the replies.
    pub reply_path: ReplyPath,
    /// With direct replies: whether a server also reports after each turn with replies.
    pub reports_turns: bool,
    /// Round-trip time between balancer and server.
    pub rtt: Duration,
    /// Maximum random delay added to each direction.
    pub jitter: Duration,
    /// Probability that a datagram is lost, 0 to 1.
    pub loss: f64,
    /// Clients that wait and retry ([`crate::role::client`]); 0: each request is sent once.
    pub clients: usize,
    /// Number of requests.
    pub requests: usize,
    /// Requests at the start that do not count; `None`: as the run shows.
    pub warmup: Option<usize>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            kind: PoolKind::Native,
            servers: 16,
            balancers: 1,
            subset: None,
            groups: vec![],
            spells: vec![],
            weighted: false,
            gaps: Gaps::Exponential,
            service: ServiceTime::exponential(Duration::from_millis(5)).into(),
            staleness: Duration::from_millis(10),
            reply_path: ReplyPath::Balancer,
            reports_turns: true,
            rtt: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss: 0.0,
            clients: 0,
            requests: 200_000,
            warmup: None,
        }
    }
}

/// Maximum servers per balancer: leaves of its tree.
pub const SERVERS_OF_ONE_MAX: usize = 4_096;
/// Maximum pairs of balancer and server before a balancer gets only a part of the servers by default.
const PAIRS_MAX: usize = 65_536;
/// Pairs in a system where balancers have a part of the servers.
const PAIRS: usize = PAIRS_MAX / 2;

/// Maximum pending requests per balancer: the default of the configuration.
pub(super) const WAITING_MAX: usize = 4_096;

impl Setup {
    /// The servers' speeds.
    pub fn speeds(&self) -> Speeds {
        Speeds::new(self.servers, &self.groups, &self.spells)
    }

    /// Requests per second at this share of the total capacity.
    pub fn rate(&self, load: f64) -> f64 {
        load * self.speeds().capacity() / self.service.mean().as_secs_f64()
    }

    /// The number of requests that this load needs for figures that can be relied on.
    pub fn planned_requests(&self, load: f64) -> usize {
        planned_requests(load, (self.gaps.variability() + self.service.variability()) / 2.0)
    }

    /// Number of servers per balancer.
    pub fn servers_of_one(&self) -> usize {
        let fits = self.servers <= SERVERS_OF_ONE_MAX && self.servers * self.balancers <= PAIRS_MAX;
        match self.subset {
            Some(subset) => subset.min(self.servers),
            None if fits => self.servers,
            // The same number of balancers for each server.
            None => {
                let balancers_of_one = (PAIRS / self.servers).clamp(1, self.balancers);
                (self.servers * balancers_of_one).div_ceil(self.balancers).min(SERVERS_OF_ONE_MAX)
            }
        }
    }

    /// The `n`-th server of a balancer: windows that advance evenly around all servers.
    pub(super) fn server_of(&self, balancer: usize, n: usize) -> usize {
        (balancer * self.servers / self.balancers + n) % self.servers
    }

    /// Weight of a server.
    pub(super) fn weight(&self, speed: f64) -> u16 {
        if self.weighted { speed.round().clamp(1.0, 100.0) as u16 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_servers_are_dealt_evenly_and_none_is_left_out() {
        for (servers, balancers) in [(16, 1), (16, 8), (1_000, 100), (10_000, 64), (100_000, 256), (5_000, 3)]
        {
            let setup = Setup { servers, balancers, ..Setup::default() };
            let of_one = setup.servers_of_one();
            assert!(of_one <= SERVERS_OF_ONE_MAX);
            let mut balancers_of = vec![0; servers];
            for balancer in 0..balancers {
                (0..of_one).for_each(|n| balancers_of[setup.server_of(balancer, n)] += 1);
            }
            let (least, most) = (balancers_of.iter().min().unwrap(), balancers_of.iter().max().unwrap());
            assert!(
                *least >= 1 && most - least <= 1,
                "{servers} servers, {balancers} balancers: {least} to {most}"
            );
        }
        assert_eq!(Setup { balancers: 8, ..Setup::default() }.servers_of_one(), 16, "few enough for all");
        assert_eq!(Setup { subset: Some(4), ..Setup::default() }.servers_of_one(), 4);
    }
}
