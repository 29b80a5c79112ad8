//! The state of the primary: servers and their health, the autoscaler, scaling requests to the controller.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::open_orders::ScalingRequests;
use super::reply::Client;
use super::shared::{Extra, NativeShared};
use super::spent::SpentStamps;
use super::{NativePoolSettings, NativeRole};
use crate::base::time::Instant;
use crate::pool::autoscale::Scaler;
use crate::pool::departed::Identity;
use crate::pool::event::Event;
use crate::pool::health::{self, Limits, State};
use crate::pool::order::{Order, Refused};
use crate::pool::primary::{self, Pool, PrimarySettings};
use crate::pool::registry;
use crate::pool::select::{LeafState, Slot};
use crate::pool::shared::PoolShared;
use crate::pool::stall::StallDetector;
use crate::pool::stats::ServerStats;
use crate::wire::tag::Stamp;

/// What only a native pool knows of a server: from the server's registration and reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// Random number of the server's process start.
    pub instance: u64,
    /// Random number of the registration.
    pub epoch: u32,
    /// The nonce that the server made for its registration, echoed in every SYNC.
    pub nonce: u64,
    /// Foreign load in the server's newest report: requests that are not from this registration.
    pub foreign: u32,
    /// Whether the controller can stop the server; false after the controller reported that it cannot.
    pub is_managed: bool,
    /// Time between the server's reports, 1 ms to 10 s.
    pub interval: Duration,
    /// The stamp of the registration; `None` if frames are not authenticated.
    pub stamp: Option<Stamp>,
}

/// A native server as the primary knows it.
pub type NativeServer = registry::Server<Registered>;
/// The registered servers, by slot.
pub type NativeRegistry = registry::Registry<Registered>;

/// The state of the primary.
pub(super) struct NativePrimary {
    pub pool: primary::Primary<NativeShared>,
    pub scaler: Scaler,
    pub orders: ScalingRequests,
    pub stalls: StallDetector,
    /// Requests of each slot that had ended at the last comparison.
    pub ended: Box<[u64]>,
    /// Stamps of used registrations; empty if frames are not authenticated.
    pub spent: SpentStamps,
}

impl NativePrimary {
    pub fn new(shared: &Arc<NativeShared>, settings: &NativePoolSettings, seed: u64, now: Instant) -> Self {
        NativePrimary {
            pool: primary::Primary::new(Arc::clone(shared), pool_settings(settings), Identity::Id, now),
            scaler: Scaler::new(settings.scale),
            orders: ScalingRequests::new(shared.instance, seed),
            stalls: StallDetector::default(),
            ended: vec![0; settings.servers_max].into(),
            spent: SpentStamps::new(settings.servers_max),
        }
    }

    /// Adopts other settings.
    pub fn adopt(&mut self, now: Instant, settings: &NativePoolSettings) {
        self.scaler.set_policy(settings.scale);
        let limits = |server: &Registered| Limits::for_interval(server.interval, &settings.health);
        self.pool.adopt(now, pool_settings(settings), limits);
    }
}

fn pool_settings(settings: &NativePoolSettings) -> PrimarySettings {
    PrimarySettings {
        rules: settings.health,
        policy: settings.policy,
        max_outstanding: settings.max_outstanding,
        first_state: State::Joining,
        cannot_refuse: false, // the refusal is BUSY
    }
}

impl Pool for NativeShared {
    type Extra = Registered;
    type Member = Extra;
    type Client = Client;
    type Settings = NativePoolSettings;

    fn shared(&self) -> &PoolShared<Extra, Client, NativePoolSettings> {
        &self.pool
    }

    fn stats(&self, worker: usize, slot: Slot) -> &ServerStats {
        &self.stats[worker].servers[slot.index()].common
    }

    fn epoch(registered: &Registered) -> u32 {
        registered.epoch
    }

    fn member(server: &NativeServer, _: LeafState) -> Extra {
        let Registered { nonce, interval, stamp, .. } = server.extra;
        Extra { nonce, interval, draining: server.is_leaving, stamp }
    }

    fn on_server(&self, slot: Slot, server: Option<&NativeServer>) {
        self.stats[0].servers[slot.index()].set_addr(server.map(|server| server.addr));
    }
}

impl NativeRole {
    /// Runs `act` on the primary, then copies its changes of the members. Does nothing at other workers.
    pub(super) fn as_primary<R>(&mut self, act: impl FnOnce(&mut NativePrimary) -> R) -> Option<R> {
        let result = act(self.primary.as_mut()?);
        self.refresh();
        Some(result)
    }

    /// Applies an event to a server's health. Does nothing at other workers than the primary.
    pub(super) fn apply(
        &mut self,
        now: Instant,
        slot: Slot,
        event: health::HealthEvent,
        reason: &'static str,
    ) {
        self.as_primary(|primary| primary.pool.apply(now, slot, event, reason));
    }

    /// Carries out an operator's order about the server with this id, present or departed. Fails at other
    /// workers than the primary.
    pub fn order(&mut self, now: Instant, id: u32, order: Order) -> Result<(), Refused> {
        self.ticks.soon();
        let outcome = self.as_primary(|primary| primary.pool.order(now, id, order));
        outcome.unwrap_or(Err(Refused::UnknownServer))
    }

    /// The oldest event that was not fetched yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.primary.as_mut()?.pool.poll_event()
    }

    /// The registered servers, for inspection; `None` at other workers than the primary.
    pub fn registry(&self) -> Option<&NativeRegistry> {
        self.primary.as_ref().map(|primary| primary.pool.registry())
    }

    /// Panics, with the numbers, if what must hold between two turns does not. For tests.
    pub fn check_invariants(&self) {
        self.lanes.check_invariants();
        self.lanes.iter().for_each(|lane| lane.estimate.check_invariants());
        if let Some(primary) = &self.primary {
            primary.pool.check_invariants(&self.view);
        }
    }
}
