//! A worker's lanes: its state for each server, by slot.
//!
//! A lane changes many times in a turn: with each request, each reply. What other threads see of it is
//! published once, at the end of the turn. For that the lanes keep a list of those that were touched. They
//! also keep each server's destination in the turn's memory, which is looked up once a turn.

use std::net::SocketAddr;
use std::ops::{Index, IndexMut};

use crate::base::batch::{DestinationId, SocketId, Tx};
use crate::pool::select::Slot;

/// The lanes of one worker; `L` is what a kind of pool keeps in a lane.
#[derive(Debug)]
pub struct Lanes<L> {
    entries: Box<[LaneEntry<L>]>,
    /// Each touched lane once. Never longer than the lanes: pushing does not allocate.
    touched: Vec<Slot>,
    /// The number of the present turn.
    turn: u64,
}

#[derive(Debug)]
struct LaneEntry<L> {
    lane: L,
    is_touched: bool,
    /// The server as a destination: in this turn, from this socket.
    destination: Option<(u64, SocketId, DestinationId)>,
}

impl<L> Lanes<L> {
    /// One lane for each of `slots` slots.
    pub fn new(slots: usize, mut lane: impl FnMut(Slot) -> L) -> Self {
        let mut entry =
            |slot| LaneEntry { lane: lane(Slot::new(slot)), is_touched: false, destination: None };
        Lanes { entries: (0..slots).map(&mut entry).collect(), touched: Vec::with_capacity(slots), turn: 0 }
    }

    /// Begins a turn: destinations of earlier turns are no longer valid.
    pub fn begin_turn(&mut self) {
        self.turn += 1;
    }

    /// The number of slots.
    pub fn slot_count(&self) -> usize {
        self.entries.len()
    }

    /// All lanes, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &L> {
        self.entries.iter().map(|entry| &entry.lane)
    }

    /// All lanes, by slot, to change them without publishing them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut L> {
        self.entries.iter_mut().map(|entry| &mut entry.lane)
    }

    /// A lane that the end of the turn must publish.
    #[inline]
    pub fn touch(&mut self, slot: Slot) -> &mut L {
        let entry = &mut self.entries[slot.index()];
        if !std::mem::replace(&mut entry.is_touched, true) {
            self.touched.push(slot);
        }
        &mut entry.lane
    }

    /// A lane whose slot has another server now, or none. It is touched.
    pub fn restart(&mut self, slot: Slot) -> &mut L {
        self.entries[slot.index()].destination = None;
        self.touch(slot)
    }

    /// The next touched lane, each once. It can be touched again.
    #[inline]
    pub fn next_touched(&mut self) -> Option<(Slot, &mut L)> {
        let slot = self.touched.pop()?;
        let entry = &mut self.entries[slot.index()];
        entry.is_touched = false;
        Some((slot, &mut entry.lane))
    }

    /// Panics, with the slots, unless the list of touched lanes has each of them once.
    pub fn check_invariants(&self) {
        let mut listed: Vec<usize> = self.touched.iter().map(|slot| slot.index()).collect();
        listed.sort_unstable();
        let touched = self.entries.iter().enumerate().filter(|(_, entry)| entry.is_touched);
        let touched: Vec<usize> = touched.map(|(slot, _)| slot).collect();
        assert_eq!(listed, touched, "the list of touched lanes, and the touched lanes");
    }

    /// The server of a slot, at address `to`, as a destination of this turn from the socket `from`. `None`
    /// when the turn is full.
    #[inline]
    pub fn destination(
        &mut self,
        slot: Slot,
        from: SocketId,
        to: SocketAddr,
        tx: &mut Tx,
    ) -> Option<DestinationId> {
        let entry = &mut self.entries[slot.index()];
        match entry.destination {
            Some((turn, socket, destination)) if turn == self.turn && socket == from => Some(destination),
            _ => {
                let destination = tx.destination(from, to, None)?;
                entry.destination = Some((self.turn, from, destination));
                Some(destination)
            }
        }
    }
}

impl<L> Index<Slot> for Lanes<L> {
    type Output = L;

    #[inline]
    fn index(&self, slot: Slot) -> &L {
        &self.entries[slot.index()].lane
    }
}

/// Changes a lane without publishing it.
impl<L> IndexMut<Slot> for Lanes<L> {
    #[inline]
    fn index_mut(&mut self, slot: Slot) -> &mut L {
        &mut self.entries[slot.index()].lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Slot = Slot::new(2);

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_lane_is_published_once_however_often_it_was_touched() {
        let mut lanes = Lanes::new(4, |slot| slot.index());
        for slot in [2, 1, 2, 2].map(Slot::new) {
            *lanes.touch(slot) += 10;
            lanes.check_invariants();
        }
        lanes[Slot::new(3)] += 1;
        let mut published = vec![];
        while let Some((slot, lane)) = lanes.next_touched() {
            published.push((slot.index(), *lane));
            lanes.check_invariants();
        }
        published.sort_unstable();
        assert_eq!(published, [(1, 11), (2, 32)]);
        assert_eq!((lanes[Slot::new(3)], lanes.iter().sum::<usize>()), (4, 47));
        lanes.touch(SLOT);
        assert!(lanes.next_touched().is_some() && lanes.next_touched().is_none());
    }

    #[test]
    fn a_destination_is_looked_up_once_a_turn_for_each_socket_and_server() {
        let (mut lanes, mut tx) = (Lanes::new(4, |_| ()), Tx::new(16, 16, 1));
        let [one, other] = [SocketId(1), SocketId(2)];
        lanes.begin_turn();
        let first = lanes.destination(SLOT, one, addr(7), &mut tx).unwrap();
        assert_eq!(lanes.destination(SLOT, one, addr(8), &mut tx), Some(first), "not looked up again");
        let from_other = lanes.destination(SLOT, other, addr(7), &mut tx).unwrap();
        lanes.restart(SLOT);
        let of_other_server = lanes.destination(SLOT, other, addr(8), &mut tx).unwrap();
        assert!(first != from_other && from_other != of_other_server);
        tx.clear();
        lanes.begin_turn();
        lanes.destination(SLOT, other, addr(9), &mut tx).unwrap();
        assert_eq!(tx.destinations().iter().map(|d| d.to).collect::<Vec<_>>(), [addr(9)]);
    }
}
