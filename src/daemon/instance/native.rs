//! A native pool of a balancer process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::paused::PausedWorkers;
use super::running::{Change, Running, Transition};
use super::sockets::OpenNative;
use super::state::{NativeState, PoolState};
use super::workers::{EndedWorkers, Workers, add_totals, back_end, cpus};
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
use crate::pool::stats::{NativeStats, PoolTotals};
use crate::role::native::{Mismatch, NativePoolSettings, NativeRole};

/// Maximum time for which a process that took over the sockets leaves requests in their buffers until a
/// server has registered.
const WAIT_FOR_SERVERS: Duration = Duration::from_millis(300);

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

/// The key of the first difference that a running pool cannot adopt, as an item of `pools` has it, and
/// whether a successor can.
fn fixed_difference(old: &NativePool, new: &NativePool) -> Option<(&'static str, bool)> {
    let of_role = settings(old).fixed_difference(&settings(new)).unwrap_or_default();
    let of_role = of_role.strip_prefix("load_balancer.").unwrap_or(of_role);
    let differ = [
        ("listen", old.client_side != new.client_side, false),
        ("server_side", old.server_side != new.server_side, false),
        (of_role, !of_role.is_empty(), matches!(of_role, "servers_max" | "waiting_max")),
        // The default follows from the frame size, so a changed frame size is named first.
        ("frames_per_datagram", old.frames_per_datagram != new.frames_per_datagram, true),
        ("pin", old.pin != new.pin, true),
        ("io", old.io != new.io, true),
    ];
    differ.into_iter().find(|(_, differ, _)| *differ).map(|(key, _, can_follow)| (key, can_follow))
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
    ///
    /// # Errors
    /// A setting on which the requests in flight depend differs; names the key in the file `source`.
    pub fn restore(&mut self, state: NativeState, now: Instant, source: Option<&Path>) -> Result<(), Failed> {
        let roles = NativeRole::workers_from(self.settings.clone(), state, now);
        let name = self.name();
        let explain = |mismatch: Mismatch| match mismatch.key() {
            Some(key) => {
                let problem = mismatch.to_string();
                let problem = problem.strip_prefix(&format!("{key}: ")).unwrap_or(&problem);
                Failed::new(config::error_in_file(source, Some(name), key, problem))
            }
            None => Failed::new(mismatch).of_pool(name),
        };
        self.roles = Some(roles.map_err(explain)?);
        self.waits = false;
        Ok(())
    }

    /// The pool's counters; `None` before [`PreparedNative::restore`].
    pub fn counters(&self) -> Option<PoolSource> {
        let workers = self.roles.as_ref()?.iter().map(|role| Arc::clone(role.stats())).collect();
        Some(PoolSource::Native { name: self.of.name.clone(), workers })
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
        if let Some((key, can_follow)) = fixed_difference(old, new_native) {
            return Ok(Transition::Fixed { key, can_follow });
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

    fn pause(&self, paused: &mut PausedWorkers, clock: Clock, _: bool) -> Result<PoolState, Failed> {
        Ok(PoolState::Native(self.workers.pause(paused, clock)?))
    }

    fn add_totals(&self, totals: &PoolTotals, slots: &BTreeMap<u16, u16>, _: &ProcessContext) {
        add_totals(&self.workers, &self.counters(), totals, slots);
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
    fn what_is_fixed_is_named_with_the_way_that_works() {
        let pool = |section: &str| {
            let text = format!(r#"{{"load_balancer": {{{section}}}}}"#);
            Config::parse(&text, None).unwrap().native().unwrap().clone()
        };
        let old = pool("\"workers\": 1");
        for (section, fixed) in [
            ("\"workers\": 2", Some(("workers", false))),
            // The number of frames in a datagram follows from their size.
            ("\"workers\": 1, \"frame_size\": 512", Some(("frame_size", false))),
            ("\"workers\": 1, \"client_side_port\": 54002", Some(("listen", false))),
            ("\"workers\": 1, \"servers_max\": 9", Some(("servers_max", true))),
            ("\"workers\": 1, \"pin\": true", Some(("pin", true))),
            ("\"workers\": 1, \"policy\": \"random\"", None),
        ] {
            assert_eq!(fixed_difference(&old, &pool(section)), fixed);
        }
    }
}
