//! The sockets of everything that runs in a balancer process: opened, or taken over from another process or
//! pool.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::Failed;
use crate::config::{self, Check, Config, DatagramPool, NativePool, Target};
use crate::daemon::handover::{Label, SocketKind as Kind, SocketSet};
use crate::daemon::resolver::Resolver;
use crate::daemon::{datagram, tcp};
use crate::io::socket::{SocketOptions, bind};
use crate::os::limits;
use crate::role::datagram::WorkerSockets;

/// Descriptors beside those of datagram pools: logs, epoll, timers, native pools, the admin interface.
const OTHER_FILES: usize = 256;

/// Sockets of everything that will run.
pub struct Opened {
    /// Those of the pools, in their order.
    pub pools: Vec<Open>,
    /// The listener of the admin interface, if it has one.
    pub admin: Option<TcpListener>,
}

/// The sockets of a pool, and what it is made from.
pub enum Open {
    /// Of a native pool.
    Native(Box<OpenNative>),
    /// Of a datagram pool.
    Datagram(Box<OpenDatagram>),
}

/// The sockets of a native pool.
pub struct OpenNative {
    /// What it is made from.
    pub of: NativePool,
    /// Client side and server side of each worker.
    pub workers: Vec<[UdpSocket; 2]>,
    /// Whether they were taken over, so that they may hold requests already.
    pub are_inherited: bool,
}

/// The sockets of a datagram pool.
pub struct OpenDatagram {
    /// What it is made from.
    pub of: DatagramPool,
    /// Which sockets it needs.
    pub plan: datagram::Plan,
    /// The addresses of its servers.
    pub names: Resolver,
    /// Those of each worker.
    pub workers: Vec<(Vec<UdpSocket>, WorkerSockets)>,
    /// The listeners of TCP connections.
    pub listeners: Vec<TcpListener>,
}

impl Opened {
    /// Opens the sockets that this configuration needs; those that are in `inherited` are taken from there.
    pub fn all(config: &Config, inherited: &mut SocketSet) -> Result<Opened, Failed> {
        allow_files(&config.pools)?;
        let pools = config.pools.iter().map(|pool| Open::new(pool, inherited)).collect::<Result<_, _>>()?;
        Ok(Opened { pools, admin: admin(&config.admin, inherited)? })
    }
}

/// The sockets by whose addresses a balancer of this configuration is known: those that a supervisor keeps,
/// so that they outlive the balancer. Sockets towards servers of datagram pools are not among them.
pub fn hold(config: &Config) -> Result<SocketSet, Failed> {
    let mut none = SocketSet::default();
    let mut all = SocketSet::default();
    for pool in &config.pools {
        all.append(hold_pool(pool).map_err(|error| error.of_pool(pool.name()))?);
    }
    if let Some(listener) = admin(&config.admin, &mut none)? {
        let addr = listener.local_addr()?;
        all.add(Label { pool: String::new(), kind: Kind::Admin, worker: 0, addr }, listener.into());
    }
    Ok(all)
}

fn hold_pool(pool: &config::Pool) -> Result<SocketSet, Failed> {
    let (name, mut none, mut all) = (pool.name(), SocketSet::default(), SocketSet::default());
    match pool {
        config::Pool::Native(pool) => {
            for ([front, back], worker) in native(pool, &mut none)?.iter().zip(0..) {
                all.append(duplicates([(Kind::Front, front), (Kind::Back, back)], name, worker)?);
            }
        }
        config::Pool::Datagram(pool) => {
            let fronts = plan_for(pool, &[]).open_fronts(name, &mut none)?;
            for (fronts, worker) in fronts.iter().zip(0..) {
                all.append(duplicates(fronts.iter().map(|front| (Kind::Front, front)), name, worker)?);
            }
            for listener in listeners(pool, &mut none)? {
                let label =
                    Label { pool: name.to_owned(), kind: Kind::Tcp, worker: 0, addr: listener.local_addr()? };
                all.add(label, listener.into());
            }
        }
    }
    Ok(all)
}

/// Raises the limit of descriptors to what these pools need.
pub fn allow_files(pools: &[config::Pool]) -> Result<(), Failed> {
    // Both families, as names may lead to either.
    let of_pool = |pool: &DatagramPool| {
        let fronts = pool.listen.len() * pool.settings.workers;
        fronts + 2 * (pool.ports.max(pool.settings.workers) + 1) + 2 * pool.tcp_connections
    };
    match pools.iter().filter_map(config::Pool::as_datagram).map(of_pool).sum::<usize>() {
        0 => Ok(()),
        sum => {
            Ok(limits::allow_files((sum + OTHER_FILES) as u64, "pools[].ports or pools[].tcp_connections")?)
        }
    }
}

impl Open {
    /// Opens the sockets of a pool; those that are in `inherited` are taken from there.
    pub fn new(pool: &config::Pool, inherited: &mut SocketSet) -> Result<Open, Failed> {
        let open = match pool {
            config::Pool::Native(pool) => {
                OpenNative::new(pool, inherited).map(|open| Open::Native(Box::new(open)))
            }
            config::Pool::Datagram(pool) => {
                OpenDatagram::new(pool, inherited).map(|open| Open::Datagram(Box::new(open)))
            }
        };
        open.map_err(|error| error.of_pool(pool.name()))
    }
}

impl OpenNative {
    fn new(pool: &NativePool, inherited: &mut SocketSet) -> Result<OpenNative, Failed> {
        let are_inherited = inherited.has(&pool.name, Kind::Front, 0, pool.client_side);
        Ok(OpenNative { of: pool.clone(), workers: native(pool, inherited)?, are_inherited })
    }
}

impl OpenDatagram {
    fn new(pool: &DatagramPool, inherited: &mut SocketSet) -> Result<OpenDatagram, Failed> {
        let (names, plan) = plan(pool)?;
        let workers = plan.open(&pool.settings.name, inherited)?;
        let listeners = listeners(pool, inherited)?;
        Ok(OpenDatagram { of: pool.clone(), plan, names, workers, listeners })
    }
}

/// The TCP listeners of a datagram pool.
fn listeners(pool: &DatagramPool, inherited: &mut SocketSet) -> io::Result<Vec<TcpListener>> {
    let addrs = if pool.tcp_connections > 0 { &pool.listen[..] } else { &[] };
    let listeners = addrs.iter().map(|&addr| match inherited.take(&pool.settings.name, Kind::Tcp, 0, addr) {
        Some(listener) => Ok(listener.into()),
        None => tcp::listen(addr),
    });
    listeners.collect()
}

/// Client-side and server-side socket of each worker. The primary has the server side's port, the others have
/// any port; all share the client side's.
fn native(pool: &NativePool, inherited: &mut SocketSet) -> io::Result<Vec<[UdpSocket; 2]>> {
    let options = SocketOptions::default();
    let any_port = SocketAddr::new(pool.server_side.ip(), 0);
    let has_front = inherited.has(&pool.name, Kind::Front, 0, pool.client_side);
    let shared = SocketOptions { reuse_port: pool.workers > 1, ..options };
    if shared.reuse_port && !has_front {
        // Any process of the same user can share a shared port: another balancer there would take half of the
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
                open(Kind::Front, worker, pool.client_side, &shared)?,
                open(Kind::Back, worker, back, &options)?,
            ])
        })
        .collect()
}

/// The listener of the admin interface. If the configuration does not name its address, a port in use is no
/// reason not to start.
fn admin(admin: &config::Admin, inherited: &mut SocketSet) -> io::Result<Option<TcpListener>> {
    let Some(addr) = admin.listen else { return Ok(None) };
    if let Some(listener) = inherited.take("", Kind::Admin, 0, addr) {
        return Ok(Some(listener.into()));
    }
    match tcp::listen(addr) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !admin.is_written => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("admin.listen: {error}"))),
    }
}

/// Looks up the servers' names, and returns which sockets they need.
fn plan(pool: &DatagramPool) -> Result<(Resolver, datagram::Plan), Failed> {
    let mut names = Resolver::new(pool);
    names.look_up().map_err(Failed::new)?;
    let addrs: Vec<SocketAddr> = names.wanted().into_iter().map(|wanted| wanted.addr).collect();
    if addrs.is_empty() && !pool.servers.is_empty() {
        return Err(Failed::new("all servers are addresses of the pool itself; name others"));
    }
    Ok((names, plan_for(pool, &addrs)))
}

/// Which sockets a pool needs whose servers are at these addresses today.
pub fn plan_for(pool: &DatagramPool, addrs: &[SocketAddr]) -> datagram::Plan {
    // Servers that a controller runs come and go, at one address.
    let run = pool.run.as_ref().map(|run| SocketAddr::new(run.address, run.run.ports.start));
    let addrs = &addrs.iter().copied().chain(run).collect::<Vec<_>>()[..];
    // Names may lead to either family tomorrow.
    let has_names = pool.servers.iter().any(|server| matches!(server.target, Target::Name { .. }));
    let of_controller = pool.run.as_ref().map(|run| SocketAddr::new(run.address, 0));
    let addrs = &addrs.iter().copied().chain(of_controller).collect::<Vec<_>>()[..];
    datagram::Plan {
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
    }
}

/// Where ports towards servers are bound: to the loopback, if all servers of the family are there and stay
/// there.
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
    sockets: impl IntoIterator<Item = (Kind, &'a UdpSocket)>,
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
