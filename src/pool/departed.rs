//! What a balancer keeps of servers that are away, for when they come back. Pure, and of fixed size.

use serde::{Deserialize, Serialize};

use crate::pool::health::Record;
use crate::pool::order::AdminState;

/// What is kept of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PastRecord {
    /// What an operator has said of it.
    pub standing: AdminState,
    /// What is known of its failures.
    pub record: Record,
}

impl PastRecord {
    /// Whether it says anything at all.
    fn is_nothing(&self) -> bool {
        self.standing == AdminState::default() && self.record.is_clean()
    }
}

/// What is kept of servers that are away, by what they are known by.
#[derive(Debug)]
pub struct Departed<K> {
    /// The longest remembered first.
    entries: Vec<(K, PastRecord)>,
    max: usize,
}

impl<K: PartialEq> Departed<K> {
    /// Room for so many servers, at least one.
    pub fn new(max: usize) -> Self {
        Departed { entries: Vec::new(), max: max.max(1) }
    }

    /// Keeps this, if it says anything. Without room, who has been away longest is forgotten; those of whom an operator has
    /// said something go last.
    pub fn keep(&mut self, key: K, kept: PastRecord) {
        self.entries.retain(|(known, _)| *known != key);
        if kept.is_nothing() {
            return;
        }
        if self.entries.len() == self.max {
            let unsaid = |(_, kept): &(K, PastRecord)| kept.standing == AdminState::default();
            self.entries.remove(self.entries.iter().position(unsaid).unwrap_or(0));
        }
        self.entries.push((key, kept));
    }

    /// All of them, who has been away longest first.
    pub fn entries(&self) -> &[(K, PastRecord)] {
        &self.entries
    }

    /// What is kept of a server that is away.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut PastRecord> {
        self.entries.iter_mut().find(|(known, _)| known == key).map(|(_, kept)| kept)
    }

    /// The same, when it comes back: it is no longer kept here.
    pub fn take(&mut self, key: &K) -> PastRecord {
        let found = self.entries.iter().position(|(known, _)| known == key);
        found.map_or_else(PastRecord::default, |at| self.entries.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::order::{AdminMode, Order};

    fn said(order: Order) -> PastRecord {
        let mut kept = PastRecord::default();
        kept.standing.note(order);
        kept
    }

    #[test]
    fn what_is_kept_is_taken_once() {
        let mut remembered = Departed::new(2);
        remembered.keep(1, said(Order::Disable));
        remembered.keep(1, said(Order::Drain));
        remembered.keep(2, PastRecord::default());
        assert!(remembered.get_mut(&2).is_none(), "there is nothing to keep");
        assert_eq!(remembered.get_mut(&1).unwrap().standing.switch, AdminMode::Drained);
        assert_eq!(remembered.take(&1), said(Order::Drain));
        assert_eq!(remembered.take(&1), PastRecord::default());
    }

    #[test]
    fn who_has_been_away_longest_is_forgotten_first() {
        let mut remembered = Departed::new(2);
        for key in 1..=3 {
            remembered.keep(key, said(Order::Weight(key)));
        }
        assert_eq!(remembered.take(&1), PastRecord::default());
        assert_eq!(remembered.take(&2), said(Order::Weight(2)));
        assert_eq!(remembered.take(&3), said(Order::Weight(3)));
    }
}
