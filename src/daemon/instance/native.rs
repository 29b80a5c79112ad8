//! A native pool of a balancer process.

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::paused::{PauseVerdict, PausedWorkers};
use super::running::{Change, Running, Transition};
use super::sockets::OpenNative;
use super::state::{NativeState, PoolState};
use super::workers::{EndedWorkers, Workers, back_end, cpus};
use super::{Failed, ProcessContext};
use crate::admin::status::PoolSource;
use crate::base::rng::entropy;
use crate::base::time::{Clock, Instant};
use crate::config::{self, NativePool};
use crate::daemon::desired::DesiredServers;
use crate::daemon::handover::SocketSet;
use crate::daemon::inbox::Gone;
use crate::daemon::worker::Worker;
use crate::io::{BackEnd, IoOptions};
use crate::pool::order::{Order, Refused};
use crate::pool::part::Part;
use crate::pool::stats::NativeStats;
use crate::role::native::{NativePoolSettings, NativeRole};

/// Maximum time for which a process that took over the sockets leaves requests in their buffers until a
/// server has registered.
const WAIT_FOR_SERVERS: Duration = Duration::from_millis(300);

/// Maximum time for which a paused worker waits for a verdict. It is longer than a whole conversation with a
/// successor, so that no worker reads again while a successor starts. The thread that pauses the workers
/// always gives a verdict before.
const PAUSED_MAX: Duration = Duration::from_secs(60);

/// The settings of a native pool's role, without the addresses of its sockets.
fn settings(pool: &NativePool) -> NativePoolSettings {
    NativePoolSettings {
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

/// The key of the first difference that a running pool cannot adopt, in the form of the pool's configuration.
fn fixed_difference(old: &NativePool, new: &NativePool) -> Option<String> {
    let of_role = settings(old).fixed_difference(&settings(new)).unwrap_or_default();
    let of_role = of_role.strip_prefix("load_balancer.").unwrap_or(of_role);
    let differ = [
        ("listen", old.client_side != new.client_side),
        ("server_side", old.server_side != new.server_side),
        (of_role, !of_role.is_empty()),
        // The default follows from the frame size, so a changed frame size is named first.
        ("frames_per_datagram", old.frames_per_datagram != new.frames_per_datagram),
        ("pin", old.pin != new.pin),
        ("io", old.io != new.io),
    ];
    let (key, _) = differ.into_iter().find(|(_, differ)| *differ)?;
    Some(match (old.name.as_str(), key) {
        (_, "key_file") => key.to_owned(),
        ("native", "listen") => "load_balancer.client_side_port or bind".to_owned(),
        ("native", "server_side") => "load_balancer.server_side_port or bind".to_owned(),
        ("native", key) => format!("load_balancer.{key}"),
        (name, key) => format!("pool {name}: {key}"),
    })
}

/// Whether the settings that can change are the same.
fn are_same(one: &NativePoolSettings, other: &NativePoolSettings) -> bool {
    let live = |settings: &NativePoolSettings| {
        let NativePoolSettings {
            policy,
            reply_path,
            max_outstanding,
            interval,
            controller,
            scale,
            health,
            ..
        } = settings;
        (*policy, *reply_path, *max_outstanding, *interval, *controller, *scale, *health)
    };
    live(one) == live(other)
}

/// A native pool that is ready and has not started.
pub struct PreparedNative {
    of: NativePool,
    settings: NativePoolSettings,
    /// The workers that continue from a state; `None` without a state.
    roles: Option<Vec<NativeRole>>,
    ios: Vec<BackEnd>,
    cpus: Vec<Option<usize>>,
    /// Whether the sockets may hold requests already while no server is known.
    waits: bool,
}

impl PreparedNative {
    /// Prepares the workers over these sockets: a client-side and a server-side socket for each worker.
    /// `prefault`: whether they touch their memory now.
    pub fn new(open: OpenNative, process: &ProcessContext, prefault: bool) -> Result<PreparedNative, Failed> {
        let OpenNative { of, workers: sockets, are_inherited } = open;
        let mut settings = settings(&of);
        for socket in sockets.iter().flatten() {
            settings.own.push(socket.local_addr()?);
        }
        let options = IoOptions { prefault, ..of.io_options() };
        let cpu = cpus(of.pin)?;
        let mut ios = vec![];
        for (number, sockets) in sockets.into_iter().enumerate() {
            let pool = (of.name.as_str(), number);
            ios.push(back_end(pool, (of.io, &options), sockets.into(), 2, process)?);
        }
        Ok(PreparedNative {
            roles: None,
            ios,
            cpus: (0..settings.workers).map(cpu).collect(),
            waits: are_inherited,
            settings,
            of,
        })
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.of.name
    }

    /// Continues with the exact state at which the workers of another process stopped.
    pub fn restore(&mut self, state: NativeState, now: Instant) -> Result<(), Failed> {
        let roles = NativeRole::workers_from(self.settings.clone(), state, now);
        self.roles = Some(roles.map_err(Failed::new)?);
        self.waits = false;
        Ok(())
    }

    /// Starts the workers' loops.
    pub fn start(self, process: &ProcessContext) -> Result<RunningNative, Failed> {
        let PreparedNative { of, settings, roles, ios, cpus, waits } = self;
        // The roles' time starts now, so the preparation of other pools does not count as an event-loop
        // stall.
        let roles = roles.unwrap_or_else(|| NativeRole::workers(settings, process.clock.now()));
        let stats = roles.iter().map(|role| Arc::clone(role.stats())).collect();
        let mut workers = vec![];
        for ((role, io), cpu) in roles.into_iter().zip(ios).zip(cpus) {
            let mut worker = Worker::new(role, io, 2, cpu, of.deadline);
            if waits {
                worker.wait_for_servers(process.clock.now() + WAIT_FOR_SERVERS)?;
            }
            workers.push(worker);
        }
        let workers = Workers::start(&of.name, workers, process)?;
        Ok(RunningNative { of: Mutex::new(Arc::new(config::Pool::Native(of))), workers, stats })
    }
}

/// A native pool whose workers run.
pub struct RunningNative {
    of: Mutex<Arc<config::Pool>>,
    workers: Workers<NativeRole>,
    /// By worker, the primary first.
    stats: Vec<Arc<NativeStats>>,
}

impl Running for RunningNative {
    fn name(&self) -> &str {
        self.workers.pool()
    }

    fn of(&self) -> Arc<config::Pool> {
        Arc::clone(&self.of.lock().expect("no panic while it is held"))
    }

    fn transition(&self, new: &config::Pool) -> Result<Transition, Failed> {
        let old = self.of();
        let (config::Pool::Native(old), config::Pool::Native(new_native)) = (&*old, new) else {
            return Ok(Transition::Recreate);
        };
        if let Some(key) = fixed_difference(old, new_native) {
            return Ok(Transition::Fixed(key));
        }
        if are_same(&settings(old), &settings(new_native)) {
            return Ok(Transition::Keep);
        }
        Ok(Transition::Change(Box::new(Change { new: new.clone(), names: None })))
    }

    fn change(&self, change: Change, _: &ProcessContext) -> Result<String, Failed> {
        let config::Pool::Native(new) = &change.new else { return Err(Failed::fixed("protocol")) };
        let settings = settings(new);
        let changed = self.workers.ask_primary(move |role, _| role.reconfigure(settings))?;
        changed.map_err(Failed::fixed)?;
        self.workers.wake()?;
        *self.of.lock().expect("no panic while it is held") = Arc::new(change.new);
        Ok("other settings".to_owned())
    }

    fn order(&self, id: u32, order: Order) -> Result<Result<(), Refused>, Gone> {
        self.workers.ask_primary(move |role, now| role.order(now, id, order))
    }

    fn desired(&self) -> Option<&DesiredServers> {
        None
    }

    fn sockets(&self, name: &str) -> Result<SocketSet, Failed> {
        self.workers.duplicates(name, true, EndedWorkers::Fails)
    }

    fn sockets_left(&self, name: &str) -> Result<SocketSet, Failed> {
        self.workers.duplicates(name, true, EndedWorkers::LeftOut)
    }

    /// Pauses all workers between two turns before the first one exports its part: any worker may take the
    /// reply to a request of another.
    fn pause(&self, paused: &mut PausedWorkers, clock: Clock) -> Result<PoolState, Failed> {
        for worker in self.workers.iter() {
            worker.call(|worker, _| worker.pause_all())??;
        }
        let mut own = PausedWorkers::default();
        let mut reports = vec![];
        for worker in self.workers.iter() {
            let (report, reported) = sync_channel(2);
            let verdict = own.add(worker.waker());
            worker.send(move |worker, now| {
                worker.role.stop_waiting();
                let _ = report.send(worker.settle(&clock).map(|()| None));
                let hold = move |worker: &mut Worker<NativeRole, BackEnd>, is_over: bool| loop {
                    match verdict.try_recv() {
                        Ok(PauseVerdict::Export) => {
                            _ = report.send(Ok(Some(worker.role.export(clock.now()))));
                        }
                        Ok(PauseVerdict::End) => {
                            worker.end();
                            return false;
                        }
                        Err(TryRecvError::Empty) if !is_over => return true,
                        Err(_) => {
                            worker.role.wait_again();
                            worker.resume_all();
                            return false;
                        }
                    }
                };
                worker.hold(now + PAUSED_MAX, Box::new(hold));
            })?;
            reports.push(reported);
        }
        let next = |reported: &Receiver<io::Result<Option<Part>>>| {
            Ok::<_, Failed>(reported.recv_timeout(PAUSED_MAX).map_err(|_| Gone)??)
        };
        for reported in &reports {
            next(reported)?;
        }
        own.export();
        let parts = reports.iter().map(|reported| next(reported)?.ok_or_else(|| Gone.into()));
        let parts = parts.collect::<Result<_, Failed>>()?;
        paused.append(own);
        Ok(PoolState::Native(parts))
    }

    fn resume(&self) -> Result<(), Failed> {
        self.workers.iter().try_for_each(|worker| Ok(worker.call(|worker, _| worker.resume_all())?))
    }

    fn retire(&self, _: &ProcessContext) -> Result<(), Failed> {
        Ok(self.workers.retire()?)
    }

    fn is_alive(&self) -> bool {
        self.workers.is_alive()
    }

    fn is_turning(&self) -> bool {
        self.workers.is_turning()
    }

    fn counters(&self) -> PoolSource {
        PoolSource::Native { name: self.name().to_owned(), workers: self.stats.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_fixed_is_named_as_the_configuration_of_the_pool_has_it() {
        let pool = |section: &str| {
            let text = format!(r#"{{"load_balancer": {{{section}}}}}"#);
            Config::parse(&text, None).unwrap().native().unwrap().clone()
        };
        let old = pool("\"workers\": 1");
        let named = |name: &str, section: &str| {
            let with_name = |pool: &NativePool| NativePool { name: name.to_owned(), ..pool.clone() };
            fixed_difference(&with_name(&old), &with_name(&pool(section)))
        };
        for (section, native, other) in [
            ("\"workers\": 2", "load_balancer.workers", "pool b: workers"),
            // The number of frames in a datagram follows from their size.
            ("\"workers\": 1, \"frame_size\": 512", "load_balancer.frame_size", "pool b: frame_size"),
            (
                "\"workers\": 1, \"client_side_port\": 54002",
                "load_balancer.client_side_port or bind",
                "pool b: listen",
            ),
            ("\"workers\": 1, \"pin\": true", "load_balancer.pin", "pool b: pin"),
        ] {
            assert_eq!(named("native", section).as_deref(), Some(native));
            assert_eq!(named("b", section).as_deref(), Some(other));
        }
        assert_eq!(named("b", "\"workers\": 1, \"policy\": \"random\""), None);
    }
}
