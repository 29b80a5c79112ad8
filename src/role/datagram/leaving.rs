//! What the primary does with servers that leave; see [`super::drain`].

use std::time::Duration;

use super::drain::{DrainPhase, Leaving, is_checked, is_serving};
use super::forward::Forwarder;
use super::health::DatagramPrimary;
use super::shared::Noticed;
use crate::base::batch::Tx;
use crate::base::time::Instant;
use crate::pool::select::Slot;

/// Why a server leaves.
const NOT_DESIRED: &str = "no longer desired";
/// Why a server that was about to leave stays.
const DESIRED_AGAIN: &str = "desired again";
/// After a drain, the time for threads without a datagram to notice it, beside the timeout of a request.
const NOTICE: Duration = Duration::from_secs(2);

impl DatagramPrimary {
    /// A server is not desired any more. `has_moved`: its name leads to another address now, so its flows
    /// follow the name.
    pub(super) fn begin_leaving(&mut self, now: Instant, slot: Slot, has_moved: bool) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        match &mut server.extra.leaving {
            Some(leaving) if has_moved && leaving.phase == DrainPhase::Flows => {
                leaving.phase = DrainPhase::Moving; // published with the other servers
            }
            Some(_) => {}
            None => {
                let stays = is_serving(server.health.state()) && !has_moved;
                let phase = if stays { DrainPhase::Flows } else { DrainPhase::Moving };
                server.extra.leaving = Some(Leaving::new(now, phase));
                self.pool.leave(now, slot, NOT_DESIRED);
            }
        }
    }

    /// A server that was about to leave is desired again.
    pub(super) fn stop_leaving(&mut self, now: Instant, slot: Slot) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        if server.extra.leaving.take().is_some() {
            self.pool.stay(now, slot, DESIRED_AGAIN);
        }
    }

    /// Ends drains until this number of servers give room, those that have lasted longest first.
    pub(super) fn make_room(&mut self, now: Instant, wanting: usize) {
        let leaving = || self.pool.registry().iter().filter_map(|(slot, s)| Some((s.extra.leaving?, slot)));
        let giving = leaving().filter(|(leaving, _)| leaving.phase == DrainPhase::Over).count();
        let mut drains: Vec<_> = leaving()
            .filter(|(leaving, _)| leaving.phase != DrainPhase::Over)
            .map(|(leaving, slot)| (leaving.since, slot.index()))
            .collect();
        drains.sort_unstable();
        for (_, index) in drains.into_iter().take(wanting.saturating_sub(giving)) {
            let server = self.pool.registry_mut().get_mut(Slot::new(index));
            if let Some(leaving) = server.and_then(|server| server.extra.leaving.as_mut()) {
                leaving.end(now);
            }
        }
    }

    /// Finds out whether a server that leaves is dead: it answers no checks, or its port is closed. Then its
    /// flows move. `timeout` is that of a request.
    pub(super) fn watch_leaving(&mut self, now: Instant, slot: Slot, noticed: &Noticed, timeout: Duration) {
        let check_timeout = self.check_timeout();
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let (heard_at, asked, fall) = (server.extra.heard_at, server.extra.asked, server.limits.fall);
        let Some(leaving) = server.extra.leaving.as_mut().filter(|l| l.phase == DrainPhase::Flows) else {
            return;
        };
        if noticed.alive_at > heard_at {
            leaving.misses = 0;
        }
        if asked.is_some_and(|asked| asked.sent + check_timeout <= now && noticed.alive_at < asked.sent) {
            leaving.misses = leaving.misses.saturating_add(1);
        }
        let is_refused = noticed.refused && now.since(noticed.alive_at) >= timeout;
        if leaving.misses >= fall || is_refused {
            leaving.phase = DrainPhase::Moving;
            self.pool.publish_all(now);
        }
    }

    /// Checks a server that leaves, ends its drain in time, and removes it when nothing is in flight there.
    pub(super) fn look_after_leaving(&mut self, core: &mut Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        let is_empty = core.shared.pool.tree.len(slot) == 0;
        let (limit, timeout) = (core.settings.drain_timeout, core.settings.timeout);
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let Some(leaving) = &mut server.extra.leaving else { return };
        let is_over = leaving.phase == DrainPhase::Over;
        let is_awaited = leaving.awaits_clients && leaving.phase == DrainPhase::Flows;
        let is_late = is_over && now.since(leaving.over_since) >= timeout + NOTICE;
        if is_empty && !is_awaited || is_late {
            return self.remove(core, now, slot, NOT_DESIRED);
        }
        if !is_over && now.since(leaving.since) >= limit {
            leaving.end(now);
            return self.pool.publish_all(now);
        }
        if is_checked(server.health.state(), server.extra.leaving) {
            self.check_if_due(core, now, slot, tx);
        }
    }
}
