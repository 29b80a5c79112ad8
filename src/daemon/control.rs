//! The control thread: what is slow or rare, on a runtime of its own, away from the data path.

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
use super::tcp::Splicer;
use crate::base::time::Clock;
use crate::role::datagram::Shared;

/// What is to be done for a pool beside its datagrams.
pub struct PoolTasks {
    /// The pool.
    pub pool: Arc<Shared>,
    /// Where to say what its names lead to.
    pub wishes: Arc<DesiredServers>,
    /// Where TCP connections arrive.
    pub listeners: Vec<TcpListener>,
    /// Connections at a time, at most.
    pub connections_max: usize,
    /// Names to be looked up again and again.
    pub names: Option<Resolver>,
}

enum Command {
    Begin(PoolTasks),
    /// Other names, or none, for the pool of this name.
    Rename(String, Option<Resolver>, Arc<DesiredServers>),
    End(String),
}

/// The control thread, from outside. It runs until the process ends.
#[derive(Clone)]
pub struct Control(UnboundedSender<Command>);

impl Control {
    /// Starts the thread. `clock` is that of the pools' workers.
    pub fn start(clock: Clock) -> io::Result<Control> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        #[expect(clippy::disallowed_methods, reason = "one command a change of the configuration")]
        let (words, heard) = unbounded_channel();
        std::thread::Builder::new().name("control".into()).spawn(move || {
            let local = LocalSet::new();
            runtime.block_on(local.run_until(listen(heard, clock)));
        })?;
        Ok(Control(words))
    }

    /// Does the errands of a pool from now on.
    pub fn begin(&self, errands: PoolTasks) -> io::Result<()> {
        for listener in &errands.listeners {
            listener.set_nonblocking(true)?;
        }
        self.say(Command::Begin(errands));
        Ok(())
    }

    /// Other names of servers, or none, for a pool.
    pub fn rename(&self, pool: &str, names: Option<Resolver>, wishes: Arc<DesiredServers>) {
        self.say(Command::Rename(pool.to_owned(), names, wishes));
    }

    /// Takes no connections any more for a pool of this name, and looks no names up; connections that live go on.
    pub fn end(&self, pool: &str) {
        self.say(Command::End(pool.to_owned()));
    }

    fn say(&self, word: Command) {
        // The thread hears as long as the process runs.
        let _ = self.0.send(word);
    }
}

/// What is being done for a pool.
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

async fn listen(mut heard: UnboundedReceiver<Command>, clock: Clock) {
    let mut pools: BTreeMap<String, Busy> = BTreeMap::new();
    while let Some(word) = heard.recv().await {
        match word {
            Command::Begin(errands) => {
                let name = errands.pool.name().to_owned();
                pools.insert(name, begin(errands, clock));
            }
            Command::Rename(pool, names, wishes) => {
                let busy = pools.entry(pool).or_default();
                busy.stop_naming();
                busy.naming = names.map(|names| keep(names, wishes));
            }
            Command::End(pool) => {
                if let Some(mut busy) = pools.remove(&pool) {
                    busy.stop_naming();
                    busy.listening.iter().for_each(AbortHandle::abort);
                }
            }
        }
    }
}

fn begin(errands: PoolTasks, clock: Clock) -> Busy {
    let PoolTasks { pool, wishes, listeners, connections_max, names } = errands;
    let splicer = Rc::new(Splicer::new(Arc::clone(&pool), connections_max, clock));
    let listening = listeners.into_iter().filter_map(|listener| {
        let listener = tokio::net::TcpListener::from_std(listener)
            .inspect_err(|error| tracing::error!(pool = pool.name(), %error, "no TCP"))
            .ok()?;
        Some(tokio::task::spawn_local(Rc::clone(&splicer).serve(listener)).abort_handle())
    });
    Busy { listening: listening.collect(), naming: names.map(|names| keep(names, wishes)) }
}

fn keep(names: Resolver, wishes: Arc<DesiredServers>) -> AbortHandle {
    tokio::task::spawn_local(resolver::keep(names, wishes)).abort_handle()
}
