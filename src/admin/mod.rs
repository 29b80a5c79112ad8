//! The admin interface: status and orders of a running balancer, over HTTP and over its owner's socket.
//!
//! Knows no socket and no loop of the data path: all access goes through [`Control`].
//!
//! ```text
//! server   the thread, its connections and their bounds
//!   ├─ seats    the limit of connections
//!   └─ routes   addresses and their answers
//!        ├─ guard    access control
//!        ├─ live     one tick a second for all readers: server-sent events, history
//!        └─ metrics  the status as Prometheus reads it
//! token    where the token comes from
//! owner    the socket of the balancer's owner
//! client   the client side, for commands and the controller
//! ```

#[cfg(not(loom))]
mod app;
#[cfg(not(loom))]
mod bodies;
#[cfg(not(loom))] // neither tokio nor ureq has sockets under loom
mod client;
#[cfg(not(loom))]
mod guard;
#[cfg(not(loom))]
mod in_memory;
#[cfg(not(loom))]
mod live;
#[cfg(not(loom))]
mod metrics;
#[cfg(not(loom))]
mod owner;
#[cfg(not(loom))]
mod routes;
#[cfg(not(loom))]
mod seats;
#[cfg(not(loom))]
mod server;
pub mod status;
#[cfg(all(test, not(loom)))]
mod tests;
mod token;

use std::sync::Arc;

use crate::admin::status::{EventLog, Status};
use crate::pool::desired::DesiredServer;
use crate::pool::order::Order;

#[cfg(not(loom))]
pub use client::{AdminClient, AdminPlace, ClientError};
#[cfg(not(loom))]
pub use in_memory::InMemoryAdmin;
#[cfg(not(loom))]
pub use metrics::process::cpu_seconds;
#[cfg(not(loom))]
pub use owner::socket_path;
#[cfg(not(loom))]
pub use server::{AdminServer, Listeners, serve, serve_with};
pub use token::{find_token, forget_token, token_for};

/// A running balancer, as the admin interface uses it. The status is returned at once. Orders may wait for a
/// turn of the data path, so they are called where a thread may block.
pub trait Control: Send + Sync + 'static {
    /// The newest snapshot, at most a quarter of a second old.
    fn status(&self) -> Arc<Status>;

    /// The event log.
    fn events(&self) -> &EventLog;

    /// Carries out an order about the server with this id. Without the name of a pool, the id must be in one
    /// pool only.
    fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Result<(), Refusal>;

    /// Sets the servers of a datagram pool that its controller runs, beside those of the configuration.
    fn set_servers(&self, pool: &str, servers: Vec<DesiredServer>) -> Result<(), Refusal>;

    /// Reloads the configuration. Returns what has changed, as text; an invalid file changes nothing.
    fn reload(&self) -> Result<String, Refusal>;
}

/// Why an order was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such pool or server.
    NotFound(String),
    /// An ambiguous or invalid order: an id in several pools, a weight out of range.
    Invalid(String),
    /// An order that cannot be carried out now.
    Failed(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Refusal::NotFound(text) | Refusal::Invalid(text) | Refusal::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Refusal {}
