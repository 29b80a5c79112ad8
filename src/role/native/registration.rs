//! Registration of servers at the primary, and their liveness signals. The primary stores nothing about a
//! server that has not proved its address by echoing a nonce.

use std::net::SocketAddr;
use std::time::Duration;

use zerocopy::FromBytes;

use super::back::ServerFrame;
use super::primary::{NativeRegistry, NativeServer, Registered};
use super::upkeep::RESPONDS;
use super::{BACK, NativeRole};
use crate::base::batch::{FrameRef, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::health::{self, Limits, Rules, State};
use crate::pool::outstanding::OUTSTANDING_MAX;
use crate::pool::select::Slot;
use crate::role::send_from_slot;
use crate::wire::message::Registration;
use crate::wire::tag::Stamp;
use crate::wire::{Frame, Header, Kind, RequestOp, ServerOp};

/// The longest report interval. A longer one counts as this.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

impl NativeRole {
    /// Handles a registration: challenges the server, or admits it. A SYNC confirms that.
    pub(super) fn on_register(
        &mut self,
        now: Instant,
        from: ServerFrame<'_>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let ServerFrame { peer, ref frame, stamp, .. } = from;
        let registration = Registration::from_bytes(frame.payload()).ok_or(DropReason::PayloadLength)?;
        let header = &frame.header;
        let instance = header.client_id.get();
        if header.cookie.get() == 0 {
            return self.challenge(now, from, tx);
        }
        if !self.shared.cookies.nonce_is_valid(now, peer, instance, header.cookie.get()) {
            self.stats.common.dropped.add(DropReason::Nonce, 1);
            return self.challenge(now, from, tx);
        }
        if self.view.is_own(peer, None) {
            return Err(DropReason::WrongSource);
        }
        let Some(primary) = &mut self.primary else { return Err(DropReason::Unexpected) };
        if let Some(stamp) = stamp {
            // A nonce is valid for some seconds, so it does not exclude a replay.
            primary.spent.spend(now, stamp)?;
            if let Some(slot) = primary.pool.registry().slot_of(registration.server_id) {
                let replay = &mut self.lanes[slot].replay;
                match replay.knows(stamp) {
                    true => replay.accept(stamp)?,
                    false => primary.spent.leave(now, replay.newest()), // if this process replaces that one
                }
            }
        }
        let (epoch, nonce) = (header.server_epoch.get(), header.sequence.get());
        let newcomer = Newcomer { addr: peer, instance, epoch, nonce, stamp, registration };
        let rules = self.settings.health;
        let slot = match newcomer.admit(now, primary.pool.registry_mut(), &rules) {
            Admission::IdTaken => return Err(DropReason::IdTaken),
            Admission::Full => return Err(DropReason::SlotsFull),
            Admission::Known(slot) => slot,
            Admission::New { slot, server, replaced_foreign } => {
                self.shared.pool.tree.adjust_foreign(slot, -(replaced_foreign as i32));
                self.as_primary(|primary| primary.pool.join(now, slot, *server));
                self.lanes[slot].last_sent = now;
                // The echoed nonce is the first liveness signal.
                self.apply(now, slot, health::HealthEvent::Alive, RESPONDS);
                slot
            }
        };
        self.owe_sync(slot);
        Ok(())
    }

    /// Turns the frame into a challenge: the sender must echo the nonce in its registration, from the same
    /// address. Servers register only at the primary's address.
    pub(super) fn challenge(
        &mut self,
        now: Instant,
        from: ServerFrame<'_>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        if self.primary.is_none() {
            return Err(DropReason::WrongSource);
        }
        let ServerFrame { peer, at, frame, .. } = from;
        let received = &frame.header;
        let mut header = Header::new(Kind::ControllerRequest, self.format.size);
        header.op = RequestOp::Challenge as u8;
        header.client_id.set(self.shared.instance);
        header.sequence.set(received.sequence.get());
        header.worker = self.worker;
        header.balancer_epoch.set(self.shared.epoch);
        header.server_epoch.set(received.server_epoch.get());
        header.cookie.set(self.shared.cookies.nonce(now, peer, received.client_id.get()));
        let bytes = frame.into_bytes();
        Frame::write(bytes, &header, &[]);
        self.seal(bytes);
        send_from_slot(tx, BACK, peer, at)
    }

    /// Turns a REGISTER of another frame size into a challenge of the same length that states the frame size
    /// of this pool. The server cannot use the challenge, but it can name the mistake. With a key the tag of
    /// such a frame cannot be checked, so it gets no answer.
    pub(super) fn state_frame_size(&mut self, peer: SocketAddr, at: FrameRef, bytes: &mut [u8], tx: &mut Tx) {
        let Ok((received, _)) = Header::ref_from_prefix(bytes) else { return };
        let is_register = Kind::from_wire(received.kind) == Some(Kind::ServerResponse)
            && ServerOp::from_wire(received.op) == Some(ServerOp::Register);
        let is_served = self.primary.is_some() && peer.port() != 0 && !self.view.is_own(peer, None);
        if !is_register || !is_served || self.format.tagged {
            return;
        }
        let mut header = Header::new(Kind::ControllerRequest, self.format.size);
        header.op = RequestOp::Challenge as u8;
        header.client_id.set(self.shared.instance);
        header.sequence.set(received.sequence.get());
        header.balancer_epoch.set(self.shared.epoch);
        Frame::write(bytes, &header, &[]);
        let _ = send_from_slot(tx, BACK, peer, at); // a full turn: the server registers again
    }

    /// Handles a liveness signal. A joining server is up only after it has answered every worker.
    pub(super) fn alive(&mut self, now: Instant, slot: Slot) {
        let Some(primary) = &mut self.primary else { return };
        let Some(server) = primary.pool.registry_mut().get_mut(slot) else { return };
        let is_joining = server.health.state() == State::Joining;
        if is_joining && !self.shared.pool.members.is_confirmed(slot, server.extra.epoch) {
            server.health.hear(now);
        } else {
            self.apply(now, slot, health::HealthEvent::Alive, RESPONDS);
        }
    }

    /// Takes a server's foreign load from its newest report. The primary counts it, once for all workers.
    pub(super) fn take_foreign(&mut self, slot: Slot, foreign: u32) {
        let Some(primary) = &mut self.primary else { return };
        let foreign = foreign.min(OUTSTANDING_MAX);
        let server = primary.pool.registry_mut().get_mut(slot).expect("the caller found it");
        let change = i64::from(foreign) - i64::from(std::mem::replace(&mut server.extra.foreign, foreign));
        if change != 0 {
            self.shared.pool.tree.adjust_foreign(slot, change as i32);
        }
    }

    /// Handles a report that a server is about to stop. All workers send the server a draining SYNC after
    /// their last request, even if an operator has drained it before.
    pub(super) fn note_stopping(&mut self, now: Instant, slot: Slot) {
        self.as_primary(|primary| primary.pool.leave(now, slot, "server stops"));
    }

    /// Handles the report that a server has finished its requests and is about to exit.
    pub(super) fn on_stopped(&mut self, now: Instant, slot: Slot) {
        let Some(primary) = &mut self.primary else { return };
        let Some(id) = primary.pool.registry().get(slot).map(|server| server.id) else { return };
        primary.orders.server_left(id);
        self.remove(now, slot, "stopped");
    }
}

/// A server that registers, after a nonce has proved its address.
struct Newcomer {
    addr: SocketAddr,
    instance: u64,
    epoch: u32,
    nonce: u64,
    stamp: Option<Stamp>,
    registration: Registration,
}

/// The result of a registration.
#[derive(Debug)]
enum Admission {
    /// The server has this slot already: the registration is a repetition.
    Known(Slot),
    /// The slot is the server's.
    New {
        slot: Slot,
        server: Box<NativeServer>,
        /// The `foreign` count of the registration that the server replaces.
        replaced_foreign: u32,
    },
    /// Another server that is alive has the id.
    IdTaken,
    /// All slots are taken.
    Full,
}

impl Newcomer {
    /// Finds a slot for the server. A restarted server takes the slot of its id if the previous server has
    /// the same address, is the same process, or is silent.
    fn admit(&self, now: Instant, registry: &mut NativeRegistry, rules: &Rules) -> Admission {
        let &Newcomer { addr, instance, epoch, nonce, stamp, ref registration } = self;
        let id = registration.server_id;
        let (slot, replaced) = match registry.slot_of(id) {
            Some(slot) => {
                let old = registry.get_mut(slot).expect("it was found there");
                let is_same_process = old.extra.instance == instance;
                if is_same_process && old.extra.epoch == epoch && old.addr == addr {
                    return Admission::Known(slot);
                }
                let is_silent = now.since(old.health.last_alive()) > old.limits.silence;
                if !(is_same_process || old.addr == addr || is_silent) {
                    return Admission::IdTaken;
                }
                if !is_same_process {
                    old.health.crash(now, &old.limits);
                }
                (slot, Some((old.past(), old.extra.foreign)))
            }
            None => match registry.free().next() {
                Some(free) => (free, None),
                None => return Admission::Full,
            },
        };
        let (past, replaced_foreign) = replaced.unwrap_or_else(|| (registry.departed.take(id, addr), 0));
        let interval = Duration::from_micros(u64::from(registration.report_interval_us.max(1_000)));
        let interval = interval.min(INTERVAL_MAX);
        let server = NativeServer {
            id,
            addr,
            weight: past.admin.weight(registration.weight),
            limits: Limits::for_interval(interval, rules),
            health: past.health(State::Joining, now),
            admin: past.admin,
            is_leaving: false,
            is_doubted: false,
            slow_since: None,
            extra: Registered { instance, epoch, nonce, foreign: 0, is_managed: true, interval, stamp },
        };
        Admission::New { slot, server: Box::new(server), replaced_foreign }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::departed::Identity;

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn newcomer(id: u32, port: u16, instance: u64, epoch: u32) -> Newcomer {
        let registration = Registration {
            server_id: id,
            queue_capacity: 64,
            report_interval_us: 10_000,
            weight: 1,
            reserved: [0; 2],
        };
        Newcomer { addr: addr(port), instance, epoch, nonce: 5, stamp: None, registration }
    }

    fn registry(slots: usize) -> NativeRegistry {
        NativeRegistry::new(slots, Identity::Id)
    }

    /// Admits a server as the primary does; returns its slot.
    fn admit(
        registry: &mut NativeRegistry,
        now: Instant,
        newcomer: &Newcomer,
    ) -> Result<usize, &'static str> {
        match newcomer.admit(now, registry, &Rules::default()) {
            Admission::New { slot, server, .. } => {
                registry.put(slot, *server);
                registry.check_invariants();
                Ok(slot.index())
            }
            Admission::Known(_) => Err("known"),
            Admission::IdTaken => Err("id taken"),
            Admission::Full => Err("full"),
        }
    }

    #[test]
    fn the_same_registration_twice_is_one_server() {
        let mut registry = registry(2);
        assert_eq!(admit(&mut registry, NOW, &newcomer(3, 1, 7, 1)), Ok(0));
        assert_eq!(admit(&mut registry, NOW, &newcomer(3, 1, 7, 1)), Err("known"));
        assert_eq!(registry.iter().count(), 1);
    }

    #[test]
    fn a_second_server_cannot_take_the_id_of_a_live_one_but_can_of_a_silent_one() {
        let mut registry = registry(2);
        admit(&mut registry, NOW, &newcomer(3, 1, 7, 1)).unwrap();
        assert_eq!(admit(&mut registry, NOW, &newcomer(3, 2, 8, 1)), Err("id taken"));
        let later = NOW + Duration::from_millis(101);
        assert_eq!(admit(&mut registry, later, &newcomer(3, 2, 8, 1)), Ok(0));
        assert_eq!(registry.get(Slot::new(0)).unwrap().addr, addr(2));
    }

    #[test]
    fn a_restart_on_the_same_address_replaces_at_once() {
        let mut registry = registry(2);
        admit(&mut registry, NOW, &newcomer(3, 1, 7, 1)).unwrap();
        assert_eq!(admit(&mut registry, NOW, &newcomer(3, 1, 8, 9)), Ok(0));
        assert_eq!(registry.get(Slot::new(0)).unwrap().extra.epoch, 9);
    }

    #[test]
    fn full_is_full_until_a_server_leaves() {
        let mut registry = registry(1);
        admit(&mut registry, NOW, &newcomer(3, 1, 7, 1)).unwrap();
        assert_eq!(admit(&mut registry, NOW, &newcomer(4, 2, 8, 1)), Err("full"));
        assert_eq!(registry.remove(Slot::new(0)).unwrap().id, 3);
        assert_eq!(admit(&mut registry, NOW, &newcomer(4, 2, 8, 1)), Ok(0));
    }
}
