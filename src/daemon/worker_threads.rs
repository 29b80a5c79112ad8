//! The threads that run the workers of all pools.
//!
//! A pool has as many workers as its configuration says, and each of them is on a thread of its own as long
//! as there are CPUs. Further workers share the threads: a process has one thread per CPU, or as many as the
//! pool with the most workers needs. Two workers of one pool are never on the same thread.
//!
//! A thread with one worker waits in the worker's own back end, so it pays nothing for the sharing. A thread
//! with several waits for all of them at once ([`WaitSet`]) and gives a turn to each that has news or whose
//! deadline has passed. So a busy worker delays the others by one turn at a time. Workers come and go while
//! their thread runs.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::time::{Clock, Instant};
use crate::io::{WaitSet, Waker};
use crate::os::affinity;
use crate::os::threads::Threads;

/// A worker as its thread sees it.
pub trait Runnable: Send {
    /// A descriptor that is readable when the worker has news; `None` if the worker needs a thread of its
    /// own.
    fn descriptor(&self) -> Option<RawFd>;

    /// Wakes the worker.
    fn waker(&self) -> Waker;

    /// The CPU that the worker is pinned to; `None` if it is not pinned.
    fn processor(&self) -> Option<usize>;

    /// When the worker must take a turn without news.
    fn deadline(&self) -> Option<Instant>;

    /// Takes a turn. `sleeps`: first waits for news or the deadline. False if the worker has ended.
    fn turn(&mut self, sleeps: bool) -> io::Result<bool>;

    /// The last step, after the end or a failure.
    fn end(&mut self);

    /// The worker cannot stay on this CPU.
    fn not_pinned(&self, cpu: usize, error: &io::Error);
}

/// A thread as others see it.
struct WorkerThread {
    number: usize,
    cpu: Option<usize>,
    /// Whether other workers may come.
    is_open: bool,
    /// The pool and the waker of each worker, by the worker's number.
    workers: Vec<(u16, u64, Waker)>,
    /// Workers that the thread has not taken yet.
    coming: Vec<(u16, Box<dyn Runnable>)>,
    has_coming: Arc<AtomicBool>,
}

#[derive(Default)]
struct Roster {
    threads: Vec<WorkerThread>,
    next_thread: usize,
    next_worker: u16,
    next_pool: u64,
}

/// The threads that run workers.
pub struct WorkerThreads {
    roster: Arc<Mutex<Roster>>,
    clock: Clock,
}

/// The thread for another worker of this pool, by its place among the threads; `None` for a new one.
fn choose(threads: &[WorkerThread], pool: u64, cpu: Option<usize>, threads_max: usize) -> Option<usize> {
    let alike = || threads.iter().enumerate().filter(|(_, thread)| thread.is_open && thread.cpu == cpu);
    if alike().count() < threads_max {
        return None;
    }
    let without = alike().filter(|(_, thread)| thread.workers.iter().all(|(_, of, _)| *of != pool));
    without.min_by_key(|(_, thread)| thread.workers.len()).map(|(place, _)| place)
}

impl WorkerThreads {
    /// No threads yet. Deadlines are in the time of `clock`.
    pub fn new(clock: Clock) -> WorkerThreads {
        WorkerThreads { roster: Arc::default(), clock }
    }

    /// Runs the workers of a pool, each on another thread.
    ///
    /// # Errors
    /// Those of a new thread, or of its descriptors. Workers that run already continue.
    pub fn run(&self, workers: Vec<Box<dyn Runnable>>, threads: &Threads) -> io::Result<()> {
        let cpus = affinity::processors()?.len().max(1);
        let mut roster = lock(&self.roster);
        roster.next_pool += 1;
        let pool = roster.next_pool;
        for worker in workers {
            let (cpu, is_open) = (worker.processor(), worker.descriptor().is_some());
            let threads_max = if cpu.is_some() { 1 } else { cpus };
            let known = choose(&roster.threads, pool, cpu, threads_max).filter(|_| is_open);
            let place = match known {
                Some(place) => place,
                None => self.start(&mut roster, (cpu, is_open), threads)?,
            };
            roster.next_worker = roster.next_worker.wrapping_add(1);
            let (number, waker) = (roster.next_worker, worker.waker());
            let thread = &mut roster.threads[place];
            thread.coming.push((number, worker));
            thread.has_coming.store(true, Ordering::Release);
            // Any worker's waker wakes the thread. A new thread is not asleep yet.
            thread.workers.iter().take(1).for_each(|(_, _, waker)| waker.wake());
            thread.workers.push((number, pool, waker));
        }
        Ok(())
    }

    /// Starts a thread, and returns its place.
    fn start(
        &self,
        roster: &mut Roster,
        (cpu, is_open): (Option<usize>, bool),
        threads: &Threads,
    ) -> io::Result<usize> {
        let number = roster.next_thread;
        let has_coming = Arc::new(AtomicBool::new(false));
        let running = RunningThread {
            number,
            cpu,
            roster: Arc::clone(&self.roster),
            has_coming: Arc::clone(&has_coming),
            set: WaitSet::new()?,
            clock: self.clock,
            members: vec![],
            is_watching: false,
        };
        threads.spawn(format!("worker-{number}"), move || running.run())?;
        roster.next_thread += 1;
        let (workers, coming) = (vec![], vec![]);
        roster.threads.push(WorkerThread { number, cpu, is_open, workers, coming, has_coming });
        Ok(roster.threads.len() - 1)
    }
}

fn lock(roster: &Mutex<Roster>) -> MutexGuard<'_, Roster> {
    roster.lock().expect("no panic while it is held")
}

/// A worker on its thread.
struct Member {
    number: u16,
    worker: Box<dyn Runnable>,
    /// Whether it has had news since its last turn.
    has_news: bool,
    deadline: Option<Instant>,
}

/// The thread itself.
struct RunningThread {
    number: usize,
    cpu: Option<usize>,
    roster: Arc<Mutex<Roster>>,
    has_coming: Arc<AtomicBool>,
    set: WaitSet,
    clock: Clock,
    members: Vec<Member>,
    /// Whether the set watches the members: if there are several.
    is_watching: bool,
}

impl RunningThread {
    /// Runs the workers until none is left. The failure of one is that of the thread, and ends the process.
    fn run(mut self) -> io::Result<()> {
        let result = self.serve();
        self.members.iter_mut().for_each(|member| member.worker.end());
        result
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut pinned = self.cpu.map(|cpu| (cpu, affinity::stay_on(cpu)));
        loop {
            // A thread without workers ends, unless one is coming.
            if self.has_coming.load(Ordering::Relaxed) || self.members.is_empty() {
                if !self.take_coming() {
                    return Ok(());
                }
                if let Some((cpu, Err(error))) = pinned.take() {
                    self.members[0].worker.not_pinned(cpu, &error);
                }
                self.watch()?;
            }
            match &mut self.members[..] {
                [only] => {
                    if !only.worker.turn(true)? {
                        self.remove(0)?;
                    }
                }
                _ => self.turn_of_several()?,
            }
        }
    }

    /// Takes the workers that have come. False if the thread must end: then others do not see it any more.
    fn take_coming(&mut self) -> bool {
        let roster = Arc::clone(&self.roster);
        let mut roster = lock(&roster);
        let place = roster.threads.iter().position(|thread| thread.number == self.number);
        let place = place.expect("a thread that runs is in the roster");
        let thread = &mut roster.threads[place];
        self.has_coming.store(false, Ordering::Relaxed);
        self.unwatch();
        for (number, worker) in thread.coming.drain(..) {
            self.members.push(Member { number, worker, has_news: true, deadline: None });
        }
        if self.members.is_empty() {
            roster.threads.remove(place);
            return false;
        }
        true
    }

    /// One wait, and a turn of each worker that needs one.
    fn turn_of_several(&mut self) -> io::Result<()> {
        let RunningThread { set, members, clock, .. } = self;
        let at_once = members.iter().any(|member| member.has_news);
        let deadlines = members.iter().filter_map(|member| member.deadline);
        let deadline = if at_once { Some(Instant::ZERO) } else { deadlines.min() };
        set.wait(*clock, deadline, |number| {
            if let Some(member) = members.iter_mut().find(|member| member.number == number) {
                member.has_news = true;
            }
        })?;
        let now = clock.now();
        // From the end, so that the removal of a worker moves no other one that waits for its turn.
        for place in (0..self.members.len()).rev() {
            let member = &mut self.members[place];
            if member.has_news || member.deadline.is_some_and(|at| at <= now) {
                member.has_news = false;
                let continues = member.worker.turn(false)?;
                member.deadline = member.worker.deadline();
                if !continues {
                    self.remove(place)?;
                }
            }
        }
        Ok(())
    }

    /// Removes a worker that has ended.
    fn remove(&mut self, place: usize) -> io::Result<()> {
        self.unwatch();
        let mut member = self.members.swap_remove(place);
        member.worker.end();
        let mut roster = lock(&self.roster);
        let thread = roster.threads.iter_mut().find(|thread| thread.number == self.number);
        let thread = thread.expect("a thread that runs is in the roster");
        thread.workers.retain(|(number, _, _)| *number != member.number);
        drop(roster);
        self.watch()
    }

    /// Lets the set watch the members, if there are several.
    fn watch(&mut self) -> io::Result<()> {
        if self.members.len() < 2 {
            return Ok(());
        }
        for member in &mut self.members {
            let descriptor = member.worker.descriptor().expect("workers without one are alone");
            self.set.add(member.number, descriptor)?;
            member.has_news = true; // a turn plans its next deadline
        }
        self.is_watching = true;
        Ok(())
    }

    fn unwatch(&mut self) {
        if std::mem::take(&mut self.is_watching) {
            for descriptor in self.members.iter().filter_map(|member| member.worker.descriptor()) {
                let _ = self.set.remove(descriptor); // it may be closed already
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The threads of these workers (pool and CPU of each), after they have come one after the other.
    fn spread(workers: &[(u64, Option<usize>)], cpus: usize) -> Vec<Vec<u64>> {
        let mut threads: Vec<WorkerThread> = vec![];
        for (number, &(pool, cpu)) in (0..).zip(workers) {
            let max = if cpu.is_some() { 1 } else { cpus };
            let place = choose(&threads, pool, cpu, max).unwrap_or_else(|| {
                let (workers, coming, has_coming) = (vec![], vec![], Arc::default());
                let number = threads.len();
                threads.push(WorkerThread { number, cpu, is_open: true, workers, coming, has_coming });
                number
            });
            threads[place].workers.push((number, pool, Waker::default()));
        }
        threads.iter().map(|thread| thread.workers.iter().map(|(_, pool, _)| *pool).collect()).collect()
    }

    #[test]
    fn workers_have_threads_of_their_own_while_there_are_cpus_and_then_share_them_evenly() {
        let free = |pool| (pool, None);
        assert_eq!(spread(&[1, 1, 2].map(free), 4), [vec![1], vec![1], vec![2]]);
        assert_eq!(spread(&[1, 1, 2, 2, 3].map(free), 2), [vec![1, 2, 3], vec![1, 2]]);
        // A pool with more workers than CPUs has a thread for each of them.
        assert_eq!(spread(&[1, 1, 1, 2].map(free), 2), [vec![1, 2], vec![1], vec![1]]);
    }

    #[test]
    fn pinned_workers_of_one_cpu_share_its_thread() {
        let workers = [(1, Some(0)), (1, Some(1)), (2, Some(0)), (3, None), (2, Some(1))];
        assert_eq!(spread(&workers, 2), [vec![1, 2], vec![1, 2], vec![3]]);
    }
}
