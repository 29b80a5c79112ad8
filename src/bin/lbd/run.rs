//! One function per subcommand: configuration and flags become a role, its sockets and its daemon.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lbd::config::{self, Config};
use lbd::daemon::{self, signals::Stop};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, IoOptions};
use lbd::rng::entropy;
use lbd::role::server::{ServerRole, Work};
use lbd::role::{balancer, client, controller, server};
use lbd::status::Sampler;
use lbd::terminal::{print, tell};
use lbd::time::Clock;
use lbd::{logging, scale};

use crate::args::{Args, Balancer, Client, Command, Common, Server};

use crate::up;

/// Runs a subcommand; false if it ran but not everything was answered.
pub fn run(args: Args) -> Result<bool> {
    match args.command {
        Command::Up(args) => up::run(&args),
        Command::Balancer(args) => run_balancer(&args).map(|()| true),
        Command::Controller(args) => run_controller(&args).map(|()| true),
        Command::Server(args) => run_server(&args).map(|()| true),
        Command::Client(args) => run_client(&args),
        Command::Check { file } => {
            print(format_args!("{}", config::describe(&Config::load(&file)?)))?;
            Ok(true)
        }
        Command::Schema => {
            print(format_args!("{}\n", serde_json::to_string_pretty(&config::schema())?))?;
            Ok(true)
        }
    }
}

fn say(common: &Common, text: std::fmt::Arguments<'_>) {
    if !common.quiet {
        tell(text);
    }
}

/// The settings of the balancer's role.
fn balancer_settings(config: &Config) -> balancer::Settings {
    let (pool, server) = (config.native(), &config.server);
    balancer::Settings {
        format: pool.format,
        key: config.key_bytes(),
        secret: rand::random(),
        workers: pool.workers,
        policy: pool.policy,
        reply_path: pool.reply_path,
        servers_max: pool.servers_max,
        max_outstanding: pool.max_outstanding,
        interval: server.interval,
        controller: config.controller,
        scale: scale::Policy {
            threshold: pool.scaling_threshold,
            grow_after: server.grow_after,
            shrink_after: server.shrink_after,
            cool_down: server.cool_down,
            min: server.min,
            max: server.max,
        },
        own: vec![],
        seed: entropy(),
    }
}

/// The sockets of each worker: front and server side. The primary has the server side's port, the others any; the front
/// is shared by all.
fn balancer_sockets(pool: &config::Pool) -> Result<Vec<[UdpSocket; 2]>> {
    let options = SocketOptions::default();
    let any_port = SocketAddr::new(pool.server_side.ip(), 0);
    if pool.workers == 1 {
        return Ok(vec![[bind(pool.client_side, &options)?, bind(pool.server_side, &options)?]]);
    }
    // A shared port can be shared with anybody of the same user: another balancer there would take half of the requests.
    // So it must be free before it is shared.
    drop(bind(pool.client_side, &options)?);
    let shared = SocketOptions { reuse_port: true, ..options };
    (0..pool.workers)
        .map(|worker| {
            let back = if worker == 0 { pool.server_side } else { any_port };
            Ok([bind(pool.client_side, &shared)?, bind(back, &options)?])
        })
        .collect()
}

fn run_balancer(args: &Balancer) -> Result<()> {
    let config = args.load()?;
    if let Some(pool) = config.datagram_pools.first() {
        bail!(
            "the pool {} is valid, but pools cannot be run yet; remove them to run the native one",
            pool.name
        );
    }
    debug_assert!(config.runs_native, "what has no pools is native");
    let pool = config.native();
    let clock = Clock::start();
    let sockets = balancer_sockets(pool)?;
    let _log = logging::init(&config.logs, "balancer/balancer.log")?;
    let mut settings = balancer_settings(&config);
    for socket in sockets.iter().flatten() {
        settings.own.push(socket.local_addr()?);
    }
    let options = IoOptions { prefault: true, ..config.io_options() };
    let processors = if pool.pin { daemon::affinity::processors()? } else { vec![] };
    let mut workers = vec![];
    let roles = balancer::Balancer::workers(settings, clock.now());
    for (number, (role, sockets)) in roles.into_iter().zip(sockets).enumerate() {
        let io = daemon::back_end(config.io, sockets.into(), &options, clock)?;
        let processor = processors.get(number % processors.len().max(1)).copied();
        workers.push(daemon::balancer::Worker { role, io, processor });
    }
    let stop = Stop::on_signals(workers.iter().map(|worker| worker.io.waker()).collect())?;
    let stats: Vec<_> = workers.iter().map(|worker| Arc::clone(worker.role.stats())).collect();
    say(
        &args.common,
        format_args!(
            "balancer: clients on {}, servers on {}, {}, workers: {}",
            pool.client_side, pool.server_side, pool.policy, pool.workers
        ),
    );
    if let Some(every) = args.status_every {
        let mut sampler = Sampler::new(stats.clone());
        // A thread of its own: a reader that stalls costs the data path nothing.
        std::thread::Builder::new().name("status".into()).spawn(move || {
            while print_status(&mut sampler).is_ok_and(|read| read) {
                std::thread::sleep(every);
            }
        })?;
    }
    daemon::balancer::run(workers, clock, &stop)?;
    let mut sampler = Sampler::new(stats);
    if args.status_every.is_some() {
        print_status(&mut sampler)?;
    } else if !args.common.quiet {
        let s = sampler.sample();
        let busy = s.busy_no_server + s.busy_shed;
        tell(format_args!(
            "balancer: {} requests, {} dispatched, {} answered, {busy} busy, drops {:?}",
            s.requests, s.dispatched, s.answered, s.drops
        ));
    }
    Ok(())
}

/// Shows the pool as a line of JSON; false if nobody reads it any more.
fn print_status(sampler: &mut Sampler) -> std::io::Result<bool> {
    print(format_args!("{}\n", serde_json::to_string(&sampler.sample())?))
}

/// Settings, sockets and log of a controller; also the beginning of `lbd up`.
pub fn open_controller(
    config: &Config,
    servers: &[String],
    count: u32,
) -> Result<(daemon::controller::Supervisor<BackEnd>, Stop, logging::Guard)> {
    let clock = Clock::start();
    let socket = bind(config.controller, &SocketOptions::default())?;
    let log = logging::init(&config.logs, "controller/controller.log")?;
    let io = daemon::back_end(config.io, vec![socket], &config.io_options(), clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let server = &config.server;
    let role = controller::ControllerRole::new(controller::Settings {
        format: config.native().format,
        key: config.key_bytes(),
        balancer: config.balancer_for_servers(),
        count,
        min: server.min,
        max: server.max.max(count),
        start_id: server.start_id,
        ports: server.ports.clone(),
        seed: entropy(),
    });
    let command = daemon::controller::ServerCommand {
        words: match &server.command {
            Some(words) => words.clone(),
            None => servers.to_vec(),
        },
        config: config.source.as_ref().map_or("config.json".into(), |path| path.display().to_string()),
        ip: config.balancer_for_servers().ip(),
    };
    Ok((daemon::controller::Supervisor::new(role, io, clock, command), stop, log))
}

/// How this very program is started with another subcommand and the same configuration.
pub fn own_command(subcommand: &str, config: &Config) -> Result<Vec<String>> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut words = vec![program.display().to_string(), subcommand.to_owned()];
    if let Some(path) = &config.source {
        words.extend(["--config".to_owned(), path.display().to_string()]);
    }
    words.push("--quiet".to_owned());
    Ok(words)
}

/// `lbd server`, with placeholders for id and port.
pub fn server_command(config: &Config) -> Result<Vec<String>> {
    let mut words = own_command("server", config)?;
    words.extend(["--id", "{id}", "--port", "{port}"].map(str::to_owned));
    Ok(words)
}

fn run_controller(common: &Common) -> Result<()> {
    let config = common.load_native("lbd controller")?;
    let command = server_command(&config)?;
    let (mut supervisor, stop, _log) = open_controller(&config, &command, config.server.count)?;
    say(
        common,
        format_args!(
            "controller: orders on {}, {} servers to begin with",
            config.controller, config.server.count
        ),
    );
    let patience = std::time::Duration::from_secs(1);
    let (mut stopping, mut done) = (false, false);
    while !done && !stop.is_asked_twice() {
        supervisor.turn(patience)?;
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
    Ok(())
}

fn run_server(args: &Server) -> Result<()> {
    let config = args.common.load_native("lbd server")?;
    let server = &config.server;
    let id = args.id.unwrap_or(server.start_id);
    let balancer = args.balancer.unwrap_or(config.balancer_for_servers());
    let place = id.wrapping_sub(server.start_id) as usize % server.ports.len();
    let port = args.port.unwrap_or(server.ports.start + place as u16);
    let ip = args.bind.unwrap_or(balancer.ip());
    if !ip.is_loopback() && config.key.is_none() {
        bail!("a server on {ip}, beyond the loopback, needs key_file in the configuration");
    }
    let clock = Clock::start();
    let socket = bind(SocketAddr::new(ip, port), &SocketOptions::default())?;
    let _log = logging::init(&config.logs, &format!("servers/server_{id}.log"))?;
    let options = IoOptions { prefault: true, ..config.io_options() };
    let io = daemon::back_end(config.io, vec![socket], &options, clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let service = args.service.or(server.service);
    let workers = args.workers.map_or(server.workers, usize::from);
    let settings = server::Settings {
        format: config.native().format,
        key: config.key_bytes(),
        id,
        weight: server.weight,
        queue_capacity: server.queue_capacity,
        interval: server.interval,
        balancer,
        work: service.map_or(Work::Echo, |service| Work::Timed { service, workers }),
        seed: entropy(),
    };
    let serves = service.map_or("echo at once".to_owned(), |s| format!("{s}, {workers} at a time"));
    say(&args.common, format_args!("server {id}: on {ip}:{port} for the balancer at {balancer}, {serves}"));
    let role = daemon::server::run(ServerRole::new(settings, clock.now()), io, clock, &stop)?;
    let totals = role.totals();
    if args.json {
        let summary = serde_json::json!({
            "id": id, "received": totals.received, "served": totals.served, "busy": totals.busy,
            "expired": totals.expired, "queue_max": totals.queue_max, "left": role.queue_len(), "dropped": totals.drops.total(),
        });
        print(format_args!("{summary}\n"))?;
    } else if !args.common.quiet {
        let server::Totals { received, served, busy, expired, queue_max, .. } = totals;
        print(format_args!(
            "server {id}: {received} received, {served} served, {busy} busy, {expired} expired, longest queue {queue_max}\n"
        ))?;
    }
    Ok(())
}

fn run_client(args: &Client) -> Result<bool> {
    let config = args.common.load_native("lbd client")?;
    let to = args.to.unwrap_or(config.balancer_for_clients());
    let id = args.id.unwrap_or(config.client.start_id);
    let format = config.native().format;
    if args.payload.len() > format.payload_max() {
        bail!(
            "--payload has {} bytes, a frame carries {}: shorten it",
            args.payload.len(),
            format.payload_max()
        );
    }
    if args.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        bail!("--rate must be more than 0 requests a second");
    }
    let from = SocketAddr::new(lbd::client::any_port_towards(to).ip(), args.port);
    let clock = Clock::start();
    let socket = bind(from, &SocketOptions::default())?;
    let _log = logging::init(&config.logs, &format!("clients/client_{id}.log"))?;
    let io = daemon::back_end(config.io, vec![socket], &config.io_options(), clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let settings = client::Settings {
        format,
        target: to,
        timeout: config.client.timeout,
        deadline: config.client.deadline,
        retries: config.client.retries,
        in_flight_max: 4096,
        servers: config.client.servers.clone(),
        seed: entropy(),
    };
    let plan = daemon::client::Plan {
        requests: args.requests,
        rate: args.rate,
        window: usize::from(args.window),
        payload: args.payload.clone().into_bytes(),
        seed: entropy(),
    };
    let s = daemon::client::run(client::ClientRole::new(settings, clock.now()), io, &plan, clock, &stop)?;
    if args.json {
        print(format_args!("{}\n", serde_json::to_string(&s)?))?;
    } else if !args.common.quiet {
        print(format_args!(
            "client {id}: {} sent, {} answered, {} retried, {} refused, {} busy, {} lost\n",
            s.sent, s.answered, s.retried, s.refused, s.busy, s.lost
        ))?;
        print(format_args!(
            "latency: p50 {} us, p99 {} us, max {} us\n",
            s.latency_us_p50, s.latency_us_p99, s.latency_us_max
        ))?;
    }
    Ok(s.answered == s.sent && args.requests.is_none_or(|n| n == s.sent))
}
