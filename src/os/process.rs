//! Child processes, and processes that an earlier controller started: watched, and stopped by signal.
//!
//! Each process is held by a pidfd. A signal therefore reaches that process or none, even if its process
//! id is reused. The processes run in their own group, since this process handles a Ctrl-C at the
//! terminal.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::notify;

/// Environment variable that identifies one start of one server, for the server itself and for
/// observers.
pub const INSTANCE_VARIABLE: &str = "LBD_INSTANCE";

/// Identity of a process. The process id alone is not enough, since it may be reused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time, in clock ticks since boot.
    pub start: u64,
}

impl ProcessIdentity {
    /// The identity of the process with this id; `None` if there is none.
    fn of(pid: u32) -> Option<ProcessIdentity> {
        let start = start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(ProcessIdentity { pid, start })
    }
}

/// The start time in a /proc/PID/stat.
fn start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may contain anything. After it, the first field is field 3; the start time
    // is field 22.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The exit status that this process received as the parent.
    Seen(ExitStatus),
    /// Unknown, because only the parent receives the exit status.
    Unseen,
}

impl Exit {
    /// The signal that ended the process, if one did.
    pub fn signal(self) -> Option<i32> {
        match self {
            Exit::Seen(status) => status.signal(),
            Exit::Unseen => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Seen(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exit code {code}"),
                (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
                    Some(name) => write!(f, "signal {signal} {name}"),
                    None => write!(f, "signal {signal}"),
                },
                (None, None) => f.write_str("unknown exit status"),
            },
            Exit::Unseen => f.write_str("exit status unknown, since another controller started it"),
        }
    }
}

/// A child process, or an adopted one.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    /// `None` if another process started it.
    child: Option<Child>,
    exited: Option<Exit>,
}

impl Process {
    /// Starts a command.
    pub fn start(command: &mut Command) -> io::Result<Process> {
        notify::hide_from(command);
        let mut child = command.process_group(0).spawn()?;
        // The child was not reaped, so the process id still belongs to it.
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Process { pid: child.id(), pidfd, child: Some(child), exited: None }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// The process with this identity, if it still runs and was started as this instance.
    pub fn adopt(identity: &ProcessIdentity, instance: &str) -> Option<Process> {
        let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let is_it = ProcessIdentity::of(identity.pid).as_ref() == Some(identity)
            && is_instance(identity.pid, instance);
        let mut process = Process { pid: identity.pid, pidfd, child: None, exited: None };
        // The data under its id belongs to the pidfd's process only if that process has not ended
        // meanwhile.
        (is_it && process.poll_exit().is_none()).then_some(process)
    }

    /// The process with this id, which the caller knows to be a running process.
    pub fn follow(pid: u32) -> Option<Process> {
        let pidfd = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        Some(Process { pid, pidfd, child: None, exited: None })
    }

    /// The process that was started as this instance.
    pub fn find(instance: &str) -> Option<Process> {
        let entries = std::fs::read_dir("/proc").ok()?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut found = pids.filter(|&pid| is_instance(pid, instance)).filter_map(ProcessIdentity::of);
        found.find_map(|identity| Process::adopt(&identity, instance))
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// The identity of the process; `None` if it was adopted and has ended.
    pub fn identity(&self) -> Option<ProcessIdentity> {
        ProcessIdentity::of(self.pid)
    }

    /// Takes the standard output, if it is a pipe and was not taken before.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.as_mut()?.stdout.take()
    }

    /// How the process ended, if it has. Reaps it.
    pub fn poll_exit(&mut self) -> Option<Exit> {
        if self.exited.is_none() {
            self.exited = match &mut self.child {
                Some(child) => child.try_wait().unwrap_or(None).map(Exit::Seen),
                None => has_ended(&self.pidfd).then_some(Exit::Unseen),
            };
        }
        self.exited
    }

    /// Sends SIGTERM.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    fn signal(&mut self, signal: Signal) {
        // An error means that the process has ended.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

/// Whether the process of this pidfd has ended, reaped or not.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Whether a process has this instance in its environment.
fn is_instance(pid: u32, instance: &str) -> bool {
    let wanted = format!("{INSTANCE_VARIABLE}={instance}");
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    !instance.is_empty() && environ.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A process that sleeps, and its instance; it ends with the test.
    struct Sleeper(Process, String);

    impl Sleeper {
        fn start() -> Sleeper {
            let instance = format!("{:032x}", rand::random::<u128>());
            let mut command = Command::new("sleep");
            command.arg("60").env(INSTANCE_VARIABLE, &instance);
            let process = Process::start(&mut command).unwrap();
            // The parent continues a moment before the new program has its environment.
            let give_up = Instant::now() + Duration::from_secs(30);
            while !is_instance(process.id(), &instance) {
                assert!(Instant::now() < give_up);
            }
            Sleeper(process, instance)
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill();
            wait(&mut self.0);
        }
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let fields = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["sleep", "a b", "1) R 2 (3", ")))"] {
            assert_eq!(start_time(&format!("77 ({name}) {fields}")), Some(22), "{name}");
        }
        assert_eq!(start_time("77 (sleep) R 1 2"), None);
    }

    fn wait(process: &mut Process) -> Exit {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(exit) = process.poll_exit() {
                return exit;
            }
            assert!(Instant::now() < give_up);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_process_is_adopted_by_its_identity_and_instance_and_by_nothing_less() {
        let Sleeper(own, instance) = &mut Sleeper::start();
        let identity = own.identity().unwrap();
        let mut adopted = Process::adopt(&identity, instance).expect("it runs");
        assert_eq!((adopted.id(), adopted.poll_exit()), (own.id(), None));
        assert!(Process::adopt(&identity, &instance[1..]).is_none(), "another instance");
        assert!(Process::adopt(&identity, "").is_none(), "no instance at all");
        let reused = ProcessIdentity { start: identity.start - 1, ..identity.clone() };
        assert!(Process::adopt(&reused, instance).is_none(), "its number was another's before");
        assert_eq!(Process::find(instance).map(|found| found.id()), Some(own.id()));
        assert!(Process::find("5aa12").is_none());

        adopted.terminate();
        assert_eq!(wait(own).to_string(), "signal 15 SIGTERM");
        assert_eq!(wait(&mut adopted), Exit::Unseen);
        assert!(Process::adopt(&identity, instance).is_none(), "it has ended");
    }

    #[test]
    fn one_that_has_ended_but_was_not_reaped_is_not_adopted() {
        let Sleeper(own, instance) = &mut Sleeper::start();
        let identity = own.identity().unwrap();
        own.kill();
        let give_up = Instant::now() + Duration::from_secs(30);
        while !has_ended(&own.pidfd) {
            assert!(Instant::now() < give_up);
        }
        assert!(own.identity().is_some(), "its parent has not reaped it yet");
        assert!(Process::adopt(&identity, instance).is_none());
        assert_eq!(wait(own).signal(), Some(9));
        own.kill(); // no process is hit
    }
}
