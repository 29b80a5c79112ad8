//! The admin interface: what an operator sees and asks of a running balancer, over HTTP.
//!
//! Knows nothing of sockets and loops of the data path: what it shows and does goes through [`Control`].

mod client;
mod token;

use std::sync::Arc;

use crate::operator::Order;
use crate::role::relay::Wanted;
use crate::status::{EventLog, Status};

pub use client::Client;
pub use token::find_token;

/// A running balancer, as the admin interface sees it. Calls may wait for a turn of the data path, so they are made where
/// waiting is allowed.
pub trait Control: Send + Sync + 'static {
    /// Everything that is shown, not older than a quarter of a second.
    fn status(&self) -> Arc<Status>;

    /// What has happened lately.
    fn events(&self) -> &EventLog;

    /// Whether requests are served: at least one server of every pool takes traffic. Else why not.
    fn ready(&self) -> Result<(), String>;

    /// Carries out an order about the server with this id. Without the name of a pool, the id has to be in one pool only.
    fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Result<(), Refusal>;

    /// Says which servers of a datagram pool its controller runs at present, beside those of the configuration.
    fn set_servers(&self, pool: &str, servers: Vec<Wanted>) -> Result<(), Refusal>;

    /// Reads the configuration anew. Says what has changed, in words; an invalid one changes nothing.
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
