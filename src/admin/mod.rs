//! The admin interface: what an operator sees and asks of a running balancer, over HTTP.
//!
//! Knows nothing of sockets and loops of the data path: what it shows and does goes through [`Control`].
//!
//! ```text
//! server   the thread, its connections and their bounds
//!   └─ routes   addresses and their answers
//!        ├─ guard    who may read, who may change
//!        ├─ live     one tick a second for all readers: server-sent events, history
//!        └─ metrics  figures as Prometheus reads them
//! token    where the token comes from
//! client   the other end: what commands and the controller use
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
mod live;
#[cfg(not(loom))]
mod metrics;
#[cfg(not(loom))]
mod routes;
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
pub use client::{Client, ClientError};
#[cfg(not(loom))]
pub use server::{Server, serve};
pub use token::{find_token, token_for};

/// A running balancer, as the admin interface sees it. What is shown is given at once; what is asked for may
/// wait for a turn of the data path, so it is asked for where waiting is allowed.
pub trait Control: Send + Sync + 'static {
    /// Everything that is shown, not older than a quarter of a second.
    fn status(&self) -> Arc<Status>;

    /// What has happened lately.
    fn events(&self) -> &EventLog;

    /// Whether requests are served: at least one server of every pool takes traffic. Else why not.
    fn ready(&self) -> Result<(), String>;

    /// Carries out an order about the server with this id. Without the name of a pool, the id has to be in
    /// one pool only.
    fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Result<(), Refusal>;

    /// Says which servers of a datagram pool its controller runs at present, beside those of the
    /// configuration.
    fn set_servers(&self, pool: &str, servers: Vec<DesiredServer>) -> Result<(), Refusal>;

    /// Reloads the configuration. Says what has changed, in words; an invalid one changes nothing.
    fn reload(&self) -> Result<String, Refusal>;
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such pool or server.
    NotFound(String),
    /// It is asked for in a way that cannot be: which of several is meant, a weight out of range.
    Invalid(String),
    /// It cannot be done now.
    Failed(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Refusal::NotFound(text) | Refusal::Invalid(text) | Refusal::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Refusal {}
