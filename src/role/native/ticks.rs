//! When a worker's periodic work is due.
//!
//! A worker with requests has four ticks in a report interval: silence and losses are noticed up to a quarter
//! of an interval late. Without requests most ticks would find nothing. So an idle worker sleeps until a
//! server's health or an unconfirmed registration calls for a tick. The primary looks at the other workers'
//! counters every [`LOOK`], and a worker other than the primary needs no tick at all.

use std::time::Duration;

use super::NativeRole;
use crate::base::time::{Instant, earliest};
use crate::pool::health::State;
use crate::pool::select::Slot;

/// Ticks per interval.
const TICKS_PER_INTERVAL: u32 = 4;
/// The longest time between two ticks of the primary. All pools of a machine look at the same moments.
const LOOK: Duration = Duration::from_millis(200);

/// The time of the next tick.
#[derive(Debug)]
pub(super) struct Ticks {
    next: Option<Instant>,
    /// Whether requests came or went since the last tick, or are outstanding.
    is_active: bool,
    /// Whether the next tick follows the last one at the pace of a worker with requests.
    is_paced: bool,
    /// The planned time from the last tick to the next, beyond the pace of a worker with requests.
    pause: Duration,
    /// Requests that had arrived at all workers at the last tick.
    arrived: u64,
}

impl Ticks {
    /// The first tick is due at once.
    pub fn new(now: Instant) -> Ticks {
        let (is_active, is_paced) = (false, false);
        Ticks { next: Some(now), is_active, is_paced, pause: Duration::ZERO, arrived: 0 }
    }

    /// The time of the next tick; `None` if only a datagram can make one necessary.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| now >= at)
    }

    /// Something changed that a tick must see in this turn, or in the next one.
    pub fn soon(&mut self) {
        self.next = Some(Instant::ZERO);
    }

    /// Notes whether there are requests.
    #[inline]
    pub fn note(&mut self, is_active: bool) {
        self.is_active |= is_active;
    }

    /// Notes the number of requests that have arrived at all workers.
    pub fn note_arrived(&mut self, arrived: u64) {
        let before = std::mem::replace(&mut self.arrived, arrived);
        self.note(arrived != before);
    }

    /// The additional time that may pass between two turns without a stall.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// A tick begins.
    pub fn begin(&mut self) {
        (self.next, self.is_active, self.is_paced) = (None, false, false);
    }

    /// Plans the tick after one at `now` that found no requests.
    fn plan(&mut self, now: Instant, interval: Duration, due: Option<Instant>) {
        let period = period(interval);
        // At a multiple of the period, so that ticks for several servers fall together.
        let due = due.map(|at| (at - Duration::from_nanos(1)).max(now).next_multiple(period));
        self.pause = due.map_or(Duration::ZERO, |at| at.since(now + period));
        self.next = earliest(self.next, due);
    }

    /// Ends a turn: with requests, a tick follows within a quarter of the interval.
    #[inline]
    pub fn settle(&mut self, now: Instant, interval: Duration) {
        if self.is_active && !self.is_paced {
            self.is_paced = true;
            self.next = earliest(self.next, Some(now + period(interval)));
            self.pause = Duration::ZERO;
        }
    }
}

/// The time between two ticks of a worker with requests.
fn period(interval: Duration) -> Duration {
    (interval / TICKS_PER_INTERVAL).max(Duration::from_millis(1))
}

impl NativeRole {
    /// Plans the next tick, at the end of one.
    pub(super) fn plan_tick(&mut self, now: Instant) {
        let interval = self.settings.interval;
        let mut due = self.primary.as_ref().map(|_| now.next_multiple(self.look()));
        for index in 0..self.view.slot_count() {
            let slot = Slot::new(index);
            due = earliest(due, self.due_at(now, slot));
            self.ticks.note(self.lanes[slot].estimate.outstanding() > 0);
        }
        self.ticks.plan(now, interval, due);
    }

    /// When the server of a slot needs the next tick.
    fn due_at(&self, now: Instant, slot: Slot) -> Option<Instant> {
        let member = self.view.get(slot)?;
        let lane = &self.lanes[slot];
        let needs_sync = !(lane.confirmed || member.extra.draining);
        let sync = needs_sync.then(|| lane.last_sync + self.sync_pause(member.extra.interval));
        let server = self.primary.as_ref().and_then(|primary| primary.pool.registry().get(slot));
        let health = server.map(|server| match server.health.state() {
            // Another worker may confirm it at any time.
            State::Joining => now,
            _ if server.slow_since.is_some() => now,
            _ => server.health.next_tick(&server.limits),
        });
        earliest(sync, health)
    }

    /// The time between two looks of the primary.
    fn look(&self) -> Duration {
        let scale = &self.settings.scale;
        match self.settings.controller {
            // The autoscaler gets several samples in each of its windows.
            Some(_) => LOOK.min(scale.grow_after.min(scale.shrink_after) / 2).max(Duration::from_millis(1)),
            None => LOOK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;
    use super::*;
    use crate::base::batch::{Rx, Tx};
    use crate::role::Role;
    use crate::role::native::NativePoolSettings;

    /// Lets the role take the turns that it asks for in a second. Returns their number.
    fn turns_in_a_second(role: &mut NativeRole, mut now: Instant) -> usize {
        let (mut rx, mut tx) = (Rx::new(8, 2048), Tx::new(256, 4096, 1));
        let end = now + Duration::from_secs(1);
        let mut count = 0;
        while let Some(at) = role.next_deadline().filter(|&at| at < end) {
            now = now.max(at);
            role.on_batch(now, &mut rx, &mut tx);
            role.on_timeout(now, &mut tx);
            tx.clear();
            count += 1;
        }
        count
    }

    #[test]
    fn without_servers_the_primary_looks_five_times_a_second_and_other_workers_sleep() {
        let now = Instant::from_nanos(1_000_000_000);
        let settings = NativePoolSettings { workers: 2, controller: None, ..Bench::settings(None) };
        let mut workers = NativeRole::workers(settings, now);
        // The first turn is due at once.
        assert_eq!(turns_in_a_second(&mut workers[0], now), 1 + 4);
        assert_eq!((turns_in_a_second(&mut workers[1], now), workers[1].next_deadline()), (1, None));
        assert_eq!(turns_in_a_second(&mut workers[0], now + Duration::from_secs(1)), 5);
    }

    #[test]
    fn requests_bring_a_tick_each_quarter_of_an_interval_and_their_end_ends_that() {
        let at = |micros: u64| Instant::from_nanos(micros * 1_000);
        let interval = Duration::from_millis(10);
        let mut ticks = Ticks::new(at(0));
        ticks.begin();
        ticks.plan(at(0), interval, Some(at(90_000)));
        ticks.settle(at(0), interval);
        assert_eq!((ticks.next(), ticks.pause()), (Some(at(90_000)), Duration::from_micros(87_500)));
        ticks.note(true);
        ticks.settle(at(1_000), interval);
        ticks.settle(at(2_000), interval);
        assert_eq!((ticks.next(), ticks.pause()), (Some(at(3_500)), Duration::ZERO));
        ticks.begin();
        ticks.plan(at(3_500), interval, None);
        ticks.settle(at(3_500), interval);
        assert_eq!(ticks.next(), None);
        ticks.soon();
        assert!(ticks.is_due(at(0)));
    }
}
