//! The controller: how many servers run, which, and where. Starts nothing itself: it says what is to be
//! done ([`ControllerRole::poll_action`]) and is told what happened.
//!
//! Orders of the balancer are idempotent (grow names the number of servers there shall be, shrink names
//! the server) and acknowledged; a repeated order gets the same answer and has no second effect. An order
//! without the nonce that this process gave to the balancer's address is answered with that nonce only.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::batch::{FrameRef, Rx, SocketId, Tx};
use crate::drop_reason::{DropCounters, DropReason};
use crate::rng::Rng;
use crate::role::{Role, send_from_slot};
use crate::time::Instant;
use crate::wire::{CookieKey, Frame, FrameFormat, Header, Kind, Opener, RequestOp, Sealer, Status};

/// The only socket of a controller.
pub const SOCKET: SocketId = SocketId(0);

/// A crashed server is started again after this time, then after twice as long each time.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// The longest pause before a restart.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A server that ran for so long has a clean record again.
const RECORD_CLEAN: Duration = Duration::from_secs(10);
/// A server that does not stop is killed after this time.
const STOP_PATIENCE: Duration = Duration::from_secs(35);

/// What a controller is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// The key that all components share, where frames are authenticated.
    pub key: Option<[u8; 16]>,
    /// The balancer's server side; orders from elsewhere are dropped.
    pub balancer: SocketAddr,
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
    /// Seed of everything random: nonces.
    pub seed: u64,
}

/// What the daemon is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a server, then call [`ControllerRole::on_started`] or [`ControllerRole::on_start_failed`].
    Start {
        /// Its id.
        id: u32,
        /// The port it shall take.
        port: u16,
    },
    /// Ask it to drain and exit.
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

/// A controller's state machine.
pub struct ControllerRole {
    settings: Settings,
    children: BTreeMap<u32, Child>,
    actions: VecDeque<Action>,
    nonces: CookieKey,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    /// The last order that was carried out: whose, which, and with what result.
    last_order: Option<(u64, u64, Status)>,
    next_port: u16,
    shutting_down: bool,
    drops: DropCounters,
}

impl ControllerRole {
    /// A controller that starts `settings.count` servers.
    pub fn new(settings: Settings) -> Self {
        let mut rng = Rng::new(settings.seed);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
        key[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
        let mut role = ControllerRole {
            children: BTreeMap::new(),
            actions: VecDeque::new(),
            nonces: CookieKey::new(key),
            sealer: settings.key.as_ref().map(|key| Sealer::new(key, rng.next_u64())),
            opener: settings.key.as_ref().map(Opener::new),
            last_order: None,
            next_port: settings.ports.start,
            shutting_down: false,
            drops: DropCounters::default(),
            settings,
        };
        for _ in 0..role.settings.count {
            role.add_server();
        }
        role
    }

    /// The oldest action that was not fetched yet.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Frames dropped, by reason.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// Servers there shall be: all but those that are stopping.
    pub fn wanted(&self) -> u32 {
        self.children.values().filter(|c| !matches!(c.phase, Phase::Stopping { .. })).count() as u32
    }

    /// Whether no server is left.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
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
        if let Phase::Stopping { .. } = child.phase {
            // Told to stop before it ran: nothing is left to stop.
            self.children.remove(&id);
            return;
        }
        if why == StartFailure::Other {
            return self.wait_and_restart(now, id);
        }
        child.ports_in_use += 1;
        let all_in_use = child.ports_in_use >= self.settings.ports.len();
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
        match child.phase {
            Phase::Stopping { .. } => {
                self.children.remove(&id);
                self.actions.push_back(Action::Tell(format!("server {id} has stopped")));
            }
            phase => {
                if let Phase::Running { since } = phase
                    && now.since(since) >= RECORD_CLEAN
                {
                    child.crashes = 0;
                }
                self.actions.push_back(Action::Tell(format!("server {id} ended unasked ({how})")));
                self.wait_and_restart(now, id);
            }
        }
    }

    /// Stops every server; nothing is started any more.
    pub fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        let ids: Vec<u32> = self.children.keys().copied().collect();
        for id in ids {
            self.stop_server(now, id);
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
    fn add_server(&mut self) -> bool {
        let free = (self.settings.start_id..).find(|id| !self.children.contains_key(id));
        let (Some(id), Some(port)) = (free, self.free_port()) else { return false };
        self.children.insert(id, Child { port, phase: Phase::Starting, crashes: 0, ports_in_use: 0 });
        self.actions.push_back(Action::Start { id, port });
        true
    }

    /// The next port of the range that no server of ours has.
    fn free_port(&mut self) -> Option<u16> {
        let ports = self.settings.ports.clone();
        for _ in ports.clone() {
            let port = self.next_port;
            self.next_port = if port + 1 >= ports.end { ports.start } else { port + 1 };
            if self.children.values().all(|child| child.port != port) {
                return Some(port);
            }
        }
        None
    }

    fn stop_server(&mut self, now: Instant, id: u32) {
        let Some(child) = self.children.get_mut(&id) else { return };
        match child.phase {
            Phase::Stopping { .. } => {}
            Phase::Waiting { .. } => {
                self.children.remove(&id);
            }
            Phase::Starting | Phase::Running { .. } => {
                child.phase = Phase::Stopping { kill_at: now + STOP_PATIENCE };
                self.actions.push_back(Action::Stop { id });
            }
        }
    }

    fn on_frame(&mut self, now: Instant, peer: SocketAddr, bytes: &mut [u8]) -> Result<(), DropReason> {
        if let Some(opener) = &self.opener {
            if bytes.len() != self.settings.format.size {
                return Err(DropReason::Length);
            }
            // The nonce below is what makes an order fresh.
            opener.open(bytes)?;
        }
        let mut frame = Frame::check(bytes, &self.settings.format)?;
        if peer != self.settings.balancer {
            return Err(DropReason::WrongSource);
        }
        if frame.kind() != Kind::ControllerRequest {
            return Err(DropReason::Unexpected);
        }
        let op = RequestOp::from_wire(frame.header.op).ok_or(DropReason::Kind)?;
        if !matches!(op, RequestOp::Grow | RequestOp::Shrink) {
            return Err(DropReason::Unexpected);
        }
        frame.set_payload(&[]);
        let header = frame.header;
        let instance = header.client_id.get();
        if !self.nonces.nonce_is_valid(now, peer, instance, header.cookie.get()) {
            header.op = RequestOp::Challenge as u8;
            header.cookie.set(self.nonces.nonce(now, peer, instance));
        } else {
            let status = self.carry_out(now, op, header);
            header.op = RequestOp::Ack as u8;
            header.status = status as u8;
        }
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(bytes);
        }
        Ok(())
    }

    /// Carries an order out, once.
    fn carry_out(&mut self, now: Instant, op: RequestOp, header: &Header) -> Status {
        let (instance, number) = (header.client_id.get(), header.sequence.get());
        if let Some((last_instance, last_number, status)) = self.last_order
            && instance == last_instance
            && number <= last_number
        {
            return if number == last_number { status } else { Status::Expired };
        }
        let target = header.report.get();
        let load = f64::from(header.seq.get()) / 1000.0;
        let status = match op {
            _ if self.shutting_down => Status::Busy,
            RequestOp::Grow => self.grow(target, load),
            _ => self.shrink(now, target, load),
        };
        self.last_order = Some((instance, number, status));
        status
    }

    fn grow(&mut self, target: u32, load: f64) -> Status {
        let wanted = self.wanted();
        let target = target.min(self.settings.max);
        if target <= wanted {
            return if wanted >= self.settings.max { Status::Busy } else { Status::Ok };
        }
        self.actions
            .push_back(Action::Tell(format!("scale up: {wanted} -> {target} servers, load {load:.2}")));
        let all_added = (wanted..target).all(|_| self.add_server());
        if all_added { Status::Ok } else { Status::Error }
    }

    fn shrink(&mut self, now: Instant, id: u32, load: f64) -> Status {
        let wanted = self.wanted();
        match self.children.get(&id).map(|child| child.phase) {
            None => Status::Unknown,
            Some(Phase::Stopping { .. }) => Status::Ok,
            Some(_) if wanted <= self.settings.min => Status::Busy,
            Some(_) => {
                let fewer = wanted - 1;
                let what =
                    format!("scale down: {wanted} -> {fewer} servers, stopping server {id}, load {load:.2}");
                self.actions.push_back(Action::Tell(what));
                self.stop_server(now, id);
                Status::Ok
            }
        }
    }
}

impl Role for ControllerRole {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx) {
        let size = self.settings.format.size;
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            let mut offset = received.start;
            for datagram in bytes.chunks_mut(received.stride as usize) {
                let len = datagram.len();
                // One order a datagram: this is no place for batches.
                let outcome = self.on_frame(now, received.peer, datagram).and_then(|()| {
                    let at = FrameRef { slot: received.slot, len: size as u16, offset };
                    send_from_slot(tx, SOCKET, received.peer, at)
                });
                if let Err(reason) = outcome {
                    self.drops.add(reason, 1);
                }
                offset += len as u32;
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, _tx: &mut Tx) {
        for (&id, child) in &mut self.children {
            match child.phase {
                Phase::Waiting { until } if until <= now => {
                    child.phase = Phase::Starting;
                    self.actions.push_back(Action::Start { id, port: child.port });
                }
                Phase::Stopping { kill_at } if kill_at <= now => {
                    child.phase = Phase::Stopping { kill_at: now + STOP_PATIENCE };
                    self.actions.push_back(Action::Kill { id });
                }
                _ => {}
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let due = |child: &Child| match child.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Starting | Phase::Running { .. } => None,
        };
        self.children.values().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests;
