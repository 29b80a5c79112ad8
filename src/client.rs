//! [`Client`]: requests through a balancer, one at a time or many in flight.
//!
//! ```no_run
//! let mut client = lbd::Client::connect("127.0.0.1:54001")?;
//! let reply = client.call(b"hello")?;
//! println!("{}", String::from_utf8_lossy(&reply));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Delivery is *at least once*: an unanswered request is repeated until its deadline, possibly at
//! another server ([`Mode::Idempotent`]). Use [`Mode::OneShot`] for a request that must not be repeated.
//! The caller gets at most one reply, regardless of the network. "Exactly once" is impossible: two
//! parties cannot agree on it over a lossy network.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::base::time::{Clock, Instant, earliest};
use crate::io::socket::{SocketOptions, any_port_towards, bind};
use crate::io::{BackEnd, DatagramIo, IoChoice, IoOptions};
use crate::role::Role;
use crate::role::client::{ClientRole, ClientSettings};
use crate::wire::FrameFormat;

#[doc(inline)]
pub use crate::base::drop_reason::{DropCounters, DropReason};
#[doc(inline)]
pub use crate::role::client::{Ending, Full, Outcome, Source, Totals};
#[doc(inline)]
pub use crate::wire::{Mode, Status};

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Every attempt before the deadline was refused, because the servers were full or none was
    /// available.
    #[error("the service is busy; try again later")]
    Busy,
    /// The request cannot be served.
    #[error("the request was refused with status {0:?}")]
    Refused(Status),
    /// No reply arrived before the deadline.
    #[error("no reply before the deadline")]
    Lost,
    /// The payload does not fit into a frame.
    #[error("the payload has {len} bytes, but a frame carries at most {max}")]
    TooLong {
        /// Size of the payload, in bytes.
        len: usize,
        /// Maximum payload of a frame, in bytes.
        max: usize,
    },
    /// Too many requests are in flight.
    #[error(transparent)]
    Full(#[from] Full),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Options of a [`Client`], with default values.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    frame_size: usize,
    tagged: bool,
    timeout: Duration,
    deadline: Duration,
    retries: u8,
    in_flight_max: usize,
    bind: Option<SocketAddr>,
    servers: Vec<Source>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            frame_size: 256,
            tagged: false,
            timeout: Duration::from_millis(100),
            deadline: Duration::from_secs(2),
            retries: 5,
            in_flight_max: 1024,
            bind: None,
            servers: vec![],
        }
    }
}

impl ClientBuilder {
    /// Frame size in bytes, as in the balancer's configuration: 128 to 1,200 (default 256).
    pub fn frame_size(mut self, bytes: usize) -> Self {
        self.frame_size = bytes;
        self
    }

    /// Whether the balancer's configuration has a `key_file`, which takes 32 bytes of each frame
    /// (default: no).
    pub fn keyed_deployment(mut self, keyed: bool) -> Self {
        self.tagged = keyed;
        self
    }

    /// Minimum time to wait for a reply before a retry (default 100 ms).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Time after which a request is abandoned (default 2 s).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Maximum retries of a request (default 5).
    pub fn retries(mut self, retries: u8) -> Self {
        self.retries = retries;
        self
    }

    /// Maximum requests in flight, rounded up to a power of two (default 1,024).
    pub fn in_flight_max(mut self, requests: usize) -> Self {
        self.in_flight_max = requests;
        self
    }

    /// Allows replies only from the balancer and from this server; call it for each server. If servers
    /// reply directly (`reply_path`), this prevents forged replies of other senders. Default: any
    /// source.
    pub fn server(mut self, source: impl Into<Source>) -> Self {
        self.servers.push(source.into());
        self
    }

    /// Local address. Default: any port, on the loopback if the balancer is there.
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.bind = Some(addr);
        self
    }

    /// Connects to the balancer whose client-side address is `balancer`.
    pub fn connect(self, balancer: impl ToSocketAddrs) -> io::Result<Client> {
        let unresolved = || {
            io::Error::new(io::ErrorKind::NotFound, "cannot resolve the balancer's name: it has no address")
        };
        let target = balancer.to_socket_addrs()?.next().ok_or_else(unresolved)?;
        let format = match self.tagged {
            true => FrameFormat::tagged(self.frame_size),
            false => FrameFormat::plain(self.frame_size),
        };
        let clock = Clock::start();
        let socket = bind(self.bind.unwrap_or(any_port_towards(target)), &SocketOptions::default())?;
        let options = IoOptions::for_frames(format.size, format.frames_per_datagram_to(target.ip()));
        let settings = ClientSettings {
            format,
            target,
            timeout: self.timeout,
            deadline: self.deadline,
            retries: self.retries,
            in_flight_max: self.in_flight_max,
            servers: self.servers,
            seed: rand::random(),
        };
        Ok(Client {
            io: BackEnd::open(IoChoice::Auto, vec![socket], &options, clock)?,
            role: ClientRole::new(settings, clock.now()),
            payload_max: format.payload_max(),
            clock,
            others: VecDeque::new(),
        })
    }
}

/// A client: sends requests through a balancer, with retries until a deadline.
pub struct Client {
    io: BackEnd,
    role: ClientRole,
    clock: Clock,
    payload_max: usize,
    /// Outcomes of submitted requests that arrived while a call waited for its reply.
    others: VecDeque<Outcome>,
}

impl Client {
    /// A client with the default options; [`Client::builder`] sets others.
    pub fn connect(balancer: impl ToSocketAddrs) -> io::Result<Client> {
        ClientBuilder::default().connect(balancer)
    }

    /// A builder for a client with other options.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Sends a request and waits for its reply, with retries, back-off and deadline.
    pub fn call(&mut self, payload: &[u8]) -> Result<Vec<u8>, CallError> {
        let sequence = self.submit(payload, Mode::Idempotent)?;
        loop {
            self.turn(None)?;
            while let Some(outcome) = self.role.poll_outcome() {
                if outcome.sequence != sequence {
                    self.others.push_back(outcome.into_owned());
                    continue;
                }
                return match outcome.ending {
                    Ending::Answered => Ok(outcome.payload.to_vec()),
                    Ending::Busy => Err(CallError::Busy),
                    Ending::Refused(status) => Err(CallError::Refused(status)),
                    Ending::Lost => Err(CallError::Lost),
                };
            }
        }
    }

    /// Sends a request without waiting, and returns its number. [`Client::poll`] returns the outcome
    /// with the same number.
    pub fn submit(&mut self, payload: &[u8], mode: Mode) -> Result<u64, CallError> {
        if payload.len() > self.payload_max {
            return Err(CallError::TooLong { len: payload.len(), max: self.payload_max });
        }
        let now = self.clock.now();
        let (_, tx) = self.io.turn();
        if !tx.can_stage(self.payload_max + 256) {
            self.io.flush()?;
        }
        let (_, tx) = self.io.turn();
        Ok(self.role.submit(now, mode, payload, tx)?)
    }

    /// Waits at most `patience` for the next outcome of a submitted request; `None` if none arrived.
    pub fn poll(&mut self, patience: Duration) -> io::Result<Option<Outcome>> {
        let until = self.clock.now() + patience;
        loop {
            if let Some(outcome) = self.fetch() {
                return Ok(Some(outcome));
            }
            if self.turn(Some(until))? >= until {
                return Ok(self.fetch());
            }
        }
    }

    fn fetch(&mut self) -> Option<Outcome> {
        self.others.pop_front().or_else(|| self.role.poll_outcome().map(Outcome::into_owned))
    }

    /// Requests without an outcome.
    pub fn in_flight(&self) -> usize {
        self.role.in_flight()
    }

    /// The counters so far.
    pub fn totals(&self) -> &Totals {
        self.role.totals()
    }

    fn turn(&mut self, until: Option<Instant>) -> io::Result<Instant> {
        self.io.flush()?; // the requests submitted since the last turn
        self.io.wait(earliest(self.role.next_deadline(), until))?;
        self.io.receive()?;
        let now = self.clock.now();
        let (rx, tx) = self.io.turn();
        self.role.on_batch(now, rx, tx);
        self.role.on_timeout(now, tx);
        self.io.flush()?;
        Ok(now)
    }
}
