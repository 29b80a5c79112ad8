//! Gathers the facts: reads `/proc` and `/sys`, and tries on the loopback the features that lbd uses.
//! Changes nothing.

use std::collections::HashMap;
use std::fs::read_to_string;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use super::facts::{Directory, Facts, FeatureTest, Held};
use super::needs::{Fixed, Needs};
use super::proc;
use crate::base::batch::SocketId;
use crate::base::time::Clock;
use crate::io::socket::{self, SocketOptions, bind};
use crate::io::{DatagramIo, IoOptions, MmsgIo, UringIo};

/// Time in which dropped datagrams are counted.
const DROPS_WINDOW: Duration = Duration::from_millis(500);
/// Maximum time of a datagram over the loopback.
const LOOPBACK_PATIENCE: Duration = Duration::from_secs(1);
/// Number of datagrams of the segmented send, and their size in bytes.
const SEGMENTS: usize = 8;
const SEGMENT_SIZE: usize = 256;

/// All facts about this machine. Takes half a second.
pub fn gather(needs: &Needs) -> Facts {
    let dropped = || proc::snmp(&read("/proc/net/snmp")?, "Udp", "RcvbufErrors");
    let before = dropped();
    let (receive_buffer, send_buffer) = buffers().unzip();
    let (gso, gro) = segmentation();
    let numbers = |path: &str| proc::numbers(&read(path)?);
    let number = |path: &str| numbers(path)?.first().copied();
    let udp_pages = numbers("/proc/sys/net/ipv4/udp_mem").and_then(|pages| match pages[..] {
        [_, pressure, most] => Some((pressure, most)),
        _ => None,
    });
    let conntrack = number("/proc/sys/net/netfilter/nf_conntrack_count")
        .zip(number("/proc/sys/net/netfilter/nf_conntrack_max"));
    let mut facts = Facts {
        kernel: read("/proc/sys/kernel/osrelease"),
        receive_buffer,
        send_buffer,
        gso,
        gro,
        io_uring: io_uring(),
        io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
        files_max: Some(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
        capabilities: read("/proc/self/status").and_then(|text| proc::capabilities(&text)),
        unprivileged_from: number("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .and_then(|port| u16::try_from(port).ok()),
        local_ports: read("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| proc::port_range(&text)),
        reserved_ports: read("/proc/sys/net/ipv4/ip_local_reserved_ports")
            .and_then(|text| proc::port_list(&text)),
        packet_info: Some(packet_info()),
        ipv6: Some(tried(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)))),
        conntrack,
        udp_pages,
        udp_pages_used: read("/proc/net/sockstat").and_then(|text| proc::sockstat(&text, "UDP", "mem")),
        page_size: rustix::param::page_size() as u64,
        dropped: before,
        dropped_now: None,
        clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        processors: std::thread::available_parallelism().ok().map(usize::from),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        held: held(&needs.fixed),
        directories: needs.directories.iter().map(|(key, path)| directory(key, path)).collect(),
    };
    std::thread::sleep(DROPS_WINDOW);
    facts.dropped_now = dropped().zip(before).map(|(after, before)| after.saturating_sub(before));
    facts
}

fn read(path: &str) -> Option<String> {
    read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn tried<T>(result: std::io::Result<T>) -> FeatureTest {
    result.map(drop).map_err(|error| error.to_string())
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Buffer sizes that a socket of lbd is granted.
fn buffers() -> Option<(u64, u64)> {
    let socket = bind(loopback(), &SocketOptions::default()).ok()?;
    Some((socket::receive_buffer(&socket) as u64, socket::send_buffer(&socket) as u64))
}

/// Sends one segmented message over the loopback: whether the kernel accepted it, and whether it arrived
/// merged.
fn segmentation() -> (Option<FeatureTest>, Option<FeatureTest>) {
    match segmented_send() {
        Ok((gso, gro)) => (Some(gso), Some(gro)),
        Err(_) => (None, None),
    }
}

fn segmented_send() -> std::io::Result<(FeatureTest, FeatureTest)> {
    let clock = Clock::start();
    let options = IoOptions { slots: 2 * SEGMENTS, ..IoOptions::default() };
    let open = || MmsgIo::new(vec![bind(loopback(), &SocketOptions::default())?], &options, clock);
    let (mut from, mut to) = (open()?, open()?);
    let target = to.local_addr(SocketId(0));
    let (_, tx) = from.turn();
    for _ in 0..SEGMENTS {
        tx.destination(SocketId(0), target, None).and_then(|to| tx.stage(to, SEGMENT_SIZE));
    }
    from.flush()?;
    let gso = match from.counters().gso_off {
        0 => Ok(()),
        _ => Err("the kernel rejects UDP_SEGMENT".to_owned()),
    };
    let give_up = clock.now() + LOOPBACK_PATIENCE;
    let (mut seen, mut merged) = (0, false);
    while seen < SEGMENTS && clock.now() < give_up {
        to.wait(Some(give_up))?;
        to.receive()?;
        let (rx, _) = to.turn();
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            seen += bytes.len().div_ceil((received.stride as usize).max(1));
            merged |= bytes.len() > received.stride as usize;
        }
        to.flush()?;
    }
    let gro = match (seen, merged) {
        (_, true) => Ok(()),
        (SEGMENTS.., false) => Err("datagrams arrive unmerged".to_owned()),
        (seen, false) => Err(format!("only {seen} of {SEGMENTS} datagrams arrived over the loopback")),
    };
    Ok((gso, gro))
}

fn io_uring() -> Option<FeatureTest> {
    let sockets = vec![bind(loopback(), &SocketOptions::default()).ok()?];
    Some(tried(UringIo::new(sockets, &IoOptions::default(), Clock::start())))
}

fn packet_info() -> FeatureTest {
    let wildcard = (Ipv4Addr::UNSPECIFIED, 0).into();
    tried(bind(wildcard, &SocketOptions::default()).and_then(|socket| socket::prepare(&socket, true)))
}

/// The sockets that use one of these addresses.
fn held(wanted: &[Fixed]) -> Vec<Held> {
    let mut found = vec![];
    for (path, is_tcp) in [
        ("/proc/net/udp", false),
        ("/proc/net/udp6", false),
        ("/proc/net/tcp", true),
        ("/proc/net/tcp6", true),
    ] {
        let Some(text) = read(path) else { continue };
        for (addr, inode) in text.lines().filter_map(|line| proc::socket(line, is_tcp)) {
            if wanted.iter().any(|fixed| fixed.is_tcp == is_tcp && fixed.clashes(addr)) {
                found.push((addr, is_tcp, inode));
            }
        }
    }
    let owners = if found.is_empty() { HashMap::new() } else { owners() };
    let held = |(addr, is_tcp, inode)| Held { addr, is_tcp, by: owners.get(&inode).cloned() };
    found.into_iter().map(held).collect()
}

/// Processes by the inodes of their sockets, as far as this process may read their descriptors.
fn owners() -> HashMap<u64, (u32, String)> {
    let mut owners = HashMap::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let name = read_to_string(process.path().join("comm")).unwrap_or_default();
        for file in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let link = std::fs::read_link(file.path()).unwrap_or_default();
            let inode =
                link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                owners.insert(inode, (pid, proc::process_name(&name)));
            }
        }
    }
    owners
}

/// Whether a directory is writable, or can be created if it does not exist.
fn directory(key: &'static str, path: &Path) -> Directory {
    let mut existing: PathBuf = path.to_owned();
    while !existing.exists() {
        match existing.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => existing = parent.to_owned(),
            _ => existing = ".".into(),
        }
    }
    let writable = match existing.is_dir() {
        true => tried(access(&existing, Access::WRITE_OK | Access::EXEC_OK).map_err(Into::into)),
        false => Err(format!("{} is not a directory", existing.display())),
    };
    Directory { key, path: path.to_owned(), writable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lbd_relies_on_is_tried_on_the_loopback() {
        let facts = gather(&Needs::default());
        assert!(facts.kernel.is_some() && facts.receive_buffer.is_some() && facts.processors.is_some());
        assert!(facts.gso.is_some() && facts.gro.is_some() && facts.io_uring.is_some());
        assert!(facts.dropped_now.is_some() && facts.page_size >= 4096);
    }

    #[test]
    fn a_socket_of_this_process_is_found_by_its_address() {
        let socket = UdpSocket::bind(loopback()).unwrap();
        let listener = std::net::TcpListener::bind(loopback()).unwrap();
        for (addr, is_tcp) in [(socket.local_addr().unwrap(), false), (listener.local_addr().unwrap(), true)]
        {
            let fixed = Fixed { what: "x".to_owned(), addr, is_tcp };
            let found = held(&[fixed]);
            let pid = std::process::id();
            assert!(
                found.iter().any(|held| held.addr == addr && held.by.as_ref().is_some_and(|by| by.0 == pid))
            );
        }
    }

    #[test]
    fn a_folder_that_can_be_made_is_as_good_as_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, good) in [
            (dir.path().to_owned(), true),
            (dir.path().join("a/b/c"), true),
            ("not/there/yet".into(), true),
            (file.clone(), false),
            (file.join("below"), false),
        ] {
            let directory = directory("x", &path);
            assert_eq!(directory.writable.is_ok(), good, "{directory:?}");
        }
    }
}
