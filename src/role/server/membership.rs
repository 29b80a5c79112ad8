//! The conversation with the balancer: registration with a nonce, SYNC, reports, drain.
//!
//! ```text
//!   seeking ── REGISTER{nonce} ──> balancer
//!           <─ CHALLENGE{nonce, cookie}
//!           ── REGISTER{nonce, cookie} ──>
//!           <─ SYNC{nonce, slot, sent}            member: counts from `sent` on
//!           ── REPORT ... REPORT ──>
//!           <─ SYNC{sent}                         seq = max(seq, sent), calls for a REPORT
//!   member  <─ CHALLENGE{report nonce}            the balancer has no such server: seeking again
//! ```
//!
//! No frame of the balancer is answered in its turn. What a CHALLENGE or a SYNC calls for is sent by a timer,
//! at most once in a pause. So no frame of either side can keep the other side sending.

use std::net::SocketAddr;
use std::time::Duration;

use super::{ReceivedFrame, SOCKET, ServerRole};
use crate::base::batch::Tx;
use crate::base::drop_reason::DropReason;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::wire::message::Registration;
use crate::wire::tag::{PeerReplay, Stamp};
use crate::wire::{Frame, Header, Kind, RequestOp, ServerOp, ServerState};

/// First interval of a seeking server's registration attempts; later ones are longer.
const SEEK_AFTER: Duration = Duration::from_millis(20);
/// Maximum interval of registration attempts.
const SEEK_MAX: Duration = Duration::from_millis(500);
/// Maximum report intervals without a report.
const IDLE_INTERVALS: u32 = 10;
/// Time after which a draining server without a sign of its balancer leaves.
const DRAIN_UNHEARD: Duration = Duration::from_secs(1);
/// Time after which a draining server leaves, even with requests left.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// The traffic of one of the balancer's workers. Counters are modulo 2^32.
#[derive(Clone, Debug)]
struct Lane {
    addr: SocketAddr,
    seq: u32,
    received: u32,
    done: u32,
    report: u32,
    /// Whether the worker has announced that it sends nothing more.
    drained: bool,
    /// Counters of the last report.
    reported: (u32, u32, u32),
    replay: PeerReplay,
    /// Whether a SYNC has called for a report.
    owes_report: bool,
    /// Time of the last REPORT.
    last_report: Instant,
}

/// The server's membership in its balancer's pool.
pub(super) struct Membership {
    instance: u64,
    /// Random number of this registration.
    epoch: u32,
    /// Nonce that a challenge or SYNC must echo to belong to *this* registration.
    nonce: u64,
    /// Nonce that a challenge must echo to answer a report of this registration.
    report_nonce: u64,
    state: ServerState,
    member: Option<Member>,
    attempts: u32,
    /// When this registration began.
    began: Instant,
    next_at: Instant,
    /// The cookie of the newest challenge, until it is echoed.
    echo: Option<u64>,
    last_echo: Instant,
    /// Lanes that owe a report.
    owed: u32,
    quiet_intervals: u32,
    /// Whether `next_at` is later than the next interval, since nothing has changed.
    is_resting: bool,
    queue_reported: u32,
    /// Whether requests have finished whose replies carry no counters.
    report_soon: bool,
    drain_since: Option<Instant>,
    last_request: Instant,
    rng: Rng,
}

#[derive(Clone, Debug)]
struct Member {
    balancer_epoch: u32,
    slot: u16,
    lanes: Vec<Option<Lane>>,
}

impl Membership {
    pub fn new(instance: u64, rng: &mut Rng, now: Instant) -> Self {
        let mut membership = Membership {
            instance,
            epoch: 0,
            nonce: 0,
            report_nonce: 0,
            state: ServerState::Ready,
            member: None,
            attempts: 0,
            began: now,
            next_at: now,
            echo: None,
            last_echo: Instant::ZERO,
            owed: 0,
            quiet_intervals: 0,
            is_resting: false,
            queue_reported: 0,
            report_soon: false,
            drain_since: None,
            last_request: now,
            rng: Rng::new(rng.next_u64()),
        };
        membership.seek(now);
        membership
    }

    /// Starts a new registration.
    fn seek(&mut self, now: Instant) {
        self.member = None;
        self.epoch = (self.rng.next_u64() as u32).max(1);
        self.nonce = self.rng.next_u64() | 1;
        self.report_nonce = self.rng.next_u64() | 1;
        self.attempts = 0;
        self.began = now;
        self.next_at = now;
        self.echo = None;
        self.owed = 0;
    }

    pub fn state(&self) -> ServerState {
        self.state
    }

    /// When the present search for a balancer began; `None` for a member.
    pub fn seeks_since(&self) -> Option<Instant> {
        self.member.is_none().then_some(self.began)
    }

    pub fn is_member(&self) -> bool {
        self.member.is_some()
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When something is due; `pause` is the time between two frames that frames of the balancer call for.
    pub fn next_deadline(&self, pause: Duration) -> Option<Instant> {
        let is_over = self.state == ServerState::Stopped;
        (!is_over).then(|| self.owed_at(pause).map_or(self.next_at, |at| at.min(self.next_at)))
    }

    /// When a frame is due that a frame of the balancer called for; `None` if none is owed.
    pub fn owed_at(&self, pause: Duration) -> Option<Instant> {
        if self.owed == 0 {
            return self.echo.map(|_| self.next_at);
        }
        let lanes = self.member.iter().flat_map(|member| member.lanes.iter().flatten());
        let reports = lanes.filter(|lane| lane.owes_report).map(|lane| lane.last_report + pause);
        reports.chain(self.echo.map(|_| self.next_at)).min()
    }

    pub fn drain(&mut self, now: Instant) {
        if self.state == ServerState::Ready {
            self.state = ServerState::Draining;
            self.drain_since = Some(now);
            self.next_at = now;
        }
    }

    fn lane_mut(&mut self, worker: u8) -> Option<&mut Lane> {
        self.member.as_mut()?.lanes.get_mut(usize::from(worker))?.as_mut()
    }

    /// Counts a request. The request must come from the worker that it names. Returns whether this
    /// registration counts it.
    pub fn on_request(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        header: &Header,
        stamp: Option<Stamp>,
    ) -> Result<bool, DropReason> {
        let epochs = (header.balancer_epoch.get(), header.server_epoch.get());
        let member = self.member.as_mut().ok_or(DropReason::WrongSource)?;
        let current = epochs == (member.balancer_epoch, self.epoch);
        let lane = member.lanes.get_mut(usize::from(header.worker)).and_then(Option::as_mut);
        let lane = lane.filter(|lane| lane.addr == peer).ok_or(DropReason::WrongSource)?;
        if let Some(stamp) = stamp {
            lane.replay.accept(stamp)?;
        }
        if current {
            lane.received = lane.received.wrapping_add(1);
            raise(&mut lane.seq, header.dispatch_seq.get());
        }
        self.last_request = now;
        Ok(current)
    }

    pub fn count_done(&mut self, worker: u8) {
        if let Some(lane) = self.lane_mut(worker) {
            lane.done = lane.done.wrapping_add(1);
        }
    }

    /// Makes the end of the turn report changed counters, since direct replies to clients carry none.
    pub fn report_soon(&mut self) {
        self.report_soon = true;
    }

    /// Writes the counters of a worker's lane as a new report, in the order done, received, seq.
    pub fn fill_report(&mut self, worker: u8, header: &mut Header) {
        header.server_state = self.state as u8;
        let Some(lane) = self.lane_mut(worker) else { return };
        lane.report = lane.report.wrapping_add(1);
        header.report.set(lane.report);
        header.done.set(lane.done);
        header.received.set(lane.received);
        header.seq.set(lane.seq);
        lane.reported = (lane.done, lane.received, lane.seq);
    }

    /// Whether a worker has to get a report before the next one that all workers get.
    fn any_concerned(&self) -> bool {
        let is_draining = self.state == ServerState::Draining;
        let mut lanes = self.member.iter().flat_map(|member| member.lanes.iter().flatten());
        lanes.any(|lane| lane.has_changed() || (is_draining && !lane.drained))
    }

    /// Whether no more requests will come: every worker has announced it, and none came since.
    fn is_drained(&self, now: Instant, interval: Duration) -> bool {
        let lanes = self.member.as_ref().map(|m| m.lanes.as_slice()).unwrap_or(&[]);
        let told = lanes.iter().flatten().all(|lane| lane.drained);
        let since = self.drain_since.expect("the server is draining");
        let unheard = now.since(since.max(self.last_request));
        (told && now.since(self.last_request) >= interval) || unheard >= DRAIN_UNHEARD
    }
}

/// The workers that get a report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Everybody,
    /// Workers with changed counters, workers that have not announced the end of a drain, and worker 0, which
    /// judges the server's health.
    Concerned,
    /// Workers whose SYNCs call for a report that is due now.
    Owed,
    /// Workers with changed counters.
    Changed,
}

impl Lane {
    /// Whether the counters differ from those of the last report.
    fn has_changed(&self) -> bool {
        self.reported != (self.done, self.received, self.seq)
    }
}

/// Raises a sequence number, modulo 2^32.
fn raise(seq: &mut u32, to: u32) {
    if to.wrapping_sub(*seq) < 1 << 31 {
        *seq = to;
    }
}

impl ServerRole {
    /// Processes an order of the balancer. An order without this registration's nonce is dropped.
    pub(super) fn on_control(
        &mut self,
        received: ReceivedFrame<'_>,
        stamp: Option<Stamp>,
    ) -> Result<(), DropReason> {
        if self.is_finished() {
            return Err(DropReason::Unexpected); // the registration has ended
        }
        let header = *super::header_mut(received.bytes);
        match RequestOp::from_wire(header.op).ok_or(DropReason::Kind)? {
            RequestOp::Challenge => self.on_challenge(&header, &received),
            RequestOp::Sync => self.on_sync(&header, received.peer, stamp),
            RequestOp::Grow | RequestOp::Shrink | RequestOp::Ack => Err(DropReason::Unexpected),
        }
    }

    fn on_challenge(&mut self, header: &Header, received: &ReceivedFrame<'_>) -> Result<(), DropReason> {
        let &ReceivedFrame { now, peer, .. } = received;
        if peer != self.settings.balancer {
            return Err(DropReason::WrongSource);
        }
        let pause = self.pause();
        let m = &mut self.membership;
        let expected = if m.is_member() { m.report_nonce } else { m.nonce };
        if header.sequence.get() != expected {
            return Err(DropReason::Nonce);
        }
        if m.is_member() {
            m.seek(now);
        }
        m.echo = Some(header.cookie.get());
        m.next_at = now.max(m.last_echo + pause);
        Ok(())
    }

    fn on_sync(&mut self, header: &Header, peer: SocketAddr, stamp: Option<Stamp>) -> Result<(), DropReason> {
        let m = &mut self.membership;
        if header.sequence.get() != m.nonce || header.server_epoch.get() != m.epoch {
            return Err(DropReason::Nonce);
        }
        let sent = header.dispatch_seq.get();
        let (balancer_epoch, slot) = (header.balancer_epoch.get(), header.slot.get());
        if m.member.is_none() && peer != self.settings.balancer {
            return Err(DropReason::WrongSource);
        }
        let member = m.member.get_or_insert_with(|| Member { balancer_epoch, slot, lanes: vec![] });
        if (member.balancer_epoch, member.slot) != (balancer_epoch, slot) {
            return Err(DropReason::Stale);
        }
        let worker = usize::from(header.worker);
        if member.lanes.len() <= worker {
            member.lanes.resize(worker + 1, None);
        }
        let lane = member.lanes[worker].get_or_insert_with(|| Lane {
            addr: peer,
            seq: sent,
            received: 0,
            done: 0,
            report: 0,
            drained: false,
            reported: (0, 0, sent),
            replay: PeerReplay::default(),
            owes_report: false,
            last_report: Instant::ZERO,
        });
        if lane.addr != peer {
            return Err(DropReason::WrongSource);
        }
        if let Some(stamp) = stamp {
            lane.replay.adopt(stamp);
            lane.replay.accept(stamp)?;
        }
        raise(&mut lane.seq, sent);
        lane.drained = header.server_state == ServerState::Draining as u8;
        // A draining SYNC is an answer itself. A counter that it has raised is in the next report.
        if !lane.drained && !std::mem::replace(&mut lane.owes_report, true) {
            m.owed += 1;
        }
        Ok(())
    }

    /// Minimum time between two frames that frames of the balancer call for.
    pub(super) fn pause(&self) -> Duration {
        self.settings.interval.min(SEEK_AFTER)
    }

    /// Periodic work: registration while seeking, reports while a member, and the end of a drain.
    pub(super) fn upkeep(&mut self, now: Instant, tx: &mut Tx) {
        if self.membership.state == ServerState::Draining {
            self.try_to_stop(now, tx);
        }
        if self.membership.owed > 0 && !self.is_finished() {
            self.report(now, Whom::Owed, tx);
        }
        if self.membership.is_resting && self.has_news() {
            self.membership.is_resting = false;
            self.membership.next_at = self.membership.next_at.min(now + self.settings.interval);
        }
        if now < self.membership.next_at || self.is_finished() {
            return;
        }
        match self.membership.is_member() {
            true => self.report_if_changed(now, tx),
            false => self.register(now, tx),
        }
    }

    fn try_to_stop(&mut self, now: Instant, tx: &mut Tx) {
        let since = self.membership.drain_since.unwrap_or(now);
        let drained = self.queue.is_empty() && self.membership.is_drained(now, self.settings.interval);
        if drained || now.since(since) >= DRAIN_MAX {
            self.membership.state = ServerState::Stopped;
            self.report(now, Whom::Everybody, tx);
        }
    }

    /// Sends a REGISTER: the echo of a challenge, or an attempt that calls for one.
    fn register(&mut self, now: Instant, tx: &mut Tx) {
        let m = &mut self.membership;
        let echo = m.echo.take();
        if echo.is_some() {
            m.last_echo = now;
        } else {
            m.attempts += 1;
        }
        m.next_at = now + (SEEK_AFTER * (1 << m.attempts.saturating_sub(1).min(6))).min(SEEK_MAX);
        let size = self.settings.format.size;
        let Some(destination) = tx.destination(SOCKET, self.settings.balancer, None) else { return };
        if let Some(bytes) = tx.stage(destination, size) {
            self.write_registration(echo.unwrap_or(0), bytes);
        }
    }

    /// Writes a REGISTER over `bytes`; `cookie` echoes a challenge, or is 0.
    fn write_registration(&mut self, cookie: u64, bytes: &mut [u8]) {
        let m = &self.membership;
        let mut header = Header::new(Kind::ServerResponse, self.settings.format.size);
        header.op = ServerOp::Register as u8;
        header.client_id.set(m.instance);
        header.sequence.set(m.nonce);
        header.server_epoch.set(m.epoch);
        header.cookie.set(cookie);
        header.server_state = m.state as u8;
        let registration = Registration {
            server_id: self.settings.id,
            queue_capacity: self.settings.queue_capacity as u32,
            report_interval_us: self.settings.interval.as_micros() as u32,
            weight: self.settings.weight,
            reserved: [0; 2],
        };
        Frame::write(bytes, &header, &registration.to_bytes());
        self.seal(bytes);
    }

    fn report_if_changed(&mut self, now: Instant, tx: &mut Tx) {
        let queue = self.load();
        let m = &mut self.membership;
        (m.next_at, m.is_resting) = (now + self.settings.interval, false);
        m.quiet_intervals += 1;
        let overdue = queue != m.queue_reported || m.quiet_intervals >= IDLE_INTERVALS;
        if overdue {
            self.report(now, Whom::Everybody, tx);
        } else if m.any_concerned() {
            self.report(now, Whom::Concerned, tx);
        }
        let is_settled = !self.has_news() && self.membership.state == ServerState::Ready;
        if is_settled && !self.is_shared {
            self.rest(now);
        }
    }

    /// Whether a report has something new to say.
    fn has_news(&self) -> bool {
        self.load() != self.membership.queue_reported || self.membership.any_concerned()
    }

    /// Sleeps until the interval in which a report is due although nothing has changed. A change ends that.
    fn rest(&mut self, now: Instant) {
        let m = &mut self.membership;
        let left = IDLE_INTERVALS.saturating_sub(m.quiet_intervals).max(1);
        (m.quiet_intervals, m.is_resting) = (IDLE_INTERVALS - 1, true);
        m.next_at = now + self.settings.interval * left;
    }

    /// Reports the changes of this turn that no reply carried.
    pub(super) fn report_direct(&mut self, now: Instant, tx: &mut Tx) {
        if std::mem::take(&mut self.membership.report_soon) {
            self.report(now, Whom::Changed, tx);
        }
    }

    fn report(&mut self, now: Instant, whom: Whom, tx: &mut Tx) {
        let (pause, is_draining) = (self.pause(), self.membership.state == ServerState::Draining);
        if whom == Whom::Everybody {
            self.membership.quiet_intervals = 0;
            self.membership.queue_reported = self.load();
        }
        let size = self.settings.format.size;
        let workers = self.membership.member.as_ref().map_or(0, |m| m.lanes.len());
        for worker in (0..=u8::MAX).take(workers) {
            let Some(lane) = self.membership.lane_mut(worker) else { continue };
            let wanted = match whom {
                Whom::Everybody => true,
                Whom::Concerned => worker == 0 || lane.has_changed() || (is_draining && !lane.drained),
                Whom::Owed => lane.owes_report && now >= lane.last_report + pause,
                Whom::Changed => lane.has_changed(),
            };
            if !wanted {
                continue;
            }
            let Some(destination) = tx.destination(SOCKET, lane.addr, None) else { return };
            if let Some(bytes) = tx.stage(destination, size) {
                lane.last_report = now;
                let has_owed = std::mem::take(&mut lane.owes_report);
                self.membership.owed -= u32::from(has_owed);
                self.write_report(worker, bytes);
            }
        }
    }

    /// Writes a REPORT for a worker over `bytes`.
    fn write_report(&mut self, worker: u8, bytes: &mut [u8]) {
        let m = &mut self.membership;
        let mut header = Header::new(Kind::ServerResponse, self.settings.format.size);
        header.op = ServerOp::Report as u8;
        header.client_id.set(m.instance);
        header.sequence.set(m.report_nonce);
        header.worker = worker;
        header.server_epoch.set(m.epoch);
        if let Some(member) = &m.member {
            header.balancer_epoch.set(member.balancer_epoch);
            header.slot.set(member.slot);
        }
        m.fill_report(worker, &mut header);
        header.queue.set(self.load());
        header.foreign.set(self.foreign());
        header.service_us.set(self.service_mean.as_micros() as u32);
        Frame::write(bytes, &header, &[]);
        self.seal(bytes);
    }
}
