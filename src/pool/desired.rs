//! Servers that a pool should have.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A server that the pool should have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredServer {
    /// Where it is.
    pub addr: SocketAddr,
    /// Its id in logs and figures.
    pub id: u32,
    /// Its share relative to others, 1 to 100.
    #[serde(default = "usual_weight")]
    pub weight: u16,
}

fn usual_weight() -> u16 {
    1
}
