//! The balancer: sends each request to the server with the shortest queue, and each reply back.
//!
//! One [`NativeRole`] is one *worker*: it has a front socket, a server-side socket, and with each server a
//! lane of its own (estimate, dispatch window). Workers share the selection tree, the roster and the keys.
//! Worker 0 is the *primary*: it alone registers servers, judges their health, scales, and talks with the
//! controller.
//!
//! Never touches a socket, a clock or a log: what is worth telling comes out of [`NativeRole::poll_event`],
//! what is worth counting goes to [`NativeStats`].
//!
//! | file | a change there is about |
//! |---|---|
//! | `shared.rs` | what the workers share |
//! | `front.rs` | requests of clients: check, select, patch, forward |
//! | `waiting.rs` | requests that wait for a server below its limit |
//! | `reply.rs` | who asked, and refusals |
//! | `back.rs` | frames of servers: replies, reports, counters |
//! | `primary.rs` | what only the primary has |
//! | `registration.rs` | how a server becomes a member (primary) |
//! | `upkeep.rs` | what time brings: SYNC (all workers); silence, probes, leaving (primary) |
//! | `orders.rs`, `open_orders.rs` | orders to the controller (primary) |
//! | `handover.rs` | what a successor is given, and how it goes on |

mod back;
mod front;
mod handover;
mod open_orders;
mod orders;
mod primary;
mod registration;
mod reply;
mod shared;
mod upkeep;
mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::batch::{FrameRef, Received, Rx, SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::rng::Rng;
use crate::base::time::{Instant, earliest};
use crate::pool::autoscale;
use crate::pool::health::Rules;
use crate::pool::lanes::Lanes;
use crate::pool::members::View;
use crate::pool::outstanding::Estimate;
use crate::pool::select::{PolicyKind, Slot, Tree};
use crate::pool::selector::Selector;
use crate::pool::shared::WorkerSettings;
use crate::pool::stats::NativeStats;
use crate::pool::waiting::Limit;
use crate::role::{Role, TwoSided};
use crate::wire::tag::PeerReplay;
use crate::wire::{DispatchWindow, FrameFormat, Opener, ReplyPath, Sealer};
pub use handover::Mismatch;
use primary::Primary;
pub use primary::{Registered, Registry, Server};
use shared::{Extra, Member, Shared};

/// The socket on which clients ask.
pub const FRONT: SocketId = SocketId(0);
/// The socket on which servers and the controller are talked to.
pub const BACK: SocketId = SocketId(1);

/// What a balancer is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// The key that all components share, where frames are authenticated.
    pub key: Option<[u8; 16]>,
    /// The key of cookies and nonces: random, and nobody else's.
    pub secret: [u8; 16],
    /// Workers, 1 to [`crate::pool::members::WORKERS_MAX`].
    pub workers: usize,
    /// How a server is chosen.
    pub policy: PolicyKind,
    /// The way of a reply.
    pub reply_path: ReplyPath,
    /// Room for so many servers.
    pub servers_max: usize,
    /// At most so many requests at one server; the rest waits.
    pub max_outstanding: Option<Limit>,
    /// Requests that wait at most, 0 to [`crate::pool::waiting::PENDING_MAX`]; more are refused with BUSY.
    pub waiting_max: usize,
    /// How often servers report, and this balancer looks at its timers.
    pub interval: Duration,
    /// Address of the controller; `None` = the pool is not scaled.
    pub controller: Option<SocketAddr>,
    /// When to ask it for more or fewer servers.
    pub scale: autoscale::Policy,
    /// How servers are judged.
    pub health: Rules,
    /// The addresses of the front and of each worker's server side, which are nobody's clients.
    pub own: Vec<SocketAddr>,
    /// Seed of everything that is random but no secret: epochs, ties.
    pub seed: u64,
}

impl Settings {
    /// The key of the configuration in which these differ from others, if one of them is for the life of a
    /// balancer. (What is random, and its own addresses, are not from a configuration.)
    pub fn fixed_difference(&self, other: &Settings) -> Option<&'static str> {
        let differ = [
            ("load_balancer.frame_size", self.format.size != other.format.size),
            ("key_file", self.key != other.key || self.format.tagged != other.format.tagged),
            ("load_balancer.workers", self.workers != other.workers),
            ("load_balancer.servers_max", self.servers_max != other.servers_max),
            ("load_balancer.waiting_max", self.waiting_max != other.waiting_max),
        ];
        differ.into_iter().find(|(_, differ)| *differ).map(|(key, _)| key)
    }
}

/// One worker's traffic with one slot.
#[derive(Debug)]
struct Lane {
    window: Arc<DispatchWindow>,
    estimate: Estimate,
    last_sent: Instant,
    last_sync: Instant,
    /// Whether the estimate has changed in this turn.
    dirty: bool,
    /// Whether the server has proved in this turn that it lives.
    heard: bool,
    /// Whether the server has answered this worker since its registration: before that, it would refuse
    /// requests.
    confirmed: bool,
    /// The server's frames to this worker that were seen, where frames are authenticated.
    replay: PeerReplay,
}

impl Lane {
    fn new(window: Arc<DispatchWindow>) -> Self {
        Lane {
            window,
            estimate: Estimate::default(),
            last_sent: Instant::ZERO,
            last_sync: Instant::ZERO,
            dirty: false,
            heard: false,
            confirmed: false,
            replay: PeerReplay::default(),
        }
    }

    /// Another registration has the slot now, or none.
    fn restart(&mut self, member: Option<&Member>) {
        self.estimate.rebase(self.window.sent());
        self.confirmed = false;
        self.heard = false;
        self.last_sync = Instant::ZERO;
        self.dirty = true;
        if let Some(stamp) = member.and_then(|member| member.extra.stamp) {
            self.replay.adopt(stamp);
            let _ = self.replay.accept(stamp); // its own process registers again: seen already
        }
    }
}

/// One worker's state machine.
pub struct NativeRole {
    shared: Arc<Shared>,
    /// The same throughout a turn.
    settings: WorkerSettings<Settings>,
    worker: u8,
    format: FrameFormat,
    primary: Option<Box<Primary>>,
    view: View<Extra>,
    lanes: Lanes<Lane>,
    selector: Selector,
    stats: Arc<NativeStats>,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    next_tick: Instant,
    /// Whether queued requests remain that the turn had no room for.
    has_more: bool,
}

/// Timers are looked at so many times an interval: how late a silent or lost thing is noticed.
const TICKS_PER_INTERVAL: u32 = 4;
/// A reply to a client who was refused: come back after this time.
const RETRY_AFTER: Duration = Duration::from_millis(20);

impl NativeRole {
    /// The workers of a balancer without servers; the first is the primary.
    pub fn workers(settings: Settings, now: Instant) -> Vec<NativeRole> {
        let mut rng = Rng::new(settings.seed);
        let (instance, epoch) = (rng.next_u64() | 1, (rng.next_u64() as u32).max(1));
        let shared = Arc::new(Shared::new(settings, instance, epoch));
        (0..shared.pool.settings().workers)
            .map(|worker| NativeRole::worker(&shared, worker as u8, &mut rng, now))
            .collect()
    }

    fn worker(shared: &Arc<Shared>, worker: u8, rng: &mut Rng, now: Instant) -> NativeRole {
        let settings = shared.pool.worker_settings();
        let slots = settings.servers_max;
        let lane = |slot| Lane::new(Arc::clone(shared.window(worker, slot).expect("made for all")));
        let primary = (worker == 0).then(|| Box::new(Primary::new(shared, &settings, rng.next_u64(), now)));
        NativeRole {
            worker,
            format: settings.format,
            primary,
            view: View::new(slots, &settings.own),
            lanes: Lanes::new(slots, lane),
            selector: Selector::new(settings.policy, rng.next_u64(), rng.next_u64()),
            stats: Arc::clone(&shared.stats[usize::from(worker)]),
            // Each worker counts its frames by itself, so each is a sender of its own.
            sealer: settings.key.as_ref().map(|key| Sealer::new(key, rng.next_u64() | 1)),
            opener: settings.key.as_ref().map(Opener::new),
            next_tick: now,
            has_more: false,
            shared: Arc::clone(shared),
            settings,
        }
    }

    /// Whether some server may be chosen, be it as a last resort.
    pub fn can_serve(&self) -> bool {
        self.shared.pool.can_serve()
    }

    /// Goes on with these settings, which all workers find at their next turn. What is random in them stays
    /// as it is, and so do the balancer's own addresses. Refuses, with the key of the configuration, what
    /// takes a new balancer.
    pub fn reconfigure(&self, new: Settings) -> Result<(), &'static str> {
        let changed = |old: &Settings| match old.fixed_difference(&new) {
            Some(key) => Err(key),
            None => Ok(Settings { secret: old.secret, own: old.own.clone(), seed: old.seed, ..new }),
        };
        self.shared.pool.reconfigure(changed).map(drop)
    }

    /// Adopts newer settings, if there are any. Between turns, so that they are the same throughout a turn.
    fn adopt(&mut self, now: Instant) {
        let Some(old) = self.settings.adopt() else { return };
        if self.settings.policy != old.policy {
            self.selector.set_policy(self.settings.policy);
        }
        if let Some(primary) = &mut self.primary {
            primary.adopt(now, &self.settings);
        }
        self.refresh();
    }

    /// Whether no request of this worker is outstanding, by its estimates, and none waits.
    pub fn is_idle(&self) -> bool {
        self.shared.pool.pending.is_empty() && self.lanes.iter().all(|lane| lane.estimate.outstanding() == 0)
    }

    /// What this worker counts.
    pub fn stats(&self) -> &Arc<NativeStats> {
        &self.stats
    }

    /// The selection tree, for inspection.
    pub fn tree(&self) -> &Tree {
        &self.shared.pool.tree
    }

    /// The estimate of this worker for a slot, for inspection.
    pub fn estimate(&self, slot: Slot) -> &Estimate {
        &self.lanes[slot].estimate
    }

    /// Authenticates a frame that leaves for a server or the controller; nothing may be patched afterwards.
    fn seal(&mut self, frame: &mut [u8]) {
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(frame);
        }
    }

    /// Notes that a slot's contribution to the tree may have changed in this turn.
    fn touch(&mut self, slot: Slot) {
        self.lanes.touch(slot).dirty = true;
    }

    /// Notes that a server has given a liveness signal in this turn.
    fn hear(&mut self, slot: Slot) {
        self.lanes.touch(slot).heard = true;
    }

    /// Copies what the primary has changed.
    fn refresh(&mut self) {
        let NativeRole { shared, view, lanes, .. } = self;
        view.refresh(&shared.pool.members, |slot, member| lanes.restart(slot).restart(member));
    }
}

impl TwoSided for NativeRole {
    fn faces_clients(&self, socket: SocketId) -> bool {
        socket == FRONT
    }

    fn on_front(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        self.on_requests(now, received, bytes, tx);
    }

    fn on_back(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        self.on_answers(now, received, bytes, tx);
    }

    fn publish(&mut self, now: Instant) {
        // Once per server, however many frames it sent.
        while let Some((slot, lane)) = self.lanes.next_touched() {
            let delta = if std::mem::take(&mut lane.dirty) { lane.estimate.publish() } else { 0 };
            let heard = std::mem::take(&mut lane.heard);
            if delta != 0 {
                self.shared.pool.tree.adjust(slot, delta);
            }
            if heard {
                self.alive(now, slot);
            }
        }
    }
}

impl Role for NativeRole {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx) {
        self.lanes.begin_turn();
        self.selector.begin_turn(now);
        self.adopt(now);
        self.refresh();
        self.on_both_sides(now, rx, tx);
        self.serve_pending(now, tx);
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        self.notice_stall(now);
        if now >= self.next_tick {
            let interval = self.settings.interval;
            self.next_tick = now + (interval / TICKS_PER_INTERVAL).max(Duration::from_millis(1));
            self.on_tick(now, tx);
        }
        self.send_order(now, tx);
        self.publish(now);
        self.serve_pending(now, tx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.has_more {
            return Some(Instant::ZERO);
        }
        let order = self.primary.as_ref().and_then(|primary| primary.orders.next_deadline());
        earliest(Some(self.next_tick), order)
    }
}

/// The frames of a receive slot. A datagram that is not a whole number of frames is one error.
fn frames<'a>(
    received: &Received,
    bytes: &'a mut [u8],
    format: FrameFormat,
) -> impl Iterator<Item = Result<(FrameRef, &'a mut [u8]), DropReason>> {
    let (slot, start, stride) = (received.slot, received.start as usize, received.stride as usize);
    bytes.chunks_mut(stride).enumerate().flat_map(move |(i, datagram)| {
        let whole = format.divides(datagram.len());
        let size = if whole { format.size } else { datagram.len() };
        let at = start + i * stride;
        datagram.chunks_mut(size).enumerate().map(move |(j, frame)| {
            let offset = (at + j * size) as u32;
            let frame_ref = FrameRef { slot, len: size as u16, offset };
            if whole { Ok((frame_ref, frame)) } else { Err(DropReason::Length) }
        })
    })
}

#[cfg(test)]
mod tests;
