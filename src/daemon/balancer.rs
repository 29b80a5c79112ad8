//! The balancer's loops: one a worker.

use std::io;

use tracing::{info, warn};

use super::affinity;
use super::signals::Stop;
use super::threads::Job;
use super::turn;
use crate::health::State;
use crate::io::{DatagramIo, IoCounters};
use crate::role::balancer::{Balancer, Event};
use crate::time::Clock;

/// A worker and its sockets: front and server side.
pub struct Worker<I> {
    /// What it does.
    pub role: Balancer,
    /// Its sockets.
    pub io: I,
    /// The processor that it stays on, if it shall.
    pub processor: Option<usize>,
}

impl<I: DatagramIo + Send> Worker<I> {
    /// Its loop. Requests under way when it ends are the clients' to repeat: the balancer keeps none.
    pub fn job(self, number: usize, clock: Clock, stop: &Stop) -> Job<'_>
    where
        I: 'static,
    {
        Job { name: format!("worker-{number}"), work: Box::new(move || work(self, clock, stop)) }
    }
}

fn work<I: DatagramIo>(worker: Worker<I>, clock: Clock, stop: &Stop) -> io::Result<()> {
    let Worker { mut role, mut io, processor } = worker;
    if let Some(processor) = processor {
        affinity::stay_on(processor)
            .unwrap_or_else(|error| warn!(processor, %error, "cannot stay on a processor"));
    }
    let mut seen = IoCounters::default();
    let mut result = Ok(());
    while result.is_ok() && !stop.is_asked() {
        result = turn(&mut io, &mut role, &clock).map(drop);
        while let Some(event) = role.poll_event() {
            log(&event);
        }
        account(&io.counters(), &mut seen, &role);
    }
    let stats = role.stats();
    info!(
        requests = stats.requests.get(),
        dispatched = stats.dispatched.get(),
        answered = stats.answered.get(),
        dropped = stats.drops.total(),
        kernel_drops = stats.kernel_drops.get(),
        "stopped"
    );
    result
}

/// Brings the figures of the I/O layer into the accounts.
fn account(now: &IoCounters, seen: &mut IoCounters, role: &Balancer) {
    if now == seen {
        return;
    }
    let stats = role.stats();
    stats.kernel_drops.set(now.kernel_drops);
    stats.send_drops.set(now.send_full + now.send_failed);
    stats.gso_off.set(now.gso_off);
    stats.out_of_slots.set(now.out_of_slots);
    stats.completions_delayed.set(now.completions_delayed);
    if now.gso_off != seen.gso_off {
        warn!("the kernel refuses segmentation offload (UDP_SEGMENT): sending datagram by datagram");
    }
    *seen = *now;
}

fn log(event: &Event) {
    match event {
        Event::Joined { id, addr } => info!(server = id, %addr, "joined"),
        Event::State { id, state, why } => match state {
            State::Suspect | State::Down | State::Held => {
                warn!(server = id, state = state.name(), %why, "state")
            }
            _ => info!(server = id, state = state.name(), %why, "state"),
        },
        Event::FailOpen(true) => warn!("too many servers are down or held: using all of them"),
        Event::FailOpen(false) => info!("enough servers are up again: using those only"),
        Event::Left { id, why } => info!(server = id, why, "left"),
        Event::Scale { what, load, up } => info!(load = format!("{load:.2}"), up, "scaling: {what}"),
        Event::Controller(text) => warn!("{text}"),
        Event::Paused(gap) => warn!(?gap, "this process was away: no verdicts about that time"),
    }
}
