//! The four components as pure state machines: no sockets, clocks, threads or random sources of
//! their own. A daemon drives them with real time and sockets, the simulation with virtual ones.

pub mod client;
pub mod controller;
pub mod datagram;
pub mod native;
pub mod server;

use std::net::SocketAddr;

use crate::base::batch::{FrameRef, Rx, SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;

/// What every component does with a turn.
pub trait Role {
    /// Takes everything that arrived in this turn. Frames are patched in place and named in `tx`.
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx);

    /// Does what is due. Called once a turn, after [`Role::on_batch`].
    fn on_timeout(&mut self, now: Instant, tx: &mut Tx);

    /// When [`Role::on_timeout`] has something to do; `None` if only a datagram can change anything.
    fn next_deadline(&self) -> Option<Instant>;
}

/// Sends a frame from where it lies; a full turn drops it.
fn send_from_slot(tx: &mut Tx, socket: SocketId, to: SocketAddr, frame: FrameRef) -> Result<(), DropReason> {
    let pushed = tx.destination(socket, to, None).is_some_and(|destination| tx.push(destination, frame));
    if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
}
