//! The mio back end: epoll, recvmmsg with GRO, sendmmsg with GSO.
//!
//! The kernel's cost is per datagram, hardly per system call, and least where many datagrams are one
//! buffer: so a turn drains every ready socket, and what it has for one destination leaves as one message that
//! the kernel cuts into segments (udp(7), UDP_SEGMENT). iovecs point into the receive slots: the payload
//! is never copied here, and frames that lie side by side share an iovec.
//!
//! mio registers edge-triggered: a socket is remembered as readable until a read comes up short.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::cmsg::{self, CONTROL_LEN, Control};
use super::sys::{self, SockAddr};
use super::{DatagramIo, IoCounters, Waker};
use crate::batch::{Destination, Received, Rx, SocketId, Tx};
use crate::time::{Clock, Instant};

/// Sizes of a turn, fixed at start-up.
#[derive(Clone, Copy, Debug)]
pub struct IoOptions {
    /// Receive slots: the most messages of a turn.
    pub slots: usize,
    /// Bytes of a slot: 65,536 takes whatever GRO merges.
    pub slot_size: usize,
    /// The most frames that a turn can send.
    pub frames_max: usize,
    /// Bytes for frames that the role makes itself.
    pub staging_bytes: usize,
    /// Frames of equal size that may share a datagram.
    pub frames_per_datagram: usize,
    /// Whether to let the kernel cut messages into datagrams.
    pub gso: bool,
}

impl IoOptions {
    /// Options for frames of this size: everything that a turn can receive can be answered, and a
    /// thousand frames beside.
    pub fn for_frames(frame_size: usize, frames_per_datagram: usize) -> Self {
        let (slots, slot_size, staged) = (64, 65_536, 1024);
        IoOptions {
            slots,
            slot_size,
            frames_max: slots * slot_size / frame_size + staged,
            staging_bytes: staged * frame_size,
            frames_per_datagram,
            gso: true,
        }
    }
}

const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// Deadlines closer than this go through a timerfd: mio rounds its time-outs up to whole milliseconds.
const TIMER_BELOW: Duration = Duration::from_millis(20);
/// Messages of one recvmmsg call: beyond 32 nothing is gained.
const RECEIVE_BATCH: usize = 32;
/// Messages of one sendmmsg call.
const SEND_BATCH: usize = 64;
/// iovecs of one sendmmsg call (a single message may have UIO_MAXIOV = 1,024).
const IOVECS: usize = 2048;
const IOVECS_PER_MESSAGE: usize = 1024;
/// Segments of one message: UDP_MAX_SEGMENTS of kernels before 6.9.
const SEGMENTS_MAX: usize = 64;
/// Bytes of one message: below the largest UDP payload over IPv4 and IPv6.
const MESSAGE_MAX: usize = 65_000;

struct Socket {
    socket: UdpSocket,
    addr: SocketAddr,
    /// May hold data: an event came and no read has come up short since.
    readable: bool,
    /// The kernel's drop count when it was last seen.
    dropped: u32,
}

/// One message of a send batch.
#[derive(Clone, Copy)]
struct Outgoing {
    datagrams: u64,
    segment_size: usize,
    iovecs: (usize, usize),
}

/// See the module's text.
pub struct MmsgIo {
    poll: Poll,
    events: Events,
    sockets: Vec<Socket>,
    wake: OwnedFd,
    timer: OwnedFd,
    timer_at: Option<Instant>,
    clock: Clock,
    rx: Rx,
    tx: Tx,
    /// Which socket is served first; moves on with every turn.
    first: usize,
    receiver: Receiver,
    sender: Sender,
    counters: IoCounters,
}

struct Receiver {
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    addrs: Vec<SockAddr>,
    controls: Vec<Control>,
}

struct Sender {
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    addrs: Vec<SockAddr>,
    controls: Vec<Control>,
    outgoing: Vec<Outgoing>,
    /// One message in one piece, for the kernel that will not cut it.
    scratch: Vec<u8>,
    gso: bool,
}

// SAFETY: the raw pointers in the headers and iovecs are written right before each system call and not used after
// it; between calls they are plain numbers.
unsafe impl Send for Receiver {}
// SAFETY: as above.
unsafe impl Send for Sender {}

impl MmsgIo {
    /// A back end over bound sockets, whether opened here or inherited; their order gives the [`SocketId`]s.
    pub fn new(sockets: Vec<UdpSocket>, options: IoOptions, clock: Clock) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (wake, timer) = (sys::eventfd()?, sys::timerfd()?);
        let registry = poll.registry();
        registry.register(&mut SourceFd(&wake.as_raw_fd()), WAKER, Interest::READABLE)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let mut owned = vec![];
        for (i, socket) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(true)?;
            registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(i), Interest::READABLE)?;
            let addr = socket.local_addr()?;
            // An inherited socket may hold data already; a first read that comes up short settles it.
            owned.push(Socket { socket, addr, readable: true, dropped: 0 });
        }
        Ok(MmsgIo {
            poll,
            events: Events::with_capacity(256),
            sockets: owned,
            wake,
            timer,
            timer_at: None,
            clock,
            rx: Rx::new(options.slots, options.slot_size),
            tx: Tx::new(options.frames_max, options.staging_bytes, options.frames_per_datagram),
            first: 0,
            receiver: Receiver::new(options.slots),
            sender: Sender::new(options.gso),
            counters: IoCounters::default(),
        })
    }

    /// Ends a wait from another thread.
    pub fn waker(&self) -> io::Result<Waker> {
        Ok(Waker::new(self.wake.try_clone()?))
    }

    /// Arms the timer for a close deadline; gives the time-out for the poll itself.
    fn time_out(&mut self, deadline: Option<Instant>) -> io::Result<Option<Duration>> {
        let Some(deadline) = deadline else { return Ok(None) };
        let left = deadline.since(self.clock.now());
        if left.is_zero() {
            return Ok(Some(Duration::ZERO));
        }
        if left > TIMER_BELOW {
            return Ok(Some(left));
        }
        if self.timer_at != Some(deadline) {
            sys::timerfd_arm(&self.timer, left)?;
            self.timer_at = Some(deadline);
        }
        Ok(None)
    }

    /// Reads at most `slots` messages of a socket into free slots.
    fn receive_from(&mut self, index: usize, slots: usize) {
        let first = self.rx.len();
        let count = slots.min(self.rx.slot_count() - first).min(RECEIVE_BATCH);
        if count == 0 {
            return;
        }
        let fd = self.sockets[index].socket.as_raw_fd();
        match self.receiver.receive(fd, &mut self.rx, first, count) {
            Ok(read) => {
                self.sockets[index].readable = read == count;
                for i in first..first + read {
                    self.take(index, i);
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => self.sockets[index].readable = false,
                // A pending error of some peer (ICMP) was reported instead of data: it is gone now, read on.
                _ => self.sockets[index].readable = true,
            },
        }
    }

    /// Decodes what one slot holds.
    fn take(&mut self, index: usize, slot: usize) {
        let Message { len, peer, cut, ancillary } = self.receiver.message(slot);
        if let Some(dropped) = ancillary.dropped {
            let since = dropped.wrapping_sub(self.sockets[index].dropped);
            self.counters.kernel_drops += u64::from(since);
            self.sockets[index].dropped = dropped;
        }
        let stride = ancillary.segment_size.filter(|&s| s > 0).unwrap_or(len as u32);
        self.counters.received += if len == 0 { 1 } else { u64::from((len as u32).div_ceil(stride)) };
        let Some(peer) = peer.filter(|_| len > 0 && !cut) else {
            self.counters.truncated += 1;
            return;
        };
        self.rx.push(Received {
            socket: SocketId(index as u16),
            peer,
            local_ip: ancillary.local_ip,
            slot: slot as u16,
            start: 0,
            len: len as u32,
            stride,
        });
    }
}

impl DatagramIo for MmsgIo {
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let left_over = self.sockets.iter().any(|s| s.readable);
        let time_out = if left_over { Some(Duration::ZERO) } else { self.time_out(deadline)? };
        match self.poll.poll(&mut self.events, time_out) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            match event.token() {
                WAKER => drop(sys::drain(&self.wake)),
                TIMER => {
                    sys::drain(&self.timer);
                    self.timer_at = None;
                }
                Token(index) => self.sockets[index].readable = true,
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let count = self.sockets.len();
        let ready = self.sockets.iter().filter(|s| s.readable).count();
        if ready == 0 {
            return Ok(());
        }
        self.first = (self.first + 1) % count;
        // Everybody gets a share first; then whoever still has data gets what is left.
        let share = (self.rx.slot_count() / ready).max(1);
        for slots in [share, RECEIVE_BATCH] {
            for i in 0..count {
                let index = (self.first + i) % count;
                if self.sockets[index].readable {
                    self.receive_from(index, slots);
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> (&mut Rx, &mut Tx) {
        (&mut self.rx, &mut self.tx)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (rx, tx, sender, counters) = (&self.rx, &self.tx, &mut self.sender, &mut self.counters);
        let mut socket = SocketId(0);
        for destination in tx.destinations() {
            if destination.socket != socket {
                sender.send(self.sockets[usize::from(socket.0)].socket.as_raw_fd(), counters);
                socket = destination.socket;
            }
            let fd = self.sockets[usize::from(socket.0)].socket.as_raw_fd();
            sender.add(fd, rx, tx, destination, counters);
        }
        sender.send(self.sockets[usize::from(socket.0)].socket.as_raw_fd(), counters);
        self.tx.clear();
        self.rx.clear();
        Ok(())
    }

    fn local_addr(&self, socket: SocketId) -> SocketAddr {
        self.sockets[usize::from(socket.0)].addr
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

/// What the kernel said about one message.
struct Message {
    len: usize,
    peer: Option<SocketAddr>,
    cut: bool,
    ancillary: cmsg::Ancillary,
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain integers and pointers; all zero is a value of it.
    unsafe { std::mem::zeroed() }
}

fn empty_iovec() -> libc::iovec {
    libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }
}

impl Receiver {
    fn new(slots: usize) -> Self {
        Receiver {
            headers: (0..slots).map(|_| empty_header()).collect(),
            iovecs: (0..slots).map(|_| empty_iovec()).collect(),
            addrs: vec![sys::sockaddr_empty(); slots],
            controls: vec![Control([0; CONTROL_LEN]); slots],
        }
    }

    /// One recvmmsg into the slots `first..first + count`; gives how many were filled.
    fn receive(&mut self, fd: RawFd, rx: &mut Rx, first: usize, count: usize) -> io::Result<usize> {
        for i in first..first + count {
            let slot = rx.slot_mut(i as u16);
            self.iovecs[i] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_iov = &mut self.iovecs[i];
            header.msg_iovlen = 1;
            header.msg_name = std::ptr::from_mut(&mut self.addrs[i]).cast();
            header.msg_namelen = size_of::<SockAddr>() as libc::socklen_t;
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN;
            header.msg_flags = 0;
        }
        // SAFETY: each header of the range was just pointed at its own slot, address and control room, of the
        // lengths beside them, and all of them outlive the call.
        unsafe { sys::recvmmsg(fd, &mut self.headers[first..first + count]) }
    }

    /// What the last call put into a slot.
    fn message(&self, slot: usize) -> Message {
        let header = &self.headers[slot];
        Message {
            len: header.msg_len as usize,
            peer: sys::sockaddr_read(&self.addrs[slot]),
            cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            // SAFETY: the control pointer was set in `receive`, to room that still lives, and the kernel has set its length.
            ancillary: unsafe { cmsg::decode(&header.msg_hdr) },
        }
    }
}

impl Sender {
    fn new(gso: bool) -> Self {
        Sender {
            headers: (0..SEND_BATCH).map(|_| empty_header()).collect(),
            iovecs: Vec::with_capacity(IOVECS),
            addrs: vec![sys::sockaddr_empty(); SEND_BATCH],
            controls: vec![Control([0; CONTROL_LEN]); SEND_BATCH],
            outgoing: Vec::with_capacity(SEND_BATCH),
            scratch: Vec::with_capacity(MESSAGE_MAX),
            gso,
        }
    }

    /// Adds what a turn has for one destination, sending when the batch is full.
    fn add(&mut self, fd: RawFd, rx: &Rx, tx: &Tx, to: &Destination, counters: &mut IoCounters) {
        let mut frames = tx.frames(to).peekable();
        while let Some(&first) = frames.peek() {
            if self.outgoing.len() == SEND_BATCH || self.iovecs.len() + IOVECS_PER_MESSAGE > IOVECS {
                self.send(fd, counters);
            }
            // One message: frames of equal length, a shorter one may end it.
            let frame_len = usize::from(first.len);
            let per_datagram = tx.frames_per_datagram();
            let segment_size = frame_len * per_datagram;
            let bytes_max =
                if self.gso { (SEGMENTS_MAX * segment_size).min(MESSAGE_MAX) } else { segment_size };
            let (start, mut bytes, mut count) = (self.iovecs.len(), 0, 0);
            while let Some(&frame) = frames.peek() {
                let len = usize::from(frame.len);
                let fits = count == 0 || bytes + len <= bytes_max;
                if !fits || len > frame_len || self.iovecs.len() - start == IOVECS_PER_MESSAGE {
                    break;
                }
                self.append_iovec(start, tx.bytes(rx, frame));
                bytes += len;
                count += 1;
                frames.next();
                if len < frame_len {
                    break;
                }
            }
            self.outgoing.push(Outgoing {
                datagrams: u64::from((count as u32).div_ceil(per_datagram as u32)),
                segment_size,
                iovecs: (start, self.iovecs.len()),
            });
            self.address(to, bytes > segment_size);
        }
    }

    /// Adds bytes to the message that starts at iovec `start`, to the last iovec if they lie behind it.
    fn append_iovec(&mut self, start: usize, bytes: &[u8]) {
        let base = bytes.as_ptr();
        if self.iovecs.len() > start
            && let Some(last) = self.iovecs.last_mut()
            && last.iov_base.cast_const().cast::<u8>().wrapping_add(last.iov_len) == base
        {
            last.iov_len += bytes.len();
            return;
        }
        self.iovecs.push(libc::iovec { iov_base: base.cast_mut().cast(), iov_len: bytes.len() });
    }

    /// Fills in address and control messages of the last message.
    fn address(&mut self, to: &Destination, segmented: bool) {
        let i = self.outgoing.len() - 1;
        let segment_size = segmented.then_some(self.outgoing[i].segment_size as u16);
        let control_len = cmsg::encode(&mut self.controls[i], segment_size, to.source_ip);
        let name_len = sys::sockaddr_write(&mut self.addrs[i], to.to);
        let header = &mut self.headers[i].msg_hdr;
        header.msg_namelen = name_len;
        header.msg_controllen = control_len;
    }

    /// Sends the batch and counts it.
    fn send(&mut self, fd: RawFd, counters: &mut IoCounters) {
        let count = self.outgoing.len();
        for i in 0..count {
            let (from, to) = self.outgoing[i].iovecs;
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut self.addrs[i]).cast();
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_iov = self.iovecs[from..to].as_mut_ptr();
            header.msg_iovlen = to - from;
        }
        let mut done = 0;
        while done < count {
            // SAFETY: each header was just pointed at its own address, control room and iovecs; the iovecs point
            // into the turn's receive slots and staging area, which are neither changed nor freed before `flush` returns.
            let result = unsafe { sys::sendmmsg(fd, &mut self.headers[done..count]) };
            match result {
                Ok(sent) => {
                    counters.sent +=
                        self.outgoing[done..done + sent].iter().map(|o| o.datagrams).sum::<u64>();
                    done += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.on_error(fd, done, &error, counters);
                    done += 1;
                }
            }
        }
        self.outgoing.clear();
        self.iovecs.clear();
    }

    /// A message was refused. If that may be for its segments, it is sent in pieces; should that help, the kernel
    /// or the device cannot segment, and from now on nothing is segmented.
    fn on_error(&mut self, fd: RawFd, index: usize, error: &io::Error, counters: &mut IoCounters) {
        let Outgoing { datagrams, segment_size, .. } = self.outgoing[index];
        let refusal = matches!(
            error.raw_os_error(),
            Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
        );
        if refusal && datagrams > 1 {
            let sent = self.send_in_pieces(fd, index, segment_size);
            counters.sent += sent;
            counters.send_failed += datagrams - sent;
            if sent > 0 {
                self.gso = false;
                counters.gso_off = 1;
            }
        } else if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) {
            counters.send_full += datagrams;
        } else {
            counters.send_failed += datagrams;
        }
    }

    /// Sends one message datagram by datagram; gives how many went.
    fn send_in_pieces(&mut self, fd: RawFd, index: usize, segment_size: usize) -> u64 {
        self.scratch.clear();
        let (from, to) = self.outgoing[index].iovecs;
        for iovec in &self.iovecs[from..to] {
            // SAFETY: the iovec points into the receive slots or the staging area of this turn, as in `send`.
            let bytes = unsafe { std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), iovec.iov_len) };
            self.scratch.extend_from_slice(bytes);
        }
        let mut sent = 0;
        for piece in self.scratch.chunks_mut(segment_size) {
            let mut iovec = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
            let mut header = self.headers[index];
            header.msg_hdr.msg_iov = &mut iovec;
            header.msg_hdr.msg_iovlen = 1;
            // The control messages begin with the segment size (24 bytes), which is left out.
            const SEGMENT_CONTROL: usize = 24;
            header.msg_hdr.msg_control =
                self.controls[index].0.as_mut_ptr().wrapping_add(SEGMENT_CONTROL).cast();
            header.msg_hdr.msg_controllen -= SEGMENT_CONTROL;
            // SAFETY: address and control room are the batch's, the iovec and its bytes are on this stack and in the scratch.
            sent += unsafe { sys::sendmmsg(fd, std::slice::from_mut(&mut header)) }.is_ok() as u64;
        }
        sent
    }
}
