//! What time brings: silence, probes, SYNC, and servers that are forgotten.

use super::*;
use crate::health;
use crate::wire::{Frame, Header, Kind, RequestOp, ServerState};

/// A server that is down, draining or disabled and silent is forgotten after this time.
const FORGET_AFTER: Duration = Duration::from_secs(10);

impl Balancer {
    /// A process that was stopped, or whose machine was, has no verdict to give about others.
    pub(super) fn notice_own_pause(&mut self, now: Instant) {
        let gap = now.since(self.last_turn);
        self.last_turn = now;
        let usual = self.settings.interval * 3;
        if gap > usual.max(Duration::from_millis(50)) {
            for slot in 0..self.fleet.slot_count() {
                if let Some(server) = self.fleet.get_mut(Slot::new(slot)) {
                    server.health.forgive(now);
                }
            }
            self.tell(Event::Paused(gap));
        }
    }

    /// Looks after every server, then after the size of the pool.
    pub(super) fn on_tick(&mut self, now: Instant, tx: &mut Tx) {
        let mut sample = scale::Sample::default();
        for index in 0..self.fleet.slot_count() {
            let slot = Slot::new(index);
            let Some(server) = self.fleet.get_mut(slot) else { continue };
            let (event, probe) = server.health.on_tick(now, &server.limits);
            let interval = server.limits.probe;
            if let Some(event) = event {
                self.apply(now, slot, event);
            }
            if self.is_forgotten(now, slot) {
                self.remove(slot, "silent for too long");
                continue;
            }
            let lane = &self.lanes[index];
            // The tail: the last requests may be lost, and nothing later would show the gap.
            let tail = lane.estimate.under_way() > 0
                && now.since(lane.last_sent) >= self.settings.interval
                && now.since(lane.last_sync) >= self.settings.interval.min(interval);
            if probe || tail {
                self.send_sync(now, slot, tx);
            }
            let state = self.fleet.get(slot).expect("still there").health.state();
            if state == State::Up {
                sample.up += 1;
                sample.outstanding += u64::from(self.tree.len(slot));
            }
            let stats = &self.stats.servers[index];
            stats.outstanding.set(u64::from(self.tree.len(slot)));
            stats.lost.set(self.lanes[index].estimate.lost().max(0) as u64);
        }
        sample.shed = self.stats.busy_shed.get();
        sample.arrived = self.stats.requests.get();
        self.scale(now, sample);
    }

    /// Applies an event to a server's health and what follows from it to the tree.
    pub(super) fn apply(&mut self, now: Instant, slot: Slot, event: health::Event) {
        let Some(server) = self.fleet.get_mut(slot) else { return };
        let (id, limits) = (server.id, server.limits);
        if let Some(state) = server.health.on_event(now, event, &limits) {
            self.stats.servers[slot.index()].state.set(state as u64);
            self.set_leaf(slot);
            self.tell(Event::State { id, state });
        }
    }

    fn is_forgotten(&self, now: Instant, slot: Slot) -> bool {
        let server = self.fleet.get(slot).expect("the caller found it");
        let state = server.health.state();
        matches!(state, State::Down | State::Draining | State::Disabled)
            && now.since(server.health.last_alive()) > FORGET_AFTER
    }

    /// Frees a slot. What was outstanding there is nobody's any more; late replies still find their clients
    /// only while the slot is taken by the same address, so they are dropped and counted.
    pub(super) fn remove(&mut self, slot: Slot, why: &'static str) {
        let Some(server) = self.fleet.remove(slot) else { return };
        let lane = &mut self.lanes[slot.index()];
        lane.estimate.rebase(lane.window.sent());
        self.tree.adjust(slot, -(server.foreign as i32));
        self.touch(slot);
        self.set_leaf(slot);
        let stats = &self.stats.servers[slot.index()];
        stats.id_plus_one.set(0);
        stats.outstanding.set(0);
        self.tell(Event::Left { id: server.id, why });
    }

    /// "So many requests I have sent you": finds lost ones, confirms the registration, asks for a report.
    pub(super) fn sync_header(&mut self, now: Instant, slot: Slot) -> Header {
        let server = self.fleet.get(slot).expect("the caller found it");
        let draining = server.health.state() == State::Draining;
        let lane = &mut self.lanes[slot.index()];
        lane.last_sync = now;
        let mut header = Header::new(Kind::ControllerRequest, self.settings.format.size);
        header.op = RequestOp::Sync as u8;
        header.client_id.set(self.instance);
        header.sequence.set(server.nonce);
        header.worker = self.worker;
        header.balancer_epoch.set(self.epoch);
        header.server_epoch.set(server.epoch);
        header.slot.set(slot.index() as u16);
        header.dispatch_seq.set(lane.window.sent());
        header.dispatch_us.set(now.wrapping_micros());
        header.server_state = if draining { ServerState::Draining } else { ServerState::Ready } as u8;
        header
    }

    fn send_sync(&mut self, now: Instant, slot: Slot, tx: &mut Tx) {
        let header = self.sync_header(now, slot);
        let to = self.fleet.get(slot).expect("the caller found it").addr;
        let size = self.settings.format.size;
        let Some(destination) = self.server_destination(slot, to, tx) else { return };
        // A full turn is no loss: the next tick asks again.
        if let Some(bytes) = tx.stage(destination, size) {
            Frame::write(bytes, &header, &[]);
            self.seal(bytes);
        }
    }
}
