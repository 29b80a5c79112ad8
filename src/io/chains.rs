//! The destinations of a turn, chained by socket, for calls that carry messages of one socket only.

use crate::base::batch::{SocketId, Tx};

/// The destinations of a turn by socket, in the order in which they first occurred.
pub struct Chains {
    /// Per socket: its next destination.
    first: Box<[u32]>,
    /// Per socket: its last destination.
    last: Box<[u32]>,
    /// Per destination: the next one on the same socket.
    next: Vec<u32>,
    /// Sockets that have destinations and were not visited yet, the next one last.
    sockets: Vec<SocketId>,
}

const NONE: u32 = u32::MAX;

impl Chains {
    /// Chains for this many sockets, and at most this many destinations per turn.
    pub fn new(socket_count: usize, destinations_max: usize) -> Self {
        Chains {
            first: vec![NONE; socket_count].into(),
            last: vec![NONE; socket_count].into(),
            next: Vec::with_capacity(destinations_max),
            sockets: Vec::with_capacity(socket_count),
        }
    }

    /// Links the destinations of a turn, after all those of the previous turn were visited.
    pub fn link(&mut self, tx: &Tx) {
        self.next.clear();
        for (destination, number) in tx.destinations().iter().zip(0u32..) {
            let socket = destination.socket.0 as usize;
            if self.first[socket] == NONE {
                self.first[socket] = number;
                self.sockets.push(destination.socket);
            } else {
                self.next[self.last[socket] as usize] = number;
            }
            self.last[socket] = number;
            self.next.push(NONE);
        }
        self.sockets.reverse();
    }

    /// The next socket with destinations.
    pub fn next_socket(&mut self) -> Option<SocketId> {
        self.sockets.pop()
    }

    /// The next destination of this socket, as an index into [`Tx::destinations`].
    pub fn next_destination(&mut self, socket: SocketId) -> Option<usize> {
        let first = &mut self.first[socket.0 as usize];
        if *first == NONE {
            return None;
        }
        let destination = *first as usize;
        *first = self.next[destination];
        Some(destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_visited_by_socket_and_in_order() {
        let mut tx = Tx::new(16, 0, 1);
        for (socket, port) in [(1, 10), (0, 20), (1, 11), (1, 12), (0, 21)] {
            tx.destination(SocketId(socket), ([127, 0, 0, 1], port).into(), None).unwrap();
        }
        let mut chains = Chains::new(3, 16);
        for _ in 0..2 {
            chains.link(&tx);
            let mut visited = Vec::new();
            while let Some(socket) = chains.next_socket() {
                while let Some(d) = chains.next_destination(socket) {
                    visited.push((socket.0, tx.destinations()[d].to.port()));
                }
            }
            assert_eq!(visited, [(1, 10), (1, 11), (1, 12), (0, 20), (0, 21)]);
        }
    }
}
