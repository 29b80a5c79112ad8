//! What is simulated.

use std::time::Duration;

use serde::Serialize;

use super::links::DATAGRAM;
use super::speeds::{Group, Speeds, Spell};
use super::trace::Trace;
use crate::base::service_time::ServiceTime;
use crate::wire::{FrameFormat, ReplyPath};

/// The frames of the native pool.
pub(super) const FORMAT: FrameFormat = FrameFormat { size: DATAGRAM, tagged: false };

/// What servers know of lbd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// They speak its frames and report their queues.
    Native,
    /// Nothing: each balancer knows what it has sent there itself.
    Datagram,
}

/// A system and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// What servers know of lbd.
    pub kind: PoolKind,
    /// Servers; each serves one request at a time.
    pub servers: usize,
    /// Balancers. Each request comes to one of them, by chance.
    pub balancers: usize,
    /// Servers that each balancer has: all, or a part, dealt so that all servers have as many balancers.
    pub subset: Option<usize>,
    /// Servers of other speeds.
    pub groups: Vec<Group>,
    /// Times in which servers are slow.
    pub spells: Vec<Spell>,
    /// Weights of the servers in turn: those of the speeds, as far as whole numbers go. Otherwise all weigh the same.
    pub weighted: bool,
    /// Work of a request.
    pub service: ServiceTime,
    /// How often servers report.
    pub staleness: Duration,
    /// The way of replies.
    pub reply_path: ReplyPath,
    /// With direct replies: whether a server also reports when it has answered something.
    pub reports_turns: bool,
    /// From a balancer to a server and back.
    pub rtt: Duration,
    /// What one way may take longer, by chance.
    pub jitter: Duration,
    /// The chance that a datagram is lost on its way.
    pub loss: f64,
    /// Clients that wait and try again ([`crate::role::client`]); 0 = everything is sent once.
    pub clients: usize,
    /// Requests.
    pub requests: usize,
    /// The first of them, which do not count.
    pub warmup: usize,
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
            service: ServiceTime::exponential(Duration::from_millis(5)),
            staleness: Duration::from_millis(10),
            reply_path: ReplyPath::Balancer,
            reports_turns: true,
            rtt: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss: 0.0,
            clients: 0,
            requests: 200_000,
            warmup: 20_000,
        }
    }
}

/// The most servers of one balancer: leaves of its tree.
pub const SERVERS_OF_ONE_MAX: usize = 4_096;
/// Where there are more pairs of balancer and server, each balancer has a part of the servers unless told otherwise.
const PAIRS_MAX: usize = 65_536;
/// A balancer of a large system has about so many servers.
const PAIRS: usize = PAIRS_MAX / 2;

/// Requests that may wait in each balancer: as in a configuration without a word about it.
pub(super) const WAITING_MAX: usize = 4_096;

impl Setup {
    /// The servers' speeds.
    pub fn speeds(&self) -> Speeds {
        Speeds::new(self.servers, &self.groups, &self.spells)
    }

    /// Requests per second that are this share of what all servers can do.
    pub fn rate(&self, load: f64) -> f64 {
        load * self.speeds().capacity() / self.service.mean().as_secs_f64()
    }

    /// How many servers a balancer has.
    pub fn servers_of_one(&self) -> usize {
        let fits = self.servers <= SERVERS_OF_ONE_MAX && self.servers * self.balancers <= PAIRS_MAX;
        match self.subset {
            Some(subset) => subset.min(self.servers),
            None if fits => self.servers,
            // As many balancers for each server.
            None => {
                let balancers_of_one = (PAIRS / self.servers).clamp(1, self.balancers);
                (self.servers * balancers_of_one).div_ceil(self.balancers).min(SERVERS_OF_ONE_MAX)
            }
        }
    }

    /// The `n`-th server of a balancer: windows that move on evenly around all servers.
    pub(super) fn server_of(&self, balancer: usize, n: usize) -> usize {
        (balancer * self.servers / self.balancers + n) % self.servers
    }

    /// The weight of a server.
    pub(super) fn weight(&self, speed: f64) -> u16 {
        if self.weighted { speed.round().clamp(1.0, 100.0) as u16 } else { 1 }
    }

    /// A trace of this load.
    pub fn trace(&self, load: f64, seed: u64) -> Trace {
        Trace::steady(self.rate(load), self.requests, self.service, self.balancers, seed)
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
