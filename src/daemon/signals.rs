//! SIGINT and SIGTERM ask for a clean end; a second one ends at once. SIGCHLD only wakes the loop. SIGUSR1 asks a
//! balancer for a summary.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM, SIGUSR1};
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
        Stop::listen(&[SIGINT, SIGTERM, SIGCHLD], wakers, || ())
    }

    /// The same, and a summary is asked for by SIGUSR1.
    pub fn on_signals_and(
        wakers: Vec<Waker>,
        ask_for_summary: impl FnMut() + Send + 'static,
    ) -> io::Result<Stop> {
        Stop::listen(&[SIGINT, SIGTERM, SIGCHLD, SIGUSR1], wakers, ask_for_summary)
    }

    fn listen(
        signals: &[i32],
        wakers: Vec<Waker>,
        mut on_usr1: impl FnMut() + Send + 'static,
    ) -> io::Result<Stop> {
        let stop = Stop::new(wakers);
        let listener = stop.clone();
        let mut signals = Signals::new(signals)?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGUSR1 => on_usr1(),
                    SIGCHLD => listener.wake(),
                    _ => listener.ask(),
                }
            }
        })?;
        Ok(stop)
    }

    /// Asks for the end when standard input ends, as it does with whoever holds its other end.
    pub fn when_stdin_ends(&self) -> io::Result<()> {
        let stop = self.clone();
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink()); // an error is an end too
            stop.ask();
        })?;
        Ok(())
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
