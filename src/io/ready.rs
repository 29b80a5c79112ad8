//! Tracks which sockets may have data, and how much each may read in a turn.
//!
//! Readiness is edge-triggered, so a socket counts as ready until a read has emptied it. Pure: uses
//! numbers of sockets and slots, no descriptors.

use std::collections::VecDeque;

use crate::base::batch::SocketId;

/// Result of one read of one socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketRead {
    /// Slots filled.
    pub taken: usize,
    /// Whether the socket is empty.
    pub drained: bool,
}

/// The sockets that may have data, longest unread first.
pub struct ReadySockets {
    queue: VecDeque<SocketId>,
    queued: Box<[bool]>,
}

impl ReadySockets {
    /// For `socket_count` sockets, none of them ready.
    pub fn new(socket_count: usize) -> Self {
        ReadySockets {
            queue: VecDeque::with_capacity(socket_count),
            queued: vec![false; socket_count].into_boxed_slice(),
        }
    }

    /// Records that a socket may have data.
    pub fn insert(&mut self, socket: SocketId) {
        if !std::mem::replace(&mut self.queued[socket.0 as usize], true) {
            self.queue.push_back(socket);
        }
    }

    /// Removes a socket, regardless of its data.
    pub fn remove(&mut self, socket: SocketId) {
        if std::mem::replace(&mut self.queued[socket.0 as usize], false) {
            self.queue.retain(|&queued| queued != socket);
        }
    }

    /// Whether no socket is known to have data.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Distributes `slots` over the ready sockets: first an equal share each, then the rest to those
    /// that still have data. `read` receives a socket and its share. A socket that was not emptied moves
    /// to the end of the row, and the next turn continues where this one ended.
    ///
    /// A read that fills no slot still costs one, so the work of a turn is bounded even if every read
    /// reports an error.
    pub fn deal(&mut self, mut slots: usize, mut read: impl FnMut(SocketId, usize) -> SocketRead) {
        while slots > 0 && !self.queue.is_empty() {
            for left in (1..=self.queue.len()).rev() {
                let share = slots.div_ceil(left);
                let Some(socket) = self.queue.pop_front() else { break };
                let SocketRead { taken, drained } = read(socket, share);
                debug_assert!(taken <= share);
                if drained {
                    self.queued[socket.0 as usize] = false;
                } else {
                    self.queue.push_back(socket);
                }
                slots = slots.saturating_sub(taken.max(1));
                if slots == 0 {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distributes slots to sockets with this many datagrams each, and returns the reads.
    fn deal(ready: &mut ReadySockets, slots: usize, held: &mut [usize]) -> Vec<usize> {
        let mut given = vec![0; held.len()];
        ready.deal(slots, |socket, share| {
            let held = &mut held[socket.0 as usize];
            let taken = share.min(*held);
            *held -= taken;
            given[socket.0 as usize] += taken;
            SocketRead { taken, drained: taken < share }
        });
        given
    }

    fn all_ready(socket_count: u16) -> ReadySockets {
        let mut ready = ReadySockets::new(socket_count.into());
        (0..socket_count).for_each(|s| ready.insert(SocketId(s)));
        ready
    }

    #[test]
    fn a_flooded_socket_leaves_the_others_their_share() {
        let mut ready = all_ready(4);
        assert_eq!(deal(&mut ready, 64, &mut [1000, 3, 1000, 2]), [26, 3, 33, 2]);
    }

    #[test]
    fn one_ready_socket_gets_everything() {
        let mut ready = ReadySockets::new(4);
        ready.insert(SocketId(2));
        ready.insert(SocketId(2));
        assert_eq!(deal(&mut ready, 64, &mut [0, 0, 100, 0]), [0, 0, 64, 0]);
        assert!(!ready.is_empty());
    }

    #[test]
    fn more_ready_sockets_than_slots_take_turns() {
        let mut ready = all_ready(6);
        let mut held = [100; 6];
        assert_eq!(deal(&mut ready, 4, &mut held), [1, 1, 1, 1, 0, 0]);
        assert_eq!(deal(&mut ready, 4, &mut held), [1, 1, 0, 0, 1, 1]);
    }

    #[test]
    fn drained_sockets_are_forgotten_until_they_are_ready_again() {
        let mut ready = all_ready(2);
        deal(&mut ready, 64, &mut [5, 0]);
        assert!(ready.is_empty());
        ready.insert(SocketId(0));
        assert_eq!(deal(&mut ready, 64, &mut [5, 5]), [5, 0]);
    }

    #[test]
    fn a_removed_socket_is_not_read_until_it_is_ready_again() {
        let mut ready = all_ready(3);
        ready.remove(SocketId(1));
        ready.remove(SocketId(1));
        assert_eq!(deal(&mut ready, 64, &mut [5, 5, 5]), [5, 0, 5]);
        ready.insert(SocketId(1));
        assert_eq!(deal(&mut ready, 64, &mut [5, 5, 5]), [0, 5, 0]);
    }

    #[test]
    fn endless_errors_do_not_make_an_endless_turn() {
        let mut reads = 0;
        all_ready(3).deal(64, |_, _| {
            reads += 1;
            SocketRead { taken: 0, drained: false }
        });
        assert_eq!(reads, 64);
    }
}
