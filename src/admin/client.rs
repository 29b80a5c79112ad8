//! The other end of the admin interface: what commands, `lbd top` and the controller use.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::bodies::{Done, Problem, WantedServers};
use crate::admin::status::Status;
use crate::config::Token;
use crate::pool::desired::DesiredServer;
use crate::pool::order::Order;

/// How long the balancer may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The same for one that has to reload its configuration.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer at most: far more than the status of the largest pools has.
const ANSWER_SIZE_MAX: u64 = 64 * 1024 * 1024;

/// Asks one balancer. Each call is a connection of its own, so a restarted balancer is found again.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    token: Option<Token>,
    agent: ureq::Agent,
}

/// Why a balancer did not do what it was asked for, or did not say.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody there, or no answer in time.
    #[error("no balancer answers at {addr} ({why}): is it running, is admin.listen off or another address?")]
    NoAnswer {
        /// Who was asked.
        addr: SocketAddr,
        /// What the network says.
        why: String,
    },
    /// It does not take this token, or none was given.
    #[error("the balancer at {addr} does not take the token: {why}")]
    Token {
        /// Who was asked.
        addr: SocketAddr,
        /// What it says.
        why: String,
    },
    /// It refuses, and says why.
    #[error("{why}")]
    Refused {
        /// The status code of HTTP.
        status: u16,
        /// What it says.
        why: String,
    },
    /// What answers there is not the admin interface of this program.
    #[error("what answers at {addr} is no balancer of this version: {why}")]
    NotUnderstood {
        /// Who was asked.
        addr: SocketAddr,
        /// What is wrong with the answer.
        why: String,
    },
}

/// Shortens what a call gives.
pub type Answer<T> = Result<T, ClientError>;

impl Client {
    /// Asks the balancer whose admin interface is there. Without the token it can only be looked at.
    pub fn new(addr: SocketAddr, token: Option<Token>) -> Client {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(0)
            .timeout_global(Some(TIMEOUT))
            .build();
        Client { addr, token, agent: agent.into() }
    }

    /// Who is asked.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the balancer shows of itself.
    pub fn status(&self) -> Answer<Status> {
        self.read(self.agent.get(self.url("/api/status")).call())
    }

    /// Gives an order about a server. Without the name of a pool, the id has to be in one pool only.
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

    /// Says which servers a pool's controller runs.
    pub fn set_servers(&self, pool: &str, servers: &[DesiredServer]) -> Answer<()> {
        let body = serde_json::to_string(&WantedServers { servers: servers.to_vec() });
        // Names of pools are letters, digits, `_`, `.` and `-`.
        let request = self.agent.put(self.url(&format!("/api/pools/{pool}/servers")));
        let request = self.with_token(request).content_type("application/json");
        self.read(request.send(body.expect("plain fields become JSON"))).map(|Done { .. }| ())
    }

    /// Reloads its configuration; returns what has changed, in words.
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
            (_, Err(_)) => ClientError::NotUnderstood { addr, why: format!("it says {status}") },
            (401, Ok(why)) => ClientError::Token { addr, why },
            (status, Ok(why)) => ClientError::Refused { status, why },
        })
    }
}

/// What the network says, without the library's own words around it.
fn plain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        error => error.to_string(),
    }
}
