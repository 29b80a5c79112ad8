//! Addresses of the simulated network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::base::batch::SocketId;

/// Endpoint of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A socket of a balancer.
    Balancer(u32, SocketId),
    /// A client.
    Client(u32),
    /// A server as one balancer knows it. Server ends are numbered consecutively, balancer by balancer.
    End(u32),
    /// An address without a receiver: the controller.
    Nobody,
}

const BALANCERS: u8 = 1;
const CLIENTS: u8 = 2;
const NOBODY: u8 = 3;
/// First octet of server ends' addresses; higher values belong to server ends too.
const ENDS: u8 = 128;
/// First port of a balancer's sockets.
const PORT: u16 = 10_000;

impl From<Place> for SocketAddr {
    fn from(place: Place) -> SocketAddr {
        let (net, number, port) = match place {
            Place::Balancer(number, SocketId(socket)) => (BALANCERS, number, PORT + socket),
            Place::Client(number) => (CLIENTS, number, 9_000),
            Place::End(number) => (ENDS, number, 7_000),
            Place::Nobody => (NOBODY, 0, 8_000),
        };
        let base = u32::from(Ipv4Addr::new(10, net, 0, 0));
        SocketAddr::from((Ipv4Addr::from(base + number), port))
    }
}

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Place {
        let IpAddr::V4(ip) = addr.ip() else { return Place::Nobody };
        let low = u32::from(ip) & 0xffff;
        match ip.octets()[1] {
            BALANCERS if addr.port() >= PORT => Place::Balancer(low, SocketId(addr.port() - PORT)),
            CLIENTS => Place::Client(low),
            ENDS.. => Place::End(u32::from(ip) & 0x7f_ffff),
            _ => Place::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_an_address_of_its_own() {
        let places = [
            Place::Balancer(0, SocketId(0)),
            Place::Balancer(255, SocketId(999)),
            Place::Client(65_535),
            Place::End(0),
            Place::End(70_000),
            Place::End((1 << 22) - 1),
            Place::Nobody,
        ];
        for place in places {
            assert_eq!(Place::from(SocketAddr::from(place)), place);
        }
        assert_eq!(Place::from("[::1]:7000".parse::<SocketAddr>().unwrap()), Place::Nobody);
    }
}
