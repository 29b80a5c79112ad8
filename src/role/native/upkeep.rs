//! Periodic work: SYNC at every worker; silence, probes and the removal of silent servers at the primary.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::primary::NativePrimary;
use super::shared::{Extra, Member};
use super::{BACK, NativeRole};
use crate::base::batch::Tx;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::autoscale;
use crate::pool::event::Event;
use crate::pool::health::{self, State};
use crate::pool::outlier::Outcomes;
use crate::pool::select::Slot;
use crate::pool::stats::Counter;
use crate::wire::{Frame, Header, Kind, ReplyPath, RequestOp, ServerState};

/// The reason of a state change that follows a liveness signal.
pub(super) const RESPONDS: &str = "response received";
/// The primary removes a down, draining or disabled server after this time of silence.
const REMOVE_AFTER: Duration = Duration::from_secs(10);

impl NativeRole {
    /// Reports an event-loop stall. The primary ignores the servers' silence during the stall.
    pub(super) fn notice_stall(&mut self, now: Instant) {
        let longest = (self.settings.interval * 3).max(Duration::from_millis(50)) + self.ticks.pause();
        let Some(primary) = &mut self.primary else { return };
        if let Some(gap) = primary.stalls.on_turn(now, longest) {
            primary.pool.registry_mut().iter_mut().for_each(|(_, server)| server.health.forgive(now));
            primary.pool.report(Event::Stalled(gap));
        }
    }

    /// Supervises every server, and at the primary the size of the pool. Between two ticks, [`Ticks`] must
    /// know when the next one is due.
    ///
    /// [`Ticks`]: super::ticks::Ticks
    pub(super) fn on_tick(&mut self, now: Instant, tx: &mut Tx) {
        self.refresh();
        for index in 0..self.view.slot_count() {
            let slot = Slot::new(index);
            let probe = self.judge(now, slot);
            let Some(&Member { extra: Extra { interval, draining, .. }, .. }) = self.view.get(slot) else {
                continue;
            };
            let lane = &self.lanes[slot];
            let is_due = now.since(lane.last_sync) >= self.sync_pause(interval);
            // The last requests may be lost, and no later request would reveal the gap.
            let has_tail =
                lane.estimate.in_transit() > 0 && now.since(lane.last_sent) >= self.settings.interval;
            if probe || (is_due && (has_tail || !(lane.confirmed || draining))) {
                self.send_sync(now, slot, tx);
            }
            self.stats.servers[index].lost.set(self.lanes[slot].estimate.lost().max(0) as u64);
        }
        self.as_primary(|primary| primary.pool.on_tick(now));
        self.judge_replies(now);
        self.size_up(now);
    }

    /// Compares the servers by their requests that end without a reply, or with an error. A server may
    /// acknowledge requests, or claim that it never received them, and send no replies: then it looks idle
    /// and alive. Replies that go directly to clients are not seen, so nothing is known of them.
    fn judge_replies(&mut self, now: Instant) {
        let is_seen = self.settings.reply_path == ReplyPath::Balancer;
        let shared = Arc::clone(&self.shared);
        self.as_primary(|NativePrimary { pool, ended, .. }| {
            pool.compare(now, "no reply, or an error", |slot, _| {
                let of_workers = shared.stats.iter().map(|stats| &stats.servers[slot.index()].common);
                let [sent, answered, failed] = of_workers.fold([0; 3], |[sent, answered, failed], stats| {
                    let counts = [&stats.dispatched, &stats.answered, &stats.failed_answers];
                    let [of_sent, of_answered, of_failed] = counts.map(Counter::get);
                    [sent + of_sent, answered + of_answered, failed + of_failed]
                });
                let ended_now = sent.saturating_sub(shared.pool.tree.own_len(slot).into());
                // An acknowledgement may be read before the reply, which has time until the next comparison.
                let ended = std::mem::replace(&mut ended[slot.index()], ended_now);
                let without_reply = ended.saturating_sub(answered);
                let ended = ended.max(answered);
                is_seen.then_some(Outcomes { ended, failed: without_reply + failed })
            });
        });
    }

    /// Applies the passing of time to a server's health. Returns whether the server needs a probe.
    fn judge(&mut self, now: Instant, slot: Slot) -> bool {
        let Some(primary) = &mut self.primary else { return false };
        let Some(server) = primary.pool.registry_mut().get_mut(slot) else { return false };
        let (event, probe) = server.health.on_tick(now, &server.limits);
        let (state, epoch) = (server.health.state(), server.extra.epoch);
        if let Some(event) = event {
            let reason = match event {
                health::HealthEvent::ProbeLost => "no response to probes",
                health::HealthEvent::HoldOver => "hold-down time over",
                _ => "silence",
            };
            self.apply(now, slot, event, reason);
        } else if state == State::Joining && self.shared.pool.members.is_confirmed(slot, epoch) {
            self.apply(now, slot, health::HealthEvent::Alive, RESPONDS); // to every worker
        }
        if self.is_abandoned(now, slot) {
            self.remove(now, slot, "silent for too long");
        }
        probe
    }

    /// Samples the pool for the autoscaler.
    fn size_up(&mut self, now: Instant) {
        let Some(primary) = &self.primary else { return };
        let waiting = self.shared.pool.pending.len();
        self.stats.common.waiting.set(waiting);
        let mut sample = autoscale::Sample { outstanding: waiting, ..autoscale::Sample::default() };
        for (slot, server) in primary.pool.registry().iter() {
            let outstanding = u64::from(self.shared.pool.tree.len(slot));
            self.ticks.note(outstanding > 0);
            self.stats.servers[slot.index()].outstanding.set(outstanding);
            match server.state() {
                State::Up => {
                    sample.up += 1;
                    sample.outstanding += outstanding;
                }
                State::Suspect => sample.silent += 1,
                State::Joining
                | State::Held
                | State::Down
                | State::Draining
                | State::Disabled
                | State::Looping => {}
            }
        }
        for stats in &self.shared.stats {
            sample.shed += stats.common.refused.get(DropReason::ServersFull);
            sample.arrived += stats.common.received.get();
        }
        self.ticks.note_arrived(sample.arrived);
        self.scale(now, sample);
    }

    /// Whether a server without traffic has been silent for [`REMOVE_AFTER`].
    fn is_abandoned(&self, now: Instant, slot: Slot) -> bool {
        let server = self.primary.as_ref().and_then(|primary| primary.pool.registry().get(slot));
        server.is_some_and(|server| {
            matches!(server.health.state(), State::Down | State::Draining | State::Disabled)
                && now.since(server.health.last_alive()) > REMOVE_AFTER
        })
    }

    /// Removes a server from its slot. Late replies still reach their clients until another server has the
    /// slot.
    pub(super) fn remove(&mut self, now: Instant, slot: Slot, reason: &'static str) {
        let removed = self.as_primary(|primary| primary.pool.remove(now, slot, reason));
        if let Some(server) = removed.flatten() {
            let newest = self.lanes[slot].replay.newest();
            if let Some(primary) = self.primary.as_mut().filter(|_| self.opener.is_some()) {
                primary.spent.leave(now, newest);
            }
            self.shared.pool.tree.adjust_foreign(slot, -(server.extra.foreign as i32));
            self.stats.servers[slot.index()].outstanding.set(0);
        }
    }

    /// Minimum time between two SYNCs to a server with this report interval.
    pub(super) fn sync_pause(&self, interval: Duration) -> Duration {
        self.settings.interval.min(interval)
    }

    /// Notes that a server needs a SYNC: it has registered, or it stops. The SYNC is not sent at once but by
    /// a timer, at most once in a pause, since the server may answer it with the frame that calls for the
    /// next one.
    pub(super) fn owe_sync(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.lanes[slot].owes_sync, true) {
            self.owed.push(slot);
        }
    }

    /// When the server in a slot may get its next SYNC; `None` without a server.
    fn sync_due(&self, slot: Slot) -> Option<Instant> {
        let interval = self.view.get(slot)?.extra.interval;
        Some(self.lanes[slot].last_sync + self.sync_pause(interval))
    }

    /// When the next SYNC is due that servers need; `None` if none needs one.
    pub(super) fn next_owed_sync(&self) -> Option<Instant> {
        if self.owed.is_empty() {
            return None;
        }
        self.owed.iter().filter_map(|&slot| self.sync_due(slot)).min()
    }

    /// Sends the SYNCs that servers need and that are due.
    pub(super) fn send_owed_syncs(&mut self, now: Instant, tx: &mut Tx) {
        let mut index = 0;
        while let Some(&slot) = self.owed.get(index) {
            let due = self.sync_due(slot).filter(|_| self.lanes[slot].owes_sync);
            if due.is_some_and(|due| due > now) {
                index += 1;
                continue;
            }
            self.owed.swap_remove(index);
            self.lanes[slot].owes_sync = false;
            if due.is_some() {
                self.send_sync(now, slot, tx);
            }
        }
    }

    /// The header of a SYNC, which states the number of requests sent. The server finds lost requests by it
    /// and answers with a report. A SYNC also confirms the registration.
    fn sync_header(&mut self, now: Instant, slot: Slot) -> Option<(SocketAddr, Header)> {
        let member = *self.view.get(slot)?;
        let lane = &mut self.lanes[slot];
        (lane.last_sync, lane.owes_sync) = (now, false);
        let mut header = Header::new(Kind::ControllerRequest, self.format.size);
        header.op = RequestOp::Sync as u8;
        header.client_id.set(self.shared.instance);
        header.sequence.set(member.extra.nonce);
        header.worker = self.worker;
        header.balancer_epoch.set(self.shared.epoch);
        header.server_epoch.set(member.epoch);
        header.slot.set(slot.index() as u16);
        header.dispatch_seq.set(lane.window.sent());
        header.dispatch_us.set(now.wrapping_micros());
        header.server_state =
            if member.extra.draining { ServerState::Draining } else { ServerState::Ready } as u8;
        Some((member.addr, header))
    }

    fn send_sync(&mut self, now: Instant, slot: Slot, tx: &mut Tx) {
        let Some((to, header)) = self.sync_header(now, slot) else { return };
        let size = self.format.size;
        let Some(destination) = self.lanes.destination(slot, BACK, to, tx) else { return };
        // A SYNC that a full turn drops is no loss: the next tick sends one.
        if let Some(bytes) = tx.stage(destination, size) {
            Frame::write(bytes, &header, &[]);
            self.seal(bytes);
        }
    }
}
