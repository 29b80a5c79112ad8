//! Workers that are paused between two turns during a takeover.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::io::Waker;

/// The next step of a paused worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseVerdict {
    /// Export the state: all workers of the pool are paused.
    Export,
    /// End: a successor has taken over.
    End,
}

/// The paused workers of any number of pools. When this is dropped, the workers resume.
#[derive(Default)]
pub struct PausedWorkers(Vec<PausedWorker>);

/// A paused worker. When this is dropped, the worker resumes.
struct PausedWorker {
    /// `None` after the last verdict.
    verdicts: Option<SyncSender<PauseVerdict>>,
    waker: Waker,
}

impl Drop for PausedWorker {
    fn drop(&mut self) {
        self.verdicts = None; // the worker sees that when it is awake
        self.waker.wake();
    }
}

impl PausedWorkers {
    /// Adds a worker, which is woken for each verdict and takes it from the receiver.
    pub fn add(&mut self, waker: Waker) -> Receiver<PauseVerdict> {
        let (verdict, wait) = sync_channel(2); // each verdict once
        self.0.push(PausedWorker { verdicts: Some(verdict), waker });
        wait
    }

    /// Adds the paused workers of another pool.
    pub fn append(&mut self, mut other: PausedWorkers) {
        self.0.append(&mut other.0);
    }

    /// Makes every worker export its state.
    pub fn export(&self) {
        self.send(PauseVerdict::Export);
    }

    /// Ends every worker: a successor has taken over.
    pub fn end(self) {
        self.send(PauseVerdict::End);
    }

    fn send(&self, verdict: PauseVerdict) {
        for worker in &self.0 {
            if let Some(verdicts) = &worker.verdicts {
                let _ = verdicts.send(verdict); // a worker that has ended needs none
            }
            worker.waker.wake();
        }
    }
}
