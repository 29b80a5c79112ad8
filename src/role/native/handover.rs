//! The state that a balancer's process exports for its successor. The successor continues *exactly*: with
//! the same instance and keys, and the same servers, windows and estimates. It accepts the replies in
//! flight, and no server registers again.
//!
//! Each worker exports its [`Part`] in its own thread, after *all* workers have stopped. No worker takes a
//! turn between the first part and the last, since any worker may receive the reply to another worker's
//! request. An export does not change the predecessor, which takes its next turn only if the successor
//! gives up.
//!
//! Not exported: counters, the autoscaler's load windows, the open scaling request, and the state of
//! tie-breaking. The rates that the autoscaler has learned are exported.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use super::spent::SpentStamp;
use super::{NativeLane, NativePoolSettings, NativePrimary, NativeRole, NativeServer, NativeShared};
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

/// The version of a part's bytes. It must rise whenever a type in a part changes: [`NativeServer`], its
/// health, an estimate, a window.
const VERSION: u32 = 4;

/// Maximum age of a state. No process takes longer to start, so an older state is from another clock.
const AGE_MAX: Duration = Duration::from_secs(600);

/// The contents of a [`Part`].
#[derive(Serialize, Deserialize)]
struct NativeWorkerState {
    worker: u8,
    lanes: Vec<LaneState>,
    /// The stamp of the last sent frame, if frames are authenticated.
    sealed: Option<Stamp>,
    /// Only in the primary's part.
    common: Option<SharedState>,
}

/// The state of one lane whose slot was ever used.
#[derive(Serialize, Deserialize)]
struct LaneState {
    slot: u16,
    window: WindowState,
    estimate: Estimate,
    last_sent: Instant,
    last_sync: Instant,
    confirmed: bool,
    /// `None` if frames are not authenticated.
    replay: Option<PeerReplay>,
}

/// The state that all workers share, and the primary's.
#[derive(Serialize, Deserialize)]
struct SharedState {
    /// The primary's last turn.
    at: Instant,
    frame_size: usize,
    /// A hash of the shared key; `None` if frames are not authenticated.
    key_mark: Option<u64>,
    own: Vec<SocketAddr>,
    secret: [u8; 16],
    instance: u64,
    epoch: u32,
    listeners: Vec<IpAddr>,
    servers: Vec<(u16, NativeServer)>,
    /// Departed servers.
    departed: Vec<DepartedServer>,
    /// Addresses of the last servers of empty slots.
    last_addrs: Vec<(u16, SocketAddr)>,
    /// The autoscaler's highest request rate that n servers could not serve, per second, by n.
    too_few_at: Vec<f64>,
    /// Number of the last scaling request, and the controller's nonce.
    orders: (u64, u64),
    /// Stamps of used registrations.
    spent: Vec<SpentStamp>,
}

/// The states of all workers.
struct Handover {
    common: SharedState,
    workers: Vec<NativeWorkerState>,
}

/// Why a successor cannot continue from its predecessor's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] Unreadable),
    /// The part of a worker is missing or present twice.
    #[error("cannot take over: the state of the running balancer is incomplete; restart without --takeover")]
    Incomplete,
    /// The frame sizes differ.
    #[error(
        "frame_size: the running balancer has {theirs}, this configuration {ours}; restart without --takeover"
    )]
    FrameSize {
        /// The predecessor's frame size, in bytes.
        theirs: usize,
        /// The successor's frame size, in bytes.
        ours: usize,
    },
    /// The keys differ, or only one of the two processes authenticates frames.
    #[error(
        "key_file: the running balancer has another key, or only one of the two has a key; \
         restart without --takeover"
    )]
    Key,
    /// The numbers of workers differ.
    #[error(
        "workers: the running balancer has {theirs}, this configuration {ours}; restart without --takeover"
    )]
    Workers {
        /// The predecessor's workers.
        theirs: usize,
        /// The successor's workers.
        ours: usize,
    },
    /// The predecessor has used a slot that the successor does not have.
    #[error(
        "servers_max: the running balancer has used {theirs} slots, this configuration has {ours}; \
         raise it, or restart without --takeover"
    )]
    ServersMax {
        /// Slots that the predecessor has used.
        theirs: usize,
        /// The successor's slots.
        ours: usize,
    },
    /// The sockets have other addresses.
    #[error(
        "cannot take over: the running balancer has other addresses than this configuration; \
         restart without --takeover"
    )]
    Addresses,
    /// The two processes have different clocks.
    #[error(
        "cannot take over: the running balancer is on another machine or in another time namespace; \
         restart without --takeover"
    )]
    Clock,
}

impl Mismatch {
    /// The key that differs, as an item of `pools` has it; `None` if the cause is no key.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Mismatch::FrameSize { .. } => Some("frame_size"),
            Mismatch::Key => Some("key_file"),
            Mismatch::Workers { .. } => Some("workers"),
            Mismatch::ServersMax { .. } => Some("servers_max"),
            Mismatch::Addresses => Some("listen"),
            Mismatch::State(_) | Mismatch::Incomplete | Mismatch::Clock => None,
        }
    }
}

impl NativeWorkerState {
    fn from_part(part: &Part) -> Result<NativeWorkerState, Unreadable> {
        part.state(VERSION).and_then(|state: NativeWorkerState| match state.is_sound() {
            true => Ok(state),
            false => Err(Unreadable::Garbled),
        })
    }

    /// Whether the values are within their limits, so that damaged bytes cannot break an invariant.
    fn is_sound(&self) -> bool {
        let ascend = |slots: &mut dyn Iterator<Item = u16>| slots.is_sorted_by(|one, next| one < next);
        let lane_is_sound =
            |lane: &LaneState| lane.window.is_whole() && lane.estimate.published() <= OUTSTANDING_MAX;
        let server_is_sound = |(_, server): &(u16, NativeServer)| {
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
    /// Combines the parts of all workers, which may be in any order.
    fn from_parts(parts: &[Part]) -> Result<Handover, Mismatch> {
        let mut workers = parts.iter().map(NativeWorkerState::from_part).collect::<Result<Vec<_>, _>>()?;
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

    /// The highest used slot plus one.
    fn slots_used(&self) -> usize {
        let of_lanes = self.workers.iter().flat_map(|state| state.lanes.iter().map(|lane| lane.slot));
        let of_servers = self.common.servers.iter().map(|(slot, _)| *slot);
        of_lanes.chain(of_servers).map(|slot| usize::from(slot) + 1).max().unwrap_or(0)
    }

    /// Whether a balancer with these settings can continue from this state.
    fn check(&self, settings: &NativePoolSettings, now: Instant) -> Result<(), Mismatch> {
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

/// A hash that differs between keys and does not reveal them.
fn key_mark(key: Option<[u8; 16]>, secret: [u8; 16]) -> Option<u64> {
    let mut hasher = SipHasher24::new_with_key(&secret);
    hasher.write(b"key_file");
    hasher.write(&key?);
    Some(hasher.finish())
}

impl NativeRole {
    /// Exports this worker's state for a successor. The primary's part includes the shared state. All workers
    /// must have stopped before the first one exports.
    pub fn export(&mut self, now: Instant) -> Part {
        // The primary may have published members since this worker's last turn.
        self.refresh();
        self.publish(now);
        let is_tagged = self.format.tagged;
        let used = |slot: Slot, lane: &NativeLane| lane.window.sent() != 0 || self.view.get(slot).is_some();
        let state = |(index, lane): (usize, &NativeLane)| {
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
        let state = NativeWorkerState {
            worker: self.worker,
            lanes: self.lanes.iter().enumerate().filter_map(state).collect(),
            sealed: self.sealer.as_ref().map(Sealer::last),
            common: self.primary.as_ref().map(|primary| self.common(now, primary)),
        };
        Part::new(VERSION, &state)
    }

    fn common(&self, now: Instant, primary: &NativePrimary) -> SharedState {
        let NativeShared { instance, epoch, .. } = &*self.shared;
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
        SharedState {
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
            spent: primary.spent.to_vec(),
        }
    }

    /// The workers of a balancer that continues from the exported state of another process. Settings that do
    /// not affect requests in flight may differ: policy, intervals, limits, scaling. `secret` is the
    /// predecessor's. `now` must be from the same clock.
    pub fn workers_from(
        settings: NativePoolSettings,
        parts: Vec<Part>,
        now: Instant,
    ) -> Result<Vec<NativeRole>, Mismatch> {
        let handover = Handover::from_parts(&parts)?;
        handover.check(&settings, now)?;
        let Handover { common, workers } = handover;
        let mut rng = Rng::new(settings.seed);
        let settings = NativePoolSettings { secret: common.secret, ..settings };
        let mut shared = NativeShared::new(settings, common.instance, common.epoch);
        shared.pool.locals = common.listeners.iter().copied().collect();
        let shared = Arc::new(shared);
        for (slot, server) in &common.servers {
            shared.pool.members.publish(
                Slot::new(usize::from(*slot)),
                Some(member_of::<NativeShared>(server, LeafState::Barred)),
            );
        }
        let restored = |state: NativeWorkerState| {
            let mut worker = NativeRole::worker(&shared, state.worker, &mut rng, now);
            worker.restore(state, &common);
            worker
        };
        let mut workers: Vec<NativeRole> = workers.into_iter().map(restored).collect();
        if let Some(primary) = workers.first_mut() {
            primary.restore_primary(now, &common);
        }
        Ok(workers)
    }

    /// Restores the lanes of a predecessor.
    fn restore(&mut self, from: NativeWorkerState, common: &SharedState) {
        let NativeRole { shared, view, lanes, .. } = self;
        view.refresh(&shared.pool.members, |_, _| {}); // the servers are not new to the lanes
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

    /// Restores the servers of a predecessor.
    fn restore_primary(&mut self, now: Instant, common: &SharedState) {
        let tree = &self.shared.pool.tree;
        for (slot, server) in &common.servers {
            tree.adjust_foreign(Slot::new(usize::from(*slot)), server.extra.foreign as i32);
        }
        let rules = self.settings.health;
        self.as_primary(|primary| {
            primary.stalls = StallDetector::after(common.at);
            primary.scaler.remember(&common.too_few_at);
            primary.orders.restore(common.orders);
            primary.spent.restore(&common.spent);
            if common.servers.iter().any(|(_, server)| server.health.state() == State::Up) {
                primary.pool.had_servers();
            }
            let registry = primary.pool.registry_mut();
            common.departed.iter().for_each(|server| registry.departed.keep(server.clone()));
            for (slot, server) in &common.servers {
                let limits = Limits::for_interval(server.extra.interval, &rules);
                registry.put(
                    Slot::new(usize::from(*slot)),
                    NativeServer { limits, is_doubted: false, ..server.clone() },
                );
            }
            primary.pool.publish_all(now);
        });
    }
}

#[cfg(test)]
mod tests;
