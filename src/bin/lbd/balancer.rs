//! `lbd balancer`: the native pool, datagram pools, or both, in one process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::Result;
use lbd::config::Config;
use lbd::daemon::instance::{Instance, Ready, service};
use lbd::daemon::signals::{Asked, Stop};
use lbd::daemon::successor::Successor;
use lbd::handover::SocketSet;
use lbd::logging;
use lbd::status::Sampler;
use lbd::terminal::{print, tell};
use lbd::time::Clock;

use crate::args::{Balancer, Common};

/// Runs until it is asked to stop.
pub fn run(args: &Balancer) -> Result<()> {
    let config = args.load()?;
    let clock = Clock::start();
    let successor = Successor::of_this_process()?;
    // Everything that may fail is tried before the log is touched.
    let ready = Ready::new(config.clone(), clock, SocketSet::default())?;
    let _log = logging::init(&config.logs, "balancer/balancer.log")?;
    let stop = Stop::new(vec![]);
    let instance = ready.start(stop.clone())?;
    listen_for_signals(&stop, &instance, successor, args)?;
    say(&args.common, &config);
    service::begin(&instance)?;
    instance.join()?;
    let mut sampler = instance.sampler();
    if !args.common.quiet {
        tell_end(&mut sampler);
    }
    if !args.common.quiet || args.status_every.is_some() {
        print_summary(&mut sampler)?;
    }
    Ok(())
}

/// SIGHUP reloads, SIGUSR1 asks for a summary, SIGUSR2 starts a successor; `--status-every` prints a summary so often.
fn listen_for_signals(
    stop: &Stop,
    instance: &Arc<Instance>,
    successor: Successor,
    args: &Balancer,
) -> Result<()> {
    let (ask, asked) = sync_channel(1);
    print_summaries(Arc::clone(instance), args.status_every, asked)?;
    let (reloading, quiet) = (Arc::clone(instance), args.common.quiet);
    stop.listen_for(Asked {
        summary: Box::new(move || {
            let _ = ask.try_send(()); // full: one is about to be printed
        }),
        reload: Box::new(move || match reloading.reload() {
            Ok(_) if quiet => {}
            Ok(what) => tell(format_args!("balancer: configuration reloaded: {what}")),
            Err(why) => tell(format_args!("lbd: configuration refused, nothing has changed: {why}")),
        }),
        succeed: Box::new(move || {
            if let Err(error) = successor.start() {
                tell(format_args!("lbd: a successor cannot be started, going on: {error}"));
            }
        }),
    })?;
    Ok(())
}

/// Says what runs, once.
fn say(common: &Common, config: &Config) {
    if common.quiet {
        return;
    }
    if config.runs_native {
        let pool = config.native();
        tell(format_args!(
            "balancer: clients on {}, servers on {}, {}, workers: {}",
            pool.client_side, pool.server_side, pool.policy, pool.workers
        ));
    }
    for pool in &config.datagram_pools {
        let listen: Vec<String> = pool.listen.iter().map(SocketAddr::to_string).collect();
        tell(format_args!(
            "pool {}: {} on {}, {} servers, {}, workers: {}",
            pool.settings.name,
            pool.settings.protocol.name(),
            listen.join(" and "),
            pool.servers.len(),
            pool.settings.policy,
            pool.settings.workers
        ));
    }
}

/// Prints a summary each time that one is asked for, and every so often. On a thread of its own: a reader that stalls
/// costs the data path nothing.
fn print_summaries(
    instance: Arc<Instance>,
    every: Option<Duration>,
    asked: Receiver<()>,
) -> std::io::Result<()> {
    let next = move || match every {
        None => asked.recv().is_ok(),
        Some(every) => !matches!(asked.recv_timeout(every), Err(RecvTimeoutError::Disconnected)),
    };
    std::thread::Builder::new().name("status".into()).spawn(move || {
        let mut sampler = instance.sampler();
        if every.is_some() && !print_summary(&mut sampler).is_ok_and(|read| read) {
            return;
        }
        while next() && print_summary(&mut sampler).is_ok_and(|read| read) {}
    })?;
    Ok(())
}

/// Shows everything as a line of JSON; false if nobody reads it any more.
fn print_summary(sampler: &mut Sampler) -> std::io::Result<bool> {
    print(format_args!("{}\n", sampler.sample().to_json()?))
}

/// The end in words.
fn tell_end(sampler: &mut Sampler) {
    let s = sampler.sample();
    if !s.workers.is_empty() {
        let busy = s.busy_no_server + s.busy_shed;
        tell(format_args!(
            "balancer: {} requests, {} dispatched, {} answered, {busy} busy, drops {:?}",
            s.requests, s.dispatched, s.answered, s.drops
        ));
    }
    for p in s.pools {
        let refused: u64 = p.refused.values().sum();
        tell(format_args!(
            "pool {}: {} received, {} answered, {} timed out, {} forwarded, {refused} refused, {} in flight",
            p.name, p.received, p.answered, p.timed_out, p.forwarded, p.in_flight
        ));
    }
}
