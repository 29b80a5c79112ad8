//! A running pool of a balancer process: the operations that both kinds have.
//!
//! The kinds pause for a successor in different ways. A native pool pauses all its workers between two turns
//! before the first of them exports its state, and no worker takes another turn. So does a datagram pool
//! whose successor continues its flows. Any other datagram pool stops reading its client-side sockets only,
//! and finishes the requests in flight itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::paused::PausedWorkers;
use super::state::PoolState;
use super::{Failed, ProcessContext};
use crate::admin::status::PoolSource;
use crate::base::time::Clock;
use crate::config;
use crate::daemon::desired::DesiredServers;
use crate::daemon::handover::SocketSet;
use crate::daemon::inbox::Gone;
use crate::daemon::resolver::Resolver;
use crate::pool::order::{Order, Refused};
use crate::pool::stats::PoolTotals;

/// Settings that a running pool can adopt.
pub struct Change {
    /// The pool's new configuration.
    pub new: config::Pool,
    /// The looked-up host names of a datagram pool's servers.
    pub names: Option<Resolver>,
}

/// How a running pool adopts new settings.
pub enum Transition {
    /// The settings are the present ones.
    Keep,
    /// The pool adopts the settings.
    Change(Box<Change>),
    /// A recreated pool replaces this one.
    Recreate,
    /// The pool cannot adopt the settings.
    Fixed {
        /// The key whose value cannot change while the pool runs, as an item of `pools` has it.
        key: &'static str,
        /// Whether a process that takes over can have another value.
        can_follow: bool,
    },
}

/// A pool whose workers run.
pub trait Running: Send + Sync {
    /// The pool's name.
    fn name(&self) -> &str;

    /// The pool's present configuration.
    fn of(&self) -> Arc<config::Pool>;

    /// How the pool would adopt new settings; changes nothing.
    fn transition(&self, new: &config::Pool) -> Result<Transition, Failed>;

    /// Adopts new settings. Returns the changes as text.
    fn change(&self, change: Change, process: &ProcessContext) -> Result<String, Failed>;

    /// Carries out an order about a server.
    fn order(&self, id: u32, order: Order) -> Result<Result<(), Refused>, Gone>;

    /// The desired servers; `None` if the pool's servers register themselves.
    fn desired(&self) -> Option<&DesiredServers>;

    /// Duplicates of the sockets that a successor of this name reads.
    fn sockets(&self, name: &str) -> Result<SocketSet, Failed>;

    /// Duplicates of the sockets of a retiring pool: those of workers that have not ended yet.
    fn sockets_left(&self, name: &str) -> Result<SocketSet, Failed>;

    /// Stops reading the sockets that the successor reads, and returns the state for the successor. `paused`
    /// receives the workers that pause. `is_continued`: the successor reads the server-side sockets too,
    /// where [`Running::sockets`] has them.
    fn pause(
        &self,
        paused: &mut PausedWorkers,
        clock: Clock,
        is_continued: bool,
    ) -> Result<PoolState, Failed>;

    /// Adds what a predecessor has counted; `slots` has the slot here of each of its slots.
    fn add_totals(&self, totals: &PoolTotals, slots: &BTreeMap<u16, u16>, process: &ProcessContext);

    /// Reads all sockets again after a pause without a successor. A worker that reads already is not changed.
    fn resume(&self) -> Result<(), Failed>;

    /// Stops reading clients; requests in flight are finished. Returns when no worker reads its client-side
    /// sockets any more.
    fn retire(&self, process: &ProcessContext) -> Result<(), Failed>;

    /// Whether a worker has not ended yet.
    fn is_alive(&self) -> bool;

    /// Whether every worker completes a turn. Waits for the workers.
    fn is_turning(&self) -> bool;

    /// The pool's counters.
    fn counters(&self) -> PoolSource;
}
