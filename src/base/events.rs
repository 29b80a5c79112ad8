//! Events in the order of time, for simulations.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::time::Instant;

/// An event at a moment. Events of the same moment happen in the order in which they were planned.
struct Planned<E> {
    at: Instant,
    number: u64,
    what: E,
}

/// Events in the order of time.
pub(crate) struct Events<E> {
    heap: BinaryHeap<Reverse<Planned<E>>>,
    /// Events that were planned in order, such as those of a network with a constant delay. They need no
    /// heap.
    row: VecDeque<Planned<E>>,
    planned: u64,
}

impl<E> Events<E> {
    /// No events.
    pub fn new() -> Self {
        Events { heap: BinaryHeap::new(), row: VecDeque::new(), planned: 0 }
    }

    fn number(&mut self) -> u64 {
        self.planned += 1;
        self.planned
    }

    /// Plans an event.
    pub fn plan(&mut self, at: Instant, what: E) {
        let number = self.number();
        self.heap.push(Reverse(Planned { at, number, what }));
    }

    /// Plans an event that is usually later than every event planned here before.
    pub fn plan_in_row(&mut self, at: Instant, what: E) {
        if self.row.back().is_some_and(|last| last.at > at) {
            return self.plan(at, what);
        }
        let number = self.number();
        self.row.push_back(Planned { at, number, what });
    }

    fn row_is_next(&self) -> bool {
        match (self.row.front(), self.heap.peek()) {
            (Some(row), Some(Reverse(heap))) => row < heap,
            (row, _) => row.is_some(),
        }
    }

    /// Time of the next event.
    pub fn next_at(&self) -> Option<Instant> {
        match self.row_is_next() {
            true => self.row.front().map(|planned| planned.at),
            false => self.heap.peek().map(|Reverse(planned)| planned.at),
        }
    }

    /// Removes the next event.
    pub fn pop(&mut self) -> Option<(Instant, E)> {
        let planned = match self.row_is_next() {
            true => self.row.pop_front(),
            false => self.heap.pop().map(|Reverse(planned)| planned),
        };
        planned.map(|planned| (planned.at, planned.what))
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_come_by_time_and_of_one_moment_as_they_were_planned(
            planned in prop::collection::vec((0u64..20, any::<bool>(), any::<bool>()), 1..100),
        ) {
            let (mut events, mut plain) = (Events::new(), vec![]);
            for (number, &(at, in_row, pops)) in planned.iter().enumerate() {
                let at = Instant::from_nanos(at);
                if in_row { events.plan_in_row(at, number) } else { events.plan(at, number) }
                plain.push((at, number));
                if pops {
                    plain.sort();
                    prop_assert_eq!(events.next_at(), Some(plain[0].0));
                    prop_assert_eq!(events.pop(), Some(plain.remove(0)));
                }
            }
            plain.sort();
            for next in plain {
                prop_assert_eq!(events.pop(), Some(next));
            }
            prop_assert!(events.pop().is_none() && events.next_at().is_none());
        }
    }
}
