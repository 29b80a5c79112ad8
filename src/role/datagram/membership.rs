//! The members of a pool: the primary makes them the desired servers.

use std::collections::{HashMap, HashSet};

use super::forward::Forwarder;
use super::health::{DatagramPrimary, DatagramServer};
use super::slots::Left;
use crate::base::time::Instant;
use crate::pool::desired::DesiredServer;
use crate::pool::event::Event;
use crate::pool::select::Slot;

/// Why a server leaves.
const NOT_DESIRED: &str = "no longer desired";
/// Why a server that was about to leave stays.
const DESIRED_AGAIN: &str = "desired again";

impl DatagramPrimary {
    /// Makes the desired servers the members: new servers join, the others finish their requests and leave.
    pub fn set_servers(&mut self, core: &mut Forwarder, now: Instant, desired: Vec<DesiredServer>) {
        let mut by_addr = HashMap::with_capacity(desired.len());
        for server in &desired {
            by_addr.entry(server.addr).or_insert(server);
        }
        for slot in self.pool.registry().slots() {
            let Some(server) = self.pool.registry_mut().get_mut(slot) else { continue };
            match by_addr.get(&server.addr) {
                Some(desired) => {
                    server.id = desired.id;
                    server.weight = server.admin.weight(desired.weight);
                    self.pool.stay(now, slot, DESIRED_AGAIN);
                }
                None => self.pool.leave(now, slot, NOT_DESIRED),
            }
        }
        let mut present: HashSet<_> = self.pool.registry().iter().map(|(_, server)| server.addr).collect();
        let mut has_to_wait = false;
        for server in desired.iter().filter(|server| present.insert(server.addr)) {
            let addr = server.addr;
            if core.ports_to(addr).is_empty() {
                self.pool.report(Event::NoPort { addr });
                continue;
            }
            let registry = self.pool.registry();
            match self.slots.find(now, addr, registry) {
                Some(slot) => self.take_in(core, now, slot, server),
                // It joins later: a slot rests, or a server is about to leave.
                None if registry.free().next().is_some() || registry.iter().any(|(_, s)| s.is_leaving) => {
                    has_to_wait = true;
                }
                None => self.pool.report(Event::NoRoom { addr }),
            }
        }
        if has_to_wait {
            core.shared.want_still(desired);
        }
        self.pool.publish_all(now);
        core.refresh();
    }

    fn take_in(&mut self, core: &Forwarder, now: Instant, slot: Slot, desired: &DesiredServer) {
        let &DesiredServer { id, addr, weight } = desired;
        self.slots.last_generation = self.slots.last_generation.wrapping_add(1);
        let past = self.pool.registry_mut().departed.take(id, addr);
        let extra = self.sensed(core, now, slot, self.slots.last_generation);
        let server = DatagramServer {
            id,
            addr,
            weight: past.admin.weight(weight),
            limits: self.limits(),
            health: past.health(self.pool.settings().first_state, now),
            admin: past.admin,
            is_leaving: false,
            is_doubted: false,
            slow_since: None,
            extra,
        };
        self.pool.join(now, slot, server);
    }

    pub(super) fn remove(&mut self, core: &mut Forwarder, now: Instant, slot: Slot) {
        if let Some(server) = self.pool.remove(now, slot, NOT_DESIRED) {
            self.slots.left[slot.index()] = Some(Left { addr: server.addr, until: now + self.slots.rest });
        }
        core.refresh();
    }
}
