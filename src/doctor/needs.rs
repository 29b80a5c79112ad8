//! Needs of a configuration from its machine. Pure.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use crate::config::{Check, Config, DatagramPool, Target};
use crate::io::IoChoice;
use crate::io::socket::SocketOptions;

/// File descriptors besides those of sockets: logs, epoll, timers, the admin interface.
const OTHER_FILES: u64 = 128;

/// A fixed port of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Its configuration key, or its purpose.
    pub what: String,
    /// The address.
    pub addr: SocketAddr,
    /// Whether it is a TCP port.
    pub is_tcp: bool,
}

/// Needs of a configuration from its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Receive buffer that each socket requests, in bytes.
    pub receive_buffer: u64,
    /// Send buffer that each socket requests, in bytes.
    pub send_buffer: u64,
    /// Addresses that the balancer and the controller bind.
    pub fixed: Vec<Fixed>,
    /// Ports of the servers and clients of the native pool.
    pub ranges: Vec<Range<u16>>,
    /// Number of the balancer's sockets.
    pub sockets: u64,
    /// Number of those sockets whose port the kernel chooses.
    pub local_ports: u64,
    /// File descriptors of the balancer.
    pub files: u64,
    /// Worker threads of the pool with the most.
    pub workers: usize,
    /// Whether the configuration requires io_uring.
    pub io_uring: bool,
    /// Names of the pools that send from the clients' addresses.
    pub transparent: Vec<String>,
    /// Whether the configuration has an IPv6 address.
    pub ipv6: bool,
    /// Whether a pool listens on a wildcard address.
    pub wildcard: bool,
    /// Directories that lbd writes to, with their configuration keys.
    pub directories: Vec<(&'static str, PathBuf)>,
}

impl Needs {
    /// The needs of this configuration. A server name counts as one address of either family.
    pub fn of(config: &Config) -> Needs {
        let options = SocketOptions::default();
        let mut needs = Needs {
            receive_buffer: options.receive_buffer as u64,
            send_buffer: options.send_buffer as u64,
            files: OTHER_FILES,
            ..Needs::default()
        };
        if let Some(pool) = config.native() {
            needs.fix("load_balancer.client_side_port", pool.client_side, false);
            needs.fix("load_balancer.server_side_port", pool.server_side, false);
            if let Some(run) = &pool.run {
                needs.fix("controller.port", run.controller, false);
                needs.ranges.push(run.run.ports.clone());
            }
            needs.ranges.push(config.client.ports.clone());
            needs.sockets += 2 * pool.workers as u64;
            needs.local_ports += pool.workers as u64 - 1;
            needs.workers = pool.workers;
            needs.io_uring |= pool.io == IoChoice::IoUring;
        }
        for pool in config.datagram_pools() {
            needs.pool(pool);
        }
        if let Some(addr) = config.admin.listen {
            needs.fix("admin.listen", addr, true);
        }
        needs.files += needs.sockets;
        needs.wildcard = needs.fixed.iter().any(|fixed| fixed.addr.ip().is_unspecified());
        needs.ipv6 |= needs.fixed.iter().any(|fixed| fixed.addr.is_ipv6());
        needs.directories =
            vec![("logs.dir", config.logs.dir.clone()), ("state_dir", config.state_dir.clone())];
        needs
    }

    fn fix(&mut self, what: &str, addr: SocketAddr, is_tcp: bool) {
        self.fixed.push(Fixed { what: what.to_owned(), addr, is_tcp });
    }

    fn pool(&mut self, pool: &DatagramPool) {
        let settings = &pool.settings;
        let what = format!("pool {}", settings.name);
        for &addr in &pool.listen {
            self.fix(&what, addr, false);
            if pool.tcp_connections > 0 {
                self.fix(&what, addr, true);
            }
        }
        let is_v6 = |target: &Target| matches!(target, Target::Addr(SocketAddr::V6(_)));
        let written = pool.servers.iter().map(|server| is_v6(&server.target));
        let run = pool.run.iter().map(|run| run.address.is_ipv6());
        let (v6, v4): (Vec<bool>, Vec<bool>) = written.chain(run).partition(|is_v6| *is_v6);
        let (v4, v6) = (!v4.is_empty(), !v6.is_empty());
        self.ranges.extend(pool.run.iter().map(|run| run.run.ports.clone()));
        let families = u64::from(v4) + u64::from(v6);
        let checks = u64::from(settings.health.check != Check::None);
        let towards = families * (pool.ports.max(settings.workers) as u64 + checks);
        self.local_ports += towards;
        self.sockets += towards + (pool.listen.len() * settings.workers) as u64;
        self.files += pool.tcp_files() as u64;
        self.workers = self.workers.max(settings.workers);
        self.io_uring |= pool.io == IoChoice::IoUring;
        self.ipv6 |= v6;
        if settings.transparent {
            self.transparent.push(settings.name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_needs_its_ports_and_two_sockets_a_worker() {
        let config = Config::default();
        let needs = Needs::of(&config);
        let native = config.native().unwrap();
        let workers = native.workers as u64;
        assert_eq!((needs.sockets, needs.local_ports), (2 * workers, workers - 1));
        assert_eq!(needs.files, 2 * workers + OTHER_FILES);
        let ports: Vec<u16> = needs.fixed.iter().map(|fixed| fixed.addr.port()).collect();
        let controller = native.run.as_ref().unwrap().controller.port();
        assert_eq!(ports, [native.client_side.port(), native.server_side.port(), controller, 55080]);
        assert!(!needs.ipv6 && !needs.wildcard && !needs.io_uring && needs.transparent.is_empty());
    }

    #[test]
    fn a_pool_needs_ports_for_each_family_and_descriptors_for_tcp() {
        let file = r#"{"admin": {"listen": "off"}, "pools": [
            {"name": "a", "listen": "*:53", "protocol": "dns", "servers": ["127.0.0.1:1", "[::1]:2"],
             "ports": 10, "workers": 2, "io": "io_uring", "tcp_connections": 100},
            {"name": "b", "listen": "127.0.0.1:54", "protocol": "datagram", "servers": ["127.0.0.1:3"],
             "ports": 7, "workers": 1, "transparent": true}]}"#;
        let needs = Needs::of(&Config::parse(file, None).unwrap());
        // `*` is one address per family. The dns pool has a health check, the other pool has none.
        let fronts = 2 * 2 + 1;
        assert_eq!(needs.local_ports, 2 * (10 + 1) + 7);
        assert_eq!((needs.sockets, needs.files), (29 + fronts, 29 + fronts + 200 + OTHER_FILES));
        assert_eq!((needs.workers, needs.transparent), (2, vec!["b".to_owned()]));
        assert!(needs.io_uring && needs.ipv6 && needs.wildcard);
        assert_eq!(needs.fixed.iter().filter(|fixed| fixed.is_tcp).count(), 2);
    }
}
