//! What only worker 0 has: the servers and their health, the autoscaler, requests to the controller.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::open_orders::Orders;
use super::reply::Client;
use super::shared::{Extra, Shared};
use super::{NativeRole, Settings};
use crate::base::time::Instant;
use crate::pool::autoscale::Scaler;
use crate::pool::departed::Identity;
use crate::pool::event::Event;
use crate::pool::health::{self, Limits, State};
use crate::pool::order::{Order, Refused};
use crate::pool::primary::{self, Pool};
use crate::pool::registry;
use crate::pool::select::{LeafState, Slot};
use crate::pool::shared::PoolShared;
use crate::pool::stall::StallDetector;
use crate::pool::stats::ServerStats;
use crate::wire::tag::Stamp;

/// What a server's registration says, and what follows from its reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// Random number of the server's process start.
    pub instance: u64,
    /// Random number of the registration.
    pub epoch: u32,
    /// The nonce that the server made for its registration, echoed in every SYNC.
    pub nonce: u64,
    /// Requests at the server that are not from this registration, by its newest report.
    pub foreign: u32,
    /// Whether the controller can stop the server; false once the controller said that it cannot.
    pub is_managed: bool,
    /// Time between the server's reports, 1 ms to 10 s.
    pub interval: Duration,
    /// The frame that registered the server, where frames are authenticated.
    pub stamp: Option<Stamp>,
}

/// A native server as the primary knows it.
pub type Server = registry::Server<Registered>;
/// The registered servers, by slot.
pub type Registry = registry::Registry<Registered>;

/// What only worker 0 has.
pub(super) struct Primary {
    pub pool: primary::Primary<Shared>,
    pub scaler: Scaler,
    pub orders: Orders,
    pub stalls: StallDetector,
}

impl Primary {
    pub fn new(shared: &Arc<Shared>, settings: &Settings, seed: u64, now: Instant) -> Self {
        Primary {
            pool: primary::Primary::new(Arc::clone(shared), pool_settings(settings), Identity::Id, now),
            scaler: Scaler::new(settings.scale),
            orders: Orders::new(shared.instance, seed),
            stalls: StallDetector::default(),
        }
    }

    /// Adopts other settings.
    pub fn adopt(&mut self, now: Instant, settings: &Settings) {
        self.scaler.set_policy(settings.scale);
        let limits = |server: &Registered| Limits::for_interval(server.interval, &settings.health);
        self.pool.adopt(now, pool_settings(settings), limits);
    }
}

fn pool_settings(settings: &Settings) -> primary::Settings {
    primary::Settings {
        rules: settings.health,
        policy: settings.policy,
        max_outstanding: settings.max_outstanding,
        first_state: State::Joining,
        cannot_refuse: false, // there is BUSY
    }
}

impl Pool for Shared {
    type Extra = Registered;
    type Member = Extra;
    type Client = Client;
    type Settings = Settings;

    fn shared(&self) -> &PoolShared<Extra, Client, Settings> {
        &self.pool
    }

    fn stats(&self, worker: usize, slot: Slot) -> &ServerStats {
        &self.stats[worker].servers[slot.index()].common
    }

    fn epoch(registered: &Registered) -> u32 {
        registered.epoch
    }

    fn member(server: &Server, _: LeafState) -> Extra {
        let Registered { nonce, interval, stamp, .. } = server.extra;
        Extra { nonce, interval, draining: server.is_leaving, stamp }
    }

    fn on_server(&self, slot: Slot, server: Option<&Server>) {
        self.stats[0].servers[slot.index()].set_addr(server.map(|server| server.addr));
    }
}

impl NativeRole {
    /// Lets the primary act, then copies what it has published. Nothing at other workers.
    pub(super) fn as_primary<R>(&mut self, act: impl FnOnce(&mut Primary) -> R) -> Option<R> {
        let result = act(self.primary.as_mut()?);
        self.refresh();
        Some(result)
    }

    /// Applies an event to a server's health. Only the primary judges.
    pub(super) fn apply(&mut self, now: Instant, slot: Slot, event: health::Event, reason: &'static str) {
        self.as_primary(|primary| primary.pool.apply(now, slot, event, reason));
    }

    /// Carries out an operator's order about the server with this id, also about one that has left. Only the
    /// primary can.
    pub fn order(&mut self, now: Instant, id: u32, order: Order) -> Result<(), Refused> {
        let outcome = self.as_primary(|primary| primary.pool.order(now, id, order));
        outcome.unwrap_or(Err(Refused::UnknownServer))
    }

    /// The oldest event that was not fetched yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.primary.as_mut()?.pool.poll_event()
    }

    /// The registered servers, for inspection; only the primary has them.
    pub fn registry(&self) -> Option<&Registry> {
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
