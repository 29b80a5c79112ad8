//! The balancer's loop.

use std::io;

use tracing::{info, warn};

use super::signals::Stop;
use super::turn;
use crate::health::State;
use crate::io::{DatagramIo, IoCounters};
use crate::role::balancer::{Balancer, Event};
use crate::stats::PoolStats;
use crate::time::Clock;

/// Runs until it is asked to stop. Requests under way are the clients' to repeat: the balancer keeps none.
pub fn run(
    mut role: Balancer,
    mut io: impl DatagramIo,
    stats: &PoolStats,
    clock: Clock,
    stop: &Stop,
) -> io::Result<()> {
    let mut seen = IoCounters::default();
    while !stop.is_asked() {
        turn(&mut io, &mut role, &clock)?;
        while let Some(event) = role.poll_event() {
            log(&event);
        }
        account(&io.counters(), &mut seen, stats);
    }
    info!(
        requests = stats.requests.get(),
        dispatched = stats.dispatched.get(),
        answered = stats.answered.get(),
        dropped = stats.drops.total(),
        kernel_drops = stats.kernel_drops.get(),
        "stopped"
    );
    Ok(())
}

/// Brings the figures of the I/O layer into the accounts.
fn account(now: &IoCounters, seen: &mut IoCounters, stats: &PoolStats) {
    if now == seen {
        return;
    }
    stats.kernel_drops.set(now.kernel_drops);
    stats.send_drops.set(now.send_full + now.send_failed);
    if now.gso_off != seen.gso_off {
        warn!("the kernel refuses segmentation offload (UDP_SEGMENT): sending datagram by datagram");
    }
    *seen = *now;
}

fn log(event: &Event) {
    match event {
        Event::Joined { id, addr } => info!(server = id, %addr, "joined"),
        Event::State { id, state } => match state {
            State::Suspect | State::Down => warn!(server = id, state = state.name(), "state"),
            _ => info!(server = id, state = state.name(), "state"),
        },
        Event::Left { id, why } => info!(server = id, why, "left"),
        Event::Scale { what, load, up } => info!(load = format!("{load:.2}"), up, "scaling: {what}"),
        Event::Controller(text) => warn!("{text}"),
        Event::Paused(gap) => warn!(?gap, "this process was away: no verdicts about that time"),
    }
}
