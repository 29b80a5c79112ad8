//! The back end for every kernel: mio for waiting, recvmmsg and sendmmsg for batches, and UDP_GRO and
//! UDP_SEGMENT if the kernel has them.

mod receive;
mod send;
mod wait;

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use self::receive::ReceiveCall;
pub use self::send::Sendmmsg;
use self::wait::ReadySocket;
pub(super) use self::wait::Waiter;
use super::arrival::{SlotSpan, SocketFacts, facts_of_sockets, take_in};
use super::ready::{ReadySockets, SocketRead};
use super::sender::Sender;
use super::{DatagramIo, IoCounters, IoOptions, Waker, peer_errors};
use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::time::{Clock, Instant};

/// Batch I/O by recvmmsg(2) and sendmmsg(2).
pub struct MmsgIo {
    sockets: Vec<UdpSocket>,
    facts: Vec<SocketFacts>,
    ready: ReadySockets,
    /// The sockets whose error queue may have entries.
    failing: ReadySockets,
    waiter: Waiter,
    receive_call: ReceiveCall,
    sender: Sender,
    rx: Rx,
    tx: Tx,
    /// Slots used in this turn, also for dropped data.
    slots_used: usize,
    counters: IoCounters,
    clock: Clock,
}

impl MmsgIo {
    /// Uses these bound sockets; their order gives their numbers. A predecessor may have bound them.
    /// Deadlines are in the time of `clock`.
    pub fn new(sockets: Vec<UdpSocket>, options: &IoOptions, clock: Clock) -> io::Result<Self> {
        let facts = SocketFacts::prepare_all(&sockets, options)?;
        let (rx, tx) = options.memory();
        Ok(MmsgIo {
            ready: ReadySockets::new(sockets.len()),
            failing: ReadySockets::new(sockets.len()),
            waiter: Waiter::new(&sockets)?,
            receive_call: ReceiveCall::new(),
            sender: Sender::new(&facts, options.frames_max, options.gso),
            rx,
            tx,
            slots_used: 0,
            counters: IoCounters::default(),
            clock,
            facts,
            sockets,
        })
    }

    /// A waker that ends a wait from another thread.
    pub fn waker(&self) -> Waker {
        self.waiter.waker()
    }

    /// A descriptor that is readable when something would end a wait. It is open as long as the back end.
    pub fn descriptor(&self) -> RawFd {
        self.waiter.descriptor()
    }

    /// Whether the last turn left data: then a wait returns at once.
    pub fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.failing.is_empty()
    }

    /// The sockets in order, for a successor or for queries of their buffers.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }
}

impl DatagramIo for MmsgIo {
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let MmsgIo { waiter, facts, ready, failing, clock, .. } = self;
        let has_news = !ready.is_empty() || !failing.is_empty();
        let on_ready = |ReadySocket { socket, has_error }| {
            ready.insert(socket);
            if has_error && facts[socket.0 as usize].reports_errors {
                failing.insert(socket);
            }
        };
        if has_news { waiter.look(on_ready) } else { waiter.wait(*clock, deadline, on_ready) }
    }

    fn receive(&mut self) -> io::Result<()> {
        let MmsgIo { sockets, facts, ready, failing, receive_call, rx, slots_used, counters, .. } = self;
        // Errors come first, so that no pending error ends a receive.
        peer_errors::read(failing, sockets, rx, counters);
        ready.deal(rx.slot_count() - *slots_used, |id, share| {
            let asked = share.min(receive::MESSAGES_MAX);
            let first_slot = *slots_used as u16;
            let fd = sockets[id.0 as usize].as_fd();
            let facts = &mut facts[id.0 as usize];
            match receive_call.receive(fd, rx, first_slot, asked) {
                Ok(taken) => {
                    for (index, slot) in (0..taken).zip(first_slot..) {
                        let place = SlotSpan { socket: id, slot, start: 0 };
                        take_in(receive_call.arrival(index), place, facts, rx, counters);
                    }
                    *slots_used += taken;
                    // A pending ICMP error ends a recvmmsg(2) early.
                    SocketRead { taken, drained: taken < asked && !facts.may_end_early() }
                }
                // An ICMP error of a peer; reading it has cleared it. Its copy in the error queue stays
                // there, and has an event of its own.
                Err(e) => SocketRead { taken: 0, drained: e.kind() == io::ErrorKind::WouldBlock },
            }
        });
        Ok(())
    }

    fn turn(&mut self) -> (&mut Rx, &mut Tx) {
        (&mut self.rx, &mut self.tx)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.tx.is_empty() {
            let mut call = Sendmmsg(&self.sockets);
            self.sender.flush(&mut call, &self.rx, &self.tx, &mut self.counters);
        }
        self.tx.clear();
        self.rx.clear();
        self.slots_used = 0;
        Ok(())
    }

    facts_of_sockets!();

    fn pause(&mut self, id: SocketId) -> io::Result<()> {
        let (facts, socket) = (&mut self.facts[id.0 as usize], &self.sockets[id.0 as usize]);
        if facts.is_paused {
            return Ok(());
        }
        self.waiter.forget(socket.as_raw_fd())?;
        self.counters.kernel_drops += facts.recount_drops(socket);
        facts.is_paused = true;
        self.ready.remove(id);
        self.failing.remove(id);
        Ok(())
    }

    fn resume(&mut self, id: SocketId) -> io::Result<()> {
        let facts = &mut self.facts[id.0 as usize];
        if facts.is_paused {
            self.waiter.watch(id, self.sockets[id.0 as usize].as_raw_fd())?;
            facts.is_paused = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sys;
    use super::*;

    #[test]
    fn segmentation_that_the_kernel_refuses_is_given_up_and_nothing_is_lost() {
        let bound = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (sender, receiver) = (bound(), bound());
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let to = receiver.local_addr().unwrap();
        // There is no segmentation without checksums: EINVAL.
        sys::set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let mut io = MmsgIo::new(vec![sender], &IoOptions::default(), Clock::start()).unwrap();
        // A refusal of datagrams that exceed the path's limit says nothing. For short ones, the first
        // cause is their number.
        let mut sent = 0;
        for (turn, len, count, gso_off) in [(0, 2_000, 30, 0), (1, 64, 100, 0), (2, 64, 100, 1)] {
            for number in 0..count {
                let tx = io.turn().1;
                let to = tx.destination(SocketId(0), to, None).unwrap();
                tx.stage(to, len).unwrap()[..2].copy_from_slice(&[turn, number]);
            }
            io.flush().unwrap();
            for number in 0..count {
                let mut bytes = [0; 4_096];
                assert_eq!(receiver.recv(&mut bytes).unwrap(), len);
                assert_eq!(bytes[..2], [turn, number]);
            }
            sent += u64::from(count);
            assert_eq!(io.counters(), IoCounters { sent, gso_off, ..IoCounters::default() });
        }
    }
}
