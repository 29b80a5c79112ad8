//! `lbd controller`: executes scaling requests of the native pool and runs the servers of all pools.

use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use lbd::base::rng::entropy;
use lbd::base::time::Clock;
use lbd::config::{Config, DatagramPool, NativePool, PoolRun, Run};
use lbd::daemon::controller::{Ledger, ServerCommand, Supervisor, SupervisorPlan, Upstream};
use lbd::daemon::supervised_balancer::{self, SupervisedBalancer};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, IoChoice, IoOptions};
use lbd::os::logging;
use lbd::os::{self, signals::Stop};
use lbd::role::controller::{ControllerRole, ControllerSettings};
use lbd::supervise::pool::PoolScaler;
use lbd::supervise::servers::{Bounds, Replicas};
use tracing::{info, warn};

use crate::args::{Common, Controller};
use crate::command::{own_command, say, server_command};

/// Maximum length of an idle turn.
const TURN: Duration = Duration::from_secs(1);
/// Maximum time for a server of a datagram pool to finish its requests; then the controller stops it.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the controller until a signal stops it and every server has ended.
pub fn run(args: &Controller) -> Result<()> {
    let common = &args.common;
    let config = common.load()?;
    if config.run_pools().next().is_none() && !args.with_balancer {
        config.require_native("lbd controller, or \"run\" to a pool")?;
    }
    let command = server_command(&config)?;
    let run = config.native().and_then(|pool| pool.run.as_ref());
    let (mut supervisor, stop, _log) = open(&config, &command, run.map_or(0, |run| run.run.count))?;
    if let Some(run) = run {
        say(common, format_args!("controller: scaling requests on {}", run.controller));
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
fn start_balancer(config: &Config, common: &Common) -> Result<SupervisedBalancer> {
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
fn look_after(balancer: &mut SupervisedBalancer, common: &Common) {
    while let Some(event) = balancer.supervise() {
        let pid = balancer.process().id();
        let text = match event {
            supervised_balancer::Event::Ended(exit, pause) => {
                warn!(exit = exit.to_string(), restart_after = ?pause, "balancer ended unexpectedly");
                format!("the balancer ended unexpectedly ({exit}), restarting it in {pause:?}")
            }
            supervised_balancer::Event::NotStarted(why, pause) => {
                warn!(error = why.to_string(), retry_after = ?pause, "cannot restart the balancer");
                format!("{why}; retrying in {pause:?}")
            }
            supervised_balancer::Event::Followed => {
                info!(pid, "another balancer took over");
                format!("process {pid} took over from the balancer")
            }
            supervised_balancer::Event::Started(_) => {
                info!(pid, "balancer started");
                format!("the balancer started, process {pid}")
            }
        };
        say(common, format_args!("controller: {text}"));
    }
}

/// Opens settings, sockets and log of a controller, for `lbd up` too. `servers` is the command that
/// starts a native server; `count` of them run at first.
pub fn open(
    config: &Config,
    servers: &[String],
    count: u32,
) -> Result<(Supervisor<BackEnd>, Stop, logging::Guard)> {
    let clock = Clock::start();
    // A controller without a native pool has no port of its own. Its balancer's admin port identifies it.
    let native = config.native().and_then(|pool| Some((pool, pool.run.as_ref()?)));
    let (name, key) = match (native, config.admin_for_controller()) {
        (Some((_, run)), _) => (format!("controller-{}", run.controller.port()), "controller.port"),
        (None, Some(addr)) => (format!("controller-pools-{}", addr.port()), "admin.listen"),
        (None, None) => ("controller".to_owned(), "state_dir"),
    };
    let ledger = Ledger::open(&config.state_dir, &name, key).map_err(Error::msg)?;
    let mut sockets = vec![];
    if let Some((_, run)) = native {
        let socket = bind(run.controller, &SocketOptions::default());
        let remedy = "cannot listen for scaling requests; stop the process that uses the port, or set another controller.port";
        sockets.push(socket.context(remedy)?);
    }
    let log = logging::init(&config.logs, "controller/controller.log")?;
    let (io, options) = match native {
        Some((pool, _)) => (pool.io, pool.io_options()),
        None => (IoChoice::Mio, IoOptions::default()),
    };
    let io = os::back_end(io, sockets, &options, clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let plan = SupervisorPlan {
        native: native.map(|(pool, run)| native_replicas(config, pool, &run.run, (servers, count))),
        pools: config.run_pools().map(|(pool, run)| pool_crew(config, pool, run)).collect(),
        upstream: match (config.run_pools().next(), config.admin_for_controller()) {
            (Some(_), Some(addr)) => {
                Some(Upstream::start(addr, config.admin.clone(), config.state_dir.clone())?)
            }
            _ => None,
        },
    };
    Ok((Supervisor::new(plan, io, clock, ledger), stop, log))
}

/// The native servers, and the role that executes scaling requests for them.
fn native_replicas(
    config: &Config,
    pool: &NativePool,
    run: &Run,
    (servers, count): (&[String], u32),
) -> (ControllerRole, ServerCommand) {
    let settings = ControllerSettings {
        format: pool.format,
        key: pool.key_bytes(),
        balancer: pool.balancer_for_servers(),
        seed: entropy(),
    };
    let bounds = Bounds { count, max: run.scale.max.max(count), ..run.bounds(None) };
    let words = run.command.clone().unwrap_or_else(|| servers.to_vec());
    let ip = pool.balancer_for_servers().ip();
    let command = ServerCommand { words, config: config_path(config), ip };
    (ControllerRole::new(settings, Replicas::new(bounds)), command)
}

/// The servers of a datagram pool.
fn pool_crew(config: &Config, pool: &DatagramPool, of_pool: &PoolRun) -> (String, PoolScaler, ServerCommand) {
    let PoolRun { address, run } = of_pool;
    let replicas = Replicas::new(run.bounds(Some(LEAVE_PATIENCE)));
    let words = run.command.clone().unwrap_or_default();
    let command = ServerCommand { words, config: config_path(config), ip: *address };
    (pool.settings.name.clone(), PoolScaler::new(replicas, run.scale, *address), command)
}

/// The value of the placeholder `{config}`.
fn config_path(config: &Config) -> String {
    config.source.as_ref().map_or("config.json".into(), |path| path.display().to_string())
}
