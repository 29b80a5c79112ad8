//! The servers that a controller runs: which there shall be, where, and when one is started again. Pure: says what is to
//! be done ([`Replicas::poll_action`]) and is told what happened; starts nothing itself.
//!
//! ```text
//!            started                        retire                 left, or patience over
//! STARTING ──────────> RUNNING ──────────────────────────> LEAVING ──────────────────────> STOPPING ──> gone
//!    ^  │ failed          │ ended unexpectedly                  (only where servers are left out before they stop)
//!    │  v                 v
//!    └─ WAITING <─────────┘    100 ms, then twice as long each time, 10 s at most
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::base::time::{Instant, earliest};

/// A crashed server is started again after this time, then after twice as long each time.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// The longest pause before a restart.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A server that ran for so long has a clean record again.
const RECORD_CLEAN: Duration = Duration::from_secs(10);
/// A server that does not stop is killed after this time.
const STOP_PATIENCE: Duration = Duration::from_secs(35);

/// How many servers there may be, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Servers to begin with.
    pub count: u32,
    /// Never fewer servers.
    pub min: u32,
    /// Never more servers.
    pub max: u32,
    /// The id of the first server.
    pub start_id: u32,
    /// Ports that servers may take.
    pub ports: Range<u16>,
    /// A server that shall stop is first left out, for so long at most; `None` = it is stopped at once, and finishes
    /// what it has by itself.
    pub leave: Option<Duration>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a server, then call [`Replicas::on_started`] or [`Replicas::on_start_failed`].
    Start {
        /// Its id.
        id: u32,
        /// The port it shall take.
        port: u16,
    },
    /// Ask it to end.
    Stop {
        /// Its id.
        id: u32,
    },
    /// End it: it did not stop.
    Kill {
        /// Its id.
        id: u32,
    },
    /// Something for the log.
    Tell(String),
}

/// Why a server could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// Its port is in use: the next one is tried at once.
    PortInUse,
    /// Anything else: tried again with back-off.
    Other,
}

/// What became of a wish for another number of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is, or will be, so.
    Done,
    /// The most, or the fewest, are there already, or all are being stopped.
    AtBound,
    /// No server has this id.
    Unknown,
    /// There is no free port.
    NoPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Told to start, not yet confirmed.
    Starting,
    Running {
        since: Instant,
    },
    /// Crashed; started again at this time.
    Waiting {
        until: Instant,
    },
    /// Left out, and stopped at this time at the latest.
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
    phase: Phase,
    crashes: u32,
    /// Ports that this start has tried in vain.
    ports_in_use: usize,
}

impl Child {
    fn ends(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. } | Phase::Stopping { .. })
    }
}

/// A server as others may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its id.
    pub id: u32,
    /// Its port.
    pub port: u16,
    /// Whether it is on its way out.
    pub ends: bool,
}

/// The servers.
#[derive(Debug)]
pub struct Replicas {
    bounds: Bounds,
    children: BTreeMap<u32, Child>,
    actions: VecDeque<Action>,
    next_port: u16,
    shutting_down: bool,
}

impl Replicas {
    /// No servers yet: [`Replicas::adopt`] those that run, then [`Replicas::begin`].
    pub fn new(bounds: Bounds) -> Self {
        Replicas {
            next_port: bounds.ports.start,
            bounds,
            children: BTreeMap::new(),
            actions: VecDeque::new(),
            shutting_down: false,
        }
    }

    /// Takes over a server that somebody else has started; false if its id or its port is taken.
    pub fn adopt(&mut self, now: Instant, Replica { id, port, ends }: Replica) -> bool {
        if self.children.iter().any(|(&other, child)| other == id || child.port == port) {
            return false;
        }
        let phase = match ends {
            // It was told already; a second word would end it at once.
            true => Phase::Stopping { kill_at: now + STOP_PATIENCE },
            false => Phase::Running { since: now },
        };
        self.children.insert(id, Child { port, phase, crashes: 0, ports_in_use: 0 });
        true
    }

    /// Plans the first servers: as many as there shall be to begin with, or, if some were adopted, those and no fewer
    /// than the least.
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
    pub fn poll_action(&mut self) -> Option<Action> {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        self.actions.pop_front()
    }

    /// Servers there shall be: all but those that are on their way out.
    pub fn wanted(&self) -> u32 {
        self.children.values().filter(|child| !child.ends()).count() as u32
    }

    /// Whether no server is left.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Whether all of them shall end.
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }

    /// All servers, those that wait for their start or end included.
    pub fn places(&self) -> impl Iterator<Item = Replica> + '_ {
        let place = |(&id, child): (&u32, &Child)| Replica { id, port: child.port, ends: child.ends() };
        self.children.iter().map(place)
    }

    /// The servers that run and shall go on, each with the time since which it does.
    pub fn running(&self) -> impl Iterator<Item = (Replica, Instant)> + '_ {
        self.children.iter().filter_map(|(&id, child)| match child.phase {
            Phase::Running { since } => Some((Replica { id, port: child.port, ends: false }, since)),
            _ => None,
        })
    }

    /// The servers that are left out and wait for [`Replicas::on_left`].
    pub fn leaving(&self) -> impl Iterator<Item = u32> + '_ {
        let is_leaving = |child: &Child| matches!(child.phase, Phase::Leaving { .. });
        self.children.iter().filter(move |(_, child)| is_leaving(child)).map(|(&id, _)| id)
    }

    /// The server that was added last and shall go on.
    pub fn newest(&self) -> Option<u32> {
        self.children.iter().rev().find(|(_, child)| !child.ends()).map(|(&id, _)| id)
    }

    /// A server runs.
    pub fn on_started(&mut self, now: Instant, id: u32) {
        if let Some(child) = self.children.get_mut(&id).filter(|c| c.phase == Phase::Starting) {
            child.phase = Phase::Running { since: now };
        }
    }

    /// A server could not be started.
    pub fn on_start_failed(&mut self, now: Instant, id: u32, why: StartFailure) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if child.ends() {
            // Told to stop before it ran: nothing is left to stop.
            self.children.remove(&id);
            return;
        }
        if why == StartFailure::Other {
            return self.wait_and_restart(now, id);
        }
        child.ports_in_use += 1;
        let all_in_use = child.ports_in_use >= self.bounds.ports.len();
        let Some(port) = (if all_in_use { None } else { self.free_port() }) else {
            self.actions.push_back(Action::Tell(format!("no free port left for server {id}")));
            return self.wait_and_restart(now, id);
        };
        if let Some(child) = self.children.get_mut(&id) {
            child.port = port;
            self.actions.push_back(Action::Start { id, port });
        }
    }

    /// A server has exited: as it was told, or not.
    pub fn on_exited(&mut self, now: Instant, id: u32, how: &str) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if child.ends() {
            self.children.remove(&id);
            self.actions.push_back(Action::Tell(format!("server {id} has stopped")));
            return;
        }
        if let Phase::Running { since } = child.phase
            && now.since(since) >= RECORD_CLEAN
        {
            child.crashes = 0;
        }
        self.actions.push_back(Action::Tell(format!("server {id} ended unexpectedly ({how})")));
        self.wait_and_restart(now, id);
    }

    /// A server that is left out has nothing to do any more.
    pub fn on_left(&mut self, now: Instant, id: u32) {
        if self.children.get(&id).is_some_and(|child| matches!(child.phase, Phase::Leaving { .. })) {
            self.ask_to_end(now, id);
        }
    }

    /// There shall be so many servers, if there are fewer; `why` is told.
    pub fn grow(&mut self, target: u32, why: &str) -> Outcome {
        let (wanted, max) = (self.wanted(), self.bounds.max);
        let target = target.min(max);
        if self.shutting_down {
            return Outcome::AtBound;
        }
        if target <= wanted {
            return if wanted >= max { Outcome::AtBound } else { Outcome::Done };
        }
        self.actions.push_back(Action::Tell(format!("scale up: {wanted} -> {target} servers, {why}")));
        let all_added = (wanted..target).all(|_| self.add());
        if all_added { Outcome::Done } else { Outcome::NoPort }
    }

    /// This server shall stop, unless so few are left; `why` is told.
    pub fn shrink(&mut self, now: Instant, id: u32, why: &str) -> Outcome {
        let wanted = self.wanted();
        match self.children.get(&id) {
            _ if self.shutting_down => Outcome::AtBound,
            None => Outcome::Unknown,
            Some(child) if child.ends() => Outcome::Done,
            Some(_) if wanted <= self.bounds.min => Outcome::AtBound,
            Some(_) => {
                let fewer = wanted - 1;
                let what = format!("scale down: {wanted} -> {fewer} servers, stopping server {id}, {why}");
                self.actions.push_back(Action::Tell(what));
                self.stop(now, id);
                Outcome::Done
            }
        }
    }

    /// Stops every server; nothing is started any more.
    pub fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        let ids: Vec<u32> = self.children.keys().copied().collect();
        for id in ids {
            self.stop(now, id);
        }
    }

    /// Restarts, and the end of patience.
    pub fn on_timeout(&mut self, now: Instant) {
        let mut left = vec![];
        for (&id, child) in &mut self.children {
            match child.phase {
                Phase::Waiting { until } if until <= now => {
                    child.phase = Phase::Starting;
                    self.actions.push_back(Action::Start { id, port: child.port });
                }
                Phase::Leaving { until } if until <= now => left.push(id),
                Phase::Stopping { kill_at } if kill_at <= now => {
                    child.phase = Phase::Stopping { kill_at: now + STOP_PATIENCE };
                    self.actions.push_back(Action::Kill { id });
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
            Phase::Waiting { until } | Phase::Leaving { until } => Some(until),
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Starting | Phase::Running { .. } => None,
        };
        self.children.values().map(due).fold(None, earliest)
    }

    /// Panics, with the numbers, unless each server has a port of its own and there are no more servers than allowed.
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
        child.phase = Phase::Waiting { until: now + pause };
        self.actions.push_back(Action::Tell(format!("server {id} starts again in {pause:?}")));
    }

    /// Plans a server with the lowest free id.
    fn add(&mut self) -> bool {
        let free = (self.bounds.start_id..).find(|id| !self.children.contains_key(id));
        let (Some(id), Some(port)) = (free, self.free_port()) else { return false };
        self.children.insert(id, Child { port, phase: Phase::Starting, crashes: 0, ports_in_use: 0 });
        self.actions.push_back(Action::Start { id, port });
        true
    }

    /// The next port of the range that no server of ours has.
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
            (Phase::Leaving { .. } | Phase::Stopping { .. }, _) => {}
            (Phase::Waiting { .. }, _) => {
                self.children.remove(&id);
            }
            (Phase::Running { .. }, Some(patience)) => child.phase = Phase::Leaving { until: now + patience },
            (Phase::Running { .. } | Phase::Starting, _) => self.ask_to_end(now, id),
        }
    }

    fn ask_to_end(&mut self, now: Instant, id: u32) {
        if let Some(child) = self.children.get_mut(&id) {
            child.phase = Phase::Stopping { kill_at: now + STOP_PATIENCE };
            self.actions.push_back(Action::Stop { id });
        }
    }
}

#[cfg(test)]
mod tests;
