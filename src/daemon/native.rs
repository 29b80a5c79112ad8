//! What the native pool's loops do beside the role: figures of the I/O layer, log lines.

use std::ops::Range;

use tracing::{info, warn};

use super::worker::Balancing;
use crate::admin::status::{EventLog, Kind};
use crate::base::time::Instant;
use crate::io::{DatagramIo, IoCounters};
use crate::pool::event::Event;
use crate::pool::health::State;
use crate::role::native::{FRONT, NativeRole};

/// The pool's name in figures and orders.
pub const NAME: &str = "native";

impl Balancing for NativeRole {
    type Seen = IoCounters;

    fn fronts(&self) -> Range<u16> {
        FRONT.0..FRONT.0 + 1
    }

    /// Requests under way are counted by the servers' reports.
    fn retire(&mut self, _: Instant) {
        self.stop_waiting();
    }

    fn is_idle(&self, _: Instant) -> bool {
        NativeRole::is_idle(self)
    }

    fn can_serve(&self) -> bool {
        NativeRole::can_serve(self)
    }

    fn tell(&mut self, events: &EventLog) {
        while let Some(event) = self.poll_event() {
            tell(&event, events);
        }
    }

    fn account(&self, io: &impl DatagramIo, seen: &mut IoCounters) {
        let now = io.counters();
        if now == *seen {
            return;
        }
        let stats = self.stats();
        stats.common.kernel_drops.set(now.kernel_drops);
        stats.common.send_drops.set(now.send_full + now.send_failed);
        stats.common.gso_off.set(now.gso_off);
        stats.common.out_of_slots.set(now.out_of_slots);
        stats.common.completions_delayed.set(now.completions_delayed);
        if now.gso_off != seen.gso_off {
            warn!("the kernel refuses segmentation offload (UDP_SEGMENT): sending datagram by datagram");
        }
        *seen = now;
    }

    fn tell_end(&self) {
        let stats = self.stats();
        info!(
            requests = stats.common.received.get(),
            answered = stats.common.answered.get(),
            dropped = stats.common.dropped.total(),
            kernel_drops = stats.common.kernel_drops.get(),
            "stopped"
        );
    }
}

fn tell(event: &Event, events: &EventLog) {
    let note = |kind, server, text: String| events.note(kind, NAME, server, text);
    match event {
        Event::Joined { id, addr } => {
            info!(server = id, %addr, "joined");
            note(Kind::Server, Some(*id), format!("server {id} joined from {addr}"));
        }
        Event::State { id, state, reason: why, .. } => {
            match state {
                State::Suspect | State::Down | State::Held => {
                    warn!(server = id, state = state.name(), %why, "state");
                }
                _ => info!(server = id, state = state.name(), %why, "state"),
            }
            note(Kind::Server, Some(*id), format!("server {id} is {}: {why}", state.name()));
        }
        Event::FailOpen(true) => {
            warn!("too many servers are down or held: using all of them");
            note(Kind::Notice, None, "too many servers are down or held: using all of them".to_owned());
        }
        Event::FailOpen(false) => {
            info!("enough servers are up again: using those only");
            note(Kind::Notice, None, "enough servers are up again: using those only".to_owned());
        }
        Event::Left { id, reason: why, .. } => {
            info!(server = id, why, "left");
            note(Kind::Server, Some(*id), format!("server {id} left: {why}"));
        }
        Event::Scale { what, load, up } => {
            info!(load = format!("{load:.2}"), up, "scaling: {what}");
            note(Kind::Scaling, None, what.clone());
        }
        Event::Controller(text) => {
            warn!("{text}");
            note(Kind::Notice, None, text.clone());
        }
        Event::Stalled(gap) => {
            warn!(?gap, "this process was away: no verdicts about that time");
            note(Kind::Notice, None, format!("this process was away for {gap:?}"));
        }
        Event::NoRoom { .. } | Event::NoPort { .. } => unreachable!("of datagram pools"),
    }
}
