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
//! | `mistakes.rs` | log lines about mistakes of an operator and first drops |
//! | `operate.rs` | status and orders of the admin interface |
//! | `service.rs` | notifications to the service manager |

mod datagram;
mod mistakes;
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
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::control::ControlThread;
use crate::admin;
use crate::admin::status::{About, Board, EventLog, History, Life, Sampler, Status};
use crate::base::time::Clock;
use crate::config::{Config, Token};
use crate::daemon::handover::{Holder, SocketSet};
use crate::daemon::worker_threads::WorkerThreads;
use crate::os::private_socket::{PrivateSocket, SocketError};
use crate::os::signals::Stop;
use crate::os::threads::Threads;
use mistakes::Mistakes;
use prepared::Prepared;
use running::Running;
use sockets::Opened;
use state::HandedPool;
use takeover::Continued;

pub use sockets::hold;
pub use takeover::{Takeover, decode as decode_state, path as takeover_path, paths as takeover_paths};

/// Why an address cannot be opened.
const TAKEN: &str = ": another process has this address";
/// What else helps, unless the process takes over already.
const TAKEOVER_HINT: &str = " (to continue from a running balancer, start with `lbd balancer --takeover`)";

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
            io::ErrorKind::AddrInUse => {
                Failed(format!("{error}{TAKEN}; stop that process, or set another address"))
            }
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
    /// The last ten minutes, for the dashboard.
    history: Arc<Mutex<History>>,
    /// Whether a successor has taken over.
    has_successor: AtomicBool,
    /// The conversation with the successor, which hears the last totals.
    successor: Mutex<Option<Holder>>,
    /// The thread that waits for the end of the predecessor.
    predecessor: Mutex<Option<JoinHandle<()>>>,
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
    /// The HTTP listener, of which a successor gets a duplicate, and the token; `None` if HTTP is off.
    http: Option<(TcpListener, Token)>,
}

impl AdminInterface {
    /// The HTTP listener with the token that changes will need.
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
    /// Path of the owner's socket; `None` = there is none.
    owner_path: Option<PathBuf>,
}

impl ReadyInstance {
    /// Opens the sockets that this configuration needs. Those that are in `inherited` are taken from there;
    /// the rest of `inherited` is closed.
    pub fn new(config: Config, clock: Clock, mut inherited: SocketSet) -> Result<ReadyInstance, Failed> {
        let is_alone = inherited.is_empty();
        let opened = Opened::all(&config, &mut inherited).map_err(|failed| match failed {
            Failed(why) if is_alone && why.contains(TAKEN) => Failed(why + TAKEOVER_HINT),
            failed => failed,
        })?;
        Ok(ReadyInstance { config, opened, clock, owner_path: None })
    }

    /// Opens the socket for commands of the balancer's owner too. A failure is reported, and HTTP remains.
    pub fn with_owner_socket(self) -> ReadyInstance {
        ReadyInstance { owner_path: Some(admin::socket_path(&self.config)), ..self }
    }

    /// Prepares and starts everything. With a takeover it replaces the running balancer, which keeps serving
    /// if anything fails. `stop` ends the balancer.
    pub fn start(self, stop: Stop, takeover: Option<Takeover>) -> Result<Arc<Instance>, Failed> {
        match takeover {
            None => self.begin(stop, None),
            Some(mut takeover) => {
                let begun = self.begin(stop, Some(&mut takeover));
                let (instance, continued) =
                    begun.inspect_err(|failed| takeover.refuse(&failed.to_string()))?;
                instance.follow_predecessor(takeover, continued)?;
                Ok((instance, Continued::new()))
            }
        }
        .map(|(instance, _)| instance)
    }

    fn begin(
        self,
        stop: Stop,
        mut takeover: Option<&mut Takeover>,
    ) -> Result<(Arc<Instance>, Continued), Failed> {
        let ReadyInstance { config, mut opened, clock, owner_path } = self;
        // The running balancer may know addresses of a name that cannot be looked up now.
        if let Some(failed) =
            opened.pools.iter().find_map(|open| open.unresolved()).filter(|_| takeover.is_some())
        {
            return Err(failed);
        }
        // Steps that may fail come before the running balancer pauses.
        let http = match opened.admin.take() {
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
        let is_successor = takeover.is_some();
        let mut continued = Continued::new();
        if let Some(takeover) = &mut takeover {
            let names = pools.iter().filter(|pool| pool.continues()).map(|pool| pool.name().to_owned());
            takeover.conclude(names.collect(), |states| {
                for HandedPool { name, state, totals } in states {
                    let Some(pool) = pools.iter_mut().find(|pool| pool.name() == name) else { continue };
                    let source = config.source.as_deref();
                    if let Some(counters) = pool.restore(state, clock.now(), source)? {
                        continued.add(name, &counters, totals);
                    }
                }
                Ok(())
            })?;
        }
        let pools = pools.into_iter().map(|pool| pool.start(&process)).collect::<Result<_, _>>()?;
        let current = RunningPools { config: Arc::new(config), pools, generation: 0, retiring: vec![] };
        let config = current.config.source.as_ref().map_or(String::new(), |path| path.display().to_string());
        let mut about = About::new(config, Arc::clone(&process.events));
        let history = takeover.map_or_else(History::default, |takeover| live_on(&mut about, takeover));
        let board = Board::new(about, current.sampler(clock, Board::SPAN));
        let instance = Arc::new(Instance {
            process,
            current: Mutex::new(current),
            reloading: Mutex::default(),
            board,
            admin: Mutex::default(),
            history: Arc::new(Mutex::new(history)),
            has_successor: AtomicBool::new(false),
            successor: Mutex::default(),
            predecessor: Mutex::default(),
            successors: Mutex::default(),
        });
        instance.show()?;
        let owner = owner_path.and_then(|path| open_owner_socket(&path, is_successor));
        instance.serve_admin(http, owner)?;
        Ok((instance, continued))
    }
}

/// Continues the life of the predecessor. Returns the history.
fn live_on(about: &mut About, takeover: &mut Takeover) -> History {
    match takeover.life() {
        Ok(Life { started_unix_ms, cpu_s, events, event_counts, history }) => {
            about.continue_from(started_unix_ms);
            about.set_predecessors_cpu_s(cpu_s);
            about.events.continue_from(events, &event_counts);
            history
        }
        Err(failed) => {
            let effect = "events, history and uptime restart";
            tracing::warn!(error = failed.to_string(), effect, "history not taken over");
            History::default()
        }
    }
}

/// Opens the owner's socket; a successor opens it in place of its predecessor's.
fn open_owner_socket(path: &Path, is_successor: bool) -> Option<PrivateSocket> {
    let opened = if is_successor { PrivateSocket::replace(path) } else { PrivateSocket::bind(path) };
    let report = |error: &SocketError| {
        let effect = "commands use http only";
        tracing::warn!(error = error.to_string(), effect, "owner socket not opened");
    };
    opened.inspect_err(report).ok()
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

    /// Takes a snapshot every [`Board::TICK`], so that all readers show the same, and logs mistakes that it
    /// shows.
    fn show(self: &Arc<Self>) -> io::Result<()> {
        let instance = Arc::downgrade(self);
        std::thread::Builder::new().name("show".into()).spawn(move || {
            let mut mistakes = Mistakes::default();
            while let Some(instance) = instance.upgrade() {
                instance.board.tick();
                let process = &instance.process;
                mistakes.note(&instance.board.latest(), process.clock.now(), &process.events);
                drop(instance);
                std::thread::sleep(Board::TICK);
            }
        })?;
        Ok(())
    }

    fn serve_admin(
        self: &Arc<Self>,
        http: Option<(TcpListener, Token)>,
        owner: Option<PrivateSocket>,
    ) -> Result<(), Failed> {
        if http.is_none() && owner.is_none() {
            return Ok(());
        }
        let path = owner.as_ref().map(|socket| socket.path().display().to_string());
        let duplicate = |(listener, token): &(TcpListener, Token)| {
            listener.try_clone().map(|listener| (listener, token.clone()))
        };
        let listeners = admin::Listeners { http: http.as_ref().map(duplicate).transpose()?, owner };
        let control: Arc<dyn admin::Control> = Arc::<Instance>::clone(self);
        let server = admin::serve_with(listeners, control, Arc::clone(&self.history))?;
        let addr = server.addr().map(tracing::field::display);
        tracing::info!(addr, socket = path, "admin interface");
        *self.admin.lock().expect("no panic while it is held") = Some(AdminInterface { server, http });
        Ok(())
    }

    /// The address of the dashboard, and the token that changes need.
    pub fn dashboard(&self) -> Option<(SocketAddr, Token)> {
        let admin = self.admin.lock().expect("no panic while it is held");
        let admin = admin.as_ref()?;
        let (_, token) = admin.http.as_ref()?;
        Some((admin.server.addr()?, token.clone()))
    }

    fn end_admin(&self) {
        let admin = self.admin.lock().expect("no panic while it is held").take();
        drop(admin); // without the lock: it waits for its thread
    }

    /// Waits until everything has ended, on request or after a failure. A clean end leaves neither the
    /// sockets for successors and for the owner nor the token, unless a successor has them now.
    pub fn join(&self) -> io::Result<()> {
        let result = self.process.threads.join();
        self.end_as_predecessor();
        if result.is_ok() && !self.has_successor.load(Ordering::Relaxed) {
            let config = Arc::clone(&self.current().config);
            if let Some((addr, _)) = self.dashboard() {
                admin::forget_token(&config.admin, &config.state_dir, addr.port());
            }
        }
        self.end_admin();
        let successors = self.successors.lock().expect("no panic while it is held").take();
        if let Some(thread) = successors.filter(|_| self.is_ending()) {
            let _ = thread.join(); // it drops the listener, and so removes the socket
        }
        result
    }

    /// Whether a successor has taken over.
    pub fn has_successor(&self) -> bool {
        self.has_successor.load(Ordering::Relaxed)
    }

    /// Tells a successor, if there is one, what all processes before it have counted.
    fn end_as_predecessor(&self) {
        if !self.has_successor() {
            return;
        }
        let threads = [&self.successors, &self.predecessor];
        for thread in threads.map(|thread| thread.lock().expect("no panic while it is held").take()) {
            let _ = thread.map(JoinHandle::join); // a panic was logged and ends only that thread
        }
        self.tell_last_totals();
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
