//! The servers of a pool by slot, and those that have left. Pure; knows nothing of queues or traffic.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::time::Instant;
use crate::pool::departed::{Departed, DepartedServer, Identity, PastRecord};
use crate::pool::health::{Health, Limits, State};
use crate::pool::order::{AdminMode, AdminState, WEIGHT_MAX};
use crate::pool::select::Slot;

/// Departed servers that a registry keeps for each slot.
const DEPARTED_PER_SLOT: usize = 4;

/// A server as the primary knows it. `X` is what only its kind of pool knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server<X> {
    /// The server's id, unique among the servers that are not leaving.
    pub id: u32,
    /// The server's address.
    pub addr: SocketAddr,
    /// The server's share relative to others, 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// When the server counts as up, suspect or down.
    pub limits: Limits,
    /// The server's health.
    pub health: Health,
    /// The operator's orders.
    pub admin: AdminState,
    /// Whether the server finishes its requests and then leaves. It stays draining, even if the operator
    /// enables it.
    pub is_leaving: bool,
    /// Start of the server's slow start. `None`: the server gets its whole share.
    pub slow_since: Option<Instant>,
    /// Whether the server's requests fail far more often than those of its peers: then it is as a suspect.
    pub is_doubted: bool,
    /// What only this kind of pool knows of a server.
    pub extra: X,
}

impl<X> Server<X> {
    /// The server's state in the pool: that of its health, or suspect if it is doubted.
    pub fn state(&self) -> State {
        match self.health.state() {
            State::Up if self.is_doubted => State::Suspect,
            state => state,
        }
    }

    /// What the pool keeps when the server leaves.
    pub fn past(&self) -> PastRecord {
        PastRecord { admin: self.admin, record: self.health.record().clone() }
    }
}

impl PastRecord {
    /// The health of a server that joins, or returns, with this past. `first` is the state of a server
    /// without orders.
    pub fn health(&self, first: State, now: Instant) -> Health {
        let state = match self.admin.mode {
            AdminMode::On => first,
            AdminMode::Drained => State::Draining,
            AdminMode::Off => State::Disabled,
        };
        Health::with_record(state, self.record.clone(), now)
    }
}

/// Servers by slot, and departed servers.
#[derive(Debug)]
pub struct Registry<X> {
    slots: Box<[Option<Server<X>>]>,
    /// Servers that have left.
    pub departed: Departed,
    identity: Identity,
}

impl<X> Registry<X> {
    /// A registry without servers. `identity` makes a returning server the same one.
    pub fn new(slots: usize, identity: Identity) -> Self {
        Registry {
            slots: (0..slots).map(|_| None).collect(),
            departed: Departed::new(slots * DEPARTED_PER_SLOT, identity),
            identity,
        }
    }

    /// The server in a slot.
    pub fn get(&self, slot: Slot) -> Option<&Server<X>> {
        self.slots.get(slot.index())?.as_ref()
    }

    /// The server in a slot.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Server<X>> {
        self.slots.get_mut(slot.index())?.as_mut()
    }

    /// All servers with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Server<X>)> {
        self.slots.iter().enumerate().filter_map(|(i, server)| Some((Slot::new(i), server.as_ref()?)))
    }

    /// All servers with their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Server<X>)> {
        self.slots.iter_mut().enumerate().filter_map(|(i, server)| Some((Slot::new(i), server.as_mut()?)))
    }

    /// All slots, also free ones.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<X> {
        (0..self.slots.len()).map(Slot::new)
    }

    /// The number of slots.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The slot of the server with this id. A leaving server may have the id of a newer one: then the newer
    /// one's.
    pub fn slot_of(&self, id: u32) -> Option<Slot> {
        let with_id = self.iter().filter(|(_, server)| server.id == id);
        with_id.min_by_key(|(_, server)| server.is_leaving).map(|(slot, _)| slot)
    }

    /// The slot of the server at this address.
    pub fn slot_at(&self, addr: SocketAddr) -> Option<Slot> {
        self.iter().find(|(_, server)| server.addr == addr).map(|(slot, _)| slot)
    }

    /// Free slots.
    pub fn free(&self) -> impl Iterator<Item = Slot> {
        self.slots().filter(|&slot| self.get(slot).is_none())
    }

    /// Puts a server into a slot. A server that had the slot is gone, without an entry among the departed.
    pub fn put(&mut self, slot: Slot, server: Server<X>) {
        self.slots[slot.index()] = Some(server);
    }

    /// Frees a slot. The server's failures and orders are kept.
    pub fn remove(&mut self, slot: Slot) -> Option<Server<X>> {
        let server = self.slots[slot.index()].take()?;
        let (id, addr) = (server.id, server.addr);
        self.departed.keep(DepartedServer { id, addr, past: server.past() });
        Some(server)
    }

    /// Panics, with the numbers, if what must hold between two turns does not.
    pub fn check_invariants(&self) {
        self.departed.check_invariants();
        for (slot, server) in self.iter() {
            let Server { id, addr, weight, ref health, admin, is_leaving, .. } = *server;
            let at = format!("slot {}: server {id} at {addr}", slot.index());
            let twin = match self.identity {
                _ if is_leaving => None,
                Identity::Id => self.iter().find(|(other, s)| *other != slot && s.id == id),
                Identity::Address => self
                    .iter()
                    .find(|(other, s)| *other != slot && (s.addr == addr || s.id == id && !s.is_leaving)),
            };
            assert!(
                twin.is_none(),
                "{at} and slot {} are one server",
                twin.map_or(0, |(slot, _)| slot.index())
            );
            assert!(!self.departed.contains(id, addr), "{at} is among the departed, too");
            assert!((1..=WEIGHT_MAX).contains(&weight), "{at} has weight {weight}, not 1 to {WEIGHT_MAX}");
            assert!(
                admin.weight.is_none_or(|ordered| ordered == weight),
                "{at} has weight {weight}, ordered {:?}",
                admin.weight
            );
            let state = health.state();
            let fits = match (admin.mode, state) {
                (_, State::Draining) if is_leaving => true,
                (mode, State::Disabled) => mode == AdminMode::Off,
                (mode, State::Draining) => mode == AdminMode::Drained,
                (mode, _) => mode == AdminMode::On && !is_leaving,
            };
            assert!(fits, "{at} is {state:?}, ordered {:?}, leaving {is_leaving}", admin.mode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::health::Rules;

    fn server(id: u32) -> Server<()> {
        let interval = std::time::Duration::from_millis(10);
        Server {
            id,
            addr: SocketAddr::from(([127, 0, 0, 1], id as u16)),
            weight: 1,
            limits: Limits::for_interval(interval, &Rules::default()),
            health: Health::new(State::Up, Instant::ZERO),
            admin: AdminState::default(),
            is_leaving: false,
            is_doubted: false,
            slow_since: None,
            extra: (),
        }
    }

    const ONE: Slot = Slot::new(1);

    #[test]
    fn a_server_is_found_by_id_and_address_until_it_is_removed() {
        let mut registry = Registry::new(3, Identity::Id);
        registry.put(ONE, server(7));
        registry.check_invariants();
        assert_eq!((registry.slot_of(7), registry.slot_of(8)), (Some(ONE), None));
        assert_eq!(registry.slot_at(server(7).addr), Some(ONE));
        assert_eq!(registry.free().collect::<Vec<_>>(), [Slot::new(0), Slot::new(2)]);
        assert_eq!(registry.remove(ONE).unwrap().id, 7);
        assert_eq!((registry.slot_of(7), registry.free().count()), (None, 3));
        assert!(registry.departed.contains(7, server(7).addr));
        registry.check_invariants();
    }

    #[test]
    fn of_two_servers_with_an_id_the_one_that_stays_has_it() {
        let mut registry = Registry::new(2, Identity::Address);
        registry.put(Slot::new(0), Server { is_leaving: true, ..server(7) });
        registry.put(ONE, Server { id: 7, ..server(8) });
        assert_eq!(registry.slot_of(7), Some(ONE));
    }

    #[test]
    #[should_panic(expected = "slot 1: server 7 at 127.0.0.1:7 has weight 0, not 1 to 100")]
    fn a_broken_invariant_is_reported_with_its_numbers() {
        let mut registry = Registry::new(2, Identity::Id);
        registry.put(ONE, Server { weight: 0, ..server(7) });
        registry.check_invariants();
    }
}
