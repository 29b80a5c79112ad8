//! The balancer's loops: one a worker, each on a thread of its own.

use std::io;

use tracing::{info, warn};

use super::affinity;
use super::signals::Stop;
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

/// Runs until it is asked to stop, or a worker fails: then all end. The primary is the first worker, and runs on this
/// thread. Requests under way are the clients' to repeat: the balancer keeps none.
pub fn run<I: DatagramIo + Send>(workers: Vec<Worker<I>>, clock: Clock, stop: &Stop) -> io::Result<()> {
    std::thread::scope(|scope| {
        let mut workers = workers.into_iter().enumerate();
        let primary = workers.next();
        let mut others = vec![];
        for (number, worker) in workers {
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            match thread.spawn_scoped(scope, move || work(worker, clock, stop)) {
                Ok(other) => others.push(other),
                Err(error) => {
                    stop.ask(); // else those that run already would be waited for
                    return Err(error);
                }
            }
        }
        let mut result = primary.map_or(Ok(()), |(_, worker)| work(worker, clock, stop));
        for other in others {
            let ended = other.join().expect("a panic ends the process");
            result = result.and(ended);
        }
        result
    })
}

/// One worker's loop. Whoever fails ends all the others.
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
    if result.is_err() {
        stop.ask();
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
