//! What is known of a machine. Plain data: whatever cannot be read is `None`, and is not judged.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Whether something that was tried works, or why not.
pub type Trial = Result<(), String>;

/// What is known of this machine, and of the rights of this process.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub kernel: Option<String>,
    /// Bytes of receive buffer that a socket was granted, as the kernel accounts for it.
    pub receive_buffer: Option<u64>,
    /// Bytes of send buffer that a socket was granted.
    pub send_buffer: Option<u64>,
    /// A segmented send on the loopback (UDP_SEGMENT).
    pub gso: Option<Trial>,
    /// Whether its datagrams arrived merged (UDP_GRO).
    pub gro: Option<Trial>,
    /// A ring was opened.
    pub io_uring: Option<Trial>,
    /// `kernel.io_uring_disabled`: 0 = for everybody, 1 = for privileged processes, 2 = for nobody.
    pub io_uring_disabled: Option<u64>,
    /// Descriptors that this process may have at most: its hard limit; `u64::MAX` without one.
    pub files_max: Option<u64>,
    /// The effective capabilities of this process, a bit each (linux/capability.h).
    pub capabilities: Option<u64>,
    /// `net.ipv4.ip_unprivileged_port_start`: ports from here on need no capability.
    pub unprivileged_from: Option<u16>,
    /// `net.ipv4.ip_local_port_range`: the ports that the kernel gives to sockets without one.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// `net.ipv4.ip_local_reserved_ports`: the ranges in it that it does not give.
    pub reserved_ports: Option<Vec<RangeInclusive<u16>>>,
    /// The address that was asked is told on wildcard sockets (IP_PKTINFO).
    pub packet_info: Option<Trial>,
    /// A socket on `::1` could be bound.
    pub ipv6: Option<Trial>,
    /// Connections that the kernel tracks, and the most that it does; `None` if it does not track.
    pub conntrack: Option<(u64, u64)>,
    /// `net.ipv4.udp_mem`: pages from which the kernel is sparing, and the most, for all UDP sockets together.
    pub udp_pages: Option<(u64, u64)>,
    /// Pages that they have now.
    pub udp_pages_used: Option<u64>,
    /// Bytes of a page.
    pub page_size: u64,
    /// Datagrams dropped since the start of the machine as a receive buffer was full.
    pub dropped: Option<u64>,
    /// Of these, within the half second of the examination.
    pub dropped_now: Option<u64>,
    /// Where the kernel reads the time.
    pub clock_source: Option<String>,
    /// Processors that this process may use.
    pub processors: Option<usize>,
    /// How the first one's frequency is chosen.
    pub governor: Option<String>,
    /// Sockets that have the addresses of the configuration.
    pub held: Vec<Held>,
    /// Folders that are written.
    pub folders: Vec<Folder>,
}

/// A socket that has an address which the configuration wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its address.
    pub addr: SocketAddr,
    /// Whether it is a listener of TCP.
    pub is_tcp: bool,
    /// The process that has it, by id and name, where that can be seen.
    pub by: Option<(u32, String)>,
}

/// A folder that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// What for: the key.
    pub key: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Whether it can be, or can be made.
    pub writable: Trial,
}
