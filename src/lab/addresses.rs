//! Addresses of the simulated network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::base::batch::SocketId;

/// Endpoint of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A socket of a balancer.
    Balancer(u32, SocketId),
    /// A client.
    Client(u32),
    /// A server as one balancer knows it. Server ends are numbered consecutively, balancer by balancer.
    End(u32),
    /// An address without a receiver: the controller.
    Outside,
}

const BALANCERS: u8 = 1;
const CLIENTS: u8 = 2;
const OUTSIDE: u8 = 3;
/// First octet of server ends' addresses; higher values belong to server ends too.
const ENDS: u8 = 128;
/// First port of a balancer's sockets.
const PORT: u16 = 10_000;

impl From<Endpoint> for SocketAddr {
    fn from(place: Endpoint) -> SocketAddr {
        let (net, number, port) = match place {
            Endpoint::Balancer(number, SocketId(socket)) => (BALANCERS, number, PORT + socket),
            Endpoint::Client(number) => (CLIENTS, number, 9_000),
            Endpoint::End(number) => (ENDS, number, 7_000),
            Endpoint::Outside => (OUTSIDE, 0, 8_000),
        };
        let base = u32::from(Ipv4Addr::new(10, net, 0, 0));
        SocketAddr::from((Ipv4Addr::from(base + number), port))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Endpoint {
        let IpAddr::V4(ip) = addr.ip() else { return Endpoint::Outside };
        let low = u32::from(ip) & 0xffff;
        match ip.octets()[1] {
            BALANCERS if addr.port() >= PORT => Endpoint::Balancer(low, SocketId(addr.port() - PORT)),
            CLIENTS => Endpoint::Client(low),
            ENDS.. => Endpoint::End(u32::from(ip) & 0x7f_ffff),
            _ => Endpoint::Outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_an_address_of_its_own() {
        let places = [
            Endpoint::Balancer(0, SocketId(0)),
            Endpoint::Balancer(255, SocketId(999)),
            Endpoint::Client(65_535),
            Endpoint::End(0),
            Endpoint::End(70_000),
            Endpoint::End((1 << 22) - 1),
            Endpoint::Outside,
        ];
        for place in places {
            assert_eq!(Endpoint::from(SocketAddr::from(place)), place);
        }
        assert_eq!(Endpoint::from("[::1]:7000".parse::<SocketAddr>().unwrap()), Endpoint::Outside);
    }
}
