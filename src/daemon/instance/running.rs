//! A running pool of a balancer process: what both kinds have in common.
//!
//! The kinds pause for a successor in different ways. A native pool pauses all its workers between two turns
//! before the first of them exports its state, and no worker takes another turn. A datagram pool stops
//! reading its client-side sockets only, and finishes the requests in flight itself.

use std::sync::Arc;

use super::paused::PausedWorkers;
use super::state::PoolState;
use super::{Failed, Process};
use crate::admin::status::PoolSource;
use crate::base::time::Clock;
use crate::config;
use crate::daemon::desired::DesiredServers;
use crate::daemon::handover::SocketSet;
use crate::daemon::inbox::Gone;
use crate::daemon::resolver::Resolver;
use crate::pool::order::{Order, Refused};

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
    Fixed(String),
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

    /// Its counters.
    fn counters(&self) -> PoolSource;
}
