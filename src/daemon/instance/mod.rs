//! A balancer process: the native pool, datagram pools, or both, from the first socket to the last answer.
//!
//! | file | a change there is about |
//! |---|---|
//! | `sockets.rs` | opening sockets, or taking them over |
//! | `native.rs`, `pool.rs` | what runs, and how it is reached from outside |
//! | `reload.rs` | another configuration while it runs |
//! | `operate.rs` | what the admin interface sees and asks |
//! | `service.rs` | what a service manager is told |

mod native;
mod operate;
mod pool;
mod reload;
pub mod service;
mod sockets;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::affinity;
use super::control::Control;
use super::signals::Stop;
use super::threads::Threads;
use crate::config::Config;
use crate::handover::SocketSet;
use crate::role::relay::Shared;
use crate::stats::PoolStats;
use crate::status::{EventLog, Sampler, Status};
use crate::time::Clock;
use native::Native;
use pool::{Made, Pool};
use sockets::Opened;

/// Why something could not be started or changed, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

impl Failed {
    fn new(why: impl ToString) -> Failed {
        Failed(why.to_string())
    }

    fn of_pool(self, name: &str) -> Failed {
        Failed(format!("pool {name}: {self}"))
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::new(error)
    }
}

impl From<super::inbox::Gone> for Failed {
    fn from(gone: super::inbox::Gone) -> Self {
        Failed::new(gone)
    }
}

/// What all parts of the process have in common.
pub struct Process {
    clock: Clock,
    stop: Stop,
    threads: Threads,
    control: Control,
    events: Arc<EventLog>,
}

/// What runs, and the configuration that it was made from.
struct Running {
    config: Arc<Config>,
    native: Option<Native>,
    pools: Vec<Arc<Pool>>,
}

/// A running balancer.
pub struct Instance {
    process: Process,
    running: Mutex<Running>,
    /// One reload at a time.
    reloading: Mutex<()>,
    sampler: Mutex<Sampler>,
}

/// A balancer whose sockets are open, and nothing else: what may fail easily has been tried.
pub struct Ready {
    config: Config,
    opened: Opened,
    clock: Clock,
    is_inherited: bool,
}

impl Ready {
    /// Opens the sockets that this configuration needs; what is in `inherited` is taken from there, and what is not
    /// needed of it is closed.
    pub fn new(config: Config, clock: Clock, mut inherited: SocketSet) -> Result<Ready, Failed> {
        let is_inherited = !inherited.is_empty();
        let opened = Opened::all(&config, &mut inherited)?;
        Ok(Ready { config, opened, clock, is_inherited })
    }

    /// Where the admin interface will listen.
    pub fn take_admin(&mut self) -> Option<std::net::TcpListener> {
        self.opened.admin.take()
    }

    /// Starts everything. Ends when `stop` is asked.
    pub fn start(self, stop: Stop) -> Result<Arc<Instance>, Failed> {
        let Ready { config, opened, clock, is_inherited } = self;
        let process = Process {
            clock,
            threads: Threads::new(stop.clone()),
            stop,
            control: Control::start(clock)?,
            events: Arc::default(),
        };
        let made = opened.pools.into_iter().map(|open| Made::new(open, &process));
        let made = made.collect::<Result<Vec<_>, _>>()?;
        let native = match opened.native {
            Some(sockets) => Some(Native::start(&config, sockets, is_inherited, &process)?),
            None => None,
        };
        let pools = made.into_iter().map(|made| made.start(&process).map(Arc::new));
        let running = Running { config: Arc::new(config), native, pools: pools.collect::<Result<_, _>>()? };
        let sampler = Mutex::new(running.sampler());
        Ok(Arc::new(Instance { process, running: Mutex::new(running), reloading: Mutex::default(), sampler }))
    }
}

impl Running {
    fn sampler(&self) -> Sampler {
        let stats: Vec<Arc<PoolStats>> = self.native.as_ref().map_or(vec![], |native| native.stats.clone());
        let shared: Vec<Arc<Shared>> = self.pools.iter().map(|pool| Arc::clone(&pool.shared)).collect();
        Sampler::new(stats, shared)
    }
}

impl Instance {
    /// A sampler of its own, for a reader that wants rates and latencies between its own looks.
    pub fn sampler(&self) -> Sampler {
        self.running().sampler()
    }

    /// Everything that is shown.
    pub fn sample(&self) -> Status {
        self.sampler.lock().expect("no panic while it is held").sample()
    }

    /// Waits until everything has ended: asked to, or because something has failed.
    pub fn join(&self) -> io::Result<()> {
        self.process.threads.join()
    }

    /// Whether it was asked to end.
    fn is_ending(&self) -> bool {
        self.process.stop.is_asked()
    }

    /// Other pools run now.
    fn forget_sampler(&self) {
        let sampler = self.running().sampler();
        *self.sampler.lock().expect("no panic while it is held") = sampler;
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().expect("no panic while it is held")
    }
}

/// The processor of each worker, where they stay on one.
fn processors(pin: bool) -> io::Result<impl Fn(usize) -> Option<usize>> {
    let all = if pin { affinity::processors()? } else { vec![] };
    Ok(move |number: usize| all.get(number % all.len().max(1)).copied())
}
