//! A datagram pool of a balancer process.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::paused::PausedWorkers;
use super::running::{Change, Running, Transition};
use super::sockets::{OpenDatagram, plan_for};
use super::state::{DatagramState, PoolState};
use super::workers::{EndedWorkers, Workers, add_totals, back_end, cpus};
use super::{Failed, ProcessContext};
use crate::admin::status::PoolSource;
use crate::base::rng::entropy;
use crate::base::time::{Clock, Instant};
use crate::config::{self, DatagramPool};
use crate::daemon::control::PoolTasks;
use crate::daemon::datagram;
use crate::daemon::desired::DesiredServers;
use crate::daemon::handover::{Label, SocketKind, SocketSet};
use crate::daemon::inbox::Gone;
use crate::daemon::resolver::Resolver;
use crate::daemon::worker::Worker;
use crate::io::BackEnd;
use crate::pool::order::{Order, Refused};
use crate::pool::stats::PoolTotals;
use crate::role::datagram::{Chance, DatagramRole, DatagramShared, SocketOrigins};

/// A datagram pool that is ready and has not started.
pub struct PreparedDatagram {
    of: DatagramPool,
    plan: datagram::SocketPlan,
    shared: Arc<DatagramShared>,
    desired: Arc<DesiredServers>,
    workers: Vec<Worker<DatagramRole, BackEnd>>,
    /// Where the sockets of a predecessor's workers are.
    origins: SocketOrigins,
    tasks: PoolTasks,
    listeners: Vec<TcpListener>,
}

impl PreparedDatagram {
    /// Prepares a pool's workers over its sockets. `prefault`: whether they touch their memory now.
    pub fn new(
        open: OpenDatagram,
        process: &ProcessContext,
        prefault: bool,
    ) -> Result<PreparedDatagram, Failed> {
        let OpenDatagram { of, plan, mut names, workers, origins, listeners } = open;
        let (sockets, layouts): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        let chance = Chance { secret: rand::random(), seed: entropy() };
        let now = process.clock.now();
        let (shared, mut roles) = DatagramRole::workers(of.settings.clone(), chance, &layouts, now);
        let desired = Arc::new(DesiredServers::new(Arc::clone(&shared)));
        desired.set_named(names.wanted(), names.hosts());
        roles[0].take_servers(now);
        let cpu = cpus(of.pin)?;
        let options = datagram::io_options(of.settings.proxy_protocol, prefault);
        let mut workers = vec![];
        for (number, (mut role, sockets)) in roles.into_iter().zip(sockets).enumerate() {
            if prefault {
                role.fault_in();
            }
            let count = sockets.len();
            let (pool, listening) = (&of.settings.name, role.sockets().fronts.len());
            let io = back_end((pool, number), (of.io, &options), sockets, listening, process)?;
            workers.push(Worker::new(role, io, count, cpu(number), of.settings.timeout));
        }
        let duplicates = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        let tasks = PoolTasks {
            pool: Arc::clone(&shared),
            desired: Arc::clone(&desired),
            listeners,
            connections_max: of.tcp_connections,
            names: names.has_names().then_some(names),
        };
        Ok(PreparedDatagram { of, plan, shared, desired, workers, origins, tasks, listeners: duplicates })
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.of.settings.name
    }

    /// Continues with the state of the pool before.
    pub fn restore(&mut self, state: DatagramState, now: Instant) -> Result<(), Failed> {
        self.desired.set_run(state.run);
        self.workers[0].role.take_servers(now);
        let mut roles: Vec<_> = self.workers.iter_mut().map(|worker| &mut worker.role).collect();
        DatagramRole::import(&mut roles, now, &state.parts, &self.origins).map_err(Failed::new)?;
        self.desired.had_hosts(&state.hosts);
        Ok(())
    }

    /// Whether the flows of the pool before go on, on the same server-side ports.
    pub fn continues(&self) -> bool {
        !self.origins.ports.is_empty()
    }

    /// The pool's counters.
    pub fn counters(&self) -> PoolSource {
        PoolSource::Datagram(Arc::clone(&self.shared))
    }

    /// Starts the workers' loops, and the pool's tasks on the control thread.
    pub fn start(self, process: &ProcessContext) -> Result<RunningDatagram, Failed> {
        let PreparedDatagram { of, plan, shared, desired, workers, tasks, listeners, .. } = self;
        process.control.begin(tasks)?;
        let workers = Workers::start(&of.settings.name, workers, process)?;
        let of = Mutex::new(Arc::new(config::Pool::Datagram(of)));
        Ok(RunningDatagram { of, plan, shared, desired, workers, listeners: Mutex::new(listeners) })
    }
}

/// A datagram pool whose workers run.
pub struct RunningDatagram {
    of: Mutex<Arc<config::Pool>>,
    /// The sockets of the pool.
    plan: datagram::SocketPlan,
    /// State that all workers share.
    shared: Arc<DatagramShared>,
    desired: Arc<DesiredServers>,
    workers: Workers<DatagramRole>,
    /// Duplicates of the control thread's TCP listeners, for a successor.
    listeners: Mutex<Vec<TcpListener>>,
}

impl RunningDatagram {
    fn duplicates(&self, name: &str, all: bool, ended: EndedWorkers) -> Result<SocketSet, Failed> {
        let mut all = self.workers.duplicates(name, all, ended)?;
        for listener in &*self.listeners.lock().expect("no panic while it is held") {
            let (pool, addr) = (name.to_owned(), listener.local_addr()?);
            all.add(Label { pool, kind: SocketKind::Tcp, worker: 0, addr }, listener.try_clone()?.into());
        }
        Ok(all)
    }
}

/// Whether a pool can adopt these settings, apart from its servers.
fn can_become(old: &DatagramPool, new: &DatagramPool) -> bool {
    old.listen == new.listen
        && old.ports == new.ports
        && old.pin == new.pin
        && old.io == new.io
        && old.tcp_connections == new.tcp_connections
        && old.settings.fixed_difference(&new.settings).is_none()
}

impl Running for RunningDatagram {
    fn name(&self) -> &str {
        self.workers.pool()
    }

    fn of(&self) -> Arc<config::Pool> {
        Arc::clone(&self.of.lock().expect("no panic while it is held"))
    }

    fn transition(&self, new: &config::Pool) -> Result<Transition, Failed> {
        let old = self.of();
        let (config::Pool::Datagram(old), config::Pool::Datagram(pool)) = (&*old, new) else {
            return Ok(Transition::Recreate);
        };
        if old == pool {
            return Ok(Transition::Keep);
        }
        if can_become(old, pool) {
            let mut names = Resolver::new(pool);
            let looked_up = names.look_up();
            // The running pool keeps the addresses that it has, unless its names change.
            if old.servers != pool.servers || old.resolve_interval != pool.resolve_interval {
                looked_up.map_err(|error| Failed::new(error).of_pool(self.name()))?;
            }
            let addrs: Vec<_> = names.wanted().into_iter().map(|server| server.addr).collect();
            if self.plan.covers(&plan_for(pool, &addrs)) {
                return Ok(Transition::Change(Box::new(Change { new: new.clone(), names: Some(names) })));
            }
        }
        Ok(Transition::Recreate)
    }

    fn change(&self, change: Change, process: &ProcessContext) -> Result<String, Failed> {
        let old = self.of();
        let (config::Pool::Datagram(old), config::Pool::Datagram(new), Some(mut names)) =
            (&*old, &change.new, change.names)
        else {
            return Err(Failed::fixed("protocol"));
        };
        let mut changes = vec![];
        if old.settings != new.settings {
            self.shared.reconfigure(new.settings.clone()).map_err(Failed::fixed)?;
            self.workers.wake()?;
            changes.push("other settings".to_owned());
        }
        if old.servers != new.servers || old.resolve_interval != new.resolve_interval {
            self.desired.set_named(names.wanted(), names.hosts());
            let names = names.has_names().then_some(names);
            process.control.rename(self.name(), names, Arc::clone(&self.desired));
            changes.push(format!("{} -> {} servers", old.servers.len(), new.servers.len()));
        }
        *self.of.lock().expect("no panic while it is held") = Arc::new(change.new);
        Ok(changes.join(", "))
    }

    fn order(&self, id: u32, order: Order) -> Result<Result<(), Refused>, Gone> {
        self.workers.ask_primary(move |role, now| role.order(now, id, order))
    }

    fn desired(&self) -> Option<&DesiredServers> {
        Some(&self.desired)
    }

    fn sockets(&self, name: &str) -> Result<SocketSet, Failed> {
        self.duplicates(name, true, EndedWorkers::Fails)
    }

    fn sockets_left(&self, name: &str) -> Result<SocketSet, Failed> {
        self.duplicates(name, false, EndedWorkers::LeftOut)
    }

    /// If the successor continues the flows, all workers stop. Otherwise they leave the datagrams of clients
    /// in the sockets' buffers, and finish the requests in flight.
    fn pause(
        &self,
        paused: &mut PausedWorkers,
        clock: Clock,
        is_continued: bool,
    ) -> Result<PoolState, Failed> {
        let mut state = DatagramState { run: self.desired.run(), hosts: self.desired.hosts(), parts: vec![] };
        if is_continued {
            state.parts = self.workers.pause(paused, clock)?;
            return Ok(PoolState::Datagram(state));
        }
        for worker in self.workers.iter() {
            let part = worker.call(|worker, now| {
                worker.pause_fronts()?;
                Ok::<_, io::Error>(worker.role.export(now))
            })??;
            state.parts.push(part);
        }
        Ok(PoolState::Datagram(state))
    }

    fn add_totals(&self, totals: &PoolTotals, slots: &BTreeMap<u16, u16>, process: &ProcessContext) {
        let counters = self.counters();
        add_totals(&self.workers, &counters, totals, slots);
        let (totals, slots) = (totals.clone(), slots.clone());
        process.control.run(move || counters.add_to_streams(&totals, &slots));
    }

    fn resume(&self) -> Result<(), Failed> {
        self.workers.iter().try_for_each(|worker| Ok(worker.call(|worker, _| worker.resume_all())?))
    }

    fn retire(&self, process: &ProcessContext) -> Result<(), Failed> {
        process.control.end(self.name());
        self.listeners.lock().expect("no panic while it is held").clear();
        Ok(self.workers.retire()?)
    }

    fn is_alive(&self) -> bool {
        self.workers.is_alive()
    }

    fn is_turning(&self) -> bool {
        self.workers.is_turning()
    }

    fn counters(&self) -> PoolSource {
        PoolSource::Datagram(Arc::clone(&self.shared))
    }
}
