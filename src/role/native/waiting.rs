//! A worker's use of the pending queue ([`crate::pool::waiting`]): push, serve, refuse.

use std::sync::Arc;
use std::time::Duration;

use super::reply::{Client, Origin, refusal};
use super::shared::ReservedServer;
use super::{BACK, FRONT, NativeRole, RETRY_AFTER};
use crate::base::batch::Tx;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::waiting::{Dispatcher, NotQueued, Pending, Push, ServerSource, cap};
use crate::wire::{Frame, Header, Status};

/// The queue deadline of a request that carries none.
const NO_DEADLINE: Duration = Duration::from_secs(3600);
/// The longest time after which a refused client may repeat its request.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// A worker at the end of its turn.
struct Turn<'a> {
    role: &'a mut NativeRole,
    now: Instant,
    tx: &'a mut Tx,
}

impl ServerSource<Client> for Turn<'_> {
    type Server = ReservedServer;

    fn reserve(&mut self) -> Option<ReservedServer> {
        self.role.reserve()
    }

    fn release(&mut self, server: ReservedServer) {
        self.role.shared.pool.release(server.slot);
    }
}

impl Dispatcher<Client> for Turn<'_> {
    fn has_room(&self) -> bool {
        self.tx.has_room_for(self.role.format.size)
    }

    fn can_serve(&self) -> bool {
        self.role.can_serve()
    }

    fn send(&mut self, server: ReservedServer, request: &mut Pending<Client>) {
        if let Err(reason) = self.forward(server, request) {
            self.role.shared.pool.release(server.slot);
            self.role.stats.common.dropped.add(reason, 1);
        }
    }

    fn refuse(&mut self, request: &mut Pending<Client>) {
        self.role.stats.common.refused.add(DropReason::NoServer, 1);
        if let Err(reason) = self.send_refusal(request) {
            self.role.stats.common.dropped.add(reason, 1);
        }
    }
}

impl Turn<'_> {
    /// Sends a copy of a queued request to the server that was reserved for it.
    fn forward(&mut self, server: ReservedServer, request: &mut Pending<Client>) -> Result<(), DropReason> {
        let Turn { role, now, tx } = self;
        let waited = (now.since(request.since).as_micros() as u32).min(u32::MAX - 1);
        role.stats.common.waited.add(1);
        role.stats.common.waiting_delay.record(waited);
        let origin = Origin::new(request.client, None);
        let destination =
            role.lanes.destination(server.slot, BACK, server.addr, tx).ok_or(DropReason::TurnFull)?;
        let bytes = tx.stage(destination, role.format.size).ok_or(DropReason::TurnFull)?;
        bytes.copy_from_slice(request.bytes());
        let mut frame = Frame::check(bytes, &role.format)?;
        take_off_deadline(&mut frame.header, waited);
        role.dispatch(*now, &origin, server, frame);
        Ok(())
    }

    fn send_refusal(&mut self, request: &mut Pending<Client>) -> Result<(), DropReason> {
        let Turn { role, tx, .. } = self;
        let Client { addr, local } = request.client;
        let local_ip = role.shared.pool.locals.get(local);
        let destination = tx.destination(FRONT, addr, local_ip).ok_or(DropReason::TurnFull)?;
        let bytes = tx.stage(destination, role.format.size).ok_or(DropReason::TurnFull)?;
        bytes.copy_from_slice(request.bytes());
        refusal(Frame::check(bytes, &role.format)?, Status::Busy, RETRY_AFTER);
        Ok(())
    }
}

impl NativeRole {
    /// Reserves a server for a request that has just arrived; `None` if requests are queued ahead of it.
    pub(super) fn reserve_in_turn(&mut self) -> Option<ReservedServer> {
        if self.shared.pool.pending.is_empty() { self.reserve() } else { None }
    }

    /// Queues a request, to be sent at the end of the turn at the earliest.
    pub(super) fn queue(&self, now: Instant, client: Client, frame: &Frame<'_>) -> Result<(), NotQueued> {
        let deadline = match frame.header.deadline_us.get() {
            0 => NO_DEADLINE,
            micros => Duration::from_micros(micros.into()),
        };
        let key = key_of(&frame.header);
        self.shared.pool.pending.push(now, Push { client, deadline, key, bytes: frame.bytes() })
    }

    /// Whether a request repeats a queued request, whose reply will answer both.
    pub(super) fn is_duplicate(&self, header: &Header) -> bool {
        let pending = &self.shared.pool.pending;
        header.attempt > 1 && !pending.is_empty() && pending.contains(key_of(header))
    }

    /// The time after which a refused client may repeat its request: the queued requests are served by then.
    pub(super) fn retry_after(&self) -> Duration {
        self.shared.pool.pending.expected_wait().clamp(RETRY_AFTER, RETRY_AFTER_MAX)
    }

    /// Sends queued requests as long as servers are below their limit. At the end of a turn.
    pub(super) fn serve_pending(&mut self, now: Instant, tx: &mut Tx) {
        self.has_more = false;
        if self.shared.pool.pending.is_empty() {
            return;
        }
        self.ticks.note(true);
        let shared = Arc::clone(&self.shared);
        let served = shared.pool.pending.serve(now, &mut Turn { role: self, now, tx });
        self.has_more = served.has_more;
        self.stats.common.dropped.add(DropReason::Expired, served.expired);
    }

    /// Lifts the limit, before another process takes over: queued requests are sent in the next turns.
    pub fn stop_waiting(&self) {
        self.shared.pool.lift_limit();
    }

    /// Restores the limit after a failed takeover. Does nothing at other workers than the primary.
    pub fn wait_again(&self) {
        if let Some(primary) = &self.primary {
            let found = primary.pool.limit();
            self.shared.pool.tree.set_cap(found.unwrap_or(cap(self.settings.max_outstanding)));
        }
    }

    /// The number of queued requests.
    pub fn waiting(&self) -> u64 {
        self.shared.pool.pending.len()
    }
}

/// Subtracts the wait from a request's deadline: the server, too, drops requests that no client waits for.
fn take_off_deadline(header: &mut Header, waited_us: u32) {
    let deadline = header.deadline_us.get();
    if deadline > 0 {
        header.deadline_us.set(deadline.saturating_sub(waited_us).max(1)); // 0 would be no deadline
    }
}

/// The request key: all attempts of a request have the same one.
fn key_of(header: &Header) -> u64 {
    let mixed = header.client_id.get() ^ header.sequence.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32) | 1 << 63
}
