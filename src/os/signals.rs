//! SIGINT and SIGTERM ask for a clean end; a second one ends at once. SIGCHLD only wakes the loop. Of a balancer, SIGUSR1
//! asks for a summary, SIGHUP to read its configuration anew, and SIGUSR2 to start its successor.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::notify;
use crate::io::Waker;

/// How often the process was asked to end.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<AtomicUsize>,
    wakers: Arc<Mutex<Wakers>>,
}

#[derive(Debug, Default)]
struct Wakers {
    next: u64,
    by_number: BTreeMap<u64, Waker>,
}

impl Wakers {
    fn add(&mut self, waker: Waker) -> u64 {
        self.next += 1;
        self.by_number.insert(self.next, waker);
        self.next
    }
}

/// A loop is woken as long as this lives.
pub struct Woken {
    stop: Stop,
    number: u64,
}

impl Drop for Woken {
    fn drop(&mut self) {
        self.stop.wakers().by_number.remove(&self.number);
    }
}

/// What signals ask a balancer for, beside its end.
pub struct Asked {
    /// SIGUSR1: a summary.
    pub summary: Box<dyn FnMut() + Send>,
    /// SIGHUP: to read the configuration anew.
    pub reload: Box<dyn FnMut() + Send>,
    /// SIGUSR2: to start what shall follow it.
    pub succeed: Box<dyn FnMut() + Send>,
}

impl Stop {
    /// For loops that are woken by these.
    pub fn new(wakers: Vec<Waker>) -> Stop {
        let stop = Stop { asked: Arc::default(), wakers: Arc::default() };
        wakers.into_iter().for_each(|waker| {
            stop.wakers().add(waker);
        });
        stop
    }

    /// Listens for signals and wakes the loops when one comes.
    pub fn on_signals(wakers: Vec<Waker>) -> io::Result<Stop> {
        let stop = Stop::new(wakers);
        stop.listen(&[SIGINT, SIGTERM, SIGCHLD], |_| ())?;
        Ok(stop)
    }

    /// Listens for signals, for the other things too that a balancer is asked for by signals.
    pub fn listen_for(&self, mut asked: Asked) -> io::Result<()> {
        self.listen(&[SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGUSR2, SIGHUP], move |signal| match signal {
            SIGUSR1 => (asked.summary)(),
            SIGUSR2 => (asked.succeed)(),
            _ => (asked.reload)(),
        })
    }

    fn listen(&self, signals: &[i32], mut other: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
        let listener = self.clone();
        let mut signals = Signals::new(signals)?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGINT | SIGTERM => listener.ask(),
                    SIGCHLD => listener.wake(),
                    signal => other(signal),
                }
            }
        })?;
        Ok(())
    }

    /// Wakes this loop too, until what is returned is dropped.
    #[must_use]
    pub fn wake_also(&self, waker: Waker) -> Woken {
        Woken { number: self.wakers().add(waker), stop: self.clone() }
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().expect("no panic while it is held")
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
        if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            notify::stopping();
        }
        self.wake();
    }

    fn wake(&self) {
        self.wakers().by_number.values().for_each(Waker::wake);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_woken_until_it_has_gone() {
        let stop = Stop::new(vec![Waker::default()]);
        let woken = stop.wake_also(Waker::default());
        assert_eq!(stop.wakers().by_number.len(), 2);
        stop.ask();
        drop(woken);
        assert_eq!(stop.wakers().by_number.len(), 1);
        assert!(stop.is_asked() && !stop.is_asked_twice());
        stop.ask();
        assert!(stop.is_asked_twice());
    }
}
