//! The thread of the admin interface, and the limits of its connections.
//!
//! Everything is bounded: connections, size and time of a head and of a body, and the time in which a reader
//! must take data. So a stalled or hostile reader costs a fixed amount of memory, and the data path nothing.
//! HTTP and the owner's socket have separate limits, so no stranger keeps the owner's commands out.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tracing::warn;

use super::Control;
use super::app::AppState;
use super::guard::Way;
use super::live::Live;
use super::routes;
use super::seats::{Seat, Seats};
use super::status::History;
use crate::base::seldom::Seldom;
use crate::base::time::Clock;
use crate::config::Token;
use crate::os::private_socket::{self, PrivateSocket};

/// Maximum number of concurrent connections over HTTP. A further one ends the one that has waited longest.
pub(super) const CONNECTIONS_MAX: usize = 128;
/// The same over the owner's socket.
const OWNER_CONNECTIONS_MAX: usize = 32;
/// Maximum time for the head of a connection's next request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Buffer of a connection in each direction, in bytes; also the maximum size of a head.
pub(super) const BUFFER_SIZE: usize = 16 * 1024;
/// Send buffer of a reader in the kernel, in bytes (the kernel doubles it for its own needs).
const KERNEL_BUFFER_SIZE: usize = 128 * 1024;
/// Time in which a reader must take data; after that its connection ends.
const STALLED_TIME_MAX: Duration = Duration::from_secs(10);
/// Threads for operations that wait for the data path.
const WAITING_THREADS_MAX: usize = 4;
/// Time at the end in which answers in flight may finish.
const END_TIME_MAX: Duration = Duration::from_millis(500);

/// A running admin interface. It ends with this value.
#[derive(Debug)]
pub struct AdminServer {
    addr: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// The address on which it listens for HTTP; `None` without HTTP.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Lets answers in flight finish, for half a second at most, and stops.
    pub fn stop(self) {}
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was logged and ends only that thread
        }
    }
}

/// Where an admin interface listens.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The listener of HTTP, and the token that changes need there; `None` = HTTP is off.
    pub http: Option<(std::net::TcpListener, Token)>,
    /// The socket of the balancer's owner; `None` = it could not be opened.
    pub owner: Option<PrivateSocket>,
}

/// The same listeners on the runtime of the thread.
struct Entrances {
    http: Option<TcpListener>,
    owner: Option<UnixListener>,
}

impl Entrances {
    /// The next connection and the way on which it came.
    async fn accept(&self) -> io::Result<Connection> {
        let http = async {
            match &self.http {
                Some(listener) => listener.accept().await.map(|(stream, _)| Connection::Http(stream)),
                None => std::future::pending().await,
            }
        };
        let owner = async {
            match &self.owner {
                Some(listener) => listener.accept().await.map(|(stream, _)| Connection::Owner(stream)),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = owner => accepted,
            accepted = http => accepted,
        }
    }
}

enum Connection {
    Http(TcpStream),
    Owner(UnixStream),
}

/// Serves `control` to all connections.
pub fn serve(listeners: Listeners, control: Arc<dyn Control>) -> io::Result<AdminServer> {
    serve_with(listeners, control, Arc::default())
}

/// The same, continuing a history.
pub fn serve_with(
    listeners: Listeners,
    control: Arc<dyn Control>,
    history: Arc<Mutex<History>>,
) -> io::Result<AdminServer> {
    let Listeners { http, owner } = listeners;
    let (http, token) = http.unzip();
    let addr = http.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WAITING_THREADS_MAX)
        .thread_name("admin-order")
        .build()?;
    let entrances = {
        let _within = runtime.enter();
        let from_std = |listener: std::net::TcpListener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let owner = owner.as_ref().map(|socket| {
            let listener = socket.listener().try_clone()?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        });
        Entrances { http: http.map(from_std).transpose()?, owner: owner.transpose()? }
    };
    let (stop, stopped) = watch::channel(false);
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        let live = Arc::new(Live::new(Arc::clone(&control), history, stopped.clone()));
        let router = routes::router(AppState::new(control, token, Arc::clone(&live)));
        runtime.block_on(async {
            tokio::spawn(async move { live.tick().await });
            accept(entrances, router, stopped).await;
        });
        drop(owner); // removes the file of the socket
        runtime.shutdown_background(); // an order that still waits for the data path is not waited for
    })?;
    Ok(AdminServer { addr, stop, thread: Some(thread) })
}

/// Accepts connections until it is stopped, then lets them finish.
async fn accept(entrances: Entrances, router: Router, mut stop: watch::Receiver<bool>) {
    let (seats, owner_seats) = (Seats::new(CONNECTIONS_MAX), Seats::new(OWNER_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let (clock, mut failed, mut refused) = (Clock::start(), Seldom::default(), Seldom::default());
    loop {
        let accepted = tokio::select! {
            accepted = entrances.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(Connection::Http(stream)) => {
                let seat = seats.take();
                connections.spawn(serve_http(stream, seat, router.clone(), stop.clone()));
            }
            Ok(Connection::Owner(stream)) => match private_socket::check_peer(&stream) {
                Ok(_) => {
                    let router = router.clone().layer(Extension(Way::Owner));
                    connections.spawn(serve_one(stream, owner_seats.take(), router, stop.clone()));
                }
                Err(error) if refused.is_due(clock.now()) => {
                    warn!(error = error.to_string(), "admin connection refused");
                }
                Err(_) => {}
            },
            Err(error) => {
                if failed.is_due(clock.now()) {
                    warn!(error = error.to_string(), "admin connection not accepted");
                }
                // A lack of descriptors is temporary.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(entrances);
    let _ =
        tokio::time::timeout(END_TIME_MAX, async { while connections.join_next().await.is_some() {} }).await;
}

/// Serves one connection over TCP until its end.
async fn serve_http(stream: TcpStream, seat: Arc<Seat>, router: Router, stop: watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else { return };
    let socket = socket2::SockRef::from(&stream);
    if socket.set_tcp_nodelay(true).and(socket.set_send_buffer_size(KERNEL_BUFFER_SIZE)).is_err() {
        return; // it is gone already
    }
    serve_one(stream, seat, router.layer(Extension(Way::Http(local))), stop).await;
}

/// Serves one connection until its end, or until another one needs its seat.
async fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    seat: Arc<Seat>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(STALLED_TIME_MAX));
    let service = TowerToHyperService::new(router.layer(Extension(Arc::clone(&seat))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(BUFFER_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = seat.is_needed() => return,
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
