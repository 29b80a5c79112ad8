//! Error queues: errors about datagrams that were sent, with the destination of each (IP_RECVERR in
//! ip(7), IPV6_RECVERR in ipv6(7)).

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};

use super::cmsg::{self, ControlBuffer};
use super::ready::{ReadySockets, SocketRead};
use super::sockaddr::RawAddr;
use super::{IoCounters, sys};
use crate::base::batch::{PEER_ERRORS_MAX, PeerError, Rx, SocketId};

/// Reads as many errors of the sockets that may have some as the turn can list; the next turn reads the rest.
/// An empty queue leaves no error pending on its socket, so that the next receive or send is not disturbed
/// (`sock_dequeue_err_skb` in net/core/skbuff.c).
pub fn read(failing: &mut ReadySockets, sockets: &[UdpSocket], rx: &mut Rx, counters: &mut IoCounters) {
    failing.deal(PEER_ERRORS_MAX - rx.errors().len(), |socket, share| {
        for taken in 0..share {
            // The only possible error is an empty queue.
            let Ok(error) = next_error(sockets[socket.0 as usize].as_fd(), socket) else {
                return SocketRead { taken, drained: true };
            };
            if let Some(error) = error {
                rx.push_error(error);
                counters.peer_errors += 1;
            }
        }
        SocketRead { taken: share, drained: false }
    });
}

/// Takes the oldest error of a socket. `None` if it has no complete destination: IPv4 omits the port if
/// this host itself rejected a datagram, and then the send has failed too.
fn next_error(fd: BorrowedFd<'_>, socket: SocketId) -> io::Result<Option<PeerError>> {
    let (mut name, mut control) = (RawAddr::EMPTY, ControlBuffer::EMPTY);
    let (name_len, control_len) = sys::receive_error(fd, &mut name, &mut control)?;
    let peer = name.decode(name_len).filter(|peer| peer.port() != 0);
    let errno = cmsg::decode_error(&control.0[..control_len]);
    Ok(peer.zip(errno).map(|(peer, errno)| PeerError { socket, peer, errno }))
}
