//! The controller's loop: takes orders, and runs the servers.

mod ledger;
mod runner;

use std::io;
use std::time::Duration;

use tracing::warn;

pub use ledger::Ledger;
pub use runner::ServerCommand;

use crate::io::DatagramIo;
use crate::role::Role;
use crate::role::controller::ControllerRole;
use crate::time::{Clock, Instant, earliest};
use runner::Runner;

/// A controller with its servers.
pub struct Supervisor<I> {
    role: ControllerRole,
    runner: Runner,
    io: I,
    clock: Clock,
    ledger: Ledger,
    events: Vec<String>,
}

/// Exits of children are noticed at once by SIGCHLD; this bounds how late those of adopted servers are, which are nobody's.
const REAP_EVERY: Duration = Duration::from_millis(100);

impl<I: DatagramIo> Supervisor<I> {
    /// A controller that has adopted what runs already, and has not started anything yet.
    pub fn new(
        mut role: ControllerRole,
        io: I,
        clock: Clock,
        command: ServerCommand,
        mut ledger: Ledger,
    ) -> Self {
        let now = clock.now();
        let mut left = ledger.take();
        let mut runner = Runner::new("", command);
        runner.begin(now, role.crew_mut(), &mut left, &mut ledger);
        for record in left {
            if let Some(mut process) = record.find() {
                let (pool, server, pid) = (&record.pool, record.id, process.id());
                warn!(pool, server, pid, "not in the configuration any more: stopping it");
                process.terminate();
            }
        }
        Supervisor { role, runner, io, clock, ledger, events: vec![] }
    }

    /// One turn, of `patience` at most: orders, exits, starts and stops.
    pub fn turn(&mut self, patience: Duration) -> io::Result<Instant> {
        let at_latest = self.clock.now() + patience.min(REAP_EVERY);
        self.carry_out(self.clock.now());
        self.io.wait(earliest(self.role.next_deadline(), Some(at_latest)))?;
        self.io.receive()?;
        let now = self.clock.now();
        let (rx, tx) = self.io.turn();
        self.role.on_batch(now, rx, tx);
        self.role.on_timeout(now, tx);
        self.io.flush()?;
        self.carry_out(now);
        Ok(now)
    }

    /// Stops every server; go on with turns until [`Supervisor::is_empty`].
    pub fn shut_down(&mut self) {
        let now = self.clock.now();
        self.role.crew_mut().shut_down(now);
        self.carry_out(now);
    }

    /// Whether no server is left.
    pub fn is_empty(&self) -> bool {
        self.role.crew().is_empty()
    }

    /// Ends what is left, without a drain.
    pub fn kill_all(&mut self) {
        self.runner.kill_all();
        self.ledger.clear();
    }

    /// What happened since the last call, in words, oldest first.
    pub fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    fn carry_out(&mut self, now: Instant) {
        self.runner.turn(now, self.role.crew_mut(), &mut self.ledger);
        self.events.append(&mut self.runner.take_events());
    }
}

impl<I> Drop for Supervisor<I> {
    /// An error on the way out leaves no server behind.
    fn drop(&mut self) {
        self.runner.terminate_all();
        self.ledger.clear();
    }
}
