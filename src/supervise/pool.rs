//! Scales the servers of a datagram pool: how many should run, and to which of them the balancer should
//! send. Pure: the caller brings the pool's status and passes [`PoolScaler::wanted`] to the balancer.
//!
//! A server is announced to the balancer when it listens. It is withdrawn before it stops, so that it
//! can finish its requests. Without data from the balancer, nothing changes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::autoscale::{Decision, Policy, Sample, Scaler};
use crate::pool::desired::DesiredServer;
use crate::pool::health::State;
use crate::supervise::servers::{Replica, Replicas};

/// A server that does not seem to listen is announced after this time; the balancer's health checks then
/// decide.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);

/// Status of a server in the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedServer {
    /// Id of the server.
    pub id: u32,
    /// Health state.
    pub state: State,
    /// Requests or flows at the server.
    pub queue: u64,
}

/// Status of the pool in the balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPool {
    /// All servers of the pool, those of the configuration included.
    pub servers: Vec<ObservedServer>,
    /// Requests that are queued in the balancer.
    pub waiting: u64,
    /// Requests refused so far because no server was below its limit.
    pub shed: u64,
    /// Client datagrams received so far.
    pub arrived: u64,
    /// Ids of the servers that were announced to the balancer before.
    pub told: Vec<u32>,
}

/// Scales the servers of one pool.
#[derive(Debug)]
pub struct PoolScaler {
    replicas: Replicas,
    scaler: Scaler,
    address: IpAddr,
}

impl PoolScaler {
    /// Scales these servers, which listen on this address.
    pub fn new(replicas: Replicas, policy: Policy, address: IpAddr) -> Self {
        PoolScaler { replicas, scaler: Scaler::new(policy), address }
    }

    /// The servers.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// The servers, to report events to them.
    pub fn crew_mut(&mut self) -> &mut Replicas {
        &mut self.replicas
    }

    /// The servers that the balancer should send to now. `listens` tells whether a socket is bound to a
    /// port.
    pub fn wanted(&self, now: Instant, listens: impl Fn(u16) -> bool) -> Vec<DesiredServer> {
        let ready = |&(Replica { port, .. }, since): &(Replica, Instant)| {
            listens(port) || now.since(since) >= LISTEN_PATIENCE
        };
        let wanted = |(Replica { id, port, .. }, _)| DesiredServer {
            addr: SocketAddr::new(self.address, port),
            id,
            weight: 1,
        };
        self.replicas.running().filter(ready).map(wanted).collect()
    }

    /// Processes the pool's status; `None` if the balancer does not respond.
    pub fn observe(&mut self, now: Instant, look: Option<&ObservedPool>) {
        let leaving: Vec<u32> = self.replicas.leaving().collect();
        for id in leaving {
            let has_left = match look {
                Some(look) => !look.told.contains(&id) && look.servers.iter().all(|seen| seen.id != id),
                // A balancer that does not respond sends no requests, and a shutdown must not wait for
                // it.
                None => self.replicas.is_shutting_down(),
            };
            if has_left {
                self.replicas.on_left(now, id);
            }
        }
        let Some(look) = look else { return };
        let sample = self.sample(look);
        let decision = self.scaler.observe(now, sample);
        let why = self.scaler.outlook().why.to_string();
        match decision {
            Decision::Hold => {}
            Decision::Grow { target, .. } => drop(self.replicas.grow(target, &why)),
            Decision::Shrink { target, .. } => {
                for _ in target..sample.up {
                    let Some(id) = self.replicas.newest() else { return };
                    self.replicas.shrink(now, id, &why);
                }
            }
        }
    }

    /// Load of this controller's remaining servers, from their status.
    fn sample(&self, look: &ObservedPool) -> Sample {
        let ObservedPool { waiting, shed, arrived, .. } = *look;
        let mut sample = Sample { outstanding: waiting, shed, arrived, ..Sample::default() };
        for (Replica { id, .. }, _) in self.replicas.running() {
            match look.servers.iter().find(|seen| seen.id == id).map(|seen| (seen.state, seen.queue)) {
                Some((State::Up, queue)) => {
                    sample.up += 1;
                    sample.outstanding += queue;
                }
                Some((State::Suspect, _)) => sample.silent += 1,
                None if look.told.contains(&id) => sample.silent += 1,
                _ => {}
            }
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::servers::{Bounds, ReplicaAction};

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);
    const POLICY: Policy = Policy {
        threshold: 5.0,
        grow_after: SECOND,
        shrink_after: Duration::from_secs(2),
        grow_cool_down: SECOND,
        shrink_cool_down: SECOND,
        grow_max: None,
        shrink_max: 1,
        min: 1,
        max: 6,
    };

    /// A pool scaler whose processes start and stop at once, with a balancer that obeys.
    struct Bench {
        keeper: PoolScaler,
        now: Instant,
        /// The last announcement to the balancer.
        told: Vec<u32>,
        /// Withdrawn servers that still have requests.
        draining: Vec<u32>,
        stopped: Vec<u32>,
    }

    impl Bench {
        fn new() -> Bench {
            let bounds = Bounds {
                count: 1,
                min: 1,
                max: 6,
                start_id: 0,
                ports: 5_310..5_330,
                leave: Some(30 * SECOND),
            };
            let mut replicas = Replicas::new(bounds);
            let now = Instant::from_nanos(1_000_000_000);
            replicas.begin(now);
            let keeper = PoolScaler::new(replicas, POLICY, "127.0.0.1".parse().unwrap());
            let mut bench = Bench { keeper, now, told: vec![], draining: vec![], stopped: vec![] };
            bench.act();
            bench
        }

        fn act(&mut self) {
            while let Some(action) = self.keeper.crew_mut().poll_action() {
                match action {
                    ReplicaAction::Start { id, .. } => self.keeper.crew_mut().on_started(self.now, id),
                    ReplicaAction::Stop { id } => {
                        self.stopped.push(id);
                        self.keeper.crew_mut().on_exited(self.now, id, "exit code 0");
                    }
                    ReplicaAction::Kill { .. } | ReplicaAction::Tell(_) | ReplicaAction::ReportEnd { .. } => {
                    }
                }
            }
        }

        /// Advances by 250 ms with this many requests in total; returns the number of servers.
        fn step(&mut self, requests: u64, state: impl Fn(u32) -> State) -> usize {
            self.now += 250 * MS;
            let before = std::mem::take(&mut self.told);
            self.told = self.keeper.wanted(self.now, |_| true).iter().map(|wanted| wanted.id).collect();
            self.draining.extend(before.into_iter().filter(|id| !self.told.contains(id)));
            let share = |place: usize| requests / self.told.len() as u64 + u64::from(place == 0);
            let up = self.told.iter().enumerate().map(|(i, &id)| ObservedServer {
                id,
                state: state(id),
                queue: share(i),
            });
            let draining =
                self.draining.iter().map(|&id| ObservedServer { id, state: State::Draining, queue: 1 });
            let look = ObservedPool {
                servers: up.chain(draining).collect(),
                told: self.told.clone(),
                ..ObservedPool::default()
            };
            self.keeper.observe(self.now, Some(&look));
            self.keeper.crew_mut().on_timeout(self.now);
            self.act();
            self.told.len()
        }
    }

    #[test]
    fn servers_follow_the_load_and_none_is_stopped_before_the_balancer_has_finished_with_it() {
        let mut bench = Bench::new();
        for _ in 0..40 {
            bench.step(20, |_| State::Up);
        }
        assert!((4..=6).contains(&bench.told.len()), "{:?}", bench.told);
        let grown = bench.told.len();
        for _ in 0..12 {
            bench.step(0, |_| State::Up);
        }
        assert_eq!(bench.told.len(), grown - 1);
        assert_eq!((bench.draining.len(), bench.stopped.len()), (1, 0), "the server still has requests");
        let last = bench.draining.remove(0);
        bench.step(0, |_| State::Up);
        assert_eq!(bench.stopped, [last]);
        for _ in 0..400 {
            bench.step(0, |_| State::Up);
            bench.draining.clear();
        }
        assert_eq!((bench.told.as_slice(), bench.stopped.len()), (&[0][..], grown - 1));
    }

    #[test]
    fn one_that_does_not_finish_is_stopped_in_the_end() {
        let mut bench = Bench::new();
        for _ in 0..8 {
            bench.step(20, |_| State::Up);
        }
        while bench.draining.is_empty() {
            bench.step(0, |_| State::Up);
        }
        let (left_at, first) = (bench.now, bench.draining[0]);
        while !bench.stopped.contains(&first) {
            bench.step(0, |_| State::Up);
        }
        assert!((29..=30).contains(&bench.now.since(left_at).as_secs()));
    }

    #[test]
    fn what_was_shown_before_the_balancer_heard_of_it_ends_nobody() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            bench.step(20, |_| State::Up);
        }
        while bench.keeper.replicas().leaving().next().is_none() {
            bench.step(0, |_| State::Up);
        }
        let id = bench.keeper.replicas().leaving().next().unwrap();
        // A restarted balancer knows no server, but had the old set before.
        let look = ObservedPool { told: vec![0, id], ..ObservedPool::default() };
        bench.keeper.observe(bench.now, Some(&look));
        bench.act();
        assert!(bench.stopped.is_empty());
        bench.keeper.observe(bench.now, Some(&ObservedPool { told: vec![0], ..ObservedPool::default() }));
        bench.act();
        assert_eq!(bench.stopped, [id]);
    }

    #[test]
    fn a_server_that_the_balancer_was_told_of_and_does_not_show_is_silent() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            bench.step(20, |_| State::Up);
        }
        let told = bench.told.clone();
        assert!(told.len() >= 4);
        for _ in 0..80 {
            bench.now += 250 * MS;
            let shown = told[1..].iter().map(|&id| ObservedServer { id, state: State::Up, queue: 0 });
            let look =
                ObservedPool { servers: shown.collect(), told: told.clone(), ..ObservedPool::default() };
            bench.keeper.observe(bench.now, Some(&look));
        }
        assert_eq!(
            (bench.keeper.replicas().wanted() as usize, bench.keeper.replicas().leaving().count()),
            (told.len(), 0)
        );
    }

    #[test]
    fn a_silent_server_and_a_silent_balancer_hold_everything() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            bench.step(20, |_| State::Up);
        }
        let many = bench.told.len();
        assert!(many >= 4);
        let silent = |id: u32| if id == 1 { State::Suspect } else { State::Up };
        for _ in 0..80 {
            bench.step(0, silent);
        }
        for _ in 0..80 {
            bench.now += 250 * MS;
            bench.keeper.observe(bench.now, None);
            // A restarted balancer knows no server yet.
            let look = ObservedPool { told: bench.told.clone(), ..ObservedPool::default() };
            bench.keeper.observe(bench.now, Some(&look));
        }
        assert_eq!((bench.keeper.replicas().wanted() as usize, bench.stopped.len()), (many, 0));
    }

    #[test]
    fn requests_that_found_no_room_count_and_servers_of_the_configuration_do_not() {
        let mut bench = Bench::new();
        let stranger = ObservedServer { id: 77, state: State::Up, queue: 500 };
        for n in 0..40 {
            bench.now += 250 * MS;
            let own = ObservedServer { id: 0, state: State::Up, queue: 1 };
            let look =
                ObservedPool { servers: vec![own, stranger], told: vec![0], ..ObservedPool::default() };
            bench.keeper.observe(bench.now, Some(&look));
            assert_eq!(bench.keeper.replicas().wanted(), 1, "look {n}");
        }
        for n in 0..40 {
            bench.now += 250 * MS;
            let own = ObservedServer { id: 0, state: State::Up, queue: 4 };
            let look =
                ObservedPool { servers: vec![own], shed: n * 10, told: vec![0], ..ObservedPool::default() };
            bench.keeper.observe(bench.now, Some(&look));
        }
        assert!(bench.keeper.replicas().wanted() > 1);
    }

    #[test]
    fn a_server_is_made_known_when_it_listens_or_should_have_for_long() {
        let bench = Bench::new();
        let (now, keeper) = (bench.now, &bench.keeper);
        assert_eq!(keeper.wanted(now, |_| false), []);
        let wanted = DesiredServer { addr: "127.0.0.1:5310".parse().unwrap(), id: 0, weight: 1 };
        assert_eq!(keeper.wanted(now, |port| port == 5_310), std::slice::from_ref(&wanted));
        assert_eq!(keeper.wanted(now + LISTEN_PATIENCE, |_| false), [wanted]);
    }

    #[test]
    fn without_a_balancer_the_end_does_not_wait() {
        let mut bench = Bench::new();
        bench.step(0, |_| State::Up);
        bench.keeper.crew_mut().shut_down(bench.now);
        bench.act();
        assert!(bench.stopped.is_empty(), "a balancer may still send");
        bench.keeper.observe(bench.now, None);
        bench.act();
        assert_eq!(bench.stopped, [0]);
        assert!(bench.keeper.replicas().is_empty());
    }
}
