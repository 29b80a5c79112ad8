//! The loop of one generator, and its progress.

use std::io;
use std::ops::AddAssign;
use std::time::Duration;

use crossbeam_utils::atomic::AtomicCell;

use super::{Counts, Generator, LoadProtocol, NetworkErrors, SecondTally};
use crate::base::time::{Clock, Instant};
use crate::io::{DatagramIo, IoCounters};
use crate::os::signals::Stop;
use crate::role::Role;

/// Progress that a loop writes once per turn and another thread reads.
pub type Progress = AtomicCell<LiveCounts>;

/// Progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveCounts {
    /// Counts of requests so far.
    pub counts: Counts,
    /// Requests in flight.
    pub in_flight: u64,
    /// Errors that the network reported, those of the warm-up included.
    pub errors: NetworkErrors,
    /// Median and 99th percentile of the last second whose requests have all ended, in microseconds.
    pub last_second: Option<(u64, u64)>,
}

impl AddAssign for LiveCounts {
    fn add_assign(&mut self, other: LiveCounts) {
        self.counts += other.counts;
        self.in_flight += other.in_flight;
        self.errors += other.errors;
    }
}

/// What a loop needs besides its generator.
pub struct Surroundings<'a> {
    /// Clock of the schedule and the back end.
    pub clock: Clock,
    /// Time of busy-waiting before each deadline, because the kernel wakes threads late.
    pub spin: Duration,
    /// On the first signal the loop stops sending and waits for the requests in flight. On the second it
    /// counts them as lost.
    pub stop: &'a Stop,
    /// The same for a condition that ends the run.
    pub abort: &'a Stop,
    /// Written once per turn.
    pub progress: &'a Progress,
    /// Whether to ask each socket for its drops at the end of the warm-up.
    pub recounts: bool,
}

/// Runs a generator to its end. Returns it, and the counters of the back end when its warm-up was over.
/// `on_second` receives each second whose requests have all ended.
pub fn run<P: LoadProtocol>(
    mut generator: Generator<P>,
    io: &mut impl DatagramIo,
    around: &Surroundings<'_>,
    mut on_second: impl FnMut(SecondTally),
) -> io::Result<(Generator<P>, IoCounters)> {
    let mut before = io.counters();
    let mut unsent = before.send_failed;
    let Surroundings { clock, spin, stop, abort, progress, recounts } = around;
    loop {
        await_work(io, generator.next_deadline(), *clock, *spin)?;
        let now = clock.now();
        let (rx, tx) = io.turn();
        let was_warming_up = generator.is_warming_up();
        generator.on_batch(now, rx, tx);
        // Read again, since handling the input may take time: a request's send time is that of its flush.
        let now = clock.now();
        generator.on_timeout(now, tx);
        io.flush()?;
        if was_warming_up && !generator.is_warming_up() {
            // The kernel tells drops with the next datagram of a socket; those of the warm-up are asked for.
            // That is a system call per socket, so with very many sockets a few may count.
            if *recounts {
                io.recount_drops();
            }
            before = io.counters();
        }
        let IoCounters { send_failed, send_errno, .. } = io.counters();
        if send_failed > unsent {
            generator.note_unsent(send_errno, send_failed - unsent);
            unsent = send_failed;
        }
        let (counts, in_flight, errors) =
            (*generator.counts(), generator.in_flight() as u64, generator.errors());
        progress.store(LiveCounts { counts, in_flight, errors, last_second: None });
        if stop.is_asked() || abort.is_asked() {
            generator.stop(now);
        }
        if stop.is_asked_twice() {
            generator.abandon();
        }
        let finished = generator.is_finished(now);
        while let Some(second) = generator.finished_second(now) {
            on_second(second);
        }
        if finished {
            return Ok((generator, before));
        }
    }
}

/// Receives datagrams; waits until the deadline if there are none.
fn await_work(
    io: &mut impl DatagramIo,
    deadline: Option<Instant>,
    clock: Clock,
    spin: Duration,
) -> io::Result<()> {
    io.wait(deadline.map(|deadline| deadline - spin))?;
    io.receive()?;
    let Some(deadline) = deadline.filter(|_| !spin.is_zero()) else { return Ok(()) };
    loop {
        let now = clock.now();
        if !io.turn().0.is_empty() || now >= deadline || deadline.since(now) > spin {
            return Ok(());
        }
        io.wait(Some(Instant::ZERO))?;
        io.receive()?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::io::{IoOptions, MmsgIo};

    #[test]
    fn a_loop_that_spins_comes_back_with_data_or_at_the_deadline() {
        let clock = Clock::start();
        let bound = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (socket, peer) = (bound(), bound());
        socket.set_nonblocking(true).unwrap();
        let to = socket.local_addr().unwrap();
        let mut io = MmsgIo::new(vec![socket], &IoOptions::default(), clock).unwrap();
        for (spin, wait) in
            [(0, 3), (2, 4), (50, 4)].map(|(a, b)| (Duration::from_millis(a), Duration::from_millis(b)))
        {
            let deadline = clock.now() + wait;
            await_work(&mut io, Some(deadline), clock, spin).unwrap();
            assert!(clock.now() >= deadline && io.turn().0.is_empty(), "{spin:?}");
        }
        // A datagram ends the busy-wait.
        let hour = Duration::from_secs(3600);
        let deadline = clock.now() + hour;
        peer.send_to(b"x", to).unwrap();
        await_work(&mut io, Some(deadline), clock, 2 * hour).unwrap();
        assert_eq!(io.turn().0.len(), 1);
        assert!(clock.now() < deadline);
    }
}
