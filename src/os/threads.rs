//! Concurrent loops, each on its own thread: the first one that fails stops them all.

use std::io;
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::signals::Stop;

/// The loops of a process. Loops may start and end while it runs.
pub struct Threads {
    stop: Stop,
    running: Mutex<Vec<JoinHandle<io::Result<()>>>>,
    changing: Mutex<()>,
}

impl Threads {
    /// No loop yet. The first loop that fails stops all through `stop`.
    pub fn new(stop: Stop) -> Self {
        Threads { stop, running: Mutex::default(), changing: Mutex::default() }
    }

    /// Starts a loop.
    pub fn spawn(
        &self,
        name: String,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let stop = self.stop.clone();
        let guarded = move || {
            let result = work();
            if result.is_err() {
                stop.ask();
            }
            result
        };
        let handle = std::thread::Builder::new().name(name).spawn(guarded)?;
        self.running.lock().expect("no panic while it is held").push(handle);
        Ok(())
    }

    /// While the guard is held, all loops may end before others start, without ending
    /// [`join`](Self::join).
    pub fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().expect("no panic while it is held")
    }

    /// Waits until all loops have ended, later ones included. Returns the first error.
    pub fn join(&self) -> io::Result<()> {
        let mut result = Ok(());
        loop {
            let handle = match self.next() {
                Some(handle) => handle,
                None => {
                    let _unchanging = self.change();
                    let Some(handle) = self.next() else { return result };
                    handle
                }
            };
            let ended = handle.join().expect("a panic ends the process");
            result = result.and(ended);
        }
    }

    fn next(&self) -> Option<JoinHandle<io::Result<()>>> {
        self.running.lock().expect("no panic while it is held").pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_fails_ends_the_others_and_its_error_is_told() {
        let stop = Stop::new(vec![]);
        let threads = Threads::new(stop.clone());
        for name in ["first", "second"] {
            let stop = stop.clone();
            let wait = move || {
                while !stop.is_asked() {
                    std::thread::yield_now();
                }
                Ok(())
            };
            threads.spawn(name.to_owned(), wait).unwrap();
        }
        threads.spawn("failing".to_owned(), || Err(io::Error::other("no more"))).unwrap();
        assert_eq!(threads.join().unwrap_err().to_string(), "no more");
        assert!(threads.join().is_ok(), "an error is returned once");
    }

    #[test]
    fn loops_that_end_for_others_are_not_the_end() {
        let threads = Threads::new(Stop::new(vec![]));
        let change = threads.change();
        std::thread::scope(|scope| {
            let joining = scope.spawn(|| threads.join());
            let failing = || Err(io::Error::other("of the second one"));
            threads.spawn("second".to_owned(), failing).unwrap();
            drop(change);
            assert_eq!(joining.join().unwrap().unwrap_err().to_string(), "of the second one");
        });
    }
}
