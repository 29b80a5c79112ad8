//! The client of the admin interface: for commands, `lbd top` and the controller.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::bodies::{Done, Problem, WantedServers};
use crate::admin::status::Status;
use crate::config::Token;
use crate::pool::desired::DesiredServer;
use crate::pool::order::Order;

/// Maximum time of an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time of the answer to a reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum size of an answer, in bytes: far more than the status of the largest pools.
const ANSWER_SIZE_MAX: u64 = 64 * 1024 * 1024;

/// A client of one balancer. Each call opens a connection, so a restarted balancer is found again.
#[derive(Debug)]
pub struct AdminClient {
    addr: SocketAddr,
    token: Option<Token>,
    agent: ureq::Agent,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or no answer in time.
    #[error(
        "no response from {addr}: {why}; check that the balancer runs and that admin.listen is this address"
    )]
    NoAnswer {
        /// The address of the admin interface.
        addr: SocketAddr,
        /// The network error.
        why: String,
    },
    /// The token is wrong or missing.
    #[error("the balancer at {addr} refused the token: {why}")]
    Token {
        /// The address of the admin interface.
        addr: SocketAddr,
        /// The error in the answer.
        why: String,
    },
    /// The balancer refused the operation.
    #[error("{why}")]
    Refused {
        /// The HTTP status code.
        status: u16,
        /// The error in the answer.
        why: String,
    },
    /// The answer is not from an admin interface of this program.
    #[error("{addr} is not the admin interface of this lbd version: {why}; check the address")]
    NotUnderstood {
        /// The address of the admin interface.
        addr: SocketAddr,
        /// What is wrong with the answer.
        why: String,
    },
}

/// The result of a call.
pub type Answer<T> = Result<T, ClientError>;

impl AdminClient {
    /// A client of the balancer whose admin interface has this address. Without the token it can only read.
    pub fn new(addr: SocketAddr, token: Option<Token>) -> AdminClient {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(0)
            .timeout_global(Some(TIMEOUT))
            .build();
        AdminClient { addr, token, agent: agent.into() }
    }

    /// The address of the admin interface.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The status of the balancer.
    pub fn status(&self) -> Answer<Status> {
        self.read(self.agent.get(self.url("/api/status")).call())
    }

    /// Gives an order about a server. Without the name of a pool, the id must be in one pool only.
    pub fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Answer<()> {
        let mut request = self.agent.post(self.url(&format!("/api/servers/{id}/{}", order.name())));
        if let Some(pool) = pool {
            request = request.query("pool", pool);
        }
        if let Order::Weight(weight) = order {
            request = request.query("weight", weight.to_string());
        }
        self.read(self.with_token(request).send_empty()).map(|Done { .. }| ())
    }

    /// Sets the servers that a pool's controller runs.
    pub fn set_servers(&self, pool: &str, servers: &[DesiredServer]) -> Answer<()> {
        let body = serde_json::to_string(&WantedServers { servers: servers.to_vec() });
        // Names of pools are letters, digits, `_`, `.` and `-`.
        let request = self.agent.put(self.url(&format!("/api/pools/{pool}/servers")));
        let request = self.with_token(request).content_type("application/json");
        self.read(request.send(body.expect("plain fields become JSON"))).map(|Done { .. }| ())
    }

    /// Reloads the configuration; returns what has changed, as text.
    pub fn reload(&self) -> Answer<String> {
        let request = self.with_token(self.agent.post(self.url("/api/reload")));
        let request = request.config().timeout_global(Some(RELOAD_TIMEOUT)).build();
        self.read(request.send_empty()).map(|Done { done }| done)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn with_token<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {}", token.as_str())),
            None => request,
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        called: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Answer<T> {
        let addr = self.addr;
        let no_answer = |why: ureq::Error| match why {
            why @ (ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::BodyExceedsLimit(_)) => {
                ClientError::NotUnderstood { addr, why: why.to_string() }
            }
            why => ClientError::NoAnswer { addr, why: plain(&why) },
        };
        let mut response = called.map_err(no_answer)?;
        let text = response.body_mut().with_config().limit(ANSWER_SIZE_MAX).lossy_utf8(true).read_to_string();
        let text = text.map_err(no_answer)?;
        let status = response.status();
        if status.is_success() {
            return serde_json::from_str(&text)
                .map_err(|why| ClientError::NotUnderstood { addr, why: why.to_string() });
        }
        let said = serde_json::from_str(&text).map(|Problem { error }| error);
        Err(match (status.as_u16(), said) {
            (_, Err(_)) => ClientError::NotUnderstood { addr, why: format!("HTTP status {status}") },
            (401, Ok(why)) => ClientError::Token { addr, why },
            (status, Ok(why)) => ClientError::Refused { status, why },
        })
    }
}

/// The network error without the library's prefix.
fn plain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "no response in time".to_owned(),
        error => error.to_string(),
    }
}
