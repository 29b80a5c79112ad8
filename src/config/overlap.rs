//! Checks of all pools together: addresses that two sockets would share, ids, and datagrams that would return
//! to their pool.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::datagram_reader::address_key;
use super::document::shortened;
use super::form::Form;
use super::pool_reader::Written;
use super::pools::{DatagramPool, NativePool, NativeRun, Pool};
use super::reader::{Read, Reader, range_keys};
use super::{Config, address};
use crate::io::socket::any_port_towards;

/// Ports of one address that something listens on.
struct Taken {
    /// The keys that say so: of an address, or of the first port and the port after the last one.
    keys: Vec<String>,
    ip: IpAddr,
    ports: Range<u32>,
}

impl Taken {
    fn addr(key: String, addr: SocketAddr) -> Taken {
        let port = u32::from(addr.port());
        Taken { keys: vec![key], ip: addr.ip(), ports: port..port + 1 }
    }

    fn range(section: &str, ip: IpAddr, ports: &Range<u16>) -> Taken {
        Taken { keys: range_keys(section).to_vec(), ip, ports: ports.start.into()..ports.end.into() }
    }

    /// The first address that both take.
    fn clash(&self, other: &Taken) -> Option<SocketAddr> {
        let (start, end) = (self.ports.start.max(other.ports.start), self.ports.end.min(other.ports.end));
        let [own, others] = [self.ip, other.ip].map(|ip| SocketAddr::new(ip, start as u16));
        (start < end && address::clash(own, others)).then_some(own)
    }
}

impl Reader<'_> {
    /// Checks the pools of a configuration against each other.
    pub fn check_pools(&self, written: &Written, config: &Config) -> Read<()> {
        self.check_ids(written, config)?;
        self.check_addresses(written, config)?;
        self.check_loops(written, config)?;
        self.check_runs(config)
    }

    /// No two sockets need the same address.
    fn check_addresses(&self, written: &Written, config: &Config) -> Read<()> {
        let mut taken: Vec<Taken> = vec![];
        for new in self.taken(written, config)? {
            if let Some((other, addr)) = taken.iter().find_map(|other| Some((other, new.clash(other)?))) {
                let named = |taken: &Taken| {
                    let keys: Vec<String> = taken.keys.iter().map(|key| self.named(key)).collect();
                    keys.join(" to ")
                };
                let what = match new.keys.len() {
                    1 => format!("{addr} is taken twice"),
                    _ => format!("port {} is taken twice", addr.port()),
                };
                let problem = format!(
                    "{what}, by {} and by {}; choose {} that do not overlap",
                    named(other),
                    named(&new),
                    if new.keys.len() == 1 { "addresses" } else { "ports" }
                );
                let keys: Vec<&String> = other.keys.iter().chain(&new.keys).collect();
                return Err(self.error_among(&keys, problem));
            }
            taken.push(new);
        }
        Ok(())
    }

    /// What all pools listen on, in the order in which errors name it: replicas of datagram pools last.
    fn taken(&self, written: &Written, config: &Config) -> Read<Vec<Taken>> {
        let (mut taken, mut last) = (vec![], vec![]);
        // `lbd up` runs clients on these ports, if the first native pool has replicas. `lbd client` takes any
        // free port.
        let mut is_first = true;
        for ((form, raw), pool) in written.iter().zip(&config.pools) {
            let run_key = form.key("run");
            match pool {
                Pool::Native(pool) => {
                    if let Some(NativeRun { run, .. }) = &pool.run {
                        taken.push(Taken::range(&run_key, pool.balancer_for_servers().ip(), &run.ports));
                        if is_first {
                            let ip = any_port_towards(pool.balancer_for_clients()).ip();
                            taken.push(Taken::range("client", ip, &config.client.ports));
                        }
                    }
                    is_first = false;
                    taken.extend(
                        ends_of_frames(*form, pool).into_iter().map(|(key, addr)| Taken::addr(key, addr)),
                    );
                }
                Pool::Datagram(pool) => {
                    let listen = self.pool_listen(*form, raw)?;
                    taken.extend(listen.into_iter().map(|(key, addr)| Taken::addr(key, addr)));
                    last.extend(
                        pool.run.iter().map(|run| Taken::range(&run_key, run.address, &run.run.ports)),
                    );
                }
            }
        }
        taken.extend(last);
        Ok(taken)
    }

    /// An id names one component in logs and metrics.
    fn check_ids(&self, written: &Written, config: &Config) -> Read<()> {
        let client = &config.client;
        let clients = client.start_id..client.start_id + client.count;
        for ((form, _), pool) in written.iter().zip(&config.pools) {
            let Some(NativeRun { run, .. }) = pool.as_native().and_then(|pool| pool.run.as_ref()) else {
                continue;
            };
            let servers = run.start_id..run.start_id + run.scale.max;
            if servers.start.max(clients.start) < servers.end.min(clients.end) {
                let problem = format!(
                    "ids of servers ({} to {}) and clients ({} to {}) overlap; move one start_id",
                    servers.start,
                    servers.end - 1,
                    clients.start,
                    clients.end - 1
                );
                let [start, max, count] =
                    ["start_id", "max", "count"].map(|name| form.key(&format!("run.{name}")));
                let [client_start, client_count] = ["start_id", "count"].map(|name| format!("client.{name}"));
                return Err(self.error_among(&[start, client_start, max, count, client_count], problem));
            }
        }
        Ok(())
    }

    /// No datagram returns to the pool that it came from, and none reaches a socket for lbd's own frames.
    fn check_loops(&self, written: &Written, config: &Config) -> Read<()> {
        let datagram = |pools: &[Pool]| -> Vec<DatagramPool> {
            pools.iter().filter_map(Pool::as_datagram).cloned().collect()
        };
        let pools = datagram(&config.pools);
        let frames: Vec<(String, SocketAddr)> = written
            .iter()
            .zip(&config.pools)
            .filter_map(|((form, _), pool)| Some(ends_of_frames(*form, pool.as_native()?)))
            .flatten()
            .collect();
        let leads_to: Vec<Vec<usize>> = pools.iter().map(|pool| next_pools(pool, &pools)).collect();
        let items =
            written.iter().zip(&config.pools).filter(|(_, pool)| !pool.is_native()).map(|(item, _)| item);
        for (place, (pool, (form, raw))) in pools.iter().zip(items).enumerate() {
            for (i, server) in pool.servers.iter().enumerate() {
                let what = |addr: SocketAddr| {
                    if pool.is_itself(addr) {
                        return Some("is where this pool itself listens".to_owned());
                    }
                    if let Some((key, _)) = frames.iter().find(|(_, end)| address::reaches(addr, *end)) {
                        return Some(format!("is where {key} takes lbd's own frames"));
                    }
                    let next = pools.iter().position(|pool| pool.is_itself(addr))?;
                    leads_back(next, place, &leads_to)
                        .then(|| format!("leads back to this pool through {}", pools[next].settings.name))
                };
                let Some(what) = server.target.known_addrs().into_iter().find_map(what) else { continue };
                let servers = raw.servers.as_deref().unwrap_or_default();
                let problem = format!("{} {what}; name a server", shortened(&server.target.to_string()));
                return Err(self.error(&address_key(*form, i, &servers[i]), problem));
            }
        }
        Ok(())
    }

    /// The controller reports the servers of datagram pools to the balancer through the admin interface.
    fn check_runs(&self, config: &Config) -> Read<()> {
        if config.run_pools().next().is_none() || config.admin.listen.is_some() {
            return Ok(());
        }
        let problem = "is off, but the controller reports the servers of pools[].run to the balancer through \
            it; give it an address, or remove the key";
        Err(self.error("admin.listen", problem))
    }
}

/// The sockets of a native pool that take lbd's own frames, with their keys.
fn ends_of_frames(form: Form, pool: &NativePool) -> Vec<(String, SocketAddr)> {
    let controller = pool.run.as_ref().map(|run| ("controller", run.controller));
    let sides =
        [("server_side", pool.server_side), ("listen", pool.client_side)].into_iter().chain(controller);
    sides.map(|(name, addr)| (form.key(name), addr)).collect()
}

/// The pools whose client side is a server of this one.
fn next_pools(pool: &DatagramPool, pools: &[DatagramPool]) -> Vec<usize> {
    let addrs = pool.servers.iter().flat_map(|server| server.target.known_addrs());
    addrs.filter_map(|addr| pools.iter().position(|pool| pool.is_itself(addr))).collect()
}

/// Whether datagrams get from one pool to another.
fn leads_back(from: usize, to: usize, leads_to: &[Vec<usize>]) -> bool {
    let (mut seen, mut todo) = (vec![false; leads_to.len()], vec![from]);
    while let Some(pool) = todo.pop() {
        if pool == to {
            return true;
        }
        if !std::mem::replace(&mut seen[pool], true) {
            todo.extend(&leads_to[pool]);
        }
    }
    false
}
