//! A datagram pool of a running balancer.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::sockets::{OpenPool, duplicates};
use super::start::start;
use super::{Failed, Process, processors};
use crate::base::rng::entropy;
use crate::base::time::Instant;
use crate::config::DatagramPool;
use crate::daemon::control::PoolTasks;
use crate::daemon::datagram;
use crate::daemon::desired::DesiredServers;
use crate::daemon::handover::{Label, SocketKind as Kind, SocketSet};
use crate::daemon::inbox::{Gone, WorkerHandle};
use crate::daemon::resolver::Resolver;
use crate::daemon::worker::Worker;
use crate::io::BackEnd;
use crate::pool::desired::DesiredServer;
use crate::pool::order::{Order, Refused};
use crate::role::datagram::{Chance, DatagramRole, Flow, Known, Shared};

/// What a successor has to know of a pool.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PoolState {
    /// The servers that a controller runs.
    run: Vec<DesiredServer>,
    /// What is known of its servers.
    known: Known,
    /// By worker, which client has which server.
    flows: Vec<Vec<Flow>>,
}

/// A worker of a datagram pool.
pub type PoolWorker = Worker<DatagramRole, BackEnd>;

/// A datagram pool's workers, as they are reached from outside.
pub struct Pool {
    /// What it was made from, or changed to last.
    of: Mutex<Arc<DatagramPool>>,
    /// Which sockets it has.
    pub plan: datagram::Plan,
    /// What its workers share.
    pub shared: Arc<Shared>,
    /// The servers that it shall have.
    pub wishes: Arc<DesiredServers>,
    posts: Vec<WorkerHandle<PoolWorker>>,
    name: String,
    /// Duplicates of those that the control thread has, for a successor.
    listeners: Mutex<Vec<TcpListener>>,
}

/// A pool that was made and not started yet.
pub struct PreparedPool {
    of: DatagramPool,
    plan: datagram::Plan,
    shared: Arc<Shared>,
    wishes: Arc<DesiredServers>,
    workers: Vec<PoolWorker>,
    errands: PoolTasks,
    listeners: Vec<TcpListener>,
}

impl PreparedPool {
    /// Makes a pool's workers over its sockets.
    pub fn new(open: OpenPool, process: &Process) -> Result<PreparedPool, Failed> {
        let OpenPool { of, plan, mut names, workers, listeners } = open;
        let (sockets, layouts): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        let chance = Chance { secret: rand::random(), seed: entropy() };
        let now = process.clock.now();
        let (shared, mut roles) = DatagramRole::workers(of.settings.clone(), chance, &layouts, now);
        let wishes = Arc::new(DesiredServers::new(Arc::clone(&shared)));
        wishes.want_named(names.wanted());
        roles[0].take_servers(now);
        let processor = processors(of.pin)?;
        let mut workers = vec![];
        for (number, (role, sockets)) in roles.into_iter().zip(sockets).enumerate() {
            let count = sockets.len();
            let options = datagram::io_options(of.settings.proxy_protocol);
            let io = BackEnd::open(of.io, sockets, &options, process.clock)?;
            let pool = &of.settings.name;
            tracing::info!(pool, worker = number, io = io.name(), sockets = count, "batch I/O");
            workers.push(Worker::new(role, io, count, processor(number), of.settings.timeout));
        }
        let duplicates = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        let errands = PoolTasks {
            pool: Arc::clone(&shared),
            wishes: Arc::clone(&wishes),
            listeners,
            connections_max: of.tcp_connections,
            names: names.has_names().then_some(names),
        };
        Ok(PreparedPool { of, plan, shared, wishes, workers, errands, listeners: duplicates })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.of.settings.name
    }

    /// Goes on with what the pool of this name in another process knew.
    pub fn go_on_from(&mut self, state: PoolState, now: Instant) {
        self.wishes.want_run(state.run);
        self.workers[0].role.take_servers(now);
        self.workers[0].role.import_members(now, &state.known);
        let workers = self.workers.len();
        for (number, flows) in state.flows.iter().enumerate() {
            self.workers[number % workers].role.import_flows(now, flows);
        }
    }

    /// Starts its loops and its errands.
    pub fn start(self, process: &Process) -> Result<Pool, Failed> {
        let PreparedPool { of, plan, shared, wishes, workers, errands, listeners } = self;
        process.control.begin(errands)?;
        let name = of.settings.name.clone();
        let start = |(number, worker)| start(worker, format!("{name}-{number}"), process);
        let posts = workers.into_iter().enumerate().map(start).collect::<io::Result<_>>()?;
        Ok(Pool {
            of: Mutex::new(Arc::new(of)),
            plan,
            shared,
            wishes,
            posts,
            name,
            listeners: Mutex::new(listeners),
        })
    }
}

impl Pool {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was made from, or changed to last.
    pub fn of(&self) -> Arc<DatagramPool> {
        Arc::clone(&self.of.lock().expect("no panic while it is held"))
    }

    /// Whether some of its workers have something to finish. Until then its addresses are taken.
    pub fn is_running(&self) -> bool {
        self.posts.iter().any(|post| post.send(|_, _| ()).is_ok())
    }

    /// Carries out an order about a server.
    pub fn order(&self, id: u32, order: Order) -> Result<Result<(), Refused>, Gone> {
        self.posts[0].call(move |worker, now| worker.role.order(now, id, order))
    }

    /// The same of a pool that leaves: of those workers that have not ended yet.
    pub fn fronts_left(&self, for_pool: &str) -> Result<SocketSet, Failed> {
        self.fronts_of(for_pool, true)
    }

    /// Duplicates of its workers' front sockets and of its listeners, for a pool of this name.
    pub fn fronts(&self, for_pool: &str) -> Result<SocketSet, Failed> {
        self.fronts_of(for_pool, false)
    }

    fn fronts_of(&self, for_pool: &str, may_have_ended: bool) -> Result<SocketSet, Failed> {
        let mut all = SocketSet::default();
        for (number, post) in self.posts.iter().enumerate() {
            let pool = for_pool.to_owned();
            let fronts = post.call(move |worker, _| {
                let fronts = worker.role.sockets().fronts.clone();
                let sockets = &worker.io.sockets()[usize::from(fronts.start)..usize::from(fronts.end)];
                duplicates(
                    sockets.iter().map(|socket: &UdpSocket| (Kind::Front, socket)),
                    &pool,
                    number as u16,
                )
            });
            match fronts {
                Err(Gone) if may_have_ended => {}
                fronts => all.append(fronts??),
            }
        }
        for listener in &*self.listeners.lock().expect("no panic while it is held") {
            let (pool, addr) = (for_pool.to_owned(), listener.local_addr()?);
            all.add(Label { pool, kind: Kind::Tcp, worker: 0, addr }, listener.try_clone()?.into());
        }
        Ok(all)
    }

    /// Leaves what clients send in the sockets' buffers, for a successor; gives what that has to know. What is under way
    /// goes on.
    pub fn pause(&self) -> Result<PoolState, Failed> {
        let mut state = PoolState { run: self.wishes.run(), ..PoolState::default() };
        for (number, post) in self.posts.iter().enumerate() {
            let (flows, known) = post.call(|worker, now| {
                worker.pause_fronts()?;
                Ok::<_, io::Error>((worker.role.export_flows(now), worker.role.export_members()))
            })??;
            state.flows.push(flows);
            if number == 0 {
                state.known = known; // the primary's
            }
        }
        Ok(state)
    }

    /// Hears clients again: there was no successor.
    pub fn resume(&self) -> Result<(), Failed> {
        self.posts.iter().try_for_each(|post| Ok(post.call(|worker, _| worker.resume_fronts())??))
    }

    /// Stops hearing clients; what is under way is finished. Returns when no worker reads its fronts any more.
    pub fn retire(&self, process: &Process) -> Result<(), Failed> {
        process.control.end(self.name());
        self.listeners.lock().expect("no panic while it is held").clear();
        for post in &self.posts {
            // One that has ended hears nobody.
            if let Ok(result) = post.call(|worker, now| worker.retire(now)) {
                result?;
            }
        }
        Ok(())
    }

    /// Whether every worker has come round. Waits for them.
    pub fn is_turning(&self) -> bool {
        self.posts.iter().all(|post| post.call(|_, _| ()).is_ok())
    }

    /// Whether it can go on with these settings, apart from its servers.
    pub fn can_become(&self, new: &DatagramPool) -> bool {
        let old = self.of();
        old.listen == new.listen
            && old.ports == new.ports
            && old.pin == new.pin
            && old.io == new.io
            && old.tcp_connections == new.tcp_connections
            && old.settings.fixed_difference(&new.settings).is_none()
    }

    /// Goes on with these settings and servers, which it can. Says what has changed, in words.
    pub fn change(
        &self,
        new: DatagramPool,
        mut names: Resolver,
        process: &Process,
    ) -> Result<String, Failed> {
        let old = self.of();
        let mut changes = vec![];
        if old.settings != new.settings {
            let changed = self.shared.reconfigure(new.settings.clone());
            changed.map_err(|key| Failed::new(format!("{key} cannot change")))?;
            // All adopt them in a turn, be there a datagram or not.
            self.posts.iter().try_for_each(|post| post.send(|_, _| ()))?;
            changes.push("other settings".to_owned());
        }
        let before = old.servers.len();
        if old.servers != new.servers || old.resolve_interval != new.resolve_interval {
            self.wishes.want_named(names.wanted());
            let keep = names.has_names().then_some(names);
            process.control.rename(&self.name, keep, Arc::clone(&self.wishes));
            changes.push(format!("{before} -> {} servers", new.servers.len()));
        }
        *self.of.lock().expect("no panic while it is held") = Arc::new(new);
        Ok(changes.join(", "))
    }
}
