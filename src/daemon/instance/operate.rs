//! A running balancer as the admin interface sees it.

use std::sync::Arc;

use super::running::Running;
use super::{Failed, Instance};
use crate::admin::status::{EventKind, EventLog, PoolStatus, Status};
use crate::admin::{Control, Refusal};
use crate::pool::desired::DesiredServer;
use crate::pool::order::{Order, Refused};

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        Refusal::Failed(failed.to_string())
    }
}

impl Control for Instance {
    fn status(&self) -> Arc<Status> {
        self.board.latest()
    }

    fn events(&self) -> &EventLog {
        &self.process.events
    }

    fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Result<(), Refusal> {
        let order = order.check().map_err(|refused| Refusal::Invalid(refused.to_string()))?;
        let pool = self.pool_of(pool, id)?;
        let outcome = self.pool(&pool)?.order(id, order);
        match outcome.map_err(Failed::from)? {
            Ok(()) => {}
            Err(Refused::UnknownServer) => {
                return Err(Refusal::NotFound(format!("pool {pool} has no server {id}")));
            }
            Err(refused) => return Err(Refusal::Invalid(refused.to_string())),
        }
        let what = match order {
            Order::Drain => "drain".to_owned(),
            Order::Enable => "enable".to_owned(),
            Order::Disable => "disable".to_owned(),
            Order::Weight(weight) => format!("weight {weight}"),
        };
        tracing::info!(pool, server = id, order = what, "operator order");
        self.process.events.note(EventKind::Operator, &pool, Some(id), format!("{what} server {id}"));
        Ok(())
    }

    fn set_servers(&self, pool: &str, servers: Vec<DesiredServer>) -> Result<(), Refusal> {
        let pool = self.pool(pool)?;
        let (name, of) = (pool.name(), pool.of());
        let (Some(desired), Some(of)) = (pool.desired(), of.as_datagram()) else {
            return Err(Refusal::Invalid(format!("pool {name} is native: its servers register themselves")));
        };
        let named = desired.named_ids();
        for (place, server) in servers.iter().enumerate() {
            let id = server.id;
            if named.contains(&id) || servers[..place].iter().any(|other| other.id == id) {
                return Err(Refusal::Invalid(format!("two servers of pool {name} have the id {id}")));
            }
            if of.is_itself(server.addr) {
                return Err(Refusal::Invalid(format!("{} is an address of the pool itself", server.addr)));
            }
        }
        if desired.run() != servers {
            tracing::info!(pool = name, servers = servers.len(), "controller set servers");
            desired.set_run(servers);
        }
        Ok(())
    }

    fn reload(&self) -> Result<String, Refusal> {
        Instance::reload(self)
    }
}

impl Instance {
    /// The pool of this name.
    fn pool(&self, name: &str) -> Result<Arc<dyn Running>, Refusal> {
        let pools = self.pools();
        let found = pools.iter().find(|pool| pool.name() == name);
        found.cloned().ok_or_else(|| Refusal::NotFound(format!("there is no pool {name}")))
    }

    /// The pool of an order: the named pool, or the only pool that has this server.
    fn pool_of(&self, named: Option<&str>, id: u32) -> Result<String, Refusal> {
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
        // The status is taken now, so that it includes a server that has just joined: otherwise an order
        // could go to the wrong pool.
        let status = self.present();
        let has = |pool: &&PoolStatus| pool.servers.iter().any(|server| server.id == id);
        let have: Vec<&str> = status.pools.iter().filter(has).map(|pool| pool.name.as_str()).collect();
        match have[..] {
            [one] => Ok(one.to_owned()),
            [] => {
                let of_pool = |pool: &PoolStatus| {
                    let ids: Vec<_> = pool.servers.iter().map(|server| server.id.to_string()).collect();
                    format!(
                        "{}: {}",
                        pool.name,
                        if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
                    )
                };
                let all: Vec<_> = status.pools.iter().map(of_pool).collect();
                Err(Refusal::NotFound(format!("no server has the id {id}; there are {}", all.join("; "))))
            }
            _ => Err(Refusal::Invalid(format!(
                "several pools have a server {id}: name one of {}",
                have.join(", ")
            ))),
        }
    }
}
