//! A measurement: threads with sockets, each with its share of the load, and one merged report.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::condition::{Conditions, ReportMetrics};
use super::protocol::{DnsLoad, DnsQueries, Echo, LoadProtocol, Native, NativeSettings, Payload, Plain};
use super::report::{BY_CLIENT, SetUp};
use super::run::{LiveCounts, Progress, Surroundings, run};
use super::schedule::{LoadRate, Schedule, Share};
use super::series::Seconds;
use super::{
    Account, DnsAnswers, Generator, GeneratorPlan, LoadReport, NetworkErrors, RequestLedger, SecondTally,
    Sources, Tolerance, Trace,
};
use crate::base::rng::Rng;
use crate::base::time::{Clock, Instant};
use crate::io::socket::{SocketOptions, bind};
use crate::io::{BackEnd, DatagramIo, IoChoice, IoCounters, IoOptions, PAYLOAD_MAX};
use crate::os::back_end;
use crate::os::limits::allow_files;
use crate::os::signals::Stop;
use crate::wire::FrameFormat;

/// Seconds of a run, the last ones whose requests have all ended, that [`Measurement::abort_if`] is about.
pub const ABORT_SECONDS: usize = 5;
/// Length of a measurement that has no other end than its number of requests: 100 days.
pub const UNBOUNDED: Duration = Duration::from_secs(100 * 86_400);
/// Maximum requests and bytes that leave in one turn.
const TURN_REQUESTS: usize = 4096;
const TURN_BYTES: usize = 4 << 20;
/// Interval of the calls that report progress.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longer datagrams may be fragmented: 1,500 bytes minus the IPv6 and UDP headers.
const WHOLE_MAX: usize = 1_452;
/// Maximum sockets of a thread that are asked for their drops at the end of the warm-up: some 300 us.
const RECOUNTED_MAX: usize = 1_024;
/// File descriptors besides the sockets.
const OTHER_FILES: u64 = 64;

/// When requests leave.
#[derive(Clone, Debug)]
pub enum Load {
    /// Closed loop: as fast as the window allows.
    Closed,
    /// A Poisson process.
    Poisson(LoadRate),
    /// Bursts of this many requests at equal gaps; 1 gives single requests.
    Bursts(LoadRate, u32),
    /// A trace with its file name.
    Trace(String, Arc<Trace>),
}

impl Load {
    /// The same load at this constant rate. A closed loop becomes a Poisson process; a trace stays unchanged.
    #[must_use]
    pub fn at(&self, rate: f64) -> Load {
        match self {
            Load::Closed | Load::Poisson(_) => Load::Poisson(LoadRate::flat(rate)),
            Load::Bursts(_, burst) => Load::Bursts(LoadRate::flat(rate), *burst),
            Load::Trace(..) => self.clone(),
        }
    }

    fn rate(&self) -> Option<&LoadRate> {
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

    /// Maximum requests in one second.
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

/// Protocol and content of the requests.
#[derive(Clone, Debug)]
pub enum ProtocolSpec {
    /// lbd's frames.
    Native {
        /// Frame format of the deployment.
        format: FrameFormat,
        /// Maximum frames per datagram.
        frames_per_datagram: usize,
        /// Payloads, in turn; at least one.
        payloads: Vec<Payload>,
    },
    /// DNS queries.
    Dns(DnsQueries),
    /// Datagrams of any protocol. With `{id}` in the payload, responses are matched by it; otherwise a
    /// client has one request in flight.
    Raw {
        /// Payloads, in turn; at least one.
        payloads: Vec<Payload>,
        /// A response without these bytes is an error; `None`: any response is an answer.
        expect: Option<Vec<u8>>,
    },
}

impl ProtocolSpec {
    fn name(&self) -> &'static str {
        match self {
            ProtocolSpec::Native { .. } => "native",
            ProtocolSpec::Dns(_) => "dns",
            ProtocolSpec::Raw { .. } => "raw",
        }
    }

    fn matching(&self) -> &'static str {
        match self {
            ProtocolSpec::Raw { payloads, .. } if payloads[0].marks() == 0 => BY_CLIENT,
            _ => "id",
        }
    }

    fn payloads(&self) -> &[Payload] {
        match self {
            ProtocolSpec::Native { payloads, .. } | ProtocolSpec::Raw { payloads, .. } => payloads,
            ProtocolSpec::Dns(_) => &[],
        }
    }

    /// Maximum size of a request in bytes, as the operator specified it.
    fn payload_len(&self) -> usize {
        match self {
            ProtocolSpec::Native { .. } | ProtocolSpec::Raw { .. } => {
                self.payloads().iter().map(Payload::len).max().unwrap_or(0)
            }
            ProtocolSpec::Dns(queries) => queries.len_max(),
        }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Target of the requests.
    pub target: SocketAddr,
    /// Protocol and content of the requests.
    pub protocol: ProtocolSpec,
    /// When the requests leave.
    pub load: Load,
    /// Maximum requests in flight; `None` is no limit. With a rate, requests that wait for the window
    /// are late.
    pub window: Option<usize>,
    /// Time after which an unanswered request is lost.
    pub timeout: Duration,
    /// Time before the measurement that does not count.
    pub warmup: Duration,
    /// Maximum length of the measurement; a trace ends it after its last request. At [`UNBOUNDED`] only
    /// `requests` ends it.
    pub duration: Duration,
    /// Maximum requests of the measurement; `None` is no limit.
    pub requests: Option<u64>,
    /// Closed loop: time from the end of a request to the next one of its place in the window.
    pub think: Duration,
    /// When the warm-up starts; `None` is at once.
    pub start_at: Option<SystemTime>,
    /// Sending threads; each has its share of the load.
    pub threads: u16,
    /// Sockets to send from, each with its own address.
    pub clients: u32,
    /// Local addresses of the sockets, in turn; `None`: the one that reaches the target.
    pub bind: Option<Sources>,
    /// Time of busy-waiting before each deadline.
    pub spin: Duration,
    /// How late requests may leave.
    pub tolerance: Tolerance,
    /// The run ends when one of these holds for its last seconds (`ABORT_SECONDS`).
    pub abort_if: Vec<Conditions>,
    /// I/O back end.
    pub io: IoChoice,
    /// Seed of all random numbers.
    pub seed: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The job cannot run; the text names the remedy.
    #[error("{0}")]
    Plan(String),
    /// The system refused an operation. The text has the cause, so the cause is no source: a chain of errors
    /// would name it twice.
    #[error("cannot run the load: {0}")]
    System(io::Error),
}

impl From<io::Error> for MeasureError {
    fn from(error: io::Error) -> Self {
        MeasureError::System(error)
    }
}

/// Result of a thread.
struct FinishedLoop {
    account: Account,
    measured: Duration,
    kernel_drops: u64,
    not_sent: u64,
    interrupted: bool,
    errors: NetworkErrors,
    dns: Option<DnsAnswers>,
}

/// What the threads of a measurement share.
struct SharedRun<'a> {
    job: &'a Measurement,
    clock: Clock,
    stop: &'a Stop,
    abort: &'a Stop,
    /// All threads start together.
    ready: Barrier,
    start: OnceLock<Instant>,
}

impl Measurement {
    /// Rejects a job that cannot run; the error names the remedy.
    pub fn check(&self) -> Result<(), String> {
        let (threads, clients) = (u32::from(self.threads), self.clients);
        if threads == 0 || clients < threads {
            return Err(format!(
                "--threads {threads} exceeds --clients {clients}; each thread needs its own client"
            ));
        }
        if clients / threads >= u32::from(u16::MAX) {
            return Err(format!(
                "--clients {clients}: a thread has at most 65534 clients; use more --threads"
            ));
        }
        if let Some(sources) = self.bind.filter(|sources| sources.is_ipv6() != self.target.is_ipv6()) {
            let family = if self.target.is_ipv6() { "IPv6" } else { "IPv4" };
            return Err(format!("--bind {sources}: the target {} needs an {family} address", self.target));
        }
        if !self.think.is_zero() && !matches!(self.load, Load::Closed) {
            return Err("--think needs a closed loop: --window without a rate".to_owned());
        }
        if self.window.is_some_and(|window| window < usize::from(self.threads)) {
            return Err(format!(
                "--threads {threads}: each thread needs a request in flight; raise --window"
            ));
        }
        if let Some(last) = self.load.trace().map(Trace::last).filter(|last| *last < self.warmup) {
            return Err(format!(
                "--warmup {:?}: the trace ends after {last:?}; shorten the warm-up",
                self.warmup
            ));
        }
        let sizes = self.load.trace().and_then(Trace::payload_max).map(|max| max as usize);
        let payloads = self.protocol.payloads();
        if payloads.len() > 1 && sizes.is_some() {
            return Err("the trace sets sizes, so there can be only one --payload".to_owned());
        }
        match &self.protocol {
            ProtocolSpec::Native { format, .. } => {
                let (max, size) = (format.payload_max(), format.size);
                if let Some(payload) = payloads.iter().find(|payload| payload.len() > max) {
                    return Err(format!(
                        "--payload {}: a frame of {size} bytes carries at most {max} bytes",
                        payload.len()
                    ));
                }
                if let Some(largest) = sizes.filter(|largest| *largest > max) {
                    return Err(format!(
                        "{largest} bytes in the trace: a frame of {size} bytes carries at most {max} bytes"
                    ));
                }
                fixed_and_sized(&payloads[0], sizes)
            }
            ProtocolSpec::Dns(_) if sizes.is_some() => {
                Err("the trace sets sizes, but DNS queries have the size of their names; remove the sizes"
                    .to_owned())
            }
            ProtocolSpec::Dns(_) => Ok(()),
            ProtocolSpec::Raw { .. }
                if payloads.iter().any(Payload::is_empty)
                    || self.load.trace().is_some_and(Trace::has_empty) =>
            {
                Err("a payload of 0 bytes: with --protocol raw a request has at least 1 byte".to_owned())
            }
            ProtocolSpec::Raw { .. } => {
                let marked = payloads.iter().filter(|payload| payload.marks() > 0).count();
                if marked != 0 && marked != payloads.len() {
                    return Err("--payload: either each payload has an {id}, or none".to_owned());
                }
                let longest = payloads.iter().map(Payload::len_marked).max().unwrap_or(0);
                if longest > PAYLOAD_MAX {
                    return Err(format!(
                        "--payload: {longest} bytes with each {{id}} as 16 digits; a datagram carries at \
                         most {PAYLOAD_MAX} bytes"
                    ));
                }
                fixed_and_sized(&payloads[0], sizes)
            }
        }
    }

    /// Length of the measurement unless stopped: a trace may end before [`Measurement::duration`].
    pub fn measured(&self) -> Duration {
        let rest = self
            .load
            .trace()
            .map(|trace| (trace.last() + Duration::from_nanos(1)).saturating_sub(self.warmup));
        rest.map_or(self.duration, |rest| rest.min(self.duration))
    }

    /// Runs the measurement. `watch` receives the progress ten times per second. A stop signal ends it
    /// early, with a report.
    pub fn measure(
        &self,
        stop: &Stop,
        mut watch: impl FnMut(LiveCounts),
    ) -> Result<LoadReport, MeasureError> {
        self.check().map_err(MeasureError::Plan)?;
        allow_files(u64::from(self.clients) + OTHER_FILES, "--clients")?;
        let clock = Clock::start();
        let shares: Vec<Share> = (0..self.threads).map(|index| Share { index, of: self.threads }).collect();
        let back_ends =
            shares.iter().map(|share| self.open(*share, clock)).collect::<io::Result<Vec<BackEnd>>>()?;
        let io = back_ends[0].name();
        let progress: Vec<Progress> = shares.iter().map(|_| Progress::default()).collect();
        let ready = Barrier::new(shares.len());
        let abort = Stop::new(vec![]);
        let mut aborted = None;
        let common = SharedRun { job: self, clock, stop, abort: &abort, ready, start: OnceLock::new() };
        let started_at = self.start_at.unwrap_or_else(SystemTime::now);
        let (finished, series) = std::thread::scope(|scope| {
            let (seconds, tallies) = channel();
            let loops = shares.iter().zip(back_ends).zip(&progress);
            let loops: Vec<_> = loops
                .map(|((share, io), progress)| common.spawn(scope, *share, io, progress, seconds.clone()))
                .collect::<io::Result<_>>()?;
            drop(seconds);
            let mut judged = 0;
            let series = collect(&tallies, loops.len(), |seconds| {
                let mut live = LiveCounts { last_second: seconds.last_latency(), ..LiveCounts::default() };
                progress.iter().for_each(|part| live += part.load());
                watch(live);
                if seconds.finished() > judged && aborted.is_none() {
                    judged = seconds.finished();
                    aborted = self.aborting(seconds);
                    if aborted.is_some() {
                        abort.ask();
                    }
                }
            });
            let finished = loops.into_iter().map(|handle| handle.join().expect("a panic ends the process"));
            Ok::<_, io::Error>((finished.collect::<io::Result<Vec<FinishedLoop>>>()?, series))
        })?;
        let setup = self.setup(io, started_at);
        let report = self.report(setup, finished, series);
        Ok(LoadReport { interrupted: report.interrupted && stop.is_asked(), aborted, ..report })
    }

    /// The condition that ends the run now, in words.
    fn aborting(&self, seconds: &Seconds) -> Option<String> {
        if self.abort_if.is_empty() {
            return None;
        }
        let recent = seconds.recent(ABORT_SECONDS);
        let figures = ReportMetrics::of(&recent).ok()?;
        let condition = self.abort_if.iter().find(|condition| condition.hold(&figures))?;
        let (over, measured) = (recent.duration_s, condition.measured(&figures));
        Some(format!("--abort-if {condition} held for the last {over} s: {measured}"))
    }

    /// Opens the sockets of a share and their back end.
    fn open(&self, share: Share, clock: Clock) -> io::Result<BackEnd> {
        let len = self.request_len_max().max(1);
        let from = |client: usize| match self.bind {
            // The clients of all threads take turns.
            Some(sources) => sources.of(client * usize::from(share.of) + usize::from(share.index)),
            None => crate::io::socket::any_port_towards(self.target),
        };
        let fragments = len > WHOLE_MAX;
        let socket = SocketOptions { fragments, report_errors: true, ..SocketOptions::default() };
        let sockets = (0..share.part(self.clients as usize)).map(|client| bind(from(client), &socket));
        let frames_per_datagram = match self.protocol {
            ProtocolSpec::Native { frames_per_datagram, .. } => frames_per_datagram,
            ProtocolSpec::Dns(_) | ProtocolSpec::Raw { .. } => 1,
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
            ProtocolSpec::Raw { payloads, .. } => {
                payloads.iter().map(Payload::len_marked).max().unwrap_or(0).max(sizes)
            }
        }
    }

    fn setup(&self, io: &str, started_at: SystemTime) -> SetUp {
        SetUp {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_s: started_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            target: self.target.to_string(),
            protocol: self.protocol.name().to_owned(),
            matching: self.protocol.matching().to_owned(),
            arrivals: self.load.to_string(),
            rate: self.load.rate().map_or(String::new(), LoadRate::to_string),
            threads: self.threads,
            clients: self.clients,
            bind: self.bind.map_or(String::new(), |sources| sources.to_string()),
            window: self.window.map(|window| window as u64),
            payload: self.protocol.payload_len() as u64,
            timeout_s: self.timeout.as_secs_f64(),
            warmup_s: self.warmup.as_secs_f64(),
            duration_s: if self.duration == UNBOUNDED { 0.0 } else { self.measured().as_secs_f64() },
            requests: self.requests,
            tolerance: self.tolerance,
            seed: self.seed,
            io: io.to_owned(),
        }
    }

    /// Mean requested rate of a measurement of this length, in requests per second.
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

    fn report(&self, setup: SetUp, finished: Vec<FinishedLoop>, series: Seconds) -> LoadReport {
        let mut account = Account::new(self.timeout);
        finished.iter().for_each(|part| account.add(&part.account));
        let mut errors = NetworkErrors::default();
        finished.iter().for_each(|part| errors += part.errors);
        let measured = finished.iter().map(|part| part.measured).max().unwrap_or_default();
        LoadReport {
            setup,
            interrupted: finished.iter().any(|part| part.interrupted),
            rate_wanted: self.rate_wanted(measured),
            series: series.finish(),
            not_sent: finished.iter().map(|part| part.not_sent).sum(),
            network_errors: errors.by_name(),
            dns: finished.iter().filter_map(|part| part.dns.clone()).reduce(|mut sum, part| {
                sum += &part;
                sum
            }),
            kernel_drops: finished.iter().map(|part| part.kernel_drops).sum(),
            ..LoadReport::of(&account, measured)
        }
    }
}

/// Rejects sizes of a trace together with a payload of fixed bytes.
fn fixed_and_sized(payload: &Payload, sizes: Option<usize>) -> Result<(), String> {
    match (payload, sizes) {
        (Payload::Bytes(_), Some(_)) => {
            Err("the trace sets sizes and --payload sets bytes; remove one of them".to_owned())
        }
        _ => Ok(()),
    }
}

/// Merges the seconds of the loops until all loops have ended.
fn collect(tallies: &Receiver<SecondTally>, loops: usize, mut look: impl FnMut(&Seconds)) -> Seconds {
    let mut seconds = Seconds::new(loops);
    let mut next = std::time::Instant::now() + LOOK_EVERY;
    loop {
        match tallies.recv_timeout(next.saturating_duration_since(std::time::Instant::now())) {
            Ok(tally) => seconds.add(tally),
            Err(RecvTimeoutError::Disconnected) => return seconds,
            Err(RecvTimeoutError::Timeout) => {
                look(&seconds);
                next += LOOK_EVERY;
            }
        }
    }
}

impl SharedRun<'_> {
    fn spawn<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        share: Share,
        io: BackEnd,
        progress: &'env Progress,
        seconds: Sender<SecondTally>,
    ) -> io::Result<ScopedJoinHandle<'scope, io::Result<FinishedLoop>>> {
        let thread = std::thread::Builder::new().name(format!("load-{}", share.index));
        thread.spawn_scoped(scope, move || self.work(share, io, progress, &seconds))
    }

    fn work(
        &self,
        share: Share,
        io: BackEnd,
        progress: &Progress,
        seconds: &Sender<SecondTally>,
    ) -> io::Result<FinishedLoop> {
        let job = self.job;
        let mut rng = Rng::new(job.seed);
        // Each share has its own seeds; the same job seed gives the same ones.
        let seeds: [u64; 2] = std::array::from_fn(|_| rng.next_u64() ^ u64::from(share.index) << 32);
        let mut rng = Rng::new(seeds[0]);
        let clients = share.part(job.clients as usize) as u16;
        let sizes = job.load.trace().and_then(Trace::payload_max).unwrap_or(0) as usize;
        let drive = Drive { common: self, share, seed: seeds[1], io, progress, seconds };
        let payloads: Vec<(Vec<u8>, usize)> = job
            .protocol
            .payloads()
            .iter()
            .map(|payload| (payload.bytes(sizes, &mut rng), payload.len()))
            .collect();
        match &job.protocol {
            ProtocolSpec::Native { format, .. } => {
                let deadline_us = job.timeout.as_micros().min(u128::from(u32::MAX)) as u32;
                let settings = NativeSettings { format: *format, clients, deadline_us };
                drive.drive(Native::new(settings, &payloads, &mut rng))
            }
            ProtocolSpec::Dns(queries) => {
                drive.drive(DnsLoad::new(job.target, clients, queries.clone(), share, &mut rng))
            }
            ProtocolSpec::Raw { expect, .. } if job.protocol.matching() == BY_CLIENT => {
                let plain = Plain::new(job.target, clients, payloads, job.timeout);
                drive.drive(plain.expecting(expect.as_deref()))
            }
            ProtocolSpec::Raw { expect, .. } => {
                let bytes: Vec<Vec<u8>> = payloads.into_iter().map(|(bytes, _)| bytes).collect();
                let echo = Echo::new(job.target, clients, &bytes, &mut rng);
                drive.drive(echo.expecting(expect.as_deref()))
            }
        }
    }
}

/// A thread's part of a measurement, without its protocol.
struct Drive<'a> {
    common: &'a SharedRun<'a>,
    share: Share,
    seed: u64,
    io: BackEnd,
    progress: &'a Progress,
    seconds: &'a Sender<SecondTally>,
}

impl Drive<'_> {
    fn drive<P: LoadProtocol>(self, protocol: P) -> io::Result<FinishedLoop> {
        let Drive { common, share, seed, mut io, progress, seconds } = self;
        let SharedRun { job, clock, stop, abort, ready, start } = common;
        let window = job.window.map(|window| share.part(window));
        // Twice the requests in flight if none is answered, so that only a generator that stalls runs out.
        let by_rate = 2.0 * job.load.busiest_second() * job.timeout.as_secs_f64().max(0.5);
        let room = (by_rate / f64::from(share.of)) as usize;
        let ledger = RequestLedger::new(room.max(window.unwrap_or(0)), job.timeout);
        let ledger = ledger.tolerate(job.tolerance);
        ready.wait();
        let start = *start.get_or_init(|| {
            let wait = job.start_at.and_then(|at| at.duration_since(SystemTime::now()).ok());
            clock.now() + wait.unwrap_or_default()
        });
        let plan = GeneratorPlan {
            target: job.target,
            schedule: job.load.schedule(share, start, seed),
            window,
            start,
            warmup: job.warmup,
            duration: job.measured(),
            // A trace ends with its last request.
            grace: if job.load.trace().is_some() { job.timeout } else { Duration::ZERO },
        };
        let _woken = [stop.wake_also(io.waker()), abort.wake_also(io.waker())];
        let recounts = share.part(job.clients as usize) <= RECOUNTED_MAX;
        let around = Surroundings { clock: *clock, spin: job.spin, stop, abort, progress, recounts };
        // The receiver is gone if another loop has failed.
        let on_second = |second| drop(seconds.send(second));
        let requests = job.requests.map_or(u64::MAX, |requests| share.part(requests as usize) as u64);
        let generator = Generator::new(plan, protocol, ledger).limited_to(requests).thinking_for(job.think);
        let (generator, before) = run(generator, &mut io, &around, on_second)?;
        io.recount_drops();
        let after = io.counters();
        let not_sent =
            |counters: IoCounters| counters.send_full + counters.send_failed + counters.send_too_large;
        let (errors, dns) = (generator.errors_of_measurement(), generator.dns_answers());
        let (interrupted, is_empty) = (generator.is_interrupted(), generator.is_warming_up());
        let (account, measured) = generator.close();
        Ok(FinishedLoop {
            interrupted,
            errors,
            dns,
            account,
            measured,
            // Of a run that ended in its warm-up, nothing counts.
            kernel_drops: if is_empty { 0 } else { after.kernel_drops - before.kernel_drops },
            not_sent: if is_empty { 0 } else { not_sent(after) - not_sent(before) },
        })
    }
}
