//! The back end over io_uring(7): multishot recvmsg into slots that the kernel selects, and waiting, in
//! one system call for all sockets. Sends use the same ring or sendmmsg(2), whichever costs less. Needs
//! Linux 6.1.
//!
//! A turn costs one call to wait and receive, and one or a few to send. The wait needs no call if the
//! sending call through the ring has already found an arrival.

#![allow(unsafe_code)] // system calls

mod deadline;
mod engine;
mod message;
mod ring;
mod send;
mod slots;
mod token;

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};

use self::engine::{Engine, Filled, Sizes};
use self::ring::Wait;
use self::send::Send;
use super::arrival::{SlotSpan, SocketFacts, facts_of_sockets, take_in};
use super::sender::Sender;
use super::{DatagramIo, IoCounters, IoOptions, Waker, eventfd, peer_errors};
use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::time::{Clock, Instant};

/// Batch I/O by io_uring(7).
pub struct UringIo {
    // Comes first, so that no operation is in flight when the memory is freed.
    engine: Engine,
    sockets: Vec<UdpSocket>,
    facts: Vec<SocketFacts>,
    sender: Sender,
    rx: Rx,
    memory: Memory,
    tx: Tx,
    /// Slots filled in this turn, also with dropped data.
    slots_used: Vec<Filled>,
    /// Whether the wait before this receive has processed arrivals.
    has_looked: bool,
    sizes: Sizes,
    wakeups: OwnedFd,
    waker: Waker,
    counters: IoCounters,
    clock: Clock,
}

/// Addresses of the slots that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    address: usize,
    slot_count: usize,
    slot_size: usize,
}

impl Memory {
    fn of(rx: &Rx) -> Self {
        let address = rx.slot(0).as_ptr().addr();
        Memory { address, slot_count: rx.slot_count(), slot_size: rx.slot_size() }
    }
}

/// Why there is no [`UringIo`], with its sockets.
pub(super) struct RingRefused {
    pub(super) why: io::Error,
    pub(super) sockets: Vec<UdpSocket>,
}

impl UringIo {
    /// Uses these bound sockets; their order gives their numbers. A predecessor may have bound them.
    /// Deadlines are in the time of `clock`. Fails if the kernel or the container has no io_uring, or
    /// lacks a feature.
    ///
    /// The thread that first waits, receives or flushes should keep doing so: another thread has to
    /// recreate the ring.
    pub fn new(sockets: Vec<UdpSocket>, options: &IoOptions, clock: Clock) -> io::Result<Self> {
        UringIo::try_new(sockets, options, clock).map_err(|refused| refused.why)
    }

    pub(super) fn try_new(
        sockets: Vec<UdpSocket>,
        options: &IoOptions,
        clock: Clock,
    ) -> Result<Self, RingRefused> {
        let sizes = Sizes::for_all(options.slots, sockets.len());
        UringIo::with_sizes(sockets, options, clock, sizes)
    }

    fn with_sizes(
        sockets: Vec<UdpSocket>,
        options: &IoOptions,
        clock: Clock,
        sizes: Sizes,
    ) -> Result<Self, RingRefused> {
        let start = || {
            let facts = SocketFacts::prepare_all(&sockets, options)?;
            let slot_size = options.slot_size + message::PAYLOAD;
            let (mut rx, tx) = IoOptions { slots: options.slots.max(1), slot_size, ..*options }.memory();
            let wakeups = eventfd()?;
            let waker = Waker::new(wakeups.try_clone()?);
            // SAFETY: a box that is part of `self`; `settle` checks that it was not replaced.
            let mut engine = unsafe { Engine::new(&sockets, &facts, wakeups.as_fd(), &rx, sizes)? };
            engine.provide(&mut rx, 0..options.slots.max(1) as u16);
            Ok((facts, rx, tx, wakeups, waker, engine))
        };
        let (facts, rx, tx, wakeups, waker, engine) = match start() {
            Ok(parts) => parts,
            Err(why) => return Err(RingRefused { why, sockets }),
        };
        Ok(UringIo {
            engine,
            sender: Sender::new(&facts, options.frames_max, options.gso),
            memory: Memory::of(&rx),
            slots_used: Vec::with_capacity(rx.slot_count()),
            has_looked: false,
            counters: IoCounters::default(),
            sockets,
            facts,
            rx,
            tx,
            sizes,
            wakeups,
            waker,
            clock,
        })
    }

    /// A waker that ends a wait from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// The sockets in order, for a successor or for queries of their buffers.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// Ensures that the kernel may be entered: from this thread, and with the memory that it knows.
    fn settle(&mut self) -> io::Result<()> {
        assert_eq!(Memory::of(&self.rx), self.memory, "the receive slots belong to the back end");
        if self.engine.is_of_this_thread()? {
            return Ok(());
        }
        // SAFETY: as at the start. The old engine fills no more slots: it does so only while its thread
        // is in the kernel, and then it is closed.
        let mut fresh =
            unsafe { Engine::new(&self.sockets, &self.facts, self.wakeups.as_fd(), &self.rx, self.sizes)? };
        fresh.inherit(&mut self.engine);
        let mut is_free = vec![true; self.rx.slot_count()];
        for slot in fresh.arrived().chain(self.slots_used.iter().map(|filled| filled.slot)) {
            is_free[usize::from(slot)] = false;
        }
        fresh.provide(&mut self.rx, (0..).zip(is_free).filter_map(|(slot, is_free)| is_free.then_some(slot)));
        self.engine = fresh;
        self.engine.is_of_this_thread().map(drop)
    }
}

impl Drop for UringIo {
    /// Leaves no operation in flight. In another thread, the kernel ends them when the ring is closed.
    fn drop(&mut self) {
        let is_ours = Memory::of(&self.rx) == self.memory && self.engine.is_of_this_thread().unwrap_or(false);
        if is_ours && let Err(error) = self.engine.finish() {
            tracing::debug!(%error, "cannot empty the io_uring before closing it");
        }
    }
}

impl DatagramIo for UringIo {
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.settle()?;
        self.engine.start_what_ended()?;
        while !self.engine.wait(self.clock, deadline)? && !self.engine.has_news() {}
        self.engine.forget_news();
        self.has_looked = true;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        self.settle()?;
        if !std::mem::take(&mut self.has_looked) {
            self.engine.start_what_ended()?;
            self.engine.enter(Wait::Look)?;
        }
        peer_errors::read(&mut self.engine.failing, &self.sockets, &mut self.rx, &mut self.counters);
        while let Some(filled) = self.engine.next_filled() {
            self.slots_used.push(filled);
            let arrival = message::read(self.rx.slot(filled.slot), filled.len);
            let place = SlotSpan { socket: filled.socket, slot: filled.slot, start: message::PAYLOAD as u32 };
            let facts = &mut self.facts[filled.socket.0 as usize];
            take_in(arrival, place, facts, &mut self.rx, &mut self.counters);
        }
        Ok(())
    }

    fn turn(&mut self) -> (&mut Rx, &mut Tx) {
        (&mut self.rx, &mut self.tx)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.settle()?;
        if !self.tx.is_empty() {
            let mut call = Send { engine: &mut self.engine, sockets: &self.sockets };
            self.sender.flush(&mut call, &self.rx, &self.tx, &mut self.counters);
        }
        self.tx.clear();
        self.engine.give_back(&mut self.rx, self.slots_used.drain(..));
        self.rx.clear();
        self.engine.account(&mut self.counters);
        Ok(())
    }

    facts_of_sockets!();

    fn pause(&mut self, id: SocketId) -> io::Result<()> {
        if self.facts[id.0 as usize].is_paused {
            return Ok(());
        }
        self.settle()?;
        self.engine.pause(id).inspect_err(|_| self.engine.resume(id))?;
        let facts = &mut self.facts[id.0 as usize];
        self.counters.kernel_drops += facts.recount_drops(&self.sockets[id.0 as usize]);
        facts.is_paused = true;
        Ok(())
    }

    fn resume(&mut self, id: SocketId) -> io::Result<()> {
        if std::mem::take(&mut self.facts[id.0 as usize].is_paused) {
            self.engine.resume(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bound() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// `None`, with a message, if there is no io_uring.
    fn open(sockets: Vec<UdpSocket>, sizes: Sizes) -> Option<UringIo> {
        let options = IoOptions { slots: 16, slot_size: 2048, ..IoOptions::default() };
        UringIo::with_sizes(sockets, &options, Clock::start(), sizes)
            .map_err(|refused| eprintln!("skipped: {}", refused.why))
            .ok()
    }

    #[test]
    fn segmentation_that_the_kernel_refuses_is_given_up_and_nothing_is_lost() {
        let receiver = bound();
        let to = receiver.local_addr().unwrap();
        // One socket sends with sendmmsg, two through the ring.
        for socket_count in [1, 2] {
            let senders: Vec<_> = (0..socket_count).map(|_| bound()).collect();
            for sender in &senders {
                // There is no segmentation without checksums: EINVAL.
                super::super::sys::set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
                    .unwrap();
            }
            let Some(mut io) = open(senders, Sizes::for_all(16, socket_count)) else { return };
            for turn in 0..2 {
                for number in 0..40u8 {
                    let tx = io.turn().1;
                    let socket = SocketId(u16::from(number) % socket_count as u16);
                    let to = tx.destination(socket, to, None).unwrap();
                    tx.stage(to, 64).unwrap()[..2].copy_from_slice(&[turn, number]);
                }
                io.flush().unwrap();
                let mut numbers = Vec::new();
                for _ in 0..40 {
                    let mut bytes = [0; 128];
                    assert_eq!(receiver.recv(&mut bytes).unwrap(), 64);
                    assert_eq!(bytes[0], turn);
                    numbers.push(bytes[1]);
                }
                numbers.sort_unstable();
                assert_eq!(numbers, Vec::from_iter(0..40));
            }
            assert_eq!((io.counters().sent, io.counters().gso_off), (80, 1));
        }
    }

    #[test]
    fn what_the_ring_cannot_send_is_counted() {
        let (receiver, nowhere) = (bound(), "127.0.0.1:0".parse().unwrap());
        let Some(mut io) = open(vec![bound(), bound()], Sizes::for_all(16, 2)) else { return };
        for (socket, to) in
            [(0, receiver.local_addr().unwrap()), (1, nowhere), (1, io.local_addr(SocketId(0)))]
        {
            let tx = io.turn().1;
            let to = tx.destination(SocketId(socket), to, None).unwrap();
            tx.stage(to, 10).unwrap();
        }
        io.flush().unwrap();
        let counters = io.counters();
        assert_eq!((counters.sent, counters.send_failed, counters.send_full), (2, 1, 0));
        receiver.recv(&mut [0; 16]).unwrap();
    }

    #[test]
    fn a_completion_queue_that_is_full_delays_and_loses_nothing() {
        let (peer, sockets) = (bound(), Vec::from_iter((0..8).map(|_| bound())));
        let to = Vec::from_iter(sockets.iter().map(|socket| socket.local_addr().unwrap()));
        let Some(mut io) = open(sockets, Sizes { submissions: 2, completions: 4 }) else { return };
        for round in 0..10u8 {
            for to in &to {
                peer.send_to(&[round], to).unwrap();
            }
        }
        let mut count = 0;
        while count < 80 {
            io.wait(None).unwrap();
            io.receive().unwrap();
            let (rx, tx) = io.turn();
            count += rx.len();
            // And a response from each socket.
            for index in 0..rx.len() {
                let (received, _) = rx.get_mut(index);
                let to = tx.destination(received.socket, received.peer, None).unwrap();
                tx.stage(to, 1).unwrap();
            }
            io.flush().unwrap();
        }
        let counters = io.counters();
        assert_eq!((counters.received, counters.sent), (80, 80));
        assert!(counters.completions_delayed > 0, "{counters:?}");
        for _ in 0..80 {
            peer.recv(&mut [0; 4]).unwrap();
        }
    }
}
