//! Bodies of requests and answers, for both ends.

use serde::{Deserialize, Serialize};

use crate::pool::desired::DesiredServer;

/// Body of `PUT /api/pools/NAME/servers`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedServers {
    pub servers: Vec<DesiredServer>,
}

/// Body of an answer to an operation that succeeded.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub done: String,
}

/// Body of an answer to an operation that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Problem {
    pub error: String,
}
