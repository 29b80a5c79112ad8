//! A flapping server, up for a second and away for a second: measures the requests that it still gets.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;
use serde_json::json;

use super::site::Site;
use super::speech::Speech;
use super::{Outcome, Setup, progress};

/// The server that flaps.
const SERVER: u32 = 2;
/// Failures after which the balancer must hold the server down.
const FAILURES: u32 = 3;
/// Greatest share of the requests that the server may still get.
const SHARE_MAX: f64 = 0.001;
/// Duration of each phase, up and away.
const PHASE: Duration = Duration::from_secs(1);
/// Interval at which the counter of the server is sampled.
const LOOK: Duration = Duration::from_millis(100);

/// How the server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process of a native server is stopped (SIGSTOP) and continued.
    Stopped,
    /// The process of a native server is killed, and another one is started.
    Killed,
    /// A server of a datagram pool stops answering, and answers again.
    Silent,
}

impl Fault {
    /// Name of the fault.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Stopped => "stopped",
            Fault::Killed => "killed",
            Fault::Silent => "silent",
        }
    }

    fn speech(self) -> Speech {
        match self {
            Fault::Stopped | Fault::Killed => Speech::Native,
            Fault::Silent => Speech::Datagram,
        }
    }
}

pub fn run(setup: &Setup, fault: Fault) -> Result<Outcome> {
    let mut site = Site::running(setup, fault.speech(), json!({}))?;
    let traffic = site.traffic()?;
    let mut touched = Touched::default();
    for _ in 0..FAILURES {
        flap(&mut site, fault, &mut touched)?;
    }
    let (before, sent, begun) = (touched.total, traffic.sent(), Instant::now());
    while begun.elapsed() < setup.flap_for {
        flap(&mut site, fault, &mut touched)?;
        progress(format_args!("flapping {}: {:.0?}", fault.name(), begun.elapsed()));
    }
    let (touched, sent) = (touched.total - before, traffic.sent() - sent);
    let mut outcome = Outcome::new(1);
    outcome.add(&traffic.end()?);
    outcome.note("lost or refused", (outcome.lost + outcome.refused) as f64);
    outcome.note("requests sent to it after its third failure", touched as f64);
    outcome.at_most("share of requests sent to it", touched as f64 / sent as f64, SHARE_MAX);
    site.finish(&mut outcome)?;
    Ok(outcome)
}

/// One cycle: up for a phase, away for a phase, and up again.
fn flap(site: &mut Site, fault: Fault, touched: &mut Touched) -> Result<()> {
    touched.look_for(site, PHASE)?;
    set_away(site, fault, true)?;
    touched.look_for(site, PHASE)?;
    set_away(site, fault, false)
}

fn set_away(site: &mut Site, fault: Fault, is_away: bool) -> Result<()> {
    let place = |site: &Site| site.servers.iter().position(|(id, _)| *id == SERVER);
    match (fault, is_away) {
        (Fault::Silent, _) => {
            let fakes = site.fakes.as_ref().expect("a datagram pool has them");
            fakes.set_silent(SERVER as usize, is_away);
        }
        (Fault::Stopped, _) => {
            let place = place(site).expect("it is never taken away");
            site.servers[place].1.signal(if is_away { Signal::STOP } else { Signal::CONT });
        }
        (Fault::Killed, true) => {
            let place = place(site).expect("it was started again");
            site.servers.remove(place).1.kill()?;
        }
        (Fault::Killed, false) => site.add_server(SERVER)?,
    }
    Ok(())
}

/// Requests that were sent to the server over all its processes. The counter of a new process may start from
/// zero.
#[derive(Default)]
struct Touched {
    total: u64,
    last: u64,
}

impl Touched {
    fn look_for(&mut self, site: &Site, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            self.look(site)?;
        }
        Ok(())
    }

    fn look(&mut self, site: &Site) -> Result<()> {
        let Some(seen) = site.seen()?.into_iter().find(|server| server.id == SERVER) else { return Ok(()) };
        let begun = if seen.dispatched < self.last { 0 } else { self.last };
        self.total += seen.dispatched - begun;
        self.last = seen.dispatched;
        Ok(())
    }
}
