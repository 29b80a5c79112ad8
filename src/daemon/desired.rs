//! The servers that a datagram pool should have, from its two sources.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::pool::desired::DesiredServer;
use crate::role::datagram::DatagramShared;

/// The addresses of host names, each written with its port.
pub type Hosts = BTreeMap<String, Vec<SocketAddr>>;

/// The desired servers of a datagram pool: those of the configuration, and those that a controller runs.
pub struct DesiredServers {
    pool: Arc<DatagramShared>,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    named: Vec<DesiredServer>,
    run: Vec<DesiredServer>,
    hosts: Hosts,
}

impl DesiredServers {
    /// No servers yet.
    pub fn new(pool: Arc<DatagramShared>) -> Self {
        DesiredServers { pool, wanted: Mutex::default() }
    }

    /// Replaces the servers of the configuration, and the addresses of their host names. The flows of an
    /// address that a name has lost follow the name. A server that the configuration has lost drains.
    pub fn set_named(&self, servers: Vec<DesiredServer>, hosts: Hosts) {
        let mut wanted = self.wanted.lock().expect("no panic while it is held");
        let moved = moved(&wanted.hosts, &hosts);
        (wanted.named, wanted.hosts) = (servers, hosts);
        self.publish(&wanted, &moved);
    }

    /// Shows the error of the last look-up of host names in the pool's status; `None` after a success.
    pub fn set_unresolved(&self, error: Option<String>) {
        self.pool.set_unresolved(error);
    }

    /// Replaces the servers that a controller runs.
    pub fn set_run(&self, servers: Vec<DesiredServer>) {
        let mut wanted = self.wanted.lock().expect("no panic while it is held");
        wanted.run = servers;
        self.publish(&wanted, &[]);
    }

    /// The addresses of host names at a predecessor.
    pub fn had_hosts(&self, before: &Hosts) {
        let wanted = self.wanted.lock().expect("no panic while it is held");
        let moved = moved(before, &wanted.hosts);
        if !moved.is_empty() {
            self.publish(&wanted, &moved);
        }
    }

    /// The servers that a controller runs.
    pub fn run(&self) -> Vec<DesiredServer> {
        self.wanted.lock().expect("no panic while it is held").run.clone()
    }

    /// The addresses of host names.
    pub fn hosts(&self) -> Hosts {
        self.wanted.lock().expect("no panic while it is held").hosts.clone()
    }

    /// The ids of the configuration's servers.
    pub fn named_ids(&self) -> Vec<u32> {
        let wanted = self.wanted.lock().expect("no panic while it is held");
        wanted.named.iter().map(|server| server.id).collect()
    }

    /// Called while the lock is held: the newest list is published last.
    fn publish(&self, wanted: &Wanted, moved: &[SocketAddr]) {
        let servers = [&wanted.named[..], &wanted.run[..]].concat();
        self.pool.want_moved(servers, moved);
    }
}

/// The addresses that names had before, of those names that have others now.
fn moved(before: &Hosts, now: &Hosts) -> Vec<SocketAddr> {
    let lost = |(host, addrs): (&String, &Vec<SocketAddr>)| {
        let now = now.get(host)?;
        Some(addrs.iter().copied().filter(|addr| !now.contains(addr)).collect::<Vec<_>>())
    };
    before.iter().filter_map(lost).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_moved_if_its_name_is_still_there_with_others() {
        let hosts = |of: &[(&str, &[u16])]| -> Hosts {
            let addr = |&port: &u16| SocketAddr::from(([192, 0, 2, 1], port));
            of.iter().map(|(host, ports)| (String::from(*host), ports.iter().map(addr).collect())).collect()
        };
        let before = hosts(&[("a:53", &[1, 2]), ("b:53", &[3]), ("c:53", &[4])]);
        let now = hosts(&[("a:53", &[2, 5]), ("c:53", &[4])]);
        let ports = |moved: Vec<SocketAddr>| moved.iter().map(SocketAddr::port).collect::<Vec<_>>();
        assert_eq!(ports(moved(&before, &now)), [1], "b was removed, which is a drain");
        assert!(moved(&now, &now).is_empty());
    }
}
