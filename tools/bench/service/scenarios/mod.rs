//! Scenarios: an operator's actions on a bad day and on a deployment day, under load. Each scenario starts
//! the real programs, sends requests at a steady rate, repeats its action, and reports the outcome of all
//! requests.

#![allow(dead_code)] // the tool and the tests use different parts

mod controller;
mod crash;
mod drain;
mod fakes;
mod flapping;
#[path = "../../../../tests/common/ports.rs"]
mod ports;
pub mod processes;
mod reload;
mod scale;
mod scrape;
mod site;
mod speech;
mod takeover;
mod traffic;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

pub use flapping::Fault;
pub use speech::Speech;
use traffic::Account;

/// The settings of all scenarios.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Directory of `lbd`.
    pub bin_dir: PathBuf,
    /// Requests per second.
    pub rate: f64,
    /// Repetitions of each scenario.
    pub repeat: u32,
    /// Time after which an unanswered request is lost.
    pub patience: Duration,
    /// Pause between two steps of an operator.
    pub pause: Duration,
    /// Successive reloads, 100 ms apart.
    pub reloads: u32,
    /// Time for which a flapping server is observed after its third failure.
    pub flap_for: Duration,
}

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// A server is drained and enabled again.
    Drain(Speech),
    /// The configuration changes, ten times a second.
    Reload(Speech),
    /// Another balancer takes over, with this I/O back end.
    Takeover(Speech, &'static str),
    /// The pool grows from one server to six and shrinks again, by load.
    Scale,
    /// The controller is killed and started again.
    Controller,
    /// The balancer is killed under its supervisor.
    Crash,
    /// Metrics are scraped, and a reader of events stalls.
    Scrape,
    /// A server answers for a second and fails for a second, repeatedly.
    Flapping(Fault),
}

impl Scenario {
    /// All scenarios; long ones, and those that need a quiet machine, are last.
    pub const ALL: [Scenario; 18] = [
        Scenario::Drain(Speech::Native),
        Scenario::Drain(Speech::Datagram),
        Scenario::Drain(Speech::Dns),
        Scenario::Reload(Speech::Native),
        Scenario::Reload(Speech::Datagram),
        Scenario::Reload(Speech::Dns),
        Scenario::Takeover(Speech::Native, "mio"),
        Scenario::Takeover(Speech::Datagram, "mio"),
        Scenario::Takeover(Speech::Dns, "mio"),
        Scenario::Takeover(Speech::Native, "io_uring"),
        Scenario::Takeover(Speech::Datagram, "io_uring"),
        Scenario::Scale,
        Scenario::Controller,
        Scenario::Crash,
        Scenario::Flapping(Fault::Stopped),
        Scenario::Flapping(Fault::Killed),
        Scenario::Flapping(Fault::Silent),
        Scenario::Scrape,
    ];

    /// The name of the scenario, and its variant.
    pub fn name(self) -> (&'static str, String) {
        match self {
            Scenario::Drain(speech) => ("drain", speech.name().to_owned()),
            Scenario::Reload(speech) => ("reload", speech.name().to_owned()),
            Scenario::Takeover(speech, io) => ("takeover", format!("{} {io}", speech.name())),
            Scenario::Scale => ("scale", "native".to_owned()),
            Scenario::Controller => ("controller", "native".to_owned()),
            Scenario::Crash => ("crash", "native".to_owned()),
            Scenario::Scrape => ("scrape", "native".to_owned()),
            Scenario::Flapping(fault) => ("flapping", fault.name().to_owned()),
        }
    }

    /// Runs the scenario.
    pub fn run(self, setup: &Setup) -> Result<Outcome> {
        let mut outcome = match self {
            Scenario::Drain(speech) => drain::run(setup, speech),
            Scenario::Reload(speech) => reload::run(setup, speech),
            Scenario::Takeover(speech, io) => takeover::run(setup, speech, io),
            Scenario::Scale => scale::run(setup),
            Scenario::Controller => controller::run(setup),
            Scenario::Crash => crash::run(setup),
            Scenario::Scrape => scrape::run(setup),
            Scenario::Flapping(fault) => flapping::run(setup, fault),
        }?;
        let (name, of) = self.name();
        (outcome.scenario, outcome.of) = (name.to_owned(), of);
        Ok(outcome)
    }
}

/// A measured value and its limits.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Description of the value, with its unit.
    pub what: String,
    /// The measured value.
    pub value: f64,
    /// Lower limit; `None`: no limit.
    pub least: Option<f64>,
    /// Upper limit; `None`: no limit.
    pub most: Option<f64>,
}

impl Check {
    /// Whether the value is within its limits.
    pub fn holds(&self) -> bool {
        self.least.is_none_or(|least| self.value >= least) && self.most.is_none_or(|most| self.value <= most)
    }
}

/// The outcome of a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: String,
    /// Variant of the scenario.
    pub of: String,
    /// Number of repetitions.
    pub repeats: u32,
    /// Requests sent, each once.
    pub requests: u64,
    /// Requests without a timely answer.
    pub lost: u64,
    /// Requests refused.
    pub refused: u64,
    /// Answers other than the one correct answer to a request of the receiving client.
    pub wrong: u64,
    /// Lost requests that were answered too late.
    pub late: u64,
    /// Datagrams that the kernel dropped at the balancer because its receive buffers were full.
    pub kernel_drops: u64,
    /// Datagrams that the kernel dropped at this tool's clients.
    pub own_drops: u64,
    /// Requests that this tool did not send because it was late.
    pub unsent: u64,
    /// Latency of the slowest answer, in milliseconds.
    pub slowest_ms: f64,
    /// Other measurements.
    pub checks: Vec<Check>,
}

impl Outcome {
    fn new(repeats: u32) -> Outcome {
        Outcome { repeats, ..Outcome::default() }
    }

    /// Adds the account of a run of clients.
    fn add(&mut self, account: &Account) {
        self.requests += account.sent;
        self.lost += account.lost;
        self.refused += account.refused;
        self.wrong += account.wrong + account.double;
        self.late += account.late;
        self.own_drops += account.own_drops;
        self.unsent += account.unsent;
        self.slowest_ms = self.slowest_ms.max(account.slowest.as_secs_f64() * 1e3);
    }

    /// Requires that no request was lost or refused.
    fn must_lose_nothing(&mut self) {
        self.at_most("lost or refused", (self.lost + self.refused) as f64, 0.0);
    }

    fn at_most(&mut self, what: impl Into<String>, value: f64, most: f64) {
        self.checks.push(Check { what: what.into(), value, least: None, most: Some(most) });
    }

    fn at_least(&mut self, what: impl Into<String>, value: f64, least: f64) {
        self.checks.push(Check { what: what.into(), value, least: Some(least), most: None });
    }

    fn note(&mut self, what: impl Into<String>, value: f64) {
        self.checks.push(Check { what: what.into(), value, least: None, most: None });
    }

    /// Whether no answer was wrong and all values are within their limits.
    pub fn passes(&self) -> bool {
        self.wrong == 0 && self.checks.iter().all(Check::holds)
    }
}

/// Waits until `look` returns true; an error after `patience`.
fn wait_until(what: &str, patience: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + patience;
    while !look()? {
        if Instant::now() > give_up {
            bail!("{what}: not seen within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(2)); // between two calls of `look`
    }
    Ok(())
}

/// Prints the progress.
fn progress(text: std::fmt::Arguments<'_>) {
    lbd::os::terminal::tell(format_args!("  {text}"));
}

/// A clock without drift: after an action that took longer than a step, the next step begins at once.
struct Beat {
    next: Instant,
    step: Duration,
}

impl Beat {
    fn new(step: Duration) -> Beat {
        Beat { next: Instant::now() + step, step }
    }

    fn wait(&mut self) {
        std::thread::sleep(self.next.saturating_duration_since(Instant::now()));
        self.next = (self.next + self.step).max(Instant::now());
    }
}
