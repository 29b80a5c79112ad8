//! Batch I/O: the border between the roles and the kernel.
//!
//! A back end owns sockets, the memory of a turn, and a wait with a deadline. It knows no frames, and
//! the roles know no system calls. The back end is selected once at start; callers are generic over it,
//! without `dyn`.
//!
//! One turn of every daemon has the same five steps:
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
mod paths;
mod peer_errors;
mod ready;
mod sender;
mod sim;
mod sockaddr;
pub mod socket;
mod sys;
mod uring;
mod wait_set;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::time::Instant;

pub use self::back_end::{AUTO, BackEnd, IoChoice};
pub use self::mmsg::MmsgIo;
pub use self::packing::PAYLOAD_MAX;
pub use self::paths::TooLarge;
pub use self::sim::{Faults, NetCounters, SimIo, SimNet};
pub use self::uring::UringIo;
pub use self::wait_set::WaitSet;

/// Sizes of a turn, fixed at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoOptions {
    /// Receive slots of one turn: single datagrams, or runs of merged datagrams.
    pub slots: usize,
    /// Size of a slot in bytes. Merging (UDP_GRO) is on from 65,535 bytes.
    pub slot_size: usize,
    /// Maximum frames sent in one turn.
    pub frames_max: usize,
    /// Bytes for frames that a role makes itself.
    pub staging_bytes: usize,
    /// Maximum frames of equal length per datagram.
    pub frames_per_datagram: usize,
    /// Whether to use segmentation offload (UDP_SEGMENT) while the kernel accepts it.
    pub gso: bool,
    /// Whether the memory of a turn (4 MiB by default) is touched at start, so that the first turns have
    /// no page faults. For components that can use a whole CPU, not for occasional clients.
    pub prefault: bool,
}

impl Default for IoOptions {
    fn default() -> Self {
        IoOptions {
            slots: 64,
            // Not a power of two, since otherwise the slots' first lines would share a few cache sets.
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
    /// Sizes for frames of this size: every request that a turn can receive can be answered, and a role
    /// can make a thousand more frames.
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

/// Counters of a back end since its start, in datagrams unless stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Datagrams received; GRO segments count individually.
    pub received: u64,
    /// Datagrams larger than a slot, truncated by the kernel and dropped.
    pub truncated: u64,
    /// Empty datagrams, dropped.
    pub empty: u64,
    /// Datagrams that the kernel dropped because a receive buffer was full (SO_RXQ_OVFL).
    pub kernel_drops: u64,
    /// Datagrams handed to the kernel; GSO segments count individually.
    pub sent: u64,
    /// Datagrams not sent because a send buffer or queue was full (EAGAIN, ENOBUFS).
    pub send_full: u64,
    /// Datagrams not sent because they exceed the MTU of the interface (EMSGSIZE), although they hold one
    /// frame.
    pub send_too_large: u64,
    /// Datagrams not sent for another reason (unreachable, refused).
    pub send_failed: u64,
    /// Error number of the last of them, as in errno(3); 0 without one.
    pub send_errno: i32,
    /// Errors that the network reported about sent datagrams (ICMP), on sockets that report them.
    pub peer_errors: u64,
    /// Number of times the kernel rejected segmentation offload, which switches it off: 0 or 1.
    pub gso_off: u64,
    /// Number of times a socket waited because all slots of the turn were in use (io_uring's ENOBUFS).
    /// Nothing is lost: the datagrams are in the socket's buffer.
    pub out_of_slots: u64,
    /// Number of times the completion queue was full and the kernel held completions back (io_uring).
    /// Nothing is lost.
    pub completions_delayed: u64,
}

/// Sockets, the memory of a turn, and waiting.
pub trait DatagramIo {
    /// Waits until a socket is readable or has an error to list, the [`Waker`] fires, or `deadline` has
    /// passed. Returns at once if the last turn left data. Deadlines are precise below a millisecond.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()>;

    /// Receives at most one turn's data into [`Rx`]. Errors of single datagrams (an ICMP error of one peer, a
    /// truncated datagram) are listed or counted, never returned. A simulated network has no ICMP.
    fn receive(&mut self) -> io::Result<()>;

    /// The current turn: received datagrams, and datagrams to send.
    fn turn(&mut self) -> (&mut Rx, &mut Tx);

    /// Sends all of [`Tx`], then clears both. Datagrams that cannot be sent are counted.
    fn flush(&mut self) -> io::Result<()>;

    /// The next datagram that was too large for its destination ([`IoCounters::send_too_large`]), once per
    /// destination. `None` if there is none; a simulated network has no MTU.
    fn poll_too_large(&mut self) -> Option<TooLarge> {
        None
    }

    /// Local address of a socket.
    fn local_addr(&self, socket: SocketId) -> SocketAddr;

    /// The counters so far.
    fn counters(&self) -> IoCounters;

    /// Datagrams that the kernel dropped because this socket's receive buffer was full; a part of
    /// [`IoCounters::kernel_drops`].
    fn kernel_drops(&self, socket: SocketId) -> u64;

    /// Unusable datagrams of a socket: its share of [`IoCounters::empty`] and [`IoCounters::truncated`].
    fn unusable(&self, socket: SocketId) -> u64;

    /// Updates the counts of dropped datagrams. The kernel reports them with the next datagram, so the
    /// last ones are missing otherwise.
    fn recount_drops(&mut self);

    /// Stops reading a socket until it is resumed. Unread data and errors stay for a successor with a
    /// duplicate of the descriptor. Data that was already read is received as usual, and sending
    /// continues. Drops during the pause are not counted, since the successor counts them. A second
    /// pause has no effect. After an error, the socket is unchanged, or the whole back end has failed.
    fn pause(&mut self, socket: SocketId) -> io::Result<()>;

    /// Reads a socket again, beginning with the data that it has now. Drops since the pause count, as
    /// there was no successor. No effect on a socket that is not paused.
    fn resume(&mut self, socket: SocketId) -> io::Result<()>;
}

/// A non-blocking counter that starts at zero, for a [`Waker`].
fn eventfd() -> io::Result<OwnedFd> {
    let flags = rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC;
    Ok(rustix::event::eventfd(0, flags)?)
}

/// Ends a [`DatagramIo::wait`] from another thread. Cheap to clone; a second wake-up has no effect.
#[derive(Clone, Debug, Default)]
pub struct Waker(Option<std::sync::Arc<std::fs::File>>);

impl Waker {
    /// A waker over an eventfd (eventfd(2)); a default waker wakes no thread.
    pub fn new(eventfd: OwnedFd) -> Self {
        Waker(Some(std::sync::Arc::new(eventfd.into())))
    }

    /// A waker for a thread that waits with [`Waker::wait_beside`].
    pub fn open() -> io::Result<Waker> {
        Ok(Waker::new(eventfd()?))
    }

    /// Waits until a descriptor is readable, or the waker fires.
    pub fn wait_beside(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        use std::io::Read;
        let mut watched = vec![PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        watched.extend(self.0.iter().map(|file| PollFd::new(&**file, PollFlags::IN)));
        match poll(&mut watched, None) {
            Err(Errno::INTR) => {}
            result => drop(result?),
        }
        if let Some(mut file) = self.0.as_deref() {
            let _ = file.read(&mut [0; 8]); // empty unless the waker has fired
        }
        Ok(())
    }

    /// Wakes the waiting thread.
    pub fn wake(&self) {
        use std::io::Write;
        if let Some(file) = &self.0 {
            // Only a full counter can fail, and then the waiting thread is already awake.
            let _ = (&**file).write(&1u64.to_ne_bytes());
        }
    }
}
