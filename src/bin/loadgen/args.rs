//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use lbd::io::IoChoice;
use lbd::load::Arrivals;
use lbd::wire::header::{FRAME_SIZE_MAX, FRAME_SIZE_MIN};

/// Sends load to a balancer and shows how long the answers took.
///
/// With --rate the plan says when each request should leave, whatever the system does, and latency counts from
/// that moment. With --window alone a new request leaves when one has ended. With both, the rate is kept while
/// fewer than --window requests are in flight.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(group(clap::ArgGroup::new("load").args(["rate", "window"]).required(true).multiple(true)))]
pub struct Args {
    /// Requests per second
    #[arg(long, value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
    /// Requests in flight at most
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub window: Option<u32>,
    /// The balancer's client side; default: from the configuration
    #[arg(long, value_name = "ADDR")]
    pub target: Option<SocketAddr>,
    /// Time of the measurement
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Time before the measurement, outside all counts
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// How the gaps are distributed: poisson (exponential, like many users) or constant
    #[arg(long, value_name = "SHAPE", default_value = "poisson", requires = "rate")]
    pub arrivals: Arrivals,
    /// Sockets to send from, in turn
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Bytes of payload
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub payload: usize,
    /// When a request without an answer is lost
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub timeout: Duration,
    /// Bytes of a frame, if there is no configuration to read it from
    #[arg(long, value_name = "BYTES", conflicts_with = "config", value_parser = frame_size)]
    pub frame: Option<usize>,
    /// Frames that share a datagram at most; default: from the configuration, or what fits 1,472 bytes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=511))]
    pub frames_per_datagram: Option<u16>,
    /// The balancer's configuration: target and frame size; default ./config.json, or the built-in defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// I/O back end: auto, mio or io_uring; default: from the configuration
    #[arg(long, value_name = "NAME")]
    pub io: Option<IoChoice>,
    /// Seed of the plan, to repeat it; default: another one each time
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write the report as JSON to this file, or with `-` to standard output (and the table to standard error)
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Print neither progress nor table
    #[arg(long)]
    pub quiet: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 the plan was kept; 1 nothing was answered, or so many requests left late or not \
at all that the figures would show this generator and not the system; 2 a mistake in arguments, configuration or \
environment. Lost requests are a finding, not a failure: read them in the report.";

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("not a number of requests per second from 0.001 to 100000000".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be more than 0".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn frame_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (FRAME_SIZE_MIN..=FRAME_SIZE_MAX).contains(&size) => Ok(size),
        _ => Err(format!("not a number of bytes from {FRAME_SIZE_MIN} to {FRAME_SIZE_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_or_a_window_is_needed_and_bad_values_are_refused() {
        let parse = |words: &str| Args::try_parse_from(words.split(' ')).map_err(|e| e.to_string());
        assert!(parse("loadgen --rate 50000").is_ok_and(|args| args.window.is_none()));
        assert!(parse("loadgen --window 16 --rate 1").is_ok());
        assert!(parse("loadgen --duration 1s").is_err_and(|e| e.contains("--rate <R>|--window <W>")));
        for bad in ["--rate 0", "--rate nan", "--rate 1 --duration 0s", "--rate 1 --frame 64", "--window 0"] {
            let flag = bad.rsplit(' ').nth(1).unwrap();
            assert!(parse(&format!("loadgen {bad}")).is_err_and(|e| e.contains(flag)), "{bad}");
        }
        assert!(parse("loadgen --rate 1 --io io_uring").is_ok_and(|args| args.io == Some(IoChoice::IoUring)));
        assert!(parse("loadgen --rate 1 --io epoll").is_err_and(|e| e.contains("auto, mio or io_uring")));
        assert!(parse("loadgen --window 4 --arrivals constant").is_err(), "arrivals of no plan");
        assert!(parse("loadgen --rate 1 --frame 128 --config f").is_err(), "two frame sizes");
    }
}
