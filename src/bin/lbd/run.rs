//! One function per subcommand: configuration and flags become a role, its sockets and its daemon.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use lbd::base::rng::entropy;
use lbd::base::time::Clock;
use lbd::config::{self, Config};
use lbd::daemon;
use lbd::io::IoOptions;
use lbd::io::socket::{SocketOptions, bind};
use lbd::os::logging;
use lbd::os::terminal::print;
use lbd::os::{self, signals::Stop};
use lbd::pool::order::Order;
use lbd::role::server::{ServerRole, Work};
use lbd::role::{client, server};

use crate::args::{Args, ClientArgs, Command, ServerArgs};
use crate::command::{log_name, native_pool, say};
use crate::{balancer, controller, doctor, manual, operate, ping, sim, top, up};

/// Runs a subcommand; false means exit code 1.
pub fn run(args: Args) -> Result<bool> {
    match args.command {
        Command::Up(args) => up::run(&args),
        Command::Balancer(args) => balancer::run(&args).map(|()| true),
        Command::Controller(args) => controller::run(&args).map(|()| true),
        Command::Server(args) => run_server(&args).map(|()| true),
        Command::Client(args) => run_client(&args),
        Command::Top(args) => top::run(&args).map(|()| true),
        Command::Ping(args) => ping::run(&args),
        Command::Status(args) => operate::status(&args),
        Command::Drain(args) => operate::drain(&args),
        Command::Enable(args) => operate::order(&args, Order::Enable),
        Command::Disable(args) => operate::order(&args, Order::Disable),
        Command::Weight(args) => operate::weight(&args),
        Command::Reload(reach) => operate::reload(&reach),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sim(args) => sim::run(&args).map(|()| true),
        Command::Check { file } => {
            print(format_args!("{}", config::describe(&Config::load(&file)?)))?;
            Ok(true)
        }
        Command::Schema { markdown } => {
            match markdown {
                true => print(format_args!("{}", config::markdown()))?,
                false => print(format_args!("{}\n", serde_json::to_string_pretty(config::schema())?))?,
            };
            Ok(true)
        }
        Command::Completions { shell } => manual::completions(shell).map(|()| true),
        Command::Man { dir } => manual::man(dir.as_deref()).map(|()| true),
    }
}

fn run_server(args: &ServerArgs) -> Result<()> {
    let config = args.common.load()?;
    let pool = native_pool(&config, args.pool.as_deref(), "lbd server")?;
    let run = pool.run.as_ref().map(|run| &run.run);
    let start_id = run.map_or(0, |run| run.start_id);
    let id = args.id.unwrap_or(start_id);
    let balancer = args.balancer.unwrap_or(pool.balancer_for_servers());
    // A pool without replicas has no port range, so any free port will do.
    let port = args.port.unwrap_or(run.map_or(0, |run| {
        let place = id.wrapping_sub(start_id) as usize % run.ports.len();
        run.ports.start + place as u16
    }));
    let ip = args.bind.unwrap_or(balancer.ip());
    if !ip.is_loopback() && pool.key.is_none() {
        bail!(
            "cannot listen on {ip}: a server outside the loopback needs a key; set key_file in the \
             configuration"
        );
    }
    let clock = Clock::start();
    let socket = bind(SocketAddr::new(ip, port), &SocketOptions::default())?;
    let addr = socket.local_addr()?; // its port may be any
    let _log = logging::init(&config.logs, &log_name(pool, "servers", &format!("server_{id}.log")))?;
    let options = IoOptions { prefault: true, ..pool.io_options() };
    let io = os::back_end(pool.io, vec![socket], &options, clock)?;
    let stop = Stop::of_daemon(vec![io.waker()])?;
    let serving = &pool.serving;
    let service = args.service.or(serving.service);
    let workers = args.workers.map_or(serving.workers, usize::from);
    let settings = server::ServerSettings {
        format: pool.format,
        key: pool.key_bytes(),
        id,
        weight: serving.weight,
        queue_capacity: serving.queue_capacity,
        interval: pool.interval,
        balancer,
        work: service.map_or(Work::Echo, |service| Work::Timed { service, workers }),
        seed: entropy(),
    };
    let serves = service.map_or("echo at once".to_owned(), |s| format!("{s}, {workers} concurrently"));
    say(&args.common, format_args!("server {id}: on {addr} for the balancer at {balancer}, {serves}"));
    let report = |problem: &str| say(&args.common, format_args!("server {id}: {problem}"));
    let role = daemon::server::run(ServerRole::new(settings, clock.now()), io, clock, &stop, report)?;
    let totals = role.totals();
    if args.json {
        let summary = serde_json::json!({
            "id": id, "received": totals.received, "served": totals.served, "busy": totals.busy,
            "expired": totals.expired, "queue_max": totals.queue_max, "left": role.queue_len(),
            "dropped": totals.drops.total(),
        });
        print(format_args!("{summary}\n"))?;
    } else if !args.common.quiet {
        let server::Totals { received, served, busy, expired, queue_max, .. } = totals;
        print(format_args!(
            "server {id}: {received} received, {served} served, {busy} busy, {expired} expired, longest \
             queue {queue_max}\n"
        ))?;
    }
    Ok(())
}

fn run_client(args: &ClientArgs) -> Result<bool> {
    let config = args.common.load()?;
    let pool = native_pool(&config, args.pool.as_deref(), "lbd client")?;
    let to = args.to.unwrap_or(pool.balancer_for_clients());
    let id = args.id.unwrap_or(config.client.start_id);
    let format = pool.format;
    if args.payload.len() > format.payload_max() {
        bail!(
            "--payload has {} bytes, but a frame carries at most {}; shorten it",
            args.payload.len(),
            format.payload_max()
        );
    }
    if args.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        bail!("--rate must be greater than 0 requests per second");
    }
    let from = SocketAddr::new(lbd::io::socket::any_port_towards(to).ip(), args.port);
    let clock = Clock::start();
    let socket = bind(from, &SocketOptions::default())?;
    let _log = logging::init(&config.logs, &log_name(pool, "clients", &format!("client_{id}.log")))?;
    let io = os::back_end(pool.io, vec![socket], &pool.io_options(), clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let settings = client::ClientSettings {
        format,
        target: to,
        timeout: config.client.timeout,
        deadline: config.client.deadline,
        retries: config.client.retries,
        in_flight_max: 4096,
        servers: config.client.servers.clone(),
        seed: entropy(),
    };
    let plan = daemon::client::Workload {
        requests: args.requests,
        rate: args.rate,
        window: usize::from(args.window),
        payload: args.payload.clone().into_bytes(),
        seed: entropy(),
    };
    if args.until_stdin_ends {
        stop.when_stdin_ends()?;
    }
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
