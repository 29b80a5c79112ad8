//! The back end for every kernel: mio for waiting, recvmmsg and sendmmsg for batches, UDP_GRO and
//! UDP_SEGMENT where the kernel has them.

mod receive;
mod send;
mod wait;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use self::receive::{Arrival, ReceiveCall};
use self::send::Sender;
use self::wait::Waiter;
use super::cmsg::Ancillary;
use super::ready::{Read, ReadySockets};
use super::{DatagramIo, IoCounters, IoOptions, Waker, socket, sys};
use crate::batch::{Received, Rx, SocketId, Tx};
use crate::time::{Clock, Instant};

/// The least slot size that every merged datagram fits.
const MERGED_MAX: usize = 65_535;

/// Batch I/O by recvmmsg(2) and sendmmsg(2).
pub struct MmsgIo {
    sockets: Vec<UdpSocket>,
    facts: Vec<SocketFacts>,
    ready: ReadySockets,
    waiter: Waiter,
    receive_call: ReceiveCall,
    sender: Sender,
    rx: Rx,
    tx: Tx,
    /// Slots of this turn that were used, also for what was dropped.
    slots_used: usize,
    counters: IoCounters,
    clock: Clock,
}

/// What is known of a socket.
struct SocketFacts {
    local: SocketAddr,
    /// Whether fewer messages than asked for mean that the socket is empty. Not so if it is
    /// connected: a pending ICMP error ends a recvmmsg(2) early.
    short_is_drained: bool,
    /// The last count of dropped datagrams that the kernel told.
    dropped: u32,
}

impl MmsgIo {
    /// Takes over sockets that are bound, here or by a predecessor; their order gives them their
    /// numbers. `clock` is the one that deadlines are given in.
    pub fn new(sockets: Vec<UdpSocket>, options: &IoOptions, clock: Clock) -> io::Result<Self> {
        if sockets.len() > usize::from(u16::MAX) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 65,535 sockets"));
        }
        let merge = options.slot_size >= MERGED_MAX;
        let facts = sockets.iter().map(|s| SocketFacts::prepare(s, merge)).collect::<io::Result<Vec<_>>>()?;
        let (rx, tx) = options.memory();
        Ok(MmsgIo {
            ready: ReadySockets::new(sockets.len()),
            waiter: Waiter::new(&sockets)?,
            receive_call: ReceiveCall::new(),
            sender: Sender::new(sockets.len(), options.frames_max, options.gso),
            rx,
            tx,
            slots_used: 0,
            counters: IoCounters::default(),
            clock,
            facts,
            sockets,
        })
    }

    /// Ends a wait from another thread.
    pub fn waker(&self) -> Waker {
        self.waiter.waker()
    }

    /// The sockets, in their order: to be handed to a successor, or asked for their buffers.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }
}

impl SocketFacts {
    fn prepare(socket: &UdpSocket, merge: bool) -> io::Result<Self> {
        socket::prepare(socket, merge)?;
        Ok(SocketFacts {
            local: socket.local_addr()?,
            short_is_drained: socket.peer_addr().is_err(),
            // Drops before our time are not ours; a kernel that cannot tell starts at zero.
            dropped: sys::dropped_by(socket.as_fd()).unwrap_or(0),
        })
    }

    /// Datagrams that were dropped since the last count. The count wraps, and two processors may
    /// note it in the wrong order.
    fn newly_dropped(&mut self, count: u32) -> u64 {
        match count.wrapping_sub(self.dropped) {
            newly if newly < 1 << 31 => {
                self.dropped = count;
                u64::from(newly)
            }
            _ => 0,
        }
    }
}

impl DatagramIo for MmsgIo {
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let MmsgIo { waiter, ready, clock, .. } = self;
        if ready.is_empty() {
            waiter.wait(*clock, deadline, |socket| ready.insert(socket))
        } else {
            waiter.look(|socket| ready.insert(socket))
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let MmsgIo { sockets, facts, ready, receive_call, rx, slots_used, counters, .. } = self;
        ready.deal(rx.slot_count() - *slots_used, |id, share| {
            let asked = share.min(receive::MESSAGES_MAX);
            let first_slot = *slots_used as u16;
            let fd = sockets[id.0 as usize].as_fd();
            let facts = &mut facts[id.0 as usize];
            match receive_call.receive(fd, rx, first_slot, asked) {
                Ok(taken) => {
                    for (index, slot) in (0..taken).zip(first_slot..) {
                        take_in(receive_call.arrival(index), id, slot, facts, rx, counters);
                    }
                    *slots_used += taken;
                    Read { taken, drained: taken < asked && facts.short_is_drained }
                }
                // An ICMP error of some peer; reading it has cleared it.
                Err(e) => Read { taken: 0, drained: e.kind() == io::ErrorKind::WouldBlock },
            }
        });
        Ok(())
    }

    fn turn(&mut self) -> (&mut Rx, &mut Tx) {
        (&mut self.rx, &mut self.tx)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.tx.is_empty() {
            self.sender.flush(&self.sockets, &self.rx, &self.tx, &mut self.counters);
        }
        self.tx.clear();
        self.rx.clear();
        self.slots_used = 0;
        Ok(())
    }

    fn local_addr(&self, socket: SocketId) -> SocketAddr {
        self.facts[socket.0 as usize].local
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

/// Notes one arrival in the batch, or in the counters if there is nothing to note.
fn take_in(
    arrival: Option<Arrival>,
    socket: SocketId,
    slot: u16,
    facts: &mut SocketFacts,
    rx: &mut Rx,
    counters: &mut IoCounters,
) {
    let Some(arrival) = arrival else { return };
    let (Arrival::Data { ancillary, .. } | Arrival::Empty(ancillary) | Arrival::Cut(ancillary)) = &arrival;
    if let Some(count) = ancillary.dropped {
        counters.kernel_drops += facts.newly_dropped(count);
    }
    match arrival {
        Arrival::Empty(_) => counters.empty += 1,
        Arrival::Cut(_) => counters.truncated += 1,
        Arrival::Data { peer, len, ancillary: Ancillary { segment_size, local_ip, .. } } => {
            let stride = segment_size.filter(|&size| size > 0).unwrap_or(len).min(len);
            counters.received += u64::from(len.div_ceil(stride));
            rx.push(Received { socket, peer, local_ip, slot, start: 0, len, stride });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_counts_wrap_and_may_come_in_the_wrong_order() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut facts = SocketFacts::prepare(&socket, true).unwrap();
        facts.dropped = u32::MAX - 1;
        let counts = [u32::MAX, 3, 2, 5];
        assert_eq!(counts.map(|count| facts.newly_dropped(count)), [1, 4, 0, 2]);
    }

    #[test]
    fn segmentation_that_the_kernel_refuses_is_given_up_and_nothing_is_lost() {
        let bound = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (sender, receiver) = (bound(), bound());
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let to = receiver.local_addr().unwrap();
        // Without checksums there is no segmentation: EINVAL.
        sys::set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let mut io = MmsgIo::new(vec![sender], &IoOptions::default(), Clock::start()).unwrap();
        for turn in 0..2 {
            for number in 0..100u8 {
                let tx = io.turn().1;
                let to = tx.destination(SocketId(0), to, None).unwrap();
                tx.stage(to, 64).unwrap()[..2].copy_from_slice(&[turn, number]);
            }
            io.flush().unwrap();
            for number in 0..100u8 {
                let mut bytes = [0; 128];
                assert_eq!(receiver.recv(&mut bytes).unwrap(), 64);
                assert_eq!(bytes[..2], [turn, number]);
            }
        }
        let expected = IoCounters { sent: 200, gso_off: 1, ..IoCounters::default() };
        assert_eq!(io.counters(), expected);
    }
}
