//! When a server is checked, and the place that a check takes at it (primary).
//!
//! A check is work for a server, as a request is. So a server that has just answered a client is not asked at
//! all. A check in flight counts in the queue of its server: no request is sent behind it while another
//! server is free, and with `max_outstanding` it has a place of its own.
//!
//! An unanswered check must not block an idle server. It gives its place back after a few times as long as
//! checks of the server usually take, long before its timeout. And only some servers of a pool are checked at
//! a time.

use std::time::Duration;

use super::forward::Forwarder;
use super::health::DatagramPrimary;
use super::settings::{Affinity, DatagramSettings};
use crate::base::batch::Tx;
use crate::base::time::Instant;
use crate::pool::health::State;
use crate::pool::select::Slot;

/// A check keeps its place for this many times the usual response time of the server's checks.
const USUAL_FACTOR: u32 = 4;
/// The least time for which a check keeps its place.
const PLACE_MIN: Duration = Duration::from_millis(50);
/// Weight of the newest response time in the usual one: one part in this number.
const SMOOTHING: u32 = 8;
/// At most one part in this number of the servers have a check that keeps a place, but at least one server.
const PARTS: usize = 8;

/// Whether checks count in the queues. A flow lasts, and a check does not; nothing waits for one-way servers;
/// and a request that may not wait must not be refused for a check.
fn counts(settings: &DatagramSettings) -> bool {
    let has_queue = settings.max_outstanding.is_none() || settings.waiting_max > 0;
    settings.affinity == Affinity::None && settings.replies != Some(0) && has_queue
}

impl DatagramPrimary {
    /// Sends a check if it is due.
    pub(super) fn check_if_due(&mut self, core: &Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        if !self.checks_servers() {
            return;
        }
        let interval = self.check_interval();
        let most = (self.pool.registry().iter().count() / PARTS).max(1);
        let is_crowded = self.places >= most;
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        if server.extra.asked.is_some() || now < server.extra.next_check {
            return;
        }
        let counts = counts(&core.settings) && !server.is_leaving && server.extra.place_until.is_none();
        if server.state() == State::Up {
            if let Some(answered) = core.shared.signals[slot.index()].answered_since(now, interval) {
                server.extra.next_check = answered + interval;
                return;
            }
            if counts && is_crowded && now < server.extra.next_check + interval / 2 {
                return; // the next tick asks again
            }
        }
        self.check(core, now, slot, tx);
        let timeout = self.check_timeout();
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        if counts && server.extra.asked.is_some() {
            let patience = (server.extra.check_time * USUAL_FACTOR).max(PLACE_MIN).min(timeout);
            server.extra.place_until = Some(now + patience);
            self.places += 1;
            core.shared.pool.tree.adjust(slot, 1);
        }
    }

    /// Notes how long a check took.
    pub(super) fn time_check(&mut self, now: Instant, slot: Slot) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let sensed = &mut server.extra;
        let took = sensed.asked.map(|asked| now.since(asked.sent));
        if let Some(took) = took {
            sensed.check_time = match sensed.check_time {
                Duration::ZERO => took,
                usual => usual - usual / SMOOTHING + took / SMOOTHING,
            };
        }
    }

    /// Gives the place of a check back if the check has ended, or takes far longer than usual.
    pub(super) fn settle_place(&mut self, core: &Forwarder, now: Instant, slot: Slot) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let Some(until) = server.extra.place_until else { return };
        if server.extra.asked.is_none() || server.is_leaving || now >= until {
            server.extra.place_until = None;
            self.release_place(core, slot);
        }
    }

    /// Takes a check off the queue of a server that no longer has it.
    pub(super) fn release_place(&mut self, core: &Forwarder, slot: Slot) {
        self.places -= 1;
        core.release(slot);
    }

    /// The slots at which a check has a place.
    pub(super) fn places(&self) -> impl Iterator<Item = Slot> {
        let servers = self.pool.registry().iter();
        servers.filter(|(_, server)| server.extra.place_until.is_some()).map(|(slot, _)| slot)
    }
}
