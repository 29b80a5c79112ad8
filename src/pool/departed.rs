//! What a pool keeps of servers that have left, in case they return. Pure, and bounded.
//!
//! Each server that leaves gets an entry, even if there is nothing to tell about it: so an operator's order
//! reaches every server that was there before, and only those. When the table is full, it loses entries
//! without failures and orders first, then those without orders, the oldest first.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::pool::health::Record;
use crate::pool::order::{AdminState, Order, Refused};

/// What outlives a server's time in the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PastRecord {
    /// The operator's orders about the server.
    pub admin: AdminState,
    /// The server's failures.
    pub record: Record,
}

/// A server that has left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DepartedServer {
    /// The id that the server had last.
    pub id: u32,
    /// The address that the server had last.
    pub addr: SocketAddr,
    /// What is kept of the server.
    pub past: PastRecord,
}

/// What makes a returning server the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Its id: native servers choose their ids and may move.
    Id,
    /// Its address: the ids of unmodified servers come from the configuration, which may change.
    Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ServerKey {
    Id(u32),
    Address(SocketAddr),
}

/// How much would be lost with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Nothing,
    Failures,
    Orders,
}

/// When an entry is removed: worth first, then age.
type Rank = (Worth, u64);

/// The servers that have left a pool.
#[derive(Debug)]
pub struct Departed {
    identity: Identity,
    /// The first entry is the next to be removed.
    entries: BTreeMap<Rank, DepartedServer>,
    ranks: HashMap<ServerKey, Rank>,
    /// Number of the last entry.
    last: u64,
    max: usize,
}

impl Departed {
    /// An empty table for at most `max` servers, at least one.
    pub fn new(max: usize, identity: Identity) -> Self {
        Departed { identity, entries: BTreeMap::new(), ranks: HashMap::new(), last: 0, max: max.max(1) }
    }

    /// Keeps a server that has left. An older entry of the same server is replaced.
    pub fn keep(&mut self, server: DepartedServer) {
        let key = self.key(server.id, server.addr);
        self.remove(key);
        self.last += 1;
        self.insert(key, self.last, server);
        if self.entries.len() > self.max
            && let Some((_, first)) = self.entries.pop_first()
        {
            self.ranks.remove(&self.key(first.id, first.addr));
        }
    }

    /// Takes what is kept of a server that returns. Nothing known is a clean record without orders.
    pub fn take(&mut self, id: u32, addr: SocketAddr) -> PastRecord {
        self.remove(self.key(id, addr)).map(|(_, server)| server.past).unwrap_or_default()
    }

    /// Notes an order for the server that had this id last. An id that never was in the pool is refused.
    pub fn order(&mut self, id: u32, order: Order) -> Result<(), Refused> {
        let newest =
            self.entries.iter().filter(|(_, server)| server.id == id).max_by_key(|((_, age), _)| *age);
        let (_, server) = newest.ok_or(Refused::UnknownServer)?;
        let key = self.key(id, server.addr);
        let ((_, age), mut server) = self.remove(key).expect("it was found there");
        server.past.admin.note(order);
        self.insert(key, age, server);
        Ok(())
    }

    /// All entries, in the order in which the table would lose them.
    pub fn iter(&self) -> impl Iterator<Item = &DepartedServer> {
        self.entries.values()
    }

    /// Whether the table has an entry of this server.
    pub fn contains(&self, id: u32, addr: SocketAddr) -> bool {
        self.ranks.contains_key(&self.key(id, addr))
    }

    fn key(&self, id: u32, addr: SocketAddr) -> ServerKey {
        match self.identity {
            Identity::Id => ServerKey::Id(id),
            Identity::Address => ServerKey::Address(addr),
        }
    }

    fn insert(&mut self, key: ServerKey, age: u64, server: DepartedServer) {
        let worth = match &server.past {
            PastRecord { admin, .. } if *admin != AdminState::default() => Worth::Orders,
            PastRecord { record, .. } if !record.is_clean() => Worth::Failures,
            _ => Worth::Nothing,
        };
        self.ranks.insert(key, (worth, age));
        self.entries.insert((worth, age), server);
    }

    /// Removes an entry; gives its age, too.
    fn remove(&mut self, key: ServerKey) -> Option<(Rank, DepartedServer)> {
        let rank = self.ranks.remove(&key)?;
        self.entries.remove(&rank).map(|server| (rank, server))
    }

    /// Panics, with the numbers, if the two indexes do not agree or the table is too large.
    pub fn check_invariants(&self) {
        let (entries, ranks, max) = (self.entries.len(), self.ranks.len(), self.max);
        assert!(
            entries == ranks && entries <= max,
            "departed: {entries} entries, {ranks} keys, at most {max}"
        );
        for (rank, server) in &self.entries {
            let found = self.ranks.get(&self.key(server.id, server.addr));
            assert_eq!(found, Some(rank), "departed: server {} at {}", server.id, server.addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::order::AdminMode;

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], n as u16))
    }

    fn left(id: u32, order: Option<Order>) -> DepartedServer {
        let mut past = PastRecord::default();
        order.into_iter().for_each(|order| past.admin.note(order));
        DepartedServer { id, addr: addr(id), past }
    }

    fn ids(departed: &Departed) -> Vec<u32> {
        departed.check_invariants();
        departed.iter().map(|server| server.id).collect()
    }

    #[test]
    fn a_record_is_taken_once() {
        let mut departed = Departed::new(2, Identity::Id);
        departed.keep(left(1, Some(Order::Disable)));
        departed.keep(left(1, Some(Order::Drain)));
        assert_eq!(ids(&departed), [1]);
        assert_eq!(departed.take(1, addr(9)).admin.mode, AdminMode::Drained);
        assert_eq!(departed.take(1, addr(1)), PastRecord::default());
        assert!(ids(&departed).is_empty());
    }

    #[test]
    fn an_order_reaches_a_server_that_left_and_no_other() {
        let mut departed = Departed::new(2, Identity::Address);
        departed.keep(left(1, None));
        assert_eq!(departed.order(1, Order::Disable), Ok(()));
        assert_eq!(departed.order(2, Order::Disable), Err(Refused::UnknownServer));
        // The id has had another address since: the order is for the newest.
        departed.keep(DepartedServer { addr: addr(7), ..left(1, None) });
        assert_eq!(departed.order(1, Order::Drain), Ok(()));
        assert_eq!(departed.take(1, addr(1)).admin.mode, AdminMode::Off);
        assert_eq!(departed.take(1, addr(7)).admin.mode, AdminMode::Drained);
    }

    #[test]
    fn a_full_table_keeps_orders_then_failures_then_the_newest() {
        let mut departed = Departed::new(3, Identity::Id);
        departed.keep(left(1, Some(Order::Drain)));
        (2..=4).for_each(|id| departed.keep(left(id, None)));
        assert_eq!(ids(&departed), [3, 4, 1]);
        departed.order(3, Order::Weight(5)).unwrap();
        departed.keep(left(5, None));
        assert_eq!(ids(&departed), [5, 1, 3]);
        (6..=8).for_each(|id| departed.keep(left(id, Some(Order::Disable))));
        assert_eq!(ids(&departed), [6, 7, 8], "the oldest go first");
        departed.keep(left(9, None));
        assert_eq!(ids(&departed), [6, 7, 8], "an order is worth more than the newest entry");
    }
}
