//! How a server becomes a member, and how its primary hears of it. Nothing is stored for whoever has not proved its
//! address by echoing a nonce.

use super::back::header_of;
use super::upkeep::ANSWERS;
use super::*;
use crate::pool::outstanding::OUTSTANDING_MAX;
use crate::pool::registry::Admission;
use crate::wire::message::Registration;
use crate::wire::tag::Stamp;
use crate::wire::{Frame, Header, Kind, RequestOp};

impl NativeRole {
    /// A server wants to join.
    pub(super) fn on_register(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        at: FrameRef,
        bytes: &mut [u8],
        stamp: Option<Stamp>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let frame = Frame::check(bytes, &self.format)?;
        let registration = Registration::from_bytes(frame.payload()).ok_or(DropReason::PayloadLength)?;
        let header = frame.header;
        let instance = header.client_id.get();
        if header.cookie.get() == 0 {
            return self.challenge(now, peer, at, bytes, tx);
        }
        if !self.shared.cookies.nonce_is_valid(now, peer, instance, header.cookie.get()) {
            self.stats.common.dropped.add(DropReason::Nonce, 1);
            return self.challenge(now, peer, at, bytes, tx);
        }
        if peer.port() == 0 || self.view.is_own(peer, None) {
            return Err(DropReason::WrongSource);
        }
        let Some(primary) = &mut self.primary else { return Err(DropReason::Unexpected) };
        let id = registration.server_id;
        if let (Some(stamp), Some(slot)) = (stamp, primary.registry.slot_of(id)) {
            // A nonce is good for a while, so it alone does not tell a registration from its replay.
            let replay = &mut self.lanes[slot].replay;
            if replay.knows(stamp) {
                replay.accept(stamp)?;
            }
        }
        let (epoch, nonce) = (header.server_epoch.get(), header.sequence.get());
        let slot = match primary.registry.admit(now, peer, instance, epoch, nonce, stamp, &registration) {
            Admission::IdTaken => return Err(DropReason::IdTaken),
            Admission::Full => return Err(DropReason::SlotsFull),
            Admission::Known(slot) => slot,
            Admission::New { slot, replaced_foreign } => {
                primary.events.push(Event::Joined { id, addr: peer });
                self.shared.pool.tree.adjust_foreign(slot, -(replaced_foreign as i32));
                let stats = &self.stats.servers[slot.index()].common;
                stats.id_plus_one.set(u64::from(id) + 1);
                let state = primary.registry.get(slot).map_or(State::Joining, |server| server.health.state());
                stats.state.set(state as u64);
                stats.since.set(now.as_nanos());
                self.set_leaf(now, slot);
                self.lanes[slot].last_sent = now;
                self.apply(now, slot, health::Event::Alive, ANSWERS); // it has echoed a nonce: the first proof of life
                slot
            }
        };
        self.sync_in_place(now, slot, at, bytes, tx)
    }

    /// Turns the frame into a challenge: "echo this nonce, and I know that you are there". Only the primary's address is
    /// one to register at.
    pub(super) fn challenge(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        at: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        if self.primary.is_none() {
            return Err(DropReason::WrongSource);
        }
        let asked = *header_of(bytes);
        let mut header = Header::new(Kind::ControllerRequest, self.format.size);
        header.op = RequestOp::Challenge as u8;
        header.client_id.set(self.shared.instance);
        header.sequence.set(asked.sequence.get());
        header.worker = self.worker;
        header.balancer_epoch.set(self.shared.epoch);
        header.server_epoch.set(asked.server_epoch.get());
        header.cookie.set(self.shared.cookies.nonce(now, peer, asked.client_id.get()));
        Frame::write(bytes, &header, &[]);
        self.seal(bytes);
        send_from_slot(tx, BACK, peer, at)
    }

    /// A server has proved that it lives. One that is joining must have answered every worker before it is up.
    pub(super) fn alive(&mut self, now: Instant, slot: Slot) {
        let Some(primary) = &mut self.primary else { return };
        let Some(server) = primary.registry.get_mut(slot) else { return };
        if server.health.state() == State::Joining
            && !self.shared.pool.members.is_confirmed(slot, server.epoch)
        {
            server.health.hear(now);
        } else {
            self.apply(now, slot, health::Event::Alive, ANSWERS);
        }
    }

    /// What is in the server's queue from others, by its newest report. The primary counts it, once for all workers.
    pub(super) fn take_foreign(&mut self, slot: Slot, foreign: u32) {
        let Some(primary) = &mut self.primary else { return };
        let foreign = foreign.min(OUTSTANDING_MAX);
        let server = primary.registry.get_mut(slot).expect("the caller found it");
        let change = i64::from(foreign) - i64::from(std::mem::replace(&mut server.foreign, foreign));
        if change != 0 {
            self.shared.pool.tree.adjust_foreign(slot, change as i32);
        }
    }

    /// A server has finished and is about to exit.
    pub(super) fn on_stopped(&mut self, now: Instant, slot: Slot) {
        let Some(primary) = &mut self.primary else { return };
        let Some(id) = primary.registry.get(slot).map(|server| server.id) else { return };
        primary.orders.server_left(id);
        self.remove(now, slot, "stopped");
    }
}
