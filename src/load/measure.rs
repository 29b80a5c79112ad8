//! A measurement: threads with sockets, each with its share of the plan, and one report of all of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::protocol::{Dns, Echo, Native, Payload, Plain, Protocol, Queries};
use super::report::SetUp;
use super::run::{Live, Progress, Surroundings, run};
use super::schedule::{Rate, Schedule, Share};
use super::series::Seconds;
use super::{Account, Generator, Ledger, Plan, Report, SecondTally, Trace};
use crate::base::rng::Rng;
use crate::base::time::{Clock, Instant};
use crate::io::socket::{SocketOptions, bind};
use crate::io::{BackEnd, DatagramIo, IoChoice, IoOptions, PAYLOAD_MAX};
use crate::os::back_end;
use crate::os::limits::allow_files;
use crate::os::signals::Stop;
use crate::wire::FrameFormat;

/// Requests that leave in one turn at most, and their bytes.
const TURN_REQUESTS: usize = 4096;
const TURN_BYTES: usize = 4 << 20;
/// How often whoever watches is told.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Datagrams that are longer may need fragments: 1,500 less the IPv6 and UDP headers.
const WHOLE_MAX: usize = 1_452;
/// Descriptors beside the sockets.
const OTHER_FILES: u64 = 64;

/// When requests leave.
#[derive(Clone, Debug)]
pub enum Load {
    /// As fast as the window allows.
    Closed,
    /// A Poisson process.
    Poisson(Rate),
    /// Bursts of so many at equal gaps; 1 is no burst.
    Bursts(Rate, u32),
    /// As a file says, by its name.
    Trace(String, Arc<Trace>),
}

impl Load {
    /// The same at this rate, all the time. A closed loop becomes a Poisson process; a trace stays.
    #[must_use]
    pub fn at(&self, rate: f64) -> Load {
        match self {
            Load::Closed | Load::Poisson(_) => Load::Poisson(Rate::flat(rate)),
            Load::Bursts(_, burst) => Load::Bursts(Rate::flat(rate), *burst),
            Load::Trace(..) => self.clone(),
        }
    }

    fn rate(&self) -> Option<&Rate> {
        match self {
            Load::Poisson(rate) | Load::Bursts(rate, _) => Some(rate),
            Load::Closed | Load::Trace(..) => None,
        }
    }

    fn schedule(&self, share: Share, start: Instant, seed: u64) -> Option<Schedule> {
        match self {
            Load::Closed => None,
            Load::Poisson(rate) => Some(Schedule::poisson(*rate, share, start, seed)),
            Load::Bursts(rate, burst) => Some(Schedule::bursts(*rate, *burst, share, start)),
            Load::Trace(_, trace) => Some(Schedule::traced(trace.clone(), share, start)),
        }
    }

    /// Requests in a second, at most.
    fn busiest_second(&self) -> f64 {
        match self {
            Load::Closed => 0.0,
            Load::Poisson(rate) => rate.max(),
            Load::Bursts(rate, burst) => rate.max() + f64::from(*burst),
            Load::Trace(_, trace) => trace.busiest_second() as f64,
        }
    }

    fn trace(&self) -> Option<&Trace> {
        if let Load::Trace(_, trace) = self { Some(trace) } else { None }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Closed => f.write_str("window"),
            Load::Poisson(_) => f.write_str("poisson"),
            Load::Bursts(_, 1) => f.write_str("constant"),
            Load::Bursts(_, burst) => write!(f, "burst:{burst}"),
            Load::Trace(name, _) => write!(f, "trace:{name}"),
        }
    }
}

/// What requests are.
#[derive(Clone, Debug)]
pub enum ProtocolSpec {
    /// Frames of this project.
    Native {
        /// Of the deployment.
        format: FrameFormat,
        /// That share a datagram at most.
        frames_per_datagram: usize,
        /// Of each request.
        payload: Payload,
    },
    /// DNS queries.
    Dns(Queries),
    /// Datagrams of any protocol: with `{id}` in the payload answers are matched by that, else a client has one request in flight.
    Raw(Payload),
}

impl ProtocolSpec {
    fn name(&self) -> &'static str {
        match self {
            ProtocolSpec::Native { .. } => "native",
            ProtocolSpec::Dns(_) => "dns",
            ProtocolSpec::Raw(_) => "raw",
        }
    }

    /// Bytes of a request as the operator counts them.
    fn payload_len(&self) -> usize {
        match self {
            ProtocolSpec::Native { payload, .. } | ProtocolSpec::Raw(payload) => payload.len(),
            ProtocolSpec::Dns(queries) => queries.len_max(),
        }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where the requests go.
    pub target: SocketAddr,
    /// What they are.
    pub protocol: ProtocolSpec,
    /// When they leave.
    pub load: Load,
    /// Requests in flight at most. With a rate, those that have to wait for room are late.
    pub window: Option<usize>,
    /// When a request without an answer is lost.
    pub timeout: Duration,
    /// Time before the measurement, outside all counts.
    pub warmup: Duration,
    /// Time of the measurement at most: that of a trace ends with its last request.
    pub duration: Duration,
    /// Threads that send, each with a share of all.
    pub threads: u16,
    /// Sockets to send from, each with an address of its own.
    pub clients: u32,
    /// How long before a deadline a thread sleeps no more.
    pub spin: Duration,
    /// The I/O back end.
    pub io: IoChoice,
    /// Of everything random.
    pub seed: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// What is asked for cannot be; the text says what to change.
    #[error("{0}")]
    Plan(String),
    /// The system has refused something.
    #[error("the load could not run: {0}")]
    System(#[from] io::Error),
}

/// What a thread hands back.
struct Finished {
    account: Account,
    measured: Duration,
    kernel_drops: u64,
    not_sent: u64,
}

/// What the threads of a measurement have in common.
struct Common<'a> {
    job: &'a Job,
    clock: Clock,
    stop: &'a Stop,
    /// All begin at once.
    ready: Barrier,
    start: OnceLock<Instant>,
}

impl Job {
    /// Refuses what cannot be done, with what to change.
    pub fn check(&self) -> Result<(), String> {
        let (threads, clients) = (u32::from(self.threads), self.clients);
        if threads == 0 || clients < threads {
            return Err(format!(
                "--threads {threads}: each needs a client of its own; there are --clients {clients}"
            ));
        }
        if clients / threads >= u32::from(u16::MAX) {
            return Err(format!("--clients {clients}: a thread has at most 65534; use more --threads"));
        }
        if self.window.is_some_and(|window| window < usize::from(self.threads)) {
            return Err(format!("--threads {threads}: each needs a request in flight; raise --window"));
        }
        if let Some(last) = self.load.trace().map(Trace::last).filter(|last| *last < self.warmup) {
            return Err(format!("--warmup {:?}: the trace is over after {last:?}", self.warmup));
        }
        let sizes = self.load.trace().and_then(Trace::payload_max).map(|max| max as usize);
        match &self.protocol {
            ProtocolSpec::Native { format, payload, .. } => {
                let (max, size) = (format.payload_max(), format.size);
                if payload.len() > max {
                    return Err(format!(
                        "--payload {}: a frame of {size} bytes carries at most {max}",
                        payload.len()
                    ));
                }
                if let Some(largest) = sizes.filter(|largest| *largest > max) {
                    return Err(format!(
                        "{largest} bytes in the trace: a frame of {size} bytes carries at most {max}"
                    ));
                }
                fixed_and_sized(payload, sizes)
            }
            ProtocolSpec::Dns(_) if sizes.is_some() => {
                Err("the trace gives sizes, but those of DNS queries follow from their names: leave them out"
                    .to_owned())
            }
            ProtocolSpec::Dns(_) => Ok(()),
            ProtocolSpec::Raw(payload)
                if payload.is_empty() || self.load.trace().is_some_and(Trace::has_empty) =>
            {
                Err("a payload of 0 bytes: with --protocol raw a request is one byte at least".to_owned())
            }
            ProtocolSpec::Raw(payload) if payload.len_marked() > PAYLOAD_MAX => Err(format!(
                "--payload: {} bytes with each {{id}} as 16 digits; a datagram carries at most {PAYLOAD_MAX}",
                payload.len_marked()
            )),
            ProtocolSpec::Raw(payload) => fixed_and_sized(payload, sizes),
        }
    }

    /// How long the measurement is, unless it is stopped: a trace may end before [`Job::duration`].
    pub fn measured(&self) -> Duration {
        let rest = self
            .load
            .trace()
            .map(|trace| (trace.last() + Duration::from_nanos(1)).saturating_sub(self.warmup));
        rest.map_or(self.duration, |rest| rest.min(self.duration))
    }

    /// Runs it. `watch` is told the figures ten times a second; asked to stop it ends early, with a report.
    pub fn measure(&self, stop: &Stop, mut watch: impl FnMut(Live)) -> Result<Report, MeasureError> {
        self.check().map_err(MeasureError::Plan)?;
        allow_files(u64::from(self.clients) + OTHER_FILES, "--clients")?;
        let clock = Clock::start();
        let shares: Vec<Share> = (0..self.threads).map(|index| Share { index, of: self.threads }).collect();
        let back_ends =
            shares.iter().map(|share| self.open(*share, clock)).collect::<io::Result<Vec<BackEnd>>>()?;
        let io = back_ends[0].name();
        let progress: Vec<Progress> = shares.iter().map(|_| Progress::default()).collect();
        let ready = Barrier::new(shares.len());
        let common = Common { job: self, clock, stop, ready, start: OnceLock::new() };
        let started_at = SystemTime::now();
        let (finished, series) = std::thread::scope(|scope| {
            #[expect(
                clippy::disallowed_methods,
                reason = "a loop sends one tally a second and must not wait"
            )]
            let (seconds, tallies) = channel();
            let loops = shares.iter().zip(back_ends).zip(&progress);
            let loops: Vec<_> = loops
                .map(|((share, io), progress)| common.spawn(scope, *share, io, progress, seconds.clone()))
                .collect::<io::Result<_>>()?;
            drop(seconds);
            let series = collect(&tallies, loops.len(), || {
                let mut live = Live::default();
                progress.iter().for_each(|part| live += part.read());
                watch(live);
            });
            let finished = loops.into_iter().map(|handle| handle.join().expect("a panic ends the process"));
            Ok::<_, io::Error>((finished.collect::<io::Result<Vec<Finished>>>()?, series))
        })?;
        let setup = self.setup(io, started_at);
        Ok(self.report(setup, finished, series))
    }

    /// The sockets of a share, and what waits for them.
    fn open(&self, share: Share, clock: Clock) -> io::Result<BackEnd> {
        let len = self.request_len_max().max(1);
        let from = crate::io::socket::any_port_towards(self.target);
        let socket = SocketOptions { fragments: len > WHOLE_MAX, ..SocketOptions::default() };
        let sockets = (0..share.part(self.clients as usize)).map(|_| bind(from, &socket));
        let frames_per_datagram = match self.protocol {
            ProtocolSpec::Native { frames_per_datagram, .. } => frames_per_datagram,
            ProtocolSpec::Dns(_) | ProtocolSpec::Raw(_) => 1,
        };
        let frames_max = (TURN_BYTES / len).clamp(64, TURN_REQUESTS);
        let options = IoOptions {
            frames_max,
            staging_bytes: frames_max * len,
            frames_per_datagram,
            prefault: true,
            ..IoOptions::default()
        };
        back_end(self.io, sockets.collect::<io::Result<_>>()?, &options, clock)
    }

    fn request_len_max(&self) -> usize {
        let sizes = self.load.trace().and_then(Trace::payload_max).unwrap_or(0) as usize;
        match &self.protocol {
            ProtocolSpec::Native { format, .. } => format.size,
            ProtocolSpec::Dns(queries) => queries.len_max(),
            ProtocolSpec::Raw(payload) => payload.len_marked().max(sizes),
        }
    }

    fn setup(&self, io: &str, started_at: SystemTime) -> SetUp {
        SetUp {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_s: started_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            target: self.target.to_string(),
            protocol: self.protocol.name().to_owned(),
            arrivals: self.load.to_string(),
            rate: self.load.rate().map_or(String::new(), Rate::to_string),
            threads: self.threads,
            clients: self.clients,
            window: self.window.map(|window| window as u64),
            payload: self.protocol.payload_len() as u64,
            timeout_s: self.timeout.as_secs_f64(),
            warmup_s: self.warmup.as_secs_f64(),
            seed: self.seed,
            io: io.to_owned(),
        }
    }

    /// Requests per second that were asked for, in so long a measurement.
    fn rate_wanted(&self, measured: Duration) -> Option<f64> {
        match &self.load {
            Load::Closed => None,
            Load::Poisson(rate) | Load::Bursts(rate, _) => Some(rate.mean()),
            Load::Trace(_, trace) => {
                let (from, to) = (self.warmup, self.warmup + measured);
                let count = trace.count(from, to);
                Some(if measured.is_zero() { 0.0 } else { count as f64 / measured.as_secs_f64() })
            }
        }
    }

    fn report(&self, setup: SetUp, finished: Vec<Finished>, series: Seconds) -> Report {
        let mut account = Account::new(self.timeout);
        finished.iter().for_each(|part| account.add(&part.account));
        let measured = finished.iter().map(|part| part.measured).max().unwrap_or_default();
        Report {
            setup,
            rate_wanted: self.rate_wanted(measured),
            series: series.finish(),
            not_sent: finished.iter().map(|part| part.not_sent).sum(),
            kernel_drops: finished.iter().map(|part| part.kernel_drops).sum(),
            ..Report::of(&account, measured)
        }
    }
}

/// Sizes in a trace are for payloads whose bytes do not matter.
fn fixed_and_sized(payload: &Payload, sizes: Option<usize>) -> Result<(), String> {
    match (payload, sizes) {
        (Payload::Bytes(_), Some(_)) => {
            Err("the trace gives sizes and --payload gives bytes: leave one of them out".to_owned())
        }
        _ => Ok(()),
    }
}

/// Takes the seconds of the loops until all have ended.
fn collect(tallies: &Receiver<SecondTally>, loops: usize, mut look: impl FnMut()) -> Seconds {
    let mut seconds = Seconds::new(loops);
    let mut next = std::time::Instant::now() + LOOK_EVERY;
    loop {
        match tallies.recv_timeout(next.saturating_duration_since(std::time::Instant::now())) {
            Ok(tally) => seconds.add(tally),
            Err(RecvTimeoutError::Disconnected) => return seconds,
            Err(RecvTimeoutError::Timeout) => {
                look();
                next += LOOK_EVERY;
            }
        }
    }
}

impl Common<'_> {
    fn spawn<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        share: Share,
        io: BackEnd,
        progress: &'env Progress,
        seconds: Sender<SecondTally>,
    ) -> io::Result<ScopedJoinHandle<'scope, io::Result<Finished>>> {
        let thread = std::thread::Builder::new().name(format!("load-{}", share.index));
        thread.spawn_scoped(scope, move || self.work(share, io, progress, &seconds))
    }

    fn work(
        &self,
        share: Share,
        io: BackEnd,
        progress: &Progress,
        seconds: &Sender<SecondTally>,
    ) -> io::Result<Finished> {
        let job = self.job;
        let mut rng = Rng::new(job.seed);
        // Of each share its own, and of a seed always the same.
        let seeds: [u64; 2] = std::array::from_fn(|_| rng.next_u64() ^ u64::from(share.index) << 32);
        let mut rng = Rng::new(seeds[0]);
        let clients = share.part(job.clients as usize) as u16;
        let sizes = job.load.trace().and_then(Trace::payload_max).unwrap_or(0) as usize;
        let drive = Drive { common: self, share, seed: seeds[1], io, progress, seconds };
        match &job.protocol {
            ProtocolSpec::Native { format, payload, .. } => {
                let deadline_us = job.timeout.as_micros().min(u128::from(u32::MAX)) as u32;
                let bytes = payload.bytes(sizes, &mut rng);
                drive.drive(Native::new(*format, clients, &bytes, payload.len(), deadline_us, &mut rng))
            }
            ProtocolSpec::Dns(queries) => {
                drive.drive(Dns::new(job.target, clients, queries.clone(), share, &mut rng))
            }
            ProtocolSpec::Raw(payload) => {
                let bytes = payload.bytes(sizes, &mut rng);
                match payload.marks() {
                    0 => drive.drive(Plain::new(job.target, clients, bytes, payload.len(), job.timeout)),
                    _ => drive.drive(Echo::new(job.target, clients, &bytes, &mut rng)),
                }
            }
        }
    }
}

/// A thread's part, but for its protocol.
struct Drive<'a> {
    common: &'a Common<'a>,
    share: Share,
    seed: u64,
    io: BackEnd,
    progress: &'a Progress,
    seconds: &'a Sender<SecondTally>,
}

impl Drive<'_> {
    fn drive<P: Protocol>(self, protocol: P) -> io::Result<Finished> {
        let Drive { common, share, seed, mut io, progress, seconds } = self;
        let Common { job, clock, stop, ready, start } = common;
        let window = job.window.map(|window| share.part(window));
        // Twice what is in flight if nothing is answered, so that only a generator that stalls runs out.
        let by_rate = 2.0 * job.load.busiest_second() * job.timeout.as_secs_f64().max(0.5);
        let room = (by_rate / f64::from(share.of)) as usize;
        let ledger = Ledger::new(room.max(window.unwrap_or(0)), job.timeout);
        ready.wait();
        let start = *start.get_or_init(|| clock.now());
        let plan = Plan {
            target: job.target,
            schedule: job.load.schedule(share, start, seed),
            window,
            start,
            warmup: job.warmup,
            duration: job.measured(),
            // The last request of a trace is its end.
            grace: if job.load.trace().is_some() { job.timeout } else { Duration::ZERO },
        };
        let _woken = stop.wake_also(io.waker());
        let around = Surroundings { clock: *clock, spin: job.spin, stop, progress };
        // Nobody takes them any more if another loop has failed.
        let on_second = |second| drop(seconds.send(second));
        let generator = run(Generator::new(plan, protocol, ledger), &mut io, &around, on_second)?;
        io.recount_drops();
        let counters = io.counters();
        let (account, measured) = generator.close();
        Ok(Finished {
            account,
            measured,
            kernel_drops: counters.kernel_drops,
            not_sent: counters.send_full + counters.send_failed,
        })
    }
}
