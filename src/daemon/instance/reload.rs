//! Another configuration while the balancer runs: read, checked, built, and only then put in place of the old one. What
//! cannot be built changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pool::{Pool, PreparedPool};
use super::sockets::{OpenPool, allow_files, plan_for};
use super::{Failed, Instance, native};
use crate::admin::Refusal;
use crate::admin::status::Kind;
use crate::config::{Config, DatagramPool, NativePool};
use crate::daemon::handover::SocketSet;
use crate::daemon::resolver::Resolver;
use crate::os::logging;
use crate::os::notify;

/// What becomes of a pool.
enum Step {
    /// It stays as it is.
    Keep(Arc<Pool>),
    /// It goes on with other settings and servers.
    Change(Arc<Pool>, Box<(DatagramPool, Resolver)>),
    /// A new one takes over its addresses, or begins.
    Begin(Box<PreparedPool>),
}

impl Instance {
    /// Reads the configuration anew, from where it came, and brings everything to it. Says what has changed. What is
    /// invalid, or cannot be changed in a running process, changes nothing.
    pub fn reload(&self) -> Result<String, Refusal> {
        let _one_at_a_time = self.reloading.lock().expect("no panic while it is held");
        notify::reloading();
        let result = self.try_reload();
        notify::ready();
        let text = match &result {
            Ok(what) => format!("configuration reloaded: {what}"),
            Err(refusal) => format!("configuration refused, nothing has changed: {refusal}"),
        };
        match &result {
            Ok(_) => tracing::info!("{text}"),
            Err(_) => tracing::error!("{text}"),
        }
        self.process.events.note(Kind::Reload, "", None, text);
        result
    }

    fn try_reload(&self) -> Result<String, Refusal> {
        let (old, old_pools, leaving) = {
            let mut running = self.running();
            running.leaving.retain(|pool| pool.is_running());
            (Arc::clone(&running.config), running.pools.clone(), running.leaving.clone())
        };
        let Some(source) = &old.source else {
            let why =
                "there is no file to read: this balancer was started with arguments, or with the defaults";
            return Err(Refusal::Failed(why.to_owned()));
        };
        let new = Config::load(source).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if let Some(key) = self.fixed_difference(&old, &new) {
            return Err(Refusal::Invalid(format!(
                "{}: {key} cannot change while the balancer runs; start a new one with `lbd balancer --takeover`",
                source.display()
            )));
        }
        // All that may fail comes first.
        allow_files(&new)?;
        let plan = |pool: &DatagramPool| self.step(&old_pools, &leaving, pool, &new);
        let steps = new.datagram_pools().map(plan).collect::<Result<Vec<_>, _>>()?;
        let _not_the_end = self.process.threads.change();

        let mut changes = vec![];
        self.change_native(&old, &new, &mut changes)?;
        self.change_pools(&old_pools, steps, &mut changes)?;
        if old.logs.level != new.logs.level {
            logging::set_level(new.logs.level);
            changes.push(format!("log level {}", new.logs.level));
        }
        self.running().config = Arc::new(new);
        self.follow();
        Ok(if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join("; ") })
    }

    /// The key of what differs and cannot be changed in a running process.
    fn fixed_difference(&self, old: &Config, new: &Config) -> Option<&'static str> {
        let same = |same: bool, key: &'static str| (!same).then_some(key);
        let of_native = |a: &NativePool, b: &NativePool| {
            same(a.client_side == b.client_side, "load_balancer.client_side_port or bind")
                .or(same(a.server_side == b.server_side, "load_balancer.server_side_port or bind"))
                .or(same(a.frames_per_datagram == b.frames_per_datagram, "load_balancer.frames_per_datagram"))
                .or(same(a.pin == b.pin, "load_balancer.pin"))
                .or(same(a.io == b.io, "load_balancer.io"))
                .or_else(|| native::settings(a).fixed_difference(&native::settings(b)))
        };
        let native = (old.native(), new.native());
        same(native.0.is_some() == native.1.is_some(), "whether the native pool runs")
            .or_else(|| if let (Some(a), Some(b)) = native { of_native(a, b) } else { None })
            .or(same(old.admin.listen == new.admin.listen, "admin.listen"))
            .or(same(old.admin.token == new.admin.token, "admin.token_file"))
            .or(same(old.state_dir == new.state_dir, "state_dir"))
            .or(same(old.logs.dir == new.logs.dir, "logs.dir"))
            .or(same(old.logs.json == new.logs.json, "logs.format"))
            .or(same(old.logs.size_max == new.logs.size_max, "logs.size_max"))
    }

    /// What becomes of the pool of this name; nothing is changed yet.
    fn step(
        &self,
        old: &[Arc<Pool>],
        leaving: &[Arc<Pool>],
        new: &DatagramPool,
        config: &Config,
    ) -> Result<Step, Failed> {
        let same_name = old.iter().find(|pool| pool.name() == new.settings.name);
        if let Some(pool) = same_name {
            if *pool.of() == *new {
                return Ok(Step::Keep(Arc::clone(pool)));
            }
            if pool.can_become(new) {
                let mut names = Resolver::new(new);
                names.look_up().map_err(|error| Failed::new(error).of_pool(&new.settings.name))?;
                let addrs: Vec<_> = names.wanted().into_iter().map(|wanted| wanted.addr).collect();
                if pool.plan.covers(&plan_for(new, &addrs)) {
                    return Ok(Step::Change(Arc::clone(pool), Box::new((new.clone(), names))));
                }
            }
        }
        let shares = |pool: &Arc<Pool>| pool.of().listen.iter().any(|addr| new.listen.contains(addr));
        let mut inherited = SocketSet::default();
        for pool in old.iter().filter(|pool| shares(pool)) {
            let stays = config.datagram_pools().any(|other| *other == *pool.of());
            if stays {
                continue;
            }
            if pool.of().settings.workers != new.settings.workers {
                let why = "workers cannot change while the same addresses are served: stop the balancer and start it anew";
                return Err(Failed::new(why).of_pool(&new.settings.name));
            }
            inherited.append(pool.fronts(&new.settings.name)?);
        }
        for pool in leaving.iter().filter(|pool| shares(pool)) {
            inherited.append(pool.fronts_left(&new.settings.name)?);
        }
        let open = OpenPool::open(new, &mut inherited)?;
        Ok(Step::Begin(Box::new(PreparedPool::new(open, &self.process)?)))
    }

    fn change_pools(
        &self,
        old: &[Arc<Pool>],
        steps: Vec<Step>,
        changes: &mut Vec<String>,
    ) -> Result<(), Failed> {
        let stays = |pool: &Arc<Pool>| {
            steps.iter().any(|step| match step {
                Step::Keep(kept) | Step::Change(kept, ..) => Arc::ptr_eq(kept, pool),
                Step::Begin(_) => false,
            })
        };
        // Whoever leaves stops hearing clients before its successor begins: what arrives in between waits in the sockets.
        let mut left = BTreeMap::new();
        for pool in old.iter().filter(|pool| !stays(pool)) {
            left.insert(pool.name().to_owned(), pool.pause()?);
            pool.retire(&self.process)?;
            self.running().leaving.push(Arc::clone(pool));
            changes.push(format!("pool {} ended", pool.name()));
        }
        let mut pools = vec![];
        for step in steps {
            pools.push(match step {
                Step::Keep(pool) => pool,
                Step::Change(pool, changed) => {
                    let (new, names) = *changed;
                    changes.push(format!(
                        "pool {}: {}",
                        pool.name(),
                        pool.change(new, names, &self.process)?
                    ));
                    pool
                }
                Step::Begin(mut made) => {
                    // One that is made anew knows what the one before knew: an operator's orders, health, flows.
                    if let Some(state) = left.remove(made.name()) {
                        made.go_on_from(state, self.process.clock.now());
                    }
                    changes.push(format!("pool {} begun", made.name()));
                    Arc::new(made.start(&self.process)?)
                }
            });
        }
        self.running().pools = pools;
        Ok(())
    }

    fn change_native(&self, old: &Config, new: &Config, changes: &mut Vec<String>) -> Result<(), Failed> {
        let running = self.running();
        let (Some(native), Some(old), Some(new)) = (&running.native, old.native(), new.native()) else {
            return Ok(());
        };
        let settings = native::settings(new);
        if !native::are_same(&native::settings(old), &settings) {
            native.change(settings)?;
            changes.push("native pool: other settings".to_owned());
        }
        Ok(())
    }
}
