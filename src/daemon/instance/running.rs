//! A pool of a balancer process, prepared or running: what both kinds have in common.
//!
//! The kinds pause for a successor in different ways. A native pool pauses all its workers between two turns
//! before the first of them exports its state, and no worker takes another turn. A datagram pool stops
//! reading its client-side sockets only, and finishes the requests in flight itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::datagram::{self, PreparedDatagram, RunningDatagram};
use super::native::{self, PreparedNative, RunningNative};
use super::paused::PausedWorkers;
use super::sockets::Open;
use super::{Failed, Process};
use crate::base::time::{Clock, Instant};
use crate::config;
use crate::daemon::desired::DesiredServers;
use crate::daemon::handover::SocketSet;
use crate::daemon::inbox::Gone;
use crate::daemon::resolver::Resolver;
use crate::pool::order::{Order, Refused};

/// What a pool hands to the pool of its name that follows it.
#[derive(Debug, Serialize, Deserialize)]
pub enum PoolState {
    /// The parts of a native pool's workers.
    Native(native::State),
    /// The servers and flows of a datagram pool.
    Datagram(datagram::State),
}

/// Settings that a running pool can adopt.
pub struct Change {
    /// What the pool is made from afterwards.
    pub new: config::Pool,
    /// The names of a datagram pool's servers, looked up.
    pub names: Option<Resolver>,
}

/// How a running pool comes to new settings.
pub enum Transition {
    /// They are those that it has.
    Keep,
    /// It adopts them.
    Change(Box<Change>),
    /// Another pool takes its place.
    Recreate,
    /// It cannot, since the value of this key cannot change while the pool runs.
    Fixed(&'static str),
}

/// A pool whose workers run.
pub trait Running: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// What it was made from, or changed to last.
    fn of(&self) -> Arc<config::Pool>;

    /// How it comes to new settings; changes nothing yet.
    fn transition(&self, new: &config::Pool) -> Result<Transition, Failed>;

    /// Adopts new settings. Returns what has changed, in words.
    fn change(&self, change: Change, process: &Process) -> Result<String, Failed>;

    /// Carries out an order about a server.
    fn order(&self, id: u32, order: Order) -> Result<Result<(), Refused>, Gone>;

    /// The servers that it should have; `None` if its servers register themselves.
    fn desired(&self) -> Option<&DesiredServers>;

    /// Duplicates of the sockets that a successor of this name reads.
    fn sockets(&self, name: &str) -> Result<SocketSet, Failed>;

    /// The same of a pool that retires: of those workers that have not ended yet.
    fn sockets_left(&self, name: &str) -> Result<SocketSet, Failed>;

    /// Stops reading what a successor reads from now on, and returns the state that the successor continues
    /// from. `paused` decides about workers that are paused.
    fn pause(&self, paused: &mut PausedWorkers, clock: Clock) -> Result<PoolState, Failed>;

    /// Reads everything again after a pause without a successor. Does nothing to a worker that reads already.
    fn resume(&self) -> Result<(), Failed>;

    /// Stops reading clients; requests in flight are finished. Returns when no worker reads its client-side
    /// sockets any more.
    fn retire(&self, process: &Process) -> Result<(), Failed>;

    /// Whether a worker has not ended yet.
    fn is_alive(&self) -> bool;

    /// Whether every worker completes a turn. Waits for the workers.
    fn is_turning(&self) -> bool;

    /// Where its counters are.
    fn figures(&self) -> Figures;
}

/// Where a pool's counters are.
pub enum Figures {
    /// Of a native pool, by worker, the primary first.
    Native(Vec<Arc<crate::pool::stats::NativeStats>>),
    /// Of a datagram pool.
    Datagram(Arc<crate::role::datagram::Shared>),
}

/// A pool that is ready and has not started.
pub enum Prepared {
    /// A native pool.
    Native(PreparedNative),
    /// A datagram pool.
    Datagram(Box<PreparedDatagram>),
}

impl Prepared {
    /// Prepares a pool over its sockets.
    pub fn new(open: Open, process: &Process) -> Result<Prepared, Failed> {
        Ok(match open {
            Open::Native(open) => Prepared::Native(PreparedNative::new(open, process)?),
            Open::Datagram(open) => Prepared::Datagram(Box::new(PreparedDatagram::new(*open, process)?)),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Prepared::Native(pool) => pool.name(),
            Prepared::Datagram(pool) => pool.name(),
        }
    }

    /// Continues from the state of the pool of this name in another process, or before a reload. The state of
    /// a pool of the other kind is of no use.
    pub fn restore(&mut self, state: PoolState, now: Instant) -> Result<(), Failed> {
        match (self, state) {
            (Prepared::Native(pool), PoolState::Native(state)) => pool.restore(state, now),
            (Prepared::Datagram(pool), PoolState::Datagram(state)) => pool.restore(state, now),
            _ => Ok(()),
        }
    }

    /// Starts its workers.
    pub fn start(self, process: &Process) -> Result<Arc<dyn Running>, Failed> {
        Ok(match self {
            Prepared::Native(pool) => Arc::<RunningNative>::new(pool.start(process)?),
            Prepared::Datagram(pool) => Arc::<RunningDatagram>::new(pool.start(process)?),
        })
    }
}
