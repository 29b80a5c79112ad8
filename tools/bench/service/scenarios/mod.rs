//! What an operator does on a bad day and on deployment day, under load: each scenario starts the real programs, asks at a
//! steady rate, does it over and over, and says what became of every request.

#![allow(dead_code)] // the tool and the tests use their parts

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

/// What all scenarios are told.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where `lbd` is.
    pub bin_dir: PathBuf,
    /// Requests a second.
    pub rate: f64,
    /// How often each is done.
    pub repeat: u32,
    /// A request without an answer for so long is lost.
    pub patience: Duration,
    /// Between two steps of an operator.
    pub pause: Duration,
    /// Reloads in a row, 100 ms apart.
    pub reloads: u32,
    /// How long a server that comes and goes is looked at, after its third failure.
    pub flap_for: Duration,
}

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// A server is drained and taken into service again.
    Drain(Speech),
    /// The configuration changes, ten times a second.
    Reload(Speech),
    /// Another balancer takes over; with which back end.
    Takeover(Speech, &'static str),
    /// From one server to six and back, by load.
    Scale,
    /// The controller is killed and started again.
    Controller,
    /// The balancer is killed under its supervisor.
    Crash,
    /// Metrics are read, and a reader of events stalls.
    Scrape,
    /// A server is there for a second and away for a second.
    Flapping(Fault),
}

impl Scenario {
    /// All of them; those that take quiet or long come last.
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

    /// Its name, and what distinguishes it from others of that name.
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

    /// Runs it.
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

/// A figure and what it has to be.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was measured, with its unit.
    pub what: String,
    /// What it is.
    pub value: f64,
    /// Not less than this.
    pub least: Option<f64>,
    /// Not more than this.
    pub most: Option<f64>,
}

impl Check {
    /// Whether it is as it has to be.
    pub fn holds(&self) -> bool {
        self.least.is_none_or(|least| self.value >= least) && self.most.is_none_or(|most| self.value <= most)
    }
}

/// What a scenario came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Its name.
    pub scenario: String,
    /// What distinguishes it from others of that name.
    pub of: String,
    /// How often it was done.
    pub repeats: u32,
    /// Requests sent, each once.
    pub requests: u64,
    /// Requests without an answer in time.
    pub lost: u64,
    /// Requests refused.
    pub refused: u64,
    /// Answers that are not the one right answer to a request of the client that got them.
    pub wrong: u64,
    /// Of the lost ones, those that were answered too late.
    pub late: u64,
    /// Datagrams that the kernel dropped, at the balancer: its receive buffers were full.
    pub kernel_drops: u64,
    /// Datagrams that the kernel dropped at the clients, which are a part of this tool.
    pub own_drops: u64,
    /// Requests that this tool was too late to send.
    pub unsent: u64,
    /// The slowest answer, in milliseconds.
    pub slowest_ms: f64,
    /// What else was measured.
    pub checks: Vec<Check>,
}

impl Outcome {
    fn new(repeats: u32) -> Outcome {
        Outcome { repeats, ..Outcome::default() }
    }

    /// Adds an account.
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

    /// Nothing may be lost, nor refused.
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

    /// Whether all is as it has to be.
    pub fn passes(&self) -> bool {
        self.wrong == 0 && self.checks.iter().all(Check::holds)
    }
}

/// Waits until `look` is true.
fn wait_until(what: &str, patience: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + patience;
    while !look()? {
        if Instant::now() > give_up {
            bail!("{what}: not seen within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(2)); // the pace of looking
    }
    Ok(())
}

/// Says how far it is.
fn progress(text: std::fmt::Arguments<'_>) {
    lbd::os::terminal::tell(format_args!("  {text}"));
}

/// A pace that does not drift: what takes longer than a step begins the next one at once.
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
