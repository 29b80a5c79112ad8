//! The ids of queries in flight on one connection to a server.

use crate::base::lru_slab::Key;

/// Ids that are tried before a connection counts as full.
const TRIES_MAX: usize = 64;
/// Sizes of the table: a power of two each.
const SIZE_MIN: usize = 16;
const SIZE_MAX: usize = 1 << 14;

/// Queries by their id on the connection. Ids are given out in turn, so an id returns after 65,535 others.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// By the low bits of the id.
    entries: Vec<Option<(u16, Key)>>,
    next: u16,
    len: usize,
}

impl Ids {
    /// An id for a query; `None` if too many are in use.
    pub fn insert(&mut self, query: Key) -> Option<u16> {
        if 2 * self.len >= self.entries.len() {
            self.grow();
        }
        for _ in 0..TRIES_MAX {
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            let at = self.at(id);
            if self.entries[at].is_none() {
                self.entries[at] = Some((id, query));
                self.len += 1;
                return Some(id);
            }
        }
        None
    }

    /// The query with this id.
    pub fn get(&self, id: u16) -> Option<Key> {
        match self.entries.get(self.at(id)) {
            Some(&Some((of, query))) if of == id => Some(query),
            _ => None,
        }
    }

    /// Removes an id, and returns its query.
    pub fn remove(&mut self, id: u16) -> Option<Key> {
        let query = self.get(id)?;
        let at = self.at(id);
        self.entries[at] = None;
        self.len -= 1;
        Some(query)
    }

    /// Removes all ids, and returns their queries.
    pub fn take(&mut self) -> impl Iterator<Item = Key> + use<> {
        self.len = 0;
        std::mem::take(&mut self.entries).into_iter().flatten().map(|(_, query)| query)
    }

    /// The number of ids in use.
    pub fn len(&self) -> usize {
        self.len
    }

    fn at(&self, id: u16) -> usize {
        usize::from(id) & self.entries.len().wrapping_sub(1)
    }

    fn grow(&mut self) {
        let size = (2 * self.entries.len()).clamp(SIZE_MIN, SIZE_MAX);
        if size > self.entries.len() {
            let old = std::mem::replace(&mut self.entries, vec![None; size]);
            for (id, query) in old.into_iter().flatten() {
                // Ids that differ in fewer bits differ in more bits too.
                let at = self.at(id);
                self.entries[at] = Some((id, query));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn ids_are_found_while_in_use_and_return_late() {
        let mut ids = Ids::default();
        assert_eq!((ids.get(0), ids.remove(7)), (None, None));
        let first = ids.insert(Key::at(1)).unwrap();
        assert_eq!(ids.remove(first), Some(Key::at(1)));
        for _ in 0..65_535 {
            let id = ids.insert(Key::at(2)).unwrap();
            assert_ne!(id, first);
            ids.remove(id);
        }
        assert_eq!(ids.insert(Key::at(3)), Some(first));
    }

    #[test]
    fn a_full_connection_takes_no_more() {
        let mut ids = Ids::default();
        let mut count = 0;
        while ids.insert(Key::at(count)).is_some() {
            count += 1;
        }
        assert_eq!((count, ids.len()), (SIZE_MAX, SIZE_MAX));
        assert_eq!(ids.take().count(), SIZE_MAX);
        assert!(ids.len() == 0 && ids.insert(Key::at(0)).is_some());
    }

    proptest! {
        #[test]
        fn they_are_a_map(ops in prop::collection::vec((0u8..3, any::<prop::sample::Index>()), 1..600)) {
            let (mut ids, mut oracle) = (Ids::default(), HashMap::new());
            for (number, (op, index)) in ops.into_iter().enumerate() {
                let used: Vec<u16> = oracle.keys().copied().collect();
                match op {
                    0 if !used.is_empty() => {
                        let id = *index.get(&used);
                        prop_assert_eq!(ids.remove(id), oracle.remove(&id));
                    }
                    _ => {
                        let id = ids.insert(Key::at(number)).unwrap();
                        prop_assert_eq!(oracle.insert(id, Key::at(number)), None);
                    }
                }
                prop_assert_eq!(ids.len(), oracle.len());
                for (id, query) in &oracle {
                    prop_assert_eq!(ids.get(*id), Some(*query));
                }
            }
        }
    }
}
