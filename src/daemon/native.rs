//! The role of a native pool as a worker's loop drives it.

use std::ops::Range;

use super::worker::Balancing;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::event::Event;
use crate::pool::part::Part;
use crate::pool::stats::{DatagramStats, WorkerStats};
use crate::role::native::{FRONT, NativeRole};

/// The name of the short form's pool.
pub const NAME: &str = "native";

impl Balancing for NativeRole {
    fn fronts(&self) -> Range<u16> {
        FRONT.0..FRONT.0 + 1
    }

    fn backs(&self) -> Range<u16> {
        FRONT.0 + 1..FRONT.0 + 2
    }

    fn stop_waiting(&mut self) {
        NativeRole::stop_waiting(self);
    }

    fn wait_again(&mut self) {
        NativeRole::wait_again(self);
    }

    fn export(&mut self, now: Instant) -> Part {
        NativeRole::export(self, now)
    }

    /// The counters of the servers' reports end the requests in flight.
    fn retire(&mut self, _: Instant) {
        NativeRole::stop_waiting(self);
    }

    fn is_idle(&self, _: Instant) -> bool {
        NativeRole::is_idle(self)
    }

    fn can_serve(&self) -> bool {
        NativeRole::can_serve(self)
    }

    fn shared_version(&self) -> u64 {
        self.members_version()
    }

    fn poll_event(&mut self) -> Option<Event> {
        NativeRole::poll_event(self)
    }

    fn counters(&self) -> &WorkerStats {
        &self.stats().common
    }

    fn datagram_counters(&self) -> Option<&DatagramStats> {
        None
    }

    fn count_unusable(&self, count: u64) {
        self.stats().common.dropped.add(DropReason::Length, count);
    }
}
