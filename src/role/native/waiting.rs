//! Requests that wait in the pool's room until a server has room for them: [`crate::pool::waiting`].

use std::net::{IpAddr, Ipv4Addr};

use super::reply::{Asker, refusal};
use super::*;
use crate::pool::local_addresses::LocalAddresses;
use crate::pool::waiting::{Host, NoRoom, Room, cap};
use crate::wire::{Frame, Header, Status};

/// The patience of a client that names no deadline.
const NO_DEADLINE: Duration = Duration::from_secs(3600);
/// The longest time after which one that was refused is asked to come back.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// Who waits. Another worker than the one that read its request may send it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    peer: SocketAddr,
    local_ip: Option<IpAddr>,
    listener: u8,
}

impl Guest {
    /// In an empty place.
    pub const NOBODY: Guest = Guest {
        peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local_ip: None,
        listener: LocalAddresses::UNSPECIFIED,
    };
}

/// The room of a pool, without places.
pub(super) fn room(settings: &Settings) -> Room<Guest> {
    Room::new(settings.waiting_max, settings.format.size)
}

impl Host for NativeRole {
    type Server = (Slot, Member);

    fn reserve(&mut self) -> Option<(Slot, Member)> {
        NativeRole::reserve(self)
    }

    fn release(&mut self, (slot, _): (Slot, Member)) {
        self.shared.tree.adjust(slot, -1);
    }
}

impl NativeRole {
    /// A server for a request that has just come: behind those that wait already.
    pub(super) fn reserve_in_turn(&mut self) -> Option<(Slot, Member)> {
        if self.shared.room.is_empty() { self.reserve() } else { None }
    }

    /// Has a request wait. It is sent when the turn ends, at the earliest.
    pub(super) fn wait(
        &self,
        now: Instant,
        asker: &Asker,
        deadline_us: u32,
        mark: u64,
        bytes: &[u8],
    ) -> Result<(), NoRoom> {
        let patience = match deadline_us {
            0 => NO_DEADLINE,
            micros => Duration::from_micros(micros.into()),
        };
        let guest = Guest { peer: asker.peer, local_ip: asker.local_ip, listener: asker.listener };
        self.shared.room.enter(now, patience, guest, mark, bytes)
    }

    /// Whether a request is a repetition of one that still waits: it is answered when that is.
    pub(super) fn still_waits(&self, header: &Header) -> bool {
        header.attempt > 1 && !self.shared.room.is_empty() && self.shared.room.has(mark_of(header))
    }

    /// When one that was refused may come back: when those who wait have been served.
    pub(super) fn retry_after(&self) -> Duration {
        self.shared.room.expected_wait().clamp(RETRY_AFTER, RETRY_AFTER_MAX)
    }

    /// Sends what waits as far as servers have room for it. At the end of a turn, when the tree knows what has come of it.
    pub(super) fn serve_waiting(&mut self, now: Instant, tx: &mut Tx) {
        self.has_more = false;
        if self.shared.room.is_empty() {
            return;
        }
        let (shared, size) = (Arc::clone(&self.shared), self.format.size);
        let mut expired = 0;
        loop {
            if !tx.has_room_for(size) {
                self.has_more = true;
                break;
            }
            if shared.usable.load(Ordering::Relaxed) == 0 {
                // Nobody is to wait for a server that is not there.
                let Some(mut waiting) = shared.room.take() else { break };
                let asker = Asker::new(waiting.guest.peer, waiting.guest.local_ip, waiting.guest.listener);
                self.stats.busy_no_server.add(1);
                self.refuse_waiting(&asker, waiting.bytes(), tx);
                shared.room.vacate(waiting);
                continue;
            }
            let Some(((slot, member), mut waiting)) = shared.room.call(now, self, &mut expired) else {
                break;
            };
            let asker = Asker::new(waiting.guest.peer, waiting.guest.local_ip, waiting.guest.listener);
            let waited = (now.since(waiting.since).as_micros() as u32).min(u32::MAX - 1);
            self.stats.waited.add(1);
            self.stats.waiting_delay.record(waited);
            let destination = self.server_destination(slot, member.addr, tx).expect("there is room");
            let bytes = tx.stage(destination, size).expect("there is room");
            bytes.copy_from_slice(waiting.bytes());
            take_off_deadline(bytes, waited);
            self.dispatch(now, &asker, slot, &member, bytes);
            shared.room.vacate(waiting);
        }
        self.stats.drops.add(DropReason::Expired, expired);
    }

    fn refuse_waiting(&mut self, asker: &Asker, bytes: &mut [u8], tx: &mut Tx) {
        let frame = Frame::check(bytes, &self.format).expect("checked before it waited");
        refusal(frame, Status::Busy, RETRY_AFTER);
        let destination = tx.destination(FRONT, asker.peer, asker.local_ip).expect("there is room");
        tx.stage(destination, bytes.len()).expect("there is room").copy_from_slice(bytes);
    }

    /// Sends what waits in the next turns, be the servers busy or not: somebody else is to go on.
    pub fn stop_waiting(&self) {
        self.shared.tree.set_cap(u32::MAX);
    }

    /// Has requests wait again: nobody else has gone on. For the primary.
    pub fn wait_again(&self) {
        if let Some(primary) = &self.primary {
            let found = primary.auto.limit();
            self.shared.tree.set_cap(found.unwrap_or(cap(self.settings.max_outstanding)));
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u64 {
        self.shared.room.len()
    }
}

/// What is left of a deadline after a wait: the server, too, drops what nobody waits for any more.
fn take_off_deadline(bytes: &mut [u8], waited_us: u32) {
    let (header, _): (&mut Header, _) = zerocopy::FromBytes::mut_from_prefix(bytes).expect("a whole frame");
    let deadline = header.deadline_us.get();
    if deadline > 0 {
        header.deadline_us.set(deadline.saturating_sub(waited_us).max(1)); // 0 would be no deadline
    }
}

/// Tells requests apart: all attempts of one have the same.
pub(super) fn mark_of(header: &Header) -> u64 {
    let mixed = header.client_id.get() ^ header.sequence.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32) | 1 << 63
}
