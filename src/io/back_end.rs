//! Selects the back end once at start.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use std::str::FromStr;

use tracing::warn;

use super::{DatagramIo, IoCounters, IoOptions, MmsgIo, TooLarge, UringIo, Waker};
use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::time::{Clock, Instant};

/// The requested back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// The fastest by measurement, [`AUTO`].
    #[default]
    Auto,
    /// epoll, recvmmsg and sendmmsg: [`MmsgIo`].
    Mio,
    /// [`UringIo`], or mio if there is no io_uring.
    IoUring,
}

/// Meaning of [`IoChoice::Auto`], chosen by measurement (`cargo bench --bench io`).
pub const AUTO: IoChoice = IoChoice::Mio;

impl IoChoice {
    /// All choices, in the order in which errors list them.
    pub const ALL: [IoChoice; 3] = [IoChoice::Auto, IoChoice::Mio, IoChoice::IoUring];

    /// Name in configurations and arguments.
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

/// One of the kernel's back ends. There is one call per turn through it, so the indirection costs
/// nothing measurable.
#[expect(clippy::large_enum_variant, reason = "there is one per thread, and it is not moved")]
pub enum BackEnd {
    /// mio.
    Mmsg(MmsgIo),
    /// io_uring.
    Uring(UringIo),
}

/// Evaluates an expression for the back end that is open.
macro_rules! on_open {
    ($self:ident, $io:ident => $value:expr) => {
        match $self {
            BackEnd::Mmsg($io) => $value,
            BackEnd::Uring($io) => $value,
        }
    };
}

impl BackEnd {
    /// Opens the requested back end over these sockets, as [`MmsgIo::new`] does. Without io_uring it
    /// opens mio and logs that once.
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
                warn!(error = refused.why.to_string(), effect = "using mio", "io_uring not available");
                MmsgIo::new(refused.sockets, options, clock).map(BackEnd::Mmsg)
            }
        }
    }

    /// Name of the opened back end.
    pub fn name(&self) -> &'static str {
        match self {
            BackEnd::Mmsg(_) => IoChoice::Mio.name(),
            BackEnd::Uring(_) => IoChoice::IoUring.name(),
        }
    }

    /// A waker that ends a wait from another thread.
    pub fn waker(&self) -> Waker {
        on_open!(self, io => io.waker())
    }

    /// A descriptor that is readable when something would end a wait, for a [`WaitSet`]. It is open as long
    /// as the back end. `None` with io_uring, which only reports to a thread that waits in the kernel.
    ///
    /// [`WaitSet`]: super::WaitSet
    pub fn descriptor(&self) -> Option<RawFd> {
        match self {
            BackEnd::Mmsg(io) => Some(io.descriptor()),
            BackEnd::Uring(_) => None,
        }
    }

    /// Whether the last turn left data, so that a wait returns at once. False with io_uring.
    pub fn has_more(&self) -> bool {
        match self {
            BackEnd::Mmsg(io) => io.has_more(),
            BackEnd::Uring(_) => false,
        }
    }

    /// The sockets in order, for a successor or for queries of their buffers.
    pub fn sockets(&self) -> &[UdpSocket] {
        on_open!(self, io => io.sockets())
    }
}

impl DatagramIo for BackEnd {
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        on_open!(self, io => io.wait(deadline))
    }

    fn receive(&mut self) -> io::Result<()> {
        on_open!(self, io => io.receive())
    }

    fn turn(&mut self) -> (&mut Rx, &mut Tx) {
        on_open!(self, io => io.turn())
    }

    fn flush(&mut self) -> io::Result<()> {
        on_open!(self, io => io.flush())
    }

    fn poll_too_large(&mut self) -> Option<TooLarge> {
        on_open!(self, io => io.poll_too_large())
    }

    fn local_addr(&self, socket: SocketId) -> SocketAddr {
        on_open!(self, io => io.local_addr(socket))
    }

    fn counters(&self) -> IoCounters {
        on_open!(self, io => io.counters())
    }

    fn kernel_drops(&self, socket: SocketId) -> u64 {
        on_open!(self, io => io.kernel_drops(socket))
    }

    fn unusable(&self, socket: SocketId) -> u64 {
        on_open!(self, io => io.unusable(socket))
    }

    fn recount_drops(&mut self) {
        on_open!(self, io => io.recount_drops())
    }

    fn pause(&mut self, socket: SocketId) -> io::Result<()> {
        on_open!(self, io => io.pause(socket))
    }

    fn resume(&mut self, socket: SocketId) -> io::Result<()> {
        on_open!(self, io => io.resume(socket))
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
        assert_ne!(AUTO, IoChoice::Auto, "auto is not a back end");
    }
}
