//! Batch I/O: the border between the roles and the kernel.
//!
//! A back end owns sockets, the memory of a turn and a clock-driven wait. It knows nothing of
//! frames; the roles know nothing of system calls. Chosen once at start-up, generic, not `dyn`.
//!
//! One turn of every daemon is the same five verbs:
//!
//! ```text
//! io.wait(role.next_deadline())     sleep until a datagram, a wake-up or the deadline
//! io.receive()                      drain the ready sockets into the slots, with a fairness cap
//! role.on_batch(now, rx, tx)        the whole batch, patched in place
//! role.on_timeout(now, tx)          timers
//! io.flush()                        one message per destination; slots are free again
//! ```

mod arrival;
mod back_end;
mod chains;
mod cmsg;
mod mmsg;
mod packing;
mod peer_errors;
mod ready;
mod sender;
mod sim;
mod sockaddr;
pub mod socket;
mod sys;
mod uring;

use std::io;
use std::net::SocketAddr;

use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::time::Instant;

pub use self::back_end::{AUTO, BackEnd, IoChoice};
pub use self::mmsg::MmsgIo;
pub use self::packing::PAYLOAD_MAX;
pub use self::sim::{Faults, NetCounters, SimIo, SimNet};
pub use self::uring::UringIo;

/// The sizes of a turn, fixed at start-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoOptions {
    /// Receive slots: datagrams, or runs of merged datagrams, of one turn.
    pub slots: usize,
    /// Bytes per slot. Merging (UDP_GRO) is on if it is at least 65,535.
    pub slot_size: usize,
    /// Frames that can be sent in one turn.
    pub frames_max: usize,
    /// Bytes for frames that a role makes itself.
    pub staging_bytes: usize,
    /// Frames of equal length that share a datagram.
    pub frames_per_datagram: usize,
    /// Whether to use segmentation offload (UDP_SEGMENT) as long as the kernel takes it.
    pub gso: bool,
    /// Whether the memory of a turn (4 MiB by default) is taken from the system at the start, so that the first turns pay
    /// for no page faults: for what has work for a whole processor, not for a client that asks now
    /// and then.
    pub prefault: bool,
}

impl Default for IoOptions {
    fn default() -> Self {
        IoOptions {
            slots: 64,
            // Not a power of two: else the slots' first lines would share a few cache sets.
            slot_size: 65_536 + 5 * 64,
            frames_max: 16_384,
            staging_bytes: 256 << 10,
            frames_per_datagram: 1,
            gso: true,
            prefault: false,
        }
    }
}

impl IoOptions {
    /// Sizes for frames of this size: everything that a turn can receive can be answered, beside a thousand
    /// frames that a role makes itself.
    pub fn for_frames(frame_size: usize, frames_per_datagram: usize) -> Self {
        const STAGED: usize = 1024;
        let options = IoOptions { frames_per_datagram, ..IoOptions::default() };
        IoOptions {
            frames_max: options.slots * options.slot_size / frame_size + STAGED,
            staging_bytes: STAGED * frame_size,
            ..options
        }
    }

    /// Allocates the memory of a turn.
    pub fn memory(&self) -> (Rx, Tx) {
        let mut rx = Rx::new(self.slots, self.slot_size);
        let mut tx = Tx::new(self.frames_max, self.staging_bytes, self.frames_per_datagram);
        if self.prefault {
            rx.fault_in();
            tx.fault_in();
        }
        (rx, tx)
    }
}

/// What a back end counts. Totals since its start; datagrams unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Datagrams received, GRO segments counted one by one.
    pub received: u64,
    /// Datagrams longer than a slot, cut by the kernel and dropped.
    pub truncated: u64,
    /// Datagrams without a byte, dropped.
    pub empty: u64,
    /// Datagrams that the kernel dropped because a receive buffer was full (SO_RXQ_OVFL).
    pub kernel_drops: u64,
    /// Datagrams handed to the kernel, GSO segments counted one by one.
    pub sent: u64,
    /// Datagrams not sent because a send buffer or queue was full (EAGAIN, ENOBUFS).
    pub send_full: u64,
    /// Datagrams not sent for another reason (unreachable, too long, refused).
    pub send_failed: u64,
    /// Errors that the network reported of datagrams that were sent (ICMP), on sockets that report them.
    pub peer_errors: u64,
    /// How often segmentation offload was refused by the kernel and switched off: 0 or 1.
    pub gso_off: u64,
    /// How often a socket had to wait since all slots of the turn were taken (io_uring's ENOBUFS). Nothing is
    /// lost by it: the datagrams are in the socket's buffer.
    pub out_of_slots: u64,
    /// How often the completion queue was full and the kernel kept completions back (io_uring). Nothing is
    /// lost by it.
    pub completions_delayed: u64,
}

/// Sockets, the memory of a turn, and waiting.
pub trait DatagramIo {
    /// Waits until a socket is readable or has an error to list, the [`Waker`] fires, or `deadline` has
    /// passed; returns at once if data is left over from the last turn. Sub-millisecond deadlines are kept.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()>;

    /// Receives at most one turn's worth into [`Rx`]. Errors of single datagrams (an ICMP error of
    /// one peer, a cut datagram) are listed or counted, never returned. A simulated network has no ICMP.
    fn receive(&mut self) -> io::Result<()>;

    /// The current turn: what came in, and what shall go out.
    fn turn(&mut self) -> (&mut Rx, &mut Tx);

    /// Sends all of [`Tx`], then clears both. What cannot be sent is counted.
    fn flush(&mut self) -> io::Result<()>;

    /// The address a socket is bound to.
    fn local_addr(&self, socket: SocketId) -> SocketAddr;

    /// What was counted so far.
    fn counters(&self) -> IoCounters;

    /// Datagrams that the kernel has dropped since a socket's receive buffer was full; a part of
    /// [`IoCounters::kernel_drops`].
    fn kernel_drops(&self, socket: SocketId) -> u64;

    /// Datagrams read from a socket that are no use: [`IoCounters::empty`] and [`IoCounters::truncated`] of one socket.
    fn unusable(&self, socket: SocketId) -> u64;

    /// Brings the counts of dropped datagrams up to date. The kernel tells them with the next datagram, so without this
    /// the last ones are missing.
    fn recount_drops(&mut self);

    /// Reads nothing more from a socket until it is resumed: what has arrived and was not read, its errors too, stays for whoever
    /// shares the socket, a successor with a duplicate of the descriptor. What was read already is received as ever.
    /// Sending goes on. What the kernel drops meanwhile is not counted, since the successor counts it. Pausing twice is
    /// pausing once. An error leaves the socket as it was, or broken together with the whole back end.
    fn pause(&mut self, socket: SocketId) -> io::Result<()>;

    /// Reads a socket again, from what it holds now on. What the kernel has dropped since the pause counts, as there
    /// was no successor. A socket that is not paused stays as it is.
    fn resume(&mut self, socket: SocketId) -> io::Result<()>;
}

/// Ends a [`DatagramIo::wait`] from another thread. Cheap to clone; waking twice is waking once.
#[derive(Clone, Debug, Default)]
pub struct Waker(Option<std::sync::Arc<std::fs::File>>);

impl Waker {
    /// A waker over an eventfd (see eventfd(2)); a default waker wakes nobody.
    pub fn new(eventfd: std::os::fd::OwnedFd) -> Self {
        Waker(Some(std::sync::Arc::new(eventfd.into())))
    }

    /// Wakes the waiting thread.
    pub fn wake(&self) {
        use std::io::Write;
        if let Some(file) = &self.0 {
            // Only a full counter can fail, and then the waiter is awake already.
            let _ = (&**file).write(&1u64.to_ne_bytes());
        }
    }
}
