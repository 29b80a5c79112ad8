//! Desired servers of a pool.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A desired server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredServer {
    /// The server's address.
    pub addr: SocketAddr,
    /// The server's id in logs, metrics and status.
    pub id: u32,
    /// The server's share relative to others, 1 to 100 (default 1).
    #[serde(default = "usual_weight")]
    pub weight: u16,
}

fn usual_weight() -> u16 {
    1
}
