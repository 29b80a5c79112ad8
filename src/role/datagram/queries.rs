//! DNS queries in flight, by the port and the id that they left with. Pure.
//!
//! Each port has its own 65,536 ids. Each query draws a new id at random, so neither an attacker nor the
//! server of an earlier query knows it. A freed id is as likely as any other to be drawn next.

use crate::base::lru_slab::{Key, LruSlab};
use crate::base::rng::SecretRng;
use crate::base::time::Instant;

/// Ids of a port.
const IDS: usize = 1 << 16;
/// Draws of an id before the table counts as full. With 32,768 queries at one port, one insertion in 2^32
/// fails.
const DRAWS_MAX: usize = 32;
/// No query has this id.
const NONE: u32 = 0;

/// The port and id of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The index of the port, from 0.
    pub port: u16,
    /// The id that the query left with.
    pub id: u16,
}

/// The query table; `T` is what it stores of a query.
pub(super) struct QueryTable<T> {
    entries: LruSlab<(Place, T)>,
    /// By port and id: the key of the entry plus one.
    index: Box<[u32]>,
}

impl<T> QueryTable<T> {
    /// A table for `capacity` queries at `ports` ports.
    pub fn new(capacity: usize, ports: usize) -> Self {
        QueryTable { entries: LruSlab::new(capacity), index: vec![NONE; ports * IDS].into() }
    }

    /// Touches the whole memory of an empty table, so that a flood causes no page faults.
    pub fn fault_in(&mut self) {
        self.entries.fault_in();
        std::hint::black_box(&mut self.index).fill(NONE);
    }

    /// Adds a query that leaves from this port, under an id that is drawn at random. `None` if the table is
    /// full.
    pub fn insert(&mut self, now: Instant, port: u16, rng: &mut SecretRng, value: T) -> Option<Place> {
        let free = |id: &u16| self.index[at(Place { port, id: *id })] == NONE;
        let id = (0..DRAWS_MAX).map(|_| rng.next_u16()).find(free)?;
        let place = Place { port, id };
        let key = self.entries.insert(now, (place, value))?;
        self.index[at(place)] = key.index() as u32 + 1;
        Some(place)
    }

    /// The query with this port and id.
    pub fn get(&self, place: Place) -> Option<&T> {
        let key = self.key(place)?;
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Removes a query, and returns it.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let key = self.key(place)?;
        self.index[at(place)] = NONE;
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// The oldest query in flight, and the time at which it was sent.
    pub fn oldest(&self) -> Option<(Place, Instant)> {
        let (key, sent) = self.entries.oldest()?;
        self.entries.get(key).map(|(place, _)| (*place, sent))
    }

    /// All queries, from the oldest to the youngest.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, _, (_, query))| query)
    }

    /// Panics, with the numbers, unless the index has each query under its port and id, and the order of age
    /// is that of the times.
    pub fn check_invariants(&self) {
        self.entries.check_invariants();
        let mut previous = Instant::ZERO;
        for (key, sent, &(place, _)) in self.entries.iter() {
            assert_eq!(self.key(place), Some(key), "{place:?}: the entry of its index");
            assert!(sent >= previous, "{place:?}, sent at {sent:?}, follows one sent at {previous:?}");
            previous = sent;
        }
    }

    /// Panics, with the numbers, if the index has ids without a query. Slow: it has 65,536 ids a port.
    #[cfg(test)]
    pub fn check_index(&self) {
        let indexed = self.index.iter().filter(|&&key| key != NONE).count();
        assert_eq!(indexed, self.entries.len(), "ids in the index, queries");
    }

    fn key(&self, place: Place) -> Option<Key> {
        let key = *self.index.get(at(place))?;
        (key != NONE).then(|| Key::at(key as usize - 1))
    }
}

fn at(place: Place) -> usize {
    usize::from(place.port) * IDS + usize::from(place.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::Duration;

    const NOW: Instant = Instant::from_nanos(5_000_000_000);

    #[test]
    fn a_query_is_found_by_its_port_and_id_only() {
        let (mut queries, mut rng) = (QueryTable::new(1_000, 2), SecretRng::new(&[1; 16], 1, 1));
        let places: HashMap<_, _> = (0..1_000u32)
            .map(|n| {
                let place = queries.insert(NOW, n as u16 % 2, &mut rng, n).unwrap();
                ((place.port, place.id), n)
            })
            .collect();
        assert_eq!(places.len(), 1_000);
        for port in 0..2 {
            for id in 0..=u16::MAX {
                assert_eq!(queries.get(Place { port, id }), places.get(&(port, id)));
            }
        }
        queries.check_invariants();
        queries.check_index();
        assert_eq!(queries.get(Place { port: 2, id: 0 }), None, "no such port");
    }

    #[test]
    fn a_full_table_takes_nothing_until_one_is_taken_out() {
        let (mut queries, mut rng) = (QueryTable::new(2, 1), SecretRng::new(&[1; 16], 1, 1));
        let first = queries.insert(NOW, 0, &mut rng, 'a').unwrap();
        queries.insert(NOW, 0, &mut rng, 'b').unwrap();
        assert_eq!(queries.insert(NOW, 0, &mut rng, 'c'), None);
        assert_eq!((queries.remove(first), queries.remove(first)), (Some('a'), None));
        let third = queries.insert(NOW, 0, &mut rng, 'c').unwrap();
        assert_eq!((queries.get(third), queries.get(first)), (Some(&'c'), None));
        queries.check_invariants();
        queries.check_index();
    }

    #[test]
    fn a_port_whose_ids_are_used_up_gives_up_after_some_draws() {
        let (mut queries, mut rng) = (QueryTable::new(2 * IDS, 1), SecretRng::new(&[1; 16], 1, 1));
        let mut taken = 0;
        while queries.insert(NOW, 0, &mut rng, ()).is_some() {
            taken += 1;
        }
        assert!((IDS / 2..IDS).contains(&taken), "{taken}");
    }

    #[test]
    fn the_oldest_is_the_one_that_left_first() {
        let (mut queries, mut rng) = (QueryTable::new(9, 2), SecretRng::new(&[1; 16], 1, 1));
        let at = |n: u32| NOW + Duration::from_millis(1) * n;
        let places = [0, 1, 2].map(|n| queries.insert(at(n), n as u16 % 2, &mut rng, n).unwrap());
        assert_eq!(queries.oldest(), Some((places[0], at(0))));
        queries.remove(places[0]);
        assert_eq!(queries.oldest(), Some((places[1], at(1))));
    }
}
