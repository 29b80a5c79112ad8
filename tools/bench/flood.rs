//! A flood of forged source addresses against a balancer of UDP servers, and its effect on earlier clients.
//!
//! One process contains everything around the balancer: servers that turn a DNS query into its response, a
//! flooder that sends each query from another loopback address, and clients that send at a steady rate
//! before, during and after the flood. It also samples the balancer's memory and descriptors. Prints one JSON
//! object. Exit code 1: a limit is exceeded. Exit code 2: it could not measure.
//!
//! ```sh
//! taskset -c 0 target/release/lbd balancer --listen 127.0.0.1:5300 --protocol dns \
//!     --server 127.0.0.1:5301 --server 127.0.0.1:5302 &
//! taskset -c 1 target/release/examples/flood --target 127.0.0.1:5300 --base 5301 --servers 2 --pid $!
//! ```

#![allow(unsafe_code)] // calls that the standard library does not have

use std::io::{self, ErrorKind};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use lbd::io::socket::{SocketOptions, bind};
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use socket2::{SockFilter, SockRef};

/// Floods a balancer from forged addresses, and reports the effect on earlier clients. Includes the
/// balancer's servers.
#[derive(Parser)]
struct Args {
    /// Address of the balancer
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:5300")]
    target: SocketAddrV4,
    /// Number of servers, on 127.0.0.1
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = number_to(64))]
    servers: u16,
    /// Port of the first server; the others follow
    #[arg(long, value_name = "PORT", default_value_t = 5301)]
    base: u16,
    /// Queries of the flood per second
    #[arg(long, value_name = "N", default_value_t = 20_000.0)]
    rate: f64,
    /// Duration of the flood, in seconds
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Time in which clients send before the flood, and again after it, in seconds each
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    around: f64,
    /// Forged sources (address and port) of the flood, used in turn
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    sources: u64,
    /// Source ports of the flood, each with an equal share of the addresses
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = number_to(4_096))]
    source_ports: u16,
    /// Discard responses to forged sources; without this option the kernel answers them with ICMP errors
    #[arg(long)]
    silent: bool,
    /// Number of clients, each with its own socket
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number_to(10_000))]
    clients: u16,
    /// Requests of all clients together per second
    #[arg(long, value_name = "N", default_value_t = 2_000.0)]
    client_rate: f64,
    /// Process id of the balancer, to sample its memory and descriptors
    #[arg(long, value_name = "P")]
    pid: Option<u32>,
    /// Least share of the clients' requests that must be answered during the flood, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0)]
    least: f64,
    /// Greatest change of the balancer's memory, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    rss_percent: f64,
}

fn number_to(most: i64) -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=most)
}

/// A response after this time is late.
const PATIENCE: Duration = Duration::from_secs(1);
/// A sender that is further behind its schedule skips sends instead of catching up.
const LAG_MAX: Duration = Duration::from_millis(50);
const OBSERVE_EVERY: Duration = Duration::from_millis(200);

/// Start times of the phases.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    flood: Instant,
    calm: Instant,
    end: Instant,
}

impl Schedule {
    fn new(around: Duration, flood: Duration) -> Self {
        let start = Instant::now();
        Schedule {
            start,
            flood: start + around,
            calm: start + around + flood,
            end: start + around * 2 + flood,
        }
    }

    /// The phase at this time: 0 before, 1 during, 2 after the flood.
    fn phase(&self, at: Instant) -> usize {
        usize::from(at >= self.flood) + usize::from(at >= self.calm)
    }
}

/// A schedule with a steady rate.
struct Pace {
    next: Instant,
    per_second: f64,
}

impl Pace {
    fn is_due(&mut self, now: Instant) -> bool {
        self.next = self.next.max(now.checked_sub(LAG_MAX).unwrap_or(now));
        self.next <= now
    }

    fn done(&mut self, count: usize) {
        self.next += Duration::from_secs_f64(count as f64 / self.per_second);
    }
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

// Queries: 0123456789abcdef.NAME.test, type A; the number makes the name unique.

const QUERY_LEN: usize = 12 + 17 + 6 + 5 + 1 + 4;
const FLAGS: usize = 2;
const QR: u8 = 0x80;
const RCODE: u8 = 0x0f;
const NUMBER: std::ops::Range<usize> = 13..29;

type Query = [u8; QUERY_LEN];

fn query(number: u64, name: &[u8; 5]) -> Query {
    let mut bytes = *b"..\x01\0\0\x01\0\0\0\0\0\0\x10................\x05.....\x04test\0\0\x01\0\x01";
    let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    bytes[..2].copy_from_slice(&(id as u16).to_be_bytes());
    for (at, digit) in bytes[NUMBER].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * at) & 15) as usize];
    }
    bytes[30..35].copy_from_slice(name);
    bytes
}

/// The number of the query that these bytes answer; they must match its length, id and question.
fn answered(bytes: &[u8], name: &[u8; 5]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes.get(NUMBER)?).ok()?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    let asked = query(number, name);
    let is_whole = bytes.len() == QUERY_LEN && bytes[..FLAGS] == asked[..FLAGS] && bytes[4..] == asked[4..];
    (is_whole && bytes[FLAGS] & QR != 0).then_some(number)
}

// Several messages per system call.

const BATCH: usize = 16;
const CONTROL_LEN: usize = size_of::<libc::cmsghdr>() + size_of::<libc::in_pktinfo>();
const CONTROL_SPACE: usize = CONTROL_LEN.next_multiple_of(size_of::<usize>());

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_SPACE]);

#[derive(Clone, Copy)]
struct Message {
    peer: libc::sockaddr_in,
    control: Control,
    bytes: [u8; 512],
    len: usize,
}

impl Message {
    fn new(peer: SocketAddrV4) -> Self {
        let peer = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: peer.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*peer.ip()).to_be() },
            sin_zero: [0; 8],
        };
        Message { peer, control: Control([0; CONTROL_SPACE]), bytes: [0; 512], len: 0 }
    }

    /// Sets the source address of the message (IP_PKTINFO: ipi_spec_dst, ip(7)).
    fn leave_from(&mut self, ip: Ipv4Addr) {
        let control = &mut self.control.0;
        control[..8].copy_from_slice(&CONTROL_LEN.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::IPPROTO_IP.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::IP_PKTINFO.to_ne_bytes());
        control[20..24].copy_from_slice(&ip.octets());
    }
}

const _: () = assert!(size_of::<libc::cmsghdr>() == 16, "leave_from writes this layout");

/// The purpose of a message's header.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Receive,
    Send,
    SendFrom,
}

/// Calls recvmmsg(2) or sendmmsg(2) without waiting, and returns the number of messages transferred.
fn call(socket: &impl AsRawFd, messages: &mut [Message], what: Use) -> io::Result<usize> {
    // SAFETY: C structures of integers and pointers, for which zero is a valid value.
    let (mut vectors, mut headers) =
        unsafe { (zeroed::<[libc::iovec; BATCH]>(), zeroed::<[libc::mmsghdr; BATCH]>()) };
    let used = messages.len().min(BATCH);
    for ((message, vector), header) in messages.iter_mut().zip(&mut vectors).zip(&mut headers) {
        vector.iov_base = message.bytes.as_mut_ptr().cast();
        vector.iov_len = if what == Use::Receive { message.bytes.len() } else { message.len };
        let header = &mut header.msg_hdr;
        header.msg_name = (&raw mut message.peer).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        (header.msg_iov, header.msg_iovlen) = (vector, 1);
        if what == Use::SendFrom {
            header.msg_control = message.control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_SPACE as _;
        }
    }
    let (fd, first, count) = (socket.as_raw_fd(), headers.as_mut_ptr(), used as libc::c_uint);
    let flags = libc::MSG_DONTWAIT as _;
    // SAFETY: `first` points to `count` headers. Their pointers refer to `messages` and `vectors`, which
    // outlive the call and have the lengths in the headers. The timeout may be null.
    let done = unsafe {
        match what {
            Use::Receive => libc::recvmmsg(fd, first, count, flags, std::ptr::null_mut()),
            Use::Send | Use::SendFrom => libc::sendmmsg(fd, first, count, flags),
        }
    };
    let done = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
    if what == Use::Receive {
        for (message, header) in messages.iter_mut().zip(&headers[..done]) {
            message.len = header.msg_len as usize;
        }
    }
    Ok(done)
}

/// Sends all messages; those that the kernel refuses are lost. Returns the number sent.
fn send_all(socket: &impl AsRawFd, mut messages: &mut [Message], what: Use) -> usize {
    let mut sent = 0;
    while !messages.is_empty() {
        let done = call(socket, messages, what);
        sent += done.as_ref().unwrap_or(&0);
        messages = &mut messages[done.unwrap_or(1)..]; // an error concerns the first message
    }
    sent
}

// Servers.

/// Answers on all sockets until `stop` is set. Returns the number of answers by socket.
fn serve(sockets: Vec<UdpSocket>, stop: &AtomicBool) -> Result<Vec<u64>> {
    let mut poll = Poll::new()?;
    let mut sockets: Vec<_> = sockets.into_iter().map(mio::net::UdpSocket::from_std).collect();
    for (number, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket, Token(number), Interest::READABLE)?;
    }
    let mut events = Events::with_capacity(sockets.len());
    let mut messages = [Message::new(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); BATCH];
    let mut answers = vec![0; sockets.len()];
    while !stop.load(Ordering::Relaxed) {
        wait(&mut poll, &mut events, Duration::from_millis(100))?;
        for Token(number) in events.iter().map(mio::event::Event::token) {
            while let Ok(count) = call(&sockets[number], &mut messages, Use::Receive) {
                for message in &mut messages[..count] {
                    message.bytes[FLAGS] |= QR;
                }
                answers[number] += send_all(&sockets[number], &mut messages[..count], Use::Send) as u64;
            }
        }
    }
    Ok(answers)
}

fn wait(poll: &mut Poll, events: &mut Events, at_most: Duration) -> io::Result<()> {
    poll.poll(events, Some(at_most))
        .or_else(|e| if e.kind() == ErrorKind::Interrupted { Ok(()) } else { Err(e) })
}

// The flood.

#[derive(Serialize)]
struct Flooded {
    sent: u64,
    sent_per_second: f64,
    refused_by_kernel: u64,
    sources_used: u64,
}

/// Opens a socket for each source port. A response reaches none of them, since it goes to another address
/// than the bound one. With `silent` it reaches a socket, and a filter drops it.
fn flood_sockets(args: &Args) -> Result<Vec<UdpSocket>> {
    let ip = if args.silent { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let make = |_| -> Result<UdpSocket> {
        let socket = UdpSocket::bind((ip, 0)).context("cannot bind a socket for the flood")?;
        let keep_nothing = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
        SockRef::from(&socket).attach_filter(&[keep_nothing]).context("cannot attach a filter")?;
        Ok(socket)
    };
    (0..args.source_ports).map(make).collect()
}

/// The socket and the source address of a forged source. Each batch of the flood uses the next port.
fn forged(source: u64, ports: u64) -> (usize, Ipv4Addr) {
    let batch = source / BATCH as u64;
    let address = (batch / ports) * BATCH as u64 + source % BATCH as u64;
    ((batch % ports) as usize, Ipv4Addr::from_bits(FORGED.to_bits() + address as u32))
}

/// 127.64.0.0/10.
const FORGED: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);
const FORGED_COUNT: u64 = 1 << 22;

fn flood(args: &Args, sockets: &[UdpSocket], schedule: &Schedule) -> Flooded {
    let mut messages = [Message::new(args.target); BATCH];
    let (mut number, mut sent) = (0, 0);
    let mut pace = Pace { next: schedule.flood, per_second: args.rate };
    sleep_until(schedule.flood);
    loop {
        let now = Instant::now();
        if now >= schedule.calm {
            break;
        }
        if !pace.is_due(now) {
            sleep_until(pace.next.min(schedule.calm));
            continue;
        }
        let first = number % args.sources;
        let count = (args.sources - first).min(BATCH as u64) as usize;
        let (socket, _) = forged(first, sockets.len() as u64);
        for (message, source) in messages[..count].iter_mut().zip(first..) {
            message.bytes[..QUERY_LEN].copy_from_slice(&query(number, b"flood"));
            message.len = QUERY_LEN;
            message.leave_from(forged(source, sockets.len() as u64).1);
            number += 1;
        }
        sent += send_all(&sockets[socket], &mut messages[..count], Use::SendFrom) as u64;
        pace.done(count);
    }
    let seconds = schedule.flood.elapsed().as_secs_f64();
    Flooded {
        sent,
        sent_per_second: (sent as f64 / seconds).round(),
        refused_by_kernel: number - sent,
        sources_used: number.min(args.sources),
    }
}

// Clients.

/// The outcome of the requests that were sent in one phase.
struct Tally {
    sent: u64,
    answered: u64,
    servfail: u64,
    late: u64,
    micros: Histogram<u64>,
}

#[derive(Serialize)]
struct PhaseReport {
    sent: u64,
    answered: u64,
    answered_percent: f64,
    servfail: u64,
    late: u64,
    p50_us: u64,
    p99_us: u64,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Tally {
            sent: 0,
            answered: 0,
            servfail: 0,
            late: 0,
            micros: Histogram::new_with_max(PATIENCE.as_micros() as u64, 3)?,
        })
    }

    fn percent(&self) -> f64 {
        100.0 * self.answered as f64 / self.sent.max(1) as f64
    }

    fn report(&self) -> PhaseReport {
        PhaseReport {
            sent: self.sent,
            answered: self.answered,
            answered_percent: rounded(self.percent()),
            servfail: self.servfail,
            late: self.late,
            p50_us: self.micros.value_at_quantile(0.5),
            p99_us: self.micros.value_at_quantile(0.99),
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The clients and their requests; request N belongs to client N modulo the number of clients.
struct Clients {
    target: SocketAddr,
    sockets: Vec<mio::net::UdpSocket>,
    schedule: Schedule,
    /// The send time of each request; `None` once it is answered.
    requests: Vec<Option<Instant>>,
    phases: [Tally; 3],
    waiting: u64,
    misdelivered: u64,
    duplicates: u64,
}

const CLIENT: &[u8; 5] = b"known";

impl Clients {
    fn new(target: SocketAddrV4, count: u16, schedule: Schedule) -> Result<Self> {
        let make = |_| mio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
        let sockets =
            (0..count).map(make).collect::<io::Result<_>>().context("cannot bind a client's socket")?;
        Ok(Clients {
            target: target.into(),
            sockets,
            schedule,
            requests: vec![],
            phases: [Tally::new()?, Tally::new()?, Tally::new()?],
            waiting: 0,
            misdelivered: 0,
            duplicates: 0,
        })
    }

    fn run(mut self, per_second: f64) -> Result<Self> {
        let mut poll = Poll::new()?;
        for (number, socket) in self.sockets.iter_mut().enumerate() {
            poll.registry().register(socket, Token(number), Interest::READABLE)?;
        }
        let mut events = Events::with_capacity(self.sockets.len());
        let mut pace = Pace { next: self.schedule.start, per_second };
        let deadline = self.schedule.end + PATIENCE;
        loop {
            let mut now = Instant::now();
            while now < self.schedule.end && pace.is_due(now) {
                self.ask(now)?;
                pace.done(1);
                now = Instant::now();
            }
            let is_over = now >= self.schedule.end;
            if now >= deadline || (is_over && self.waiting == 0) {
                return Ok(self);
            }
            let until = if is_over { deadline } else { pace.next.min(self.schedule.end) };
            wait(&mut poll, &mut events, until.saturating_duration_since(now))?;
            for Token(client) in events.iter().map(mio::event::Event::token) {
                self.drain(client)?;
            }
        }
    }

    fn ask(&mut self, now: Instant) -> Result<()> {
        let number = self.requests.len();
        let client = number % self.sockets.len();
        self.sockets[client]
            .send_to(&query(number as u64, CLIENT), self.target)
            .context("a client cannot send")?;
        self.requests.push(Some(now));
        self.phases[self.schedule.phase(now)].sent += 1;
        self.waiting += 1;
        Ok(())
    }

    fn drain(&mut self, client: usize) -> Result<()> {
        let mut bytes = [0; 512];
        loop {
            match self.sockets[client].recv_from(&mut bytes) {
                Ok((len, from)) => self.take(client, from, &bytes[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("a client cannot receive"),
            }
        }
    }

    fn take(&mut self, client: usize, from: SocketAddr, bytes: &[u8]) {
        let is_own = |&number: &u64| {
            let is_known = number < self.requests.len() as u64;
            is_known && number as usize % self.sockets.len() == client && from == self.target
        };
        let Some(number) = answered(bytes, CLIENT).filter(is_own) else {
            self.misdelivered += 1;
            return;
        };
        let Some(sent) = self.requests[number as usize].take() else {
            self.duplicates += 1;
            return;
        };
        self.waiting -= 1;
        let took = sent.elapsed();
        let tally = &mut self.phases[self.schedule.phase(sent)];
        if bytes[FLAGS + 1] & RCODE != 0 {
            tally.servfail += 1;
        } else if took > PATIENCE {
            tally.late += 1;
        } else {
            tally.answered += 1;
            tally.micros.record(took.as_micros() as u64).expect("at most PATIENCE");
        }
    }
}

/// Sends queries until 200 in succession are answered: the balancer must first find servers that were down.
fn settle(target: SocketAddrV4) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let began = Instant::now();
    let (mut number, mut in_a_row) = (0, 0);
    let mut bytes = [0; 512];
    while in_a_row < 200 {
        ensure!(began.elapsed() < Duration::from_secs(15), "{target} does not answer steadily");
        number += 1;
        socket.send_to(&query(number, b"first"), target)?;
        let answer = socket.recv_from(&mut bytes).map(|(len, _)| answered(&bytes[..len], b"first"));
        let is_good = matches!(answer, Ok(Some(n)) if n == number) && bytes[FLAGS + 1] & RCODE == 0;
        in_a_row = if is_good { in_a_row + 1 } else { 0 };
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

// The balancer from outside.

#[derive(Serialize)]
struct Course {
    start: u64,
    max: u64,
    min: u64,
    end: u64,
}

impl Course {
    fn new(values: impl Iterator<Item = u64> + Clone) -> Option<Self> {
        let (start, end) = (values.clone().next()?, values.clone().last()?);
        Some(Course { start, max: values.clone().max()?, min: values.min()?, end })
    }

    fn moved_percent(&self) -> f64 {
        let most = (self.max - self.start).max(self.start - self.min);
        100.0 * most as f64 / self.start.max(1) as f64
    }
}

#[derive(Serialize)]
struct Observed {
    rss_kib: Course,
    rss_moved_percent: f64,
    descriptors: Course,
}

/// Samples a process from the start of the flood to the end of the run.
fn observe(pid: u32, schedule: &Schedule) -> Result<Observed> {
    let mut samples = vec![];
    let mut next = schedule.flood;
    while next <= schedule.end {
        sleep_until(next);
        samples.push(look(pid).with_context(|| format!("cannot sample process {pid}"))?);
        next += OBSERVE_EVERY;
    }
    let rss_kib = Course::new(samples.iter().map(|sample| sample.0)).context("no sample")?;
    let descriptors = Course::new(samples.iter().map(|sample| sample.1)).context("no sample")?;
    Ok(Observed { rss_moved_percent: rounded(rss_kib.moved_percent()), rss_kib, descriptors })
}

/// VmRSS in KiB, and the number of open descriptors.
fn look(pid: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS: the process has ended")?;
    let rss = rss.trim().trim_end_matches(" kB").parse()?;
    Ok((rss, std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64))
}

#[derive(Serialize)]
struct Report {
    flood: Flooded,
    answers_by_server: Vec<u64>,
    before: PhaseReport,
    during: PhaseReport,
    after: PhaseReport,
    misdelivered: u64,
    duplicates: u64,
    balancer: Option<Observed>,
    /// The limits that were exceeded.
    failed: Vec<String>,
}

fn failures(args: &Args, clients: &Clients, balancer: Option<&Observed>) -> Vec<String> {
    let mut failed = vec![];
    let percent = clients.phases[1].percent();
    if percent < args.least {
        failed.push(format!("{percent:.3} % answered during the flood; must be at least {} %", args.least));
    }
    if clients.misdelivered > 0 {
        failed.push(format!("{} misdelivered", clients.misdelivered));
    }
    if let Some(Observed { rss_kib, descriptors, .. }) = balancer {
        let moved = rss_kib.moved_percent();
        if moved > args.rss_percent {
            failed.push(format!("memory changed by {moved:.3} %; must be at most {} %", args.rss_percent));
        }
        if descriptors.min != descriptors.max {
            failed.push(format!("{} to {} descriptors; must be constant", descriptors.min, descriptors.max));
        }
    }
    failed
}

fn server_sockets(args: &Args) -> Result<Vec<UdpSocket>> {
    let ports = u32::from(args.base)..u32::from(args.base) + u32::from(args.servers);
    let Ok(ports) = ports.map(u16::try_from).collect::<Result<Vec<_>, _>>() else {
        bail!("--base {} leaves no room for {} servers", args.base, args.servers);
    };
    let make = |port| Ok(bind((Ipv4Addr::LOCALHOST, port).into(), &SocketOptions::default())?);
    ports.into_iter().map(make).collect()
}

fn check(args: &Args) -> Result<()> {
    let room = FORGED_COUNT * u64::from(args.source_ports);
    ensure!((1..=room).contains(&args.sources), "--sources must be 1 to {room} with these --source-ports");
    let is_rate = |rate: f64| (1.0..=1e7).contains(&rate);
    ensure!(is_rate(args.rate) && is_rate(args.client_rate), "rates must be 1 to 10000000");
    let is_time = |seconds: f64| (0.1..=3600.0).contains(&seconds);
    ensure!(is_time(args.seconds) && is_time(args.around), "times must be 0.1 to 3600 seconds");
    Ok(())
}

fn run(args: &Args) -> Result<Report> {
    check(args)?;
    let servers = server_sockets(args)?;
    let flooders = flood_sockets(args)?;
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let servers = scope.spawn(|| serve(servers, stop));
        let measure = || {
            settle(args.target)?;
            let seconds = Duration::from_secs_f64;
            let schedule = &Schedule::new(seconds(args.around), seconds(args.seconds));
            let clients = Clients::new(args.target, args.clients, *schedule)?;
            thread::scope(|scope| {
                let clients = scope.spawn(|| clients.run(args.client_rate));
                let flood = scope.spawn(|| flood(args, &flooders, schedule));
                let balancer = args.pid.map(|pid| observe(pid, schedule)).transpose();
                let clients = clients.join().expect("no panic")?;
                Ok((clients, flood.join().expect("no panic"), balancer?))
            })
        };
        let measured: Result<_> = measure();
        stop.store(true, Ordering::Relaxed);
        let answers_by_server = servers.join().expect("no panic")?;
        let (clients, flood, balancer) = measured?;
        let failed = failures(args, &clients, balancer.as_ref());
        let [before, during, after] = clients.phases.each_ref().map(Tally::report);
        let Clients { misdelivered, duplicates, .. } = clients;
        Ok(Report {
            flood,
            answers_by_server,
            before,
            during,
            after,
            misdelivered,
            duplicates,
            balancer,
            failed,
        })
    })
}

fn main() -> ExitCode {
    let report = match run(&Args::parse()) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("flood: {error:#}");
            return ExitCode::from(2);
        }
    };
    println!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
    ExitCode::from(u8::from(!report.failed.is_empty()))
}
