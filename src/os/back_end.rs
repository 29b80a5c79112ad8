//! Opens a batch I/O back end and logs the addresses of its sockets.

use std::io;
use std::net::UdpSocket;

use tracing::info;

use crate::base::time::Clock;
use crate::io::socket::receive_buffer;
use crate::io::{BackEnd, IoChoice, IoOptions};

/// Opens a back end over these sockets.
pub fn back_end(
    choice: IoChoice,
    sockets: Vec<UdpSocket>,
    options: &IoOptions,
    clock: Clock,
) -> io::Result<BackEnd> {
    for socket in &sockets {
        info!(addr = %socket.local_addr()?, receive_buffer = receive_buffer(socket), "listening");
    }
    let io = BackEnd::open(choice, sockets, options, clock)?;
    info!(io = io.name(), "batch I/O");
    Ok(io)
}
