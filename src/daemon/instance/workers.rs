//! The workers of a pool of either kind, reached from outside their threads.

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use super::paused::{PauseVerdict, PausedWorkers};
use super::sockets::duplicates;
use super::{Failed, ProcessContext};
use crate::admin::status::PoolSource;
use crate::base::time::{Clock, Instant};
use crate::daemon::handover::{SocketKind, SocketSet};
use crate::daemon::inbox::{Gone, WorkerHandle, inbox};
use crate::daemon::pool_log::PoolLog;
use crate::daemon::worker::{Balancing, Worker, WorkerLoop};
use crate::daemon::worker_threads::Runnable;
use crate::io::socket::receive_buffer;
use crate::io::{BackEnd, IoChoice, IoOptions};
use crate::os::affinity;
use crate::pool::part::Part;
use crate::pool::stats::PoolTotals;

/// Maximum time for which a paused worker waits for a verdict. It is longer than a whole conversation with a
/// successor, so that no worker reads again while a successor starts. The thread that pauses the workers
/// always gives a verdict before.
const PAUSED_MAX: Duration = Duration::from_secs(60);

/// Opens the back end of one worker. `listening`: number of its sockets whose addresses clients or servers
/// know; these are the first ones.
pub fn back_end(
    (pool, number): (&str, usize),
    (choice, options): (IoChoice, &IoOptions),
    sockets: Vec<UdpSocket>,
    listening: usize,
    process: &ProcessContext,
) -> io::Result<BackEnd> {
    let worker = number;
    for socket in &sockets[..listening] {
        let (addr, receive_buffer) = (socket.local_addr()?, receive_buffer(socket));
        tracing::info!(pool, worker, %addr, receive_buffer, "listening");
    }
    let count = sockets.len();
    let io = BackEnd::open(choice, sockets, options, process.clock)?;
    tracing::info!(pool, worker, io = io.name(), sockets = count, "batch I/O");
    Ok(io)
}

/// Whether each of this many workers, those of all pools, can have a CPU of its own. Then the workers touch
/// their memory at the start, a few MiB each, so that the first requests have no page faults. Otherwise
/// memory becomes resident when requests need it: most of many pools are idle most of the time.
pub fn have_own_cpus(workers: usize) -> bool {
    affinity::processors().is_ok_and(|all| workers <= all.len())
}

/// The CPU of each worker, if workers are pinned.
pub fn cpus(pin: bool) -> io::Result<impl Fn(usize) -> Option<usize>> {
    let all = if pin { affinity::processors()? } else { vec![] };
    Ok(move |number: usize| all.get(number % all.len().max(1)).copied())
}

/// Whether a worker that has ended is an error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EndedWorkers {
    /// The exit of a worker is an error.
    Fails,
    /// Workers that have ended are skipped.
    LeftOut,
}

/// The workers of one pool.
pub struct Workers<R> {
    pool: String,
    /// The workers, the primary first.
    handles: Vec<WorkerHandle<Worker<R, BackEnd>>>,
}

impl<R: Balancing + Send + 'static> Workers<R> {
    /// Starts the workers' loops, each on another thread. Other pools may share these threads.
    pub fn start(
        pool: &str,
        workers: Vec<Worker<R, BackEnd>>,
        process: &ProcessContext,
    ) -> io::Result<Workers<R>> {
        let mut handles = vec![];
        let mut loops: Vec<Box<dyn Runnable>> = vec![];
        let wakers: Vec<_> = workers.iter().map(|worker| worker.io.waker()).collect();
        for (number, mut worker) in workers.into_iter().enumerate() {
            let waker = wakers[number].clone();
            if number == 0 {
                worker.wake_others(wakers[1..].to_vec());
            }
            let (inbox, handle) = inbox(waker);
            let log = PoolLog::new(pool, number, Arc::clone(&process.events));
            let worker = WorkerLoop::new(worker, inbox, log, process.clock, process.stop.clone());
            loops.push(Box::new(worker.woken_by_stop()));
            handles.push(handle);
        }
        process.worker_threads.run(loops, &process.threads)?;
        Ok(Workers { pool: pool.to_owned(), handles })
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Each worker, the primary first.
    pub fn iter(&self) -> impl Iterator<Item = &WorkerHandle<Worker<R, BackEnd>>> {
        self.handles.iter()
    }

    /// Executes a task in the primary between two turns, and waits for the result.
    pub fn ask_primary<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut R, Instant) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        self.handles[0].call(move |worker, now| act(&mut worker.role, now))
    }

    /// Pauses all workers between two turns before the first one exports its part: any worker may take the
    /// reply to a request of another. The workers wait for their verdicts in `paused`.
    pub fn pause(&self, paused: &mut PausedWorkers, clock: Clock) -> Result<Vec<Part>, Failed> {
        for worker in self.iter() {
            worker.call(|worker, _| worker.pause_all())??;
        }
        let mut own = PausedWorkers::default();
        let mut reports = vec![];
        for worker in self.iter() {
            let (report, reported) = sync_channel(2);
            let verdict = own.add(worker.waker());
            worker.send(move |worker, now| {
                worker.role.stop_waiting();
                let _ = report.send(worker.settle(&clock).map(|()| None));
                let hold = move |worker: &mut Worker<R, BackEnd>, is_over: bool| {
                    loop {
                        match verdict.try_recv() {
                            Ok(PauseVerdict::Export) => {
                                _ = report.send(Ok(Some(worker.role.export(clock.now()))));
                            }
                            Ok(PauseVerdict::End) => {
                                worker.end();
                                return false;
                            }
                            Err(TryRecvError::Empty) if !is_over => return true,
                            Err(_) => {
                                worker.role.wait_again();
                                worker.resume_all();
                                return false;
                            }
                        }
                    }
                };
                worker.hold(now + PAUSED_MAX, Box::new(hold));
            })?;
            reports.push(reported);
        }
        let next = |reported: &Receiver<io::Result<Option<Part>>>| {
            Ok::<_, Failed>(reported.recv_timeout(PAUSED_MAX).map_err(|_| Gone)??)
        };
        for reported in &reports {
            next(reported)?;
        }
        own.export();
        let parts = reports.iter().map(|reported| next(reported)?.ok_or_else(|| Gone.into()));
        let parts = parts.collect::<Result<_, Failed>>()?;
        paused.append(own);
        Ok(parts)
    }

    /// Adds totals to those of a worker, in its thread. `add` runs here if the worker has ended.
    pub fn add_totals(&self, worker: usize, add: impl Fn() + Clone + Send + 'static) {
        let Some(handle) = self.handles.get(worker) else { return };
        let in_its_thread = add.clone();
        if handle.send(move |_, _| in_its_thread()).is_err() {
            add();
        }
    }

    /// Has every worker take a turn, so that idle workers adopt new settings too.
    pub fn wake(&self) -> Result<(), Gone> {
        self.handles.iter().try_for_each(|worker| worker.send(|_, _| ()))
    }

    /// Whether a worker has not ended yet.
    pub fn is_alive(&self) -> bool {
        self.handles.iter().any(|worker| worker.send(|_, _| ()).is_ok())
    }

    /// Whether every worker completes a turn. Waits for the workers.
    pub fn is_turning(&self) -> bool {
        self.handles.iter().all(|worker| worker.call(|_, _| ()).is_ok())
    }

    /// Stops reading clients; each worker ends when its requests in flight are finished.
    pub fn retire(&self) -> io::Result<()> {
        // A worker that has ended reads nothing.
        let retired =
            self.handles.iter().filter_map(|worker| worker.call(|worker, now| worker.retire(now)).ok());
        retired.collect()
    }

    /// Duplicates of the client-side sockets of each worker, labelled for a pool of this name; with `all`, of
    /// the server-side sockets that a successor can read too.
    pub fn duplicates(&self, name: &str, all: bool, ended: EndedWorkers) -> Result<SocketSet, Failed> {
        let mut set = SocketSet::default();
        for (number, worker) in self.handles.iter().enumerate() {
            let name = name.to_owned();
            let sockets = worker.call(move |worker, _| {
                let (fronts, backs) = (worker.role.fronts(), worker.role.backs());
                let labelled = worker.io.sockets().iter().zip(0..).filter_map(|(socket, id)| {
                    let is_front = fronts.contains(&id);
                    let kind = if is_front { SocketKind::Front } else { SocketKind::Back };
                    (is_front || all && backs.contains(&id)).then_some((kind, socket))
                });
                duplicates(labelled, &name, number as u16)
            });
            match sockets {
                Err(Gone) if ended == EndedWorkers::LeftOut => {}
                sockets => set.append(sockets??),
            }
        }
        Ok(set)
    }
}

/// Adds what the workers of a predecessor have counted to the counters of these workers.
pub fn add_totals<R: Balancing + Send + 'static>(
    workers: &Workers<R>,
    counters: &PoolSource,
    totals: &PoolTotals,
    slots: &BTreeMap<u16, u16>,
) {
    let count = workers.handles.len();
    for (number, of) in totals.workers.iter().enumerate() {
        let worker = number % count;
        let (counters, of, slots) = (counters.clone(), of.clone(), slots.clone());
        workers.add_totals(worker, move || counters.add_to_worker(worker, &of, &slots));
    }
}
