//! SIGINT and SIGTERM ask for a clean end; a second one ends at once. SIGCHLD only wakes the loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::io::Waker;

/// How often the process was asked to end.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<AtomicUsize>,
    wakers: Vec<Waker>,
}

impl Stop {
    /// For loops that are woken by these.
    pub fn new(wakers: Vec<Waker>) -> Stop {
        Stop { asked: Arc::default(), wakers }
    }

    /// Listens for signals and wakes the loops when one comes.
    pub fn on_signals(wakers: Vec<Waker>) -> io::Result<Stop> {
        let stop = Stop::new(wakers);
        let listener = stop.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGCHLD => listener.wake(),
                    _ => listener.ask(),
                }
            }
        })?;
        Ok(stop)
    }

    /// Asks for the end, as a signal would.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Whether the process shall end.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// Whether it shall end at once.
    pub fn is_asked_twice(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 1
    }
}
