//! The thread of the admin interface, and the limits of its connections.
//!
//! Everything is bounded: connections, size and time of a head and of a body, and the time in which a reader
//! must take data. So a stalled or hostile reader costs a fixed amount of memory, and the data path nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tracing::warn;

use super::Control;
use super::app::AppState;
use super::guard::Local;
use super::live::Live;
use super::routes;
use super::status::History;
use crate::base::seldom::Seldom;
use crate::base::time::Clock;
use crate::config::Token;

/// Maximum number of concurrent connections; further ones wait until one ends.
const CONNECTIONS_MAX: usize = 128;
/// Maximum time for the head of a connection's next request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Buffer of a connection in each direction, in bytes; also the maximum size of a head.
const BUFFER_SIZE: usize = 16 * 1024;
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
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// The address on which it listens.
    pub fn addr(&self) -> SocketAddr {
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

/// Serves `control` to all connections; changes need the token.
pub fn serve(
    listener: std::net::TcpListener,
    control: Arc<dyn Control>,
    token: Token,
) -> io::Result<AdminServer> {
    serve_with(listener, control, token, Arc::default())
}

/// The same, continuing a history.
pub fn serve_with(
    listener: std::net::TcpListener,
    control: Arc<dyn Control>,
    token: Token,
    history: Arc<Mutex<History>>,
) -> io::Result<AdminServer> {
    let addr = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WAITING_THREADS_MAX)
        .thread_name("admin-order")
        .build()?;
    let listener = {
        let _within = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let (stop, stopped) = watch::channel(false);
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        let live = Arc::new(Live::new(Arc::clone(&control), history, stopped.clone()));
        let router = routes::router(AppState::new(control, token, Arc::clone(&live)));
        runtime.block_on(async {
            tokio::spawn(async move { live.tick().await });
            accept(listener, router, stopped).await;
        });
        runtime.shutdown_background(); // an order that still waits for the data path is not waited for
    })?;
    Ok(AdminServer { addr, stop, thread: Some(thread) })
}

/// Accepts connections until it is stopped, then lets them finish.
async fn accept(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let (clock, mut failed) = (Clock::start(), Seldom::default());
    loop {
        let next = async {
            let seat = Arc::clone(&seats).acquire_owned().await.expect("it is never closed");
            (listener.accept().await, seat)
        };
        let (accepted, seat) = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_one(stream, router.clone(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(seat);
                });
            }
            Err(error) => {
                if failed.is_due(clock.now()) {
                    warn!(error = error.to_string(), "admin connection not accepted");
                }
                // A lack of descriptors is temporary.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ =
        tokio::time::timeout(END_TIME_MAX, async { while connections.join_next().await.is_some() {} }).await;
}

/// Serves one connection until its end.
async fn serve_one(stream: TcpStream, router: Router, mut stop: watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else { return };
    let socket = socket2::SockRef::from(&stream);
    if socket.set_tcp_nodelay(true).and(socket.set_send_buffer_size(KERNEL_BUFFER_SIZE)).is_err() {
        return; // it is gone already
    }
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(STALLED_TIME_MAX));
    let service = TowerToHyperService::new(router.layer(Extension(Local(local))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(BUFFER_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
