//! What time brings: silence, probes, SYNC, and servers that are forgotten.

use super::*;
use crate::pool::shared::PoolShared;
use crate::wire::{Frame, Header, Kind, RequestOp, ServerState};

/// Why a server's state changes when it proves that it lives.
pub(super) const ANSWERS: &str = "it answers";
/// A server that is down, draining or disabled and silent is forgotten after this time.
const FORGET_AFTER: Duration = Duration::from_secs(10);

impl NativeRole {
    /// A process that was stopped, or whose machine was, has no verdict to give about others.
    pub(super) fn notice_own_pause(&mut self, now: Instant) {
        let Some(primary) = &mut self.primary else { return };
        let gap = now.since(std::mem::replace(&mut primary.last_turn, now));
        let usual = self.settings.interval * 3;
        if gap > usual.max(Duration::from_millis(50)) {
            for slot in 0..primary.registry.slot_count() {
                if let Some(server) = primary.registry.get_mut(Slot::new(slot)) {
                    server.health.forgive(now);
                }
            }
            primary.events.push(Event::Stalled(gap));
        }
    }

    /// Looks after every server, and, as the primary, after the size of the pool.
    pub(super) fn on_tick(&mut self, now: Instant, tx: &mut Tx) {
        self.refresh();
        for index in 0..self.view.slot_count() {
            let slot = Slot::new(index);
            let probe = self.judge(now, slot);
            let Some(&Member { extra: Extra { interval, draining, .. }, .. }) = self.view.get(slot) else {
                continue;
            };
            let lane = &self.lanes[slot];
            let pause = self.settings.interval.min(interval);
            let rested = now.since(lane.last_sync) >= pause;
            // The tail: the last requests may be lost, and nothing later would show the gap.
            let tail = lane.estimate.under_way() > 0 && now.since(lane.last_sent) >= self.settings.interval;
            if probe || (rested && (tail || !(lane.confirmed || draining))) {
                self.send_sync(now, slot, tx);
            }
            self.stats.servers[index].lost.set(self.lanes[slot].estimate.lost().max(0) as u64);
        }
        if let Some(primary) = &mut self.primary {
            let PoolShared { tree, finished, pending, .. } = &self.shared.pool;
            primary.auto.look(now, tree, finished.iter(), !pending.is_empty());
        }
        self.look_at_delays(now);
        self.size_up(now);
    }

    /// Writes leaves anew whose servers have become slower, or faster.
    fn look_at_delays(&mut self, now: Instant) {
        let Some(primary) = &mut self.primary else { return };
        let Primary { registry, delays, .. } = &mut **primary;
        let stats = &self.shared.stats;
        let served = |worker: usize, slot: Slot| &stats[worker].servers[slot.index()].common.served;
        let epoch = |slot| registry.get(slot).map(|server| server.epoch.into());
        if slowness::look(delays, now, stats.len(), served, epoch) {
            delays.slots().for_each(|slot| primary.write_leaf(now, slot, &self.shared.pool.tree));
        }
    }

    /// What the passing of time means for a server's health; true if it shall be probed.
    fn judge(&mut self, now: Instant, slot: Slot) -> bool {
        let Some(primary) = &mut self.primary else { return false };
        let Some(server) = primary.registry.get_mut(slot) else { return false };
        let server_is_slow = server.slow_since.is_some();
        let (event, probe) = server.health.on_tick(now, &server.limits);
        if let Some(event) = event {
            let why = match event {
                health::Event::ProbeLost => "it does not answer probes",
                health::Event::HoldOver => "it was held for long enough",
                _ => "it is silent",
            };
            self.apply(now, slot, event, why);
        } else if server.health.state() == State::Joining
            && self.shared.pool.members.is_confirmed(slot, server.epoch)
        {
            self.apply(now, slot, health::Event::Alive, ANSWERS); // every worker has had its answer
        }
        if server_is_slow {
            self.warm_up(now, slot);
        }
        if self.is_forgotten(now, slot) {
            self.remove(now, slot, "silent for too long");
        }
        probe
    }

    /// Shows the pool to the scaler.
    fn size_up(&mut self, now: Instant) {
        let Some(primary) = &self.primary else { return };
        let waiting = self.shared.pool.pending.len();
        self.stats.common.waiting.set(waiting);
        let mut sample = autoscale::Sample { outstanding: waiting, ..autoscale::Sample::default() };
        for (slot, server) in primary.registry.iter() {
            let outstanding = u64::from(self.shared.pool.tree.len(slot));
            self.stats.servers[slot.index()].outstanding.set(outstanding);
            match server.health.state() {
                State::Up => {
                    sample.up += 1;
                    sample.outstanding += outstanding;
                }
                State::Suspect => sample.silent += 1,
                State::Joining | State::Held | State::Down | State::Draining | State::Disabled => {}
            }
        }
        for stats in &self.shared.stats {
            sample.shed += stats.common.refused.get(DropReason::ServersFull);
            sample.arrived += stats.common.received.get();
        }
        self.scale(now, sample);
    }

    /// Applies an event to a server's health and what follows from it to the tree. Only the primary judges.
    pub(super) fn apply(&mut self, now: Instant, slot: Slot, event: health::Event, why: &'static str) {
        let Some(primary) = &mut self.primary else { return };
        let span = primary.registry.rules().slow_start;
        let Some(server) = primary.registry.get_mut(slot) else { return };
        let (id, addr, limits) = (server.id, server.addr, server.limits);
        if let Some(state) = server.health.on_event(now, event, &limits) {
            if state == State::Up && server.health.record().up_since() == now {
                server.slow_since = primary.slow_start.begin(now, span);
            }
            let reason = match state {
                State::Held => server.health.record().to_string().into(),
                _ => why.into(),
            };
            primary.events.push(Event::State { id, addr, state, reason });
            let stats = &self.stats.servers[slot.index()].common;
            stats.state.set(state as u64);
            stats.since.set(now.as_nanos());
            self.set_leaf(now, slot);
        }
    }

    /// A server that has come up gets a little more.
    fn warm_up(&mut self, now: Instant, slot: Slot) {
        if let Some(primary) = &mut self.primary {
            primary.write_leaf(now, slot, &self.shared.pool.tree);
        }
    }

    /// A server has said that it stops. All workers shall tell it when they have sent their last request, also if an operator
    /// had it drained before.
    pub(super) fn note_stopping(&mut self, now: Instant, slot: Slot) {
        let Some(primary) = &mut self.primary else { return };
        let Some(server) = primary.registry.get_mut(slot) else { return };
        if !std::mem::replace(&mut server.is_stopping, true) {
            self.apply(now, slot, health::Event::Drain, "it stops");
            self.set_leaf(now, slot);
        }
    }

    fn is_forgotten(&self, now: Instant, slot: Slot) -> bool {
        let Some(server) = self.primary.as_ref().and_then(|primary| primary.registry.get(slot)) else {
            return false;
        };
        matches!(server.health.state(), State::Down | State::Draining | State::Disabled)
            && now.since(server.health.last_alive()) > FORGET_AFTER
    }

    /// Frees a slot. What was outstanding there is nobody's any more; late replies still find their clients until
    /// another server has the slot.
    pub(super) fn remove(&mut self, now: Instant, slot: Slot, why: &'static str) {
        let Some(primary) = &mut self.primary else { return };
        let Some(server) = primary.registry.remove(slot) else { return };
        primary.events.push(Event::Left { id: server.id, addr: server.addr, reason: why });
        self.shared.pool.tree.adjust_foreign(slot, -(server.foreign as i32));
        self.set_leaf(now, slot);
        let stats = &self.stats.servers[slot.index()];
        stats.common.id_plus_one.set(0);
        stats.outstanding.set(0);
        stats.common.weight.set(0);
    }

    /// Turns the frame into a SYNC for the server that sent it.
    pub(super) fn sync_in_place(
        &mut self,
        now: Instant,
        slot: Slot,
        at: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let Some((to, header)) = self.sync_header(now, slot) else { return Ok(()) };
        Frame::write(bytes, &header, &[]);
        self.seal(bytes);
        let pushed = self.lanes.destination(slot, BACK, to, tx).is_some_and(|d| tx.push(d, at));
        if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
    }

    /// "So many requests I have sent you": finds lost ones, confirms the registration, asks for a report.
    fn sync_header(&mut self, now: Instant, slot: Slot) -> Option<(SocketAddr, Header)> {
        let member = *self.view.get(slot)?;
        let lane = &mut self.lanes[slot];
        lane.last_sync = now;
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
        // A full turn is no loss: the next tick asks again.
        if let Some(bytes) = tx.stage(destination, size) {
            Frame::write(bytes, &header, &[]);
            self.seal(bytes);
        }
    }
}
