//! The daemons: one hand-written loop each, of one shape, that drives a role with real time and sockets.

pub mod client;
#[cfg(not(loom))] // tokio has no sockets under loom
pub mod control;
#[cfg(not(loom))]
pub mod controller;
pub mod datagram;
#[cfg(not(loom))]
pub mod desired;
pub mod handover;
pub mod inbox;
#[cfg(not(loom))]
pub mod instance;
pub mod native;
pub mod pool_log;
#[cfg(not(loom))]
pub mod resolver;
pub mod server;
pub mod successor;
#[cfg(not(loom))]
pub mod supervised_balancer;
#[cfg(not(loom))]
pub mod tcp;
pub mod worker;
pub mod worker_threads;

use std::io;

use crate::base::time::{Clock, Instant, earliest};
use crate::io::DatagramIo;
use crate::role::Role;

/// One turn: wait, receive a batch, run the role over it, timers, flush. Returns the turn's time, read once.
pub fn turn(io: &mut impl DatagramIo, role: &mut impl Role, clock: &Clock) -> io::Result<Instant> {
    turn_until(None, io, role, clock).map(|(now, _)| now)
}

/// One turn that waits at most until `until`. Returns also whether nothing had arrived.
pub fn turn_until(
    at_latest: Option<Instant>,
    io: &mut impl DatagramIo,
    role: &mut impl Role,
    clock: &Clock,
) -> io::Result<(Instant, bool)> {
    let deadline = earliest(role.next_deadline(), at_latest);
    turn_after(deadline, io, role, clock)
}

/// The same with this deadline in place of the role's.
pub fn turn_after(
    deadline: Option<Instant>,
    io: &mut impl DatagramIo,
    role: &mut impl Role,
    clock: &Clock,
) -> io::Result<(Instant, bool)> {
    io.wait(deadline)?;
    io.receive()?;
    let now = clock.now();
    let (rx, tx) = io.turn();
    let is_empty = rx.is_empty();
    role.on_batch(now, rx, tx);
    role.on_timeout(now, tx);
    io.flush()?;
    Ok((now, is_empty))
}
