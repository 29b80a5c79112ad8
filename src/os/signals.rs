//! SIGINT and SIGTERM ask for a clean stop; a second one stops at once. SIGCHLD only wakes the loop. SIGHUP
//! makes a daemon open its log again. For a balancer, SIGHUP also reloads the configuration, SIGUSR1 prints a
//! summary, and SIGUSR2 starts a successor.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::{logging, notify};
use crate::io::Waker;

/// Counts the requests to stop, and wakes the loops.
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

/// Wakes a loop while this value exists.
pub struct Woken {
    stop: Stop,
    number: u64,
}

impl Drop for Woken {
    fn drop(&mut self) {
        self.stop.wakers().by_number.remove(&self.number);
    }
}

/// What a balancer does on signals other than those to stop.
pub struct BalancerSignal {
    /// SIGUSR1: print a summary.
    pub summary: Box<dyn FnMut() + Send>,
    /// SIGHUP: reload the configuration. The log is opened again before.
    pub reload: Box<dyn FnMut() + Send>,
    /// SIGUSR2: start the successor.
    pub succeed: Box<dyn FnMut() + Send>,
}

impl Stop {
    /// For loops that these wakers wake.
    pub fn new(wakers: Vec<Waker>) -> Stop {
        let stop = Stop { asked: Arc::default(), wakers: Arc::default() };
        wakers.into_iter().for_each(|waker| {
            stop.wakers().add(waker);
        });
        stop
    }

    /// Listens for signals, and wakes the loops when one arrives.
    pub fn on_signals(wakers: Vec<Waker>) -> io::Result<Stop> {
        let stop = Stop::new(wakers);
        stop.listen(&[SIGINT, SIGTERM, SIGCHLD], |_| ())?;
        Ok(stop)
    }

    /// The same for a process that runs in the background: SIGHUP does not end it, but opens its log again.
    pub fn of_daemon(wakers: Vec<Waker>) -> io::Result<Stop> {
        let stop = Stop::new(wakers);
        stop.listen(&[SIGINT, SIGTERM, SIGCHLD, SIGHUP], |_| ())?;
        Ok(stop)
    }

    /// Listens for signals, those of a balancer included.
    pub fn listen_for(&self, mut asked: BalancerSignal) -> io::Result<()> {
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
                    signal => {
                        if signal == SIGHUP {
                            logging::reopen();
                        }
                        other(signal);
                    }
                }
            }
        })?;
        Ok(())
    }

    /// Also wakes this loop, until the returned value is dropped. If a stop was requested before, the loop is
    /// woken at once: the request did not reach it, and an idle loop would wait for the next datagram.
    #[must_use]
    pub fn wake_also(&self, waker: Waker) -> Woken {
        let number = self.wakers().add(waker.clone());
        if self.is_asked() {
            waker.wake();
        }
        Woken { number, stop: self.clone() }
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().expect("no panic while it is held")
    }

    /// Asks for a stop when standard input ends, as it does when the parent process ends.
    pub fn when_stdin_ends(&self) -> io::Result<()> {
        let stop = self.clone();
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink()); // an error is an end too
            stop.ask();
        })?;
        Ok(())
    }

    /// Asks for a stop, as a signal does.
    pub fn ask(&self) {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            notify::stopping();
        }
        self.wake();
    }

    fn wake(&self) {
        self.wakers().by_number.values().for_each(Waker::wake);
    }

    /// Whether the process must stop.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// Whether the process must stop at once.
    pub fn is_asked_twice(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_starts_after_the_request_to_stop_is_woken_at_once() {
        use std::io::Read;
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let mut wakes = std::fs::File::from(event.try_clone().unwrap());
        let stop = Stop::new(vec![]);
        stop.ask();
        let _woken = stop.wake_also(Waker::new(event));
        let mut count = [0; 8];
        wakes.read_exact(&mut count).expect("the loop was woken");
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

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
