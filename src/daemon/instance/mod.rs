//! A balancer process: native and datagram pools, any number of each, from the first socket to the last
//! answer.
//!
//! | file | a change there is about |
//! |---|---|
//! | `sockets.rs` | opening sockets, or taking them over |
//! | `prepared.rs`, `running.rs`, `workers.rs` | operations of a pool of either kind, its workers |
//! | `native.rs`, `datagram.rs` | differences between the kinds |
//! | `reload.rs` | a new configuration while the process runs |
//! | `takeover.rs`, `state.rs`, `paused.rs` | taking over from a process, and handing over to a successor |
//! | `operate.rs` | status and orders of the admin interface |
//! | `service.rs` | notifications to the service manager |

mod datagram;
mod native;
mod operate;
mod paused;
mod prepared;
mod reload;
mod running;
pub mod service;
mod sockets;
mod state;
mod takeover;
mod workers;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::control::ControlThread;
use crate::admin;
use crate::admin::status::{About, Board, EventLog, Sampler, Status};
use crate::base::time::Clock;
use crate::config::{Config, Token};
use crate::daemon::handover::SocketSet;
use crate::daemon::worker_threads::WorkerThreads;
use crate::os::signals::Stop;
use crate::os::threads::Threads;
use prepared::Prepared;
use running::Running;
use sockets::Opened;

pub use sockets::hold;
pub use takeover::{Takeover, path as takeover_path};

/// The error of a start or a change, as text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

impl Failed {
    pub(crate) fn new(why: impl ToString) -> Failed {
        Failed(why.to_string())
    }

    /// The value of this key cannot change while a pool runs.
    fn fixed(key: &str) -> Failed {
        Failed(format!("{key} cannot change while the balancer runs"))
    }

    fn of_pool(self, name: &str) -> Failed {
        Failed(format!("pool {name}: {self}"))
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Failed(format!(
                "{error}: another process has this address; stop that process, or set another address (to \
                 continue from a running balancer, start with `lbd balancer --takeover`)"
            )),
            _ => Failed::new(error),
        }
    }
}

impl From<super::inbox::Gone> for Failed {
    fn from(gone: super::inbox::Gone) -> Self {
        Failed::new(gone)
    }
}

/// State that all parts of the process share.
pub struct ProcessContext {
    clock: Clock,
    stop: Stop,
    threads: Threads,
    worker_threads: WorkerThreads,
    control: ControlThread,
    events: Arc<EventLog>,
}

/// The running pools, and their configuration.
struct RunningPools {
    config: Arc<Config>,
    /// The pools, in the order of the configuration.
    pools: Vec<Arc<dyn Running>>,
    /// Number of reloads that added, removed or recreated pools.
    generation: u64,
    /// Pools that a reload has removed or recreated: they read no clients, and finish the requests in flight.
    retiring: Vec<Arc<dyn Running>>,
}

/// A running balancer.
pub struct Instance {
    process: ProcessContext,
    current: Mutex<RunningPools>,
    /// Held during a reload, so that reloads follow each other.
    reloading: Mutex<()>,
    board: Board,
    admin: Mutex<Option<AdminInterface>>,
    /// Whether a successor has taken over.
    has_successor: AtomicBool,
    /// The thread that owns the socket for successors.
    successors: Mutex<Option<JoinHandle<()>>>,
}

/// Snapshots for one reader: rates and recent latencies are those between the reader's own samples. They show
/// the pools that run at that moment.
pub struct Snapshots {
    instance: Arc<Instance>,
    generation: u64,
    sampler: Sampler,
}

impl Snapshots {
    /// The status now.
    pub fn sample(&mut self) -> Status {
        let current = self.instance.current();
        if self.generation != current.generation {
            self.generation = current.generation;
            self.sampler = current.sampler(self.instance.process.clock, 1);
        }
        drop(current);
        self.sampler.sample()
    }
}

/// The admin interface while it runs.
struct AdminInterface {
    server: admin::AdminServer,
    /// The listener, of which a successor gets a duplicate.
    listener: TcpListener,
    token: Token,
}

impl AdminInterface {
    /// The listener with the token that changes will need.
    fn prepare(listener: TcpListener, config: &Config) -> Result<(TcpListener, Token), Failed> {
        let port = listener.local_addr()?.port();
        let token = admin::token_for(&config.admin, &config.state_dir, port).map_err(Failed::new)?;
        Ok((listener, token))
    }
}

/// A balancer whose sockets are open and which has not started: the steps that fail most often are done.
pub struct ReadyInstance {
    config: Config,
    opened: Opened,
    clock: Clock,
}

impl ReadyInstance {
    /// Opens the sockets that this configuration needs. Those that are in `inherited` are taken from there;
    /// the rest of `inherited` is closed.
    pub fn new(config: Config, clock: Clock, mut inherited: SocketSet) -> Result<ReadyInstance, Failed> {
        let opened = Opened::all(&config, &mut inherited)?;
        Ok(ReadyInstance { config, opened, clock })
    }

    /// Prepares and starts everything. With a takeover it replaces the running balancer, which keeps serving
    /// if anything fails. `stop` ends the balancer.
    pub fn start(self, stop: Stop, takeover: Option<Takeover>) -> Result<Arc<Instance>, Failed> {
        let ReadyInstance { config, mut opened, clock } = self;
        // Steps that may fail come before the running balancer pauses.
        let admin = match opened.admin.take() {
            Some(listener) => Some(AdminInterface::prepare(listener, &config)?),
            None => None,
        };
        let process = ProcessContext {
            clock,
            threads: Threads::new(stop.clone()),
            worker_threads: WorkerThreads::new(clock),
            stop,
            control: ControlThread::start(clock)?,
            events: Arc::default(),
        };
        let pools = opened.pools.into_iter().map(|open| Prepared::new(open, &config.pools, &process));
        let mut pools = pools.collect::<Result<Vec<_>, _>>()?;
        if let Some(takeover) = takeover {
            takeover.conclude(|states| {
                for (name, state) in states {
                    if let Some(pool) = pools.iter_mut().find(|pool| pool.name() == name) {
                        pool.restore(state, clock.now()).map_err(|failed| failed.of_pool(&name))?;
                    }
                }
                Ok(())
            })?;
        }
        let pools = pools.into_iter().map(|pool| pool.start(&process)).collect::<Result<_, _>>()?;
        let current = RunningPools { config: Arc::new(config), pools, generation: 0, retiring: vec![] };
        let config = current.config.source.as_ref().map_or(String::new(), |path| path.display().to_string());
        let about = About::new(config, Arc::clone(&process.events));
        let board = Board::new(about, current.sampler(clock, Board::SPAN));
        let instance = Arc::new(Instance {
            process,
            current: Mutex::new(current),
            reloading: Mutex::default(),
            board,
            admin: Mutex::default(),
            has_successor: AtomicBool::new(false),
            successors: Mutex::default(),
        });
        instance.show()?;
        if let Some((listener, token)) = admin {
            instance.serve_admin(listener, token)?;
        }
        Ok(instance)
    }
}

impl RunningPools {
    fn sampler(&self, clock: Clock, span: usize) -> Sampler {
        let pools = self.pools.iter().map(|pool| pool.counters()).collect();
        Sampler::new(pools, clock, span)
    }
}

impl Instance {
    /// The status at this moment. The board's status is up to [`Board::TICK`] old.
    fn present(&self) -> Status {
        self.current().sampler(self.process.clock, 1).sample()
    }

    /// Snapshots for one reader.
    pub fn snapshots(self: &Arc<Self>) -> Snapshots {
        let current = self.current();
        let (generation, sampler) = (current.generation, current.sampler(self.process.clock, 1));
        Snapshots { instance: Arc::clone(self), generation, sampler }
    }

    /// Takes a snapshot every [`Board::TICK`], so that all readers show the same.
    fn show(self: &Arc<Self>) -> io::Result<()> {
        let instance = Arc::downgrade(self);
        std::thread::Builder::new().name("show".into()).spawn(move || {
            while let Some(instance) = instance.upgrade() {
                instance.board.tick();
                drop(instance);
                std::thread::sleep(Board::TICK);
            }
        })?;
        Ok(())
    }

    fn serve_admin(self: &Arc<Self>, listener: TcpListener, token: Token) -> Result<(), Failed> {
        let addr = listener.local_addr()?;
        let control: Arc<dyn admin::Control> = Arc::<Instance>::clone(self);
        let server = admin::serve(listener.try_clone()?, control, token.clone())?;
        tracing::info!(%addr, "admin interface");
        *self.admin.lock().expect("no panic while it is held") =
            Some(AdminInterface { server, listener, token });
        Ok(())
    }

    /// The address of the dashboard, and the token that changes need.
    pub fn dashboard(&self) -> Option<(SocketAddr, Token)> {
        let admin = self.admin.lock().expect("no panic while it is held");
        let admin = admin.as_ref()?;
        Some((admin.server.addr(), admin.token.clone()))
    }

    fn end_admin(&self) {
        let admin = self.admin.lock().expect("no panic while it is held").take();
        drop(admin); // without the lock: it waits for its thread
    }

    /// Waits until everything has ended, on request or after a failure. A clean end leaves neither the socket
    /// for successors nor the token, unless a successor has them now.
    pub fn join(&self) -> io::Result<()> {
        let result = self.process.threads.join();
        if result.is_ok() && !self.has_successor.load(Ordering::Relaxed) {
            let config = Arc::clone(&self.current().config);
            if let Some(admin) = &*self.admin.lock().expect("no panic while it is held") {
                admin::forget_token(&config.admin, &config.state_dir, admin.server.addr().port());
            }
        }
        self.end_admin();
        let successors = self.successors.lock().expect("no panic while it is held").take();
        if let Some(thread) = successors.filter(|_| self.is_ending()) {
            let _ = thread.join(); // it drops the listener, and so removes the socket
        }
        result
    }

    /// Whether a stop was requested.
    fn is_ending(&self) -> bool {
        self.process.stop.is_asked()
    }

    /// Makes the snapshots show the pools that run now.
    fn follow(&self) {
        let sampler = self.current().sampler(self.process.clock, Board::SPAN);
        self.board.follow(sampler);
    }

    fn current(&self) -> MutexGuard<'_, RunningPools> {
        self.current.lock().expect("no panic while it is held")
    }

    /// The pools that run now.
    fn pools(&self) -> Vec<Arc<dyn Running>> {
        self.current().pools.clone()
    }
}

#[cfg(test)]
mod tests;
