//! Facts about a machine. Plain data: a fact that cannot be read is `None`, and is not checked.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Whether a trial succeeded, or the reason why not.
pub type FeatureTest = Result<(), String>;

/// Facts about this machine, and the rights of this process.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub kernel: Option<String>,
    /// Receive buffer that a socket was granted, in bytes as the kernel accounts for it.
    pub receive_buffer: Option<u64>,
    /// Send buffer that a socket was granted, in bytes as the kernel accounts for it.
    pub send_buffer: Option<u64>,
    /// Trial of a segmented send on the loopback (UDP_SEGMENT).
    pub gso: Option<FeatureTest>,
    /// Whether the datagrams of that send arrived merged (UDP_GRO).
    pub gro: Option<FeatureTest>,
    /// Trial of opening a ring.
    pub io_uring: Option<FeatureTest>,
    /// `kernel.io_uring_disabled`: 0 allows io_uring for all processes, 1 for privileged ones, 2 for
    /// none.
    pub io_uring_disabled: Option<u64>,
    /// Hard limit of this process for file descriptors; `u64::MAX` without a limit.
    pub files_max: Option<u64>,
    /// Effective capabilities of this process, one bit each (linux/capability.h).
    pub capabilities: Option<u64>,
    /// `net.ipv4.ip_unprivileged_port_start`: the lowest port that needs no capability.
    pub unprivileged_from: Option<u16>,
    /// `net.ipv4.ip_local_port_range`: the ports that the kernel gives to sockets without one.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// `net.ipv4.ip_local_reserved_ports`: the ranges that the kernel excludes from it.
    pub reserved_ports: Option<Vec<RangeInclusive<u16>>>,
    /// Trial of the destination address of datagrams on wildcard sockets (IP_PKTINFO).
    pub packet_info: Option<FeatureTest>,
    /// Trial of binding a socket to `::1`.
    pub ipv6: Option<FeatureTest>,
    /// Tracked connections and their maximum; `None` if the kernel does not track connections.
    pub conntrack: Option<(u64, u64)>,
    /// `net.ipv4.udp_mem`: pages of all UDP sockets from which the kernel saves memory, and the maximum.
    pub udp_pages: Option<(u64, u64)>,
    /// Pages that all UDP sockets use now.
    pub udp_pages_used: Option<u64>,
    /// Size of a page, in bytes.
    pub page_size: u64,
    /// Datagrams dropped since boot because a receive buffer was full.
    pub dropped: Option<u64>,
    /// Datagrams dropped during the half second of the examination.
    pub dropped_now: Option<u64>,
    /// The kernel's clock source.
    pub clock_source: Option<String>,
    /// CPUs available to this process.
    pub processors: Option<usize>,
    /// Frequency governor of the first CPU.
    pub governor: Option<String>,
    /// Sockets that use addresses of the configuration.
    pub held: Vec<Held>,
    /// Directories that lbd writes to.
    pub directories: Vec<Directory>,
}

/// A socket that uses an address of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Address of the socket.
    pub addr: SocketAddr,
    /// Whether the socket is a TCP listener.
    pub is_tcp: bool,
    /// Id and name of its process; `None` if this process may not see it.
    pub by: Option<(u32, String)>,
}

/// A directory that lbd writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Configuration key of the directory.
    pub key: &'static str,
    /// Path of the directory.
    pub path: PathBuf,
    /// Whether the directory is writable, or can be created.
    pub writable: FeatureTest,
}
