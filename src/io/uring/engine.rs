//! Operations in flight in the ring, and their completions.
//!
//! Receiving: one multishot recvmsg per socket, all of them into the same free slots. It ends when no slot is
//! left (ENOBUFS), after an empty datagram and after an error, and is restarted at the next wait. Sockets
//! that got no slot in this turn come first, so a flooded socket delays no other by more than a turn.
//!
//! Pausing: the receive of one socket is cancelled and not restarted. Data that arrived before its end
//! was received; a cancelled receive takes nothing from the socket.
//!
//! Errors of peers: a multishot poll only for errors (POLLERR) per socket that reports them. A receive
//! reports an error only if no send has met it first.
//!
//! Sending: a batch is submitted and completed within the call. A send that must not wait (MSG_DONTWAIT) is
//! executed while it is submitted: `io_issue_sqe` fails it on EAGAIN instead of retrying later (REQ_F_NOWAIT,
//! io_uring/net.c). So its completion is there when the call returns; if not, the next call waits for it.

#![allow(unsafe_code)] // system calls

use std::collections::VecDeque;
use std::io;
use std::mem::zeroed;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::CancelBuilder;
use io_uring::{cqueue, opcode, types};
use libc::c_int;

use super::super::IoCounters;
use super::super::arrival::SocketFacts;
use super::super::ready::ReadySockets;
use super::super::sender::{MESSAGES_MAX, Messages};
use super::deadline::{WaitEnd, end_of_wait};
use super::message::{CONTROL_ROOM, NAME_ROOM};
use super::ring::{Ring, Wait};
use super::slots::{GROUP, SlotRing};
use super::token::Operation;
use crate::base::batch::{Rx, SocketId};
use crate::base::time::{Clock, Instant};

/// A slot that the kernel has filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    pub(super) socket: SocketId,
    pub(super) slot: u16,
    /// Size in bytes, header included.
    pub(super) len: usize,
}

/// Sizes of the two queues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) submissions: usize,
    pub(super) completions: usize,
}

impl Sizes {
    /// Completions for all operations that can be in flight: each slot filled, each receive, the waker and
    /// the timer ended, errors on each socket, a batch sent. So the completion queue never overflows.
    pub(super) fn for_all(slot_count: usize, socket_count: usize) -> Self {
        let submissions = 2 * MESSAGES_MAX;
        let completions = slot_count + 2 * socket_count + MESSAGES_MAX + 2;
        Sizes { submissions, completions: completions.max(2 * submissions) }
    }
}

/// Maximum attempts to cancel a receive and to check its end. One is usually enough.
const CANCEL_TRIES: usize = 100;

/// Operations in flight on a socket.
#[derive(Clone, Copy, Debug, Default)]
struct UnderWay {
    receive: bool,
    /// The watch of its error queue.
    watch: bool,
    reports_errors: bool,
    /// Whether nothing must be started.
    is_paused: bool,
    /// Slots filled in this turn.
    filled: u32,
}

/// The ring and all operations in flight.
pub(super) struct Engine {
    // Comes first, so that it is closed before the kernel's memory is freed.
    ring: Ring,
    slots: SlotRing,
    slot_count: usize,
    /// Number of slots that the kernel may fill.
    free_count: usize,
    /// Only the two lengths in it are used.
    receive_header: Box<libc::msghdr>,
    arrived: VecDeque<Filled>,
    /// Sockets without a receive that have filled no slot in this turn.
    starved: VecDeque<SocketId>,
    /// The other sockets without a receive.
    ended: VecDeque<SocketId>,
    /// Sockets that report errors and are not watched for them.
    unwatched: Vec<SocketId>,
    /// The sockets whose error queue may have entries.
    pub(super) failing: ReadySockets,
    /// Operations by socket.
    under_way: Box<[UnderWay]>,
    /// Index of the waker among the registered files, after the sockets.
    waker: u32,
    waker_is_watched: bool,
    /// When the timer fires, if it is set.
    timer: Option<Instant>,
    /// Read by the kernel when the timer is submitted.
    timer_after: Box<types::Timespec>,
    sends_under_way: usize,
    answers: Box<[c_int]>,
    /// Whether an event other than a datagram has arrived that ends a wait.
    has_news: bool,
    out_of_slots: u64,
    completions_delayed: u64,
}

// SAFETY: the pointers in the header are null.
unsafe impl Send for Engine {}

impl Engine {
    /// An engine for these sockets with these facts, and for slots of `rx` that are provided later.
    ///
    /// # Safety
    ///
    /// The memory of `rx` must not move while the engine is entered.
    pub(super) unsafe fn new(
        sockets: &[UdpSocket],
        facts: &[SocketFacts],
        waker: BorrowedFd<'_>,
        rx: &Rx,
        sizes: Sizes,
    ) -> io::Result<Self> {
        let files: Vec<_> =
            sockets.iter().map(AsRawFd::as_raw_fd).chain(std::iter::once(waker.as_raw_fd())).collect();
        let ring = Ring::new(&files, sizes.submissions, sizes.completions)?;
        let mut slots = SlotRing::new(rx.slot_count())?;
        // SAFETY: the order of the fields drops the slot ring after the ring is closed.
        unsafe { slots.register(&ring)? };
        // SAFETY: a C structure of integers and pointers, for which zero is a valid value.
        let mut receive_header: Box<libc::msghdr> = Box::new(unsafe { zeroed() });
        receive_header.msg_namelen = NAME_ROOM as _;
        receive_header.msg_controllen = CONTROL_ROOM as _;
        let of_facts = |facts: &SocketFacts| UnderWay {
            reports_errors: facts.reports_errors,
            is_paused: facts.is_paused,
            ..UnderWay::default()
        };
        let under_way: Box<[UnderWay]> = facts.iter().map(of_facts).collect();
        let numbered = || (0..).map(SocketId).zip(&under_way).filter(|(_, socket)| !socket.is_paused);
        Ok(Engine {
            ring,
            slots,
            slot_count: rx.slot_count(),
            free_count: 0,
            receive_header,
            arrived: VecDeque::with_capacity(rx.slot_count()),
            starved: VecDeque::with_capacity(sockets.len()),
            ended: numbered().map(|(id, _)| id).collect(),
            unwatched: numbered().filter(|(_, socket)| socket.reports_errors).map(|(id, _)| id).collect(),
            failing: ReadySockets::new(sockets.len()),
            under_way,
            waker: sockets.len() as u32,
            waker_is_watched: false,
            timer: None,
            timer_after: Box::default(),
            sends_under_way: 0,
            answers: vec![0; MESSAGES_MAX].into(),
            has_news: false,
            out_of_slots: 0,
            completions_delayed: 0,
        })
    }

    /// Takes over the data that a predecessor over the same slots has received and not returned.
    pub(super) fn inherit(&mut self, predecessor: &mut Engine) {
        predecessor.take_in();
        for filled in predecessor.arrived.drain(..) {
            self.arrived.push_back(filled);
        }
        self.out_of_slots = predecessor.out_of_slots;
        self.completions_delayed = predecessor.completions_delayed;
    }

    /// Slots that were filled and not returned.
    pub(super) fn arrived(&self) -> impl Iterator<Item = u16> {
        self.arrived.iter().map(|filled| filled.slot)
    }

    /// Whether this thread may use the engine.
    pub(super) fn is_of_this_thread(&mut self) -> io::Result<bool> {
        self.ring.is_of_this_thread()
    }

    /// Restarts ended operations: receives, and the watches of error queues and the waker.
    pub(super) fn start_what_ended(&mut self) -> io::Result<()> {
        while let Some(socket) = self.starved.pop_front().or_else(|| self.ended.pop_front()) {
            self.start_receive(socket)?;
        }
        while let Some(socket) = self.unwatched.pop() {
            self.watch(socket.0.into(), libc::POLLERR, Operation::Errors(socket))?;
            self.under_way[socket.0 as usize].watch = true;
        }
        if !self.waker_is_watched {
            self.watch(self.waker, libc::POLLIN, Operation::Waker)?;
            self.waker_is_watched = true;
        }
        Ok(())
    }

    /// Watches a registered file for these events.
    fn watch(&mut self, file: u32, events: libc::c_short, token: Operation) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fixed(file), events as u32).multi(true);
        // SAFETY: points to nothing.
        unsafe { self.ring.push(&entry.build().user_data(token.encode())) }
    }

    fn start_receive(&mut self, socket: SocketId) -> io::Result<()> {
        let header = &raw const *self.receive_header;
        let entry = opcode::RecvMsgMulti::new(types::Fixed(socket.0.into()), header, GROUP);
        let entry = entry.build().user_data(Operation::Receive(socket).encode());
        // SAFETY: the header is boxed and lives as long as the ring. The kernel fills free slots of
        // memory that does not move (`Engine::new`), and only while this thread is in `Ring::enter`.
        unsafe { self.ring.push(&entry)? };
        self.under_way[socket.0 as usize].receive = true;
        Ok(())
    }

    /// Ends the operations on a socket and starts no more. Only in the thread that the ring belongs to.
    pub(super) fn pause(&mut self, socket: SocketId) -> io::Result<()> {
        let index = socket.0 as usize;
        self.under_way[index].is_paused = true;
        self.starved.retain(|&other| other != socket);
        self.ended.retain(|&other| other != socket);
        self.unwatched.retain(|&other| other != socket);
        self.failing.remove(socket);
        for _ in 0..CANCEL_TRIES {
            let UnderWay { receive, watch, .. } = self.under_way[index];
            if !receive && !watch {
                return Ok(());
            }
            self.enter(Wait::Submit)?; // otherwise the last entries would not be cancelled
            for token in [Operation::Receive(socket), Operation::Errors(socket)] {
                self.ring.cancel(CancelBuilder::user_data(token.encode()))?;
            }
            self.enter(Wait::Look)?;
        }
        Err(io::Error::other("the io_uring does not end a receive"))
    }

    /// Receives on a paused socket again, starting at the next wait.
    pub(super) fn resume(&mut self, socket: SocketId) {
        let state = &mut self.under_way[socket.0 as usize];
        state.is_paused = false;
        if !state.receive {
            self.ended.push_back(socket);
        }
        if state.reports_errors && !state.watch {
            self.unwatched.push(socket);
        }
    }

    /// Enters the kernel and processes completions. True if a signal has ended the wait.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<bool> {
        let interrupted = self.ring.enter(wait)?;
        self.take_in();
        Ok(interrupted)
    }

    fn take_in(&mut self) {
        if self.ring.has_overflowed() {
            self.completions_delayed += 1;
        }
        let Engine { ring, arrived, starved, ended, under_way, answers, .. } = self;
        for completion in ring.completions() {
            let (result, flags) = (completion.result(), completion.flags());
            let goes_on = cqueue::more(flags);
            match Operation::decode(completion.user_data()) {
                Some(Operation::Receive(socket)) => {
                    let state = &mut under_way[socket.0 as usize];
                    if let Some(slot) = cqueue::buffer_select(flags) {
                        arrived.push_back(Filled { socket, slot, len: result.max(0) as usize });
                        state.filled += 1;
                        self.free_count -= 1;
                    }
                    if goes_on {
                        continue;
                    }
                    state.receive = false;
                    self.has_news = true;
                    if result == -libc::ENOBUFS {
                        self.out_of_slots += 1;
                    }
                    match state {
                        UnderWay { is_paused: true, .. } => {}
                        UnderWay { filled: 0, .. } => starved.push_back(socket),
                        _ => ended.push_back(socket),
                    }
                }
                Some(Operation::Send(number)) => {
                    answers[usize::from(number)] = (-result).max(0);
                    self.sends_under_way -= 1;
                }
                Some(Operation::Errors(socket)) => {
                    let state = &mut under_way[socket.0 as usize];
                    state.watch = goes_on;
                    if !state.is_paused {
                        self.failing.insert(socket);
                        if !goes_on {
                            self.unwatched.push(socket);
                        }
                    }
                }
                Some(Operation::Waker) => {
                    self.waker_is_watched = goes_on;
                    self.has_news = true;
                }
                Some(Operation::Timer) => self.timer = None,
                None => debug_assert!(false, "an unknown completion: {completion:?}"),
            }
        }
    }

    /// Whether a wait is over.
    pub(super) fn has_news(&self) -> bool {
        self.has_news || !self.arrived.is_empty() || !self.failing.is_empty()
    }

    /// Records that the events were handled.
    pub(super) fn forget_news(&mut self) {
        self.has_news = false;
    }

    /// The next filled slot. The caller owns it until it is given back.
    pub(super) fn next_filled(&mut self) -> Option<Filled> {
        self.arrived.pop_front()
    }

    /// Ends the turn of these slots, and gives them back to the kernel.
    pub(super) fn give_back(&mut self, rx: &mut Rx, filled: impl Iterator<Item = Filled>) {
        let Engine { under_way, slots, free_count, .. } = self;
        for Filled { socket, slot, .. } in filled {
            under_way[socket.0 as usize].filled = 0;
            slots.provide(slot, rx.slot_mut(slot));
            *free_count += 1;
        }
        slots.publish();
    }

    /// Gives unused slots to the kernel.
    pub(super) fn provide(&mut self, rx: &mut Rx, free: impl Iterator<Item = u16>) {
        for slot in free {
            self.slots.provide(slot, rx.slot_mut(slot));
            self.free_count += 1;
        }
        self.slots.publish();
    }

    /// Adds the engine's counts to the counters.
    pub(super) fn account(&self, counters: &mut IoCounters) {
        counters.out_of_slots = self.out_of_slots;
        counters.completions_delayed = self.completions_delayed;
    }

    /// Waits for completions, at most until the deadline. True if the wait ended for a reason other than
    /// an arrival. The timer may end the wait early; then the caller continues it.
    pub(super) fn wait(&mut self, clock: Clock, deadline: Option<Instant>) -> io::Result<bool> {
        if self.has_news() {
            return self.enter(Wait::Look).map(|_| true);
        }
        let Some(deadline) = deadline else { return self.enter(Wait::For(None)) };
        let now = clock.now();
        match end_of_wait(now, deadline, self.timer) {
            WaitEnd::Now => return self.enter(Wait::Look).map(|_| true),
            WaitEnd::TimeOut(left) => return self.enter(Wait::For(Some(left))),
            WaitEnd::Timer => {}
            WaitEnd::NewTimer(left) => {
                *self.timer_after = left.into();
                let entry = opcode::Timeout::new(&raw const *self.timer_after).build();
                // SAFETY: the time is boxed and lives as long as the ring.
                unsafe { self.ring.push(&entry.user_data(Operation::Timer.encode()))? };
                self.timer = Some(deadline);
            }
        }
        self.enter(Wait::For(None))
    }

    fn is_idle(&self) -> bool {
        let has_sockets_idle = self.under_way.iter().all(|socket| !socket.receive && !socket.watch);
        has_sockets_idle && self.sends_under_way == 0 && !self.waker_is_watched && self.timer.is_none()
    }

    /// Cancels all operations and waits until none is in flight. Only in the thread that the ring belongs to.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        for _ in 0..CANCEL_TRIES {
            self.enter(Wait::Submit)?; // otherwise the last entries would not be cancelled
            self.ring.cancel(CancelBuilder::any())?;
            self.enter(Wait::Look)?;
            if self.is_idle() {
                break;
            }
        }
        // Otherwise the sockets would stay open until the kernel has dismantled the ring, some time
        // after it is closed.
        self.ring.submitter().unregister_buf_ring(GROUP)?;
        self.ring.submitter().unregister_files()
    }

    /// Submits messages of any sockets, and returns when they have completed.
    ///
    /// # Safety
    ///
    /// As [`SendCall::send`](super::super::sender::SendCall::send).
    pub(super) unsafe fn send(&mut self, messages: Messages<'_>) -> usize {
        let count = messages.headers.len().min(MESSAGES_MAX);
        self.answers[..count].fill(libc::EIO); // for messages that never reach the kernel
        for ((header, socket), number) in messages.headers.iter().zip(messages.sockets).take(count).zip(0..) {
            let entry = opcode::SendMsg::new(types::Fixed(socket.0.into()), &raw const header.msg_hdr);
            let entry = entry.flags(libc::MSG_DONTWAIT as u32).build();
            // SAFETY: the caller guarantees the pointers in the header, and the call does not return
            // before the send has completed.
            if unsafe { self.ring.push(&entry.user_data(Operation::Send(number).encode())) }.is_err() {
                break;
            }
            self.sends_under_way += 1;
        }
        // Processes arrivals too, if there are enough slots: then the next wait needs no call.
        let mut wait = if 2 * self.free_count > self.slot_count { Wait::Look } else { Wait::Submit };
        while self.sends_under_way > 0 {
            // A failed ring takes no further submission, so nothing is sent later.
            if self.enter(wait).is_err() {
                self.sends_under_way = 0;
            }
            wait = Wait::For(None);
        }
        messages.answers[..count].copy_from_slice(&self.answers[..count]);
        count
    }
}
