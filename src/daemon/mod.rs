//! The daemons: one hand-written loop each, of one shape, that drives a role with real time and sockets.

pub mod balancer;
pub mod client;
pub mod controller;
pub mod process;
pub mod server;
pub mod signals;

use crate::io::DatagramIo;
use crate::role::Role;
use crate::time::{Clock, Instant};

/// One turn: wait, receive a batch, run the role over it, timers, flush. Gives the turn's time, read once.
pub fn turn(io: &mut impl DatagramIo, role: &mut impl Role, clock: &Clock) -> std::io::Result<Instant> {
    io.wait(role.next_deadline())?;
    io.receive()?;
    let now = clock.now();
    let (rx, tx) = io.turn();
    role.on_batch(now, rx, tx);
    role.on_timeout(now, tx);
    io.flush()?;
    Ok(now)
}
