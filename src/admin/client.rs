//! Asks a running balancer, over its admin interface.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Token;
use crate::operator::Order;
use crate::status::Status;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer at most.
const ANSWER_MAX: u64 = 16 << 20;

/// What reaches one balancer.
pub struct Client {
    agent: ureq::Agent,
    addr: SocketAddr,
    token: Option<Token>,
}

impl Client {
    /// A client of the balancer whose admin interface is here. Without a token it can only look.
    pub fn new(addr: SocketAddr, token: Option<Token>) -> Client {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Client { agent: config.into(), addr, token }
    }

    /// Everything that the balancer shows.
    pub fn status(&self) -> anyhow::Result<Status> {
        let answer = self.agent.get(format!("http://{}/api/status", self.addr)).call();
        Ok(serde_json::from_slice(&self.read(answer)?)?)
    }

    /// Has an order about a server carried out.
    pub fn order(&self, pool: Option<&str>, id: u32, order: Order) -> anyhow::Result<()> {
        let word = order.name();
        let mut request = self.agent.post(format!("http://{}/api/servers/{id}/{word}", self.addr));
        if let Some(pool) = pool {
            request = request.query("pool", pool);
        }
        if let Order::Weight(weight) = order {
            request = request.query("weight", weight.to_string());
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {}", token.as_str()));
        }
        self.read(request.send_empty()).map(drop)
    }

    fn read(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Vec<u8>> {
        let mut answer = answer.map_err(|error| {
            anyhow::anyhow!(
                "no balancer answers at {} ({error}): is it running, is admin.listen off?",
                self.addr
            )
        })?;
        let body = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec()?;
        if answer.status().is_success() {
            return Ok(body);
        }
        let told: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        match told.as_ref().and_then(|told| told["error"].as_str()) {
            Some(why) => anyhow::bail!("{why}"),
            None => anyhow::bail!("the balancer at {} says {}", self.addr, answer.status()),
        }
    }
}
