//! The client of the admin interface: for commands, `lbd top` and the controller.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::bodies::{Done, Problem, WantedServers};
use super::{find_token, owner};
use crate::admin::status::Status;
use crate::config::{Admin, Config, Token};
use crate::pool::desired::DesiredServer;
use crate::pool::order::Order;

/// Maximum time of an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time of the answer to a reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum size of an answer, in bytes: far more than the status of the largest pools.
const ANSWER_SIZE_MAX: u64 = 64 * 1024 * 1024;

/// How to reach the admin interface of one balancer: over its owner's socket, or over HTTP if no balancer
/// listens there or the socket belongs to another user. At least one of them is given.
#[derive(Clone, Debug)]
pub struct AdminPlace {
    socket: Option<PathBuf>,
    http: Option<SocketAddr>,
}

impl AdminPlace {
    /// The balancer of this configuration, on this machine.
    pub fn of(config: &Config) -> AdminPlace {
        AdminPlace { socket: Some(owner::socket_path(config)), http: config.admin.reach() }
    }

    /// A client with the token that changes need over HTTP; over the socket they need none. The error names
    /// the remedy.
    pub fn with_token(&self, admin: &Admin, state_dir: &Path) -> Result<AdminClient, String> {
        let token = match self.http {
            Some(addr) => find_token(admin, state_dir, addr.port()).map(Some),
            None => Ok(None),
        };
        match token {
            Err(_) if self.has_owner() => Ok(AdminClient::new(self.clone(), None)),
            token => Ok(AdminClient::new(self.clone(), token?)),
        }
    }

    /// Whether a balancer listens on the owner's socket, and this user may connect.
    fn has_owner(&self) -> bool {
        self.socket.as_ref().is_some_and(|path| owner::is_there(path))
    }
}

impl From<SocketAddr> for AdminPlace {
    /// The balancer whose admin interface has this address, on any machine.
    fn from(addr: SocketAddr) -> AdminPlace {
        AdminPlace { socket: None, http: Some(addr) }
    }
}

impl fmt::Display for AdminPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.http, &self.socket) {
            (Some(addr), _) => addr.fmt(f),
            (None, Some(path)) => path.display().fmt(f),
            (None, None) => f.write_str("nowhere"),
        }
    }
}

/// A client of one balancer. Each call opens a connection, so a restarted balancer is found again.
#[derive(Debug)]
pub struct AdminClient {
    place: AdminPlace,
    token: Option<Token>,
    http: ureq::Agent,
    owner: Option<ureq::Agent>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or no answer in time.
    #[error("no response from {addr}: {why}; check that the balancer runs{}", remedy(addr))]
    NoAnswer {
        /// The address of the admin interface.
        addr: AdminPlace,
        /// The network error.
        why: String,
    },
    /// The token is wrong or missing.
    #[error("the balancer at {addr} refused the token: {why}")]
    Token {
        /// The address of the admin interface.
        addr: AdminPlace,
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
        addr: AdminPlace,
        /// What is wrong with the answer.
        why: String,
    },
}

/// The result of a call.
pub type Answer<T> = Result<T, ClientError>;

impl AdminClient {
    /// A client of the balancer at this place. Over HTTP it can only read without the token.
    pub fn new(place: impl Into<AdminPlace>, token: Option<Token>) -> AdminClient {
        let place = place.into();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(0)
            .timeout_global(Some(TIMEOUT))
            .build();
        let owner = place.socket.as_ref().map(|path| owner::agent(config.clone(), path));
        AdminClient { place, token, http: config.into(), owner }
    }

    /// The status of the balancer.
    pub fn status(&self) -> Answer<Status> {
        self.call(|agent, base| agent.get(format!("{base}/api/status")).call())
    }

    /// Gives an order about a server. Without the name of a pool, the id must be in one pool only.
    pub fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Answer<()> {
        let done = self.call(|agent, base| {
            let mut request = agent.post(format!("{base}/api/servers/{id}/{}", order.name()));
            if let Some(pool) = pool {
                request = request.query("pool", pool);
            }
            if let Order::Weight(weight) = order {
                request = request.query("weight", weight.to_string());
            }
            self.with_token(request).send_empty()
        });
        done.map(|Done { .. }| ())
    }

    /// Sets the servers that a pool's controller runs.
    pub fn set_servers(&self, pool: &str, servers: &[DesiredServer]) -> Answer<()> {
        let body = serde_json::to_string(&WantedServers { servers: servers.to_vec() });
        let body = body.expect("plain fields become JSON");
        let done = self.call(|agent, base| {
            // Names of pools are letters, digits, `_`, `.` and `-`.
            let request = agent.put(format!("{base}/api/pools/{pool}/servers"));
            self.with_token(request).content_type("application/json").send(&body)
        });
        done.map(|Done { .. }| ())
    }

    /// Reloads the configuration; returns what has changed, as text.
    pub fn reload(&self) -> Answer<String> {
        let done = self.call(|agent, base| {
            let request = self.with_token(agent.post(format!("{base}/api/reload")));
            request.config().timeout_global(Some(RELOAD_TIMEOUT)).build().send_empty()
        });
        done.map(|Done { done }| done)
    }

    /// Sends a request over the owner's socket, or over HTTP if no balancer listens there. `request` sends it
    /// with an agent to the address with this beginning.
    fn call<T: DeserializeOwned>(
        &self,
        request: impl Fn(&ureq::Agent, &str) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Answer<T> {
        if let Some(owner) = &self.owner {
            match (request(owner, "http://localhost"), self.place.http) {
                (Err(ureq::Error::Io(error)), Some(_)) if is_not_there(&error) => {}
                (called, _) => return self.read(called),
            }
        }
        let addr = self.place.http.map_or(String::new(), |addr| addr.to_string());
        self.read(request(&self.http, &format!("http://{addr}")))
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
        let addr = || self.place.clone();
        let no_answer = |why: ureq::Error| match why {
            why @ (ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::BodyExceedsLimit(_)) => {
                ClientError::NotUnderstood { addr: addr(), why: why.to_string() }
            }
            why => ClientError::NoAnswer { addr: addr(), why: plain(&why) },
        };
        let mut response = called.map_err(no_answer)?;
        let text = response.body_mut().with_config().limit(ANSWER_SIZE_MAX).lossy_utf8(true).read_to_string();
        let text = text.map_err(no_answer)?;
        let status = response.status();
        if status.is_success() {
            return serde_json::from_str(&text)
                .map_err(|why| ClientError::NotUnderstood { addr: addr(), why: why.to_string() });
        }
        let said = serde_json::from_str(&text).map(|Problem { error }| error);
        Err(match (status.as_u16(), said) {
            (_, Err(_)) => ClientError::NotUnderstood { addr: addr(), why: format!("HTTP status {status}") },
            (401, Ok(why)) => ClientError::Token { addr: addr(), why },
            (status, Ok(why)) => ClientError::Refused { status, why },
        })
    }
}

/// Whether no balancer listens on the socket, or this user may not connect.
fn is_not_there(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | ConnectionRefused | PermissionDenied | InvalidInput)
}

/// The end of an error about a balancer that does not answer.
fn remedy(place: &AdminPlace) -> &'static str {
    match place.http {
        Some(_) => " and that admin.listen is this address",
        None => " as the same user; admin.listen is off, so only its user and root can reach it",
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
