//! What a service manager is told, by sd_notify(3). Without one (no `NOTIFY_SOCKET`) nothing happens.

use std::process::Command;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// What a child would take for its own.
const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Whether somebody is told.
pub fn is_heard() -> bool {
    std::env::var_os(VARIABLES[0]).is_some()
}

/// This process serves: now, or again after a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration anew; [`ready`] ends this.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager is not told of the reload"),
    }
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// What it does, in one line.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// The service's main process is this one from now on. Said by the one that was, or by the new one.
pub fn main_pid(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// It is alive.
pub fn ping() {
    tell(&[NotifyState::Watchdog]);
}

/// At the latest after this time the service manager wants a [`ping`], if it watches this process at all.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| is_heard() && !time.is_zero())
}

/// A child speaks for itself only: it tells this process's service manager nothing.
pub fn hide_from(child: &mut Command) {
    for name in VARIABLES {
        child.env_remove(name);
    }
}

/// A child that shall take this process's place is watched like this one.
pub fn pass_on_to(successor: &mut Command) {
    successor.env_remove("WATCHDOG_PID");
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "the service manager does not hear");
    }
}

/// A line break would begin another assignment.
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
