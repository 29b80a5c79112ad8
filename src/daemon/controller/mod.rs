//! The controller's loop: takes the scaling requests of native pools, reads the status of datagram pools, and
//! runs the servers of both.

mod ledger;
mod listening;
mod runner;
mod upstream;

use std::io;
use std::time::Duration;

use tracing::warn;

pub use ledger::Ledger;
pub use runner::ServerCommand;
pub use upstream::Upstream;

use crate::base::time::{Clock, Instant, earliest};
use crate::io::DatagramIo;
use crate::role::Role;
use crate::role::controller::ControllerRole;
use crate::supervise::pool::PoolScaler;
use crate::supervise::servers::Replicas;
use runner::Runner;

/// The pools whose servers a controller runs.
#[derive(Default)]
pub struct SupervisorPlan {
    /// The native pools, by name; each has a socket of the controller's back end.
    pub native: Vec<(String, ControllerRole, ServerCommand)>,
    /// The datagram pools, by name.
    pub datagram: Vec<(String, PoolScaler, ServerCommand)>,
    /// The balancer of the datagram pools.
    pub upstream: Option<Upstream>,
}

/// A controller with its servers.
pub struct Supervisor<I> {
    native: Vec<(ControllerRole, Runner)>,
    datagram: Vec<(PoolScaler, Runner)>,
    upstream: Option<Upstream>,
    io: I,
    clock: Clock,
    ledger: Ledger,
    events: Vec<String>,
}

/// The longest turn. SIGCHLD reports the exits of children at once; the exits of adopted servers, which are
/// children of no process here, and the status of datagram pools are checked once a turn.
const TURN_MAX: Duration = Duration::from_millis(100);

impl<I: DatagramIo> Supervisor<I> {
    /// A controller that has adopted the servers that run already, and has started none.
    pub fn new(plan: SupervisorPlan, io: I, clock: Clock, mut ledger: Ledger) -> Self {
        let now = clock.now();
        let mut left = ledger.take();
        let mut begin = |pool: &str, replicas: &mut Replicas, command: ServerCommand| {
            let mut runner = Runner::new(pool, command);
            runner.begin(now, replicas, &mut left, &mut ledger);
            runner
        };
        let native = plan.native.into_iter().map(|(pool, mut role, command)| {
            let runner = begin(&pool, role.replicas_mut(), command);
            (role, runner)
        });
        let native = native.collect();
        let datagram = plan.datagram.into_iter().map(|(pool, mut scaler, command)| {
            let runner = begin(&pool, scaler.crew_mut(), command);
            (scaler, runner)
        });
        let datagram = datagram.collect();
        for record in left {
            if let Some(mut process) = record.find() {
                let (pool, server, pid) = (&record.pool, record.id, process.id());
                warn!(pool, server, pid, "stopping a server that is not configured");
                process.terminate();
            }
        }
        Supervisor { native, datagram, upstream: plan.upstream, io, clock, ledger, events: vec![] }
    }

    /// One turn, of `patience` at most: scaling requests, exits, starts and stops.
    pub fn turn(&mut self, patience: Duration) -> io::Result<Instant> {
        let now = self.clock.now();
        self.carry_out(now);
        let of_native = self.native.iter().map(|(role, _)| role.next_deadline());
        let of_datagram = self.datagram.iter().map(|(scaler, _)| scaler.replicas().next_deadline());
        let due = of_native.chain(of_datagram).fold(None, earliest);
        self.io.wait(earliest(due, Some(now + patience.min(TURN_MAX))))?;
        self.io.receive()?;
        let now = self.clock.now();
        let (rx, tx) = self.io.turn();
        for (role, _) in &mut self.native {
            role.on_batch(now, rx, tx);
            role.on_timeout(now, tx);
        }
        self.io.flush()?;
        self.scale_datagram_pools(now);
        self.carry_out(now);
        Ok(now)
    }

    /// Stops every server; turns must follow until [`Supervisor::is_empty`].
    pub fn shut_down(&mut self) {
        let now = self.clock.now();
        self.replicas(|replicas, _, _| replicas.shut_down(now));
        self.carry_out(now);
    }

    /// Whether no server is left.
    pub fn is_empty(&self) -> bool {
        self.native.iter().all(|(role, _)| role.replicas().is_empty())
            && self.datagram.iter().all(|(scaler, _)| scaler.replicas().is_empty())
    }

    /// Kills the servers that are left, without a drain.
    pub fn kill_all(&mut self) {
        self.replicas(|_, runner, _| runner.kill_all());
        self.ledger.clear();
    }

    /// Events since the last call, as text, oldest first.
    pub fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// Passes the status of each datagram pool to its scaler, and the servers that run to the balancer.
    fn scale_datagram_pools(&mut self, now: Instant) {
        let Some(upstream) = &mut self.upstream else { return };
        let names: Vec<&str> = self.datagram.iter().map(|(_, runner)| runner.pool()).collect();
        if let Some(looks) = upstream.looks(&names) {
            for (i, (scaler, _)) in self.datagram.iter_mut().enumerate() {
                scaler.observe(now, looks.as_ref().map(|looks| &looks[i]));
            }
        }
        let ports = listening::udp_ports();
        for (scaler, runner) in &mut self.datagram {
            scaler.crew_mut().on_timeout(now);
            upstream.tell(runner.pool(), scaler.wanted(now, |port| ports.contains(&port)));
        }
    }

    fn carry_out(&mut self, now: Instant) {
        let mut events = vec![];
        self.replicas(|replicas, runner, ledger| {
            runner.turn(now, replicas, ledger);
            events.append(&mut runner.take_events());
        });
        self.events.append(&mut events);
    }

    /// Does this for the replicas of every pool.
    fn replicas(&mut self, mut act: impl FnMut(&mut Replicas, &mut Runner, &mut Ledger)) {
        for (role, runner) in &mut self.native {
            act(role.replicas_mut(), runner, &mut self.ledger);
        }
        for (scaler, runner) in &mut self.datagram {
            act(scaler.crew_mut(), runner, &mut self.ledger);
        }
    }
}

impl<I> Drop for Supervisor<I> {
    /// After an error no server is left behind.
    fn drop(&mut self) {
        let of_native = self.native.iter_mut().map(|(_, runner)| runner);
        let of_datagram = self.datagram.iter_mut().map(|(_, runner)| runner);
        of_native.chain(of_datagram).for_each(Runner::terminate_all);
        self.ledger.clear();
    }
}
