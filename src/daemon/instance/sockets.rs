//! All sockets of a balancer process: opened, or taken over from another process or pool.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::Failed;
use crate::config::{self, Check, Config, DatagramPool, NativePool, Target};
use crate::daemon::datagram::OpenSockets;
use crate::daemon::handover::{Label, SocketKind, SocketSet};
use crate::daemon::resolver::Resolver;
use crate::daemon::{datagram, tcp};
use crate::io::socket::{SocketOptions, bind};
use crate::os::limits;
use crate::role::datagram::{Affinity, SocketOrigins, WorkerSockets};

/// File descriptors besides those of datagram pools: logs, epoll, timers, native pools, the admin interface.
const OTHER_FILES: usize = 256;

/// All sockets of a balancer that will start.
pub struct Opened {
    /// The sockets of each pool, in the pools' order.
    pub pools: Vec<PoolSockets>,
    /// The listener of the admin interface; `None` if it is off.
    pub admin: Option<TcpListener>,
}

/// The sockets of a pool, with its configuration.
pub enum PoolSockets {
    /// A native pool.
    Native(Box<OpenNative>),
    /// A datagram pool.
    Datagram(Box<OpenDatagram>),
}

/// The sockets of a native pool.
pub struct OpenNative {
    /// The pool's configuration.
    pub of: NativePool,
    /// The client-side and the server-side socket of each worker.
    pub workers: Vec<[UdpSocket; 2]>,
    /// Whether the sockets were taken over, so that they may hold requests already.
    pub are_inherited: bool,
}

/// The sockets of a datagram pool.
pub struct OpenDatagram {
    /// The pool's configuration.
    pub of: DatagramPool,
    /// The sockets that the pool needs.
    pub plan: datagram::SocketPlan,
    /// The addresses of the pool's servers.
    pub names: Resolver,
    /// The sockets of each worker.
    pub workers: Vec<(Vec<UdpSocket>, WorkerSockets)>,
    /// Where the sockets of a predecessor's workers are.
    pub origins: SocketOrigins,
    /// The listeners of TCP connections.
    pub listeners: Vec<TcpListener>,
}

impl Opened {
    /// Opens the sockets that this configuration needs. Sockets that are in `inherited` are taken from there.
    pub fn all(config: &Config, inherited: &mut SocketSet) -> Result<Opened, Failed> {
        check_inherited(config, inherited)?;
        allow_files(&config.pools, inherited.len())?;
        let pools =
            config.pools.iter().map(|pool| PoolSockets::new(pool, inherited)).collect::<Result<_, _>>()?;
        Ok(Opened { pools, admin: admin(&config.admin, inherited)? })
    }
}

/// Whether the pools can use the inherited sockets of their addresses. The error names the key that differs.
fn check_inherited(config: &Config, inherited: &SocketSet) -> Result<(), Failed> {
    let source = config.source.as_deref();
    for (label, socket) in inherited.borrowed().iter().filter(|(label, _)| label.kind == SocketKind::Front) {
        let has_addr = |pool: &&config::Pool| pool.listen().contains(&label.addr);
        let Some(pool) = config.pools.iter().find(has_addr) else { continue };
        if pool.name() != label.pool {
            let (addr, old) = (label.addr, &label.pool);
            let problem = format!(
                "the running balancer has {addr} in pool {old}; keep that name, or restart without --takeover"
            );
            return Err(Failed::new(config::error_in_file(source, Some(pool.name()), "name", &problem)));
        }
        if pool.workers() > 1 && !socket2::SockRef::from(socket).reuse_port()? {
            let problem = format!(
                "the running balancer has 1, this configuration {}; restart without --takeover",
                pool.workers()
            );
            return Err(Failed::new(config::error_in_file(source, Some(pool.name()), "workers", &problem)));
        }
    }
    Ok(())
}

/// The sockets that a supervisor keeps, so that they outlive the balancer: those whose addresses clients and
/// servers know. Sockets towards servers of datagram pools are not included.
pub fn hold(config: &Config) -> Result<SocketSet, Failed> {
    let mut none = SocketSet::default();
    let mut all = SocketSet::default();
    for pool in &config.pools {
        all.append(hold_pool(pool).map_err(|error| error.of_pool(pool.name()))?);
    }
    if let Some(listener) = admin(&config.admin, &mut none)? {
        let addr = listener.local_addr()?;
        all.add(Label { pool: String::new(), kind: SocketKind::Admin, worker: 0, addr }, listener.into());
    }
    Ok(all)
}

fn hold_pool(pool: &config::Pool) -> Result<SocketSet, Failed> {
    let (name, mut none, mut all) = (pool.name(), SocketSet::default(), SocketSet::default());
    match pool {
        config::Pool::Native(pool) => {
            for ([front, back], worker) in native(pool, &mut none)?.iter().zip(0..) {
                all.append(duplicates([(SocketKind::Front, front), (SocketKind::Back, back)], name, worker)?);
            }
        }
        config::Pool::Datagram(pool) => {
            let (fronts, _) = plan_for(pool, &[]).open_fronts(name, &mut none)?;
            for (fronts, worker) in fronts.iter().zip(0..) {
                all.append(duplicates(fronts.iter().map(|front| (SocketKind::Front, front)), name, worker)?);
            }
            for listener in listeners(pool, &mut none)? {
                let label = Label {
                    pool: name.to_owned(),
                    kind: SocketKind::Tcp,
                    worker: 0,
                    addr: listener.local_addr()?,
                };
                all.add(label, listener.into());
            }
        }
    }
    Ok(all)
}

/// Raises the limit of descriptors to what these pools need beside this many inherited sockets.
pub fn allow_files(pools: &[config::Pool], inherited: usize) -> Result<(), Failed> {
    // Both address families, since a host name may lead to either.
    let of_pool = |pool: &DatagramPool| {
        let fronts = pool.listen.len() * pool.settings.workers;
        fronts + 2 * (pool.ports.max(pool.settings.workers) + 1) + pool.tcp_files()
    };
    match pools.iter().filter_map(config::Pool::as_datagram).map(of_pool).sum::<usize>() {
        0 => Ok(()),
        sum => {
            let count = (sum + inherited + OTHER_FILES) as u64;
            Ok(limits::allow_files(count, "pools[].ports or pools[].tcp_connections")?)
        }
    }
}

impl PoolSockets {
    /// The error of the look-up of the pool's host names; `None` if each name has an address.
    pub fn unresolved(&self) -> Option<Failed> {
        let PoolSockets::Datagram(open) = self else { return None };
        Some(Failed::new(open.names.failed()?).of_pool(open.of.settings.name.as_str()))
    }

    /// Opens the sockets of a pool. Sockets that are in `inherited` are taken from there.
    pub fn new(pool: &config::Pool, inherited: &mut SocketSet) -> Result<PoolSockets, Failed> {
        let open = match pool {
            config::Pool::Native(pool) => {
                OpenNative::new(pool, inherited).map(|open| PoolSockets::Native(Box::new(open)))
            }
            config::Pool::Datagram(pool) => {
                OpenDatagram::new(pool, inherited).map(|open| PoolSockets::Datagram(Box::new(open)))
            }
        };
        open.map_err(|error| error.of_pool(pool.name()))
    }
}

impl OpenNative {
    fn new(pool: &NativePool, inherited: &mut SocketSet) -> Result<OpenNative, Failed> {
        let are_inherited = inherited.has(&pool.name, SocketKind::Front, 0, pool.client_side);
        Ok(OpenNative { of: pool.clone(), workers: native(pool, inherited)?, are_inherited })
    }
}

impl OpenDatagram {
    fn new(pool: &DatagramPool, inherited: &mut SocketSet) -> Result<OpenDatagram, Failed> {
        let (names, plan) = plan(pool)?;
        let OpenSockets { workers, origins } = plan.open(&pool.settings.name, inherited)?;
        let listeners = listeners(pool, inherited)?;
        Ok(OpenDatagram { of: pool.clone(), plan, names, workers, origins, listeners })
    }
}

/// The TCP listeners of a datagram pool.
fn listeners(pool: &DatagramPool, inherited: &mut SocketSet) -> io::Result<Vec<TcpListener>> {
    let addrs = if pool.tcp_connections > 0 { &pool.listen[..] } else { &[] };
    let listeners =
        addrs.iter().map(|&addr| match inherited.take(&pool.settings.name, SocketKind::Tcp, 0, addr) {
            Some(listener) => Ok(listener.into()),
            None => tcp::listen(addr),
        });
    listeners.collect()
}

/// The client-side and the server-side socket of each worker. All workers share the client-side port. The
/// primary has the configured server-side port, the other workers have any free port.
fn native(pool: &NativePool, inherited: &mut SocketSet) -> io::Result<Vec<[UdpSocket; 2]>> {
    let options = SocketOptions::default();
    let any_port = SocketAddr::new(pool.server_side.ip(), 0);
    let has_front = inherited.has(&pool.name, SocketKind::Front, 0, pool.client_side);
    let shared = SocketOptions { reuse_port: pool.workers > 1, ..options };
    if shared.reuse_port && !has_front {
        // Any process of the same user can join a shared port: a second balancer would take half of the
        // requests. So the port must be free before it is shared.
        drop(bind(pool.client_side, &options)?);
    }
    let mut open = |kind, worker, addr, options| match inherited.take(&pool.name, kind, worker, addr) {
        Some(socket) => Ok(UdpSocket::from(socket)),
        None => bind(addr, options),
    };
    (0..pool.workers as u16)
        .map(|worker| {
            let back = if worker == 0 { pool.server_side } else { any_port };
            Ok([
                open(SocketKind::Front, worker, pool.client_side, &shared)?,
                open(SocketKind::Back, worker, back, &options)?,
            ])
        })
        .collect()
}

/// The listener of the admin interface. A balancer without one could not be operated, so a port in use is an
/// error, the default port too.
fn admin(admin: &config::Admin, inherited: &mut SocketSet) -> io::Result<Option<TcpListener>> {
    let Some(addr) = admin.listen else { return Ok(None) };
    if let Some(listener) = inherited.take("", SocketKind::Admin, 0, addr) {
        return Ok(Some(listener.into()));
    }
    let remedy = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => io::Error::other(format!(
            "admin.listen: {error}; end the process that has the port, or set admin.listen to another \
             address or to \"off\""
        )),
        kind => io::Error::new(kind, format!("admin.listen: {error}")),
    };
    tcp::listen(addr).map(Some).map_err(remedy)
}

/// Looks up the servers' names, and returns the sockets that the pool needs.
fn plan(pool: &DatagramPool) -> Result<(Resolver, datagram::SocketPlan), Failed> {
    let mut names = Resolver::new(pool);
    // A name without an address is looked up again later: the pool begins with the servers that it has.
    let is_complete = names.look_up().is_ok();
    let addrs: Vec<SocketAddr> = names.wanted().into_iter().map(|wanted| wanted.addr).collect();
    if is_complete && addrs.is_empty() && !pool.servers.is_empty() {
        return Err(Failed::new("all servers are addresses of the pool itself; name others"));
    }
    Ok((names, plan_for(pool, &addrs)))
}

/// The sockets that a pool needs while its servers have these addresses.
pub fn plan_for(pool: &DatagramPool, addrs: &[SocketAddr]) -> datagram::SocketPlan {
    // Servers that a controller runs all have one address.
    let run = pool.run.as_ref().map(|run| SocketAddr::new(run.address, run.run.ports.start));
    let addrs = &addrs.iter().copied().chain(run).collect::<Vec<_>>()[..];
    // A later lookup of a host name may lead to either address family.
    let has_names = pool.servers.iter().any(|server| matches!(server.target, Target::Name { .. }));
    let of_controller = pool.run.as_ref().map(|run| SocketAddr::new(run.address, 0));
    let addrs = &addrs.iter().copied().chain(of_controller).collect::<Vec<_>>()[..];
    datagram::SocketPlan {
        listen: pool.listen.clone(),
        workers: pool.settings.workers,
        ports: pool.ports,
        v4: (has_names || addrs.iter().any(SocketAddr::is_ipv4))
            .then(|| port_ip(pool, addrs, Ipv4Addr::LOCALHOST.into()))
            .and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        v6: (addrs.iter().any(SocketAddr::is_ipv6) || has_names && datagram::has_ipv6())
            .then(|| port_ip(pool, addrs, Ipv6Addr::LOCALHOST.into()))
            .and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
        checks: pool.settings.health.check != Check::None,
        transparent: pool.settings.transparent,
        keeps_ports: pool.settings.affinity == Affinity::Client,
    }
}

/// The local address of ports towards servers: the loopback, if all servers of the family are on the loopback
/// permanently.
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

/// Duplicates of these sockets with their labels, for another process or pool.
pub fn duplicates<'a>(
    sockets: impl IntoIterator<Item = (SocketKind, &'a UdpSocket)>,
    pool: &str,
    worker: u16,
) -> io::Result<SocketSet> {
    let mut set = SocketSet::default();
    for (kind, socket) in sockets {
        let label = Label { pool: pool.to_owned(), kind, worker, addr: socket.local_addr()? };
        set.add(label, socket.try_clone()?.into());
    }
    Ok(set)
}
