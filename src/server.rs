//! [`Server`]: a handler on worker threads behind a bounded queue, known to a balancer.
//!
//! ```no_run
//! let server = lbd::Server::builder("127.0.0.1:54000".parse()?)
//!     .id(1)
//!     .workers(4)
//!     .start(|request, reply| reply.extend_from_slice(request))?;
//! server.wait_until_registered(std::time::Duration::from_secs(5));
//! // ... until it is time to go: no new requests, the queue is finished, nothing is lost.
//! let totals = server.stop();
//! println!("{} served", totals.served);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::base::time::Clock;
use crate::io::socket::{SocketOptions, bind};
use crate::io::{BackEnd, DatagramIo, IoChoice, IoOptions, Waker};
use crate::role::Role;
use crate::role::server::{JobId, ServerRole, ServerSettings, Work};
use crate::wire::{FrameFormat, Status};

#[doc(inline)]
pub use crate::base::drop_reason::{DropCounters, DropReason};
#[doc(inline)]
pub use crate::role::server::Totals;

/// Options of a [`Server`], with default values.
#[derive(Clone, Debug)]
pub struct ServerBuilder {
    balancer: SocketAddr,
    bind: Option<SocketAddr>,
    id: u32,
    weight: u16,
    workers: usize,
    queue_capacity: usize,
    frame_size: usize,
    report_interval: Duration,
    key: Option<[u8; 16]>,
}

impl ServerBuilder {
    /// Id of the server, unique in the pool (default 0).
    pub fn id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }

    /// Share relative to other servers, 1 to 100 (default 1).
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// Threads that run the handler, at least 1 (default 1).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Maximum requests that the server holds; more are refused with BUSY (default 4,096).
    pub fn queue_capacity(mut self, requests: usize) -> Self {
        self.queue_capacity = requests.max(1);
        self
    }

    /// Frame size in bytes, as in the balancer's configuration: 128 to 1,200 (default 256).
    pub fn frame_size(mut self, bytes: usize) -> Self {
        self.frame_size = bytes;
        self
    }

    /// Interval of reports about changes (default 10 ms).
    pub fn report_interval(mut self, interval: Duration) -> Self {
        self.report_interval = interval;
        self
    }

    /// Key that all components share, if the balancer has a `key_file`.
    pub fn key(mut self, key: [u8; 16]) -> Self {
        self.key = Some(key);
        self
    }

    /// Address to listen on. Default: any port of the address that reaches a balancer on this machine.
    /// An address outside the loopback needs a [`ServerBuilder::key`].
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.bind = Some(addr);
        self
    }

    /// Starts serving. The handler gets the request's payload and appends the reply's payload; bytes
    /// that do not fit into a frame are cut. If the handler panics, the client gets an error status, and
    /// the server continues with the next request.
    pub fn start<H>(self, handler: H) -> io::Result<Server>
    where
        H: Fn(&[u8], &mut Vec<u8>) + Send + Sync + 'static,
    {
        let addr = self.bind.unwrap_or_else(|| crate::io::socket::any_port_towards(self.balancer));
        if !is_trusted(addr.ip()) && self.key.is_none() {
            let why = format!("cannot listen on {}: a server outside the loopback needs a key", addr.ip());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let format = match self.key {
            Some(_) => FrameFormat::tagged(self.frame_size),
            None => FrameFormat::plain(self.frame_size),
        };
        let clock = Clock::start();
        let socket = bind(addr, &SocketOptions::default())?;
        let local_addr = socket.local_addr()?;
        let options = IoOptions::for_frames(format.size, format.frames_per_datagram_to(self.balancer.ip()));
        let options = IoOptions { prefault: true, ..options };
        let io = BackEnd::open(IoChoice::Auto, vec![socket], &options, clock)?;
        let waker = io.waker();
        let settings = ServerSettings {
            format,
            key: self.key,
            id: self.id,
            weight: self.weight,
            queue_capacity: self.queue_capacity,
            interval: self.report_interval,
            balancer: self.balancer,
            work: Work::Handlers,
            seed: rand::random(),
        };
        let shared = Arc::new(ServerShared::new(self.workers, waker.clone()));
        let handler = Arc::new(handler);
        let workers =
            (0..self.workers).map(|i| start_worker(i, &shared, &handler)).collect::<io::Result<Vec<_>>>()?;
        let role = ServerRole::new(settings, clock.now());
        let dispatcher =
            RequestDispatcher { role, io, clock, shared: Arc::clone(&shared), workers, spare: vec![] };
        let thread = std::thread::Builder::new().name("lbd-server".into()).spawn(move || dispatcher.run())?;
        Ok(Server { local_addr, shared, waker, thread: Some(thread) })
    }
}

/// Without a key, only the loopback is trusted.
fn is_trusted(ip: IpAddr) -> bool {
    ip.is_loopback()
}

/// A running server. Dropping it stops it like [`Server::stop`].
pub struct Server {
    local_addr: SocketAddr,
    shared: Arc<ServerShared>,
    waker: Waker,
    thread: Option<JoinHandle<Totals>>,
}

impl Server {
    /// A builder for a server of the balancer whose server-side address is `balancer`.
    pub fn builder(balancer: SocketAddr) -> ServerBuilder {
        ServerBuilder {
            balancer,
            bind: None,
            id: 0,
            weight: 1,
            workers: 1,
            queue_capacity: 4096,
            frame_size: 256,
            report_interval: Duration::from_millis(10),
            key: None,
        }
    }

    /// Local address of the server.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether the balancer has registered the server.
    pub fn is_registered(&self) -> bool {
        self.shared.registered.load(Ordering::Relaxed)
    }

    /// Waits at most `patience` for the registration, and returns whether the server is registered.
    pub fn wait_until_registered(&self, patience: Duration) -> bool {
        let until = std::time::Instant::now() + patience;
        while !self.is_registered() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.is_registered()
    }

    /// Takes no new requests, finishes the queue, reports that to the balancer, and ends. Returns the
    /// counters.
    pub fn stop(mut self) -> Totals {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Totals> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.waker.wake();
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A request on its way to a handler, or its reply on the way back.
struct Parcel {
    job: JobId,
    status: Status,
    took: Duration,
    bytes: Vec<u8>,
}

/// Data that the dispatcher and the workers share.
struct ServerShared {
    todo: ArrayQueue<Parcel>,
    done: ArrayQueue<Parcel>,
    /// Whether each worker found no request.
    idle: Vec<AtomicBool>,
    /// Whether the dispatcher was woken and has not run yet.
    woken: AtomicBool,
    waker: Waker,
    registered: AtomicBool,
    stopping: AtomicBool,
    /// Set when the workers must end.
    closed: AtomicBool,
}

impl ServerShared {
    fn new(workers: usize, waker: Waker) -> Self {
        let parcels = workers * PARCELS_PER_WORKER;
        ServerShared {
            todo: ArrayQueue::new(parcels),
            done: ArrayQueue::new(parcels),
            idle: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            woken: AtomicBool::new(false),
            waker,
            registered: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }
}

/// One parcel in the worker's hands and one behind it, so that the worker need not wait for the
/// dispatcher. Other requests stay in the FIFO, where deadlines are checked.
const PARCELS_PER_WORKER: usize = 2;

/// Moves requests from the socket to the workers, and replies back.
struct RequestDispatcher {
    role: ServerRole,
    io: BackEnd,
    clock: Clock,
    shared: Arc<ServerShared>,
    workers: Vec<JoinHandle<()>>,
    /// Buffers that are not in use.
    spare: Vec<Vec<u8>>,
}

impl RequestDispatcher {
    fn run(mut self) -> Totals {
        let parcels = self.workers.len() * PARCELS_PER_WORKER;
        self.spare = (0..parcels).map(|_| Vec::with_capacity(crate::wire::header::FRAME_SIZE_MAX)).collect();
        while !self.role.is_finished() {
            // A socket that fails permanently cannot be served; the balancer detects the silence.
            if self.turn().is_err() {
                break;
            }
        }
        self.shared.closed.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join(); // panics of handlers are caught
        }
        let totals = self.role.take_totals();
        totals.drops.add(DropReason::TooLarge, self.io.counters().send_too_large);
        totals
    }

    fn turn(&mut self) -> io::Result<()> {
        self.io.wait(self.role.next_deadline())?;
        self.io.receive()?;
        let now = self.clock.now();
        if self.shared.stopping.load(Ordering::Relaxed) {
            self.role.drain(now);
        }
        let (rx, tx) = self.io.turn();
        self.role.on_batch(now, rx, tx);
        self.shared.woken.store(false, Ordering::SeqCst);
        while let Some(parcel) = self.shared.done.pop() {
            self.role.finish(parcel.job, parcel.status, &parcel.bytes, parcel.took);
            self.spare.push(parcel.bytes);
        }
        while !self.spare.is_empty() {
            let Some(job) = self.role.take_job(now) else { break };
            let mut bytes = self.spare.pop().expect("checked above");
            bytes.clear();
            bytes.extend_from_slice(self.role.payload(job));
            let parcel = Parcel { job, status: Status::Ok, took: Duration::ZERO, bytes };
            assert!(self.shared.todo.push(parcel).is_ok(), "there are no more parcels than slots");
        }
        self.wake_workers();
        let (_, tx) = self.io.turn();
        self.role.on_timeout(now, tx);
        self.io.flush()?;
        self.shared.registered.store(self.role.is_registered(), Ordering::Relaxed);
        Ok(())
    }

    /// Wakes as many idle workers as there are requests.
    fn wake_workers(&self) {
        let mut work = self.shared.todo.len();
        for (worker, idle) in self.workers.iter().zip(&self.shared.idle) {
            if work == 0 {
                break;
            }
            if idle.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
                work -= 1;
            }
        }
    }
}

fn start_worker<H>(index: usize, shared: &Arc<ServerShared>, handler: &Arc<H>) -> io::Result<JoinHandle<()>>
where
    H: Fn(&[u8], &mut Vec<u8>) + Send + Sync + 'static,
{
    let (shared, handler) = (Arc::clone(shared), Arc::clone(handler));
    std::thread::Builder::new().name(format!("lbd-worker-{index}")).spawn(move || {
        let mut reply = Vec::with_capacity(crate::wire::header::FRAME_SIZE_MAX);
        while let Some(mut parcel) = next_parcel(&shared, index) {
            let start = std::time::Instant::now();
            reply.clear();
            let outcome = catch_unwind(AssertUnwindSafe(|| handler(&parcel.bytes, &mut reply)));
            parcel.took = start.elapsed();
            parcel.bytes.clear();
            match outcome {
                Ok(()) => parcel.bytes.extend_from_slice(&reply),
                Err(_) => parcel.status = Status::Error,
            }
            assert!(shared.done.push(parcel).is_ok(), "there are no more parcels than slots");
            if !shared.woken.swap(true, Ordering::SeqCst) {
                shared.waker.wake();
            }
        }
    })
}

/// Waits for the next request; `None` when the server ends.
fn next_parcel(shared: &ServerShared, index: usize) -> Option<Parcel> {
    loop {
        if let Some(parcel) = shared.todo.pop() {
            return Some(parcel);
        }
        // The worker announces that it is idle before its last look: a dispatcher that pushes after that
        // look sees it and unparks the worker.
        shared.idle[index].store(true, Ordering::SeqCst);
        if shared.todo.is_empty() {
            if shared.closed.load(Ordering::SeqCst) {
                return None;
            }
            std::thread::park();
        }
        shared.idle[index].store(false, Ordering::SeqCst);
    }
}
