//! Host names of a pool's servers: looked up at the start, and again every `resolve_interval`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::desired::{DesiredServers, Hosts};
use crate::config::{DatagramPool, Target};
use crate::pool::desired::DesiredServer;

/// Pause after a failed look-up; each later one is twice as long, up to `resolve_interval`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A host name without an address.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot find an address of {host}: {why}")]
pub struct NotFound {
    host: String,
    why: String,
}

/// The servers of a pool, with the addresses that their host names had last.
pub struct Resolver {
    pool: DatagramPool,
    /// Addresses by position in the list of servers; a failed look-up keeps the old ones.
    found: BTreeMap<usize, Vec<SocketAddr>>,
    /// An address keeps its id while a name leads to it.
    ids: BTreeMap<SocketAddr, u32>,
    /// The error of the last look-up.
    failed: Option<NotFound>,
}

impl Resolver {
    /// A resolver for the servers of this pool, which has looked up nothing yet.
    pub fn new(pool: &DatagramPool) -> Self {
        Resolver { pool: pool.clone(), found: BTreeMap::new(), ids: BTreeMap::new(), failed: None }
    }

    /// Whether a server has a host name.
    pub fn has_names(&self) -> bool {
        self.pool.servers.iter().any(|server| matches!(server.target, Target::Name { .. }))
    }

    /// Looks up all names with getaddrinfo(3), which waits for the network.
    pub fn look_up(&mut self) -> Result<(), NotFound> {
        let mut failed = None;
        for (place, server) in self.pool.servers.iter().enumerate() {
            let Target::Name { host, port } = &server.target else { continue };
            let addrs = std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), *port));
            let why = match addrs.map(Vec::from_iter) {
                Ok(addrs) if !addrs.is_empty() => {
                    self.found.insert(place, addrs);
                    continue;
                }
                Ok(_) => "the name has no address".to_owned(),
                Err(error) => error.to_string(),
            };
            failed = Some(NotFound { host: host.clone(), why });
        }
        self.failed.clone_from(&failed);
        failed.map_or(Ok(()), Err)
    }

    /// The error of the last look-up; `None` if each name had an address.
    pub fn failed(&self) -> Option<&NotFound> {
        self.failed.as_ref()
    }

    /// The addresses of each host name that was found.
    pub fn hosts(&self) -> Hosts {
        let addrs = |(place, addrs): (&usize, &Vec<SocketAddr>)| {
            Some((self.pool.servers.get(*place)?.target.to_string(), addrs.clone()))
        };
        self.found.iter().filter_map(addrs).collect()
    }

    /// Whether the pool can send to this address. With the clients' addresses as sources it reaches servers
    /// of their address family only.
    fn can_reach(&self, addr: SocketAddr) -> bool {
        let is_alike = |listen: &SocketAddr| listen.is_ipv4() == addr.is_ipv4();
        !self.pool.settings.transparent || self.pool.listen.iter().all(is_alike)
    }

    /// The servers that the pool should have by the last look-up. The pool itself is left out.
    pub fn wanted(&mut self) -> Vec<DesiredServer> {
        let mut wanted: Vec<DesiredServer> = vec![];
        let mut free_id = self.pool.servers.iter().map(|server| server.id).max().unwrap_or(0) + 1;
        let mut ids = BTreeMap::new();
        for (place, server) in self.pool.servers.iter().enumerate() {
            let of_name = self.found.get(&place).map_or(&[][..], Vec::as_slice);
            let addrs =
                if let Target::Addr(addr) = &server.target { std::slice::from_ref(addr) } else { of_name };
            for &addr in addrs {
                if self.pool.is_itself(addr) || !self.can_reach(addr) || ids.contains_key(&addr) {
                    continue;
                }
                let is_taken = |id: u32| {
                    ids.values().any(|&taken| taken == id)
                        || self.ids.iter().any(|(other, &taken)| *other != addr && taken == id)
                };
                let id = self.ids.get(&addr).copied().unwrap_or_else(|| {
                    if !is_taken(server.id) {
                        return server.id;
                    }
                    while is_taken(free_id) {
                        free_id += 1;
                    }
                    free_id
                });
                ids.insert(addr, id);
                wanted.push(DesiredServer { addr, id, weight: server.weight });
            }
        }
        self.ids = ids;
        wanted
    }
}

/// The pause before the next look-up after this many failures in succession.
fn pause(every: Duration, failures: u32) -> Duration {
    match failures {
        0 => every,
        _ => (RETRY_AFTER * (1 << (failures - 1).min(16))).min(every),
    }
}

/// Looks up the names of a pool every `resolve_interval`, forever, and sooner after a failure. A failure
/// changes no server, and is logged once.
pub async fn keep(mut names: Resolver, desired: Arc<DesiredServers>) {
    let pool = names.pool.settings.name.clone();
    let every = names.pool.resolve_interval;
    let mut failures = 0;
    let show = |failed: Option<&NotFound>| desired.set_unresolved(failed.map(NotFound::to_string));
    let warn_of = |error: &NotFound, effect| {
        warn!(pool, error = error.to_string(), effect, "name lookup failed");
    };
    show(names.failed());
    if let Some(error) = names.failed() {
        failures = 1;
        warn_of(error, "pool starts without these servers");
    }
    loop {
        tokio::time::sleep(pause(every, failures)).await;
        // On a thread of its own: getaddrinfo(3) waits.
        let looked = tokio::task::spawn_blocking(move || {
            let result = names.look_up();
            (names, result)
        });
        let Ok((back, result)) = looked.await else { return };
        names = back;
        match &result {
            Ok(()) if failures > 0 => info!(pool, "name lookup recovered"),
            Err(error) if failures == 0 => warn_of(error, "last addresses kept"),
            _ => {}
        }
        failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
        show(names.failed());
        desired.set_named(names.wanted(), names.hosts());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A pool on 10.0.0.7:53 with these servers.
    fn names(servers: &str) -> Resolver {
        let text =
            format!(r#"{{"pools": [{{"listen": "10.0.0.7:53", "protocol": "dns", "servers": {servers}}}]}}"#);
        Resolver::new(Config::parse(&text, None).unwrap().datagram_pools().next().unwrap())
    }

    fn shown(names: &mut Resolver) -> Vec<(String, u32)> {
        names.wanted().into_iter().map(|wanted| (wanted.addr.to_string(), wanted.id)).collect()
    }

    #[test]
    fn each_address_of_a_name_is_a_server_and_keeps_its_id() {
        let mut names = names(r#"["a.example", "10.0.0.9"]"#);
        assert!(names.has_names());
        names.found.insert(0, vec![addr("10.0.0.1:53"), addr("10.0.0.2:53"), addr("10.0.0.7:53")]);
        let text =
            |pairs: &[(&str, u32)]| pairs.iter().map(|&(a, id)| (a.to_owned(), id)).collect::<Vec<_>>();
        assert_eq!(shown(&mut names), text(&[("10.0.0.1:53", 0), ("10.0.0.2:53", 2), ("10.0.0.9:53", 1)]));
        names.found.insert(0, vec![addr("10.0.0.3:53"), addr("10.0.0.2:53")]);
        assert_eq!(shown(&mut names), text(&[("10.0.0.3:53", 3), ("10.0.0.2:53", 2), ("10.0.0.9:53", 1)]));
    }

    #[test]
    fn a_transparent_pool_leaves_addresses_of_the_other_family_out() {
        let mut names = names(r#"["a.example"], "transparent": true"#);
        names.found.insert(0, vec![addr("10.0.0.1:53"), addr("[2001:db8::1]:53")]);
        assert_eq!(shown(&mut names), [("10.0.0.1:53".to_owned(), 0)]);
    }

    #[test]
    fn names_are_looked_up_and_a_failure_changes_nothing() {
        let mut names = names(r#"["localhost", "no.such.name.invalid"]"#);
        let error = names.look_up().unwrap_err().to_string();
        assert!(error.contains("cannot find an address of no.such.name.invalid"), "{error}");
        let wanted = names.wanted();
        assert!(wanted.iter().all(|w| w.addr.ip().is_loopback()) && !wanted.is_empty());
        let _ = names.look_up();
        assert_eq!(names.wanted(), wanted);
        assert!(names.failed().is_some());
    }

    #[test]
    fn a_failed_look_up_is_repeated_after_growing_pauses() {
        let pauses: Vec<_> =
            (0..7).map(|failures| pause(Duration::from_secs(30), failures).as_secs()).collect();
        assert_eq!(pauses, [30, 1, 2, 4, 8, 16, 30]);
        assert_eq!(
            pause(Duration::from_millis(200), 1).as_millis(),
            200,
            "never later than without a failure"
        );
        assert_eq!(pause(Duration::from_secs(3_600), u32::MAX).as_secs(), 3_600);
    }
}
