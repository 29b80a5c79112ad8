//! A server: a bounded FIFO of requests, cumulative counters, reports, registration and drain.
//!
//! The role owns the queue and the server's membership. It does not serve requests: the work is an
//! immediate echo, a random service time ([`Work::Timed`]), or a handler outside the role
//! ([`Work::Handlers`]). A handler takes a job with [`ServerRole::take_job`] and returns it with
//! [`ServerRole::finish`].
//!
//! | file | content |
//! |---|---|
//! | `membership.rs` | registration, SYNC, drain: the conversation with the balancer |
//! | `queue.rs` | the bounded FIFO and its memory |

mod membership;
mod queue;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::batch::{FrameRef, Rx, SocketId, Tx};
use crate::base::drop_reason::{DropCounters, DropReason};
use crate::base::rng::Rng;
use crate::base::service_time::ServiceTime;
use crate::base::time::{Instant, earliest};
use crate::role::{Role, send_from_slot};
use crate::wire::frame::{stated_size, unpack_addr, wrong_length};
use crate::wire::header::TRAILER_LEN;
use crate::wire::{
    Frame, FrameFormat, Header, Kind, Opener, ReplyPath, Sealer, ServerOp, ServerState, Status,
};
use membership::Membership;
pub use queue::JobId;
use queue::{Job, Queue};

/// The only socket of a server.
pub const SOCKET: SocketId = SocketId(0);

/// Time without a registration after which that is a mistake: a balancer that restarts is back sooner.
const UNREGISTERED_AFTER: Duration = Duration::from_secs(2);

/// How requests are served.
#[derive(Clone, Debug)]
pub enum Work {
    /// Each request is answered at once with its own payload.
    Echo,
    /// `workers` requests are served concurrently, each for a random time; the payload is echoed.
    Timed {
        /// Distribution of the service time.
        service: ServiceTime,
        /// Requests served concurrently.
        workers: usize,
    },
    /// The caller serves requests.
    Handlers,
}

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// Key that all components share, if frames are authenticated.
    pub key: Option<[u8; 16]>,
    /// Id of the server, unique in the pool.
    pub id: u32,
    /// Share relative to other servers, 1 to 100.
    pub weight: u16,
    /// Maximum requests that the server holds, queued and in service; more are refused with BUSY.
    pub queue_capacity: usize,
    /// Interval of reports about changes.
    pub interval: Duration,
    /// The balancer's server-side address.
    pub balancer: SocketAddr,
    /// How requests are served.
    pub work: Work,
    /// Seed of all random numbers: instance, nonces, service times.
    pub seed: u64,
}

/// Counters of a server since its start.
#[derive(Debug, Default)]
pub struct Totals {
    /// Valid requests received.
    pub received: u64,
    /// Requests served.
    pub served: u64,
    /// Requests served with an error, because the handler failed.
    pub failed: u64,
    /// Requests refused because the queue was full.
    pub busy: u64,
    /// Requests dropped because their deadline had passed (answered with EXPIRED).
    pub expired: u64,
    /// Longest queue so far.
    pub queue_max: usize,
    /// Frames dropped, by reason.
    pub drops: DropCounters,
}

/// A frame that arrived in this turn.
pub(super) struct ReceivedFrame<'a> {
    pub now: Instant,
    /// Source of the datagram.
    pub peer: SocketAddr,
    /// Position of the frame in the receive slots.
    pub at: FrameRef,
    pub bytes: &'a mut [u8],
}

/// A server's state machine.
pub struct ServerRole {
    settings: ServerSettings,
    membership: Membership,
    queue: Queue,
    /// Timed work in service: end time and job.
    in_service: BinaryHeap<Reverse<(Instant, JobId)>>,
    totals: Totals,
    rng: Rng,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    /// Mean service time, over about the last 16 requests.
    service_mean: Duration,
    /// Requests that the process holds for other balancers.
    elsewhere: u32,
    /// Whether the process serves other balancers, so that its load changes between the turns of this role.
    is_shared: bool,
    /// Whether a turn with direct replies ends with a report.
    reports_turns: bool,
    /// The frame size that the balancer's frames state, if it is another one than this server's.
    other_size: Option<u16>,
}

/// Why no balancer registers a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unregistered {
    /// The balancer does not answer.
    Silence,
    /// The balancer uses another frame size, in bytes.
    FrameSize(u16),
}

impl ServerRole {
    /// A server that has not registered yet.
    pub fn new(settings: ServerSettings, now: Instant) -> Self {
        let mut rng = Rng::new(settings.seed);
        let instance = rng.next_u64() | 1;
        ServerRole {
            membership: Membership::new(instance, &mut rng, now),
            queue: Queue::new(settings.queue_capacity, settings.format.size),
            in_service: BinaryHeap::with_capacity(match &settings.work {
                Work::Timed { workers, .. } => *workers,
                Work::Echo | Work::Handlers => 0,
            }),
            totals: Totals::default(),
            sealer: settings.key.as_ref().map(|key| Sealer::new(key, instance)),
            opener: settings.key.as_ref().map(Opener::new),
            rng,
            service_mean: Duration::ZERO,
            elsewhere: 0,
            is_shared: false,
            reports_turns: true,
            other_size: None,
            settings,
        }
    }

    /// Sets the number of requests that the process holds outside this role. A server shared by several
    /// balancers has a role, and so a registration, for each. Reports include these requests as foreign
    /// load.
    pub fn set_elsewhere(&mut self, requests: u32) {
        (self.elsewhere, self.is_shared) = (requests, true);
    }

    /// Makes the server report at the interval only, and not at the end of each turn with direct
    /// replies. That sends fewer datagrams and gives the balancer older data.
    pub fn report_at_intervals_only(&mut self) {
        self.reports_turns = false;
    }

    /// The counters so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The balancer's server-side address.
    pub fn balancer(&self) -> SocketAddr {
        self.settings.balancer
    }

    /// The size of this server's frames, in bytes.
    pub fn frame_size(&self) -> usize {
        self.settings.format.size
    }

    /// Takes the counters at the end.
    pub fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// Requests in the server, queued and in service.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Whether the balancer has registered this server.
    pub fn is_registered(&self) -> bool {
        self.membership.is_member()
    }

    /// Why no balancer has registered this server in the last two seconds; `None` while one has, or may soon.
    pub fn unregistered(&self, now: Instant) -> Option<Unregistered> {
        let seeks = self.membership.seeks_since()?;
        let is_long = now.since(seeks) >= UNREGISTERED_AFTER && !self.is_finished();
        is_long.then(|| self.other_size.map_or(Unregistered::Silence, Unregistered::FrameSize))
    }

    /// Counts a dropped frame or datagram. The balancer's frames may show why it does not register a server.
    #[cold]
    fn drop_frame(&mut self, peer: SocketAddr, bytes: &[u8], reason: DropReason) {
        self.totals.drops.add(reason, 1);
        if reason == DropReason::FrameSize && peer == self.settings.balancer && !self.is_registered() {
            self.other_size = stated_size(bytes);
        }
    }

    /// Starts a drain: the server takes no new requests and finishes the queued ones, until
    /// [`ServerRole::is_finished`].
    pub fn drain(&mut self, now: Instant) {
        self.membership.drain(now);
    }

    /// Whether the drain has ended: the queue is empty, and the balancer knows that the server has left.
    pub fn is_finished(&self) -> bool {
        self.membership.state() == ServerState::Stopped
    }

    /// Takes the oldest queued request, for a handler. Expired requests are answered and skipped.
    pub fn take_job(&mut self, now: Instant) -> Option<JobId> {
        loop {
            let id = self.queue.start()?;
            if !self.queue.job(id).is_expired(now) {
                return Some(id);
            }
            self.totals.expired += 1;
            self.queue.finish(id, Status::Expired, Some(&[]));
        }
    }

    /// The payload of a job in service.
    pub fn payload(&mut self, id: JobId) -> &[u8] {
        self.queue.payload(id)
    }

    /// Ends a job that was taken. A payload that exceeds the frame is truncated.
    pub fn finish(&mut self, id: JobId, status: Status, payload: &[u8], took: Duration) {
        self.totals.served += 1;
        self.totals.failed += u64::from(status != Status::Ok);
        self.observe_service(took);
        let payload = &payload[..payload.len().min(self.settings.format.payload_max())];
        self.queue.finish(id, status, Some(payload));
    }

    fn observe_service(&mut self, took: Duration) {
        self.service_mean = match self.service_mean {
            Duration::ZERO => took,
            mean => mean * 15 / 16 + took / 16,
        };
    }

    fn on_frame(&mut self, received: ReceivedFrame<'_>, tx: &mut Tx) -> Result<(), DropReason> {
        let ReceivedFrame { now, peer, .. } = received;
        let stamp = match &self.opener {
            Some(opener) if received.bytes.len() == self.settings.format.size => {
                Some(opener.open(received.bytes)?)
            }
            _ => None,
        };
        let frame = Frame::check(received.bytes, &self.settings.format)?;
        match frame.kind() {
            Kind::ClientRequest => {
                let worker = frame.header.worker;
                let reply_to = match ReplyPath::from_wire(frame.header.op).ok_or(DropReason::Kind)? {
                    ReplyPath::Balancer => peer,
                    ReplyPath::Direct if frame.header.client_port.get() == 0 => {
                        return Err(DropReason::SourcePort);
                    }
                    ReplyPath::Direct => unpack_addr(frame.header.client_ip, frame.header.client_port.get()),
                };
                let current = self.membership.on_request(now, peer, &frame.header, stamp)?;
                self.totals.received += 1;
                let epoch = current.then(|| self.membership.epoch());
                self.on_request(Job { arrived: now, reply_to, worker, epoch }, received, tx)
            }
            Kind::ControllerRequest => {
                self.on_control(received, stamp)?;
                self.other_size = None;
                Ok(())
            }
            Kind::ClientResponse | Kind::ServerResponse => Err(DropReason::Unexpected),
        }
    }

    fn on_request(&mut self, job: Job, received: ReceivedFrame<'_>, tx: &mut Tx) -> Result<(), DropReason> {
        let ReceivedFrame { at, bytes, .. } = received;
        let Job { reply_to, worker, epoch, .. } = job;
        let status = if matches!(self.settings.work, Work::Echo) {
            self.totals.served += 1;
            Status::Ok
        } else {
            if self.queue.push(job, bytes) {
                self.totals.queue_max = self.totals.queue_max.max(self.queue.len());
                return Ok(());
            }
            self.totals.busy += 1;
            Status::Busy
        };
        self.make_reply(worker, epoch.is_some(), status, bytes);
        send_from_slot(tx, SOCKET, reply_to, at)
    }

    /// Turns a request into its reply: marks it done and counts it. A reply through the balancer also
    /// gets the report and the trailer.
    fn make_reply(&mut self, worker: u8, current: bool, status: Status, bytes: &mut [u8]) {
        if current {
            self.membership.count_done(worker);
        }
        let queue = self.load();
        let header = header_mut(bytes);
        header.status = status as u8;
        if status == Status::Busy {
            let retry_after = self.service_mean * queue.min(1_000);
            header
                .deadline_us
                .set(retry_after.clamp(Duration::from_millis(1), Duration::from_secs(1)).as_micros() as u32);
        }
        if header.op == ReplyPath::Direct as u8 {
            header.kind = Kind::ClientResponse as u8;
            header.op = 0;
            header.clear_internal();
            if self.settings.format.tagged {
                let trailer = bytes.len() - TRAILER_LEN;
                bytes[trailer..].fill(0);
            }
            if self.reports_turns {
                self.membership.report_soon();
            }
            return;
        }
        header.kind = Kind::ServerResponse as u8;
        header.op = ServerOp::Reply as u8;
        self.membership.fill_report(worker, header);
        header.queue.set(queue);
        header.foreign.set(self.foreign());
        header.service_us.set(self.service_mean.as_micros() as u32);
        self.seal(bytes);
    }

    /// Requests that the process holds, as in reports.
    fn load(&self) -> u32 {
        self.queue.len() as u32 + self.elsewhere
    }

    /// Requests that the process holds and that the current registration does not count.
    fn foreign(&self) -> u32 {
        self.queue.count_other_than(self.membership.epoch()) + self.elsewhere
    }

    fn seal(&mut self, bytes: &mut [u8]) {
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(bytes);
        }
    }

    /// Ends timed work that is due, and starts the next requests at the moment the previous ones ended.
    fn serve_timed(&mut self, now: Instant) {
        let Work::Timed { service, workers } = self.settings.work.clone() else { return };
        loop {
            let ended = self.in_service.peek().map(|&Reverse((at, _))| at).filter(|&at| at <= now);
            if let Some(at) = ended {
                let Some(Reverse((_, id))) = self.in_service.pop() else { unreachable!("peeked above") };
                self.totals.served += 1;
                self.queue.finish(id, Status::Ok, None);
                self.start_timed(at, &service);
            } else if self.in_service.len() < workers && self.queue.waiting() > 0 {
                self.start_timed(Instant::ZERO, &service);
            } else {
                return;
            }
        }
    }

    /// Starts the oldest queued request that has not expired by then. Expired requests are answered and
    /// skipped.
    fn start_timed(&mut self, free_since: Instant, service: &ServiceTime) {
        while let Some(id) = self.queue.start() {
            let job = self.queue.job(id);
            let start = free_since.max(job.arrived);
            if job.is_expired(start) {
                self.totals.expired += 1;
                self.queue.finish(id, Status::Expired, Some(&[]));
                continue;
            }
            let rng = &mut self.rng;
            let took = service.sample(&mut || rng.unit_f64());
            self.observe_service(took);
            self.in_service.push(Reverse((start + took, id)));
            return;
        }
    }

    /// Sends the replies of finished jobs, as many as fit into this turn.
    fn send_finished(&mut self, tx: &mut Tx) {
        let size = self.settings.format.size;
        while let Some(id) = self.queue.first_finished() {
            let Job { reply_to, worker, epoch, .. } = *self.queue.job(id);
            let Some(destination) = tx.destination(SOCKET, reply_to, None) else { return };
            let Some(bytes) = tx.stage(destination, size) else { return };
            let status = self.queue.release(id, bytes);
            let current = epoch == Some(self.membership.epoch());
            self.make_reply(worker, current, status, bytes);
        }
    }
}

impl Role for ServerRole {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx) {
        let size = self.settings.format.size;
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            let mut datagram_start = received.start;
            for datagram in bytes.chunks_mut(received.stride as usize) {
                let mut offset = datagram_start;
                datagram_start += datagram.len() as u32;
                if !self.settings.format.divides(datagram.len()) {
                    let reason = wrong_length(datagram, &self.settings.format);
                    self.drop_frame(received.peer, datagram, reason);
                    continue;
                }
                for bytes in datagram.chunks_exact_mut(size) {
                    let at = FrameRef { slot: received.slot, len: size as u16, offset };
                    offset += size as u32;
                    let frame = ReceivedFrame { now, peer: received.peer, at, bytes: &mut *bytes };
                    if let Err(reason) = self.on_frame(frame, tx) {
                        self.drop_frame(received.peer, bytes, reason);
                    }
                }
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        self.serve_timed(now);
        self.send_finished(tx);
        self.report_direct(now, tx);
        self.upkeep(now, tx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.queue.first_finished().is_some() {
            return Some(Instant::ZERO);
        }
        let service = self.in_service.peek().map(|&Reverse((at, _))| at);
        earliest(service, self.membership.next_deadline(self.pause()))
    }
}

/// The header of a frame that was already checked.
fn header_mut(bytes: &mut [u8]) -> &mut Header {
    zerocopy::FromBytes::mut_from_prefix(bytes).expect("the frame was checked").0
}

#[cfg(test)]
mod tests;
