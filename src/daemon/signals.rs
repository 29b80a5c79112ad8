//! SIGINT and SIGTERM ask for a clean end; a second one ends at once. SIGCHLD only wakes the loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::io::Waker;

/// How often the process was asked to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Listens for signals and wakes the loop when one comes.
    pub fn on_signals(waker: Waker) -> io::Result<Stop> {
        let stop = Stop::default();
        let asked = Arc::clone(&stop.0);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                asked.fetch_add(usize::from(signal != SIGCHLD), Ordering::Relaxed);
                waker.wake();
            }
        })?;
        Ok(stop)
    }

    /// Asks for the end, as a signal would.
    pub fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the process shall end.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Whether it shall end at once.
    pub fn is_asked_twice(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}
