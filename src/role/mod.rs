//! The components as pure state machines, without sockets, clocks, threads or random sources of their
//! own. A daemon drives them in real time with sockets, the simulation in virtual time.

pub mod client;
pub mod controller;
pub mod datagram;
pub mod native;
pub mod server;

use std::net::SocketAddr;

use crate::base::batch::{FrameRef, Rx, SocketId, Tx};
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

/// Sends a frame from its receive slot; a full turn drops it.
fn send_from_slot(tx: &mut Tx, socket: SocketId, to: SocketAddr, frame: FrameRef) -> Result<(), DropReason> {
    let pushed = tx.destination(socket, to, None).is_some_and(|destination| tx.push(destination, frame));
    if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
}
