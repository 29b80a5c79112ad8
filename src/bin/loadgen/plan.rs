//! From arguments and configuration to jobs.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use lbd::base::rng::entropy;
use lbd::config::{Config, Target};
use lbd::io::IoChoice;
use lbd::load::{
    Arrivals, DnsQueries, Load, LoadRate, Measurement, Payload, ProtocolSpec, Tolerance, Trace, UNBOUNDED,
};
use lbd::wire::FrameFormat;

use crate::args::{Args, Pattern, Ramp, RequestProtocol, Steps};

const DURATION: Duration = Duration::from_secs(10);
const WARMUP: Duration = Duration::from_secs(1);
const PAYLOAD: usize = 16;
const DNS_NAME: &str = "example.com";
const DNS_TYPE: u16 = 1;

/// The jobs in order: a single one, or one per step.
pub fn jobs(args: &Args) -> Result<Vec<Measurement>> {
    let job = template(args, args.target.as_ref())?;
    let jobs: Vec<Measurement> = match &args.steps {
        Some(Steps(rates)) => {
            let loads = rates.iter().map(|rate| at_rate(args, LoadRate::flat(*rate)));
            let first = |index: usize| job.start_at.filter(|_| index == 0);
            let jobs = loads
                .enumerate()
                .map(|(index, load)| Ok(Measurement { load: load?, start_at: first(index), ..job.clone() }));
            jobs.collect::<Result<_>>()?
        }
        None => vec![Measurement { load: load(args, &job)?, ..job }],
    };
    jobs.iter().try_for_each(Measurement::check).map_err(anyhow::Error::msg)?;
    Ok(jobs)
}

/// A job for this target.
pub fn job_for(args: &Args, target: &Target) -> Result<Measurement> {
    let job = template(args, Some(target))?;
    checked(Measurement { load: load(args, &job)?, ..job })
}

/// A job at this rate.
pub fn job_at(args: &Args, rate: f64) -> Result<Measurement> {
    checked(Measurement {
        load: at_rate(args, LoadRate::flat(rate))?,
        ..template(args, args.target.as_ref())?
    })
}

fn checked(job: Measurement) -> Result<Measurement> {
    job.check().map_err(anyhow::Error::msg)?;
    Ok(job)
}

/// A job whose load is not set yet.
fn template(args: &Args, target: Option<&Target>) -> Result<Measurement> {
    let config = Config::load_or_default(args.config.as_deref())?;
    if target.is_none() {
        let is_native = args.protocol == RequestProtocol::Native;
        ensure!(is_native, "--protocol {} needs --target", name(args.protocol));
    }
    let target = match target {
        Some(target) => looked_up(target, args.bind.is_some_and(|sources| sources.is_ipv6()))?,
        None => config.require_native("loadgen without --target")?.balancer_for_clients(),
    };
    let is_trace = matches!(args.arrivals, Some(Arrivals::Trace(_)));
    let (warmup, duration) = match (is_trace, args.requests) {
        (true, _) => (Duration::ZERO, Duration::MAX),
        // A ramp needs a length.
        (false, Some(_)) if args.ramp.is_none() => (WARMUP, UNBOUNDED),
        (false, _) => (WARMUP, DURATION),
    };
    Ok(Measurement {
        target,
        protocol: protocol(args, &config, target)?,
        load: Load::Closed,
        window: args.window.map(|window| window as usize),
        timeout: args.timeout,
        warmup: args.warmup.unwrap_or(warmup),
        duration: args.duration.unwrap_or(duration),
        requests: args.requests,
        think: args.think,
        start_at: args.start_at,
        threads: args.threads,
        clients: args.clients,
        bind: args.bind,
        spin: args.spin,
        abort_if: args.judgement.abort_if.clone(),
        tolerance: Tolerance { late_max_s: args.late_max.as_secs_f64(), late_share: args.late_share },
        io: args.io.unwrap_or(config.native().map_or(IoChoice::default(), |pool| pool.io)),
        seed: args.seed.unwrap_or_else(entropy),
    })
}

/// The address of a target: of a name, the first one of the preferred family.
pub fn looked_up(target: &Target, prefers_ipv6: bool) -> Result<SocketAddr> {
    let addrs = match (target.known_addrs(), target) {
        (addrs, _) if !addrs.is_empty() => addrs,
        (_, Target::Name { host, port }) => (host.as_str(), *port)
            .to_socket_addrs()
            .with_context(|| format!("cannot look up {host}"))?
            .collect(),
        (addrs, Target::Addr(_)) => addrs,
    };
    let preferred = addrs.iter().find(|addr| addr.is_ipv6() == prefers_ipv6).or(addrs.first());
    preferred.copied().with_context(|| format!("{target} has no address"))
}

/// The load of a run without steps.
fn load(args: &Args, job: &Measurement) -> Result<Load> {
    match (args.ramp, args.rate, &args.arrivals) {
        (Some(Ramp { from, to }), ..) => at_rate(args, LoadRate::ramp(from, to, job.warmup, job.duration)),
        (None, Some(rate), _) => at_rate(args, LoadRate::flat(rate)),
        (None, None, Some(Arrivals::Trace(file))) => trace(file),
        (None, None, Some(_)) => bail!("--arrivals needs a rate: --rate, --ramp or --steps"),
        (None, None, None) => Ok(Load::Closed),
    }
}

fn name(protocol: RequestProtocol) -> String {
    protocol.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn at_rate(args: &Args, rate: LoadRate) -> Result<Load> {
    Ok(match args.arrivals.as_ref().unwrap_or(&Arrivals::Poisson) {
        Arrivals::Poisson => Load::Poisson(rate),
        Arrivals::Constant => Load::Bursts(rate, 1),
        Arrivals::Burst(burst) => Load::Bursts(rate, *burst),
        Arrivals::Trace(_) => {
            bail!("--arrivals trace: sets when requests leave; remove --rate, --ramp and --steps")
        }
    })
}

fn trace(file: &Path) -> Result<Load> {
    let trace = Trace::load(file).map_err(anyhow::Error::msg)?;
    Ok(Load::Trace(file.display().to_string(), Arc::new(trace)))
}

/// The requests; an error if an option belongs to another protocol.
fn protocol(args: &Args, config: &Config, target: SocketAddr) -> Result<ProtocolSpec> {
    let for_native =
        [("--frame", args.frame.is_some()), ("--frames-per-datagram", args.frames_per_datagram.is_some())];
    let for_dns = [
        ("--dns-name", args.dns_name.is_some()),
        ("--dns-names", args.dns_names.is_some()),
        ("--dns-type", args.dns_type.is_some()),
        ("--dns-edns", args.dns_edns.is_some()),
    ];
    let payload = [("--payload", !args.payload.is_empty())];
    let expect = [("--expect", args.expect.is_some())];
    let foreign: &[&[(&str, bool)]] = match args.protocol {
        RequestProtocol::Native => &[&for_dns, &expect],
        RequestProtocol::Dns => &[&for_native, &payload, &expect],
        RequestProtocol::Raw => &[&for_native, &for_dns],
    };
    if let Some((option, _)) = foreign.iter().copied().flatten().find(|(_, given)| *given) {
        bail!("{option} does not apply to --protocol {}", name(args.protocol));
    }
    let mut payloads = args.payload.clone();
    if payloads.is_empty() {
        payloads.push(Payload::Random(PAYLOAD));
    }
    Ok(match args.protocol {
        RequestProtocol::Native => {
            let format = args.frame.map_or(config.frame_format(), FrameFormat::plain);
            let frames_per_datagram = match (args.frames_per_datagram, args.frame) {
                (Some(frames), _) => usize::from(frames),
                (None, Some(_)) => format.frames_per_datagram_to(target.ip()),
                // The pool's number is for its own family of addresses.
                (None, None) => config
                    .native()
                    .filter(|pool| pool.client_side.is_ipv6() == target.is_ipv6())
                    .map_or(format.frames_per_datagram_to(target.ip()), |pool| pool.frames_per_datagram),
            };
            ProtocolSpec::Native { format, frames_per_datagram, payloads }
        }
        RequestProtocol::Dns => ProtocolSpec::Dns(queries(args)?),
        RequestProtocol::Raw => {
            ProtocolSpec::Raw { payloads, expect: args.expect.clone().map(|Pattern(bytes)| bytes) }
        }
    })
}

fn queries(args: &Args) -> Result<DnsQueries> {
    let mut queries = DnsQueries::default();
    let kind = args.dns_type.unwrap_or(DNS_TYPE);
    match &args.dns_names {
        Some(file) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let added = queries.add_lines(&text, kind, args.dns_edns);
            added.map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?;
        }
        None => {
            let name = args.dns_name.as_deref().unwrap_or(DNS_NAME);
            queries.add(name, kind, args.dns_edns).map_err(|why| anyhow::anyhow!("--dns-name: {why}"))?;
        }
    }
    Ok(queries)
}
