//! `lbd ping`: sequential round trips through a balancer.

mod probe;
mod report;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lbd::config::probe::{payload, query};
use lbd::config::{self, Config, reachable};
use lbd::os::terminal::{print, tell};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::{PingArgs, PingProtocol};
use probe::{Probe, ProbeRequest};
use report::Stats;

/// Longest sleep between two checks for a stop signal.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Sends requests until the count is reached or a signal arrives; true if any response arrived.
pub fn run(args: &PingArgs) -> Result<bool> {
    let config = args.common.load()?;
    let (target, protocol) = target(args, &config)?;
    let mut probe = Probe::new(target, question(args, protocol)?, args.timeout, &config)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot listen for signals")?;
    }
    let is_stopped = || stop.load(Ordering::Relaxed);
    if !args.json && !args.common.quiet {
        tell(format_args!("lbd ping {target}: {}, {} bytes", protocol.name(), probe.sent_bytes()));
    }
    let mut stats = Stats::default();
    let mut next = Instant::now();
    let mut is_read = true;
    for seq in 1..=args.count.unwrap_or(u64::MAX) {
        let Some(trip) = probe.ask(&is_stopped)? else { break };
        stats.add(&trip);
        if args.json {
            is_read = print(format_args!("{}\n", report::json(seq, &trip)))?;
        } else if !args.common.quiet {
            is_read = print(format_args!("{}\n", report::line(seq, target, args.timeout, &trip)))?;
        }
        next = (next + args.interval).max(Instant::now());
        while !is_stopped() && Instant::now() < next && args.count != Some(seq) {
            std::thread::sleep(LOOK_EVERY.min(next.saturating_duration_since(Instant::now())));
        }
        if is_stopped() || !is_read {
            break;
        }
    }
    if args.json {
        print(format_args!("{}\n", stats.json()))?;
    } else {
        print(format_args!("{}\n", stats.summary(target)))?;
    }
    Ok(stats.came_back() > 0)
}

/// Target and protocol: from the arguments, or else from the configuration.
fn target(args: &PingArgs, config: &Config) -> Result<(SocketAddr, PingProtocol)> {
    let mut places = vec![];
    for pool in &config.pools {
        let protocol = match pool.as_datagram().map(|pool| pool.settings.protocol) {
            None => PingProtocol::Native,
            Some(config::Protocol::Dns) => PingProtocol::Dns,
            Some(config::Protocol::Datagram) => PingProtocol::Raw,
        };
        places.extend(pool.listen().iter().map(|&addr| (reachable(addr), protocol)));
    }
    match &args.addr {
        Some(text) => {
            let mut addrs = text.to_socket_addrs().with_context(|| {
                format!("cannot resolve \"{text}\"; use IP:PORT or NAME:PORT, such as 127.0.0.1:54001")
            })?;
            let Some(addr) = addrs.next() else {
                bail!("cannot resolve \"{text}\": the name has no address")
            };
            let known = places.iter().find(|place| place.0 == addr).map(|place| place.1);
            Ok((addr, args.protocol.or(known).unwrap_or(PingProtocol::Native)))
        }
        None => {
            let place = places.iter().find(|place| args.protocol.is_none_or(|wanted| wanted == place.1));
            place.copied().with_context(|| {
                let protocol = args.protocol.map_or("any protocol", PingProtocol::name);
                format!(
                    "the configuration has no pool for {protocol}; name a target, as in \
                     lbd ping 127.0.0.1:54001"
                )
            })
        }
    }
}

fn question(args: &PingArgs, protocol: PingProtocol) -> Result<ProbeRequest> {
    match (protocol, &args.payload, &args.query) {
        (PingProtocol::Dns, Some(_), _) => {
            bail!("--payload does not apply to dns; use --query, such as --query \"example.com A\"")
        }
        (PingProtocol::Native | PingProtocol::Raw, _, Some(_)) => {
            bail!("--query applies only to dns; use --payload, or add --protocol dns")
        }
        (PingProtocol::Dns, None, text) => {
            let text = text.as_deref().unwrap_or(". NS");
            let (name, kind) =
                query(text).map_err(|problem| anyhow::anyhow!("--query: \"{text}\" {problem}"))?;
            Ok(ProbeRequest::Dns { name, kind })
        }
        (protocol, text, None) => {
            let text = text.as_deref().unwrap_or("ping");
            let bytes =
                payload(text).map_err(|problem| anyhow::anyhow!("--payload: \"{text}\" {problem}"))?;
            Ok(if protocol == PingProtocol::Raw {
                ProbeRequest::Raw(bytes)
            } else {
                ProbeRequest::Native(bytes)
            })
        }
    }
}
