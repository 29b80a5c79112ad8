//! The address or host name of a server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The address or host name of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address.
    Addr(SocketAddr),
    /// Every address of a host name, which is looked up at the start and every `resolve_interval`.
    Name {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Target {
    /// The addresses that are known without a look-up. `localhost` and all names below it are the loopback
    /// (RFC 6761 section 6.3).
    pub fn known_addrs(&self) -> Vec<SocketAddr> {
        match self {
            Target::Addr(addr) => vec![*addr],
            Target::Name { host, port } if is_localhost(host) => {
                vec![(Ipv4Addr::LOCALHOST, *port).into(), (Ipv6Addr::LOCALHOST, *port).into()]
            }
            Target::Name { .. } => vec![],
        }
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit('.').next() == Some("localhost")
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Addr(addr) => addr.fmt(f),
            Target::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}
