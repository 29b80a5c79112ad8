//! The control thread: slow and rare tasks of datagram pools, such as name lookups, on a runtime apart from
//! the data path.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, LocalSet};

use super::desired::DesiredServers;
use super::resolver::{self, Resolver};
use super::tcp::StreamServer;
use crate::base::rng::entropy;
use crate::base::time::Clock;
use crate::role::datagram::DatagramShared;
use crate::role::datagram::streams::Streams;

/// The tasks of a pool beside its datagrams.
pub struct PoolTasks {
    /// The pool.
    pub pool: Arc<DatagramShared>,
    /// The desired servers, to which the looked-up addresses are written.
    pub desired: Arc<DesiredServers>,
    /// The listeners of TCP connections.
    pub listeners: Vec<TcpListener>,
    /// Maximum concurrent TCP connections.
    pub connections_max: usize,
    /// Host names to look up repeatedly; `None` if there are none.
    pub names: Option<Resolver>,
}

enum ControlCommand {
    Begin(PoolTasks),
    /// Replaces the host names of the pool with this name; `None` removes them.
    Rename(String, Option<Resolver>, Arc<DesiredServers>),
    End(String),
    /// Runs this on the thread.
    Run(Box<dyn FnOnce() + Send>),
}

/// A handle of the control thread, which runs until the process ends.
#[derive(Clone)]
pub struct ControlThread(UnboundedSender<ControlCommand>);

impl ControlThread {
    /// Starts the thread. `clock` is that of the pools' workers.
    pub fn start(clock: Clock) -> io::Result<ControlThread> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        #[expect(clippy::disallowed_methods, reason = "one command a change of the configuration")]
        let (commands, received) = unbounded_channel();
        std::thread::Builder::new().name("control".into()).spawn(move || {
            let local = LocalSet::new();
            runtime.block_on(local.run_until(listen(received, clock)));
        })?;
        Ok(ControlThread(commands))
    }

    /// Begins the tasks of a pool.
    pub fn begin(&self, tasks: PoolTasks) -> io::Result<()> {
        for listener in &tasks.listeners {
            listener.set_nonblocking(true)?;
        }
        self.send(ControlCommand::Begin(tasks));
        Ok(())
    }

    /// Replaces the host names of a pool; with `None`, no names are looked up any more.
    pub fn rename(&self, pool: &str, names: Option<Resolver>, desired: Arc<DesiredServers>) {
        self.send(ControlCommand::Rename(pool.to_owned(), names, desired));
    }

    /// Accepts no more connections for a pool of this name, and looks up no names.
    pub fn end(&self, pool: &str) {
        self.send(ControlCommand::End(pool.to_owned()));
    }

    /// Runs this on the thread that serves TCP.
    pub fn run(&self, task: impl FnOnce() + Send + 'static) {
        self.send(ControlCommand::Run(Box::new(task)));
    }

    fn send(&self, command: ControlCommand) {
        // The thread receives as long as the process runs.
        let _ = self.0.send(command);
    }
}

/// The running tasks of a pool.
#[derive(Default)]
struct Busy {
    listening: Vec<AbortHandle>,
    naming: Option<AbortHandle>,
}

impl Busy {
    fn stop_naming(&mut self) {
        if let Some(task) = self.naming.take() {
            task.abort();
        }
    }
}

async fn listen(mut received: UnboundedReceiver<ControlCommand>, clock: Clock) {
    let mut pools: BTreeMap<String, Busy> = BTreeMap::new();
    while let Some(command) = received.recv().await {
        match command {
            ControlCommand::Begin(tasks) => {
                let name = tasks.pool.name().to_owned();
                pools.insert(name, begin(tasks, clock));
            }
            ControlCommand::Rename(pool, names, desired) => {
                let busy = pools.entry(pool).or_default();
                busy.stop_naming();
                busy.naming = names.map(|names| keep(names, desired));
            }
            ControlCommand::Run(task) => task(),
            ControlCommand::End(pool) => {
                if let Some(mut busy) = pools.remove(&pool) {
                    busy.stop_naming();
                    busy.listening.iter().for_each(AbortHandle::abort);
                }
            }
        }
    }
}

fn begin(tasks: PoolTasks, clock: Clock) -> Busy {
    let PoolTasks { pool, desired, listeners, connections_max, names } = tasks;
    if listeners.is_empty() {
        return Busy { listening: vec![], naming: names.map(|names| keep(names, desired)) };
    }
    let streams = Streams::new(&pool, connections_max, rand::random(), entropy());
    let server = StreamServer::new(streams, clock);
    server.start();
    let listening = listeners.into_iter().filter_map(|listener| {
        let listener = tokio::net::TcpListener::from_std(listener)
            .inspect_err(|error| {
                tracing::error!(pool = pool.name(), error = error.to_string(), "TCP listener failed");
            })
            .ok()?;
        Some(tokio::task::spawn_local(Rc::clone(&server).serve(listener)).abort_handle())
    });
    Busy { listening: listening.collect(), naming: names.map(|names| keep(names, desired)) }
}

fn keep(names: Resolver, desired: Arc<DesiredServers>) -> AbortHandle {
    tokio::task::spawn_local(resolver::keep(names, desired)).abort_handle()
}
