//! The sockets of everything that runs in a balancer process: opened, or taken over from whoever had them before.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::Failed;
use crate::config::{self, Check, Config, DatagramPool, NativePool, Target};
use crate::daemon::handover::{Label, SocketKind as Kind, SocketSet};
use crate::daemon::resolver::Resolver;
use crate::daemon::{datagram, native, tcp};
use crate::io::socket::{SocketOptions, bind};
use crate::os::limits;
use crate::role::datagram::WorkerSockets;

/// Descriptors beside those of pools: logs, epoll, timers, the native pool, the admin interface.
const OTHER_FILES: usize = 256;

/// Sockets of everything that will run.
pub struct Opened {
    /// Front and server side of each worker of the native pool, if it runs.
    pub native: Option<Vec<[UdpSocket; 2]>>,
    /// Those of the datagram pools, in their order.
    pub pools: Vec<OpenPool>,
    /// Of the admin interface, if it has one.
    pub admin: Option<TcpListener>,
}

/// The sockets of a datagram pool.
pub struct OpenPool {
    /// The pool.
    pub of: DatagramPool,
    /// Which sockets it needs.
    pub plan: datagram::Plan,
    /// Where its servers are.
    pub names: Resolver,
    /// Those of each worker.
    pub workers: Vec<(Vec<UdpSocket>, WorkerSockets)>,
    /// Where TCP connections arrive.
    pub listeners: Vec<TcpListener>,
}

impl Opened {
    /// Opens what this configuration needs; what is in `inherited` is taken from there.
    pub fn all(config: &Config, inherited: &mut SocketSet) -> Result<Opened, Failed> {
        allow_files(config)?;
        let native = config.native().map(|pool| native(pool, inherited)).transpose()?;
        let pools = config.datagram_pools().map(|pool| OpenPool::open(pool, inherited));
        let pools = pools.collect::<Result<_, _>>()?;
        Ok(Opened { native, pools, admin: admin(&config.admin, inherited)? })
    }
}

/// The sockets on which others know a balancer of this configuration: those that a supervisor keeps, so that they outlive
/// the balancer. Ports towards servers of datagram pools are not among them.
pub fn hold(config: &Config) -> Result<SocketSet, Failed> {
    let mut none = SocketSet::default();
    let mut all = SocketSet::default();
    if let Some(pool) = config.native() {
        for (worker, [front, back]) in native(pool, &mut none)?.iter().enumerate() {
            let sockets = [(Kind::Front, front), (Kind::Back, back)];
            all.append(duplicates(sockets, native::NAME, worker as u16)?);
        }
    }
    for pool in config.datagram_pools() {
        let name = &pool.settings.name;
        let mut open = || -> Result<(), Failed> {
            let plan = plan_for(pool, &[]);
            for (worker, fronts) in plan.open_fronts(name, &mut SocketSet::default())?.iter().enumerate() {
                all.append(duplicates(fronts.iter().map(|front| (Kind::Front, front)), name, worker as u16)?);
            }
            let addrs = if pool.tcp_connections > 0 { &pool.listen[..] } else { &[] };
            for &addr in addrs {
                let label = Label { pool: name.clone(), kind: Kind::Tcp, worker: 0, addr };
                all.add(label, tcp::listen(addr)?.into());
            }
            Ok(())
        };
        open().map_err(|error| error.of_pool(name))?;
    }
    if let Some(listener) = admin(&config.admin, &mut none)? {
        let addr = listener.local_addr()?;
        all.add(Label { pool: String::new(), kind: Kind::Admin, worker: 0, addr }, listener.into());
    }
    Ok(all)
}

/// Raises the limit of descriptors to what the datagram pools of this configuration need.
pub fn allow_files(config: &Config) -> Result<(), Failed> {
    if config.datagram_pools().next().is_none() {
        return Ok(());
    }
    // Both families, as names may lead to either.
    let of_pool = |pool: &DatagramPool| {
        let fronts = pool.listen.len() * pool.settings.workers;
        fronts + 2 * (pool.ports.max(pool.settings.workers) + 1) + 2 * pool.tcp_connections
    };
    let count = config.datagram_pools().map(of_pool).sum::<usize>() + OTHER_FILES;
    Ok(limits::allow_files(count as u64, "pools[].ports or pools[].tcp_connections")?)
}

impl OpenPool {
    /// Opens the sockets of one pool.
    pub fn open(pool: &DatagramPool, inherited: &mut SocketSet) -> Result<OpenPool, Failed> {
        let name = &pool.settings.name;
        let mut open = || {
            let (names, plan) = plan(pool)?;
            let workers = plan.open(name, inherited)?;
            let addrs = if pool.tcp_connections > 0 { &pool.listen[..] } else { &[] };
            let listeners = addrs.iter().map(|&addr| match inherited.take(name, Kind::Tcp, 0, addr) {
                Some(listener) => Ok(listener.into()),
                None => tcp::listen(addr),
            });
            let listeners = listeners.collect::<io::Result<_>>()?;
            Ok(OpenPool { of: pool.clone(), plan, names, workers, listeners })
        };
        open().map_err(|error: Failed| error.of_pool(name))
    }
}

/// The sockets of each worker: front and server side. The primary has the server side's port, the others any; the front
/// is shared by all.
fn native(pool: &NativePool, inherited: &mut SocketSet) -> io::Result<Vec<[UdpSocket; 2]>> {
    let options = SocketOptions::default();
    let any_port = SocketAddr::new(pool.server_side.ip(), 0);
    let has_front = inherited.has(native::NAME, Kind::Front, 0, pool.client_side);
    let shared = SocketOptions { reuse_port: pool.workers > 1, ..options };
    if shared.reuse_port && !has_front {
        // A shared port can be shared with anybody of the same user: another balancer there would take half of the
        // requests. So it must be free before it is shared.
        drop(bind(pool.client_side, &options)?);
    }
    let mut open = |kind, worker, addr, options| match inherited.take(native::NAME, kind, worker, addr) {
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

/// Where the admin interface listens. If nobody has said where, a port that is taken already is no reason not to start.
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

/// Looks the servers' names up and says which sockets they take.
fn plan(pool: &DatagramPool) -> Result<(Resolver, datagram::Plan), Failed> {
    let mut names = Resolver::new(pool);
    names.look_up().map_err(Failed::new)?;
    let addrs: Vec<SocketAddr> = names.wanted().into_iter().map(|wanted| wanted.addr).collect();
    if addrs.is_empty() && !pool.servers.is_empty() {
        return Err(Failed::new("its servers are all its own addresses: name others"));
    }
    Ok((names, plan_for(pool, &addrs)))
}

/// Which sockets a pool takes whose servers are at these addresses today.
pub fn plan_for(pool: &DatagramPool, addrs: &[SocketAddr]) -> datagram::Plan {
    // Those that a controller runs come and go, at one address.
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

/// Duplicates of these sockets with what they are, for whoever shall have them too.
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
