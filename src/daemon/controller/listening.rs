//! The UDP ports that are in use. They are read from /proc: a trial bind would take a port for a moment, and
//! a server could fail to bind it in that moment.

use std::collections::HashSet;

/// The local ports of all UDP sockets of this network.
pub fn udp_ports() -> HashSet<u16> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"].map(std::fs::read_to_string);
    tables.iter().flatten().flat_map(|table| table.lines().filter_map(local_port)).collect()
}

/// The port in a line such as `  12: 0100007F:14B6 00000000:0000 07 ...`.
fn local_port(line: &str) -> Option<u16> {
    let local = line.split_ascii_whitespace().nth(1)?;
    u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_bound_port_is_seen_whatever_its_family() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(addr) else { continue };
            let port = socket.local_addr().unwrap().port();
            assert!(udp_ports().contains(&port), "{addr}");
        }
    }

    #[test]
    fn the_heading_and_nonsense_are_no_ports() {
        for line in ["  sl  local_address rem_address   st", "", "  1: 0100007F", "  1: 0100007F:XYZ 0"] {
            assert_eq!(local_port(line), None, "{line}");
        }
        assert_eq!(local_port("  12: 0100007F:14B6 00000000:0000 07"), Some(5_302));
    }
}
