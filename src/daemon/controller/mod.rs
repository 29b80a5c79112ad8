//! The controller's loop: takes orders, looks at what the balancer of datagram pools shows, and runs the servers.

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

/// What a controller runs.
#[derive(Default)]
pub struct SupervisorPlan {
    /// Servers for lbd's own frames.
    pub native: Option<(ControllerRole, ServerCommand)>,
    /// Servers of datagram pools, by the pool's name.
    pub pools: Vec<(String, PoolScaler, ServerCommand)>,
    /// The balancer of those pools.
    pub upstream: Option<Upstream>,
}

/// A controller with its servers.
pub struct Supervisor<I> {
    native: Option<(ControllerRole, Runner)>,
    pools: Vec<(PoolScaler, Runner)>,
    upstream: Option<Upstream>,
    io: I,
    clock: Clock,
    ledger: Ledger,
    events: Vec<String>,
}

/// Exits of children are noticed at once by SIGCHLD; this bounds how late those of adopted servers are, which are nobody's,
/// and what the balancer of datagram pools shows.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl<I: DatagramIo> Supervisor<I> {
    /// A controller that has adopted what runs already, and has not started anything yet.
    pub fn new(plan: SupervisorPlan, io: I, clock: Clock, mut ledger: Ledger) -> Self {
        let now = clock.now();
        let mut left = ledger.take();
        let mut begin = |pool: &str, replicas: &mut Replicas, command: ServerCommand| {
            let mut runner = Runner::new(pool, command);
            runner.begin(now, replicas, &mut left, &mut ledger);
            runner
        };
        let native = plan.native.map(|(mut role, command)| {
            let runner = begin("", role.crew_mut(), command);
            (role, runner)
        });
        let pools = plan.pools.into_iter().map(|(pool, mut keeper, command)| {
            let runner = begin(&pool, keeper.crew_mut(), command);
            (keeper, runner)
        });
        let pools = pools.collect();
        for record in left {
            if let Some(mut process) = record.find() {
                let (pool, server, pid) = (&record.pool, record.id, process.id());
                warn!(pool, server, pid, "not in the configuration any more: stopping it");
                process.terminate();
            }
        }
        Supervisor { native, pools, upstream: plan.upstream, io, clock, ledger, events: vec![] }
    }

    /// One turn, of `patience` at most: orders, exits, starts and stops.
    pub fn turn(&mut self, patience: Duration) -> io::Result<Instant> {
        let now = self.clock.now();
        self.carry_out(now);
        let of_native = self.native.as_ref().and_then(|(role, _)| role.next_deadline());
        let of_pools = self.pools.iter().map(|(keeper, _)| keeper.replicas().next_deadline());
        let due = of_pools.fold(of_native, earliest);
        self.io.wait(earliest(due, Some(now + patience.min(LOOK_EVERY))))?;
        self.io.receive()?;
        let now = self.clock.now();
        if let Some((role, _)) = &mut self.native {
            let (rx, tx) = self.io.turn();
            role.on_batch(now, rx, tx);
            role.on_timeout(now, tx);
        }
        self.io.flush()?;
        self.look_at_pools(now);
        self.carry_out(now);
        Ok(now)
    }

    /// Stops every server; go on with turns until [`Supervisor::is_empty`].
    pub fn shut_down(&mut self) {
        let now = self.clock.now();
        self.crews(|replicas, _, _| replicas.shut_down(now));
        self.carry_out(now);
    }

    /// Whether no server is left.
    pub fn is_empty(&self) -> bool {
        self.native.iter().all(|(role, _)| role.replicas().is_empty())
            && self.pools.iter().all(|(keeper, _)| keeper.replicas().is_empty())
    }

    /// Ends what is left, without a drain.
    pub fn kill_all(&mut self) {
        self.crews(|_, runner, _| runner.kill_all());
        self.ledger.clear();
    }

    /// What happened since the last call, in words, oldest first.
    pub fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// Has the keepers see what the balancer shows, and the balancer know which servers there are.
    fn look_at_pools(&mut self, now: Instant) {
        let Some(upstream) = &mut self.upstream else { return };
        let names: Vec<&str> = self.pools.iter().map(|(_, runner)| runner.pool()).collect();
        if let Some(looks) = upstream.looks(&names) {
            for (i, (keeper, _)) in self.pools.iter_mut().enumerate() {
                keeper.observe(now, looks.as_ref().map(|looks| &looks[i]));
            }
        }
        let ports = listening::udp_ports();
        for (keeper, runner) in &mut self.pools {
            keeper.crew_mut().on_timeout(now);
            upstream.tell(runner.pool(), keeper.wanted(now, |port| ports.contains(&port)));
        }
    }

    fn carry_out(&mut self, now: Instant) {
        let mut events = vec![];
        self.crews(|replicas, runner, ledger| {
            runner.turn(now, replicas, ledger);
            events.append(&mut runner.take_events());
        });
        self.events.append(&mut events);
    }

    fn crews(&mut self, mut act: impl FnMut(&mut Replicas, &mut Runner, &mut Ledger)) {
        if let Some((role, runner)) = &mut self.native {
            act(role.crew_mut(), runner, &mut self.ledger);
        }
        for (keeper, runner) in &mut self.pools {
            act(keeper.crew_mut(), runner, &mut self.ledger);
        }
    }
}

impl<I> Drop for Supervisor<I> {
    /// An error on the way out leaves no server behind.
    fn drop(&mut self) {
        let of_native = self.native.iter_mut().map(|(_, runner)| runner);
        of_native.chain(self.pools.iter_mut().map(|(_, runner)| runner)).for_each(Runner::terminate_all);
        self.ledger.clear();
    }
}
