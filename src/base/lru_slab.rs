//! A slab of fixed capacity whose entries are ordered by age, with direct access to the oldest. Pure.
//!
//! Every operation takes constant time, and none allocates after construction. Free entries are reused
//! last in, first out, so that a mostly empty table stays in cache.

use crate::base::time::Instant;

/// Identifies an entry of an [`LruSlab`]. It is stable until the entry is removed; then another entry
/// may get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u32);

impl Key {
    /// The entry's index, below the capacity, for tables beside this one.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The key of the entry with this index, as [`Key::index`] returned it.
    pub const fn at(index: usize) -> Key {
        Key(index as u32)
    }
}

/// No entry.
const NONE: u32 = u32::MAX;

/// An entry between its neighbours in age, or a link of the chain of free entries.
struct SlabEntry<T> {
    /// The next older entry.
    older: u32,
    /// The next younger entry, or the next free one.
    younger: u32,
    since: Instant,
    value: Option<T>,
}

/// Up to `capacity` values with a [`Key`] each, ordered from the oldest to the youngest.
///
/// [`insert`](Self::insert) and [`touch`](Self::touch) set the order. Times are stored, never compared.
pub struct LruSlab<T> {
    /// Entries that were used at least once; the memory of the others is not touched.
    places: Vec<SlabEntry<T>>,
    capacity: usize,
    len: usize,
    free: u32,
    oldest: u32,
    youngest: u32,
}

impl<T> LruSlab<T> {
    /// Room for `capacity` entries, at most 2^32 - 1.
    ///
    /// # Panics
    /// If the capacity is more than 2^32 - 1, or exceeds the memory.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity <= NONE as usize, "keys have 32 bits");
        let places = Vec::with_capacity(capacity);
        LruSlab { places, capacity, len: 0, free: NONE, oldest: NONE, youngest: NONE }
    }

    /// Touches the memory of all entries now, so that later use has no page faults.
    pub fn fault_in(&mut self) {
        for place in std::hint::black_box(self.places.spare_capacity_mut()) {
            *place = std::mem::MaybeUninit::zeroed();
        }
    }

    /// Adds a value as the youngest. `None` if the slab is full; the value is dropped.
    pub fn insert(&mut self, now: Instant, value: T) -> Option<Key> {
        if self.is_full() {
            return None;
        }
        let at = match self.free {
            NONE => {
                self.places.push(SlabEntry { older: NONE, younger: NONE, since: now, value: Some(value) });
                self.places.len() as u32 - 1
            }
            at => {
                let place = &mut self.places[at as usize];
                self.free = place.younger;
                place.value = Some(value);
                at
            }
        };
        self.len += 1;
        self.link_youngest(now, at);
        Some(Key(at))
    }

    /// Removes an entry. `None` if it is free.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let value = self.places.get_mut(key.index())?.value.take()?;
        self.unlink(key.0);
        self.places[key.index()].younger = self.free;
        self.free = key.0;
        self.len -= 1;
        Some(value)
    }

    /// The value of an entry; `None` if it is free.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.places.get(key.index())?.value.as_ref()
    }

    /// The value of an entry, mutable; `None` if it is free.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places.get_mut(key.index())?.value.as_mut()
    }

    /// Makes an entry the youngest, with this time. No effect if it is free.
    pub fn touch(&mut self, now: Instant, key: Key) {
        if self.get(key).is_none() {
            return;
        }
        if self.youngest == key.0 {
            self.places[key.index()].since = now;
        } else {
            self.unlink(key.0);
            self.link_youngest(now, key.0);
        }
    }

    /// The time of an entry's insertion or last touch; `None` if it is free.
    pub fn since(&self, key: Key) -> Option<Instant> {
        let place = self.places.get(key.index())?;
        place.value.as_ref().map(|_| place.since)
    }

    /// The oldest entry, and the time of its insertion or last touch. `None` if the slab is empty.
    pub fn oldest(&self) -> Option<(Key, Instant)> {
        let place = self.places.get(self.oldest as usize)?;
        Some((Key(self.oldest), place.since))
    }

    /// The entries from the oldest to the youngest, each with the time of its insertion or last touch.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Instant, &T)> {
        let entry = |at: u32| self.places.get(at as usize);
        std::iter::successors(Some(self.oldest), move |&at| Some(entry(at)?.younger)).map_while(move |at| {
            let SlabEntry { since, value, .. } = entry(at)?;
            Some((Key(at), *since, value.as_ref()?))
        })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether [`insert`](Self::insert) would return `None`.
    pub fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// Maximum number of entries.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Panics, with the numbers, unless the order of age visits every entry once in both directions, and the
    /// chain of free entries visits all others.
    pub fn check_invariants(&self) {
        let (mut at, mut older, mut entries) = (self.oldest, NONE, 0);
        while at != NONE {
            let place = &self.places[at as usize];
            assert!(place.value.is_some(), "place {at} is free and in the order of age");
            assert_eq!(
                place.older, older,
                "place {at} follows {older} and names {} as the older one",
                place.older
            );
            entries += 1;
            assert!(entries <= self.len, "the order of age has more than the {} entries", self.len);
            (older, at) = (at, place.younger);
        }
        assert_eq!(self.youngest, older, "the youngest is {older}, not {}", self.youngest);
        assert_eq!(entries, self.len, "the order of age has {entries} of {} entries", self.len);
        let (mut at, mut free) = (self.free, 0);
        while at != NONE {
            assert!(
                self.places[at as usize].value.is_none(),
                "place {at} has an entry and is in the chain of free ones"
            );
            free += 1;
            assert!(free <= self.places.len(), "the chain of free places is a circle");
            at = self.places[at as usize].younger;
        }
        let used = self.places.len();
        assert_eq!(entries + free, used, "{entries} entries and {free} free of {used} places");
    }

    fn link_youngest(&mut self, now: Instant, at: u32) {
        let older = std::mem::replace(&mut self.youngest, at);
        match older {
            NONE => self.oldest = at,
            older => self.places[older as usize].younger = at,
        }
        let place = &mut self.places[at as usize];
        (place.older, place.younger, place.since) = (older, NONE, now);
    }

    fn unlink(&mut self, at: u32) {
        let SlabEntry { older, younger, .. } = self.places[at as usize];
        match older {
            NONE => self.oldest = younger,
            older => self.places[older as usize].younger = younger,
        }
        match younger {
            NONE => self.youngest = older,
            younger => self.places[younger as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::{HashMap, VecDeque};

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn the_oldest_is_the_one_longest_untouched() {
        let mut aged = LruSlab::new(3);
        let [a, b, c] = [1, 2, 3].map(|n| aged.insert(at(n), n).unwrap());
        assert_eq!(aged.oldest(), Some((a, at(1))));
        aged.touch(at(4), a);
        assert_eq!(aged.oldest(), Some((b, at(2))));
        aged.touch(at(5), a);
        assert_eq!(aged.remove(b), Some(2));
        assert_eq!(aged.remove(c), Some(3));
        assert_eq!(aged.oldest(), Some((a, at(5))));
    }

    #[test]
    fn full_is_an_ordinary_result_and_a_removal_makes_room() {
        let mut aged = LruSlab::new(2);
        let a = aged.insert(at(1), 'a').unwrap();
        aged.insert(at(2), 'b').unwrap();
        assert!(aged.is_full());
        assert_eq!(aged.insert(at(3), 'c'), None);
        assert_eq!(aged.remove(a), Some('a'));
        assert_eq!(aged.insert(at(3), 'c'), Some(a), "the last place freed is the first reused");
        assert_eq!(LruSlab::new(0).insert(at(1), ()), None);
    }

    #[test]
    fn a_free_place_has_nothing_to_give() {
        let mut aged = LruSlab::new(2);
        let key = aged.insert(at(1), 7).unwrap();
        aged.remove(key);
        for key in [key, Key(1), Key(2), Key(NONE)] {
            assert!(aged.get(key).is_none() && aged.get_mut(key).is_none() && aged.remove(key).is_none());
            aged.touch(at(2), key);
            assert_eq!((aged.oldest(), aged.len()), (None, 0));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(u32),
        RemoveOldest,
        Touch(u32),
        Change(u32, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<u64>().prop_map(Step::Insert),
            1 => (0..10u32).prop_map(Step::Remove),
            1 => Just(Step::RemoveOldest),
            3 => (0..10u32).prop_map(Step::Touch),
            1 => (0..10u32, any::<u64>()).prop_map(|(key, value)| Step::Change(key, value)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_queue_and_a_map(capacity in 0..9usize, steps in vec(step(), 0..200)) {
            let mut aged = LruSlab::new(capacity);
            let mut order: VecDeque<(Key, Instant)> = VecDeque::new();
            let mut values: HashMap<Key, u64> = HashMap::new();
            for (n, step) in steps.into_iter().enumerate() {
                let now = at(n as u64);
                let remove = match step {
                    Step::Remove(key) => Some(Key(key)),
                    Step::RemoveOldest => aged.oldest().map(|(key, _)| key),
                    _ => None,
                };
                match step {
                    Step::Insert(value) => {
                        let key = aged.insert(now, value);
                        prop_assert_eq!(key.is_some(), values.len() < capacity);
                        if let Some(key) = key {
                            prop_assert!(key.index() < capacity);
                            prop_assert_eq!(values.insert(key, value), None);
                            order.push_back((key, now));
                        }
                    }
                    Step::Touch(key) => {
                        aged.touch(now, Key(key));
                        if values.contains_key(&Key(key)) {
                            order.retain(|(other, _)| *other != Key(key));
                            order.push_back((Key(key), now));
                        }
                    }
                    Step::Change(key, value) => {
                        let changed = aged.get_mut(Key(key)).map(|place| *place = value);
                        prop_assert_eq!(changed, values.get_mut(&Key(key)).map(|place| *place = value));
                    }
                    Step::Remove(_) | Step::RemoveOldest => {}
                }
                if let Some(key) = remove {
                    prop_assert_eq!(aged.remove(key), values.remove(&key));
                    order.retain(|(other, _)| *other != key);
                }
                aged.check_invariants();
                prop_assert_eq!(aged.oldest(), order.front().copied());
                let entries: Vec<_> = aged.iter().map(|(key, since, &value)| (key, since, value)).collect();
                let expected: Vec<_> = order.iter().map(|&(key, at)| (key, at, values[&key])).collect();
                prop_assert_eq!(entries, expected);
                prop_assert_eq!((aged.len(), aged.is_empty()), (order.len(), order.is_empty()));
                prop_assert_eq!((aged.capacity(), aged.is_full()), (capacity, order.len() == capacity));
                for key in (0..10).map(Key) {
                    prop_assert_eq!(aged.get(key), values.get(&key));
                }
            }
            // The complete order, by removing the oldest until none is left.
            for (key, since) in order {
                prop_assert_eq!(aged.oldest(), Some((key, since)));
                prop_assert!(aged.remove(key).is_some());
            }
            prop_assert!(aged.is_empty() && aged.oldest().is_none());
        }
    }
}
