//! The servers that a controller runs: which should run, on which ports, and when to restart one. Pure:
//! it outputs actions ([`Replicas::poll_action`]) and receives events; it starts nothing.
//!
//! ```text
//!            started                        retire                 left, or time is up
//! STARTING ──────────> RUNNING ──────────────────────────> LEAVING ──────────────────────> STOPPING ──> gone
//!    ^  │ failed          │ ended unexpectedly          (only where servers are withdrawn before they stop)
//!    │  v                 v
//!    └─ WAITING <─────────┘    100 ms, then twice as long each time, at most 10 s
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::base::duration::exact;
use crate::base::time::{Instant, earliest};

/// Pause before the first restart of a crashed server; it doubles with each further one.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// Maximum pause before a restart.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// Time after which a running server's failures are forgotten.
const RECORD_CLEAN: Duration = Duration::from_secs(10);
/// Time after which a server that does not stop is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(35);

/// Maximum time that a server is withdrawn before it is stopped, when all servers are stopped: their flows
/// have no other server.
const LEAVE_AT_END: Duration = Duration::from_secs(30);

/// Limits of the number of servers, their ids and their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Servers at the start.
    pub count: u32,
    /// Minimum number of servers.
    pub min: u32,
    /// Maximum number of servers.
    pub max: u32,
    /// Id of the first server.
    pub start_id: u32,
    /// Ports of the servers.
    pub ports: Range<u16>,
    /// Maximum time that a stopping server is withdrawn before it is stopped. `None`: it is stopped at
    /// once and finishes its requests by itself.
    pub leave: Option<Duration>,
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaAction {
    /// Start a server, then call [`Replicas::on_started`] or [`Replicas::on_start_failed`].
    Start {
        /// Id of the server.
        id: u32,
        /// Port of the server.
        port: u16,
    },
    /// Ask a server to stop.
    Stop {
        /// Id of the server.
        id: u32,
    },
    /// Kill a server that did not stop.
    Kill {
        /// Id of the server.
        id: u32,
    },
    /// Log a message.
    Tell(String),
    /// Log that a server ended although it should run.
    ReportEnd {
        /// The server's id.
        id: u32,
        /// How its process ended, as text.
        how: String,
    },
}

/// Why a server could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// Its port is in use: the next port is tried at once.
    PortInUse,
    /// Any other reason: tried again with back-off.
    Other,
}

/// Result of a request for another number of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalingResult {
    /// The number is reached, or will be.
    Done,
    /// The number is at its maximum or minimum, or all servers are stopping.
    AtBound,
    /// No server has this id.
    Unknown,
    /// No port is free.
    NoPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplicaPhase {
    /// Started, not yet confirmed.
    Starting,
    Running {
        since: Instant,
    },
    /// Crashed; restarted at this time.
    Waiting {
        until: Instant,
    },
    /// Withdrawn; stopped at this time at the latest.
    Leaving {
        until: Instant,
    },
    Stopping {
        kill_at: Instant,
    },
}

#[derive(Clone, Debug)]
struct Child {
    port: u16,
    phase: ReplicaPhase,
    crashes: u32,
    /// Ports that were in use during this start.
    ports_in_use: usize,
}

impl Child {
    fn ends(&self) -> bool {
        matches!(self.phase, ReplicaPhase::Leaving { .. } | ReplicaPhase::Stopping { .. })
    }
}

/// Id, port and end of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Id of the server.
    pub id: u32,
    /// Port of the server.
    pub port: u16,
    /// Whether the server is leaving or stopping.
    pub ends: bool,
}

/// The servers and their processes' states.
#[derive(Debug)]
pub struct Replicas {
    bounds: Bounds,
    children: BTreeMap<u32, Child>,
    actions: VecDeque<ReplicaAction>,
    next_port: u16,
    shutting_down: bool,
}

impl Replicas {
    /// No servers yet. Call [`Replicas::adopt`] for those that run, then [`Replicas::begin`].
    pub fn new(bounds: Bounds) -> Self {
        Replicas {
            next_port: bounds.ports.start,
            bounds,
            children: BTreeMap::new(),
            actions: VecDeque::new(),
            shutting_down: false,
        }
    }

    /// Adopts a server that another process started; false if its id or its port is in use.
    pub fn adopt(&mut self, now: Instant, Replica { id, port, ends }: Replica) -> bool {
        if self.children.iter().any(|(&other, child)| other == id || child.port == port) {
            return false;
        }
        let phase = match ends {
            // The server was already asked to stop; a second signal would end it at once.
            true => ReplicaPhase::Stopping { kill_at: now + STOP_PATIENCE },
            false => ReplicaPhase::Running { since: now },
        };
        self.children.insert(id, Child { port, phase, crashes: 0, ports_in_use: 0 });
        true
    }

    /// Plans the first servers: the initial number, or the adopted ones but at least the minimum.
    pub fn begin(&mut self, now: Instant) {
        let Bounds { count, min, max, .. } = self.bounds;
        let wanted = if self.children.is_empty() { count } else { self.wanted().max(min) };
        while self.wanted() < wanted && self.add() {}
        while self.wanted() > max {
            let Some(id) = self.newest() else { return };
            self.stop(now, id);
        }
    }

    /// The oldest action that was not fetched yet.
    pub fn poll_action(&mut self) -> Option<ReplicaAction> {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        self.actions.pop_front()
    }

    /// Number of servers that should run, without those that are leaving or stopping.
    pub fn wanted(&self) -> u32 {
        self.children.values().filter(|child| !child.ends()).count() as u32
    }

    /// Whether no server is left.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Whether all servers are stopping.
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }

    /// All servers, in every state.
    pub fn places(&self) -> impl Iterator<Item = Replica> + '_ {
        let place = |(&id, child): (&u32, &Child)| Replica { id, port: child.port, ends: child.ends() };
        self.children.iter().map(place)
    }

    /// The servers that run and are not leaving, with their start times.
    pub fn running(&self) -> impl Iterator<Item = (Replica, Instant)> + '_ {
        self.children.iter().filter_map(|(&id, child)| match child.phase {
            ReplicaPhase::Running { since } => Some((Replica { id, port: child.port, ends: false }, since)),
            _ => None,
        })
    }

    /// The servers that are withdrawn and wait for [`Replicas::on_left`].
    pub fn leaving(&self) -> impl Iterator<Item = u32> + '_ {
        let is_leaving = |child: &Child| matches!(child.phase, ReplicaPhase::Leaving { .. });
        self.children.iter().filter(move |(_, child)| is_leaving(child)).map(|(&id, _)| id)
    }

    /// The newest server that is not leaving.
    pub fn newest(&self) -> Option<u32> {
        self.children.iter().rev().find(|(_, child)| !child.ends()).map(|(&id, _)| id)
    }

    /// Reports that a server runs.
    pub fn on_started(&mut self, now: Instant, id: u32) {
        if let Some(child) = self.children.get_mut(&id).filter(|c| c.phase == ReplicaPhase::Starting) {
            child.phase = ReplicaPhase::Running { since: now };
        }
    }

    /// Reports that a server could not be started.
    pub fn on_start_failed(&mut self, now: Instant, id: u32, why: StartFailure) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if child.ends() {
            // The server was to stop before it ran, so there is no process to stop.
            self.children.remove(&id);
            return;
        }
        if why == StartFailure::Other {
            return self.wait_and_restart(now, id);
        }
        child.ports_in_use += 1;
        let all_in_use = child.ports_in_use >= self.bounds.ports.len();
        let Some(port) = (if all_in_use { None } else { self.free_port() }) else {
            self.actions.push_back(ReplicaAction::Tell(format!("no free port left for server {id}")));
            return self.wait_and_restart(now, id);
        };
        if let Some(child) = self.children.get_mut(&id) {
            child.port = port;
            self.actions.push_back(ReplicaAction::Start { id, port });
        }
    }

    /// Reports that a server has exited, whether it was stopped or not.
    pub fn on_exited(&mut self, now: Instant, id: u32, how: &str) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if child.ends() {
            self.children.remove(&id);
            self.actions.push_back(ReplicaAction::Tell(format!("server {id} has stopped")));
            return;
        }
        if let ReplicaPhase::Running { since } = child.phase
            && now.since(since) >= RECORD_CLEAN
        {
            child.crashes = 0;
        }
        self.actions.push_back(ReplicaAction::ReportEnd { id, how: how.to_owned() });
        self.wait_and_restart(now, id);
    }

    /// Reports that a withdrawn server has no more requests.
    pub fn on_left(&mut self, now: Instant, id: u32) {
        if self.children.get(&id).is_some_and(|child| matches!(child.phase, ReplicaPhase::Leaving { .. })) {
            self.ask_to_end(now, id);
        }
    }

    /// Raises the number of servers to `target`; `why` is logged.
    pub fn grow(&mut self, target: u32, why: &str) -> ScalingResult {
        let (wanted, max) = (self.wanted(), self.bounds.max);
        let target = target.min(max);
        if self.shutting_down {
            return ScalingResult::AtBound;
        }
        if target <= wanted {
            return if wanted >= max { ScalingResult::AtBound } else { ScalingResult::Done };
        }
        self.actions.push_back(ReplicaAction::Tell(format!("scale up: {wanted} -> {target} servers, {why}")));
        let all_added = (wanted..target).all(|_| self.add());
        if all_added { ScalingResult::Done } else { ScalingResult::NoPort }
    }

    /// Stops this server unless the minimum is reached; `why` is logged.
    pub fn shrink(&mut self, now: Instant, id: u32, why: &str) -> ScalingResult {
        let wanted = self.wanted();
        match self.children.get(&id) {
            _ if self.shutting_down => ScalingResult::AtBound,
            None => ScalingResult::Unknown,
            Some(child) if child.ends() => ScalingResult::Done,
            Some(_) if wanted <= self.bounds.min => ScalingResult::AtBound,
            Some(_) => {
                let fewer = wanted - 1;
                let what = format!("scale down: {wanted} -> {fewer} servers, stopping server {id}, {why}");
                self.actions.push_back(ReplicaAction::Tell(what));
                self.stop(now, id);
                ScalingResult::Done
            }
        }
    }

    /// Stops every server and starts no more.
    pub fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        let ids: Vec<u32> = self.children.keys().copied().collect();
        for id in ids {
            self.stop(now, id);
        }
        for child in self.children.values_mut() {
            if let ReplicaPhase::Leaving { until } = &mut child.phase {
                *until = (*until).min(now + LEAVE_AT_END);
            }
        }
    }

    /// Restarts servers, and enforces time limits.
    pub fn on_timeout(&mut self, now: Instant) {
        let mut left = vec![];
        for (&id, child) in &mut self.children {
            match child.phase {
                ReplicaPhase::Waiting { until } if until <= now => {
                    child.phase = ReplicaPhase::Starting;
                    self.actions.push_back(ReplicaAction::Start { id, port: child.port });
                }
                ReplicaPhase::Leaving { until } if until <= now => left.push(id),
                ReplicaPhase::Stopping { kill_at } if kill_at <= now => {
                    child.phase = ReplicaPhase::Stopping { kill_at: now + STOP_PATIENCE };
                    self.actions.push_back(ReplicaAction::Kill { id });
                }
                _ => {}
            }
        }
        for id in left {
            self.ask_to_end(now, id);
        }
    }

    /// When [`Replicas::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = |child: &Child| match child.phase {
            ReplicaPhase::Waiting { until } | ReplicaPhase::Leaving { until } => Some(until),
            ReplicaPhase::Stopping { kill_at } => Some(kill_at),
            ReplicaPhase::Starting | ReplicaPhase::Running { .. } => None,
        };
        self.children.values().map(due).fold(None, earliest)
    }

    /// Panics, with the numbers, unless each server has its own port and the number of servers is within
    /// its bounds.
    pub fn check_invariants(&self) {
        let mut ports: Vec<u16> = self.children.values().map(|child| child.port).collect();
        ports.sort_unstable();
        let twice = ports.windows(2).find(|pair| pair[0] == pair[1]);
        assert!(twice.is_none(), "two replicas have the same port: {twice:?} of {ports:?}");
        let (desired, max) = (self.wanted(), self.bounds.max);
        assert!(desired <= max, "{desired} replicas are desired, {max} allowed");
        if self.shutting_down {
            let running = self.children.iter().find(|(_, child)| !child.ends());
            assert!(running.is_none(), "all replicas end, and {running:?} does not");
        }
    }

    fn wait_and_restart(&mut self, now: Instant, id: u32) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let pause = (RESTART_AFTER * (1 << child.crashes.min(10))).min(RESTART_MAX);
        child.crashes += 1;
        child.ports_in_use = 0;
        child.phase = ReplicaPhase::Waiting { until: now + pause };
        self.actions.push_back(ReplicaAction::Tell(format!("server {id} starts again in {}", exact(pause))));
    }

    /// Plans a server with the lowest free id.
    fn add(&mut self) -> bool {
        let free = (self.bounds.start_id..).find(|id| !self.children.contains_key(id));
        let (Some(id), Some(port)) = (free, self.free_port()) else { return false };
        self.children.insert(id, Child { port, phase: ReplicaPhase::Starting, crashes: 0, ports_in_use: 0 });
        self.actions.push_back(ReplicaAction::Start { id, port });
        true
    }

    /// The next port of the range that no server of this controller uses.
    fn free_port(&mut self) -> Option<u16> {
        let ports = self.bounds.ports.clone();
        for _ in ports.clone() {
            let port = self.next_port;
            self.next_port = if port + 1 >= ports.end { ports.start } else { port + 1 };
            if self.children.values().all(|child| child.port != port) {
                return Some(port);
            }
        }
        None
    }

    fn stop(&mut self, now: Instant, id: u32) {
        let Some(child) = self.children.get_mut(&id) else { return };
        match (child.phase, self.bounds.leave) {
            (ReplicaPhase::Leaving { .. } | ReplicaPhase::Stopping { .. }, _) => {}
            (ReplicaPhase::Waiting { .. }, _) => {
                self.children.remove(&id);
            }
            (ReplicaPhase::Running { .. }, Some(patience)) => {
                child.phase = ReplicaPhase::Leaving { until: now + patience }
            }
            (ReplicaPhase::Running { .. } | ReplicaPhase::Starting, _) => self.ask_to_end(now, id),
        }
    }

    fn ask_to_end(&mut self, now: Instant, id: u32) {
        if let Some(child) = self.children.get_mut(&id) {
            child.phase = ReplicaPhase::Stopping { kill_at: now + STOP_PATIENCE };
            self.actions.push_back(ReplicaAction::Stop { id });
        }
    }
}

#[cfg(test)]
mod tests;
