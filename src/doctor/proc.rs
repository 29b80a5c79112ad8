//! Parses files under `/proc`. Pure: text in, values out; `None` for an unknown format.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// State of a listener in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// Numbers of a line, separated by white space.
pub fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// Parses `32768\t60999`.
pub fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    match numbers(text)?[..] {
        [from, to] => Some(u16::try_from(from).ok()?..=u16::try_from(to).ok()?),
        _ => None,
    }
}

/// Parses `53,5000-5010`; an empty text is an empty list.
pub fn port_list(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse().ok()?..=to.parse().ok()?)
    };
    text.trim().split(',').filter(|part| !part.is_empty()).map(range).collect()
}

/// A counter of `/proc/net/snmp`, which has a line of names and a line of numbers per protocol.
pub fn snmp(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let prefix = format!("{protocol}:");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|known| known == name)?;
    values.split_whitespace().nth(at)?.parse().ok()
}

/// A value of `/proc/net/sockstat`: `UDP: inuse 1 mem 26`.
pub fn sockstat(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    words.nth(1)?.parse().ok()
}

/// The effective capabilities in `/proc/self/status`.
pub fn capabilities(text: &str) -> Option<u64> {
    let digits = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// A socket of `/proc/net/udp`, `udp6`, `tcp` or `tcp6`: its local address and its inode.
pub fn socket(line: &str, is_tcp: bool) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_whitespace().skip(1);
    let addr = address(words.next()?)?;
    let state = words.nth(1)?;
    let inode = words.nth(5)?.parse().ok()?;
    (!is_tcp || state == LISTEN).then_some((addr, inode))
}

/// Parses `0100007F:B2FF`: 32-bit words in this machine's byte order, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, to) in bytes.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The name of a process in `/proc/PID/comm`, without characters that could disturb a terminal.
pub fn process_name(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports() {
        assert_eq!(port_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(port_range("1 70000"), None);
        assert_eq!(port_range("1"), None);
        assert_eq!(port_list("\n"), Some(vec![]));
        assert_eq!(port_list("53,5000-5010\n"), Some(vec![53..=53, 5000..=5010]));
        assert_eq!(port_list("53,x"), None);
    }

    #[test]
    fn counters() {
        let snmp_text =
            "Ip: A B\nIp: 1 2\nUdp: InDatagrams RcvbufErrors\nUdp: 5 7\nUdpLite: RcvbufErrors\nUdpLite: 9\n";
        assert_eq!(snmp(snmp_text, "Udp", "RcvbufErrors"), Some(7));
        assert_eq!(snmp(snmp_text, "Udp", "Other"), None);
        assert_eq!(snmp("Udp: A", "Udp", "A"), None);
        let stat = "sockets: used 29\nUDP: inuse 1 mem 26\nUDPLITE: inuse 0\n";
        assert_eq!((sockstat(stat, "UDP", "mem"), sockstat(stat, "UDP", "x")), (Some(26), None));
        assert_eq!(sockstat(stat, "TCP", "mem"), None);
        assert_eq!(capabilities("Name:\tlbd\nCapEff:\t0000000000003000\n"), Some(1 << 12 | 1 << 13));
    }

    #[test]
    fn sockets() {
        let v4 = " 2884: 0100007F:B2FF 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        \
                  0 4744844 2 0 2745";
        assert_eq!(socket(v4, false), Some(("127.0.0.1:45823".parse().unwrap(), 4_744_844)));
        assert_eq!(socket(v4, true), None, "not a listener");
        let v6 = "  1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A \
                  0:0 0:0 0 0 0 77 1 0";
        assert_eq!(socket(v6, true), Some(("[::1]:53".parse().unwrap(), 77)));
        assert_eq!(socket("  sl  local_address rem_address   st tx_queue", false), None);
        assert_eq!(process_name("a\u{1b}[2Jb\n"), "a[2Jb");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}|[0-9A-F:. \\n-]{0,120}") {
            let _ = (numbers(&text), port_range(&text), port_list(&text), capabilities(&text));
            let _ = (socket(&text, true), socket(&text, false));
            let _ = (snmp(&text, "Udp", "A"), sockstat(&text, "UDP", "mem"));
        }
    }
}
