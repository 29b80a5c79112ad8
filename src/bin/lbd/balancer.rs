//! `lbd balancer`: the native pool, datagram pools, or both, in one process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lbd::config::{self, Check, Config, DatagramPool, Target};
use lbd::daemon::control::Errands;
use lbd::daemon::names::Names;
use lbd::daemon::signals::Stop;
use lbd::daemon::threads::Job;
use lbd::daemon::{self, control, limits, relay};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, IoOptions, Waker};
use lbd::rng::entropy;
use lbd::role::balancer;
use lbd::role::relay::{Chance, Relay, Shared, WorkerSockets};
use lbd::stats::PoolStats;
use lbd::status::Sampler;
use lbd::terminal::{print, tell};
use lbd::time::Clock;
use lbd::{logging, scale};

use crate::args::{Balancer, Common};

/// Descriptors beside those of pools: logs, epoll, timers, the native pool.
const OTHER_FILES: usize = 128;

/// Runs until it is asked to stop.
pub fn run(args: &Balancer) -> Result<()> {
    let config = args.load()?;
    let clock = Clock::start();
    // Everything that may fail is tried before the log is touched.
    let opened = Opened::all(&config)?;
    let _log = logging::init(&config.logs, "balancer/balancer.log")?;
    let (mut native, mut pools) = (vec![], vec![]);
    if let Some(sockets) = opened.native {
        native = start_native(&config, sockets, clock)?;
    }
    for pool in opened.pools {
        pools.push(start_pool(pool, clock)?);
    }
    let wakers: Vec<Waker> = native
        .iter()
        .map(|worker| worker.io.waker())
        .chain(pools.iter().flat_map(|pool| pool.workers.iter().map(|worker| worker.io.waker())))
        .collect();
    let (ask, asked) = sync_channel(1);
    let stop = Stop::on_signals_and(wakers, move || {
        let _ = ask.try_send(()); // full: one is about to be printed
    })?;
    say(&args.common, &config);
    let stats: Vec<Arc<PoolStats>> = native.iter().map(|worker| Arc::clone(worker.role.stats())).collect();
    let shared: Vec<Arc<Shared>> = pools.iter().map(|pool| Arc::clone(&pool.shared)).collect();
    let sampler = || Sampler::new(stats.clone(), shared.clone(), clock, 1);
    print_summaries(sampler(), args.status_every, asked)?;
    control::start(pools.iter_mut().filter_map(|pool| pool.errands.take()).collect(), clock)?;
    let mut jobs: Vec<Job<'_>> = vec![];
    for (number, worker) in native.into_iter().enumerate() {
        jobs.push(worker.job(number, clock, &stop));
    }
    for pool in pools {
        for (number, worker) in pool.workers.into_iter().enumerate() {
            jobs.push(worker.job(number, clock, &stop));
        }
    }
    daemon::threads::run(jobs, &stop)?;
    let mut sampler = sampler();
    if !args.common.quiet {
        tell_end(&mut sampler);
    }
    if !args.common.quiet || args.status_every.is_some() {
        print_summary(&mut sampler)?;
    }
    Ok(())
}

/// Sockets of everything that will run.
struct Opened<'a> {
    native: Option<Vec<[UdpSocket; 2]>>,
    pools: Vec<OpenPool<'a>>,
}

struct OpenPool<'a> {
    of: &'a DatagramPool,
    names: Names,
    workers: Vec<(Vec<UdpSocket>, WorkerSockets)>,
    listeners: Vec<TcpListener>,
}

impl Opened<'_> {
    fn all(config: &Config) -> Result<Opened<'_>> {
        let native = if config.runs_native { Some(native_sockets(config.native())?) } else { None };
        let mut planned = vec![];
        for pool in &config.datagram_pools {
            planned.push(plan(pool).with_context(|| format!("pool {}", pool.settings.name))?);
        }
        let tcp = config.datagram_pools.iter().map(|pool| 2 * pool.tcp_connections).sum::<usize>();
        let files = planned.iter().map(|(_, plan)| plan.socket_count()).sum::<usize>() + tcp + OTHER_FILES;
        if !config.datagram_pools.is_empty() {
            limits::allow_files(files as u64)?;
        }
        let mut pools = vec![];
        for (of, (names, plan)) in config.datagram_pools.iter().zip(planned) {
            let open = || {
                let workers = plan.open()?;
                let addrs = if of.tcp_connections > 0 { &of.listen[..] } else { &[] };
                let listeners =
                    addrs.iter().map(|&addr| daemon::tcp::listen(addr)).collect::<std::io::Result<_>>()?;
                Ok::<_, std::io::Error>(OpenPool { of, names, workers, listeners })
            };
            pools.push(open().with_context(|| format!("pool {}", of.settings.name))?);
        }
        Ok(Opened { native, pools })
    }
}

/// The sockets of each worker: front and server side. The primary has the server side's port, the others any; the front
/// is shared by all.
fn native_sockets(pool: &config::Pool) -> Result<Vec<[UdpSocket; 2]>> {
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

/// The processor of each worker, where they stay on one.
fn processors(pin: bool) -> Result<impl Fn(usize) -> Option<usize>> {
    let all = if pin { daemon::affinity::processors()? } else { vec![] };
    Ok(move |number: usize| all.get(number % all.len().max(1)).copied())
}

fn start_native(
    config: &Config,
    sockets: Vec<[UdpSocket; 2]>,
    clock: Clock,
) -> Result<Vec<daemon::balancer::Worker<BackEnd>>> {
    let mut settings = native_settings(config);
    for socket in sockets.iter().flatten() {
        settings.own.push(socket.local_addr()?);
    }
    let options = IoOptions { prefault: true, ..config.io_options() };
    let processor = processors(config.native().pin)?;
    let roles = balancer::Balancer::workers(settings, clock.now());
    let mut workers = vec![];
    for (number, (role, sockets)) in roles.into_iter().zip(sockets).enumerate() {
        let io = daemon::back_end(config.io, sockets.into(), &options, clock)?;
        workers.push(daemon::balancer::Worker { role, io, processor: processor(number) });
    }
    Ok(workers)
}

/// The settings of the native pool's role.
fn native_settings(config: &Config) -> balancer::Settings {
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

/// Looks the servers' names up and says which sockets they take.
fn plan(pool: &DatagramPool) -> Result<(Names, relay::Plan)> {
    let mut names = Names::new(pool);
    names.look_up()?;
    let addrs: Vec<SocketAddr> = names.wanted().into_iter().map(|wanted| wanted.addr).collect();
    if addrs.is_empty() {
        bail!("its servers are all its own addresses: name others");
    }
    // Names may lead to either family tomorrow.
    let has_names = names.has_names();
    let is_v6 = |addr: &&SocketAddr| addr.is_ipv6();
    let plan = relay::Plan {
        listen: pool.listen.clone(),
        workers: pool.settings.workers,
        ports: pool.ports,
        v4: (has_names || addrs.iter().any(SocketAddr::is_ipv4))
            .then(|| port_ip(pool, &addrs, Ipv4Addr::LOCALHOST.into()))
            .and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        v6: (addrs.iter().any(|addr| is_v6(&addr)) || has_names && relay::has_ipv6())
            .then(|| port_ip(pool, &addrs, Ipv6Addr::LOCALHOST.into()))
            .and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
        checks: pool.settings.health.check != Check::None,
        transparent: pool.settings.transparent,
    };
    Ok((names, plan))
}

/// Where ports towards servers are bound: to the loopback, if all servers of the family are there and stay there.
fn port_ip(pool: &DatagramPool, servers: &[SocketAddr], loopback: IpAddr) -> IpAddr {
    let may_change = pool.servers.iter().any(|server| matches!(server.target, Target::Name { .. }));
    let mut family = servers.iter().filter(|addr| addr.is_ipv4() == loopback.is_ipv4());
    if !may_change && !pool.settings.transparent && family.all(|addr| addr.ip().is_loopback()) {
        return loopback;
    }
    match loopback {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

struct StartedPool {
    shared: Arc<Shared>,
    workers: Vec<relay::Worker<BackEnd>>,
    errands: Option<Errands>,
}

fn start_pool(open: OpenPool<'_>, clock: Clock) -> Result<StartedPool> {
    let OpenPool { of, mut names, workers, listeners } = open;
    let (sockets, layouts): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
    let chance = Chance { secret: rand::random(), seed: entropy() };
    let (shared, mut roles) = Relay::workers(of.settings.clone(), chance, &layouts, clock.now());
    shared.want(names.wanted());
    roles[0].take_servers(clock.now());
    let processor = processors(of.pin)?;
    let mut workers = vec![];
    for (number, (role, sockets)) in roles.into_iter().zip(sockets).enumerate() {
        let io = BackEnd::open(of.io, sockets, &relay::io_options(of.settings.proxy_protocol), clock)?;
        tracing::info!(
            pool = of.settings.name,
            worker = number,
            io = io.name(),
            sockets = io.sockets().len(),
            "batch I/O"
        );
        workers.push(relay::Worker { role, io, processor: processor(number) });
    }
    let names = names.has_names().then_some(names);
    let errands =
        Errands { pool: Arc::clone(&shared), listeners, connections_max: of.tcp_connections, names };
    Ok(StartedPool { shared, workers, errands: Some(errands) })
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
    mut sampler: Sampler,
    every: Option<Duration>,
    asked: Receiver<()>,
) -> std::io::Result<()> {
    let next = move || match every {
        None => asked.recv().is_ok(),
        Some(every) => !matches!(asked.recv_timeout(every), Err(RecvTimeoutError::Disconnected)),
    };
    std::thread::Builder::new().name("status".into()).spawn(move || {
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
