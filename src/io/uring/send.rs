//! Sending: through the ring, or with sendmmsg(2), whichever costs less for the messages.
//!
//! A message through the ring costs about 0.2 us more than in a sendmmsg(2), which copies no completion
//! and needs no request. A sendmmsg(2) costs about 0.6 us per socket. So the ring wins if a turn has few
//! messages for each of several sockets: with 16 sockets and one message each, by 25 % of the whole echo
//! (`cargo bench --bench io`). It loses with four messages per socket, and always with one socket.

#![allow(unsafe_code)] // system calls

use std::net::UdpSocket;

use super::super::mmsg::Sendmmsg;
use super::super::sender::{Messages, SendCall};
use super::engine::Engine;
use crate::base::batch::SocketId;

/// From this many messages per socket, sendmmsg(2) costs less.
const MESSAGES_PER_SOCKET: usize = 3;

/// The ring, and the sockets for sendmmsg(2).
pub(super) struct Send<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) sockets: &'a [UdpSocket],
}

impl SendCall for Send<'_> {
    const MIXES_SOCKETS: bool = true;

    unsafe fn send(&mut self, messages: Messages<'_>) -> usize {
        let of_first = runs(messages.sockets).next().map_or(0, <[SocketId]>::len);
        if is_for_the_ring(messages.sockets) {
            // SAFETY: the caller guarantees it.
            return unsafe { self.engine.send(messages) };
        }
        let Messages { headers, sockets, answers } = messages;
        let first = Messages {
            headers: &mut headers[..of_first],
            sockets: &sockets[..of_first],
            answers: &mut answers[..of_first],
        };
        // SAFETY: as above.
        unsafe { Sendmmsg(self.sockets).send(first) }
    }
}

/// Runs of messages of one socket.
fn runs(sockets: &[SocketId]) -> impl Iterator<Item = &[SocketId]> {
    sockets.chunk_by(|one, next| one == next)
}

/// Whether these messages, sorted by socket, cost less through the ring.
fn is_for_the_ring(sockets: &[SocketId]) -> bool {
    let run_count = runs(sockets).count();
    run_count > 1 && sockets.len() < run_count * MESSAGES_PER_SOCKET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_messages_for_each_of_several_sockets_go_through_the_ring() {
        let sockets = |numbers: &[u16]| numbers.iter().map(|&n| SocketId(n)).collect::<Vec<_>>();
        for (numbers, expected) in [
            (&[4][..], false),
            (&[4; 64], false),
            (&[0, 1], true),
            (&[0, 0, 1, 1, 1], true),
            (&[0, 0, 1, 1, 1, 1], false),
        ] {
            assert_eq!(is_for_the_ring(&sockets(numbers)), expected, "{numbers:?}");
        }
    }
}
