//! The native pool of a running balancer.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use super::held::{PausedWorkers, Verdict};
use super::sockets::duplicates;
use super::start::start;
use super::{Failed, Process, processors};
use crate::base::rng::entropy;
use crate::base::time::{Clock, Instant};
use crate::config::NativePool;
use crate::daemon::handover::{SocketKind, SocketSet};
use crate::daemon::inbox::{Gone, WorkerHandle};
use crate::daemon::native::NAME;
use crate::daemon::worker::Worker;
use crate::io::{BackEnd, IoOptions};
use crate::os;
use crate::pool::order::{Order, Refused};
use crate::pool::stats::NativeStats;
use crate::role::native::{NativeRole, Part, Settings};

/// How long a process that has taken its sockets over leaves requests in their buffers while no server has registered.
const WAIT_FOR_SERVERS: Duration = Duration::from_millis(300);

/// How long workers wait for a successor's word: for longer than the whole conversation may take, so that none reads on while a
/// successor begins. Whoever holds them lets them go before, whatever happens.
const HELD_MAX: Duration = Duration::from_secs(60);

/// What the workers of the native pool know, in their order.
pub type NativeState = Vec<Part>;

/// A worker of the native pool.
pub type NativeWorker = Worker<NativeRole, BackEnd>;

/// The native pool's workers, as they are reached from outside.
pub struct Native {
    posts: Vec<WorkerHandle<NativeWorker>>,
    /// By worker, the primary first.
    pub stats: Vec<Arc<NativeStats>>,
}

/// The settings of the native pool's role, but for the balancer's own addresses.
pub fn settings(pool: &NativePool) -> Settings {
    Settings {
        format: pool.format,
        key: pool.key_bytes(),
        secret: rand::random(),
        workers: pool.workers,
        policy: pool.policy,
        reply_path: pool.reply_path,
        servers_max: pool.servers_max,
        max_outstanding: pool.max_outstanding,
        waiting_max: pool.waiting_max,
        interval: pool.interval,
        controller: pool.run.as_ref().map(|run| run.controller),
        scale: pool.scale_policy(),
        health: pool.health,
        own: vec![],
        seed: entropy(),
    }
}

/// Whether a balancer that was made from one goes on as it is with the other: the same in all that a configuration says.
pub fn are_same(one: &Settings, other: &Settings) -> bool {
    let live = |settings: &Settings| {
        let Settings { policy, reply_path, max_outstanding, interval, controller, scale, health, .. } =
            settings;
        (*policy, *reply_path, *max_outstanding, *interval, *controller, *scale, *health)
    };
    one.fixed_difference(other).is_none() && live(one) == live(other)
}

/// The native pool's workers, made and not started yet.
pub struct PreparedNative {
    settings: Settings,
    roles: Vec<NativeRole>,
    ios: Vec<BackEnd>,
    processors: Vec<Option<usize>>,
    patience: Duration,
    /// Whether requests may be in the sockets already, and no server is known.
    waits: bool,
}

impl PreparedNative {
    /// Makes the workers over these sockets: front and server side of each.
    pub fn new(
        pool: &NativePool,
        sockets: Vec<[UdpSocket; 2]>,
        is_inherited: bool,
        process: &Process,
    ) -> Result<PreparedNative, Failed> {
        let mut settings = settings(pool);
        for socket in sockets.iter().flatten() {
            settings.own.push(socket.local_addr()?);
        }
        let options = IoOptions { prefault: true, ..pool.io_options() };
        let processor = processors(pool.pin)?;
        let io = |sockets: [UdpSocket; 2]| os::back_end(pool.io, sockets.into(), &options, process.clock);
        Ok(PreparedNative {
            roles: NativeRole::workers(settings.clone(), process.clock.now()),
            ios: sockets.into_iter().map(io).collect::<io::Result<_>>()?,
            processors: (0..settings.workers).map(processor).collect(),
            patience: pool.deadline,
            waits: is_inherited,
            settings,
        })
    }

    /// Goes on exactly where the workers of another process have stopped.
    pub fn go_on_from(&mut self, state: NativeState, now: Instant) -> Result<(), Failed> {
        self.roles = NativeRole::workers_from(self.settings.clone(), state, now).map_err(Failed::new)?;
        self.waits = false;
        Ok(())
    }

    /// Starts their loops.
    pub fn start(self, process: &Process) -> Result<Native, Failed> {
        let PreparedNative { roles, ios, processors, patience, waits, .. } = self;
        let stats = roles.iter().map(|role| Arc::clone(role.stats())).collect();
        let mut posts = vec![];
        for (number, ((role, io), processor)) in roles.into_iter().zip(ios).zip(processors).enumerate() {
            let mut worker = Worker::new(role, io, 2, processor, patience);
            if waits {
                worker.wait_for_servers(process.clock.now() + WAIT_FOR_SERVERS)?;
            }
            posts.push(start(worker, format!("worker-{number}"), process)?);
        }
        Ok(Native { posts, stats })
    }
}

impl Native {
    /// Where each worker takes tasks.
    pub fn posts(&self) -> &[WorkerHandle<NativeWorker>] {
        &self.posts
    }

    fn primary(&self) -> &WorkerHandle<NativeWorker> {
        &self.posts[0]
    }

    /// Goes on with these settings, which it can.
    pub fn change(&self, new: Settings) -> Result<(), Failed> {
        let changed = self.primary().call(move |worker, _| worker.role.reconfigure(new))?;
        changed.map_err(|key| Failed::new(format!("{key} cannot change")))?;
        // All adopt them in a turn, be there a request or not.
        self.posts.iter().try_for_each(|post| Ok(post.send(|_, _| ())?))
    }

    /// Duplicates of the workers' sockets.
    pub fn sockets(&self) -> Result<SocketSet, Failed> {
        let mut all = SocketSet::default();
        for (number, post) in self.posts.iter().enumerate() {
            let sockets = post.call(move |worker, _| {
                let kinds = [SocketKind::Front, SocketKind::Back];
                duplicates(kinds.into_iter().zip(worker.io.sockets()), NAME, number as u16)
            });
            all.append(sockets??);
        }
        Ok(all)
    }

    /// Stops the workers between two turns, until `held` says what becomes of them; gives what they know.
    pub fn pause(&self, held: &mut PausedWorkers, clock: Clock) -> Result<NativeState, Failed> {
        for post in &self.posts {
            post.call(|worker, _| worker.pause_all())??;
        }
        let mut workers = vec![];
        for post in &self.posts {
            let (tell, told) = sync_channel(2);
            let wait = held.hold();
            post.send(move |worker, _| {
                worker.role.stop_waiting();
                let _ = tell.send(worker.settle(&clock).map(|()| None));
                loop {
                    match wait.recv_timeout(HELD_MAX) {
                        Ok(Verdict::Tell) => _ = tell.send(Ok(Some(worker.role.export(clock.now())))),
                        Ok(Verdict::End) => return worker.end(),
                        Err(_) => {
                            worker.role.wait_again();
                            return worker.resume_all();
                        }
                    }
                }
            })?;
            workers.push(told);
        }
        let hear = |told: &Receiver<io::Result<Option<Part>>>| {
            Ok::<_, Failed>(told.recv_timeout(HELD_MAX).map_err(|_| Gone)??)
        };
        // Only when all have stopped does the first one tell.
        for told in &workers {
            hear(told)?;
        }
        held.all_tell();
        let parts = workers.iter().map(|told| hear(told)?.ok_or_else(|| Gone.into()));
        parts.collect()
    }

    /// Reads on: there was no successor. One that reads already goes on.
    pub fn resume(&self) -> Result<(), Failed> {
        self.posts.iter().try_for_each(|post| Ok(post.call(|worker, _| worker.resume_all())?))
    }

    /// Carries out an order about a server.
    pub fn order(&self, id: u32, order: Order) -> Result<Result<(), Refused>, Gone> {
        self.primary().call(move |worker, now| worker.role.order(now, id, order))
    }
}
