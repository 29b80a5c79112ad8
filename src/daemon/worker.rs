//! The loop of one worker of a balancer, native or of a datagram pool: serves until it is told to retire, then finishes
//! what is under way.

use std::io;
use std::ops::Range;
use std::time::Duration;

use tracing::warn;

use super::inbox::Inbox;
use super::turn_until;
use crate::admin::status::EventLog;
use crate::base::batch::SocketId;
use crate::base::time::{Clock, Instant};
use crate::io::DatagramIo;
use crate::os::affinity;
use crate::os::signals::Stop;
use crate::role::Role;

/// A role that stands between clients and servers.
pub trait Balancing: Role {
    /// What of the I/O layer's figures is in the accounts already.
    type Seen: Default;

    /// The sockets on which clients ask.
    fn fronts(&self) -> Range<u16>;

    /// From now on nothing new comes from clients.
    fn retire(&mut self, now: Instant);

    /// Whether nothing is awaited any more.
    fn is_idle(&self, now: Instant) -> bool;

    /// Whether some server takes traffic.
    fn can_serve(&self) -> bool;

    /// Tells what has happened.
    fn tell(&mut self, events: &EventLog);

    /// Brings the figures of the I/O layer into the accounts.
    fn account(&self, io: &impl DatagramIo, seen: &mut Self::Seen);

    /// Says what it did, at the end.
    fn tell_end(&self);
}

/// How far a worker's life is.
#[derive(Debug)]
enum Life {
    /// The fronts are not read yet: as soon as a server is there, or at this time, they are.
    Waiting {
        until: Instant,
    },
    Serving,
    /// Clients are not heard any more; what is under way is finished, until this time.
    Retiring {
        until: Instant,
    },
    Over,
    Failed(io::Error),
}

/// Turns that what was read before a pause takes, at most.
const SETTLE_TURNS: usize = 16;

/// A role with its sockets.
pub struct Worker<R, I> {
    /// What it does.
    pub role: R,
    /// Its sockets.
    pub io: I,
    /// How many there are.
    sockets: u16,
    /// The processor that it stays on, if it shall.
    processor: Option<usize>,
    /// How long what is under way may take when it retires.
    patience: Duration,
    life: Life,
}

impl<R: Balancing, I: DatagramIo> Worker<R, I> {
    /// A worker that serves, with so many sockets.
    pub fn new(role: R, io: I, sockets: usize, processor: Option<usize>, patience: Duration) -> Self {
        Worker { role, io, sockets: sockets as u16, processor, patience, life: Life::Serving }
    }

    /// Leaves what clients send in the sockets' buffers until a server is there, for so long at most: for a process that
    /// has taken its sockets over, so that they hold requests already.
    pub fn wait_for_servers(&mut self, until: Instant) -> io::Result<()> {
        self.life = Life::Waiting { until };
        self.each_front(I::pause)
    }

    /// Stops hearing clients; the loop ends when what is under way is finished.
    pub fn retire(&mut self, now: Instant) -> io::Result<()> {
        if matches!(self.life, Life::Waiting { .. } | Life::Serving) {
            self.life = Life::Retiring { until: now + self.patience };
            self.role.retire(now);
            self.each_front(I::pause)?;
        }
        Ok(())
    }

    /// Leaves what clients send in the sockets' buffers.
    pub fn pause_fronts(&mut self) -> io::Result<()> {
        self.each_front(I::pause)
    }

    /// Hears clients again.
    pub fn resume_fronts(&mut self) -> io::Result<()> {
        self.each_front(I::resume)
    }

    /// Takes turns until nothing is left of what was read before the sockets were paused.
    pub fn settle(&mut self, clock: &Clock) -> io::Result<()> {
        for _ in 0..SETTLE_TURNS {
            let (_, is_settled) = turn_until(Some(clock.now()), &mut self.io, &mut self.role, clock)?;
            if is_settled {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ends the loop after this turn: somebody else has taken all that is under way.
    pub fn end(&mut self) {
        self.life = Life::Over;
    }

    /// Leaves everything that arrives in the sockets' buffers.
    pub fn pause_all(&mut self) -> io::Result<()> {
        self.each(0..self.sockets, I::pause)
    }

    /// Reads on; a worker that cannot ends, and tells why.
    pub fn resume_all(&mut self) {
        if let Err(error) = self.each(0..self.sockets, I::resume) {
            self.life = Life::Failed(error);
        }
    }

    fn each_front(&mut self, act: fn(&mut I, SocketId) -> io::Result<()>) -> io::Result<()> {
        self.each(self.role.fronts(), act)
    }

    fn each(&mut self, sockets: Range<u16>, act: fn(&mut I, SocketId) -> io::Result<()>) -> io::Result<()> {
        sockets.map(SocketId).try_for_each(|socket| act(&mut self.io, socket))
    }

    /// Lives on; true if it is over.
    fn live(&mut self, now: Instant) -> io::Result<bool> {
        match &self.life {
            &Life::Waiting { until } => {
                if now >= until || self.role.can_serve() {
                    self.life = Life::Serving;
                    self.each_front(I::resume)?;
                }
                Ok(false)
            }
            Life::Serving => Ok(false),
            &Life::Retiring { until } => Ok(now >= until || self.role.is_idle(now)),
            Life::Over => Ok(true),
            Life::Failed(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    fn turn(&mut self, clock: &Clock) -> io::Result<Instant> {
        let at_latest = match self.life {
            Life::Waiting { until } | Life::Retiring { until } => Some(until),
            Life::Serving | Life::Over | Life::Failed(_) => None,
        };
        turn_until(at_latest, &mut self.io, &mut self.role, clock).map(|(now, _)| now)
    }

    /// Its loop: until it has retired, at the process's end at the latest.
    pub fn run(
        mut self,
        inbox: &Inbox<Self>,
        events: &EventLog,
        clock: Clock,
        stop: &Stop,
    ) -> io::Result<()> {
        if let Some(processor) = self.processor {
            affinity::stay_on(processor)
                .unwrap_or_else(|error| warn!(processor, %error, "cannot stay on a processor"));
        }
        let mut seen = R::Seen::default();
        let result = self.serve(inbox, events, clock, stop, &mut seen);
        self.io.recount_drops();
        self.role.account(&self.io, &mut seen);
        self.role.tell(events);
        self.role.tell_end();
        result
    }

    fn serve(
        &mut self,
        inbox: &Inbox<Self>,
        events: &EventLog,
        clock: Clock,
        stop: &Stop,
        seen: &mut R::Seen,
    ) -> io::Result<()> {
        loop {
            let now = self.turn(&clock)?;
            self.role.tell(events);
            self.role.account(&self.io, seen);
            inbox.serve(self, now);
            if stop.is_asked() {
                self.retire(now)?;
            }
            if self.live(now)? || stop.is_asked_twice() {
                return Ok(());
            }
        }
    }
}
