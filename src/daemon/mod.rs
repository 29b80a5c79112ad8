//! The daemons: one hand-written loop each, of one shape, that drives a role with real time and sockets.

pub mod balancer;
pub mod client;
pub mod controller;
pub mod process;
pub mod server;
pub mod signals;

use std::io;
use std::net::UdpSocket;

use tracing::info;

use crate::io::socket::receive_buffer;
use crate::io::{BackEnd, DatagramIo, IoChoice, IoOptions};
use crate::role::Role;
use crate::time::{Clock, Instant};
use crate::wire::header::DATAGRAM_MAX;
use signals::Stop;

/// A back end of this choice for frames of this size over these sockets; signals end its waits.
pub fn back_end(
    choice: IoChoice,
    sockets: Vec<UdpSocket>,
    frame_size: usize,
    clock: Clock,
) -> io::Result<(BackEnd, Stop)> {
    for socket in &sockets {
        info!(addr = %socket.local_addr()?, receive_buffer = receive_buffer(socket), "listening");
    }
    let options = IoOptions::for_frames(frame_size, DATAGRAM_MAX / frame_size);
    let io = BackEnd::open(choice, sockets, &options, clock)?;
    info!(io = io.name(), "batch I/O");
    let stop = Stop::on_signals(io.waker())?;
    Ok((io, stop))
}

/// One turn: wait, receive a batch, run the role over it, timers, flush. Gives the turn's time, read once.
pub fn turn(io: &mut impl DatagramIo, role: &mut impl Role, clock: &Clock) -> io::Result<Instant> {
    io.wait(role.next_deadline())?;
    io.receive()?;
    let now = clock.now();
    let (rx, tx) = io.turn();
    role.on_batch(now, rx, tx);
    role.on_timeout(now, tx);
    io.flush()?;
    Ok(now)
}
