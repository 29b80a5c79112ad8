//! `lbd balancer`: the native pool, datagram pools, or both, in one process.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lbd::admin::status::PoolStatus;
use lbd::base::time::Clock;
use lbd::config::{Config, ConfigError};
use lbd::daemon::handover::{Listener, Requester, SocketSet};
use lbd::daemon::instance::{
    Instance, ReadyInstance, Snapshots, Takeover, service, takeover_path, takeover_paths,
};
use lbd::daemon::successor::Successor;
use lbd::os::logging;
use lbd::os::signals::{BalancerSignal, Stop};
use lbd::os::terminal::{print, tell};
use socket2::SockRef;
use tracing::{info, warn};

use crate::args::{BalancerArgs, CommonArgs};
use crate::command::dashboard_link;

/// The log of a balancer.
const LOG: &str = "balancer/balancer.log";

/// Maximum time until the supervisor has sent the sockets.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the balancer until a signal stops it.
pub fn run(args: &BalancerArgs) -> Result<()> {
    let config = args.load().inspect_err(|error| tell_predecessor(args, error))?;
    let clock = Clock::start();
    let path = takeover_path(&config);
    let successor = Successor::of_this_process(&path)?;
    // Everything that can fail runs before the log opens, so that an error leaves the log unmodified. The log
    // of a balancer that cannot take over is that of the balancer that keeps serving.
    let mut log = None;
    let begun = (|| {
        let (mut takeover, inherited) = inherited(args, &config, &path)?;
        let predecessor = takeover.as_ref().map(Takeover::predecessor);
        let ready = ReadyInstance::new(config.clone(), clock, inherited).inspect_err(|failed| {
            takeover.iter_mut().for_each(|takeover| takeover.refuse(&failed.to_string()));
        })?;
        let ready = ready.with_owner_socket();
        log = Some(logging::init(&config.logs, LOG)?);
        let stop = Stop::new(vec![]);
        anyhow::Ok((ready.start(stop.clone(), takeover)?, stop, predecessor))
    })();
    let (instance, stop, predecessor) =
        begun.inspect_err(|error| log_refusal(args, &config, log.is_some(), error))?;
    listen_for_successors(&instance, &path, predecessor.is_some());
    listen_for_signals(&stop, &instance, successor, args)?;
    if let Some(pid) = predecessor {
        info!(pid, "took over");
    }
    if args.until_stdin_ends {
        stop.when_stdin_ends()?;
    }
    say(&args.common, &config);
    if let Some((addr, token)) = instance.dashboard().filter(|_| !args.common.quiet) {
        tell(format_args!("balancer: dashboard on {}", dashboard_link(addr, &token)));
    }
    service::begin(&instance, predecessor.is_some())?;
    instance.join()?;
    let mut snapshots = instance.snapshots();
    // The successor continues these totals.
    let is_end = !instance.has_successor() && !args.common.quiet;
    if is_end {
        tell_end(&mut snapshots);
    }
    if is_end || args.status_every.is_some() {
        print_summary(&mut snapshots)?;
    }
    Ok(())
}

/// Tells the running balancer that this one cannot take over, if the command line says where it listens.
fn tell_predecessor(args: &BalancerArgs, error: &ConfigError) {
    if let Some(Some(path)) = &args.takeover {
        Takeover::decline(path, &error.to_string());
    }
}

/// Writes the reason into the log if a takeover has failed.
fn log_refusal(args: &BalancerArgs, config: &Config, has_log: bool, error: &anyhow::Error) {
    if args.takeover.is_none() {
        return;
    }
    let _log = if has_log { None } else { logging::init(&config.logs, LOG).ok() };
    let (error, effect) = (format!("{error:#}"), "the running balancer keeps serving");
    tracing::error!(error, effect, "takeover failed");
}

/// Takes the sockets of another process, and its state if this process is a successor.
fn inherited(args: &BalancerArgs, config: &Config, path: &Path) -> Result<(Option<Takeover>, SocketSet)> {
    if args.sockets_by_stdin {
        let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let sockets = Requester::pushed(stream, PATIENCE)
            .context("cannot receive the sockets through standard input")?;
        // The stream had a receive timeout for the sockets. From here on, only its end is read, at any
        // time.
        SockRef::from(&std::io::stdin()).set_read_timeout(None)?;
        return Ok((None, sockets));
    }
    let Some(given) = &args.takeover else { return Ok((None, SocketSet::default())) };
    let others = if given.is_none() && !path.exists() { takeover_paths(config) } else { vec![] };
    if let Some(other) = others.first() {
        let (path, other) = (path.display(), other.display());
        let way = match config.pools[0].is_native() {
            true => "restart without --takeover".to_owned(),
            false => format!("take over with --takeover={other}"),
        };
        bail!(
            "cannot take over: no balancer of this configuration listens at {path}, but there is {other}; if \
             the address of the first pool has changed, {way}"
        );
    }
    let path = given.as_deref().unwrap_or(path);
    let (takeover, sockets) = Takeover::begin(path).context("cannot take over")?;
    Ok((Some(takeover), sockets))
}

/// Listens for successors. A failure is reported, and the balancer serves without takeover.
fn listen_for_successors(instance: &Arc<Instance>, path: &Path, is_successor: bool) {
    let listener = if is_successor { Listener::replace(path) } else { Listener::bind(path) };
    let listens = listener.map_err(anyhow::Error::from).and_then(|listener| {
        instance.listen_for_successors(listener)?;
        Ok(())
    });
    if let Err(error) = listens {
        warn!(error = format!("{error:#}"), "takeover is not possible");
        tell(format_args!("balancer: no process can take over from this one: {error:#}"));
    }
}

/// SIGHUP reloads, SIGUSR1 prints a summary, SIGUSR2 starts a successor; `--status-every` prints a
/// summary at an interval.
fn listen_for_signals(
    stop: &Stop,
    instance: &Arc<Instance>,
    successor: Successor,
    args: &BalancerArgs,
) -> Result<()> {
    let (ask, asked) = sync_channel(1);
    print_summaries(Arc::clone(instance), args.status_every, asked)?;
    let (reloading, quiet) = (Arc::clone(instance), args.common.quiet);
    stop.listen_for(BalancerSignal {
        summary: Box::new(move || {
            let _ = ask.try_send(()); // full: a summary is about to be printed
        }),
        reload: Box::new(move || match reloading.reload() {
            Ok(_) if quiet => {}
            Ok(what) => tell(format_args!("balancer: configuration reloaded: {what}")),
            Err(why) => tell(format_args!("lbd: configuration refused, nothing has changed: {why}")),
        }),
        succeed: Box::new(move || {
            if let Err(error) = successor.start() {
                tell(format_args!("lbd: cannot start a successor, still serving: {error}"));
            }
        }),
    })?;
    Ok(())
}

/// Prints the addresses, policy and workers of each pool at the start.
fn say(common: &CommonArgs, config: &Config) {
    if common.quiet {
        return;
    }
    for pool in config.native_pools() {
        tell(format_args!(
            "balancer: clients on {}, servers on {}, {}, workers: {}",
            pool.client_side, pool.server_side, pool.policy, pool.workers
        ));
    }
    for pool in config.datagram_pools() {
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

/// Prints a summary on request and at the interval. It has its own thread: a reader that stalls does not
/// delay the data path.
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
        let mut snapshots = instance.snapshots();
        if every.is_some() && !print_summary(&mut snapshots).is_ok_and(|read| read) {
            return;
        }
        while next() && print_summary(&mut snapshots).is_ok_and(|read| read) {}
    })?;
    Ok(())
}

/// Prints all counters as a line of JSON; false if standard output is closed.
fn print_summary(snapshots: &mut Snapshots) -> std::io::Result<bool> {
    print(format_args!("{}\n", snapshots.sample().to_json()?))
}

/// Prints the totals when the balancer ends.
fn tell_end(snapshots: &mut Snapshots) {
    for pool in snapshots.sample().pools {
        let PoolStatus { name, received, dispatched, answered, .. } = &pool;
        let (refused, dropped): (u64, _) = (pool.refused.values().sum(), pool.all_dropped());
        let mut text = format!(
            "pool {name}: {received} received, {dispatched} dispatched, {answered} answered, \
             {refused} refused, {dropped} dropped"
        );
        if let Some(of) = pool.datagram {
            let (timed_out, forwarded, in_flight) = (of.timed_out, of.forwarded, of.in_flight);
            text += &format!(", {timed_out} timed out, {forwarded} forwarded, {in_flight} in flight");
        }
        if !pool.dropped.is_empty() {
            text += &format!(", drops {:?}", pool.dropped);
        }
        tell(format_args!("{text}"));
    }
}
