//! A pool of either kind that is ready and has not started.

use std::path::Path;
use std::sync::Arc;

use super::datagram::{PreparedDatagram, RunningDatagram};
use super::native::{PreparedNative, RunningNative};
use super::running::Running;
use super::sockets::PoolSockets;
use super::state::PoolState;
use super::workers::have_own_cpus;
use super::{Failed, ProcessContext};
use crate::admin::status::PoolSource;
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

    /// Continues from the state of the pool with this name in another process, or before a reload. Returns
    /// the pool's counters, so that they can continue too; `None` for the state of a pool of the other kind,
    /// which is ignored.
    ///
    /// # Errors
    /// The pool cannot continue from the state. A key that is the cause is named as the file `source` has it.
    pub fn restore(
        &mut self,
        state: PoolState,
        now: Instant,
        source: Option<&Path>,
    ) -> Result<Option<PoolSource>, Failed> {
        match (self, state) {
            (Prepared::Native(pool), PoolState::Native(state)) => {
                pool.restore(state, now, source)?;
                Ok(pool.counters())
            }
            (Prepared::Datagram(pool), PoolState::Datagram(state)) => {
                pool.restore(state, now).map_err(|failed| failed.of_pool(pool.name()))?;
                Ok(Some(pool.counters()))
            }
            _ => Ok(None),
        }
    }

    /// Whether the pool reads the server-side sockets of the pool before.
    pub fn continues(&self) -> bool {
        match self {
            Prepared::Native(_) => false,
            Prepared::Datagram(pool) => pool.continues(),
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
