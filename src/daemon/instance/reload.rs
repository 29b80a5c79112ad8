//! Reloads the configuration of a running balancer. The file is read and checked, and new pools are prepared;
//! only then the new configuration replaces the old one. A configuration that cannot be applied changes
//! nothing.
//!
//! A pool of the same name adopts new settings where it can. For all other settings a datagram pool is
//! recreated: the new pool reads duplicates of the client-side sockets, and the old pool finishes its
//! requests in flight. A native pool is not recreated: its server side has one reader, which knows the
//! cookies and windows of all requests in flight. So a change of its fixed settings is refused with the key's
//! name. `lbd balancer --takeover` applies the settings that a successor may change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::paused::PausedWorkers;
use super::prepared::Prepared;
use super::running::{Change, Running, Transition};
use super::sockets::{PoolSockets, allow_files};
use super::{Failed, Instance};
use crate::admin::Refusal;
use crate::admin::status::EventKind;
use crate::config::{self, Config};
use crate::daemon::handover::SocketSet;
use crate::os::logging;
use crate::os::notify;

type Pool = Arc<dyn Running>;

/// What the reload does with a pool of the new configuration.
enum ReloadStep {
    /// The pool continues unchanged.
    Keep(Pool),
    /// The pool adopts other settings.
    Change(Pool, Box<Change>),
    /// A prepared pool starts, possibly in place of another pool.
    Begin(Box<Prepared>),
}

impl ReloadStep {
    /// Whether this pool continues to run.
    fn keeps(&self, pool: &Pool) -> bool {
        match self {
            ReloadStep::Keep(kept) | ReloadStep::Change(kept, _) => Arc::ptr_eq(kept, pool),
            ReloadStep::Begin(_) => false,
        }
    }
}

impl Instance {
    /// Reads the configuration file again and applies it. Returns the changes as text. A configuration that
    /// is invalid, or that cannot be applied to a running process, changes nothing.
    pub fn reload(&self) -> Result<String, Refusal> {
        let _one_at_a_time = self.reloading.lock().expect("no panic while it is held");
        notify::reloading();
        let result = self.try_reload();
        notify::ready();
        let text = match &result {
            Ok(changes) => {
                tracing::info!(changes, "configuration reloaded");
                format!("configuration reloaded: {changes}")
            }
            Err(refusal) => {
                let (error, effect) = (refusal.to_string(), "nothing has changed");
                tracing::error!(error, effect, "configuration refused");
                format!("configuration refused, nothing has changed: {refusal}")
            }
        };
        self.process.events.note(EventKind::Reload, "", None, text);
        result
    }

    fn try_reload(&self) -> Result<String, Refusal> {
        let (old, old_pools, retiring) = {
            let mut current = self.current();
            current.retiring.retain(|pool| pool.is_alive());
            (Arc::clone(&current.config), current.pools.clone(), current.retiring.clone())
        };
        let Some(source) = &old.source else {
            let why = "this balancer has no configuration file to reload; restart it with other arguments";
            return Err(Refusal::Failed(why.to_owned()));
        };
        let new = Config::load(source).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if let Some(key) = fixed_difference(&old, &new) {
            return Err(fixed(source, None, key, true));
        }
        // All steps that may fail come first.
        allow_files(&new.pools, 0)?;
        let mut steps = vec![];
        for pool in &new.pools {
            let running = old_pools.iter().find(|running| running.name() == pool.name());
            let transition = running.map_or(Ok(Transition::Recreate), |running| running.transition(pool))?;
            steps.push(match (transition, running) {
                (Transition::Fixed { key, can_follow }, _) => {
                    return Err(fixed(source, Some(pool.name()), key, can_follow));
                }
                (Transition::Keep, Some(running)) => ReloadStep::Keep(Arc::clone(running)),
                (Transition::Change(change), Some(running)) => {
                    ReloadStep::Change(Arc::clone(running), change)
                }
                _ => ReloadStep::Begin(Box::new(self.prepare(pool, &new.pools, &old_pools, &retiring)?)),
            });
        }
        let _not_the_end = self.process.threads.change();

        let mut changes = self.apply(&old_pools, steps)?;
        if old.logs.level != new.logs.level {
            logging::set_level(new.logs.level);
            changes.push(format!("log level {}", new.logs.level));
        }
        self.current().config = Arc::new(new);
        self.follow();
        Ok(if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join("; ") })
    }

    /// Prepares a pool of `all`. The client-side sockets of a datagram pool that it replaces are taken over.
    fn prepare(
        &self,
        new: &config::Pool,
        all: &[config::Pool],
        old: &[Pool],
        retiring: &[Pool],
    ) -> Result<Prepared, Failed> {
        let fail = |why: String| Failed::new(why).of_pool(new.name());
        let mut inherited = SocketSet::default();
        for pool in old {
            let (name, of) = (pool.name(), pool.of());
            let Some(addr) = shared_address(&of, new) else { continue };
            if all
                .iter()
                .any(|other| other.name() == name && (other.is_native() && of.is_native() || *other == *of))
            {
                continue; // it stays, so that opening the address fails
            }
            if new.is_native() || of.is_native() {
                return Err(fail(format!(
                    "pool {name} has {addr}, and a native pool cannot pass on an address while the balancer \
                     runs; set another address, or restart the balancer"
                )));
            }
            if of.workers() != new.workers() {
                let pid = std::process::id();
                let way = match of.workers() {
                    1 => "restart the balancer, since its socket cannot be shared".to_owned(),
                    _ => format!("let a new process take over: kill -USR2 {pid}"),
                };
                let problem = format!("workers cannot change while the pool keeps its addresses; {way}");
                let source = self.current().config.source.clone();
                let error = config::error_in_file(source.as_deref(), Some(new.name()), "workers", &problem);
                return Err(Failed::new(error));
            }
            inherited.append(pool.sockets(new.name())?);
        }
        for pool in retiring {
            let of = pool.of();
            let Some(addr) = shared_address(&of, new) else { continue };
            if new.is_native() || of.is_native() {
                let name = pool.name();
                return Err(fail(format!(
                    "pool {name} was removed and still finishes requests on {addr}; \
                     reload again in a few seconds"
                )));
            }
            inherited.append(pool.sockets_left(new.name())?);
        }
        let open = PoolSockets::new(new, &mut inherited)?;
        // The pool that runs may know addresses of a name that cannot be looked up now.
        match open.unresolved() {
            Some(failed) => Err(failed),
            None => Prepared::new(open, all, &self.process),
        }
    }

    /// Replaces the pools. Returns the changes as text.
    fn apply(&self, old: &[Pool], steps: Vec<ReloadStep>) -> Result<Vec<String>, Failed> {
        let mut changes = vec![];
        // A pool stops reading clients before its successor starts. Datagrams that arrive in between stay in
        // the sockets' buffers.
        let mut states = BTreeMap::new();
        for pool in old.iter().filter(|pool| !steps.iter().any(|step| step.keeps(pool))) {
            let name = pool.name();
            let follows = |step: &ReloadStep| match step {
                ReloadStep::Begin(prepared) if prepared.name() == name => Some(prepared.continues()),
                _ => None,
            };
            if let Some(is_continued) = steps.iter().find_map(follows) {
                let mut paused = PausedWorkers::default();
                let state = pool.pause(&mut paused, self.process.clock, is_continued)?;
                paused.end();
                states.insert(name.to_owned(), state);
            }
            pool.retire(&self.process)?;
            self.current().retiring.push(Arc::clone(pool));
            changes.push(format!("pool {name} ended"));
        }
        let mut pools = vec![];
        for step in steps {
            pools.push(match step {
                ReloadStep::Keep(pool) => pool,
                ReloadStep::Change(pool, change) => {
                    let what = pool.change(*change, &self.process)?;
                    changes.push(format!("pool {}: {what}", pool.name()));
                    pool
                }
                ReloadStep::Begin(mut prepared) => {
                    // A recreated pool keeps orders, health and flows.
                    if let Some(state) = states.remove(prepared.name()) {
                        prepared.restore(state, self.process.clock.now(), None)?;
                    }
                    changes.push(format!("pool {} begun", prepared.name()));
                    prepared.start(&self.process)?
                }
            });
        }
        let mut current = self.current();
        let is_same = |(one, other): (&Pool, &Pool)| Arc::ptr_eq(one, other);
        if pools.len() != current.pools.len() || !pools.iter().zip(&current.pools).all(is_same) {
            current.generation += 1;
        }
        current.pools = pools;
        Ok(changes)
    }
}

/// The refusal of another value of a key, with the way that works: a process that takes over, or a restart.
/// SIGUSR2 starts the program with its present arguments, and the new process finds this one in any case.
fn fixed(source: &Path, pool: Option<&str>, key: &str, can_follow: bool) -> Refusal {
    let pid = std::process::id();
    let way = match can_follow {
        true => format!("let a new process take over: kill -USR2 {pid}"),
        false => "restart the balancer, since requests in flight depend on it".to_owned(),
    };
    let problem = format!("cannot change while the balancer runs; {way}");
    Refusal::Invalid(config::error_in_file(Some(source), pool, key, &problem).to_string())
}

/// An address that both pools bind.
fn shared_address(one: &config::Pool, other: &config::Pool) -> Option<SocketAddr> {
    let addresses = |pool: &config::Pool| {
        let server_side = pool.as_native().map(|native| native.server_side);
        pool.listen().iter().copied().chain(server_side).collect::<Vec<_>>()
    };
    let others = addresses(other);
    addresses(one).into_iter().find(|addr| others.contains(addr))
}

/// The first key outside of the pools that differs and cannot change in a running process.
fn fixed_difference(old: &Config, new: &Config) -> Option<&'static str> {
    let differ = [
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.token_file", old.admin.token != new.admin.token),
        ("state_dir", old.state_dir != new.state_dir),
        ("logs.dir", old.logs.dir != new.logs.dir),
        ("logs.format", old.logs.json != new.logs.json),
        ("logs.size_max", old.logs.size_max != new.logs.size_max),
    ];
    differ.into_iter().find(|(_, differ)| *differ).map(|(key, _)| key)
}
