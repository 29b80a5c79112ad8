//! The components as pure state machines, without sockets, clocks, threads or random sources of their
//! own. A daemon drives them in real time with sockets, the simulation in virtual time.

pub mod client;
pub mod controller;
pub mod datagram;
pub mod native;
pub mod server;

use std::net::SocketAddr;

use crate::base::batch::{FrameRef, Received, Rx, SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;

/// The interface of every component to a turn.
pub trait Role {
    /// Processes everything that arrived in this turn. Frames are patched in place and referenced in
    /// `tx`.
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx);

    /// Does the work that is due. Called once per turn, after [`Role::on_batch`].
    fn on_timeout(&mut self, now: Instant, tx: &mut Tx);

    /// When [`Role::on_timeout`] has something to do; `None` if only a datagram can change anything.
    fn next_deadline(&self) -> Option<Instant>;
}

/// A role between clients and servers, of which each socket faces one side.
trait TwoSided {
    /// Whether the answers of a batch are processed before its requests, so that each selection knows every
    /// answer that has arrived; otherwise in the order of arrival.
    const ANSWERS_FIRST: bool;

    /// Whether clients send to this socket.
    fn faces_clients(&self, socket: SocketId) -> bool;

    /// Processes a receive slot of a client-side socket.
    fn on_front(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx);

    /// Processes a receive slot of a server-side socket.
    fn on_back(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx);

    /// Brings the selection tree up to date with what was processed since the last call.
    fn publish(&mut self, now: Instant);

    /// Processes a batch. A side that sent nothing costs no second pass.
    fn on_both_sides(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx) {
        let count = rx.len();
        if !Self::ANSWERS_FIRST {
            for index in 0..count {
                let faces_clients = self.faces_clients(rx.socket(index));
                let (received, bytes) = rx.get_mut(index);
                if faces_clients {
                    self.on_front(now, &received, bytes, tx);
                } else {
                    self.on_back(now, &received, bytes, tx);
                }
            }
            return self.publish(now);
        }
        let mut first_request = count;
        let mut answers = 0;
        for index in 0..count {
            if self.faces_clients(rx.socket(index)) {
                first_request = first_request.min(index);
                continue;
            }
            answers += 1;
            let (received, bytes) = rx.get_mut(index);
            self.on_back(now, &received, bytes, tx);
        }
        if answers > 0 {
            self.publish(now);
        }
        if answers == count {
            return;
        }
        for index in first_request..count {
            if self.faces_clients(rx.socket(index)) {
                let (received, bytes) = rx.get_mut(index);
                self.on_front(now, &received, bytes, tx);
            }
        }
        self.publish(now);
    }
}

/// Sends a frame from its receive slot; a full turn drops it.
fn send_from_slot(tx: &mut Tx, socket: SocketId, to: SocketAddr, frame: FrameRef) -> Result<(), DropReason> {
    let pushed = tx.destination(socket, to, None).is_some_and(|destination| tx.push(destination, frame));
    if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT: SocketId = SocketId(0);
    const BACK: SocketId = SocketId(1);

    /// Notes what it is called for, in order.
    struct Notes<const ANSWERS_FIRST: bool>(String);

    impl<const FIRST: bool> TwoSided for Notes<FIRST> {
        const ANSWERS_FIRST: bool = FIRST;

        fn faces_clients(&self, socket: SocketId) -> bool {
            socket == FRONT
        }

        fn on_front(&mut self, _: Instant, _: &Received, bytes: &mut [u8], _: &mut Tx) {
            self.0 += &format!(" request {}", bytes[0]);
        }

        fn on_back(&mut self, _: Instant, _: &Received, bytes: &mut [u8], _: &mut Tx) {
            self.0 += &format!(" answer {}", bytes[0]);
        }

        fn publish(&mut self, _: Instant) {
            self.0 += " publish";
        }
    }

    fn order_of<const ANSWERS_FIRST: bool>(batch: &[SocketId]) -> String {
        let (mut rx, mut tx) = (Rx::new(8, 64), Tx::new(8, 64, 1));
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        for (slot, &socket) in (0..).zip(batch) {
            rx.slot_mut(slot)[0] = slot as u8;
            rx.push(Received { socket, peer, local_ip: None, slot, start: 0, len: 1, stride: 1 });
        }
        let mut notes = Notes::<ANSWERS_FIRST>(String::new());
        notes.on_both_sides(Instant::from_nanos(1), &mut rx, &mut tx);
        notes.0
    }

    #[test]
    fn answers_of_a_batch_come_before_its_requests() {
        assert_eq!(
            order_of::<true>(&[FRONT, BACK, FRONT, BACK]),
            " answer 1 answer 3 publish request 0 request 2 publish"
        );
    }

    #[test]
    fn without_that_order_a_batch_is_taken_as_it_arrived() {
        assert_eq!(order_of::<false>(&[FRONT, BACK, FRONT]), " request 0 answer 1 request 2 publish");
    }

    #[test]
    fn a_side_that_sent_nothing_costs_nothing() {
        assert_eq!(order_of::<true>(&[FRONT, FRONT]), " request 0 request 1 publish");
        assert_eq!(order_of::<true>(&[BACK]), " answer 0 publish");
        assert_eq!(order_of::<true>(&[]), "");
    }
}
