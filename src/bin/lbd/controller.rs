//! `lbd controller`: runs the servers of every pool that has `run`, and scales them.

use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use lbd::admin::AdminPlace;
use lbd::base::batch::SocketId;
use lbd::base::duration::{exact, rounded};
use lbd::base::rng::entropy;
use lbd::base::time::Clock;
use lbd::config::{Config, DatagramPool, NativePool, NativeRun, PoolRun, Run};
use lbd::daemon::controller::{Ledger, ServerCommand, Supervisor, SupervisorPlan, Upstream};
use lbd::daemon::supervised_balancer::{self, SupervisedBalancer};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, IoChoice};
use lbd::os::logging;
use lbd::os::{self, signals::Stop};
use lbd::role::controller::{ControllerRole, ControllerSettings};
use lbd::supervise::pool::PoolScaler;
use lbd::supervise::servers::{Bounds, Replicas};
use tracing::{info, warn};

use crate::args::{CommonArgs, ControllerArgs};
use crate::command::{own_command, say, server_command};

/// Maximum length of an idle turn.
const TURN: Duration = Duration::from_secs(1);
/// Minimum patience with a server of a datagram pool that finishes its requests and flows; then the
/// controller stops it.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);
/// Time for a balancer to show that a server's drain is over, beside the timeout of a request.
const SHOWN: Duration = Duration::from_secs(5);

/// Runs the controller until a signal stops it and every server has ended.
pub fn run(args: &ControllerArgs) -> Result<()> {
    let common = &args.common;
    let config = common.load()?;
    if config.pools.iter().all(|pool| pool.run().is_none()) && !args.with_balancer {
        config.require_native("lbd controller, or \"run\" to a pool")?;
        bail!("no pool has \"run\", so lbd controller has no servers to run; add \"run\" to a pool");
    }
    let (mut supervisor, stop, _log) = open(&config, None)?;
    for (pool, run) in native_runs(&config) {
        let (name, addr) = (&pool.name, run.controller);
        say(common, format_args!("controller: servers of pool {name}, scaling requests on {addr}"));
    }
    for (pool, _) in config.run_pools() {
        say(common, format_args!("controller: servers of pool {}", pool.settings.name));
    }
    let mut balancer = if args.with_balancer { Some(start_balancer(&config, common)?) } else { None };
    os::notify::ready();
    let (mut stopping, mut done) = (false, false);
    while !done && !stop.is_asked_twice() {
        let due = balancer.as_ref().and_then(SupervisedBalancer::due);
        supervisor.turn(due.map_or(TURN, |due| due.saturating_duration_since(Instant::now()).min(TURN)))?;
        if let Some(balancer) = &mut balancer {
            look_after(balancer, common);
        }
        for event in supervisor.take_events() {
            say(common, format_args!("controller: {event}"));
        }
        if stop.is_asked() && !stopping {
            stopping = true;
            supervisor.shut_down();
        }
        done = stopping && supervisor.is_empty();
    }
    supervisor.kill_all();
    if let Some(mut balancer) = balancer {
        balancer.end(|| stop.is_asked_twice());
    }
    Ok(())
}

/// Adopts the running balancer, or starts one.
fn start_balancer(config: &Config, common: &CommonArgs) -> Result<SupervisedBalancer> {
    let words = own_command("balancer", config)?;
    let (mut kept, what) = match SupervisedBalancer::adopt(config, words.clone()) {
        Some(kept) => (kept, "already runs"),
        None => {
            (SupervisedBalancer::start(config, words, false).context("cannot start the balancer")?, "started")
        }
    };
    let pid = kept.process().id();
    info!(pid, how = what, "balancer supervised");
    say(common, format_args!("controller: the balancer {what}, process {pid}"));
    Ok(kept)
}

/// Reports what happened to the balancer; a balancer that ended unexpectedly is restarted.
fn look_after(balancer: &mut SupervisedBalancer, common: &CommonArgs) {
    while let Some(event) = balancer.supervise() {
        let pid = balancer.process().id();
        let text = match event {
            supervised_balancer::BalancerEvent::Ended(exit, pause) => {
                let restart_after = rounded(pause);
                warn!(exit = exit.to_string(), %restart_after, "balancer ended unexpectedly");
                format!("the balancer ended unexpectedly ({exit}), restarting it in {}", exact(pause))
            }
            supervised_balancer::BalancerEvent::NotStarted(why, pause) => {
                warn!(error = why.to_string(), retry_after = %rounded(pause), "cannot restart the balancer");
                format!("{why}; retrying in {}", exact(pause))
            }
            supervised_balancer::BalancerEvent::Followed => {
                info!(pid, "another balancer took over");
                format!("process {pid} took over from the balancer")
            }
            supervised_balancer::BalancerEvent::Started(_) => {
                info!(pid, "balancer started");
                format!("the balancer started, process {pid}")
            }
        };
        say(common, format_args!("controller: {text}"));
    }
}

/// How `lbd up` starts the servers of its pool: the command of each, and how many there are at first.
pub struct Servers<'a> {
    pub words: &'a [String],
    pub count: u32,
}

/// Settings, sockets and log of a controller; also the beginning of `lbd up`. `servers` replaces what the
/// configuration says of the servers of the first native pool.
pub fn open(
    config: &Config,
    servers: Option<&Servers<'_>>,
) -> Result<(Supervisor<BackEnd>, Stop, logging::Guard)> {
    let clock = Clock::start();
    let native: Vec<_> = native_runs(config).collect();
    // The balancer that it talks with identifies a controller without a port of its own.
    let (name, key) = match (native.first(), config.admin_for_controller()) {
        (Some((_, run)), _) => (format!("controller-{}", run.controller.port()), "controller.port"),
        (None, Some(addr)) => (format!("controller-pools-{}", addr.port()), "admin.listen"),
        (None, None) => ("controller".to_owned(), "state_dir"),
    };
    let ledger = Ledger::open(&config.state_dir, &name, key).map_err(Error::msg)?;
    let mut sockets = vec![];
    for (pool, run) in &native {
        let socket = bind(run.controller, &SocketOptions::default());
        sockets.push(socket.with_context(|| {
            let (name, addr) = (&pool.name, run.controller);
            let key = if name == "native" { "controller.port" } else { "controller" };
            format!(
                "pool {name}: cannot take scaling requests on {addr}; stop the process there, or set \
                 another {key}"
            )
        })?);
    }
    let log = logging::init(&config.logs, "controller/controller.log")?;
    // One back end for all of them: with as many frames a turn as the smallest frames need.
    let options = native.iter().map(|(pool, _)| pool.io_options()).max_by_key(|options| options.frames_max);
    let choice = native.first().map_or(IoChoice::Mio, |(pool, _)| pool.io);
    let io = os::back_end(choice, sockets, &options.unwrap_or_default(), clock)?;
    // `lbd up` ends with its terminal, which sends SIGHUP.
    let signals = if servers.is_some() { Stop::on_signals } else { Stop::of_daemon };
    let stop = signals(vec![io.waker()])?;
    let mut plan = SupervisorPlan {
        native: vec![],
        datagram: config.run_pools().map(|(pool, run)| datagram_replicas(config, pool, run)).collect(),
        upstream: match (config.run_pools().next(), config.admin_for_controller()) {
            (Some(_), Some(_)) => {
                let place = AdminPlace::of(config);
                Some(Upstream::start(place, config.admin.clone(), config.state_dir.clone())?)
            }
            _ => None,
        },
    };
    for ((pool, run), socket) in native.into_iter().zip(0..) {
        let servers = servers.filter(|_| socket == 0);
        plan.native.push(native_replicas(config, pool, &run.run, servers, SocketId(socket))?);
    }
    Ok((Supervisor::new(plan, io, clock, ledger), stop, log))
}

/// The native pools whose servers the controller runs.
pub fn native_runs(config: &Config) -> impl Iterator<Item = (&NativePool, &NativeRun)> {
    config.native_pools().filter_map(|pool| Some((pool, pool.run.as_ref()?)))
}

/// The replicas of a native pool, and the role that takes scaling requests about them on this socket.
fn native_replicas(
    config: &Config,
    pool: &NativePool,
    run: &Run,
    servers: Option<&Servers<'_>>,
    socket: SocketId,
) -> Result<(String, ControllerRole, ServerCommand)> {
    let settings = ControllerSettings {
        format: pool.format,
        key: pool.key_bytes(),
        balancer: pool.balancer_for_servers(),
        seed: entropy(),
    };
    let count = servers.map_or(run.count, |servers| servers.count);
    let bounds = Bounds { count, max: run.scale.max.max(count), ..run.bounds(None) };
    let words = match (&run.command, servers) {
        (Some(words), _) => words.clone(),
        (None, Some(servers)) => servers.words.to_vec(),
        (None, None) => server_command(config, pool)?,
    };
    let ip = pool.balancer_for_servers().ip();
    let command = ServerCommand { words, config: config_path(config), ip };
    let role = ControllerRole::new(settings, Replicas::new(bounds)).on_socket(socket);
    Ok((pool.name.clone(), role, command))
}

/// The replicas of a datagram pool, and their scaler.
fn datagram_replicas(
    config: &Config,
    pool: &DatagramPool,
    of_pool: &PoolRun,
) -> (String, PoolScaler, ServerCommand) {
    let PoolRun { address, run } = of_pool;
    let drain = pool.settings.drain_timeout + pool.settings.timeout + SHOWN;
    let replicas = Replicas::new(run.bounds(Some(drain.max(LEAVE_PATIENCE))));
    let words = run.command.clone().unwrap_or_default();
    let command = ServerCommand { words, config: config_path(config), ip: *address };
    (pool.settings.name.clone(), PoolScaler::new(replicas, run.scale, *address), command)
}

/// The value of `{config}`.
fn config_path(config: &Config) -> String {
    config.source.as_ref().map_or("config.json".into(), |path| path.display().to_string())
}
