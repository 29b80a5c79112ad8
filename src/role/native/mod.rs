//! The native pool: sends each request to the server with the shortest queue, and each reply to its client.
//!
//! One [`NativeRole`] is one *worker*: it has a client-side socket, a server-side socket, and a lane per
//! server (estimate, dispatch window). Workers share the selection tree, the members and the keys. Worker 0
//! is the *primary*: only the primary registers servers, judges their health, scales the pool, and sends
//! scaling requests to the controller.
//!
//! Never touches a socket, a clock or a log. Events come from [`NativeRole::poll_event`], counters are in
//! [`NativeStats`].
//!
//! | file | contents |
//! |---|---|
//! | `shared.rs` | state that the workers share |
//! | `front.rs` | requests of clients: check, select, patch, forward |
//! | `waiting.rs` | queued requests |
//! | `reply.rs` | clients of requests, and refusals |
//! | `back.rs` | frames of servers: replies, reports, counters |
//! | `primary.rs` | state of the primary |
//! | `registration.rs` | registration of servers (primary) |
//! | `ticks.rs` | when periodic work is due |
//! | `spent.rs` | registrations that may not be used again (primary) |
//! | `upkeep.rs` | periodic work: SYNC (all workers); silence, probes, removal (primary) |
//! | `orders.rs`, `open_orders.rs` | scaling requests to the controller (primary) |
//! | `handover.rs` | state for a successor, and its takeover |

mod back;
mod front;
mod handover;
mod open_orders;
mod orders;
mod primary;
mod registration;
mod reply;
mod shared;
mod spent;
mod ticks;
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
use primary::NativePrimary;
pub use primary::{NativeRegistry, NativeServer, Registered};
use shared::{Extra, Member, NativeShared};
use ticks::Ticks;

/// The client-side socket.
pub const FRONT: SocketId = SocketId(0);
/// The server-side socket, for servers and the controller.
pub const BACK: SocketId = SocketId(1);

/// Settings of a native pool.
#[derive(Clone, Debug, PartialEq)]
pub struct NativePoolSettings {
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// The key that all components share; `None`: frames are not authenticated.
    pub key: Option<[u8; 16]>,
    /// The key of cookies and nonces: random, and known to this balancer and its successors only.
    pub secret: [u8; 16],
    /// Workers, 1 to [`crate::pool::members::WORKERS_MAX`].
    pub workers: usize,
    /// How a server is selected.
    pub policy: PolicyKind,
    /// The route of a reply.
    pub reply_path: ReplyPath,
    /// Number of slots, 1 to 4,096.
    pub servers_max: usize,
    /// Maximum outstanding requests per server; further requests are queued. `None`: no limit.
    pub max_outstanding: Option<Limit>,
    /// Maximum queued requests, 0 to [`crate::pool::waiting::PENDING_MAX`]; further ones are refused with
    /// BUSY.
    pub waiting_max: usize,
    /// Time between SYNCs to a server whose last requests are unconfirmed. The timers of a worker with
    /// requests run four times in this time. 1 ms to 10 s.
    pub interval: Duration,
    /// Address of the controller; `None`: the pool is not scaled.
    pub controller: Option<SocketAddr>,
    /// When the pool requests more or fewer servers from the controller.
    pub scale: autoscale::Policy,
    /// How servers are judged.
    pub health: Rules,
    /// Addresses of the client-side socket and of each worker's server-side socket. Datagrams from these
    /// addresses are not requests.
    pub own: Vec<SocketAddr>,
    /// Seed of random numbers that are not secret: epochs, ties.
    pub seed: u64,
}

impl NativePoolSettings {
    /// The configuration key of a setting that differs from `other` and cannot change while the balancer
    /// runs. Random numbers and the balancer's own addresses are not from a configuration and do not count.
    pub fn fixed_difference(&self, other: &NativePoolSettings) -> Option<&'static str> {
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
struct NativeLane {
    window: Arc<DispatchWindow>,
    estimate: Estimate,
    last_sent: Instant,
    last_sync: Instant,
    /// Whether the estimate has changed in this turn.
    dirty: bool,
    /// Whether the server has given a liveness signal in this turn.
    heard: bool,
    /// Whether the slot is in the list of servers that need a SYNC.
    owes_sync: bool,
    /// Whether the server has answered this worker since its registration. Before that, the server would
    /// refuse the worker's requests.
    confirmed: bool,
    /// Stamps of the server's frames to this worker, if frames are authenticated.
    replay: PeerReplay,
}

impl NativeLane {
    fn new(window: Arc<DispatchWindow>) -> Self {
        NativeLane {
            window,
            estimate: Estimate::default(),
            last_sent: Instant::ZERO,
            last_sync: Instant::ZERO,
            dirty: false,
            heard: false,
            owes_sync: false,
            confirmed: false,
            replay: PeerReplay::default(),
        }
    }

    /// Starts again for another registration in the slot, or for none.
    fn restart(&mut self, member: Option<&Member>) {
        self.estimate.rebase(self.window.sent());
        self.confirmed = false;
        self.heard = false;
        self.last_sync = Instant::ZERO;
        self.dirty = true;
        if let Some(stamp) = member.and_then(|member| member.extra.stamp) {
            self.replay.adopt(stamp);
            let _ = self.replay.accept(stamp); // refused if the same process registers again: already seen
        }
    }
}

/// One worker's state machine.
pub struct NativeRole {
    shared: Arc<NativeShared>,
    /// The same throughout a turn.
    settings: WorkerSettings<NativePoolSettings>,
    worker: u8,
    format: FrameFormat,
    primary: Option<Box<NativePrimary>>,
    view: View<Extra>,
    lanes: Lanes<NativeLane>,
    selector: Selector,
    stats: Arc<NativeStats>,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    ticks: Ticks,
    /// Servers that need a SYNC, each once.
    owed: Vec<Slot>,
    /// Whether queued requests remain that the turn had no room for.
    has_more: bool,
}

/// Time after which a refused client may repeat its request, at least.
const RETRY_AFTER: Duration = Duration::from_millis(20);

impl NativeRole {
    /// The workers of a balancer without servers; the first is the primary.
    pub fn workers(settings: NativePoolSettings, now: Instant) -> Vec<NativeRole> {
        let mut rng = Rng::new(settings.seed);
        let (instance, epoch) = (rng.next_u64() | 1, (rng.next_u64() as u32).max(1));
        let shared = Arc::new(NativeShared::new(settings, instance, epoch));
        (0..shared.pool.settings().workers)
            .map(|worker| NativeRole::worker(&shared, worker as u8, &mut rng, now))
            .collect()
    }

    fn worker(shared: &Arc<NativeShared>, worker: u8, rng: &mut Rng, now: Instant) -> NativeRole {
        let settings = shared.pool.worker_settings();
        let slots = settings.servers_max;
        let lane = |slot| {
            NativeLane::new(Arc::clone(
                shared.window(worker, slot).expect("each worker has a window per slot"),
            ))
        };
        let primary =
            (worker == 0).then(|| Box::new(NativePrimary::new(shared, &settings, rng.next_u64(), now)));
        NativeRole {
            worker,
            format: settings.format,
            primary,
            view: View::new(slots, &settings.own),
            lanes: Lanes::new(slots, lane),
            selector: Selector::new(settings.policy, rng.next_u64(), rng.next_u64()),
            stats: Arc::clone(&shared.stats[usize::from(worker)]),
            // Each worker numbers its own frames, so each is a sender of its own.
            sealer: settings.key.as_ref().map(|key| Sealer::new(key, rng.next_u64() | 1)),
            opener: settings.key.as_ref().map(Opener::new),
            ticks: Ticks::new(now),
            owed: Vec::with_capacity(slots),
            has_more: false,
            shared: Arc::clone(shared),
            settings,
        }
    }

    /// Whether a server can be selected, even if only as a last resort.
    pub fn can_serve(&self) -> bool {
        self.shared.pool.can_serve()
    }

    /// Changes the settings; all workers adopt them at their next turn. Secret, seed and own addresses do not
    /// change. Fails with the configuration key of a setting that requires a restart.
    pub fn reconfigure(&self, new: NativePoolSettings) -> Result<(), &'static str> {
        let changed = |old: &NativePoolSettings| match old.fixed_difference(&new) {
            Some(key) => Err(key),
            None => {
                Ok(NativePoolSettings { secret: old.secret, own: old.own.clone(), seed: old.seed, ..new })
            }
        };
        self.shared.pool.reconfigure(changed).map(drop)
    }

    /// Adopts newer settings, if there are any, at the beginning of a turn.
    fn adopt(&mut self, now: Instant) {
        let Some(old) = self.settings.adopt() else { return };
        if self.settings.policy != old.policy {
            self.selector.set_policy(self.settings.policy);
        }
        if let Some(primary) = &mut self.primary {
            primary.adopt(now, &self.settings);
        }
        self.refresh();
        self.ticks.soon();
    }

    /// The version of the members that this worker has seen. When it rises at the primary, the other workers
    /// must take a turn.
    pub fn members_version(&self) -> u64 {
        self.view.version()
    }

    /// Whether no request is queued, and none of this worker is outstanding by its estimates.
    pub fn is_idle(&self) -> bool {
        self.shared.pool.pending.is_empty() && self.lanes.iter().all(|lane| lane.estimate.outstanding() == 0)
    }

    /// This worker's counters.
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

    /// Authenticates a frame to a server or the controller. It must not be patched afterwards.
    fn seal(&mut self, frame: &mut [u8]) {
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(frame);
        }
    }

    /// Notes that an estimate has changed in this turn.
    fn touch(&mut self, slot: Slot) {
        self.lanes.touch(slot).dirty = true;
    }

    /// Notes that a server has given a liveness signal in this turn.
    fn hear(&mut self, slot: Slot) {
        self.lanes.touch(slot).heard = true;
    }

    /// Copies the primary's changes of the members.
    fn refresh(&mut self) {
        let NativeRole { shared, view, lanes, ticks, .. } = self;
        view.refresh(&shared.pool.members, |slot, member| {
            lanes.restart(slot).restart(member);
            ticks.soon();
        });
    }
}

impl TwoSided for NativeRole {
    // Answers first would shorten response times, but leaves servers that answer at once with uneven shares.
    const ANSWERS_FIRST: bool = false;

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
        // Once per server, regardless of the number of its frames.
        while let Some((slot, lane)) = self.lanes.next_touched() {
            let delta = if std::mem::take(&mut lane.dirty) { lane.estimate.publish() } else { 0 };
            let heard = std::mem::take(&mut lane.heard);
            self.ticks.note(delta != 0 || lane.estimate.published() > 0);
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
        if self.ticks.is_due(now) {
            self.ticks.begin();
            self.on_tick(now, tx);
            self.plan_tick(now);
        }
        self.send_owed_syncs(now, tx);
        self.send_order(now, tx);
        self.publish(now);
        self.serve_pending(now, tx);
        self.ticks.settle(now, self.settings.interval);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.has_more || self.view.is_behind(&self.shared.pool.members) {
            return Some(Instant::ZERO);
        }
        let order = self.primary.as_ref().and_then(|primary| primary.orders.next_deadline());
        earliest(earliest(self.ticks.next(), self.next_owed_sync()), order)
    }
}

/// The frames of a receive slot. A datagram that is not a whole number of frames yields one error.
fn frames<'a>(received: &Received, bytes: &'a mut [u8], format: FrameFormat) -> Frames<'a> {
    let Received { slot, start, stride, .. } = *received;
    Frames { rest: bytes, in_datagram: 0, offset: start, slot, stride, format }
}

/// See [`frames`]. By hand, since nested iterators of the standard library cost 5 % of a reply's
/// instructions.
struct Frames<'a> {
    rest: &'a mut [u8],
    /// What is left of the present datagram, in bytes: a whole number of frames.
    in_datagram: usize,
    /// Where `rest` begins in the slot.
    offset: u32,
    slot: u16,
    stride: u32,
    format: FrameFormat,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<(FrameRef, &'a mut [u8]), DropReason>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut size = self.format.size;
        if self.in_datagram == 0 {
            if self.rest.is_empty() {
                return None;
            }
            self.in_datagram = self.rest.len().min(self.stride as usize);
            if !self.format.divides(self.in_datagram) {
                size = self.in_datagram;
            }
        }
        let is_whole = size == self.format.size;
        let (frame, rest) = std::mem::take(&mut self.rest).split_at_mut(size);
        let at = FrameRef { slot: self.slot, len: size as u16, offset: self.offset };
        self.rest = rest;
        self.in_datagram -= size;
        self.offset += size as u32;
        Some(if is_whole { Ok((at, frame)) } else { Err(DropReason::Length) })
    }
}

#[cfg(test)]
mod tests;
