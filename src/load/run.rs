//! The generator's loop, and its figures while it runs.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Generator, Report};
use crate::daemon::signals::Stop;
use crate::io::DatagramIo;
use crate::role::Role;
use crate::time::Clock;

/// Figures that the loop writes once a turn and another thread shows.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicU64,
    answered: AtomicU64,
    busy: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
    in_flight: AtomicU64,
}

/// [`Progress`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// As in [`Report`].
    pub sent: u64,
    /// As in [`Report`].
    pub answered: u64,
    /// As in [`Report`].
    pub busy: u64,
    /// As in [`Report`].
    pub lost: u64,
    /// Late sends.
    pub late: u64,
    /// Requests without an end yet.
    pub in_flight: u64,
}

impl Progress {
    fn write(&self, generator: &Generator) {
        let counts = generator.counts();
        let figures = [
            (&self.sent, counts.sent),
            (&self.answered, counts.answered),
            (&self.busy, counts.busy),
            (&self.lost, counts.lost),
            (&self.late, counts.late_sends),
            (&self.in_flight, generator.in_flight() as u64),
        ];
        for (cell, value) in figures {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// The newest figures.
    pub fn read(&self) -> Live {
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Live {
            sent: get(&self.sent),
            answered: get(&self.answered),
            busy: get(&self.busy),
            lost: get(&self.lost),
            late: get(&self.late),
            in_flight: get(&self.in_flight),
        }
    }
}

/// Runs the plan; asked to stop it sends no more and waits for what is in flight, asked twice it gives that up as lost.
pub fn run(
    mut generator: Generator,
    mut io: impl DatagramIo,
    clock: Clock,
    stop: &Stop,
    progress: &Progress,
) -> io::Result<Report> {
    loop {
        io.wait(generator.next_deadline())?;
        io.receive()?;
        let now = clock.now();
        let (rx, tx) = io.turn();
        generator.on_batch(now, rx, tx);
        generator.on_timeout(now, tx);
        io.flush()?;
        progress.write(&generator);
        if stop.is_asked() {
            generator.stop(now);
        }
        if stop.is_asked_twice() {
            generator.abandon();
        }
        if generator.is_finished(now) {
            return Ok(generator.report());
        }
    }
}
