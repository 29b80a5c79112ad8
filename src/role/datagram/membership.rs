//! The members of a pool: the primary makes them the desired servers.

use std::collections::{HashMap, HashSet};

use super::forward::Forwarder;
use super::health::{DatagramPrimary, DatagramServer};
use super::shared::Wish;
use super::slots::Left;
use crate::base::time::Instant;
use crate::pool::desired::DesiredServer;
use crate::pool::event::Event;
use crate::pool::select::Slot;

impl DatagramPrimary {
    /// Makes the desired servers the members: new servers join, the others finish what they have and leave.
    pub fn set_servers(&mut self, core: &mut Forwarder, now: Instant, wish: Wish) {
        let Wish { servers: desired, moved } = wish;
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
                    self.stop_leaving(now, slot);
                }
                None => {
                    let has_moved = moved.contains(&server.addr);
                    self.begin_leaving(now, slot, has_moved);
                }
            }
        }
        let mut present: HashSet<_> = self.pool.registry().iter().map(|(_, server)| server.addr).collect();
        let (mut waiting, mut is_awaited) = (0, false);
        for server in desired.iter().filter(|server| present.insert(server.addr)) {
            let addr = server.addr;
            if core.ports_to(addr).is_empty() {
                self.pool.report(Event::NoPort { addr });
                continue;
            }
            if self.slots.may_hear_of_former(now, addr) {
                is_awaited = true;
                continue;
            }
            let registry = self.pool.registry();
            let is_empty = |slot| core.shared.pool.tree.len(slot) == 0;
            match self.slots.find(now, addr, registry, is_empty) {
                Some(slot) => self.take_in(core, now, slot, server),
                // It joins later: a slot rests, or a server is about to leave.
                None if registry.free().next().is_some() || registry.iter().any(|(_, s)| s.is_leaving) => {
                    waiting += 1;
                }
                None => self.pool.report(Event::NoRoom { addr }),
            }
        }
        if waiting > 0 || is_awaited {
            core.shared.want_still(desired);
        }
        if waiting > 0 {
            let free = self.pool.registry().free().count();
            self.make_room(now, usize::saturating_sub(waiting, free));
        }
        self.rename_leaving();
        self.pool.publish_all(now);
        core.refresh();
    }

    /// Gives each leaving server whose id another one has an id of its own: the new one has that id now.
    pub(super) fn rename_leaving(&mut self) {
        let registry = self.pool.registry_mut();
        let mut ids: HashSet<u32> =
            registry.iter().filter(|(_, server)| !server.is_leaving).map(|(_, server)| server.id).collect();
        let mut free = registry.iter().map(|(_, server)| server.id).max().unwrap_or(0);
        for (_, server) in registry.iter_mut().filter(|(_, server)| server.is_leaving) {
            if !ids.insert(server.id) {
                free = free.saturating_add(1);
                server.id = free;
                ids.insert(free);
            }
        }
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

    pub(super) fn remove(&mut self, core: &mut Forwarder, now: Instant, slot: Slot, reason: &'static str) {
        if let Some(server) = self.pool.remove(now, slot, reason) {
            if server.extra.place_until.is_some() {
                self.release_place(core, slot);
            }
            self.slots.left[slot.index()] = Some(Left { addr: server.addr, until: now + self.slots.rest });
        }
        core.refresh();
    }
}
