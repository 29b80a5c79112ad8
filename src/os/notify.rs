//! Messages to the service manager, by sd_notify(3). Without a service manager (no `NOTIFY_SOCKET`),
//! nothing is sent.

use std::process::Command;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// Variables that a child process must not inherit.
const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Whether there is a service manager.
pub fn is_heard() -> bool {
    std::env::var_os(VARIABLES[0]).is_some()
}

/// Reports that this process serves, at first or again after a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Reports that this process reloads its configuration; [`ready`] ends the reload.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot notify the service manager"),
    }
}

/// Reports that this process stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Reports a status line.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// Reports the new main process of the service. The old or the new main process may report it.
pub fn main_pid(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Reports that this process is alive.
pub fn ping() {
    tell(&[NotifyState::Watchdog]);
}

/// Maximum time until the service manager expects a [`ping`]; `None` if it does not watch this process.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| is_heard() && !time.is_zero())
}

/// Hides the service manager from a child process.
pub fn hide_from(child: &mut Command) {
    for name in VARIABLES {
        child.env_remove(name);
    }
}

/// Lets a successor report to the service manager like this process.
pub fn pass_on_to(successor: &mut Command) {
    successor.env_remove("WATCHDOG_PID");
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "cannot notify the service manager");
    }
}

/// Replaces line breaks, which would start another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("3 up\nMAINPID=1\r"), "3 up MAINPID=1 ");
    }

    #[test]
    fn a_child_hears_of_no_service_manager_and_a_successor_of_the_same_one() {
        let removed = |change: fn(&mut Command)| {
            let mut command = Command::new("true");
            change(&mut command);
            let gone = command.get_envs().filter(|(_, value)| value.is_none());
            gone.map(|(name, _)| name.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(removed(hide_from), ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"]);
        assert_eq!(removed(pass_on_to), ["WATCHDOG_PID"]);
    }
}
