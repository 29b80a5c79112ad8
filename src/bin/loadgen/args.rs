//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Parser, ValueEnum};
use lbd::config::{Target, server_address};
use lbd::io::IoChoice;
use lbd::load::{Arrivals, Payload, Sources, type_from};
use lbd::wire::header::{FRAME_SIZE_MAX, FRAME_SIZE_MIN};

// The path is explicit because two programs include this file.
#[path = "judgement.rs"]
mod judgement;

pub use judgement::Judgement;

/// Sends load to a balancer or any UDP server and measures response times.
///
/// With a rate, a schedule fixes when each request leaves, regardless of the responses. Latency counts
/// from that moment. With --window alone, a new request leaves when another one ends. With both, the
/// rate is kept while fewer than --window requests are in flight.
#[derive(Parser)]
#[command(name = "loadgen", version, max_term_width = 100, after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("load")
    .args(["rate", "ramp", "steps", "window", "arrivals", "merge", "search"]).required(true).multiple(true)))]
pub struct Args {
    /// Requests per second, 0.001 to 100000000
    #[arg(long, value_name = "R", value_parser = rate, help_heading = LOAD)]
    pub rate: Option<f64>,
    /// Rate that changes linearly over --duration; the warm-up runs at FROM
    #[arg(long, value_name = "FROM..TO", value_parser = Ramp::parse,
        conflicts_with_all = ["rate", "steps"], help_heading = LOAD)]
    pub ramp: Option<Ramp>,
    /// Rates one after another, each for --duration and with its own report: R1,R2,R3, or N rates from
    /// FROM to TO
    #[arg(long, value_name = "R1,R2,..|FROM..TO/N", value_parser = Steps::parse,
        conflicts_with = "rate", help_heading = LOAD)]
    pub steps: Option<Steps>,
    /// Maximum requests in flight, 1 to 4194304
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..=4_194_304),
        help_heading = LOAD)]
    pub window: Option<u32>,
    /// Spacing of requests: poisson (exponential gaps, like many users), constant (equal gaps), burst:N
    /// (N at once, at equal gaps; N is 10 if omitted), or trace:FILE [default: poisson]
    ///
    /// A trace is a text file with one line per request: seconds since the start, and optionally the
    /// payload size in bytes. A trace needs no rate, is sent once, and ends the run. Without --warmup,
    /// all of it counts.
    #[arg(long, value_name = "SHAPE", help_heading = LOAD)]
    pub arrivals: Option<Arrivals>,
    /// Clients, 1 to 1000000: sockets to send from, each with its own port
    #[arg(long, visible_alias = "connections", value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = LOAD)]
    pub clients: u32,
    /// Length of the measurement [default: 10s, or the whole trace]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = LOAD)]
    pub duration: Option<Duration>,
    /// Requests of the measurement; it ends after them, or after --duration if that is given too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = LOAD)]
    pub requests: Option<u64>,
    /// Closed loop: time from the end of a request to the next one in its place, like users who read
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration,
        help_heading = LOAD)]
    pub think: Duration,
    /// Time at which the warm-up starts, as 2026-12-01T10:00:00Z or in seconds since 1970, so that several
    /// generators start together
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with_all = ["search", "compare"],
        help_heading = LOAD)]
    pub start_at: Option<SystemTime>,
    /// Time before the measurement that does not count [default: 1s, or 0s for a trace]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, help_heading = LOAD)]
    pub warmup: Option<Duration>,
    /// Time after which an unanswered request is lost; shown with its wait plus this time
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration, help_heading = LOAD)]
    pub timeout: Duration,
    /// Seed of the schedule; the same seed repeats it [default: random]
    #[arg(long, value_name = "N", help_heading = LOAD)]
    pub seed: Option<u64>,

    /// Target: an address, also [fe80::1%eth0]:53, or a host name with a port [default: the balancer's
    /// client-side address in the configuration]
    ///
    /// A name is looked up once, at the start. An IPv4 address comes before an IPv6 one, unless --bind is
    /// IPv6.
    #[arg(long, value_name = "ADDR", value_parser = target, help_heading = REQUESTS)]
    pub target: Option<Target>,
    /// Local address of the clients, or a network whose addresses the clients take in turn, such as
    /// 127.0.9.0/24; the machine must have the addresses
    #[arg(long, value_name = "ADDR[/PREFIX]", help_heading = REQUESTS)]
    pub bind: Option<Sources>,
    /// Protocol of the requests: lbd's frames, DNS queries, or raw for the unmodified payload
    #[arg(long, value_name = "NAME", default_value = "native", help_heading = REQUESTS)]
    pub protocol: RequestProtocol,
    /// Payload of a request: a number of random bytes, text:..., hex:..., or file:... [default: 16];
    /// several are sent in turn
    ///
    /// With --protocol raw, the payload is the whole datagram. {id} in it becomes 16 hexadecimal digits
    /// that differ for each request; {id:4} to {id:8}, as in hex:0001{id:8}ff, become as many bytes. If
    /// responses repeat the id, any number of requests may be in flight. Without {id}, each client has one
    /// request in flight, and any datagram from the target is its response. After a loss, that client
    /// pauses for another --timeout.
    #[arg(long, value_name = "BYTES|text:..", help_heading = REQUESTS)]
    pub payload: Vec<Payload>,
    /// With --protocol raw: a response without this is an error, counted as refused: text:... or hex:...
    #[arg(long, value_name = "text:..", value_parser = pattern, help_heading = REQUESTS)]
    pub expect: Option<Pattern>,
    /// Frame size in bytes, if no configuration is used
    #[arg(long, value_name = "BYTES", conflicts_with = "config", value_parser = frame_size,
        help_heading = REQUESTS)]
    pub frame: Option<usize>,
    /// Maximum frames per datagram, 1 to 511 [default: from the configuration, or what fits 1,472 bytes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=511),
        help_heading = REQUESTS)]
    pub frames_per_datagram: Option<u16>,
    /// Name to query; {id} becomes 16 unique digits in each query, so that no cache can answer [default:
    /// example.com]
    #[arg(long, value_name = "NAME", help_heading = REQUESTS)]
    pub dns_name: Option<String>,
    /// File with names to query in turn, as for dnsperf; each line is NAME or NAME TYPE
    #[arg(long, visible_alias = "dns-file", value_name = "FILE", conflicts_with = "dns_name",
        help_heading = REQUESTS)]
    pub dns_names: Option<PathBuf>,
    /// Query type where the file has none [default: A]
    #[arg(long, value_name = "TYPE", value_parser = type_from, help_heading = REQUESTS)]
    pub dns_type: Option<u16>,
    /// Allow responses of up to this size with an EDNS record, at least 512
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(512..),
        help_heading = REQUESTS)]
    pub dns_edns: Option<u16>,
    /// The balancer's configuration, for target and frame size [default: ./config.json, or the built-in
    /// defaults]
    #[arg(long, value_name = "FILE", help_heading = REQUESTS)]
    pub config: Option<PathBuf>,

    /// Sending threads, 1 to 1024; each gets its share of rate, clients and window
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = MACHINE)]
    pub threads: u16,
    /// I/O back end: auto, mio or io_uring [default: from the configuration]
    #[arg(long, value_name = "NAME", help_heading = MACHINE)]
    pub io: Option<IoChoice>,
    /// Busy-wait this long before each scheduled send: more punctual, at one CPU per thread
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration,
        help_heading = MACHINE)]
    pub spin: Duration,

    /// Time after its scheduled moment from which a request is late
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = humantime::parse_duration,
        help_heading = MACHINE)]
    pub late_max: Duration,
    /// Maximum share of late requests; above it the run is invalid
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = judgement::share,
        help_heading = MACHINE)]
    pub late_share: f64,

    #[command(flatten)]
    pub judgement: Judgement,

    /// Merge the JSON reports of processes that ran at the same time, instead of sending load
    #[arg(long, value_name = "FILE", num_args = 1..,
        conflicts_with_all = ["rate", "ramp", "steps", "window", "arrivals"],
        help_heading = OUTPUT)]
    pub merge: Option<Vec<PathBuf>>,
    /// Write the report as JSON to this file; `-` is standard output, which moves the table to standard error
    #[arg(long, value_name = "FILE|-", help_heading = OUTPUT)]
    pub json: Option<PathBuf>,
    /// Write the counts of each second as CSV
    #[arg(long, value_name = "FILE|-", help_heading = OUTPUT)]
    pub csv: Option<PathBuf>,
    /// Write the latencies of each second as an HdrHistogram interval log
    #[arg(long, value_name = "FILE|-", help_heading = OUTPUT)]
    pub hdr: Option<PathBuf>,
    /// Write the percentile distribution as text of HdrHistogram (.hgrm), in milliseconds
    #[arg(long, value_name = "FILE|-", help_heading = OUTPUT)]
    pub hgrm: Option<PathBuf>,
    /// Serve the counts of the run for Prometheus at http://ADDR/metrics while it lasts
    #[arg(long, value_name = "IP:PORT", help_heading = OUTPUT)]
    pub metrics: Option<SocketAddr>,
    /// Print neither progress nor table
    #[arg(long, help_heading = OUTPUT)]
    pub quiet: bool,
}

const LOAD: &str = "Load";
const REQUESTS: &str = "Requests";
const MACHINE: &str = "Machine";
const OUTPUT: &str = "Output";

const EXAMPLES: &str = "\
Examples:
  loadgen --rate 50000                              load on the balancer of config.json, as from many users
  loadgen --window 64 --json report.json            as fast as responses arrive, 64 requests in flight
  loadgen --steps 10000..100000/10 --duration 5s    ten rates and a table
  loadgen --ramp 1000..50000 --csv seconds.csv      find the rate at which latency rises
  loadgen --rate 2000 --protocol dns --target 127.0.0.1:53 --dns-name '{id}.example.com'
  loadgen --rate 500 --protocol raw --target 127.0.0.1:7 --payload 'text:ping {id}'
  loadgen --merge one.json two.json --json both.json
  loadgen --search --slo 'p99<2ms,loss<0.1%' --duration 5s --report capacity.html
  loadgen --rate 20000 --compare 127.0.0.1:54001 127.0.0.1:55001 --repeats 15
  loadgen --rate 20000 --fail-if 'p99>5ms' --fail-if 'loss>0.1%' --report out.html

Exit codes: 0 the schedule was kept; 1 no request was answered, or more than --late-share of the requests \
left late or less than 99 % of them left, so the results measure this generator and not the system, or a \
comparison cannot tell; 2 an error in the arguments, the configuration, the environment or an output; 3 a \
condition of --fail-if or --abort-if holds, or even the lowest rate misses --slo; 4 a signal ended the run, \
and the results are partial. Lost requests do not fail a run: the report counts them, and --fail-if sets a \
limit.";

/// Protocol of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RequestProtocol {
    /// lbd's frames.
    Native,
    /// DNS queries.
    Dns,
    /// The unmodified payload.
    Raw,
}

/// A rate that changes linearly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// Rate at the start, in requests per second.
    pub from: f64,
    /// Rate at the end, in requests per second.
    pub to: f64,
}

impl Ramp {
    fn parse(text: &str) -> Result<Ramp, String> {
        let (from, to) = text.split_once("..").ok_or_else(|| format!("`{text}` is not FROM..TO"))?;
        Ok(Ramp { from: rate(from)?, to: rate(to)? })
    }
}

/// Rates one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps(
    /// At least one rate, in requests per second.
    pub Vec<f64>,
);

/// Maximum steps: a longer report has no reader.
const STEPS_MAX: u32 = 1_000;

impl Steps {
    fn parse(text: &str) -> Result<Steps, String> {
        let Some((ramp, count)) = text.split_once('/') else {
            let rates = text.split(',').map(rate).collect::<Result<Vec<f64>, String>>()?;
            return Ok(Steps(rates));
        };
        let Ramp { from, to } = Ramp::parse(ramp)?;
        let count: u32 = count
            .parse()
            .ok()
            .filter(|count| (2..=STEPS_MAX).contains(count))
            .ok_or_else(|| format!("`{count}` must be a number of steps from 2 to {STEPS_MAX}"))?;
        let step = (to - from) / f64::from(count - 1);
        Ok(Steps((0..count).map(|n| if n + 1 == count { to } else { from + step * f64::from(n) }).collect()))
    }
}

/// Bytes that each response must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub Vec<u8>);

fn pattern(text: &str) -> Result<Pattern, String> {
    match text.parse()? {
        Payload::Bytes(bytes) if !bytes.is_empty() => Ok(Pattern(bytes)),
        _ => Err("use text:... or hex:... with at least one byte".to_owned()),
    }
}

/// Parses a time of the wall clock.
fn moment(text: &str) -> Result<SystemTime, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(seconds)) {
        Some(moment) => Ok(moment),
        None => humantime::parse_rfc3339_weak(text).map_err(|error| error.to_string()),
    }
}

/// Parses an address or a host name, with a port.
fn target(text: &str) -> Result<Target, String> {
    server_address(text, false).map_err(|why| format!("`{text}` {why}"))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err(format!("`{text}` must be a rate from 0.001 to 100000000 requests per second")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be greater than 0".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn frame_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (FRAME_SIZE_MIN..=FRAME_SIZE_MAX).contains(&size) => Ok(size),
        _ => Err(format!("must be a number of bytes from {FRAME_SIZE_MIN} to {FRAME_SIZE_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Args, String> {
        Args::try_parse_from(words.split(' ')).map_err(|e| e.to_string())
    }

    #[test]
    fn a_rate_or_a_window_is_needed_and_bad_values_are_refused() {
        assert!(parse("loadgen --rate 50000").is_ok_and(|args| args.window.is_none()));
        assert!(parse("loadgen --window 16 --rate 1").is_ok());
        assert!(parse("loadgen --duration 1s").is_err_and(|e| e.contains("--rate <R>|--ramp")));
        for bad in [
            "--rate 0",
            "--rate nan",
            "--rate 1 --duration 0s",
            "--rate 1 --frame 64",
            "--window 0",
            "--ramp 1",
            "--ramp 0..5",
            "--steps 1,,2",
            "--steps 1..5/1",
            "--steps 1..5/x",
            "--rate 1 --arrivals uniform",
            "--rate 1 --payload hex:0",
            "--rate 1 --dns-type B",
            "--rate 1 --dns-edns 100",
            "--rate 1 --clients 0",
            "--rate 1 --threads 0",
            "--rate 1 --protocol tcp",
        ] {
            let flag = bad.rsplit(' ').nth(1).unwrap();
            assert!(parse(&format!("loadgen {bad}")).is_err_and(|e| e.contains(flag)), "{bad}");
        }
        assert!(parse("loadgen --rate 1 --io io_uring").is_ok_and(|args| args.io == Some(IoChoice::IoUring)));
        assert!(parse("loadgen --rate 1 --io epoll").is_err_and(|e| e.contains("auto, mio or io_uring")));
        assert!(parse("loadgen --rate 1 --frame 128 --config f").is_err(), "two frame sizes");
        assert!(parse("loadgen --rate 1 --ramp 1..2").is_err(), "two rates");
        assert!(parse("loadgen --rate 1 --merge a.json").is_err(), "a run and no run");
        assert!(parse("loadgen --connections 5 --rate 1").is_ok_and(|args| args.clients == 5));
        assert!(
            parse("loadgen --merge a.json b.json --json c.json")
                .is_ok_and(|args| args.merge.unwrap().len() == 2)
        );
    }

    #[test]
    fn steps_are_a_list_or_so_many_from_one_to_the_other() {
        let steps = |text| Steps::parse(text).map(|Steps(rates)| rates);
        assert_eq!(steps("10,20.5,5"), Ok(vec![10.0, 20.5, 5.0]));
        assert_eq!(steps("100..500/5"), Ok(vec![100.0, 200.0, 300.0, 400.0, 500.0]));
        assert_eq!(steps("5..1/2"), Ok(vec![5.0, 1.0]));
        assert_eq!(Ramp::parse("1..2"), Ok(Ramp { from: 1.0, to: 2.0 }));
    }

    #[test]
    fn the_help_has_every_option_under_a_heading() {
        use clap::CommandFactory;
        let command = Args::command();
        let own = ["help", "version"];
        for arg in command.get_arguments().filter(|arg| !own.contains(&arg.get_id().as_str())) {
            assert!(arg.get_help_heading().is_some(), "{}", arg.get_id());
        }
    }
}
