//! The servers of a pool: who is registered in which slot. Pure; knows nothing of queues or traffic.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::time::Instant;
use crate::pool::departed::{Departed, PastRecord};
use crate::pool::health::{Health, Limits, Rules, State};
use crate::pool::order::{AdminMode, AdminState, Order, Refused, WEIGHT_MAX};
use crate::pool::select::Slot;
use crate::wire::message::Registration;
use crate::wire::tag::Stamp;

/// One registered server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// Its id, unique in the pool.
    pub id: u32,
    /// Where it takes requests. Frames from elsewhere are not its.
    pub addr: SocketAddr,
    /// Random number of its process start.
    pub instance: u64,
    /// Random number of its registration.
    pub epoch: u32,
    /// The nonce that it made for its registration, echoed in every SYNC.
    pub nonce: u64,
    /// Its share relative to others, 1 to 100.
    pub weight: u16,
    /// How sure to be about its health.
    pub limits: Limits,
    /// Its health.
    pub health: Health,
    /// The requests in it that are not from this registration, by its newest report.
    pub foreign: u32,
    /// Whether the controller can stop it; false once it said that it cannot.
    pub managed: bool,
    /// How often it reports.
    pub interval: Duration,
    /// The frame that registered it, where frames are authenticated.
    pub stamp: Option<Stamp>,
    /// What an operator has said of it.
    pub standing: AdminState,
    /// Whether it has said that it stops: it leaves when it has nothing more to do.
    pub is_stopping: bool,
    /// Since when it has been getting less than its share, if it does: it has just come up.
    pub slow_since: Option<Instant>,
}

impl Server {
    /// What shall be known of it when it comes back.
    fn kept(&self) -> PastRecord {
        PastRecord { standing: self.standing, record: self.health.record().clone() }
    }
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It has this slot already: the same registration again.
    Known(Slot),
    /// It has this slot now; what was there before is gone.
    New {
        /// The slot.
        slot: Slot,
        /// The `foreign` count of the registration that it replaces.
        replaced_foreign: u32,
    },
    /// Another server that is alive has its id.
    IdTaken,
    /// All slots are taken.
    Full,
}

/// Servers by slot.
#[derive(Debug)]
pub struct Registry {
    slots: Box<[Option<Server>]>,
    rules: Rules,
    /// By id, what is known of those that are away.
    remembered: Departed<u32>,
}

/// So many servers that are away are remembered for each slot.
const REMEMBERED_PER_SLOT: usize = 4;

impl Registry {
    /// Room for `servers_max` servers, judged by these rules.
    pub fn new(servers_max: usize, rules: Rules) -> Self {
        Registry {
            slots: (0..servers_max).map(|_| None).collect(),
            rules,
            remembered: Departed::new(servers_max * REMEMBERED_PER_SLOT),
        }
    }

    /// The server in a slot.
    pub fn get(&self, slot: Slot) -> Option<&Server> {
        self.slots.get(slot.index())?.as_ref()
    }

    /// The server in a slot.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Server> {
        self.slots.get_mut(slot.index())?.as_mut()
    }

    /// All registered servers with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Server)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((Slot::new(i), s.as_ref()?)))
    }

    /// The number of slots.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The slot of the server with this id.
    pub fn slot_of(&self, id: u32) -> Option<Slot> {
        self.iter().find(|(_, s)| s.id == id).map(|(slot, _)| slot)
    }

    /// How its servers are judged.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Judges its servers, and later ones, by other rules.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        for server in self.slots.iter_mut().flatten() {
            server.limits = Limits::for_interval(server.interval, &rules);
        }
    }

    /// Admits a server whose address was proved by a nonce.
    ///
    /// A server that restarts takes over the slot of its id, if the old one is at the same address (so it
    /// must be gone), is the same process registering anew, or is not known to be alive.
    #[allow(clippy::too_many_arguments)] // the parts of one registration; a struct would only rename them
    pub fn admit(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        instance: u64,
        epoch: u32,
        nonce: u64,
        stamp: Option<Stamp>,
        registration: &Registration,
    ) -> Admission {
        let slot = match self.iter().find(|(_, s)| s.id == registration.server_id) {
            Some((slot, s)) if s.instance == instance && s.epoch == epoch && s.addr == addr => {
                return Admission::Known(slot);
            }
            Some((slot, s)) => {
                let gone = s.addr == addr || s.instance == instance || silent(s, now);
                if !gone {
                    return Admission::IdTaken;
                }
                slot
            }
            None => match self.slots.iter().position(Option::is_none) {
                Some(free) => Slot::new(free),
                None => return Admission::Full,
            },
        };
        let interval = Duration::from_micros(u64::from(registration.report_interval_us.max(1_000)));
        let interval = interval.min(Duration::from_secs(10));
        let id = registration.server_id;
        let mut old = self.slots[slot.index()].take();
        if let Some(old) = old.as_mut().filter(|old| old.instance != instance) {
            old.health.crash(now, &old.limits);
        }
        let PastRecord { standing, record } =
            old.as_ref().map_or_else(|| self.remembered.take(&id), Server::kept);
        let state = match standing.switch {
            AdminMode::On => State::Joining,
            AdminMode::Drained => State::Draining,
            AdminMode::Off => State::Disabled,
        };
        self.slots[slot.index()] = Some(Server {
            id,
            addr,
            instance,
            epoch,
            nonce,
            weight: standing.weight.unwrap_or(registration.weight).clamp(1, WEIGHT_MAX),
            limits: Limits::for_interval(interval, &self.rules),
            health: Health::with_record(state, record, now),
            foreign: 0,
            managed: true,
            interval,
            stamp,
            standing,
            is_stopping: false,
            slow_since: None,
        });
        Admission::New { slot, replaced_foreign: old.map_or(0, |old| old.foreign) }
    }

    /// What is known of servers that are away, by id.
    pub fn away(&self) -> &[(u32, PastRecord)] {
        self.remembered.entries()
    }

    /// Takes over what another process knew of servers that are away.
    pub fn remember(&mut self, away: &[(u32, PastRecord)]) {
        away.iter().for_each(|(id, kept)| self.remembered.keep(*id, kept.clone()));
    }

    /// Puts a server where it was in another process. It is judged by the rules of this one.
    pub fn restore(&mut self, slot: Slot, mut server: Server) {
        server.limits = Limits::for_interval(server.interval, &self.rules);
        self.slots[slot.index()] = Some(server);
    }

    /// Frees a slot. What its server's failures are, and what an operator has said of it, is kept.
    pub fn remove(&mut self, slot: Slot) -> Option<Server> {
        let server = self.slots[slot.index()].take()?;
        self.remembered.keep(server.id, server.kept());
        Some(server)
    }

    /// Notes what an operator has said of a server that has no slot at present, but had one.
    pub fn note_absent(&mut self, id: u32, order: Order) -> Result<(), Refused> {
        let kept = self.remembered.get_mut(&id).ok_or(Refused::UnknownServer)?;
        kept.standing.note(order);
        Ok(())
    }
}

/// Nothing was heard of it for longer than its silence limit.
fn silent(server: &Server, now: Instant) -> bool {
    now.since(server.health.last_alive()) > server.limits.silence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(id: u32) -> Registration {
        Registration {
            server_id: id,
            queue_capacity: 64,
            report_interval_us: 10_000,
            weight: 1,
            reserved: [0; 2],
        }
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    const NEW_IN_0: Admission = Admission::New { slot: Slot::new(0), replaced_foreign: 0 };
    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    #[test]
    fn the_same_registration_twice_is_one_server() {
        let mut registry = Registry::new(2, Rules::default());
        assert_eq!(registry.admit(NOW, addr(1), 7, 1, 5, None, &registration(3)), NEW_IN_0);
        assert_eq!(
            registry.admit(NOW, addr(1), 7, 1, 5, None, &registration(3)),
            Admission::Known(Slot::new(0))
        );
        assert_eq!(registry.iter().count(), 1);
        assert_eq!((registry.slot_of(3), registry.slot_of(4)), (Some(Slot::new(0)), None));
    }

    #[test]
    fn a_second_server_cannot_take_the_id_of_a_live_one_but_can_of_a_silent_one() {
        let mut registry = Registry::new(2, Rules::default());
        registry.admit(NOW, addr(1), 7, 1, 5, None, &registration(3));
        assert_eq!(registry.admit(NOW, addr(2), 8, 1, 5, None, &registration(3)), Admission::IdTaken);
        let later = NOW + Duration::from_millis(101);
        assert_eq!(registry.admit(later, addr(2), 8, 1, 5, None, &registration(3)), NEW_IN_0);
        assert_eq!(registry.get(Slot::new(0)).unwrap().addr, addr(2));
    }

    #[test]
    fn a_restart_on_the_same_address_replaces_at_once() {
        let mut registry = Registry::new(2, Rules::default());
        registry.admit(NOW, addr(1), 7, 1, 5, None, &registration(3));
        assert_eq!(registry.admit(NOW, addr(1), 8, 9, 5, None, &registration(3)), NEW_IN_0);
        assert_eq!(registry.get(Slot::new(0)).unwrap().epoch, 9);
    }

    #[test]
    fn full_is_full_until_somebody_leaves() {
        let mut registry = Registry::new(1, Rules::default());
        registry.admit(NOW, addr(1), 7, 1, 5, None, &registration(3));
        assert_eq!(registry.admit(NOW, addr(2), 8, 1, 5, None, &registration(4)), Admission::Full);
        assert_eq!(registry.remove(Slot::new(0)).unwrap().id, 3);
        assert_eq!(registry.admit(NOW, addr(2), 8, 1, 5, None, &registration(4)), NEW_IN_0);
    }
}
