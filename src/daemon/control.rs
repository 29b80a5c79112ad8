//! The control thread: what is slow or rare, on a runtime of its own, away from the data path.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::names::{self, Names};
use super::tcp::Splicer;
use crate::role::relay::Shared;
use crate::time::Clock;

/// What is to be done for a pool beside its datagrams.
pub struct Errands {
    /// The pool.
    pub pool: Arc<Shared>,
    /// Where TCP connections arrive.
    pub listeners: Vec<TcpListener>,
    /// Connections at a time, at most.
    pub connections_max: usize,
    /// Names to be looked up again and again.
    pub names: Option<Names>,
}

/// Does the errands of all pools until the process ends. `clock` is that of the pools' workers.
pub fn start(all: Vec<Errands>, clock: Clock) -> io::Result<()> {
    if all.iter().all(|errands| errands.listeners.is_empty() && errands.names.is_none()) {
        return Ok(());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut tasks = vec![];
    for errands in all {
        let listeners = {
            let _within = runtime.enter();
            let adopt = |listener: TcpListener| {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener)
            };
            errands.listeners.into_iter().map(adopt).collect::<io::Result<Vec<_>>>()?
        };
        tasks.push((errands.pool, listeners, errands.connections_max, errands.names));
    }
    std::thread::Builder::new().name("control".into()).spawn(move || {
        let local = LocalSet::new();
        for (pool, listeners, connections_max, names) in tasks {
            let splicer = Rc::new(Splicer::new(Arc::clone(&pool), connections_max, clock));
            for listener in listeners {
                local.spawn_local(Rc::clone(&splicer).serve(listener));
            }
            if let Some(names) = names {
                local.spawn_local(names::keep(names, pool));
            }
        }
        runtime.block_on(local);
    })?;
    Ok(())
}
