//! How a pool is written: as an item of `pools`, or as the four sections of the native pool. Pure.
//!
//! The sections are read into the item that says the same; so a pool is validated by one reader, which names
//! each key as its writer knows it.

use std::net::SocketAddr;

use super::raw::{Bind, OneOrMany, Raw, RawHealth, RawPool, RawRun};
use super::reader::{Read, Reader};

/// The name of the pool of the four sections.
pub const NATIVE: &str = "native";
/// The protocol of pools with lbd's own frames.
pub const PROTOCOL_NATIVE: &str = "native";

/// The form of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The sections `server`, `load_balancer` and `controller`.
    Sections,
    /// The item of `pools` with this index, from 0.
    Item(usize),
}

impl Form {
    /// The key that says what `name` says in an item of `pools`.
    pub fn key(self, name: &str) -> String {
        let key = match (self, name) {
            (Form::Item(place), name) => return format!("pools[{place}].{name}"),
            (Form::Sections, "listen") => "load_balancer.client_side_port",
            (Form::Sections, "server_side") => "load_balancer.server_side_port",
            (Form::Sections, "controller") => "controller.port",
            (Form::Sections, "queue_update_interval") => "server.queue_update_interval",
            (Form::Sections, "run") => "server",
            (Form::Sections, "run.threshold") => "load_balancer.server_scaling_threshold",
            (Form::Sections, name) => {
                return match name.strip_prefix("run.") {
                    Some(name) => format!("server.{name}"),
                    None => format!("load_balancer.{name}"),
                };
            }
        };
        key.to_owned()
    }

    /// The keys that give the IP address of `server_side` or `controller`.
    pub fn ip_keys(self, name: &str) -> Vec<String> {
        let keys: &[&str] = match (self, name) {
            (Form::Item(_), name) => return vec![self.key(name)],
            (Form::Sections, "controller") => &["controller.bind"],
            (Form::Sections, _) => &["load_balancer.bind", "load_balancer.bind.server_side"],
        };
        keys.iter().map(|key| (*key).to_owned()).collect()
    }
}

impl Reader<'_> {
    /// The pool of the four sections, as an item of `pools`.
    pub fn sections(&self, raw: &Raw) -> Read<RawPool> {
        let (server, balancer, controller) = (&raw.server, &raw.load_balancer, &raw.controller);
        let (client_ip, server_ip) = match &balancer.bind {
            None => (self.ip("", &None)?, self.ip("", &None)?),
            Some(Bind::Both(ip)) => {
                let ip = self.ip("load_balancer.bind", &Some(ip.clone()))?;
                (ip, ip)
            }
            Some(Bind::Each { client_side, server_side }) => (
                self.ip("load_balancer.bind.client_side", client_side)?,
                self.ip("load_balancer.bind.server_side", server_side)?,
            ),
        };
        let client_port = self.port("load_balancer.client_side_port", &balancer.client_side_port, 54_001)?;
        let server_port = self.port("load_balancer.server_side_port", &balancer.server_side_port, 54_000)?;
        let controller_ip = self.ip("controller.bind", &controller.bind)?;
        let controller_port = self.port("controller.port", &controller.port, 55_000)?;
        let text = |ip, port| SocketAddr::new(ip, port).to_string();
        Ok(RawPool {
            name: Some(NATIVE.to_owned()),
            protocol: Some(PROTOCOL_NATIVE.to_owned()),
            listen: Some(OneOrMany::One(text(client_ip, client_port))),
            server_side: Some(text(server_ip, server_port)),
            controller: Some(text(controller_ip, controller_port)),
            queue_update_interval: server.queue_update_interval.clone(),
            frames: balancer.frames.clone(),
            balancing: balancer.balancing.clone(),
            health: RawHealth { rules: balancer.health.clone(), ..RawHealth::default() },
            run: Some(RawRun {
                replicas: server.replicas.clone(),
                serving: server.serving.clone(),
                threshold: balancer.server_scaling_threshold.clone(),
                address: None,
            }),
            ..RawPool::default()
        })
    }
}
