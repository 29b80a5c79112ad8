//! TCP beside a DNS pool. Each connection is spliced to a server that the pool's policy selects. A client
//! that receives a truncated response repeats its query over TCP (RFC 7766).

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::base::time::Clock;
use crate::pool::select::Slot;
use crate::role::datagram::DatagramShared;
use crate::wire::proxy_protocol::{self, Transport};

/// How long a server may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Servers that are tried for one connection. A server that did not accept has received no query.
const TRIES: usize = 3;
/// A connection that carries no byte for this time is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Size of the copy buffer of one direction, in bytes.
const BUFFER: usize = 16 << 10;
/// Pause after an error of accept(2), such as too many open descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 1024;

/// A listener on this address. An IPv6 listener accepts only IPv6, like the pool's UDP socket.
pub fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {addr} (TCP): {e}")))
}

/// The TCP side of a pool.
pub struct Splicer {
    pool: Arc<DatagramShared>,
    connections_max: u64,
    clock: Clock,
}

impl Splicer {
    /// A splicer for at most `connections_max` concurrent connections.
    pub fn new(pool: Arc<DatagramShared>, connections_max: usize, clock: Clock) -> Self {
        Splicer { pool, connections_max: connections_max as u64, clock }
    }

    /// Accepts connections and never returns. Must run in a [`tokio::task::LocalSet`].
    pub async fn serve(self: Rc<Self>, listener: TcpListener) {
        loop {
            let Ok((client, peer)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            if !self.admits(peer) {
                self.pool.tcp.refused.add(1);
                continue;
            }
            let splicer = Rc::clone(&self);
            let tcp = &self.pool.tcp;
            tcp.open.set(tcp.open.get() + 1);
            tokio::task::spawn_local(async move {
                let counted = splicer.splice(client, peer).await;
                let tcp = &splicer.pool.tcp;
                tcp.open.set(tcp.open.get() - 1);
                if counted.is_err() {
                    tcp.refused.add(1);
                }
            });
        }
    }

    fn admits(&self, peer: SocketAddr) -> bool {
        let pool = &self.pool;
        pool.tcp.open.get() < self.connections_max && pool.gate().admits(peer.ip(), self.clock.now())
    }

    /// Carries one connection. An error means that no server accepted it. Later errors are not counted.
    async fn splice(&self, client: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let (mut server, _counted) = self.connect().await?;
        if self.pool.tells_client() {
            let header = proxy_protocol::header(Transport::Stream, peer, client.local_addr()?);
            server.write_all(&header).await?;
        }
        self.pool.tcp.opened.add(1);
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        carry(client, server).await;
        Ok(())
    }

    async fn connect(&self) -> io::Result<(TcpStream, CountedConnection<'_>)> {
        let mut result = Err(io::Error::other("no server is up"));
        let mut tried = heapless::Vec::<Slot, TRIES>::new();
        while !tried.is_full() {
            // A server that did not accept still has the shortest queue.
            let chosen = match tried.is_empty() {
                true => self.pool.open(),
                false => self.pool.open_elsewhere(&tried),
            };
            let Some((slot, addr)) = chosen else { break };
            let _ = tried.push(slot); // it has room
            let counted = CountedConnection { pool: &self.pool, slot };
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
                Ok(Ok(server)) => return Ok((server, counted)),
                Ok(Err(error)) => result = Err(error),
                Err(elapsed) => result = Err(elapsed.into()),
            }
        }
        result
    }
}

/// Counts a connection at its server until the connection ends.
struct CountedConnection<'a> {
    pool: &'a DatagramShared,
    slot: Slot,
}

impl Drop for CountedConnection<'_> {
    fn drop(&mut self) {
        self.pool.close(self.slot);
    }
}

/// Carries bytes both ways until both ends have closed, one fails, or nothing has moved for [`IDLE_TIMEOUT`].
async fn carry(mut client: TcpStream, mut server: TcpStream) {
    let active = Cell::new(Instant::now());
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let watch = async {
        loop {
            let until = active.get() + IDLE_TIMEOUT;
            sleep_until(until).await;
            if active.get() + IDLE_TIMEOUT <= Instant::now() {
                return;
            }
        }
    };
    let both = async {
        let there = pump(&mut from_client, &mut to_server, &active);
        let back = pump(&mut from_server, &mut to_client, &active);
        let _ = tokio::try_join!(there, back); // a failure of one direction ends both
    };
    tokio::select! {
        () = both => {}
        () = watch => {}
    }
}

/// Carries bytes one way until the end, and passes that on.
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    active: &Cell<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = from.read(&mut buffer).await?;
        active.set(Instant::now());
        if len == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..len]).await?;
        active.set(Instant::now());
    }
}
