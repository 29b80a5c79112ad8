//! The server's loop, for work inside the role (echo, random service times).

use std::io;

use tracing::{info, warn};

use super::turn;
use crate::base::drop_reason::DropReason;
use crate::base::seldom::Seldom;
use crate::base::time::Clock;
use crate::io::{DatagramIo, TooLarge};
use crate::os::notify;
use crate::os::signals::Stop;
use crate::role::server::{ServerRole, Totals, Unregistered};

/// Runs until a stop request and the end of the drain, or a second stop request. Returns the role with
/// its counters. `report` gets the reason while no balancer registers the server, at most once a minute.
pub fn run(
    mut role: ServerRole,
    mut io: impl DatagramIo,
    clock: Clock,
    stop: &Stop,
    report: impl Fn(&str),
) -> io::Result<ServerRole> {
    let (mut registered, mut draining, mut unregistered) = (false, false, Seldom::default());
    notify::status("registering");
    notify::ready();
    while !role.is_finished() && !stop.is_asked_twice() {
        let now = turn(&mut io, &mut role, &clock)?;
        if role.is_registered() != registered {
            registered = role.is_registered();
            match registered {
                true => info!("server registered"),
                false => info!(effect = "registering again", "registration lost"),
            }
            notify::status(if registered { "registered" } else { "registering again" });
            unregistered = Seldom::default();
        }
        if let Some(why) = role.unregistered(now)
            && unregistered.is_due(now)
        {
            let balancer = role.balancer();
            let reason = reason(why, role.frame_size());
            warn!(addr = %balancer, reason, "no balancer registers server");
            report(&format!("the balancer at {balancer} does not register it: {reason}"));
            notify::status("not registered");
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

/// Why no balancer registers a server, with the remedy.
fn reason(why: Unregistered, own_size: usize) -> String {
    match why {
        Unregistered::Silence => "no answer; check that the balancer runs at this address with the same \
             frame_size and key_file, and that no live server has this id"
            .to_owned(),
        Unregistered::FrameSize(size) => format!(
            "it uses frame_size {size}, this server {own_size}; set the same frame_size on both sides"
        ),
    }
}
