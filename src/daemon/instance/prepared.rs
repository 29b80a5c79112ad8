//! A pool of either kind that is ready and has not started.

use std::sync::Arc;

use super::datagram::{PreparedDatagram, RunningDatagram};
use super::native::{PreparedNative, RunningNative};
use super::running::Running;
use super::sockets::PoolSockets;
use super::state::PoolState;
use super::workers::have_own_cpus;
use super::{Failed, ProcessContext};
use crate::base::time::Instant;
use crate::config;

/// A pool that is ready and has not started.
pub enum Prepared {
    /// A native pool.
    Native(Box<PreparedNative>),
    /// A datagram pool.
    Datagram(Box<PreparedDatagram>),
}

impl Prepared {
    /// Prepares a pool over its sockets. `pools`: all pools of the configuration.
    pub fn new(
        open: PoolSockets,
        pools: &[config::Pool],
        process: &ProcessContext,
    ) -> Result<Prepared, Failed> {
        let prefault = have_own_cpus(pools.iter().map(config::Pool::workers).sum());
        Ok(match open {
            PoolSockets::Native(open) => {
                Prepared::Native(Box::new(PreparedNative::new(*open, process, prefault)?))
            }
            PoolSockets::Datagram(open) => {
                Prepared::Datagram(Box::new(PreparedDatagram::new(*open, process, prefault)?))
            }
        })
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        match self {
            Prepared::Native(pool) => pool.name(),
            Prepared::Datagram(pool) => pool.name(),
        }
    }

    /// Continues from the state of the pool with this name in another process, or before a reload. Ignores
    /// the state of a pool of the other kind.
    pub fn restore(&mut self, state: PoolState, now: Instant) -> Result<(), Failed> {
        match (self, state) {
            (Prepared::Native(pool), PoolState::Native(state)) => pool.restore(state, now),
            (Prepared::Datagram(pool), PoolState::Datagram(state)) => pool.restore(state, now),
            _ => Ok(()),
        }
    }

    /// Starts the pool's workers.
    pub fn start(self, process: &ProcessContext) -> Result<Arc<dyn Running>, Failed> {
        Ok(match self {
            Prepared::Native(pool) => Arc::<RunningNative>::new(pool.start(process)?),
            Prepared::Datagram(pool) => Arc::<RunningDatagram>::new(pool.start(process)?),
        })
    }
}
