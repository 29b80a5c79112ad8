//! What one process of a balancer leaves to its successor, which goes on *exactly*: the same instance and
//! keys, the same servers, windows and estimates. No reply under way is refused, no server registers again.
//!
//! Each worker gives its [`Part`] in its own thread, once *all* of them have stopped: between the first part
//! and the last nobody takes a turn, since any worker may take the reply to another one's request. A
//! predecessor takes its next turn only if its successor has given up; what it has exported changes nothing
//! for it.
//!
//! What starts again: figures, the windows of the scaler (not what it has learned), an open order, the choice
//! among ties.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use super::{Lane, NativeRole, Primary, Server, Settings, Shared};
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::pool::departed::DepartedServer;
use crate::pool::health::{Limits, State};
use crate::pool::order::WEIGHT_MAX;
use crate::pool::outstanding::{Estimate, OUTSTANDING_MAX};
use crate::pool::part::{Part, Unreadable};
use crate::pool::primary::member_of;
use crate::pool::select::{LeafState, Slot};
use crate::pool::stall::StallDetector;
use crate::role::TwoSided;
use crate::wire::Sealer;
use crate::wire::tag::{PeerReplay, Stamp};
use crate::wire::window::WindowState;

/// The version of these bytes. To be raised whenever anything changes that they hold: [`Server`], its health,
/// an estimate, a window.
const VERSION: u32 = 2;

/// A process cannot have taken longer to start; an older state is of another clock.
const AGE_MAX: Duration = Duration::from_secs(600);

/// What is in a [`Part`].
#[derive(Serialize, Deserialize)]
struct WorkerState {
    worker: u8,
    lanes: Vec<LaneState>,
    /// The stamp of the last frame that it has sent, where frames are authenticated.
    sealed: Option<Stamp>,
    /// From the primary.
    common: Option<Common>,
}

/// One lane, if its slot was ever used.
#[derive(Serialize, Deserialize)]
struct LaneState {
    slot: u16,
    window: WindowState,
    estimate: Estimate,
    last_sent: Instant,
    last_sync: Instant,
    confirmed: bool,
    /// Where frames are authenticated.
    replay: Option<PeerReplay>,
}

/// What all workers share, and what only the primary has.
#[derive(Serialize, Deserialize)]
struct Common {
    /// The primary's last turn.
    at: Instant,
    frame_size: usize,
    /// A hash of the shared key, where frames are authenticated.
    key_mark: Option<u64>,
    own: Vec<SocketAddr>,
    secret: [u8; 16],
    instance: u64,
    epoch: u32,
    listeners: Vec<IpAddr>,
    servers: Vec<(u16, Server)>,
    /// Servers that have left.
    departed: Vec<DepartedServer>,
    /// Where the last servers of empty slots were.
    last_addrs: Vec<(u16, SocketAddr)>,
    /// What the scaler has learned.
    too_few_at: Vec<f64>,
    /// Number of the last order, and the controller's nonce.
    orders: (u64, u64),
}

/// The states of all workers.
struct Handover {
    common: Common,
    workers: Vec<WorkerState>,
}

/// Why a successor cannot go on where its predecessor has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] Unreadable),
    /// The part of a worker is missing, or there twice.
    #[error("the state of the running balancer is not whole: restart without --takeover")]
    Incomplete,
    /// Frames have another size.
    #[error(
        "frame_size: the running balancer has {theirs}, this configuration {ours}: restart without --takeover"
    )]
    FrameSize {
        /// Bytes there.
        theirs: usize,
        /// Bytes here.
        ours: usize,
    },
    /// Frames are authenticated in one of the two, or with another key.
    #[error(
        "key_file: the running balancer has another key, or one of the two has none: restart without --takeover"
    )]
    Key,
    /// There are more or fewer workers.
    #[error(
        "workers: the running balancer has {theirs}, this configuration {ours}: restart without --takeover"
    )]
    Workers {
        /// Workers there.
        theirs: usize,
        /// Workers here.
        ours: usize,
    },
    /// A slot has been used that there is no room for.
    #[error(
        "servers_max: the running balancer has used {theirs} slots, this configuration has {ours}: raise it, or restart \
         without --takeover"
    )]
    ServersMax {
        /// Slots used there.
        theirs: usize,
        /// Slots here.
        ours: usize,
    },
    /// The sockets have other addresses.
    #[error("the running balancer has other addresses than this configuration: restart without --takeover")]
    Addresses,
    /// The two processes do not have the same clock.
    #[error("the running balancer is of another machine or time namespace: restart without --takeover")]
    Clock,
}

impl WorkerState {
    fn from_part(part: &Part) -> Result<WorkerState, Unreadable> {
        part.state(VERSION).and_then(|state: WorkerState| match state.is_sound() {
            true => Ok(state),
            false => Err(Unreadable::Garbled),
        })
    }

    /// Whether nothing in it would break what relies on it.
    fn is_sound(&self) -> bool {
        let ascend = |slots: &mut dyn Iterator<Item = u16>| slots.is_sorted_by(|one, next| one < next);
        let lane_is_sound =
            |lane: &LaneState| lane.window.is_whole() && lane.estimate.published() <= OUTSTANDING_MAX;
        let server_is_sound = |(_, server): &(u16, Server)| {
            server.extra.foreign <= OUTSTANDING_MAX && (1..=WEIGHT_MAX).contains(&server.weight)
        };
        let servers = self.common.as_ref().map_or(&[][..], |common| &common.servers);
        ascend(&mut self.lanes.iter().map(|lane| lane.slot))
            && self.lanes.iter().all(lane_is_sound)
            && ascend(&mut servers.iter().map(|(slot, _)| *slot))
            && servers.iter().all(server_is_sound)
    }
}

impl Handover {
    /// Puts the parts of all workers together, in any order.
    fn from_parts(parts: &[Part]) -> Result<Handover, Mismatch> {
        let mut workers = parts.iter().map(WorkerState::from_part).collect::<Result<Vec<_>, _>>()?;
        workers.sort_by_key(|state| state.worker);
        let is_whole = workers.iter().zip(0..).all(|(state, worker)| {
            usize::from(state.worker) == worker && state.common.is_some() == (worker == 0)
        });
        let common = workers.first_mut().and_then(|state| state.common.take());
        match common {
            Some(common) if is_whole => Ok(Handover { common, workers }),
            _ => Err(Mismatch::Incomplete),
        }
    }

    /// How many slots there must be.
    fn slots_used(&self) -> usize {
        let of_lanes = self.workers.iter().flat_map(|state| state.lanes.iter().map(|lane| lane.slot));
        let of_servers = self.common.servers.iter().map(|(slot, _)| *slot);
        of_lanes.chain(of_servers).map(|slot| usize::from(slot) + 1).max().unwrap_or(0)
    }

    /// Whether a balancer of these settings can go on with it.
    fn check(&self, settings: &Settings, now: Instant) -> Result<(), Mismatch> {
        let common = &self.common;
        let (theirs, ours) = (self.workers.len(), settings.workers);
        if theirs != ours {
            return Err(Mismatch::Workers { theirs, ours });
        }
        let (theirs, ours) = (common.frame_size, settings.format.size);
        if theirs != ours {
            return Err(Mismatch::FrameSize { theirs, ours });
        }
        if common.key_mark != key_mark(settings.key, common.secret) {
            return Err(Mismatch::Key);
        }
        let (theirs, ours) = (self.slots_used(), settings.servers_max);
        if theirs > ours {
            return Err(Mismatch::ServersMax { theirs, ours });
        }
        if common.own != settings.own {
            return Err(Mismatch::Addresses);
        }
        if now < common.at || now.since(common.at) > AGE_MAX {
            return Err(Mismatch::Clock);
        }
        Ok(())
    }
}

/// Tells keys apart without telling them.
fn key_mark(key: Option<[u8; 16]>, secret: [u8; 16]) -> Option<u64> {
    let mut hasher = SipHasher24::new_with_key(&secret);
    hasher.write(b"key_file");
    hasher.write(&key?);
    Some(hasher.finish())
}

impl NativeRole {
    /// What a successor needs of this worker; of the primary, what all share, too. All workers have stopped
    /// before the first of them exports.
    pub fn export(&mut self, now: Instant) -> Part {
        // Nothing is left of a turn; but the primary may have published members since.
        self.refresh();
        self.publish(now);
        let is_tagged = self.format.tagged;
        let used = |slot: Slot, lane: &Lane| lane.window.sent() != 0 || self.view.get(slot).is_some();
        let state = |(index, lane): (usize, &Lane)| {
            used(Slot::new(index), lane).then(|| LaneState {
                slot: index as u16,
                window: lane.window.state(),
                estimate: lane.estimate.clone(),
                last_sent: lane.last_sent,
                last_sync: lane.last_sync,
                confirmed: lane.confirmed,
                replay: is_tagged.then(|| lane.replay.clone()),
            })
        };
        let state = WorkerState {
            worker: self.worker,
            lanes: self.lanes.iter().enumerate().filter_map(state).collect(),
            sealed: self.sealer.as_ref().map(Sealer::last),
            common: self.primary.as_ref().map(|primary| self.common(now, primary)),
        };
        Part::new(VERSION, &state)
    }

    fn common(&self, now: Instant, primary: &Primary) -> Common {
        let Shared { instance, epoch, .. } = &*self.shared;
        let settings = self.shared.pool.settings();
        let servers =
            primary.pool.registry().iter().map(|(slot, server)| (slot.index() as u16, server.clone()));
        let last_addr = |index: u16| {
            let slot = Slot::new(index.into());
            self.view
                .get(slot)
                .is_none()
                .then(|| self.view.last_addr(slot))
                .flatten()
                .map(|addr| (index, addr))
        };
        Common {
            at: primary.stalls.last_turn().unwrap_or(now),
            frame_size: settings.format.size,
            key_mark: key_mark(settings.key, settings.secret),
            own: settings.own.clone(),
            secret: settings.secret,
            instance: *instance,
            epoch: *epoch,
            listeners: self.shared.pool.locals.to_vec(),
            servers: servers.collect(),
            departed: primary.pool.registry().departed.iter().cloned().collect(),
            last_addrs: (0..settings.servers_max as u16).filter_map(last_addr).collect(),
            too_few_at: primary.scaler.too_few_at().to_vec(),
            orders: primary.orders.position(),
        }
    }

    /// The workers of a balancer that goes on where another process has stopped. Settings may differ in what
    /// concerns nothing under way (policy, intervals, limits, scaling); `secret` is the predecessor's. `now`
    /// is of the same clock.
    pub fn workers_from(
        settings: Settings,
        parts: Vec<Part>,
        now: Instant,
    ) -> Result<Vec<NativeRole>, Mismatch> {
        let handover = Handover::from_parts(&parts)?;
        handover.check(&settings, now)?;
        let Handover { common, workers } = handover;
        let mut rng = Rng::new(settings.seed);
        let settings = Settings { secret: common.secret, ..settings };
        let mut shared = Shared::new(settings, common.instance, common.epoch);
        shared.pool.locals = common.listeners.iter().copied().collect();
        let shared = Arc::new(shared);
        for (slot, server) in &common.servers {
            shared
                .pool
                .members
                .publish(Slot::new(usize::from(*slot)), Some(member_of::<Shared>(server, LeafState::Barred)));
        }
        let go_on = |state: WorkerState| {
            let mut worker = NativeRole::worker(&shared, state.worker, &mut rng, now);
            worker.go_on(state, &common);
            worker
        };
        let mut workers: Vec<NativeRole> = workers.into_iter().map(go_on).collect();
        if let Some(primary) = workers.first_mut() {
            primary.go_on_as_primary(now, &common);
        }
        Ok(workers)
    }

    /// Takes over the lanes of a predecessor.
    fn go_on(&mut self, from: WorkerState, common: &Common) {
        let NativeRole { shared, view, lanes, .. } = self;
        view.refresh(&shared.pool.members, |_, _| {}); // new to this process, but not to the lanes
        for &(slot, addr) in
            common.last_addrs.iter().filter(|(slot, _)| usize::from(*slot) < lanes.slot_count())
        {
            view.recall(Slot::new(usize::from(slot)), addr);
        }
        for state in from.lanes {
            let slot = Slot::new(usize::from(state.slot));
            let lane = &mut lanes[slot];
            lane.window.restore(&state.window);
            (lane.last_sent, lane.last_sync) = (state.last_sent, state.last_sync);
            lane.confirmed = state.confirmed;
            lane.replay = state.replay.unwrap_or_default();
            shared.pool.tree.adjust(slot, state.estimate.published() as i32);
            lane.estimate = state.estimate;
            if let Some(member) = view.get(slot).filter(|_| state.confirmed) {
                shared.pool.members.confirm(slot, member.epoch, from.worker);
            }
        }
        if let (Some(key), Some(last)) = (&shared.pool.settings().key, from.sealed) {
            self.sealer = Some(Sealer::going_on(key, last));
        }
    }

    /// Takes over the servers of a predecessor.
    fn go_on_as_primary(&mut self, now: Instant, common: &Common) {
        let tree = &self.shared.pool.tree;
        for (slot, server) in &common.servers {
            tree.adjust_foreign(Slot::new(usize::from(*slot)), server.extra.foreign as i32);
        }
        let rules = self.settings.health;
        self.as_primary(|primary| {
            primary.stalls = StallDetector::after(common.at);
            primary.scaler.remember(&common.too_few_at);
            primary.orders.go_on(common.orders);
            if common.servers.iter().any(|(_, server)| server.health.state() == State::Up) {
                primary.pool.had_servers();
            }
            let registry = primary.pool.registry_mut();
            common.departed.iter().for_each(|server| registry.departed.keep(server.clone()));
            for (slot, server) in &common.servers {
                let limits = Limits::for_interval(server.extra.interval, &rules);
                registry.put(Slot::new(usize::from(*slot)), Server { limits, ..server.clone() });
            }
            primary.pool.publish_all(now);
        });
    }
}

#[cfg(test)]
mod tests;
