//! A balancer as a child process whose sockets its supervisor keeps. After a crash the next balancer gets the
//! sockets at once. Datagrams that arrive in between stay in the sockets' buffers, and no other process can
//! bind the addresses.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::instance::{Failed, hold, takeover_path};
use crate::admin::find_token;
use crate::config::{Config, Token};
use crate::daemon::handover::{HandoverPurpose, Holder, Requester, SocketKind, SocketSet};
use crate::os::process::{Exit, Process};

/// The argument of a balancer that receives its sockets through standard input.
const SOCKETS_BY_STDIN: &str = "--sockets-by-stdin";

/// Longest time to pass the sockets to a balancer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Run time after which a balancer that ends is restarted at once. After a shorter run it restarts after a
/// pause.
const RAN_WELL: Duration = Duration::from_secs(1);
/// The first pause; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A balancer that is restarted when it ends unexpectedly.
pub struct SupervisedBalancer {
    words: Vec<String>,
    sockets: SocketSet,
    /// Path at which a balancer that took over passes its sockets back.
    path: PathBuf,
    process: Process,
    /// The other end of the balancer's standard input. If desired, the balancer ends with this process.
    _stream: Option<UnixStream>,
    /// Whether its standard output is a pipe.
    is_read: bool,
    started: Instant,
    /// Consecutive exits, each soon after the start.
    failures: u32,
    restart_at: Option<Instant>,
}

/// A change of the supervised balancer.
#[derive(Debug)]
pub enum BalancerEvent {
    /// The balancer ended: its exit, and the pause before its restart.
    Ended(Exit, Duration),
    /// The balancer could not be restarted: the error, and the pause before the next attempt.
    NotStarted(Failed, Duration),
    /// Another process has taken over from the balancer. It is supervised from now on.
    Followed,
    /// The balancer was restarted: its standard output, if that is a pipe.
    Started(Option<ChildStdout>),
}

impl SupervisedBalancer {
    /// Opens the sockets and starts a balancer over them with this command line. `is_read`: whether its
    /// standard output is a pipe.
    pub fn start(config: &Config, words: Vec<String>, is_read: bool) -> Result<SupervisedBalancer, Failed> {
        let sockets = hold(config)?;
        let (process, stream) = spawn(&words, &sockets, is_read)?;
        Ok(SupervisedBalancer {
            words,
            sockets,
            path: takeover_path(config),
            process,
            _stream: Some(stream),
            is_read,
            started: Instant::now(),
            failures: 0,
            restart_at: None,
        })
    }

    /// Adopts a running balancer, with copies of its sockets; `None` if no balancer runs.
    pub fn adopt(config: &Config, words: Vec<String>) -> Option<SupervisedBalancer> {
        let path = takeover_path(config);
        let (process, sockets) = running(&path)?;
        Some(SupervisedBalancer {
            words,
            sockets,
            path,
            process,
            _stream: None,
            is_read: false,
            started: Instant::now(),
            failures: 0,
            restart_at: None,
        })
    }

    /// The process of the balancer, or of the last one.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The address of the dashboard and the token that changes need; `None` until the balancer has written
    /// the token.
    pub fn dashboard(&self, config: &Config) -> Option<(SocketAddr, Token)> {
        let addr = self.sockets.labels().find(|label| label.kind == SocketKind::Admin)?.addr;
        let token = find_token(&config.admin, &config.state_dir, addr.port()).ok()?;
        Some((addr, token))
    }

    /// Time of the next restart; `None` if none is due.
    pub fn due(&self) -> Option<Instant> {
        self.restart_at
    }

    /// Checks whether the balancer runs, and restarts it when the restart is due. Call it until it returns
    /// `None`.
    pub fn supervise(&mut self) -> Option<BalancerEvent> {
        if let Some(at) = self.restart_at {
            if Instant::now() < at {
                return None;
            }
            return Some(match spawn(&self.words, &self.sockets, self.is_read) {
                Ok((process, stream)) => {
                    (self.process, self._stream) = (process, Some(stream));
                    (self.started, self.restart_at) = (Instant::now(), None);
                    BalancerEvent::Started(self.process.take_stdout())
                }
                // Its program may be about to be replaced.
                Err(failed) => BalancerEvent::NotStarted(failed, self.restart_after(Duration::ZERO)),
            });
        }
        let exit = self.process.poll_exit()?;
        // Another balancer may have taken over, regardless of the exit (which is unknown for an adopted one).
        if let Some((process, sockets)) = running(&self.path) {
            (self.process, self.sockets) = (process, sockets);
            return Some(BalancerEvent::Followed);
        }
        let ran = self.started.elapsed();
        Some(BalancerEvent::Ended(exit, self.restart_after(ran)))
    }

    /// Plans the restart of a balancer that ran this long. Returns the pause before the restart.
    fn restart_after(&mut self, ran: Duration) -> Duration {
        let pause = self.pause_after(ran);
        self.restart_at = Some(Instant::now() + pause);
        pause
    }

    /// Stops the balancer (SIGTERM) and waits for its end; kills it as soon as `at_once` is true.
    pub fn end(&mut self, at_once: impl Fn() -> bool) {
        self.process.terminate();
        while self.process.poll_exit().is_none() {
            if at_once() {
                self.process.kill();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
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

/// The balancer that listens at this path, and copies of its sockets.
fn running(path: &std::path::Path) -> Option<(Process, SocketSet)> {
    let mut wish = Requester::connect(path, HandoverPurpose::Copy, PATIENCE).ok()?;
    // While the conversation is open, the process id cannot be reused.
    let process = Process::follow(wish.pid())?;
    Some((process, wish.sockets(PATIENCE).ok()?))
}

fn spawn(words: &[String], sockets: &SocketSet, is_read: bool) -> Result<(Process, UnixStream), Failed> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(SOCKETS_BY_STDIN).stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(if is_read { Stdio::piped() } else { Stdio::null() });
    let process = Process::start(&mut command)
        .map_err(|error| Failed::new(format!("cannot start {}: {error}", words[0])))?;
    // An error means that the balancer has ended already, perhaps because its configuration is wrong. The
    // next check finds this exit.
    let _ = Holder::push(ours.try_clone()?, &sockets.borrowed(), PATIENCE);
    Ok((process, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A balancer that was just started, with a program that ends at once.
    fn kept(program: &str) -> SupervisedBalancer {
        let mut command = Command::new("true");
        SupervisedBalancer {
            words: vec![program.to_owned()],
            sockets: SocketSet::default(),
            path: "/nowhere/at.all".into(),
            process: Process::start(&mut command).unwrap(),
            _stream: None,
            is_read: false,
            started: Instant::now(),
            failures: 0,
            restart_at: None,
        }
    }

    /// The next event.
    fn next(kept: &mut SupervisedBalancer) -> BalancerEvent {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(event) = kept.supervise() {
                return event;
            }
            assert!(Instant::now() < give_up);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_tried_again_after_growing_pauses() {
        let mut kept = kept("/nowhere/lbd");
        assert!(matches!(next(&mut kept), BalancerEvent::Ended(_, pause) if pause == PAUSE));
        let BalancerEvent::NotStarted(why, pause) = next(&mut kept) else { panic!("it is not there") };
        assert!(why.to_string().starts_with("cannot start /nowhere/lbd: "), "{why}");
        assert_eq!(pause, PAUSE * 2);
        kept.words = vec!["true".to_owned()];
        assert!(matches!(next(&mut kept), BalancerEvent::Started(None)), "it has been replaced meanwhile");
        assert!(matches!(next(&mut kept), BalancerEvent::Ended(_, pause) if pause == PAUSE * 4));
    }

    #[test]
    fn one_that_has_run_well_starts_again_at_once() {
        let mut kept = kept("true");
        for (ran, pause) in [(RAN_WELL / 2, PAUSE), (RAN_WELL / 2, PAUSE * 2), (RAN_WELL, Duration::ZERO)] {
            assert_eq!(kept.pause_after(ran), pause);
        }
        assert_eq!(kept.pause_after(Duration::ZERO), PAUSE, "a clean record");
        (0..100).for_each(|_| assert!(kept.pause_after(Duration::ZERO) <= PAUSE_MAX));
    }
}
