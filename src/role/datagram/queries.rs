//! DNS queries under way: found again by the port and the id that they left with. Pure.
//!
//! Each port has its own 65,536 ids. Each query draws a new id, so neither a stranger nor the server
//! of an earlier query knows it; and one that is given back is as likely as any other to be the next.

use crate::base::lru_slab::{Key, LruSlab};
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// Ids of a port.
const IDS: usize = 1 << 16;
/// Draws of an id before the table is called full. Beside 32,768 queries of one port, one in 2^32 fails.
const DRAWS_MAX: usize = 32;
/// No query has this id.
const NONE: u32 = 0;

/// Where an answer is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The port's number among the ports, from 0.
    pub port: u16,
    /// The id that the query left with.
    pub id: u16,
}

/// The table; `T` is what is remembered of a query.
pub(super) struct Queries<T> {
    entries: LruSlab<(Place, T)>,
    /// Per port and id: the entry's key plus one.
    index: Box<[u32]>,
}

impl<T> Queries<T> {
    /// Room for so many queries, over so many ports.
    pub fn new(capacity: usize, ports: usize) -> Self {
        let (mut entries, mut index) = (LruSlab::new(capacity), vec![NONE; ports * IDS]);
        // What a flood needs is there from the start.
        entries.fault_in();
        std::hint::black_box(&mut index).fill(NONE);
        Queries { entries, index: index.into() }
    }

    /// Remembers a query that leaves by this port, under an id that nobody can guess. `None` when there is no
    /// room.
    pub fn insert(&mut self, now: Instant, port: u16, rng: &mut Rng, value: T) -> Option<Place> {
        let free = |id: &u16| self.index[at(Place { port, id: *id })] == NONE;
        let id = (0..DRAWS_MAX).map(|_| (rng.next_u64() >> 48) as u16).find(free)?;
        let place = Place { port, id };
        let key = self.entries.insert(now, (place, value))?;
        self.index[at(place)] = key.index() as u32 + 1;
        Some(place)
    }

    /// The query that left with this id by this port.
    pub fn get(&self, place: Place) -> Option<&T> {
        let key = self.key(place)?;
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Forgets it. Gives what was remembered.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let key = self.key(place)?;
        self.index[at(place)] = NONE;
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// The query that has waited longest, and since when.
    pub fn oldest(&self) -> Option<(Place, Instant)> {
        let (key, sent) = self.entries.oldest()?;
        self.entries.get(key).map(|(place, _)| (*place, sent))
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
        let (mut queries, mut rng) = (Queries::new(1_000, 2), Rng::new(1));
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
        assert_eq!(queries.get(Place { port: 2, id: 0 }), None, "no such port");
    }

    #[test]
    fn a_full_table_takes_nothing_until_one_is_taken_out() {
        let (mut queries, mut rng) = (Queries::new(2, 1), Rng::new(1));
        let first = queries.insert(NOW, 0, &mut rng, 'a').unwrap();
        queries.insert(NOW, 0, &mut rng, 'b').unwrap();
        assert_eq!(queries.insert(NOW, 0, &mut rng, 'c'), None);
        assert_eq!((queries.remove(first), queries.remove(first)), (Some('a'), None));
        let third = queries.insert(NOW, 0, &mut rng, 'c').unwrap();
        assert_eq!((queries.get(third), queries.get(first)), (Some(&'c'), None));
    }

    #[test]
    fn a_port_whose_ids_are_used_up_gives_up_after_some_draws() {
        let (mut queries, mut rng) = (Queries::new(2 * IDS, 1), Rng::new(1));
        let mut taken = 0;
        while queries.insert(NOW, 0, &mut rng, ()).is_some() {
            taken += 1;
        }
        assert!((IDS / 2..IDS).contains(&taken), "{taken}");
    }

    #[test]
    fn the_oldest_is_the_one_that_left_first() {
        let (mut queries, mut rng) = (Queries::new(9, 2), Rng::new(1));
        let at = |n: u32| NOW + Duration::from_millis(1) * n;
        let places = [0, 1, 2].map(|n| queries.insert(at(n), n as u16 % 2, &mut rng, n).unwrap());
        assert_eq!(queries.oldest(), Some((places[0], at(0))));
        queries.remove(places[0]);
        assert_eq!(queries.oldest(), Some((places[1], at(1))));
    }
}
