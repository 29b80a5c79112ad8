//! A balancer as a child process whose sockets its supervisor keeps. When it crashes, the next one has them at once: what
//! clients and servers send meanwhile waits in their buffers, and no address was ever free for others.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::instance::Failed;
use super::process::{Process, describe_exit};
use crate::handover::{Offer, SocketSet};

/// The argument that tells a balancer that its sockets come by its standard input.
pub const SOCKETS_BY_STDIN: &str = "--sockets-by-stdin";

/// How long giving the sockets may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A balancer that has run for so long is started again at once; one that has not, after a pause.
const RAN_WELL: Duration = Duration::from_secs(1);
/// The first pause; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A balancer that is started again when it ends unasked.
pub struct Kept {
    words: Vec<String>,
    sockets: SocketSet,
    process: Process,
    is_read: bool,
    started: Instant,
    /// Ends in a row, each soon after its start.
    failures: u32,
    restart_at: Option<Instant>,
}

/// What the supervisor has to do, or to tell.
pub enum Event {
    /// It ended; how, and after which pause it starts again.
    Ended(String, Duration),
    /// It has been started again; its standard output, if that is a pipe.
    Started(Option<ChildStdout>),
}

impl Kept {
    /// Starts a balancer with these words, over these sockets. `is_read`: whether its standard output is a pipe.
    pub fn start(words: Vec<String>, sockets: SocketSet, is_read: bool) -> Result<Kept, Failed> {
        let process = spawn(&words, &sockets, is_read)?;
        Ok(Kept { words, sockets, process, is_read, started: Instant::now(), failures: 0, restart_at: None })
    }

    /// The process that runs, or ran last.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// When it has to be looked at, if nothing wakes the supervisor before.
    pub fn due(&self) -> Option<Instant> {
        self.restart_at
    }

    /// Looks whether it runs, and starts it again when its time has come. To be called until there is nothing more.
    pub fn supervise(&mut self) -> Result<Option<Event>, Failed> {
        if let Some(at) = self.restart_at {
            if Instant::now() < at {
                return Ok(None);
            }
            self.process = spawn(&self.words, &self.sockets, self.is_read)?;
            (self.started, self.restart_at) = (Instant::now(), None);
            return Ok(Some(Event::Started(self.process.take_stdout())));
        }
        let Some(exit) = self.process.poll_exit() else { return Ok(None) };
        let pause = self.pause_after(self.started.elapsed());
        self.restart_at = Some(Instant::now() + pause);
        Ok(Some(Event::Ended(describe_exit(exit), pause)))
    }

    fn pause_after(&mut self, ran: Duration) -> Duration {
        if ran >= RAN_WELL {
            self.failures = 0;
            return Duration::ZERO;
        }
        self.failures += 1;
        (PAUSE * (1 << (self.failures - 1).min(10))).min(PAUSE_MAX)
    }
}

fn spawn(words: &[String], sockets: &SocketSet, is_read: bool) -> Result<Process, Failed> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(SOCKETS_BY_STDIN).stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(if is_read { Stdio::piped() } else { Stdio::null() });
    let process = Process::start(&mut command)?;
    Offer::push(ours, &sockets.borrowed(), PATIENCE).map_err(Failed::new)?;
    Ok(process)
}
