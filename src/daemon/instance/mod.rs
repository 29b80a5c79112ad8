//! A balancer process: the native pool, datagram pools, or both, from the first socket to the last answer.
//!
//! | file | a change there is about |
//! |---|---|
//! | `sockets.rs` | opening sockets, or taking them over |
//! | `native.rs`, `pool.rs` | what runs, and how it is reached from outside |
//! | `reload.rs` | another configuration while it runs |
//! | `takeover.rs` | following another process, and being followed |
//! | `operate.rs` | what the admin interface sees and asks |
//! | `service.rs` | what a service manager is told |

mod held;
mod native;
mod operate;
mod pool;
mod reload;
pub mod service;
mod sockets;
mod start;
mod takeover;

use std::io;
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use super::control::Control;
use crate::admin;
use crate::admin::status::{About, Board, EventLog, Sampler};
use crate::base::time::Clock;
use crate::config::{Config, Token};
use crate::daemon::handover::SocketSet;
use crate::os::affinity;
use crate::os::signals::Stop;
use crate::os::threads::Threads;
use crate::pool::stats::NativeStats;
use crate::role::datagram::Shared;
use native::{Native, PreparedNative};
use pool::{Pool, PreparedPool};
use sockets::Opened;

pub use sockets::hold;
pub use takeover::{Takeover, path as takeover_path};

/// Why something could not be started or changed, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

impl Failed {
    pub(crate) fn new(why: impl ToString) -> Failed {
        Failed(why.to_string())
    }

    fn of_pool(self, name: &str) -> Failed {
        Failed(format!("pool {name}: {self}"))
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Failed(format!(
                "{error}: another process has this address; end that one, or set another (a balancer of the same \
                 configuration is followed with `lbd balancer --takeover`)"
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
    /// Pools that hear no clients any more, and finish what is under way.
    leaving: Vec<Arc<Pool>>,
}

/// A running balancer.
pub struct Instance {
    process: Process,
    running: Mutex<Running>,
    /// One reload at a time.
    reloading: Mutex<()>,
    board: Board,
    admin: Mutex<Option<Admin>>,
    /// Whether a successor serves by now.
    is_followed: AtomicBool,
}

/// The admin interface while it runs.
struct Admin {
    server: admin::Server,
    /// For a successor.
    listener: TcpListener,
    token: Token,
}

impl Admin {
    /// The listener with the token that changes will need.
    fn prepare(listener: TcpListener, config: &Config) -> Result<(TcpListener, Token), Failed> {
        let port = listener.local_addr()?.port();
        let token = admin::token_for(&config.admin, &config.state_dir, port).map_err(Failed::new)?;
        Ok((listener, token))
    }
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

    /// Makes and starts everything; with a takeover, in the place of the balancer that has run so far, which serves on if
    /// anything fails. Ends when `stop` is asked.
    pub fn start(self, stop: Stop, takeover: Option<Takeover>) -> Result<Arc<Instance>, Failed> {
        let Ready { config, mut opened, clock, is_inherited } = self;
        // What may fail comes before the other one is asked to pause.
        let admin = match opened.admin.take() {
            Some(listener) => Some(Admin::prepare(listener, &config)?),
            None => None,
        };
        let process = Process {
            clock,
            threads: Threads::new(stop.clone()),
            stop,
            control: Control::start(clock)?,
            events: Arc::default(),
        };
        let pools = opened.pools.into_iter().map(|open| PreparedPool::new(open, &process));
        let mut pools = pools.collect::<Result<Vec<_>, _>>()?;
        let mut native = match (config.native(), opened.native) {
            (Some(pool), Some(sockets)) => Some(PreparedNative::new(pool, sockets, is_inherited, &process)?),
            _ => None,
        };
        if let Some(mut takeover) = takeover {
            let state = takeover.state()?;
            if let (Some(native), Some(state)) = (&mut native, state.native) {
                native.go_on_from(state, clock.now())?;
            }
            for (name, state) in state.pools {
                if let Some(pool) = pools.iter_mut().find(|pool| pool.name() == name) {
                    pool.go_on_from(state, clock.now());
                }
            }
            takeover.conclude()?;
        }
        let native = native.map(|native| native.start(&process)).transpose()?;
        let pools = pools.into_iter().map(|made| made.start(&process).map(Arc::new));
        let pools = pools.collect::<Result<_, _>>()?;
        let running = Running { config: Arc::new(config), native, pools, leaving: vec![] };
        let config = running.config.source.as_ref().map_or(String::new(), |path| path.display().to_string());
        let about = About::new(config, Arc::clone(&process.events));
        let board = Board::new(about, running.sampler(clock, Board::SPAN));
        let instance = Arc::new(Instance {
            process,
            running: Mutex::new(running),
            reloading: Mutex::default(),
            board,
            admin: Mutex::default(),
            is_followed: AtomicBool::new(false),
        });
        instance.show()?;
        if let Some((listener, token)) = admin {
            instance.serve_admin(listener, token)?;
        }
        Ok(instance)
    }
}

impl Running {
    fn sampler(&self, clock: Clock, span: usize) -> Sampler {
        let stats: Vec<Arc<NativeStats>> = self.native.as_ref().map_or(vec![], |native| native.stats.clone());
        let shared: Vec<Arc<Shared>> = self.pools.iter().map(|pool| Arc::clone(&pool.shared)).collect();
        Sampler::new(stats, shared, clock, span)
    }
}

impl Instance {
    /// A sampler of its own, for a reader that wants rates and latencies between its own looks.
    pub fn sampler(&self) -> Sampler {
        self.running().sampler(self.process.clock, 1)
    }

    /// Looks at everything from time to time, for all that show it: so they show the same.
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
        *self.admin.lock().expect("no panic while it is held") = Some(Admin { server, listener, token });
        Ok(())
    }

    /// Where the dashboard is, with the token that changes need.
    pub fn dashboard(&self) -> Option<String> {
        let admin = self.admin.lock().expect("no panic while it is held");
        let admin = admin.as_ref()?;
        Some(format!("http://{}/#token={}", admin.server.addr(), admin.token.as_str()))
    }

    fn end_admin(&self) {
        let admin = self.admin.lock().expect("no panic while it is held").take();
        drop(admin); // without the lock: it waits for its thread
    }

    /// Waits until everything has ended: asked to, or because something has failed.
    pub fn join(&self) -> io::Result<()> {
        let result = self.process.threads.join();
        self.end_admin();
        result
    }

    /// Whether it was asked to end.
    fn is_ending(&self) -> bool {
        self.process.stop.is_asked()
    }

    /// Shows the pools that run now.
    fn follow(&self) {
        let sampler = self.running().sampler(self.process.clock, Board::SPAN);
        self.board.follow(sampler);
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
