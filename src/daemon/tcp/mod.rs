//! The sockets of a DNS pool's TCP side: listeners, connections of clients and to servers. They carry out
//! what [`Streams`] decides.
//!
//! All tasks run on the control thread. Each connection has one task, which reads it. One task sends,
//! after all tasks that were ready have run: so the messages of a moment leave in one write per
//! connection. If a peer does not read, its connection has a second task, which waits until the socket
//! takes bytes.

mod connections;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use self::connections::{Connection, Connections};
use crate::base::seldom::Seldom;
use crate::base::time::Clock;
use crate::role::datagram::streams::{Action, ConnectionId, Streams};

/// How long a server may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after an error of accept(2), such as too many open descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 1024;
/// Bytes that one read takes at most.
const SCRATCH: usize = 64 << 10;

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
pub struct StreamServer {
    streams: RefCell<Streams>,
    connections: RefCell<Connections>,
    scratch: RefCell<Box<[u8]>>,
    clock: Clock,
    /// Wakes the task that sends.
    flush: Notify,
    /// Wakes the task that keeps time, also from other threads.
    tick: Arc<Notify>,
    /// What the task that keeps time waits for.
    period: Cell<Option<Duration>>,
    out_of_files: RefCell<Seldom>,
    is_over: Cell<bool>,
}

impl StreamServer {
    /// A server over these decisions.
    pub fn new(streams: Streams, clock: Clock) -> Rc<StreamServer> {
        let tick = Arc::new(Notify::new());
        let woken = Arc::clone(&tick);
        streams.shared().streams.set_waker(move || woken.notify_one());
        Rc::new(StreamServer {
            streams: RefCell::new(streams),
            connections: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            clock,
            flush: Notify::new(),
            tick,
            period: Cell::new(None),
            out_of_files: RefCell::default(),
            is_over: Cell::new(false),
        })
    }

    /// Starts the tasks that send and keep time. They end when the pool has been retired and all connections
    /// have ended. Must run in a [`tokio::task::LocalSet`].
    pub fn start(self: &Rc<Self>) {
        tokio::task::spawn_local(Rc::clone(self).keep_time());
        tokio::task::spawn_local(Rc::clone(self).keep_sending());
    }

    /// Accepts connections and never returns.
    pub async fn serve(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.accept(stream, peer),
                Err(error) => {
                    self.note_lack(&error);
                    self.flush.notify_one();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        let _ = stream.set_nodelay(true);
        let id = self.streams.borrow_mut().accept(self.clock.now(), peer, local);
        self.carry_out(); // another connection may have made room, and its place may be the same
        if let Some(id) = id {
            let connection = Rc::new(Connection::new(stream));
            let task = tokio::task::spawn_local(Rc::clone(self).read(id, Rc::clone(&connection)));
            self.connections.borrow_mut().insert(id, Some(connection), task.abort_handle());
        }
    }

    /// Without a file descriptor, the oldest idle connection makes room.
    fn note_lack(&self, error: &io::Error) {
        let now = self.clock.now();
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            self.streams.borrow_mut().make_room(now);
        }
        if self.out_of_files.borrow_mut().is_due(now) {
            let pool = self.streams.borrow().shared().name().to_owned();
            tracing::warn!(pool, error = error.to_string(), "TCP connection not opened");
        }
    }

    /// Reads a connection until its end.
    async fn read(self: Rc<Self>, id: ConnectionId, connection: Rc<Connection>) {
        loop {
            if !self.streams.borrow_mut().wants_bytes(id) {
                connection.resume.notified().await;
                continue;
            }
            if connection.stream.readable().await.is_err() {
                break;
            }
            let mut scratch = self.scratch.borrow_mut();
            match connection.stream.try_read(&mut scratch) {
                Ok(0) => {
                    self.streams.borrow_mut().on_end(self.clock.now(), id);
                    self.flush.notify_one();
                    return;
                }
                Ok(len) => {
                    if let ConnectionId::Server { .. } = id {
                        // A server that does not set TCP_NODELAY sends its next answer when this one is
                        // acknowledged. The kernel returns to delayed acknowledgements by itself.
                        let _ = SockRef::from(&connection.stream).set_tcp_quickack(true);
                    }
                    self.streams.borrow_mut().on_bytes(self.clock.now(), id, &scratch[..len]);
                    self.flush.notify_one();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        self.streams.borrow_mut().on_failed(self.clock.now(), id);
        self.flush.notify_one();
    }

    /// Connects to a server, then reads the connection.
    async fn connect(self: Rc<Self>, id: ConnectionId, addr: SocketAddr) {
        let error = match timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                let connection = Rc::new(Connection::new(stream));
                self.connections.borrow_mut().connected(id, Rc::clone(&connection));
                self.streams.borrow_mut().on_connected(self.clock.now(), id);
                self.flush.notify_one();
                return self.read(id, connection).await;
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        if let Some(error) = error.filter(|error| error.raw_os_error() == Some(libc::EMFILE)) {
            self.note_lack(&error);
        }
        self.streams.borrow_mut().on_failed(self.clock.now(), id);
        self.flush.notify_one();
    }

    async fn keep_sending(self: Rc<Self>) {
        while !self.is_over.get() {
            self.flush.notified().await;
            self.carry_out();
        }
    }

    /// Carries out all actions.
    fn carry_out(self: &Rc<Self>) {
        loop {
            let action = self.streams.borrow_mut().poll_action();
            match action {
                None => break,
                Some(Action::Send(id)) => self.send(id),
                Some(Action::Resume(id)) => {
                    if let Some(connection) = self.connections.borrow().get(id) {
                        connection.resume.notify_one();
                    }
                }
                Some(Action::Connect(id, addr)) => {
                    let task = tokio::task::spawn_local(Rc::clone(self).connect(id, addr));
                    self.connections.borrow_mut().insert(id, None, task.abort_handle());
                }
                Some(Action::Close(id)) => self.close(id),
            }
        }
        let period = self.streams.borrow().period();
        let is_sooner = match (period, self.period.get()) {
            (Some(period), Some(present)) => period < present,
            (period, _) => period.is_some(),
        };
        if is_sooner {
            self.period.set(period);
            self.tick.notify_one();
        }
    }

    /// Sends what a connection can take now. What remains is sent by a task.
    fn send(self: &Rc<Self>, id: ConnectionId) {
        let Some(connection) = self.connections.borrow().get(id) else { return };
        if !connection.is_blocked.get() && self.send_now(id, &connection) {
            connection.is_blocked.set(true);
            let task = tokio::task::spawn_local(Rc::clone(self).send_later(id, Rc::clone(&connection)));
            self.connections.borrow_mut().set_sender(id, task.abort_handle());
        }
    }

    /// Sends what a connection can take now; true if it can take no more.
    fn send_now(&self, id: ConnectionId, connection: &Connection) -> bool {
        let mut streams = self.streams.borrow_mut();
        loop {
            let unsent = streams.unsent(id);
            if unsent.is_empty() {
                return false;
            }
            match connection.stream.try_write(unsent) {
                Ok(count) => streams.on_sent(self.clock.now(), id, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => {
                    streams.on_failed(self.clock.now(), id);
                    return false;
                }
            }
        }
    }

    async fn send_later(self: Rc<Self>, id: ConnectionId, connection: Rc<Connection>) {
        loop {
            if connection.stream.writable().await.is_err() {
                self.streams.borrow_mut().on_failed(self.clock.now(), id);
                break;
            }
            if !self.send_now(id, &connection) {
                break;
            }
            self.flush.notify_one(); // there is room for more of a transfer
        }
        connection.is_blocked.set(false);
        self.flush.notify_one();
    }

    /// Closes a connection. If bytes were received and not read, the kernel would discard what was sent.
    fn close(&self, id: ConnectionId) {
        let connection = self.connections.borrow_mut().remove(id);
        if let (Some(connection), ConnectionId::Client { .. }) = (connection, id) {
            let _ = SockRef::from(&connection.stream).shutdown(std::net::Shutdown::Write);
            let _ = connection.stream.try_read(&mut self.scratch.borrow_mut());
        }
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            match self.period.get() {
                None => self.tick.notified().await,
                Some(period) => tokio::select! {
                    () = sleep(period) => {}
                    () = self.tick.notified() => {}
                },
            }
            let mut streams = self.streams.borrow_mut();
            streams.on_tick(self.clock.now());
            self.period.set(streams.period());
            let is_over = streams.is_over();
            drop(streams);
            self.flush.notify_one();
            if is_over {
                self.is_over.set(true);
                return;
            }
        }
    }
}
