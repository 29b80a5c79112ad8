//! Addresses as a configuration writes them: of pools, of servers, and of sources. Pure, except [`reaches`].

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::{IpNet, Ipv4Net};

use super::target::Target;
use crate::io::socket::interface_number;

/// The port of a DNS server that is written without one.
const DNS_PORT: u16 = 53;

/// Most characters of a host name (RFC 1035, section 2.3.4).
const HOST_LEN_MAX: usize = 253;

/// The addresses that `IP:PORT` or `*:PORT` means; the error says what to write.
pub fn listen(text: &str) -> Result<Vec<SocketAddr>, String> {
    addresses(text, "write IP:PORT, [IPV6]:PORT or *:PORT")
}

/// The one address that `IP:PORT` means; the error says what to write.
pub fn one(text: &str) -> Result<SocketAddr, String> {
    match addresses(text, "write IP:PORT or [IPV6]:PORT")?[..] {
        [addr] => Ok(addr),
        _ => Err("is more than one address; write one IP:PORT".to_owned()),
    }
}

fn addresses(text: &str, remedy: &str) -> Result<Vec<SocketAddr>, String> {
    let addrs = match text.strip_prefix("*:") {
        Some(port) => {
            let port = port.parse().map_err(|_| format!("is not an address with a port; {remedy}"))?;
            vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
        }
        None => vec![plain(text.parse().map_err(|_| format!("is not an address with a port; {remedy}"))?)],
    };
    match addrs[0] {
        addr if addr.port() == 0 => Err("has port 0; write a port from 1 to 65535".to_owned()),
        addr if is_group(addr.ip()) => Err(format!("is a multicast or broadcast address; {remedy}")),
        _ => Ok(addrs),
    }
}

/// The target that a text means; with DNS the port is optional. The error says what to write.
pub fn server(text: &str, dns: bool) -> Result<Target, String> {
    let target = target(text, dns)?;
    match &target {
        Target::Addr(addr) if addr.port() == 0 => Err("has port 0; write the port of the server"),
        Target::Name { port: 0, .. } => Err("has port 0; write the port of the server"),
        Target::Addr(addr) if addr.ip().is_unspecified() => {
            Err("is every address and no server; on this machine write 127.0.0.1 or ::1")
        }
        Target::Addr(addr) if is_group(addr.ip()) => {
            Err("is a multicast or broadcast address; write the address of one server")
        }
        _ => Ok(()),
    }?;
    Ok(target)
}

fn target(text: &str, dns: bool) -> Result<Target, String> {
    let (text, interface) = without_interface(text)?;
    match (unscoped_target(&text, dns)?, interface) {
        (Target::Addr(SocketAddr::V6(mut addr)), Some(interface)) if addr.ip().is_unicast_link_local() => {
            addr.set_scope_id(interface);
            Ok(Target::Addr(addr.into()))
        }
        (Target::Addr(addr), None) if is_link_local(addr.ip()) => Err(format!(
            "is a link-local address; write its interface, such as [{}%eth0]:{}",
            addr.ip(),
            addr.port()
        )),
        (target, None) => Ok(target),
        (_, Some(_)) => Err("names an interface, which only a link-local address (fe80::/10) has".to_owned()),
    }
}

/// A text without the interface after "%", and the number of the interface.
fn without_interface(text: &str) -> Result<(Cow<'_, str>, Option<u32>), String> {
    let Some((ip, rest)) = text.split_once('%') else { return Ok((text.into(), None)) };
    let (interface, rest) = rest.split_at(rest.find(']').unwrap_or(rest.len()));
    let number = match interface.parse() {
        Ok(number) => Some(number),
        Err(_) => interface_number(interface),
    };
    match number {
        None | Some(0) => {
            Err(format!("names the interface \"{interface}\", which this machine does not have"))
        }
        number => Ok((format!("{ip}{rest}").into(), number)),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn unscoped_target(text: &str, dns: bool) -> Result<Target, String> {
    if let Ok(addr) = text.parse() {
        return Ok(Target::Addr(plain(addr)));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let without_port = |shown: &str| match dns {
        true => Ok(DNS_PORT),
        false => Err(format!("has no port; write {shown}:PORT")),
    };
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let shown = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        return Ok(Target::Addr(plain((ip, without_port(&shown)?).into())));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    if !is_host(host) {
        return Err("is no address and no host name; write IP:PORT, [IPV6]:PORT or HOST:PORT".to_owned());
    }
    let port = match port {
        None => without_port(host)?,
        Some(port) => port.parse().map_err(|_| "has no port from 1 to 65535 after the \":\"".to_owned())?,
    };
    Ok(Target::Name { host: host.to_ascii_lowercase(), port })
}

/// Labels of letters, digits, `-` and `_`, the last not of digits alone: that would be a mistyped address.
fn is_host(host: &str) -> bool {
    let labels = || host.strip_suffix('.').unwrap_or(host).split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= HOST_LEN_MAX
        && labels().all(is_label)
        && labels().next_back().is_some_and(|label| !label.bytes().all(|b| b.is_ascii_digit()))
}

/// A network, or one address, in its plainest form: host bits are zero, IPv4 in IPv6 is IPv4.
pub fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| "is no address and no network; write one such as 10.0.0.0/8".to_owned())?;
    let as_v4 = match net {
        IpNet::V6(net) if net.prefix_len() >= 96 => net.addr().to_ipv4_mapped().map(|ip| {
            Ipv4Net::new(ip, net.prefix_len() - 96).expect("128 - 96 is the most, and what IPv4 has")
        }),
        _ => None,
    };
    Ok(as_v4.map_or(net, IpNet::V4).trunc())
}

/// IPv4 in IPv6 as IPv4: one address has one form.
fn plain(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, addr.port()).into(),
        IpAddr::V6(_) => addr,
    }
}

fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether two sockets that are bound to these addresses would get in each other's way. An IPv6 wildcard
/// takes IPv6 only (`io::socket`).
pub fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && same_ip
}

/// Whether what is sent to `target` arrives at a socket on `listen`.
pub fn reaches(target: SocketAddr, listen: SocketAddr) -> bool {
    clash(target, listen) && (target.ip() == listen.ip() || is_local(target))
}

/// Whether an address is one of this machine's: whether a socket can be bound to it.
fn is_local(addr: SocketAddr) -> bool {
    let binds = |mut addr: SocketAddr| {
        addr.set_port(0);
        UdpSocket::bind(addr).is_ok()
    };
    // Reserved (RFC 1112, section 4) and for discarding (RFC 6666): of no machine. If they can be bound, then
    // any address can (`ip_nonlocal_bind`), and the route decides.
    let unowned: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::new(240, 0, 0, 1).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1).into(),
    };
    if binds((unowned, 0).into()) { is_own_source(addr) } else { binds(addr) }
}

/// Whether datagrams to an address come from that address: the route to what is local is so, at least for the
/// first address of an interface. Sends nothing.
fn is_own_source(addr: SocketAddr) -> bool {
    let any: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(addr)?;
        socket.local_addr()
    };
    addr.ip().is_loopback() || source().is_ok_and(|source| source.ip() == addr.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn where_to_listen() {
        for (text, addrs) in [
            ("127.0.0.1:53", vec!["127.0.0.1:53"]),
            ("[::1]:5300", vec!["[::1]:5300"]),
            ("[::ffff:10.0.0.1]:53", vec!["10.0.0.1:53"]),
            ("0.0.0.0:53", vec!["0.0.0.0:53"]),
            ("*:53", vec!["0.0.0.0:53", "[::]:53"]),
        ] {
            assert_eq!(listen(text).unwrap(), addrs.into_iter().map(addr).collect::<Vec<_>>(), "{text}");
        }
        for (text, says) in [
            ("", "write IP:PORT"),
            ("127.0.0.1", "write IP:PORT"),
            ("localhost:53", "write IP:PORT"),
            ("::1:53", "[IPV6]:PORT"),
            ("*", "*:PORT"),
            ("*:", "*:PORT"),
            ("*:65536", "*:PORT"),
            ("*:0", "port 0"),
            ("127.0.0.1:0", "port 0"),
            ("224.0.0.1:53", "a multicast or broadcast address"),
            ("255.255.255.255:53", "a multicast or broadcast address"),
        ] {
            let problem = listen(text).unwrap_err();
            assert!(problem.contains(says), "{text}: {problem}");
        }
    }

    #[test]
    fn where_a_server_is() {
        for (text, dns, shown) in [
            ("10.0.0.1:53", false, "10.0.0.1:53"),
            ("10.0.0.1", true, "10.0.0.1:53"),
            ("[::1]:5301", false, "[::1]:5301"),
            ("[::1]", true, "[::1]:53"),
            ("::1", true, "[::1]:53"),
            ("[::ffff:10.0.0.1]:1", false, "10.0.0.1:1"),
            ("::ffff:10.0.0.1", true, "10.0.0.1:53"),
            ("DNS.example:5353", true, "dns.example:5353"),
            ("dns.example.", true, "dns.example.:53"),
            ("my_host:1", false, "my_host:1"),
            ("localhost:65535", false, "localhost:65535"),
            ("[fe80::1%7]:53", false, "[fe80::1%7]:53"),
            ("[fe80::1%lo]:53", false, "[fe80::1%1]:53"),
            ("[fe80::1%lo]", true, "[fe80::1%1]:53"),
            ("fe80::1%lo", true, "[fe80::1%1]:53"),
        ] {
            assert_eq!(server(text, dns).unwrap().to_string(), shown, "{text}");
        }
        let long = format!("{}.example:1", "x".repeat(64));
        for (text, says) in [
            ("10.0.0.1", "has no port; write 10.0.0.1:PORT"),
            ("::1", "has no port; write [::1]:PORT"),
            ("localhost", "has no port; write localhost:PORT"),
            ("localhost:", "no port from 1 to 65535"),
            ("localhost:65536", "no port from 1 to 65535"),
            ("localhost:dns", "no port from 1 to 65535"),
            ("localhost:0", "has port 0"),
            ("10.0.0.1:0", "has port 0"),
            ("0.0.0.0:53", "every address and no server"),
            ("[::]:53", "every address and no server"),
            ("224.0.0.1:53", "a multicast or broadcast address"),
            ("[ff02::1]:53", "a multicast or broadcast address"),
            ("255.255.255.255:53", "a multicast or broadcast address"),
            ("300.1.1.1:53", "no address and no host name"),
            ("[fe80::1]:53", "write its interface, such as [fe80::1%eth0]:53"),
            (
                "[fe80::1%no-such-one]:53",
                "names the interface \"no-such-one\", which this machine does not have",
            ),
            ("[fe80::1%0]:53", "does not have"),
            ("[fe80::1%]:53", "does not have"),
            ("[2001:db8::1%lo]:53", "names an interface, which only a link-local address"),
            ("10.0.0.1%lo:53", "no port"),
            ("localhost%lo", "no port"),
            ("a..b:53", "no address and no host name"),
            ("a b:53", "no address and no host name"),
            (":53", "no address and no host name"),
            ("", "no address and no host name"),
            (&long, "no address and no host name"),
        ] {
            let problem = server(text, false).unwrap_err();
            assert!(problem.contains(says), "{text}: {problem}");
        }
    }

    #[test]
    fn who_may_send() {
        for (text, net) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), net, "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0/8", "example.com", "10.0.0.1:53", "::/129"] {
            assert!(network(text).unwrap_err().contains("such as 10.0.0.0/8"), "{text}");
        }
    }

    #[test]
    fn a_wildcard_is_every_address_of_its_family() {
        for (a, b, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.2:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "[::1]:1", true),
            ("[::]:1", "127.0.0.1:1", false),
        ] {
            assert_eq!((clash(addr(a), addr(b)), clash(addr(b), addr(a))), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_local_reaches_a_wildcard() {
        assert!(reaches(addr("127.0.0.9:1"), addr("0.0.0.0:1")));
        assert!(reaches(addr("[::1]:1"), addr("[::1]:1")));
        assert!(!reaches(addr("203.0.113.7:1"), addr("0.0.0.0:1"))); // TEST-NET-3: not this machine's
        assert!(reaches(addr("203.0.113.7:1"), addr("203.0.113.7:1")));
        assert!(!reaches(addr("127.0.0.9:1"), addr("127.0.0.1:1")));
        assert!(!reaches(addr("127.0.0.9:1"), addr("0.0.0.0:2")));
    }

    #[test]
    fn the_route_tells_what_is_local_where_any_address_can_be_bound() {
        for (text, expected) in [("127.0.0.9:1", true), ("[::1]:1", true), ("203.0.113.7:1", false)] {
            assert_eq!(is_own_source(addr(text)), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}|[0-9a-f:.\\[\\]/*]{0,30}", dns in any::<bool>()) {
            let _ = (listen(&text), network(&text));
            if let Ok(target) = server(&text, dns) {
                prop_assert_eq!(server(&target.to_string(), dns), Ok(target));
            }
        }
    }
}
