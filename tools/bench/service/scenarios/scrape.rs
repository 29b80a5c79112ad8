//! The cost of observation: compares turns with a scrape of the metrics every second and a stalled reader of
//! the events with turns without them. Needs a quiet machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::processes::cpu_time;
use super::site::Site;
use super::speech::Speech;
use super::{Beat, Outcome, Setup, progress};

/// Higher than the default rate of the other scenarios, since this one measures cost.
const RATE: f64 = 50_000.0;
const WARM_UP: Duration = Duration::from_secs(1);
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
const SCRAPES: u32 = 5;
/// Greatest ratio of the cost with observation to the cost without.
const RATIO: f64 = 1.05;

/// The cost of a turn.
#[derive(Clone, Copy)]
struct Cost {
    cpu_us: f64,
    p99_us: f64,
}

pub fn run(setup: &Setup) -> Result<Outcome> {
    let mut site = Site::running(setup, Speech::Native, json!({}))?;
    let mut outcome = Outcome::new(setup.repeat);
    let (mut alone, mut watched) = (vec![], vec![]);
    for round in 0..setup.repeat {
        // The two orders alternate, so that a drift of the machine affects both alike.
        for is_watched in [round % 2 == 0, round % 2 != 0] {
            let cost = turn(&mut site, is_watched, &mut outcome)?;
            if is_watched { watched.push(cost) } else { alone.push(cost) }
        }
        progress(format_args!("scrape: {}/{}", round + 1, setup.repeat));
    }
    let ratio = |of: fn(&Cost) -> f64| -> f64 {
        median(watched.iter().zip(&alone).map(|(watched, alone)| of(watched) / of(alone)).collect())
    };
    outcome.note("us of CPU time per request, unobserved", median(alone.iter().map(|c| c.cpu_us).collect()));
    outcome.note("us p99, unobserved", median(alone.iter().map(|c| c.p99_us).collect()));
    outcome.at_most("CPU time per request, observed : unobserved", ratio(|c| c.cpu_us), RATIO);
    outcome.at_most("p99, observed : unobserved", ratio(|c| c.p99_us), RATIO);
    site.finish(&mut outcome)?;
    Ok(outcome)
}

fn turn(site: &mut Site, is_watched: bool, outcome: &mut Outcome) -> Result<Cost> {
    let pid = site.balancer().pid();
    let traffic = site.traffic_at(RATE)?;
    std::thread::sleep(WARM_UP);
    let admin = site.admin_addr();
    let _stalled = if is_watched { Some(stall(admin)?) } else { None };
    let (cpu, answered) = (cpu_time(pid)?, traffic.answered());
    let mut beat = Beat::new(SCRAPE_EVERY);
    for _ in 0..SCRAPES {
        beat.wait();
        if is_watched {
            scrape(admin)?;
        }
    }
    let cpu = cpu_time(pid)?.saturating_sub(cpu);
    let requests = traffic.answered() - answered;
    let account = traffic.end()?;
    outcome.add(&account);
    ensure!(requests > 0, "no request was answered");
    Ok(Cost { cpu_us: cpu.as_secs_f64() * 1e6 / requests as f64, p99_us: account.p99.as_secs_f64() * 1e6 })
}

/// Connects a reader of the events that reads nothing.
fn stall(admin: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET /api/events HTTP/1.1\r\nHost: {admin}\r\n\r\n")?;
    Ok(stream)
}

fn scrape(admin: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let (mut text, begun) = (String::new(), Instant::now());
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "no metrics: {}", text.lines().next().unwrap_or_default());
    ensure!(begun.elapsed() < SCRAPE_EVERY, "a scrape took {:?}", begun.elapsed());
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
