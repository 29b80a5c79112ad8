//! The server's loop, for work inside the role (echo, random service times).

use std::io;

use tracing::{info, warn};

use super::turn;
use crate::base::drop_reason::DropReason;
use crate::base::time::Clock;
use crate::io::{DatagramIo, TooLarge};
use crate::os::notify;
use crate::os::signals::Stop;
use crate::role::server::{ServerRole, Totals};

/// Runs until a stop request and the end of the drain, or a second stop request. Returns the role with
/// its counters.
pub fn run(
    mut role: ServerRole,
    mut io: impl DatagramIo,
    clock: Clock,
    stop: &Stop,
) -> io::Result<ServerRole> {
    let (mut registered, mut draining) = (false, false);
    notify::status("registering");
    notify::ready();
    while !role.is_finished() && !stop.is_asked_twice() {
        let now = turn(&mut io, &mut role, &clock)?;
        if role.is_registered() != registered {
            registered = role.is_registered();
            let text = match registered {
                true => "registered",
                false => "the balancer has no registration of this server, registering again",
            };
            info!("{text}");
            notify::status(text);
        }
        if stop.is_asked() && !draining {
            draining = true;
            info!(queue = role.queue_len(), "draining");
            notify::status("draining");
            role.drain(now);
        }
        while let Some(TooLarge { to, len }) = io.poll_too_large() {
            warn!(%to, len, effect = "dropped", "datagram exceeds the mtu");
        }
    }
    role.totals().drops.add(DropReason::TooLarge, io.counters().send_too_large);
    let Totals { received, served, busy, expired, queue_max, ref drops, .. } = *role.totals();
    let (left, dropped) = (role.queue_len(), drops.total());
    info!(received, served, busy, expired, queue_max, left, dropped, "stopped");
    Ok(role)
}
