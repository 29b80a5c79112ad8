//! Which back end runs: chosen once at start-up.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::str::FromStr;

use tracing::{info, warn};

use super::{DatagramIo, IoCounters, IoOptions, MmsgIo, UringIo, Waker};
use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::time::{Clock, Instant};

/// Which back end is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// What measured best: see [`AUTO`].
    #[default]
    Auto,
    /// epoll, recvmmsg and sendmmsg: [`MmsgIo`].
    Mio,
    /// [`UringIo`], or mio where there is no io_uring.
    IoUring,
}

/// What [`IoChoice::Auto`] stands for. Set by measurement (`cargo bench --bench io`).
pub const AUTO: IoChoice = IoChoice::Mio;

impl IoChoice {
    /// All of them, in the order in which they are told.
    pub const ALL: [IoChoice; 3] = [IoChoice::Auto, IoChoice::Mio, IoChoice::IoUring];

    /// The word in configurations and arguments.
    pub const fn name(self) -> &'static str {
        match self {
            IoChoice::Auto => "auto",
            IoChoice::Mio => "mio",
            IoChoice::IoUring => "io_uring",
        }
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IoChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let choice = IoChoice::ALL.into_iter().find(|choice| choice.name() == text);
        choice.ok_or_else(|| "use auto, mio or io_uring".to_owned())
    }
}

/// One of the back ends over the kernel. A call a turn goes through it, so the choice costs nothing.
#[expect(clippy::large_enum_variant, reason = "there is one per thread, and it is not moved about")]
pub enum BackEnd {
    /// Over mio.
    Mmsg(MmsgIo),
    /// Over io_uring.
    Uring(UringIo),
}

impl BackEnd {
    /// Opens the back end of this choice over these sockets; see [`MmsgIo::new`]. Where there is no io_uring
    /// it is mio, and the log says so once.
    pub fn open(
        choice: IoChoice,
        sockets: Vec<UdpSocket>,
        options: &IoOptions,
        clock: Clock,
    ) -> io::Result<BackEnd> {
        let wanted = if choice == IoChoice::Auto { AUTO } else { choice };
        if wanted != IoChoice::IoUring {
            return MmsgIo::new(sockets, options, clock).map(BackEnd::Mmsg);
        }
        match UringIo::try_new(sockets, options, clock) {
            Ok(io) => Ok(BackEnd::Uring(io)),
            Err(refused) => {
                let why = refused.why;
                match choice {
                    IoChoice::IoUring => warn!("{why}: running over mio instead"),
                    _ => info!("{why}: running over mio instead"),
                }
                MmsgIo::new(refused.sockets, options, clock).map(BackEnd::Mmsg)
            }
        }
    }

    /// The name of the one that runs.
    pub fn name(&self) -> &'static str {
        match self {
            BackEnd::Mmsg(_) => IoChoice::Mio.name(),
            BackEnd::Uring(_) => IoChoice::IoUring.name(),
        }
    }

    /// Ends a wait from another thread.
    pub fn waker(&self) -> Waker {
        match self {
            BackEnd::Mmsg(io) => io.waker(),
            BackEnd::Uring(io) => io.waker(),
        }
    }

    /// The sockets, in their order: to be handed to a successor, or asked for their buffers.
    pub fn sockets(&self) -> &[UdpSocket] {
        match self {
            BackEnd::Mmsg(io) => io.sockets(),
            BackEnd::Uring(io) => io.sockets(),
        }
    }
}

impl DatagramIo for BackEnd {
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        match self {
            BackEnd::Mmsg(io) => io.wait(deadline),
            BackEnd::Uring(io) => io.wait(deadline),
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        match self {
            BackEnd::Mmsg(io) => io.receive(),
            BackEnd::Uring(io) => io.receive(),
        }
    }

    fn turn(&mut self) -> (&mut Rx, &mut Tx) {
        match self {
            BackEnd::Mmsg(io) => io.turn(),
            BackEnd::Uring(io) => io.turn(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            BackEnd::Mmsg(io) => io.flush(),
            BackEnd::Uring(io) => io.flush(),
        }
    }

    fn local_addr(&self, socket: SocketId) -> SocketAddr {
        match self {
            BackEnd::Mmsg(io) => io.local_addr(socket),
            BackEnd::Uring(io) => io.local_addr(socket),
        }
    }

    fn counters(&self) -> IoCounters {
        match self {
            BackEnd::Mmsg(io) => io.counters(),
            BackEnd::Uring(io) => io.counters(),
        }
    }

    fn kernel_drops(&self, socket: SocketId) -> u64 {
        match self {
            BackEnd::Mmsg(io) => io.kernel_drops(socket),
            BackEnd::Uring(io) => io.kernel_drops(socket),
        }
    }

    fn unusable(&self, socket: SocketId) -> u64 {
        match self {
            BackEnd::Mmsg(io) => io.unusable(socket),
            BackEnd::Uring(io) => io.unusable(socket),
        }
    }

    fn recount_drops(&mut self) {
        match self {
            BackEnd::Mmsg(io) => io.recount_drops(),
            BackEnd::Uring(io) => io.recount_drops(),
        }
    }

    fn pause(&mut self, socket: SocketId) -> io::Result<()> {
        match self {
            BackEnd::Mmsg(io) => io.pause(socket),
            BackEnd::Uring(io) => io.pause(socket),
        }
    }

    fn resume(&mut self, socket: SocketId) -> io::Result<()> {
        match self {
            BackEnd::Mmsg(io) => io.resume(socket),
            BackEnd::Uring(io) => io.resume(socket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for choice in IoChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("epoll".parse::<IoChoice>().is_err_and(|error| error.contains("io_uring")));
        assert_ne!(AUTO, IoChoice::Auto, "it has to stand for something");
    }
}
